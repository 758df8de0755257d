"""scripts/torch_range.py: the torches that wheels are tested with are those that pyproject.toml allows."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "torch_range.py"


def test_the_oldest_torch_is_the_lower_bound_and_the_newest_has_no_upper_one():
    if not SCRIPT.exists():
        pytest.skip("scripts/torch_range.py is not beside these tests (they run on an installed wheel)")
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = next(r for r in map(Requirement, dependencies) if r.name == "torch").specifier
    oldest, newest = (
        subprocess.run([sys.executable, SCRIPT, which], check=True, capture_output=True, text=True).stdout.strip()
        for which in ("oldest", "newest")
    )
    assert Requirement(newest).specifier == allowed
    lowest = next(iter(Requirement(oldest).specifier)).version.removesuffix(".*")
    assert allowed.contains(f"{lowest}.0")
    major, minor = lowest.split(".")
    assert not allowed.contains(f"{major}.{int(minor) - 1}.9")
