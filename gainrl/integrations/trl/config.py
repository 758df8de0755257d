"""Settings of the curriculum, added to a TRL config; every mistake that can be seen without a dataset is refused here.

`CurriculumArguments` goes in front of any config of TRL's group-based trainers (`GRPOConfig`, `RLOOConfig`, a
user's own subclass); `GainRLConfig` is that for GRPO.  Names that TRL uses for something else (`beta`, `seed`)
carry the prefix `curriculum_`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from gainrl.curriculum import NAVIGATORS
from gainrl.curriculum.building import DEFAULT, NavigatorSettings, meant_for_others
from gainrl.errors import UserError
from gainrl.integrations.credit import Range, check_threshold, reward_range
from gainrl.integrations.navigation import TYPICAL_EPOCH

ANGLES = ("sequence", "prompt")
_PLAIN = ("skip_mastered", "mastered_rest")
"""Settings of navigators that TRL has no meaning of its own for."""


@dataclass
class CurriculumArguments:
    """Fields of the curriculum (design, part 3).  Put in front of a TRL config class; raises UserError.

    One epoch is one draw of `prompts_per_epoch` prompts; `num_train_epochs` counts draws.  Once made, a config holds
    the number that it came to where none was given.
    """

    scores: str | None = field(
        default=None, metadata={"help": "Score table that `gainrl score` made for the training dataset (Parquet)."}
    )
    prompts_per_epoch: int | None = field(
        default=None,
        metadata={
            "help": "n: prompts drawn for one epoch, a multiple of the prompts in one generation batch. Without a "
            "number: one generation batch for probe, the multiple nearest to 1024 for the other navigators."
        },
    )
    curriculum_navigator: str = field(
        default=DEFAULT,
        metadata={
            "help": "How an epoch's prompts are chosen: probe, gaussian (as published), target, posterior, uniform, "
            "fixed or shortest-first."
        },
    )
    curriculum_alpha: float = field(
        default=2.0, metadata={"help": "α: steepness of the mean's step (gaussian, target)."}
    )
    curriculum_beta: float = field(
        default=0.5,
        metadata={
            "help": "β: accuracy at which the mean's step turns; the accuracy that `target` and `posterior` look for."
        },
    )
    curriculum_mean: float = field(
        default=0.0, metadata={"help": "μ₀: the rank at which the window starts (gaussian, target)."}
    )
    curriculum_sigma: float | None = field(
        default=None, metadata={"help": "σ: width of the window in ranks (gaussian, target)."}
    )
    curriculum_sigma_fraction: float | None = field(
        default=None,
        metadata={
            "help": "σ as a share of the number of prompts, instead of `curriculum_sigma`; 1000/7500, the "
            "published width, where neither is given."
        },
    )
    curriculum_at_end: str = field(
        default="stay", metadata={"help": "What happens at the last rank: stay, restart or uniform (gaussian)."}
    )
    curriculum_prior_strength: float = field(
        default=4.0, metadata={"help": "Rollouts that the ranking is worth as the prior of `posterior`."}
    )
    curriculum_memory: int = field(
        default=64, metadata={"help": "Rollouts of one prompt that `posterior` counts at most; older ones fade."}
    )
    curriculum_components: int = field(
        default=32, metadata={"help": "Principal components of the directions that `probe` looks at, 1 to 128."}
    )
    curriculum_explore: float = field(
        default=0.1, metadata={"help": "Share of an epoch that `probe` draws uniformly from all prompts."}
    )
    skip_mastered: int | None = field(
        default=None,
        metadata={"help": "A prompt solved in full in this many epochs in a row rests (gaussian, target, uniform)."},
    )
    mastered_rest: int = field(default=10, metadata={"help": "Epochs for which such a prompt rests."})
    curriculum_order: str = field(
        default="rank", metadata={"help": "Order of an epoch's prompts: rank, draw or shuffled."}
    )
    curriculum_seed: int | None = field(
        default=None, metadata={"help": "Seed of the draws; the trainer's `seed` where it is not given."}
    )
    curriculum_angle: str = field(
        default="sequence",
        metadata={"help": "What angle concentration is taken over: the whole sequence, or the prompt (its score C)."},
    )
    accuracy_rewards: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the reward functions that say what is correct; needed where there are several."},
    )
    accuracy_range: Any = field(
        default=None,
        metadata={
            "help": "[low, high] of those rewards (or one such pair for each name): low counts 0, high 1, what lies "
            "between by its share. Without it a reward must be 0 or 1."
        },
    )
    accuracy_threshold: float | None = field(
        default=None,
        metadata={
            "help": "Share of that range from which a rollout counts as correct, and below it as wrong (1: only at its "
            "top). Without it the share itself is the credit."
        },
    )
    backfill: bool = field(
        default=False,
        metadata={
            "help": "Put spare prompts of the epoch in the place of groups whose rewards are all equal, before the "
            "batch is trained on."
        },
    )
    rerank_every: int | None = field(
        default=None,
        metadata={"help": "Score the dataset again with the current policy after this many epochs, and so on."},
    )
    run_dir: str | None = field(
        default=None, metadata={"help": "Where epochs.jsonl is kept; `output_dir` where it is not given."}
    )
    shuffle_dataset: bool | None = field(
        default=False, metadata={"help": "Not with a curriculum: use `curriculum_order='shuffled'`."}
    )

    def __post_init__(self) -> None:
        # HF turns compilation on for the whole process in its own __post_init__.
        if any(getattr(self, f"torch_compile{name}", None) for name in ("", "_mode", "_backend")):
            raise UserError(
                "torch_compile is not supported: the hook that measures hidden states breaks the compiled graph in "
                "every forward pass; leave it off"
            )
        super().__post_init__()  # type: ignore[misc]
        self.navigation.check(called)
        self._check_choices()
        self._check_batches()

    @property
    def navigation(self) -> NavigatorSettings:
        """The navigator's part."""
        seed = self.seed if self.curriculum_seed is None else self.curriculum_seed  # type: ignore[attr-defined]
        names = [name for name in NavigatorSettings.__dataclass_fields__ if name != "seed"]
        return NavigatorSettings(seed=int(seed), **{name: getattr(self, called(name)) for name in names})

    def _check_choices(self) -> None:
        if self.curriculum_angle not in ANGLES:
            raise UserError(f"curriculum_angle={self.curriculum_angle!r}: choose one of {', '.join(ANGLES)}")
        if self.shuffle_dataset:
            raise UserError("shuffle_dataset=True would undo the curriculum's order; use curriculum_order='shuffled'")
        check_threshold(self.accuracy_threshold, "accuracy_threshold")
        every = self.rerank_every
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise UserError(f"rerank_every={every!r}: give a number of epochs, 1 or more, or leave it out")
        if every is not None and not NAVIGATORS[self.curriculum_navigator].reranks:
            able = [kind for kind, navigator in NAVIGATORS.items() if navigator.reranks]
            raise meant_for_others(f"rerank_every={every}", able, self.curriculum_navigator, called)
        if not isinstance(self.backfill, bool):
            raise UserError(f"backfill={self.backfill!r} must be true or false")
        if getattr(self, "ignore_data_skip", False):
            raise UserError("ignore_data_skip=True would train prompts twice after a resume: leave it False")
        if getattr(self, "sync_ref_model", False):
            raise UserError(
                "sync_ref_model=True: checkpoints do not hold the reference model as it moves, so that a resumed run "
                "would differ; leave it off (and beta above 0 for a fixed reference)"
            )
        accelerator = getattr(self, "accelerator_config", None)
        for name in ("split_batches", "dispatch_batches"):
            if getattr(accelerator, name, None):
                raise UserError(f"accelerator_config.{name}=True breaks up TRL's groups: leave it off")

    def _usual_epoch(self) -> int:
        """n where no number is given."""
        held = self.prompts_per_generation
        if self.curriculum_navigator == "probe":  # docs/evidence.md: measured with a draw for every step
            return held
        return max(round(TYPICAL_EPOCH / held), 1) * held

    def _check_batches(self) -> None:
        self.epoch_not_given = self.prompts_per_epoch is None
        """Whether nobody said how large an epoch is."""
        if self.prompts_per_epoch is None:
            self.prompts_per_epoch = self._usual_epoch()
        if isinstance(self.prompts_per_epoch, bool) or not isinstance(self.prompts_per_epoch, int):
            raise UserError(f"prompts_per_epoch={self.prompts_per_epoch!r} is not an integer")
        held = self.prompts_per_generation
        args: Any = self
        if self.prompts_per_epoch < 1 or self.prompts_per_epoch % held:
            raise UserError(
                f"prompts_per_epoch={self.prompts_per_epoch} is not a multiple of the {held} prompts that one "
                f"generation batch holds (generation_batch_size {args.generation_batch_size} / num_generations "
                f"{args.num_generations}), and TRL would drop the rest: "
                f"use {nearest_multiples(self.prompts_per_epoch, held)}"
            )
        self._check_saves()
        if self.backfill:
            self._check_backfill()

    def _check_backfill(self) -> None:
        """Back-filling works on whole groups of one process, with advantages that are made group by group."""
        args: Any = self
        own, group = args.per_device_train_batch_size * args.steps_per_generation, args.num_generations
        if own % group:
            raise UserError(
                f"backfill: true needs whole groups in every process, but {own} rollouts a generation batch "
                f"(per_device_train_batch_size × steps_per_generation) are not a multiple of num_generations={group}: "
                f"use {nearest_multiples(own, group)}"
            )
        mixing = {
            "scale_rewards": ("batch",),
            "multi_objective_aggregation": ("normalize_then_sum",),
            "normalize_advantages": (True,),
        }
        for name, values in mixing.items():
            if getattr(args, name, None) in values:
                raise UserError(
                    f"backfill: true cannot be combined with {name}={getattr(args, name)!r}, which makes advantages "
                    "over the whole batch: leave one of them out"
                )

    def _check_saves(self) -> None:
        """Saves wait for the end of a generation batch; what names a checkpoint by its step cannot wait."""
        args: Any = self
        strategy = str(getattr(args.save_strategy, "value", args.save_strategy))
        if strategy == "best":
            raise UserError(
                "save_strategy='best' saves inside a generation batch, from where a run cannot be resumed exactly: "
                "use 'steps' or 'epoch'"
            )
        passes = args.steps_per_generation * args.num_iterations
        if (
            strategy == "steps"
            and args.load_best_model_at_end
            and args.save_steps * args.gradient_accumulation_steps % passes
        ):
            unit = passes // math.gcd(passes, args.gradient_accumulation_steps)
            raise UserError(
                f"load_best_model_at_end with save_steps={args.save_steps}: a checkpoint can be saved every {unit} "
                f"steps only (the end of a generation batch); use {nearest_multiples(int(args.save_steps), unit)}"
            )

    @property
    def epoch_size(self) -> int:
        """n: `prompts_per_epoch`, which is a number once the config is made."""
        assert self.prompts_per_epoch is not None
        return self.prompts_per_epoch

    @property
    def prompts_per_generation(self) -> int:
        """Prompts in one generation batch over all processes."""
        return int(self.generation_batch_size // self.num_generations)  # type: ignore[attr-defined]


@dataclass
class GainRLConfig(CurriculumArguments, GRPOConfig):  # type: ignore[misc]
    """TRL's `GRPOConfig` with the curriculum's fields; what TRL already has keeps TRL's name and meaning."""


def called(name: str) -> str:
    """What a field of `NavigatorSettings` is called in the config."""
    return name if name in _PLAIN else f"curriculum_{name}"


def nearest_multiples(value: int, unit: int) -> str:
    """The multiples of `unit` next to `value`, for messages: `96 or 128`, or `32` below the first one."""
    below = value // unit * unit
    return f"{below} or {below + unit}" if below >= unit else f"{unit}"


def accuracy_ranges(given: Any, names: Sequence[str]) -> dict[str, Range | None]:
    """`accuracy_range` for each reward name: (low, high), or None for a binary reward.  Raises UserError."""
    if isinstance(given, Mapping):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise UserError(f"accuracy_range names {unknown}, but the rewards that count as accuracy are {list(names)}")
        return {name: reward_range(given.get(name), "accuracy_range") for name in names}
    return {name: reward_range(given, "accuracy_range") for name in names}
