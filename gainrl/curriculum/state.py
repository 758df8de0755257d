"""The state of a navigator on disk: one JSON object, versioned, refused by name where it does not fit.

    format     "gainrl-curriculum"
    version    3
    navigator  kind: gaussian, target, posterior, probe, uniform, fixed, shortest-first
    ranking    {size: N, dataset: the dataset's fingerprint, order: a hash of the ids in rank order}
    settings   every setting that the draws depend on, n and seed among them
    epoch      the epoch under way, from 0
    position   where its draw came from (the window's mean, counts per prompt), empty where the epoch says it all
    totals     integer sums over the rollouts observed since its draw (gainrl.curriculum.totals)
    late       the part of them that comes from prompts drawn for earlier epochs
    outcomes   sums per prompt of the same rollouts (gainrl.curriculum.outcomes); null where the navigator needs none

With it and the ranking, the epoch under way and all later ones follow; the drawn ids are not stored, because a draw is
a pure function of (settings, epoch, position).  The size does not depend on the number of prompts, except for the
navigators that remember prompts: at most 1 MB per 100 thousand prompts (tests/curriculum/test_state_size.py).

Older versions are read: in version 2 nothing is late; in version 1 (before partial credit) counts of correct rollouts
become credit, and windows have no resting prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gainrl.curriculum.outcomes import Outcomes
from gainrl.curriculum.ranking import Ranking
from gainrl.curriculum.totals import Totals
from gainrl.errors import UserError

FORMAT = "gainrl-curriculum"
VERSION = 3
_FIELDS = ("format", "version", "navigator", "ranking", "settings", "epoch", "position", "totals", "late", "outcomes")


def pack(
    kind: str,
    ranking: Ranking,
    settings: Mapping[str, Any],
    epoch: int,
    position: Mapping[str, Any],
    totals: Totals,
    late: Totals,
    outcomes: Outcomes | None,
) -> dict[str, Any]:
    """The state as plain JSON types."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "navigator": kind,
        "ranking": {"size": len(ranking), "dataset": ranking.fingerprint, "order": ranking.digest},
        "settings": dict(settings),
        "epoch": epoch,
        "position": dict(position),
        "totals": {field.name: getattr(totals, field.name) for field in fields(totals)},
        "late": {field.name: getattr(late, field.name) for field in fields(late)},
        "outcomes": None if outcomes is None else outcomes.state(),
    }


def unpack(
    state: Mapping[str, Any],
    kind: str,
    ranking: Ranking,
    settings: Mapping[str, Any],
    position: Mapping[str, Any],
    remembers: bool,
) -> tuple[int, dict[str, Any], Totals, Totals, Outcomes | None]:
    """Check a state against what it is loaded into; returns its epoch, position, totals, late totals and outcomes.

    `settings` must be equal, `position` gives the names that a position must have, `remembers` says whether there
    are outcomes per prompt.  Raises UserError that names the field, and both values where two differ.
    """
    if not isinstance(state, Mapping) or state.get("format") != FORMAT:
        raise UserError(f"this is no curriculum state: its field 'format' is not {FORMAT!r}")
    if state.get("version") == 1:
        state = _from_version_1(state)
    if state.get("version") == 2:
        state = _from_version_2(state)
    if state.get("version") != VERSION:
        raise UserError(
            f"curriculum state of version {state.get('version')!r}: this gainrl reads versions 1 to {VERSION}; "
            "use the release that wrote it"
        )
    _same_fields("curriculum state", state, _FIELDS)
    if state["navigator"] != kind:
        raise UserError(f"the state is of the navigator {state['navigator']!r}, this run uses {kind!r}")
    _check_ranking(state["ranking"], ranking)
    _check_settings(state["settings"], settings)

    epoch = state["epoch"]
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 2**64:
        raise UserError(f"curriculum state: epoch must be an integer in [0, 2^64), got {epoch!r}")
    _same_fields("position of the curriculum state", state["position"], tuple(position))
    names = tuple(field.name for field in fields(Totals))
    for part in ("totals", "late"):
        _same_fields(f"{part} of the curriculum state", state[part], names)
    totals, late = Totals(**state["totals"]), Totals(**state["late"])
    _ = totals - late  # UserError if it is no part of them
    if remembers != (state["outcomes"] is not None):
        raise UserError(
            "curriculum state: outcomes per prompt belong to navigators that remember prompts, and only there"
        )
    outcomes = Outcomes.from_state(state["outcomes"], len(ranking)) if remembers else None
    return epoch, dict(state["position"]), totals, late, outcomes


def _from_version_1(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same state in the fields of version 2; what does not fit is left for the checks that follow."""
    new = {**state, "version": 2, "outcomes": None}
    totals, settings = state.get("totals"), state.get("settings")
    if isinstance(totals, Mapping) and isinstance(totals.get("correct"), int):
        others = {name: value for name, value in totals.items() if name != "correct"}
        new["totals"] = {**others, "credit_units": totals["correct"] * 2**32}
    if isinstance(settings, Mapping) and state.get("navigator") in ("gaussian", "uniform"):
        new["settings"] = {**settings, "skip_mastered": None, "mastered_rest": None}
    return new


def _from_version_2(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same state in the fields of version 3; what does not fit is left for the checks that follow."""
    new = {**state, "version": 3}
    if "late" not in state:
        new["late"] = {field.name: 0 for field in fields(Totals)}
    outcomes = state.get("outcomes")
    if isinstance(outcomes, Mapping) and "late" not in outcomes:
        new["outcomes"] = {**outcomes, "late": None}
    return new


def _check_ranking(saved: Any, ranking: Ranking) -> None:
    _same_fields("ranking of the curriculum state", saved, ("size", "dataset", "order"))
    if saved["dataset"] != ranking.fingerprint or saved["size"] != len(ranking):
        raise UserError(
            f"the state belongs to another dataset: it has {saved['size']} prompts and fingerprint "
            f"{saved['dataset']!r}, this one {len(ranking)} and {ranking.fingerprint!r}"
        )
    if saved["order"] != ranking.digest:
        raise UserError(
            f"the state belongs to another ranking of this dataset: its order is {saved['order']!r}, this one's "
            f"{ranking.digest!r}; resume with the score table that the run started with"
        )


def _check_settings(saved: Any, settings: Mapping[str, Any]) -> None:
    if isinstance(saved, Mapping) and saved.get("model") != settings.get("model"):
        raise UserError(
            f"the state is of model {saved.get('model')!r} of this navigator, this release has model "
            f"{settings.get('model')!r}, which draws other prompts: finish the run with the release that began it, or "
            "begin a new one"
        )
    _same_fields("settings of the curriculum state", saved, tuple(settings))
    differing = [
        f"{name} was {saved[name]!r} and is now {settings[name]!r}"
        for name in settings
        if type(saved[name]) is not type(settings[name]) or saved[name] != settings[name]
    ]
    if differing:
        raise UserError(f"the state was saved under other curriculum settings: {'; '.join(differing)}")


def _same_fields(what: str, found: Any, wanted: tuple[str, ...]) -> None:
    if not isinstance(found, Mapping):
        raise UserError(f"{what} must be a mapping, got {type(found).__name__}")
    missing = [name for name in wanted if name not in found]
    unknown = sorted(str(name) for name in found if name not in wanted)
    if missing or unknown:
        raise UserError(f"{what} does not fit this release: missing fields {missing}, unknown fields {unknown}")
