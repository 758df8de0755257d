"""The dtype for the machine: what a measurement, an override and the kind of device make of a wanted dtype."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gainrl import precision
from gainrl.errors import UserError


@pytest.fixture(autouse=True)
def _measure_anew() -> Iterator[None]:
    precision._is_fast.cache_clear()
    yield
    precision._is_fast.cache_clear()


def test_a_dtype_that_is_slow_becomes_float32_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(precision.OVERRIDE, "none")
    dtype, reason = precision.fast_dtype(torch.bfloat16, "cpu")
    assert dtype == torch.float32
    assert reason is not None
    assert "bfloat16 is slow on this machine" in reason
    assert precision.mixed_precision("cpu") == "no"
    assert "times as long" in (precision.cost(torch.bfloat16, "cpu") or "")


def test_a_dtype_that_is_fast_is_kept_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(precision.OVERRIDE, "bfloat16")
    assert precision.fast_dtype(torch.bfloat16, "cpu") == (torch.bfloat16, None)
    assert precision.mixed_precision("cpu") == "bf16"
    assert precision.cost(torch.bfloat16, "cpu") is None
    assert precision.fast_dtype(torch.float16, "cpu")[0] == torch.float32


def test_float32_needs_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda *_: pytest.fail("float32 was measured"))
    assert precision.fast_dtype(torch.float32, "cpu") == (torch.float32, None)


def test_without_an_override_the_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(precision.OVERRIDE, raising=False)
    ratio = precision.slowdown(torch.bfloat16)
    assert ratio > 0
    assert precision.is_fast(torch.bfloat16, "cpu") == (ratio <= 1.5)


def test_an_unknown_name_in_the_override_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(precision.OVERRIDE, "bf16")
    with pytest.raises(UserError, match="'bf16' is none of bfloat16, float16, none"):
        precision.is_fast(torch.bfloat16, "cpu")
