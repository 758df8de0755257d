"""`--engine ray`: chunks scored by workers of a Ray cluster, each with an `AngleScorer` of its own.

This process reads the dataset, gives chunks to free workers and writes the table.  Workers write parts to the output's
folder, which all machines share; one that dies is started again, and scores what its chunk's parts lack.  (`ActorPool`,
not Ray Data: it takes chunks as they are read, and workers load the model once.)
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from gainrl.errors import UserError, first_line
from gainrl.scoring.parts import Parts, require_alike
from gainrl.scoring.prompts import ScoringPrompt
from gainrl.scoring.run import score_chunk
from gainrl.scoring.scorer import AngleScorer
from gainrl.scoring.settings import ScoringSettings


class _Worker:
    """What runs in the cluster; its first call loads the model."""

    def __init__(self, settings: ScoringSettings) -> None:
        self._scorer = cache(lambda: AngleScorer(**vars(settings)))

    def describe(self) -> tuple[dict[str, Any], int, Any]:
        """The model's identity, its width, and the definition."""
        scorer = self._scorer()
        return scorer.identity(), scorer.width, scorer.definition

    def chunk(self, parts: Parts, number: int, prompts: list[ScoringPrompt], seconds: float) -> tuple[int, int, int]:
        """Score one chunk (`score_chunk`)."""
        scorer, named = self._scorer(), {"model": parts.settings["model"]}  # a path may be another one here
        require_alike({**parts.settings, **scorer.identity(), **named}, parts.settings, "the Ray workers")
        return score_chunk(scorer, parts, number, prompts, seconds_per_part=seconds)


class RayScorer:
    """Scores with `workers` copies of the model (default: one for each GPU of the cluster, or 1), for `score_dataset`.

    The cluster is the one that RAY_ADDRESS names or that runs on this machine; without one, Ray is started here and
    ends with this process.  Raises UserError if Ray is missing, the cluster does not answer, or no worker loads.
    """

    def __init__(self, settings: ScoringSettings, *, workers: int | None = None) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(f"--engine ray needs Ray: {error} (pip install 'gainrl[ray]')") from error
        if settings.device not in ("auto", "cpu", "cuda"):
            raise UserError(f"--device {settings.device}: give auto, cpu or cuda; Ray chooses which its workers get")
        self._ray: Any = ray
        self.settings, self.directions, self.nll = settings, settings.directions, settings.nll
        address = os.environ.get("RAY_ADDRESS", "")
        host, _, port = address.rpartition("://")[2].rpartition(":")
        try:
            if not ray.is_initialized():
                if host and port.isdigit():  # Ray itself tries a dead address for minutes
                    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
                ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            what = f"RAY_ADDRESS={address}: no Ray cluster answers there" if address else "Ray could not be started"
            raise UserError(f"{what} ({first_line(error)})") from error
        there = self._ray.cluster_resources()
        gpus = 0 if settings.device == "cpu" else int(there.get("GPU", 0))
        count = max(1, gpus) if workers is None else workers
        if not 1 <= count <= (gpus or int(there.get("CPU", 1))) or (settings.device == "cuda" and not gpus):
            what = f"{gpus} GPUs and {there.get('CPU', 0):g} CPUs"
            raise UserError(f"--workers {count}, --device {settings.device}: the Ray cluster has {what}")
        model = Path(settings.model).expanduser()
        given = replace(settings, model=model.absolute() if model.exists() else settings.model)
        given.device = "cuda" if gpus else "cpu"
        # One worker may die and be started again three times, and one chunk be given out anew as often.
        options = {"num_cpus": 1, "num_gpus": min(gpus, 1), "max_restarts": 3, "max_task_retries": 3}
        self._workers = [self._ray.remote(**options)(_Worker).remote(given) for _ in range(count)]
        with self._explained():
            identity, self.width, self.definition = self._ray.get(self._workers[0].describe.remote())
        self.identity = lambda: {**identity, "model": str(settings.model)}  # as of `AngleScorer`

    def score_chunks(
        self, parts: Parts, chunks: Iterable[tuple[int, list[ScoringPrompt]]], seconds: float
    ) -> Iterator[tuple[int, int, int]]:
        """What `score_chunk` returns of each chunk, as workers finish them."""
        pool: Any = self._ray.util.ActorPool(self._workers)
        there = replace(parts, output=parts.output.absolute())
        with self._explained():
            for number, prompts in chunks:
                if not pool.has_free():
                    yield pool.get_next_unordered()
                pool.submit(lambda worker, given: worker.chunk.remote(*given), (there, number, prompts, seconds))
            while pool.has_next():
                yield pool.get_next_unordered()

    def close(self) -> None:
        """End the workers."""
        while self._workers:
            self._ray.kill(self._workers.pop())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong in the cluster as one sentence; a UserError of a worker as it is."""
        try:
            yield
        except self._ray.exceptions.RayError as error:
            self.close()
            cause = getattr(error, "cause", None) or error  # no cause: died too often, or no cluster
            if isinstance(cause, UserError):
                raise cause from None
            what = f"a Ray worker failed ({type(cause).__name__}: {first_line(cause)})"
            raise UserError(f"{what}; finished rows are kept: --resume goes on") from error
