"""Whole decoder blocks of the common form, run by the package's own CPU kernels around torch's matrix products.

    x = x + attention(norm(x))        attention: projections, norms of heads (if any), rotary positions, products
    x = x + mlp(norm(x))              mlp: down(silu(gate(x)) · up(x))

Rotary positions are applied in place, a residual sum and the norm after it are one pass, and what lies between the
products is written to the same few buffers in every block, so that memory is not given back and asked for anew.
A block is taken for one of this form when small parts in its place and in its attention's give the same results; it
runs its own code whenever a hook, an adapter, an exchanged part or an unknown argument could tell the difference.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gainrl.scoring import kernels
from gainrl.scoring.packed import Group, Layout, packed, register, under_way
from gainrl.scoring.trials import PLAIN, WIDTH, Alike, Fast, equal, projection, rows, with_parts, with_plain_weight

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_PRODUCTS = ("gate_proj", "up_proj", "down_proj")
_MEANINGLESS = {"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states"}
# Positions of the trial: what changes with the distance alone must show.
_POSITIONS = (0, 3, 70_000, 5_000_000, 40_000_000)


@dataclass(frozen=True)
class Norm:
    """A module that is x / sqrt(mean(x²) + eps) · (weight + offset)."""

    module: nn.Module
    offset: float

    @property
    def eps(self) -> float:
        """As it is by now."""
        eps: float = eps_of(self.module)
        return eps

    @property
    def weight(self) -> Tensor:
        return self.module.get_parameter("weight")


def eps_of(module: nn.Module) -> Any:
    """What a norm's module calls its eps, None if it has none."""
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


class Space:
    """Buffers by name, kept from block to block within a forward pass."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, width: int, like: Tensor) -> Tensor:
        """(rows, width) of like's dtype, contiguous, its content undefined."""
        held = self._held.get(name)
        if held is None or held.dtype != like.dtype or held.numel() < rows * width:
            held = self._held[name] = like.new_empty(rows * width)
        return held[: rows * width].view(rows, width)

    def clear(self) -> None:
        self._held.clear()


@dataclass(frozen=True)
class _Heads:
    """An attention's norms of queries and keys, if any, and what it asks of the attention function."""

    norms: tuple[Norm, Norm] | None
    width: int
    scale: float = 0.0
    softcap: float = 0.0
    window: int = 0

    def project(
        self, module: Any, x: Tensor, rotary: tuple[Tensor, Tensor], space: Space, *, keep: bool
    ) -> list[Tensor] | None:
        """Queries, keys and values (T, heads, width) of x (T, D); `keep`: not in the buffers, to outlive the block."""
        states = []
        for name in _PROJECTIONS[:3]:
            linear = getattr(module, name)
            rows, columns = len(x), linear.weight.shape[0]
            kept = keep and name != "q_proj"
            out = x.new_empty(rows, columns) if kept else space.take(name, rows, columns, x)
            states.append(_product(x, linear, out).view(rows, -1, self.width))
        for state, norm in zip(states[:2], self.norms or (), strict=False):
            if kernels.rms_norm(state, norm.weight, norm.offset, norm.eps, out=state) is None:
                return None
        for state in states[:2]:
            if kernels.rotate_(state, *rotary) is None:
                return None
        return states

    def attend(self, module: Any, states: list[Tensor], layout: Layout, space: Space) -> Tensor | None:
        """(T, heads · width): what the queries gather; the layout keeps keys and values if it is to."""
        query, key, value = (state.transpose(0, 1) for state in states)
        rows, wide = len(states[0]), states[0].shape[1] * self.width
        mixed = kernels.attention(
            query,
            key,
            value,
            layout.shared(module.layer_idx),
            layout.offsets,
            scale=self.scale,
            softcap=self.softcap,
            window=self.window,
            out=space.take("mixed", rows, wide, states[0]),
        )
        if mixed is None:
            return None
        layout.note(module.layer_idx, key, value, self.window)
        return mixed.view(rows, wide)


def _settings(modules: Sequence[nn.Module]) -> list[object]:
    """Classes and plain values of modules (an attention's scale, say), and the window that they ask for."""
    return [
        (
            type(module),
            getattr(getattr(module, "config", None), "sliding_window", None),
            {name: value for name, value in vars(module).items() if type(value) in PLAIN and name != "training"},
        )
        for module in modules
    ]


def _watched(module: nn.Module) -> bool:
    """Whether a hook sees what goes in or out of a part.

    Those of transformers stay where they are once a caller has asked for hidden states or attention weights; they do
    nothing in a call that asks for none, and there are no weights to see.
    """
    if not (module._forward_hooks or module._forward_pre_hooks):
        return False
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(getattr(hook, "__module__", None) != "transformers.utils.output_capturing" for hook in hooks)


def _product(x: Tensor, linear: Any, out: Tensor) -> Tensor:
    weight = linear.weight.t()
    return torch.mm(x, weight, out=out) if linear.bias is None else torch.addmm(linear.bias, x, weight, out=out)


class Block:
    """The fast forward of a block; see the module's docstring."""

    def __init__(
        self,
        layer: nn.Module,
        parts: tuple[nn.Module, _Heads, nn.Module, Norm, Norm],
        fast: Mapping[nn.Module, Fast],
        space: Space,
    ) -> None:
        self._layer, self._parts, self._fast, self._space = layer, parts, fast, space
        self._modules = list(layer.modules())
        self._settings = _settings(self._modules)
        self._original = layer.forward

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        done = None
        if len(arguments) == 1 and self._untouched():
            done = self._forward(arguments[0], **options)
        return self._original(*arguments, **options) if done is None else done

    def _untouched(self) -> bool:
        """Whether the block has the parts that were tried, and nobody looks at what goes in or out of them."""
        modules = list(self._layer.modules())
        return (
            not any(module.training for module in modules)
            and all(module._compiled_call_impl is None for module in modules)
            and not torch.is_autocast_enabled("cpu")
            and not nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
            and len(modules) == len(self._modules)
            and all(one is other for one, other in zip(modules, self._modules, strict=True))
            and not any(_watched(m) for m in modules[1:])  # the block's own hooks run around this
            and all(vars(m).get("forward") is self._fast.get(m) for m in modules if "forward" in vars(m))
            and _settings(modules) == self._settings
        )

    def _forward(
        self,
        hidden: object,
        attention_mask: object = None,
        past_key_values: object = None,
        position_embeddings: object = None,
        **others: Any,
    ) -> Tensor | None:
        """The block's result for (1, T, D), or None, nothing having happened, if it is not to be had."""
        if not isinstance(hidden, Tensor) or hidden.dim() != 3 or len(hidden) != 1 or not hidden.is_contiguous():
            return None
        if attention_mask is not None or past_key_values is not None:
            return None
        if not all(name in _MEANINGLESS or value is None for name, value in others.items()):
            return None
        attention, heads, mlp, before, between = self._parts
        rotary = _rotary(position_embeddings, hidden, heads.width)
        linears = [getattr(attention, name) for name in _PROJECTIONS] + [getattr(mlp, name) for name in _PRODUCTS]
        weights = [p for linear in linears for p in (linear.weight, linear.bias) if p is not None]
        if rotary is None or not kernels.serves(hidden, before.weight, between.weight, *weights):
            return None
        x, space, layout = hidden[0], self._space, under_way()
        rows, width = x.shape
        normed = space.take("normed", rows, width, x)
        if kernels.rms_norm(x, before.weight, before.offset, before.eps, out=normed) is None:
            return None
        states = heads.project(attention, normed, rotary, space, keep=layout.record is not None)
        mixed = None if states is None else heads.attend(attention, states, layout, space)
        if mixed is None:
            return None
        _, _, _, output = linears[:4]
        gate, up, down = linears[4:]
        summand = _product(mixed, output, space.take("summand", rows, width, x))
        x = kernels.require(kernels.add_rms_norm(x, summand, between.weight, between.offset, between.eps, out=normed))
        gated = _product(normed, gate, space.take("gate", rows, len(gate.weight), x))
        other = _product(normed, up, space.take("up", rows, len(up.weight), x))
        kernels.require(kernels.silu_mul(gated, other, out=gated))
        kernels.require(kernels.add_(x, _product(gated, down, summand)))
        return x[None]


def _rotary(given: object, hidden: Tensor, width: int) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines (T, width) from what a model hands its blocks, if they are of the common form."""
    if not isinstance(given, tuple) or len(given) != 2 or not all(isinstance(part, Tensor) for part in given):
        return None
    if any(part.shape != (1, hidden.shape[1], width) or part.dtype != hidden.dtype for part in given):
        return None
    return given[0][0].contiguous(), given[1][0].contiguous()


def find_block(
    layer: nn.Module,
    norms: Mapping[nn.Module, Norm],
    gates: set[nn.Module],
    fast: Mapping[nn.Module, Fast],
    space: Space,
    alike: Alike,
) -> Block | None:
    """The fast forward of `layer`, if it is a block of the common form made of these norms and one of these gates."""
    children = dict(layer.named_children())
    own = {name: norms[child] for name, child in children.items() if child in norms}
    mlps = {name: child for name, child in children.items() if child in gates}
    rest = [name for name in children if name not in own and name not in mlps]
    if (len(own), len(mlps), len(rest)) != (2, 1, 1) or _has_state(layer):
        return None
    (mlp,), (attention,) = mlps, rest
    if not all(type(getattr(mlps[mlp], name)) is nn.Linear for name in _PRODUCTS):
        return None
    heads = _heads(children[attention], norms, torch.float32)
    weight = next(iter(own.values())).weight
    if heads is None or not alike(
        children[attention], weight, lambda dtype: _heads(children[attention], norms, dtype) == heads
    ):
        return None
    for first, second in (tuple(own), tuple(own)[::-1]):
        same = functools.partial(_is_block, layer, first, attention, second, mlp)
        if same(torch.float32) and alike(layer, weight, same):
            parts = (children[attention], heads, mlps[mlp], own[first], own[second])
            return Block(layer, parts, fast, space)
    return None


def _has_state(module: nn.Module) -> bool:
    """Whether a module has parameters or buffers outside its parts."""
    return bool(module._parameters or module._buffers)


class _Stand(nn.Module):
    """Stands for a part of a block: x · factor + shift."""

    def __init__(self, factor: float, shift: float) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift
        self.options: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, **options: Any) -> Any:
        self.options = options
        result = hidden_states * self.factor + self.shift
        return (result, None) if options else result


def _is_block(layer: nn.Module, first: str, attention: str, second: str, mlp: str, dtype: torch.dtype) -> bool:
    """Whether the layer is x + attention(first(x)), then x + mlp(second(x)), rotary positions handed on as they are."""
    names, stands = (first, attention, second, mlp), [_Stand(f, s) for f, s in zip(_FACTORS, _SHIFTS, strict=True)]
    trial = with_parts(layer, dict(zip(names, stands, strict=True)))
    before, mixing, between, after = stands
    for x in rows(WIDTH, dtype):
        options = {**_no_options(x), "position_embeddings": (x, x)}
        given = trial(x.clone(), **options)
        if "position_embeddings" not in mixing.options:
            return False
        if any(value is not options.get(name) for name, value in mixing.options.items()):
            return False  # changed or added on the way: the attention's trial knows nothing of it
        if before.options or between.options or after.options:
            return False
        wanted = x + mixing(before(x))
        if not equal(given, wanted + after(between(wanted))):
            return False
    return True


_FACTORS, _SHIFTS = (0.5, 0.3, 2.0, -0.7), (1.0, -2.0, 0.5, 3.0)


def _no_options(x: Tensor) -> dict[str, Any]:
    """What a decoder hands each block, but for the rotary positions: no mask, no cache."""
    positions = torch.tensor([_POSITIONS[: x.shape[1]]])
    return {"attention_mask": None, "position_ids": positions, "past_key_values": None, "use_cache": False}


def _heads(module: Any, norms: Mapping[nn.Module, Norm], dtype: torch.dtype) -> _Heads | None:
    """What to know of a module that is attention of the common form, tried in this dtype; None for any other."""
    children = dict(module.named_children())
    of_heads = [name for name in ("q_norm", "k_norm") if name in children]
    linears = [children.get(name) for name in _PROJECTIONS]
    if set(children) != {*_PROJECTIONS, *of_heads} or len(of_heads) == 1 or _has_state(module):
        return None
    if not all(type(linear) is nn.Linear for linear in linears) or not isinstance(module.layer_idx, int):
        return None
    width = module.head_dim
    if not all(children[name] in norms and len(norms[children[name]].weight) == width for name in of_heads):
        return None
    wide = [linear.out_features for linear in linears[:3]]  # type: ignore[union-attr]
    parts: dict[str, nn.Module] = {
        name: projection(WIDTH, columns, dtype, bias=True, scale=0.3, seed=columns + seed)
        for seed, (name, columns) in enumerate(zip(_PROJECTIONS, wide, strict=False))
    }
    parts["o_proj"] = projection(wide[0], 5, dtype, bias=True)
    parts |= {name: with_plain_weight(children[name], dtype) for name in of_heads}
    trial = with_parts(module, parts)
    own = [Norm(trial.get_submodule(name), norms[children[name]].offset) for name in of_heads]
    tried = _Heads((own[0], own[1]) if own else None, width)
    found: _Heads | None = None
    register()
    most = None if dtype == torch.float32 else 1e3  # rotated in steps, halves might overflow whose sum does not
    ordinary = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float32).to(dtype)
    for x in (*rows(WIDTH, dtype, most=most), ordinary):
        layout = Layout([Group(0, 1, 5)], torch.tensor([0, 5]), None, seen=[])
        generator = torch.Generator().manual_seed(3)
        rotary = torch.randn(2, 1, 5, width, generator=generator, dtype=torch.float32).to(dtype).unbind(0)
        with packed(module, layout):
            result = trial(hidden_states=x.clone(), position_embeddings=rotary, **_no_options(x))
        assert layout.seen is not None
        (seen,) = layout.seen
        states = tried.project(trial, x[0], (rotary[0][0], rotary[1][0]), Space(), keep=False)
        wanted = (seen.query, seen.key, seen.value)
        if states is None or not all(
            equal(one[0].transpose(0, 1), other) for one, other in zip(wanted, states, strict=True)
        ):
            return None
        asked = _Heads(tried.norms, width, seen.scale, seen.softcap, seen.window)
        if asked != (found or asked):
            return None
        found = asked
    assert states is not None
    mixed = asked.attend(trial, states, layout, Space())  # of the last rows, whose weights are not all 0 and 1
    if mixed is None or not equal(result[0][0], trial.o_proj(mixed)):
        return None
    return _Heads((norms[children["q_norm"]], norms[children["k_norm"]]) if own else None, width, *_asked(asked))


def _asked(heads: _Heads) -> tuple[float, float, int]:
    return heads.scale, heads.softcap, heads.window
