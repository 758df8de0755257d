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
    # Three dtypes times one to four units per thread, and the joining kernel.
    assert len(kernels) == len(frames) == 3 * 4 + 1
    for kernel, (_frame, stores, loads, _registers) in zip(kernels, frames, strict=True):
        # Rows of float32 may keep an address in local memory: the widest, outside the loops; on sm_120 also those of
        # four vectors a thread, stored before the loop and read once a round.
        most = 40 if "angle_sumIfLi8E" in kernel else 16 if architecture == 120 and "angle_sumIfLi4E" in kernel else 0
        assert int(stores) + int(loads) <= most, f"{kernel} on sm_{architecture}"


@pytest.mark.parametrize("width", [576, 896, 1536, 2048, 3584, 4096, 8192])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_prompts_are_cut_into_whole_waves(width, dtype, tool):
    """4,096 prompts of 20 to 300 tokens on 132 multiprocessors, for any number of blocks that each may hold."""
    tool("g++")
    sys.path.insert(0, str(ROOT / "tools" / "ptxrun"))
    from angle_ptx import Params, planned

    rows = sum(20 + (i * 7919) % 281 for i in range(4096))
    size = 4 if dtype == "float32" else 2
    p = Params(
        hidden=1 << 20, dtype=["float32", "float16", "bfloat16"].index(dtype), width=width, stride_row=width,
        stride_column=1, sequences=4096, rows=rows, roles=1 << 20, offsets=1 << 20, values=1 << 20, counts=1 << 20,
    )  # fmt: skip
    for blocks in range(1, 33):
        chosen = planned(p, 132 * blocks)
        waves = chosen.chunks / (132 * blocks)
        assert waves <= round(waves) <= 1.03 * waves, (blocks, waves)
        assert chosen.chunk_rows < 1024
        assert round(waves) >= 4 or rows < 4 * 512 * 132 * blocks
    # Two blocks or more on each multiprocessor, by shared memory.
    assert 2 * (chosen.shared_bytes + 1024) <= 228 << 10 or width * size > 16384


def test_the_issue_bound_leaves_memory_the_limit(tool, capsys):
    """SASS instructions a row, bfloat16 on an H200: rates that four schedulers allow, against 4.4 TB/s."""
    nvcc = tool("nvcc")
    sys.path.insert(0, str(ROOT / "tools"))
    import sass_rows

    if not Path(sass_rows.cuobjdump()).exists():
        pytest.skip("cuobjdump: not installed")
    cubin, _ = built_once(
        "sm_90.cubin",
        [nvcc, "-std=c++17", "-O3", "-arch=sm_90", "-Icsrc", "-cubin", "csrc/angle/cuda.cu", "-o", "{output}"],
    )
    for width, wanted in sass_rows.WANTED.items():
        _, _, _, rate = sass_rows.counted(cubin, width)
        assert rate / sass_rows.GOAL >= 1.1 * wanted, width  # a tenth for what is not in the loop
