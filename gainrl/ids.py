"""What a prompt is called: content ids, which are the same on every machine, and the fingerprint of a dataset's.

`gainrl.table` is where other code finds these names: its columns and its metadata are made of them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one string: plain text as it is, a chat as compact JSON (keys sorted, UTF-8 kept).

    Keys of a message whose value is None are left out: Parquet fills them in where JSON lacks them.  Works for
    values that are no prompt at all too, so that their rows have ids.
    """
    if isinstance(prompt, str):
        return prompt
    plain: Any = prompt
    if isinstance(plain, Sequence) and all(isinstance(message, Mapping) for message in plain):
        plain = [{key: value for key, value in message.items() if value is not None} for message in plain]
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=repr)


def content_digest(prompt: Prompt) -> bytes:
    """The first 8 bytes of the SHA-256 of a prompt and its kind: the part of an id that occurrences share."""
    kind = b"text\0" if isinstance(prompt, str) else b"chat\0"
    return hashlib.sha256(kind + prompt_text(prompt).encode("utf-8", "surrogatepass")).digest()[:8]


class ContentIds:
    """Ids for prompts seen one after another: `<first 16 hex digits of SHA-256>-<occurrence, from 0>`.

    The same prompts in the same order always get the same ids, on every machine.  One counter per distinct
    prompt is kept (about 100 bytes each).
    """

    def __init__(self) -> None:
        self._seen: Counter[bytes] = Counter()

    def next(self, prompt: Prompt) -> str:
        """The id of the next prompt."""
        digest = content_digest(prompt)
        occurrence = self._seen[digest]
        self._seen[digest] += 1
        return f"{digest.hex()}-{occurrence}"


def content_ids(prompts: Iterable[Prompt]) -> list[str]:
    """The ids of a dataset's prompts, in order (see `ContentIds`)."""
    ids = ContentIds()
    return [ids.next(prompt) for prompt in prompts]


class Fingerprint:
    """A rolling hash of ids in order: SHA-256 over the ids, each ended by a newline."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, ids: Iterable[str]) -> None:
        """Take the next ids."""
        for name in ids:
            self._hash.update(name.encode() + b"\n")

    def hexdigest(self) -> str:
        """The fingerprint of all ids so far: 32 hex digits."""
        return self._hash.hexdigest()[:32]


def fingerprint(ids: Iterable[str]) -> str:
    """The fingerprint of a dataset, from its ids in order."""
    rolling = Fingerprint()
    rolling.update(ids)
    return rolling.hexdigest()
