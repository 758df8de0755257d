"""A page: a title, facts, tiles, and sections of text, figures, tables and prompts, rendered by jinja2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from gainrl.errors import UserError
from gainrl.files import write_text
from gainrl.report.figures import Figure
from gainrl.report.records import plain


class Table(NamedTuple):
    """Column names and rows of cells."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Section(NamedTuple):
    """A heading with a sentence below it, then figures with their titles, then a table, then prompts."""

    title: str
    lead: str = ""
    figures: Sequence[tuple[Figure | None, str]] = ()
    table: Table | None = None
    prompts: Sequence[Mapping[str, Any]] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show below the heading."""
        return not (any(figure for figure, _ in self.figures) or self.prompts or (self.table and self.table.rows))


class Page(NamedTuple):
    """Everything on a page: tiles are (value, name), details long texts that open on a click."""

    title: str
    facts: Mapping[str, Any]
    tiles: Sequence[tuple[str, str]]
    notes: Sequence[str]
    sections: Sequence[Section]
    details: Mapping[str, str]


def write(page: Page, output: Path) -> Path:
    """Write a page as one HTML file, whole or not at all; UserError if its folder is missing."""
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: the folder {output.parent} does not exist")
    loader = jinja2.PackageLoader("gainrl.report", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["plain"] = plain
    write_text(output, environment.get_template("page.html").render(page=page))
    return output


def percent(value: float | None) -> str:
    """`42.0 %`, or a dash."""
    return "–" if value is None or value != value else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """`12 345` with thin spaces, or a dash."""
    return "–" if value is None or value != value else f"{value:,.0f}".replace(",", "\u202f")


def span(seconds: float | None) -> str:
    """`3 h 20 min`, `12 min 3 s` or `4.2 s`, or a dash."""
    if seconds is None or seconds != seconds:
        return "–"
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.1f} s"
