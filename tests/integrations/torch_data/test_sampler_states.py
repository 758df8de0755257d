"""States of the samplers at every place of an epoch, and what comes after a resume."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from sampler_support import IDS, KINDS, N, flat, make, navigator, rollouts, rows_of
from torch.utils.data import DataLoader

from gainrl.curriculum import UniformNavigator
from gainrl.errors import UserError
from gainrl.integrations.torch_data import CurriculumBatchSampler, CurriculumSampler


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
