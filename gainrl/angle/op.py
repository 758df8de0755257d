"""The public function: checks, the choice of a backend, and the result object."""

from __future__ import annotations

import sys
from typing import Any

from gainrl.angle.call import CONTRIBUTIONS, DIRECTIONS, SUMS, AngleCall
from gainrl.angle.checks import check_backend, check_call
from gainrl.angle.result import AngleConcentration, SharedPrefix, finished_prefix
from gainrl.errors import UserError


def angle_concentration(
    hidden: Any,
    cu_seqlens: Any,
    token_role: Any,
    *,
    shared_prefix: SharedPrefix | None = None,
    norm_weight: Any = None,
    norm_offset: float = 0.0,
    diagonal: bool = True,
    return_directions: bool = False,
    return_contributions: bool = False,
    backend: str = "auto",
    check: bool | None = None,
) -> AngleConcentration:
    """Angle concentration of each sequence's question, of question and prefix, and of the whole sequence.

    With `u_i = h_i / ‖h_i‖` and `U_R = Σ u_i` over the rows of role R (Wang et al. 2025, arXiv 2506.02281):

        intra = ‖U_q‖² / q²     inter = U_q·U_p / (q·p)     score = intra + inter     whole = ‖U_p + U_q‖² / (p + q)²

    Args:
        hidden: activations, float32, float16 or bfloat16: packed rows (T, D) or padded rows (B, L, D).  Any row
            stride and alignment; read once, never copied, never written.
        cu_seqlens: (B+1,) int32 or int64: rows of sequence b are `cu_seqlens[b]` to `cu_seqlens[b+1]`.  None if padded.
        token_role: (T,) or (B, L) int8 (or uint8): 0 ignored, 1 prefix, 2 question; or bool: True is question.
            Rows of ignored tokens are neither read nor checked.
        shared_prefix: a prefix that comes before every sequence, from `gainrl.shared_prefix`.
        norm_weight: (D,) weight of the model's final RMSNorm when `hidden` is its input (the scale per row cancels).
        norm_offset: added to `norm_weight`; 1.0 for models that multiply by `1 + w` (Gemma 1 to 3, Qwen3-Next).
        diagonal: whether `intra` and `whole` include i = j (the published definition does).
        return_directions: also `U_q / ‖U_q‖` per sequence.
        return_contributions: also the cosine of each row with its sequence's `U_p + U_q` (a second read of `hidden`).
        backend: "auto", "native", "triton", "torch" or "reference".
        check: raise on roles and offsets out of range (synchronises a GPU).  Default: on the CPU only.

    Arrays: torch tensors; or anything on the host with `__dlpack__` (NumPy, JAX), which needs no torch and returns
    NumPy; or anything on a GPU with `__dlpack__` (CuPy, JAX), which returns torch tensors.  No gradient is recorded.

    Returns:
        AngleConcentration.  Undefined fields are NaN and say why in `status`; other sequences are not affected.

    Raises:
        UserError: a wrong shape, dtype or device; a backend that cannot serve the call; with `check`, bad values.
    """
    check_backend(backend)
    if not _all_torch(hidden, cu_seqlens, token_role, norm_weight):
        from gainrl.angle.arrays import angle_concentration_arrays

        of_arrays: AngleConcentration = angle_concentration_arrays(
            hidden, cu_seqlens, token_role, shared_prefix=shared_prefix, norm_weight=norm_weight,
            norm_offset=norm_offset, diagonal=diagonal, return_directions=return_directions,
            return_contributions=return_contributions, backend=backend, check=check,
        )  # fmt: skip
        return of_arrays
    check_call(hidden, cu_seqlens, token_role, shared_prefix, norm_weight)
    shared, tokens = (None, 0) if shared_prefix is None else (shared_prefix.sum, shared_prefix.tokens)
    wanted = DIRECTIONS * bool(return_directions) + CONTRIBUTIONS * bool(return_contributions)
    call = AngleCall(
        hidden, cu_seqlens, token_role, shared, tokens, norm_weight, float(norm_offset), bool(diagonal), wanted
    )
    outputs = _run_op()(call, backend, hidden.is_cpu if check is None else bool(check))
    return AngleConcentration(outputs.values, outputs.counts, outputs.directions, outputs.contributions)


def shared_prefix(
    hidden: Any, *, norm_weight: Any = None, norm_offset: float = 0.0, backend: str = "auto"
) -> SharedPrefix:
    """The sum of the unit rows of `hidden` (P, D), for a prefix that many sequences share.

    Args:
        hidden: activations of the prefix, as in `angle_concentration`.
        norm_weight, norm_offset, backend: as in `angle_concentration`; use the same.

    Returns:
        SharedPrefix with `sum` (D,) float32 on hidden's device and `tokens`, its non-zero rows.  Synchronises once.

    Raises:
        UserError: a wrong shape, dtype or device, or a non-finite row.
    """
    check_backend(backend)
    if len(hidden.shape) != 2:
        raise UserError(f"hidden has shape {tuple(hidden.shape)}; a shared prefix is rows (P, D)")
    if not _all_torch(hidden, None, None, norm_weight):
        from gainrl.angle.arrays import shared_prefix_arrays

        prefix: SharedPrefix = shared_prefix_arrays(hidden, norm_weight, norm_offset, backend)
        return prefix
    import torch

    rows = hidden.shape[0]
    roles = torch.ones(1, rows, dtype=torch.int8, device=hidden.device)
    check_call(hidden[None], None, roles, None, norm_weight)
    outputs = _run_op()(
        AngleCall(hidden[None], None, roles, None, 0, norm_weight, float(norm_offset), True, SUMS), backend, False
    )
    status, _, tokens = outputs.counts[:, 0].tolist()
    return finished_prefix(outputs.sums[0], status, tokens)


def _all_torch(hidden: Any, cu_seqlens: Any, token_role: Any, norm_weight: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    tensor = torch.Tensor
    return (
        isinstance(hidden, tensor)
        and (cu_seqlens is None or isinstance(cu_seqlens, tensor))
        and (token_role is None or isinstance(token_role, tensor))
        and (norm_weight is None or isinstance(norm_weight, tensor))
    )


_run: Any = None


def _run_op() -> Any:
    """`gainrl.angle.library.run`, imported by the first call, for it imports torch."""
    global _run
    if _run is None:
        from gainrl.angle.library import run

        _run = run
    return _run
