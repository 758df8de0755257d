"""The tasks that generate their problems: graded arithmetic and reasoning-gym."""

from __future__ import annotations

from collections import Counter

import pytest

from gainrl.errors import UserError
from gainrl.tasks import Status, load_task

pytest.importorskip("reasoning_gym")


def test_arithmetic_holds_out_problems_that_training_never_sees() -> None:
    task = load_task("arithmetic")
    train, test = task.load("train"), task.load("test")
    questions = [row["question"] for row in train + test]
    assert len(set(questions)) == len(questions) == 600
    assert 150 < len(test) < 250
    shown = {question for question, _ in task.prompt.examples}
    assert not shown & set(questions)


def test_the_split_of_a_problem_depends_on_the_seed_and_not_on_the_size() -> None:
    for split in ("train", "test"):
        small, large, again, other = (
            [row["question"] for row in load_task(f"arithmetic:{options}").load(split)]
            for options in ("size=120", "size=600", "", "seed=1")
        )
        assert set(small) <= set(large)
        assert large == again != other


def test_arithmetic_answers_are_what_the_expressions_come_to_and_kinds_are_even() -> None:
    rows = load_task("arithmetic").load("train") + load_task("arithmetic").load("test")
    for row in rows:
        assert row["prompt"].endswith(row["question"])
        assert str(eval(row["question"].removesuffix("="))) == row["answer"]
    counts = Counter(row["metadata"]["kind"] for row in rows)
    assert len(counts) == 6
    assert max(counts.values()) <= 1.2 * min(counts.values())


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        (" 12", "right"), (" 12\n3 + 4 = 7", "right"), ("12.", "right"), ("\n12", "right"), ("+12", "right"),
        (" 13", "wrong"), (" -12", "wrong"), ("", "wrong"), ("12 + 0", "wrong"), ("twelve", "wrong"),
        ("3 + 4 = 12", "wrong"), ("12.5", "wrong"), ("1 2", "wrong"), ("pass", "wrong"),
    ],
)  # fmt: skip
def test_arithmetic_grades_the_first_line(completion: str, status: str) -> None:
    assert load_task("arithmetic").grade(completion, {"answer": "12", "question": "7 + 5 ="}).status == status


def test_arithmetic_negative_controls_are_never_right() -> None:
    task = load_task("arithmetic")
    rows = task.load("test")
    for texts in (
        [""] * len(rows),
        [row["prompt"] for row in rows],
        [f" {int(row['answer']) + 1}" for row in rows],
        [f" {-int(row['answer']) or 1}" for row in rows],
    ):
        assert not any(grade.correct for grade in task.grade_many(texts, rows))
    assert task.self_check(rows).ok


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arithmetic:sise=3", "nearest is 'size'"),
        ("arithmetic:size=x", "must be of type int"),
        ("arithmetic:size", "form key=value"),
        ("arithmetic:digits=0", "digits 1 to 9"),
        ("reasoning-gym:chain_sums", "nearest is 'chain_sum'"),
        ("reasoning-gym", "has no dataset ''"),
        ("reasoning-gym:chain_sum:max_digit=3", "nearest is 'max_digits'"),
        ("reasoning-gym:chain_sum:min_digits=9", "max_digits must be >= min_digits"),
    ],
)
def test_bad_options_are_named(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_task(name)


def test_more_problems_than_there_are_is_an_error() -> None:
    with pytest.raises(UserError, match=r"more than the \d+ distinct problems"):
        load_task("arithmetic:digits=1,size=5000").load("train")


@pytest.mark.parametrize("dataset", ["chain_sum", "leg_counting", "gcd", "simple_equations"])
def test_reasoning_gym_grades_its_gold_answers_and_splits_without_overlap(dataset: str) -> None:
    task = load_task(f"reasoning-gym:{dataset}:size=60")
    train, test = task.load("train"), task.load("test")
    assert test
    assert not {row["question"] for row in train} & {row["question"] for row in test}
    assert task.self_check(train + test).ok
    for row in train[:10]:
        prompt = "\n".join(message["content"] for message in row["prompt"])
        for text in ("", prompt, "<answer></answer>", "<answer>pass</answer>", f"<answer>{row['answer']}x1</answer>"):
            assert task.grade(text, row).status is Status.WRONG


def test_reasoning_gym_rows_of_other_options_are_unscorable() -> None:
    row = load_task("reasoning-gym:chain_sum:seed=1").load("train", limit=1)[0]
    grade = load_task("reasoning-gym:chain_sum:seed=2").grade("<answer>1</answer>", row)
    assert grade.status is Status.UNSCORABLE


def test_reasoning_gym_takes_no_file() -> None:
    with pytest.raises(UserError, match="reads no file"):
        load_task("reasoning-gym:chain_sum").load("train", "x.jsonl")
