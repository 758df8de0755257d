"""A worker of `gainrl.tasks.workers`: a frame with one JSON object in, one out, until stdin closes.

`worker_process.py FOLDER MODULE` imports MODULE, with FOLDER on its path.  The module has `MEMORY` (bytes of address
space), `prepare()` (loads what answering needs; returns why it cannot, or an empty string) and `answer(request)` (a
reply).  What hangs, crashes or eats memory there takes only this process along: a kernel timer kills it some time after
a request's limit even if the parent is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
from typing import Any


def main(folder: str, name: str) -> None:
    sys.path.insert(0, folder)
    from gainrl.tasks.frames import Gone, frame, receive, send

    into, out = os.dup(0), os.dup(1)
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # nothing that a library prints may look like a reply
        os.dup2(quiet, descriptor)
    os.close(quiet)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def reply(content: dict[str, Any]) -> None:
        send(out, frame("A", json.dumps(content).encode()))

    with contextlib.suppress(Gone):
        try:
            worker: Any = importlib.import_module(name)
            missing = worker.prepare()
        except Exception as error:
            missing = f"{name} does not start: {type(error).__name__}: {error}"
        reply({"missing": missing})
        if missing:
            return
        resource.setrlimit(resource.RLIMIT_AS, (worker.MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        while True:
            _, seconds, request = receive(into, None, 1 << 32)
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 5)
            try:
                content = worker.answer(json.loads(request))
            except Exception as error:
                content = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
            signal.setitimer(signal.ITIMER_REAL, 0)
            reply(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
