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


def loader_of(kind, sampler, workers, batch_size=6):
    given = {"sampler": sampler, "batch_size": batch_size}
    if kind is CurriculumBatchSampler:
        given = {"batch_sampler": sampler}
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


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_a_state_amid_a_group_goes_on_with_the_rest_of_the_group(workers):
    whole = CurriculumSampler(navigator(), IDS, repeats=2)
    states = [json.dumps(whole.state_dict())]
    expected = epochs_of(whole, loader_of(CurriculumSampler, whole, workers, batch_size=3), 2, states)
    assert len(expected) == 16
    for place in range(17) if workers == 0 else (1, 4, 9):
        again = CurriculumSampler(navigator(), IDS, repeats=2)
        again.load_state_dict(json.loads(states[place]))
        assert json.dumps(again.state_dict()) == states[place]
        loader = loader_of(CurriculumSampler, again, workers, batch_size=3)
        assert epochs_of(again, loader, 2) == expected[place:], place
        assert again.state_dict() == whole.state_dict()


@pytest.mark.parametrize("taken", range(25))
def test_no_rollout_of_a_group_is_lost_by_a_resume_wherever_it_is_left(taken):
    sampler = CurriculumSampler(navigator(n=6), IDS, repeats=4)
    items = iter(sampler)
    sampler.observe(rollouts(list(islice(items, taken))))
    again = CurriculumSampler(navigator(n=6), IDS, repeats=4)
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert again.epoch == taken // 24
    if taken < 24:
        assert list(again) == list(items)


def test_of_repeats_only_what_all_processes_have_is_left_out_after_a_resume():
    samplers = [CurriculumSampler(navigator(), IDS, repeats=3, num_replicas=2, rank=rank) for rank in range(2)]
    parts = [iter(sampler) for sampler in samplers]
    seen = [*islice(parts[0], 2), *islice(parts[1], 1)]
    for sampler in samplers:
        sampler.observe(rollouts(seen), gather=False)
    state = samplers[0].state_dict()
    assert (state["done"], state["repeated"]) == (0, 1)
    assert samplers[1].state_dict() == state
    for rank in range(2):
        again = CurriculumSampler(navigator(), IDS, repeats=3, num_replicas=2, rank=rank)
        again.load_state_dict(state)
        drawn = rows_of(again.navigator.ids)[rank::2]
        assert list(again) == [row for row in drawn for _ in range(3)][1:]


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
def test_a_late_rollout_that_names_its_epoch_is_not_taken_for_one_of_the_new_epoch(kind):
    sampler = make(kind, navigator(n=36))
    first = flat(sampler)
    sampler.observe([{**record, "epoch": 0} for record in rollouts(first[:20])])
    items = iter(sampler)
    second = flat([next(items)])
    drawn = set(rows_of(sampler.navigator.ids))
    old = [row for row in first[20:] if row in drawn and row not in second][:2]
    records = [{**record, "epoch": 0} for record in rollouts(old)]
    before = sampler.state_dict()
    with pytest.raises(UserError, match=r"is of epoch 0, and epoch 1 is under way: .*late=True"):
        sampler.observe(records)
    for wrong in (2, -1, "0", True):
        with pytest.raises(UserError, match=r"and epoch 1 is under way: give sampler\.navigator\.epoch"):
            sampler.observe([*records, {**records[0], "epoch": wrong}], late=True)
    stranger = next(row for row in range(N) if row not in drawn)
    with pytest.raises(UserError, match="not part of epoch 1"):  # nor are the late ones added
        sampler.observe([*records, {**rollouts([stranger])[0], "epoch": 1}], late=True)
    assert sampler.state_dict() == before
    sampler.observe([*records, *({**record, "epoch": 1} for record in rollouts(second))], late=True)
    assert (sampler.navigator.totals.rollouts, sampler.navigator.late.rollouts) == (2 + len(second), 2)
    again = make(kind, navigator(n=36))
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    rest = flat(again)
    assert rest == flat(items)
    assert set(old) < set(rest)


def other_ranking():
    return Ranking(sorted(IDS, reverse=True), [1.0 - i / N for i in range(N)], "dataset")


@KINDS
def test_a_new_ranking_before_anything_was_observed_is_noticed_under_the_same_epoch_number(kind):
    sampler = make(kind, navigator())
    old = flat(sampler)
    sampler.navigator.rerank(other_ranking())
    assert sampler.navigator.epoch == 0
    drawn = rows_of(sampler.navigator.ids)
    assert not set(old) & set(drawn)
    sampler.observe(rollouts(drawn[:1] + drawn[2:3]))
    again = make(kind, GaussianNavigator(other_ranking(), 12, order="draw", seed=3))
    again.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert flat(again) == [drawn[1], *drawn[3:]]


@KINDS
def test_a_new_ranking_after_a_resume_leaves_nothing_of_the_new_epoch_out(kind):
    sampler = make(kind, navigator())
    sampler.observe(rollouts(flat(sampler)[:4]))
    again = make(kind, navigator())
    again.load_state_dict(sampler.state_dict())
    again.navigator.rerank(other_ranking())
    assert again.epoch == 1
    assert flat(again) == rows_of(again.navigator.ids)


@KINDS
def test_a_navigators_state_of_the_same_epoch_number_is_noticed_only_if_its_prompts_are_others(kind):
    def second_epoch(correct):
        sampler = make(kind, navigator())
        sampler.observe(rollouts(flat(sampler), correct=correct))
        items = iter(sampler)
        sampler.observe(rollouts(flat([next(items)])))
        return sampler

    sampler, other = second_epoch(True), second_epoch(False)
    before = sampler.state_dict()
    sampler.navigator.load_state_dict(sampler.navigator.state_dict())
    assert sampler.state_dict() == before
    assert sampler.navigator.ids != other.navigator.ids
    sampler.navigator.load_state_dict(other.navigator.state_dict())
    state = sampler.state_dict()
    assert (state["epoch"], state["done"], state["ahead"]) == (1, 0, [])


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
        (bad(version="2"), "no state of a curriculum sampler"),
        (navigator().state_dict(), "no state of a curriculum sampler"),
        (
            {"version": 1, "navigator": None, "epoch": 0, "handed_out": 3, "repeated": 0, "num_replicas": 1},
            "^state of version 1: this gainrl reads version 2; finish the run with the release that began it$",
        ),
        (bad(version=3), "^state of version 3: this gainrl reads version 2; "),
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
