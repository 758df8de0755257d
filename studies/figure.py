"""The two figures of the evidence: `python -m studies.figure` writes docs/assets/rollouts.svg and factors.svg.

Both are of the second study's held-out runs, each arm in the step that was chosen for it.  `rollouts.svg` has the
accuracy gained since the start of the run: means over the families' bases, with bands of 95 % (Student's t, variance
within families).  `factors.svg` has the factors over uniform in the usual step, with their intervals.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy.stats import t

from studies.convergence import protocol as protocols
from studies.convergence.measures import column
from studies.convergence.protocol import Shape
from studies.convergence.report import over
from studies.convergence.study import HELD_OUT, results

ROOT = Path(__file__).resolve().parent.parent
ARMS = {"baseline": "probe + baseline", "probe": "probe", "uniform": "uniform", "gainrl": "GAIN-RL's window"}
OTHERS = {
    "oracle": "oracle",
    "pools": "prime-rl's pools",
    "posterior": "posterior",
    "spo": "SPO",
    "greso": "GRESO",
    "speed": "SPEED-RL",
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 58, 150, 16, 46
LOW, HIGH, BUDGET, EVERY = -1.0, 18.0, 7680, 384
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #57606a }
  .axis { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #8c959f; stroke-opacity: .25 }
  polyline.line { fill: none; stroke-width: 2.5 } polygon.band { stroke: none; fill-opacity: .15 }
  .baseline { stroke: #1a7f37; fill: #1a7f37 } .probe { stroke: #0969da; fill: #0969da }
  .uniform { stroke: #6e7781; fill: #6e7781 } .gainrl { stroke: #bc4c00; fill: #bc4c00 }
  .other { stroke: #8c959f; fill: #8c959f } .interval { stroke-width: 2.5 }
  text.label { stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 }
    .baseline { stroke: #3fb950; fill: #3fb950 } .probe { stroke: #4493f8; fill: #4493f8 }
    .uniform { stroke: #9198a1; fill: #9198a1 } .gainrl { stroke: #db6d28; fill: #db6d28 }
  }"""


def gains(arm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(E,) rollouts, mean gain and half the interval's width, in points of accuracy."""
    rollouts, families = np.arange(0, BUDGET + 1, EVERY), []
    for family in HELD_OUT:
        runs = [run for run in results() if (run["arm"], run["family"]) == (arm, family)]
        runs = [run for run in runs if Shape(*run["shape"]) == protocols.load().chosen[arm]]
        curves = [np.interp(rollouts, column(run, "rollouts"), 100 * column(run, "accuracy")) for run in runs]
        families.append(np.array(curves) - np.array(curves)[:, :1])  # (bases, E)
    mean = np.mean([curves.mean(axis=0) for curves in families], axis=0)
    squares = [curves.var(axis=0, ddof=1) / len(curves) for curves in families]
    freedom = sum(len(curves) - 1 for curves in families)
    return rollouts, mean, t.ppf(0.975, freedom) * np.sqrt(np.sum(squares, axis=0)) / len(HELD_OUT)


def x(rollouts: float) -> float:
    """Horizontal place."""
    return LEFT + (WIDTH - LEFT - RIGHT) * rollouts / BUDGET


def y(gain: float) -> float:
    """Vertical place."""
    return TOP + (HEIGHT - TOP - BOTTOM) * (HIGH - gain) / (HIGH - LOW)


def path(rollouts: np.ndarray, values: np.ndarray) -> str:
    """Points of a line as SVG writes them."""
    return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(rollouts, np.clip(values, LOW, HIGH), strict=True))


def main() -> None:
    """Draw both figures."""
    parts = []
    for gain in range(0, int(HIGH) + 1, 4):
        kind = "axis" if gain == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{x(BUDGET)}" y1="{y(gain):.1f}" y2="{y(gain):.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{y(gain) + 4:.1f}" text-anchor="end">{f"{gain:+d}" if gain else 0}</text>'
        )
    ticks = range(0, BUDGET + 1, 1920)
    parts += [f'<text x="{x(at)}" y="{HEIGHT - 26}" text-anchor="middle">{at:,}</text>' for at in ticks]
    parts.append(f'<text x="{x(BUDGET / 2)}" y="{HEIGHT - 6}" text-anchor="middle">rollouts</text>')
    middle = y((LOW + HIGH) / 2)
    turned = f'transform="translate(14 {middle}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {turned}>accuracy gained, points</text>")
    for arm, label in ARMS.items():
        rollouts, mean, half = gains(arm)
        band = f"{path(rollouts, mean + half)} {path(rollouts[::-1], (mean - half)[::-1])}"
        parts.append(f'<polygon class="band {arm}" points="{band}"/>')
        parts.append(f'<polyline class="line {arm}" points="{path(rollouts, mean)}"/>')
        parts.append(f'<text class="label {arm}" x="{x(BUDGET) + 8}" y="{y(mean[-1]) + 4:.1f}">{label}</text>')
        print(f"{arm}: {mean[-1]:+.2f} points after {rollouts[-1]} rollouts")
    write("rollouts.svg", "Accuracy gained against rollouts", parts, HEIGHT)
    factors()


def factors() -> None:
    """One line for each arm, from the most to the least rollouts saved, on a logarithmic axis."""
    runs, protocol = results(), protocols.load()
    found = {arm: over(runs, HELD_OUT, arm, protocol.chosen[arm], "uniform", protocol.usual) for arm in ARMS | OTHERS}
    ranked = sorted(found.items(), key=lambda item: -item[1].mean)
    height, left, least, most = 40 + 26 * len(ranked), 150, 0.8, 8.0

    def x_at(value: float) -> float:
        return left + (WIDTH - left - 70) * math.log(value / least) / math.log(most / least)

    parts = []
    for value in (1, 2, 4, 8):
        kind = "axis" if value == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{x_at(value):.1f}" x2="{x_at(value):.1f}" y1="8" y2="{height - 24}"/>')
        parts.append(f'<text x="{x_at(value):.1f}" y="{height - 8}" text-anchor="middle">{value}</text>')
    for number, (arm, one) in enumerate(ranked):
        at, kind = 20 + 26 * number, arm if arm in ARMS else "other"
        low, high = x_at(one.low or one.mean), x_at(one.high or one.mean)
        parts.append(f'<text x="{left - 12}" y="{at + 4}" text-anchor="end">{(ARMS | OTHERS)[arm]}</text>')
        parts.append(f'<line class="interval {kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{at}" y2="{at}"/>')
        parts.append(f'<circle class="{kind}" cx="{x_at(one.mean):.1f}" cy="{at}" r="4.5"/>')
        bound = "≤ " if one.censored else ""
        parts.append(f'<text x="{WIDTH - 6}" y="{at + 4}" text-anchor="end">{bound}{one.mean:.2f}</text>')
    write("factors.svg", "Times fewer rollouts than uniform at 16 x 8", parts, height)


def write(name: str, about: str, parts: list[str], height: int) -> None:
    """A figure of the documentation."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
    top = [head, f"<title>{about}</title>", f"<style>{STYLE}\n</style>"]
    (ROOT / "docs/assets" / name).write_text("\n".join([*top, *parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
