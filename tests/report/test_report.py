"""The page: what it says about a run, from files alone, whatever is missing, torn or hostile in them."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from gainrl.curriculum import GaussianNavigator, Ranking, WindowSettings
from gainrl.errors import UserError
from gainrl.report import write_report
from gainrl.table import (
    RESIDUAL_FIELD,
    Prompt,
    ScoreTable,
    content_ids,
    prompt_text,
)
from tests.score_tables import score_table

pytest.importorskip("jinja2", reason="the extra report is not installed")
pytest.importorskip("matplotlib", reason="the extra report is not installed")

EXAMPLES = "1 + 1 = 2\n2 + 3 = 5\n"


def table_of(
    prompts: Sequence[Prompt], scores: Sequence[float], *, keep_prompts: bool = True, **metadata: Any
) -> ScoreTable:
    finite, count = np.isfinite(scores), len(prompts)
    columns: dict[str, Any] = {
        "status": ["ok" if ok else ("skipped" if i % 2 else "undefined") for i, ok in enumerate(finite)],
        "reason": [None if ok else ("too <long>" if i % 2 else "empty question") for i, ok in enumerate(finite)],
        "intra": [0.75 * s for s in scores],
        "inter": [0.25 * s for s in scores],
        "prefix_tokens": [9] * count,
        "question_tokens": [5 + i % 11 for i in range(count)],
    }
    if keep_prompts:
        columns["prompt"] = [prompt_text(prompt) for prompt in prompts]
    made = {"model": "tiny-model", "model_hash": "weights:0123456789abcdef", "dataset": "sums.jsonl", "split": "train"}
    return score_table(content_ids(prompts), scores, columns, **{**made, **metadata})


def sums(count: int) -> list[str]:
    return [f"{EXAMPLES}{i} + {i + 1} =" for i in range(count)]


def make_run(directory: Path, *, epochs: int = 4, evals: bool = True, prompts: Sequence[Prompt] | None = None) -> Path:
    """A run directory as training leaves it, its epochs drawn by the real curriculum."""
    directory.mkdir(exist_ok=True)
    prompts = sums(60) if prompts is None else prompts
    scores = [math.nan if i in (7, 8, 9) else 0.9 - 0.005 * i for i in range(len(prompts))]
    table = table_of(prompts, scores)
    table.write(directory / "scores.parquet")
    navigator = GaussianNavigator(
        Ranking(table.ids, table.scores, table.metadata.fingerprint), 12, WindowSettings(sigma=8)
    )
    lines = []
    for epoch in range(epochs):
        ids = navigator.draw()
        navigator.observe(
            {"id": name, "correct": (i + epoch) % 2, "scored": i != 3, "angle": 0.3, "reward": 0.5, "tokens": 7}
            for i, name in enumerate(ids)
        )
        lines.append(json.dumps({**navigator.metrics(), "seconds": 61.0 + epoch}))
    (directory / "epochs.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (directory / "config.yaml").write_text(
        "model: tiny-model\ntask: arithmetic\ncurriculum: {beta: 0.4}\ntraining: {num_train_epochs: 10}\n"
    )
    if evals:
        common = {"task": "arithmetic", "rows": 99, "samples": 4, "seconds": 12.0}
        before = common | {"stage": "before", "step": None, "accuracy": 0.25, "low": 0.2, "high": 0.31}
        after = common | {"stage": "after", "step": 40, "accuracy": 0.5, "low": 0.44, "high": 0.56}
        (directory / "evals.jsonl").write_text(f"{json.dumps(before)}\n{json.dumps(after)}\n")
    return directory


class Page(HTMLParser):
    """A page taken apart: its text, tags with attributes, and whether elements nest."""

    VOID = frozenset({"meta", "img", "source", "br", "link", "input", "hr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.pieces: list[str] = []
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
            self.pieces.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    @property
    def images(self) -> list[Mapping[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def svg(uri: str) -> ElementTree.Element:
    head, _, body = uri.partition(",")
    assert head == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(body))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("finished") / "run"))


def test_a_finished_run_is_reported_with_every_plot_in_words_and_in_two_themes(finished: Path) -> None:
    page = Page(finished)
    said = [str(image["alt"]) for image in page.images]
    assert len(said) == 6
    for beginning, content in [
        ("Evaluation accuracy", "arithmetic before 25.0% (interval 20.0% to 31.0%); arithmetic after, step 40 50.0%"),
        ("The window over 4 epochs", "its mean goes from rank 0 to rank "),
        ("Per epoch, over 4 epochs: accuracy", "mean reward from 0.5 to 0.5"),
        ("Per epoch, over 4 epochs: tokens", "seconds from 61 to 64"),
        ("Histograms", "C from 0.605 to 0.900, median 0.745"),
        ("Score C of 57 prompts", "Spearman's rank correlation is"),
    ]:
        assert any(alt.startswith(beginning) and content in alt for alt in said), (beginning, said)
    sources = [attributes for tag, attributes in page.tags if tag == "source"]
    assert len(sources) == len(said)
    for picture in [*(image["src"] for image in page.images), *(source["srcset"] for source in sources)]:
        assert svg(str(picture)).tag.endswith("svg")


def test_the_page_says_what_the_records_say(finished: Path) -> None:
    words = Page(finished).words
    for content in [
        "4 of 10 epochs",
        "Ranked by tiny-model (weights:0123456789abcdef)",
        "Dataset sums.jsonl, split train",
        "60 prompts ranked 3 without a score",
        "+25.0 pt arithmetic accuracy 25.0% → 50.0%",
        "336 tokens generated 48 rollouts, 4 min 10 s",
        "4 rollouts could not be graded",
        "60 rows: 57 ok, 1 undefined, 2 skipped. Rows without a score rank last.",
        "skipped too <long> 2",
        "undefined empty question 1",
        "num_train_epochs: 10",
    ]:
        assert content in words, content


def test_the_page_reaches_for_nothing_outside_itself(finished: Path) -> None:
    page = Page(finished)
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "srcset", "href", "action"):
            assert attributes.get(name, "data:").startswith("data:")  # type: ignore[union-attr]
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import", finished.read_text())
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'")


HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} {% raw %} \x00\x1b[31m & \u202e"


def test_hostile_text_stays_text_everywhere(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run <b>bold",
        prompts=[HOSTILE + str(i) for i in range(20)],
    )
    (run / "config.yaml").write_text(f"model: {json.dumps(HOSTILE)}\n")
    (run / "evals.jsonl").write_text(
        json.dumps({"stage": HOSTILE, "task": "$\\frac{" + HOSTILE + "\ud800", "accuracy": 0.5}) + "\n"
    )
    page = Page(write_report(run))
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags
    assert all(str(image["src"]).startswith("data:") for image in page.images)
    shown = HOSTILE.replace("\x00", "␀").replace("\x1b", "␛")
    assert page.text.count(shown) >= 12  # ten prompts, the model's name in the header and the settings
    assert "run <b>bold" in page.text


def test_prompts_are_printed_in_full_and_shared_beginnings_are_set_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    long = "word " * 5000
    table = table_of([*sums(10), EXAMPLES + long], [*np.linspace(0.5, 0.9, 10), 0.1])
    table.write(run / "scores.parquet")
    page = Page(write_report(run, prompts=2))
    assert long.strip() in page.text
    assert page.text.count("9 + 10 =") == 1  # the highest
    assert page.text.count("5 + 6 =") == 0
    shared = [attributes for tag, attributes in page.tags if attributes.get("class") == "shared"]
    assert len(shared) == 4
    assert page.text.count(EXAMPLES) == 4


def test_chats_are_shown_message_by_message(tmp_path: Path) -> None:
    chats = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"How many is {i}?\n<b>"}]
        for i in range(6)
    ]
    table_of(chats, [0.1 * i for i in range(6)]).write(tmp_path / "scores.parquet")
    page = Page(write_report(tmp_path / "scores.parquet", prompts=1))
    assert [attributes for _, attributes in page.tags if attributes.get("class") == "role"] != []
    assert page.text.count("Be brief.") == 2
    assert "How many is 5?\n<b>" in page.text
    assert "How many is 0?\n<b>" in page.text
    shared = [attributes for _, attributes in page.tags if attributes.get("class") == "shared"]
    assert len(shared) == 2  # the system prompt of both


def test_plain_text_that_looks_like_json_is_plain_text(tmp_path: Path) -> None:
    texts = [f"[INST]\n{i}\n" for i in range(4)] + ["[1, 2]", '[{"content": "no role"}]', "[]", "["]
    table_of(texts, [0.1 * i for i in range(8)]).write(tmp_path / "scores.parquet")
    page = Page(write_report(tmp_path / "scores.parquet"))
    for text in texts:
        assert text in page.text
    assert not [attributes for _, attributes in page.tags if attributes.get("class") == "role"]


def test_a_score_table_alone_gets_a_report_beside_it(tmp_path: Path) -> None:
    table = tmp_path / "gsm8k.parquet"
    table_of(sums(5), [0.5, 0.4, 0.3, 0.2, 0.1]).write(table)
    written = write_report(table)
    assert written == tmp_path / "gsm8k.html"
    page = Page(written)
    assert "scores only" in page.words
    assert "Training" not in page.words
    assert page.text.count(" + ") >= 5  # each prompt once, though five highest and five lowest were asked for
    assert "Lowest: visited last" not in page.words


def test_a_table_without_prompts_says_so(tmp_path: Path) -> None:
    table_of(sums(5), [0.5, 0.4, 0.3, 0.2, 0.1], keep_prompts=False).write(tmp_path / "s.parquet")
    assert "does not hold the prompts' text" in Page(write_report(tmp_path / "s.parquet")).words


@pytest.mark.parametrize("scores", [[math.nan] * 4, [0.5] * 4, [0.5]])
def test_degenerate_scores_are_reported(tmp_path: Path, scores: list[float]) -> None:
    table_of(sums(len(scores)), scores).write(tmp_path / "s.parquet")
    words = Page(write_report(tmp_path / "s.parquet")).words
    assert ("No prompt has a score" in words) is not np.isfinite(scores).any()


def test_a_score_of_intra_alone_is_named_so(tmp_path: Path) -> None:
    table_of(sums(4), [0.5, 0.4, 0.3, 0.2], definition="intra").write(tmp_path / "s.parquet")
    words = Page(write_report(tmp_path / "s.parquet")).words
    assert "C_intra alone (no prompt has a prefix)" in words


def test_a_table_ranked_without_length_shows_the_score_and_what_it_is_ranked_by(tmp_path: Path) -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    table = table_of(sums(6), scores, control="length", control_fit=(1.0, -0.1, 0.0))
    residual = pa.array([0.01, -0.03, 0.02, -0.02, 0.03, -0.01], pa.float32())
    ScoreTable(table.columns.append_column(RESIDUAL_FIELD, residual), table.metadata).write(tmp_path / "s.parquet")
    words = Page(write_report(tmp_path / "s.parquet")).words
    assert "C without length" in words
    assert "without the diagonal" in words
    assert "0.65" in words  # the median of C itself


def test_a_run_in_progress_is_reported_past_a_torn_last_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=2, evals=False)
    with open(run / "epochs.jsonl", "a") as file:
        file.write('{"epoch": 2, "mean": 3')
    words = Page(write_report(run)).words
    assert "2 of 10 epochs" in words
    assert "Evaluations" not in words
    assert "Notes" not in words


def test_the_change_is_from_the_earliest_to_the_latest_place_whatever_the_order_of_evaluation(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", evals=False)
    records: list[dict[str, Any]] = [
        {"stage": "eval", "step": 40, "epoch": 4.0, "accuracy": 0.6},
        {"stage": "eval", "step": 20, "accuracy": 0.5},
        {"stage": "before", "step": None, "accuracy": 0.3},
        {"stage": "eval", "step": 40, "accuracy": 0.7},
        {"stage": "eval", "step": 10, "accuracy": 0.4},
    ]
    lines = [json.dumps({"task": "arithmetic", **record}) + "\n" for record in records]
    (directory / "evals.jsonl").write_text("".join(lines))
    assert "+40.0 pt arithmetic accuracy 30.0% → 70.0%" in Page(write_report(directory)).words


def test_broken_lines_are_noted_and_the_last_record_of_an_epoch_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=1)
    first = (run / "epochs.jsonl").read_text()
    again = json.dumps(json.loads(first) | {"accuracy": 0.875})
    (run / "epochs.jsonl").write_text(f'{first}broken\n[1]\n{{"mean": 2}}\n{again}\n')
    words = Page(write_report(run)).words
    assert "epochs.jsonl, line 2, is no JSON" in words
    assert "epochs.jsonl, line 3, is no record" in words
    assert "a record without an epoch number" in words
    assert "87.5%" in words
    assert "1 of 10 epochs" in words


def test_epochs_of_unknown_shape_are_reported_as_far_as_they_go(tmp_path: Path) -> None:
    tmp_path.joinpath("epochs.jsonl").write_text(
        '{"epoch": 0}\n{"epoch": 1, "accuracy": null, "mean": NaN, "ranks": 3, "held": "no scored rollout"}\n'
        '{"epoch": 2, "accuracy": 0.5, "reward": -1e9, "tokens": "many"}\n'
    )
    words = Page(write_report(tmp_path)).words
    assert "3 epochs" in words
    assert "Epoch 1 left the mean where it was: no scored rollout." in words
    assert "no score table in the run directory" in words


def test_an_unreadable_table_or_config_is_a_note_in_a_run_and_an_error_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "scores.parquet").write_bytes(b"no parquet")
    (run / "config.yaml").write_text("a: [")
    words = Page(write_report(run)).words
    assert "The score table cannot be used" in words
    assert "config.yaml cannot be read" in words
    with pytest.raises(UserError, match="not a readable Parquet file"):
        write_report(run / "scores.parquet")


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run at"):
        write_report(tmp_path / "missing")
    with pytest.raises(UserError, match=r"holds no run: none of config\.yaml, scores\.parquet"):
        write_report(tmp_path)


def test_the_same_records_give_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    again = write_report(finished.parent, tmp_path / "again.html")
    assert again.read_bytes() == finished.read_bytes()


def test_the_command_writes_where_it_is_told(tmp_path: Path) -> None:
    import typer

    from gainrl.cli.report import report

    app = typer.Typer()
    app.command()(report)
    run = make_run(tmp_path / "run", epochs=1, evals=False)
    done = CliRunner().invoke(app, [str(run), "--output", str(tmp_path / "page.html"), "--prompts", "1"])
    assert done.exit_code == 0, done.output
    assert "page.html" in done.output
    assert "4 + 5 =" not in (tmp_path / "page.html").read_text()
    with pytest.raises(UserError, match="--prompts must be at least 0, got -1"):
        report(run, None, -1)
