"""The samplers alone: order, shares, groups, and what they refuse."""

from __future__ import annotations

import pytest
from sampler_support import IDS, KINDS, N, flat, make, navigator, rollouts, rows_of
from torch.utils.data import DataLoader

from gainrl.curriculum import NAVIGATORS, Ranking
from gainrl.errors import UserError
from gainrl.integrations.torch_data import CurriculumBatchSampler, CurriculumSampler


@KINDS
@pytest.mark.parametrize("name", [name for name in NAVIGATORS if name != "probe"])
def test_an_epoch_is_what_the_navigator_draws(kind, name):
    ranking = Ranking(sorted(IDS), [1.0 - i / N for i in range(N)], "dataset")
    sampler = make(kind, NAVIGATORS[name](ranking, 12), repeats=3)
    items = list(sampler)
    expected = NAVIGATORS[name](ranking, 12).draw()
    assert flat(items) == [row for row in rows_of(expected) for _ in range(3)]
    assert len(sampler) == len(items)


@KINDS
def test_nothing_is_drawn_before_the_first_item_is_asked_for(kind):
    nav = navigator()
    sampler = make(kind, nav)
    first = list(sampler)
    sampler.observe(rollouts(flat(first)))
    len(sampler), iter(sampler), DataLoader(IDS, sampler=sampler if kind is CurriculumSampler else None)
    assert nav.epoch == 0
    items = iter(sampler)
    assert nav.epoch == 0
    next(items)
    assert nav.epoch == 1


@KINDS
def test_a_prompt_is_done_when_its_rollouts_were_observed_also_after_a_resume(kind):
    sampler = make(kind, navigator(), repeats=2)
    names = [IDS[row] for row in dict.fromkeys(flat(list(sampler)))]
    sampler.observe(rollouts([row for name in names[:2] for row in [IDS.index(name)] * 2]))
    done = [True, True] + [False] * (len(names) - 2)
    assert [sampler.is_done(name) for name in names] == done
    again = make(kind, navigator(), repeats=2)
    again.load_state_dict(sampler.state_dict())
    assert [again.is_done(name) for name in names] == done
    with pytest.raises(KeyError):
        sampler.is_done(next(name for name in IDS if name not in names))


@KINDS
def test_an_unobserved_epoch_comes_again(kind):
    sampler = make(kind, navigator())
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_epoch_evenly_and_keep_groups_whole(world):
    drawn = rows_of(navigator().draw())
    parts = [list(CurriculumSampler(navigator(), IDS, repeats=2, num_replicas=world, rank=r)) for r in range(world)]
    assert {len(part) for part in parts} == {24 // world}
    for rank, part in enumerate(parts):
        assert part == [row for row in drawn[rank::world] for _ in range(2)]
    batches = [
        list(CurriculumBatchSampler(navigator(), IDS, 2, repeats=2, num_replicas=world, rank=r)) for r in range(world)
    ]
    for step, together in enumerate(zip(*batches, strict=True)):
        there = drawn[2 * world * step : 2 * world * (step + 1)]
        assert [row for batch in together for row in batch] == [row for row in there for _ in range(2)]


def test_the_last_batch_is_smaller_or_left_out():
    sizes = [len(batch) for batch in CurriculumBatchSampler(navigator(), IDS, 5)]
    assert sizes == [5, 5, 2]
    dropping = CurriculumBatchSampler(navigator(), IDS, 5, drop_last=True)
    assert [len(batch) for batch in dropping] == [5, 5]
    assert len(dropping) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_replicas": 5, "rank": 0}, "n = 12 prompts per epoch do not divide among 5 processes"),
        ({"num_replicas": 2, "rank": 2}, "rank 2 of num_replicas 2"),
        ({"repeats": 0}, "repeats=0"),
        ({"ids": IDS[1:]}, "1 of the ranking's prompts are not in the dataset, first 'prompt-00'"),
    ],
)
@KINDS
def test_what_cannot_work_is_refused_at_once(kind, change, message):
    given = {"ids": IDS, **({"prompts_per_batch": 2} if kind is CurriculumBatchSampler else {}), **change}
    with pytest.raises(UserError, match=message):
        kind(navigator(), **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts_per_batch": 0}, "prompts_per_batch=0"),
        ({"prompts_per_batch": 13, "drop_last": True}, "leave nothing"),
    ],
)
def test_batches_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CurriculumBatchSampler(navigator(), IDS, **options)


@KINDS
def test_torchs_own_loader_takes_them(kind):
    sampler = make(kind, navigator(), repeats=2)
    given = {"batch_sampler": sampler} if kind is CurriculumBatchSampler else {"sampler": sampler, "batch_size": 4}
    loader = DataLoader(IDS, **given)
    drawn = navigator().draw()
    found = list(loader)
    assert [name for batch in found for name in batch] == [name for name in drawn for _ in range(2)]
    assert len(loader) == len(found) == 6
