"""A report of a run directory: what is on the page, what a damaged record does, and how it looks in a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gainrl.errors import UserError
from gainrl.report import write_comparison, write_report
from tests.score_tables import score_table

HOSTILE = "<script>alert(1)</script> \x1b[31m & \ud83d"
PROMPT = "<img src=x onerror=alert(2)> \u202e" + "x" * 400
Make = Callable[..., Path]


def draw(number: int, navigator: str) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    chances, mixed = rng.random(4), rng.random(4) < 0.5
    right = np.where(mixed, 3, np.where(rng.random(4) < 0.5, 8, 0))
    window = {"mean": float(number), "sigma": 5.0} if navigator == "gaussian" else {}
    return {
        "draw": number, "step": number, "navigator": navigator, "rows": rng.choice(20, 4, replace=False).tolist(),
        "rollouts": 32, "scored": 32, "accuracy": float(right.sum() / 32), "mixed": float(mixed.mean()),
        "all_right": float((right == 8).mean()), "all_wrong": float((right == 0).mean()),
        "predicted": chances.tolist() if navigator == "probe" else [None] * 4,
        "outcome": [[8, int(k), bool(m)] for k, m in zip(right, mixed, strict=True)],
        "angle": 0.5 if navigator == "gaussian" else None, "reward": float(right.mean() / 8), "tokens": 320,
        "seconds": 2.0, "sources": {HOSTILE[:30]: {"groups": 4, "accuracy": 0.5, "mixed": 0.25}},
        "metrics": {"position_p10": 2.0, "position_median": 9.0, "position_p90": 17.0, **window},
    }  # fmt: skip


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    def make(name: str = "run", navigator: str = "probe", draws: int = 30, table: int = 20) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        prompts = [json.dumps([{"role": "user", "content": PROMPT}]) for _ in range(table)]
        ids = [f"{row:064x}" for row in range(table)]
        score_table(ids, np.linspace(1, 2, table), {"prompt": prompts}).write(folder / "scores.parquet")
        config = f"model_name_or_path: tiny\ndataset: d\nnavigator: {navigator}\nnote: '<b>'\n"
        (folder / "config.yaml").write_text(config)
        lines = [json.dumps(draw(number, navigator)) for number in range(draws)]
        (folder / "draws.jsonl").write_text("\n".join([*lines, '{"draw": 99, "ro']))  # a torn last line
        evals = [
            {"task": HOSTILE, "stage": stage, "step": step, "accuracy": value, "low": value - 0.1, "high": value + 0.1,
             "rows": 50, "samples": 4, "unscorable": 1, "tokens": 900, "seconds": 61.0}
            for stage, step, value in (("before", 0, 0.2), ("after", draws, 0.4))
        ]  # fmt: skip
        (folder / "evals.jsonl").write_text("".join(json.dumps(record) + "\n" for record in evals))
        return folder

    return make


def page_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_run_of_probe_shows_evaluations_draws_prediction_sources_and_cost(make_run: Make) -> None:
    page = page_of(write_report(make_run()))
    names = "Evaluations, Draws, Training, By source, Scores, Highest scores, Lowest scores"
    assert headings(page) == names.split(", ")
    assert "predicted and observed" in page
    assert "<b>960</b><span>rollouts in 30 draws</span>" in page
    assert "<b>20</b><span>different prompts of 20</span>" in page
    assert "40.0 % (30.0 to 50.0)" in page
    assert "<span>rollouts in 1 draw</span>" in page_of(write_report(make_run("short", draws=1)))


def test_a_run_of_the_window_shows_the_window_and_no_prediction(make_run: Make) -> None:
    page = page_of(write_report(make_run(navigator="gaussian")))
    assert "predicted and observed" not in page
    assert any("window: mean" in text for text in re.findall(r'alt="(.*?)"', page, flags=re.DOTALL))


def test_text_of_the_run_cannot_become_part_of_the_page(make_run: Make) -> None:
    page = page_of(write_report(make_run()))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "\x1b" not in page


def test_every_figure_is_an_svg_in_two_versions_with_a_text(make_run: Make) -> None:
    page = page_of(write_report(make_run()))
    figures = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    assert len(figures) >= 8
    for figure in figures:
        dark, light = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", figure)
        assert light != dark
        assert b"<svg" in base64.b64decode(light)
        assert len(re.findall(r'alt="(.+?)"', figure, flags=re.DOTALL)[0]) > 20


def test_runs_side_by_side_have_a_row_each(make_run: Make, tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b", "gaussian")]
    page = page_of(write_comparison(runs, tmp_path / "both.html"))
    assert headings(page) == ["Cost", "Evaluations", "Training"]
    assert "<td>gaussian</td>" in page


def test_damaged_records_become_notes(make_run: Make) -> None:
    run = make_run()
    (run / "config.yaml").write_text("a: [")
    lines = (run / "draws.jsonl").read_text().splitlines()
    (run / "draws.jsonl").write_text("\n".join([*lines[:3], "no record", *lines[3:]]))
    page = page_of(write_report(run))
    assert "config.yaml cannot be read" in page
    assert "draws.jsonl, line 4, is no record" in page
    assert "Scores" in headings(page)
    page = page_of(write_report(make_run("other", table=3)))
    assert "the score table is of another dataset than the draws" in page
    assert "Draws" in headings(page)
    assert "Scores" not in headings(page)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no run at"):
        write_report(tmp_path / "absent")


def test_the_command_writes_into_the_run(make_run: Make, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    run = make_run()
    status, out, _ = run_cli(["report", str(run)])
    assert status == 0
    assert str(run / "report.html") in out
    status, _, error = run_cli(["report", str(run), "--output", str(run / "no" / "x.html")])
    assert status == 2
    assert "does not exist" in error


@pytest.fixture
def browser(tool: Callable[[str], str]) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium: not installed")
    options = selenium.ChromeOptions()
    options.binary_location = tool("chromium")
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-sync"
    for flag in [*flags.split(), "disable-component-update", "disable-dev-shm-usage"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(tool("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.full
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_no_overflow_and_no_error(browser: Any, make_run: Make, width: int, scheme: str) -> None:
    written = write_report(make_run())
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(written.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    shown = browser.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert len(shown) >= 8
    assert all(shown)
    assert browser.get_log("browser") == []
