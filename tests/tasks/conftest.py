"""Where the real data lies: `GAINRL_SHARED_DATA`, else `../shared/data` beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    named = os.environ.get("GAINRL_SHARED_DATA")
    path = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"the shared data files are not at {path} (set GAINRL_SHARED_DATA)")
    return path
