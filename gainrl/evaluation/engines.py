"""Other ways to generate: vLLM in this process, or any server that speaks the OpenAI API (vLLM, SGLang, llama.cpp)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gainrl.errors import UserError
from gainrl.evaluation.generation import Completed, Prompt, Sampling, cut, encode


def _seed(sampling: Sampling, key: int, number: int) -> int:
    """The seed of one sequence of a batch."""
    return (sampling.seed * 1_000_003 + key * 10_007 + number) % 2**31


class VLLMEngine:
    """vLLM in this process (tested with 0.32, on a CPU).  Raises `UserError` where it is not installed.

    Each sequence has a seed of its own.  vLLM's results also depend on what else is in the batch, so equal seeds give
    equal completions only for equal batches on equal hardware.
    """

    def __init__(self, model: str, tokenizer: Any, **options: Any):
        try:
            import vllm
        except ImportError as error:
            raise UserError(
                "vLLM is not installed (pip install 'gainrl[vllm]'): leave the engine at 'transformers', or give a "
                "server"
            ) from error
        self._vllm, self.tokenizer = vllm, tokenizer
        self._model = vllm.LLM(model=model, **options)

    def encode(self, prompt: Prompt) -> list[int]:
        return encode(self.tokenizer, prompt)

    def room(self) -> int | None:
        return int(self._model.llm_engine.model_config.max_model_len)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        common = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
        drawn = [
            self._vllm.SamplingParams(**common, stop=list(sampling.stop) or None, seed=_seed(sampling, key, number))
            for number in range(len(prompts))
        ]
        inputs = [{"prompt_token_ids": self.encode(prompt)} for prompt in prompts]
        outputs = self._model.generate(inputs, drawn, use_tqdm=False)
        return [
            Completed(one.outputs[0].text, len(one.outputs[0].token_ids), one.outputs[0].finish_reason or "length")
            for one in outputs
        ]


class ServerEngine:
    """A server with `/v1/chat/completions` and `/v1/completions`; `url` ends before `/v1`, `model` is its name there.

    `concurrent` requests are under way at once.  The server tokenizes, so a prompt that is too long is its error.
    """

    def __init__(self, url: str, model: str, *, token: str | None = None, concurrent: int = 32, timeout: float = 600):
        self.url, self.model, self.timeout = url.rstrip("/").removesuffix("/v1"), model, timeout
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._concurrent = concurrent

    def encode(self, prompt: Prompt) -> None:
        return None

    def room(self) -> None:
        return None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        with ThreadPoolExecutor(min(self._concurrent, len(prompts))) as threads:
            return list(threads.map(lambda pair: self._one(pair[1], sampling, key, pair[0]), enumerate(prompts)))

    def _one(self, prompt: Prompt, sampling: Sampling, key: int, number: int) -> Completed:
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": _seed(sampling, key, number),
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        chat = not isinstance(prompt, str)
        body["messages" if chat else "prompt"] = prompt
        path = f"{self.url}/v1/{'chat/completions' if chat else 'completions'}"
        request = urllib.request.Request(path, json.dumps(body).encode(), self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                answer = json.load(response)
            choice = answer["choices"][0]
            text = choice["message"]["content"] if chat else choice["text"]
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(500).decode(errors="replace")
            raise UserError(f"the server at {self.url} refused the request ({error.code}): {said}") from error
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"the server at {self.url} did not answer as an OpenAI server does: {error}") from error
        text, _ = cut(text or "", sampling.stop)
        tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        return Completed(text, tokens, str(choice.get("finish_reason") or "length"))
