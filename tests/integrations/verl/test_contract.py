"""verl's doors, on real verl without Ray: configuration, dataset, loader, replay buffer, and the FSDP engine class.

Replaced for the engine: the FSDP wrapping and the device mesh (the module is a plain Qwen2 model), the device's name.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from verl_world import THREE_LINES  # isort: skip  (skips this module without verl)
from hydra import compose, initialize_config_module
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import AutoTokenizer
from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler
from verl.utils.dataset.rl_dataset import collate_fn

from gainrl.angle import angle_concentration
from gainrl.errors import UserError
from tests.learners import table_of

Configure = Callable[..., Any]


def made(config: Any, files: str = "train_files") -> Any:
    """The dataset as verl's trainer makes it."""
    tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
    samples = config.data.get("train_max_samples", -1)
    return create_rl_dataset(config.data[files], config.data, tokenizer, None, max_samples=samples)


def loader_of(config: Any, dataset: Any) -> Any:
    sampler = create_rl_sampler(config.data, dataset)
    return StatefulDataLoader(dataset, batch_size=4, drop_last=True, sampler=sampler, collate_fn=collate_fn)


def rows_of(batch: Any) -> list[int]:
    return [info["gainrl"]["row"] for info in batch["extra_info"]]


def test_the_dataset_keeps_verls_length_and_hands_out_what_is_drawn_with_its_mark(
    configure: Configure, dataset: Path
) -> None:
    config = configure()
    train, validation = made(config), made(config, "val_files")  # the same file
    assert (len(train), len(validation)) == (23, 23)
    assert "gainrl" not in validation[0]["extra_info"]
    batch = next(iter(loader_of(config, train)))
    rows = rows_of(batch)
    assert rows == list(dict.fromkeys(rows))
    indices = [info["index"] for info in batch["extra_info"]]
    assert indices == rows  # the table has the rows of the file
    assert [info["gainrl"]["group"] for info in batch["extra_info"]] == [0, 1, 2, 3]


def test_verls_loader_resumes_the_draws_across_its_epochs_from_a_file_without_pickle(configure: Configure) -> None:
    def fetch(loader: Any, count: int, state: Any = None) -> list[list[int]]:
        if state is not None:
            loader.load_state_dict(state)
        found, batches = [], iter(loader)
        while len(found) < count:
            try:
                found.append(rows_of(next(batches)))
            except StopIteration:
                batches = iter(loader)
        return found

    config = configure()
    whole = fetch(loader_of(config, made(config)), 8)
    for step in (2, 5, 6):  # an epoch of 23 prompts has five batches
        first = loader_of(config, made(configure()))
        found, file = fetch(first, step), io.BytesIO()
        torch.save(first.state_dict(), file)
        state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        assert found + fetch(loader_of(config, made(configure())), 8 - step, state) == whole


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.shuffle=true"], "data.shuffle=true"),
        (["data.gainrl=null"], r"\+curriculum=gainrl"),
        (["data.gainrl.scores=???"], "data.gainrl.scores is not set"),
        (["data.dataloader_num_workers=2"], "dataloader_num_workers=2"),
        (["data.gainrl.group_by=topic"], "group_by='topic' is no column .*data_source"),
        (["+data.gainrl.beta=0.5"], "no setting 'beta'"),
        (["data.gainrl.quota={sums: 2}", "data.gainrl.group_by=data_source"], "quota of 'sums'"),
        (["trainer.use_v1=false"], "needs verl's V1 trainer"),
        (["data.gainrl.navigator=gaussian"], "external_lib=gainrl.integrations.verl.actor"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_before_a_model_is_loaded(
    configure: Configure, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        made(configure(*overrides))


def test_a_table_of_another_dataset_is_refused_and_one_of_more_prompts_is_not(
    configure: Configure, dataset: Path, tmp_path: Path
) -> None:
    assert len(made(configure("data.train_max_samples=10"))) == 10
    prompts = pq.read_table(dataset)["prompt"].to_pylist()
    table_of(prompts[1:]).write(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="made for another dataset"):
        made(configure(f"data.gainrl.scores={tmp_path / 'other.parquet'}"))


def test_settings_are_given_on_the_command_line_as_hydra_takes_them() -> None:
    lines = ["data.gainrl.navigator_args={explore: 0.2}", "data.gainrl.quota={sums: 0.5}", "data.gainrl.group_by=topic"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        section = compose(config_name="ppo_trainer", overrides=[*THREE_LINES, *lines]).data.gainrl
    assert (section.navigator_args, section.quota, section.group_by) == ({"explore": 0.2}, {"sums": 0.5}, "topic")


def test_a_door_that_verl_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

    from gainrl.integrations.verl import replay_buffer

    monkeypatch.delattr(ReplayBuffer, "_clear_groups")
    with pytest.raises(UserError, match=r"verl .* has no verl\.trainer\.ppo\.v1\.replay_buffer\.ReplayBuffer\._clear"):
        replay_buffer(trainer_mode="sync", sampler_kwargs={})


def test_without_the_external_lib_nothing_of_verl_is_touched_and_with_it_verl_takes_the_measuring_engine() -> None:
    program = """
import sys
from verl.workers.engine import EngineRegistry
before = EngineRegistry.get_engine_cls("language_model", "fsdp")
import gainrl.integrations.verl.dataset, gainrl.integrations.verl.replay
assert "gainrl.integrations.verl.actor" not in sys.modules
assert EngineRegistry.get_engine_cls("language_model", "fsdp") is before
from verl.utils.import_utils import import_external_libs
import_external_libs("gainrl.integrations.verl.actor")
after = EngineRegistry.get_engine_cls("language_model", "fsdp2")
assert after.__name__ == "AngleEngine" and issubclass(after, before), after
assert not issubclass(EngineRegistry.get_engine_cls("value_model", "fsdp"), after)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def engine(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import verl.workers.engine_workers  # noqa: F401
    from transformers import AutoModelForCausalLM
    from verl.utils import seqlen_balancing
    from verl.utils.torch_functional import entropy_from_logits
    from verl.workers.engine import utils
    from verl.workers.engine.fsdp import transformer_impl

    from gainrl.integrations.verl.actor import AngleEngine

    if not torch.distributed.is_initialized():
        store = tmp_path_factory.mktemp("store") / "gloo"
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)

    class Engine(AngleEngine):
        def __init__(self) -> None:
            self.module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
            self.engine_config = type("Config", (), {"forward_only": False, "entropy_checkpointing": False})()
            self.use_ulysses_sp, self.ulysses_sequence_parallel_size, self.pad_to_length = False, 1, False
            self._autocast_dtype = torch.float32
            self.compute_entropy_from_logits = entropy_from_logits

        def get_data_parallel_size(self) -> int:
            return 1

        def get_data_parallel_group(self) -> Any:
            return torch.distributed.group.WORLD

        def is_mp_src_rank_with_outputs(self) -> bool:
            return True

    with pytest.MonkeyPatch.context() as patch:
        for module in (transformer_impl, utils, seqlen_balancing):  # verl takes a machine without a GPU for CUDA's
            for name in ("get_device_id", "get_device_name"):
                if hasattr(module, name):
                    patch.setattr(module, name, lambda: "cpu")
        yield Engine()
    torch.distributed.destroy_process_group()


def batch_of(lengths: list[int], *, angle: bool = True, entropy: bool = True) -> Any:
    """A batch as the actor's workers get it: jagged token ids, marks, uids, sessions."""
    from tensordict import NonTensorStack, TensorDict
    from verl.utils import tensordict_utils as tu

    generator = torch.Generator().manual_seed(0)
    mark = {"gainrl": {"draw": 0, "group": 0, "row": 0, "angle": angle}}
    jagged = {
        "input_ids": [torch.randint(5, 250, (length,), generator=generator) for length in lengths],
        "position_ids": [torch.arange(length) for length in lengths],
        "loss_mask": [torch.ones(length) for length in lengths],
    }
    stacks = {
        "uid": [f"u{index // 2}" for index in range(len(lengths))],
        "session_id": [index % 2 for index in range(len(lengths))],
        "extra_info": [dict(mark) for _ in lengths],
    }
    data = TensorDict(
        {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in jagged.items()}
        | {name: NonTensorStack(*values) for name, values in stacks.items()},
        batch_size=len(lengths),
    )
    tu.assign_non_tensor(
        data, temperature=1.0, use_remove_padding=False, use_dynamic_bsz=False, micro_batch_size_per_gpu=2,
        use_fused_kernels=False, calculate_entropy=entropy, compute_loss=False,
    )  # fmt: skip
    return data


def alone(hidden: torch.Tensor) -> float:
    """The angle of one sequence's hidden states (L, D), by the quadratic oracle."""
    roles, ends = torch.ones(len(hidden), dtype=torch.int8), torch.tensor([0, len(hidden)])
    return float(angle_concentration(hidden, ends, roles, backend="reference").whole)


def test_sequences_are_measured_as_each_alone_and_log_probabilities_keep_their_bits(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: dict[str, float] = {}

    def put(keys: list[str], partition_id: str, tags: list[dict[str, float]]) -> None:
        published.update(zip(keys, [tag["angle"] for tag in tags], strict=True))

    monkeypatch.setattr("transfer_queue.kv_batch_put", put)
    monkeypatch.setattr("verl.utils.transferqueue_utils.TQ_INITIALIZED", True)
    data = batch_of([5, 9, 3, 7])
    with torch.no_grad():
        hidden = [engine.module.model(ids.unsqueeze(0)).last_hidden_state[0] for ids in data["input_ids"].unbind()]
    output = engine.infer_batch(data)["model_output"]
    assert set(output) == {"log_probs", "entropy"}  # verl's own output has nothing new
    assert published == {
        key: pytest.approx(alone(one), abs=1e-5)
        for key, one in zip(("u0_0", "u0_1", "u1_0", "u1_1"), hidden, strict=True)
    }
    published.clear()
    plain = engine.infer_batch(batch_of([5, 9, 3, 7], angle=False))["model_output"]
    assert not published
    assert torch.equal(output["log_probs"].values(), plain["log_probs"].values())
    engine.infer_batch(batch_of([5, 9], entropy=False))  # the reference model's pass
    assert not published


def test_packed_rows_with_verls_padding_at_the_end_are_measured_alike() -> None:
    from gainrl.integrations.verl.actor import measure

    hidden = torch.randn(1, 14, 8, generator=torch.Generator().manual_seed(1))
    offsets = torch.tensor([0, 5, 12])
    assert measure(hidden, offsets).tolist() == pytest.approx([alone(hidden[0, :5]), alone(hidden[0, 5:12])], abs=1e-5)
    with pytest.raises(RuntimeError, match="packs its batches in another way"):
        measure(hidden[:, :11], offsets)
