"""scripts/check_wheel.py on real libraries that a C compiler makes: each thing that a wheel must not hold is named."""

from __future__ import annotations

import importlib.util
import subprocess
import zipfile
from pathlib import Path

import pytest

from gainrl.angle.backends import native_module

pytest.importorskip("elftools", reason="pyelftools: pip install 'gainrl[wheels]'")
SCRIPT = Path(__file__).parents[2] / "scripts" / "check_wheel.py"
METADATA = "Metadata-Version: 2.4\nName: gainrl\nRequires-Dist: torch>=2.9\n"
COMPILED = "gainrl-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
MODULE = "gainrl/_native.cpython-311-x86_64-linux-gnu.so"


@pytest.fixture(scope="module")
def check():
    if not SCRIPT.exists():
        pytest.skip("scripts/check_wheel.py is not beside these tests (they run on an installed wheel)")
    spec = importlib.util.spec_from_file_location("check_wheel", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel(folder: Path, name: str, files: dict[str, bytes], metadata: str = METADATA) -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr("gainrl-0.1.0.dist-info/METADATA", metadata)
    return folder / name


@pytest.fixture
def library(tmp_path, tool):
    compiler = tool("cc")

    def build(source: str, *options: str, name: str = "library.so") -> bytes:
        (tmp_path / "source.c").write_text(source)
        made = [compiler, "-shared", "-fPIC", "-o", tmp_path / name]
        subprocess.run([*made, tmp_path / "source.c", *options], check=True)
        return (tmp_path / name).read_bytes()

    return build


def test_the_installed_module_is_clean(check, require_backend):
    require_backend("native")
    module = native_module()
    assert list(check.problems_of_module(Path(module.__file__).read_bytes(), cuda=module.built_with_cuda)) == []


def test_symbols_of_torch_and_of_a_shared_cuda_runtime_are_found(check, library):
    source = "void _ZN2at5emptyEv(void); void cudaMalloc(void); void PyInit__native(void) { %s }"
    for call, name in (("_ZN2at5emptyEv();", "_ZN2at5emptyEv"), ("cudaMalloc();", "cudaMalloc")):
        found = list(check.problems_of_module(library(source % call), cuda=False))
        assert found == [f"needs symbols of torch or CUDA: {name}"]


def test_other_exports_libraries_and_run_paths_are_found(check, library, tmp_path):
    library("int f(void) { return 1; }", "-Wl,-soname,libother.so.3", name="libother.so")
    data = library("int f(void); int PyInit__native(void) { return f(); } int more;", f"-L{tmp_path}", "-lother",
                   "-Wl,-rpath,/opt/other")  # fmt: skip
    found = list(check.problems_of_module(data, cuda=True))
    assert found == ["needs libother.so.3", "has a run path", "exports 1 symbols besides PyInit__native: more",
                     "has no CUDA code"]  # fmt: skip


def test_a_compiled_wheel_is_one_module_with_a_manylinux_tag(check, library, tmp_path):
    good = library("void PyInit__native(void) {}")
    assert list(check.problems(wheel(tmp_path, COMPILED, {MODULE: good}), cuda=False)) == []
    untagged = wheel(tmp_path, COMPILED.replace("manylinux_2_28", "linux"), {MODULE: good})
    assert "no manylinux tag" in " ".join(check.problems(untagged, cuda=False))
    two = wheel(tmp_path, COMPILED, {MODULE: good, "gainrl.libs/libgomp.so.1": good})
    assert "gainrl/_native alone is wanted" in " ".join(check.problems(two, cuda=False))


def test_a_pure_wheel_holds_nothing_compiled_and_no_wheel_ties_torch_or_is_large(check, tmp_path, capsys, monkeypatch):
    name = "gainrl-0.1.0-py3-none-any.whl"
    assert list(check.problems(wheel(tmp_path, name, {}), cuda=True)) == []
    tied = wheel(tmp_path, name, {MODULE: b""}, METADATA.replace(">=2.9", "==2.13.0"))
    found = list(check.problems(tied, cuda=False))
    assert found == [f"is said to be pure and holds {MODULE}", "ties torch to ['==2.13.0']; one lower bound is wanted"]
    monkeypatch.setattr(check, "LARGEST", 100)
    assert "bytes; below 100 is wanted" in next(check.problems(tied, cuda=False))
    monkeypatch.setattr("sys.argv", ["check_wheel.py", str(tmp_path)])
    assert check.main() == 1
    assert name in capsys.readouterr().out
