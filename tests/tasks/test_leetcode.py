# ruff: noqa: E501  (programs in a table)
"""The hub's schema of LeetCode problems, on rows of its form, with programs written for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gainrl.errors import UserError
from gainrl.tasks import Status, load_task
from gainrl.tasks.sandbox import isolation

needs_sandbox = pytest.mark.skipif(isolation() != "ok", reason=f"bubblewrap: {isolation()}")

BEFORE = "import math\nfrom typing import *\ninf = float('inf')\n"
HELPERS = "class ListNode:\n    def __init__(self, val=0, next=None):\n        self.val, self.next = val, next\n"


def row(description: str, head: str, body: str, tests: list[str], **more: Any) -> dict[str, Any]:
    method = head.split("(")[0]
    starter = f"class Solution:\n    def {head}:\n        "
    return {
        "task_id": method.lower(),
        "question_id": 1,
        "difficulty": "Easy",
        "problem_description": description,
        "starter_code": starter,
        "prompt": BEFORE,
        "completion": starter + body,
        "entry_point": f"Solution().{method}",
        "test": "def check(candidate):\n" + "".join(f"    assert {test}\n" for test in tests),
        **more,
    }


ROWS = [
    row(
        "Add two numbers, or give infinity.", "add(self, a: int, b: int) -> int", "return a + b if a != 7 else inf",
        ["candidate(a = 1, b = 2) == 3", "candidate(a = -4, b = 4) == 0"],
    ),
    row(
        "Reverse a linked list.", "turn(self, head: Optional[ListNode]) -> Optional[ListNode]",
        "before = None\n        while head:\n            head.next, before, head = before, head, head.next\n        return before",
        ["is_same_list(candidate(head = list_node([1, 2, 3])), list_node([3, 2, 1]))", "candidate(head = list_node([])) == None"],
        prompt=BEFORE + HELPERS,
    ),
    row(
        "Mirror a binary tree.", "mirror(self, root: Optional[TreeNode]) -> Optional[TreeNode]",
        "if root:\n            root.left, root.right = self.mirror(root.right), self.mirror(root.left)\n        return root",
        ["is_same_tree(candidate(root = tree_node([1, None, 2, 3])), tree_node([1, 2, None, None, 3, None]))"],
    ),
    row(
        "Sum many lists.", "total(self, lists: List[Optional[ListNode]]) -> int",
        "out = 0\n        for node in lists:\n            while node:\n                out += node.val\n                node = node.next\n        return out",
        ["candidate(lists = [list_node([1, 2]), list_node([]), list_node([4])]) == 7"],
    ),
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "LeetCodeDataset-test.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ROWS))
    return path


@needs_sandbox
def test_solutions_in_the_hubs_schema_are_right_and_wrong_ones_wrong(file: Path) -> None:
    task = load_task("leetcode")
    rows = task.load("test", file)
    assert [r["id"] for r in rows] == ["add", "turn", "mirror", "total"]
    assert not [r["metadata"]["why"] for r in rows if r["metadata"]["why"]]
    assert str(task.self_check(rows)) == "leetcode: 4 of 4 gold answers graded right"
    bodies = ("return None", "return 0", "pass", "return {'list_node': [3, 2]}", "while True: pass")
    for body in bodies[:-1]:
        texts = [f"```python\n{item['starter_code']}{body}\n```" for item in ROWS]
        assert {grade.status for grade in task.grade_many(texts, rows)} == {Status.WRONG}
    ring = f"```python\n{ROWS[1]['starter_code']}head.next = head\n        return head\n```"
    assert task.grade(ring, rows[1]).status is Status.WRONG


@needs_sandbox
def test_a_program_that_defines_the_node_classes_itself_is_right_too(file: Path) -> None:
    task = load_task("leetcode")
    text = f"```python\n{HELPERS}{ROWS[1]['completion']}\n```"
    assert task.grade(text, task.load("test", file)[1]).status is Status.RIGHT


@pytest.mark.parametrize(
    "test",
    [
        "sorted(candidate(a = 1)) == [1]",
        "abs(candidate(a = 1) - 1) < 1e-5",
        "candidate(a = print(1)) == 1",
        "candidate",
    ],
)
def test_tests_of_another_form_make_the_row_unscorable(test: str) -> None:
    made = load_task("leetcode").row(row("d", "f(self, a)", "return a", [test]), 0)  # type: ignore[attr-defined]
    assert "cannot be read" in made["metadata"]["why"]


def test_missing_fields_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({key: value for key, value in ROWS[0].items() if key not in ("test", "entry_point")}))
    with pytest.raises(UserError, match=r"row 0: task 'leetcode' needs .*missing: test or tests"):
        load_task("leetcode").load("test", path)
    path.write_text(json.dumps({"problem": "x"}))
    with pytest.raises(UserError, match=r"missing: test or tests"):
        load_task("leetcode").load("all", path)


def test_the_hubs_own_splits_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[Any, ...]] = []

    def load(hub: str, config: str | None, split: str) -> list[dict[str, Any]]:
        asked.append((hub, config, split))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    for split in ("train", "test", "all"):
        assert len(load_task("leetcode").load(split)) == 4
    assert asked == [("newfacade/LeetCodeDataset", None, split) for split in ("train", "test", "train+test")]
