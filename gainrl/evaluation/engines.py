"""Engines that generate: transformers (the default), vLLM in this process, or a server with the OpenAI API."""

from __future__ import annotations

import inspect
import json
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gainrl.errors import UserError

if TYPE_CHECKING:
    import torch

_SHARED_LEAST = 8  # tokens of a common prefix from which forwarding it once is worth a second forward
_REPEATABLE = {"full_attention", "sliding_attention"}  # layers whose cache is keys and values of single tokens
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
            raise UserError(
                "temperature must not be negative, top_p must lie in (0, 1] and max_new_tokens must be at least 1, but "
                f"they are {self.temperature}, {self.top_p} and {self.max_new_tokens}"
            )


@dataclass(frozen=True)
class Completed:
    """One completion: its text (cut at the first stop string), its tokens, and why it ended (stop or length)."""

    text: str
    tokens: int
    finish: str


class Engine(Protocol):
    """What `evaluate` needs to generate with."""

    def encode(self, prompt: Prompt) -> list[int] | None:
        """Token ids of the prompt, or None if the engine tokenizes out of sight."""
        return None

    def room(self) -> int | None:
        """Tokens that prompt and completion may have together, or None if unknown."""
        return None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        """One completion for each prompt.  Equal prompts, sampling and `key` give equal completions."""


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the first stop string, and whether there was one."""
    end = min((text.find(mark) for mark in stop if mark in text), default=None)
    return text[:end], end is not None


def encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of a chat (through the template, up to where the assistant begins) or of plain text."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "the model's tokenizer has no chat template, but the task's prompts are chats; "
            "use an instruction-tuned model or a prompt template with style 'plain'"
        )
    encoded = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
    return list(encoded["input_ids"])


class TransformersEngine:
    """Generation with `model.generate`, leaving the model's mode and the random state as they were.

    What prompts have in common is forwarded once: the tokens that all prompts of a batch begin with (full attention
    only), then each distinct prompt.  The cache is repeated for its samples and `generate` goes on from there.
    """

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token; set tokenizer.eos_token")
        ends = getattr(model.generation_config, "eos_token_id", None)
        self._ends = [ends] if isinstance(ends, int) else list(ends or [])
        if tokenizer.eos_token_id not in self._ends:
            self._ends.append(tokenizer.eos_token_id)
        self._pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        known = inspect.signature(inner.forward).parameters.keys()
        name = "cache" if "cache" in known else "past_key_values"  # transformers from 5.24 on, and before
        self._cache = name if {name, "position_ids", "logits_to_keep"} <= known else ""

    def encode(self, prompt: Prompt) -> list[int]:
        return encode(self.tokenizer, prompt)

    def room(self) -> int | None:
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        import torch

        every = [tuple(self.encode(prompt)) for prompt in prompts]
        distinct = list(dict.fromkeys(every))
        shared, repeated = self._common(distinct, len(every))
        ids = distinct if repeated else every
        place = torch.tensor([ids.index(one) for one in every] if repeated else range(len(every)))
        tokens, mask = _left_pad(ids, self._pad, self.model.device, shared)
        was_training = self.model.training
        self.model.eval()
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a trainer's use_cache=False, a model's own sampling defaults
                more = self._prefilled(tokens, mask, shared, place) if repeated else {}
                place = place.to(tokens.device)
                torch.manual_seed((sampling.seed * 1_000_003 + key) % 2**63)
                output = self.model.generate(
                    input_ids=tokens[place],
                    attention_mask=mask[place],
                    generation_config=self._config(sampling),
                    stopping_criteria=_stop_at(self.tokenizer, sampling.stop, tokens.shape[1]),
                    **more,
                )
        finally:
            self.model.train(was_training)
        return [self._completed(row, sampling) for row in output[:, tokens.shape[1] :].tolist()]

    def _common(self, distinct: Sequence[Sequence[int]], samples: int) -> tuple[int, bool]:
        """Tokens at the start that all prompts share and that are worth a forward of their own; whether any are.

        Prompts with several samples are worth one too.  Not for models with recurrent layers, caches of their own or
        without the arguments that this takes; `generate` alone serves them.
        """
        config = self.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        least = min(map(len, distinct)) - 1  # the last token of each prompt stays for `generate`
        if not self._cache or not kinds <= _REPEATABLE or least < 1:
            return 0, False
        shared = 0
        if len(distinct) > 1 and "sliding_attention" not in kinds and not getattr(config, "sliding_window", None):
            shared = next((at for at in range(least) if len({one[at] for one in distinct}) > 1), least)
            shared = shared if shared >= _SHARED_LEAST else 0
        return shared, bool(shared) or samples > len(distinct)

    def _prefilled(self, tokens: Any, mask: Any, shared: int, place: Any) -> dict[str, Any]:
        """A cache of all tokens but each row's last, repeated for the rows in `place`, and the positions."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        common = {self._cache: cache, "use_cache": True, "logits_to_keep": 1}
        if shared:
            self.model(input_ids=tokens[:1, :shared], position_ids=positions[:1, :shared], **common)
            cache.batch_repeat_interleave(len(tokens))
        if shared < tokens.shape[1] - 1:
            middle = slice(shared, -1)
            self.model(
                input_ids=tokens[:, middle], attention_mask=mask[:, :-1], position_ids=positions[:, middle], **common
            )
        cache.batch_select_indices(place.to(tokens.device))
        return {self._cache: cache, "position_ids": positions[place]}

    def _config(self, sampling: Sampling) -> Any:
        from transformers import GenerationConfig

        # every knob that a model's own generation_config may turn is set, so that models compare
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        greedy = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
        ends = {"max_new_tokens": sampling.max_new_tokens, "eos_token_id": self._ends, "pad_token_id": self._pad}
        return GenerationConfig(  # type: ignore[no-untyped-call]
            **(drawn if sampling.temperature else greedy), **ends, repetition_penalty=1.0, use_cache=True
        )

    def _completed(self, ids: list[int], sampling: Sampling) -> Completed:
        ended = next((index for index, token in enumerate(ids) if token in self._ends), None)
        kept = ids if ended is None else ids[:ended]
        text, stopped = cut(self.tokenizer.decode(kept, skip_special_tokens=True), sampling.stop)
        if stopped:  # tokens after the stop are padding of rows that finished earlier
            kept = [token for token in kept if token != self._pad]
        return Completed(text, len(kept) + (ended is not None), "stop" if stopped or ended is not None else "length")


def _stop_at(tokenizer: Any, stop: Sequence[str], start: int) -> Any:
    """Stopping criteria that end a row once its text after token `start` holds a stop string.

    Decodes the newest tokens of each row, as many as a stop string can span.  (transformers' own criterion embeds
    the vocabulary's texts and fails for tokenizers that do not decode a static prefix to itself.)
    """
    from transformers import StoppingCriteria, StoppingCriteriaList

    class StopStrings(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            import torch

            newest = input_ids[:, max(start, input_ids.shape[1] - 1 - max(map(len, stop))) :]
            texts = tokenizer.batch_decode(newest, skip_special_tokens=True)
            hits = [any(mark in text for mark in stop) for text in texts]
            return torch.tensor(hits, dtype=torch.bool, device=input_ids.device)

    return StoppingCriteriaList([StopStrings()] if stop else [])


def _left_pad(ids: Sequence[Sequence[int]], pad: int, device: Any, shared: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, longest) int64 token ids and mask: the shared prefix, padding, the rest of each prompt flush right."""
    import torch

    gaps = [max(map(len, ids)) - len(one) for one in ids]
    tokens = [[*one[:shared], *[pad] * gap, *one[shared:]] for one, gap in zip(ids, gaps, strict=True)]
    mask = [[1] * shared + [0] * gap + [1] * (len(one) - shared) for one, gap in zip(ids, gaps, strict=True)]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


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
                "vLLM is not installed (pip install 'gainrl[vllm]'): take the engine transformers, or a server"
            ) from error
        self._vllm, self.tokenizer = vllm, tokenizer
        self._model = vllm.LLM(model=model, **options)

    def encode(self, prompt: Prompt) -> list[int]:
        return encode(self.tokenizer, prompt)

    def room(self) -> int | None:
        return int(self._model.llm_engine.model_config.max_model_len)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        common = {
            "temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens,
            "stop": list(sampling.stop) or None,
        }  # fmt: skip
        drawn = [self._vllm.SamplingParams(**common, seed=_seed(sampling, key, n)) for n in range(len(prompts))]
        inputs = [{"prompt_token_ids": self.encode(prompt)} for prompt in prompts]
        outputs = self._model.generate(inputs, drawn, use_tqdm=False)
        return [
            Completed(one.outputs[0].text, len(one.outputs[0].token_ids), one.outputs[0].finish_reason or "length")
            for one in outputs
        ]


class ServerEngine(Engine):
    """A server with `/v1/chat/completions` and `/v1/completions`; `url` ends before `/v1`, `model` is its name there.

    `concurrent` requests are under way at once.  The server tokenizes, so a prompt that is too long is its error.
    """

    def __init__(self, url: str, model: str, *, token: str | None = None, concurrent: int = 32, timeout: float = 600):
        self.url, self.model, self.timeout = url.rstrip("/").removesuffix("/v1"), model, timeout
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._concurrent = concurrent

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, *, key: int) -> list[Completed]:
        with ThreadPoolExecutor(min(self._concurrent, len(prompts))) as threads:
            return list(threads.map(lambda pair: self._one(pair[1], sampling, key, pair[0]), enumerate(prompts)))

    def _one(self, prompt: Prompt, sampling: Sampling, key: int, number: int) -> Completed:
        chat = not isinstance(prompt, str)
        body = {
            "model": self.model, "messages" if chat else "prompt": prompt, "temperature": sampling.temperature,
            "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens, "seed": _seed(sampling, key, number),
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
        }  # fmt: skip
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
