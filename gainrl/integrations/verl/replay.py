"""verl's replay buffers, which also tell the curriculum what was sampled and what was evicted (V1 trainer).

Named in `trainer.v1.sampler.custom_sampler`.  verl keeps from custom samplers what its own get (DAPO's group filter,
refilling of failed groups); the packaged Hydra group hands it over in `sampler_kwargs`, so that these work as ever.

Groups that verl evicts (without signal, stale, failed) were generated and graded too: they count in the epoch's
accuracy with whatever trajectories they have, without an angle unless it is the table's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from gainrl.integrations.verl.curriculum import Curriculum, Rollout
from gainrl.integrations.verl.dataset import MARK, current
from gainrl.integrations.verl.extension import REPLAY_BUFFER, extension_point, listed, require

ANGLES = "gainrl"
"""Partition of the TransferQueue in which the actor's workers leave their measurements, as tags."""
TRAIN = "train"

_MODULE = "verl.trainer.ppo.v1.replay_buffer"
_Sync: Any = extension_point(_MODULE, "ReplayBuffer")
_Async: Any = extension_point(_MODULE, "ReplayBufferAsync")


def replay_buffer(**kwargs: Any) -> Any:
    """The replay buffer for `trainer_mode`; takes what verl gives custom samplers."""
    require(REPLAY_BUFFER)
    given = dict(kwargs["sampler_kwargs"] or {})
    asynchronous = kwargs["trainer_mode"] != "sync"
    filters = given.get("filter_groups") or {}
    metric = None
    if filters.get("enable", False):
        metric = filters.get("metric", None)
        if not metric:
            raise ValueError("algorithm.filter_groups.metric must be set when group filtering is enabled")  # verl's own
    refill = bool(given.get("sync_refill_failed_groups", False))
    options: dict[str, Any] = {
        "filter_groups_metric": None if metric is None else str(metric),
        "sync_refill_failed_groups": refill,
    }
    made: Any
    if asynchronous:
        made = CurriculumReplayBufferAsync(**kwargs, **options)
    else:
        batch = given["train_batch_size"]
        options.update(
            train_batch_size=batch,
            gen_batch_size=1 if metric is not None or refill else (given.get("gen_batch_size") or batch),
            max_inflight_gen_batches=1 if metric is None else filters.get("max_inflight_gen_batches", 1),
        )
        made = CurriculumReplayBuffer(**kwargs, **options)
    settle_after_each_step(getattr(kwargs.get("refill_fn"), "__self__", None), made)
    return made


def settle_after_each_step(trainer: Any, buffer: _Observing) -> None:
    """Have the measurements of a step taken at its end: the last step of a run is followed by nothing that asks.

    trainer: verl's, whose `on_step_end` is called once in a step, after the actor's passes and the save.
    """
    if not callable(on_step_end := getattr(trainer, "on_step_end", None)):
        return

    @functools.wraps(on_step_end)
    def settling() -> Any:
        buffer.curriculum.settle()
        return on_step_end()

    trainer.on_step_end = settling


class _Observing:
    """Goes in front of one of verl's replay buffers."""

    partitions: Mapping[str, Mapping[str, Any]]
    _bound: Curriculum | None = None

    @property
    def curriculum(self) -> Curriculum:
        """That of the trainer's dataset, which verl makes after the replay buffer."""
        if self._bound is None:
            bound = current().curriculum
            assert bound is not None
            bound.collect = collect_angles
            self._bound = bound
        return self._bound

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """verl's `sample`; rollouts of the training partition are observed, and the metrics say what came of them."""
        if partition_id == TRAIN:
            self.curriculum.settle()  # of the step before, whose measurements are there
        batch, metrics = super().sample(  # type: ignore[misc]
            global_steps=global_steps, partition_id=partition_id, batch_size=batch_size
        )
        if partition_id == TRAIN:
            self.curriculum.hold(read_rollouts(batch.keys, self.curriculum, whole=True), batch_size)
            metrics = {**metrics, **self.curriculum.metrics()}
        return batch, metrics

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        if partition_id == TRAIN and uids:
            keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in uids]
            self.curriculum.observe(read_rollouts(keys, self.curriculum, whole=False), len(uids))
        super()._clear_groups(partition_id, uids)  # type: ignore[misc]


class CurriculumReplayBuffer(_Observing, _Sync):  # type: ignore[misc]
    """verl's ReplayBuffer, observed."""


class CurriculumReplayBufferAsync(_Observing, _Async):  # type: ignore[misc]
    """verl's ReplayBufferAsync, observed."""


def read_rollouts(keys: Sequence[str], curriculum: Curriculum, *, whole: bool) -> list[Rollout]:
    """The rollouts under these trajectory keys `{uid}_{session}_{index}`; a session's last output has its reward.

    whole: whether they are a batch, and not some groups that verl puts away.
    """
    if not keys:
        return []
    import transfer_queue as tq

    data = tq.kv_batch_get(
        keys=list(keys), partition_id=TRAIN, select_fields=["extra_info", "extra_fields", "rm_scores", "response_mask"]
    )
    # Rows have lengths of their own (jagged); one reduction each, and one copy to a list.
    rewards = [float(row.sum()) for row in data["rm_scores"].unbind()]
    tokens = [int(row.sum()) for row in data["response_mask"].unbind()]
    marks = [info[MARK] for info in listed(data["extra_info"])]
    fields = listed(data["extra_fields"])
    last: dict[str, tuple[int, int]] = {}
    generated: dict[str, int] = {}
    for place, key in enumerate(keys):
        session, _, index = key.rpartition("_")
        generated[session] = generated.get(session, 0) + tokens[place]
        if session not in last or int(index) > last[session][0]:
            last[session] = int(index), place
    ends = [place for _, place in last.values()]
    extras = [fields[place].get("reward_extra_info", {}) if isinstance(fields[place], dict) else {} for place in ends]
    credits = curriculum.credits([rewards[place] for place in ends], extras, whole=whole)
    rollouts = []
    for name, place, correct in zip(last, ends, credits, strict=True):
        group, _, session = name.rpartition("_")
        rollouts.append(
            Rollout(
                id=marks[place]["id"],
                epoch=marks[place]["epoch"],
                group=group,
                session=session,
                correct=correct,
                reward=rewards[place],
                tokens=generated[name],
                asked=bool(marks[place].get("angle")),
            )
        )
    return rollouts


def collect_angles() -> dict[str, float]:
    """The measurements that the actor's workers have left, by `{uid}_{session}`; they are taken away."""
    import transfer_queue as tq

    tags = (tq.kv_list(partition_id=ANGLES) or {}).get(ANGLES, {})
    if tags:
        tq.kv_clear(keys=list(tags), partition_id=ANGLES)
    return {key: float(tag["angle"]) for key, tag in tags.items()}
