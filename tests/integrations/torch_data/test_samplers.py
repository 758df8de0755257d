"""The samplers: order, shares, what is observed, and resuming at every place of a draw."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
import torch.distributed as dist
from torch.utils.data import DataLoader

from gainrl.errors import UserError
from gainrl.integrations.shared import DrawLog
from gainrl.integrations.torch_data import CurriculumBatchSampler, CurriculumSampler, load_curriculum
from tests.learners import learnt, table_of

PROMPTS = [f"question {row}" for row in range(40)]
KINDS = pytest.mark.parametrize("kind", [CurriculumSampler, CurriculumBatchSampler])
WORKERS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")


def curriculum(n=12, **options):
    return load_curriculum(table_of(PROMPTS), PROMPTS, n, **{"navigator": "learner", "seed": 3, **options})


def make(kind, given=None, **options):
    if kind is CurriculumBatchSampler:
        options = {"prompts_per_batch": 2, **options}
    return kind(given or curriculum(), **options)


def flat(items):
    return [row for item in items for row in (item if isinstance(item, list) else [item])]


def right(row, number=0):
    return float((row + number) % 3 == 0)


def report(sampler, items, **options):
    rows = flat(items)
    sampler.observe(rows, [right(row) for row in rows], **options)


def loader_of(sampler, workers=0, batch_size=4):
    given = {"sampler": sampler, "batch_size": batch_size}
    if isinstance(sampler, CurriculumBatchSampler):
        given = {"batch_sampler": sampler}
    return DataLoader(range(40), num_workers=workers, collate_fn=list, **given)


def train(sampler, draws, *, workers=0, states=None, **options):
    """Batches until `draws` draws are over, each reported; the sampler's state after each."""
    found = []
    for _ in range(sampler.next_draw, draws):
        for batch in loader_of(sampler, workers, **options):
            found.append(batch)
            report(sampler, batch)
            if states is not None:
                states.append(json.dumps(sampler.state_dict()))
    return found


@KINDS
def test_one_iteration_is_one_draw_with_every_prompt_as_often_as_asked(kind):
    expected = curriculum().navigator
    sampler = make(kind, repeats=3)
    for draw in range(3):
        items = list(sampler)
        assert flat(items) == np.repeat(expected.draw(12), 3).tolist()
        assert (sampler.draw, len(items)) == (draw, len(sampler))


@KINDS
def test_the_draw_is_made_with_the_first_index_and_knows_all_that_was_observed_before(kind):
    sampler, other = make(kind), make(kind)
    report(sampler, flat(sampler))
    flat(other)
    items = iter(sampler)
    assert sampler.draw == 0
    assert flat(items) != flat(other)
    assert sampler.draw == 1


def test_a_group_is_passed_on_when_its_last_repeat_was_observed():
    sampler = make(CurriculumSampler, repeats=2)
    navigator, (first, *_) = sampler.curriculum.navigator, flat(sampler)
    sampler.observe([first], [1.0])
    assert not learnt(navigator).any()
    sampler.observe([first], [None])  # unscored: neither right nor wrong
    assert learnt(navigator)[first] == 1.0
    assert first not in sampler.unfinished
    assert len(sampler.unfinished) == 11


def test_a_group_is_mixed_by_its_rewards_and_rounding_mixes_none():
    sampler = make(CurriculumBatchSampler, repeats=2)
    navigator, (a, _, b, *_) = sampler.curriculum.navigator, flat(sampler)
    sampler.observe([a, a, b, b], [1, 1, 0, 0], rewards=[0.5, 1.0, 0.3, 0.3 + 1e-9])
    assert (learnt(navigator)[a], learnt(navigator)[b]) == (2.0, 0.0)


def test_late_rollouts_reach_the_navigator_and_are_not_taken_for_those_of_the_draw_under_way():
    sampler = make(CurriculumSampler, curriculum(n=36))
    first, navigator = list(sampler), sampler.curriculum.navigator
    report(sampler, first[:30])
    again = set(flat(sampler)) & set(first[30:])
    gone = next(row for row in range(40) if row not in sampler.unfinished)
    late = min(again)
    sampler.observe([late, gone], [1.0, 1.0], draws=[0, 0])
    assert late in sampler.unfinished
    assert learnt(navigator)[late] == 1.0
    before = json.dumps(sampler.state_dict())
    with pytest.raises(UserError, match=r"accuracy of a rollout is 1\.5"):
        sampler.observe([late, late], [1.0, 1.5])
    assert json.dumps(sampler.state_dict()) == before


@KINDS
@pytest.mark.parametrize("workers", [0, 2])
@WORKERS
def test_a_state_goes_on_behind_what_was_observed_however_far_the_loader_fetched(kind, workers):
    whole, states = make(kind, repeats=2), []
    states.append(json.dumps(whole.state_dict()))
    expected = train(whole, 2, workers=workers, states=states)
    for step in range(13) if not workers else (1, 4, 6, 9):
        again = make(kind, repeats=2)
        again.load_state_dict(json.loads(states[step]))
        assert again.next_draw == step // 6
        assert train(again, 2, workers=workers) == expected[step:], step
        assert again.state_dict()["navigator"] == whole.state_dict()["navigator"]


def test_a_state_amid_a_group_goes_on_with_the_rest_of_the_group():
    whole, states = make(CurriculumSampler, repeats=2), []
    states.append(json.dumps(whole.state_dict()))
    expected = train(whole, 2, states=states, batch_size=3)
    for step in range(17):
        again = make(CurriculumSampler, repeats=2)
        again.load_state_dict(json.loads(states[step]))
        assert train(again, 2, batch_size=3) == expected[step:], step


@KINDS
def test_the_state_of_a_stateful_loader_goes_on_everywhere(kind):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata: not installed")

    def loader_of(sampler):
        given = {"sampler": sampler, "batch_size": 4} if kind is CurriculumSampler else {"batch_sampler": sampler}
        return stateful.StatefulDataLoader(range(40), collate_fn=list, **given)

    def steps(sampler, loader, count, states=None):
        found = []
        while len(found) < count:
            for batch in loader:
                found.append(batch)
                report(sampler, batch)
                if states is not None:
                    states.append(json.dumps(loader.state_dict()))
                if len(found) == count:
                    break
        return found

    whole, states = make(kind, repeats=2), []
    expected = steps(whole, loader_of(whole), 15, states)
    for step, state in enumerate(states, start=1):
        sampler = make(kind, repeats=2)
        loader = loader_of(sampler)
        loader.load_state_dict(json.loads(state))
        assert steps(sampler, loader, 15 - step) == expected[step:], step


def test_drop_last_leaves_the_end_of_a_draw_out():
    sampler = make(CurriculumBatchSampler, prompts_per_batch=5, drop_last=True)
    items = list(sampler)
    assert [len(item) for item in items] == [5, 5]
    report(sampler, items)
    again = make(CurriculumBatchSampler, prompts_per_batch=5, drop_last=True)
    again.load_state_dict(sampler.state_dict())
    assert again.next_draw == 1
    assert [len(item) for item in again] == [5, 5]


def test_one_line_a_draw_is_logged_and_a_resume_leaves_out_what_it_does_not_know(tmp_path):
    sources = ["even" if row % 2 == 0 else "odd" for row in range(40)]
    sampler = make(CurriculumBatchSampler, curriculum(directory=tmp_path, sources=sources), repeats=2)
    train(sampler, 2)
    state = sampler.state_dict()
    train(sampler, 4)
    records = DrawLog(tmp_path).read()
    assert [record["draw"] for record in records] == [0, 1, 2, 3]
    first = records[0]
    assert (first["rollouts"], first["scored"], first["navigator"]) == (24, 24, "learner")
    assert first["accuracy"] == pytest.approx(np.mean([right(row) for row in first["rows"]]))
    assert first["all_right"] == first["accuracy"]
    assert first["outcome"] == [[2, 2 * right(row), False] for row in first["rows"]]
    assert sum(source["groups"] for source in first["sources"].values()) == 12
    again = make(CurriculumBatchSampler, curriculum(directory=tmp_path, sources=sources), repeats=2)
    again.load_state_dict(state)
    assert [record["draw"] for record in DrawLog(tmp_path).read()] == [0, 1]
    train(again, 4)
    assert [record["rows"] for record in DrawLog(tmp_path).read()] == [record["rows"] for record in records]


def test_a_dataset_that_lacks_rows_of_the_table_draws_its_own_and_never_what_could_not_be_scored(caplog):
    table, prompts = table_of(PROMPTS, failed=[4]), [PROMPTS[row] for row in (9, 4, 30, 8, 1)]
    with pytest.raises(UserError, match="another dataset"):
        load_curriculum(table, prompts, 4, navigator="uniform")
    sampler = CurriculumSampler(load_curriculum(table, prompts, 4, navigator="uniform", subset=True))
    assert sorted(sampler) == [0, 2, 3, 4]
    assert "1 prompts that could not be scored are never drawn" in caplog.text
    with pytest.raises(UserError, match="row 4 is not among the 4 prompts"):
        sampler.observe([1], [1.0])
    with pytest.raises(UserError, match="n = 5: 4 of the 5 prompts can be drawn"):
        load_curriculum(table, prompts, 5, navigator="uniform", subset=True)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    sampler = make(CurriculumSampler)
    report(sampler, list(islice(sampler, 5)))
    before = sampler.state_dict()
    for changes, message in (
        ({"version": 2}, "no state of a curriculum sampler"),
        ({"draw": {"number": 3}}, "the state of a draw has the fields"),
        ({"navigator": {"navigator": "uniform"}}, "the state is of the navigator 'uniform'"),
    ):
        with pytest.raises(UserError, match=message):
            sampler.load_state_dict({**before, **changes})
    assert sampler.state_dict() == before


def test_several_processes_need_torch_distributed():
    with pytest.raises(UserError, match="num_replicas=2"):
        make(CurriculumSampler, num_replicas=2, rank=0)


def _two_processes(rank, address, folder):
    from gainrl.curriculum import NAVIGATORS
    from tests.learners import Learner

    NAVIGATORS["learner"] = Learner
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    single, batches = make(CurriculumSampler, repeats=2), make(CurriculumBatchSampler, curriculum(seed=rank), repeats=2)
    found = {"single": list(single), "batches": [], "states": []}
    for _ in range(2):
        for batch in batches:
            found["batches"].append(batch)
            report(batches, batch)
            found["states"].append(batches.state_dict())
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.full
def test_two_processes_share_the_draws_of_rank_0_and_observe_together(tmp_path):
    import torch.multiprocessing as mp

    mp.spawn(_two_processes, (f"file://{tmp_path}/meet", tmp_path), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    drawn = curriculum().navigator.draw(12).tolist()
    assert [part["single"] for part in found] == [np.repeat(drawn[rank::2], 2).tolist() for rank in range(2)]
    alone = make(CurriculumBatchSampler, curriculum(seed=0), prompts_per_batch=4, repeats=2)
    for step, batch in enumerate(train(alone, 2)):
        assert found[0]["batches"][step] + found[1]["batches"][step] == batch
    draws = [[state["draw"] for state in part["states"]] for part in found]
    assert draws[0] == draws[1]
    resumed = make(CurriculumBatchSampler, prompts_per_batch=4, repeats=2)  # on one process
    resumed.load_state_dict(found[0]["states"][1])
    assert list(resumed) == [found[0]["batches"][2] + found[1]["batches"][2]]
