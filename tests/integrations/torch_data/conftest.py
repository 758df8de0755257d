"""The navigator `learner` for the tests of this folder."""

from __future__ import annotations

import pytest

from gainrl.curriculum import NAVIGATORS
from tests.learners import Learner


@pytest.fixture(autouse=True)
def learner(monkeypatch):
    monkeypatch.setitem(NAVIGATORS, "learner", Learner)
