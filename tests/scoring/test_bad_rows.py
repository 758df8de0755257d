"""Rows that cannot be scored: named in table and summary, never in the way of the others."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scoring_runs import gainrl_score, run, stop_after

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.table import ScoreTable


def test_rows_that_are_no_prompt_at_all_have_a_row_in_the_table(make_model, tokenizer, tmp_path):
    odd = [None, 7, ["a"], b"bytes", [{"role": "user", "content": b"x"}], "lone \ud800 surrogate", {"a": 1}]
    rows = [ScoringPrompt("How many?"), *(ScoringPrompt(value) for value in odd)]
    table = run(AngleScorer(make_model(), tokenizer), rows, tmp_path / "s.parquet").table
    assert table.columns["status"].to_pylist() == ["ok", *["failed"] * len(odd)]
    assert len(set(table.ids)) == len(rows)


def test_a_truncated_prompt_is_counted_after_a_resume_too(make_model, tokenizer, tmp_path):
    from gainrl.scoring.summary import summary

    scorer = AngleScorer(make_model(), tokenizer, too_long="truncate", tokens_per_batch=300)
    rows = [ScoringPrompt(f"question {n}") for n in range(5)] + [ScoringPrompt("word " * 500)]
    output = tmp_path / "s.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(scorer, rows, output, progress=stop_after(6))
    assert "1 prompts were truncated" in summary(run(scorer, rows, output, resume=True), output)


def test_a_dataset_of_which_no_row_can_be_scored_stops_with_the_reason(make_model, tokenizer, tmp_path):
    scorer = AngleScorer(make_model(), tokenizer)
    rows = [ScoringPrompt([{"role": "system", "content": "x"}])] * 5
    for _ in range(2):  # a second run says the same: there is nothing to resume
        with pytest.raises(UserError, match="no user message"):
            run(scorer, rows, tmp_path / "s.parquet")


def test_an_empty_dataset_is_an_error(make_model, tokenizer, tmp_path):
    with pytest.raises(UserError, match="empty"):
        run(AngleScorer(make_model(), tokenizer), [], tmp_path / "s.parquet")


ROWS = [ScoringPrompt(f"2 + 2 = 4\n{'apples ' * (n % 7 + 1)}{n}?", f"{'apples ' * (n % 7 + 1)}{n}?") for n in range(30)]


def test_a_row_whose_token_the_model_does_not_know_is_named(make_model, tokenizer, tmp_path):
    model = make_model(vocab_size=300)  # the tokenizer has 320
    big = next(word for word in ("Answer", "question", "helpful", "apples", "travels", "answer", "hour")
               if max(tokenizer(word)["input_ids"]) >= 300)  # fmt: skip
    rows = [ScoringPrompt("a b?"), ScoringPrompt(f"x {big}"), ScoringPrompt("c d?")]
    table = run(AngleScorer(model, tokenizer), rows, tmp_path / "s.parquet").table
    assert table.columns["status"].to_pylist() == ["ok", "failed", "ok"]
    assert "vocabulary of 300" in table.columns["reason"][1].as_py()


def test_a_text_that_the_tokenizer_refuses_is_named_and_the_others_are_scored(make_model, tokenizer, monkeypatch):
    scorer = AngleScorer(make_model(), tokenizer)
    expected = scorer.score(ROWS).score
    real = scorer.renderer._tokenise

    def refusing(texts, is_chat):
        if any("13?" in text for text in texts):
            raise Exception("cannot split this")
        return real(texts, is_chat)

    monkeypatch.setattr(scorer.renderer, "_tokenise", refusing)
    scores = scorer.score(ROWS)
    assert [i for i, status in enumerate(scores.status) if status != "ok"] == [13]
    assert scores.reasons[13] == "the tokenizer refuses the text: cannot split this"
    others = np.arange(30) != 13
    np.testing.assert_allclose(scores.score[others], expected[others], atol=5e-6)


def test_a_row_on_which_the_model_fails_is_found_in_its_batch_and_named(make_model, tokenizer):
    """Any error of the forward pass: here a layer that refuses one token."""
    model = make_model()
    scorer = AngleScorer(model, tokenizer)
    expected = scorer.score(ROWS).score
    bad = tokenizer("zz", add_special_tokens=False)["input_ids"][0]

    def refuse(_, args, kwargs):
        if (kwargs["input_ids"] == bad).any():
            raise RuntimeError("refused by this layer")

    handle = model.model.register_forward_pre_hook(refuse, with_kwargs=True)
    scores = scorer.score([*ROWS[:20], ScoringPrompt("2 + 2 = 4\nzz", "zz"), *ROWS[20:]])
    handle.remove()
    assert [i for i, status in enumerate(scores.status) if status != "ok"] == [20]
    assert scores.reasons[20] == "the model fails (RuntimeError: refused by this layer)"
    np.testing.assert_allclose(np.delete(scores.score, 20), expected, atol=5e-6)


def test_a_batch_that_does_not_fit_is_split_and_later_ones_are_smaller(make_model, tokenizer, caplog):
    """The allocator's own exception, raised when a forward pass takes more tokens than a budget."""
    model = make_model()
    scorer = AngleScorer(model, tokenizer, tokens_per_batch=100_000)
    expected = scorer.score(ROWS).score
    sizes = []

    def allocate(_, args, kwargs):
        sizes.append(kwargs["input_ids"].numel())
        if sizes[-1] > 150:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = model.model.register_forward_pre_hook(allocate, with_kwargs=True)
    scores = scorer.score(ROWS)
    first, sizes[:] = max(sizes), []
    again = scorer.score(ROWS)
    handle.remove()
    assert first > 150
    assert max(sizes) <= 150, "what did not fit once is not tried again"
    assert scores.status == ["ok"] * 30
    for result in (scores, again):
        np.testing.assert_allclose(result.score, expected, atol=5e-6)
    assert "out of memory" in caplog.text


def test_a_prompt_that_does_not_fit_alone_is_named(make_model, tokenizer):
    model = make_model()
    scorer = AngleScorer(model, tokenizer)

    def allocate(_, args, kwargs):
        if kwargs["input_ids"].numel() > 60:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = model.model.register_forward_pre_hook(allocate, with_kwargs=True)
    scores = scorer.score([*ROWS[:5], ScoringPrompt("word " * 40), *ROWS[5:]])
    handle.remove()
    assert [i for i, status in enumerate(scores.status) if status != "ok"] == [5]
    assert "out of memory for its" in scores.reasons[5]


IN_LITTLE_MEMORY = """
import logging, resource, sys
import numpy as np, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from gainrl.scoring import AngleScorer, ScoringPrompt
logging.basicConfig(format="%(message)s")
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
rows = [ScoringPrompt(f"2 + 2 = 4\\n{'apples ' * 20}{n}?", f"{'apples ' * 20}{n}?") for n in range(400)]
expected = AngleScorer(model, tokenizer, tokens_per_batch=500).score(rows).score
scorer = AngleScorer(model, tokenizer, tokens_per_batch=10**6)
with open("/proc/self/status") as lines:
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + 40 * 2**20, -1))
scores = scorer.score(rows)
assert scores.status == ["ok"] * 400, set(scores.reasons)
assert np.abs(scores.score - expected).max() < 5e-6
assert scorer._fits is not None
print("fits", scorer._fits)
"""


def test_the_pass_survives_an_allocator_that_really_runs_out(make_model, tokenizer, tmp_path):
    """A limit on the address space: torch's CPU allocator fails for real, and the batch is split until it fits."""
    make_model("Llama", hidden_size=256, intermediate_size=1024, num_attention_heads=4).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.startswith("fits"), done.stderr[-3000:]
    assert "out of memory with" in done.stderr


def test_more_failures_than_allowed_stop_the_run_and_keep_the_finished_rows(
    make_model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr("gainrl.scoring.run.WINDOW", 10)
    scorer = AngleScorer(make_model(), tokenizer)
    bad = [ScoringPrompt([{"role": "system", "content": "x"}])] * 3
    rows = [*ROWS[:9], *bad, *ROWS[9:]]
    output = tmp_path / "s.parquet"
    with pytest.raises(
        UserError, match=r"1 of the first 10 rows failed, more than --max-failed 0\.05 allows .row 9: .*--resume"
    ):
        run(scorer, rows, output, max_failed=0.05)
    assert not output.exists()
    with pytest.raises(UserError, match=r"3 of the first 20 rows failed"):  # those of the journal are counted too
        run(scorer, rows, output, max_failed=0.1, resume=True)
    done = run(scorer, rows, output, max_failed=0.2, resume=True)
    assert (done.kept, done.table.status_counts()) == (20, {"ok": 30, "failed": 3})


def test_a_share_that_is_none_is_refused(make_model, tokenizer, tmp_path):
    with pytest.raises(UserError, match="--max-failed 5"):
        run(AngleScorer(make_model(), tokenizer), ROWS, tmp_path / "s.parquet", max_failed=5)


def test_non_finite_states_are_named_in_table_and_summary(make_model, tokenizer, tmp_path):
    from gainrl.scoring.summary import summary

    model = make_model()
    scorer = AngleScorer(model, tokenizer, nll=True)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("zz", add_special_tokens=False)["input_ids"][0]] = float("nan")
    done = run(scorer, [*ROWS[:4], ScoringPrompt("2 + 2 = 4\nzz", "zz")], tmp_path / "s.parquet", control="length")
    table = ScoreTable.read(tmp_path / "s.parquet")
    assert table.columns["status"].to_pylist() == ["ok"] * 4 + ["failed"]
    assert table.column("rank").tolist()[4] == 4
    text = summary(done, tmp_path / "s.parquet")
    assert f"row 4 ({table.ids[4]}) failed: the model's hidden states are not finite" in text


def test_a_row_of_a_file_that_lacks_its_prompt_is_named(model_directory, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "How many?"}\n{"question": "lost"}\n{"prompt": "Why?"}\n')
    done = gainrl_score(model_directory, data, tmp_path / "s.parquet")
    assert done.returncode == 0, done.stderr
    assert "row 1 (" in done.stdout
    assert "no column 'prompt', only ['question']" in done.stdout
    refused = gainrl_score(model_directory, data, tmp_path / "t.parquet", "--max-failed", "0.2")
    assert refused.returncode == 2
    assert "1 of the first 3 rows failed" in refused.stderr
