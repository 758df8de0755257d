"""Linked lists and binary trees in LeetCode's tests, which cross the sandbox's border as plain values.

A list is `{"list_node": [values]}`, a tree `{"tree_node": [values level by level, None for a missing child]}`, and
neither has trailing Nones; an empty one is None.  `ADAPTER` is the text that goes around a candidate's program: it
makes nodes of the arguments, with the classes that the program knows, and plain values of what comes back.  Its own
names are such as no candidate has.
"""

from __future__ import annotations

from gainrl.tasks.programs.extract import lifted

ENTRY = "gainrl_entry"
ADAPTER = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
CANDIDATE

def gainrl_flat(value):
    longest = 100_000  # nodes that are read of an answer, which may be a ring
    if isinstance(value, list):
        return [gainrl_flat(item) for item in value]
    if hasattr(value, "val") and hasattr(value, "next"):
        values = []
        while value is not None and len(values) < longest:
            values.append(value.val)
            value = value.next
        return {"list_node": values}
    if hasattr(value, "val") and hasattr(value, "left"):
        level, values = [value], []
        for node in level:
            values.append(None if node is None else node.val)
            if node is not None and len(level) < longest:
                level += [node.left, node.right]
        while values and values[-1] is None:
            values.pop()
        return {"tree_node": values}
    return value

def gainrl_built(value):
    if isinstance(value, list):
        return [gainrl_built(item) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["list_node"]:
        first = None
        for item in reversed(value["list_node"]):
            node = ListNode(item)
            node.next, first = first, node
        return first
    if list(value) == ["tree_node"]:
        values = iter([None if item is None else TreeNode(item) for item in value["tree_node"]])
        level = [next(values, None)]
        for parent in level:
            for side in ("left", "right"):
                child = next(values, None)
                if child is not None:
                    setattr(parent, side, child)
                    level.append(child)
        return level[0]
    return value

def gainrl_entry(*args, **kwargs):
    named = {name: gainrl_built(value) for name, value in kwargs.items()}
    return gainrl_flat(METHOD(*map(gainrl_built, args), **named))
"""


def adapted(code: str, entry: str) -> str:
    """`code` with `gainrl_entry`, which calls `entry` ("Solution.method") with nodes."""
    owner, _, method = entry.rpartition(".")
    # a candidate may define the classes again, as LeetCode's own header does in a comment
    return lifted(ADAPTER.replace("METHOD", f"{owner}().{method}" if owner else method).replace("CANDIDATE", code))
