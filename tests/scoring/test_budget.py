"""The token budget comes from the memory at hand, and stays what it was on a resume."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from scoring_runs import run, stop_after

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt, budget
from gainrl.scoring.forward import PackedForward, PaddedForward

ROWS = [ScoringPrompt(f"question {n} {'apples ' * (n % 9)}") for n in range(60)]


@pytest.mark.parametrize(("free", "least", "most"), [(1 << 40, 2048, 2048), (1 << 12, 256, 256), (4 << 20, 257, 2047)])
def test_the_budget_is_a_power_of_two_that_fits_its_share(make_model, tokenizer, monkeypatch, free, least, most):
    monkeypatch.setattr(budget, "free_memory", lambda device: free)
    scorer = AngleScorer(make_model(), tokenizer)
    assert not scorer.budget_chosen
    tokens = scorer.tokens_per_batch
    assert least <= tokens <= most
    assert tokens & (tokens - 1) == 0
    if budget.LEAST < tokens < budget.MOST["cpu"]:
        fits = budget.SHARE["cpu"] * free / budget.bytes_per_token(scorer.forward)
        assert tokens <= fits < 2 * tokens


@pytest.mark.parametrize("form", [PackedForward, PaddedForward])
def test_bytes_per_token_grow_with_the_width_of_a_block_and_not_with_depth(make_model, form):
    with torch.inference_mode():
        narrow, deep, wide = (
            budget.bytes_per_token(form(make_model("Llama", **changes)))
            for changes in ({}, {"num_hidden_layers": 6}, {"intermediate_size": 640})
        )
    assert narrow == deep
    # three outputs of the wide half: gate, up and the activation between them
    assert wide - narrow == 3 * 4 * (640 - 64)


def test_free_memory_of_this_machine_is_known_and_plausible():
    free = budget.free_memory(torch.device("cpu"))
    assert 1 << 20 < free < 1 << 45


def test_the_limit_of_a_container_counts(tmp_path):
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    folder = tmp_path / own.removeprefix("0::").lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text("1000000\n")
    (folder / "memory.current").write_text("300000\n")
    (folder / "memory.stat").write_text("anon 200000\ninactive_file 50000\nactive_file 7\n")
    assert budget._group_memory(tmp_path) == 750_000
    (folder / "memory.max").write_text("max\n")
    assert budget._group_memory(tmp_path) is None


def test_a_resumed_run_keeps_the_budget_that_was_found_first(make_model, tokenizer, tmp_path, monkeypatch):
    """Less memory is free on the second day: the batches, and so the table, stay the same."""
    model, output = make_model(), tmp_path / "s.parquet"
    monkeypatch.setattr(budget, "free_memory", lambda device: 4 << 20)
    first = AngleScorer(model, tokenizer)
    run(first, ROWS, tmp_path / "whole.parquet")
    with pytest.raises(KeyboardInterrupt):
        run(AngleScorer(model, tokenizer), ROWS, output, progress=stop_after(5))
    monkeypatch.setattr(budget, "free_memory", lambda device: 1 << 12)
    second = AngleScorer(model, tokenizer)
    run(second, ROWS, output, resume=True)
    assert second.tokens_per_batch == first.tokens_per_batch
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert run(AngleScorer(model, tokenizer), ROWS, output, resume=True).kept == 60, (
        "nor is a finished table another one"
    )


def test_a_budget_that_was_given_and_differs_is_refused(make_model, tokenizer, tmp_path, monkeypatch):
    model, output = make_model(), tmp_path / "s.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(AngleScorer(model, tokenizer, tokens_per_batch=90), ROWS, output, progress=stop_after(5))
    with pytest.raises(UserError, match="tokens_per_batch: 90 then, 91 now"):
        run(AngleScorer(model, tokenizer, tokens_per_batch=91), ROWS, output, resume=True)


def test_what_was_found_is_logged(make_model, tokenizer, caplog):
    with caplog.at_level(logging.INFO, logger="gainrl"):
        assert AngleScorer(make_model(), tokenizer).tokens_per_batch == 2048
    assert "tokens per batch" in caplog.text
