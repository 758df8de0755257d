from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from gainrl.errors import UserError
from gainrl.tasks import Status, load_task, workers
from gainrl.tasks.maths import pool as pool_module
from gainrl.tasks.maths.extract import boxes, effort, final_answer, plain_number
from gainrl.tasks.maths.pool import AnswerPool
from gainrl.tasks.maths.worker import _parsed as parsed_answer
from gainrl.tasks.workers import WorkerPool, WorkerSlow
from tests.tasks.math_pairs import DIFFERENT, SAME

pytest.importorskip("math_verify")


def row(answer: str, question: str = "What is it?") -> dict[str, str]:
    return {"answer": answer, "question": question}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"So $\boxed{\frac{1}{2}}$, which is between 0 and 1.", r"\frac{1}{2}"),
        (r"First \boxed{3}, no: \boxed{4}.", "4"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed {8}", "8"),
        (r"\fbox{9}", "9"),
        (r"\boxed 5", "5"),
        (r"\boxed{\text{a {b} c}} \boxed{", r"\text{a {b} c}"),
        (r"\boxed{}", None),
        (r"\boxed{1", None),
        ("Reasoning\n#### 12\nmore", "12"),
        ("The answer is 42.", "42."),
        ("**Answer:** 42", "42"),
        ("There are 42 of them", None),
        ("", None),
    ],
)
def test_the_final_answer_is_found(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "The answer is **18**.", "The answer is 18, since 9 + 9 = 18.", "The answer is 18 because 9 + 9 = 18.",
        "The answer is `18`.", "The answer is (18).", "The answer would be 18.", "The answer will be 18.",
        "#### **18**", "#### Final Answer\n18", "#### Final Answer:\n\n**18**",
        "#### Step 2: add 9 to 9. The answer is 18.",
        "#### Step 2: add 9 to 9\n\nThe answer is 18.", "**Answer: 18** dollars", "**Final answer:** $18",
    ],
)  # fmt: skip
def test_an_answer_without_a_box_is_read_as_people_write_it(text: str) -> None:
    task = load_task("gsm8k")
    assert task.grade(text, row("18")).status is Status.RIGHT
    assert task.grade(text, row("9")).status is Status.WRONG
    assert task.grade(text, row("2")).status is Status.WRONG


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 2**3.", "2**3."), ("The answer is 1, 2, 3.", "1, 2, 3."), ("#### east", "east"),
        ("#### 8\nStep 2", "8"),
    ],
)  # fmt: skip
def test_what_is_no_decoration_stays(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_boxes_come_in_order_with_braces_counted() -> None:
    assert boxes(r"\boxed{a_{1}} and \boxed{b^{c_{d}}}") == ["a_{1}", "b^{c_{d}}"]


@pytest.mark.parametrize(
    "text", ["2x", "2 pi", "1/2", "", "abc", "1,2", "3 halves", "1 2", "5!", "--3", "3 or 4", "1e3"]
)
def test_what_is_not_one_plain_number_is_left_to_algebra(text: str) -> None:
    assert plain_number(text) is None


def test_the_table_of_pairs_holds_at_least_200_of_each_without_repeats() -> None:
    assert len(set(SAME)) == len(SAME) >= 200
    assert len(set(DIFFERENT)) == len(DIFFERENT) >= 200
    assert not set(SAME) & set(DIFFERENT)


@pytest.mark.parametrize(("pairs", "status"), [(SAME, Status.RIGHT), (DIFFERENT, Status.WRONG)], ids=["same", "near"])
def test_equivalent_and_near_miss_answers_are_judged_as_the_table_says(
    pairs: list[tuple[str, str]], status: Status
) -> None:
    task = load_task("math500")
    grades = task.grade_many([f"It is $\\boxed{{{answer}}}$." for _, answer in pairs], [row(gold) for gold, _ in pairs])
    assert [(pair, grade) for pair, grade in zip(pairs, grades, strict=True) if grade.status is not status] == []


def test_an_empty_gold_answer_is_unscorable_and_no_answer_is_wrong() -> None:
    task = load_task("math")
    grades = task.grade_many(
        [r"\boxed{1}", r"\boxed{1}", "I do not know", ""], [row(""), row("  "), row("1"), row("1")]
    )
    assert [grade.status for grade in grades] == ["unscorable", "unscorable", "wrong", "wrong"]
    assert "no gold answer" in grades[0].reason


@pytest.mark.parametrize("name", ["gsm8k", "math", "math500", "amc23", "deepscaler"])
def test_a_row_whose_answer_is_none_or_missing_is_unscorable_and_never_raises(name: str) -> None:
    task = load_task(name)
    made = task.row({"question": "q", "problem": "q", "answer": None}, 0)
    assert made["answer"] == ""
    rows = [made, {"question": "q", "answer": None}, {"question": "q"}, {}]
    for one in rows:
        grade = task.grade(r"\boxed{None}", one)
        assert (grade.status, "no gold answer" in grade.reason) == (Status.UNSCORABLE, True)
    assert [grade.status for grade in task.grade_many([r"\boxed{None}"] * 4, rows)] == [Status.UNSCORABLE] * 4


def test_an_echoed_prompt_is_wrong_even_where_an_example_shows_the_answer() -> None:
    question = "What is 2+2?"
    echo = f"What is 1+3? \\boxed{{4}}\n\n{question}"
    task = load_task("math")
    assert task.grade(echo, row("4", question)).status is Status.WRONG
    assert task.grade(echo + r" \boxed{4}", row("4", question)).status is Status.RIGHT


def test_messages_are_graded_like_text() -> None:
    completion = [{"role": "assistant", "content": r"\boxed{4}"}]
    assert load_task("math").grade(completion, row("4")).correct


def test_a_gold_answer_that_hangs_is_unscorable_and_the_pool_goes_on() -> None:
    pool = AnswerPool(workers=1, timeout=1.0)
    pool.compare("1", "x")  # starts the worker
    hung = pool.compare("10000000000!", "2x")
    assert hung.verdict == "unscorable"
    assert "more than 1 s" in hung.reason
    assert pool.compare("2x", "x+x").verdict == "right"
    pool.close()


def test_an_answer_that_hangs_is_wrong_where_the_gold_does_not_and_is_remembered() -> None:
    pool = AnswerPool(workers=1, timeout=1.0)
    pool.compare("1", "x")
    hung = pool.compare("2x", "10000000000!")
    assert (hung.verdict, "more than 1 s" in hung.reason) == ("wrong", True)
    began = time.monotonic()
    assert pool.compare("2x", "10000000000!") == hung
    assert time.monotonic() - began < 0.5
    pool.close()


def test_memory_that_an_answer_eats_is_its_own_fault_and_memory_that_the_gold_eats_is_not() -> None:
    pool = AnswerPool(workers=1, timeout=3.0)
    assert pool.compare("2x", "2^{2^{36}}").verdict == "wrong"
    assert pool.compare("2^{2^{36}}", "2x").verdict == "unscorable"
    pool.close()


def test_a_model_cannot_choose_to_be_unscorable() -> None:
    task = load_task("math500")
    answers = [
        "9^{9^{9^9}}", "9^9^9^9", "9**9**9**9", "1000000!", "10^{99999999}", "x^{10^{9}}", "(10^9)!",
        r"\binom{10^{9}}{10^8}", "(" * 300 + "1" + ")" * 300, "9" * 990 + "x",
    ]  # fmt: skip
    grades = task.grade_many([f"\\boxed{{{answer}}}" for answer in answers], [row("2x")] * len(answers))
    assert [(a, g) for a, g in zip(answers, grades, strict=True) if g.status is not Status.WRONG] == []


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2x", 0), ("2^{10}", 10), ("9^{9^9}", 9**9), ("9^{9^{9^9}}", 10**9), ("2^{2^3}", 8), ("100!", 100),
        ("10^{-3}", 3), ("1^{99}", 99), ("(2^{10})^{10}", 10), ("{2^{10}}^{10}", 10), ("x^0", 1), ("2^{3^{0}}", 3),
        ("9" * 5000 + "!", 10**9),
    ],
)  # fmt: skip
def test_the_effort_is_the_largest_power_or_factorial(text: str, size: int) -> None:
    assert effort(text) == size


def test_a_killed_worker_is_replaced() -> None:
    pool = AnswerPool(workers=1, timeout=20.0)
    assert pool.compare("2x", "x+x").verdict == "right"
    worker = pool.pool._idle.get()
    assert worker is not None
    os.kill(worker.process.pid, signal.SIGKILL)
    pool.pool._idle.put(worker)
    assert pool.compare("3x", "x+2x").verdict == "right"
    pool.close()


def test_a_worker_that_does_not_read_a_long_request_is_replaced_in_time(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys\nprint('{\"ready\": true}', flush=True)\nfor line in sys.stdin:\n"
        "    print(line, end='', flush=True)\n"
    )
    pool = WorkerPool([sys.executable, str(script)], 1)
    request = {"text": "x" * 300_000}
    assert pool.ask(request, 20.0) == request
    worker = pool._idle.get()
    assert worker is not None
    os.kill(worker.process.pid, signal.SIGSTOP)
    pool._idle.put(worker)
    began = time.monotonic()
    with pytest.raises(WorkerSlow):
        pool.ask(request, 0.5)
    assert time.monotonic() - began < 5
    assert pool.ask(request, 20.0) == request
    pool.close()


def test_ranks_share_the_cores_that_the_control_group_grants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own"
    own.write_text("1:cpu:/old\n0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert workers._granted(tmp_path, own) == math.inf
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("650000 100000\n")
    assert workers._granted(tmp_path, own) == 6.5
    monkeypatch.delenv("GAINRL_GRADERS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(workers, "_granted", lambda: 6.5)
    for ranks, count in ((1, 6), (2, 3), (8, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert WorkerPool(["none"]).workers == count
    monkeypatch.setenv("GAINRL_GRADERS", "5")
    assert WorkerPool(["none"]).workers == 5
    assert WorkerPool(["none"], 2).workers == 2
    monkeypatch.setenv("GAINRL_GRADERS", "all")
    with pytest.raises(UserError, match="GAINRL_GRADERS is 'all'"):
        WorkerPool(["none"])


def test_a_worker_that_always_dies_makes_unscorable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "MEMORY = 1 << 30\ndef prepare():\n    return ''\ndef answer(request):\n    raise SystemExit(3)\n"
    )
    monkeypatch.setattr(pool_module, "_WORKER", script)
    pool = AnswerPool(workers=1, timeout=5.0)
    result = pool.compare("1", "x")
    assert (result.verdict, "exit status 3" in result.reason) == ("unscorable", True)
    pool.close()


def test_a_missing_math_verify_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text("MEMORY = 1 << 30\ndef prepare():\n    return 'pip install gainrl[tasks]'\n")
    monkeypatch.setattr(pool_module, "_WORKER", script)
    with pytest.raises(UserError, match=r"gainrl\[tasks\]"):
        AnswerPool(workers=1).compare("1", "x")


def test_grading_off_the_main_thread_gives_the_same_grades() -> None:
    task = load_task("math500")
    pairs = [*SAME[:20], *DIFFERENT[:20]]
    texts, rows = [f"\\boxed{{{answer}}}" for _, answer in pairs], [row(gold) for gold, _ in pairs]
    out: dict[int, list[Status]] = {}

    def work(number: int) -> None:
        out[number] = [grade.status for grade in task.grade_many(texts, rows)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [Status.RIGHT] * 20 + [Status.WRONG] * 20
    assert list(out.values()) == [expected] * 4


def test_the_pool_leaves_no_process_or_descriptor_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    pool = AnswerPool(workers=2, timeout=5.0)
    pool.compare_many([(f"{n}x", f"x+{n - 1}x") for n in range(2, 8)])
    pids = [worker.process.pid for worker in list(pool.pool._idle.queue) if worker]
    assert pids
    pool.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_math500_solutions_and_answers_are_all_right(shared_data: Path) -> None:
    path = shared_data / "math" / "math500_test.jsonl"
    task = load_task("math500")
    rows = task.load("test", path)
    solutions = [json.loads(line)["solution"] for line in path.read_text().splitlines()]
    assert [grade.status for grade in task.grade_many(solutions, rows)].count(Status.RIGHT) == 500
    assert str(task.self_check(rows)).startswith("math500: 500 of 500")


def test_math500_answers_can_all_be_read_as_mathematics(shared_data: Path) -> None:
    """Not right merely for being the same text: math-verify reads each one and finds it equal to itself."""
    from math_verify import verify

    rows = load_task("math500").load("test", shared_data / "math" / "math500_test.jsonl")
    parsed = {row["answer"]: parsed_answer(row["answer"]) for row in rows}
    assert [answer for answer, items in parsed.items() if not items] == []
    assert [answer for answer, items in parsed.items() if not verify(items, items, timeout_seconds=None)] == []


@pytest.mark.parametrize(
    ("name", "file", "rows", "unscorable"),
    [
        ("gsm8k", "gsm8k/train.jsonl", 7473, 0),
        ("gsm8k", "gsm8k/test.jsonl", 1319, 0),
        ("amc23", "amc/amc23_test.jsonl", 40, 0),
        ("math", "math/math_train.json", 7474, 4),
    ],
)
def test_every_gold_answer_is_right_or_missing(
    shared_data: Path, name: str, file: str, rows: int, unscorable: int
) -> None:
    task = load_task(name)
    check = task.self_check(task.load(task.splits[0], shared_data / file))
    assert check.rows == rows
    assert [grade.status for _, grade in check.failures] == ["unscorable"] * unscorable


@pytest.mark.parametrize(
    ("name", "file"),
    [("gsm8k", "gsm8k/test.jsonl"), ("amc23", "amc/amc23_test.jsonl"), ("math500", "math/math500_test.jsonl")],
)
def test_negative_controls_are_never_right(shared_data: Path, name: str, file: str) -> None:
    task = load_task(name)
    rows = task.load("test", shared_data / file, limit=300)
    controls = {
        "empty": [""] * len(rows),
        "echo": ["\n".join(message["content"] for message in row["prompt"]) for row in rows],
        "off by one": [f"\\boxed{{{row['answer']}+1}}" for row in rows],
        "pass": ["pass"] * len(rows),
        "wrong type": [r"\boxed{[None]}"] * len(rows),
        "wrong sign": [f"\\boxed{{-({row['answer']})}}" for row in rows],
    }
    for control, texts in controls.items():
        grades = task.grade_many(texts, rows)
        # minus the answer is the answer where that is 0, symmetric (+-2, an interval around 0) or no number at all
        right = [row["answer"] for row, grade in zip(rows, grades, strict=True) if grade.correct]
        assert (control, [answer for answer in right if control != "wrong sign" or plain_number(answer)]) == (
            control,
            [],
        )


def test_deepscaler_holds_out_by_content(shared_data: Path) -> None:
    task = load_task("deepscaler")
    path = shared_data / "math" / "math_train.json"
    train, test = (task.load(split, path) for split in task.splits)
    assert len(train) + len(test) == 7474
    assert 75 < len(test) < 225
    assert not {row["question"] for row in train} & {row["question"] for row in test}
