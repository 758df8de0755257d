"""`gainrl ...` with accelerate's FSDP on the CPU: what accelerate does on GPUs, between gloo processes.

accelerate (1.15) shards only where the processes have accelerators; on the CPU it falls back to DDP without a word.
Nothing but that choice is changed here: accelerate's own FSDP preparation and checkpoints, and torch's sharding, run.
"""

from __future__ import annotations

import os
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from gainrl.cli import main

_made = AcceleratorState.__init__


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    _made(self, *args, **kwargs)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        if kwargs.get("fsdp_plugin") is not None:
            self.fsdp_plugin = kwargs["fsdp_plugin"]


AcceleratorState.__init__ = _init

if __name__ == "__main__":
    main()
