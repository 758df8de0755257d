"""Shared fixtures and the two switches of the suite.

`GAINRL_REQUIRE` names backends and tools (comma-separated: native, triton, cuda, trl, bubblewrap, cmake, nvcc, ...)
whose tests must not skip: a skip whose reason begins with one of these names becomes a failure.  `--full` adds the
tests marked `full`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the tests marked full (.ci/full)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    chosen = [item for item in items if item.get_closest_marker("full") is None]  # keywords also hold folders' names
    left = [item for item in items if item.get_closest_marker("full") is not None]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _forbid_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _forbid_skips((yield))


def _forbid_skips(report: Report) -> Report:
    required = [name for name in os.environ.get("GAINRL_REQUIRE", "").split(",") if name]
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        subject = reason.removeprefix("Skipped: ").removeprefix("backend ")
        if any(subject.startswith(name) for name in required):
            report.outcome = "failed"
            report.longrepr = f"GAINRL_REQUIRE={','.join(required)} forbids this skip: {reason}"
    return report


@pytest.fixture(scope="session")
def require_backend() -> Callable[[str], None]:
    """Skip, naming the backend and why, unless it serves here; `GAINRL_REQUIRE` turns the skip into a failure."""

    def require(name: str) -> None:
        from gainrl import available_backends

        if (why := available_backends()[name]) != "ok":
            pytest.skip(f"backend {name}: {why}")

    return require


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program that a test builds with; where it is not installed, a skip that names it."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name}: not installed")
        return path

    return find


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Where the real data lies: `GAINRL_SHARED_DATA`, else `../shared/data` beside the repository."""
    named = os.environ.get("GAINRL_SHARED_DATA")
    path = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"the shared data files are not at {path} (set GAINRL_SHARED_DATA)")
    return path


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run `gainrl ARGUMENTS` in this process: (exit status, stdout, stderr)."""

    def run(arguments: Sequence[str]) -> tuple[int, str, str]:
        from gainrl.cli import main

        monkeypatch.setattr("sys.argv", ["gainrl", *arguments])
        status = 0
        try:
            main()
        except SystemExit as done:
            status = done.code if isinstance(done.code, int) else int(done.code is not None)
        out, err = capsys.readouterr()
        return status, out, err

    return run
