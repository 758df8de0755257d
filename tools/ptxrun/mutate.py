"""Does ptxrun notice what it should?  Bends one barrier, fence, wait, exchange or address of the PTX at a time.

    python tools/ptxrun/mutate.py KERNELS.ptx [--least 0.95]

Each change must end in a fault, in a wrong result, or in results that depend on the order of blocks and warps.  What
survives is printed with its neighbours: it is not needed, or not reached by the cases below, or a hole in ptxrun.
README.md explains those that are known.  The exit status is 1 if fewer than `--least` of the changes are noticed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from angle_ptx import checked, random_case
from ptxrun import Module

CHANGES = (
    (r"bar\.sync \s*0;", ""),
    (r"membar\.gl;", ""),
    (r"cp\.async\.wait_group 1;", "cp.async.wait_group 2;"),
    (r"cp\.async\.commit_group;", ""),
    (r"(ld|st)\.global\.v4\.f32 (.*)\[(%rd\d+)\]", r"\1.global.v4.f32 \2[\3+4]"),
    (r"ld\.shared\.v4\.u32 (.*)\[(%r\d+)\]", r"ld.shared.v4.u32 \1[\2+16]"),
    (r"(cp\.async\.cg\.\S+ \[%r\d+\], \[%rd\d+\], 16), %r\d+,", r"\1, 16,"),
    (r"shfl\.sync\.bfly\.b32 (.*), 1, 31, -1;", r"shfl.sync.bfly.b32 \1, 2, 31, -1;"),
)
KERNELS = ("angle_sumINS_6BFloatELi3E", "angle_join")  # three vectors a thread, in one warp and in several


def cases(rng: np.random.Generator) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Calls that between them reach every instruction of the two kernels."""
    bf16 = {"dtype": "bfloat16"}
    yield random_case(rng, width=1101, lengths=[70, 0, 3, 200], runs=False, **bf16), {"resident": 3}
    yield (
        random_case(rng, width=1101, lengths=[2, 3, 1, 1, 2, 3, 6, 1, 9], **bf16),
        {"resident": 1, "directions": False},
    )
    yield (
        random_case(rng, width=1101, lengths=[1] * 40, runs=False, bad_rows=0.05, **bf16),
        {"resident": 2, "directions": False},
    )
    yield random_case(rng, width=600, lengths=[10, 540], shared=3, extreme=True, **bf16), {"resident": 1000}
    yield random_case(rng, width=600, lengths=[1200, 3], runs=False, **bf16), {"resident": 1000}
    yield random_case(rng, width=1400, lengths=[150, 2], runs=False, **bf16), {"resident": 1000}
    yield (
        random_case(rng, width=573, lengths=[40, 50, 1, 1, 1], zero_rows=0.3, shared=2, **bf16),
        {"resident": 3, "directions": False},
    )
    yield random_case(rng, width=573, lengths=[33, 41, 70], padded=True, **bf16), {"resident": 3}


def noticed(text: str) -> str:
    """What gives the changed PTX away, or nothing."""
    module = Module(text)
    for case, machine in cases(np.random.default_rng(0)):
        try:
            for seed in (5, 6):
                checked(module, case, seed, **machine)
        except AssertionError as error:
            lines = str(error).strip().splitlines()
            return next((line for line in lines if "PTX line" in line or "outside" in line), lines[0])
        except Exception as error:  # a wild address ends differently
            return f"{type(error).__name__}: {error}"
    return ""


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ptx", type=Path)
    parser.add_argument("--least", type=float, default=0.95)
    given = parser.parse_args()
    lines = given.ptx.read_text().splitlines()
    begins = [i for i, line in enumerate(lines) if ".entry" in line]
    spans = [(lines[a], a, b) for a, b in zip(begins, [*begins[1:], len(lines)], strict=True)]
    spans = [span for span in spans if any(kernel in span[0] for kernel in KERNELS)]
    # The two kernels alone: the rest would only be parsed.
    text = lines[: begins[0]] + [line for _, a, b in spans for line in lines[a:b]]
    if why := noticed("\n".join(text)):
        raise SystemExit(f"the unchanged kernels fail: {why}")
    whole = set(re.findall(r"mov\.\w32 \s*(%r\d+), 16;", "\n".join(text)))  # sizes that are 16 anyway
    found: list[bool] = []
    for at, line in enumerate(text):
        for pattern, instead in CHANGES:
            size = re.search(r", 16, (%r\d+),", line)
            if (changed := re.sub(pattern, instead, line)) != line and (size is None or size[1] not in whole):
                why = noticed("\n".join([*text[:at], changed, *text[at + 1 :]]))
                found.append(bool(why))
                print(f"{line.strip()[:70]} -> {why[:100] or 'SURVIVED'}", flush=True)
                if not why:
                    print("   after  " + " | ".join(x.strip() for x in text[at - 3 : at]))
                    print("   before " + " | ".join(x.strip() for x in text[at + 1 : at + 4]), flush=True)
    print(f"{sum(found)} of {len(found)} changes noticed")
    return int(sum(found) < given.least * len(found))


if __name__ == "__main__":
    sys.exit(main())
