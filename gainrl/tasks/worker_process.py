"""A worker of `gainrl.tasks.workers`: one JSON object a line in, one out, until stdin closes.

Run by file name, `worker_process.py FILE LIMIT`, so it imports nothing of gainrl.  FILE is a module with `MEMORY`
(bytes of address space), `prepare()` (loads what answering needs; returns why it cannot, or an empty string) and
`answer(request)` (a reply).  Whatever hangs, crashes or eats memory there takes only this process along: a kernel timer
kills it LIMIT seconds into a request even if the parent is gone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import signal
import sys
from typing import Any


def main(file: str, limit: float) -> None:
    requests, replies = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # nothing that a library prints may look like a reply
        os.dup2(quiet, descriptor)
    spec = importlib.util.spec_from_file_location("worker", file)
    assert spec is not None
    assert spec.loader is not None
    worker: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    resource.setrlimit(resource.RLIMIT_AS, (worker.MEMORY, worker.MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def reply(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=replies, flush=True)

    with contextlib.suppress(BrokenPipeError):
        if missing := worker.prepare():
            reply({"missing": missing})
            return
        reply({"ready": True})
        for line in requests:
            request = json.loads(line)
            signal.setitimer(signal.ITIMER_REAL, limit)
            content = worker.answer(request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            reply(content)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
