"""Accuracy against rollouts for the README: `python -m studies.figure` writes docs/assets/rollouts.svg.

Each line is the mean over the development families of the first study (sums, strings, lists; five seeds each) of the
accuracy gained since the start of the run.  The band is a 95 % interval: Student's t, variance within families.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import t

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ("sums", "strings", "lists")
ARMS = {"probe": "probe (default)", "uniform": "uniform", "gainrl": "GAIN-RL's window"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 58, 150, 16, 46
LOW, HIGH, BUDGET = -4.0, 6.0, 7680
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #57606a }
  .axis { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #8c959f; stroke-opacity: .25 }
  polyline.line { fill: none; stroke-width: 2.5 } polygon.band { stroke: none; fill-opacity: .15 }
  .probe { stroke: #0969da; fill: #0969da } .uniform { stroke: #6e7781; fill: #6e7781 }
  .gainrl { stroke: #bc4c00; fill: #bc4c00 }
  text.label { stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 }
    .probe { stroke: #4493f8; fill: #4493f8 } .uniform { stroke: #9198a1; fill: #9198a1 }
    .gainrl { stroke: #db6d28; fill: #db6d28 }
  }"""


def gains(arm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(E,) rollouts, mean gain and half the interval's width, in points of accuracy."""
    rows = pq.read_table(ROOT / "studies/results/convergence_1.parquet", filters=[("arm", "=", arm)]).to_pylist()
    families = []
    for family in FAMILIES:
        curves = [[point["accuracy"] for point in row["curve"]] for row in rows if row["family"] == family]
        families.append(100 * (np.array(curves) - np.array(curves)[:, :1]))  # (seeds, E)
    rollouts = np.array([point["rollouts"] for point in rows[0]["curve"]])
    mean = np.mean([curves.mean(axis=0) for curves in families], axis=0)
    squares = [curves.var(axis=0, ddof=1) / len(curves) for curves in families]
    freedom = sum(len(curves) - 1 for curves in families)
    return rollouts, mean, t.ppf(0.975, freedom) * np.sqrt(np.sum(squares, axis=0)) / len(FAMILIES)


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
    """Draw the figure."""
    about = "Accuracy gained against rollouts for the navigator probe, uniform draws and GAIN-RL's window"
    parts = [f"<title>{about}</title>", f"<style>{STYLE}\n</style>"]
    for gain in range(int(LOW), int(HIGH) + 1, 2):
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
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    (ROOT / "docs/assets/rollouts.svg").write_text("\n".join([head, *parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
