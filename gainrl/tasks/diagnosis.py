"""What `gainrl doctor` says of the tasks: each part, whether it works here, and what to do where not."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import NamedTuple


class DoctorRow(NamedTuple):
    """part; state: "ok", "missing" (an optional part) or "broken"; detail: a version, or the remedy."""

    part: str
    state: str
    detail: str


def doctor() -> list[DoctorRow]:
    """Check the tasks' parts on this machine.  Takes about a second: the sandbox's self-test tries to break out."""
    return [*_packages(), _interpreter(), _isolation()]


def _packages() -> list[DoctorRow]:
    from importlib.metadata import version

    wanted = (
        ("math_verify", "math-verify", "answers of math tasks"),
        ("datasets", "datasets", "tasks from the hub"),
        ("reasoning_gym", "reasoning-gym", "reasoning-gym and arithmetic tasks"),
        ("sortedcontainers", "sortedcontainers", "LeetCode solutions that use it"),
    )
    rows = []
    for module, package, use in wanted:
        if importlib.util.find_spec(module) is None:
            rows.append(DoctorRow(package, "missing", f"for {use}: pip install 'gainrl[tasks]'"))
        else:
            rows.append(DoctorRow(package, "ok", version(package)))
    return rows


def _interpreter() -> DoctorRow:
    named = os.environ.get("GAINRL_SANDBOX_PYTHON")
    return DoctorRow("sandbox interpreter", "ok", named or str(getattr(sys, "_base_executable", sys.executable)))


def _isolation() -> DoctorRow:
    if sys.platform != "linux":
        return DoctorRow("code isolation", "missing", "code tasks refuse to run: bubblewrap needs Linux")
    from gainrl.tasks.sandbox import isolation

    found = isolation()
    if found == "ok":
        who = "an unprivileged user of its own" if os.geteuid() == 0 else f"user {os.geteuid()}"
        return DoctorRow("code isolation", "ok", f"bubblewrap as {who}; the self-test could not break out")
    return DoctorRow("code isolation", "missing", f"code tasks refuse to run: {found}")
