"""Kill training processes with SIGKILL at random points, resume them, and compare with a run left alone.

    python kill_points.py MODEL DIRECTORY SEED POINTS SETTINGS

Runs in a process of its own and forks before torch has started a thread, so that each of the many trainings starts
at once.  A killed child dies at the n-th of the moments listed in `MOMENTS`, n drawn from all that an uninterrupted
run has.  Prints one JSON object: what differed, and at which moments the children died.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ["HF_HUB_OFFLINE"] = "1"

from trl_support import epoch_records, losses, make_trainer, recorded

from gainrl.integrations.epoch_log import EpochLog
from gainrl.integrations.trl import GainRLTrainer, saving
from gainrl.integrations.trl.checkpoints import last_complete

MOMENTS = {
    "generation": (GainRLTrainer, "_generate_single_turn"),
    "loss": (GainRLTrainer, "_compute_loss"),
    "observation": (GainRLTrainer, "_observe"),
    "epoch record": (EpochLog, "append"),
    "weights": (GainRLTrainer, "save_model"),
    "optimizer": (GainRLTrainer, "_save_optimizer_and_scheduler"),
    "random state": (GainRLTrainer, "_save_rng_state"),
    "seal": (saving, "seal"),
    "rotation": (saving, "rotate_checkpoints"),
    "flow": (GainRLTrainer, "_maybe_log_save_evaluate"),
}


def in_child(work: Callable[[], None], log: Path) -> int:
    """Run `work` in a forked child; its wait status.  What it prints goes to `log`."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def watch(die_at: int | None, report: Path) -> None:
    """Count the moments; at number `die_at` (before or after it, in turn) the process kills itself."""
    passed: list[str] = []

    def moment(name: str) -> None:
        passed.append(name)
        report.write_text(json.dumps(passed))
        if len(passed) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            moment(f"before {name}")
            result = plain(*args, **kwargs)
            moment(f"after {name}")
            return result

        return call

    for name, (home, attribute) in MOMENTS.items():
        setattr(home, attribute, watched(name, getattr(home, attribute)))


def train(model: str, directory: Path, settings: dict[str, Any], *, resume: bool, result: Path | None) -> None:
    trainer = make_trainer(
        model, directory, kind=recorded(), save_strategy="steps", save_steps=1, save_total_limit=2, **settings
    )
    found = last_complete(directory)[0] if resume else None
    if resume and found is None:
        trainer.forget_epochs()
    trainer.train(resume_from_checkpoint=found is not None)
    if result is not None:
        kept = {
            "from": int(found.name.split("-")[1]) if found else 0,
            "seen": trainer.seen,
            "losses": losses(trainer),
            "epochs": epoch_records(directory),
            "navigator": trainer.navigator.state_dict(),
        }
        result.write_text(json.dumps(kept))


def main(model: str, directory: Path, seed: int, points: int, settings: dict[str, Any]) -> dict[str, Any]:
    def whole() -> None:
        watch(None, directory / "moments.json")
        train(model, directory / "whole", settings, resume=False, result=directory / "whole.json")

    directory.mkdir(parents=True, exist_ok=True)
    if in_child(whole, directory / "whole.log"):
        return {"failed": (directory / "whole.log").read_text()[-3000:]}
    moments = json.loads((directory / "moments.json").read_text())
    expected = json.loads((directory / "whole.json").read_text())
    chosen = random.Random(seed).sample(range(1, len(moments) + 1), points)
    different: list[str] = []
    for point in chosen:
        run, log, result = directory / f"killed-{point}", directory / "log", directory / "result.json"

        def killed(point: int = point, run: Path = run) -> None:
            watch(point, directory / "died.json")
            train(model, run, settings, resume=False, result=None)

        def resumed(run: Path = run, result: Path = result) -> None:
            train(model, run, settings, resume=True, result=result)

        where = f"killed {moments[point - 1]} (moment {point} of {len(moments)})"
        status = in_child(killed, log)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            different.append(f"{where}: not killed: {log.read_text()[-2000:]}")
            continue
        if in_child(resumed, log):
            different.append(f"{where}: resuming failed: {log.read_text()[-2000:]}")
            continue
        actual = json.loads(result.read_text())
        if actual["seen"] != [batch for batch in expected["seen"] if batch["step"] >= actual["from"]]:
            different.append(f"{where}: other prompts or completions")
        different += [f"{where}: other {name}" for name in ("losses", "epochs", "navigator")
                      if actual[name] != expected[name]]  # fmt: skip
        shutil.rmtree(run)
    return {"different": different, "killed": [moments[point - 1] for point in chosen], "moments": len(moments)}


if __name__ == "__main__":
    model, directory, seed, points, settings = sys.argv[1:]
    print("RESULT", json.dumps(main(model, Path(directory), int(seed), int(points), json.loads(settings))))
