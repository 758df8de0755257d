"""`epochs.jsonl`: each finished epoch once, and nothing of an earlier run lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from gainrl.errors import UserError
from gainrl.integrations.epoch_log import EpochLog


def test_epoch_records_survive_a_torn_end_and_nothing_else(tmp_path: Path) -> None:
    log = EpochLog(tmp_path)
    log.append({"epoch": 0})
    log.append({"epoch": 1})
    with open(log.path, "a") as file:
        file.write('{"epoch": 2, "navi')
    assert [record["epoch"] for record in log.read()] == [0, 1]
    damaged = '{"epoch": 0}\n<<<<<<< HEAD\n{"epoch": 1}\n'
    log.path.write_text(damaged)
    with pytest.raises(UserError, match=r"epochs.jsonl, line 2, is no epoch record"):
        log.keep(2)
    assert log.path.read_text() == damaged


def test_a_run_that_begins_refuses_the_records_of_another(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "run")
    log.begin()
    log.append({"epoch": 0})
    with pytest.raises(UserError, match="holds the epochs of an earlier run"):
        EpochLog(tmp_path / "run").begin()


def test_records_of_earlier_runs_can_be_set_aside_each_under_a_name_of_its_own(tmp_path: Path) -> None:
    log = EpochLog(tmp_path / "run")
    assert log.set_aside() is None
    for run in range(3):
        log.append({"epoch": run})
        kept = log.set_aside()
        assert kept == tmp_path / "run" / f"epochs-{run + 1}.jsonl"
        assert kept.read_text() == f'{{"epoch": {run}}}\n'
        assert log.read() == []
