"""Fixtures of the trainer's tests; `trl_support` holds the helpers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("trl_support")

try:
    import trl  # noqa: F401
except ImportError:
    pytest.skip("trl is not installed", allow_module_level=True)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny random Qwen2 model with its tokenizer."""
    from trl_support import make_model

    return make_model(tmp_path_factory.mktemp("qwen2"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """TRL 1.16 still reads names that transformers 5.23 deprecates; nothing here can change that."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*is deprecated:FutureWarning"))
