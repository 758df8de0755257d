"""The measurement in the actor's workers, in verl's real FSDP engine class on a CPU.

Replaced: the FSDP wrapping and the device mesh (the module is a plain Qwen2 model), and the name of the device.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from verl_replaced import Workers, tokens_of
from verl_support import epochs_of, expected_epochs, make_config, records_of, run_v1

from gainrl.angle import angle_concentration


@pytest.fixture(scope="module")
def engine(model: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    import verl.workers.engine_workers  # noqa: F401
    from transformers import AutoModelForCausalLM
    from verl.utils import seqlen_balancing
    from verl.workers.engine import utils
    from verl.workers.engine.fsdp import transformer_impl

    import gainrl.integrations.verl.actor  # noqa: F401 (verl imports it by actor_rollout_ref.model.external_lib)

    if not torch.distributed.is_initialized():
        store = tmp_path_factory.mktemp("store") / "gloo"
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)

    class Engine(transformer_impl.FSDPEngineWithLMHead):  # type: ignore[misc]
        def __init__(self) -> None:
            self.module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
            self.engine_config = type("Config", (), {"forward_only": False, "entropy_checkpointing": False})()
            self.use_ulysses_sp, self.ulysses_sequence_parallel_size, self.pad_to_length = False, 1, False
            self._autocast_dtype = torch.float32
            self.compute_entropy_from_logits = __import__(
                "verl.utils.torch_functional", fromlist=["entropy_from_logits"]
            ).entropy_from_logits

        def get_data_parallel_size(self) -> int:
            return 1

        def get_data_parallel_group(self) -> Any:
            return torch.distributed.group.WORLD

        def is_mp_src_rank_with_outputs(self) -> bool:
            return True

    patch = pytest.MonkeyPatch()
    for module in (transformer_impl, utils, seqlen_balancing):  # verl takes a machine without a GPU for one with CUDA
        for name in ("get_device_id", "get_device_name"):
            if hasattr(module, name):
                patch.setattr(module, name, lambda: "cpu")
    yield Engine()
    patch.undo()
    torch.distributed.destroy_process_group()


def batch_of(lengths: list[int], *, packed: bool, angle: bool = True, entropy: bool = True, micro: int = 2) -> Any:
    """A batch as the actor's workers get it: jagged token ids, marks, uids, sessions."""
    from tensordict import NonTensorStack, TensorDict
    from verl.utils import tensordict_utils as tu

    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(5, 250, (length,), generator=generator) for length in lengths]
    data = TensorDict(
        {
            "input_ids": torch.nested.as_nested_tensor(rows, layout=torch.jagged),
            "position_ids": torch.nested.as_nested_tensor([torch.arange(n) for n in lengths], layout=torch.jagged),
            "loss_mask": torch.nested.as_nested_tensor([torch.ones(n) for n in lengths], layout=torch.jagged),
            "uid": NonTensorStack(*[f"u{index // 2}" for index in range(len(lengths))]),
            "session_id": NonTensorStack(*[index % 2 for index in range(len(lengths))]),
            "extra_info": NonTensorStack(*[{"gainrl": {"id": "x-0", "epoch": 0, "angle": angle}} for _ in lengths]),
        },
        batch_size=len(lengths),
    )
    tu.assign_non_tensor(
        data,
        temperature=1.0,
        use_remove_padding=packed,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=micro,
        use_fused_kernels=False,
        calculate_entropy=entropy,
        compute_loss=False,
    )
    return data


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the hook hands over, instead of to the TransferQueue."""
    from verl.utils import transferqueue_utils

    from gainrl.integrations.verl import actor

    got: dict[str, float] = {}

    def publish(measured: Any) -> None:
        for keys, values in measured:
            got.update(zip(keys, values.tolist(), strict=True))

    monkeypatch.setattr(actor, "_publish", publish)
    monkeypatch.setattr(transferqueue_utils, "TQ_INITIALIZED", True)
    return got


def expected(engine: Any, data: Any) -> list[float]:
    """By the model alone, a sequence at a time, with the quadratic oracle."""
    angles = []
    for ids in data["input_ids"].unbind():
        with torch.no_grad():
            hidden = engine.module.model(ids.unsqueeze(0)).last_hidden_state[0]
        roles = torch.ones(len(ids), dtype=torch.int8)
        result = angle_concentration(hidden, torch.tensor([0, len(ids)]), roles, backend="reference")
        angles.append(float(result.whole))
    return angles


def test_padded_micro_batches_are_measured_as_each_sequence_alone(engine: Any, published: dict[str, float]) -> None:
    data = batch_of([5, 9, 3, 7], packed=False)
    output = engine.infer_batch(data)
    assert set(output["model_output"]) == {"log_probs", "entropy"}  # verl's own output has nothing new
    assert list(published) == ["u0_0", "u0_1", "u1_0", "u1_1"]
    assert list(published.values()) == pytest.approx(expected(engine, data), abs=1e-5)


def test_packed_rows_with_verls_padding_at_the_end_are_measured_alike() -> None:
    from gainrl.integrations.verl.actor import measure

    hidden = torch.randn(1, 14, 8, generator=torch.Generator().manual_seed(1))
    offsets = torch.tensor([0, 5, 12])
    roles = torch.ones(12, dtype=torch.int8)
    wanted = angle_concentration(hidden[0, :12], offsets, roles, backend="reference").whole
    assert measure(hidden, offsets).tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    with pytest.raises(RuntimeError, match="packs its batches in another way"):
        measure(hidden[:, :11], offsets)


def test_log_probabilities_are_the_same_bits_with_and_without_the_hook(
    engine: Any, published: dict[str, float]
) -> None:
    measured = engine.infer_batch(batch_of([5, 9, 3, 7], packed=False))["model_output"]["log_probs"]
    assert published
    alone = engine.infer_batch(batch_of([5, 9, 3, 7], packed=False, angle=False))["model_output"]["log_probs"]
    assert torch.equal(measured.values(), alone.values())


@pytest.mark.parametrize("asked", [{"angle": False}, {"entropy": False}], ids=["no mark", "reference pass"])
def test_passes_that_do_not_ask_are_not_measured(engine: Any, published: dict[str, float], asked: Any) -> None:
    engine.infer_batch(batch_of([5, 9], packed=False, **asked))
    assert not published


def test_without_a_transfer_queue_nothing_is_measured(
    engine: Any, published: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl.utils import transferqueue_utils

    monkeypatch.setattr(transferqueue_utils, "TQ_INITIALIZED", False)  # the V0 trainer's workers
    engine.infer_batch(batch_of([5, 9], packed=False))
    assert not published


def test_verl_loads_the_hook_by_the_models_external_lib(
    dataset: Path, model: str, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    config = make_config(tmp_path, model, dataset, scores)
    monkeypatch.delitem(sys.modules, "gainrl.integrations.verl.actor", raising=False)
    omega_conf_to_dataclass(config.actor_rollout_ref.model)
    assert "gainrl.integrations.verl.actor" in sys.modules
    assert FSDPEngineWithLMHead.forward_step._gainrl


@pytest.mark.parametrize("sooner", [True, False], ids=["before verl's engine", "after it"])
def test_a_module_of_the_users_may_import_the_hook_whenever_it_likes(sooner: bool) -> None:
    """A reward function's module, say, which verl loads before its engine: the import by external_lib is then none."""
    lines = ["import gainrl.integrations.verl.actor", "import verl.workers.engine_workers"]
    program = [
        *(lines if sooner else lines[::-1]),
        "from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead as engine",
        "assert engine.forward_step._gainrl",
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_run_moves_by_what_verls_engine_measured(
    engine: Any, queue: Any, dataset: Path, model: str, scores: Path, tmp_path: Path
) -> None:
    """verl's `fit`, its TransferQueue bridge and its engine in one: from the forward pass to the next draw."""
    from verl.utils import tensordict_utils as tu
    from verl.utils.transferqueue_utils import tqbridge

    @tqbridge()
    def infer(data: Any) -> Any:
        tu.assign_non_tensor(
            data, use_remove_padding=False, use_fused_kernels=False, use_dynamic_bsz=True, max_token_len_per_gpu=24
        )
        return tu.get_tensordict(tensor_dict=engine.infer_batch(data)["model_output"], non_tensor_dict={"metrics": {}})

    class EngineWorkers(Workers):
        def compute_log_prob(self, batch: Any) -> Any:
            return infer(batch)

    def angle(name: str, session: int) -> float:
        ids = torch.tensor(tokens_of(name, session))
        with torch.no_grad():
            hidden = engine.module.model(ids.unsqueeze(0)).last_hidden_state[0]
        roles = torch.ones(len(ids), dtype=torch.int8)
        return float(angle_concentration(hidden, torch.tensor([0, len(ids)]), roles, backend="reference").whole)

    config = make_config(tmp_path, model, dataset, scores, "trainer.total_training_steps=6", "trainer.save_freq=6")
    _, agents = run_v1(config, workers=EngineWorkers(measures=False))
    records = records_of(tmp_path)
    assert [record["angle_source"] for record in records] == ["actor"] * 3
    drawn = epochs_of(agents.prompts, 8)
    assert drawn == expected_epochs(scores, 8, 3, angle)
    for record, names in zip(records, drawn, strict=True):
        assert record["angle"] == pytest.approx(sum(angle(name, s) for name in names for s in range(2)) / 16, abs=1e-5)
