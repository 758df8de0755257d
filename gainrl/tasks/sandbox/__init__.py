"""Running programs that a model wrote, and grading what they return.

Each program runs in a bubblewrap sandbox of its own: user, pid, network, ipc, uts and cgroup namespaces, everything
read-only, no home, an environment of four constants, no capabilities.  A seccomp filter allows it the system calls that
computing needs (`filter.py`): threads but no processes, no sockets but a connected pair, no way to change scheduling.
It has limits on address space, CPU time, threads and open files; its output and its wall time are bounded from outside.
Started by root, everything runs as an unprivileged user, so that the limits bind.  When grading ends the sandbox is
killed whole, until it is gone, before the verdict is given.

The verdict is computed outside.  Inputs go in, plain values or printed bytes come out, and expected outputs never go
in: there is nothing inside to read, patch or forge that would make a wrong answer right.

What this does not stop: a hole in the kernel's namespaces, seccomp or file systems; timing and cache side channels;
heat and noise (a program may use its whole CPU time, on all cores at once); the kernel's caches of files and names,
which it gives back when memory is short; the pages of up to 128 pipes and socket pairs, some 30 MiB beyond the address
space; reading what every user may read under /usr and in the interpreter's library (nothing secret belongs there); a
candidate that recognises the inputs and answers from memory.  Memory is bounded for each program, not for all graders
together.  It is no defence against somebody who already runs code as the user who grades.
"""

from gainrl.tasks.sandbox.pool import GraderPool, Limits, Verdict, isolation, require_isolation, shared_graders

__all__ = ["GraderPool", "Limits", "Verdict", "isolation", "require_isolation", "shared_graders"]
