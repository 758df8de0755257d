"""What a table says of itself: the definition it used, how much of it is length, length regressed out, likelihoods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from scoring_runs import run, stop_after

from gainrl.angle.reference import angle_concentration_reference
from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, Definition, ScoringPrompt
from gainrl.scoring.summary import summary
from gainrl.table import ScoreTable, ranks

ROWS = [ScoringPrompt(f"2 + 2 = 4\n{'how many apples ' * (n % 9 + 1)}{n}?", f"{'how many apples ' * (n % 9 + 1)}{n}?")
        for n in range(40)]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "weight", "diagonal", "canonical"),
    [
        ("intra+inter", 1.0, True, "intra+inter"),
        ("intra + 0.5*inter", 0.5, True, "intra+0.5*inter"),
        ("intra,no-diagonal", 0.0, False, "intra"),
        ("intra+2e-1*inter, no-diagonal", 0.2, False, "intra+0.2*inter"),
        ("intra+0*inter", 0.0, True, "intra"),
    ],
)
def test_definitions_are_read_and_named_canonically(text, weight, diagonal, canonical):
    found = Definition.parse(text)
    assert (found.inter_weight, found.diagonal, found.formula) == (weight, diagonal, canonical)
    assert Definition.parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "inter", "intra+", "intra+-1*inter", "intra+nan*inter", "intra+inter,diagonal"])
def test_a_definition_that_is_none_is_refused_with_the_form(text):
    with pytest.raises(UserError, match=r"intra\+W\*inter"):
        Definition.parse(text)


@pytest.mark.parametrize("definition", ["intra+inter", "intra+0.25*inter", "intra", "intra+inter,no-diagonal"])
def test_the_score_is_the_one_that_the_definition_says(make_model, tokenizer, tmp_path, definition):
    model, wanted = make_model(), Definition.parse(definition)
    scorer = AngleScorer(model, tokenizer, definition=definition, tokens_per_batch=64)
    table = run(scorer, ROWS[:12], tmp_path / "s.parquet").table
    for i, rendered in enumerate(scorer.renderer(ROWS[:12])):
        with torch.inference_mode():
            ids = torch.from_numpy(rendered.tokens.astype(np.int64))[None]
            hidden = model.model(input_ids=ids).last_hidden_state[0]
        roles = np.full(len(rendered.tokens), 2)
        roles[: rendered.prefix] = 1
        exact = angle_concentration_reference(hidden, [0, len(roles)], roles, diagonal=wanted.diagonal)
        assert table.column("intra")[i] == pytest.approx(float(exact.intra[0]), abs=5e-6)
        expected = float(exact.intra[0]) + wanted.inter_weight * float(exact.inter[0])
        assert table.scores[i] == pytest.approx(expected, abs=1e-5)
    assert (table.metadata.definition, table.metadata.diagonal) == (wanted.formula, wanted.diagonal)
    assert table.metadata.inter_weight == wanted.inter_weight
    np.testing.assert_array_equal(table.column("rank"), ranks(table.ids, table.scores))
    in_memory = scorer.score(ROWS[:12]).score
    np.testing.assert_array_equal(in_memory.astype(np.float32), table.scores.astype(np.float32))


def test_one_token_has_no_off_diagonal_and_is_undefined_without_the_diagonal(make_model, tokenizer):
    rows = [ScoringPrompt("2 + 2 = 4\n7", "7"), ScoringPrompt("2 + 2 = 4\n7 7", "7 7")]
    scores = AngleScorer(make_model(), tokenizer, definition="intra+inter,no-diagonal").score(rows)
    assert scores.question_tokens.tolist()[0] == 1
    assert scores.status == ["undefined", "ok"]
    assert "one question token" in scores.reasons[0]
    assert np.isnan(scores.score[0])


def test_leaving_inter_out_lets_prompts_without_a_prefix_have_a_score(make_model, tokenizer):
    from tokenizers import Tokenizer
    from tokenizers.processors import ByteLevel

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = ByteLevel(trim_offsets=True)
    rows = [ScoringPrompt("How many apples?", "apples?"), ScoringPrompt("apples?")]
    scores = AngleScorer(make_model(), type(tokenizer)(tokenizer_object=backend), definition="intra").score(rows)
    assert scores.status == ["ok", "ok"]
    np.testing.assert_array_equal(scores.score, scores.intra)


def test_summary_and_table_say_how_much_is_length_with_and_without_the_diagonal(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer)
    done = run(scorer, ROWS, tmp_path / "s.parquet")
    table = done.table
    q = table.column("question_tokens")
    first, second = table.length_correlations()
    assert first["score"] == pytest.approx(spearmanr(table.scores, q).statistic, abs=1e-9)
    bare = AngleScorer(make_model(), tokenizer, definition="intra+inter,no-diagonal").score(ROWS)
    assert second["intra"] == pytest.approx(spearmanr(bare.intra, q).statistic, abs=1e-3)
    assert second["score"] == pytest.approx(spearmanr(bare.score, q).statistic, abs=1e-3)
    text = summary(done, tmp_path / "s.parquet")
    assert f"with the diagonal (this table): score {first['score']:+.3f}" in text
    assert f"without the diagonal: score {second['score']:+.3f}" in text


def test_control_length_ranks_by_what_length_does_not_predict_and_keeps_the_score(make_model, tokenizer, tmp_path):
    plain = run(AngleScorer(make_model(), tokenizer), ROWS, tmp_path / "plain.parquet").table
    done = run(
        AngleScorer(make_model(), tokenizer), [*ROWS, ScoringPrompt("")], tmp_path / "s.parquet", control="length"
    )
    table = done.table
    np.testing.assert_array_equal(table.column("score")[:-1], plain.column("score"))
    x = np.log(plain.column("question_tokens").astype(float))
    basis = np.stack([np.ones_like(x), x, x**2], axis=1)
    fit = np.linalg.lstsq(basis, plain.scores, rcond=None)[0]
    np.testing.assert_allclose(basis @ table.metadata.control_fit, basis @ fit, atol=1e-6)
    residual = table.column("residual").astype(float)
    np.testing.assert_allclose(residual[:-1], plain.scores - basis @ fit, atol=1e-6)
    assert np.isnan(residual[-1])
    np.testing.assert_array_equal(table.scores, residual)  # what training ranks by
    np.testing.assert_array_equal(table.column("rank"), ranks(table.ids, residual))
    assert table.metadata.control == "length"
    assert abs(np.corrcoef(x, residual[:-1])[0, 1]) < 1e-4
    assert "is taken out" in summary(done, tmp_path / "s.parquet")


def test_control_length_needs_enough_rows_and_a_known_name(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer)
    with pytest.raises(UserError, match="at least 4"):
        run(scorer, ROWS[:3], tmp_path / "s.parquet", control="length")
    with pytest.raises(UserError, match="'lenght'"):
        run(scorer, ROWS[:3], tmp_path / "t.parquet", control="lenght")


def test_equal_lengths_leave_the_order_as_it_was(make_model, tokenizer, tmp_path):
    rows = [ScoringPrompt(f"{a}{b}", f"{a}{b}") for a in "aebcd" for b in "xyz"]
    scorer = AngleScorer(make_model(), tokenizer)
    plain, controlled = (run(scorer, rows, tmp_path / f"{c}.parquet", control=c).table for c in ("none", "length"))
    assert len(set(plain.column("question_tokens"))) == 1
    np.testing.assert_array_equal(plain.column("rank"), controlled.column("rank"))


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Cohere", "Bloom", "GPTNeoX"])
def test_nll_is_the_mean_loss_of_the_models_own_logits_over_the_question(make_model, tokenizer, family, monkeypatch):
    monkeypatch.setattr("gainrl.scoring.nll.CHUNK_BYTES", {"cpu": 320 * 4 * 20})  # several chunks
    model = make_model(family)
    scorer = AngleScorer(model, tokenizer, nll=True, tokens_per_batch=150)
    rows = [*ROWS[:9], ScoringPrompt("word"), *ROWS[9:12]]
    scores = scorer.score(rows)
    for i, rendered in enumerate(scorer.renderer(rows)):
        ids = torch.from_numpy(rendered.tokens.astype(np.int64))
        with torch.inference_mode():
            loss = torch.nn.functional.cross_entropy(
                model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="none"
            )
        assert scores.nll[i] == pytest.approx(float(loss[max(rendered.prefix, 1) - 1 :].mean()), abs=2e-5)


def test_nll_is_a_column_that_costs_no_full_logits(make_model, tokenizer, tmp_path):
    """Never more rows of logits at once than a chunk holds, whatever the batch."""
    model = make_model()
    scorer = AngleScorer(model, tokenizer, nll=True)
    rows_at_once = []
    handle = model.get_output_embeddings().register_forward_hook(lambda _, __, out: rows_at_once.append(len(out)))
    scorer._likelihood._rows = 16
    run(scorer, [*ROWS, ScoringPrompt("")], tmp_path / "s.parquet")
    handle.remove()
    assert max(rows_at_once) <= 16
    column = ScoreTable.read(tmp_path / "s.parquet").columns["nll"].to_pylist()
    assert column[-1] is None
    assert all(value > 0 for value in column[:-1])


def test_nll_and_control_are_the_same_after_a_resume(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer, nll=True, tokens_per_batch=100)
    run(scorer, ROWS, tmp_path / "whole.parquet", control="length")
    with pytest.raises(KeyboardInterrupt):
        run(scorer, ROWS, tmp_path / "s.parquet", control="length", progress=stop_after(11))
    with pytest.raises(UserError, match="control"):
        run(scorer, ROWS, tmp_path / "s.parquet", resume=True)
    run(scorer, ROWS, tmp_path / "s.parquet", control="length", resume=True)
    assert (tmp_path / "s.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_finished_table_is_not_resumed_with_another_definition(make_model, tokenizer, tmp_path):
    run(AngleScorer(make_model(), tokenizer, definition="intra"), ROWS, tmp_path / "s.parquet")
    with pytest.raises(UserError, match="definition"):
        run(AngleScorer(make_model(), tokenizer), ROWS, tmp_path / "s.parquet", resume=True)
    with pytest.raises(UserError, match="diagonal"):
        run(
            AngleScorer(make_model(), tokenizer, definition="intra,no-diagonal"),
            ROWS,
            tmp_path / "s.parquet",
            resume=True,
        )


def test_the_summary_of_a_long_table_samples_rows_and_says_so(make_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("gainrl.scoring.summary.SAMPLE", 15)
    done = run(AngleScorer(make_model(), tokenizer), [*ROWS, ScoringPrompt("")], tmp_path / "s.parquet")
    text = summary(done, tmp_path / "s.parquet")
    q, c = done.table.column("question_tokens"), done.table.column("score")
    assert "C (of one row in 3)" in text
    expected = spearmanr(c[::3], q[::3], nan_policy="omit").statistic
    assert f"with the diagonal (this table): score {expected:+.3f}" in text
    assert "1 undefined" in text, "counts are of all rows"
