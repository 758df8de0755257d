"""The compiled module (csrc/bindings.cpp): raw addresses, strides in elements, no framework."""

built_with_cuda: bool
compiler: str
cuda_version: str  # of nvcc; this and the next only where built_with_cuda
cuda_architectures: str  # as CMake writes them, with commas: "80-real,...,120"

class AngleParams:
    """csrc/angle/params.h, field by field; addresses are integers, 0 for absent."""

    def __init__(
        self,
        hidden: int,
        dtype: int,
        width: int,
        stride_row: int,
        stride_batch: int,
        stride_column: int,
        sequences: int,
        rows: int,
        length: int,
        offsets: int,
        offsets_are_64: bool,
        roles: int,
        role_stride_row: int,
        role_stride_batch: int,
        role_scale: int,
        shared_sum: int,
        shared_tokens: int,
        weight: int,
        weight_dtype: int,
        weight_offset: float,
        diagonal: bool,
        values: int,
        counts: int,
        directions: int,
        sums: int,
        contributions: int,
        /,
    ) -> None: ...

def angle_cpu(params: AngleParams, threads: int) -> None: ...

# csrc/forward/cpu.h.  `Heads`: address, stride between heads, stride between rows.
Heads = tuple[int, int, int]

def attention_cpu(
    dtype: int,
    heads: int,
    kv_heads: int,
    width: int,
    value_width: int,
    query: Heads,
    key: Heads,
    value: Heads,
    shared: int,
    shared_key: Heads,
    shared_value: Heads,
    sequences: int,
    offsets: int,
    scale: float,
    softcap: float,
    window: int,
    output: int,
    threads: int,
    /,
) -> None: ...
def rms_norm_cpu(
    x: int, weight: int, weight_offset: float, eps: float, out: int, rows: int, width: int, dtype: int, threads: int, /
) -> None: ...
def add_rms_norm_cpu(
    x: int,
    y: int,
    sum: int,
    weight: int,
    weight_offset: float,
    eps: float,
    out: int,
    rows: int,
    width: int,
    dtype: int,
    threads: int,
    /,
) -> None: ...
def rotate_cpu(
    x: int, cosine: int, sine: int, rows: int, heads: int, width: int, dtype: int, threads: int, /
) -> None: ...
def silu_mul_cpu(gate: int, up: int, out: int, n: int, dtype: int, threads: int, /) -> None: ...
def cpu_isa() -> str: ...
def dlpack_view(capsule: object) -> tuple[int, int, int, int, tuple[int, ...], tuple[int, ...]]: ...

# Only where built_with_cuda:
def cuda_status() -> str: ...
def angle_cuda_workspace(params: AngleParams, device: int) -> int: ...
def angle_cuda(params: AngleParams, workspace: int, workspace_bytes: int, device: int, stream: int) -> None: ...
