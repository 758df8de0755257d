"""Evaluation against a real server with the OpenAI API: `transformers serve` with a tiny random model behind it."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from gainrl.evaluation import Sampling, TransformersEngine
from gainrl.evaluation.engines import ServerEngine
from tests.tiny_models import make_model

MISSING = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"transformers serve needs {', '.join(MISSING)}")

PLAIN = "1 + 1 ="
CHAT = [{"role": "user", "content": "What is 1 + 1?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    # llama: for other architectures the server reads tool calls into whatever a random model says
    return make_model(tmp_path_factory.mktemp("model"), "llama", texts=[PLAIN, CHAT[0]["content"]], context=256)


@pytest.fixture(scope="module")
def address(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, "--device", "cpu", model],
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    try:
        until = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"transformers serve did not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("prompt", [PLAIN, CHAT], ids=["plain", "chat"])
def test_greedy_completions_of_a_server_are_those_of_the_model(address: str, model: str, prompt: Any) -> None:
    sampling = Sampling(temperature=0.0, max_new_tokens=12)
    local = TransformersEngine(AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model))
    (expected,) = local.generate([prompt], sampling, key=0)
    (found,) = ServerEngine(address, model).generate([prompt], sampling, key=0)
    assert len(set(expected.text)) > 3
    assert (found.text, found.finish) == (expected.text, expected.finish)
    assert found.tokens == expected.tokens


def test_a_server_draws_the_same_again_for_the_same_seed(address: str, model: str) -> None:
    engine = ServerEngine(address, model, concurrent=1)
    first, again, other = (
        [one.text for one in engine.generate([CHAT] * 3, Sampling(max_new_tokens=8, seed=seed), key=1)]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert len(set(first)) > 1
