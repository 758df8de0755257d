"""`gainrl doctor`: every section is there; packages are held against what gainrl needs."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import metadata

import pytest

import gainrl.cli.doctor as doctor
from gainrl import available_backends

Run = Callable[..., tuple[int, str, str]]


def test_every_section_and_backend_is_shown_with_the_reason_why_one_does_not_work(run_cli: Run) -> None:
    status, out, _ = run_cli(["doctor"])
    assert status == 0
    sections = [line for line in out.splitlines() if not line.startswith(" ")]
    assert sections == ["system", "devices", "backends", "packages", "isolation"]
    for name, why in available_backends().items():
        assert f"  {name:<16}  {'' if why == 'ok' else 'missing: '}{why}" in out


@pytest.mark.parametrize(
    ("package", "there", "status", "said"),
    [
        ("torch", "2.1.0", 1, "torch 2.1.0, tqdm .*; pip install 'torch>="),
        ("jinja2", None, 0, "report  .*missing: jinja2 not installed, matplotlib .*; pip install 'gainrl\\[report\\]'"),
    ],
)
def test_a_package_that_does_not_fit_is_shown_with_the_remedy(
    run_cli: Run, monkeypatch: pytest.MonkeyPatch, package: str, there: str | None, status: int, said: str
) -> None:
    def version(name: str) -> str:
        if name.startswith(package) and there is None:
            raise metadata.PackageNotFoundError(name)
        return there if name == package and there else metadata.version(name)

    monkeypatch.setattr(doctor, "version", version)
    found, out, error = run_cli(["doctor"])
    assert found == status
    assert re.search(said, out), out
    assert error == ("gainrl: broken here: required\n" if status else "")
