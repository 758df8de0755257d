"""The curriculum of a verl run without verl: draws, rollouts that come back in any order, accuracy, lines, states."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gainrl.errors import UserError
from gainrl.integrations.shared import DrawLog
from gainrl.integrations.verl.curriculum import Curriculum, Rollouts
from gainrl.integrations.verl.settings import HOOK, Run, Settings
from tests.learners import learnt, table_of

PROMPTS = [f"question {row}" for row in range(30)]
KEPT = np.array([row for row in range(30) if row % 5], np.int64)  # verl left the others out


@pytest.fixture
def made(tmp_path):
    def make(batch=4, run=None, **settings):
        given = {"navigator": "learner", "scores": "unused", "run": Run(str(tmp_path), **(run or {})), **settings}
        return Curriculum(Settings(**given), table_of(PROMPTS), KEPT, None, batch)

    return make


def hand_out(curriculum, count):
    return [curriculum.next_prompt()[1] for _ in range(count)]


def rollouts(curriculum, marks, rewards=(0.0, 1.0), names=None):
    """The same rewards for every prompt."""
    keys = [f"{names or mark['draw']}-{mark['group']}_{s}" for mark in marks for s in range(len(rewards))]
    reward = np.array([reward for _ in marks for reward in rewards])
    accuracy = curriculum.accuracy(reward, [{}] * len(reward), whole=True)
    every = [mark for mark in marks for _ in rewards]
    return Rollouts(keys, every, accuracy, reward, np.full(len(reward), 3))


def test_groups_come_back_late_and_in_any_order_and_lines_stay_in_order(made, tmp_path):
    curriculum, log = made(), DrawLog(tmp_path)
    first, second = hand_out(curriculum, 4), hand_out(curriculum, 4)
    curriculum.take(rollouts(curriculum, second), step=1)
    curriculum.take(rollouts(curriculum, first[:1]), step=1)
    assert log.read() == []
    curriculum.take(rollouts(curriculum, first[1:]), step=2)
    records = log.read()
    assert [(record["draw"], record["step"]) for record in records] == [(0, 2), (1, 2)]
    assert [record["mixed"] for record in records] == [1.0, 1.0]
    assert learnt(curriculum.navigator).sum() == 8 * 1.5
    assert curriculum.metrics()["curriculum/accuracy"] == 0.5


def test_a_draw_whose_groups_never_come_back_is_logged_eight_draws_later(made, tmp_path):
    curriculum = made()
    lost, *others = hand_out(curriculum, 4)
    curriculum.take(rollouts(curriculum, others), step=1)
    for number in range(2, 10):
        curriculum.take(rollouts(curriculum, hand_out(curriculum, 4)), step=number)
    records = DrawLog(tmp_path).read()
    assert [record["draw"] for record in records] == list(range(9))
    assert records[0]["outcome"][lost["group"]] == [0, 0.0, False]
    before = learnt(curriculum.navigator).sum()
    curriculum.take(rollouts(curriculum, [lost]), step=10)  # the navigator learns from it all the same
    assert learnt(curriculum.navigator).sum() == before + 1.5


@pytest.mark.parametrize("step", range(0, 13, 3))
def test_a_run_that_resumes_at_any_prompt_draws_what_the_whole_run_draws(made, tmp_path, step):
    def play(curriculum, marks, count):
        for _ in range(count):
            marks.append(curriculum.next_prompt()[1])
            if len(marks) >= 3:  # three prompts are always under way
                curriculum.take(rollouts(curriculum, [marks[-3]], (float(marks[-3]["row"] % 2), 1.0)), step=1)
        return marks

    whole = [mark["row"] for mark in play(made(), [], 24)]
    lines = DrawLog(tmp_path).read()
    first = made()
    marks = play(first, [], step)
    state = json.loads(json.dumps(first.state_dict()))
    play(first, list(marks), 6)  # what a kill takes back
    again = made()
    again.load_state_dict(state)
    assert [mark["row"] for mark in play(again, marks, 24 - step)] == whole
    ours = [{**record, "seconds": 0} for record in DrawLog(tmp_path).read()]
    assert ours == [{**record, "seconds": 0} for record in lines]


def test_accuracy_comes_from_acc_from_the_named_value_or_from_the_reward(made):
    extras = [{"acc": True, "score": 3.0}, {"acc": False}, {"score": None}]
    reward = np.array([0.5, -0.5, np.nan])
    assert made().accuracy(reward, extras, whole=True).tolist()[:2] == [1.0, 0.0]
    assert np.isnan(made().accuracy(reward, extras, whole=True)[2])
    named = made(accuracy="score", accuracy_range=(0.0, 4.0)).accuracy(reward, extras, whole=True)
    assert named[0] == 0.75
    assert np.isnan(named[1:]).all()
    ranged = made(accuracy="reward", accuracy_range=(-1.0, 1.0)).accuracy(reward, extras, whole=True)
    assert ranged[:2].tolist() == [0.75, 0.25]
    with pytest.raises(UserError, match=r"accuracy='right', but no rollout .*: choose of acc, reward, score"):
        made(accuracy="right").accuracy(reward, extras, whole=True)
    assert np.isnan(made(accuracy="right").accuracy(reward, extras, whole=False)).all()
    with pytest.raises(UserError, match=r"-0\.5 lies outside accuracy_range"):
        made(accuracy="reward").accuracy(reward, extras, whole=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 25}, "24 prompts can be drawn: lower data.train_batch_size=25"),
        ({"run": {"sampler": "Mine"}}, "leave this key to the group curriculum=gainrl"),
        ({"run": {"reward_model": True}}, "enable_resource_pool=true"),
        ({"navigator": "angle-learner", "run": {"strategy": "fsdp"}}, f"external_lib={HOOK}"),
        ({"navigator": "angle-learner", "run": {"strategy": "megatron"}}, "only fsdp and fsdp2 are measured"),
        ({"navigator": "angle-learner", "run": {"strategy": "fsdp", "sequence_parallel": 2}}, "splits a sequence"),
        ({"navigator": "angle-learner", "run": {"strategy": "fsdp", "bypass_old_log_probs": True}}, "bypass_mode"),
    ],
)
def test_settings_that_do_not_fit_are_refused(made, settings, message):
    with pytest.raises(UserError, match=message):
        made(**settings)


def test_a_state_that_does_not_fit_is_refused(made):
    curriculum = made()
    hand_out(curriculum, 2)
    with pytest.raises(UserError, match="no state of this curriculum"):
        curriculum.load_state_dict({**curriculum.state_dict(), "more": 1})
    with pytest.raises(UserError, match=r"made with data\.train_batch_size=4"):
        made(batch=5).load_state_dict(curriculum.state_dict())
