"""`gainrl score`: what its help, its refusals and its summary say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from gainrl.errors import UserError
from tests.tiny_models import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny model `m` and prompts `p.jsonl`, one of which cannot be scored."""
    folder = tmp_path_factory.mktemp("score")
    make_model(folder / "m")
    rows = [{"prompt": [{"role": "user", "content": f"how many {'apples ' * (n % 7)}{n}"}]} for n in range(30)]
    rows[3]["prompt"] = [{"role": "system", "content": "no question"}]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def score(folder, run_cli, tmp_path):
    def run(*arguments, output=None):
        given = {"--model": folder / "m", "--dataset": folder / "p.jsonl", "--output": output or tmp_path / "s.parquet"}
        words = [str(word) for pair in given.items() if pair[0] not in arguments for word in pair]
        return run_cli(["score", *words, "--device", "cpu", *map(str, arguments)])

    return run


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_help_fits_a_screen_in_groups_on_any_terminal(encoding):
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "COLUMNS": "80"}
    command = [sys.executable, "-m", "gainrl", "score", "--help"]
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    assert len(shown.splitlines()) <= 40
    assert all(part in shown for part in ("What is scored", "How it runs", "--chat-template-kwargs", "--resume"))


def test_the_summary_names_rows_without_a_score_and_what_is_length(score, tmp_path):
    status, out, err = score("--nll")
    assert status == 0, err
    assert "30 rows in" in out
    assert "without a score: 1 failed" in out
    assert "row 3 (" in out
    assert "failed: the chat has no user message" in out
    assert "C: min " in out
    assert "Spearman correlation with question tokens: C " in out
    assert "no directions" in out
    assert "prompts/s" in err
    status, out, _ = score("--resume", "--nll")
    assert status == 0
    assert "30 rows taken from an earlier run" in out
    _, out, _ = score("--overwrite", "--directions")
    assert "no directions" not in out


def test_no_bar_where_tqdm_is_switched_off(score, monkeypatch, folder):
    env = {**os.environ, "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", "gainrl", "score", "--model", "m", "--dataset", "p.jsonl", "--output", "b.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert "prompts/s]" not in done.stderr


def test_a_tilde_means_the_home_folder(score, monkeypatch, folder, tmp_path, run_cli):
    monkeypatch.setenv("HOME", str(folder))
    assert score("--model", "~/m", "--dataset", "~/p.jsonl", output="~/t.parquet")[0] == 0
    assert (folder / "t.parquet").is_file()
    assert run_cli(["compare", "~/t.parquet", "~/t.parquet"])[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--engine", "vlm"], "--engine 'vlm': choose torch, ray or vllm"),
        (["--engine-option", "x=1"], "--engine-option is for --engine vllm"),
        (["--workers", "2"], "--workers is for --engine ray"),
        (["--engine", "vllm", "--nll"], "--nll needs the logits"),
        (["--engine", "vllm", "--tap", "layer:1"], "final hidden states alone"),
        (["--engine", "vllm", "--engine-option", "eager"], "give NAME=VALUE"),
        (["--engine", "ray", "--device", "cuda:1"], "Ray chooses"),
        (["--dtype", "fp32"], "fp32"),
        (["--chat-template-kwargs", "{"], "plain values, as in JSON"),
        (["--chat-template-kwargs", "[1]"], "chat_template_kwargs"),
        (["--definition", "outer"], "definition 'outer'"),
        (["--too-long", "cut"], "too_long"),
        (["--limit", "0"], "--limit 0"),
        (["--split", "test"], "has no splits|a local file has no splits"),
        (["--dataset", "none.jsonl"], "no such file"),
        (["--task", "gsm8k", "--dataset", "a", "--dataset", "b"], "give --dataset once"),
        (["--model", "./none"], "none"),
        (["--output", "s.csv"], r"ends in \.parquet"),
        (["--output", "\udcc3.parquet"], "is not UTF-8: set PYTHONUTF8=1"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(score, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    status, _, err = score(*arguments)
    assert status == 2
    assert "Traceback" not in err
    assert err.count("gainrl: ") == 1

    assert re.search(said, err), err
    assert not os.listdir(tmp_path)


def test_options_of_vllm_are_json_or_yaml():
    from gainrl.cli.score import engine_options

    given = ["gpu-memory-utilization=0.8", "enforce_eager=true", "quantization=awq", "x=a=b", "y=1e-3", "z={a: 1}"]
    assert engine_options(given) == {
        "gpu_memory_utilization": 0.8, "enforce_eager": True, "quantization": "awq", "x": "a=b", "y": 0.001,
        "z": {"a": 1},
    }  # fmt: skip
    with pytest.raises(UserError, match=r"x=\['.*neither JSON nor YAML"):
        engine_options(["x=["])
