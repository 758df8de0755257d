"""Does a curriculum help a real model?  SmolLM2-135M-Instruct on families of reasoning-gym and GSM8K, arm against arm.

    benchmarks/real_model.sh OUTPUT_FOLDER [MINUTES]    on a GPU machine, in pieces; also without a network, see there
    python -m benchmarks.real_model run --scale cpu     a small version on a CPU
    python -m benchmarks.real_model table               what there is so far

Each run is `gainrl train` with the accuracy on held-out problems measured along the way.  All runs of a family and
seed share model, problems, steps and rollouts; only the navigator differs.  `run` starts what is missing, up to
`--jobs` at a time, and after `--minutes`, or on SIGTERM and Ctrl-C, asks what is under way to stop: it saves a
checkpoint from which the next call goes on exactly.  What is killed goes on from its last checkpoint.  A finished run
is one entry of benchmarks/results/real_model_SCALE.json and is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.real_model_runs import ARMS, ROOT, SCALES, Job, jobs, summary_of, train_one

_HEADS = (
    "arm",
    "seeds",
    "before",
    "after",
    "mean of the curve",
    "rollouts to uniform's end",
    "groups without variance",
)


def run(scale: str, minutes: float, at_once: int, gsm8k: str | None, output: Path) -> int:
    """Start what is missing until the time is spent; returns how many runs are still missing."""
    deadline = time.monotonic() + 60 * minutes
    interrupted: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda given, frame: interrupted.append(given))
    kept = {(one["family"], one["arm"], one["seed"]): one for one in _results(output)}
    waiting = [job for job in jobs(scale) if (job.family, job.arm, job.seed) not in kept]
    under_way: dict[subprocess.Popen[bytes], Job] = {}
    asked = 0.0
    failed: list[str] = []
    while under_way or (waiting and not asked):
        while waiting and len(under_way) < at_once and not asked:
            job = waiting.pop(0)
            under_way[_start(job, gsm8k)] = job
        time.sleep(0.5)
        if (interrupted or time.monotonic() > deadline) and not asked:
            asked = time.monotonic()
            for process in under_way:
                process.send_signal(signal.SIGTERM)
        for process in [one for one in under_way if one.poll() is not None]:
            job = under_way.pop(process)
            if process.returncode == 0:
                kept[job.family, job.arm, job.seed] = summary_of(job)
                _write(output, list(kept.values()))
                shutil.rmtree(job.directory / "checkpoints", ignore_errors=True)
            elif not _stopped(process.returncode, bool(asked)):
                failed.append(job.name)
            print(f"{job.name}: {_ended(process.returncode, job, bool(asked))}", flush=True)
        if asked and time.monotonic() - asked > SCALES[scale].patience:
            for process in under_way:
                process.kill()
    missing = sum(1 for job in jobs(scale) if (job.family, job.arm, job.seed) not in kept)
    print(table(output) or "no run is finished")
    print(f"{missing} runs to go" + (f"; failed: {', '.join(failed)} (see the logs)" if failed else ""))
    return missing


def _start(job: Job, gsm8k: str | None) -> subprocess.Popen[bytes]:
    job.directory.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.real_model", "one", job.scale, job.family, job.arm, str(job.seed)]
    if gsm8k:
        command += ["--gsm8k", gsm8k]
    with open(job.directory.parent / f"{job.name}.log", "ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def _stopped(status: int, asked: bool) -> bool:
    """Whether a run ended because it was asked to: by itself, or by the signal where it had not begun to train."""
    return status == 130 or (asked and status in (-signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL))


def _ended(status: int, job: Job, asked: bool) -> str:
    if status == 0:
        curve = summary_of(job)["curve"]
        return f"{curve[0]['accuracy']:.3f} -> {curve[-1]['accuracy']:.3f}"
    if status == -signal.SIGKILL and asked:
        return "killed, goes on from its last checkpoint in the next call"
    return "stopped, goes on in the next call" if _stopped(status, asked) else f"failed with status {status}"


def _results(output: Path) -> list[dict[str, Any]]:
    return json.loads(output.read_text(encoding="utf-8"))["rows"] if output.is_file() else []


def _write(output: Path, rows: Sequence[dict[str, Any]]) -> None:
    from benchmarks.harness import write_result

    write_result(output.stem, sorted(rows, key=lambda one: (one["family"], one["seed"], one["arm"])), path=output)


def table(output: Path) -> str:
    """Markdown: per family, each arm's accuracy before and after, area under the curve, rollouts to uniform's end."""
    rows = _results(output)
    lines = []
    for family in dict.fromkeys(one["family"] for one in rows):
        of_family = [one for one in rows if one["family"] == family]
        lines += ["", f"{family}:", "", "| " + " | ".join(_HEADS) + " |", "| --- " * len(_HEADS) + "|"]
        for arm in ARMS:
            runs = [one for one in of_family if one["arm"] == arm]
            if runs:
                lines.append("| " + " | ".join([arm, str(len(runs)), *_figures(runs, of_family)]) + " |")
    return "\n".join(lines)


def _figures(runs: Sequence[dict[str, Any]], family: Sequence[dict[str, Any]]) -> list[str]:
    def mean(values: Sequence[float]) -> str:
        return f"{sum(values) / len(values):.3f}"

    ends = {one["seed"]: one["curve"][-1]["accuracy"] for one in family if one["arm"] == "uniform"}
    reached = [_rollouts_to(ends[one["seed"]], one["curve"]) for one in runs if one["seed"] in ends]
    shown = ", ".join("never" if value is None else f"{value:.0f}" for value in reached) or "–"
    return [
        mean([one["curve"][0]["accuracy"] for one in runs]), mean([one["curve"][-1]["accuracy"] for one in runs]),
        mean([area(one["curve"]) for one in runs]), shown,
        mean([one["zero_variance"] / max(one["groups"], 1) for one in runs]),
    ]  # fmt: skip


def area(curve: Sequence[dict[str, Any]]) -> float:
    """Mean accuracy over the rollouts (trapezia)."""
    total = sum((b["rollouts"] - a["rollouts"]) * (a["accuracy"] + b["accuracy"]) / 2 for a, b in pairwise(curve))
    return float(total / (curve[-1]["rollouts"] - curve[0]["rollouts"]))


def _rollouts_to(level: float, curve: Sequence[dict[str, Any]]) -> float | None:
    """Rollouts at which the curve first reaches the level, between its points in a straight line; None if never."""
    for a, b in pairwise(curve):
        if b["accuracy"] >= level:
            if a["accuracy"] >= level:
                return float(a["rollouts"])
            share = (level - a["accuracy"]) / (b["accuracy"] - a["accuracy"])
            return float(a["rollouts"] + share * (b["rollouts"] - a["rollouts"]))
    return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_model", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run", help="run what is missing")
    one = verbs.add_parser("one", help="one run, in this process")
    tabulate = verbs.add_parser("table", help="the table of what there is")
    for verb in (running, tabulate):
        verb.add_argument("--scale", choices=SCALES, default="cpu")
        verb.add_argument("--output", type=Path, help="result file, in benchmarks/results without it")
    running.add_argument("--minutes", type=float, default=60.0)
    running.add_argument("--jobs", type=int, default=1, help="runs at a time, on the same GPU")
    one.add_argument("scale", choices=SCALES)
    for name in ("family", "arm"):
        one.add_argument(name)
    one.add_argument("seed", type=int)
    for verb in (running, one):
        verb.add_argument("--gsm8k", help="folder with train.jsonl and test.jsonl, where no hub is reachable")
    given = parser.parse_args()
    if given.verb == "one":
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            sys.exit(0 if train_one(Job(given.scale, given.family, given.arm, given.seed), given.gsm8k) else 130)
        except KeyboardInterrupt:
            sys.exit(130)
    output = given.output or ROOT / "benchmarks" / "results" / f"real_model_{given.scale}.json"
    if given.verb == "table":
        print(table(output) or "no run is finished")
    else:
        run(given.scale, given.minutes, given.jobs, given.gsm8k, output)


if __name__ == "__main__":
    main()
