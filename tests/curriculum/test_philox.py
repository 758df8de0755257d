"""Raw words and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from gainrl.curriculum import philox

EDGES = np.array([0, 1, 2**12 - 1, 2**12, 2**63, 2**64 - 2**12, 2**64 - 1], dtype=np.uint64)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [  # the known answers that come with Random123 for philox4x64-10
        ((0, 0), (0, 0, 0, 0), (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
        (
            (2**64 - 1,) * 2,
            (2**64 - 1,) * 4,
            (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
        ),
    ],
)
def test_numpys_philox_is_philox4x64_10(
    key: tuple[int, ...], counter: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    before = sum(word << (64 * i) for i, word in enumerate(counter)) - 1  # NumPy adds one before each block
    words = [(before >> (64 * i)) & (2**64 - 1) for i in range(4)]
    generator = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=np.array(words, dtype=np.uint64))
    assert tuple(int(word) for word in generator.random_raw(4)) == expected


def test_a_word_depends_on_its_position_and_not_on_where_reading_began() -> None:
    stream = philox.Stream(seed=7, epoch=3, purpose=1, part=2)
    whole = stream.words(0, 50)
    for start in range(10):
        np.testing.assert_array_equal(stream.words(start, 40), whole[start : start + 40])


@pytest.mark.parametrize("other", [(8, 3, 1, 2), (7, 4, 1, 2), (7, 3, 0, 2), (7, 3, 1, 3)])
def test_streams_of_another_name_share_no_word(other: tuple[int, int, int, int]) -> None:
    mine = philox.Stream(7, 3, 1, 2).words(0, 1000)
    assert not np.isin(philox.Stream(*other).words(0, 1000), mine).any()


def test_uniforms_are_strictly_inside_the_unit_interval_and_symmetric() -> None:
    values = philox.uniform(EDGES)
    assert values[0] == 2.0**-53
    assert values[-1] == 1.0 - 2.0**-53
    assert values[0] + values[-1] == 1.0


def test_exponentials_are_positive_and_finite_so_that_they_have_a_log() -> None:
    values = philox.exponential(EDGES)
    assert np.isfinite(np.log(values)).all()
    assert values.min() > 1e-16
    assert values.max() < 37


@pytest.mark.parametrize("bound", [1, 2, 3, 6, 1000, 2**31 + 11, 2**32 - 1, 2**32])
def test_below_is_the_upper_half_of_the_exact_product(bound: int) -> None:
    words = np.concatenate([EDGES, philox.Stream(1, 0, 0).words(0, 200)])
    assert philox.below(words, bound).tolist() == [int(word) * bound >> 64 for word in words]


def test_permutation_is_one_and_stable_under_equal_words() -> None:
    assert sorted(philox.permutation(philox.Stream(1, 0, 0).words(0, 100)).tolist()) == list(range(100))
    assert philox.permutation(np.array([5, 1, 5, 1], dtype=np.uint64)).tolist() == [1, 3, 0, 2]
