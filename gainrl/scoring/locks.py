"""One thread at a time forwards a decoder.

For the length of a pass, scoring changes what belongs to the decoder: the attention that its configuration names, the
mode and the `forward` of its modules, hooks at a tap.  A second pass amid the first would see half of that, and the
first to end would take it away from the other.  Decoders that have a configuration object in common (two models made
from one) wait for each other too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

# By identity, for configurations have no hash.  A lock lasts as long as somebody holds it or waits for it, and so do
# the objects that it stands for: no identity is given to another object meanwhile.
_locks: WeakValueDictionary[int, Any] = WeakValueDictionary()
_finding = threading.Lock()


class _Held(threading.local):
    """What this thread is inside with: how many times, by key."""

    def __init__(self) -> None:
        self.times: Counter[int] = Counter()


_held = _Held()


def configurations(decoder: nn.Module) -> list[Any]:
    """The configuration objects whose `_attn_implementation` the decoder's modules read, parts after their whole.

    To set it in a whole sets it in its parts: set in this order, each ends with its own.
    """
    found: dict[int, Any] = {}

    def note(config: Any) -> None:
        if hasattr(config, "_attn_implementation"):
            found.pop(id(config), None)
            found[id(config)] = config
            for name in getattr(config, "sub_configs", ()):
                note(getattr(config, name, None))

    for config in {id(c): c for c in (getattr(m, "config", None) for m in decoder.modules())}.values():
        note(config)
    return list(found.values())


@contextmanager
def alone(decoder: nn.Module) -> Iterator[list[Any]]:
    """Inside, no other thread is inside with this decoder, or with one that shares a configuration with it.

    Yields the decoder's `configurations`.  The same thread may enter again, with the same decoder or a part of it;
    never with a part first and its whole within, for two threads that did so would wait for each other's parts.
    Raises RuntimeError if it does.
    """
    configs = configurations(decoder)
    # In one order everywhere, or two could wait for each other; a part has no configuration that its whole has not.
    keys = sorted(map(id, configs)) or [id(decoder)]
    mine = _held.times
    inside = [key for key in keys if mine[key]]
    if inside and len(inside) < len(keys):
        raise RuntimeError(
            f"this thread is inside with a part of {type(decoder).__name__} and now enters with the whole, which could "
            "wait for a thread that waits for the part: enter with the whole first"
        )
    with _finding:
        locks = [_locks.setdefault(key, threading.RLock()) for key in keys]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        mine.update(keys)
        try:
            yield configs
        finally:
            for key in keys:
                mine[key] -= 1
                if not mine[key]:
                    del mine[key]
