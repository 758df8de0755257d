"""Trainings in forked processes, killed and resumed:  python processes.py DIRECTORY JSON

Forks before torch starts a thread, so that each of many trainings starts at once.  JSON: `world` processes, `kills`,
`seed`, and `settings` of the trainer.  Writes `whole/` for the run left alone and `kill-K/` for each killed and resumed
one, and each process's `seen` beside.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from support import make_table, make_trainer, problems, tiny_model
from tqdm import tqdm

from gainrl.integrations.trl.callbacks import newest_checkpoint

tqdm.monitor_interval = 0  # no thread that could hold tqdm's lock while this process forks


def train(directory: Path, settings: dict[str, Any], resume: bool) -> None:
    trainer = make_trainer(str(directory.parent / "model"), directory, **settings)
    found = newest_checkpoint(directory, make_table(problems()).metadata.fingerprint) if resume else None
    if found is not None and found.endswith(f"checkpoint-{trainer.args.max_steps}"):
        return  # killed when it was done; transformers would train a step more
    trainer.train(resume_from_checkpoint=found)
    rank = os.environ.get("RANK", "0")
    (directory / f"seen-{rank}.json").write_text(json.dumps(trainer.seen))


def start(directory: Path, settings: dict[str, Any], world: int, resume: bool = False) -> list[int]:
    """The ids of `world` forked processes that train."""
    directory.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if child:
            children.append(child)
            continue
        if world > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        status = 1
        try:
            output = os.open(directory.parent / f"{directory.name}-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            train(directory, settings, resume)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return children


def finish(children: list[int]) -> None:
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        sys.exit("a training failed: see its log")


def main(home: Path, world: int, kills: int, seed: int, settings: dict[str, Any]) -> None:
    begun = time.monotonic()
    finish(start(home / "whole", settings, world))
    seconds = time.monotonic() - begun
    chosen = random.Random(seed)
    for number in range(kills):
        directory = home / f"kill-{number}"
        for attempt in range(2):  # killed while it resumes, too
            children = start(directory, settings, world, resume=bool(attempt))
            time.sleep(seconds * chosen.uniform(0.2, 1.0))
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        finish(start(directory, settings, world, resume=True))


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    tiny_model(Path(sys.argv[1]) / "model")
    main(Path(sys.argv[1]), given["world"], given["kills"], given["seed"], given["settings"])
