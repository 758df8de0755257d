"""verl's replay buffers, which also tell the curriculum what was sampled and what was evicted.

Named in `trainer.v1.sampler.custom_sampler`.  verl keeps from custom samplers what its own get (DAPO's group filter,
refilling of failed groups); the packaged Hydra group hands it over in `sampler_kwargs`, so that these work as ever.

Groups that verl evicts (without signal, stale, failed) were generated and graded too: they are observed with whatever
trajectories they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gainrl.integrations.verl.curriculum import MARK, Curriculum, Rollouts
from gainrl.integrations.verl.dataset import current_curriculum
from gainrl.integrations.verl.doors import REPLAY_BUFFER, door, listed, require

TRAIN = "train"

_MODULE = "verl.trainer.ppo.v1.replay_buffer"
_Sync: Any = door(_MODULE, "ReplayBuffer")
_Async: Any = door(_MODULE, "ReplayBufferAsync")


def replay_buffer(**kwargs: Any) -> Any:
    """The replay buffer for `trainer_mode`; takes what verl gives custom samplers."""
    require(REPLAY_BUFFER)
    given = dict(kwargs["sampler_kwargs"] or {})
    filters = given.get("filter_groups") or {}
    metric = None
    if filters.get("enable", False):
        metric = filters.get("metric", None)
        if not metric:
            raise ValueError("algorithm.filter_groups.metric must be set when group filtering is enabled")  # verl's own
    refill = bool(given.get("sync_refill_failed_groups", False))
    options = {**kwargs, "filter_groups_metric": metric, "sync_refill_failed_groups": refill}
    if kwargs["trainer_mode"] != "sync":
        return CurriculumReplayBufferAsync(**options)
    batch = given["train_batch_size"]
    return CurriculumReplayBuffer(
        **options,
        train_batch_size=batch,
        gen_batch_size=1 if metric is not None or refill else (given.get("gen_batch_size") or batch),
        max_inflight_gen_batches=1 if metric is None else filters.get("max_inflight_gen_batches", 1),
    )


class _Observing:
    """Goes in front of one of verl's replay buffers."""

    partitions: Mapping[str, Mapping[str, Any]]
    _step = 0

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """verl's `sample`; rollouts of the training partition are observed, and the metrics say what came of them."""
        if partition_id == TRAIN:
            current_curriculum().settle()  # the step before, whose angles are there by now
            self._step = global_steps
        batch, metrics = super().sample(  # type: ignore[misc]
            global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
        )
        if partition_id == TRAIN:
            curriculum = current_curriculum()
            curriculum.take(read_rollouts(batch.keys, curriculum, whole=True), global_steps)
            metrics = {**metrics, **curriculum.metrics()}
        return batch, metrics

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        if partition_id == TRAIN and uids:
            curriculum = current_curriculum()
            if keys := [key for key in self.partitions[partition_id] if key.split("_")[0] in uids]:
                curriculum.take(read_rollouts(keys, curriculum, whole=False), self._step)
        super()._clear_groups(partition_id, uids)  # type: ignore[misc]


class CurriculumReplayBuffer(_Observing, _Sync):  # type: ignore[misc]
    """verl's ReplayBuffer, observed."""


class CurriculumReplayBufferAsync(_Observing, _Async):  # type: ignore[misc]
    """verl's ReplayBufferAsync, observed."""


def read_rollouts(keys: Sequence[str], curriculum: Curriculum, *, whole: bool) -> Rollouts:
    """The rollouts under these trajectory keys `{uid}_{session}_{index}`; a session's last output has its reward.

    whole: whether they are a batch, and not some groups that verl puts away.
    """
    import transfer_queue as tq

    data = tq.kv_batch_get(
        keys=list(keys), partition_id=TRAIN, select_fields=["extra_info", "extra_fields", "rm_scores", "response_mask"]
    )
    # Rows have lengths of their own (jagged); one reduction each, and one copy to a list.
    rewards = [float(row.sum()) for row in data["rm_scores"].unbind()]
    tokens = [int(row.sum()) for row in data["response_mask"].unbind()]
    marks = [info.get(MARK) for info in listed(data["extra_info"])]
    fields = listed(data["extra_fields"])
    last: dict[str, tuple[int, int]] = {}
    generated: dict[str, int] = {}
    for at, key in enumerate(keys):
        session, _, index = key.rpartition("_")
        if marks[at] is None:  # restored from a run without the curriculum
            continue
        generated[session] = generated.get(session, 0) + tokens[at]
        if session not in last or int(index) > last[session][0]:
            last[session] = int(index), at
    ends = [at for _, at in last.values()]
    extras = [fields[at].get("reward_extra_info", {}) if isinstance(fields[at], dict) else {} for at in ends]
    reward = np.array([rewards[at] for at in ends], np.float64)
    return Rollouts(
        keys=list(last),
        marks=[marks[at] for at in ends],
        accuracy=curriculum.accuracy(reward, extras, whole=whole),
        reward=reward,
        tokens=np.array(list(generated.values()), np.int64),
    )
