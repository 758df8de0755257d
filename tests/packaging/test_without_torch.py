"""The installed package where torch, or the compiled module, is missing or does not load: something serves and says so.

Needs NumPy and pytest alone; the wheels are tried with it in an environment without torch (`scripts/wheels.sh`, which
names the wheel in GAINRL_WHEEL).  Where torch is installed it is hidden from the processes started here.
"""

from __future__ import annotations

import importlib.machinery
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(find_spec("gainrl").origin).parent
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
NATIVE = find_spec("gainrl._native")
HIDE_TORCH = "import sys; sys.modules['torch'] = None\n"
SCORE = """
import numpy as np, gainrl
rows = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)
for _ in range(2):
    result = gainrl.angle_concentration(rows, np.array([0, 4, 7]), np.array([1, 1, 2, 2, 1, 2, 2], dtype=np.int8))
u = rows / np.linalg.norm(rows, axis=1, keepdims=True)
for b, (p, q) in enumerate(((u[:2], u[2:4]), (u[4:5], u[5:]))):
    assert abs(result.score[b] - ((q @ q.T).mean() + (q @ p.T).mean())) < 2e-6
    assert abs(result.intra[b] - (q @ q.T).mean()) < 2e-6
assert type(result.values) is np.ndarray and (result.status == 0).all()
assert gainrl.shared_prefix(rows).tokens == 7 and abs(gainrl.shared_prefix(rows).sum - u.sum(0)).max() < 2e-6
"""
SAY = "\nimport json; print(json.dumps(gainrl.available_backends()))"


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd="/",
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def copied(tmp_path):
    """The installed package again, Python files only, in a folder that goes in front of everything else."""
    shutil.copytree(PACKAGE, tmp_path / "gainrl", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.pyi"))
    # an editable installation finds the compiled module by a hook of its own, wherever the package lies
    hook = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'gainrl' not in repr(vars(f))]\n"
    return f"{hook}sys.path.insert(0, {str(tmp_path)!r})\n", tmp_path / "gainrl"


def test_the_wheel_holds_what_its_name_says():
    wheel = os.environ.get("GAINRL_WHEEL")
    if wheel is None:
        pytest.skip("GAINRL_WHEEL names no wheel: this is not its environment")
    assert find_spec("torch") is None
    assert (NATIVE is None) == wheel.endswith("none-any.whl")


def test_the_op_scores_numpy_arrays_without_torch():
    if NATIVE is None:
        pytest.skip("native: this is the pure-Python wheel")
    done = run(HIDE_TORCH + SCORE + "assert gainrl.available_backends()['native'] == 'ok'" + SAY)
    assert "torch does not import" in done.stdout
    assert done.stderr == ""


def test_without_torch_and_compiled_module_the_reference_serves_and_says_so_once(copied):
    path, _ = copied
    done = run(path + HIDE_TORCH + SCORE)
    assert done.stderr.count("uses the backend reference") == 1
    assert "not native: gainrl was installed without its compiled module" in done.stderr
    assert "not torch: torch does not import" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the messages are those of the GNU loader")
@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (b"\x7fELF, cut short", "file too short|invalid ELF header"),
        (b"", "file too short"),
    ],
    ids=["damaged", "empty"],
)
def test_a_compiled_module_that_does_not_load_is_passed_over_with_the_loaders_reason(copied, module, reason):
    path, package = copied
    (package / f"_native{SUFFIX}").write_bytes(module)
    done = run(path + HIDE_TORCH + SCORE)
    assert done.stderr.count("angle concentration on cpu uses the") == 1
    assert any(f"the compiled module does not load: {package}" in done.stderr and r in done.stderr
               for r in reason.split("|"))  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="cc: no C compiler")
def test_a_module_for_a_newer_glibc_is_passed_over_and_the_message_names_the_version(copied, tmp_path):
    """A real library that asks for a version of glibc that does not exist yet."""
    path, package = copied
    (tmp_path / "libc_of_the_future.map").write_text("GLIBC_9.99 { global: from_the_future; };")
    (tmp_path / "future.c").write_text("int from_the_future(void) { return 1; }")
    (tmp_path / "module.c").write_text(
        "int from_the_future(void); int PyInit__native(void) { return from_the_future(); }"
    )
    future = tmp_path / "libfuture.so"
    build = ["cc", "-shared", "-fPIC", "-o"]
    subprocess.run([*build, future, tmp_path / "future.c", "-Wl,-soname,libm.so.6",
                    f"-Wl,--version-script={tmp_path / 'libc_of_the_future.map'}"], check=True)  # fmt: skip
    subprocess.run([*build, package / f"_native{SUFFIX}", tmp_path / "module.c", future], check=True)
    done = run(path + HIDE_TORCH + SCORE)
    assert "version `GLIBC_9.99' not found" in done.stderr
    assert "uses the backend reference; not native: the compiled module does not load" in done.stderr


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="cc: no C compiler")
def test_a_driver_too_old_for_the_cuda_code_is_named_with_what_it_lacks(tmp_path):
    """A libcuda that says it serves CUDA 11.8: the real runtime inside the module asks it."""
    if NATIVE is None or "True" not in run("from gainrl import _native; print(_native.built_with_cuda)").stdout:
        pytest.skip("cuda: the compiled module was built without CUDA code")
    (tmp_path / "driver.c").write_text("int cuDriverGetVersion(int* version) { *version = 11080; return 0; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"], check=True)
    script = "import gainrl; print(gainrl.available_backends()['native-cuda'])"
    said = run(HIDE_TORCH + script, LD_LIBRARY_PATH=str(tmp_path)).stdout
    assert "the driver serves CUDA 11.8 and the compiled kernels need CUDA 1" in said


def test_an_older_processor_gets_the_plain_code():
    if NATIVE is None:
        pytest.skip("native: this is the pure-Python wheel")
    script = HIDE_TORCH + SCORE + "from gainrl import _native; assert _native.cpu_isa() == 'plain', _native.cpu_isa()"
    run(script, GAINRL_CPU_ISA="plain")


def test_a_backend_that_was_named_never_falls_back(copied):
    path, _ = copied
    script = """
import numpy as np, gainrl
for name in ("native", "torch", "triton"):
    try: gainrl.angle_concentration(np.ones((1, 3, 4), np.float32), None, np.ones((1, 3), bool), backend=name)
    except gainrl.UserError as error: print(name, error)
"""
    done = run(path + HIDE_TORCH + script)
    assert "native backend 'native' cannot serve cpu tensors: gainrl was installed without" in done.stdout
    assert "torch backend 'torch' cannot serve cpu tensors: torch does not import" in done.stdout
    assert "triton backend 'triton' cannot serve cpu tensors" in done.stdout
