"""The arms: how each draws.  Shape (prompts × rollouts of a step) and learning rate are the run's, not the arm's."""

from __future__ import annotations

from dataclasses import dataclass

from gainrl.errors import UserError


@dataclass(frozen=True)
class Arm:
    """One way to choose the prompts."""

    about: str
    navigator: str
    peer: bool = False
    baseline_rollouts: float = 0.0


ARMS = {
    "uniform": Arm("all prompts equally likely", "uniform"),
    "probe": Arm("predicted mixed groups, from directions (gainrl's default)", "probe"),
    "baseline": Arm("probe, whose predicted pass rates take part in the baseline", "probe", baseline_rollouts=16.0),
    "oracle": Arm("true reward variance p(1 - p): the ceiling", "oracle"),
    "gainrl": Arm("GAIN-RL's window over the angle concentration", "gaussian"),
    "posterior": Arm("Thompson sampling by prompt, which stands for MoPPS", "posterior", peer=True),
    "pools": Arm("prime-rl's difficulty pools", "pools", peer=True),
    "spo": Arm("SPO's prompt sampling", "spo", peer=True),
    "speed": Arm("SPEED-RL's screening", "speed", peer=True),
    "greso": Arm("GRESO's filter and dynamic sampling", "greso", peer=True),
}


def arm(name: str) -> Arm:
    """An arm by name; UserError for a name that there is none of."""
    if name not in ARMS:
        raise UserError(f"arm {name!r}: choose one of {', '.join(ARMS)}")
    return ARMS[name]
