from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gainrl.cli import main

pytest.importorskip("reasoning_gym")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama with a character tokenizer, as a directory."""
    folder = tmp_path_factory.mktemp("tiny")
    vocabulary = {character: number for number, character in enumerate(["<eos>", "<pad>", *"0123456789+-*= \n"])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=18, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["gainrl", "eval", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out = capsys.readouterr()
    return int(stop.value.code or 0), out.out, out.err


def test_eval_prints_figures_keeps_generations_and_resumes(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", tiny, "--task", "arithmetic", "--limit", "6", "--samples", "2"]
    monkeypatch.setenv("HOME", str(tmp_path))
    common = [*words, "--output=~/g"]
    code, out, _ = run(monkeypatch, capsys, *common, "--run=~/run", "--stage", "before")
    assert code == 0
    assert all(said in out for said in ("arithmetic: 6 problems, 2 samples each", "avg@2", "pass@2", "maj@2"))
    assert len((tmp_path / "g" / "generations.jsonl").read_text().splitlines()) == 12
    record = json.loads((tmp_path / "run" / "evals.jsonl").read_text())
    assert (record["stage"], record["task"], record["samples"], record["rows"]) == ("before", "arithmetic", 2, 6)
    assert record["model"] == tiny
    code, _, err = run(monkeypatch, capsys, *common)
    assert code == 2
    assert "holds generations already" in err
    code, _, err = run(monkeypatch, capsys, "--model", "./none", *common[2:], "--overwrite")
    assert (code, "no such directory" in err) == (2, True), "and the generations are still there"
    code, again, _ = run(monkeypatch, capsys, *common, "--resume")
    assert code == 0
    assert [line for line in again.splitlines() if "@2" in line] == [line for line in out.splitlines() if "@2" in line]


def test_a_checkpoint_replaces_the_models_weights(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.save_pretrained(tmp_path / "checkpoint")
    common = ("--task", "arithmetic", "--limit", "4", "--model", tiny)
    run(monkeypatch, capsys, *common, "--output", str(tmp_path / "a"))
    run(monkeypatch, capsys, *common, "--checkpoint", str(tmp_path / "checkpoint"), "--output", str(tmp_path / "b"))
    files = [(tmp_path / name / "generations.jsonl").read_text().splitlines() for name in "ab"]
    texts = [[json.loads(line)["completion"] for line in lines] for lines in files]
    assert texts[0] != texts[1]
    assert texts[1] == [""] * 4  # equal logits: the first token, which ends the text


def test_an_adapter_goes_on_the_model_that_is_named(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peft = pytest.importorskip("peft")
    shutil.copytree(tiny, tmp_path / "base")
    adapted = peft.get_peft_model(LlamaForCausalLM.from_pretrained(tmp_path / "base"), peft.LoraConfig(r=2))
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "base").rename(tmp_path / "moved")
    common = (
        "--task",
        "arithmetic",
        "--limit",
        "2",
        "--max-new-tokens",
        "2",
        "--checkpoint",
        str(tmp_path / "adapter"),
    )
    code, out, err = run(monkeypatch, capsys, "--model", str(tmp_path / "moved"), *common)
    assert code == 0, err
    assert "arithmetic: 2 problems" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "arithmetics"), "nearest name is 'arithmetic'"),
        (("--task", "arithmetic", "--engine", "tgi"), "it must be auto, transformers, vllm or server"),
        (("--task", "arithmetic", "--engine", "server"), "the engine server needs an address"),
        (("--task", "arithmetic", "--engine", "vllm", "--server", "http://localhost:1"), "and no other does"),
        (("--task", "arithmetic", "--resume"), "needs --output"),
        (("--task", "arithmetic", "--output", __file__), "is a file: name a folder"),
        (("--task", "arithmetic", "--samples", "2", "--temperature", "0"), "would all be equal"),
        (("--task", "arithmetic", "--split", "dev"), "no split 'dev'"),
        (("--task", "gsm8k", "--source", "none.jsonl"), "is no file"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(
    tiny: str, monkeypatch: Any, capsys: Any, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = run(monkeypatch, capsys, "--model", tiny, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_check_grades_the_gold_answers_without_a_model(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ("--source", str(shared_data / "gsm8k" / "test.jsonl"))
    code, out, _ = run(monkeypatch, capsys, "--model", "none", "--task", "gsm8k", *source, "--check")
    assert code == 0
    assert out == "gsm8k: 1319 of 1319 gold answers graded right\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "trainer_state.json"])
def test_a_damaged_checkpoint_is_a_clear_error_or_a_correct_read(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny, folder)
    (folder / "trainer_state.json").write_text('{"global_step": 3, "epoch": 0.5}')
    whole = (folder / name).read_bytes()
    arguments = ("--model", tiny, "--task", "arithmetic", "--limit", "1", "--max-new-tokens", "1")
    for offset in (5, len(whole) // 2):
        flipped = bytes([whole[offset] ^ 16 if offset < len(whole) else 0])
        (folder / name).write_bytes(whole[:offset] + flipped + whole[offset + 1 :])
        more = ("--checkpoint", str(folder), "--run", str(tmp_path / "run"))
        code, _, err = run(monkeypatch, capsys, *arguments, *more)
        assert code in (0, 2), err
        assert "Traceback" not in err
