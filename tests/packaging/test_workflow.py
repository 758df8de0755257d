"""The workflow that makes releases: wheels come from the source distribution alone; nothing falls back in silence."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "wheels.yml"
if not WORKFLOW.exists():
    pytest.skip("the workflow is not beside these tests (they run on an installed wheel)", allow_module_level=True)

JOBS = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]


def script(job):
    return "\n".join(step["run"] for step in JOBS[job]["steps"] if "run" in step)


def entries(job):
    return JOBS[job]["strategy"]["matrix"]["include"]


def test_wheels_are_built_where_only_the_source_distribution_is():
    steps = JOBS["build"]["steps"]
    assert JOBS["build"]["needs"] == "source"
    assert not any("checkout" in step.get("uses", "") for step in steps)
    (builds,) = [step for step in steps if "cibuildwheel" in step.get("uses", "")]
    assert builds["with"]["package-dir"] == "${{ steps.source.outputs.path }}"
    assert "dist/*.tar.gz" in script("build")
    left_out = TOOLS["scikit-build"]["sdist"]["exclude"]
    assert not {"tests", "scripts"} & set(left_out)  # cibuildwheel's steps use both


def test_the_wheel_is_tried_with_no_torch_to_download_and_its_module_may_not_be_missing():
    settings = TOOLS["cibuildwheel"]
    assert settings["test-environment"] == {"PIP_NO_DEPS": "1", "GAINRL_REQUIRE": "native"}
    assert "GAINRL_WHEEL={wheel}" in settings["test-command"]
    assert "torch" not in settings["before-test"]
    assert "test-requires" not in settings  # it would be installed without its dependencies


def test_every_python_meets_the_oldest_and_the_newest_torch_and_none_comes_with_cuda():
    tested = {(entry["tag"], entry["torch"]) for entry in entries("torch")}
    built = JOBS["build"]["strategy"]["matrix"]["python"]
    assert tested == {(tag, torch) for tag in built for torch in ("oldest", "newest")}
    assert all(f"{tag}-manylinux_x86_64" in TOOLS["cibuildwheel"]["build"] for tag in built)
    for job in ("torch", "elsewhere"):
        first = script(job).index('--torch-backend cpu "$(python scripts/torch_range.py')
        assert first < script(job).index("python -m pip install -v dist/" if job == "elsewhere" else "dist/*.whl")


def test_an_arm_build_that_is_pure_python_fails():
    (arm,) = [entry for entry in entries("elsewhere") if entry["os"].endswith("-arm") and "tar.gz" in entry["what"]]
    assert arm["required"] == "native"
    assert arm["cmake"]  # a build with CMAKE_ARGS does not fall back
    pure = [override for override in TOOLS["scikit-build"]["overrides"] if override["if"].get("from-sdist")]
    assert [override["if"]["not"] for override in pure] == [{"env": {"CMAKE_ARGS": ".+"}}]
    assert "find_spec" in script("elsewhere")
