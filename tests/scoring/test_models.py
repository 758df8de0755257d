"""Model names: directories, the packaged model, and names that lead nowhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from gainrl.errors import UserError
from gainrl.models import resolve_device
from gainrl.scoring import AngleScorer, ScoringPrompt, load_tokenizer, model_identity, resolve_model


def test_the_identity_follows_the_weights_not_the_directory_or_dtype(make_model, tmp_path):
    model = make_model()
    for name in ("a", "b", "c"):
        model.save_pretrained(tmp_path / name)
    assert model_identity(str(tmp_path / "a")) == model_identity(str(tmp_path / "b"))
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "c")
    assert model_identity(str(tmp_path / "c")) != model_identity(str(tmp_path / "a"))


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no weights"):
        model_identity(str(tmp_path))
    with pytest.raises(UserError, match="no such directory"):
        resolve_model("./missing/model")


@pytest.mark.parametrize(
    ("device", "why"),
    [("toaster", "Expected one of cpu"), ("meta", "no data"), ("hpu", "No module named"), ("xpu", "not compiled with")],
)
def test_devices_that_cannot_be_used_are_refused_with_torchs_reason(device, why):
    with pytest.raises(UserError, match=rf"device '{device}' cannot be used .*: .*{why}.*; there are cpu"):
        resolve_device(device)


def test_a_device_out_of_memory_is_not_said_to_be_absent(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(UserError, match="CUDA out of memory"):
        resolve_device("cpu")


def chat_rows(count=3):
    return [[{"role": "user", "content": f"how many apples {n}"}] for n in range(count)]


@pytest.fixture
def saved(make_model, tokenizer, tmp_path):
    """A model's directory in bfloat16, as most are released."""
    make_model(dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(("fast", "wanted"), [("none", "float32"), ("bfloat16", "bfloat16")])
def test_auto_is_the_checkpoints_dtype_where_the_machine_is_fast_in_it(saved, monkeypatch, caplog, fast, wanted):
    from gainrl import precision

    precision._is_fast.cache_clear()
    monkeypatch.setenv(precision.OVERRIDE, fast)
    try:
        assert AngleScorer(saved).dtype == wanted
        said = [record.getMessage() for record in caplog.records if "bfloat16" in record.getMessage()]
        assert len(said) == (fast == "none")
        caplog.clear()
        assert AngleScorer(saved, dtype=torch.bfloat16).dtype == "bfloat16"
        said = [record.getMessage() for record in caplog.records if "asked for" in record.getMessage()]
        assert len(said) == (fast == "none"), "what a dtype costs is said to whoever named it"
    finally:
        precision._is_fast.cache_clear()


def test_paths_and_torchs_dtypes_are_taken(saved):
    wanted = AngleScorer(str(saved), dtype="float32").score(chat_rows()).score
    np.testing.assert_array_equal(AngleScorer(saved, dtype=torch.float32).score(chat_rows()).score, wanted)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft calls it
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_an_adapters_directory_is_loaded_on_its_base(saved, tokenizer, tmp_path, with_tokenizer, monkeypatch):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    monkeypatch.setenv("HOME", str(saved.parent))
    adapted.peft_config["default"].base_model_name_or_path = f"~/{saved.name}"
    adapted.save_pretrained(tmp_path / "lora")
    if with_tokenizer:
        tokenizer.save_pretrained(tmp_path / "lora")
    scorer = AngleScorer(tmp_path / "lora", dtype="float32")
    found, bare = scorer.score(chat_rows()), AngleScorer(saved, dtype="float32")
    np.testing.assert_allclose(found.score, AngleScorer(adapted, tokenizer).score(chat_rows()).score, atol=5e-6)
    assert np.abs(found.score - bare.score(chat_rows()).score).max() > 1e-4
    assert scorer.model_hash != bare.model_hash
    assert "weights:" in scorer.model_hash


def test_an_adapter_without_a_base_is_refused_by_name(tmp_path):
    for text, said in (("{}", "names no base model"), ("[]", "cannot be read"), ("{", "cannot be read")):
        (tmp_path / "adapter_config.json").write_text(text)
        with pytest.raises(UserError, match=said):
            AngleScorer(tmp_path)


def test_code_that_comes_with_a_model_runs_only_if_it_is_trusted(saved, tmp_path, monkeypatch):
    config = json.loads((saved / "config.json").read_text())
    own = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": own}))
    (saved / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class MineConfig(LlamaConfig):\n    model_type = 'mine'\n"
        "class MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(UserError, match="--trust-remote-code"):
        AngleScorer(saved, dtype="float32")
    scores = AngleScorer(saved, dtype="float32", trust_remote_code=True).score(chat_rows())
    assert scores.status == ["ok"] * 3


ROWS = [ScoringPrompt(f"You add up. {'tom buys apples ' * (n % 5 + 1)}{n}?", f"{'tom buys apples ' * (n % 5 + 1)}{n}?")
        for n in range(11)]  # fmt: skip


def assert_like_one_at_a_time(model, tokenizer, oracle, tolerance):
    scorer = AngleScorer(model, tokenizer, tokens_per_batch=100)
    scores = scorer.score(ROWS)
    assert scores.status == ["ok"] * len(ROWS)
    for i, rendered in enumerate(scorer.renderer(ROWS)):
        intra, inter = oracle(model, rendered.tokens, rendered.prefix)
        assert scores.intra[i] == pytest.approx(intra, abs=tolerance)
        assert scores.inter[i] == pytest.approx(inter, abs=tolerance)
    return scorer


@pytest.mark.parametrize("family", ["Llama", "Gemma", "Qwen2"])
def test_a_head_tied_to_the_embeddings_changes_nothing(make_model, tokenizer, oracle, family):
    model = make_model(family, tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert_like_one_at_a_time(model, tokenizer, oracle, 5e-6)
    assert np.isfinite(AngleScorer(model, tokenizer, nll=True).score(ROWS).nll).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.filterwarnings("ignore::DeprecationWarning:bitsandbytes")
def test_quantised_weights_are_scored_as_they_are(make_model, tokenizer, oracle, tmp_path, bits):
    """bitsandbytes on the CPU: the oracle runs the same quantised model, one prompt at a time."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    make_model("Llama", hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    options = {f"load_in_{bits}bit": True} | ({"bnb_4bit_quant_type": "nf4"} if bits == 4 else {})
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32, device_map="cpu"
    ).eval()
    kinds = {type(m).__name__ for m in model.modules()}
    assert {8: "Linear8bitLt", 4: "Linear4bit"}[bits] in kinds
    scorer = assert_like_one_at_a_time(model, tokenizer, oracle, {8: 2e-2, 4: 1e-4}[bits])
    apart = np.abs(scorer.score(ROWS).score - AngleScorer(plain.eval(), tokenizer).score(ROWS).score)
    assert apart.max() > 1e-3, "the quantised weights are the ones that were scored"


@pytest.mark.model
def test_the_packaged_model_is_prepared_once_and_scores():
    first = resolve_model("smollm2-135m")
    assert resolve_model("smollm2-135m") == first
    tokenizer = load_tokenizer("smollm2-135m")
    assert tokenizer.chat_template
    scores = AngleScorer("smollm2-135m", dtype="float32").score(["The capital of France is Paris.", "2 + 3 = 5"])
    assert scores.status == ["ok", "ok"]
    assert ((scores.intra > 0) & (scores.intra < 1)).all()
    assert np.isfinite(scores.score).all()
