from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gainrl.errors import UserError
from gainrl.tasks import PromptTemplate, Task, load_task, task_names

MINE = """
from gainrl.tasks import Grade, Status, Task

class Parity(Task):
    name = "parity"
    template = "maths"

    def row(self, item, index):
        question = item["question"]
        return {"prompt": self.prompt.render(question), "question": question, "answer": item["answer"]}

    def judge(self, completion, row):
        return Grade(Status.RIGHT if completion == row["answer"] else Status.WRONG)

    def gold(self, row):
        return row["answer"]

not_a_task = 3
"""


@pytest.mark.parametrize("name", ["gsm8", "gsm", "GSM8K"])
def test_an_unknown_name_names_the_nearest(name: str) -> None:
    with pytest.raises(UserError, match=r"nearest name is 'gsm8k'"):
        load_task(name)


def test_every_name_but_the_parametrised_one_loads() -> None:
    for name in task_names():
        if name != "reasoning-gym":
            assert load_task(name).name == name


def test_dotted_paths_and_entry_point_spelling_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tasks_xyz.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("my_tasks_xyz.Parity", "my_tasks_xyz:Parity"):
        task = load_task(name)
        assert isinstance(task, Task)
        assert task.name == "parity"
    with pytest.raises(UserError, match="not a subclass"):
        load_task("my_tasks_xyz.not_a_task")
    with pytest.raises(UserError, match="has no attribute 'Missing'"):
        load_task("my_tasks_xyz.Missing")


def test_an_entry_point_adds_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_plugin_xyz.py").write_text(MINE)
    info = tmp_path / "my_plugin_xyz-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin-xyz\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[gainrl.tasks]\nparity = my_plugin_xyz:Parity\nbroken = my_plugin_xyz:Nope\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "parity" in task_names()
    assert load_task("parity").name == "parity"
    with pytest.raises(UserError, match="does not load"):
        load_task("broken")


def test_an_argument_where_none_is_taken_is_refused() -> None:
    with pytest.raises(UserError, match="takes nothing after a colon"):
        load_task("gsm8k:main")


def test_the_prompt_can_be_replaced_by_an_object_or_a_file(tmp_path: Path) -> None:
    template = PromptTemplate(system="Be brief.", examples=(("1+1?", "2"),))
    prompt = load_task("gsm8k", prompt=template).row({"question": "2+2?", "answer": "#### 4"}, 0)["prompt"]
    assert [message["content"] for message in prompt] == ["Be brief.", "1+1?", "2", "2+2?"]
    path = tmp_path / "mine.json"
    path.write_text('{"style": "plain", "question": "Q: {question}\\nA:", "answer": " {answer}", "examples": []}')
    assert load_task("gsm8k", prompt=path).row({"question": "2+2?", "answer": "4"}, 0)["prompt"] == "Q: 2+2?\nA:"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be a JSON object"),
        ("{", "not JSON"),
        ('{"systm": "x"}', "unknown field systm"),
        ('{"style": "xml"}', "must be 'chat' or 'plain'"),
        ('{"question": "no slot"}', r"\{question\} once"),
        ('{"examples": [{"question": "x"}]}', "'question' and 'answer'"),
        ('{"system": 3}', "must be a string"),
    ],
)
def test_a_bad_template_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_task("gsm8k", prompt=path)


def test_braces_in_questions_and_templates_stay_as_they_are() -> None:
    template = PromptTemplate(system=r"within \boxed{}", question=r"Solve {question} in \boxed{}")
    assert template.render(r"\frac{1}{2}")[-1]["content"] == r"Solve \frac{1}{2} in \boxed{}"  # type: ignore[index]
