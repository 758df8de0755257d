"""The choice of an engine on the command line: what is refused, before a model is loaded."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest


def refusal(run_cli, model_directory, dataset, folder, *arguments):
    command = ["score", "--model", str(model_directory), "--dataset", str(dataset)]
    status, _, err = run_cli([*command, "--output", str(folder / "out.parquet"), *arguments])
    assert status == 2
    return err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "vlm"], "--engine 'vlm': choose torch or"),
        (["--tensor-parallel", "2"], "are for --engine vllm"),
        (["--engine-option", "x=1"], "are for --engine vllm"),
        (["--engine", "vllm", "--nll"], "--nll needs the logits"),
        (["--engine", "vllm", "--tap", "layer:1"], "final hidden states alone"),
        (["--engine", "vllm", "--device", "cpu"], "chooses its devices itself"),
        (["--engine", "vllm", "--engine-option", "eager"], "give NAME=VALUE"),
        (["--engine", "vllm", "--engine-option", "runner=generate"], "'runner' cannot be given"),
        (["--engine", "vllm", "--engine-option", "dtype=half"], "'dtype' cannot be given: use --dtype"),
        (["--engine", "vllm", "--tensor-parallel", "0"], "tensor_parallel=0"),
        (["--engine", "vllm", "--tokens-per-batch", "0"], "tokens_per_batch=0"),
        (["--backend", "nativ"], "backend is 'nativ'; it must be one of auto, native, triton, torch, reference"),
    ],
)
def test_what_an_engine_does_not_do_is_one_error(model_directory, dataset, run_cli, tmp_path, arguments, message):
    assert message in refusal(run_cli, model_directory, dataset, tmp_path, *arguments)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")
def test_without_vllm_the_error_says_what_to_install(model_directory, dataset, run_cli, tmp_path):
    err = refusal(run_cli, model_directory, dataset, tmp_path, "--engine", "vllm")
    assert "pip install 'gainrl[vllm]'" in err


@pytest.mark.parametrize("engine", ["vllm", "ray"])
def test_an_engines_parent_asks_no_device_about_a_backend(
    model_directory, dataset, run_cli, tmp_path, monkeypatch, engine
):
    """CUDA that has begun in a process that forks is broken in the child; and it is the worker's device that counts."""
    import torch

    from gainrl.angle import backends

    def asked(*_):
        raise AssertionError("a device was asked for in the parent")

    for owner, name in ((torch.cuda, "is_available"), (torch.cuda, "device_count"), (backends, "_native_cuda")):
        monkeypatch.setattr(owner, name, asked)
    monkeypatch.setitem(sys.modules, engine, None)  # not installed
    err = refusal(run_cli, model_directory, dataset, tmp_path, "--engine", engine, "--backend", "triton")
    assert f"gainrl[{engine}]" in err


def test_a_backend_that_cannot_serve_is_refused_before_the_weights_are_read(
    model_directory, dataset, run_cli, tmp_path, monkeypatch
):
    from gainrl.scoring import scorer

    monkeypatch.setattr(scorer, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    err = refusal(run_cli, model_directory, dataset, tmp_path, "--backend", "triton", "--device", "cpu")
    assert "--backend triton: it cannot serve cpu tensors here: it serves GPU tensors" in err
    assert "these can:" in err


def test_options_are_json_where_they_can_be():
    from gainrl.cli.score import engine_options

    given = ["max-model-len=4096", "enforce_eager=true", "quantization=fp8", 'hf_overrides={"a": 1}']
    assert engine_options(given) == {
        "max_model_len": 4096, "enforce_eager": True, "quantization": "fp8", "hf_overrides": {"a": 1},
    }  # fmt: skip
