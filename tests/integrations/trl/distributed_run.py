"""One training on the CPU under `torchrun`; every rank writes what it saw to DIRECTORY/rank<r>.json.

torchrun --nproc-per-node 2 distributed_run.py MODEL DIRECTORY SETTINGS RESUME
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from trl_support import losses, make_trainer, recorded

from gainrl.cli.leaving import one_of_several


def main(model: str, directory: Path, settings: dict[str, object], resume: bool) -> None:
    trainer = make_trainer(
        model, directory, kind=recorded(), save_strategy="steps", save_steps=1, ddp_backend="gloo", **settings
    )
    observed: list[dict[str, object]] = []
    draws: list[list[str]] = []
    observe, draw = trainer.navigator.observe, trainer.navigator.draw
    trainer.navigator.observe = lambda records: observed.extend(records) or observe(records)
    trainer.navigator.draw = lambda: draws.append(draw()) or draws[-1]
    trainer.train(resume_from_checkpoint=resume)
    kept = {
        "world": trainer.accelerator.num_processes,
        "seen": trainer.seen,
        "observed": observed,
        "draws": draws,
        "losses": losses(trainer),
        "navigator": trainer.navigator.state_dict(),
    }
    (directory / f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(kept))


if __name__ == "__main__":
    model, directory, settings, resume = sys.argv[1:]
    with one_of_several():
        main(model, Path(directory), json.loads(settings), resume == "resume")
