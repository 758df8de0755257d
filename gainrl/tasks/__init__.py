"""Tasks: datasets with their prompts and graders, by name.

    task = load_task("gsm8k")
    rows = task.load("test", source="gsm8k/test.jsonl", limit=100)
    grade = task.grade(completion, rows[0])      # right, wrong or unscorable, with the reason
    reward = task.reward_function()              # TRL's signature

See `gainrl.tasks.base` for the contract that a task of one's own fulfils and `gainrl.tasks.registry` for how a name
finds it.
"""

from gainrl.tasks.base import Grade, Row, SelfCheck, Status, Task, UnscorableGuard
from gainrl.tasks.loading import Source
from gainrl.tasks.prompts import PromptTemplate
from gainrl.tasks.registry import load_task, task_names

__all__ = [
    "Grade",
    "PromptTemplate",
    "Row",
    "SelfCheck",
    "Source",
    "Status",
    "Task",
    "UnscorableGuard",
    "load_task",
    "task_names",
]
