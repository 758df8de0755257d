"""How many machine instructions the fast CUDA kernel issues for a row, and the memory rate that they allow.

    nvcc -std=c++17 -O3 -arch=sm_90 -Icsrc -cubin -o angle.cubin csrc/angle/cuda.cu
    python tools/sass_rows.py angle.cubin [--widths 576 896 ...]

Counted in the disassembly: the shortest way round the kernel's loop that copies, measures and adds one full batch of
rows (so many LDGSTS, so many fused multiply-adds).  What a row needs besides, finding runs of rows and flushing sums,
is a few instructions in a hundred.  The rate is that of four schedulers issuing an instruction a cycle each.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import re
import shutil
import subprocess
from pathlib import Path

GOAL = 4.4
"""TB/s: what a read-only pass reaches on an H200, at best."""
WANTED = {576: 1.2, 896: 1.5, 1536: 1.5, 2048: 1.5, 3584: 1.5, 4096: 1.5, 8192: 1.35}


def cuobjdump() -> str:
    """The tool, of CUDA or of Triton, which brings its own."""
    if found := shutil.which("cuobjdump"):
        return found
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")


def blocks(cubin: Path, kernel: str) -> tuple[dict[int, list[str]], dict[int, list[int]]]:
    """Basic blocks of the kernel by address, and where each may go on."""
    command = [cuobjdump(), "-sass", "-fun", kernel, str(cubin)]
    text = subprocess.run(command, capture_output=True, text=True, check=True)
    code = {int(at, 16): what for at, what in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?) ?;", text.stdout)}
    order = sorted(code)
    after = dict(itertools.pairwise(order))
    targets: dict[int, int] = {}
    for at, what in code.items():
        match = re.search(r"\bBRA\S* (?:!?U?P\d, )*(?:~?UR\d+, )*(0x[0-9a-f]+)", what)
        if match and "BRA.DIV" not in what:
            targets[at] = int(match[1], 16)
    begins = {order[0], *targets.values(), *(after[at] for at in targets if at in after)}
    body: dict[int, list[str]] = {}
    onward: dict[int, list[int]] = {}
    for begin in sorted(begins):
        at, lines = begin, []
        while True:
            lines.append(code[at])
            ends = at in targets or re.match(r"(EXIT|RET)", code[at])
            if ends or at not in after or after[at] in begins:
                break
            at = after[at]
        body[begin] = lines
        always = re.match(r"(BRA|EXIT|RET)", code[at])
        onward[begin] = [targets[at]] if at in targets else []
        if not always and at in after:
            onward[begin].append(after[at])
    return body, onward


def shortest_round(body: dict[int, list[str]], onward: dict[int, list[int]], copies: int, sums: int) -> int:
    """Instructions of the shortest cycle through a wait for copies with so many copies and multiply-adds."""
    count = {at: sum("LDGSTS" in line for line in lines) for at, lines in body.items()}
    adds = {at: sum(bool(re.search(r"\bF(FMA|MUL|ADD)\b", line)) for line in lines) for at, lines in body.items()}
    waits = [at for at, lines in body.items() if any("DEPBAR.LE SB0, 0x1" in line for line in lines)]
    best = 1 << 30
    for wait in waits:
        seen: set[tuple[int, int, int]] = set()
        heap = [(len(body[wait]), wait, count[wait], adds[wait], 0)]
        while heap:
            cost, at, copied, added, _ = heapq.heappop(heap)
            if (at, copied, added) in seen:
                continue
            seen.add((at, copied, added))
            for to in onward[at]:
                if to == wait and copied == copies and added >= sums:
                    best = min(best, cost)
                    heap = []
                    break
                total, more = copied + count[to], min(sums, added + adds[to])
                if total <= copies:
                    heapq.heappush(heap, (cost + len(body[to]), to, total, more, 0))
    return best


@functools.cache
def of_batch(cubin: Path, vectors: int, batch: int) -> int:
    """Instructions a warp issues for a batch."""
    body, onward = blocks(cubin, f"_ZN6gainrl9angle_sumINS_6BFloatELi{vectors}EEEvNS_15KernelArgumentsE")
    return shortest_round(body, onward, batch * vectors, 2 * 8 * batch * vectors)


def counted(cubin: Path, width: int) -> tuple[int, int, float, float]:
    """Warps per row, vectors per thread, instructions a row, and TB/s of 132 multiprocessors at 1.98 GHz."""
    units = -(-width // 8)
    warps = -(-units // 128)
    vectors = -(-units // (32 * warps))
    batch = 4 if 3 * 4 * warps * vectors * 512 < 112 << 10 else 2  # cuda_plan.h: two blocks per multiprocessor
    a_row = of_batch(cubin, vectors, batch) * warps / batch
    return warps, vectors, a_row, 132 * 4 * 1.98e9 / a_row * width * 2 / 1e12


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cubin", type=Path)
    parser.add_argument("--widths", nargs="*", type=int, default=list(WANTED))
    given = parser.parse_args()
    print("    D warps vectors SASS/row  issue bound  of 4.4 TB/s  wanted")
    for width in given.widths:
        warps, vectors, a_row, rate = counted(given.cubin, width)
        print(
            f"{width:5} {warps:5} {vectors:7} {a_row:8.0f} {rate:7.2f} TB/s {rate / GOAL:12.2f} {WANTED.get(width, 0)}"
        )


if __name__ == "__main__":
    main()
