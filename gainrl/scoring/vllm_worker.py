"""What runs inside vLLM's workers: sums of unit rows by role, where vLLM would hand out every token's hidden state.

A prompt of L tokens has L·D floats of hidden states; its score needs two sums of D.  `RoleSums` is a vLLM pooler (the
interface of `vllm.model_executor.layers.pooler.Pooler`, which every pooling model of vLLM has as `model.pooler`), put
in place through vLLM's worker extension.  It reads each token's final hidden state once, where it lies, with the
kernels of `gainrl.angle`, and returns 2·D + 4 floats a prompt:

    U_p (D,)   U_q (D,)   p   q   bad   first      p, q: non-zero rows; bad: a row is not finite; first: the position
                                                   that vLLM computed first (what came before was in its prefix cache)

A prompt says where its roles begin in `PoolingParams.extra_kwargs`: `{"gainrl": [skip, prefix]}`, positions
skip <= i < prefix are prefix, those from `prefix` on question, those before `skip` are left out (they are summed
elsewhere, once for all prompts that share them).  A prompt that vLLM computes in several steps is summed step by step.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from vllm.model_executor.layers.pooler import Pooler

from gainrl.angle.op import run
from gainrl.angle.result import AngleCall, Status, question_sums
from gainrl.errors import UserError
from gainrl.scoring.settings import require_backend

KEY = "gainrl"


class RoleSums(Pooler):  # type: ignore[misc, unused-ignore]
    """The pooler; `backend` is that of `gainrl.angle_concentration`."""

    def __init__(self, backend: str = "auto") -> None:
        super().__init__()
        self._backend = backend
        self._begun: WeakKeyDictionary[Any, tuple[int, Tensor]] = WeakKeyDictionary()

    def get_supported_tasks(self) -> Set[Any]:
        """The one task that it stands in for."""
        return {"token_embed"}

    def forward(self, hidden_states: Tensor, pooling_metadata: Any) -> list[Tensor | None]:
        """Sums of the prompts that this step ended, (2·D + 4,) float32 each; None for the others.

        `hidden_states` (T, D): the step's tokens, prompt after prompt, after the final norm.
        """
        cursor = pooling_metadata.get_pooling_cursor()
        counts: list[int] = cursor.num_scheduled_tokens_cpu.tolist()
        ends: list[int] = cursor.seq_lens_cpu.tolist()
        wanted = [(params.extra_kwargs or {}).get(KEY, (0, 0)) for params in pooling_metadata.pooling_params]
        step = self._sums(hidden_states, counts, ends, wanted)
        outputs: list[Tensor | None] = []
        for i, state in enumerate(pooling_metadata.pooling_states):
            total, before = step[i], self._begun.pop(state, None)
            if before is not None and before[0] == ends[i] - counts[i]:  # else: begun anew, its memory was taken
                total = torch.cat([before[1][:-1] + total[:-1], before[1][-1:]])
            finished = bool(cursor.get_finished_mask()[i])
            if not finished:
                self._begun[state] = (ends[i], total.clone())
            outputs.append(total if finished else None)
        return outputs

    def _sums(self, hidden: Tensor, counts: list[int], ends: list[int], wanted: list[tuple[int, int]]) -> Tensor:
        """(R, 2·D + 4) for the rows of R prompts: `counts` of them each, the last one at position `ends` - 1."""
        role = np.zeros(sum(counts), dtype=np.int8)
        firsts = [end - count for count, end in zip(counts, ends, strict=True)]
        offsets, row = [0], 0
        for count, first, (skip, prefix) in zip(counts, firsts, wanted, strict=True):
            role[row + min(max(skip - first, 0), count) : row + count] = 2
            offsets += [row + min(max(prefix - first, 0), count), row + count]
            row += count
        cu_seqlens, roles, begun = (
            given.to(hidden.device, non_blocking=True)
            for given in (torch.tensor(offsets), torch.from_numpy(role), torch.tensor(firsts)[:, None].float())
        )
        # Two sequences a prompt, one of each role, and question rows to the op, so that its sums are U_p and U_q.
        outputs = run(AngleCall(hidden[:row], cu_seqlens, roles, directions=True), self._backend, False)
        status, rows = outputs.counts[0].view(-1, 2), outputs.counts[1].view(-1, 2)
        bad = ((status & int(Status.NON_FINITE)) != 0).any(dim=1, keepdim=True)
        return torch.cat([question_sums(outputs).view(len(counts), -1), rows.float(), bad.float(), begun], dim=1)


class _Headless:
    """A model whose logits are what enters its classification layer."""

    lm_head = None

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def logits_processor(self, _: Any, hidden: Tensor, *__: Any) -> Tensor:
        """What vLLM's models call with their head and hidden states."""
        return hidden


class WorkerExtension:
    """vLLM's workers take this class as a base (`worker_extension_cls`); its methods are called by name."""

    def gainrl_install(self, backend: str, width: int, dtype: str) -> tuple[str | None, str | None]:
        """Put `RoleSums` in place; else why `backend` cannot serve here, or why this worker's model cannot have it."""
        model: Any = self.get_model()  # type: ignore[attr-defined]
        name = type(model).__name__
        try:
            require_backend(backend, next(model.parameters()).device)
        except UserError as error:
            return str(error), None
        if not hasattr(model, "pooler"):
            return None, f"{name} has no pooler (model.pooler), which the vLLM engine needs"
        with suppress(Exception):  # no `compute_logits`, or one that takes more than hidden states
            probe = torch.linspace(1, 2, width, dtype=getattr(torch, dtype), device=next(model.parameters()).device)
            if not torch.equal(type(model).compute_logits(_Headless(model), probe[None])[0], probe):  # MiMo, Step 3.5
                return None, f"{name} applies its final norm where it computes logits, not in its forward"
        model.pooler = RoleSums(backend)
        return None, None
