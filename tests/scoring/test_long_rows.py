"""The packed form is tried on a long prompt too: what shows only far from the start, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gainrl.angle.backends import native_module
from gainrl.scoring import forward, kernels
from gainrl.scoring.forward import PackedForward, PaddedForward, choose_forward

FAR = 100
needs_kernels = pytest.mark.skipif(
    isinstance(native_module(), str), reason="native: the forward kernels are part of the compiled module"
)


def windowed(decoder: Any) -> None:
    """The decoder hands its blocks a window's mask of its own making, of which its configuration knows nothing."""
    own = type(decoder).forward

    class Model(type(decoder)):  # type: ignore[misc]
        def forward(self, input_ids: Tensor, attention_mask: Any = None, **options: Any) -> Any:
            length = input_ids.shape[1]
            row, column = torch.arange(length)[:, None], torch.arange(length)
            seen = ((column <= row) & (column > row - FAR))[None, None]
            if attention_mask is not None:
                seen = seen & attention_mask[:, None, None].bool()
            return own(self, input_ids=input_ids, attention_mask=seen, **options)

    decoder.__class__ = Model


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, *(pytest.param(d, marks=pytest.mark.full) for d in (torch.float16, torch.float32))]
)
def test_a_window_that_short_prompts_do_not_reach_is_noticed(
    make_model: Callable[..., Any], dtype: torch.dtype
) -> None:
    model = make_model("Llama", dtype=dtype, max_position_embeddings=1024)
    assert isinstance(choose_forward(model), PackedForward)
    windowed(model.model)
    assert isinstance(choose_forward(model), PaddedForward)


@needs_kernels
@pytest.mark.parametrize("spoilt", ["alone", "behind"])
def test_a_fault_with_long_prompts_alone_or_behind_a_prefix_is_noticed(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    """An attention whose far tokens go wrong in one of the two cases."""
    attention = kernels.attention

    def wrong(query: Tensor, key: Tensor, value: Tensor, shared: Any, *arguments: Any, **options: Any) -> Any:
        result = attention(query, key, value, shared, *arguments, **options)
        if result is not None and (shared is None) == (spoilt == "alone"):
            result[150:] *= 1.2
        return result

    model = make_model("Llama", max_position_embeddings=1024)
    monkeypatch.setattr(kernels, "attention", wrong)
    assert isinstance(choose_forward(model), PaddedForward)


def test_the_row_goes_beyond_the_windows_and_not_beyond_the_context(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    own = forward._by_chunks
    monkeypatch.setattr(forward, "_by_chunks", lambda given, wanted: seen.append(len(given)) or own(given, wanted))
    for changes, rows in (
        ({"max_position_embeddings": 1024, "sliding_window": 12}, 320),
        ({"max_position_embeddings": 1024, "sliding_window": 500}, 564),
        ({"max_position_embeddings": 1024, "sliding_window": 4096}, 320),
        ({"max_position_embeddings": 100, "sliding_window": 12}, 100),
    ):
        seen.clear()
        assert isinstance(choose_forward(make_model("Mistral", **changes)), PackedForward)
        assert seen == [rows, rows - rows // 3]


def test_the_first_block_of_each_kind_is_tried_and_few_others(make_model: Callable[..., Any]) -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"] * 2
    for family, changes, block in (
        ("Llama", {"num_hidden_layers": 12}, 3),
        ("Llama", {}, 1),
        ("Gemma3", {"num_hidden_layers": 8, "layer_types": kinds}, 5),
    ):
        model = make_model(family, **changes)
        assert str(forward._early_attention(model.model)) == f"layer:{block}.attention-output"
        before = choose_forward(model)
        assert isinstance(before, PackedForward)
        assert before.tap.final
