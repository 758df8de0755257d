"""What the studies make known to gainrl for their own process must not reach the tests that run after them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from gainrl.curriculum import NAVIGATORS


@pytest.fixture(autouse=True, scope="module")
def _own_navigators() -> Iterator[None]:
    """Forget the convergence study's oracles after each module."""
    kinds: dict[str, Any] = NAVIGATORS
    with mock.patch.dict(kinds):
        yield
