"""The convergence study: families, tokenizer, exact pass rates, rankings, statistics."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("trl", reason="trl is not installed")
pytest.importorskip("scipy", reason="scipy is not installed")

from benchmarks.convergence import oracle, report, statistics, study
from benchmarks.convergence import protocol as protocols
from benchmarks.convergence.__main__ import next_time
from benchmarks.convergence.arms import ARMS
from benchmarks.convergence.base import Pretraining, Size, content_key, make_model
from benchmarks.convergence.bed import Bed, pass_rates, right_answers
from benchmarks.convergence.families import LISTS, SUMS, Family, Problem
from benchmarks.convergence.held_out import CLOSING, FAMILIES
from benchmarks.convergence.page import filled
from benchmarks.convergence.rankings import ranked_by
from benchmarks.convergence.tokens import CHARACTERS, encode, make_tokenizer
from benchmarks.harness import RESULTS

TINY = Size(hidden=16, intermediate=32, layers=1, heads=2)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_problems_are_the_same_for_the_same_seed_and_made_of_known_characters(family: Family):
    problems = family.problems(300, Random("a"))
    assert problems == family.problems(300, Random("a"))
    assert problems != family.problems(300, Random("b"))
    assert {problem.level for problem in problems} == set(range(len(family.levels)))
    assert set("".join(family.prompt(p) + p.answer for p in problems)) <= set(CHARACTERS)
    assert all(problem.answer for problem in problems)


def test_sums_are_right_last_digit_first():
    for problem in SUMS.problems(200, Random(0)):
        a, b = problem.question.removesuffix("=").split("+")
        assert int(a[::-1]) + int(b[::-1]) == int(problem.answer[::-1])
        assert len(a) == len(b) == problem.level + 1


def test_chains_list_the_running_values():
    for problem in FAMILIES["chains"].problems(200, Random(0)):
        text = problem.question.removesuffix("=")
        value, values = int(text[0]), []
        for operator, digit in zip(text[1::2], text[2::2], strict=True):
            value = eval(f"{value}{operator}{digit}") % 10
            values.append(str(value))
        assert problem.answer == "".join(values)


def test_brackets_are_closed_by_the_answer():
    for problem in FAMILIES["brackets"].problems(200, Random(0)):
        if problem.question[0] not in "CQ":
            continue
        stack: list[str] = []
        for bracket in problem.question[1:-1] + problem.answer:
            if bracket in CLOSING:
                stack.append(CLOSING[bracket])
            else:
                assert stack.pop() == bracket
        assert not stack


def test_long_prompts_are_the_easy_ones_in_lists():
    lengths = {level.name: [len(level.draw(Random(seed))[0]) for seed in range(50)] for level in LISTS.levels}
    assert min(lengths["first three"]) > max(max(lengths[name]) for name in ("running maximum", "backwards, plus one"))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_pretraining_mixes_slips_into_right_answers_as_often_as_the_level_says(family: Family):
    def slips(level: int, problems: list[Problem]) -> list[bool]:
        return [p.answer == family.slip(p.question, p.answer) for p in problems if p.level == level]

    seen, asked = family.problems(6000, Random(0), pretraining=True), family.problems(6000, Random(1))
    for at, level in enumerate(family.levels):
        alike = np.mean(slips(at, asked))  # slips that happen to be right
        assert abs(np.mean(slips(at, seen)) - (1 - level.sound * (1 - alike))) < 0.08
    assert len({level.sound for level in family.levels}) > 3
    assert any(level.sound == 1 for level in family.levels)


@pytest.mark.parametrize(
    ("family", "question", "answer", "slip"),
    [
        ("sums", "75+76=", "452", "41"),
        ("strings", "Rabc>", "cba", "abc"),
        ("lists", "L12345678>", "678", "123"),
        ("chains", "3*4-1=", "21", "78"),
        ("brackets", "C([>", "])", ")]"),
        ("brackets", "D([)]>", "1210", "1222"),
    ],
)
def test_slips_are_the_easier_wrong_strategy(family: str, question: str, answer: str, slip: str):
    assert FAMILIES[family].slip(question, answer) == slip


def test_every_character_is_a_token_with_offsets_behind_bos(tokenizer):
    encoded = tokenizer("2+7=9;", return_offsets_mapping=True)
    assert encoded["input_ids"][0] == tokenizer.bos_token_id
    assert encoded["offset_mapping"][1:] == [(at, at + 1) for at in range(6)]
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == "2+7=9;"
    assert len(tokenizer) == len(set(CHARACTERS)) + 3


def test_encode_marks_the_answer_and_its_end(tokenizer):
    ids, answer = encode(tokenizer, ["2+7=", "1="], ["9", "42"])
    assert ids.shape == answer.shape == (2, 7)
    assert answer.sum(dim=1).tolist() == [2, 3]
    assert tokenizer.decode(ids[1][answer[1]]) == "42<eos>"
    assert ids[1, -1] == tokenizer.pad_token_id


def test_pass_rates_are_the_share_of_right_rollouts(tokenizer):
    import torch

    model = make_model(TINY, tokenizer, seed=0).eval()
    with torch.no_grad():
        for token in ("7", "<eos>"):  # so that something is right now and then
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(token)] *= 8
    problem = SUMS.problems(1, Random(3))[0]
    problem = type(problem)(problem.question, "7", 0)
    (expected,) = pass_rates(model, tokenizer, SUMS, [problem])
    prompts = tokenizer([SUMS.prompt(problem)] * 4000, return_tensors="pt")
    torch.manual_seed(0)
    made = model.generate(**prompts, max_new_tokens=2, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    texts = made[:, prompts["input_ids"].shape[1] :].tolist()
    wanted = [tokenizer.convert_tokens_to_ids("7"), tokenizer.eos_token_id]
    share = np.mean([text == wanted for text in texts])
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000) + 1e-3
    assert 0 < expected < 1


def test_fresh_problems_are_not_trained_on(tmp_path):
    bed = Bed(FAMILIES["strings"], 0, 200, 100, TINY, Pretraining(1))
    trained = {problem.question for problem in bed.problems}
    assert not trained & {problem.question for problem in bed.held_out}
    assert bed.dataset[0]["prompt"] == bed.family.examples + bed.problems[0].question


def test_a_base_is_kept_under_what_made_it():
    key = content_key(SUMS, TINY, Pretraining(10), 0)
    assert key == content_key(SUMS, TINY, Pretraining(10), 0)
    assert len({key, content_key(SUMS, TINY, Pretraining(11), 0), content_key(LISTS, TINY, Pretraining(10), 0),
                content_key(SUMS, TINY, Pretraining(10), 1)}) == 4  # fmt: skip


def test_only_the_whole_answer_is_right():
    assert right_answers(completions=["12", "1", "123"], answer=["12", "12", "12"], prompts=[]) == [1.0, 0.0, 0.0]


def test_the_order_begins_with_the_first_arms_of_all_families_seed_by_seed():
    keys = list(study.order(["sums", "lists"], ARMS, [0, 1]))
    assert keys[:2] == [("sums", "uniform", 0), ("lists", "uniform", 0)]
    first = [key for key in keys if key[1] in study.FIRST]
    assert keys[: len(first)] == first
    assert len(keys) == len(set(keys)) == 2 * 2 * len(ARMS)


@pytest.mark.parametrize(("now", "clock", "hours"), [(23, "00:30", 1.5), (1, "23:00", 22), (5, "05:00", 24)])
def test_until_is_the_next_time_of_day(now: int, clock: str, hours: float):
    assert next_time(clock, now * 3600.0) == (now + hours) * 3600


def test_the_protocol_names_every_family():
    protocol = protocols.load()
    assert set(protocol.pretraining) == set(protocol.learning_rate) == set(FAMILIES)
    assert protocol.budget == protocol.steps * 16 * 8


# -- statistics ----------------------------------------------------------------------------------------------


def made(family: str, arm: str, seed: int, accuracy: list[float], ranking_seconds: float = 0.0):
    curve = [
        {"step": at, "rollouts": 100 * at, "tokens": 500 * at, "seconds": 2.0 * at, "accuracy": value}
        for at, value in enumerate(accuracy)
    ]
    return (family, arm, seed), {"curve": curve, "ranking_seconds": ranking_seconds}


def test_twice_as_fast_is_a_factor_of_two_in_rollouts_and_less_with_the_ranking():
    runs = dict(
        run
        for seed in range(3)
        for run in (
            made("sums", "uniform", seed, [0.01 * at for at in range(41)]),
            made("sums", "gainrl", seed, [0.02 * at for at in range(41)], ranking_seconds=10.0),
        )
    )
    found = statistics.compare(runs, "sums", "gainrl")
    assert found is not None
    assert found["censored"] == 0
    assert found["factor_rollouts"].mean == pytest.approx(2.0, rel=0.02)
    assert found["factor_rollouts"].low is None  # three seeds that are alike show no spread
    assert found["factor_seconds"].mean == pytest.approx(80 / 50, rel=0.02)
    assert found["area"].mean == pytest.approx(0.2)
    assert statistics.compare(runs, "sums", "uniform")["factor_rollouts"].mean == pytest.approx(1.0)


def test_an_arm_that_never_gets_there_is_censored_at_the_budget():
    runs = dict([made("sums", "uniform", 0, [0.1, 0.2, 0.3, 0.4]), made("sums", "gainrl", 0, [0.1, 0.1, 0.1, 0.1])])
    found = statistics.compare(runs, "sums", "gainrl")
    assert found is not None
    assert (found["censored"], found["factor_rollouts"].low) == (1, None)
    assert found["factor_rollouts"].mean == pytest.approx(1.0)


def test_an_arm_that_is_worse_than_uniform_shows_below_one_in_the_even_factor():
    """Both arms end below uniform, one where uniform was halfway, the other below where both began."""
    uniform = made("sums", "uniform", 0, [0.01 * at for at in range(41)])
    for accuracy, factor in (([0.005 * at for at in range(41)], 0.5), ([0.0 - 0.01 * at for at in range(41)], 1 / 40)):
        found = statistics.compare(dict([uniform, made("sums", "gainrl", 0, accuracy)]), "sums", "gainrl")
        assert found is not None
        assert found["factor_rollouts"].mean == pytest.approx(1.0, abs=0.02)
        assert found["even"].mean == pytest.approx(factor, rel=0.03)
    better = statistics.compare(
        dict([uniform, made("sums", "gainrl", 0, [0.02 * at for at in range(41)])]), "sums", "gainrl"
    )
    assert better is not None
    assert better["even"].mean == pytest.approx(better["factor_rollouts"].mean)


def test_the_probe_is_held_against_each_arm_seed_by_seed():
    runs = dict(
        made("sums", arm, seed, [rate * at for at in range(41)])
        for seed in range(3)
        for arm, rate in (("uniform", 0.01), ("probe", 0.04), ("target", 0.02), ("posterior", 0.005))
    )
    found = {row["probe against"]: row for row in report.against(report.comparisons(runs))}
    times = {
        arm: [float(row[name].split()[0]) for name in ("times fewer rollouts", "even")] for arm, row in found.items()
    }
    assert times["uniform"] == pytest.approx([4.0, 4.0], rel=0.05)
    assert times["target"] == pytest.approx([2.0, 2.0], rel=0.05)
    assert times["posterior"] == pytest.approx([4.0, 8.0], rel=0.05)  # censored, and even
    assert "probe" not in found


def test_a_blind_probe_sees_other_prompts_directions_and_nothing_else_changes():
    from gainrl.table import ScoreTable

    numbers = np.arange(50.0)
    columns = {
        "id": pa.array([f"{i}" for i in range(50)]),
        "direction": pa.array([[i, i] for i in numbers], pa.list_(pa.float32(), 2)),
        "inter": pa.array(numbers),
        "score": pa.array(numbers, pa.float32()),
        "rank": pa.array(numbers[::-1].copy(), pa.int64()),
    }
    table = dataclasses.replace(object.__new__(ScoreTable), columns=pa.table(columns), metadata=None)
    blind = ranked_by(table, "C_inter", own_directions=False).columns
    assert sorted(blind["direction"].to_pylist()) == columns["direction"].to_pylist() != blind["direction"].to_pylist()
    assert blind["score"].to_pylist() == columns["score"].to_pylist()


def test_the_oracles_draw_by_true_chances():
    from gainrl.curriculum import NAVIGATORS, Ranking

    oracle.register()
    prompts = Ranking([f"{i}" for i in range(400)], np.zeros(400), "f")
    rates = np.repeat([0.0, 0.02, 0.5, 1.0], 100)
    for kind, wanted in (("oracle", 0.02 * 0.98 / 0.25), ("oracle-spread", (1 - 0.98**8) ** 1.5)):
        counts = np.zeros(4)
        for seed in range(60):
            navigator = NAVIGATORS[kind](prompts, 10, seed=seed)
            navigator.pass_rates = lambda names: rates[[int(name) for name in names]]
            counts += np.bincount([int(name) // 100 for name in navigator.draw()], minlength=4)
        assert counts[0] == counts[3] == 0
        assert counts[1] / counts[2] == pytest.approx(wanted, abs=0.06)


def test_where_uniform_gains_nothing_there_is_no_level():
    runs = dict([made("sums", "uniform", 0, [0.3] * 5), made("sums", "gainrl", 0, [0.3, 0.4, 0.5, 0.6, 0.7])])
    found = statistics.compare(runs, "sums", "gainrl")
    assert found is not None
    assert found["without_level"] == 1
    assert found["factor_rollouts"].seeds == 0
    assert found["final"].mean > 0.3


def test_results_on_disk_belong_to_arms_and_families_of_the_study():
    for (family, arm, seed), run in study.results(RESULTS / "convergence").items():
        assert family in FAMILIES
        assert arm in ARMS
        assert seed in range(5)
        assert run["commit"]
        assert run["curve"][0]["rollouts"] == 0
        assert run["rollouts"] >= run["budget_rollouts"]


def test_the_page_on_evidence_has_the_tables_of_the_results():
    page = Path(__file__).parents[2] / "docs/evidence.md"
    text = page.read_text(encoding="utf-8")
    assert filled(text, study.results()) == text, "run: python -m benchmarks.convergence report --page docs/evidence.md"
    emptied = re.sub(r"\| sums \|.*\n", "", text)
    assert emptied != text
    assert filled(emptied, study.results()) == text
