"""The signal study measures what it says: gradients against a plain batch, statistics against SciPy and brute force."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks
sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny_models

from tiny_models import make_model

from benchmarks.signal_study import gradients, statistics, tables
from benchmarks.signal_study.cases import Case, Problems
from benchmarks.signal_study.measure import Measurement, Recorder
from gainrl.errors import UserError
from gainrl.evaluation import Sampling

PROMPT, COMPLETIONS = [5, 17, 30, 8], [[9, 4, 11], [7], [12, 12, 3, 40, 6]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model"), "llama", texts=["1 + 2 = 3\n4 + 4 = 8\n"] * 4)


@pytest.fixture(scope="module")
def model(directory: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def one_by_one(model: Any, prompt: list[int], completions: list[list[int]]) -> list[torch.Tensor]:
    """Log-probabilities of each completion in a forward pass of its own."""
    found = []
    for tokens in completions:
        ids = torch.tensor([prompt + tokens])
        chances = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(chances.gather(1, torch.tensor(tokens)[:, None])[:, 0])
    return found


def test_a_packed_group_has_the_log_probabilities_of_separate_sequences(model: Any) -> None:
    packed = gradients.token_log_probabilities(model, PROMPT, COMPLETIONS)
    for got, wanted in zip(packed, one_by_one(model, PROMPT, COMPLETIONS), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_grpo_gradient_norm_is_that_of_the_plain_loss(model: Any) -> None:
    weights = gradients.advantages([1.0, 0.0, 0.0])
    got = gradients.grpo_gradient_norm(model, PROMPT, COMPLETIONS, weights, bf16=False)
    chances = one_by_one(model, PROMPT, COMPLETIONS)
    loss = -sum(w * c.mean() for w, c in zip(weights, chances, strict=True)) / 3
    grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    assert got == pytest.approx(float(torch.sqrt(sum((g**2).sum() for g in grads))), rel=1e-4)
    assert all(p.grad is None for p in model.parameters())


def test_a_group_of_equal_rewards_has_no_gradient(model: Any) -> None:
    weights = gradients.advantages([1.0, 1.0, 1.0])
    assert gradients.grpo_gradient_norm(model, PROMPT, COMPLETIONS, weights, bf16=False) == 0.0


def test_likelihood_gradient_norm_is_that_of_the_mean_cross_entropy(model: Any) -> None:
    got = gradients.likelihood_gradient_norm(model, PROMPT, COMPLETIONS[2], bf16=False)
    loss = -one_by_one(model, PROMPT, COMPLETIONS[2:])[0].mean()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert got == pytest.approx(float(torch.sqrt(sum((g**2).sum() for g in grads))), rel=1e-4)


def test_correlations_agree_with_scipy_and_length_is_taken_out() -> None:
    random = np.random.default_rng(0)
    length = random.integers(5, 30, 200)
    apart = random.normal(size=200)
    signals = {"only length": -3.0 / length, "more": apart + length, "constant": np.ones(200)}
    target = apart + random.normal(size=200) - 0.2 * length
    rows = {row["signal"]: row for row in statistics.rank_correlations(signals, {"y": target}, length, resamples=200)}
    for name in ("only length", "more"):
        assert rows[name]["raw"] == pytest.approx(spearmanr(signals[name], target)[0])
        assert rows[name]["raw_low"] < rows[name]["raw"] < rows[name]["raw_high"]
    assert np.isnan(rows["only length"]["partial"]), "nothing is left of a function of length"
    assert rows["more"]["partial"] > 0.5 > rows["more"]["raw"]
    assert np.isnan(rows["constant"]["raw"])


def test_partial_correlation_is_the_textbook_one_of_the_ranks() -> None:
    random = np.random.default_rng(1)
    z = random.normal(size=80)
    x, y = z + random.normal(size=80), z - random.normal(size=80)
    (row,) = statistics.rank_correlations({"x": x}, {"y": y}, z, resamples=10)
    xy, xz, yz = (spearmanr(a, b)[0] for a, b in ((x, y), (x, z), (y, z)))
    assert row["partial"] == pytest.approx((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))


def test_prompts_that_were_not_measured_are_left_out() -> None:
    y = np.r_[np.arange(20.0), [np.nan] * 5]
    (row,) = statistics.rank_correlations({"x": np.arange(25.0)}, {"y": y}, np.ones(25), resamples=20)
    assert (row["prompts"], row["raw"]) == (20, pytest.approx(1.0))


def test_ridge_strength_has_the_least_leave_one_out_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closed form against fitting n times; more features than rows."""
    random = np.random.default_rng(2)
    x = random.normal(size=(30, 60))
    y = x[:, 0] + 0.5 * random.normal(size=30)
    scale = np.trace((x - x.mean(0)) @ (x - x.mean(0)).T) / 30
    strengths = np.array([1e-4, 1e-2, 1e-1, 1.0, 10.0])

    def error(strength: float) -> float:
        total = 0.0
        for out in range(30):
            rest = np.delete(np.arange(30), out)
            mean, offset = x[rest].mean(0), y[rest].mean()
            a = x[rest] - mean
            w = np.linalg.solve(a.T @ a + strength * scale * np.eye(60), a.T @ (y[rest] - offset))
            total += float((x[out] - mean) @ w + offset - y[out]) ** 2
        return total

    best = strengths[int(np.argmin([error(s) for s in strengths]))]
    monkeypatch.setattr(statistics, "_RIDGES", strengths)
    chosen = statistics.ridge(x, y, x)
    monkeypatch.setattr(statistics, "_RIDGES", np.array([best]))
    np.testing.assert_allclose(chosen, statistics.ridge(x, y, x))


def test_out_of_fold_predictions_of_noise_are_no_better_than_chance() -> None:
    random = np.random.default_rng(3)
    x, y = random.normal(size=(120, 200)), random.normal(size=120)
    # below 0 rather than around it: the mean of the others is the lower, the higher the one left out
    assert spearmanr(statistics.out_of_fold(x, y), y)[0] < 0.1
    assert spearmanr(statistics.out_of_fold(x, x[:, :20].sum(axis=1)), x[:, :20].sum(axis=1))[0] > 0.5


def test_a_rollouts_tokens_end_with_the_one_that_ended_it(directory: str, model: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    engine = Recorder(model, tokenizer)
    done = engine.generate(["1 + 2 =", "4"] * 20, Sampling(1.0, 1.0, 12, ("\n",), 0), key=0)
    assert {one.finish for one in done} == {"stop", "length"}
    for one, ids in zip(done, engine.ids, strict=True):
        text = tokenizer.decode(ids)
        ended = ids[-1] == tokenizer.eos_token_id or "\n" in text
        assert ended == (one.finish == "stop")
        assert text.count("\n") <= 1
        assert len(ids) <= 12


def problems(directory: str, count: int) -> Problems:
    rows = [{"prompt": f"1 + 2 = 3\n{i} + 4 =", "question": f"{i} + 4 =", "answer": str(i + 4)} for i in range(count)]
    return Problems(
        directory,
        rows,
        lambda texts, rows: [len(t) % 2 == 0 for t in texts],
        lambda row: " " + row["answer"],
        ("\n",),
        5,
    )


def test_a_measurement_goes_on_where_it_stopped(directory: str, tmp_path: Path) -> None:
    case = Case(lambda count: problems(directory, count), 12, 4, 12, group=4)
    whole = Measurement("whole", case, tmp_path)
    wanted = whole.samples(), whole.gradients()
    assert [len(one) for one in wanted] == [12, 12]

    cut = Measurement("cut", case, tmp_path, deadline=0.0)
    assert cut.samples() == []
    assert Measurement("cut", case, tmp_path).samples() == wanted[0]
    assert Measurement("cut", case, tmp_path).gradients() == wanted[1]
    assert Measurement("cut", case, tmp_path, deadline=0.0).gradients() == wanted[1]
    for sampled, norms in zip(*wanted, strict=True):
        assert (norms["grpo"] == 0) == (len(set(sampled["right"])) == 1)

    with pytest.raises(UserError, match="another measurement"):
        Measurement("cut", Case(case.open, 11, 4, 12, group=4), tmp_path)


def test_question_tokens_begin_at_the_questions_last_occurrence(directory: str, tmp_path: Path) -> None:
    case = Case(lambda count: problems(directory, count), 1, 1, 1)
    found = Measurement("one", case, tmp_path)
    row = {"prompt": "7 = 7\n7 =", "question": "7 ="}
    asked = found._question_tokens(row)
    ids = found.tokenizer(row["prompt"])["input_ids"]
    assert found.tokenizer.decode(ids[-asked:]).strip() == "7 ="


def test_the_pages_tables_are_those_of_the_result_files() -> None:
    page = (Path(__file__).parents[2] / "docs" / "signal.md").read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if line.startswith(("| smollm2-", "| tiny-")) or "** |" in line]
    made = tables.everything().splitlines()
    assert len(shown) > 60
    assert [line for line in shown if line not in made] == []
