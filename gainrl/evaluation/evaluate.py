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
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from gainrl.errors import UserError
from gainrl.evaluation.engines import Completed, Engine, Sampling, TransformersEngine
from gainrl.evaluation.metrics import majority_at_k, mean_interval, pass_at_k, row_accuracy
from gainrl.files import append_lines, plain, write_text

if TYPE_CHECKING:
    from gainrl.tasks import Task

Item = tuple[int, int]  # a row's number and a sample's
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


@dataclass
class Evaluation:
    """What came out.  Per-row arrays follow the order of the rows handed in.

    `accuracy` is avg@k, the mean over problems of the share of right completions among the scored ones (with one
    sample: pass@1); `interval` its 95 % bootstrap interval over problems; NaN where nothing could be scored.
    Unscorable completions count neither right nor wrong; `unscorable` is their number.
    """

    task: str
    rows: int
    samples: int
    sampling: Sampling
    generations: list[Generation]
    seconds: float

    def __post_init__(self) -> None:
        by_row = [Counter[str]() for _ in range(self.rows)]
        for one in self.generations:
            by_row[one.row][one.status] += 1
        self.right = [counts["right"] for counts in by_row]
        self.scored = [counts["right"] + counts["wrong"] for counts in by_row]
        self.unscorable = len(self.generations) - sum(self.scored)
        self.tokens = sum(one.tokens for one in self.generations)
        self.accuracy, low, high = mean_interval(row_accuracy(self.right, self.scored))
        self.interval = low, high

    def pass_at(self, k: int) -> tuple[float, float, float]:
        """Unbiased pass@k over the problems with at least k scored samples: mean, low, high."""
        return mean_interval(pass_at_k(self.right, self.scored, k))

    @property
    def majority(self) -> tuple[float, float, float]:
        """maj@k over the problems with a scored sample: mean, low, high.

        NaN where no scored sample has an answer, as with programs, over which votes cannot be counted.
        """
        votes: list[list[tuple[str, bool]]] = [[] for _ in range(self.rows)]
        for one in self.generations:
            if one.answer is not None and one.status != "unscorable":
                votes[one.row].append((one.answer, one.status == "right"))
        values = majority_at_k(votes)
        values[[count == 0 or not any(votes) for count in self.scored]] = math.nan
        return mean_interval(values)

    def record(self, stage: str, step: int | None = None, **more: Any) -> dict[str, Any]:
        """One line of evals.jsonl."""
        (low, high), majority = self.interval, self.majority
        record: dict[str, Any] = plain({
            "stage": stage, "task": self.task, "step": step, "accuracy": self.accuracy, "low": low, "high": high,
            "samples": self.samples, "rows": self.rows, "unscorable": self.unscorable,
            "truncated": sum(one.finish == "length" for one in self.generations), "tokens": self.tokens,
            "seconds": round(self.seconds, 3), "pass_at": {k: self.pass_at(k) for k in self._ks()},
            "majority": majority if self.samples > 1 and not math.isnan(majority[0]) else None,
            "sampling": asdict(self.sampling), **more,
        })  # fmt: skip
        return record

    def summary(self) -> str:
        """The figures in a few lines for people."""
        named = [(f"avg@{self.samples}", (self.accuracy, *self.interval))]
        named += [(f"pass@{k}", self.pass_at(k)) for k in self._ks()[1:]]
        if self.samples > 1 and not math.isnan(self.majority[0]):
            named.append((f"maj@{self.samples}", self.majority))
        lines = [
            f"{self.task}: {self.rows} problems, {self.samples} sample{'s' * (self.samples > 1)} each, "
            f"{self.tokens} tokens in {self.seconds:.1f} s",
            *(f"  {name:6} {mean:7.2%}  [{low:.2%}, {high:.2%}]" for name, (mean, low, high) in named),
        ]
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
    text = json.dumps([[row["prompt"], row["answer"]] for row in rows], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """The folder of one evaluation; `kept` holds the generations that are there, `seconds` the time they took.

    `settings.json` is what is evaluated (task, model, rows, samples ...); `generations.jsonl` has a line for each
    `Generation`, and the time so far.  With `resume`, a folder of equal settings goes on; any other folder that holds
    generations is refused, unless `overwrite`, with which the first finished batch replaces them.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False):
        self.path, self._about = folder / "generations.jsonl", folder / "settings.json"
        self._settings = json.loads(json.dumps(settings))
        self.kept: list[Generation] = []
        self.seconds = 0.0
        if folder.is_file():
            raise UserError(f"{str(folder)!r} is a file: name a folder for the generations")
        folder.mkdir(parents=True, exist_ok=True)
        self._new = overwrite or not self.path.exists()
        if self._new:
            return
        if not resume:
            raise UserError(f"{str(folder)!r} holds generations already; give resume to go on, or overwrite")
        try:
            before = dict(json.loads(self._about.read_text(encoding="utf-8")))
            *lines, _ = self.path.read_text(encoding="utf-8").split("\n")  # a write that a kill ended is left out
            for line in map(json.loads, lines):
                self.seconds = float(line.pop("seconds"))
                self.kept.append(Generation(**line))
            if any(type(number) is not int for one in self.kept for number in (one.row, one.sample, one.tokens)):
                raise ValueError("a number is missing")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{str(folder)!r} is damaged ({error}); give overwrite to start anew") from error
        now = self._settings
        if differ := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
            changes = "; ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in differ)
            raise UserError(f"{str(folder)!r} holds another evaluation ({changes}); choose another folder")
        write_text(self.path, "\n".join([*lines, ""]))

    def add(self, finished: Sequence[Generation], seconds: float) -> None:
        """Keep one batch; `seconds` is the time the evaluation has taken so far."""
        if self._new:
            self.path.unlink(missing_ok=True)
            write_text(self._about, json.dumps(self._settings) + "\n")
            self._new = False
        append_lines(self.path, [{**vars(one), "seconds": round(seconds, 3)} for one in finished])


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
    from gainrl.tasks import Grade, Status, UnscorableGuard

    if not rows:
        raise UserError(f"no rows of task {task.name!r} to evaluate")
    if samples < 1 or batch_size < 1:
        raise UserError(f"samples and batch_size must be at least 1, but are {samples} and {batch_size}")
    if samples > 1 and temperature == 0:
        raise UserError(f"{samples} samples at temperature 0 would all be equal; give a temperature above 0")
    task.check_ready()
    new = max_new_tokens or task.max_new_tokens
    sampling = Sampling(temperature, top_p, new, tuple(task.stop), seed)
    engine = engine or TransformersEngine(model, tokenizer)
    guard = UnscorableGuard(task.name, max_unscorable_share)
    began = time.monotonic() - (store.seconds if store else 0.0)
    done = {(one.row, one.sample): one for one in (store.kept if store else ())}
    lengths, room = [len(engine.encode(row["prompt"])) for row in rows], engine.room() or math.inf
    why = f"the prompt has %d tokens; with {new} new ones the model's context of {room} is exceeded"
    silent: dict[str, Any] = {} if progress else {"disable": True}  # named, it would overrule TQDM_DISABLE
    with tqdm(total=len(rows) * samples, desc=f"eval {task.name}", unit="sample", **silent) as bar:
        threading.Thread(target=_beat, args=(bar,), daemon=True).start()
        bar.update(len(done))
        for key, batch in enumerate(_batches(rows, lengths, samples, batch_size)):
            if all(item in done for item in batch):
                continue
            fits = [(row, sample) for row, sample in batch if lengths[row] + new <= room]
            given = [rows[row] for row, _ in fits]
            texts = engine.generate([row["prompt"] for row in given], sampling, key=key) if fits else []
            grades = task.grade_many([text.text for text in texts], given)
            for row, sample in set(batch) - set(fits):
                fits.append((row, sample))
                texts.append(Completed("", 0, "skipped"))
                grades.append(Grade(Status.UNSCORABLE, why % lengths[row]))
            finished = {
                item: Generation(*item, *astuple(text), *astuple(grade))
                for item, text, grade in zip(fits, texts, grades, strict=True)
                if item not in done
            }
            done |= finished
            if store:  # before the guard may stop the run, so that what was unscorable can be read
                store.add([*finished.values()], time.monotonic() - began)
            guard.add(finished.values())
            counts = Counter(one.status for one in done.values())
            scored = counts["right"] + counts["wrong"]
            bar.set_postfix_str(f"{counts['right'] / scored:.1%} right" if scored else "nothing scored", refresh=False)
            bar.update(len(finished))
    guard.finish()
    kept = [done[row, sample] for row in range(len(rows)) for sample in range(samples)]
    return Evaluation(task.name, len(rows), samples, sampling, kept, time.monotonic() - began)


def _beat(bar: Any) -> None:
    """Refresh the bar every few seconds, however long a batch takes, until it is closed."""
    while not bar.disable:
        time.sleep(_BEAT)
        bar.refresh()


def _batches(rows: Sequence[Any], lengths: Sequence[int], samples: int, batch_size: int) -> Iterator[list[Item]]:
    """The items of each batch: rows by prompt length, longest first, a function of the rows alone."""
    order = sorted(range(len(rows)), key=lambda row: (-(lengths[row] or len(str(rows[row]["prompt"]))), row))
    items = [(row, sample) for row in order for sample in range(samples)]
    return (items[start : start + batch_size] for start in range(0, len(items), batch_size))


def append_record(run: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Append one object to `evals.jsonl` of a run directory, flushed to disk before it returns."""
    append_lines(Path(run) / "evals.jsonl", [record])
