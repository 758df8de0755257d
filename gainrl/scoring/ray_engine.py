"""`--engine ray`: the scorer of `--engine torch` in the workers of a Ray cluster, fed by Ray Data.

This process renders, tokenises and plans the same batches as a run of one process, and keeps the journal and the
table; `map_batches` hands the planned batches to a pool of workers, each with an `AngleScorer` of its own.  Where they
run, who gets what, and what is computed again when a worker dies, is Ray's affair.  A batch's results do not depend on
who computes it, so the table is that of one process (same kind of device, same number of threads).

Ray Data runs over `WINDOWS_AT_ONCE` windows at a time, which bounds what lies in Ray's object store; workers load the
model once for each such run.
"""

from __future__ import annotations

import datetime
import logging
import os
import pickle
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from gainrl.errors import UserError
from gainrl.scoring.base import BaseScorer
from gainrl.scoring.batching import Batch, plan
from gainrl.scoring.contract import Prepared
from gainrl.scoring.definition import PUBLISHED, Definition
from gainrl.scoring.models import load_tokenizer
from gainrl.scoring.prompts import DEFAULT_DATE, PromptRenderer, Rendered
from gainrl.scoring.results import RowResult
from gainrl.scoring.scorer import AngleScorer
from gainrl.scoring.taps import FINAL, context_length

WINDOWS_AT_ONCE = 16
DEATHS = 3
"""How often one worker may die and be started again, and one batch be computed anew."""
PATIENCE = 10.0
"""Seconds that may pass without a free device before the user is told what is waited for."""


@dataclass(frozen=True)
class _Facts:
    """What planning needs to know of the model, found out by a worker."""

    context: int | None
    vocabulary: int
    shares_prefix: bool
    alone_beyond: int | None
    tokens_per_batch: int
    dtype: str
    tap: str
    form: str
    device: str
    commit: str | None


class _Worker:
    """One of Ray Data's actors: planned batches in, their results out."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self._scorer = AngleScorer(model, **options)
        self._open = ExitStack()
        self._open.enter_context(self._scorer.weights_fixed())  # for good: nobody trains this copy

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        return {"packed": [self._one(packed) for packed in rows["packed"]]}

    def _one(self, packed: bytes) -> bytes:
        """A batch's number and its results, or the UserError that came of it (Ray Data would wrap it in others)."""
        number, batch, prompts = pickle.loads(packed)
        try:
            return pickle.dumps((number, self._scorer._score_batch(batch, prompts)))
        except UserError as error:
            return pickle.dumps((number, error))
        except RuntimeError as error:
            if "CUDA error" not in str(error):
                raise
            # This process's CUDA context is of no use any more: Ray starts another one, which computes the batch.
            print(f"gainrl: a Ray worker lost its GPU and ends: {error}", file=sys.stderr, flush=True)
            os._exit(1)


def _facts(model: str, options: dict[str, Any]) -> _Facts:
    scorer = AngleScorer(model, **options)
    forward, config = scorer.forward, scorer.model.config
    return _Facts(
        context=context_length(scorer.model),
        vocabulary=scorer.model.get_input_embeddings().weight.shape[0],
        shares_prefix=forward.shares_prefix,
        alone_beyond=forward.alone_beyond,
        tokens_per_batch=scorer.tokens_per_batch,
        dtype=scorer.dtype,
        tap=scorer.tap,
        form=scorer.form,
        device=scorer.device.type,
        commit=getattr(config, "_commit_hash", None),
    )


class RayScorer(BaseScorer):
    """Scores prompts with `workers` copies of the model in a Ray cluster; the arguments are those of `AngleScorer`.

    The cluster is the one that RAY_ADDRESS names or that runs on this machine; without one, Ray is started here and
    ended by `close`.  `workers` is by default the number of the cluster's GPUs, each its own worker, or 1.

    Raises UserError if Ray is not installed, if the cluster does not answer or lacks the devices, or if the model
    cannot be loaded there.
    """

    def __init__(
        self,
        model: str,
        *,
        workers: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        backend: str = "auto",
        tokens_per_batch: int | None = None,
        question_after: str | None = None,
        too_long: str = "skip",
        date: datetime.date = DEFAULT_DATE,
        tap: str = FINAL,
        definition: str | Definition = PUBLISHED,
        directions: bool = False,
        nll: bool = False,
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device {device}: give auto, cpu or cuda; Ray chooses which ones its workers get")
        super().__init__(
            backend=backend, definition=definition, directions=directions, nll=nll, tokens_per_batch=tokens_per_batch
        )
        tokenizer = load_tokenizer(model)
        self._model = model
        self._said_waiting = False
        self._ray = _ray()
        self._ours = not self._ray.is_initialized()
        try:
            if self._ours:
                self._join()
            with self._explained():
                gpus = self._share_out(workers, device)
                self._options: dict[str, Any] = {
                    "device": "cuda" if gpus else "cpu", "dtype": dtype, "backend": backend, "tap": tap,
                    "definition": self.definition, "directions": directions, "nll": nll,
                    "tokens_per_batch": tokens_per_batch,
                }  # fmt: skip
                self._say_if_waiting()
                # One call a process: a worker that went on would keep its CUDA context and the model's memory.
                look = self._ray.remote(max_calls=1, **self._resources)(_facts)
                self._facts: _Facts = self._ray.get(look.remote(model, self._options))
        except BaseException:
            self.close()
            raise
        self.model = _Commit(self._facts.commit)
        self.device = torch.device(self._facts.device)
        self.dtype, self.tap, self.form = self._facts.dtype, self._facts.tap, self._facts.form
        self.windows_at_once = WINDOWS_AT_ONCE
        self.budget_chosen = tokens_per_batch is not None
        self.tokens_per_batch = self._facts.tokens_per_batch
        self.renderer = PromptRenderer(
            tokenizer, question_after=question_after, max_tokens=self._facts.context, too_long=too_long, date=date
        )

    def _join(self) -> None:
        """Connect to the cluster there is, or start one."""
        address = os.environ.get("RAY_ADDRESS", "")
        try:
            host, _, port = address.rpartition("://")[2].rpartition(":")
            if host and port.isdigit():  # Ray itself tries a dead address for minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            self._ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            what = f"RAY_ADDRESS={address}: no Ray cluster answers there" if address else "Ray could not be started"
            raise UserError(f"{what} ({_last_line(error)})") from error

    def _share_out(self, workers: int | None, device: str) -> int:
        """Set what each worker gets; the number of the cluster's GPUs that may be used."""
        there = self._ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(there.get("GPU", 0))
        if device == "cuda" and not gpus:
            raise UserError("--device cuda: the Ray cluster has no GPU")
        self.workers = max(1, gpus) if workers is None else workers
        self._resources: dict[str, Any] = {"num_gpus": 1, "num_cpus": 1} if gpus else {"num_cpus": 1}
        room = gpus or int(there.get("CPU", 1))
        if not 1 <= self.workers <= room:
            raise UserError(f"--workers {self.workers}: the Ray cluster has {room} {'GPUs' if gpus else 'CPUs'}")
        return gpus

    def _say_if_waiting(self) -> None:
        """Tell the user, once, if nothing is free for a worker; Ray starts it when something is."""
        until = time.monotonic() + PATIENCE
        wanted = "GPU" if "num_gpus" in self._resources else "CPU"
        while not self._said_waiting:
            free = self._ray.available_resources()
            if all(free.get(kind, 0) >= 1 for kind in {wanted, "CPU"}):
                return
            if time.monotonic() > until:
                self._said_waiting = True
                print(
                    f"waiting for {self.workers} {wanted}s of the Ray cluster: others hold {wanted}s or CPUs that "
                    "its workers need",
                    file=sys.stderr,
                )
            time.sleep(0.2)

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        if self._ours:
            self._ray.shutdown()

    def weights_fixed(self) -> AbstractContextManager[None]:
        """Nobody trains the workers' copies."""
        return nullcontext()

    @property
    def _vocabulary(self) -> int:
        return self._facts.vocabulary

    def _plan(self, rendered: Sequence[Rendered]) -> Iterable[Batch]:
        padded = not self._facts.shares_prefix
        share = not padded and self.backend != "reference"
        return plan(rendered, self.tokens_per_batch, share=share, padded=padded, alone_beyond=self._facts.alone_beyond)

    def _score_batch(self, batch: Batch, prompts: Sequence[Rendered]) -> list[RowResult]:
        raise AssertionError("batches are the workers' affair")

    def score_window(
        self,
        prepared: Prepared,
        done: frozenset[int] = frozenset(),
        mine: Callable[[Sequence[Batch]], Iterable[Batch]] = lambda batches: batches,
        *,
        without_tokens: bool = True,
    ) -> Iterator[tuple[tuple[int, ...], list[RowResult]]]:
        """Score one window; as `BaseScorer.score_window`, in whatever order the batches are finished."""
        prepared = Prepared(prepared.rendered, list(mine(prepared.batches)))
        for _, members, results in self.score_windows([(prepared, done)], without_tokens=without_tokens):
            yield members, results

    def score_windows(
        self,
        windows: Sequence[tuple[Prepared, frozenset[int]]],
        *,
        without_tokens: bool = True,
    ) -> Iterator[tuple[int, tuple[int, ...], list[RowResult]]]:
        """Score several windows at once: (which of them, positions in it, their results), as they are finished."""
        owed: list[tuple[int, Batch]] = []
        for which, (prepared, done) in enumerate(windows):
            for members, results in super().score_window(prepared, done, lambda _: (), without_tokens=without_tokens):
                yield which, members, results
            owed += [(which, batch) for batch in prepared.batches if not done.issuperset(batch.members)]
        finished = 0
        for number, results in self._computed([
            pickle.dumps((number, batch, [windows[which][0].rendered[i] for i in batch.members]))
            for number, (which, batch) in enumerate(owed)
        ]):  # fmt: skip
            finished += 1
            which, batch = owed[number]
            done = windows[which][1]
            kept = [(i, result) for i, result in zip(batch.members, results, strict=True) if i not in done]
            yield which, tuple(i for i, _ in kept), [result for _, result in kept]
        if finished != len(owed):
            raise RuntimeError(f"Ray Data returned {finished} of {len(owed)} batches: please report it")

    def _computed(self, packed: list[bytes]) -> Iterator[tuple[int, list[RowResult]]]:
        """(number, results) of packed batches, as Ray Data's workers finish them."""
        if not packed:
            return
        import ray.data as data

        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # a plan, and the time taken, for each execution
        with self._explained(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # nothing else limits the restarts
            rows = data.from_items([{"packed": one} for one in packed], override_num_blocks=len(packed))
            results = rows.map_batches(
                _Worker,
                batch_size=1,
                batch_format="numpy",
                compute=data.ActorPoolStrategy(size=min(self.workers, len(packed))),
                fn_constructor_args=(self._model, self._options),
                max_restarts=DEATHS,
                max_task_retries=DEATHS,
                **self._resources,
            )
            self._say_if_waiting()
            for row in results.iter_rows():
                number, computed = pickle.loads(row["packed"])
                if isinstance(computed, UserError):
                    raise computed
                yield number, computed

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong in the cluster as one sentence; a mistake found by a worker as it was said there."""
        try:
            yield
        except (self._ray.exceptions.RayTaskError, self._ray.exceptions.UserCodeException) as error:
            raise UserError(_said_by_worker(error)) from error
        except self._ray.exceptions.RayError as error:
            if getattr(error, "actor_init_failed", False):
                why = f"a Ray worker could not begin: {_last_line(error)}"
            else:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                why = f"a Ray worker died more than {DEATHS} times, or the cluster is gone ({first})"
            raise UserError(why + _KEPT) from error


_KEPT = "; finished rows are kept: go on with --resume"


def _said_by_worker(error: Any) -> str:
    """What a worker's exception comes to: a UserError as it was said there, anything else by its last line."""
    cause = error
    while inner := getattr(cause, "cause", None) or cause.__cause__:
        cause = inner
    if isinstance(cause, UserError):
        return str(cause)
    # Pickling drops the exception that Ray Data's own was raised from; the traceback's text has it.
    inmost = str(error).partition("\nThe above exception was the direct cause")[0]
    return f"a Ray worker failed: {_last_line(inmost)}{_KEPT}"


def _last_line(said: object) -> str:
    return next((line.strip() for line in reversed(str(said).splitlines()) if line.strip()), type(said).__name__)


class _Commit:
    """What `model_identity` reads of a model that is loaded elsewhere."""

    def __init__(self, commit: str | None) -> None:
        self.config = type("Config", (), {"_commit_hash": commit})()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"--engine ray needs Ray Data ({error}): pip install 'gainrl[ray]'") from error
    return ray
