"""Batches: every prompt once, within the budget, the same whatever happened before."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gainrl.scoring.batching import MIN_SHARED_TOKENS, MIN_SHARERS, plan
from gainrl.scoring.prompts import Rendered


def prompt(prefix: list[int], question: int) -> Rendered:
    tokens = np.array([*prefix, *range(1000, 1000 + question)], dtype=np.int32)
    return Rendered(tokens, len(prefix))


prompts = st.lists(
    st.builds(
        lambda system, own, question: prompt([system] * 10 + own, question),
        st.integers(0, 2),
        st.lists(st.integers(0, 1), max_size=3),
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=40,
)


@settings(derandomize=True, max_examples=200)
@given(chunk=prompts, budget=st.integers(1, 200), padded=st.booleans(), share=st.booleans())
def test_every_prompt_is_in_exactly_one_batch_that_fits_the_budget(chunk, budget, padded, share):
    seen: list[int] = []
    for batch in plan(chunk, budget, share=share, padded=padded):
        own = [len(chunk[i].tokens) - len(batch.shared) for i in batch.members]
        cost = max(own) * len(own) if padded else sum(own)
        assert cost <= budget or len(own) == 1
        assert min(own) > 0
        for i in batch.members:
            assert np.array_equal(chunk[i].tokens[: len(batch.shared)], batch.shared)
            assert len(batch.shared) <= chunk[i].prefix, "only prefix tokens may be shared"
        seen += batch.members
    assert sorted(seen) == list(range(len(chunk)))


@settings(derandomize=True, max_examples=50)
@given(chunk=prompts, budget=st.integers(1, 200))
def test_the_plan_depends_on_prompts_and_budget_alone(chunk, budget):
    first, second = (
        [(b.shared.tolist(), b.members) for b in plan([Rendered(w.tokens.copy(), w.prefix) for w in chunk], budget)]
        for _ in range(2)
    )
    assert first == second


def test_prompts_with_the_same_prefix_share_it():
    chunk = [prompt(list(range(20)), n) for n in (3, 5, 4, 9, 3)]
    [batch] = plan(chunk, 1000)
    assert batch.shared.tolist() == list(range(20))
    assert [chunk[i].question for i in batch.members] == [3, 3, 4, 5, 9]


def test_a_common_system_prompt_is_shared_when_worked_examples_differ():
    system = list(range(12))
    chunk = [prompt([*system, 50 + n, 51 + n], 4) for n in range(MIN_SHARERS)]
    [batch] = plan(chunk, 1000)
    assert batch.shared.tolist() == system


def test_few_or_short_prefixes_are_not_kept_apart():
    few = [prompt(list(range(20)), 4)] * (MIN_SHARERS - 1)
    short = [prompt(list(range(MIN_SHARED_TOKENS - 1)), 4)] * 10
    for chunk in (few, short):
        assert all(len(batch.shared) == 0 for batch in plan(chunk, 1000))


def test_rows_without_tokens_are_in_no_batch():
    chunk = [Rendered(np.empty(0, dtype=np.int32), 0, "failed", "why"), prompt([1], 3)]
    assert [batch.members for batch in plan(chunk, 100)] == [(1,)]
