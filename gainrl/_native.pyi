"""The compiled module (csrc/bindings.cpp): raw addresses, strides in elements, no framework."""

built_with_cuda: bool
compiler: str
cuda_version: str  # of nvcc; this and the next only where built_with_cuda
cuda_architectures: str  # as CMake writes them, with commas: "80-real,...,120"

class AngleParams:
    """csrc/angle/params.h, field by field; addresses are integers, 0 for absent."""

    hidden: int
    dtype: int
    width: int
    stride_row: int
    stride_batch: int
    stride_column: int
    sequences: int
    rows: int
    length: int
    offsets: int
    offsets_are_64: bool
    roles: int
    role_stride_row: int
    role_stride_batch: int
    role_scale: int
    shared_sum: int
    shared_tokens: int
    diagonal: bool
    values: int
    counts: int
    directions: int

    def __init__(self) -> None: ...

def angle_cpu(params: AngleParams, threads: int) -> None: ...
def cpu_isa() -> str: ...

# Only where built_with_cuda:
def cuda_status() -> str: ...
def angle_cuda_workspace(params: AngleParams, device: int) -> int: ...
def angle_cuda(params: AngleParams, workspace: int, bytes: int, device: int, stream: int) -> None: ...
