"""Running programs that a model wrote, and grading what they return.

Each program runs in a bubblewrap sandbox of its own: user, pid, network, ipc, uts and cgroup namespaces, the
system read-only, a 64 MiB /tmp of its own, no home, no environment but PATH and LANG, no capabilities.  Its process may
not make others (threads are allowed), and has limits on address space, CPU time, threads, file size and open files;
the files in /tmp, its output and its time are bounded from outside; the only sockets it can make are Unix and internet
ones, in a network of its own that leads nowhere.  Started by root, everything runs as an unprivileged user, so
that the limits bind.  When grading ends the sandbox is killed whole, and is gone before the verdict is given.

The verdict is computed outside.  Inputs go in, plain values or printed bytes come out, and expected outputs
never go in: there is nothing inside to read, patch or forge that would make a wrong answer right.

What this does not stop: a hole in the kernel's namespaces, seccomp or file systems; timing and cache side channels;
heat and noise (a program may burn its whole CPU and time limit); small kernel memory that only the time limit bounds,
such as file locks; advisory locks on files under /usr; reading what every user may read under /usr and in the
interpreter's folder (nothing secret belongs there); a candidate that recognises the inputs and answers from memory.  It
is no defence against somebody who already runs code as the user who grades.
"""

from gainrl.tasks.sandbox.pool import GraderPool, Limits, Verdict, isolation, require_isolation, shared_graders

__all__ = ["GraderPool", "Limits", "Verdict", "isolation", "require_isolation", "shared_graders"]
