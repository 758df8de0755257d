from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gainrl.errors import UserError
from gainrl.tasks import Grade, Row, Status, Task, UnscorableGuard, load_task

QUESTION = "What is 2+2?"


class Fragile(Task):
    """Right for "yes", wrong for "no", and a grader that fails for anything else."""

    name = "fragile"
    template = "maths"

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        return dict(item)

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade:
        status = {"yes": Status.RIGHT, "no": Status.WRONG}[completion]
        return Grade(status, share=0.25)

    def gold(self, row: Mapping[str, Any]) -> str:
        return "yes" if row["answer"] == "good" else "no"


def test_the_reward_has_trls_signature_and_counts_its_grades() -> None:
    reward = load_task("math500").reward_function()
    values = reward(
        prompts=[[{"role": "user", "content": QUESTION}]] * 3,
        completions=[[{"role": "assistant", "content": text}] for text in (r"\boxed{4}", r"\boxed{5}", r"\boxed{4}")],
        completion_ids=[[1], [2], [3]],
        answer=["4", "4", ""],
        question=[QUESTION] * 3,
        trainer_state=object(),
        log_metric=print,
    )
    assert values == [1.0, 0.0, None]
    assert reward.counts == {"right": 1, "wrong": 1, "unscorable": 1}  # type: ignore[attr-defined]
    assert reward.__name__ == "math500_reward"


def test_the_reward_of_a_plain_text_task_takes_strings() -> None:
    pytest.importorskip("reasoning_gym")
    reward = load_task("arithmetic").reward_function()
    assert reward(prompts=["2 + 2 ="] * 2, completions=[" 4\n", " 5\n"], answer=["4", "4"]) == [1.0, 0.0]


def test_partial_rewards_are_the_share_but_the_counts_stay_the_status() -> None:
    reward = Fragile().reward_function(partial=True)
    assert reward(completions=["yes", "no"], answer=["", ""]) == [0.25, 0.25]
    assert reward.counts == {"right": 1, "wrong": 1}  # type: ignore[attr-defined]


def test_a_grader_that_fails_is_unscorable_with_the_reason_and_counted() -> None:
    reward = Fragile().reward_function()
    assert reward(completions=["yes", "what"], answer=["", ""]) == [1.0, None]
    assert "KeyError" in Fragile().grade("what", {"answer": ""}).reason
    assert reward.counts == {"right": 1, "unscorable": 1}  # type: ignore[attr-defined]


def test_too_many_unscorable_completions_stop_the_run_with_the_reasons() -> None:
    reward = Fragile().reward_function(max_unscorable_share=0.1)
    reward(completions=["yes"] * 90 + ["what"] * 10, answer=[""] * 100)
    with pytest.raises(UserError, match=r"11 of 101 .*more than the allowed share 0\.1: 11 times: .*KeyError"):
        reward(completions=["what"], answer=[""])
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        Fragile().reward_function(max_unscorable_share=2)


def test_many_good_grades_do_not_hide_a_grader_that_died() -> None:
    reward = Fragile().reward_function(max_unscorable_share=0.1)
    reward(completions=["yes"] * 10_000, answer=[""] * 10_000)
    reward(completions=["what"] * 20, answer=[""] * 20)
    with pytest.raises(UserError, match=r"21 of the latest 200 .*21 times: .*KeyError"):
        reward(completions=["what"], answer=[""])


def test_few_grades_are_judged_at_the_end() -> None:
    guard = UnscorableGuard("few", 0.1)
    guard.finish()
    guard.add([Grade(Status.RIGHT)] * 35 + [Grade(Status.UNSCORABLE, "dead")] * 5)
    with pytest.raises(UserError, match=r"5 of 40 .*5 times: dead"):
        guard.finish()


def test_the_self_check_names_the_rows_that_fail() -> None:
    check = Fragile().self_check([{"answer": "good"}, {"answer": "bad"}, {"answer": "good"}])
    assert not check.ok
    assert [index for index, _ in check.failures] == [1]
    assert "2 of 3 gold answers graded right\n  row 1: wrong" in str(check)
    assert not Fragile().self_check([]).ok


def test_a_constant_may_be_right_as_often_as_it_is_the_gold_answer_in_any_case() -> None:
    task = Fragile()
    task.judge, task.probes = (lambda *_: Grade(Status.RIGHT)), ("YES", "x")  # type: ignore[method-assign]
    assert task.self_check([{"answer": "good"}] * 4).constants == [("x", 1.0)]
