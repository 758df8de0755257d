"""Fixtures of verl's tests.  verl has an environment of its own (scripts/verl_environment.sh); without it they skip."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gainrl.curriculum import NAVIGATORS
from tests.learners import AngleLearner, Learner

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray announces a change of its own otherwise
sys.path[:0] = [str(Path(__file__).parents[up]) for up in (0, 2)]  # verl_world, tiny_models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What verl, Ray and their dependencies warn about is theirs to mend."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.path.name != "test_curriculum.py":
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True)
def learners(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Learner, AngleLearner):
        monkeypatch.setitem(NAVIGATORS, kind.name, kind)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 problems in verl's Parquet format, and scores.parquet beside it."""
    from verl_world import write_dataset

    path = tmp_path_factory.mktemp("data") / "train.parquet"
    write_dataset(path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny random Qwen2 model with its tokenizer."""
    from tiny_models import make_model

    return make_model(tmp_path_factory.mktemp("qwen2"), texts=["What is 12 + 30? Add."] * 3)


@pytest.fixture
def configure(dataset: Path, model: str, tmp_path: Path) -> Any:
    """`configure(*overrides, directory="run")`: verl's configuration of a small run with the curriculum."""
    from verl_world import make_config

    def make(*overrides: str, directory: str = "run") -> Any:
        return make_config(tmp_path / directory, model, dataset, *overrides)

    return make
