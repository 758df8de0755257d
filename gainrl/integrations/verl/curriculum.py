"""The curriculum of a verl run: which row a position of verl's loader means, and what came of it.  Knows no verl.

verl's loader counts 0…n−1 over a dataset of length n, epoch after epoch; position 0 begins an epoch, which is when the
navigator draws.  Rollouts come back by one of two ways:

    V0, separation    the dataset's on_batch_end, once for each batch, after the batch was trained (and saved)
    V1                the replay buffer, as batches are sampled or groups evicted; where the actor measures angles,
                      rollouts are held until the measurements are there: at the step's end, the next sample or save

A rollout of an epoch that is over (asynchronous trainers, refilled batches) has its say in the next move and in what is
remembered of its prompt; the record of the epoch under way counts it as `late`, apart from its own.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gainrl.errors import UserError
from gainrl.integrations.epoch_log import EpochLog
from gainrl.integrations.navigation import build_navigator, require_navigator
from gainrl.integrations.verl.journal import LateBatches, resumes_elsewhere
from gainrl.integrations.verl.rewards import Grader
from gainrl.integrations.verl.settings import SECTION, Settings, called
from gainrl.table import ScoreTable

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))  # as verl's own modules do

FORMAT = "gainrl-verl"
VERSION = 2
_COUNTS = ("handed", "seen", "fetched", "settled", "logged", "in_flight")
"""Integers of the state."""


@dataclass(frozen=True)
class Rollout:
    """One rollout as verl reports it."""

    id: str
    """Content id of its prompt."""
    epoch: int
    """The epoch that its prompt was drawn for."""
    group: str
    """verl's `uid` of this generation of the prompt, which the rollouts of a group share."""
    session: str
    """What tells it from the others of its group; `{group}_{session}` finds its angle."""
    correct: float | None
    """Credit in [0, 1]; None where unscored."""
    reward: float | None
    tokens: int
    """Generated tokens."""
    angle: float | None = None
    asked: bool = True
    """Whether its prompt was handed out for the actor to measure; one that was under way when the run resumed with
    another `angle` was not."""


class Curriculum:
    """Draws, observes, and keeps the state of one training dataset.

    ids: content ids of all rows of the dataset, in order, before any is filtered out.  rows: for each row that verl
    kept, in verl's order, its position among `ids`.  table: the dataset's score table.  Raises UserError where these do
    not belong together or a setting does not fit them.
    """

    def __init__(
        self,
        settings: Settings,
        ids: Sequence[str],
        rows: Sequence[int],
        table: ScoreTable,
        train_batch_size: int,
        source: str,
    ) -> None:
        table.require_dataset(ids, source)
        scored = set(table.usable.tolist())
        self._place = {ids[row]: place for place, row in enumerate(rows) if row in scored}
        usable = [row for row in rows if row in scored]
        if len(usable) < len(ids):
            logger.warning("%d prompts that verl or the scoring pass left out are never drawn", len(ids) - len(usable))
        self.settings = settings
        self.n = settings.epoch_size(train_batch_size, len(usable)) if usable else 0
        self.batch = train_batch_size
        self.navigator = build_navigator(settings.navigation, table, usable, self.n, called=called)
        self._score = dict(zip(ids, table.column("score").tolist(), strict=True))
        self._grader = Grader(settings)
        self.angle_source, why = settings.angle_source()
        logger.info("curriculum: angle concentration from the %s (%s)", self.angle_source, why)

        self.collect: Callable[[], Mapping[str, float]] | None = None
        """Returns the angles measured since it was last called, by `{group}_{session}`; set by the replay buffer."""
        self._epoch_log = EpochLog(settings.run.directory)
        self._late_batches = LateBatches(settings.run)
        self._ids: list[str] = []
        self._held: dict[str, Rollout] = {}
        self._handed, self._seen = self.n, 0  # no epoch is under way: position 0 draws
        self._fetched = self._settled = self._logged = self._in_flight = 0
        self._begun = False  # whether this process has drawn or loaded anything
        self._drawn_here = self._reported_here = False
        self._measured_here = self._missed_here = False
        self._unfinished_record = False  # of the epoch under way, in the log until the whole one takes its place
        self.saved: dict[str, Any] | None = None
        """The state that was asked for last, until a batch follows it."""
        self._seconds, self._started = 0.0, time.monotonic()

    # -- prompts ---------------------------------------------------------------------------------------------

    def place(self, index: int) -> int:
        """Where the prompt at this position of the epoch lies in verl's dataset.  Position 0 begins an epoch."""
        if not 0 <= index < self.n:
            raise IndexError(f"position {index} of an epoch of {self.n} prompts")
        if index == 0 and self._handed >= self.n:
            self._begin_epoch()
        if not self._ids:
            self._ids = self.navigator.ids
        if index == self._handed:
            self._handed += 1
            self._fetched += 1
        return self._place[self._ids[index]]

    def mark(self, index: int) -> dict[str, Any]:
        """What travels with the prompt at this position: its id, its epoch, whether the actor is to measure it."""
        return {"id": self._ids[index], "epoch": self.navigator.epoch, "angle": self.angle_source == "actor"}

    def _begin_epoch(self) -> None:
        if not self._begun:
            self._begun = True
            self._set_records_aside()
        self.settle()
        if self._drawn_here and not self._reported_here:
            raise UserError(
                f"all {self.n} prompts of an epoch were handed out and nothing was observed: this trainer of verl "
                "neither calls on_batch_end of its dataset nor samples from gainrl's replay buffer "
                "(trainer.v1.sampler.custom_sampler), so that a curriculum cannot follow it; or it is one batch ahead "
                f"(one-step off-policy), and {SECTION}.prompts_per_epoch must be two batches or more"
            )
        if self.navigator.totals.rollouts:
            self._log_epoch()
        elif self._fetched:
            logger.warning("epoch %d: nothing was observed, so the same prompts are drawn again", self.navigator.epoch)
        self._in_flight = self._fetched - self._settled
        self._ids = self.navigator.draw()
        self._handed = self._seen = 0
        self._drawn_here = True
        self._seconds, self._started = 0.0, time.monotonic()
        if self._in_flight:
            logger.info(
                "epoch %d drawn with %d prompts of earlier epochs not yet observed (at most %d)",
                self.navigator.epoch,
                self._in_flight,
                self.most_in_flight,
            )

    @property
    def most_in_flight(self) -> int:
        """Prompts that can be out when an epoch is drawn (`Settings.most_in_flight`)."""
        return self.settings.most_in_flight(self.batch)

    # -- rollouts --------------------------------------------------------------------------------------------

    def credits(
        self, rewards: Sequence[float | None], extras: Sequence[Mapping[str, Any]], *, whole: bool
    ) -> list[float | None]:
        """How correct rollouts are; see `gainrl.integrations.verl.rewards.Grader`."""
        return self._grader.credits(rewards, extras, whole=whole)

    def hold(self, rollouts: Iterable[Rollout], prompts: int) -> None:
        """Take rollouts of `prompts` prompts that the actor is still to measure; with the table's angles, `observe`."""
        self.settle()
        if self.angle_source == "table":
            self.observe(rollouts, prompts)
            return
        self._reported_here = True
        self._settled += prompts
        self._held = {f"{rollout.group}_{rollout.session}": rollout for rollout in rollouts}

    def settle(self) -> None:
        """Observe what is held, with the angles measured meanwhile: call it once the actor's pass is over.

        Where the first batch of this process that was to be measured has none, `angle=auto` takes the table's from then
        on, and UserError is raised for `angle=actor`.
        """
        angles = self.collect() if self.collect is not None else {}
        if not self._held:
            return
        held, self._held = self._held, {}
        asked = [key for key, rollout in held.items() if rollout.asked]
        missing = [key for key in asked if key not in angles]
        if asked and len(missing) == len(asked) and not self._measured_here:
            self._do_without_the_actor(len(asked))
        elif missing and not self._missed_here:
            self._missed_here = True
            logger.warning(
                "%d of %d rollouts have no measured angle, first %s (curriculum/unmeasured counts such)",
                len(missing),
                len(asked),
                missing[0],
            )
        self._measured_here = self._measured_here or len(missing) < len(asked)
        self._observe([replace(rollout, angle=angles.get(key)) for key, rollout in held.items()])

    def _do_without_the_actor(self, rollouts: int) -> None:
        found = (
            f"the actor's workers measured none of the first batch's {rollouts} rollouts: "
            "actor_rollout_ref.model.external_lib must be gainrl.integrations.verl.actor, or a module that imports it"
        )
        if self.settings.angle == "actor":
            raise UserError(f"{SECTION}.angle=actor, but {found}; or use {SECTION}.angle=auto or table")
        logger.warning("curriculum: angle concentration from the table from now on (%s)", found)
        self.angle_source = "table"

    def observe(self, rollouts: Iterable[Rollout], prompts: int) -> None:
        """Take rollouts of `prompts` prompts that will not be measured (any more)."""
        self._reported_here = True
        self._settled += prompts
        self._observe(list(rollouts))

    def end_batch(self, rollouts: Sequence[Rollout]) -> None:
        """Take one trained batch of the V0 trainer, which may have saved before it hands the batch over."""
        if self.angle_source == "actor":
            logger.warning(
                "curriculum: angle concentration from the table (this trainer calls on_batch_end, as V0 does)"
            )
            self.angle_source = "table"
        if self.saved is not None:
            self._late_batches.write(self.saved, [asdict(rollout) for rollout in rollouts])
            self.saved = None
        self._end_batch(rollouts)

    def _end_batch(self, rollouts: Sequence[Rollout]) -> None:
        prompts = len({rollout.group for rollout in rollouts})
        self.observe(rollouts, prompts)
        if 0 < prompts == self.n - self._seen and self._settled == prompts * (self._batches_in_all(prompts) - 1):
            logger.info(
                "epoch %d: verl's V0 trainer does not hand its last batch over: the record lacks its %d prompts",
                self.navigator.epoch,
                prompts,
            )
            self._log_epoch(unfinished=True)

    def _batches_in_all(self, prompts: int) -> float:
        """How many batches of so many prompts the run has in all, as verl counts them."""
        run = self.settings.run
        if run.total_training_steps is not None:
            return run.total_training_steps
        return math.inf if run.total_epochs is None else run.total_epochs * (self.n // prompts)

    def _observe(self, rollouts: Sequence[Rollout]) -> None:
        now = [rollout for rollout in rollouts if rollout.epoch == self.navigator.epoch]
        late = [rollout for rollout in rollouts if rollout.epoch != self.navigator.epoch]
        self.navigator.observe([self._record(rollout) for rollout in now])
        self.navigator.observe_late([self._record(rollout) for rollout in late])
        self._seen += len({rollout.group for rollout in now})
        if self._seen >= self.n or self._nothing_is_out:
            self._log_epoch()

    @property
    def _nothing_is_out(self) -> bool:
        """Whether the whole epoch was handed out and has come back: also where groups failed, of which none is seen."""
        whole = self._handed >= self.n and self._settled >= self._fetched and not self._held
        return whole and self.navigator.totals.rollouts > 0

    def _record(self, rollout: Rollout) -> dict[str, Any]:
        angle = rollout.angle
        if self.angle_source == "table":
            angle = self._score.get(rollout.id)
        unscored = rollout.correct is None
        return {
            "id": rollout.id,
            "correct": 0.0 if unscored else rollout.correct,
            "scored": not unscored,
            "angle": None if angle is None or math.isnan(angle) else angle,
            "reward": rollout.reward,
            "tokens": rollout.tokens,
        }

    # -- records ---------------------------------------------------------------------------------------------

    def _set_records_aside(self) -> None:
        if (kept := self._epoch_log.set_aside()) is not None:
            logger.warning("epoch records of an earlier run were in the way of this one: they are in %s now", kept)

    def _log_epoch(self, *, unfinished: bool = False) -> None:
        if self._logged > self.navigator.epoch:
            return
        if self._unfinished_record:
            self._epoch_log.keep(self.navigator.epoch)
        record = {**self._described(), "seconds": self._elapsed()}
        self._epoch_log.append(record)
        self._unfinished_record = unfinished
        if not unfinished:
            self._logged = self.navigator.epoch + 1
            logger.info("curriculum epoch finished: %s", record)

    def _described(self) -> dict[str, Any]:
        described, late = self.navigator.metrics(), self.navigator.late
        own = self.navigator.totals - late
        return {
            **described,
            "unscored": own.rollouts - own.scored,
            "unmeasured": own.rollouts - own.angles,
            "angle_source": self.angle_source,
            "late": late.rollouts,
            "late_accuracy": late.accuracy,
            "in_flight": self._in_flight,
        }

    def _elapsed(self) -> float:
        """Wall-clock seconds of the epoch under way, over all the processes that worked on it."""
        return self._seconds + time.monotonic() - self._started

    def metrics(self) -> dict[str, float]:
        """The numbers of the epoch under way so far, as `curriculum/...`, for verl's loggers."""
        described = self._described()
        described["angle_from_actor"] = float(self.angle_source == "actor")
        return {
            f"curriculum/{name}": float(value)
            for name, value in described.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    # -- state -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON types; what is held is observed first."""
        self.settle()
        self.saved = {
            "format": FORMAT,
            "version": VERSION,
            **{name: getattr(self, f"_{name}") for name in _COUNTS},
            "seconds": self._elapsed(),
            "navigator": self.navigator.state_dict(),
        }
        return self.saved

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, and from what was handed over after it was saved.

        Raises UserError, changing nothing, for another format or version, unknown or missing fields, and whatever
        the navigator refuses: another dataset, ranking or setting.
        """
        known = _current(state)
        require_navigator(known["navigator"], self.navigator.kind, called)
        self.navigator.load_state_dict(known["navigator"])
        for name in _COUNTS:
            setattr(self, f"_{name}", known[name])
        self._seconds, self._started = float(known["seconds"]), time.monotonic()
        self._begun, self._ids, self._held, self.saved = True, [], {}, None
        self._unfinished_record = False
        if resumes_elsewhere(self.settings.run):
            self._set_records_aside()  # of other epochs than the checkpoint's
        else:
            self._epoch_log.keep(self._logged)
        rollouts = self._late_batches.read(state)
        if rollouts is not None:
            self._end_batch([Rollout(**rollout) for rollout in rollouts])
        if self._fetched > self._settled and not self.settings.asynchronous:
            logger.warning(
                "%d prompts that were trained before the checkpoint was saved have not been observed: verl's V0 "
                "trainer hands a batch over after it saves, and its last one never",
                self._fetched - self._settled,
            )
            self._settled = self._fetched


def _current(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state of this version or an older one in this version's fields; UserError for anything else."""
    if not isinstance(state, Mapping) or state.get("format") != FORMAT or state.get("version") not in (1, VERSION):
        raise UserError(
            f"this is no curriculum state of verl that this gainrl reads (format {FORMAT!r}, versions 1 to {VERSION})"
        )
    known = dict(state)
    if known["version"] == 1:  # counted batches and all that was ever late; no clock, nor what was out at the draw
        known = {name: value for name, value in known.items() if name not in ("late", "batches")}
        known.update(version=VERSION, in_flight=0, seconds=0.0)
    wanted = {"format", "version", "navigator", "seconds", *_COUNTS}
    if set(known) != wanted:
        raise UserError(
            f"curriculum state: missing fields {sorted(wanted - set(known))}, unknown {sorted(set(known) - wanted)}"
        )
    return known
