"""The fused forward in whole: scores against the definition in float64, by instruction set and kind of model."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gainrl.angle.backends import native_module
from gainrl.scoring import AngleScorer, ScoringPrompt, blocks, kernels
from gainrl.scoring.forward import PackedForward

NATIVE = native_module()
pytestmark = pytest.mark.skipif(
    isinstance(NATIVE, str), reason="native: the forward kernels are in the compiled module"
)

# Of unlike lengths, behind a prefix and each behind its own, two of them of more than 256 tokens.
SHARED = [ScoringPrompt(f"Read this. {'Add 12 to 30. ' * n}How many?", f"{'Add 12 to 30. ' * n}How many?")
          for n in (1, 1, 4, 40)]  # fmt: skip
UNSHARED = [ScoringPrompt(f"{'Tom buys apples. ' * n}Then?", "Then?") for n in (2, 35)]
PROMPTS = SHARED + UNSHARED
# What 16 bits of weights and activations may change in a mean of cosines.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_by_definition(model: Any, tokenizer: Any, oracle: Callable[..., Any], *, fused: int | None = 2) -> None:
    """The scores are those of each prompt alone, run by the model's own code with its weights in float32."""
    dtype = next(model.parameters()).dtype
    scorer = AngleScorer(model, tokenizer, tokens_per_batch=2048)
    assert isinstance(scorer.forward, PackedForward)
    rendered = scorer.renderer(PROMPTS)
    assert max(len(row.tokens) for row in rendered) > 256
    scores = scorer.score(PROMPTS)
    assert scores.status == ["ok"] * len(PROMPTS)
    layers = scorer.forward._fused
    assert layers is not None
    if fused is not None:
        assert sum(isinstance(fast, blocks.Block) for fast in layers._fast.values()) == fused
    exact = model.float()
    wanted = np.array([oracle(exact, row.tokens, row.prefix) for row in rendered])
    np.testing.assert_allclose(scores.intra, wanted[:, 0], atol=TOLERANCE[dtype], rtol=0)
    np.testing.assert_allclose(scores.inter, wanted[:, 1], atol=TOLERANCE[dtype], rtol=0)


@pytest.fixture(params=["plain", "avx2", "avx512", "avx512bf16"])
def instruction_set(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Scoring uses a copy of the compiled module that was loaded for this instruction set.

    A module chooses its kernels once; a copy in another file has its own choice, and no process must import torch anew.
    """
    assert isinstance(NATIVE, ModuleType)
    assert NATIVE.__file__ is not None
    NATIVE.cpu_isa()  # it chooses now, if it has not yet
    copy = tmp_path / Path(NATIVE.__file__).name
    shutil.copy(NATIVE.__file__, copy)
    monkeypatch.setenv("GAINRL_CPU_ISA", request.param)
    loader = importlib.machinery.ExtensionFileLoader(f"copied_{request.param}._native", str(copy))
    spec = importlib.util.spec_from_file_location(loader.name, copy, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    if module.cpu_isa() != request.param:
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(kernels, "native_module", lambda: module)
    return module


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, *(pytest.param(dtype, marks=pytest.mark.full) for dtype in TOLERANCE if dtype.itemsize == 2)],
)
def test_every_instruction_set_scores_by_the_definition(
    instruction_set: ModuleType, dtype: torch.dtype, make_model: Callable[..., Any], tokenizer: Any, oracle: Any
) -> None:
    assert kernels.available()
    assert_by_definition(make_model("Qwen3", dtype=dtype, max_position_embeddings=1024), tokenizer, oracle)


@pytest.mark.parametrize("family", ["Llama", *(pytest.param(f, marks=pytest.mark.full) for f in ("Mistral", "Gemma2"))])
def test_float16_models_score_by_the_definition(
    family: str, make_model: Callable[..., Any], tokenizer: Any, oracle: Any
) -> None:
    model = make_model(family, dtype=torch.float16, max_position_embeddings=1024)
    assert_by_definition(model, tokenizer, oracle, fused=0 if family == "Gemma2" else 2)


ROPE = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0, "original_max_position_embeddings": 128},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 128},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("dynamic", torch.float32),
        ("llama3", torch.float32),
        pytest.param("linear", torch.float32, marks=pytest.mark.full),
        pytest.param("yarn", torch.float32, marks=pytest.mark.full),
        pytest.param("yarn", torch.bfloat16, marks=pytest.mark.full),
        pytest.param("llama3", torch.bfloat16, marks=pytest.mark.full),
    ],
)
def test_scaled_rotary_positions_score_by_the_definition(
    kind: str, dtype: torch.dtype, make_model: Callable[..., Any], tokenizer: Any, oracle: Any
) -> None:
    """Of prompts within and beyond the length that the scaling starts from; a dynamic one looks at the longest."""
    rope = {"rope_type": kind, "rope_theta": 10000.0, **ROPE[kind]}
    model = make_model("Llama", dtype=dtype, max_position_embeddings=1024, rope_parameters=rope)
    assert_by_definition(model, tokenizer, oracle)


@pytest.mark.full
def test_two_threads_score_by_the_definition_and_as_one(
    make_model: Callable[..., Any], tokenizer: Any, oracle: Any
) -> None:
    threads = torch.get_num_threads()
    model = make_model("Llama", max_position_embeddings=1024)
    one = AngleScorer(model, tokenizer, tokens_per_batch=2048).score(PROMPTS).score
    try:
        torch.set_num_threads(2)
        two = AngleScorer(model, tokenizer, tokens_per_batch=2048).score(PROMPTS).score
        assert_by_definition(model, tokenizer, oracle)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(one, two, atol=2e-6, rtol=0)


@pytest.mark.parametrize("merged", [False, pytest.param(True, marks=pytest.mark.full)], ids=["unmerged", "merged"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft calls it
def test_adapters_score_by_the_definition_before_and_after_they_are_merged(
    merged: bool, make_model: Callable[..., Any], tokenizer: Any, oracle: Any
) -> None:
    """Unmerged, blocks with an adapter run their own code; merged by unloading, they are of the common form again."""
    peft = pytest.importorskip("peft")
    bare = make_model("Llama", max_position_embeddings=1024)
    model = peft.get_peft_model(
        bare, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], layers_to_transform=[1])
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    before = AngleScorer(make_model("Llama", max_position_embeddings=1024), tokenizer).score(PROMPTS).score
    model = model.merge_and_unload() if merged else model
    model.eval()
    assert np.abs(AngleScorer(model, tokenizer).score(PROMPTS).score - before).max() > 1e-3
    assert_by_definition(model, tokenizer, oracle, fused=2 if merged else 1)
