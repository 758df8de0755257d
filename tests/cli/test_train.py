"""Who says a mistake, when every process of a run meets it and when one alone does."""

from __future__ import annotations

import socket

import pytest
import typer

from gainrl.cli.train import spoken
from gainrl.errors import UserError

MISTAKE = UserError("a mistake")


def place(monkeypatch: pytest.MonkeyPatch, rank: str | None, local: str | None) -> None:
    for name, value in (("RANK", rank), ("LOCAL_RANK", local)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("rank", "local"), [(None, None), ("0", "0"), ("0", None)])
def test_the_first_process_says_it_plainly(
    monkeypatch: pytest.MonkeyPatch, rank: str | None, local: str | None
) -> None:
    place(monkeypatch, rank, local)
    assert spoken(MISTAKE, by_all=True) is MISTAKE
    assert spoken(MISTAKE, by_all=False) is MISTAKE


@pytest.mark.parametrize(("rank", "local"), [("1", "1"), ("9", "1"), ("1", None)])
def test_what_every_process_meets_is_left_to_the_first_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, rank: str, local: str | None
) -> None:
    place(monkeypatch, rank, local)
    silent = spoken(MISTAKE, by_all=True)
    assert isinstance(silent, typer.Exit)
    assert silent.exit_code == 2


def test_another_machine_says_its_own_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, "8", "0")
    assert str(spoken(MISTAKE, by_all=True)) == f"{socket.gethostname()}, rank 8: a mistake"


def test_what_one_process_alone_meets_it_says_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, "3", "3")
    assert str(spoken(MISTAKE, by_all=False)) == f"{socket.gethostname()}, rank 3: a mistake"
