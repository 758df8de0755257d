"""Scores against the float64 quadratic definition, for model families, batch shapes and awkward rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gainrl.errors import UserError
from gainrl.scoring import AngleScorer, ScoringPrompt

WORDS = ("how", "many", "apples", "does", "Tom", "buy", "when", "a", "train", "leaves", "at", "noon", "or", "sixty")


def prompts(count: int, *, chats: bool = True, seed: int = 0) -> list[ScoringPrompt]:
    random = np.random.default_rng(seed)
    questions = [" ".join(random.choice(WORDS, random.integers(1, 12))) for _ in range(count)]
    if not chats:
        return [ScoringPrompt(f"2 + 2 = 4\n{question}?", f"{question}?") for question in questions]
    system = {"role": "system", "content": "You are a helpful assistant. Answer step by step."}
    return [ScoringPrompt([system, {"role": "user", "content": question}]) for question in questions]


def assert_matches_oracle(model, tokenizer, scorer, rows, oracle, tolerance=5e-6):
    scores = scorer.score(rows)
    assert scores.status == ["ok"] * len(rows)
    for i, rendered in enumerate(scorer.renderer(rows)):
        intra, inter = oracle(model, rendered.tokens, rendered.prefix)
        assert scores.intra[i] == pytest.approx(intra, abs=tolerance)
        assert scores.inter[i] == pytest.approx(inter, abs=tolerance)
        assert scores.score[i] == pytest.approx(intra + inter, abs=2 * tolerance)


@pytest.mark.parametrize("backend", ["native", "torch", "reference"])
def test_every_backend_scores_alike(make_model, tokenizer, oracle, backend, require_backend):
    require_backend(backend)
    model = make_model()
    assert_matches_oracle(model, tokenizer, AngleScorer(model, tokenizer, backend=backend), prompts(9), oracle)


def test_plain_text_and_mixed_prefixes_are_scored_alike(make_model, tokenizer, oracle):
    model = make_model("Qwen2")
    rows = prompts(7, chats=False) + prompts(7, seed=1) + prompts(2, chats=False, seed=2)
    assert_matches_oracle(model, tokenizer, AngleScorer(model, tokenizer), rows, oracle)


def test_scores_do_not_depend_on_the_batches(make_model, tokenizer):
    rows = prompts(20)
    one, many = (AngleScorer(make_model(), tokenizer, tokens_per_batch=n).score(rows) for n in (1, 100_000))
    np.testing.assert_allclose(one.score, many.score, atol=5e-6, rtol=0)
    apart = np.abs(np.subtract.outer(one.score, one.score)) > 1e-5
    same_order = np.sign(np.subtract.outer(one.score, one.score)) == np.sign(np.subtract.outer(many.score, many.score))
    assert same_order[apart].all()


@pytest.fixture
def bare_tokenizer(tokenizer):
    """The same tokenizer without its BOS token."""
    from tokenizers import Tokenizer
    from tokenizers.processors import ByteLevel

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = ByteLevel(trim_offsets=True)
    return type(tokenizer)(tokenizer_object=backend)


def test_without_any_prefix_the_score_is_intra_alone(make_model, bare_tokenizer):
    scores = AngleScorer(make_model(), bare_tokenizer).score(["How many?", "When does it arrive?"])
    assert scores.prefix_tokens.tolist() == [0, 0]
    np.testing.assert_array_equal(scores.score, scores.intra)


def test_a_prompt_without_a_prefix_among_others_is_undefined(make_model, bare_tokenizer):
    rows = [ScoringPrompt("How many apples?", "apples?"), ScoringPrompt("apples?")]
    scores = AngleScorer(make_model(), bare_tokenizer).score(rows)
    assert scores.status == ["ok", "undefined"]
    assert "no prefix" in scores.reasons[1]
    assert np.isnan(scores.score[1])
    assert np.isfinite(scores.intra[1])


def test_bad_rows_are_reported_and_the_others_score_as_if_alone(make_model, tokenizer):
    good = prompts(5)
    mixed = [good[0], ScoringPrompt(""), *good[1:3], ScoringPrompt([{"role": "system", "content": "x"}]), *good[3:]]
    scorer = AngleScorer(make_model(), tokenizer)
    alone, among = scorer.score(good), scorer.score(mixed)
    assert among.status == ["ok", "undefined", "ok", "ok", "failed", "ok", "ok"]
    np.testing.assert_allclose(alone.score, among.score[[0, 2, 3, 5, 6]], atol=5e-6, rtol=0)
    assert np.isnan(among.score[[1, 4]]).all()


def test_non_finite_activations_fail_their_own_rows_only(make_model, tokenizer):
    model = make_model()
    scorer = AngleScorer(model, tokenizer)
    bad = tokenizer("zz", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[bad] = float("nan")
    scores = scorer.score([ScoringPrompt("x How many?", "How many?"), ScoringPrompt("x zz", "zz")] * 3)
    assert scores.status == ["ok", "failed"] * 3
    assert "not finite" in scores.reasons[1]
    assert np.isfinite(scores.score[::2]).all()


def test_a_non_finite_shared_prefix_fails_its_group_only(make_model, tokenizer):
    model = make_model()
    scorer = AngleScorer(model, tokenizer)
    bad = tokenizer("zz", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.get_input_embeddings().weight[bad] = float("inf")
    group = [ScoringPrompt(f"z z z z zz z z z z {n} apples", f"{n} apples") for n in range(6)]
    scores = scorer.score(group + prompts(6))
    assert scores.status == ["failed"] * 6 + ["ok"] * 6


def test_directions_are_the_unit_sums_of_the_question(make_model, tokenizer):
    model = make_model()
    rows = [*prompts(4), ScoringPrompt("")]
    scores = AngleScorer(model, tokenizer, directions=True).score(rows)
    assert scores.directions.shape == (5, 32)
    np.testing.assert_allclose(np.linalg.norm(scores.directions, axis=1), [1, 1, 1, 1, 0], atol=1e-5)


def test_a_loaded_model_is_used_in_place_and_left_as_it_was(make_model, tokenizer):
    model = make_model().train()
    attention = model.config._attn_implementation
    AngleScorer(model, tokenizer).score(prompts(3))
    assert model.training
    assert model.config._attn_implementation == attention
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_while_scoring_a_model_in_training(make_model, tokenizer):
    model = make_model("Llama", attention_dropout=0.5)
    expected = AngleScorer(model.eval(), tokenizer).score(prompts(5)).score
    np.testing.assert_array_equal(AngleScorer(model.train(), tokenizer).score(prompts(5)).score, expected)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft calls it
def test_a_peft_adapter_is_scored_with_its_adapter(make_model, tokenizer, oracle):
    peft = pytest.importorskip("peft")
    model = make_model()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    adapted.eval()
    assert_matches_oracle(adapted, tokenizer, AngleScorer(adapted, tokenizer), prompts(6), oracle)


def test_a_loaded_model_needs_its_tokenizer(make_model):
    with pytest.raises(UserError, match="tokenizer"):
        AngleScorer(make_model())


def test_a_tokenizer_without_offsets_is_refused(make_model):
    from transformers import PreTrainedTokenizer

    class Slow(PreTrainedTokenizer):
        def get_vocab(self):
            return {}

        @property
        def vocab_size(self):
            return 0

    with pytest.raises(UserError, match="no character offsets"):
        AngleScorer(make_model(), Slow())


def test_a_scorer_follows_a_model_in_training(make_model, tokenizer):
    """What was kept of a shared prefix must not outlive a change of the weights."""
    model = make_model()
    scorer = AngleScorer(model, tokenizer)
    before = scorer.score(prompts(6)).score
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    after = scorer.score(prompts(6)).score
    np.testing.assert_array_equal(after, AngleScorer(model, tokenizer).score(prompts(6)).score)
    assert np.abs(after - before).max() > 1e-3


def test_no_logits_are_ever_computed(make_model, tokenizer):
    model = make_model()
    calls = []
    model.get_output_embeddings().register_forward_hook(lambda *_: calls.append(1))
    AngleScorer(model, tokenizer).score(prompts(3))
    assert not calls


QUESTION = [{"role": "user", "content": "how many apples"}]


def test_one_prompt_many_rows_a_dataset_and_a_frame_are_all_scored(make_model, tokenizer):
    import pandas as pd
    from datasets import Dataset

    scorer = AngleScorer(make_model(), tokenizer)
    chats = [QUESTION, [{"role": "user", "content": "when does the train leave"}]]
    wanted = scorer.score(chats).score
    rows = [{"prompt": chat, "other": 1} for chat in chats]
    data = Dataset.from_list(rows)
    given = [
        rows,
        data,
        data["prompt"],
        data.with_format("numpy"),
        data.to_pandas(),
        data.to_pandas()["prompt"],
        pd.Series(chats),
    ]
    for prompts_given in given:
        np.testing.assert_allclose(scorer.score(prompts_given).score, wanted, atol=5e-6)
    for one in (QUESTION, rows[0], ScoringPrompt(QUESTION)):  # type: ignore[arg-type]
        np.testing.assert_allclose(scorer.score(one).score, wanted[:1], atol=5e-6)
    assert len(scorer.score("how many apples")) == 1
    assert len(scorer.score([])) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"train": [], "test": []}, "choose one"),
        (QUESTION[0], "give a list"),
        (7, "int is no dataset"),
        ([{"text": "a"}], "'text'"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_sentence(make_model, tokenizer, given, words):
    with pytest.raises(UserError, match=words):
        AngleScorer(make_model(), tokenizer).score(given)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "fp32"}, "fp32"),
        ({"tokens_per_batch": 0}, "at least 1"),
        ({"too_long": "cut"}, "skip"),
        ({"definition": "inter"}, "intra"),
        ({"direction_dtype": "int8"}, "float16"),
        ({"backend": "cuda"}, "backend"),
        ({"nll": True, "tap": "layer:1"}, "leave out --tap"),
        ({"question_after": 5}, "give the text"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_settings_that_can_never_do_are_refused_before_a_model_is_loaded(settings, words):
    with pytest.raises(UserError, match=words):
        AngleScorer("no/such-model", **settings)


def test_batches_give_every_index_once_with_the_scores_of_score(make_model, tokenizer):
    rows = [*prompts(20), ScoringPrompt(""), ScoringPrompt([{"role": "system", "content": "x"}])]
    scorer = AngleScorer(make_model(), tokenizer, tokens_per_batch=40, directions=True, nll=True)
    whole, seen = scorer.score(rows), []
    for indices, scores in scorer.batches(rows):
        assert len(indices) == len(scores) == len(scores.directions) == len(scores.nll)
        assert scores.status == [whole.status[i] for i in indices]
        np.testing.assert_allclose(scores.score, whole.score[indices], atol=5e-6)
        seen += indices
    assert sorted(seen) == list(range(len(rows)))


def test_the_identity_names_what_decides_the_scores(make_model, tokenizer):
    scorer = AngleScorer(make_model(), tokenizer, chat_template_kwargs={"enable_thinking": False}, date="2024-07-26")
    identity = scorer.identity()
    assert identity["chat_template_kwargs"] == {"enable_thinking": False}
    assert identity["template_date"] == "2024-07-26"
    assert (identity["dtype"], identity["tap"], identity["definition"]) == ("float32", "final", "intra+inter")
    other = AngleScorer(make_model(), tokenizer, definition="intra+0.5*inter,no-diagonal").identity()
    assert {key for key in identity if identity[key] != other[key]} >= {
        "definition",
        "diagonal",
        "chat_template_kwargs",
    }
    (quantised := make_model()).config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    loaded = AngleScorer(quantised, tokenizer).identity()["loaded_with"]
    assert (loaded["quantization"]["load_in_4bit"], other["loaded_with"]) == (True, {})


def test_other_definitions_weigh_their_parts(make_model, tokenizer):
    rows, model = prompts(6), make_model()
    plain = AngleScorer(model, tokenizer).score(rows)
    half = AngleScorer(model, tokenizer, definition="intra+0.5*inter").score(rows)
    intra = AngleScorer(model, tokenizer, definition="intra,no-diagonal").score(rows)
    np.testing.assert_allclose(half.score, plain.intra + 0.5 * plain.inter, atol=5e-6)
    q = plain.question_tokens
    with np.errstate(divide="ignore", invalid="ignore"):
        np.testing.assert_allclose(intra.intra, (plain.intra * q**2 - q) / (q * (q - 1)), atol=5e-6)
    assert intra.status == ["ok" if tokens > 1 else "undefined" for tokens in q]


def test_a_batch_that_does_not_fit_is_split_and_a_row_that_never_fits_is_named(make_model, tokenizer, caplog):
    model, rows = make_model(), prompts(12)
    wanted = AngleScorer(model, tokenizer).score(rows).score
    scorer = AngleScorer(model, tokenizer)
    real, most = scorer.forward.__call__, 40

    class Small:
        """A device that holds `most` tokens."""

        def __getattr__(self, name):
            return getattr(scorer_forward, name)

        def __call__(self, sequences, shared):
            if sum(map(len, sequences)) > most:
                raise torch.OutOfMemoryError("out of memory")
            return real(sequences, shared)

    scorer_forward, scorer.forward = scorer.forward, Small()  # type: ignore[assignment]
    np.testing.assert_allclose(scorer.score(rows).score, wanted, atol=5e-6)
    assert sum("out of memory with" in record.getMessage() for record in caplog.records) < 5
    most = 5
    scores = scorer.score(rows)
    assert set(scores.status) == {"ok", "failed"}
    assert all("out of memory" in why for why in scores.reasons if why)
