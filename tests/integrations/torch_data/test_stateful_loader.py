"""torchdata's StatefulDataLoader: its state in the middle and at the end of an epoch, with and without workers."""

from __future__ import annotations

import pickle

import pytest

pytest.importorskip("torchdata", reason="torchdata: not installed")

from torchdata.stateful_dataloader import StatefulDataLoader

from gainrl.curriculum import GaussianNavigator, Ranking
from gainrl.integrations.torch_data import CurriculumBatchSampler, CurriculumSampler
from gainrl.integrations.torch_data.place import Place

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata 0.11 with torch 2.13
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork"),
]
IDS = [f"prompt-{i:02d}" for i in range(30)]


def navigator():
    return GaussianNavigator(Ranking(IDS, [1 - i / 30 for i in range(30)], "dataset"), 12, order="shuffled", seed=5)


def records(names):
    return [{"id": n, "correct": n[-1] < "6", "scored": True, "angle": 0.3, "reward": 1.0, "tokens": 4} for n in names]


def loader_of(kind, workers, nav, *, alone=False):
    options = {"navigator_in_state": not alone}
    if kind is CurriculumSampler:
        given = {"sampler": CurriculumSampler(nav, IDS, repeats=2, **options), "batch_size": 4}
    else:
        given = {"batch_sampler": CurriculumBatchSampler(nav, IDS, 2, repeats=2, **options)}
    return StatefulDataLoader(IDS, num_workers=workers, collate_fn=list, **given)


def train(loader, nav, steps, states=None):
    """Batches of `steps` steps, observed as they come; the loader's and the navigator's state after each."""
    found = []
    while len(found) < steps:
        for batch in loader:
            found.append(batch)
            nav.observe(records(sorted(set(batch))))
            if states is not None:
                states.append((pickle.dumps(loader.state_dict()), nav.state_dict()))
            if len(found) == steps:
                break
    return found


KINDS = pytest.mark.parametrize("kind", [CurriculumSampler, CurriculumBatchSampler])


@KINDS
def test_the_loaders_state_goes_on_everywhere(kind):
    nav, states = navigator(), []
    expected = train(loader_of(kind, 0, nav), nav, 15, states)
    for place, (state, _) in enumerate(states, start=1):
        resumed = navigator()
        loader = loader_of(kind, 0, resumed)
        loader.load_state_dict(pickle.loads(state))
        assert train(loader, resumed, 15 - place) == expected[place:], place
        if place < 15:
            assert resumed.state_dict() == nav.state_dict()


def test_the_loaders_state_amid_a_group_goes_on_with_the_rest_of_the_group():
    def made():
        sampler = CurriculumSampler(navigator(), IDS, repeats=2)
        return sampler, StatefulDataLoader(IDS, batch_size=3, sampler=sampler, collate_fn=list)

    def epoch(sampler, loader, states):
        found = []
        for batch in loader:
            found.append(batch)
            states.append((pickle.dumps(loader.state_dict()), sampler.state_dict()))  # before it is observed ...
            sampler.observe(records(batch))
            states.append((pickle.dumps(loader.state_dict()), sampler.state_dict()))  # ... and after
        return found

    states = []
    expected = epoch(*made(), states)
    assert len(expected) == 8
    for place, (state, _) in enumerate(states):
        sampler, loader = made()
        loader.load_state_dict(pickle.loads(state))
        later = []
        assert epoch(sampler, loader, later) == expected[place // 2 + 1 :], place
        for (_, now), (_, then) in zip(later[1::2], states[place // 2 * 2 + 3 :: 2], strict=True):
            assert [now[name] for name in Place.FIELDS] == [then[name] for name in Place.FIELDS]


@KINDS
@pytest.mark.parametrize("place", [3, 6, 8])  # amid an epoch, at its end, in the second
def test_with_workers_the_navigators_state_is_kept_beside_the_loaders(kind, place):
    nav, states = navigator(), []
    expected = train(loader_of(kind, 2, nav, alone=True), nav, 9, states)
    assert nav.epoch == 1
    state, held = states[place - 1]
    resumed = navigator()
    resumed.load_state_dict(held)
    loader = loader_of(kind, 2, resumed, alone=True)
    loader.load_state_dict(pickle.loads(state))
    assert train(loader, resumed, 9 - place) == expected[place:]
    assert resumed.state_dict() == nav.state_dict()
