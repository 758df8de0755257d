"""Files appear whole or not at all."""

from __future__ import annotations

import os

import pytest

from gainrl.files import atomic_path, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "state.json"
    write_text(target, "old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["state.json"]


def test_readers_never_see_half_a_file(tmp_path):
    target = tmp_path / "state.json"
    write_text(target, "old")
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert target.read_text() == "old"
        temporary.write_text("whole")
    assert target.read_text() == "whole"


def test_the_file_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
