"""The helper modules of this folder, and the navigator `learner`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(autouse=True)
def learner(monkeypatch):
    from worlds import Learner

    from gainrl.curriculum import NAVIGATORS

    monkeypatch.setitem(NAVIGATORS, "learner", Learner)
