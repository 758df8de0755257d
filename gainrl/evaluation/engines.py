"""Engines that generate: transformers (the default), vLLM in this process, or a server with the OpenAI API."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gainrl.errors import UserError

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.  `temperature` 0 takes the likeliest token; `seed` fixes every draw of a batch."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            wanted = "temperature must not be negative, top_p must lie in (0, 1] and max_new_tokens must be at least 1"
            raise UserError(f"{wanted}, but they are {self.temperature}, {self.top_p} and {self.max_new_tokens}")


@dataclass(frozen=True)
class Completed:
    """One completion: its text (cut at the first stop string), its tokens, and why it ended (stop or length)."""

    text: str
    tokens: int
    finish: str


class Engine:
    """What `evaluate` generates with."""

    tokenizer: Any = None  # None if the engine tokenizes out of sight

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a chat (through the template, up to where the assistant begins) or of plain text."""
        if self.tokenizer is None:
            return []
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt)["input_ids"])
        if not getattr(self.tokenizer, "chat_template", None):
            missing = "the tokenizer has no chat template for the task's chats: use an instruction-tuned model"
            raise UserError(f"{missing}, or a prompt template of style 'plain'")
        encoded = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])

    def room(self) -> int | None:
        """Tokens that prompt and completion may have together, or None if unknown."""
        return None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        """One completion for each prompt.  Equal prompts, sampling and `key` give equal completions."""
        raise NotImplementedError


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first stop string, and whether there was one."""
    end = min((text.find(mark) for mark in stop if mark in text), default=None)
    return text[:end], end is not None


class TransformersEngine(Engine):
    """Generation with `model.generate`, leaving the model's mode and the random state as they were."""

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token; set tokenizer.eos_token")
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise UserError("an adapter of learned tokens (prompt or prefix tuning) cannot generate for a batch")
        ends = getattr(model.generation_config, "eos_token_id", None)
        self._ends = list({*([ends] if isinstance(ends, int) else ends or []), tokenizer.eos_token_id})
        self._pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def room(self) -> int | None:
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        import torch
        from transformers import GenerationConfig

        ids, device = [self.encode(prompt) for prompt in prompts], self.model.device
        longest = max(map(len, ids))
        tokens = torch.tensor([[self._pad] * (longest - len(one)) + one for one in ids], device=device)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in ids], device=device)
        drawn = sampling.temperature > 0
        # every knob that a model's own generation_config may turn is set, so that models compare
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=drawn, temperature=sampling.temperature if drawn else 1.0, top_k=0 if drawn else 50,
            top_p=sampling.top_p if drawn else 1.0, repetition_penalty=1.0, max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self._ends, pad_token_id=self._pad, use_cache=True,
        )  # fmt: skip
        was_training = self.model.training
        self.model.eval()
        try:
            with (
                torch.no_grad(),
                torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # a trainer's use_cache=False, a model's own sampling defaults
                torch.manual_seed((sampling.seed * 1_000_003 + key) % 2**63)
                output = self.model.generate(
                    input_ids=tokens,
                    attention_mask=mask,
                    generation_config=config,
                    stopping_criteria=_stop_at(self.tokenizer, sampling.stop, longest),
                )
        finally:
            self.model.train(was_training)
        return [self._completed(row, sampling) for row in output[:, longest:].tolist()]

    def _completed(self, ids: list[int], sampling: Sampling) -> Completed:
        ended = next((index for index, token in enumerate(ids) if token in self._ends), None)
        text, stopped = cut(self.tokenizer.decode(ids[:ended], skip_special_tokens=True), sampling.stop)
        # tokens after the stop are padding of rows that finished earlier
        tokens = sum(token != self._pad for token in ids[:ended]) if stopped else len(ids[:ended])
        return Completed(text, tokens + (ended is not None), "stop" if stopped or ended is not None else "length")


def _stop_at(tokenizer: Any, stop: Sequence[str], start: int) -> Any:
    """Stopping criteria that end a row once its text after token `start` holds a stop string.

    Decodes the newest tokens of each row, as many as a stop string can span.  (transformers' own criterion embeds
    the vocabulary's texts and fails for tokenizers that do not decode a static prefix to itself.)
    """
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class StopStrings(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            newest = input_ids[:, max(start, input_ids.shape[1] - 1 - max(map(len, stop))) :]
            texts = tokenizer.batch_decode(newest, skip_special_tokens=True)
            return torch.tensor([cut(text, stop)[1] for text in texts], device=input_ids.device)

    return StoppingCriteriaList([StopStrings()] if stop else [])


def _common(sampling: Sampling) -> dict[str, Any]:
    """What vLLM and the OpenAI API name alike."""
    found = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
    return found | ({"stop": list(sampling.stop)} if sampling.stop else {})


def _seed(sampling: Sampling, key: int, number: int) -> int:
    """The seed of one sequence of a batch."""
    return (sampling.seed * 1_000_003 + key * 10_007 + number) % 2**31


class VLLMEngine(Engine):
    """vLLM in this process (tested with 0.32, on a CPU).  Raises `UserError` where it is not installed.

    Each sequence has a seed of its own.  vLLM's results also depend on what else is in the batch, so equal seeds give
    equal completions only for equal batches on equal hardware.
    """

    def __init__(self, model: str, tokenizer: Any, **options: Any):
        try:
            import vllm
        except ImportError as error:
            missing = "vLLM is not installed (pip install 'gainrl[vllm]'): take the engine transformers, or a server"
            raise UserError(missing) from error
        self._vllm, self.tokenizer = vllm, tokenizer
        self._model = vllm.LLM(model=model, **options)

    def room(self) -> int | None:
        return int(self._model.llm_engine.model_config.max_model_len)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        common, numbers = _common(sampling), range(len(prompts))
        drawn = [self._vllm.SamplingParams(**common, seed=_seed(sampling, key, number)) for number in numbers]
        inputs = [{"prompt_token_ids": self.encode(prompt)} for prompt in prompts]
        found = [one.outputs[0] for one in self._model.generate(inputs, drawn, use_tqdm=False)]
        return [Completed(one.text, len(one.token_ids), one.finish_reason or "length") for one in found]


class ServerEngine(Engine):
    """A server with `/v1/chat/completions` and `/v1/completions`; `url` ends before `/v1`, `model` is its name there.

    `concurrent` requests are under way at once.  The server tokenizes, so a prompt that is too long is its error.
    """

    def __init__(self, url: str, model: str, *, token: str | None = None, concurrent: int = 32, timeout: float = 600):
        self.url, self.model, self.timeout = url.rstrip("/").removesuffix("/v1"), model, timeout
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._concurrent = concurrent

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        seeds = [_seed(sampling, key, number) for number in range(len(prompts))]
        with ThreadPoolExecutor(min(self._concurrent, len(prompts))) as threads:
            return list(threads.map(lambda prompt, seed: self._one(prompt, sampling, seed), prompts, seeds))

    def _one(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completed:
        chat = not isinstance(prompt, str)
        path = f"{self.url}/v1/{'chat/completions' if chat else 'completions'}"
        body = {"model": self.model, "messages" if chat else "prompt": prompt, "seed": seed, **_common(sampling)}
        request = urllib.request.Request(path, json.dumps(body).encode(), self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                answer = json.load(response)
            choice = answer["choices"][0]
            text = choice["message"]["content"] if chat else choice["text"]
        except urllib.error.HTTPError as error:
            with error:
                reply = error.read(500).decode(errors="replace")
            raise UserError(f"the server at {self.url} refused the request ({error.code}): {reply}") from error
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"the server at {self.url} did not answer as an OpenAI server does: {error}") from error
        tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
        return Completed(cut(text or "", sampling.stop)[0], tokens, str(choice.get("finish_reason") or "length"))
