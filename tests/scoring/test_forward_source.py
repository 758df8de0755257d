"""The C++ source of the forward kernels under sanitizers: a driver with every size odd, on every instruction set."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("forward_driver")
SANITIZERS = {  # flags, and how many cases each of so many threads runs
    "address": ("-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all", 30, 2),
    "thread": ("-fsanitize=thread", 4, 3),
}
pytestmark = [pytest.mark.full, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module", params=SANITIZERS)
def driver(request: pytest.FixtureRequest, tool: Callable[[str], str]) -> tuple[Path, int, int]:
    """The driver, built with one of them, and what to give it; what was built stays under build/ for the next time."""
    cmake, _ = tool("cmake"), tool("c++")
    sanitizer, cases, threads = SANITIZERS[request.param]
    folder = ROOT / "build" / "tests" / f"forward-{request.param}"
    configure = [cmake, "-S", str(DRIVER), "-B", str(folder), "-DCMAKE_BUILD_TYPE=None"]
    configure += ["-G", "Ninja"] if shutil.which("ninja") else []
    configure += [f"-DCMAKE_CXX_FLAGS=-O1 -g -fno-omit-frame-pointer {sanitizer}"]
    for command in (configure, [cmake, "--build", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "cannot find -l" in done.stderr + done.stdout:
            pytest.skip(f"sanitizers: the compiler has no {request.param} sanitizer")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return folder / "forward_driver", cases, threads


@pytest.mark.parametrize("isa", ["plain", "avx2", "avx512", "avx512bf16"])
def test_the_forward_kernels_run_clean_under_sanitizers_and_equal_their_formulas(
    driver: tuple[Path, int, int], isa: str
) -> None:
    program, cases, threads = driver
    environment = {**os.environ, "GAINRL_CPU_ISA": isa}
    done = subprocess.run(
        [str(program), str(cases), "1", str(threads)],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    if done.stdout != f"{isa}: {cases * threads} cases\n":
        pytest.skip(f"this processor has no {isa}")
