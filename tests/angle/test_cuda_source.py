"""The CUDA source, where no GPU is: run on the host under sanitizers, and judged by the compiler's report."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "csrc" / "angle").iterdir()), *sorted((Path(__file__).parent / "emulated").glob("*.[ch]*"))]
ARCHITECTURES = (80, 86, 89, 90, 100, 120)


def built_once(name: str, command: list[str]) -> tuple[Path, str]:
    """What `command` makes from SOURCES as `{output}`, kept under build/ until a source changes, and its messages."""
    digest = hashlib.sha256(" ".join(command).encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    folder = ROOT / "build" / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{digest.hexdigest()[:16]}-{name}"
    log = target.with_suffix(".log")
    if not log.exists():
        done = subprocess.run(
            [part.replace("{output}", str(target)) for part in command],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        log.write_text(done.stderr + done.stdout)
    return target, log.read_text()


@pytest.fixture(scope="module")
def emulated(tool) -> tuple[Path, str]:
    compiler = tool("g++")
    library, _ = built_once(
        "emulated.so",
        [
            compiler, "-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-DGAINRL_EMULATE_CUDA",
            "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Icsrc", "-Itests/angle/emulated",
            "tests/angle/emulated/emulated.cpp", "-o", "{output}",
        ],
    )  # fmt: skip
    runtime = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(runtime).is_absolute():
        pytest.skip("sanitizers: g++ has no AddressSanitizer runtime")
    return library, runtime


def run_emulated(emulated: tuple[Path, str], cases: int, seed: int) -> str:
    library, runtime = emulated
    environment = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            sys.executable, str(Path(__file__).parent / "emulated" / "check.py"), str(library),
            "--cases", str(cases), "--seed", str(seed),
        ],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_cuda_kernels_run_clean_under_sanitizers_on_the_host(emulated):
    assert "12 cases" in run_emulated(emulated, 12, seed=0)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_cuda_kernels_run_clean_under_sanitizers_on_many_cases(emulated, seed):
    run_emulated(emulated, 50, seed)


def compiler_report(nvcc: str, architecture: int) -> str:
    return built_once(
        f"sm_{architecture}.o",
        [
            nvcc, "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Icsrc", "-Xptxas", "-v", "-c",
            "csrc/angle/cuda.cu", "-o", "{output}",
        ],
    )[1]  # fmt: skip


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=() if a == 90 else pytest.mark.full) for a in ARCHITECTURES],
)
def test_no_kernel_spills_or_uses_local_memory(architecture, tool):
    report = compiler_report(tool("nvcc"), architecture)
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\s+ptxas info\s+: Used (\d+)",
        report,
    )
    kernels = re.findall(r"Compiling entry function '(\w+)'", report)
    # Three dtypes times (one to four units per thread, any layout), and the joining kernel.
    assert len(kernels) == len(frames) == 3 * 5 + 1
    for kernel, (_frame, stores, loads, _registers) in zip(kernels, frames, strict=True):
        # The widest rows of float32 keep one address in local memory, outside the loops.
        most = 40 if "angle_sumIfLi8E" in kernel else 0
        assert int(stores) + int(loads) <= most, f"{kernel} on sm_{architecture}"
