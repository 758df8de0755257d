"""Prompt templates as data: a system prompt, worked examples, and how a question is put between them.

The packaged templates are the JSON files beside this one; any of them can be replaced by a file of the same form:

    {"style": "chat" | "plain", "system": "...", "question": "{question}", "answer": "{answer}",
     "separator": "\\n\\n", "examples": [{"question": "...", "answer": "..."}]}

`question` and `answer` are format strings for the text around a question and a worked answer; `{question}` must
occur exactly once in the former, so that the question can be found in the prompt again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from gainrl.errors import UserError

_FIELDS = ("style", "system", "question", "answer", "separator", "examples", "about")


@dataclass(frozen=True)
class PromptTemplate:
    """What stands around a question: `chat` gives messages, `plain` one string with `separator` between the parts."""

    style: str = "chat"
    system: str = ""
    question: str = "{question}"
    answer: str = "{answer}"
    separator: str = "\n\n"
    examples: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.style not in ("chat", "plain"):
            raise UserError(f"the prompt's style is {self.style!r}; it must be 'chat' or 'plain'")
        if self.question.count("{question}") != 1:
            raise UserError(f"the prompt's 'question' must hold {{question}} once, but is {self.question!r}")
        if self.answer.count("{answer}") != 1:
            raise UserError(f"the prompt's 'answer' must hold {{answer}} once, but is {self.answer!r}")

    def render(self, question: str) -> list[dict[str, str]] | str:
        """The prompt for one question: a chat, or plain text that ends where the model goes on."""
        # str.replace, not str.format: questions and templates are full of LaTeX braces
        asked = self.question.replace("{question}", question)
        shown = [(self.question.replace("{question}", q), self.answer.replace("{answer}", a)) for q, a in self.examples]
        if self.style == "plain":
            system = [self.system] if self.system else []
            return self.separator.join([*system, *(q + a for q, a in shown), asked])
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for q, a in shown:
            messages += [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        return [*messages, {"role": "user", "content": asked}]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> PromptTemplate:
        """A template from a JSON file."""
        origin = f"the prompt template {os.fspath(path)!r}"
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{origin} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{origin} is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise UserError(f"{origin} must be a JSON object")
        if unknown := sorted(set(data) - set(_FIELDS)):
            raise UserError(f"{origin}: unknown field {', '.join(unknown)}; a prompt template has {', '.join(_FIELDS)}")
        try:
            shown = tuple((str(e["question"]), str(e["answer"])) for e in data.get("examples", []))
        except (KeyError, TypeError) as error:
            raise UserError(f"{origin}: 'examples' must be a list of objects with 'question' and 'answer'") from error
        texts = {key: data[key] for key in _FIELDS[:5] if key in data}
        if wrong := [key for key, value in texts.items() if not isinstance(value, str)]:
            raise UserError(f"{origin}: {', '.join(wrong)} must be a string")
        return cls(**texts, examples=shown)

    @classmethod
    def packaged(cls, name: str) -> PromptTemplate:
        """The template that ships under this name."""
        return cls.read(Path(__file__).with_name(f"{name}.json"))
