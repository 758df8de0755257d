"""What is seen of a run while it goes on: the bar, a line per epoch, and a report that is written anew."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl_support import DEFAULTS, make_table, make_trainer, problems

from gainrl.integrations.trl import live_report, progress
from gainrl.integrations.trl.live_report import LiveReport
from gainrl.integrations.trl.progress import RunProgress


def test_every_epoch_has_a_line_and_the_bar_says_where_the_run_is(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    plain = progress.tqdm

    class Bar(plain):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": shown, "mininterval": 0.0, "ncols": 200})

        @classmethod
        def write(cls, text: str, **kwargs: Any) -> None:
            super().write(text, file=shown)

    monkeypatch.setattr(progress, "tqdm", Bar)
    trainer = make_trainer(model, tmp_path, num_train_epochs=3)
    RunProgress.attach(trainer)
    trainer.train()
    text = shown.getvalue().replace("\r", "\n")
    lines = re.findall(
        r"epoch (\d)  mean [\d.]+  accuracy [\d.]+  angle [\d.]+  reward [\d.]+  next mean [\d.]+  [\d.]+ s  "
        r"time left [\d:]+",
        text,
    )
    assert lines == ["0", "1", "2"]
    assert re.search(
        r"5/6 \[\d+:\d+<\d+:\d+, .*epoch=2, mean=[\d.]+, accuracy=[\d.]+, angle=[\d.]+, reward=[\d.]+\]", text
    )


def run_directory(tmp_path: Path) -> Path:
    make_table(problems()).write(tmp_path / "scores.parquet")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"training": {"num_train_epochs": 3}}))
    return tmp_path


def test_the_report_is_written_anew_while_the_run_goes_on(model: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trainer = make_trainer(model, run_directory(tmp_path), num_train_epochs=3)
    kept = LiveReport(trainer, tmp_path)
    trainer.add_callback(kept)
    during: list[bool] = []
    plain = trainer._finish_epoch

    def finish() -> None:
        if trainer.navigator.epoch == 1:
            kept._wait()
            during.append((tmp_path / "report.html").exists())
        plain()

    trainer._finish_epoch = finish
    trainer.train()
    assert during == [True], "written after the first epoch"
    page = (tmp_path / "report.html").read_text()
    assert page.count("<") > 100
    assert (tmp_path / "report.html").stat().st_mtime >= (tmp_path / "epochs.jsonl").stat().st_mtime


def test_a_report_that_fails_is_said_once_and_the_run_goes_on(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = tmp_path / "nowhere"
    trainer = make_trainer(model, tmp_path / "run", num_train_epochs=2)
    trainer.add_callback(LiveReport(trainer, nowhere))
    with caplog.at_level(logging.WARNING, "gainrl"):
        trainer.train()
    said = [record.message for record in caplog.records if "report" in record.message]
    assert len(said) == 1
    assert said[0].startswith("no report is kept any more: gainrl report failed (gainrl: ")
    assert trainer.state.global_step == 2 * DEFAULTS["prompts_per_epoch"] // 4


def test_without_what_a_report_needs_the_run_says_so_and_goes_on(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_report, "NEEDS", ("jinja2", "no_such_package"))
    trainer = make_trainer(model, tmp_path, num_train_epochs=1)
    with caplog.at_level(logging.WARNING, "gainrl"):
        trainer.add_callback(LiveReport(trainer, tmp_path))
    trainer.train()
    assert [r.message for r in caplog.records if "report" in r.message] == [
        "no report is kept: it needs no_such_package (pip install 'gainrl[report]')"
    ]
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import time; time.sleep(600)", "no report is kept any more: gainrl report took longer than 3 s"),
        ("import sys; sys.stderr.write('x' * 2**20 + '\\nlast'); sys.exit(1)", "gainrl report failed (last)"),
    ],
    ids=["hangs", "says much"],
)
def test_a_report_that_hangs_or_says_much_does_not_hold_up_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str, said: str
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(live_report, "PATIENCE", 3.0)
    start = subprocess.Popen
    monkeypatch.setattr(
        live_report.subprocess, "Popen", lambda command, **options: start([sys.executable, "-c", code], **options)
    )
    kept = LiveReport(None, tmp_path)
    with caplog.at_level(logging.WARNING, "gainrl"):
        kept._begin()
        deadline = time.monotonic() + 60
        while said.endswith("(last)") and not kept._idle() and time.monotonic() < deadline:
            time.sleep(0.05)  # nobody reads what it says meanwhile
        kept._wait()
    assert said in caplog.text
    assert kept._off
