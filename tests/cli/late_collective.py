"""Rank 0 of two ends with status 3 while a gloo thread still holds the tensors of a collective that rank 1 joins late.

late_collective.py STORE
"""

from __future__ import annotations

import atexit
import os
import sys
import time

import torch
import torch.distributed as dist

from gainrl.cli.leaving import one_of_several


def main(store: str) -> None:
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    dist.barrier()
    if rank == 1:
        time.sleep(1.5)
    dist.all_gather([torch.zeros(4), torch.zeros(4)], torch.ones(4), async_op=True)
    atexit.register(print, f"rank {rank}: exit handler")
    print(f"rank {rank}: done")  # buffered: nobody flushes a pipe
    if rank == 0:
        sys.exit(3)
    time.sleep(1)


if __name__ == "__main__":
    with one_of_several():
        main(sys.argv[1])
