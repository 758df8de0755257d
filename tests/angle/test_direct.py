"""Calls past PyTorch's dispatcher: taken for plain tensors alone, with the same results."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gainrl
from gainrl.angle import library

OFFSETS = torch.tensor([0, 4, 6])
ROLES = torch.tensor([1, 1, 2, 2, 0, 2], dtype=torch.int8)


@pytest.fixture
def hidden():
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def dispatched(monkeypatch, need):
    """How many calls went through the dispatcher."""
    need("native")
    registered, seen = library._registered, []

    def counted(*arguments):
        seen.append(1)
        return registered(*arguments)

    monkeypatch.setattr(library, "_registered", counted)
    return seen


@pytest.mark.parametrize("wanted", [{}, {"return_directions": True}, {"return_contributions": True}])
def test_plain_tensors_go_past_the_dispatcher_with_the_same_bits(wanted, hidden, dispatched, monkeypatch):
    found = gainrl.angle_concentration(hidden, OFFSETS, ROLES, **wanted)
    assert not dispatched
    monkeypatch.setattr(library, "plain", lambda *_: False)
    expected = gainrl.angle_concentration(hidden, OFFSETS, ROLES, **wanted)
    assert len(dispatched) == 1
    for name in ("values", "counts", "directions", "contributions"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a.nan_to_num(7), b.nan_to_num(7))


def test_a_gradient_a_parameter_and_inference_mode_need_no_dispatcher(hidden, dispatched):
    weight = torch.nn.Parameter(torch.ones(16))
    expected = gainrl.angle_concentration(hidden, OFFSETS, ROLES).values
    weighted = gainrl.angle_concentration(hidden, OFFSETS, ROLES, norm_weight=weight.detach()).values
    found = gainrl.angle_concentration(hidden.clone().requires_grad_(), OFFSETS, ROLES, norm_weight=weight).values
    assert not found.requires_grad
    with torch.inference_mode():
        inside = gainrl.angle_concentration(hidden.clone(), OFFSETS, ROLES).values
    assert not dispatched
    assert torch.equal(found.nan_to_num(7), weighted.nan_to_num(7))
    assert torch.equal(inside.nan_to_num(7), expected.nan_to_num(7))


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Watched(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Seen, Watched])
def test_a_mode_sees_the_op(mode, hidden):
    with mode() as seen:
        gainrl.angle_concentration(hidden, OFFSETS, ROLES)
    assert any("gainrl.angle" in name for name in seen.names)


def test_the_profiler_shows_the_op_by_name(hidden):
    with torch.autograd.profiler.profile() as profile:
        gainrl.angle_concentration(hidden, OFFSETS, ROLES)
    assert "gainrl::angle" in {event.name for event in profile.function_events}


def test_a_lazily_negated_tensor_is_negated_first(hidden, dispatched):
    negated = torch.complex(torch.zeros_like(hidden), hidden).conj().imag
    assert negated.is_neg()
    found = gainrl.angle_concentration(negated, OFFSETS, ROLES, return_directions=True)
    expected = gainrl.angle_concentration(-hidden, OFFSETS, ROLES, return_directions=True)
    assert len(dispatched) == 1
    assert torch.equal(found.directions, expected.directions)


def test_without_pytorchs_internals_every_call_is_dispatched(hidden, dispatched, monkeypatch):
    monkeypatch.setattr("gainrl.angle.direct._CAN_ASK", False)
    gainrl.angle_concentration(hidden, OFFSETS, ROLES)
    assert len(dispatched) == 1
