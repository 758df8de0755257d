"""From a dataset to a score table on disk: journal, resume, progress, and the table written whole at the end."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gainrl import __version__
from gainrl.errors import UserError
from gainrl.files import atomic_path
from gainrl.scoring.journal import Journal
from gainrl.scoring.prompts import ScoringPrompt, template_hash, tokenizer_hash
from gainrl.scoring.scorer import WINDOW, AngleScorer, RowResult, settle
from gainrl.table import (
    DIRECTION_FIELD,
    METADATA_KEY,
    PROMPT_FIELD,
    SCHEMA,
    ContentIds,
    Fingerprint,
    ScoreTable,
    TableMetadata,
    ranks,
)


@dataclass(frozen=True)
class Source:
    """Where a dataset's prompts come from: what the table's provenance says of them."""

    name: str
    split: str | None = None
    limit: int | None = None
    size: int | None = None
    task: str | None = None


@dataclass
class Run:
    """What a scoring run did."""

    table: ScoreTable
    seconds: float = 0.0
    scored: int = 0
    """Rows scored by this run (not those taken from the journal)."""
    tokens: int = 0
    """Question and prefix tokens of the rows scored by this run, shared prefixes counted for each row."""
    kept: int = 0
    """Rows taken from the journal of an earlier run."""


Progress = Callable[[int, int], None]
"""Called with (rows finished now, tokens of them) after every batch."""


def check_output(output: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse an output that exists, before anything costly is loaded.

    Raises UserError if `output` or its journal exists and neither `overwrite` nor `resume` was given, if both were,
    or if the folder is missing.
    """
    if overwrite and resume:
        raise UserError("--overwrite and --resume exclude each other: start anew, or go on")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: the folder {output.parent} does not exist")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"--output {output}: the folder {output.parent} cannot be written to")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: name a .parquet file")
    partial = journal_path(output)
    if overwrite or resume:
        return
    if partial.exists():
        raise UserError(
            f"{partial} holds the results of an interrupted run: use --resume to go on, or --overwrite to start anew"
        )
    if output.exists():
        raise UserError(f"{output} exists and is kept: use --overwrite to replace it, or another --output")


def journal_path(output: Path) -> Path:
    """Where the results of an unfinished run lie."""
    return output.with_name(output.name + ".partial")


def score_dataset(
    scorer: AngleScorer,
    prompts: Iterable[ScoringPrompt],
    output: Path,
    source: Source,
    *,
    model_name: str,
    model_hash: str,
    overwrite: bool = False,
    resume: bool = False,
    keep_prompts: bool = True,
    progress: Progress | None = None,
) -> Run:
    """Score `prompts` and write the score table to `output`.

    Finished batches are in the journal beside `output` until the table is written; after a kill, `resume=True` goes
    on from there and ends with the same table.  `keep_prompts` stores the prompts' text in the table, for reports.
    Memory holds one window of prompts and, per row, its id and score.

    Raises UserError if the dataset is empty or is not the one that was begun, or if every row of the first window
    fails; the finished rows are kept in the journal.
    """
    check_output(output, overwrite=overwrite, resume=resume)
    settings = _settings(scorer, source, model_name, model_hash)
    if resume and output.exists() and not journal_path(output).exists():
        return _finished(output, settings, prompts, prompt=keep_prompts, direction=scorer.directions)
    started = time.perf_counter()
    journal: Journal | None = None
    try:
        plan = _plan_settings(scorer, keep_prompts)
        journal = Journal(journal_path(output), {**settings, **plan}, fresh=overwrite)
        with scorer.weights_fixed():
            run = _score_rows(scorer, prompts, source, journal, keep_prompts, progress)
        metadata = TableMetadata(**settings, **run.identity, gainrl_version=__version__)
        table = _write_table(journal, output, metadata, keep_prompts, scorer.directions)
        journal.remove()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        kept = f"{len(journal)} finished rows are kept in {journal.path}: " if journal else ""
        raise UserError(f"the disk of {output.parent} is full; {kept}make room and go on with --resume") from error
    finally:
        if journal is not None:
            journal.close()
    return Run(table, time.perf_counter() - started, scored=run.scored, tokens=run.tokens, kept=run.kept)


def _settings(scorer: AngleScorer, source: Source, model_name: str, model_hash: str) -> dict[str, Any]:
    """The fields of the metadata that are known before the first row: what must agree to go on after a kill."""
    renderer = scorer.renderer
    return {
        "model": model_name,
        "model_hash": model_hash,
        "tokenizer_hash": tokenizer_hash(scorer.tokenizer),
        "chat_template_hash": template_hash(scorer.tokenizer),
        "template_date": renderer.date.isoformat() if template_hash(scorer.tokenizer) else "",
        "dataset": source.name,
        "split": source.split,
        "limit": source.limit,
        "task": source.task,
        "question_after": renderer.question_after,
        "too_long": renderer.too_long,
        "dtype": str(next(scorer.model.parameters()).dtype).removeprefix("torch."),
        "tokens_per_batch": scorer.tokens_per_batch,
    }


def _plan_settings(scorer: AngleScorer, keep_prompts: bool) -> dict[str, Any]:
    """What else must agree to go on: all that shapes batches, columns and rounding."""
    import torch
    import transformers

    return {
        "backend": scorer.backend,
        "form": type(scorer.forward).__name__,
        "device": scorer.device.type,
        "window": WINDOW,
        "directions": scorer.directions,
        "prompts": keep_prompts,
        "gainrl": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _finished(output: Path, settings: dict[str, Any], prompts: Iterable[ScoringPrompt], **columns: bool) -> Run:
    """--resume on a table that is already whole: nothing to do, if it was made the same way, of the same dataset."""
    table = ScoreTable.read(output)
    made = asdict(table.metadata)
    differs = [key for key, value in settings.items() if made[key] != value]
    differs += [name for name, wanted in columns.items() if wanted != (name in table.columns.column_names)]
    ids, rolling = ContentIds(), Fingerprint()
    rolling.update(ids.next(row.prompt) for row in prompts)
    if rolling.hexdigest() != made["fingerprint"]:
        differs.append("the dataset's rows")
    if differs:
        raise UserError(
            f"{output} is a finished table made with other settings ({', '.join(differs)}): use --overwrite to replace "
            "it"
        )
    return Run(table, kept=len(table))


@dataclass
class _Progressed:
    scored: int = 0
    tokens: int = 0
    kept: int = 0
    identity: dict[str, Any] = field(default_factory=dict)


def _score_rows(
    scorer: AngleScorer,
    prompts: Iterable[ScoringPrompt],
    source: Source,
    journal: Journal,
    keep_prompts: bool,
    progress: Progress | None,
) -> _Progressed:
    rows = iter(prompts)
    ids, rolling = ContentIds(), Fingerprint()
    state = _Progressed()
    first_row = 0
    while window := list(islice(rows, WINDOW)):
        names = [ids.next(row.prompt) for row in window]
        rolling.update(names)
        done = _done(journal, first_row, names)
        state.kept += len(done)
        if done and progress:
            progress(len(done), 0)
        failures: list[RowResult] = []
        for members, results in scorer.score_window(window, done):
            journal.append(
                [first_row + i for i in members],
                [names[i] for i in members],
                [window[i].prompt for i in members] if keep_prompts else None,
                results,
            )
            tokens = sum(result.prefix_tokens + result.question_tokens for result in results)
            failures += [result for result in results if result.status == "failed"]
            state.scored += len(members)
            state.tokens += tokens
            if progress:
                progress(len(members), tokens)
        if first_row == 0 and len(failures) == len(window):
            journal.remove()  # failures alone are worth no resuming
            raise UserError(f"none of the first {len(window)} rows can be scored; one says: {failures[0].reason}")
        first_row += len(window)
    if first_row == 0:
        raise UserError(f"dataset {source.name!r} is empty")
    if journal.done and max(journal.done) >= first_row:
        raise _changed(journal)
    state.identity = {"fingerprint": rolling.hexdigest(), "rows": first_row}
    return state


def _done(journal: Journal, first_row: int, names: Sequence[str]) -> frozenset[int]:
    """Positions of the window that the journal holds, after checking that they are still the same prompts."""
    if not journal.done:
        return frozenset()
    positions = frozenset(i for i in range(len(names)) if first_row + i in journal.done)
    if any(journal.done[first_row + i] != names[i] for i in positions):
        raise _changed(journal)
    return positions


def _changed(journal: Journal) -> UserError:
    return UserError(
        f"the dataset is not the one that {journal.path} was begun with: rows changed since; its {len(journal)} "
        "results are kept there. Give the same dataset, or start anew with --overwrite"
    )


def _write_table(
    journal: Journal, output: Path, metadata: TableMetadata, keep_prompts: bool, directions: bool
) -> ScoreTable:
    """The journal as a table in dataset order: ids and scores first, for the ranks, then window by window."""
    names: list[str] = [""] * metadata.rows
    scores = np.full(metadata.rows, np.nan)
    any_prefix = any(_any_prefix(batch) for batch in journal.batches())
    seen = np.zeros(metadata.rows, dtype=bool)
    for batch in journal.batches():
        at = batch["row"].to_numpy()
        if seen[at].any() or len(np.unique(at)) < len(at):
            raise RuntimeError(f"{journal.path} holds a row twice: a bug in gainrl, please report it")
        seen[at] = True
        for row, name in zip(at.tolist(), batch["id"].to_pylist(), strict=True):
            names[row] = name
        scores[at] = [settle(result, any_prefix)[1] for result in _results(batch)]
    if not seen.all():
        raise RuntimeError(f"{journal.path} lacks row {int(np.argmin(seen))}: a bug in gainrl, please report it")
    scores = scores.astype(np.float32).astype(np.float64)  # ranks are those of the scores as stored
    rank = ranks(names, scores)
    if not any_prefix:
        metadata = TableMetadata(**{**asdict(metadata), "definition": "intra"})
    fields = [*SCHEMA, *([PROMPT_FIELD] if keep_prompts else []), *([DIRECTION_FIELD] if directions else [])]
    schema = pa.schema(fields, metadata={METADATA_KEY: metadata.to_json().encode()})
    with atomic_path(output) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for window in _windows(journal):
            writer.write_table(_finish_window(window, schema, scores, rank, any_prefix))
    return ScoreTable.read(output, columns=[name for name in schema.names if name not in ("prompt", "direction")])


def _any_prefix(batch: pa.RecordBatch) -> bool:
    ok = np.asarray(batch["status"].to_pylist(), dtype=object) == "ok"
    return bool((ok & (batch["prefix_tokens"].to_numpy() > 0)).any())


def _results(batch: pa.RecordBatch | pa.Table) -> list[RowResult]:
    names = ("status", "reason", "intra", "inter", "prefix_tokens", "question_tokens")
    columns = [batch[name].to_pylist() for name in names]
    return [RowResult(*values) for values in zip(*columns, strict=True)]


def _windows(journal: Journal) -> Iterator[pa.Table]:
    """The journal's results, all of one window at a time, in row order."""
    held: list[pa.RecordBatch] = []
    current = 0
    for batch in journal.batches():
        window = int(batch["row"][0].as_py()) // WINDOW
        if held and window != current:
            yield pa.Table.from_batches(held).sort_by("row")
            held = []
        current = window
        held.append(batch)
    if held:
        yield pa.Table.from_batches(held).sort_by("row")


def _finish_window(
    window: pa.Table,
    schema: pa.Schema,
    scores: npt.NDArray[np.float64],
    rank: npt.NDArray[np.int64],
    any_prefix: bool,
) -> pa.Table:
    rows = window["row"].to_numpy()
    settled = [settle(result, any_prefix)[0] for result in _results(window)]
    values: dict[str, pa.Array | pa.ChunkedArray] = {
        "status": pa.array([result.status for result in settled], pa.string()),
        "reason": pa.array([result.reason for result in settled], pa.string()),
        "inter": pa.array([result.inter for result in settled], pa.float32()),
        "score": pa.array(scores[rows], pa.float32()),
        "rank": pa.array(rank[rows], pa.int64()),
    }
    return pa.table([values.get(name, window[name] if name in window.column_names else None) for name in schema.names],
                    schema=schema)  # fmt: skip
