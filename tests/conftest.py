"""Shared fixtures and the two switches of the suite.

`GAINRL_REQUIRE` names backends (comma-separated: native, triton, cuda, trl) whose tests must not skip: a skip
with one of these names in its reason becomes a failure.  `--full` adds the tests marked `full`.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the tests marked full (.ci/full)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    chosen = [item for item in items if "full" not in item.keywords]
    left = [item for item in items if "full" in item.keywords]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = [name for name in os.environ.get("GAINRL_REQUIRE", "").split(",") if name]
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if any(name in reason for name in required):
            report.outcome = "failed"
            report.longrepr = f"GAINRL_REQUIRE={','.join(required)} forbids this skip: {reason}"
    return report
