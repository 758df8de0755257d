"""Starting a sandbox: the bubblewrap command, the unprivileged user, the conversation with the harness inside.

Used by the grader process only (`grader.py`), which is single-threaded and may give up its user for good.
"""

from __future__ import annotations
import __future__

import contextlib
import ctypes
import functools
import importlib.util
import marshal
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from gainrl.tasks.frames import Flood, Gone, Late, frame, receive, send, within
from gainrl.tasks.sandbox.filter import filters
from gainrl.tasks.sandbox.harness import backstop

_FOLDER = Path(__file__).parent
_FIRST_UID, _UIDS = 65000, 500  # a user of its own for each grader run by root: process limits count per user
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 4096, 16384, 1 << 18, 2, 4
_CLONE_NEWNS = 0x00020000
_SUBREAPER = 36
# an arena of 64 MiB of address space for each thread would make what a program may use a matter of the cores
ENVIRONMENT = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_STACK = 512 << 20  # bytes: recursion through C, such as a cached function's, is 50 000 deep
START = 120.0  # seconds until a sandbox is there, on a machine that is very busy


class NoIsolation(Exception):
    """This machine cannot isolate; the message says why and what to do."""


class Ended(Exception):
    """The candidate ended the grading, its sandbox with it; the message is the reason it is wrong."""


def interpreter() -> Path:
    """The Python that runs candidates: `GAINRL_SANDBOX_PYTHON`, else the one this environment was made from."""
    named = os.environ.get("GAINRL_SANDBOX_PYTHON")
    return Path(named or str(getattr(sys, "_base_executable", sys.executable))).resolve()


def shown() -> dict[str, str]:
    """What the sandbox shows besides /usr, place inside -> place outside: the interpreter, its library, packages.

    The packages are `sortedcontainers`, which LeetCode offers, and those that `GAINRL_SANDBOX_PACKAGES` names
    (comma-separated; for numpy name `numpy,numpy.libs`).
    """
    python = interpreter()
    paths = [python, *(python.parent.parent / name for name in ("lib", "lib64"))]
    found = {str(path): str(path) for path in paths if path.exists() and not path.is_relative_to("/usr")}
    names = ["sortedcontainers", *filter(None, os.environ.get("GAINRL_SANDBOX_PACKAGES", "").split(","))]
    roots = [Path(path) for path in sys.path if path.endswith("-packages")]
    return found | {f"/packages/{name}": str(root / name) for name in names for root in roots if (root / name).is_dir()}


def drop_root(prefix: Path) -> None:
    """Become an unprivileged user for good, seeing `prefix` even where it lies in a folder closed to others.

    Root is exempt from the limit on processes, and a root inside a user namespace is root to the files outside.  In a
    mount namespace of this process alone, an empty tmpfs covers the first folder on the way to `prefix` that others
    may not enter, and `prefix` is bound to its place again.
    """
    if os.geteuid() != 0:
        return
    closed = next((p for p in reversed([prefix, *prefix.parents]) if not p.stat().st_mode & 0o001), None)
    uid = _FIRST_UID + random.SystemRandom().randrange(_UIDS)
    if closed is not None:
        libc = ctypes.CDLL(None, use_errno=True)

        def need(status: int) -> None:
            if status:
                raise NoIsolation(
                    f"the interpreter's folder {prefix} is closed to unprivileged users and cannot be bound "
                    f"elsewhere ({os.strerror(ctypes.get_errno())}); set GAINRL_SANDBOX_PYTHON=/usr/bin/python3"
                )

        need(libc.unshare(_CLONE_NEWNS))
        need(libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
        held = os.open(prefix, os.O_PATH | os.O_DIRECTORY)
        here, there = f"/proc/self/fd/{held}".encode(), os.fsencode(prefix)
        hidden = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
        need(libc.mount(b"tmpfs", os.fsencode(closed), b"tmpfs", hidden, b"size=1m,mode=755"))
        prefix.mkdir(parents=True, exist_ok=True)
        need(libc.mount(here, there, None, ctypes.c_ulong(_MS_BIND | _MS_REC), None))
        os.close(held)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.chdir("/")


def become_keeper() -> None:
    """What this process has its sandboxes inherit, or needs to end them.

    Their processes become its children when their parents die, so that it can reap them; their main threads' stacks
    may grow as far as the machine lets them.
    """
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard), hard))
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise NoIsolation(f"this process cannot adopt orphans: {os.strerror(ctypes.get_errno())}")


@functools.cache
def command() -> list[str]:
    """bubblewrap around a bare interpreter: own namespaces of every kind, nothing that can be written, no home."""
    # --as-pid-1: the harness is init itself.  bubblewrap's own init could be written to by the candidate, which has its
    # user, through /proc/1/mem; the harness cannot (`prctl` in its main).
    arguments = [
        shutil.which("bwrap") or "bwrap", "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc",
        "--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--as-pid-1", "--new-session",
        "--cap-drop", "ALL", "--clearenv", *(word for pair in ENVIRONMENT.items() for word in ("--setenv", *pair)),
        "--hostname", "sandbox", "--ro-bind", "/usr", "/usr",
    ]  # fmt: skip
    for folder in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            arguments += ["--ro-bind", folder, folder]
    for inside, outside in shown().items():
        arguments += ["--ro-bind-try", outside, inside]
    for file in ("/etc/ld.so.cache", "/etc/alternatives"):
        arguments += ["--ro-bind-try", file, file]
    arguments += ["--proc", "/proc", "--size", "65536", "--tmpfs", "/dev"]
    for device in ("null", "zero", "full", "random", "urandom"):
        arguments += ["--dev-bind-try", f"/dev/{device}", f"/dev/{device}"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        arguments += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    return [
        *arguments, "--chdir", "/", "--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/",
        "--", str(interpreter()), "-I", "-S", "-B", "-X", "utf8", "/harness.pyc",
    ]  # fmt: skip


@functools.cache
def harness_code() -> bytes:
    """The harness as a .pyc file: compiling it takes as long as starting the interpreter."""
    texts = [(_FOLDER / name).read_text(encoding="utf-8") for name in ("codec.py", "../frames.py", "harness.py")]
    text = "\n".join([*texts, "main()"]).replace("from __future__ import annotations", "")
    # annotations stay unread inside, where `typing` is not worth its import
    flags = __future__.annotations.compiler_flag
    code = marshal.dumps(compile(text, "<harness>", "exec", flags, dont_inherit=True))
    return importlib.util.MAGIC_NUMBER + bytes(12) + code


class Jail:
    """One running sandbox.  `ask` sends a frame and waits for the answer; `close` kills whatever is in there."""

    def __init__(self) -> None:
        program, *arguments = command()
        # the sandbox's first process, the harness, holds the write end of this pipe as long as it lives
        self._alive, held = os.pipe()
        given = [held, *map(_file, (filters()[0], harness_code()))]
        names = ("--sync-fd", held), ("--seccomp", given[1]), ("--ro-bind-data", given[2], "/harness.pyc")
        try:
            self._process = subprocess.Popen(
                [program, *(str(word) for name in names for word in name), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=given,
                env={},  # --clearenv is for the program; the sandbox's init would show ours in /proc/1/environ
            )
        except OSError as error:
            os.close(self._alive)
            raise NoIsolation(f"bubblewrap does not start: {error}") from error
        finally:
            for descriptor in given:
                os.close(descriptor)
        _running.add(self._process.pid)
        self._in, self._out, self._err = (
            pipe.fileno() for pipe in (self._process.stdin, self._process.stdout, self._process.stderr) if pipe
        )
        os.set_blocking(self._in, False)
        self._ready = False

    def ready(self) -> None:
        """Wait until the harness is there.  Raises `NoIsolation`."""
        try:
            if not self._ready:
                receive(self._out, within(START))
            self._ready = True
        except (Late, Gone, Flood) as error:
            os.set_blocking(self._err, False)
            words = b""
            with contextlib.suppress(OSError):
                words = os.read(self._err, 1 << 16)
            self.close()
            raise NoIsolation(
                f"bubblewrap does not start a sandbox here ({words.decode(errors='replace').strip()[-500:] or error}); "
                f"{interpreter()} must be the {sys.implementation.cache_tag} that grades, and user namespaces must be "
                "allowed: sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0 "
                "and user.max_user_namespaces above 0, and in a container --security-opt seccomp=unconfined"
            ) from error

    def ask(self, letter: str, payload: bytes, seconds: float) -> tuple[str, float, bytes]:
        """(letter, CPU seconds, payload) of the answer to one frame, for which `seconds` of CPU time are allowed.

        The harness has a second more.  Raises `Ended`, and `NoIsolation` if there is no sandbox yet and none starts.
        """
        self.ready()
        wait = within(backstop(seconds) + 1)
        try:
            send(self._in, frame(letter, payload, seconds), wait)
            return receive(self._out, wait)
        except (Late, Flood, Gone) as error:
            raise Ended(f"the sandbox is lost: {error}") from None

    def close(self) -> None:
        """Kill the sandbox, again and again, and return when nothing of it is left."""
        self._process.kill()  # the sandbox's first process dies with it, and everything with that
        with self._process:  # closes the pipes and waits
            pass
        _running.discard(self._process.pid)
        poll = select.poll()
        poll.register(self._alive, select.POLLHUP)
        while True:  # the first process is this one's child now, and can be reaped when all others in there are gone
            left = _orphans()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            if not left and poll.poll(1):
                break
            time.sleep(0.0002)
        os.close(self._alive)


def _file(data: bytes) -> int:
    """A descriptor of a file in memory."""
    descriptor = os.memfd_create("given")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


_running: set[int] = set()  # bubblewrap's processes of open sandboxes


def _orphans() -> set[int]:
    """Children of this process that belong to no open sandbox: it adopts what a sandbox leaves (`become_keeper`)."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return set(map(int, children.split())) - _running
