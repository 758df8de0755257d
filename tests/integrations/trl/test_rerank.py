"""Ranking again between epochs: with the policy as it is, where it is, and exactly across a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats
from trl_support import check_rest, epoch_records, make_config, make_table, make_trainer, problems, recorded

from gainrl.curriculum import Ranking
from gainrl.errors import UserError
from gainrl.integrations.trl import reranking
from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.table import ScoreTable

SETTINGS = {"rerank_every": 1, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1}


def test_the_dataset_is_scored_with_the_policy_between_epochs_and_the_mean_stays(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(model, tmp_path, **SETTINGS)
    made: list[dict[str, Any]] = []
    plain = reranking.score_again

    def watched(data: Any, used: Any, tokenizer: Any, accelerator: Any) -> Any:
        assert used is trainer.model, "no copy"
        random = torch.get_rng_state()
        training = [module.training for module in used.modules()]
        scores = plain(data, used, tokenizer, accelerator)
        assert torch.equal(torch.get_rng_state(), random)
        assert [module.training for module in used.modules()] == training
        expected = AngleScorer(used, tokenizer).score(ScoringPrompt(r["prompt"], r["question"]) for r in problems())
        np.testing.assert_array_equal(scores, expected.score.astype(np.float32))
        made.append({"step": trainer.state.global_step, "scores": scores, "mean": trainer.navigator.metrics()})
        return scores

    monkeypatch.setattr(reranking, "score_again", watched)
    trainer.train()
    assert [entry["step"] for entry in made] == [2, 4], "after the first epoch and the second, not before the first"
    assert not np.array_equal(made[0]["scores"], made[1]["scores"])
    records = epoch_records(tmp_path, without=())
    assert [record["mean"] for record in records[1:]] == [entry["mean"]["next_mean"] for entry in made]
    rankings = [trainer._data.ranking, *(trainer._data.ranked(entry["scores"]) for entry in made)]
    assert trainer.navigator.ranking.ids == rankings[-1].ids
    assert records[0]["rerank_correlation"] is None
    for before, after, record in zip(rankings[:-1], rankings[1:], records[1:], strict=True):
        ranks = [after.rank_of(name) for name in before.ids]
        assert record["rerank_correlation"] == pytest.approx(stats.spearmanr(range(24), ranks).statistic)
        assert record["rerank_seconds"] > 0


@pytest.mark.parametrize("every", [2, 5])
def test_ranking_again_after_every_kth_epoch(model: str, tmp_path: Path, every: int) -> None:
    make_trainer(model, tmp_path, rerank_every=every, num_train_epochs=5).train()
    made = [record["rerank_correlation"] is not None for record in epoch_records(tmp_path)]
    assert made == [False, False, every == 2, False, every == 2]


@pytest.mark.parametrize("navigator", ["gaussian", pytest.param("posterior", marks=pytest.mark.full)])
def test_a_reranked_run_resumes_as_if_nothing_had_happened(model: str, tmp_path: Path, navigator: str) -> None:
    settings = {**SETTINGS, "curriculum_navigator": navigator}
    whole = make_trainer(model, tmp_path, kind=recorded(), **settings)
    whole.train()
    records = epoch_records(tmp_path)
    assert (tmp_path / "checkpoint-3" / reranking.SCORES_NAME).exists()
    assert not (tmp_path / "checkpoint-2" / reranking.SCORES_NAME).exists(), "the first ranking is the table's"
    for step in (2, 3, 5):
        resumed = make_trainer(model, tmp_path, kind=recorded(), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        check_rest(resumed, whole, step)
        assert epoch_records(tmp_path) == records


def test_adapters_and_checkpointed_activations_are_scored_through(model: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    settings = {**SETTINGS, "num_train_epochs": 2, "activation_checkpointing": True}
    trainer = make_trainer(model, tmp_path, trainer={"peft_config": lora}, **settings)
    trainer.train()
    scores = trainer._scores
    assert scores is not None
    assert np.isfinite(scores).all()
    with trainer.model.disable_adapter():
        base = reranking.score_again(trainer._data, trainer.model, trainer._tokenizer, trainer.accelerator)
    adapted = reranking.score_again(trainer._data, trainer.model, trainer._tokenizer, trainer.accelerator)
    assert abs(adapted - base).max() > 1e-3, "the adapters have a say"
    merged = trainer.model.merge_and_unload()
    expected = AngleScorer(merged, trainer._tokenizer).score(
        ScoringPrompt(row["prompt"], row["question"]) for row in problems()
    )
    np.testing.assert_allclose(adapted, expected.score, rtol=0, atol=1e-5)


def test_prompts_that_fail_are_counted(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(model, tmp_path)
    given = (trainer._data, trainer.model, trainer._tokenizer, trainer.accelerator)
    reranking.score_again(*given)
    assert "failed" not in caplog.text
    monkeypatch.setattr(
        reranking, "ScoringPrompt", lambda prompt, question: ScoringPrompt(prompt, 7 if question == first else question)
    )
    first = problems()[0]["question"]
    scores = reranking.score_again(*given)
    assert np.isnan(scores).tolist() == [True] + [False] * 23
    assert "1 of 24 prompts failed and are ranked last" in caplog.text


def test_a_run_that_begins_again_begins_with_the_tables_ranking(model: str, tmp_path: Path) -> None:
    trainer = make_trainer(model, tmp_path, rerank_every=1)
    first = trainer.navigator.draw()
    trainer.train()
    assert trainer.navigator.ranking.digest != trainer._data.ranking.digest
    trainer.forget_epochs()
    trainer.train()
    assert trainer._data.ranked(trainer._data.table.scores).digest == trainer._data.ranking.digest
    seen = epoch_records(tmp_path)[0]
    assert seen["rerank_correlation"] is None
    assert seen["ranks"]["max"] == max(trainer._data.ranking.rank_of(name) for name in first)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rerank_every": 0}, "rerank_every=0: give a number of epochs, 1 or more"),
        ({"rerank_every": 1.5}, "rerank_every=1.5: give a number of epochs"),
    ],
    ids=str,
)
def test_impossible_settings(tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_config(tmp_path, **settings)


@pytest.mark.parametrize("navigator", ["uniform", "fixed", "shortest-first"])
def test_navigators_without_scores_are_not_reranked(tmp_path: Path, navigator: str) -> None:
    with pytest.raises(
        UserError, match=f"rerank_every=2 works with .*gaussian, target, posterior, not .*'{navigator}'"
    ):
        make_config(tmp_path, rerank_every=2, curriculum_navigator=navigator)


def test_a_ranking_fitted_to_the_dataset_is_not_made_again(tmp_path: Path) -> None:
    plain = make_table(problems())
    residual = pa.array(np.zeros(24, dtype=np.float32))
    metadata = replace(plain.metadata, control="length", control_fit=[0.0, 0.0, 0.0])
    table = ScoreTable(plain.columns.append_column("residual", residual), metadata)
    with pytest.raises(UserError, match="ranked with control = 'length'"):
        make_trainer("no/such-model", tmp_path, rerank_every=2, table=table)


def test_scores_of_another_size_are_refused(tmp_path: Path) -> None:
    reranking.save_scores(tmp_path, np.zeros(3, dtype=np.float32))
    with pytest.raises(UserError, match="not the scores of 4 prompts"):
        reranking.load_scores(tmp_path, 4)


def test_the_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random(50), rng.random(50)
    ids = [f"p{i}" for i in range(50)]
    found = reranking.spearman(Ranking(ids, one, "x"), Ranking(ids, other, "x"))
    assert found == pytest.approx(stats.spearmanr(one, other).statistic)
