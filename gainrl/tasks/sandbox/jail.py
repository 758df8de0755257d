"""Starting a sandbox: the bubblewrap command, the unprivileged user, the conversation with the harness inside.

Used by the grader process only (`grader.py`), which is single-threaded and may give up its user for good.
"""

from __future__ import annotations
import __future__

import ctypes
import functools
import marshal
import os
import platform
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gainrl.tasks.sandbox import codec, frames
from gainrl.tasks.sandbox import filter as seccomp

_FOLDER = Path(__file__).parent
_FIRST_UID, _UIDS = 65000, 500  # a user of its own for each grader run by root: process limits count per user
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 4096, 16384, 1 << 18, 2, 4
_CLONE_NEWNS = 0x00020000


class NoIsolation(Exception):
    """This machine cannot isolate; the message says why and what to do."""


class Broken(Exception):
    """The sandbox ended or stopped answering; the message says how."""


def interpreter() -> Path:
    """The Python that runs candidates: `GAINRL_SANDBOX_PYTHON`, else the one this environment was made from."""
    named = os.environ.get("GAINRL_SANDBOX_PYTHON")
    return Path(named or str(getattr(sys, "_base_executable", sys.executable))).resolve()


def prefix_of(python: Path) -> Path:
    """The folder that holds the interpreter and its library (`bin/python3` lies one below it)."""
    return python.parent.parent


def packages() -> dict[str, str]:
    """Installed packages that candidates may import besides the standard library, name -> folder.

    `sortedcontainers`, which LeetCode offers, and what `GAINRL_SANDBOX_PACKAGES` names (comma-separated; for numpy
    name `numpy,numpy.libs`).  They are shown read-only under /packages.
    """
    names = ["sortedcontainers", *filter(None, os.environ.get("GAINRL_SANDBOX_PACKAGES", "").split(","))]
    roots = [Path(path) for path in sys.path if path.endswith("-packages")]
    return {name: str(root / name) for name in names for root in roots if (root / name).is_dir()}


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

        def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
            texts = [text.encode() if text is not None else None for text in (source, target, kind, data)]
            if libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]):
                raise NoIsolation(
                    f"the interpreter's folder {prefix} is closed to unprivileged users and cannot be bound "
                    f"elsewhere ({os.strerror(ctypes.get_errno())}); set GAINRL_SANDBOX_PYTHON=/usr/bin/python3"
                )

        if libc.unshare(_CLONE_NEWNS):
            raise NoIsolation(
                f"the interpreter's folder {prefix} is closed to unprivileged users; "
                "set GAINRL_SANDBOX_PYTHON=/usr/bin/python3"
            )
        mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        held = os.open(prefix, os.O_PATH | os.O_DIRECTORY)
        mount("tmpfs", str(closed), "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
        prefix.mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{held}", str(prefix), None, _MS_BIND | _MS_REC)
        os.close(held)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.chdir("/")


def adopt_orphans() -> None:
    """Have the sandboxes' processes become children of this one when their parents die, so that it can reap them."""
    if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0):
        raise NoIsolation(f"this process cannot adopt orphans: {os.strerror(ctypes.get_errno())}")


def command(python: Path) -> list[str]:
    """bubblewrap around a bare interpreter: own namespaces of every kind, read-only system, sized /tmp, no home."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise NoIsolation(
            "bubblewrap is not installed; install it (apt-get install bubblewrap, dnf install bubblewrap)"
        )
    if not seccomp.supported():
        raise NoIsolation(f"bubblewrap isolation is not built for {platform.machine()} (x86_64 and aarch64 are known)")
    # --as-pid-1: the harness is init itself.  bubblewrap's own init could be written to by the candidate, which has its
    # user, through /proc/1/mem; the harness cannot (`prctl` in its main).
    arguments = [
        bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
        "--unshare-cgroup-try", "--die-with-parent", "--as-pid-1", "--new-session", "--cap-drop", "ALL", "--clearenv",
        "--setenv", "PATH", "/usr/bin", "--setenv", "LANG", "C.UTF-8", "--setenv", "OPENBLAS_NUM_THREADS", "1",
        "--hostname", "sandbox", "--ro-bind", "/usr", "/usr",
    ]  # fmt: skip
    for folder in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            arguments += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            arguments += ["--ro-bind", folder, folder]
    prefix = str(prefix_of(python))
    if prefix != "/usr" and not prefix.startswith("/usr/"):
        arguments += ["--ro-bind", prefix, prefix]
    for name, folder in packages().items():
        arguments += ["--ro-bind-try", folder, f"/packages/{name}"]
    for file in ("/etc/ld.so.cache", "/etc/alternatives"):
        arguments += ["--ro-bind-try", file, file]
    arguments += ["--proc", "/proc", "--size", "65536", "--tmpfs", "/dev"]
    for device in ("null", "zero", "full", "random", "urandom"):
        arguments += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        arguments += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    return [
        *arguments, "--size", str(64 << 20), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/dev",
        "--remount-ro", "/", "--", str(python), "-I", "-S", "-B", "-X", "utf8", "-c", _LOADER,
    ]  # fmt: skip


# the harness comes compiled, ahead of the first frame: compiling it takes as long as starting the interpreter
_LOADER = """
import posix, sys, marshal
def take(count):
    data = b""
    while len(data) < count:
        data += posix.read(0, count - len(data)) or posix._exit(1)
    return data
size, version = int(take(8), 16), take(16).decode().strip()
code = take(size)
if version == sys.implementation.cache_tag: exec(marshal.loads(code))
else: posix.write(1, b"X0000000000000000")
"""


@functools.cache
def harness_code() -> bytes:
    """The harness, compiled, with the header that the loader reads."""
    texts = [(_FOLDER / name).read_text(encoding="utf-8") for name in ("codec.py", "frames.py", "harness.py")]
    text = "\n".join([*texts, "main()"]).replace("from __future__ import annotations", "")
    # annotations stay unread inside, where `typing` is not worth its import
    flags = __future__.annotations.compiler_flag
    code = marshal.dumps(compile(text, "<harness>", "exec", flags, dont_inherit=True))
    return b"%08x%-16s" % (len(code), str(sys.implementation.cache_tag).encode()) + code


class Jail:
    """One running sandbox.  `ask` sends a frame and waits for the answer; `close` kills whatever is in there."""

    def __init__(self, arguments: list[str], start: float = 20.0):
        # the sandbox's first process, the harness, holds the write end of this pipe as long as it lives
        self._alive, held = os.pipe()
        try:
            self._process = subprocess.Popen(
                [arguments[0], "--sync-fd", str(held), *arguments[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(held,),
                env={},  # --clearenv is for the program; the sandbox's init would show ours in /proc/1/environ
            )
        finally:
            os.close(held)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        try:
            until = time.monotonic() + start
            self._write(harness_code(), until)
            if self._read(until)[0] != "R":
                raise Broken(f"{arguments[-8]} is not the Python {sys.implementation.cache_tag} that grades")
        except Broken as error:
            assert self._process.stderr is not None
            os.set_blocking(self._process.stderr.fileno(), False)
            said = (self._process.stderr.read() or b"").decode(errors="replace").strip()[-500:]
            self.close()
            raise NoIsolation(
                f"bubblewrap does not start a sandbox here ({said or error}); it needs user namespaces: "
                "sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0 and "
                "user.max_user_namespaces above 0, and in a container --security-opt seccomp=unconfined"
            ) from error

    def ask(self, letter: str, payload: bytes, limit: float, slack: float = 1.0) -> tuple[str, bytes]:
        """Send one frame; the process inside may take `limit` seconds, the harness `slack` more.  Raises `Broken`."""
        until = time.monotonic() + limit + slack
        self._write(frames.frame(letter, payload, limit), until)
        return self._read(until)

    def _write(self, data: bytes, until: float) -> None:
        view = memoryview(data)
        try:
            while view:
                frames.wait(self._in, select.POLLOUT, until)
                view = view[os.write(self._in, view) :]
        except frames.Late:
            raise Broken("the time limit passed") from None
        except OSError as error:
            raise Broken("the sandbox ended early") from error

    def _read(self, until: float) -> tuple[str, bytes]:
        try:
            letter, _, payload = frames.read_frame(self._out, until)
        except frames.Late:
            raise Broken("the time limit passed") from None
        except frames.Flood:
            raise Broken("too much output") from None
        except frames.Gone:
            raise Broken("the sandbox ended early") from None
        return letter, payload

    def close(self) -> None:
        """Kill the sandbox and return when nothing of it is left."""
        self._process.send_signal(signal.SIGKILL)  # the sandbox's first process dies with it, and everything with that
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        poll = select.poll()
        poll.register(self._alive, select.POLLHUP)
        gone = poll.poll(5000)
        os.close(self._alive)
        if not gone:
            raise Broken("the sandbox outlived its kill")
        if status != -signal.SIGKILL:
            return  # bubblewrap ended by itself, which it does when it has reaped that process
        # That first process is this one's child now (`adopt_orphans`).  It can be reaped when all others in its
        # namespace are gone, which its pipe, closed a little earlier, does not say.
        until = time.monotonic() + 5
        while time.monotonic() < until:
            try:
                if os.waitpid(-1, os.WNOHANG)[0]:
                    break
            except ChildProcessError:
                break
            time.sleep(0.0002)


def job(mode: str, code: str, limits: Any, **more: Any) -> bytes:
    """The payload of a J frame."""
    return codec.encode(
        {
            "mode": mode,
            "code": code,
            "output": limits.output,
            "filter": seccomp.program(),
            "limits": {
                "AS": limits.memory,
                "CPU": int(limits.total) + 1,
                "FSIZE": limits.file_size,
                "NPROC": limits.processes,
                "NOFILE": 64,
                "CORE": 1,  # 0 would still feed a core to the program that the machine's core_pattern may name
                "MEMLOCK": 0,
                "MSGQUEUE": 0,
            },
            **more,
        }
    )
