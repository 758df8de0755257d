"""The Triton kernels compile to machine code for NVIDIA and AMD GPUs, which needs no GPU (the interpreter is laxer)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gainrl.angle import triton_kernels as kernels

POINTERS = {"roles": "*i8", "offsets": "*i64", "shared": "*fp32", "numbers": "*fp64",
            "tallies": "*i32", "directions": "*fp32", "partials": "*i64", "owners": "*i64"}

# A launch turns integers that are 1 into constants, and small ones into i32.
ONES = ("stride_column", "role_stride_row", "role_scale")

def compile_for(target, kernel, dtype, width, small=False):
    constants = {"WIDTH": width, "ROWS": 4, **dict.fromkeys(ONES if small else (), 1)}
    if small:
        constants |= {"shared": None}
    names = kernel.arg_names
    constants = {name: constants[name] for name in names if name in constants}
    integer = "i32" if small else "i64"
    signature = {name: POINTERS.get(name, "*" + dtype if name == "hidden" else integer) for name in names}
    signature |= dict.fromkeys(constants, "constexpr")
    options = {"num_warps": 4, "enable_fp_fusion": False}
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=target, options=options)
    assert len(compiled.asm["cubin" if target.backend == "cuda" else "hsaco"]) > 1000

target = GPUTarget("cuda", int(sys.argv[2]), 32) if sys.argv[1] == "cuda" else GPUTarget("hip", sys.argv[2], 64)
for kernel, dtype in ((kernels.sum_chunks, "bf16"), (kernels.sum_chunks, "fp32"), (kernels.finish_spanning, "")):
    compile_for(target, kernel, dtype, 2048)
    if target.backend == "cuda":
        compile_for(target, kernel, dtype, 256, small=True)
"""


@pytest.mark.parametrize(("backend", "architecture"), [("cuda", "90"), ("hip", "gfx942")])
def test_the_kernels_compile_for_a_gpu_that_is_not_here(backend, architecture, tmp_path):
    pytest.importorskip("triton", reason="triton is not installed")
    script = tmp_path / "compile.py"  # Triton reads the source of what it compiles
    script.write_text(SCRIPT)
    environment = {"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script), backend, architecture],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
