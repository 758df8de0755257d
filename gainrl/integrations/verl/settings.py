"""Settings of the curriculum in verl: the section `data.gainrl`, checked before anything is built from them."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gainrl.curriculum.building import DEFAULT, NavigatorSettings
from gainrl.errors import UserError
from gainrl.integrations.credit import check_threshold, reward_range
from gainrl.integrations.navigation import TYPICAL_EPOCH

ANGLES = ("auto", "actor", "table")
SECTION = "data.gainrl"
_TRAINER_ONLY = {
    "backfill": "verl replaces groups without variance itself: algorithm.filter_groups.enable=true",
    "rerank_every": "rank again between runs, with gainrl score and the checkpoint's weights",
    "accuracy_rewards": f"name the value that says what is correct in {SECTION}.accuracy",
    "run_dir": "records go to trainer.default_local_dir",
}
"""Settings of `gainrl train` that mean nothing here, and what takes their place."""


@dataclass(frozen=True)
class Run:
    """What the curriculum has to know of the rest of verl's configuration; the packaged group fills it in."""

    directory: str
    resume_mode: str = "disable"
    resume_from_path: str | None = None
    v1: bool = False
    trainer_mode: str = "sync"
    warmup_batches: float = 0
    strategy: str | None = None
    sequence_parallel: int = 1
    bypass_old_log_probs: bool = False
    filter_groups: bool = False
    max_inflight_gen_batches: int = 1
    refill_failed_groups: bool = False
    total_epochs: int | None = None
    total_training_steps: int | None = None
    colocated_reward_model: bool = False
    reward_model_pool: bool = False
    gen_batch_size: int | None = None
    rollout_nodes: int | None = None
    """Given by the trainers that generate apart from training: one-step off-policy, fully asynchronous."""


@dataclass(frozen=True)
class Settings:
    """Fields of `data.gainrl`; see the packaged config/curriculum/gainrl.yaml.  Raises UserError."""

    scores: str
    run: Run
    prompts_per_epoch: int | None = None
    navigator: str = DEFAULT
    order: str = "rank"
    seed: int | None = None
    alpha: float = 2.0
    beta: float = 0.5
    mean: float = 0.0
    sigma: float | None = None
    sigma_fraction: float | None = None
    at_end: str = "stay"
    prior_strength: float = 4.0
    memory: int = 64
    components: int = 32
    explore: float = 0.1
    skip_mastered: int | None = None
    mastered_rest: int = 10
    angle: str = "auto"
    accuracy: str | None = None
    accuracy_range: tuple[float, float] | None = None
    accuracy_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.angle not in ANGLES:
            raise UserError(
                f"{SECTION}.angle={self.angle!r}: choose one of {', '.join(ANGLES)} (what gainrl train calls sequence "
                "is actor here, prompt is table)"
            )
        self.navigation.check(called)
        check_threshold(self.accuracy_threshold, f"{SECTION}.accuracy_threshold")
        object.__setattr__(self, "accuracy_range", reward_range(self.accuracy_range, f"{SECTION}.accuracy_range"))

    @property
    def navigation(self) -> NavigatorSettings:
        """The navigator's part."""
        names = [item.name for item in dataclasses.fields(NavigatorSettings) if item.name != "seed"]
        seed = 0 if self.seed is None else int(self.seed)
        return NavigatorSettings(seed=seed, **{name: getattr(self, name) for name in names})

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None) -> Settings:
        """From the section as plain containers; UserError for unknown or missing fields, by name."""
        if not isinstance(section, Mapping):
            raise UserError(
                f"the configuration has no section {SECTION}: add "
                "'hydra.searchpath=[pkg://gainrl.integrations.verl.config]' and +curriculum=gainrl"
            )
        given = dict(section)
        if given.get("scores") in (None, "???"):
            raise UserError(
                f"{SECTION}.scores is not set: give the score table of data.train_files (make one with: gainrl score "
                "--output scores.parquet --dataset FILE ..., --dataset once for each file)"
            )
        run = given.pop("run", None)
        if not isinstance(run, Mapping):
            raise UserError(f"{SECTION}.run is missing: the packaged group curriculum=gainrl fills it in")
        return cls(run=_build(Run, run, f"{SECTION}.run"), **_known(cls, given, SECTION, leave=("run",)))

    def epoch_size(self, train_batch_size: int, prompts: int) -> int:
        """n: prompts of one epoch, a multiple of the training batch, for a dataset of `prompts` that can be drawn.

        Asynchronous trainers keep `warmup_batches` ahead of what has been observed, which has to fit into an epoch
        beside one training batch, or an epoch would be drawn before anything of the last one is known.  Where no number
        is given: for probe the fewest that the trainer can do with, for the others the multiple nearest to 1024.
        """
        batch = train_batch_size
        most = prompts // batch * batch
        least = batch * (1 + math.ceil(self.run.warmup_batches)) if self.asynchronous else batch
        if most < least:
            raise UserError(
                f"{prompts} prompts can be drawn, but an epoch needs {least} of them (data.train_batch_size={batch}"
                + (f", {self.run.warmup_batches:g} warm-up batches" if self.asynchronous else "")
                + "): lower data.train_batch_size"
            )
        n = self.prompts_per_epoch
        if n is None:
            return self._usual_size(batch, least, prompts)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1 or n % batch:
            below = max(n // batch * batch, batch) if isinstance(n, int) else batch
            raise UserError(
                f"{SECTION}.prompts_per_epoch={n!r} is no multiple of data.train_batch_size={batch}: "
                f"use {below} or {below + batch}"
            )
        if n > most:
            raise UserError(f"{SECTION}.prompts_per_epoch={n}, but of {prompts} prompts at most {most} fit an epoch")
        if n < least:
            raise UserError(
                f"{SECTION}.prompts_per_epoch={n}: {self.run.warmup_batches:g} warm-up batches of {batch} prompts are "
                f"always under way in the {self.run.trainer_mode} trainer, so that an epoch of less than {least} "
                "prompts would be drawn before anything of the last one has been observed"
            )
        return n

    def _usual_size(self, batch: int, least: int, prompts: int) -> int:
        """What an epoch has where no number is given: whole batches, of training as of generation."""
        fetched = None if self.fetches_single_prompts else self.run.gen_batch_size
        unit = math.lcm(batch, fetched or batch)
        if self.run.rollout_nodes is not None:  # one batch ahead: one alone would be over before it is observed
            least = max(least, 2 * batch)
        typical = 0 if self.navigator == "probe" else TYPICAL_EPOCH  # docs/evidence.md: probe drew for every step
        wanted = max(round(typical / unit), math.ceil(least / unit)) * unit
        return min(wanted, prompts // unit * unit or prompts // batch * batch)

    @property
    def asynchronous(self) -> bool:
        """Whether prompts are drawn while earlier ones are still being generated."""
        return self.run.v1 and self.run.trainer_mode != "sync"

    @property
    def fetches_single_prompts(self) -> bool:
        """Whether verl's trainer sets `data.gen_batch_size` to 1, whatever is given, to refill exactly."""
        return self.asynchronous or (self.run.v1 and (self.run.filter_groups or self.run.refill_failed_groups))

    def most_in_flight(self, train_batch_size: int) -> int:
        """Prompts that can be out, neither sampled nor put away, when an epoch is drawn.

        Asynchronous trainers: the warm-up, and the batch that is being fetched; refilling replaces what was put away,
        so that no more come out.  The synchronous one has nothing out, unless it refills while it samples: then the
        rest of the batch, and with DAPO's filter also what it lets be generated at a time.  V0: the batch that
        one-step off-policy is ahead.
        """
        run = self.run
        if self.asynchronous:
            return math.floor(run.warmup_batches * train_batch_size) + train_batch_size
        if run.v1 and run.filter_groups:
            return (run.max_inflight_gen_batches + 1) * train_batch_size
        return 0 if run.v1 and not run.refill_failed_groups else train_batch_size

    def angle_source(self) -> tuple[str, str]:
        """`actor` or `table`, and why; UserError if the actor is asked for and cannot measure."""
        if self.angle == "table":
            return "table", f"{SECTION}.angle=table"
        run = self.run
        reason = ""
        if not run.v1:
            reason = "the V0 trainer hands no measurement of its workers back"
        elif run.strategy not in ("fsdp", "fsdp2"):
            reason = f"the actor's strategy is {run.strategy!r}, and only fsdp and fsdp2 are measured"
        elif run.sequence_parallel > 1:
            reason = f"ulysses_sequence_parallel_size={run.sequence_parallel} splits a sequence over workers"
        elif run.bypass_old_log_probs:
            reason = "algorithm.rollout_correction.bypass_mode=true leaves out the pass that is measured"
        if reason and self.angle == "actor":
            raise UserError(f"{SECTION}.angle=actor is impossible here: {reason}; use auto or table")
        return ("table", reason) if reason else ("actor", "measured when old log-probabilities are computed")


def called(name: str) -> str:
    """What a field of `NavigatorSettings` is called in verl's configuration."""
    return f"{SECTION}.{name}"


def _known(cls: type[Any], given: Mapping[str, Any], section: str, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    names = [item.name for item in dataclasses.fields(cls) if item.init and item.name not in leave]
    for name in given:
        if name in _TRAINER_ONLY and name not in names:
            raise UserError(f"{section}.{name} is a setting of gainrl train alone: {_TRAINER_ONLY[name]}")
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)[0]
            raise UserError(f"{section}.{name} is not a setting; the nearest name is {near!r}")
    return dict(given)


def _build(cls: type[Run], given: Mapping[str, Any], section: str) -> Run:
    return cls(**_known(cls, given, section))
