"""What the tasks with programs share: isolation first, one request a completion, grades from verdicts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from gainrl.tasks.base import Grade, Row, Status, Task
from gainrl.tasks.programs.statement import several
from gainrl.tasks.sandbox import Limits, Verdict, require_isolation, shared_graders

UNREADABLE = (ValueError, SyntaxError, TypeError, KeyError, RecursionError)  # what reading a row's tests may raise
METHOD = "Complete this class:\n```python\n{starter}\n```"


class CodeTask(Task):
    """Completions are programs, each run in a sandbox of its own (`gainrl.tasks.sandbox`), tests passed or not.

    Grading stops at the first test that fails; with `share_of_tests` all of them run and `Grade.share` tells how many
    passed.  `limits` bounds each program.
    """

    max_new_tokens = 2048
    limits = Limits()
    share_of_tests = False

    def check_ready(self) -> None:
        require_isolation()

    def row_of(self, name: Any, asked: str, question: str, gold: Any, metadata: dict[str, Any]) -> Row:
        """A row; `name` is the dataset's own identifier or None, `asked` what the prompt has of the problem."""
        row: Row = {} if name is None else {"id": str(name)}
        prompt = self.prompt.render(asked)
        return {**row, "prompt": prompt, "question": question, "answer": str(gold or ""), "metadata": metadata}

    @abstractmethod
    def request(self, completion: str, row: Mapping[str, Any]) -> dict[str, Any] | Grade:
        """The grader's request for one completion (`gainrl.tasks.sandbox.grader`)."""

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade | dict[str, Any]:
        if not completion.strip():
            return Grade(Status.WRONG, "an empty completion", share=0.0)
        if why := row["metadata"].get("why"):
            return Grade(Status.UNSCORABLE, why)
        return self.request(completion, row)

    def ask(self, requests: Sequence[dict[str, Any]]) -> Sequence[Verdict]:
        return shared_graders().grade([{**one, "all": self.share_of_tests} for one in requests], self.limits)

    def decide(self, reply: Verdict, row: Mapping[str, Any]) -> Grade:
        share = reply.passed / reply.total if reply.total else None
        if reply.differs and several(str(row.get("question") or "")):
            reason = f"several outputs are right, and only one is known: {reply.reason}"
            return Grade(Status.UNSCORABLE, reason, share=share)
        return Grade(Status(reply.verdict), reply.reason, share=share)
