"""Which code made a result: short digests of what decides a run, so that results of different code can be told apart.

    bed        the bed, its pretraining, the rankings and the run itself, and the protocol's values for all families
    family     the family's problems (those of seed 0 stand for all) and its own values in the protocol
    arm        the arm's ranking and settings
    navigator  the navigator's module, what it is derived from, and all that these import of gainrl.curriculum
    settings   how a navigator is built of a trainer's settings, with their defaults
    trainer    gainrl's trainer and what it imports of gainrl.integrations
    libraries  versions, in words

Of code it is the syntax tree without docstrings that counts: comments, layout and documentation change nothing; a new
name for a variable does.  Values are taken as they are, not as they are written.  A module counts as a whole: a change
to one may concern other arms alone, so that different digests say "look", and equal ones "the same".  Not in it: the
scoring pass (its table is made once and kept beside the base), grading and the angle operation.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.convergence import oracle
from benchmarks.convergence.arms import Arm, arm
from benchmarks.convergence.base import content_key
from benchmarks.convergence.held_out import family
from benchmarks.convergence.protocol import Protocol
from benchmarks.harness import ROOT
from gainrl.curriculum import NAVIGATORS

ROOMS = ("gainrl/curriculum", "gainrl/integrations", "benchmarks/convergence")
VALUES = ("arms", "families", "held_out", "protocol", "oracle")
"""Modules of benchmarks.convergence that the digest of the bed leaves out: what they define is in other parts."""
SETTINGS = "gainrl.curriculum.building"
TRAINER = "gainrl.integrations.trl.trainer"
LIBRARIES = ("numpy", "torch", "transformers", "trl")
PARTS = ("bed", "family", "arm", "navigator", "settings", "trainer", "libraries")
Sources = Mapping[str, str]


def sources(root: Path = ROOT) -> dict[str, str]:
    """The text of each module of the ROOMS by its dotted name."""
    files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts): path.read_text(encoding="utf-8") for path in files}


@cache
def loaded() -> dict[str, str]:
    """Sources as they were when this process first asked; the checkout may have moved on by the time of a later run."""
    return sources()


@cache
def plain(source: str) -> str:
    """Code without comments, layout and strings that stand alone (docstrings, and those behind attributes)."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                kept = [line for line in body if not _is_text(line)]
                setattr(node, name, kept or ([ast.Pass()] if body else []))
    return ast.unparse(tree)


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def imported(modules: Sources, roots: Iterable[str], package: str) -> list[str]:
    """These modules and those of `package` that they import, and so on; not through a package's __init__."""
    found: set[str] = set()
    waiting = [name for name in roots if name in modules]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += [one for one in _imports(modules[name]) if one in modules and one.startswith(f"{package}.")]
    return sorted(found)


@cache
def _imports(source: str) -> list[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module]
    return [name for node in nodes for name in (node.module, *(f"{node.module}.{one.name}" for one in node.names))]


def digest(*values: Any) -> str:
    """Twelve hex digits of these JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def code_of(protocol: Protocol, family_name: str, arm_name: str, modules: Sources | None = None) -> dict[str, str]:
    """The digests of one arm's runs on one family, by part."""
    modules = loaded() if modules is None else modules
    bed = protocol.bed(family_name, 0)
    shared = asdict(protocol)
    own = [content_key(bed.family, bed.size, bed.pretraining, 0), shared.pop("learning_rate")[family_name]]
    shared.pop("pretraining")
    made = imported(modules, ["benchmarks.convergence.training"], "benchmarks.convergence")
    problems = [asdict(problem) for problem in (*bed.problems, *bed.held_out)]
    return {
        "bed": digest(shared, _code(modules, (name for name in made if name.rpartition(".")[2] not in VALUES))),
        "family": digest(own, family(family_name).examples, problems),
        "arm": digest(*_settings(arm(arm_name))),
        "navigator": digest(_code(modules, _navigator(modules, arm(arm_name)))),
        "settings": digest(_code(modules, [SETTINGS])),
        "trainer": digest(_code(modules, imported(modules, [TRAINER], "gainrl.integrations"))),
        "libraries": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
    }


def _settings(one: Arm) -> list[Any]:
    return [one.ranking, dict(one.settings), one.ranked, one.own_directions]


def _navigator(modules: Sources, one: Arm) -> list[str]:
    oracle.register()
    kinds = NAVIGATORS[one.settings["curriculum_navigator"]].__mro__
    return imported(modules, [kind.__module__ for kind in kinds], "gainrl.curriculum")


def _code(modules: Sources, names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, plain(modules[name])) for name in names]


def differences(results: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where results that should come from the same code do not: a row for each digest, most results first.

    `navigator` and `arm` are compared within an arm, `family` within a family, the others over all results.  Results
    made before digests were kept have the digest None; where all have that, there is nothing to compare.
    """
    groups: dict[tuple[str, str], dict[str | None, list[str]]] = {}
    for (family_name, arm_name, seed), result in sorted(results.items()):
        code = result.get("code") or {}
        for part in PARTS:
            of = {"arm": arm_name, "navigator": arm_name, "family": family_name}.get(part, "all")
            places = groups.setdefault((part, of), {}).setdefault(code.get(part), [])
            places.append(f"{family_name} {arm_name} {seed}")
    order = {part: at for at, part in enumerate(PARTS)}
    return [
        {"part": part, "of": of, "digest": found, "results": places}
        for (part, of), by_digest in sorted(groups.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        if len(by_digest) > 1
        for found, places in sorted(by_digest.items(), key=lambda item: (-len(item[1]), str(item[0])))
    ]
