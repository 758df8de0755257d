"""Token roles: where the question's tokens lie, for chats of any template and for plain text."""

from __future__ import annotations

import copy
import datetime
from types import SimpleNamespace

import numpy as np
import pytest

from gainrl.errors import UserError
from gainrl.scoring import ScoringSettings
from gainrl.scoring.prompts import PromptRenderer, ScoringPrompt, template_hash, tokenizer_hash


def renderer_of(tokenizer, max_tokens=None, **settings):
    return PromptRenderer(tokenizer, ScoringSettings(model="m", **settings), max_tokens)


def chat(question: str, *before: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in before] + [{"role": "user", "content": question}]


def question_text(tokenizer, rendered) -> str:
    return tokenizer.decode(rendered.tokens[rendered.prefix :])


def test_question_of_a_chat_is_the_last_user_message_and_nothing_after_it_is_kept(tokenizer):
    [rendered] = renderer_of(tokenizer)([ScoringPrompt(chat("How many apples?", ("system", "Be brief.")))])
    assert question_text(tokenizer, rendered) == "How many apples?"
    assert tokenizer.decode(rendered.tokens[: rendered.prefix]) == "<|system|>\nBe brief.<|end|>\n<|user|>\n"


def test_a_question_that_also_stands_in_a_worked_example_is_found_at_its_own_place(tokenizer):
    turns = (("user", "2"), ("assistant", "2"))
    [rendered] = renderer_of(tokenizer)([ScoringPrompt(chat("2", *turns))])
    whole = tokenizer.decode(rendered.tokens)
    assert whole.endswith("<|user|>\n2")
    assert whole.count("2") == 3
    assert rendered.question == 1


def test_a_question_equal_to_a_role_name_is_not_mistaken_for_the_template(tokenizer):
    [rendered] = renderer_of(tokenizer)([ScoringPrompt(chat("assistant"))])
    assert question_text(tokenizer, rendered) == "assistant"


def test_a_template_that_trims_the_question_is_followed(tokenizer):
    [rendered] = renderer_of(tokenizer)([ScoringPrompt(chat("  How many?\n"))])
    assert question_text(tokenizer, rendered) == "How many?"


def test_a_template_that_rewrites_the_question_fails_that_row_with_the_reason(tokenizer):
    renderer = renderer_of(tokenizer)
    original = tokenizer.chat_template
    try:
        tokenizer.chat_template = original.replace("| trim", "| replace('many', 'few')")
        [rendered] = renderer([ScoringPrompt(chat("How many?"))])
    finally:
        tokenizer.chat_template = original
    assert rendered.status == "failed"
    assert "rewrites the question" in rendered.reason


def test_plain_text_without_a_question_is_all_question_behind_the_bos_token(tokenizer):
    [rendered] = renderer_of(tokenizer)([ScoringPrompt("How many apples?")])
    assert rendered.prefix == 1
    assert rendered.tokens[0] == tokenizer.bos_token_id
    assert question_text(tokenizer, rendered) == "How many apples?"


def test_plain_text_question_is_its_last_occurrence(tokenizer):
    [rendered] = renderer_of(tokenizer)([ScoringPrompt("1 + 1 = 2\n1 + 1 =", "1 + 1")])
    assert tokenizer.decode(rendered.tokens) == "<s>1 + 1 = 2\n1 + 1"


def test_question_after_takes_what_follows_the_last_marker(tokenizer):
    renderer = renderer_of(tokenizer, question_after="Q:")
    [found, absent] = renderer([ScoringPrompt("Q: old A: 1 Q: new"), ScoringPrompt("no marker")])
    assert question_text(tokenizer, found) == " new"
    assert (absent.status, "Q:" in absent.reason) == ("failed", True)


def test_a_token_that_overlaps_the_question_is_question(tokenizer):
    # " apples" is one token of this tokenizer; a question that begins inside it takes the whole token
    [rendered] = renderer_of(tokenizer)([ScoringPrompt("three apples", "pples")])
    assert "pples" in question_text(tokenizer, rendered)
    ids = tokenizer("three apples")["input_ids"]
    assert rendered.tokens.tolist() == ids


@pytest.mark.parametrize(
    ("prompt", "status", "words"),
    [
        (ScoringPrompt(""), "undefined", "empty prompt"),
        (ScoringPrompt("abc", "  "), "undefined", "empty question"),
        (ScoringPrompt("abc", "xyz"), "failed", "does not occur"),
        (ScoringPrompt([{"role": "user", "content": " \n"}]), "undefined", "empty question"),
        (ScoringPrompt([{"role": "system", "content": "hi"}]), "failed", "no user message"),
        (ScoringPrompt([{"role": "user"}]), "failed", "content is missing"),
        (ScoringPrompt([{"role": "user", "content": [{"type": "image"}]}]), "failed", "not text"),
        (ScoringPrompt(7), "failed", "not text or a list"),  # type: ignore[arg-type]
        (ScoringPrompt(None), "failed", "not text or a list"),  # type: ignore[arg-type]
        (ScoringPrompt(["a"]), "failed", "role"),  # type: ignore[list-item]
        (ScoringPrompt(b"a"), "failed", "not text or a list"),  # type: ignore[arg-type]
        (ScoringPrompt("abc", 5), "failed", "'question' is a int"),  # type: ignore[arg-type]
        (ScoringPrompt("a\ud800"), "failed", "surrogate"),
        (ScoringPrompt([{"role": "user", "content": "a\ud800"}]), "failed", "surrogate"),
    ],
)
def test_a_row_that_cannot_be_rendered_says_why_and_leaves_the_others_alone(tokenizer, prompt, status, words):
    bad, good = renderer_of(tokenizer)([prompt, ScoringPrompt("fine")])
    assert bad.status == status
    assert words in bad.reason
    assert good.status == "ok"


def test_too_long_prompts_are_skipped_or_lose_the_end_of_their_question(tokenizer):
    prompt = ScoringPrompt(chat("How many apples does Tom have? " * 10))
    [skipped] = renderer_of(tokenizer, max_tokens=20)([prompt])
    [cut] = renderer_of(tokenizer, max_tokens=20, too_long="truncate")([prompt])
    assert skipped.status == "skipped"
    assert "20" in skipped.reason
    assert (len(cut.tokens), cut.status) == (20, "ok")
    assert "20" in cut.reason


def test_a_prefix_that_alone_fills_the_context_is_skipped_even_when_truncating(tokenizer):
    prompt = ScoringPrompt(chat("Why?", ("system", "word " * 40)))
    [rendered] = renderer_of(tokenizer, max_tokens=20, too_long="truncate")([prompt])
    assert rendered.status == "skipped"


def test_todays_date_in_a_template_is_the_fixed_one(tokenizer):
    original = tokenizer.chat_template
    try:
        tokenizer.chat_template = "Today {{ strftime_now('%d %b %Y') }}\n" + original
        [rendered] = renderer_of(tokenizer, date=datetime.date(2024, 7, 26))([ScoringPrompt(chat("Why?"))])
    finally:
        tokenizer.chat_template = original
    assert tokenizer.decode(rendered.tokens).startswith("Today 26 Jul 2024")


def test_chats_without_a_chat_template_are_refused_before_scoring(tokenizer):
    original = tokenizer.chat_template
    try:
        tokenizer.chat_template = None
        with pytest.raises(UserError, match="no chat template"):
            renderer_of(tokenizer).require_usable(chat("Why?"))
    finally:
        tokenizer.chat_template = original


def test_the_tokenizers_hash_does_not_follow_how_it_was_last_called(tokenizer):
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == before


PARTS = (  # a template of a processor: contents are lists of parts
    "{% for m in messages %}<|{{ m['role'] }}|>\n{% for part in m['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|end|>\n{% endfor %}"
)
THINKING = "{% if enable_thinking is defined and not enable_thinking %}<|system|>\nbe quick<|end|>\n{% endif %}"


def with_template(tokenizer, template):
    made = copy.deepcopy(tokenizer)
    made.chat_template = template
    return made


def text(words):
    return [{"type": "text", "text": words}]


@pytest.mark.parametrize("template", ["own", PARTS])
@pytest.mark.parametrize("content", ["How many apples?", text("How many apples?"), text("How many ") + text("apples?")])
def test_text_parts_are_the_same_question_as_their_text(tokenizer, template, content):
    made = tokenizer if template == "own" else with_template(tokenizer, template)
    system = {"role": "system", "content": text("Be brief.")}
    renderer = renderer_of(made)
    plain, parts = renderer([ScoringPrompt(chat("How many apples?", ("system", "Be brief."))),
                             ScoringPrompt([system, {"role": "user", "content": content}])])  # fmt: skip
    assert plain.tokens.tolist() == parts.tokens.tolist()
    assert question_text(tokenizer, parts) == "How many apples?"


def test_images_are_refused_by_name(tokenizer):
    content = [{"type": "image", "image": "a.png"}, *text("what is this")]
    [rendered] = renderer_of(tokenizer)([ScoringPrompt([{"role": "user", "content": content}])])
    assert (rendered.status, "not text" in rendered.reason) == ("failed", True)


def test_the_templates_arguments_are_passed_on(tokenizer):
    made = with_template(tokenizer, THINKING + tokenizer.chat_template)
    plain, quick = (
        renderer_of(made, chat_template_kwargs=given)([ScoringPrompt(chat("How many?"))])[0]
        for given in (None, {"enable_thinking": False})
    )
    assert question_text(made, quick) == question_text(made, plain) == "How many?"
    assert "be quick" in made.decode(quick.tokens[: quick.prefix])
    assert quick.prefix > plain.prefix


@pytest.mark.parametrize("given", [{"tokenize": True}, {"add_generation_prompt": False}, ["a"], {"f": print}])
def test_template_arguments_that_can_never_do_are_refused(given):
    with pytest.raises(UserError, match="chat_template_kwargs"):
        ScoringSettings(model="m", chat_template_kwargs=given)


def test_a_processors_template_serves_where_its_tokenizer_has_none(tokenizer):
    processor = SimpleNamespace(tokenizer=with_template(tokenizer, None), chat_template=PARTS)
    renderer = renderer_of(processor)
    renderer.require_usable(chat("How many?"))
    [rendered] = renderer([ScoringPrompt(chat("How many?"))])
    assert question_text(tokenizer, rendered) == "How many?"
    assert len(template_hash(renderer)) == 16


def test_nulls_and_arrays_of_arrow_and_numpy_are_no_content(tokenizer):
    template = tokenizer.chat_template.replace("<|end|>", "{% if 'tool_calls' in m %}CALLS{% endif %}<|end|>")
    renderer = renderer_of(with_template(tokenizer, template))
    padded = [{"role": "user", "content": "How many?", "tool_calls": None, "name": None}]
    written, read, array = renderer([ScoringPrompt(chat("How many?")), ScoringPrompt(padded),
                                     ScoringPrompt(np.array(padded, dtype=object))])  # type: ignore[arg-type]  # fmt: skip
    assert written.tokens.tolist() == read.tokens.tolist() == array.tokens.tolist()


def test_another_date_is_another_prompt_and_a_bad_one_is_refused():
    assert ScoringSettings(model="m", date="2024-07-26").date == datetime.date(2024, 7, 26)
    with pytest.raises(UserError, match="2026-01-31"):
        ScoringSettings(model="m", date="yesterday")
