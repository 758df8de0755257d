"""Token roles: where the question's tokens lie, for chats of any template and for plain text."""

from __future__ import annotations

import copy
import datetime
import pickle

import pytest

from gainrl.errors import UserError
from gainrl.scoring.prompts import PromptRenderer, ScoringPrompt, tokenizer_hash


def chat(question: str, *before: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in before] + [{"role": "user", "content": question}]


def question_text(tokenizer, rendered) -> str:
    return tokenizer.decode(rendered.tokens[rendered.prefix :])


def test_question_of_a_chat_is_the_last_user_message_and_nothing_after_it_is_kept(tokenizer):
    [rendered] = PromptRenderer(tokenizer)([ScoringPrompt(chat("How many apples?", ("system", "Be brief.")))])
    assert question_text(tokenizer, rendered) == "How many apples?"
    assert tokenizer.decode(rendered.tokens[: rendered.prefix]) == "<|system|>\nBe brief.<|end|>\n<|user|>\n"


def test_a_question_that_also_stands_in_a_worked_example_is_found_at_its_own_place(tokenizer):
    turns = (("user", "2"), ("assistant", "2"))
    [rendered] = PromptRenderer(tokenizer)([ScoringPrompt(chat("2", *turns))])
    whole = tokenizer.decode(rendered.tokens)
    assert whole.endswith("<|user|>\n2")
    assert whole.count("2") == 3
    assert rendered.question == 1


def test_a_question_equal_to_a_role_name_is_not_mistaken_for_the_template(tokenizer):
    [rendered] = PromptRenderer(tokenizer)([ScoringPrompt(chat("assistant"))])
    assert question_text(tokenizer, rendered) == "assistant"


def test_a_template_that_trims_the_question_is_followed(tokenizer):
    [rendered] = PromptRenderer(tokenizer)([ScoringPrompt(chat("  How many?\n"))])
    assert question_text(tokenizer, rendered) == "How many?"


def test_a_template_that_rewrites_the_question_fails_that_row_with_the_reason(tokenizer):
    renderer = PromptRenderer(tokenizer)
    original = tokenizer.chat_template
    try:
        tokenizer.chat_template = original.replace("| trim", "| replace('many', 'few')")
        [rendered] = renderer([ScoringPrompt(chat("How many?"))])
    finally:
        tokenizer.chat_template = original
    assert rendered.status == "failed"
    assert "rewrites the question" in rendered.reason


def test_plain_text_without_a_question_is_all_question_behind_the_bos_token(tokenizer):
    [rendered] = PromptRenderer(tokenizer)([ScoringPrompt("How many apples?")])
    assert rendered.prefix == 1
    assert rendered.tokens[0] == tokenizer.bos_token_id
    assert question_text(tokenizer, rendered) == "How many apples?"


def test_plain_text_question_is_its_last_occurrence(tokenizer):
    [rendered] = PromptRenderer(tokenizer)([ScoringPrompt("1 + 1 = 2\n1 + 1 =", "1 + 1")])
    assert tokenizer.decode(rendered.tokens) == "<s>1 + 1 = 2\n1 + 1"


def test_question_after_takes_what_follows_the_last_marker(tokenizer):
    renderer = PromptRenderer(tokenizer, question_after="Q:")
    [found, absent] = renderer([ScoringPrompt("Q: old A: 1 Q: new"), ScoringPrompt("no marker")])
    assert question_text(tokenizer, found) == " new"
    assert (absent.status, "Q:" in absent.reason) == ("failed", True)


def test_a_token_that_overlaps_the_question_is_question(tokenizer):
    # " apples" is one token of this tokenizer; a question that begins inside it takes the whole token
    [rendered] = PromptRenderer(tokenizer)([ScoringPrompt("three apples", "pples")])
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
        (ScoringPrompt([{"role": "user"}]), "failed", "role"),
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
    bad, good = PromptRenderer(tokenizer)([prompt, ScoringPrompt("fine")])
    assert bad.status == status
    assert words in bad.reason
    assert good.status == "ok"


def test_too_long_prompts_are_skipped_or_lose_the_end_of_their_question(tokenizer):
    prompt = ScoringPrompt(chat("How many apples does Tom have? " * 10))
    [skipped] = PromptRenderer(tokenizer, max_tokens=20)([prompt])
    [cut] = PromptRenderer(tokenizer, max_tokens=20, too_long="truncate")([prompt])
    assert skipped.status == "skipped"
    assert "20" in skipped.reason
    assert (len(cut.tokens), cut.status) == (20, "ok")
    assert cut.truncated > 0


def test_a_prefix_that_alone_fills_the_context_is_skipped_even_when_truncating(tokenizer):
    prompt = ScoringPrompt(chat("Why?", ("system", "word " * 40)))
    [rendered] = PromptRenderer(tokenizer, max_tokens=20, too_long="truncate")([prompt])
    assert rendered.status == "skipped"


def test_todays_date_in_a_template_is_the_fixed_one(tokenizer):
    original = tokenizer.chat_template
    try:
        tokenizer.chat_template = "Today {{ strftime_now('%d %b %Y') }}\n" + original
        [rendered] = PromptRenderer(tokenizer, date=datetime.date(2024, 7, 26))([ScoringPrompt(chat("Why?"))])
    finally:
        tokenizer.chat_template = original
    assert tokenizer.decode(rendered.tokens).startswith("Today 26 Jul 2024")


def test_chats_without_a_chat_template_are_refused_before_scoring(tokenizer):
    original = tokenizer.chat_template
    try:
        tokenizer.chat_template = None
        with pytest.raises(UserError, match="no chat template"):
            PromptRenderer(tokenizer).require_usable(chat("Why?"))
    finally:
        tokenizer.chat_template = original


def test_the_tokenizers_hash_does_not_follow_how_it_was_last_called(tokenizer):
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_hash(tokenizer) == before


def rows_of_many_lengths() -> list[ScoringPrompt]:
    return [ScoringPrompt("How many apples? " * (n % 5 + 1) + str(n)) for n in range(20)]


def tokens(rendered) -> list[tuple[list[int], int, str]]:
    return [(prompt.tokens.tolist(), prompt.prefix, prompt.status) for prompt in rendered]


def test_a_thread_that_pads_with_the_same_tokenizer_pads_no_prompt(tokenizer, monkeypatch):
    rows = [*rows_of_many_lengths(), *(ScoringPrompt(chat(f"How many? {'apples ' * n}")) for n in range(9))]
    renderer = PromptRenderer(tokenizer)
    wanted = tokens(renderer(rows))
    real, calls = type(tokenizer).set_truncation_and_padding, []

    def amid(self, **options):
        """What a trainer's own call does when its turn comes between the renderer's settings and its encoding."""
        real(self, **options)
        calls.append(self)
        tokenizer.backend_tokenizer.enable_padding(direction="left", pad_id=1, pad_token="<|end|>")
        tokenizer.backend_tokenizer.enable_truncation(4)

    monkeypatch.setattr(type(tokenizer), "set_truncation_and_padding", amid)
    assert tokens(renderer(rows)) == wanted
    assert tokens(PromptRenderer(tokenizer)(rows)) == wanted, "made when the tokenizer pads"
    assert len(calls) == 4


def test_what_is_added_to_the_tokenizer_later_is_followed(tokenizer):
    changing = copy.deepcopy(tokenizer)
    renderer, row = PromptRenderer(changing), ScoringPrompt("<mark>How many<|user|> apples?")

    def alike() -> int:
        [rendered] = renderer([row])
        assert rendered.tokens.tolist() == changing(row.prompt)["input_ids"]
        return len(rendered.tokens)

    counts = [alike()]
    changing.add_tokens(["<mark>"])
    counts.append(alike())
    changing.backend_tokenizer.post_processor = None  # no BOS token
    counts.append(alike())
    changing.split_special_tokens = True
    counts.append(alike())
    assert counts[0] > counts[1] > counts[2] < counts[3]


def test_a_renderer_is_pickled_without_its_copy_of_the_tokenizer(tokenizer):
    renderer, rows = PromptRenderer(tokenizer), rows_of_many_lengths()
    before = len(pickle.dumps(renderer))
    wanted = tokens(renderer(rows))
    stored = pickle.dumps(renderer)
    assert len(stored) < 1.1 * before
    assert tokens(pickle.loads(stored)(rows)) == wanted


def test_a_tokenizer_that_cannot_be_copied_is_used_as_it_is(tokenizer):
    from tokenizers.pre_tokenizers import PreTokenizer

    class Halves:
        def pre_tokenize(self, text):
            text.split(lambda _, piece: [piece[:4], piece[4:]])

    made = copy.deepcopy(tokenizer)
    made.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(Halves())
    with pytest.raises(Exception, match="cannot be serialized"):
        copy.deepcopy(made.backend_tokenizer)
    [rendered] = PromptRenderer(made)([ScoringPrompt("Howmanyapples")])
    assert rendered.tokens.tolist() == made("Howmanyapples")["input_ids"]
