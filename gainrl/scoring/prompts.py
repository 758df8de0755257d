"""Prompts to tokens with roles: which tokens are the prefix, which the question, which are left out.

In a chat the question is the content of the last user message, found in the rendered text for any template; in plain
text it is the text `question` (its last occurrence in the prompt), or what follows the last occurrence of a marker, or
the whole prompt.  A token that overlaps a question character is question, tokens before the first such one are prefix,
and those after the last one are dropped: a causal model's states before them do not depend on them.

A prompt that cannot be rendered is a `Rendered` with a reason, never an exception: one bad row does not stop a run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gainrl.errors import UserError
from gainrl.table import Message, Prompt, as_written

if TYPE_CHECKING:
    from gainrl.scoring.settings import ScoringSettings

_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_CHUNK = 256
"""Prompts tokenised at once: their character offsets are Python objects, about 250 bytes a token."""
_PLACEHOLDER = "gainrlquestionplaceholder"  # stands where the question goes; one plain word, so templates keep it


@dataclass(frozen=True)
class ScoringPrompt:
    """One dataset row as the scorer takes it."""

    prompt: Prompt
    question: str | None = None
    """Plain text only: the question's text inside `prompt`."""
    problem: str | None = None
    """Why the dataset's row is no prompt at all."""


@dataclass(frozen=True)
class Rendered:
    """A prompt as tokens, or the reason why it has none.

    `tokens` (L,) int32 ends with the question's last token; `prefix` of them, at the start, are prefix.
    `status` is `ok`, `undefined` (empty question), `skipped` (too long) or `failed`.
    """

    tokens: npt.NDArray[np.int32]
    prefix: int
    status: str = "ok"
    reason: str | None = None

    @property
    def question(self) -> int:
        """Number of question tokens."""
        return len(self.tokens) - self.prefix


def _without(status: str, reason: str) -> Rendered:
    return Rendered(np.empty(0, dtype=np.int32), 0, status, reason)


def _text(content: Any) -> Any:
    """A message's content as text, where it is text or a list of text parts; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    kinds = {part.get("type", "text") for part in content if isinstance(part, Mapping)}
    return "".join(texts) if kinds <= {"text"} and all(isinstance(text, str) for text in texts) else content


def _parts(message: Any) -> Any:
    """The message with its text as a list of one part."""
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


class _RowError(Exception):
    """(status, reason) of a row without tokens."""


class PromptRenderer:
    """Renders prompts with one tokenizer, or a processor that has one; `max_tokens` is the model's context, if any."""

    def __init__(self, tokenizer: Any, settings: ScoringSettings, max_tokens: int | None = None) -> None:
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        self.settings, self.max_tokens = settings, max_tokens
        self._given = tokenizer
        self._frames: dict[str, tuple[str, str]] = {}
        self._fixed: tuple[str, str] | None = None
        self._in_parts = False  # whether the template wants contents as lists of parts

    @property
    def chat_template(self) -> Any:
        """The chat template: the tokenizer's, or the processor's where the tokenizer has none."""
        return self.tokenizer.chat_template or getattr(self._given, "chat_template", None)

    def require_usable(self, prompt: Prompt) -> None:
        """Raise UserError if prompts of this kind can never be rendered (checked on the first row, before scoring)."""
        if isinstance(prompt, str) or not isinstance(prompt, Sequence):
            return
        if not self.chat_template:
            raise UserError(
                f"the tokenizer {self.tokenizer.name_or_path!r} has no chat template, and the dataset's prompts are "
                "chats: use an instruction-tuned model, or give plain-text prompts"
            )
        if self.settings.question_after is not None:
            raise UserError("--question-after is for plain text; in a chat the question is the last user message")

    def __call__(self, rows: Sequence[ScoringPrompt]) -> list[Rendered]:
        """Render and tokenise rows; the result has one entry for each, in order."""
        chunks = (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
        return [rendered for chunk in chunks for rendered in self._chunk(chunk)]

    def _chunk(self, rows: Sequence[ScoringPrompt]) -> list[Rendered]:
        results: list[Any] = [None] * len(rows)
        located: dict[bool, list[tuple[int, str, tuple[int, int]]]] = {True: [], False: []}
        for i, row in enumerate(rows):
            try:
                located[isinstance(row.prompt, str)].append((i, *self._locate(row)))
            except _RowError as error:
                results[i] = _without(*error.args)
        for plain, found in located.items():  # a rendered chat already holds its special tokens
            encoded = self._encode([text for _, text, _ in found], special=plain)
            for (i, _, span), tokens in zip(found, encoded, strict=True):
                results[i] = self._roles(tokens, span)
        return results

    def _locate(self, row: ScoringPrompt) -> tuple[str, tuple[int, int]]:
        """The rendered text and the question's character span in it."""
        prompt: Any = as_written(row.prompt)
        if row.problem is not None:
            raise _RowError("failed", row.problem)
        if isinstance(prompt, str):
            located = self._locate_in_text(prompt, row.question)
        elif isinstance(prompt, list):
            located = self._locate_in_chat(prompt)
        else:
            raise _RowError("failed", f"prompt is a {type(row.prompt).__name__}, not text or a list of messages")
        try:
            located[0].encode()
        except UnicodeEncodeError:
            raise _RowError("failed", "the prompt holds a lone surrogate, which is no text") from None
        return located

    def _locate_in_text(self, prompt: str, question: str | None) -> tuple[str, tuple[int, int]]:
        if not prompt:
            raise _RowError("undefined", "empty prompt")
        if (marker := self.settings.question_after) is not None:
            at = prompt.rfind(marker)
            if at < 0:
                raise _RowError("failed", f"the prompt does not contain {marker!r} (--question-after)")
            start, end = at + len(marker), len(prompt)
        elif question is not None:
            if not isinstance(question, str):
                raise _RowError("failed", f"the column 'question' is a {type(question).__name__}, not text")
            if not question.strip():
                raise _RowError("undefined", "empty question")
            if (start := prompt.rfind(question)) < 0:
                raise _RowError("failed", "the column 'question' does not occur in the column 'prompt'")
            end = start + len(question)
        else:
            start, end = 0, len(prompt)
        if not prompt[start:end].strip():
            raise _RowError("undefined", "empty question")
        return prompt, (start, end)

    def _locate_in_chat(self, messages: list[Any]) -> tuple[str, tuple[int, int]]:
        try:
            last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        except ValueError:
            raise _RowError("failed", "the chat has no user message") from None
        except (KeyError, TypeError):
            raise _RowError("failed", "a message is not an object with 'role' and 'content'") from None
        messages = [{**message, "content": _text(message.get("content"))} for message in messages]
        content = messages[last]["content"]
        if not isinstance(content, str):
            wrong = "is missing" if content is None else f"is a {type(content).__name__}, not text"
            raise _RowError("failed", f"the last user message's content {wrong}")
        if not content.strip():
            raise _RowError("undefined", "empty question")
        messages = [{k: v for k, v in message.items() if v is not None} for message in messages]
        try:  # some templates take strings, some lists of parts; what served last is tried first
            return self._find(messages, last, content)
        except _RowError as error:
            self._in_parts = not self._in_parts
            with suppress(_RowError):
                return self._find(messages, last, content)
            self._in_parts = not self._in_parts
            raise error from None

    def _find(self, messages: list[Any], last: int, content: str) -> tuple[str, tuple[int, int]]:
        """The rendered chat, and the span of the last user message's `content` in it."""
        messages = [*map(_parts, messages)] if self._in_parts else messages
        text = self._render(messages)
        before, after = self._frame(messages, last)
        if isinstance(messages[last]["content"], list) and "{'type': 'text'" in text:
            raise _RowError("failed", "the chat template prints the parts of a message as Python does")
        if text.startswith(before) and text.endswith(after) and len(before) + len(after) <= len(text):
            middle = text[len(before) : len(text) - len(after)]
            for kept in (content, content.strip()):  # many templates trim the content
                if (offset := middle.find(kept)) >= 0:
                    start = len(before) + offset
                    return text, (start, start + len(kept))
        raise _RowError("failed", "the chat template rewrites the question: its text does not stand in the result")

    def _frame(self, messages: Sequence[Message], last: int) -> tuple[str, str]:
        """What the template puts before and after the question, found by rendering a placeholder in its place."""
        framed = list(messages)
        placeholder = {**framed[last], "content": _PLACEHOLDER}
        framed[last] = _parts(placeholder) if isinstance(framed[last]["content"], list) else placeholder
        key = repr(framed)
        if key not in self._frames:
            before, found, after = self._render(framed).rpartition(_PLACEHOLDER)
            if not found:
                raise _RowError("failed", "the chat template drops or rewrites the last user message")
            if len(self._frames) >= 256:  # prompts with as many frames share nothing worth remembering
                self._frames.clear()
            self._frames[key] = before, after
        return self._frames[key]

    def _render(self, messages: Sequence[Message]) -> str:
        """The chat as text, with the fixed date for templates that ask for today's."""
        more = self.settings.chat_template_kwargs or {}
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), chat_template=self._template(), tokenize=False, add_generation_prompt=True, **more
            )
        except Exception as error:  # a template is a program of the model's author: it may raise anything
            raise _RowError("failed", f"the chat template refuses the chat: {error}") from error
        assert isinstance(text, str)
        return text

    def _template(self) -> str:
        """The chat template's source with today's date fixed: `strftime_now("...")` becomes a literal."""
        source = self.tokenizer.get_chat_template() if self.tokenizer.chat_template else self.chat_template
        if self._fixed is None or self._fixed[0] != source:
            date = self.settings.date
            fixed = _TODAY.sub(lambda call: repr(date.strftime(call[2])), source)
            if "strftime_now(" in fixed:  # a format that is only known when rendering
                fixed = f"{{%- macro strftime_now(format) -%}}{date.isoformat()}{{%- endmacro -%}}" + fixed
            self._fixed = (source, fixed)
            self._frames.clear()
        return self._fixed[1]

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[Any]:
        """(token ids, character offsets) of each text, or what the tokenizer raised."""
        if not texts:
            return []
        try:
            batch: Any = self.tokenizer(
                texts, add_special_tokens=special, return_offsets_mapping=True, return_attention_mask=False,
                padding=False, truncation=False, verbose=False,
            )  # fmt: skip
            return list(zip(batch["input_ids"], batch["offset_mapping"], strict=True))
        except Exception as error:  # tokenizers raise bare Exceptions
            if len(texts) == 1:
                return [error]
        return [one for text in texts for one in self._encode([text], special=special)]

    def _roles(self, encoded: Any, span: tuple[int, int]) -> Rendered:
        if isinstance(encoded, Exception):
            return _without("failed", f"the tokenizer refuses the text: {encoded}")
        ids, offsets = encoded
        start, end = span
        bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        overlaps = np.flatnonzero((bounds[:, 0] < end) & (bounds[:, 1] > start) & (bounds[:, 1] > bounds[:, 0]))
        if not len(overlaps):
            return _without("undefined", "the question has no tokens")
        first, last = int(overlaps[0]), int(overlaps[-1])
        tokens = np.asarray(ids[: last + 1], dtype=np.int32)
        if self.max_tokens is None or len(tokens) <= self.max_tokens:
            return Rendered(tokens, first)
        too_long = f"{len(tokens)} tokens, the model's context holds {self.max_tokens}"
        if self.settings.too_long == "skip" or first >= self.max_tokens:
            return _without("skipped", too_long)
        return Rendered(tokens[: self.max_tokens], first, reason=too_long)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of everything that turns text into ids (normaliser, vocabulary, merges, special tokens), padding aside."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["padding"] = state["truncation"] = None  # what the last call asked for, not what the tokenizer is
    return _hash(json.dumps(state, sort_keys=True))


def template_hash(tokenizer: Any) -> str:
    """Hash of the chat template's source; empty where there is none."""
    template = tokenizer.chat_template
    return _hash(template if isinstance(template, str) else repr(template)) if template else ""
