"""Whatever a model writes is read in time linear in its length, and never run, in the process that trains."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gainrl.errors import UserError
from gainrl.tasks import Status, load_task
from gainrl.tasks.maths.extract import final_answer
from gainrl.tasks.programs.extract import defines, imports_for, program
from gainrl.tasks.reasoning_worker import harmless
from gainrl.tasks.sandbox.compare import same_text

N = 100_000
ANSWERS = {
    "newlines after the phrase": "answer:" + "\n" * N,
    "blanks after the phrase": "the answer is" + " " * N,
    "stars after the phrase": "answer:" + "*" * N + "\n" * N,
    "phrases": "answer:" * (N // 7),
    "boxes that never close": "\\boxed{" * (N // 7),
    "boxes in boxes": "\\boxed{" * (N // 7) + "}" * (N // 7),
    "a box far from its brace": "\\boxed" + " " * N + "{",
    "braces": "{" * N + "}" * N,
    "backslashes": "\\" * N,
    "hashes": "#" * N,
}
PROGRAMS = {
    "blanks after a fence": "```" + " " * N + "!",
    "fences": "``` x" * (N // 5),
    "fences that never close": "```\n" * (N // 4),
    "tabs in a block": "```py\n" + ("\t" * 300 + "\n") * (N // 300),
    "what may follow a program": "\nprint(\nif" * (N // 10),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_final_answer_is_found_in_linear_time(name: str) -> None:
    began = time.thread_time()
    final_answer(ANSWERS[name])
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_is_found_in_linear_time(name: str) -> None:
    began = time.thread_time()
    text = PROGRAMS[name]
    program(text, "f")
    imports_for(text)
    defines(text, "f")
    assert time.thread_time() - began < 1


@pytest.mark.parametrize("line", ["1e999999999999999999", "sNaN", "NaN", "1_0x", "9" * 10_000, "Infinity"])
def test_odd_numbers_in_an_output_are_wrong_and_no_error(line: str) -> None:
    for atol in (0.0, 1e-6):
        assert not same_text("-1e999999999999999999", line, atol)
        assert not same_text("5", line, atol)


@pytest.mark.parametrize("text", ["9" * 5000, "1" + " " * N + "x", "1" + ",000" * N, "-" * N])
def test_long_arithmetic_answers_are_wrong_not_unscorable(text: str) -> None:
    pytest.importorskip("reasoning_gym")
    assert load_task("arithmetic").grade(text, {"answer": "12", "question": "7 + 5 ="}).status is Status.WRONG


EVALUATING = [
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
]  # fmt: skip


@pytest.mark.parametrize("dataset", EVALUATING)
def test_an_answer_is_never_run_by_the_scorer_that_evaluates_it(dataset: str, tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    task = load_task(f"reasoning-gym:{dataset}:size=8")
    rows = task.load("train")
    assert task.self_check(rows).ok
    call = f"__import__('os').mkdir('{tmp_path}/pwned')"
    answers = [
        call, f"{call}!", f"[{call}]", f" {call}", f"1 + {call}", f"sqrt({call})", f"x if {call} else x",
        f"[x for x in [{call}]]", f"(lambda: {call})()", f"f'{{{call}}}'", "x.__class__", "Symbol('x').func",
        "open('/etc/passwd').read()",
        f"0.1[3] + {call}", f"{call} # 1", "exit(1)",
    ]  # fmt: skip
    grades = task.grade_many([f"<answer>{answer}</answer>" for answer in answers], [rows[0]] * len(answers))
    assert {grade.status for grade in grades} == {Status.WRONG}
    assert list(tmp_path.iterdir()) == []


REPLY = r'__import__("os").write(4, b"{\"share\": 1.0}\n")'  # 4 is the descriptor of the scoring process's replies


@pytest.mark.parametrize("dataset", ["simple_integration", "intermediate_integration", "polynomial_multiplication"])
def test_text_that_sympy_would_evaluate_a_second_time_never_reaches_it(dataset: str, tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    task = load_task(f"reasoning-gym:{dataset}:size=8")
    row = task.load("train")[0]
    call = f'__import__("os").mkdir("{tmp_path}/pwned")'
    half = len(call) // 2
    answers = [
        f"'{call}'", f"'{REPLY}'", f"('{call}')", f"['{call}']", f"('{call}', 1)", f"{{'{call}': 1}}", f"{{'{call}'}}",
        f"{{1: '{call}'}}", f"f'{call}'", f"b'{call}'", f"r'{call}'", f"u'{call}'", f"'''{call}'''", f"'\\'{call}\\''",
        f"\"'{call.replace(chr(34), chr(92) + chr(34))}'\"", f"'{call[:half]}' '{call[half:]}'",
        f"'{call[:half]}' + '{call[half:]}'", f"x + '{call}'", f"x * '{call}'", f"sin('{call}')", f"-'{call}'",
        f"'{call}' * 1", f"'{call}' # x", f"[['{call}']]", f"(('{call}',),)", f"x if '{call}' else x", f"'{call}' or x",
        f"x < '{call}'", f"x, '{call}'", f"'{call}'[:]", f"x(*['{call}'])", f"sin(x='{call}')",
    ]  # fmt: skip
    grades = task.grade_many([f"<answer>{answer}</answer>" for answer in answers], [row] * len(answers))
    assert [(a, g) for a, g in zip(answers, grades, strict=True) if g.status is not Status.WRONG] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["'x'", "[1, 2]", "(1, 2)", "{1: 2}", "b'x'", "f'{x}'", "True", "None", "...", "1j", "x\n"]
)
def test_only_numbers_names_and_operators_are_a_formula(text: str) -> None:
    assert harmless("x**2/2 + sin(3*x) - 0.5", "formula")
    assert harmless(text, "formula") is (text == "x\n")


def test_what_eval_would_run_is_no_literal_whatever_surrounds_it() -> None:
    call = "__import__('os').getpid()"
    for text in (call, f" {call}", f"{call} \\\n\n", f"{call}\x0c", f"\x0c{call}", f"[{call}]", f"{call}#"):
        try:
            eval(text)
        except SyntaxError:
            continue
        assert not harmless(text, "literal")


def test_formulas_and_literals_still_reach_those_scorers() -> None:
    pytest.importorskip("reasoning_gym")
    countdown = load_task("reasoning-gym:countdown:size=8")
    row = countdown.load("train")[0]
    swapped = f"<answer> ({row['answer']}) </answer>"
    assert countdown.grade(swapped, row).status is Status.RIGHT
    matrix = load_task("reasoning-gym:binary_matrix:size=8")
    row = matrix.load("train")[0]
    listed = [[int(number) for number in line.split()] for line in row["answer"].splitlines()]
    assert matrix.grade(f"<answer>{listed}</answer>", row).share == 0.1


def test_what_an_answer_does_to_its_scorer_is_wrong_and_no_fault_of_the_row() -> None:
    known = pytest.importorskip("reasoning_gym.factory").DATASETS
    for dataset, answers in {
        "prime_factorization": ["none", "3^5"], "coin_flip": ["1e999", "0"], "game_of_life": ['{"a":1}'],
        "puzzle24": ["9**9**9**9", "6*4*1*1"], "countdown": ["9**9**9**9", "5e2"], "complex_arithmetic": ["nan"],
        "polynomial_multiplication": ["9**9**9**9"], "rush_hour": ["A+1"], "game_of_life_halting": ["maybe", "nan"],
    }.items():  # fmt: skip
        if dataset not in known:  # of a later release
            continue
        task = load_task(f"reasoning-gym:{dataset}:size=8")
        rows = task.load("train")
        began = time.monotonic()
        for answer in answers:
            grades = task.grade_many([f"<answer>{answer}</answer>"] * len(rows), rows)
            assert {grade.status for grade in grades} == {Status.WRONG}, (dataset, answer)
        assert time.monotonic() - began < 30


def test_the_self_check_names_constants_that_a_scorer_rewards() -> None:
    pytest.importorskip("reasoning_gym")
    task = load_task("reasoning-gym:game_of_life_halting:size=12")
    check = task.self_check(task.load("train"))
    assert check.ok
    assert "the commonest gold answer, 'False'" in str(check) or "'True'" in str(check)
    with pytest.raises(UserError, match="takes any consequence"):
        load_task("reasoning-gym:propositional_logic")
    task.probes = ("<answer>False</answer>", "<answer>True</answer>")
    rows = [{**row, "answer": "x"} for row in task.load("train")]
    task.gold = lambda row: "<answer>x</answer>"  # type: ignore[method-assign]
    assert task.self_check(rows).constants


def test_datasets_without_a_gold_answer_are_left_out_of_the_self_check() -> None:
    pytest.importorskip("reasoning_gym")
    task = load_task("reasoning-gym:graph_color:size=4")
    rows = task.load("train")
    assert [task.gold(row) for row in rows] == [None] * len(rows)
