"""From a dataset to a score table on disk: chunks scored, finished rows kept in parts, the table written at the end."""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow.parquet as pq
import torch.distributed as dist

from gainrl import __version__
from gainrl.errors import UserError
from gainrl.scoring.parts import SETTINGS_KEY, Parts, differences, require_alike, write_table
from gainrl.scoring.prompts import ScoringPrompt
from gainrl.scoring.scorer import AngleScorer
from gainrl.scoring.settings import CHUNK, ScoringSettings
from gainrl.table import ScoreTable, TableMetadata, content_digest, content_ids, fingerprint, prompt_text

T = TypeVar("T")
SECONDS_PER_PART = 30.0
"""At most so much work, or one batch, is lost when a run is killed."""
Progress = Callable[[int, int], None]
"""Called with (rows finished now, tokens of them) after every batch."""


@dataclass(frozen=True)
class Source:
    """Where a dataset's prompts come from, for the table's metadata."""

    name: str
    split: str | None = None
    limit: int | None = None
    size: int | None = None
    task: str | None = None


@dataclass
class Run:
    """What a scoring run did."""

    output: Path
    seconds: float = 0.0
    scored: int = 0
    """Rows scored by this run."""
    tokens: int = 0
    """Question and prefix tokens of these rows, shared prefixes counted for each."""
    kept: int = 0
    """Rows that an earlier run had finished."""

    @cached_property
    def table(self) -> ScoreTable:
        """The table without its directions, read when first asked for."""
        return ScoreTable.read(self.output)


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False, resume: bool = False) -> Path:
    """The output, `~` expanded; UserError if it cannot be written, or is there without `overwrite` or `resume`."""
    output = Path(path).expanduser()
    if overwrite and resume:
        raise UserError("--overwrite and --resume exclude each other: start anew, or go on")
    if output.suffix.lower() != ".parquet" or output.is_dir():
        raise UserError(f"--output {output}: a score table is a Parquet file; give a name that ends in .parquet")
    try:
        str(output).encode()
    except UnicodeEncodeError:
        raise UserError(f"--output {str(output)!r} is not UTF-8: set PYTHONUTF8=1, or give another name") from None
    if not os.access(output.parent, os.W_OK):
        why = "cannot be written to" if output.parent.is_dir() else "does not exist"
        raise UserError(f"--output {output}: the folder {output.parent} {why}")
    if not (overwrite or resume):
        if (parts := Parts(output, {})).files():
            kept = f"{parts.folder} holds the results of an interrupted run"
            raise UserError(f"{kept}: use --resume to go on, or --overwrite to start anew")
        if output.exists():
            raise UserError(f"{output} exists and is kept: use --overwrite to replace it, or another --output")
    return output


def score_dataset(
    scorer: Any,
    prompts: Iterable[ScoringPrompt],
    output: str | os.PathLike[str],
    source: Source,
    *,
    resume: bool = False,
    overwrite: bool = False,
    keep_prompts: bool = True,
    progress: Progress | None = None,
    seconds_per_part: float = SECONDS_PER_PART,
) -> Run:
    """Score `prompts` and write the score table to `output`; memory does not grow with the dataset.

    `scorer` is an `AngleScorer`, a `VllmScorer`, a `RayScorer` or a `ScoringSettings`.  Finished rows are in
    `<output>.parts/` until the table is written; after a kill, `resume=True` scores the others.  Of the processes of
    `torch.distributed`, process k takes every k-th chunk of 4,096 rows and rank 0 writes the table.  `keep_prompts`
    stores the prompts' text in the table, for reports.

    Raises UserError for an output that is refused (`check_output`), parts of other settings or another dataset, an
    empty dataset, a first chunk of which no row can be scored, or a full disk.
    """
    if isinstance(scorer, ScoringSettings):
        scorer = AngleScorer(**vars(scorer))
    started, processes = time.perf_counter(), Processes()
    output = processes.lead(lambda: check_output(output, overwrite=overwrite, resume=resume))
    directions = scorer.settings.direction_dtype if scorer.directions else None
    given = {"dataset": source.name, "split": source.split, "limit": source.limit, "task": source.task}
    metadata = {**scorer.identity(), **given}
    settings = {**metadata, "directions": directions, "nll": scorer.nll, "prompts": keep_prompts}
    parts = Parts(output, settings)

    def begin() -> int:
        """The rows of a table that is whole already; 0 if there is work to do."""
        if resume and output.is_file() and not parts.files():
            return _finished(output, settings, prompts)
        if overwrite:
            parts.remove()
        parts.folder.mkdir(exist_ok=True)
        parts.check()
        return 0

    for theirs in processes.gather(settings):
        require_alike(settings, theirs, "the processes")

    rows, totals = 0, [0, 0, 0]

    def mine() -> Iterator[tuple[int, list[ScoringPrompt]]]:
        nonlocal rows
        given = iter(prompts)
        for number in count():
            if not (chunk := list(islice(given, CHUNK))):
                return
            rows += len(chunk)
            if number % processes.size == processes.rank:
                yield number, chunk

    with _full_disk(parts):
        if whole := processes.lead(begin):
            return Run(output, kept=whole)
        if engine := hasattr(scorer, "score_chunks"):  # which shares them out itself
            done = scorer.score_chunks(parts, mine(), seconds_per_part)
        else:
            done = (score_chunk(scorer, parts, *chunk, progress, seconds_per_part) for chunk in mine())
        for scored, tokens, kept in done:
            totals = [total + one for total, one in zip(totals, (scored, tokens, kept), strict=True)]
            if engine and progress:
                progress(scored + kept, tokens)
        if not rows:
            raise UserError("the dataset is empty: there is nothing to score")
        totals = [sum(counts) for counts in zip(*processes.gather(totals), strict=True)]
        about = TableMetadata(**metadata, fingerprint="", rows=rows, gainrl_version=__version__)
        processes.lead(lambda: write_table(parts, rows, about, scorer.definition))
    return Run(output, time.perf_counter() - started, *totals)


def score_chunk(
    scorer: Any,
    parts: Parts,
    number: int,
    prompts: Sequence[ScoringPrompt],
    progress: Progress | None = None,
    seconds_per_part: float = SECONDS_PER_PART,
) -> tuple[int, int, int]:
    """Score the rows of a chunk that no part holds, and add parts; returns (rows scored, their tokens, rows kept)."""
    first = number * CHUNK
    every = range(first, first + len(prompts))
    texts = [prompt_text(prompt.prompt) for prompt in prompts]
    digests = [content_digest(prompt.prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    asked = [question_digest(prompt) for prompt in prompts]
    there = parts.read(parts.files().get(number, []), ["digest", "asked"])
    held = {row: (digest, question) for row, digest, question in zip(*there.to_pydict().values(), strict=True)}
    if any(row not in every or (digests[row - first], asked[row - first]) != held[row] for row in held):
        kept = f"{parts.folder} holds results of another dataset: rows changed since"
        raise UserError(f"{kept}. Give the same one to --resume, or start anew with --overwrite")
    if progress and held:
        progress(len(held), 0)
    owed = [i for i, row in enumerate(every) if row not in held]
    waiting: list[Any] = []
    tokens, failed, since = 0, 0, time.monotonic()

    def flush() -> None:
        nonlocal since
        if waiting:
            parts.write(number, waiting)
        waiting.clear()
        since = time.monotonic()

    try:
        for indices, scores in scorer.batches([prompts[i] for i in owed]) if owed else ():
            at = [owed[i] for i in indices]
            columns = {"row": every, "digest": digests, "asked": asked, "prompt": texts}
            known = {name: [column[i] for i in at] for name, column in columns.items()}
            waiting.append(parts.table(known, scores))
            failed += scores.status.count("failed")
            new = int(scores.prefix_tokens.sum() + scores.question_tokens.sum())
            tokens += new
            if number == 0 and failed == len(prompts):
                waiting.clear()
                raise UserError(f"none of the first {failed} rows can be scored; one of them: {scores.reasons[0]}")
            if time.monotonic() - since >= seconds_per_part:
                flush()
            if progress:
                progress(len(at), new)
    except OSError:  # a full disk takes no further part
        raise
    except BaseException:
        flush()
        raise
    flush()
    return len(owed), tokens, len(held)


def question_digest(prompt: ScoringPrompt) -> int:
    """64 bits of what decides the roles besides the prompt itself: the question of plain text."""
    return content_digest(prompt.question) if prompt.question is not None and isinstance(prompt.prompt, str) else 0


def _finished(output: Path, settings: dict[str, Any], prompts: Iterable[ScoringPrompt]) -> int:
    """--resume on a table that is already whole: its rows, if it was made the same way of the same dataset."""
    metadata, _ = ScoreTable.describe(output)
    stored = json.loads((pq.read_metadata(output).metadata or {}).get(SETTINGS_KEY, b"{}"))
    asked, questions = hashlib.sha256(), stored.pop("questions", "")

    def contents() -> Iterator[Any]:
        for prompt in prompts:
            asked.update(question_digest(prompt).to_bytes(8, "little"))
            yield prompt.prompt

    differ = differences(stored, settings)
    if not differ and (fingerprint(content_ids(contents())) != metadata.fingerprint or asked.hexdigest() != questions):
        differ = "the dataset's rows"
    if differ:
        raise UserError(f"{output} is a finished table of other settings ({differ}): use --overwrite to replace it")
    return metadata.rows


@contextmanager
def _full_disk(parts: Parts) -> Iterator[None]:
    """A full disk as one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        kept = f"finished rows are kept in {parts.folder}: make room and go on with --resume"
        raise UserError(f"the disk of {parts.output.parent} is full; {kept}") from error


class Processes:
    """This process among those of `torch.distributed`; one alone needs none of it."""

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
        # Over CPUs, whatever the others are over, and with the patience that other processes' work needs.
        self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=7)) if self.size > 1 else None

    def gather(self, value: T) -> list[T]:
        """The values of all processes, once all are here."""
        values = [value] * self.size
        if self._group is not None:
            dist.all_gather_object(values, value, group=self._group)
        return values

    def lead(self, action: Callable[[], T]) -> T:
        """What `action` returns in rank 0, or the UserError that it raises there, in all processes."""
        found: tuple[T | None, UserError | None] = None, None
        if self.rank == 0:
            try:
                found = action(), None
            except UserError as error:
                found = None, error
        result, problem = self.gather(found)[0]
        if problem is not None:
            raise problem
        return cast(T, result)
