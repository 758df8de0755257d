"""What the tasks with programs share: isolation first, one request a completion, grades from verdicts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from gainrl.tasks.base import Completion, Grade, Status, Task, guarded, text_of
from gainrl.tasks.programs.statement import several
from gainrl.tasks.sandbox import Limits, Verdict, require_isolation, shared_graders

METHOD = "Complete this class:\n```python\n{starter}\n```"


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

    def grade_many(self, completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Grade on all cores.  Raises `UserError` where programs cannot be isolated."""
        require_isolation()
        asked = [guarded(self._asked, text_of(text), row) for text, row in zip(completions, rows, strict=True)]
        requests = [one for one in asked if not isinstance(one, Grade)]
        verdicts = iter(shared_graders().grade(requests, self.limits))
        return [
            one if isinstance(one, Grade) else _grade(next(verdicts), row) for one, row in zip(asked, rows, strict=True)
        ]

    def _asked(self, text: str, row: Mapping[str, Any]) -> dict[str, Any] | Grade:
        if not text.strip():
            return Grade(Status.WRONG, "an empty completion", share=0.0)
        try:
            if why := row["metadata"].get("why"):
                raise Unscorable(why)
            return {**self.request(text, row), "all": self.share_of_tests}
        except Unscorable as error:
            return Grade(Status.UNSCORABLE, str(error))


def _grade(verdict: Verdict, row: Mapping[str, Any]) -> Grade:
    share = verdict.passed / verdict.total if verdict.total else None
    if verdict.differs and several(str(row.get("question") or "")):
        reason = f"several outputs are right, and only one is known: {verdict.reason}"
        return Grade(Status.UNSCORABLE, reason, share=share)
    return Grade(Status(verdict.verdict), verdict.reason, share=share)
