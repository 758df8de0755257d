"""Runs side by side: where curves come from, what areas and costs are, and a page that says so and nothing else."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gainrl.errors import UserError
from gainrl.report import write_comparison, write_report
from gainrl.report.comparison import COSTS, TRAINING, Curve, panels, read_runs
from tests.report.test_report import Page, svg

pytest.importorskip("jinja2", reason="the extra report is not installed")
pytest.importorskip("matplotlib", reason="the extra report is not installed")


def make_run(
    directory: Path, accuracies: list[float | None], *, evals: dict[Any, float] | None = None, rollouts: int = 100,
    seconds: float = 60.0, steps: int = 5, config: str = "model: tiny\ntask: arithmetic\n", **more: Any,
) -> Path:  # fmt: skip
    """A run of so many epochs; `evals`: "before", "after" or a step -> accuracy on `held`."""
    directory.mkdir(parents=True)
    lines = [
        json.dumps(
            {"epoch": n, "accuracy": a, "rollouts": rollouts, "tokens": 50 * rollouts, "seconds": seconds, **more}
        )
        for n, a in enumerate(accuracies)
    ]
    (directory / "epochs.jsonl").write_text("".join(line + "\n" for line in lines))
    (directory / "config.yaml").write_text(config)
    records = []
    for where, accuracy in (evals or {}).items():
        place = {"stage": where, "step": None} if isinstance(where, str) else {"stage": "eval", "step": where}
        records.append({"task": "held", "accuracy": accuracy, **place})
    (directory / "evals.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    state = directory / "checkpoints" / f"checkpoint-{steps}" / "trainer_state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"global_step": steps, "epoch": 1.0}))
    return directory


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    fast = make_run(
        tmp_path / "gaussian", [0.3, 0.5, 0.6, 0.7], evals={"before": 0.2, 5: 0.4, 10: 0.6, "after": 0.8},
        navigator="gaussian",
    )  # fmt: skip
    slow = make_run(
        tmp_path / "uniform", [0.2, 0.3, 0.4, 0.5], evals={"before": 0.2, 10: 0.4, 20: 0.6}, navigator="uniform"
    )
    return [fast, slow]


def curve(accuracy: list[float], cost: list[float]) -> Curve:
    return Curve("a", np.array(accuracy), {name: np.array(cost) for name in COSTS})


def test_evaluations_stand_where_their_checkpoints_stand(pair: list[Path]) -> None:
    held, training = panels(read_runs(pair))
    assert (held.task, training.task) == ("held", TRAINING)
    fast, slow = held.curves
    assert fast.cost["rollouts"].tolist() == [0, 100, 200, 400]
    assert fast.accuracy.tolist() == [0.2, 0.4, 0.6, 0.8]
    assert slow.cost["tokens"].tolist() == [0, 10_000, 20_000]
    assert training.curves[0].cost["seconds"].tolist() == [60, 120, 180, 240]


def test_seconds_hold_ranking_again_and_the_page_says_so(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain", [0.2, 0.4, 0.6])
    again = make_run(tmp_path / "again", [0.2, 0.4, 0.6], rerank_seconds=30.0)
    (training,) = panels(read_runs([plain, again]))
    assert [curve.cost["seconds"].tolist() for curve in training.curves] == [[60, 120, 180], [90, 180, 270]]
    page = write_comparison([plain, again], tmp_path / "page.html").read_text()
    assert "4 min 30 s" in page
    assert "and ranking the dataset again before it" in page
    assert "4 min 30 s" in write_report(again).read_text()


def test_the_cost_of_reaching_an_accuracy_lies_on_the_line_between_points() -> None:
    found = curve([0.2, 0.4, 0.3, 0.8], [0, 100, 200, 300])
    assert found.reached(0.3, "rollouts") == pytest.approx(50)
    assert found.reached(0.4, "rollouts") == pytest.approx(100)
    assert found.reached(0.55, "rollouts") == pytest.approx(250)
    assert found.reached(0.1, "rollouts") == 0
    assert math.isnan(found.reached(0.9, "rollouts"))


@pytest.mark.parametrize(("start", "end"), [(0, 300), (50, 250), (100, 101), (0, 10)])
def test_the_area_is_the_mean_of_the_curve(start: float, end: float) -> None:
    found = curve([0.2, 0.4, 0.3, 0.8], [0, 100, 200, 300])
    grid = np.linspace(start, end, 200_001)
    expected = np.interp(grid, [0, 100, 200, 300], [0.2, 0.4, 0.3, 0.8])
    assert found.area("tokens", start, end) == pytest.approx((expected[1:] + expected[:-1]).mean() / 2, abs=1e-9)
    assert math.isnan(found.area("tokens", 0, 301))
    assert math.isnan(found.area("tokens", 100, 100))


def test_the_page_says_level_area_and_what_reaching_each_other_cost(pair: list[Path], tmp_path: Path) -> None:
    page = Page(write_comparison(pair, tmp_path / "out.html"))
    words = page.words
    for content in [
        "2 runs", "Accuracy on held", "Training accuracy",
        "gaussian tiny arithmetic gaussian 4 400 20 k 4 min 00 s",
        # gaussian: last 80 %, mean over rollouts (0.3 + 0.5 + 2 x 0.7) / 4
        "gaussian 80.0% 80.0% 55.0% 55.0% 55.0%",
        "uniform 60.0% 60.0% 40.0% 40.0% 40.0%",
        # rollouts of gaussian to its own 80 %, and to the 60 % for which uniform took 400
        "rollouts gaussian : 80.0% uniform : 60.0% gaussian 400 200 (2.00×) uniform – 400",
        "seconds gaussian : 80.0% uniform : 60.0% gaussian 4 min 00 s 2 min 00 s (2.00×) uniform – 4 min 00 s",
    ]:  # fmt: skip
        assert re.sub(r" ?: ", ": ", content) in re.sub(r" ?: ", ": ", words), content
    assert len(page.images) == 2
    assert "gaussian from 20.0% to 80.0% with 400 rollouts" in str(page.images[0]["alt"])
    assert svg(str(page.images[0]["src"])).tag.endswith("svg")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}


def test_without_evaluations_training_accuracy_is_all_and_the_page_warns(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, [0.1, None, 0.3]) for name in "ab"]
    words = Page(write_comparison(runs, tmp_path / "out.html")).words
    assert "depends on the prompts that each curriculum drew" in words
    assert "Accuracy on" not in words
    assert panels(read_runs(runs))[0].curves[0].cost["rollouts"].tolist() == [100, 300]


def test_runs_of_other_models_and_runs_without_the_evaluation_are_noted(pair: list[Path], tmp_path: Path) -> None:
    third = make_run(tmp_path / "third", [0.1, 0.2], config="model: other\ntask: arithmetic\n")
    words = Page(write_comparison([*pair, third], tmp_path / "out.html")).words
    assert "The runs trained different models: other, tiny." in words
    assert "held: nothing to draw of third." in words


def test_runs_of_one_name_are_told_apart_and_names_are_text(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / place / "<b>run", [0.1, 0.2]) for place in "ab"]
    page = Page(write_comparison(runs, tmp_path / "out.html"))
    assert [name for name, _, _ in read_runs(runs)] == [str(run) for run in runs]
    assert "<b>run" in page.words


def test_what_cannot_be_compared_is_refused(pair: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("model: m\n")
    (tmp_path / "scores.parquet").write_bytes(b"PAR1")
    for runs, message in (
        ([pair[0], pair[0]], "named twice"),
        ([pair[0], tmp_path / "none"], "no run at"),
        ([pair[0], tmp_path / "empty"], "no finished epoch"),
        ([pair[0], tmp_path / "scores.parquet"], "needs run directories"),
    ):
        with pytest.raises(UserError, match=message):
            write_comparison(runs, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_the_command_takes_several_runs(pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    from gainrl.cli.report import report

    app = typer.Typer()
    app.command()(report)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [str(path) for path in pair])
    assert result.exit_code == 0, result.output
    assert "comparison.html" in result.output
    assert (tmp_path / "comparison.html").stat().st_size > 10_000


def test_many_runs_are_drawn_in_styles_of_their_own(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"run{n}", [0.01 * n, 0.02 * n + 0.1], evals={"before": 0.1, "after": 0.3})
        for n in range(9)
    ]
    assert len(Page(write_comparison(runs, tmp_path / "out.html")).images) == 2
