# ruff: noqa: E501  (tables read better without breaks)
"""Verdicts on mathematical answers: pairs of answers.jsonl, completions as models write them, gold answers, controls."""

from __future__ import annotations

import json
import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gainrl.tasks import Status, load_task
from gainrl.tasks.maths.extract import final_answer
from gainrl.tasks.workers import WorkerPool

KINDS = [
    json.loads(line) for line in Path(__file__).with_name("answers.jsonl").read_text(encoding="utf-8").splitlines()
]
ASKED = "What is asked for?"


def row(answer: str, question: str = ASKED) -> dict[str, str]:
    return {"answer": answer, "question": question}


@pytest.mark.parametrize("verdict", ["right", "wrong"])
@pytest.mark.parametrize("kind", KINDS, ids=[kind["kind"] for kind in KINDS])
def test_answers_that_mean_the_same_are_right_and_no_others(kind: dict[str, list[list[str]]], verdict: str) -> None:
    """Each pair is (gold, answer) or (gold, answer, question)."""
    pairs = kind[verdict]
    rows = [row(gold, *question) for gold, _, *question in pairs]
    grades = load_task("math").grade_many([f"It is $\\boxed{{{answer}}}$." for _, answer, *_ in pairs], rows)
    assert [(pair, grade) for pair, grade in zip(pairs, grades, strict=True) if grade.status != verdict] == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{5}", "5"), (r"So $\boxed{\frac{1}{2}}$, which is between 0 and 1.", r"\frac{1}{2}"),
        ("**The answer is 3 * 4 = 12** apples.", "3 * 4 = 12 apples."), (r"The answer is **5**\%.", r"5\%."),
        (r"First \boxed{3}, no: \boxed{4}.", "4"), (r"\boxed{\boxed{7}}", r"\boxed{7}"), (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed {8}", "8"), (r"\fbox{9}", "9"), (r"\boxed 5", "5"), (r"\boxed{}", None), (r"\boxed{1", None),
        (r"\boxed{\text{a {b} c}} \boxed{", r"\text{a {b} c}"), (r"\boxed{1} then \boxed{}", "1"), (r"\boxed{a\}b}", r"a\}b"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"), (r"$x=\boxed{1}$ or $x=\boxed{2}$", "1, 2"), (r"\boxed{1}, \boxed{1}", "1"),
        (r"- \boxed{1}" + "\n" + r"- \boxed{2}", "1, 2"), (r"\boxed{2}." + "\n\n" + r"Wait: \boxed{3}", "3"),
        (r"\boxed{4}" + "\n" + r"\boxed{5}", "5"), (r"I give up: \boxed{5}", "5"),
        ("<answer>3</answer>", "3"), ("<answer> $3$ </answer> done", "$3$"), (r"<answer>\boxed{3}</answer>", "3"),
        (r"\boxed{2} <answer>3</answer>", "3"), ("<answer>3", "3"), ("<answer></answer>", None),
        (r"<think>\boxed{3}", None), (r"<think>\boxed{3}</think>", None), (r"<think>\boxed{3}</think> \boxed{4}", "4"),
        (r"thoughts \boxed{3}</think> none", None), ("Reasoning\n#### 12\nmore", "12"), ("#### 8\nStep 2", "8"),
        ("The answer is 42.", "42."), ("**Answer:** 42", "42"), ("There are 42 of them", None), ("", None),
        ("The answer is 2**3.", "2**3."), ("The answer is 1, 2, 3.", "1, 2, 3."), ("#### east", "east"),
        ("The answer is 4. Wait, the answer is 5.", "5."), ("answer:\n\n **12**", "12"), ("Answer = x\nanswer is", "x"),
    ],
)  # fmt: skip
def test_the_final_answer_is_found(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "The answer is **18**.", "The answer is 18, since 9 + 9 = 18.", "The answer is 18 because 9 + 9 = 18.",
        "The answer is `18`.", "The answer is (18).", "The answer would be 18.", "The answer will be 18.",
        "#### **18**", "#### Final Answer\n18", "#### Final Answer:\n\n**18**", "Ans: 18", "## Answer: 18",
        "#### Step 2: add 9 to 9. The answer is 18.", "#### Step 2: add 9 to 9\n\nThe answer is 18.",
        "**Answer: 18** dollars", "**Final answer:** $18", "### Answer\n18", "Final Answer\n\n18", "**Final Answer**\n\n$$18$$",
        "Final Answer: The final answer is $18$. I hope it is correct.", "**Answer** : 18", "The answer is _18_.",
        "The answer is:\n\n$$\n18\n$$", "\\[Answer: 018\\]", "So the answer is $x = 18$.", "The correct answer is 18.",
        "The answer is $\\$18$.", "The final answer is \\(18\\).", "Therefore, the answer is\n\\[18\\]", "ANSWER: 18 eggs",
        "The answer is therefore 18.", "<think>17?</think>The answer is 18.", "Answer: $18$ dollars per week",
    ],
)  # fmt: skip
def test_an_answer_without_a_box_is_read_as_people_write_it(text: str) -> None:
    task = load_task("gsm8k")
    statuses = [task.grade(text, row(gold)).status for gold in ("18", "9", "2", "17")]
    assert statuses == [Status.RIGHT, Status.WRONG, Status.WRONG, Status.WRONG]


@pytest.mark.parametrize(
    ("question", "gold", "answer", "status"),
    [
        (r"Simplify $\sqrt{242}$.", r"11\sqrt{2}", r"\sqrt{242}", "wrong"),
        (r"Simplify $\sqrt{242}$.", r"11\sqrt{2}", r"\sqrt{2}\cdot 11", "right"),
        ("Write $0.75$ as a fraction.", r"\frac{3}{4}", "0.75", "wrong"),
        ("Write 0.75 as a fraction.", r"\frac{3}{4}", "0.75", "wrong"),
        ("Reduce $6/8$.", r"\frac{3}{4}", r"\frac{6}{8}", "wrong"),
        (r"The chance is $\frac{3}{4}$. What is it?", r"\frac34", r"\frac{3}{4}", "right"),
        ("He has 18 eggs and keeps them. How many?", "18", "18.0", "right"),
        (r"Expand $(x+1)^2$.", "x^2+2x+1", "(1+x)^2", "wrong"),
        (r"If $x+y=7$, find $x+y$.", "7", "x+y=7", "wrong"),
        (r"Find $a+b$.", "7", "a+b=7", "right"), ("Find it.", "7", "a+b=7", "wrong"),
        (r"Solve $2x+3=7$.", "2", "2x+3=7", "wrong"), (r"Evaluate $2^5$.", "32", "2^5 = 32", "right"),
        (r"Which? (A) 3 (B) 4", "B", "(B) 4", "right"), (r"Which? (A) 3 (B) 4", "B", "(A) 3", "wrong"),
    ],
)  # fmt: skip
def test_what_stands_in_the_question_is_right_only_if_it_is_literally_the_gold_answer(
    question: str, gold: str, answer: str, status: str
) -> None:
    assert load_task("math").grade(f"\\boxed{{{answer}}}", row(gold, question)).status == status


def test_only_the_last_message_of_the_assistant_is_graded() -> None:
    task = load_task("math")
    said, tool = ({"role": role, "content": r"\boxed{4}"} for role in ("assistant", "tool"))
    none = {"role": "assistant", "content": "I do not know."}
    parts = {"role": "assistant", "content": [{"type": "text", "text": r"\boxed{4}"}]}
    for messages, right in (
        ([said], True), ([tool, said], True), ([parts], True), ([none, tool], False), ([said, none], False), ([], False),
        ([tool], False), ([{"role": "user", "content": r"\boxed{4}"}], False),
    ):  # fmt: skip
        assert task.grade(messages, row("4")).correct is right


def test_an_echoed_prompt_is_wrong_even_where_an_example_shows_the_answer() -> None:
    question = "What is 2+2?"
    echo = f"What is 1+3? \\boxed{{4}}\n\n{question}"
    task = load_task("math")
    assert task.grade(echo, row("4", question)).status is Status.WRONG
    assert task.grade(echo + r" \boxed{4}", row("4", question)).status is Status.RIGHT


@pytest.mark.parametrize("name", ["gsm8k", "math", "math500", "amc23", "deepscaler"])
def test_a_row_whose_answer_is_none_or_missing_is_unscorable_and_never_raises(name: str) -> None:
    task = load_task(name)
    made = task.row({"question": "q", "problem": "q", "answer": None}, 0)
    rows = [made, {"question": "q", "answer": None}, {"question": "q"}, {}, row("  ")]
    grades = task.grade_many([r"\boxed{None}"] * 5, rows)
    assert {(grade.status, "no gold answer" in grade.reason) for grade in grades} == {(Status.UNSCORABLE, True)}


def test_gold_answers_of_other_types_are_spelled_as_numbers() -> None:
    task = load_task("math")
    for given, spelled in ((1e-07, "0.0000001"), (5.0, "5"), (2.5, "2.5"), ([42], "42"), (7, "7")):
        assert task.row({"problem": "q", "answer": given}, 0)["answer"] == spelled
    assert task.row({"problem": "q", "answer": "", "solution": r"so $\boxed{\frac12}$"}, 0)["answer"] == r"\frac12"


def test_a_model_cannot_choose_to_be_unscorable_and_a_gold_answer_without_value_is() -> None:
    task = load_task("math500")
    answers = [
        "9^{9^{9^9}}", "9^9^9^9", "9**9**9**9", "1000000!", "10^{99999999}", "x^{10^{9}}", "(10^9)!", r"\frac{1}{0}",
        r"\binom{10^{9}}{10^8}", "(" * 300 + "1" + ")" * 300, "9" * 990 + "x", "1e999999999", "{" * 400, "\\" * 300,
        r"\sqrt[10^9]{2}", r"\sin(10^{99})", "x^{x^{x^{x}}}<3", "|" * 200, "-" * 500 + "1", r"\frac" * 150,
    ]  # fmt: skip
    began = time.monotonic()
    grades = task.grade_many([f"\\boxed{{{answer}}}" for answer in answers], [row("2x")] * len(answers))
    assert [(a, g) for a, g in zip(answers, grades, strict=True) if g.status is not Status.WRONG] == []
    assert time.monotonic() - began < 40
    for gold in (r"\frac{1}{0}", "10000000000!", "2^{2^{36}}"):
        assert task.grade(r"\boxed{5}", row(gold)).status is Status.UNSCORABLE
        assert task.grade(f"\\boxed{{{gold}}}", row(gold)).status is Status.RIGHT


def test_any_thread_gets_the_same_grades_and_nothing_stays_behind() -> None:
    task = load_task("math500")
    pairs = KINDS[0]["right"][100:120]
    texts, rows = [f"\\boxed{{{answer}}}" for _, answer in pairs], [row(gold) for gold, _ in pairs]
    with ThreadPoolExecutor(4) as threads:
        assert all(all(g.correct for g in grades) for grades in threads.map(task.grade_many, [texts] * 4, [rows] * 4))
    before = set(os.listdir("/proc/self/fd"))
    pool = WorkerPool("gainrl.tasks.maths.worker", 1)
    reply = pool.ask({"gold": "2x", "answer": "x+x", "question": ""}, 30.0)
    assert reply["verdict"] == "right"
    pool.close()
    assert set(os.listdir("/proc/self/fd")) == before


# whole datasets


def test_math500_solutions_and_answers_are_all_right(shared_data: Path) -> None:
    path = shared_data / "math" / "math500_test.jsonl"
    task = load_task("math500")
    rows = task.load("test", path)
    solutions = [json.loads(line)["solution"] for line in path.read_text().splitlines()]
    assert [grade.status for grade in task.grade_many(solutions, rows)].count(Status.RIGHT) == 500
    assert str(task.self_check(rows)).startswith("math500: 500 of 500")


@pytest.mark.parametrize(
    ("name", "file", "rows", "unscorable"),
    [
        ("gsm8k", "gsm8k/train.jsonl", 7473, 0), ("gsm8k", "gsm8k/test.jsonl", 1319, 0), ("amc23", "amc/amc23_test.jsonl", 40, 0),
        ("math", "math/math_train.json", 7474, 4),
    ],
)  # fmt: skip
def test_every_gold_answer_is_right_or_missing(
    shared_data: Path, name: str, file: str, rows: int, unscorable: int
) -> None:
    task = load_task(name)
    check = task.self_check(task.load(task.splits[0], shared_data / file))
    assert check.rows == rows
    assert [grade.status for _, grade in check.failures] == ["unscorable"] * unscorable


def test_the_longest_formula_of_a_question_is_no_answer(shared_data: Path) -> None:
    task = load_task("math500")
    pairs = []
    for one in task.load("test", shared_data / "math" / "math500_test.jsonl"):
        found = [max(match, key=len) for match in re.findall(r"\$(.+?)\$|\\\[(.+?)\\\]", one["question"], re.DOTALL)]
        if found and (longest := max(found, key=len)).strip() != one["answer"]:
            pairs.append((f"\\boxed{{{longest}}}", one))
    grades = task.grade_many(*map(list, zip(*pairs, strict=True)))
    assert len(grades) > 400
    assert [pair for pair, grade in zip(pairs, grades, strict=True) if grade.correct] == []


def test_gold_answers_with_their_last_number_raised_by_one_are_wrong(shared_data: Path) -> None:
    task = load_task("math")
    rows = [
        one for one in task.load("train", shared_data / "math" / "math_train.json") if re.search(r"\d", one["answer"])
    ]
    rows = random.Random(0).sample(rows, 900)
    raised = [re.sub(r"(\d+)(?=\D*$)", lambda match: str(int(match[1]) + 1), one["answer"]) for one in rows]
    grades = task.grade_many([f"\\boxed{{{answer}}}" for answer in raised], rows)
    assert [
        (one["answer"], answer) for one, answer, grade in zip(rows, raised, grades, strict=True) if grade.correct
    ] == []


@pytest.mark.parametrize("name", ["gsm8k/test", "amc/amc23_test", "math/math500_test"])
def test_negative_controls_are_never_right(shared_data: Path, name: str) -> None:
    task = load_task({"gsm8k": "gsm8k", "amc": "amc23", "math": "math500"}[name.split("/")[0]])
    rows = task.load("test", shared_data / f"{name}.jsonl", limit=300)
    for texts in (
        [""] * len(rows), ["\n".join(message["content"] for message in one["prompt"]) for one in rows],
        [f"\\boxed{{{one['answer']}+1}}" for one in rows], ["pass"] * len(rows), [r"\boxed{[None]}"] * len(rows),
    ):  # fmt: skip
        assert not any(grade.correct for grade in task.grade_many(texts, rows))


def test_deepscaler_holds_out_by_content(shared_data: Path) -> None:
    task = load_task("deepscaler")
    path = shared_data / "math" / "math_train.json"
    train, test = (task.load(split, path) for split in task.splits)
    assert len(train) + len(test) == 7474
    assert 75 < len(test) < 225
    assert not {one["question"] for one in train} & {one["question"] for one in test}
