"""From scores and outcomes to prompts: the navigators, by name.

NumPy and SciPy only.  `make_navigator` builds one from a name and its settings; `gainrl.curriculum.base` has the
contract that all of them share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from gainrl.curriculum.base import Navigator, unknown_name
from gainrl.curriculum.baseline import advantages_over
from gainrl.curriculum.gaussian import GaussianNavigator
from gainrl.curriculum.posterior import PosteriorNavigator
from gainrl.curriculum.probe import ProbeNavigator
from gainrl.curriculum.prompts import Outcomes, Prompts, check_number
from gainrl.curriculum.uniform import UniformNavigator

__all__ = [
    "DEFAULT",
    "NAVIGATORS",
    "Navigator",
    "Outcomes",
    "Prompts",
    "advantages_over",
    "check_number",
    "make_navigator",
    "navigator_settings",
]

NAVIGATORS: dict[str, type[Navigator]] = {
    "gaussian": GaussianNavigator,
    "posterior": PosteriorNavigator,
    "probe": ProbeNavigator,
    "uniform": UniformNavigator,
}
"""By the name that a run file gives."""
DEFAULT = "probe"


def make_navigator(
    name: str,
    prompts: Prompts,
    args: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    quota: Mapping[str, float] | None = None,
) -> Navigator:
    """The navigator of this name over these prompts; `args` are fields of its settings.

    Raises UserError for an unknown navigator or argument, naming the nearest, and for values out of range.
    """
    settings = navigator_settings(name, args)
    return NAVIGATORS[name](prompts, settings, seed=seed, quota=quota)


def navigator_settings(name: str, args: Mapping[str, Any] | None = None) -> Any:
    """The settings of a navigator from its arguments, checked without any prompts; errors as in `make_navigator`."""
    if name not in NAVIGATORS:
        raise unknown_name("unknown navigator", name, NAVIGATORS)
    kind = NAVIGATORS[name].Settings
    known = [field.name for field in dataclasses.fields(kind)]
    for given in args or {}:
        if given not in known:
            raise unknown_name(f"the navigator {name!r} has no argument", given, known)
    return kind(**(args or {}))
