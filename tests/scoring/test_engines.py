"""The choice of an engine on the command line: what is refused, before a model is loaded."""

from __future__ import annotations

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
    ],
)
def test_what_an_engine_does_not_do_is_one_error(model_directory, dataset, run_cli, tmp_path, arguments, message):
    assert message in refusal(run_cli, model_directory, dataset, tmp_path, *arguments)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")
def test_without_vllm_the_error_says_what_to_install(model_directory, dataset, run_cli, tmp_path):
    err = refusal(run_cli, model_directory, dataset, tmp_path, "--engine", "vllm")
    assert "pip install 'gainrl[vllm]'" in err


def test_options_are_json_where_they_can_be():
    from gainrl.cli.score import engine_options

    given = ["max-model-len=4096", "enforce_eager=true", "quantization=fp8", 'hf_overrides={"a": 1}']
    assert engine_options(given) == {
        "max_model_len": 4096, "enforce_eager": True, "quantization": "fp8", "hf_overrides": {"a": 1},
    }  # fmt: skip
