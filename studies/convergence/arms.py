"""The arms: what each ranks by, and how it draws.

`settings` are fields of `GainRLConfig`; the protocol gives the others, and all arms have the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gainrl.errors import UserError


@dataclass(frozen=True)
class Arm:
    """One way to choose the prompts."""

    about: str
    ranking: str = "C"
    settings: Mapping[str, Any] = field(default_factory=dict)
    ranked: bool = True
    """Whether it needs the scoring pass, whose seconds then count as its own."""
    own_directions: bool = True
    """False: each prompt has another one's direction, by a permutation of the table's."""


def _window(about: str, ranking: str) -> Arm:
    return Arm(about, ranking, {"curriculum_navigator": "gaussian"})


ARMS: dict[str, Arm] = {
    "uniform": Arm("all prompts equally likely", settings={"curriculum_navigator": "uniform"}, ranked=False),
    "oracle": Arm(
        "drawn by the true reward variance p(1 - p): the ceiling",
        settings={"curriculum_navigator": "oracle"},
        ranked=False,
    ),
    "gainrl": _window("GAIN-RL as published: C, diagonal included", "C"),
    "posterior": Arm("Thompson sampling by prompt, C as the prior", settings={"curriculum_navigator": "posterior"}),
    "target": Arm("window over C that follows accuracy 0.5", settings={"curriculum_navigator": "target"}),
    "probe": Arm(
        "groups whose rewards will differ, predicted from directions", settings={"curriculum_navigator": "probe"}
    ),
    "backfill": Arm(
        "uniform; groups without variance replaced, their rollouts counted",
        settings={"curriculum_navigator": "uniform", "backfill": True},
        ranked=False,
    ),
    "shortest-first": _window("GAIN-RL's window over prompts sorted by length", "shortest first"),
    "reversed": _window("GAIN-RL's window, lowest C first", "-C"),
    "perplexity": _window("GAIN-RL's window, lowest prompt NLL per token first", "lowest NLL first"),
    "c-no-diagonal": _window("C without each token's cosine with itself", "C without diagonal"),
    "c-length-controlled": _window("C with length regressed out", "C, length regressed out"),
    "c-intra": _window("C_intra alone", "C_intra"),
    "c-inter": _window("C_inter alone", "C_inter"),
    "probe-blind": Arm(
        "the probe with the directions of other prompts: what it owes to all else",
        settings={"curriculum_navigator": "probe"},
        own_directions=False,
    ),
    "oracle-spread": Arm(
        "the probe's own law with the true chances that a group differs",
        settings={"curriculum_navigator": "oracle-spread"},
        ranked=False,
    ),
    "shortest-fixed": Arm(
        "the package's shortest-first: in order of length, no window",
        settings={"curriculum_navigator": "shortest-first"},
    ),
}
"""In the order in which the study runs them."""


def arm(name: str) -> Arm:
    """An arm by name; UserError for a name that there is none of."""
    if name not in ARMS:
        raise UserError(f"arm {name!r}: choose one of {', '.join(ARMS)}")
    return ARMS[name]
