"""Ids and ranks sorted on disk are those that the plain functions in memory give."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gainrl.scoring import ordering
from gainrl.scoring.ordering import Occurrences, Ranks, texts_of_ids
from gainrl.table import content_digest, content_ids, ranks


def numbered(prompts, folder, step):
    digests = np.frombuffer(b"".join(map(content_digest, prompts)), dtype=np.uint8).reshape(-1, 8)
    occurrences = Occurrences(folder, len(prompts))
    for first in range(0, len(prompts), step):
        occurrences.put(first, digests[first : first + step])
    occurrences.number()
    return digests, occurrences[slice(0, len(prompts))]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    prompts=st.lists(st.sampled_from(["a", "b", "c", "d" * 50]), min_size=1, max_size=60),
    step=st.integers(1, 20),
    chunk=st.integers(1, 9),
)
def test_occurrence_numbers_are_those_of_content_ids(tmp_path_factory, prompts, step, chunk):
    before, ordering._CHUNK = ordering._CHUNK, chunk
    try:
        digests, numbers = numbered(prompts, tmp_path_factory.getbasetemp(), step)
    finally:
        ordering._CHUNK = before
    assert texts_of_ids(digests, numbers) == content_ids(prompts)


scores = st.one_of(
    st.sampled_from([0.5, -0.0, 0.0, float("nan"), -1e-30, 1e-30]),
    st.floats(-1, 2, width=32),
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(scores, st.sampled_from("abc")), min_size=1, max_size=60), chunk=st.integers(1, 9))
def test_ranks_are_those_of_the_definition_ties_by_id_as_text(tmp_path_factory, rows, chunk):
    """Twelve or more repeats of one prompt: as text its occurrence 10 comes before 2."""
    rows = [*rows, *[(0.5, "a")] * 12]
    values = np.array([score for score, _ in rows], dtype=np.float32)
    prompts = [prompt for _, prompt in rows]
    folder = tmp_path_factory.getbasetemp()
    before, ordering._CHUNK = ordering._CHUNK, chunk
    try:
        digests, numbers = numbered(prompts, folder, 7)
        ranking = Ranks(folder, len(rows))
        for first in range(0, len(rows), 5):
            part = slice(first, min(first + 5, len(rows)))
            ranking.put(first, values[part], digests[part], numbers[part])
        ranking.sort()
    finally:
        ordering._CHUNK = before
    expected = ranks(content_ids(prompts), values)
    np.testing.assert_array_equal(ranking[slice(0, len(rows))], expected)


def test_nothing_is_left_in_the_folder(tmp_path):
    numbered(["a", "b", "a"], tmp_path, 2)
    assert not list(tmp_path.iterdir())
