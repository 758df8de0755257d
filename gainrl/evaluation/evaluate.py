"""Evaluate a model on rows of a task: k samples a problem, graded, counted, kept.

result = evaluate(model, tokenizer, task, rows, samples=4, temperature=1.0)
result.accuracy, result.interval, result.pass_at(4), result.majority
append_record(run_directory, result.record(stage="before"))
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from gainrl.errors import UserError
from gainrl.evaluation.engines import Engine, Sampling, TransformersEngine
from gainrl.evaluation.metrics import FloatArray, majority_at_k, mean_interval, pass_at_k, row_accuracy
from gainrl.files import atomic_path, write_text

if TYPE_CHECKING:
    from gainrl.tasks import Task

_BEAT = 5.0  # seconds between two signs of life


@dataclass(frozen=True)
class Generation:
    """One graded completion: `row` and `sample` number it; `answer` is what the grader read from it."""

    row: int
    sample: int
    completion: str
    tokens: int
    finish: str
    status: str
    reason: str
    answer: str | None
    share: float | None


@dataclass(frozen=True)
class Evaluation:
    """What came out.  Per-row arrays follow the order of the rows handed in.

    `accuracy` is avg@k, the mean over problems of the share of right completions among the scored ones (with one
    sample: pass@1); `interval` its 95 % bootstrap interval over problems; NaN where nothing could be scored.
    Unscorable completions count neither right nor wrong; `unscorable` says how many there were.
    """

    task: str
    rows: int
    samples: int
    sampling: Sampling
    generations: list[Generation]
    seconds: float

    def _count(self, *kinds: str) -> list[int]:
        counts = [0] * self.rows
        for one in self.generations:
            counts[one.row] += one.status in kinds
        return counts

    @property
    def right(self) -> list[int]:
        return self._count("right")

    @property
    def scored(self) -> list[int]:
        return self._count("right", "wrong")

    @property
    def unscorable(self) -> int:
        return sum(self._count("unscorable"))

    @property
    def row_accuracy(self) -> FloatArray:
        """Share right per row, NaN without a scored sample.  Shape (rows,)."""
        return row_accuracy(self.right, self.scored)

    @property
    def accuracy(self) -> float:
        return mean_interval(self.row_accuracy, resamples=1)[0]

    @property
    def interval(self) -> tuple[float, float]:
        return mean_interval(self.row_accuracy)[1:]

    def pass_at(self, k: int) -> tuple[float, float, float]:
        """Unbiased pass@k over the problems with at least k scored samples: mean, low, high."""
        return mean_interval(pass_at_k(self.right, self.scored, k))

    @property
    def majority(self) -> tuple[float, float, float]:
        """maj@k over the problems with a scored sample: mean, low, high.

        NaN where no scored sample has an answer, as with programs, which nobody can count votes over.
        """
        votes: list[list[tuple[str, bool]]] = [[] for _ in range(self.rows)]
        for one in self.generations:
            if one.answer is not None and one.status != "unscorable":
                votes[one.row].append((one.answer, one.status == "right"))
        values = majority_at_k(votes)
        values[[count == 0 or not any(votes) for count in self.scored]] = math.nan
        return mean_interval(values)

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.generations)

    def record(self, stage: str, step: int | None = None, **more: Any) -> dict[str, Any]:
        """One line of evals.jsonl."""
        (low, high), majority = self.interval, self.majority
        record = {
            "stage": stage, "task": self.task, "step": step, "accuracy": self.accuracy, "low": low, "high": high,
            "samples": self.samples, "rows": self.rows, "unscorable": self.unscorable,
            "truncated": sum(one.finish == "length" for one in self.generations), "tokens": self.tokens,
            "seconds": round(self.seconds, 3), "pass_at": {str(k): self.pass_at(k) for k in self._ks()},
            "majority": majority if self.samples > 1 and not math.isnan(majority[0]) else None,
            "sampling": asdict(self.sampling), **more,
        }  # fmt: skip
        return {key: _jsonable(value) for key, value in record.items()}

    def summary(self) -> str:
        """The figures in a few lines for people."""
        low, high = self.interval
        lines = [
            f"{self.task}: {self.rows} problems, {self.samples} sample{'s' * (self.samples > 1)} each, "
            f"{self.tokens} tokens in {self.seconds:.1f} s",
            f"  avg@{self.samples}  {self.accuracy:7.2%}  [{low:.2%}, {high:.2%}]",
        ]
        named = [(f"pass@{k}", self.pass_at(k)) for k in self._ks()[1:]]
        if self.samples > 1 and not math.isnan(self.majority[0]):
            named.append((f"maj@{self.samples}", self.majority))
        lines += [f"  {name:6} {mean:7.2%}  [{low:.2%}, {high:.2%}]" for name, (mean, low, high) in named]
        if self.unscorable:
            reasons = Counter(one.reason for one in self.generations if one.status == "unscorable")
            worst = "; ".join(f"{count} times: {reason}" for reason, count in reasons.most_common(3))
            lines.append(f"  unscorable {self.unscorable}: {worst}")
        return "\n".join(lines)

    def _ks(self) -> list[int]:
        """1, 2, 4, ... up to the samples."""
        return [2**power for power in range(self.samples.bit_length())]


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """A digest of rows, in order, so that generations are never counted for other problems."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["prompt"], row["answer"]], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


class Store:
    """The folder of one evaluation; `kept` holds the generations that are there, `seconds` the time they took.

    `batches.jsonl` has a line that says what is evaluated, then one for each finished batch; `generations.parquet`,
    written at the end, has the columns of `Generation`.  `settings` says what is evaluated (task, model, rows, samples
    ...).  With `resume`, a folder of equal settings goes on; any other folder that holds generations is refused, unless
    `overwrite`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False):
        self._lines, self._table = folder / "batches.jsonl", folder / "generations.parquet"
        self.kept: list[Generation] = []
        self.seconds = 0.0
        wanted = json.loads(json.dumps(settings))
        held = [path for path in (self._lines, self._table) if path.exists()]
        if held and not overwrite:
            if not resume:
                raise UserError(f"{str(folder)!r} holds generations already; give resume to go on, or overwrite")
            before = self._read()
            differ = sorted(key for key in before.keys() | wanted.keys() if before.get(key) != wanted.get(key))
            if differ:
                changes = "; ".join(f"{key}: {before.get(key)!r} there, {wanted.get(key)!r} now" for key in differ)
                raise UserError(f"{str(folder)!r} holds another evaluation ({changes}); choose another folder")
            return
        folder.mkdir(parents=True, exist_ok=True)
        for old in held:
            old.unlink()
        write_text(self._lines, json.dumps(wanted) + "\n")

    def _read(self) -> dict[str, Any]:
        """The settings of the folder; a last line that was cut short is dropped."""
        try:
            first, *batches, last = self._lines.read_text(encoding="utf-8").split("\n")
            settings = dict(json.loads(first))
            for line in batches:
                batch = json.loads(line)
                self.seconds = float(batch["seconds"])
                self.kept += [Generation(**row) for row in batch["generations"]]
            if any(type(number) is not int for one in self.kept for number in (one.row, one.sample, one.tokens)):
                raise ValueError("a number is missing")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{str(self._lines)!r} is damaged ({error}); give overwrite to start anew") from error
        if last:
            write_text(self._lines, "\n".join([first, *batches, ""]))
        return settings

    def add(self, finished: Sequence[Generation], seconds: float) -> None:
        """Keep one batch; `seconds` is the time the evaluation has taken so far."""
        _append(self._lines, {"seconds": seconds, "generations": [asdict(one) for one in finished]})

    def merge(self, generations: Sequence[Generation]) -> Path:
        """All generations as `generations.parquet`, in order."""
        import pyarrow as pa
        import pyarrow.parquet

        kinds = {"row": pa.int64(), "sample": pa.int64(), "tokens": pa.int64(), "share": pa.float64()}
        schema = pa.schema([(field.name, kinds.get(field.name, pa.string())) for field in fields(Generation)])
        # lone surrogates, which Parquet's UTF-8 cannot hold, become question marks
        rows = [
            {name: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for name, v in vars(one).items()}
            for one in generations
        ]
        with atomic_path(self._table) as temporary:
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
        return self._table


def evaluate(
    model: Any,
    tokenizer: Any,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    *,
    samples: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    engine: Engine | None = None,
    store: Store | None = None,
    max_unscorable_share: float = 0.1,
    progress: bool = True,
) -> Evaluation:
    """Generate `samples` completions for each row's prompt and grade them.

    `batch_size` counts sequences.  Prompts are batched by length, longest first, so that memory runs out at the
    start or never.  `engine` replaces generation with `model` and `tokenizer` (both may then be None).  With a
    `store`, finished batches are kept on disk and not generated again.

    Raises `UserError` for no rows, several samples at temperature 0 (they would be equal), a missing chat
    template, and when more than `max_unscorable_share` of the completions cannot be graded (reasons included).
    """
    from gainrl.tasks import UnscorableGuard

    if not rows:
        raise UserError(f"no rows of task {task.name!r} to evaluate")
    if samples < 1 or batch_size < 1:
        raise UserError(f"samples and batch_size must be at least 1, but are {samples} and {batch_size}")
    if samples > 1 and temperature == 0:
        raise UserError(f"{samples} samples at temperature 0 would all be equal; give a temperature above 0")
    task.check_ready()
    limit = max_new_tokens or task.max_new_tokens
    sampling = Sampling(temperature, top_p, limit, tuple(task.stop), seed)
    engine = engine or TransformersEngine(model, tokenizer)
    guard = UnscorableGuard(task.name, max_unscorable_share)
    began = time.monotonic()
    done = list(store.kept) if store else []
    before = store.seconds if store else 0.0
    have = {(one.row, one.sample) for one in done}
    lengths = [len(engine.encode(row["prompt"]) or ()) for row in rows]
    with _progress(task.name, len(rows) * samples, progress) as bar:
        bar.update(len(done))
        for key, batch in enumerate(_batches(rows, lengths, samples, batch_size)):
            if all(item in have for item in batch):
                continue
            finished = [one for one in _run(engine, task, rows, lengths, batch, sampling, key)
                        if (one.row, one.sample) not in have]  # fmt: skip
            done += finished
            if store:  # before the guard may stop the run, so that what was unscorable can be read
                store.add(finished, time.monotonic() - began + before)
            guard.add(finished)
            right, scored = (sum(one.status in kinds for one in done) for kinds in ({"right"}, {"right", "wrong"}))
            bar.set_postfix_str(f"{right / scored:.1%} right" if scored else "nothing scored", refresh=False)
            bar.update(len(finished))
    guard.finish()
    done.sort(key=lambda one: (one.row, one.sample))
    return Evaluation(task.name, len(rows), samples, sampling, done, time.monotonic() - began + before)


@contextmanager
def _progress(name: str, total: int, shown: bool) -> Iterator[Any]:
    """A bar that shows every few seconds that it lives, however long a batch takes; silent if `TQDM_DISABLE` is set."""
    ended = threading.Event()
    silent: dict[str, Any] = {} if shown else {"disable": True}  # named, it would overrule TQDM_DISABLE
    with tqdm(total=total, desc=f"eval {name}", unit="sample", **silent) as bar:

        def beat() -> None:
            while not ended.wait(_BEAT):
                bar.refresh()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield bar
        finally:
            ended.set()
            thread.join()


def _batches(
    rows: Sequence[Mapping[str, Any]], lengths: Sequence[int], samples: int, batch_size: int
) -> Iterator[list[tuple[int, int]]]:
    """(row, sample) pairs of each batch: rows by prompt length, longest first, a function of the rows alone.

    A row's samples are in one batch where they fit, since they share its prefill.
    """
    length = [tokens or len(str(row["prompt"])) for tokens, row in zip(lengths, rows, strict=True)]
    order = sorted(range(len(rows)), key=lambda row: (-length[row], row))
    whole = max(batch_size // samples, 1) * samples if samples <= batch_size else batch_size
    pairs = [(row, sample) for row in order for sample in range(samples)]
    for start in range(0, len(pairs), whole):
        yield pairs[start : start + whole]


def _run(
    engine: Engine,
    task: Task,
    rows: Sequence[Mapping[str, Any]],
    lengths: Sequence[int],
    batch: Sequence[tuple[int, int]],
    sampling: Sampling,
    key: int,
) -> list[Generation]:
    room = engine.room()
    fits = [(r, s) for r, s in batch if room is None or lengths[r] + sampling.max_new_tokens <= room]
    texts = engine.generate([rows[row]["prompt"] for row, _ in fits], sampling, key=key) if fits else []
    grades = task.grade_many([text.text for text in texts], [rows[row] for row, _ in fits])
    out = [
        Generation(row, sample, text.text, text.tokens, text.finish, str(grade.status), grade.reason, grade.answer,
                   grade.share)
        for (row, sample), text, grade in zip(fits, texts, grades, strict=True)
    ]  # fmt: skip
    why = f"the prompt has %d tokens; with {sampling.max_new_tokens} new ones the model's context of {room} is exceeded"
    for row, sample in set(batch) - set(fits):
        out.append(Generation(row, sample, "", 0, "skipped", "unscorable", why % lengths[row], None, None))
    return out


def append_record(run: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Append one object to `evals.jsonl` of a run directory, flushed to disk before it returns."""
    Path(run).mkdir(parents=True, exist_ok=True)
    _append(Path(run) / "evals.jsonl", record)


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(line, allow_nan=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def _jsonable(value: Any) -> Any:
    """`value` with NaN, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
