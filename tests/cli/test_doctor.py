"""`gainrl doctor`: the table and the JSON agree; packages and drivers are held against what gainrl needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata

import pytest

import gainrl.cli.doctor as doctor

Run = Callable[..., tuple[int, str, str]]


def test_the_json_holds_what_the_table_shows(run_cli: Run) -> None:
    status, table, _ = run_cli(["doctor"])
    again, text, _ = run_cli(["doctor", "--json"])
    found = json.loads(text)
    assert status == again == 0
    assert found["ok"] is True
    sections = {check["section"] for check in found["checks"]}
    assert sections >= {"gainrl", "system", "gpu", "precision", "backends", "extras", "tasks"}
    for check in found["checks"]:
        assert check["state"] in ("ok", "missing")
        assert check["name"] in table


def test_a_package_out_of_range_is_broken_with_the_remedy(run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "2.1.0" if name == "torch" else metadata.version(name))
    status, out, error = run_cli(["doctor"])
    assert status == 1
    assert "broken: 2.1.0; install it with: pip install 'torch>=" in out
    assert error == "gainrl: broken here: torch\n"


def test_an_extra_names_what_it_lacks(run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "jinja2":
            raise metadata.PackageNotFoundError(name)
        return metadata.version(name)

    monkeypatch.setattr(doctor, "version", version)
    status, out, _ = run_cli(["doctor"])
    assert status == 0
    assert "lacks jinja2: pip install 'gainrl[report]'" in out


@pytest.mark.parametrize(
    ("number", "serves", "state"),
    [("580.65.06", 13000, "ok"), ("570.124.06", 12080, "missing"), ("", 12040, "missing")],
)
def test_a_driver_is_held_against_what_the_kernels_need(number: str, serves: int, state: str) -> None:
    check = doctor.driver_check(number, serves)
    assert check.state == state
    assert f"serves CUDA {serves // 1000}" in check.detail
