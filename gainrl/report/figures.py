"""Plots as SVG, drawn by matplotlib without a display, each in a light and a dark version."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from gainrl.report.records import Floats, plain


class Theme(NamedTuple):
    """Colours of one version."""

    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme("#1d2733", "#5d6b7a", "#e3e8ee", ("#3457d5", "#0e8f7e", "#c2570c", "#8b3fb0", "#b0305c", "#6b7a1f"))
DARK = Theme("#e6ebf2", "#9aa8b8", "#2d3744", ("#8ea6ff", "#4fd1bd", "#fb9a5b", "#d09bf0", "#f58fb3", "#c5d46b"))


class Figure(NamedTuple):
    """A plot in two versions (`data:` URIs), and in words."""

    light: str
    dark: str
    alt: str


class Line(NamedTuple):
    """A curve: x and y (P,), and the lower and upper ends of intervals, if it has any."""

    name: str
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None
    points: bool = False


def lines(given: Sequence[Line], x: str, y: str, *, percent: bool = False, diagonal: bool = False) -> Figure | None:
    """Curves over one axis; None if no curve has a finite point."""
    shown = [(index, line) for index, line in enumerate(given) if np.isfinite(line.y).any()]
    if not shown:
        return None

    def draw(axis: Axes, theme: Theme) -> None:
        for index, line in shown:  # a run keeps its colour in all figures
            colour = theme.series[index % len(theme.series)]
            there = np.isfinite(line.y)
            x_there, y_there, bars = line.x[there], line.y[there], None
            if line.low is not None and line.high is not None:
                low, high = line.low[there], line.high[there]
                if line.points:
                    bars = np.clip(np.stack([y_there - low, high - y_there]), 0, None)
                else:
                    axis.fill_between(x_there, low, high, color=colour, alpha=0.15, lw=0)
            mark = "o-" if line.points or there.sum() < 3 else "-"
            axis.errorbar(x_there, y_there, bars, fmt=mark, ms=4, lw=1.5, color=colour, label=plain(line.name))
        if diagonal:
            axis.plot([0, 1], [0, 1], color=theme.muted, lw=1, ls=(0, (4, 3)))
        if len(given) > 1 or diagonal:
            axis.legend(loc="best")
        _label(axis, x, percent)

    spans = [f"{line.name} between {np.nanmin(line.y):.3g} and {np.nanmax(line.y):.3g}" for _, line in shown]
    return render(draw, f"{y} over {x}: {'; '.join(spans)}.")


def stack(x: Floats, shares: Mapping[str, Floats], x_label: str, alt: str) -> Figure | None:
    """Shares that sum to one, stacked; None without a finite point."""
    whole = np.isfinite(np.stack(list(shares.values()))).all(axis=0) if shares else np.zeros(0, dtype=bool)
    if not whole.any():
        return None

    def draw(axis: Axes, theme: Theme) -> None:
        at = x[whole]
        wide = at if len(at) > 1 else np.array([at[0] - 0.5, at[0] + 0.5])
        bands = [np.repeat(share[whole], 2 if len(at) == 1 else 1) for share in shares.values()]
        axis.stackplot(wide, bands, labels=list(shares), colors=theme.series, alpha=0.8)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=6, columnspacing=1, handlelength=1)
        axis.set_ylim(0, 1)
        _label(axis, x_label, percent=True)

    return render(draw, alt)


def _label(axis: Axes, x: str, percent: bool) -> None:
    axis.set_xlabel(x)
    axis.margins(x=0.01)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    if axis.get_xlim()[1] >= 10_000:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    if percent:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def render(draw: Callable[[Axes, Theme], None], alt: str) -> Figure:
    """Both versions of a plot."""
    return Figure(_uri(draw, LIGHT), _uri(draw, DARK), alt)


def _uri(draw: Callable[[Axes, Theme], None], theme: Theme) -> str:
    style: dict[Any, Any] = {
        "axes.axisbelow": True, "axes.edgecolor": theme.grid, "axes.facecolor": "none", "axes.grid": True,
        "axes.labelcolor": theme.muted, "axes.spines.right": False, "axes.spines.top": False,
        "figure.constrained_layout.use": True, "figure.facecolor": "none", "font.family": ["DejaVu Sans"],
        "font.size": 9, "grid.color": theme.grid, "legend.fontsize": 8.5, "legend.frameon": False,
        "legend.labelcolor": theme.muted, "savefig.facecolor": "none", "svg.fonttype": "none", "svg.hashsalt": "gainrl",
        "text.parse_math": False, "xtick.color": theme.muted, "ytick.color": theme.muted,
        "xtick.major.size": 0, "ytick.major.size": 0,
    }  # fmt: skip
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script that the font lacks
        matplotlib.rcdefaults()  # the user's matplotlibrc does not count
        matplotlib.rcParams.update(style)
        canvas = Canvas(figsize=(5.0, 2.7))
        draw(canvas.subplots(), theme)
        written = io.BytesIO()
        canvas.savefig(written, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(written.getvalue()).decode("ascii")
