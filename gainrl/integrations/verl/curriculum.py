"""The curriculum of a verl run: which row a position of verl's loader means, and what came of it.  Knows no verl.

verl's loader counts 0…n−1 over a dataset of length n, epoch after epoch; position 0 begins an epoch, which is when the
navigator draws.  Rollouts come back by one of two ways:

    V0, separation    the dataset's on_batch_end, once for each batch, after the batch was trained (and saved)
    V1                the replay buffer, as batches are sampled or groups evicted; where the actor measures angles,
                      rollouts are held until the measurements are there: at the next draw, sample or save

A rollout of an epoch that is over (asynchronous trainers) counts in the epoch under way, and as `late`.  How many
prompts were still out when an epoch was drawn is logged; the warm-up and one batch bound it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gainrl.curriculum import Ranking, Totals
from gainrl.errors import UserError
from gainrl.integrations.verl.journal import EpochLog, LateBatches
from gainrl.integrations.verl.navigation import build_navigator
from gainrl.integrations.verl.rewards import credit
from gainrl.integrations.verl.settings import SECTION, Settings
from gainrl.table import ScoreTable

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))  # as verl's own modules do

FORMAT = "gainrl-verl"
VERSION = 1
_COUNTS = ("handed", "seen", "fetched", "settled", "batches", "late", "logged")


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
        status = table.columns["status"].to_pylist()
        usable = [place for place, row in enumerate(rows) if status[row] in ("ok", "undefined")]
        if not usable:
            raise UserError("the score table has no usable prompt: every row is skipped, failed or filtered out")
        if len(usable) < len(ids):
            logger.warning("%d prompts that verl or the scoring pass left out are never drawn", len(ids) - len(usable))
        names = [ids[rows[place]] for place in usable]
        scores = table.scores[[rows[place] for place in usable]]
        self._place = dict(zip(names, usable, strict=True))
        self._score = dict(zip(names, scores.tolist(), strict=True))
        self.settings = settings
        self.n = settings.epoch_size(train_batch_size, len(usable))
        self.batch = train_batch_size
        ranking = Ranking(names, scores, table.metadata.fingerprint)
        tokens = table.column("question_tokens")[[rows[place] for place in usable]].tolist()
        self.navigator = build_navigator(settings, ranking, self.n, dict(zip(names, tokens, strict=True)))
        self.angle_source, why = settings.angle_source()
        logger.info("curriculum: angle concentration from the %s (%s)", self.angle_source, why)

        self.collect: Callable[[], Mapping[str, float]] | None = None
        """Returns the angles measured since it was last called, by `{group}_{session}`; set by the replay buffer."""
        self._epoch_log = EpochLog(settings.run.directory)
        self._late_batches = LateBatches(settings.run.directory)
        self._ids: list[str] = []
        self._held: dict[str, Rollout] = {}
        self._handed, self._seen = self.n, 0  # no epoch is under way: position 0 draws
        self._fetched = self._settled = self._batches = self._late = self._logged = 0
        self._in_flight = 0
        self._begun = False  # whether this process has drawn or loaded anything
        self._drawn_here = 0
        self._observed_here = False
        self._saved: dict[str, Any] | None = None
        self._started = time.monotonic()

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
            self._epoch_log.keep(0)
            self._begun = True
        self.settle()
        totals = self.navigator.totals
        if self._drawn_here and not self._observed_here:
            raise UserError(
                f"all {self.n} prompts of an epoch were handed out and nothing was observed: this trainer of verl "
                "neither calls on_batch_end of its dataset nor samples from gainrl's replay buffer "
                "(trainer.v1.sampler.custom_sampler), so that a curriculum cannot follow it; or it is one batch ahead "
                f"(one-step off-policy), and {SECTION}.prompts_per_epoch must be two batches or more"
            )
        if totals.rollouts:
            self._log_epoch()
        elif self._fetched:
            logger.warning("epoch %d: nothing was observed, so the same prompts are drawn again", self.navigator.epoch)
        self._in_flight = self._fetched - self._settled
        self._ids = self.navigator.draw()
        self._handed = self._seen = 0
        self._drawn_here += 1
        self._started = time.monotonic()
        if self._in_flight:
            logger.info(
                "epoch %d drawn with %d prompts of earlier epochs not yet observed (warm-up and batch: %d)",
                self.navigator.epoch,
                self._in_flight,
                self.most_in_flight,
            )

    @property
    def most_in_flight(self) -> int:
        """Prompts that can be out when an epoch is drawn: the warm-up and the batch under way."""
        ahead = self.settings.run.warmup_batches if self.settings.asynchronous else 0
        return math.floor(ahead * self.batch) + self.batch

    # -- rollouts --------------------------------------------------------------------------------------------

    def credit(self, reward: float | None, extra: Mapping[str, Any]) -> float | None:
        """How correct a rollout is; see `gainrl.integrations.verl.rewards.credit`."""
        return credit(self.settings, reward, extra)

    def hold(self, rollouts: Iterable[Rollout], prompts: int) -> None:
        """Take rollouts of `prompts` prompts that the actor is still to measure; with the table's angles, `observe`."""
        if self.angle_source == "table":
            self.observe(rollouts, prompts)
            return
        self.settle()
        self._settled += prompts
        self._held = {f"{rollout.group}_{rollout.session}": rollout for rollout in rollouts}

    def settle(self) -> None:
        """Observe what is held, with the angles measured meanwhile."""
        angles = self.collect() if self.collect is not None else {}
        if not self._held:
            return
        held, self._held = self._held, {}
        missing = [key for key in held if key not in angles]
        if missing:
            logger.warning("%d of %d rollouts have no measured angle, first %s", len(missing), len(held), missing[0])
        rollouts = [Rollout(**{**asdict(rollout), "angle": angles.get(key)}) for key, rollout in held.items()]
        self._observe(rollouts)

    def observe(self, rollouts: Iterable[Rollout], prompts: int) -> None:
        """Take rollouts of `prompts` prompts that will not be measured (any more)."""
        self._settled += prompts
        self._observe(list(rollouts))

    def end_batch(self, rollouts: Sequence[Rollout]) -> None:
        """Take one trained batch of the V0 trainer, which may have saved before it hands the batch over."""
        if self.angle_source == "actor":
            logger.warning(
                "curriculum: angle concentration from the table (this trainer calls on_batch_end, as V0 does)"
            )
            self.angle_source = "table"
        if self._saved is not None:
            self._late_batches.write(self._saved, [asdict(rollout) for rollout in rollouts])
            self._saved = None
        self._end_batch(rollouts)

    def _end_batch(self, rollouts: Sequence[Rollout]) -> None:
        self._batches += 1
        self.observe(rollouts, len({rollout.group for rollout in rollouts}))

    def _observe(self, rollouts: Sequence[Rollout]) -> None:
        now = [rollout for rollout in rollouts if rollout.epoch == self.navigator.epoch]
        late = [rollout for rollout in rollouts if rollout.epoch != self.navigator.epoch]
        self.navigator.observe([self._record(rollout) for rollout in now])
        self._observed_here = self._observed_here or bool(rollouts)
        if late:
            self._late += len(late)
            try:
                self.navigator.observe_totals(Totals.from_records([self._record(rollout) for rollout in late]))
            except UserError:  # a navigator that remembers prompts has no use for those of another epoch
                logger.info("%d late rollouts are counted but not remembered", len(late))
        self._seen += len({rollout.group for rollout in now})
        if self._seen >= self.n:
            self._log_epoch()

    def _record(self, rollout: Rollout) -> dict[str, Any]:
        angle = rollout.angle
        if self.angle_source == "table":
            angle = self._score[rollout.id]
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

    def _log_epoch(self) -> None:
        if self._logged > self.navigator.epoch:
            return
        record = {**self._described(), "seconds": time.monotonic() - self._started}
        self._epoch_log.append(record)
        self._logged = self.navigator.epoch + 1
        logger.info("curriculum epoch finished: %s", record)

    def _described(self) -> dict[str, Any]:
        return {
            **self.navigator.metrics(),
            "angle_source": self.angle_source,
            "late": self._late,
            "in_flight": self._in_flight,
        }

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
        state = {
            "format": FORMAT,
            "version": VERSION,
            **{name: getattr(self, f"_{name}") for name in _COUNTS},
            "navigator": self.navigator.state_dict(),
        }
        self._saved = state
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, and from what was handed over after it was saved.

        Raises UserError, changing nothing, for another format or version, unknown or missing fields, and whatever
        the navigator refuses: another dataset, ranking or setting.
        """
        if not isinstance(state, Mapping) or state.get("format") != FORMAT or state.get("version") != VERSION:
            raise UserError(
                f"this is no curriculum state of verl that this gainrl reads (format {FORMAT!r}, version {VERSION})"
            )
        wanted = {"format", "version", "navigator", *_COUNTS}
        if set(state) != wanted:
            raise UserError(
                f"curriculum state: missing fields {sorted(wanted - set(state))}, unknown {sorted(set(state) - wanted)}"
            )
        self.navigator.load_state_dict(state["navigator"])
        for name in _COUNTS:
            setattr(self, f"_{name}", state[name])
        self._begun, self._ids, self._held, self._saved = True, [], {}, None
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
