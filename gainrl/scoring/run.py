"""From a dataset to a score table on disk: journal, resume, progress, and the table written whole at the end."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from gainrl import __version__
from gainrl.errors import UserError
from gainrl.parts import foreign, is_table
from gainrl.scoring.contract import WINDOW, Scorer, WindowsScorer
from gainrl.scoring.feed import Window, ahead, changed, windows
from gainrl.scoring.finish import CONTROLS, Columns, write_table
from gainrl.scoring.journal import Journal, holds_results, journal_path, journal_paths, stored_settings
from gainrl.scoring.prompts import ScoringPrompt
from gainrl.scoring.provenance import Source, dataset_fingerprint, plan_settings, table_settings
from gainrl.scoring.results import RowResult
from gainrl.scoring.shards import ROWS_PER_PART
from gainrl.scoring.team import ALONE, Team
from gainrl.table import ScoreTable, TableMetadata


@dataclass
class Run:
    """What a scoring run did."""

    output: Path
    seconds: float = 0.0
    scored: int = 0
    """Rows scored by this run (not those taken from the journal); of this process alone, under torchrun."""
    tokens: int = 0
    """Question and prefix tokens of the rows scored by this run, shared prefixes counted for each row."""
    kept: int = 0
    """Rows taken from the journal of an earlier run."""

    @cached_property
    def table(self) -> ScoreTable:
        """The table without prompts and directions, read when first asked for."""
        return ScoreTable.read(self.output, leave=("prompt", "direction"))


WINDOWS_AHEAD = 2
"""Windows that wait, tokenised, for a device; processes of a team may be as far apart, which evens their work."""

PATIENCE = 10.0
"""Seconds in which a file that one process has made is seen by the others."""

Progress = Callable[[int, int], None]
"""Called with (rows finished now, tokens of them) after every batch."""


def check_output(output: Path, *, overwrite: bool, resume: bool, shards: int | None = None) -> None:
    """Refuse an output that exists, before anything costly is loaded.

    Raises UserError if `output` or a journal of it with results exists and neither `overwrite` nor `resume` was given,
    if both were, if the folder is missing, or if a folder is where a file is to be written, or the reverse (`shards`).
    """
    if shards is not None and shards < 0:
        raise UserError(f"--shards {shards}: give the number of parts, or 0 for parts of {ROWS_PER_PART:,} rows")
    if overwrite and resume:
        raise UserError("--overwrite and --resume exclude each other: start anew, or go on")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: the folder {output.parent} does not exist")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"--output {output}: the folder {output.parent} cannot be written to")
    if shards is None and output.is_dir():
        raise UserError(f"--output {output} is a folder: name a .parquet file, or ask for parts with --shards")
    if shards is not None and output.is_file():
        raise UserError(f"--output {output} is a file: a table in parts (--shards) is a folder")
    if shards is not None and output.is_dir() and (other := foreign(output)):
        raise UserError(f"--output {output} holds other files ({other!r}): name a folder of its own")
    if overwrite or resume:
        return
    if partial := [path for path in journal_paths(output) if holds_results(path)]:
        raise UserError(
            f"{partial[0]} holds the results of an interrupted run: use --resume to go on, or --overwrite to start anew"
        )
    if is_table(output):
        raise UserError(f"{output} exists and is kept: use --overwrite to replace it, or another --output")


def score_dataset(
    scorer: Scorer,
    prompts: Iterable[ScoringPrompt],
    output: Path,
    source: Source,
    *,
    model_name: str,
    model_hash: str,
    overwrite: bool = False,
    resume: bool = False,
    keep_prompts: bool = True,
    control: str = "none",
    max_failed: float = 1.0,
    shards: int | None = None,
    team: Team = ALONE,
    progress: Progress | None = None,
    in_advance: bool | None = None,
) -> Run:
    """Score `prompts` and write the score table to `output`; with `shards`, a folder of so many parts by rank (0: of
    `ROWS_PER_PART` rows; see `gainrl.parts`).

    Finished batches are in the journal beside `output` until the table is written; after a kill, `resume=True` goes
    on from there and ends with the same table.  `keep_prompts` stores the prompts' text in the table, for reports.
    `control="length"` ranks by what is left of the score after length is regressed out (`gainrl.table`).  Memory holds
    a few windows of prompts, whatever the size of the dataset.  `in_advance` tokenises windows in a thread while others
    are scored; by default where something else than this process computes, a GPU or an engine's workers.

    Raises UserError if a `WindowsScorer` is run in several processes, if the dataset is empty or is not the one that
    was begun, if every row of the first window fails, or if after some window more than the share `max_failed` of the
    rows failed; finished rows are kept in the journal.
    """
    if control not in CONTROLS:
        raise UserError(f"--control {control!r}: choose {' or '.join(CONTROLS)}")
    if not 0 <= max_failed <= 1:
        raise UserError(f"--max-failed {max_failed}: give a share of the rows, from 0 to 1")
    if team.size > 1 and isinstance(scorer, WindowsScorer):
        raise UserError(f"{type(scorer).__name__} shares out the work itself: run one process, not {team.size}")
    if team.leads:
        check_output(output, overwrite=overwrite, resume=resume, shards=shards)
    team.barrier()  # nobody's journal is there yet when that is checked
    columns = Columns(keep_prompts, scorer.directions, scorer.nll)
    _agree_on_budget(scorer, output, resume, team)
    settings = table_settings(scorer, source, model_name, model_hash, control)
    if resume and is_table(output) and not journal_paths(output):
        team.barrier()
        with _full_disk_explained(output, lambda: f"{output} is whole, but not yet compared with the dataset: "):
            return _finished(output, settings, scorer, prompts, columns)
    started = time.perf_counter()
    pass_ = _Pass(scorer, output, {**settings, **plan_settings(scorer, columns, WINDOW)}, team)
    if in_advance is None:
        in_advance = scorer.device.type != "cpu" or isinstance(scorer, WindowsScorer)
    try:
        with _full_disk_explained(output, pass_.kept_where):
            pass_.open(fresh=overwrite)
            with scorer.weights_fixed(), pass_.feed(prompts, in_advance) as prepared:
                pass_.score(prepared, source, keep_prompts, max_failed, progress)
            pass_.publish()
            team.barrier()
            if team.leads:
                metadata = TableMetadata(**settings, fingerprint="", rows=pass_.rows, gainrl_version=__version__)
                pass_.finish(metadata, columns, shards)
            team.barrier()
    finally:
        pass_.close()
    return Run(output, time.perf_counter() - started, scored=pass_.scored, tokens=pass_.tokens, kept=pass_.kept)


@contextmanager
def _full_disk_explained(output: Path, kept: Callable[[], str]) -> Iterator[None]:
    """A full disk as one sentence, with what `kept` says of what is there."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"the disk of {output.parent} is full; {kept()}make room and go on with --resume") from error


def _agree_on_budget(scorer: Scorer, output: Path, resume: bool, team: Team) -> None:
    """A budget found from the memory at hand must be the one of the run that is resumed, and everybody's."""
    if not scorer.budget_chosen:
        stored = None
        if resume:
            paths = journal_paths(output)
            before = stored_settings(paths[0]) if paths else None
            if before is None and is_table(output):
                before = asdict(ScoreTable.describe(output)[0])
            stored = (before or {}).get("tokens_per_batch")
        scorer.tokens_per_batch = min(team.gather(stored or scorer.tokens_per_batch))


def _finished(
    output: Path, settings: dict[str, Any], scorer: Scorer, prompts: Iterable[ScoringPrompt], columns: Columns
) -> Run:
    """--resume on a table that is already whole: nothing to do, if it was made the same way, of the same dataset."""
    run = Run(output)
    metadata, there = ScoreTable.describe(output)
    made = asdict(metadata)
    pieces = ScoreTable.pieces(output, ["status", "prefix_tokens"])
    if not any(((p["status"].to_numpy(False) == "ok") & (p["prefix_tokens"].to_numpy() > 0)).any() for p in pieces):
        settings = {**settings, "definition": "intra"}  # what it comes to without prefixes
    differs = [key for key, value in settings.items() if made[key] != value]
    differs += [name for name, wanted in asdict(columns).items() if wanted != (name in there)]
    if dataset_fingerprint(prompts, metadata.rows, output.parent) != made["fingerprint"]:
        differs.append("the dataset's rows")
    if differs:
        raise UserError(
            f"{output} is a finished table made with other settings ({', '.join(differs)}): use --overwrite to replace "
            "it"
        )
    run.kept = metadata.rows
    return run


@dataclass
class _Pass:
    """One pass over a dataset: what is open, and what was counted."""

    scorer: Scorer
    output: Path
    settings: dict[str, Any]
    team: Team
    own: Journal | None = None
    others: list[Journal] = field(default_factory=list)
    rows: int = 0
    scored: int = 0
    tokens: int = 0
    kept: int = 0
    failed: int = 0
    """Rows that this process found wanting."""
    failed_before: int = 0
    """Failed rows in the journals as they were at the start."""
    first_failures: list[str] = field(default_factory=list)

    def open(self, fresh: bool) -> None:
        """Open this process's journal, and those of the others as they were at the start.

        The first process goes first: another run that writes to this output holds its journal's lock, and may be
        reading the others.
        """
        if not self.team.leads:
            self.team.barrier()
        self.own = Journal(journal_path(self.output, self.team.rank), self.settings, window=WINDOW, fresh=fresh)
        if self.team.leads:
            self.team.barrier()
        self.team.barrier()
        self._require_shared()
        if self.team.leads and fresh:
            for left in self._beside()[self.team.size - 1 :]:
                left.unlink(missing_ok=True)
        self.team.barrier()
        self.others = [Journal(p, self.settings, window=WINDOW, reading=True) for p in self._beside()]
        self.team.barrier()

    def _require_shared(self) -> None:
        """UserError in every process unless all see each other's journals, from which the table is made."""
        until, missing = time.monotonic() + PATIENCE, list(range(self.team.size))
        while missing and time.monotonic() < until:  # network file systems show a new file a little later
            missing = [rank for rank in missing if not journal_path(self.output, rank).exists()]
            if missing:
                time.sleep(0.1)
        for rank, unseen in enumerate(self.team.gather(missing)):
            if unseen:
                raise UserError(
                    f"process {rank} does not see the results of process {unseen[0]} beside --output {self.output}: "
                    "name a folder that all processes share"
                )

    def _beside(self) -> list[Path]:
        assert self.own is not None
        taken = {journal_path(self.output, rank) for rank in range(self.team.size)}
        paths = [path for path in journal_paths(self.output) if path != self.own.path]
        return sorted(paths, key=lambda path: (path not in taken, path))

    def kept_where(self) -> str:
        """How many finished rows are on disk, as far as this process knows, and where."""
        held = len(self.own or []) + sum(map(len, self.others))
        return f"{held} finished rows are kept in {self.own.path}: " if self.own else ""

    @contextmanager
    def feed(self, prompts: Iterable[ScoringPrompt], in_advance: bool) -> Iterator[Iterator[Window]]:
        """The dataset's windows; `in_advance` makes them in a thread, which is over when this is left."""
        with self.team.ready() as team:
            prepared = windows(self.scorer, prompts, WINDOW, self._journals, team)
            if in_advance:
                prepared = ahead(prepared, max(self._at_once, WINDOWS_AHEAD))
            with closing(prepared):
                yield prepared

    @property
    def _journals(self) -> list[Journal]:
        assert self.own is not None
        return [self.own, *self.others]

    @property
    def _at_once(self) -> int:
        return getattr(self.scorer, "windows_at_once", 1)

    def score(
        self,
        prepared: Iterator[Window],
        source: Source,
        keep_prompts: bool,
        max_failed: float,
        progress: Progress | None,
    ) -> None:
        """Score what is owed, a window (or as many as the scorer takes at once) at a time."""
        loads = [0] * self.team.size
        number = 0
        while group := list(islice(prepared, self._at_once)):
            for window in group:
                self._keep(window, progress)
            for window, members, results in self._scored(group, loads):
                self._take(window, members, results, keep_prompts)
                if progress:
                    progress(len(members), sum(result.prefix_tokens + result.question_tokens for result in results))
            self.rows += sum(len(window.prompts) for window in group)
            number += len(group)
            self._check_failures(self.failed_before + self.failed, max_failed, first=number == len(group))
        self._check_failures(self.failed_before + sum(self.team.gather(self.failed)), max_failed)
        if self.rows == 0:
            raise UserError(f"dataset {source.name!r} is empty")
        if any(journal.last_window >= number for journal in self._journals):
            raise changed(self._journals)

    def _keep(self, window: Window, progress: Progress | None) -> None:
        """Count what the journals hold of a window."""
        self.kept += len(window.done)
        self.failed_before += len(window.failed)
        for row, reason in window.failed:
            self._remember(row, reason)
        if window.done and progress:
            progress(len(window.done), 0)

    def _scored(
        self, group: Sequence[Window], loads: list[int]
    ) -> Iterator[tuple[Window, tuple[int, ...], list[RowResult]]]:
        """(window, positions in it, their results) of each batch that this process owes."""
        scorer, leads = self.scorer, self.team.leads
        if isinstance(scorer, WindowsScorer):
            given = [(window.prepared, window.done) for window in group]
            for which, members, results in scorer.score_windows(given, without_tokens=leads):
                yield group[which], members, results
            return
        for window in group:
            share = partial(self.team.share, rendered=window.prepared.rendered, loads=loads)
            for members, results in scorer.score_window(window.prepared, window.done, share, without_tokens=leads):
                yield window, members, results

    def _take(self, window: Window, members: Sequence[int], results: Sequence[RowResult], keep_prompts: bool) -> None:
        """Write a batch's results to the journal, and count them."""
        assert self.own is not None
        with self.scorer.clock("write"):
            self.own.append(
                [window.first + i for i in members],
                [window.digests[i] for i in members],
                [window.prompts[i].prompt for i in members] if keep_prompts else None,
                results,
            )
        self.scored += len(members)
        self.tokens += sum(result.prefix_tokens + result.question_tokens for result in results)
        for i, result in zip(members, results, strict=True):
            if result.status == "failed":
                self.failed += 1
                self._remember(window.first + i, str(result.reason))

    def _remember(self, row: int, reason: str) -> None:
        if len(self.first_failures) < 3:
            self.first_failures.append(f"row {row}: {reason}")

    def _check_failures(self, failed: int, max_failed: float, *, first: bool = False) -> None:
        """`failed` of the rows so far, which are the `first` ones that were looked at."""
        if self.rows and failed == self.rows and (first or self.rows <= WINDOW):
            assert self.own is not None
            self.own.remove()  # failures alone are worth no resuming
            said = self.first_failures[0].partition(": ")[2]
            raise UserError(f"none of the first {self.rows} rows can be scored; one says: {said}")
        if failed > max_failed * self.rows:
            raise UserError(
                f"{failed} of the first {self.rows} rows failed, more than --max-failed {max_failed:g} allows "
                f"({'; '.join(self.first_failures)}); finished rows are kept: go on with --resume and a larger share"
            )

    def publish(self) -> None:
        """Have this process's results where the one that writes the table reads them, perhaps on another machine."""
        if self.own is not None and self.team.size > 1:
            self.own.sync()

    def finish(self, metadata: TableMetadata, columns: Columns, shards: int | None) -> None:
        """Write the table from all journals, and remove them."""
        assert self.own is not None
        for journal in self.others:
            journal.close()
        self.others = [Journal(p, self.settings, window=WINDOW, reading=True) for p in self._beside()]
        with ExitStack() as stack:
            for journal in self.others:
                stack.callback(journal.close)
            journals = [self.own, *self.others]
            with self.scorer.clock("write"):
                definition = self.scorer.definition
                write_table(journals, self.output, metadata, definition, columns, window=WINDOW, shards=shards)
            for journal in (*self.others, self.own):
                journal.remove()

    def close(self) -> None:
        """Let go of the journals; they stay for a later --resume unless the table is written."""
        for journal in (self.own, *self.others):
            if journal is not None:
                journal.close()
