"""The vLLM engine against the definition, with vLLM itself (its CPU build serves): scripts/vllm_environment.sh."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gainrl.angle import reference
from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt, ScoringSettings
from gainrl.table import ScoreTable

pytest.importorskip("vllm", reason="vllm: not installed here (scripts/vllm_environment.sh makes a place for it)")

with warnings.catch_warnings():  # of what vLLM's dependencies deprecate
    warnings.simplefilter("ignore")
    from vllm.pooling_params import PoolingParams
    from vllm.v1.pool.metadata import PoolingMetadata, PoolingStates

    from gainrl.scoring.vllm_engine import VllmScorer
    from gainrl.scoring.vllm_worker import RoleSums, WorkerExtension

pytestmark = pytest.mark.filterwarnings("default")  # as above

TOLERANCE = reference.TOLERANCE
"""Of C_intra and C_inter; the hidden states of vLLM and of transformers differ, too, but by less."""
SMALL = {"hidden_size": 128, "intermediate_size": 128, "max_position_embeddings": 512}  # heads of 32: vLLM's smallest
SYSTEM = {"role": "system", "content": "You are a helpful assistant. Answer the question step by step, then stop. " * 3}
WORDS = ("how", "many", "apples", "does", "Tom", "buy", "when", "a", "train", "leaves", "at", "noon", "or", "sixty")


@pytest.fixture(scope="module", autouse=True)
def _small_engine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        here = str(Path(__file__).parents[2])
        patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        yield


def chats(count: int) -> list[ScoringPrompt]:
    """Chats with one long system prompt; some asked twice, some with a long beginning in common, one without it."""
    random = np.random.default_rng(5)
    questions = [" ".join(random.choice(WORDS, random.integers(2, 30))) for _ in range(count)]
    questions += [questions[0], questions[1], *("noon " * 80 + word for word in WORDS[:3]), "x"]
    rows = [ScoringPrompt([SYSTEM, {"role": "user", "content": text}]) for text in questions]
    return [*rows, ScoringPrompt([{"role": "user", "content": "without a system prompt"}])]


def saved(make_model, tokenizer, folder: Path, family: str):
    model = make_model(family, **SMALL)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def assert_is_the_definition(scores, scorer, model, rows, oracle):
    assert scores.status == ["ok"] * len(rows)
    for i, rendered in enumerate(scorer.renderer(rows)):
        intra, inter = oracle(model, rendered.tokens, rendered.prefix)
        assert scores.intra[i] == pytest.approx(intra, abs=TOLERANCE)
        assert scores.inter[i] == pytest.approx(inter, abs=TOLERANCE)
        assert (scores.prefix_tokens[i], scores.question_tokens[i]) == (rendered.prefix, rendered.question)


# -- the pooler alone ------------------------------------------------------------------------------------------------


def pooled(pooler: RoleSums, steps, rows: torch.Tensor, skip: int, prefix: int, state=None):
    """What the pooler says of one prompt whose tokens come in `steps` (start, end)."""
    state = state or PoolingStates()
    for start, end in steps:
        params = PoolingParams(task="token_embed", extra_kwargs={"gainrl": [skip, prefix]})
        metadata = PoolingMetadata(torch.tensor([len(rows)]), None, None, [params], [state])
        metadata.build_pooling_cursor(np.array([end - start]), torch.tensor([end]), device=rows.device)
        (found,) = pooler(rows[start:end], metadata)
    return found


def expected(rows: torch.Tensor, first: int, skip: int, prefix: int) -> torch.Tensor:
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    low, high = max(first, skip), max(first, prefix)
    counts = [max(0, high - low), len(rows) - high, 0, first]
    return torch.cat([unit[low:high].sum(0), unit[high:].sum(0), torch.tensor(counts, dtype=torch.float64)])


@pytest.mark.parametrize("steps", [[(0, 9)], [(0, 4), (4, 9)], [(3, 9)], [(0, 2), (2, 3), (3, 9)], [(7, 9)]])
@pytest.mark.parametrize(("skip", "prefix"), [(0, 0), (0, 5), (3, 5), (5, 5)])
def test_the_pooler_sums_unit_rows_by_role_however_the_tokens_come(steps, skip, prefix):
    rows = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    found = pooled(RoleSums("torch"), steps, rows, skip, prefix)
    torch.testing.assert_close(found.double(), expected(rows, steps[0][0], skip, prefix), rtol=0, atol=1e-6)


def test_a_prompt_that_vllm_begins_anew_is_not_counted_twice():
    rows = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    state, pooler = PoolingStates(), RoleSums("torch")
    found = pooled(pooler, [(0, 4), (0, 6), (6, 9)], rows, 0, 5, state)
    torch.testing.assert_close(found.double(), expected(rows, 0, 0, 5), rtol=0, atol=1e-6)


def test_a_row_that_is_not_finite_is_told_and_stays_with_its_prompt():
    rows = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    rows[1, 3] = torch.nan
    params = [PoolingParams(task="token_embed", extra_kwargs={"gainrl": [0, 1]}) for _ in range(2)]
    metadata = PoolingMetadata(torch.tensor([3, 3]), None, None, params, [PoolingStates(), PoolingStates()])
    metadata.build_pooling_cursor(np.array([3, 3]), torch.tensor([3, 3]), device=rows.device)
    bad, good = RoleSums("torch")(rows, metadata)
    assert bad[-2] == 1
    torch.testing.assert_close(good.double(), expected(rows[3:], 0, 0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("backend", "said"),
    [("auto", None), ("torch", None), ("triton", "--backend triton: it cannot serve cpu tensors here")],
)
def test_a_worker_says_whether_the_backend_serves_on_its_device(backend, said, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    worker = WorkerExtension()
    worker.get_model = lambda: torch.nn.Linear(2, 2)
    found = worker.gainrl_install(backend, 2, "float32")[0]
    assert found is None if said is None else found.startswith(said)


@pytest.mark.parametrize("normalised", [False, True])
def test_a_model_that_normalises_where_it_computes_logits_is_refused(normalised):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.pooler = torch.nn.RMSNorm(4), None

        def compute_logits(self, hidden_states):
            return self.logits_processor(self.lm_head, self.norm(hidden_states) if normalised else hidden_states)

    worker, model = WorkerExtension(), Model()
    worker.get_model = lambda: model
    assert ("final norm" in str(worker.gainrl_install("torch", 4, "float32")[1])) is normalised
    assert isinstance(model.pooler, RoleSums) is not normalised


# -- the engine ------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_scores_are_the_definition_with_prefix_caching(make_model, tokenizer, oracle, tmp_path):
    model = saved(make_model, tokenizer, tmp_path, "Qwen2")
    options = {"enforce_eager": True, "block_size": 32, "max_num_batched_tokens": 2048, "max_model_len": 500}
    scorer = VllmScorer(ScoringSettings(model=tmp_path, directions=True), options)
    try:
        rows = chats(40)
        scores = scorer.score(rows)
        assert_is_the_definition(scores, scorer, model, rows, oracle)
        assert scorer.cached_tokens > 40 * 64  # the system prompt came from the cache
        assert scorer.identity()["loaded_with"] == {"max_model_len": 500}  # but not what leaves the numbers alone
        again = scorer.score(rows)  # now whole questions are in the cache: they must be computed all the same
        assert scorer.sent_again > 0
        np.testing.assert_allclose(again.score, scores.score, rtol=0, atol=TOLERANCE)
        ours = AngleScorer(model, tokenizer, directions=True).score(rows)
        np.testing.assert_allclose(scores.directions, ours.directions, rtol=0, atol=1e-5)
        plain = [ScoringPrompt(" ".join(WORDS[:n])) for n in range(1, 9)]
        plain_scores = scorer.score([*plain, ScoringPrompt("noon " * 600), ScoringPrompt("")])
        assert plain_scores.status == ["ok"] * 8 + ["skipped", "undefined"]
        expected_scores = AngleScorer(model, tokenizer).score(plain).score
        np.testing.assert_allclose(plain_scores.score[:8], expected_scores, rtol=0, atol=TOLERANCE)
        encode, refused = scorer._llm.encode, len(scorer.renderer(rows)[3].tokens)

        def refusing(prompts, *arguments, **options):
            if any(len(prompt["prompt_token_ids"]) == refused for prompt in prompts):
                raise ValueError("vLLM does not want this one")
            return encode(prompts, *arguments, **options)

        scorer._llm.encode = refusing
        some = scorer.score(rows[:8])
        alike = [i for i, rendered in enumerate(scorer.renderer(rows[:8])) if len(rendered.tokens) == refused]
        assert [i for i, status in enumerate(some.status) if status == "failed"] == alike
        assert some.reasons[3] == "the model fails (ValueError: vLLM does not want this one)"
        np.testing.assert_allclose(np.delete(some.score, alike), np.delete(scores.score[:8], alike), atol=TOLERANCE)
    finally:
        scorer.close()


@pytest.mark.full
def test_a_backend_that_the_workers_cannot_use_is_one_error_of_theirs(make_model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    saved(make_model, tokenizer, tmp_path, "Qwen2")
    with pytest.raises(UserError, match="--backend triton: it cannot serve cpu tensors here: it serves GPU tensors"):
        VllmScorer(ScoringSettings(model=tmp_path, backend="triton"), {"enforce_eager": True, "block_size": 32})


@pytest.mark.full
def test_the_command_writes_the_table_with_prompts_in_pieces_on_two_devices(
    make_model, tokenizer, run_cli, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # tensor parallelism on the CPU: one core a worker
    folder = tmp_path / "model"
    saved(make_model, tokenizer, folder, "Llama")
    rows = chats(20)
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": row.prompt}) + "\n" for row in rows))
    common = ["score", "--model", str(folder), "--dataset", str(data), "--definition", "intra+0.5*inter,no-diagonal"]
    here, there = tmp_path / "torch.parquet", tmp_path / "vllm.parquet"
    status, _, err = run_cli([*common, "--output", str(here), "--device", "cpu"])
    assert status == 0, err
    options = {"enforce_eager": "true", "block_size": "32", "max_num_batched_tokens": "64", "max_num_seqs": "16"}
    given = [word for name, value in options.items() for word in ("--engine-option", f"{name}={value}")]
    engine = ["--engine", "vllm", "--engine-option", "tensor_parallel_size=2", *given]
    status, out, err = run_cli([*common, "--output", str(there), *engine])
    assert status == 0, err
    assert f"{len(rows)} rows" in out
    ours, theirs = ScoreTable.read(here), ScoreTable.read(there)
    assert theirs.ids == ours.ids
    assert theirs.column("status").tolist() == ours.column("status").tolist()
    np.testing.assert_allclose(theirs.column("score"), ours.column("score"), rtol=0, atol=2 * TOLERANCE)
