"""The compiled module (csrc/bindings.cpp): raw addresses, strides in elements, no framework."""

built_with_cuda: bool

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
def cpu_isa() -> str: ...
def dlpack_view(capsule: object) -> tuple[int, int, int, int, tuple[int, ...], tuple[int, ...]]: ...

# Only where built_with_cuda:
def cuda_status() -> str: ...
def angle_cuda_workspace(params: AngleParams, device: int) -> int: ...
def angle_cuda(params: AngleParams, workspace: int, workspace_bytes: int, device: int, stream: int) -> None: ...
