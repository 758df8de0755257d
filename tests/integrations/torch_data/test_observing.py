"""What the samplers make of observed rollouts: late ones, those of another ranking, and those of other processes."""

from __future__ import annotations

import json

import pytest
from sampler_support import IDS, KINDS, N, flat, make, navigator, other_ranking, rollouts, rows_of

from gainrl.curriculum import GaussianNavigator
from gainrl.errors import UserError
from gainrl.integrations.torch_data import CurriculumBatchSampler, CurriculumSampler


@KINDS
def test_what_is_observed_moves_the_next_epoch(kind):
    alone = navigator()
    alone.draw()
    alone.observe(rollouts(rows_of(alone.ids)))
    sampler = make(kind, navigator())
    for item in sampler:
        sampler.observe(rollouts(flat([item])))
    assert flat(sampler) == rows_of(alone.draw())


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


def test_several_processes_need_torch_distributed_to_observe_their_own_rollouts():
    sampler = CurriculumSampler(navigator(), IDS, num_replicas=2, rank=0)
    rows = list(sampler)
    with pytest.raises(UserError, match="gather the records of all processes"):
        sampler.observe(rollouts(rows))
    sampler.observe(rollouts(rows), gather=False)
    assert sampler.navigator.totals.rollouts == 6


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
