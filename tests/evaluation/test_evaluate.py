from __future__ import annotations

import contextlib
import copy
import http.server
import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gainrl.errors import UserError
from gainrl.evaluation import (
    Completed,
    Engine,
    Generation,
    Sampling,
    Store,
    TransformersEngine,
    append_record,
    evaluate,
    rows_digest,
)
from gainrl.evaluation.engines import ServerEngine, cut
from gainrl.tasks import Grade, Row, Status, Task
from tests.tiny_models import FAMILIES, OTHER_FAMILIES, make_family, make_tokenizer

ROWS = [
    {"prompt": f"{'9' * n} + {n} =", "question": f"{n}", "answer": str(n)} for n in (1, 5, 3, 8, 2, 7, 4, 6)
]  # of different lengths


class Digits(Task):
    """Right where the completion is the answer, unscorable where it is empty."""

    name = "digits"
    template = "maths"
    stop = ("\n",)
    max_new_tokens = 4

    def row(self, item: Mapping[str, Any], index: int) -> Row:
        return dict(item)

    def judge(self, completion: str, row: Mapping[str, Any]) -> Grade:
        if not completion:
            return Grade(Status.UNSCORABLE, "nothing")
        answer = completion.strip()
        return Grade(Status.RIGHT if answer == row["answer"] else Status.WRONG, answer=answer)

    def gold(self, row: Mapping[str, Any]) -> str:
        return str(row["answer"])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    characters = "0123456789+-*= \nabc"
    vocabulary = {character: number for number, character in enumerate(["<eos>", "<pad>", *characters])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=21, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=0, pad_token_id=1, initializer_range=0.6,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def run(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]] = ROWS, **options: Any) -> Any:
    return evaluate(model, tokenizer, Digits(), rows, progress=False, **{"max_unscorable_share": 1.0, **options})


def test_batches_and_padding_do_not_change_greedy_completions(model: Any, tokenizer: Any) -> None:
    one = run(model, tokenizer, batch_size=1)
    assert [asdict(g) for g in run(model, tokenizer, batch_size=8).generations] == [asdict(g) for g in one.generations]
    assert [g.row for g in one.generations] == list(range(len(ROWS)))
    for row, generation in zip(ROWS, one.generations, strict=True):
        ids = torch.tensor([tokenizer(row["prompt"])["input_ids"]])
        expected = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=1)[0, ids.shape[1] :]
        assert generation.completion == cut(tokenizer.decode(expected, skip_special_tokens=True), ["\n"])[0]


@pytest.mark.filterwarnings("default")
def test_an_adapter_of_learned_tokens_is_refused(model: Any, tokenizer: Any) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(UserError, match="learned tokens"):
        TransformersEngine(peft.get_peft_model(copy.deepcopy(model), config), tokenizer)


@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_FAMILIES])
@pytest.mark.filterwarnings("default")
def test_completions_of_every_family_are_those_of_each_prompt_alone(family: str) -> None:
    """Padding changes no completion."""
    prompt = "What is 12 + 30? Add them up and say what it comes to, please, since I would like to know."
    engine = TransformersEngine(make_family(family), make_tokenizer([prompt] * 3))
    sampling = Sampling(temperature=0.0, max_new_tokens=8)
    prompts = [prompt, prompt[:40], f"{prompt} Or so.", "Nothing like the others"]
    alone = {one: engine.generate([one], sampling, key=0)[0] for one in prompts}
    for asked in ([one for one in prompts for _ in range(2)], [*prompts[:3], prompt]):
        assert engine.generate(asked, sampling, key=0) == [alone[one] for one in asked]


def test_a_long_batch_shows_that_it_lives_unless_silenced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["gainrl.evaluation.evaluate"], "_BEAT", 0.05)

    class Slow(Scripted):
        def generate(self, *arguments: Any, **more: Any) -> list[Completed]:
            time.sleep(0.5)
            return super().generate(*arguments, **more)

    for silenced in (False, True):  # tqdm reads TQDM_DISABLE when it is imported
        evaluate(None, None, Digits(), THREE[:1], engine=Slow(TEXTS), progress=not silenced)
        assert ("eval digits" in (said := capsys.readouterr().err)) is not silenced
        assert silenced or said.count("\r") > 3


def test_samples_are_reproducible_and_differ_by_seed(model: Any, tokenizer: Any) -> None:
    first, again, other = (run(model, tokenizer, samples=4, temperature=1.0, seed=seed) for seed in (0, 0, 1))
    assert first.generations == again.generations
    assert first.generations != other.generations
    assert len({g.completion for g in first.generations if g.row == 0}) > 1


def test_the_models_mode_and_the_random_state_stay_as_they_were(model: Any, tokenizer: Any) -> None:
    model.train()
    state = torch.get_rng_state()
    run(model, tokenizer, samples=2, temperature=1.0)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    model.eval()


def test_a_prompt_without_room_is_unscorable_and_named(model: Any, tokenizer: Any) -> None:
    result = run(model, tokenizer, [*ROWS, {"prompt": "1" * 62, "question": "1", "answer": "1"}])
    last = result.generations[-1]
    assert (last.status, last.finish) == ("unscorable", "skipped")
    assert "62 tokens" in last.reason
    assert "context of 64" in last.reason


class Scripted(Engine):
    """An engine whose k-th completion for a prompt is given."""

    def __init__(self, texts: Mapping[str, Sequence[str]]):
        self.texts, self.given = texts, Counter[str]()

    def generate(self, prompts: Sequence[Any], sampling: Sampling, *, key: int) -> list[Completed]:
        out = []
        for prompt in prompts:
            out.append(Completed(self.texts[prompt][self.given[prompt]], 3, "stop"))
            self.given[prompt] += 1
        return out


THREE = [{"prompt": p, "question": p, "answer": "1"} for p in ("a", "b", "c")]
TEXTS = {"a": ["1", "1", "2", "1"], "b": ["2", "1", "", "2"], "c": ["", "", "", ""]}


def test_the_figures_are_what_the_counts_say() -> None:
    result = run(None, None, THREE, engine=Scripted(TEXTS), samples=4, temperature=1.0)
    assert result.right == [3, 1, 0]
    assert result.scored == [4, 3, 0]
    assert result.unscorable == 5
    assert result.accuracy == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert result.pass_at(2)[0] == pytest.approx((1 + 2 / 3) / 2)
    assert result.pass_at(4)[0] == pytest.approx(1.0)  # only a has four scored samples
    assert result.majority[0] == pytest.approx(0.5)
    low, high = result.interval
    assert low <= result.accuracy <= high
    assert "unscorable 5: 5 times: nothing" in result.summary()


def test_there_is_no_majority_where_no_grade_has_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(self: Digits, completion: str, row: Mapping[str, Any]) -> Grade:  # as programs are graded
        return Grade(Status.RIGHT if completion == row["answer"] else Status.WRONG)

    monkeypatch.setattr(Digits, "judge", judge)
    result = run(None, None, THREE, engine=Scripted(TEXTS), samples=4, temperature=1.0)
    assert all(math.isnan(figure) for figure in result.majority)
    assert "maj@" not in result.summary()
    assert result.record("x")["majority"] is None
    assert result.record("x")["pass_at"]["4"][0] == pytest.approx(2 / 3)


def test_the_record_is_json_and_appended_whole(tmp_path: Path) -> None:
    result = run(None, None, THREE, engine=Scripted(TEXTS), samples=4, temperature=1.0)
    append_record(tmp_path, result.record("before"))
    append_record(tmp_path, result.record("after", step=7, model="m"))
    first, second = (json.loads(line) for line in (tmp_path / "evals.jsonl").read_text().splitlines())
    assert first["stage"] == "before"
    assert first["step"] is None
    assert {"task", "accuracy", "samples", "seconds", "rows", "low", "high"} <= first.keys()
    assert (second["step"], second["model"]) == (7, "m")
    empty = run(None, None, THREE[2:], engine=Scripted(TEXTS), samples=1)
    assert empty.record("x")["accuracy"] is None


def test_an_interrupted_evaluation_goes_on_and_ends_as_if_never_interrupted(
    tmp_path: Path, model: Any, tokenizer: Any
) -> None:
    settings = {"task": "digits", "rows": rows_digest(ROWS)}
    options: dict[str, Any] = {"samples": 3, "temperature": 1.0, "batch_size": 5}
    whole = run(model, tokenizer, **options)

    class Interrupted(TransformersEngine):
        left = 2

        def generate(self, *arguments: Any, **more: Any) -> list[Completed]:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return super().generate(*arguments, **more)

    with pytest.raises(KeyboardInterrupt):
        run(None, None, engine=Interrupted(model, tokenizer), store=Store(tmp_path / "g", settings), **options)
    with pytest.raises(UserError, match="holds generations already"):
        Store(tmp_path / "g", settings)
    with pytest.raises(UserError, match=r"rows: .* there, 'other' now"):
        Store(tmp_path / "g", {**settings, "rows": "other"}, resume=True)
    store = Store(tmp_path / "g", settings, resume=True)
    assert len(store.kept) == 10  # two batches
    resumed = run(model, tokenizer, store=store, **options)
    assert resumed.generations == whole.generations
    lines = [json.loads(line) for line in store.path.read_text().splitlines()]
    assert [*lines[0]][:3] == ["row", "sample", "completion"]
    assert len(lines) == 24
    again = run(None, None, engine=Scripted({}), store=Store(tmp_path / "g", settings, resume=True), **options)
    assert again.generations == whole.generations
    assert Store(tmp_path / "g", settings, overwrite=True).kept == []


def test_generations_without_settings_are_never_deleted_unasked(tmp_path: Path) -> None:
    path = tmp_path / "generations.jsonl"
    path.write_bytes(b"somebody's")
    for resume in (False, True):
        with pytest.raises(UserError, match="is damaged" if resume else "holds generations"):
            Store(tmp_path, {}, resume=resume)
        assert path.read_bytes() == b"somebody's"
    store = Store(tmp_path, {}, overwrite=True)
    assert path.read_bytes() == b"somebody's", "what replaces it may yet fail to start"
    store.add([Generation(0, 0, "1", 1, "stop", "right", "", "1", None)], 1.0)
    assert Store(tmp_path, {}, resume=True).kept[0].completion == "1"


def test_a_damaged_folder_is_a_clear_error_or_read_right(tmp_path: Path) -> None:
    result = run(None, None, THREE, engine=Scripted(TEXTS), samples=4, temperature=1.0, store=Store(tmp_path, {"a": 1}))
    path = tmp_path / "generations.jsonl"
    whole, flips = path.read_bytes(), np.random.default_rng(0)
    path.write_bytes(whole + b'{"row": 1, "sam')  # a write that a power cut ended
    assert sorted(Store(tmp_path, {"a": 1}, resume=True).kept, key=lambda g: (g.row, g.sample)) == result.generations
    assert path.read_bytes() == whole
    for _ in range(300):
        changed = bytearray(whole)
        changed[flips.integers(len(whole))] ^= 1 << int(flips.integers(8))
        path.write_bytes(changed)
        with contextlib.suppress(UserError):
            Store(tmp_path, {"a": 1}, resume=True)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "no rows"),
        (ROWS, {"samples": 0}, "at least 1"),
        (ROWS, {"samples": 2}, "temperature 0 would all be equal"),
        (ROWS, {"temperature": -1.0}, "must not be negative"),
        (ROWS, {"top_p": 0.0}, "top_p"),
        ([{"prompt": [{"role": "user", "content": "x"}], "question": "x", "answer": "1"}], {}, "no chat template"),
    ],
)
def test_bad_input_gets_a_clear_error(model: Any, tokenizer: Any, rows: Any, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(model, tokenizer, rows, **options)


@pytest.mark.parametrize(("rows", "batch_size", "kept"), [(60, 50, 50), (40, 32, 40)])
def test_too_many_unscorable_completions_stop_the_run_and_are_kept(
    tmp_path: Path, rows: int, batch_size: int, kept: int
) -> None:
    prompts = [str(n) for n in range(rows)]
    given = [{"prompt": one, "question": one, "answer": "1"} for one in prompts]
    options = {"engine": Scripted({one: [""] for one in prompts}), "max_unscorable_share": 0.1}
    with pytest.raises(UserError, match=rf"{kept} of {kept} .*allowed share 0\.1: {kept} times: nothing"):
        run(None, None, given, batch_size=batch_size, store=Store(tmp_path / "g", {}), **options)
    found = Store(tmp_path / "g", {}, resume=True).kept
    assert ({one.reason for one in found}, len(found)) == ({"nothing"}, kept)


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server with the OpenAI API's form that answers the last character of the prompt."""
    seen: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, **body})
            if body["model"] == "absent":
                self.send_error(404, "no such model")
                return
            if self.path.endswith("chat/completions"):
                choice: dict[str, Any] = {"message": {"content": body["messages"][-1]["content"][-1] + "\nmore"}}
            else:
                choice = {"text": body["prompt"][-1] + "\nmore"}
            answer = json.dumps({"choices": [{**choice, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: Any) -> None:
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_address[1]}", seen
    served.shutdown()
    served.server_close()
    thread.join()


def test_a_server_generates_for_plain_prompts_and_chats(server: tuple[str, list[dict[str, Any]]]) -> None:
    address, seen = server
    rows = [
        {"prompt": "give 1", "question": "1", "answer": "1"},
        {"prompt": [{"role": "user", "content": "give 2"}], "question": "2", "answer": "2"},
    ]
    result = run(None, None, rows, engine=ServerEngine(address + "/v1/", "m"))
    assert result.accuracy == 1.0
    assert result.tokens == 4
    assert {request["path"] for request in seen} == {"/v1/completions", "/v1/chat/completions"}
    assert all(request["stop"] == ["\n"] and request["max_tokens"] == 4 for request in seen)
    with pytest.raises(UserError, match=r"refused the request \(404\)"):
        run(None, None, rows, engine=ServerEngine(address, "absent"))
    with pytest.raises(UserError, match="did not answer"):
        run(None, None, rows, engine=ServerEngine("http://127.0.0.1:9", "m"))


def test_a_missing_vllm_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from gainrl.evaluation.engines import VLLMEngine

    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(UserError, match="vLLM is not installed"):
        VLLMEngine("m", None)
