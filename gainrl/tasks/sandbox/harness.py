"""What runs first inside a sandbox: forks one process per program or per test and passes bytes between it and outside.

Not imported: the grader hands the text of `codec.py`, `frames.py` and this file to a bare interpreter in the sandbox.
Nothing here decides anything.  The grader keeps the expected outputs and compares outside, so a candidate that takes
over its process, or this one, gains nothing but the right to answer, which it had anyway.

Frames (`frames.py`) in both directions.
To here: J (a job), Q (end the job's process), I (the input of one stdin test), any other letter for the process to go
on with (C a call, V or E the answer to one).
From here: what the process sent (R ready, V value, E exception, C call) or T (time), D (died), O (too much output), F
(too many files).
"""

from __future__ import annotations

# The start of an interpreter is most of what a grading costs, so only what is built in or needed: `posix` without
# `os`, `_ctypes` without `ctypes`, no `signal`, which brings `enum` along.
import posix as os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
if "encode" not in globals():
    from gainrl.tasks.sandbox.codec import decode, encode
    from gainrl.tasks.sandbox.frames import Flood, Gone, Late, frame, read_frame, write

FILES = 4096  # in /tmp; each costs kernel memory that its size does not bound
_LOOK = 0.02  # seconds between two looks at how many there are


class Files(Exception):
    """More files than allowed."""


def watch(descriptor: int, until: float) -> None:
    """Wait until there is something to read, with an eye on /tmp, whose files bubblewrap leaves uncounted."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll(_LOOK * 1000):
        look_at_files()
        if time.monotonic() >= until:
            raise Late


def look_at_files() -> None:
    disk = os.statvfs("/tmp")
    if disk.f_files - disk.f_ffree > FILES:
        raise Files


def prctl(option: int, second: int = 0, third: int = 0) -> None:
    """The C library's prctl; OSError where it fails."""
    import _ctypes

    number = type("number", (_ctypes._SimpleCData,), {"_type_": "L"})
    function = type("function", (_ctypes.CFuncPtr,), {"_flags_": _ctypes.FUNCFLAG_CDECL, "_restype_": number})
    this: Any = None  # the C library that this process has loaded anyway
    call = function(_ctypes.dlsym(_ctypes.dlopen(this, 0), "prctl"))
    call.argtypes = [number] * 5
    if call(option, second, third, 0, 0) & 0xFFFFFFFF:
        raise OSError(f"prctl {option}")


def forbid(program: bytes) -> None:
    """Load a seccomp filter (array of struct sock_filter) into this process for good."""
    import _ctypes

    byte = type("byte", (_ctypes._SimpleCData,), {"_type_": "B"})

    def held(data: bytes) -> Any:
        return type("held", (_ctypes.Array,), {"_type_": byte, "_length_": len(data)})(*data)

    code = held(program)
    # struct sock_fprog: a count of instructions, padding, a pointer
    whole = held((len(program) // 8).to_bytes(8, sys.byteorder) + _ctypes.addressof(code).to_bytes(8, sys.byteorder))
    prctl(22, 2, _ctypes.addressof(whole))


def become_untrusted(job: dict[str, Any]) -> None:
    """Limits that cannot be raised again, then no system call that makes processes or leaves this sandbox."""
    import resource

    for name, value in job["limits"].items():
        which = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    forbid(job["filter"])
    sys.path.append("/packages")


def furnish() -> None:
    """What programs rely on: `exit` and `quit`, which `site` would define, and integers of any length as text."""
    import builtins

    names: Any = builtins
    names.exit = names.quit = sys.exit
    sys.set_int_max_str_digits(0)


def finish() -> None:
    """End as an interpreter does: wait for the program's threads, then run what it left for the exit."""
    import atexit

    last: Any = [getattr(sys.modules.get("threading"), "_shutdown", None), atexit._run_exitfuncs]
    for step in last:
        try:
            if step is not None:
                step()
        except BaseException:
            continue


class Child:
    """The process that runs the candidate: frames both ways, or, given an input for its stdin, its stdout back."""

    def __init__(self, job: dict[str, Any], given: bytes | None = None) -> None:
        there, self.write_end = os.pipe()
        self.read_end, back = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(there)
            os.close(back)
            return
        try:
            os.close(self.write_end)
            os.close(self.read_end)
            null = os.open("/dev/null", os.O_RDWR)
            source = null
            if given is not None:
                source = os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
                view = memoryview(given)
                while view:
                    view = view[os.write(source, view) :]
                os.lseek(source, 0, 0)
            os.dup2(source, 0)
            os.dup2(back if given is not None else null, 1)
            os.dup2(null, 2)
            # the way to the grader among them: nothing leads out but `back`
            kept = [] if given is not None else sorted((there, back))
            for low, high in zip([2, *kept], [*kept, 1 << 20], strict=True):
                os.closerange(low + 1, high)
            become_untrusted(job)
            furnish()
            status = run_program(job["code"]) if given is not None else MODES[job["mode"]](job, there, back)
            os._exit(status)
        finally:
            os._exit(70)

    def close(self) -> int:
        """Kill, reap, and return the wait status."""
        if not self.pid:
            return 0
        try:  # noqa: SIM105
            os.kill(self.pid, 9)
        except ProcessLookupError:
            pass
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.write_end)
        os.close(self.read_end)
        self.pid = 0  # reaped
        return status

    def reply(self, limit: float) -> bytes:
        """The next frame of the process, or T, D, O, F, after which the process is gone."""
        try:
            letter, _, payload = read_frame(self.read_end, time.monotonic() + limit, watch)
            if letter not in "RVEC":  # the others are this process's to say
                raise Gone
            look_at_files()
            return frame(letter, payload)
        except Late:
            self.close()
            return frame("T")
        except Flood:
            self.close()
            return frame("O")
        except Files:
            self.close()
            return frame("F")
        except Gone:
            return frame("D", encode(self.close()))


def namespace(name: str) -> dict[str, Any]:
    """A fresh module for the candidate, known to sys.modules as dataclasses and pickling expect."""
    module = type(sys)(name)
    sys.modules[name] = module
    return module.__dict__


def run_program(code: str) -> int:
    """Mode stdin: run the whole program as __main__; the exit status is the program's own."""
    status = 0
    sys.argv[:] = ["candidate"]
    try:
        exec(compile(code, "<candidate>", "exec"), namespace("__main__"))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        status = 1
    finish()
    streams: list[Any] = [sys.stdout, sys.__stdout__]
    for stream in streams:
        try:
            stream.flush()
        except BaseException:
            status = status or 1
    return status & 255


def describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:
        return type(error).__name__


def serve_calls(job: dict[str, Any], there: int, back: int) -> int:
    """Mode call: run the code once, then call `entry` with each (args, kwargs) that arrives."""
    forever = time.monotonic() + 10**6
    try:
        names = namespace("candidate")
        exec(compile(job["code"], "<candidate>", "exec"), names)
        owner, _, method = job["entry"].rpartition(".")
        names[owner or method]  # a missing class or function is an error now
    except BaseException as error:
        write(back, frame("E", encode(describe(error))), forever)
        return 1
    write(back, frame("R"), forever)
    while True:
        _, _, payload = read_frame(there, forever)
        args, kwargs = decode(payload)
        try:
            called = getattr(names[owner](), method) if owner else names[method]
            answer = frame("V", encode(called(*args, **kwargs)))
        except BaseException as error:
            answer = frame("E", encode(describe(error)))
        write(back, answer, forever)


def serve_check(job: dict[str, Any], there: int, back: int) -> int:
    """Mode check: run a dataset's own `check(candidate)`, with a candidate whose calls are answered from outside."""
    forever = time.monotonic() + 10**6

    class Failed(Exception):
        pass

    def candidate(*args: Any, **kwargs: Any) -> Any:
        write(back, frame("C", encode((args, kwargs))), forever)
        letter, _, payload = read_frame(there, forever)
        value = decode(payload)
        if letter != "V":
            raise Failed(value)
        return value

    try:
        names = namespace("test")
        exec(compile(job["code"], "<prompt>", "exec"), names)
        names[job["entry"]] = candidate
        exec(compile(job["test"], "<test>", "exec"), names)
        names["check"](candidate)
        answer = frame("V", encode(True))
    except BaseException as error:
        answer = frame("E", encode(describe(error)))
    write(back, answer, forever)
    return 0


def stdin_test(job: dict[str, Any], given: bytes, limit: float) -> bytes:
    """Run the program on one input: V (exit status, stdout), or T, O, F."""
    child = Child(job, given)
    parts, size, until = [], 0, time.monotonic() + limit
    try:
        while True:
            watch(child.read_end, until)
            part = os.read(child.read_end, 1 << 16)
            if not part:
                break
            parts.append(part)
            size += len(part)
            if size > job["output"]:
                raise Flood
        while True:  # stdout is closed; the process may still be at it
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                raise Late
            look_at_files()
            time.sleep(0.0005)
        child.pid = 0
        os.close(child.write_end)
        os.close(child.read_end)
        code = os.waitstatus_to_exitcode(status)
        return frame("V", encode((code, b"".join(parts))))
    except Late:
        child.close()
        return frame("T")
    except Flood:
        child.close()
        return frame("O")
    except Files:
        child.close()
        return frame("F")


MODES = {"call": serve_calls, "check": serve_check}


def main() -> None:
    prctl(4, 0)  # not dumpable: no other process of this uid may look into this one
    forever = time.monotonic() + 10**6
    out = os.dup(1)
    os.set_inheritable(out, False)
    into = os.dup(0)
    job: dict[str, Any] = {}
    child: Child | None = None
    write(out, frame("R"), forever)
    while True:
        try:
            letter, limit, payload = read_frame(into, forever)
        except Gone:
            return
        if letter == "J":
            job = decode(payload)
            if child is not None:
                child.close()
                child = None
            if job["mode"] == "stdin":
                answer = frame("R")
            else:
                child = Child(job)
                answer = child.reply(limit)
        elif letter == "Q":
            if child is not None:
                child.close()
                child = None
            answer = frame("R")
        elif letter == "I":
            answer = stdin_test(job, payload, limit)
        elif child is None or not child.pid:
            answer = frame("D", encode(0))
        else:
            try:
                write(child.write_end, frame(letter, payload), time.monotonic() + limit)
                answer = child.reply(limit)
            except Late:
                child.close()
                answer = frame("T")
            except Gone:
                answer = frame("D", encode(child.close()))
        write(out, answer, forever)
