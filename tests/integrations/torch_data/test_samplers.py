"""The samplers alone: order, shares, groups, observing, and states at every place of an epoch."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from torch.utils.data import DataLoader

from gainrl.curriculum import NAVIGATORS, GaussianNavigator, Ranking, UniformNavigator
from gainrl.errors import UserError
from gainrl.integrations.torch_data import CurriculumBatchSampler, CurriculumSampler

N = 40
IDS = [f"prompt-{(7 * i) % N:02d}" for i in range(N)]  # dataset order is not the order of the ids
ROW = {name: row for row, name in enumerate(IDS)}


def navigator(n=12, kind=GaussianNavigator, **options):
    ranking = Ranking(sorted(IDS), [1.0 - i / N for i in range(N)], "dataset")
    return kind(ranking, n, order="draw", seed=3, **options)


def rollouts(rows, correct=True):
    return [{"id": IDS[r], "correct": correct, "scored": True, "angle": 0.4, "reward": 1.0, "tokens": 5} for r in rows]


def rows_of(names):
    return [ROW[name] for name in names]


def make(kind, nav, **options):
    if kind is CurriculumBatchSampler:
        options = {"prompts_per_batch": 2, **options}
    return kind(nav, IDS, **options)


KINDS = pytest.mark.parametrize("kind", [CurriculumSampler, CurriculumBatchSampler])


def flat(items):
    return [row for item in items for row in (item if isinstance(item, list) else [item])]


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


@KINDS
def test_what_is_observed_moves_the_next_epoch(kind):
    alone = navigator()
    alone.draw()
    alone.observe(rollouts(rows_of(alone.ids)))
    sampler = make(kind, navigator())
    for item in sampler:
        sampler.observe(rollouts(flat([item])))
    assert flat(sampler) == rows_of(alone.draw())


def epochs_of(sampler, loader, epochs, states=None):
    """Batches until `epochs` are over, each reported; the sampler's state before the first and after each."""
    found = []
    for _ in range(sampler.epoch, epochs):
        for batch in loader:
            found.append(batch)
            sampler.observe(rollouts(batch if isinstance(batch, list) else [batch]))
            if states is not None:
                states.append(json.dumps(sampler.state_dict()))
    return found


def loader_of(kind, sampler, workers):
    given = {"batch_sampler": sampler} if kind is CurriculumBatchSampler else {"sampler": sampler, "batch_size": 6}
    return DataLoader(range(N), num_workers=workers, collate_fn=list, **given)


@KINDS
@pytest.mark.parametrize(("workers", "places"), [(0, range(13)), (2, (0, 1, 4, 6, 8))])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_a_state_goes_on_behind_what_was_observed_however_far_the_loader_fetched(kind, workers, places):
    whole = make(kind, navigator(n=18 if kind is CurriculumSampler else 12), repeats=2)
    states = [json.dumps(whole.state_dict())]
    expected = epochs_of(whole, loader_of(kind, whole, workers), 2, states)
    assert len(expected) == 12
    for place in places:
        again = make(kind, navigator(n=whole.navigator.n), repeats=2)
        again.load_state_dict(json.loads(states[place]))
        assert again.epoch == place // 6
        assert epochs_of(again, loader_of(kind, again, workers), 2) == expected[place:], place
        assert again.state_dict() == whole.state_dict()


@KINDS
def test_prompts_that_were_not_observed_come_again_after_a_resume(kind):
    sampler = make(kind, navigator())
    drawn = flat(sampler)
    sampler.observe(rollouts([*drawn[:3], drawn[6]]))
    again = make(kind, navigator())
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert again.state_dict() == sampler.state_dict()
    assert (again.epoch, flat(again)) == (0, [*drawn[3:6], *drawn[7:]])
    again.observe(rollouts([*drawn[3:6], *drawn[7:]]))
    assert (again.epoch, again.navigator.totals.rollouts) == (1, 12)


@KINDS
def test_rollouts_that_come_back_after_their_epoch_have_their_say_in_the_next_move(kind):
    sampler = make(kind, navigator())
    first = flat(sampler)
    sampler.observe(rollouts(first[:8]))
    items = iter(sampler)
    second = flat([next(items)])
    (missing,) = [row for row in first[8:] if IDS[row] not in sampler.navigator.ids][:1]
    with pytest.raises(UserError, match="not part of epoch 1"):
        sampler.observe(rollouts([*second, missing]))
    sampler.observe(rollouts([*second, missing]), late=True)
    assert (sampler.navigator.totals.rollouts, sampler.navigator.late.rollouts) == (len(second) + 1, 1)
    again = make(kind, navigator())
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert flat(again) == flat(items)
    with pytest.raises(UserError):
        sampler.observe([*rollouts([missing]), {"id": "no such"}], late=True)
    assert sampler.navigator.late.rollouts == 1


@KINDS
def test_what_went_past_the_sampler_counts_as_handed_out(kind):
    sampler = make(kind, navigator())
    items = iter(sampler)
    first = flat([next(items), next(items)])
    sampler.navigator.observe(rollouts(first))
    again = make(kind, navigator())
    again.load_state_dict(sampler.state_dict())
    assert flat(again) == flat(items)


def test_what_drop_last_leaves_out_is_no_epoch():
    sampler = CurriculumBatchSampler(navigator(), IDS, 5, drop_last=True)
    for batch in sampler:
        sampler.observe(rollouts(batch))
    again = CurriculumBatchSampler(navigator(), IDS, 5, drop_last=True)
    again.load_state_dict(sampler.state_dict())
    assert again.epoch == 1
    assert list(again) == list(sampler)
    assert again.navigator.epoch == 1


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4), (3, 1)])
def test_a_run_resumes_on_another_number_of_processes(before, after):
    drawn = rows_of(navigator().draw())
    first = [CurriculumSampler(navigator(), IDS, num_replicas=before, rank=r) for r in range(before)]
    taken = [list(islice(sampler, 4 // before if before != 3 else 2)) for sampler in first]
    for sampler in first:
        sampler.observe(rollouts(flat(taken)), gather=False)
    state = first[0].state_dict()
    assert all(sampler.state_dict() == state for sampler in first)
    then = [CurriculumSampler(navigator(), IDS, num_replicas=after, rank=r) for r in range(after)]
    for sampler in then:
        sampler.load_state_dict(state)
    rest = [list(sampler) for sampler in then]
    assert sorted(flat(taken) + flat(rest)) == sorted(drawn)
    assert {len(part) for part in rest} == {(12 - state["done"]) // after}


def test_what_the_processes_cannot_share_is_left_out_and_said(caplog):
    drawn = rows_of(navigator().draw())
    state = CurriculumSampler(navigator(), IDS).state_dict()
    samplers = [CurriculumSampler(navigator(), IDS, num_replicas=2, rank=rank) for rank in range(2)]
    for sampler in samplers:
        sampler.load_state_dict({**state, "done": 1})
    assert [list(sampler) for sampler in samplers] == [drawn[1:-1:2], drawn[2:-1:2]]
    assert "11 prompts are left of the epoch, which 2 processes cannot share: the last 1 are left out" in caplog.text


@KINDS
def test_without_the_navigator_the_state_holds_the_place_alone(kind):
    sampler = make(kind, navigator(), navigator_in_state=False)
    items = iter(sampler)
    first = next(items)
    sampler.observe(rollouts(flat([first])))
    state, held = sampler.state_dict(), sampler.navigator.state_dict()
    assert state["navigator"] is None
    rest = list(items)
    other = make(kind, navigator(), navigator_in_state=False)
    other.navigator.load_state_dict(held)
    other.load_state_dict(state)
    assert list(other) == rest
    sampler.observe(rollouts(flat(rest)))
    next(iter(sampler))
    with pytest.raises(UserError, match="of epoch 1, its navigator is in epoch 0: load the navigator's own state"):
        make(kind, navigator(), navigator_in_state=False).load_state_dict(sampler.state_dict())


def bad(**changes):
    return {**CurriculumSampler(navigator(), IDS).state_dict(), **changes}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no state of a curriculum sampler"),
        (bad(version=1), "no state of a curriculum sampler"),
        (bad(more=1), "no state of a curriculum sampler"),
        (bad(done=13), r"made 13 prompts and 0 repeats into an epoch .*, of which this sampler has 12 and 1"),
        (bad(ahead=[12]), "and has 1 prompts further on"),
        (bad(done=2, ahead=[1]), "made 2 prompts"),
        (bad(done="2"), "made 2 prompts"),
        (bad(repeated=1), "made 0 prompts and 1 repeats"),
        (bad(navigator={}), "no curriculum state"),
        (bad(navigator=UniformNavigator(navigator().ranking, 12).state_dict()), "gaussian"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(state, message):
    sampler = CurriculumSampler(navigator(), IDS)
    before = sampler.state_dict()
    with pytest.raises(UserError, match=message):
        sampler.load_state_dict(state)
    assert sampler.state_dict() == before


def test_amid_a_prompts_repeats_the_number_of_processes_must_stay():
    sampler = CurriculumSampler(navigator(), IDS, repeats=3)
    items = iter(sampler)
    next(items)
    state = items.state_dict()
    assert (state["done"], state["repeated"]) == (0, 1)
    with pytest.raises(UserError, match="amid a prompt's repeats on 1 processes"):
        iter(CurriculumSampler(navigator(), IDS, repeats=3, num_replicas=2, rank=0)).load_state_dict(state)


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


def test_several_processes_need_torch_distributed_to_observe_their_own_rollouts():
    sampler = CurriculumSampler(navigator(), IDS, num_replicas=2, rank=0)
    rows = list(sampler)
    with pytest.raises(UserError, match="gather the records of all processes"):
        sampler.observe(rollouts(rows))
    sampler.observe(rollouts(rows), gather=False)
    assert sampler.navigator.totals.rollouts == 6


@KINDS
def test_torchs_own_loader_takes_them(kind):
    sampler = make(kind, navigator(), repeats=2)
    given = {"batch_sampler": sampler} if kind is CurriculumBatchSampler else {"sampler": sampler, "batch_size": 4}
    loader = DataLoader(IDS, **given)
    drawn = navigator().draw()
    found = list(loader)
    assert [name for batch in found for name in batch] == [name for name in drawn for _ in range(2)]
    assert len(loader) == len(found) == 6


def _observe_own(rank: int, address: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    sampler = CurriculumBatchSampler(navigator(), IDS, 2)
    for batch in sampler:
        sampler.observe(rollouts(batch, correct=rank == 0))
    states = [None, None]
    dist.all_gather_object(states, sampler.state_dict())
    assert states[0] == states[1]
    assert (sampler.navigator.totals.rollouts, sampler.navigator.totals.accuracy) == (12, 0.5)
    dist.destroy_process_group()


@pytest.mark.full
def test_each_process_hands_in_its_own_rollouts_and_all_navigators_see_all(tmp_path):
    import torch.multiprocessing as mp

    mp.spawn(_observe_own, (f"file://{tmp_path}/meet",), nprocs=2)
