"""HumanEval: 164 Python functions to complete (Chen et al. 2021, arXiv 2107.03374).

Hub: `openai/openai_humaneval`, split `test`. Columns: `task_id`, `prompt`, `entry_point`, `canonical_solution`,
`test`. The dataset's own `check(candidate)` runs in one sandbox, the completion in another; calls and plain
results go between.
"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import indent
from typing import Any

from gainrl.tasks.base import Grade, Row
from gainrl.tasks.loading import Source
from gainrl.tasks.programs.extract import defines, imports_for, lifted, program, trimmed
from gainrl.tasks.programs.task import CodeTask


class HumanEval(CodeTask):
    name = "humaneval"
    source = Source("openai/openai_humaneval")
    splits = ("test",)
    columns: tuple[str, ...] = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    template = "humaneval"
    max_new_tokens = 1024

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        question, about = str(item["prompt"]), {name: str(item[name]) for name in ("entry_point", "test")}
        return self.row_of(item["task_id"], question, question, item["canonical_solution"], about)

    def request(self, completion: str, row: Mapping[str, Any]) -> dict[str, Any] | Grade:
        entry, question, test = row["metadata"]["entry_point"], row["question"], row["metadata"]["test"]
        code = whole(completion, str(question), entry)
        return {"kind": "check", "code": code, "entry": entry, "prompt": question, "test": test}

    def gold(self, row: Mapping[str, Any]) -> str:
        return f"```python\n{row['question']}{row['answer']}\n```"


def whole(completion: str, prompt: str, entry: str) -> str:
    """A whole program: the prompt with its imports and helpers, then the completion's function or body."""
    code = program(completion, entry)
    if defines(code, entry):
        return lifted(f"{imports_for(code)}{prompt}\n    pass\n\n{code}")
    if code.strip() and not code.lstrip("\n")[0].isspace():
        code = indent(code, "    ")
    return trimmed(prompt + code)
