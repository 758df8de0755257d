"""Fixtures of verl's tests; `verl_support` holds the helpers, `verl_replaced` what stands in for parts of verl.

verl needs an environment of its own: scripts/verl_environment.sh.  Without it these tests skip.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray announces a change of its own otherwise
UNITS = ("test_curriculum.py", "test_journal.py", "test_rewards.py")
"""What these test needs no verl."""
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))  # tiny_models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these but the units are `full`; what verl, Ray and their dependencies warn about is theirs to mend."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.path.name not in UNITS:
            item.add_marker(pytest.mark.full)
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 problems in verl's Parquet format."""
    from verl_support import write_dataset

    path = tmp_path_factory.mktemp("data") / "train.parquet"
    write_dataset(path)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a tiny random Qwen2 model with its tokenizer."""
    from tiny_models import make_model

    return make_model(tmp_path_factory.mktemp("qwen2"), texts=["What is 12 + 30? Add."] * 3)


@pytest.fixture(scope="session")
def scores(dataset: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset's score table as `gainrl score` makes it from verl's file."""
    from verl_support import rank

    return rank(model, [dataset], tmp_path_factory.mktemp("scores") / "scores.parquet")


@pytest.fixture(scope="session")
def scores_with_directions(dataset: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with what `navigator=probe` looks at."""
    from verl_support import rank

    return rank(model, [dataset], tmp_path_factory.mktemp("directions") / "scores.parquet", "--directions")


@pytest.fixture(scope="session")
def transfer_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A local Ray of two CPUs, and on it a TransferQueue: its controller and one storage unit take one each."""
    import ray
    import transfer_queue as tq
    from omegaconf import OmegaConf

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    yield tq
    tq.close()
    ray.shutdown()


@pytest.fixture
def queue(transfer_queue: Any) -> Any:
    """The TransferQueue, empty."""
    for partition, items in (transfer_queue.kv_list() or {}).items():
        if items:
            transfer_queue.kv_clear(keys=list(items), partition_id=partition)
    return transfer_queue
