"""The whole path with the real parts, as `make demo` runs it: rank, evaluate, train, evaluate, report.

Every step is a `gainrl` command, printed before it runs; nothing here knows more than a user does.  The numbers
printed at the end are those measured, better or worse.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "examples/arithmetic.yaml"
RUN = "runs/demo"
MODEL = "smollm2-135m"
TASK = "arithmetic:size=600"  # as in the config
EVALUATION = ["--task", TASK, "--split", "test", "--samples", "4", "--run", RUN]


def gainrl(*arguments: str) -> None:
    """Run one command in the foreground; its progress is the demo's."""
    print(f"\n$ gainrl {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "gainrl", *arguments], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    started = time.monotonic()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    shutil.rmtree(ROOT / RUN, ignore_errors=True)
    (ROOT / RUN).mkdir(parents=True)
    gainrl("score", "--model", MODEL, "--task", TASK, "--directions", "--output", f"{RUN}/scores.parquet")
    gainrl("eval", "--model", MODEL, *EVALUATION, "--stage", "before")
    gainrl("train", "--config", CONFIG, "--output_dir", RUN)
    last = max((ROOT / RUN).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    gainrl("eval", "--model", MODEL, "--checkpoint", str(last.relative_to(ROOT)), *EVALUATION, "--stage", "after")
    gainrl("report", RUN)
    records = [json.loads(line) for line in (ROOT / RUN / "evals.jsonl").read_text().splitlines()]
    print(f"\nheld-out accuracy of {MODEL} on {TASK} (mean over samples, 95 % interval over problems):")
    for record in records:
        print(f"  {record['stage']:<7} {record['accuracy']:.1%}  [{record['low']:.1%}, {record['high']:.1%}]")
    print(f"report: {RUN}/report.html; {time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
