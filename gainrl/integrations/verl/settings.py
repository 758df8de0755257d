"""Settings of the curriculum in verl: the section `data.gainrl`, checked before anything is built from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gainrl.curriculum import DEFAULT
from gainrl.curriculum.base import unknown_name
from gainrl.errors import UserError

SECTION = "data.gainrl"
HOOK = "gainrl.integrations.verl.actor"


@dataclass(frozen=True)
class Run:
    """What the curriculum has to know of the rest of verl's configuration; the packaged group fills it in."""

    directory: str
    use_v1: bool = True
    sampler: str | None = "replay_buffer"
    external_lib: Any = None
    strategy: str | None = None
    sequence_parallel: int = 1
    bypass_old_log_probs: bool = False
    reward_model: bool = False
    reward_model_pool: bool = False


@dataclass(frozen=True)
class Settings:
    """Fields of `data.gainrl`; see the packaged config/curriculum/gainrl.yaml.  Raises UserError."""

    scores: str
    run: Run
    navigator: str = DEFAULT
    navigator_args: Mapping[str, Any] | None = None
    seed: int | None = None
    accuracy: str | None = None
    accuracy_range: tuple[float, float] | None = None
    group_by: str | None = None
    quota: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        run = self.run
        if not run.use_v1:
            raise UserError("trainer.use_v1=false: the curriculum needs verl's V1 trainer; V0 is deprecated there")
        if run.sampler != "replay_buffer":
            raise UserError(
                f"trainer.v1.sampler.custom_sampler.name={run.sampler!r}: the curriculum learns what came of its "
                "prompts from gainrl's replay buffer; leave this key to the group curriculum=gainrl"
            )
        if run.reward_model and not run.reward_model_pool:
            raise UserError(
                "reward.reward_model.enable=true without a resource pool computes rewards after the replay buffer has "
                "sampled, which is too late for the curriculum: set reward.reward_model.enable_resource_pool=true"
            )

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None) -> Settings:
        """From the section as plain containers; UserError for unknown or missing fields, by name."""
        if not isinstance(section, Mapping) or not isinstance(section.get("run"), Mapping):
            raise UserError(
                f"the configuration has no section {SECTION}: add "
                "'hydra.searchpath=[pkg://gainrl.integrations.verl.config]' and +curriculum=gainrl"
            )
        if section.get("scores") in (None, "???"):
            raise UserError(f"{SECTION}.scores is not set: make a score table of data.train_files with gainrl score")
        known = [item.name for item in dataclasses.fields(cls)]
        for name in section:
            if name not in known:
                raise unknown_name(f"{SECTION} has no setting", name, known)
        return cls(**{**section, "run": Run(**section["run"])})

    def require_angles(self) -> None:
        """UserError, with what to change, if the actor's workers do not measure angle concentration in this run."""
        run = self.run
        libraries = run.external_lib if isinstance(run.external_lib, list) else [run.external_lib]
        if run.strategy not in ("fsdp", "fsdp2"):
            reason = f"the actor's strategy is {run.strategy!r}, and only fsdp and fsdp2 are measured"
        elif run.sequence_parallel > 1:
            reason = f"ulysses_sequence_parallel_size={run.sequence_parallel} splits a sequence over workers"
        elif run.bypass_old_log_probs:
            reason = "algorithm.rollout_correction.bypass_mode=true leaves out the pass that is measured"
        elif HOOK not in libraries:
            raise UserError(
                f"the navigator {self.navigator!r} needs angle concentration: "
                f"add actor_rollout_ref.model.external_lib={HOOK}"
            )
        else:
            return
        raise UserError(
            f"the navigator {self.navigator!r} needs angle concentration, and {reason}: set {SECTION}.navigator=probe"
        )
