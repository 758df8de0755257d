"""The highest and the lowest ranked prompts, in full, laid out for reading."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gainrl.table import ScoreTable

_SHOWN = ("id", "row", "prompt", "score", "intra", "inter", "position", "question_tokens", "prefix_tokens")


@dataclass(frozen=True)
class Part:
    """A message of a chat, or a plain-text prompt (role empty): what all prompts share, then its own text."""

    role: str
    shared: str
    text: str


def extremes(table: ScoreTable, count: int) -> dict[str, Any] | None:
    """The `count` highest and the `count` lowest ranked prompts that have a score, none of them twice.

    Returns None where the table does not hold the prompts' text.
    """
    if "prompt" not in table.columns.column_names:
        return None
    ranks = table.column("position")
    scored = np.flatnonzero(np.isfinite(table.column("score")))
    order = scored[np.argsort(ranks[scored])]
    high = order[:count]
    low = order[max(len(high), len(order) - count) :][::-1]
    texts = [prompt for prompt in table.columns["prompt"].to_pylist() if prompt is not None]
    # What the first and the last in alphabetical order begin with, all begin with.
    ends = (min(texts), max(texts)) if len(texts) > 1 else ("", "")
    chosen = table.columns.select(_SHOWN)

    def laid_out(rows: Any) -> list[dict[str, Any]]:
        return [entry | {"parts": _parts(entry["prompt"], ends)} for entry in chosen.take(rows).to_pylist()]

    highest, lowest = laid_out(high), laid_out(low)
    shared = any(part.shared for entry in highest + lowest for part in entry["parts"])
    return {"scored": len(order), "shared": shared, "highest": highest, "lowest": lowest}


def _parts(prompt: str | None, ends: tuple[str, str]) -> list[Part]:
    if prompt is None:
        return [Part("", "", "(the table does not hold this prompt's text)")]
    chats = [_chat(end) for end in ends]
    messages = _chat(prompt)
    if messages is None:
        common = "" if any(chats) else _common(*ends)
        shared = common[: common.rfind("\n") + 1]  # whole lines: worked examples, instructions
        return [Part("", shared, prompt[len(shared) :])]
    first, last = (chat or [] for chat in chats)
    alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return [
        Part(role, content, "") if place < alike else Part(role, "", content)
        for place, (role, content) in enumerate(messages)
    ]


def _common(first: str, last: str) -> str:
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in alike)


def _chat(prompt: str) -> Sequence[tuple[str, str]] | None:
    """(role, content) of the messages of a chat that was stored as JSON; None for plain text."""
    if not prompt.startswith("["):
        return None
    try:
        messages = json.loads(prompt)
    except ValueError:
        return None
    if not isinstance(messages, list) or not messages:
        return None
    result = []
    for message in messages:
        if not isinstance(message, dict) or "role" not in message:
            return None
        content = message.get("content", "")
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1)
        extra = {name: value for name, value in message.items() if name not in ("role", "content")}
        if extra:
            text += "\n" + json.dumps(extra, ensure_ascii=False, indent=1)
        result.append((str(message["role"]), text))
    return result
