"""Digests of the code behind a result: what changes them, what does not, and what the report makes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="trl is not installed")

from benchmarks.convergence import digests, report, study
from benchmarks.convergence import protocol as protocols

PROTOCOL = protocols.load()
SOURCES = digests.sources()


def code(arm: str = "probe", family: str = "sums", protocol: protocols.Protocol = PROTOCOL, **changed: str):
    """Digests with the text of some modules changed."""
    return digests.code_of(protocol, family, arm, {**SOURCES, **changed})


def unlike(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {part for part in digests.PARTS if one[part] != other[part]}


def test_comments_layout_and_docstrings_change_nothing_and_statements_do():
    source = 'def f(x):\n    """What."""\n    return x + 1  # why\n\n\nA = 1\n"""An attribute\'s text."""\n'
    same = "def f(x):\n\n  return (x +\n      1)\nA = 1\n"
    assert digests.plain(source) == digests.plain(same)
    assert digests.plain(source) != digests.plain(same.replace("1)", "2)"))
    assert digests.plain('def f():\n    """Only this."""\n') == digests.plain("def f():\n    pass\n")


@pytest.mark.parametrize(
    ("module", "arm", "parts"),
    [
        ("gainrl.curriculum.probe", "probe", {"navigator"}),
        ("gainrl.curriculum.probe", "gainrl", set()),
        ("gainrl.curriculum.logistic", "probe", {"navigator"}),
        ("gainrl.curriculum.base", "gainrl", {"navigator"}),
        ("gainrl.curriculum.windows", "probe", set()),
        ("gainrl.curriculum.building", "uniform", {"settings"}),
        ("gainrl.integrations.trl.backfill", "uniform", {"trainer"}),
        ("gainrl.integrations.trl.run", "uniform", set()),
        ("gainrl.integrations.verl.hook", "uniform", set()),
        ("benchmarks.convergence.training", "uniform", {"bed"}),
        ("benchmarks.convergence.oracle", "oracle", {"navigator"}),
        ("benchmarks.convergence.oracle", "probe", set()),
        ("benchmarks.convergence.report", "probe", set()),
        ("benchmarks.convergence.arms", "probe", set()),
    ],
)
def test_a_changed_module_changes_the_part_that_runs_it_and_no_other_arm(module: str, arm: str, parts: set[str]):
    changed = code(arm, **{module: SOURCES.get(module, "") + "\nCHANGED = True\n"})
    assert unlike(code(arm), changed) == parts


def test_values_of_the_protocol_count_where_they_are_used():
    rates = PROTOCOL.learning_rate | {"strings": 1.0}
    assert unlike(code(), code(protocol=dataclasses.replace(PROTOCOL, learning_rate=rates))) == set()
    rates = PROTOCOL.learning_rate | {"sums": 1.0}
    assert unlike(code(), code(protocol=dataclasses.replace(PROTOCOL, learning_rate=rates))) == {"family"}
    assert unlike(code(), code(protocol=dataclasses.replace(PROTOCOL, alpha=1.0))) == {"bed"}
    assert unlike(code(), code(family="lists")) == {"family"}
    assert unlike(code("gainrl"), code("reversed")) == {"arm"}


def results(*keys: tuple[str, str, int], **parts: str | None):
    made = {part: f"{part}-1" for part in digests.PARTS} | parts
    return {key: {"code": made} for key in keys}


def test_results_of_different_code_are_listed_where_they_are_held_against_each_other():
    first = results(("sums", "probe", 0), ("sums", "probe", 1), ("sums", "gainrl", 0), navigator="old")
    found = digests.differences(first | results(("lists", "probe", 0), navigator="new", family="lists"))
    assert [(one["part"], one["of"], one["digest"], len(one["results"])) for one in found] == [
        ("navigator", "probe", "old", 2),
        ("navigator", "probe", "new", 1),
    ]
    assert found[1]["results"] == ["lists probe 0"]
    assert digests.differences(first) == []


def test_results_without_a_digest_are_told_apart_from_those_with_one_and_not_from_each_other():
    old = {("sums", "probe", 0): {"commit": "a"}, ("sums", "probe", 1): {"commit": "b"}}
    assert digests.differences(old) == []
    found = digests.differences(old | results(("sums", "probe", 2)))
    assert {(one["part"], one["digest"]) for one in found if one["part"] == "navigator"} == {
        ("navigator", None),
        ("navigator", "navigator-1"),
    }


def test_a_result_lands_with_its_digests_and_one_of_other_code_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key = ("sums", "uniform", 0)
    import benchmarks.convergence.training as training

    monkeypatch.setattr(training, "run", lambda *given: dict(zip(("family", "arm", "seed"), given[1:], strict=True)))
    study.land(PROTOCOL, key, tmp_path)
    landed = study.results(tmp_path)[key]
    assert landed["code"] == digests.code_of(PROTOCOL, "sums", "uniform")
    changed = landed | {"code": landed["code"] | {"trainer": "other"}}
    study.result_path(key, tmp_path).write_text(study.compact(changed))
    assert study.missing([key], tmp_path) == []
    assert key not in report.still_missing(study.results(tmp_path))
