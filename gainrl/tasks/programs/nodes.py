"""Linked lists and binary trees in LeetCode's tests, which cross the sandbox's border as plain values.

A list is `{"list_node": [values]}`, a tree `{"tree_node": [values level by level, None for a missing child]}`, and
neither has trailing Nones; an empty one is None.  `ADAPTER` is the text that goes around a candidate's program: it
makes nodes of the arguments, with the classes that the program knows, and plain values of what comes back.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from gainrl.tasks.programs.extract import lifted

LONGEST = 100_000  # nodes that are read of an answer, which may be a ring


def flat(value: Any) -> Any:
    """The plain value of a node, of a list of nodes, or of what is plain already."""
    if isinstance(value, list):
        return [flat(item) for item in value]
    if hasattr(value, "val") and hasattr(value, "next"):
        values: list[Any] = []
        while value is not None and len(values) < LONGEST:
            values.append(value.val)
            value = value.next
        return {"list_node": values}
    if hasattr(value, "val") and hasattr(value, "left"):
        level, values = [value], []
        for node in level:
            values.append(None if node is None else node.val)
            if node is not None and len(level) < LONGEST:
                level += [node.left, node.right]
        while values and values[-1] is None:
            values.pop()
        return {"tree_node": values}
    return value


def built(value: Any, classes: dict[str, Any]) -> Any:
    """The nodes of a plain value; `classes` holds ListNode and TreeNode."""
    if isinstance(value, list):
        return [built(item, classes) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["list_node"]:
        first = None
        for item in reversed(value["list_node"]):
            node = classes["ListNode"](item)
            node.next, first = first, node
        return first
    if list(value) == ["tree_node"] and value["tree_node"]:
        values = iter(value["tree_node"])
        level = [classes["TreeNode"](next(values))]
        for parent in level:
            for side in ("left", "right"):
                item = next(values, None)
                if item is not None:
                    child = classes["TreeNode"](item)
                    setattr(parent, side, child)
                    level.append(child)
        return level[0]
    return None if list(value) == ["tree_node"] else value


ENTRY = "gainrl_entry"


def _apart(code: str) -> str:
    """The adapter's own names as no candidate calls its own."""
    return re.sub(r"\b(Any|LONGEST|built|flat)\b", r"_gainrl_adapter_\1", code)


_AFTER = f"""
Any = object
LONGEST = {LONGEST}
{inspect.getsource(flat)}
{inspect.getsource(built)}
def {ENTRY}(*args, **kwargs):
    names = globals()
    return flat(METHOD(*[built(a, names) for a in args], **{{k: built(v, names) for k, v in kwargs.items()}}))
"""
ADAPTER = f"""
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
CANDIDATE
{_apart(_AFTER)}"""


def adapted(code: str, entry: str) -> str:
    """`code` with `gainrl_entry`, which calls `entry` ("Solution.method") with nodes."""
    owner, _, method = entry.rpartition(".")
    # a candidate may define the classes again, as LeetCode's own header does in a comment
    return lifted(ADAPTER.replace("METHOD", f"{owner}().{method}" if owner else method).replace("CANDIDATE", code))
