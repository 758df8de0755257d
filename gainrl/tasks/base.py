"""The contract of a task: where its rows come from, how a prompt is made, how a completion is graded.

A row is a plain dictionary with

- `prompt`: a chat (list of `{"role", "content"}`) or, for plain-text tasks, one string that ends where the model
  has to go on;
- `question`: the text of the question as it stands inside the prompt (its last occurrence there);
- `answer`: the gold answer, a string;
- `id` (optional): the dataset's own identifier, and `metadata` (optional): flat, JSON-able values that grading needs.

A grade is right, wrong or unscorable.  Wrong is the completion's fault, unscorable is ours or the dataset's (no
gold answer, a grader that crashed or ran out of time); it is never turned into a wrong.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from gainrl.errors import UserError
from gainrl.tasks.loading import Source, stream_rows
from gainrl.tasks.prompts import PromptTemplate

Row = dict[str, Any]
Message = Mapping[str, str]
Completion = str | Sequence[Message]

PROBED = 40  # rows on which the self-check tries each probe


class Status(StrEnum):
    """What grading one completion came to."""

    RIGHT = "right"
    WRONG = "wrong"
    UNSCORABLE = "unscorable"


@dataclass(frozen=True)
class Grade:
    """The grade of one completion.

    `reason` says why it is wrong or unscorable.  `answer` is what was read from the completion, in a canonical spelling
    for maj@k (None if there is none, or votes make no sense).  `share` is the share of tests passed.
    """

    status: Status
    reason: str = ""
    answer: str | None = None
    share: float | None = None

    @property
    def correct(self) -> bool:
        return self.status is Status.RIGHT

    @property
    def scored(self) -> bool:
        return self.status is not Status.UNSCORABLE


@dataclass
class SelfCheck:
    """How a task's grader judges its own gold answers, and constants that answer nothing.

    `failures`: (row number, grade) of gold answers that are not right.  With probes, `commonest` is the commonest gold
    answer and its share, `constants` are the answers that are right too often, with theirs.
    """

    task: str
    rows: int
    failures: list[tuple[int, Grade]] = field(default_factory=list)
    commonest: tuple[str, float] | None = None
    constants: list[tuple[str, float]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.rows > 0 and not self.failures and not self.constants

    def __str__(self) -> str:
        right = self.rows - len(self.failures)
        lines = [f"{self.task}: {right} of {self.rows} gold answers graded right"]
        if self.commonest is not None:
            answer, share = self.commonest
            lines.append(f"  the commonest gold answer, {answer[:40]!r}, is that of {share:.1%} of the rows")
        lines += [f"  row {row}: {grade.status} ({grade.reason})" for row, grade in self.failures]
        lines += [f"  {answer[:60]!r} is right in {share:.1%} of the rows" for answer, share in self.constants]
        return "\n".join(lines)


class Task(ABC):
    """One dataset with its prompt and its grader.  Subclasses fill the class attributes and the abstract methods.

    `argument` is what follows the first colon of the name (`reasoning-gym:chain_sum`); `prompt` replaces the task's
    own prompt template; `source` replaces where `load` reads from (a path or a hub id).
    """

    name: str  # in the registry
    source: Source | None = None  # where rows come from unless the caller names another place; None if generated
    splits: tuple[str, ...] = ("train", "test")  # that `load` knows; the last one is held out
    columns: tuple[str, ...] = ("question", "answer")  # that a source must have; "a|b" is either of two
    template: str = ""  # name of the packaged prompt template, gainrl/tasks/prompts/<template>.json
    stop: tuple[str, ...] = ()  # strings that end a completion, besides the tokenizer's end token
    probes: tuple[str, ...] = ()  # answers without reading, for the self-check; "{question}" is the row's
    max_new_tokens: int = 1024  # of a completion, unless the caller gives another number

    def __init__(self, argument: str = "", *, prompt: PromptTemplate | str | os.PathLike[str] | None = None):
        if argument:
            raise UserError(f"task {self.name!r} takes nothing after a colon, but got {argument!r}")
        if prompt is None:
            prompt = PromptTemplate.packaged(self.template or self.name)
        self.prompt = prompt if isinstance(prompt, PromptTemplate) else PromptTemplate.read(prompt)

    @property
    def held_out_split(self) -> str:
        """The split that training never sees."""
        return self.splits[-1]

    def load(
        self, split: str | None = None, source: str | os.PathLike[str] | None = None, limit: int | None = None
    ) -> list[Row]:
        """Rows of one split (the held-out one by default), in the dataset's order, at most `limit` of them.

        `source` is a local `.jsonl`, `.json`, `.parquet` (or gzipped JSON) file in the dataset's own schema, or another
        hub id.  Raises `UserError` for an unknown split, a missing file or column, a hub that does not answer.
        """
        return list(self._rows(split, source, limit))

    def stream(
        self, split: str | None = None, source: str | os.PathLike[str] | None = None, limit: int | None = None
    ) -> tuple[int, Iterator[Row]]:
        """The number of rows that `load` gives, and these one at a time, in memory that does not grow.

        All is read once before, so that whatever `load` raises is raised here.
        """
        return sum(1 for _ in self._rows(split, source, limit)), self._rows(split, source, limit)

    def _rows(self, split: str | None, source: str | os.PathLike[str] | None, limit: int | None) -> Iterator[Row]:
        """The rows that `load` and `stream` give; raises what `load` does when the first one is asked for."""
        if limit is not None and limit < 1:
            raise UserError(f"limit must be at least 1, but is {limit}")
        split = split or self.held_out_split
        if split not in self.splits:
            raise UserError(f"task {self.name!r} has no split {split!r}; its splits are {', '.join(self.splits)}")
        kept = (item for item in self.records(split, source) if self.keeps(item, split))
        yield from (self.row(item, index) for index, item in enumerate(islice(kept, limit)))

    def records(self, split: str, source: str | os.PathLike[str] | None) -> Iterator[Mapping[str, Any]]:
        """The records behind the rows; a task that generates its problems has its own."""
        return stream_rows(source, self.source, split, self.columns, self.name)

    def keeps(self, item: Mapping[str, Any], split: str) -> bool:
        """Whether a record is of this split, where the source itself has none."""
        return True

    @abstractmethod
    def row(self, item: Mapping[str, Any], index: int) -> Row:
        """The row for one record of the source."""

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade | dict[str, Any]:
        """The grade of one completion's text, or the request that `ask` hands on.  Raising is unscorable."""
        raise NotImplementedError

    def ask(self, requests: Sequence[dict[str, Any]]) -> Sequence[Any]:
        """What other processes reply to the requests of `judge`, in order."""
        raise NotImplementedError

    def decide(self, reply: Any, row: Mapping[str, Any]) -> Grade:
        """The grade that follows from a reply."""
        return Grade(Status(reply["verdict"]), reply["reason"], reply.get("answer") or None, reply.get("share"))

    @abstractmethod
    def gold(self, row: Mapping[str, Any]) -> str | None:
        """A completion with the gold answer as the prompt asks for it, for the self-check; None if the row has none."""

    def check_ready(self) -> None:  # noqa: B027  (a hook; most tasks need nothing)
        """Raise `UserError` where this machine lacks what grading needs; called before generating and grading."""

    def grade(self, completion: Completion, row: Mapping[str, Any]) -> Grade:
        """Grade one completion, given as text or as messages.  Never raises for what a completion or a row holds."""
        return self.grade_many([completion], [row])[0]

    def grade_many(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Grade `completions[i]` against `rows[i]`; tasks with slow graders spread this over processes."""
        self.check_ready()
        judged = [self._judged(text_of(text), row) for text, row in zip(completions, rows, strict=True)]
        requests = [one for one in judged if not isinstance(one, Grade)]
        replies = iter(self.ask(requests) if requests else ())
        pairs = zip(judged, rows, strict=True)
        return [one if isinstance(one, Grade) else self.decide(next(replies), row) for one, row in pairs]

    def _judged(self, text: str, row: Mapping[str, Any]) -> Grade | dict[str, Any]:
        """What `judge` gives, or unscorable if it fails on its own account."""
        try:
            return self.judge(text, row)
        except UserError:
            raise
        except Exception as error:
            return Grade(Status.UNSCORABLE, f"the grader failed: {type(error).__name__}: {error}")

    def self_check(self, rows: Iterable[Mapping[str, Any]]) -> SelfCheck:
        """Grade every gold answer that `rows` have, all of which ought to be right, and the task's `probes`.

        A probe may be right as often as its answer is the gold one, plus 5 points of luck; `PROBED` rows are tried.
        """
        rows = list(rows)
        numbered = [(index, row, gold) for index, row in enumerate(rows) if (gold := self.gold(row)) is not None]
        grades = self.grade_many([gold for _, _, gold in numbered], [row for _, row, _ in numbered])
        failures = [(index, grade) for (index, _, _), grade in zip(numbered, grades, strict=True) if not grade.correct]
        commonest, constants, tried = None, [], rows[:PROBED]
        if numbered and self.probes:
            answer, count = Counter(str(row.get("answer")) for _, row, _ in numbered).most_common(1)[0]
            commonest = (answer, count / len(numbered))
        for probe in self.probes if tried else ():
            texts = [probe.replace("{question}", str(row.get("question"))) for row in tried]
            share = sum(grade.correct for grade in self.grade_many(texts, tried)) / len(tried)
            if share > sum(_plain(self.gold(row)) == _plain(probe) for row in tried) / len(tried) + 0.05:
                constants.append((probe, share))
        return SelfCheck(self.name, len(numbered), failures, commonest, constants)

    def reward_function(
        self, *, partial: bool = False, max_unscorable_share: float = 0.1
    ) -> Callable[..., list[float | None]]:
        """A reward with TRL's signature: 1.0 right, 0.0 wrong, None unscorable (left out by TRL).

        The dataset's columns arrive as keyword arguments, one list each, and make up the rows again.  With
        `partial` the reward is the share of tests passed where the task runs tests.  The function's `counts` says how
        many of each status it gave so far.  Once 50 completions or more were graded and more than
        `max_unscorable_share` of all, or of the latest 200, are unscorable it raises `UserError` with the reasons.
        """
        self.check_ready()
        guard = UnscorableGuard(self.name, max_unscorable_share)

        def reward(
            prompts: Sequence[Any] | None = None, completions: Sequence[Completion] = (), **columns: Any
        ) -> list[float | None]:
            rows = rows_of(columns, len(completions))
            grades = self.grade_many(completions, rows)
            guard.add(grades)
            return [
                None if not g.scored else g.share if partial and g.share is not None else float(g.correct)
                for g in grades
            ]

        reward.__name__ = f"{self.name.replace('-', '_').replace(':', '_')}_reward"
        reward.counts = guard.counts  # type: ignore[attr-defined]
        return reward


class UnscorableGuard:
    """Counts grades and stops the run when too many are unscorable, with the reasons.

    It judges once `least` grades are seen, `finish` however few they were.  The latest `LATEST` grades are judged by
    themselves too, since a grader that dies late in a long run would hide behind the good grades before.
    """

    LATEST = 200

    def __init__(self, task: str, share: float, least: int = 50):
        if not 0 <= share <= 1:
            raise UserError(f"max_unscorable_share must lie in [0, 1], but is {share}")
        self.task, self.share, self.least = task, share, least
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._latest: deque[str | None] = deque(maxlen=self.LATEST)  # why unscorable, or None

    def add(self, grades: Iterable[Any]) -> None:
        """Count grades (anything with a status and a reason); raises `UserError` if too many are unscorable."""
        for grade in grades:
            self.counts[str(grade.status)] += 1
            self._latest.append(grade.reason if grade.status == Status.UNSCORABLE else None)
            if grade.status == Status.UNSCORABLE:
                self.reasons[grade.reason] += 1
        if self.counts.total() >= self.least:
            self.finish()
        if len(self._latest) == self.LATEST:
            latest = Counter(reason for reason in self._latest if reason is not None)
            self._judge(self.LATEST, latest, "the latest ")

    def finish(self) -> None:
        """Judge what was counted, even if that is less than `least`."""
        self._judge(self.counts.total(), self.reasons, "")

    def _judge(self, total: int, reasons: Counter[str], which: str) -> None:
        bad = reasons.total()
        if bad > self.share * total:
            why = "; ".join(f"{count} times: {reason}" for reason, count in reasons.most_common(5))
            raise UserError(
                f"{bad} of {which}{total} completions of task {self.task!r} could not be graded, "
                f"more than the allowed share {self.share:g}: {why}"
            )


def _plain(text: str | None) -> str:
    """A gold answer or a probe without letter case and the zeros of `1.0`."""
    return re.sub(r"(?<=\d)\.0+(?!\d)", "", text or "").lower()


def held_out(text: str, share: float) -> bool:
    """Whether a problem belongs to the held-out `share`, by a hash of its text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) < share * 2**64


def rows_of(columns: Mapping[str, Any], count: int) -> list[Row]:
    """Columns as TRL hands them over (lists of `count` values; anything else is not a column) as rows."""
    lists = {key: held for key, held in columns.items() if isinstance(held, list | tuple) and len(held) == count}
    return [{key: values[index] for key, values in lists.items()} for index in range(count)]


def text_of(completion: Completion) -> str:
    """The text of a completion; of a list of messages, that of the last one if the assistant wrote it, else none."""
    if isinstance(completion, str):
        return completion
    last: Mapping[str, Any] = completion[-1] if completion else {"role": "none"}
    content = (last.get("content") or "") if last.get("role", "assistant") == "assistant" else ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
