"""What the tasks with programs share: isolation first, one request a completion, grades from verdicts."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from gainrl.tasks.base import Completion, Grade, Status, Task, text_of
from gainrl.tasks.programs.statement import several
from gainrl.tasks.sandbox import Limits, require_isolation, shared_graders

_OTHER = re.compile(r"\b(?:prints|gives) .*, not ", re.DOTALL)  # the grader's words for another output than expected


class Unscorable(Exception):
    """A row that cannot be graded; the message says why."""


class CodeTask(Task):
    """Completions are programs, each run in a sandbox of its own (`gainrl.tasks.sandbox`), tests passed or not.

    Grading stops at the first test that fails; with `share_of_tests` all of them run and `Grade.share` says how many
    passed.  `limits` bounds each program.
    """

    max_new_tokens = 2048
    limits = Limits()
    share_of_tests = False

    def check_ready(self) -> None:
        require_isolation()

    @abstractmethod
    def request(self, completion: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """The grader's request for one completion.  May raise `Unscorable`."""

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade:
        return self.grade_many([completion], [row])[0]

    def grade(self, completion: Completion, row: Mapping[str, Any]) -> Grade:
        return self.grade_many([completion], [row])[0]

    def grade_many(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Grade on all cores.  Raises `UserError` where programs cannot be isolated."""
        require_isolation()
        grades: list[Grade | None] = []
        requests: list[dict[str, Any]] = []
        for completion, row in zip(completions, rows, strict=True):
            text = text_of(completion)
            if not text.strip():
                grades.append(Grade(Status.WRONG, "an empty completion", share=0.0))
                continue
            try:
                requests.append({**self.request(text, row), "all": self.share_of_tests})
                grades.append(None)
            except Unscorable as error:
                grades.append(Grade(Status.UNSCORABLE, str(error)))
            except Exception as error:
                grades.append(Grade(Status.UNSCORABLE, f"the grader failed: {type(error).__name__}: {error}"))
        verdicts = iter(shared_graders().grade(requests, self.limits))
        return [grade or self._grade(next(verdicts), row) for grade, row in zip(grades, rows, strict=True)]

    @staticmethod
    def _grade(verdict: Any, row: Mapping[str, Any]) -> Grade:
        share = verdict.passed / verdict.total if verdict.total else None
        if verdict.verdict == "wrong" and _OTHER.search(verdict.reason) and several(str(row.get("question") or "")):
            return Grade(
                Status.UNSCORABLE, f"several outputs are right, and only one is known: {verdict.reason}", share=share
            )
        return Grade(Status(verdict.verdict), verdict.reason, share=share)
