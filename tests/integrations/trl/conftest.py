"""A tiny model for all tests of the trainer."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("trl", reason="trl is not installed")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny random Qwen2 model with its tokenizer."""
    from tests.integrations.trl.support import tiny_model

    return tiny_model(tmp_path_factory.mktemp("qwen2"))
