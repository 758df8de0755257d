"""Several threads: models that share a configuration, one model scored twice at once, and a model that is training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gainrl.scoring import AngleScorer, ScoringPrompt
from gainrl.scoring.forward import PackedForward, PaddedForward
from gainrl.scoring.locks import alone, configurations
from gainrl.scoring.nll import LikelihoodHead

PROMPTS = [ScoringPrompt(f"Read this. {'Add 12 to 30. ' * n}How many?", "How many?") for n in (1, 1, 4, 9)]
OTHERS = [ScoringPrompt(f"{'One two. ' * n}How few?", "How few?") for n in (2, 3, 3, 5)]
WAIT_S = 0.1


class Meeting:
    """Two threads inside their models at once, if nothing keeps them apart: the first leaves amid the second."""

    def __init__(self) -> None:
        self.first_in, self.second_in, self.first_out = (threading.Event() for _ in range(3))

    @contextmanager
    def watched(self, first: Any, second: Any) -> Iterator[None]:
        """While inside, the passes of the two models wait for each other; first blocks, watched, run their own code."""

        def enter_first(*_: Any) -> None:
            self.first_in.set()
            self.second_in.wait(WAIT_S)

        def enter_second(*_: Any) -> None:
            self.second_in.set()
            self.first_out.wait(WAIT_S)

        norms = (first.model.layers[0].input_layernorm, second.model.layers[0].input_layernorm)
        handles = [n.register_forward_pre_hook(h) for n, h in zip(norms, (enter_first, enter_second), strict=True)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __call__(self, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
        """What the two return, the second begun when the first is in its model."""

        def begin() -> Any:
            try:
                return first()
            finally:
                self.first_out.set()

        def follow() -> Any:
            assert self.first_in.wait(10)
            return second()

        with ThreadPoolExecutor(2) as threads:
            results = [threads.submit(begin), threads.submit(follow)]
            return results[0].result(), results[1].result()


@pytest.fixture
def twins(make_model: Callable[..., Any]) -> tuple[Any, Any]:
    """Two models of other weights with one configuration object."""
    first = make_model("Mistral")  # with a window
    second = type(first)(first.config).eval()
    assert second.config is first.config
    assert second.model.layers[0].self_attn.config is first.model.layers[0].self_attn.config
    return first, second


@pytest.mark.parametrize("form", [PackedForward, PaddedForward])
def test_models_with_one_configuration_are_scored_from_two_threads(
    twins: tuple[Any, Any], tokenizer: Any, form: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = twins
    one = AngleScorer(first, tokenizer)
    other = AngleScorer(second, tokenizer)
    if form is PaddedForward:  # of the second: it runs the model's own attention, whichever that is
        other.forward = PaddedForward(second)
    wanted = one.score(PROMPTS).score, other.score(OTHERS).score
    before = first.config._attn_implementation
    meeting = Meeting()
    with meeting.watched(first, second):
        given = meeting(lambda: one.score(PROMPTS).score, lambda: other.score(OTHERS).score)
    for mine, alone_ in zip(given, wanted, strict=True):
        np.testing.assert_allclose(mine, alone_, atol=2e-6)
    assert first.config._attn_implementation == before


def test_nll_is_prepared_while_another_thread_scores(twins: tuple[Any, Any], tokenizer: Any) -> None:
    """What the model does to its logits is found with the attention that it has of itself, once that is back."""
    first, second = twins
    one = AngleScorer(first, tokenizer)
    other = AngleScorer(second, tokenizer, nll=True)
    wanted = other.score(OTHERS).nll
    found = threading.Event()

    def prepare() -> None:
        other._likelihood = LikelihoodHead(second)
        found.set()

    with ThreadPoolExecutor(1) as threads:
        begun: list[Any] = []

        def meanwhile(*_: Any) -> None:
            if not begun:
                begun.append(threads.submit(prepare))
                assert not found.wait(WAIT_S), "it ran amid the pass"

        handle = first.model.layers[0].input_layernorm.register_forward_pre_hook(meanwhile)
        one.score(PROMPTS)
        handle.remove()
        begun[0].result()
    np.testing.assert_array_equal(other.score(OTHERS).nll, wanted)


def test_a_scorer_is_made_while_another_thread_scores_a_model_in_training(
    make_model: Callable[..., Any], tokenizer: Any
) -> None:
    """The first to end must not put the model back into training amid the second's trials: dropout fits no form."""
    model = make_model("Llama", attention_dropout=0.5).train()
    one = AngleScorer(model, tokenizer)
    wanted = one.score(OTHERS).score
    meeting = Meeting()

    def stay(*_: Any) -> None:
        if not meeting.first_in.is_set():
            meeting.first_in.set()
            meeting.second_in.wait(WAIT_S)  # in which the second begins

    handle = model.model.layers[0].input_layernorm.register_forward_pre_hook(stay)
    _, other = meeting(lambda: one.score(PROMPTS), lambda: AngleScorer(model, tokenizer))
    handle.remove()
    assert other.form == one.form == "PackedForward"
    np.testing.assert_array_equal(other.score(OTHERS).score, wanted)
    assert all(module.training for module in model.modules())


def test_one_model_in_training_is_scored_from_two_threads_without_dropout(
    make_model: Callable[..., Any], tokenizer: Any
) -> None:
    """The first to end must not put the second into training mode."""
    model = make_model("Llama", attention_dropout=0.5)
    one, other = AngleScorer(model, tokenizer), AngleScorer(model, tokenizer, tap="layer:1")
    wanted = one.score(PROMPTS).score, other.score(OTHERS).score
    model.train()
    meeting, calls = Meeting(), []

    def meet(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 1:
            meeting.first_in.set()
            meeting.second_in.wait(WAIT_S)
        elif not meeting.first_out.is_set():
            meeting.second_in.set()
            meeting.first_out.wait(WAIT_S)

    handle = model.model.layers[0].input_layernorm.register_forward_pre_hook(meet)
    given = meeting(lambda: one.score(PROMPTS).score, lambda: other.score(OTHERS).score)
    handle.remove()
    for mine, alone_ in zip(given, wanted, strict=True):
        np.testing.assert_allclose(mine, alone_, atol=2e-6)
    assert all(module.training for module in model.modules())


def test_one_scorer_serves_two_threads_with_other_prefixes(make_model: Callable[..., Any], tokenizer: Any) -> None:
    """What it keeps of a shared prefix is that of the thread's own batch."""
    scorer = AngleScorer(make_model("Qwen2"), tokenizer)
    prompts = [
        [ScoringPrompt(f"{word} " * 9 + f"{n} apples?", f"{n} apples?") for n in range(8)] for word in ("tom", "train")
    ]
    wanted = [scorer.score(rows).score for rows in prompts]
    with ThreadPoolExecutor(2) as threads:
        given = list(threads.map(lambda rows: [scorer.score(rows).score for _ in range(20)], prompts))
    for scores, alone_ in zip(given, wanted, strict=True):
        for mine in scores:
            np.testing.assert_allclose(mine, alone_, atol=2e-6)


def test_a_part_has_its_own_attention_back_and_unlike_models_do_not_wait(make_model: Callable[..., Any]) -> None:
    from transformers import Gemma3Config

    whole = Gemma3Config(
        text_config=make_model("Gemma3").config.to_dict(), vision_config={"num_hidden_layers": 1, "hidden_size": 8}
    )
    whole._attn_implementation = {"": "sdpa", "text_config": "eager", "vision_config": "sdpa"}
    module = torch.nn.Module()
    module.part, module.config = torch.nn.Module(), whole
    module.part.config = whole.text_config
    found = configurations(module)
    assert found.index(whole) < found.index(whole.text_config)
    before = [config._attn_implementation for config in found]
    for config in found:
        config._attn_implementation = "flex_attention"
    for config, old in zip(found, before, strict=True):
        config._attn_implementation = old
    assert (whole._attn_implementation, whole.text_config._attn_implementation) == ("sdpa", "eager")
    entered = threading.Event()

    def enter(model: torch.nn.Module) -> bool:
        with alone(model):
            entered.set()
        return True

    with ThreadPoolExecutor(1) as other:
        with alone(module):
            assert other.submit(enter, make_model()).result(timeout=10)  # another configuration
            entered.clear()
            waiting = other.submit(enter, module.part)  # a part of this one
            assert not entered.wait(WAIT_S)
        assert waiting.result(timeout=10)


def test_a_part_first_and_its_whole_within_is_refused_and_leaves_both_free() -> None:
    """Two threads, one of them with a part that wants the whole and one the other way, would wait for ever."""
    module = torch.nn.Module()
    module.part, module.config = torch.nn.Module(), SimpleNamespace(_attn_implementation="sdpa")
    module.part.config = SimpleNamespace(_attn_implementation="sdpa")
    other = torch.nn.Module()
    with alone(module.part), alone(other):  # what is no part of it, nor it of that, is as it was
        with pytest.raises(RuntimeError, match="enter with the whole first"), alone(module):
            pass
        with pytest.raises(KeyError), alone(module.part):
            raise KeyError
        with pytest.raises(RuntimeError, match="enter with the whole first"), alone(module):
            pass

    def enter() -> bool:
        with alone(module), alone(module.part), alone(module):
            return True

    assert enter()
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(enter).result(timeout=10)


def test_a_model_run_by_hand_amid_a_pass_says_why_it_cannot(twins: tuple[Any, Any], tokenizer: Any) -> None:
    first, second = twins
    one = AngleScorer(first, tokenizer)
    said: list[str] = []

    def run(*_: Any) -> None:
        with pytest.raises(RuntimeError, match="while another scores with its configuration") as error:
            second(input_ids=torch.tensor([[1, 2, 3]]))
        said.append(str(error.value))

    def elsewhere(*_: Any) -> None:
        with ThreadPoolExecutor(1) as threads:
            threads.submit(run).result()

    handle = first.model.layers[0].register_forward_pre_hook(elsewhere)
    one.score(PROMPTS)
    handle.remove()
    assert said
