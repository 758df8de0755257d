"""What runs first inside a sandbox: forks one process per program or per test and passes bytes between it and outside.

The grader hands the texts of `codec.py`, `frames.py` and this file, compiled, to a bare interpreter in the sandbox.
Nothing here decides anything.  The grader keeps the expected outputs and compares outside, so a candidate that takes
over its process, or this one, gains nothing but the right to answer, which it had anyway.

Frames to here, with the CPU time that the answer may take: J (a job), I (the input of one stdin test), any other letter
for the process to go on with (C a call, V, W or E the answer to one).
From here, with the CPU time that it took: what the process sent (R ready, V value, E exception, C call) or T (time),
D (died), O (too much output).
"""

from __future__ import annotations

# The start of an interpreter is most of what a grading costs, so only what is built in or needed: `posix` without `os`.
import marshal
import posix as os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
if "encode" not in globals():
    from gainrl.tasks.frames import Flood, Gone, Late, frame, receive, send
    from gainrl.tasks.sandbox.codec import decode, encode

STACK = 8 << 20  # bytes of a thread's stack; the main thread's may grow to the hard limit


def backstop(cpu: float) -> float:
    """The wall time that goes with a limit on CPU time, for what sleeps and for machines with other work."""
    return 1.5 * cpu + 1


def prctl(option: int, second: int = 0, third: Any = 0) -> None:
    """The C library's prctl; OSError where it fails."""
    import ctypes

    call = ctypes.CDLL(None).prctl
    call.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]
    if call(option, second, third, 0, 0):
        raise OSError(f"prctl {option}")


def forbid(program: bytes) -> None:
    """Load a seccomp filter (array of struct sock_filter) into this process for good."""
    import ctypes

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = (("count", ctypes.c_ushort), ("code", ctypes.c_char_p))

    whole = Program(len(program) // 8, program)
    prctl(22, 2, ctypes.addressof(whole))


def become_untrusted(job: dict[str, Any]) -> None:
    """Limits that cannot be raised again, then no system call but those that computing needs."""
    import _thread
    import builtins
    import resource

    for name, value in job["limits"].items():
        which = getattr(resource, "RLIMIT_" + name)
        most = resource.getrlimit(which)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(which, (value, value))
    _thread.stack_size(STACK)
    sys.path.append("/packages")
    names: Any = builtins
    names.exit = names.quit = sys.exit  # which `site` would define
    sys.set_int_max_str_digits(0)
    forbid(job["filter"])


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


def held(given: bytes) -> int:
    """A file in memory with the input of a test, which cannot be written to."""
    import fcntl

    descriptor = os.memfd_create("stdin", 2)
    view = memoryview(given)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, 0)
    fcntl.fcntl(descriptor, 1033, 15)  # F_ADD_SEALS: no more seals, no shrinking, no growing, no writing
    return descriptor


class Child:
    """The process that runs the candidate: frames both ways, or, given an input for its stdin, its stdout back."""

    def __init__(self, job: dict[str, Any], given: bytes | None = None) -> None:
        self.job, self.spent = job, 0.0
        there, self.write_end = os.pipe()
        self.read_end, back = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(there)
            os.close(back)
            os.set_blocking(self.write_end, False)
            return
        try:
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null if given is None else held(given), 0)
            os.dup2(null if given is None else back, 1)
            os.dup2(null, 2)
            # the ways to the grader among them: nothing leads out but `back`
            kept = [] if given is not None else sorted((there, back))
            for low, high in zip([2, *kept], [*kept, 1 << 20], strict=True):
                os.closerange(low + 1, high)
            become_untrusted(job)
            status = run_program(job["code"]) if given is not None else MODES[job["mode"]](job, there, back)
            os._exit(status)
        finally:
            os._exit(70)

    def watch(self, seconds: float) -> Any:
        """A way to wait for the process that raises `Late` after `seconds` of its CPU time, or the backstop of wall."""
        clock = ~self.pid << 3 | 2  # CPU time of the process, its threads included
        began, until = time.clock_gettime(clock), time.monotonic() + backstop(seconds)

        def wait(descriptor: int, event: int) -> None:
            poll, ready = select.poll(), False
            if descriptor >= 0:
                poll.register(descriptor, event)
            while True:
                self.spent = time.clock_gettime(clock) - began
                left = min(seconds - self.spent, until - time.monotonic())
                if left <= 0:
                    raise Late
                if ready:
                    return
                # threads use the time of several cores at once; what is waited for without a descriptor is looked at
                poll_ms = max(1, left * 1000 / CORES) if descriptor >= 0 else 1
                ready = bool(poll.poll(poll_ms)) or descriptor < 0

        return wait

    def close(self) -> bytes:
        """Kill and reap; the wait status."""
        if not self.pid:
            return b"0"
        os.kill(self.pid, 9)
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.write_end)
        os.close(self.read_end)
        self.pid = 0
        return b"%d" % status

    def ask(self, seconds: float, sent: bytes | None) -> bytes:
        """The process's answer to a frame, or, without one, V (exit status, a space, stdout) of a program that ends.

        Else T, D or O, after which the process is gone.
        """
        wait = self.watch(seconds)
        try:
            if sent is None:
                return frame("V", self.printed(wait), self.spent)
            send(self.write_end, sent, wait)
            letter, _, payload = receive(self.read_end, wait, self.job["most"])
            if letter not in "RVEC":  # the others are this process's to say
                raise Gone
            return frame(letter, payload, self.spent)
        except (Late, Flood) as error:
            self.close()
            return frame("T" if isinstance(error, Late) else "O", b"", self.spent)
        except (Gone, OSError):
            return frame("D", self.close(), self.spent)

    def printed(self, wait: Any) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while not chunks or chunks[-1]:
            wait(self.read_end, select.POLLIN)
            chunks.append(os.read(self.read_end, 1 << 16))
            size += len(chunks[-1])
            if size > self.job["most"]:
                raise Flood
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            wait(-1, 0)  # stdout is closed; the process may still be at it
        return b"%d " % os.waitstatus_to_exitcode(int(self.close())) + b"".join(chunks)


def load(code: str, file: str, name: str) -> dict[str, Any]:
    """The names of a new module with this code, which dataclasses look up by `name`, compiled without our flags."""
    sys.modules[name] = module = type(sys)(name)
    exec(compile(code, file, "exec", dont_inherit=True), vars(module))
    return vars(module)


def run_program(code: str) -> int:
    """Mode stdin: run the whole program as __main__; the exit status is the program's own."""
    status = 0
    sys.argv[:] = ["candidate"]
    try:
        load(code, "<candidate>", "__main__")
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


def describe(error: BaseException) -> bytes:
    try:
        return encode(f"{type(error).__name__}: {error}"[:500])
    except BaseException:
        return encode("an exception")


def serve_calls(job: dict[str, Any], there: int, back: int) -> int:
    """Modes call and seen: run the code once, then call `entry` with each (args, kwargs) that arrives.

    Mode seen gives the arguments back too, as the call left them.
    """
    try:
        names = load(job["code"], "<candidate>", "candidate")
        owner, _, method = job["entry"].rpartition(".")
        names[owner or method]  # a missing class or function is an error now
    except BaseException as error:
        send(back, frame("E", describe(error)))
        return 1
    send(back, frame("R"))
    while True:
        _, _, payload = receive(there)
        args, kwargs = marshal.loads(payload)
        try:
            function = getattr(names[owner](), method) if owner else names[method]
            value = function(*args, **kwargs)
            answer = frame("V", encode((value, *args, *kwargs.values()) if job["mode"] == "seen" else value))
        except BaseException as error:
            answer = frame("E", describe(error))
        send(back, answer)


def serve_check(job: dict[str, Any], there: int, back: int) -> int:
    """Mode check: run a dataset's own `check(candidate)`, with a candidate whose calls are answered from outside."""
    import builtins

    def candidate(*args: Any, **kwargs: Any) -> Any:
        send(back, frame("C", encode((args, kwargs))))
        letter, _, payload = receive(there)
        if letter in "VW":
            value, *seen = marshal.loads(payload) if letter == "V" else decode(payload)
            for mine, now in zip([*args, *kwargs.values()], seen, strict=True):
                # What returns nothing may change its arguments; of another a test may expect something of them.
                if value is None and mine != now and type(mine) is type(now) in (list, dict, set):
                    mine.clear()
                    (mine.extend if type(mine) is list else mine.update)(now)
            return value
        name, _, message = payload.decode().partition(": ")
        kind = getattr(builtins, name, None)
        raise kind(message) if isinstance(kind, type) and issubclass(kind, Exception) else Exception(payload.decode())

    try:
        names = load(job["code"], "<prompt>", "test")
        names[job["entry"]] = candidate
        exec(compile(job["test"], "<test>", "exec", dont_inherit=True), names)
        names["check"](candidate)
        answer = frame("V", encode(True))
    except BaseException as error:
        answer = frame("E", describe(error))
    send(back, answer)
    return 0


MODES = {"call": serve_calls, "seen": serve_calls, "check": serve_check}
CORES = 1


def main() -> None:
    global CORES
    CORES = os.cpu_count() or 1
    prctl(4)  # not dumpable: no other process of this uid may look into this one
    prctl(41, 1)  # no huge pages: of one that is unmapped but for its last 4 KiB, the limit would count those
    out, into = os.dup(1), os.dup(0)
    job: dict[str, Any] = {}
    child: Child | None = None
    send(out, frame("R"))
    while True:
        try:
            letter, seconds, payload = receive(into)
        except Gone:
            return
        if letter == "J":
            job = marshal.loads(payload)
        if child is not None and letter in "JI":
            child.close()
        if job["mode"] == "stdin":
            child = Child(job, payload) if letter == "I" else None
            answer = frame("R") if child is None else child.ask(seconds, None)
        else:
            if letter == "J":
                child = Child(job)
            if child is None or not child.pid:
                answer = frame("D", b"0")
            else:
                answer = child.ask(seconds, b"" if letter == "J" else frame(letter, payload))
        send(out, answer)
