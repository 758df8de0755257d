"""The plots, as SVG drawn by matplotlib without a display: each in a light and a dark version.

Every function returns a `Figure` with what the plot says in words (its alternative text), or None where there is
nothing to draw.  Point clouds are rasterised inside the SVG, so its size does not grow with the dataset.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from gainrl.report.records import Record, number, seconds

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Theme:
    """Colours of one version, lower-case `#rrggbb`, all different, so that one can be exchanged for another."""

    ink: str
    muted: str
    grid: str
    series: tuple[str, str, str, str]

    @property
    def colours(self) -> tuple[str, ...]:
        """All of them, in one order."""
        return (self.ink, self.muted, self.grid, *self.series)


LIGHT = Theme("#1d2733", "#5d6b7a", "#e3e8ee", ("#3457d5", "#0e8f7e", "#c2570c", "#8b3fb0"))
DARK = Theme("#e6ebf2", "#9aa8b8", "#2d3744", ("#8ea6ff", "#4fd1bd", "#fb9a5b", "#d09bf0"))

_CLOUD = "#5f7fee"
"""Points that are drawn as pixels, legible on both backgrounds."""


@dataclass(frozen=True)
class Figure:
    """A plot in two versions (`data:` URIs) and in words."""

    light: str
    dark: str
    alt: str
    width: int
    height: int


def score_distribution(columns: Mapping[str, Floats]) -> Figure | None:
    """Histograms side by side; columns: name -> (N,) values, NaN where undefined."""
    finite = {name: values[np.isfinite(values)] for name, values in columns.items()}
    finite = {name: values for name, values in finite.items() if len(values)}
    if not finite:
        return None

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.subplots(1, len(finite), squeeze=False)[0]
        for axis, (name, values), colour in zip(axes, finite.items(), theme.series, strict=False):
            axis.hist(values, bins=_bins(values), color=colour, alpha=0.85)
            middle = float(np.median(values))
            axis.axvline(middle, color=theme.ink, linewidth=1.1, linestyle=(0, (4, 2)))
            axis.set_title(f"{name}   median {middle:.3f}")
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.grid(axis="x", visible=False)
        axes[0].set_ylabel("prompts")

    parts = [
        f"{name} from {values.min():.3f} to {values.max():.3f}, median {np.median(values):.3f}, middle half "
        f"{np.quantile(values, 0.25):.3f} to {np.quantile(values, 0.75):.3f}"
        for name, values in finite.items()
    ]
    return render_figure(draw, 3.15 * len(finite) + 0.3, 2.7, "Histograms of the scores: " + "; ".join(parts) + ".")


def score_against_length(scores: Floats, tokens: Floats, correlation: float) -> Figure | None:
    """C of each prompt over its number of question tokens."""
    both = np.isfinite(scores) & np.isfinite(tokens)
    if not both.any():
        return None

    def draw(canvas: Canvas, theme: Theme) -> None:
        axis = canvas.subplots()
        axis.scatter(
            tokens[both],
            scores[both],
            s=7 if both.sum() > 500 else 16,
            color=_CLOUD,
            alpha=0.4 if both.sum() > 500 else 0.7,
            linewidths=0,
            rasterized=True,
        )
        edges = np.unique(np.quantile(tokens[both], np.linspace(0, 1, 13)))
        if len(edges) > 3:  # medians of twelve equally filled slices of length
            which = np.clip(np.searchsorted(edges, tokens[both], side="right") - 1, 0, len(edges) - 2)
            slices = [which == i for i in range(len(edges) - 1)]
            points = [(np.median(tokens[both][s]), np.median(scores[both][s])) for s in slices if s.any()]
            axis.plot(*zip(*points, strict=True), color=theme.series[2], linewidth=1.8, label="median by length")
            axis.legend(loc="best")
        axis.set_xlabel("question tokens")
        axis.set_ylabel("score C")

    said = "not defined" if not np.isfinite(correlation) else f"{correlation:+.3f}"
    alt = (
        f"Score C of {int(both.sum())} prompts against their question tokens ({int(tokens[both].min())} to "
        f"{int(tokens[both].max())}); Spearman's rank correlation is {said}."
    )
    return render_figure(draw, 9.6, 3.3, alt)


def window(epochs: Sequence[Record], size: int | None) -> Figure | None:
    """The mean of the window per epoch with its band of one sigma, and which ranks were drawn."""
    numbers = _series(epochs, "epoch")
    mean, sigma = _series(epochs, "mean"), _series(epochs, "sigma")
    uniform = np.array([bool(record.get("uniform")) for record in epochs], dtype=bool)
    mean[uniform] = np.nan
    drawn = {
        name: _series([_ranks(record) for record in epochs], name) for name in ("min", "p10", "median", "p90", "max")
    }
    if not np.isfinite(mean).any() and not np.isfinite(drawn["median"]).any():
        return None
    top = float(size - 1) if size else np.nanmax(np.concatenate([mean + np.nan_to_num(sigma), drawn["max"]]))

    def draw(canvas: Canvas, theme: Theme) -> None:
        axis = canvas.subplots()
        if np.isfinite(mean).any():
            low, high = np.clip(mean - sigma, 0, top), np.clip(mean + sigma, 0, top)
            single = len(numbers) == 1
            across = np.array([numbers[0] - 0.4, numbers[0] + 0.4]) if single else numbers
            repeat = 2 if single else 1
            axis.fill_between(
                across,
                np.repeat(low, repeat),
                np.repeat(high, repeat),
                color=theme.series[0],
                alpha=0.18,
                linewidth=0,
                label="mean ± σ",
            )
            axis.plot(across, np.repeat(mean, repeat), color=theme.series[0], linewidth=2, label="mean of the window")
        if np.isfinite(drawn["median"]).any():
            axis.vlines(
                numbers, drawn["min"], drawn["max"], color=theme.muted, linewidth=0.8, label="drawn: lowest to highest"
            )
            axis.vlines(
                numbers, drawn["p10"], drawn["p90"], color=theme.series[1], linewidth=3.2, label="drawn: 10 to 90 %"
            )
            axis.plot(
                numbers, drawn["median"], linestyle="none", marker="o", markersize=4.5, color=theme.series[1],
                markeredgecolor=theme.ink, markeredgewidth=0.6, label="drawn: median",
            )  # fmt: skip
        axis.set_ylim(-0.02 * max(top, 1.0), 1.02 * max(top, 1.0))
        axis.set_ylabel("rank (0 = highest score)")
        _epoch_axis(axis, numbers)
        axis.legend(loc="upper left", bbox_to_anchor=(0.0, 1.16), ncols=5, columnspacing=1.2, handlelength=1.4)

    where = mean[np.isfinite(mean)]
    alt = f"The window over {len(epochs)} epochs"
    if len(where):
        alt += f": its mean goes from rank {where[0]:.0f} to rank {where[-1]:.0f}"
    if size:
        alt += f" of {size}"
    medians = drawn["median"][np.isfinite(drawn["median"])]
    if len(medians):
        alt += f"; the median rank drawn goes from {medians[0]:.0f} to {medians[-1]:.0f}"
    return render_figure(draw, 9.6, 3.7, alt + ".")


def signals(epochs: Sequence[Record], beta: float | None) -> Figure | None:
    """Accuracy, angle concentration and reward per epoch, each on its own axis."""
    columns = {"accuracy": "accuracy", "angle": "angle concentration", "reward": "mean reward"}
    return _per_epoch(epochs, columns, percent=("accuracy",), target=("accuracy", beta))


def costs(epochs: Sequence[Record]) -> Figure | None:
    """Tokens generated and seconds per epoch."""
    epochs = [{**record, "seconds": seconds(record)} for record in epochs]
    return _per_epoch(epochs, {"tokens": "tokens generated", "seconds": "seconds"}, bars=True)


def evaluations(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Accuracy of each evaluation with its interval; rows: label, accuracy, low, high (the last two may be None)."""
    rows = [row for row in rows if number(row["accuracy"]) is not None]
    if not rows:
        return None

    def draw(canvas: Canvas, theme: Theme) -> None:
        axis = canvas.subplots()
        colours = {task: theme.series[i % 4] for i, task in enumerate(dict.fromkeys(row["task"] for row in rows))}
        for place, row in enumerate(rows):
            colour = colours[row["task"]]
            if row["low"] is not None and row["high"] is not None:
                axis.hlines(place, row["low"], row["high"], color=colour, linewidth=3, alpha=0.4)
            axis.plot(row["accuracy"], place, "o", color=colour, markersize=8)
            axis.annotate(
                f"{row['accuracy']:.1%}", (row["accuracy"], place), xytext=(0, 8), textcoords="offset points",
                ha="center", color=theme.ink, fontsize=9,
            )  # fmt: skip
        axis.set_yticks(range(len(rows)), [plain(row["label"]) for row in rows])
        axis.set_ylim(len(rows) - 0.4, -0.7)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axis.set_xlabel("accuracy")
        axis.grid(axis="y", visible=False)

    said = [
        f"{row['label']} {row['accuracy']:.1%}"
        + (f" (interval {row['low']:.1%} to {row['high']:.1%})" if row["low"] is not None else "")
        for row in rows
    ]
    return render_figure(draw, 9.6, 0.9 + 0.52 * len(rows), "Evaluation accuracy: " + "; ".join(said) + ".")


def _per_epoch(
    epochs: Sequence[Record],
    columns: Mapping[str, str],
    *,
    percent: Sequence[str] = (),
    target: tuple[str, float | None] = ("", None),
    bars: bool = False,
) -> Figure | None:
    numbers = _series(epochs, "epoch")
    values = {name: _series(epochs, name) for name in columns}
    values = {name: series for name, series in values.items() if np.isfinite(series).any()}
    if not values:
        return None

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.subplots(1, len(values), squeeze=False)[0]
        for axis, (name, series), colour in zip(axes, values.items(), theme.series, strict=False):
            if bars:
                axis.bar(numbers, series, color=colour, width=0.75)
                axis.yaxis.set_major_formatter(EngFormatter(sep=""))
                axis.grid(axis="x", visible=False)
            else:
                axis.plot(numbers, series, color=colour, linewidth=1.6, marker="o", markersize=3.2)
            if name in percent:
                axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
                axis.set_ylim(-0.02, 1.02)
            if name == target[0] and target[1] is not None:
                axis.axhline(
                    target[1], color=theme.muted, linewidth=1, linestyle=(0, (4, 2)), label=f"target β = {target[1]:g}"
                )
                axis.legend(loc="best")
            axis.set_title(columns[name])
            _epoch_axis(axis, numbers)

    said = []
    for name, series in values.items():
        known = series[np.isfinite(series)]
        said.append(
            f"{columns[name]} from {known[0]:.4g} to {known[-1]:.4g} "
            f"(lowest {known.min():.4g}, highest {known.max():.4g})"
        )
    return render_figure(draw, 9.6, 2.6, f"Per epoch, over {len(epochs)} epochs: " + "; ".join(said) + ".")


def _series(records: Sequence[Mapping[str, Any]], name: str) -> Floats:
    found = (number(record.get(name)) for record in records)
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _ranks(record: Record) -> Mapping[str, Any]:
    ranks = record.get("ranks")
    return ranks if isinstance(ranks, Mapping) else {}


def _bins(values: Floats) -> int:
    if np.ptp(values) == 0:
        return 1
    return int(np.clip(np.ceil(2.0 * len(values) ** (1 / 3)), 5, 50))


def _epoch_axis(axis: Axes, numbers: Floats) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axis.set_xlim(numbers[0] - 0.6, numbers[-1] + 0.6)


def plain(text: str) -> str:
    """A label that the plots' font can draw, 60 characters at most; the tables print it in full."""
    drawn = "".join(letter if letter.isprintable() and ord(letter) < 0x250 else "?" for letter in text)
    return drawn if len(drawn) <= 60 else f"{drawn[:59]}…"


def render_figure(draw: Callable[[Canvas, Theme], None], width: float, height: float, alt: str) -> Figure:
    """Draw once; the dark version is the light one with its colours exchanged.

    width and height are in inches, 100 CSS pixels each.
    """
    light = _svg(draw, LIGHT, width, height)
    dark = light
    for old, new in zip(LIGHT.colours, DARK.colours, strict=True):
        dark = dark.replace(old, new)
    return Figure(_uri(light), _uri(dark), alt, round(100 * width), round(100 * height))


def _uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def _svg(draw: Callable[[Canvas, Theme], None], theme: Theme, width: float, height: float) -> str:
    style: dict[Any, Any] = {
        "axes.axisbelow": True,
        "axes.edgecolor": theme.grid,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": theme.muted,
        "axes.labelsize": 9.5,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": theme.ink,
        "axes.titlelocation": "left",
        "axes.titlesize": 10.5,
        "figure.constrained_layout.use": True,
        "figure.facecolor": "none",
        "font.family": ["DejaVu Sans"],  # ships with matplotlib
        "font.size": 9.5,
        "grid.color": theme.grid,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "legend.labelcolor": theme.muted,
        "savefig.facecolor": "none",
        "svg.fonttype": "path",
        "svg.hashsalt": "gainrl",  # the same records give the same bytes
        "text.color": theme.ink,
        "text.parse_math": False,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update(style)
        canvas = Canvas(figsize=(width, height))
        draw(canvas, theme)
        written = io.BytesIO()
        canvas.savefig(written, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return written.getvalue().decode("utf-8")
