"""A dataset's windows, read, checked against the journals, tokenised and planned: what a pass is fed with.

Every process of a run reads every row, which is cheap (10 µs for a problem of GSM8K, parsed and hashed; rendering and
tokenising it takes 300), and tokenises its share of each window; the shares are exchanged, so that all plan the same
batches.  Windows whose rows the journals all hold are not tokenised again.  `ahead` prepares windows in a thread while
a device computes.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from gainrl.errors import UserError
from gainrl.scoring.contract import Prepared, Scorer
from gainrl.scoring.journal import Journal
from gainrl.scoring.prompts import Rendered, ScoringPrompt
from gainrl.scoring.team import Team
from gainrl.table import content_digest

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """Rows of the dataset from `first` on that are planned together."""

    first: int
    prompts: Sequence[ScoringPrompt]
    digests: Sequence[bytes]
    done: frozenset[int]
    """Positions that the journals hold."""
    failed: Sequence[tuple[int, str]]
    """(row, reason) of those of them that failed."""
    prepared: Prepared
    """Empty where all is done."""


def windows(
    scorer: Scorer, rows: Iterable[ScoringPrompt], size: int, journals: Sequence[Journal], team: Team
) -> Generator[Window]:
    """The windows of `rows`, in order, each of `size` rows but the last.

    `journals` are this process's own and those of the others as they were at the start of the run.  Raises UserError
    if a journal holds results of other rows, if no prompt of this kind can be scored with the model, or if the
    processes of the team read different rows.
    """
    given, number = iter(rows), 0
    while True:
        prompts = list(islice(given, size))
        digests = [content_digest(row.prompt) for row in prompts]
        done, failed = _done(journals, number, number * size, digests)
        owed = len(done) < len(prompts)
        if owed:
            scorer.renderer.require_usable(prompts[0].prompt)
        rendered = _rendered(scorer, prompts if owed else [], _stamp(digests, done), team)
        if not prompts:
            return
        prepared = scorer.arrange(rendered) if owed else Prepared((), ())
        yield Window(number * size, prompts, digests, done, failed, prepared)
        number += 1


def changed(journals: Sequence[Journal]) -> UserError:
    """What to say of a dataset that is not the one of the journals, the first of which is this process's own."""
    return UserError(
        f"the dataset is not the one that {journals[0].path} was begun with: rows changed since; its "
        f"{sum(map(len, journals))} results are kept there. Give the same dataset, or start anew with --overwrite"
    )


def _done(
    journals: Sequence[Journal], number: int, first: int, digests: Sequence[bytes]
) -> tuple[frozenset[int], list[tuple[int, str]]]:
    """Positions of a window that the journals hold, after checking that they are still the same prompts."""
    done: set[int] = set()
    failed: list[tuple[int, str]] = []
    for journal in journals:
        for batch in journal.window(number):
            rows = batch["row"].to_numpy()
            positions = (rows - first).tolist()
            for i, digest in zip(positions, batch["digest"].to_pylist(), strict=True):
                if i >= len(digests) or digests[i] != digest:
                    raise changed(journals)
            done.update(positions)
            words, reasons = batch["status"].to_pylist(), batch["reason"].to_pylist()
            failed += [(row, why) for row, word, why in zip(rows, words, reasons, strict=True) if word == "failed"]
    return frozenset(done), failed


def _stamp(digests: Sequence[bytes], done: frozenset[int]) -> bytes:
    """What must be alike in all processes of a team before they share a window."""
    return hashlib.sha256(b"".join(digests) + np.array(sorted(done), dtype=np.int32).tobytes()).digest()


def _rendered(scorer: Scorer, prompts: Sequence[ScoringPrompt], stamp: bytes, team: Team) -> list[Rendered]:
    """The window's prompts as tokens: every `team.size`-th by this process, the others by the others."""
    mine = scorer.render(prompts[team.rank :: team.size])
    if team.size == 1:
        return mine
    shares = team.exchange((stamp, _packed(mine)))
    for rank, (theirs, _) in enumerate(shares):
        if theirs != stamp:
            raise UserError(
                f"processes {team.rank} and {rank} read different rows: the dataset (and, with --resume, the journals "
                "beside the output) must be the same file for all processes of a run"
            )
    rendered: list[Any] = [None] * len(prompts)
    for rank, (_, packed) in enumerate(shares):
        rendered[rank :: team.size] = _unpacked(*packed)
    return rendered


Packed = tuple[Any, Any, dict[int, tuple[str, str | None, int]]]
"""Tokens of all prompts (int32), (n, 2) their number and that of the prefix, and what else there is to say of some."""


def _packed(rendered: Sequence[Rendered]) -> Packed:
    tokens = np.concatenate([np.empty(0, np.int32), *(prompt.tokens for prompt in rendered)])
    counts = np.array([(len(prompt.tokens), prompt.prefix) for prompt in rendered], dtype=np.int32).reshape(-1, 2)
    said = {i: (p.status, p.reason, p.truncated) for i, p in enumerate(rendered) if p.status != "ok" or p.reason}
    return tokens, counts, said


def _unpacked(tokens: Any, counts: Any, said: dict[int, tuple[str, str | None, int]]) -> Iterator[Rendered]:
    stops = np.cumsum(counts[:, 0]).tolist()
    for i, ((length, prefix), stop) in enumerate(zip(counts.tolist(), stops, strict=True)):
        yield Rendered(tokens[stop - length : stop], prefix, *said.get(i, ()))


def ahead(items: Iterator[T], depth: int) -> Generator[T]:
    """The same items, made in a thread: at most `depth` wait to be taken, while one more is being made.

    What goes wrong in the making is raised where the item would have been taken.  Leaving early ends the thread with
    the item that it is making; one that waits for other processes ends with this process.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    over = threading.Event()

    def put(kind: str, item: Any = None) -> None:
        while not over.is_set():
            try:
                ready.put((kind, item), timeout=0.1)
            except queue.Full:
                continue
            return

    def make() -> None:
        try:
            for item in items:
                put("item", item)
                if over.is_set():
                    return
            put("end")
        except BaseException as error:  # whatever it is, it is for whoever takes the items
            put("error", error)

    thread = threading.Thread(target=make, name="gainrl-windows", daemon=True)
    thread.start()
    try:
        while (taken := ready.get())[0] == "item":
            yield taken[1]
            del taken  # a window is large: not held while the next one is waited for
        if taken[0] == "error":
            raise taken[1]
    finally:
        over.set()
        thread.join(timeout=5)
