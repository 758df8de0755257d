"""The process that grades programs: one JSON request a line in, one reply out, until stdin closes.

Run by module file from `gainrl.tasks.sandbox.pool`.  Started by root it first becomes an unprivileged user for good.
Each program gets a sandbox of its own (`jail.py`), which is killed whole at the end; inputs go in, outputs come out,
and every comparison with an expected output happens here.

Requests: {"kind": "calls" | "stdin" | "check" | "outputs" | "probe", "code", ..., "limits": {...}}.
Reply: {"verdict": "right" | "wrong" | "unscorable", "reason", "passed", "total", "outputs"?, "lasting"?}.
"""

from __future__ import annotations

import base64
import json
import os
import reprlib
import resource
import signal
import sys
import time
from types import SimpleNamespace
from typing import Any

from gainrl.tasks.sandbox import codec, jail
from gainrl.tasks.sandbox.compare import is_floats, is_root, same, same_text, shrunk

_MEMORY = 4 << 30  # of this process: expected outputs and answers are decoded here
_READING = 0.4  # seconds of CPU for one answer; the 9 MiB of HumanEval/130 take about 0.1
_LONG = 1 << 16  # bytes of an answer from which it may take longer, where the expected one does
_SLACK = 5  # times as long as the expected one


_kept: jail.Jail | None = None  # a sandbox for the tests of datasets, never for candidates


class Ended(Exception):
    """The candidate ended the grading; the message is the reason it is wrong."""


class Raised(ValueError):
    """The program raised an exception: its own failure, as a time limit on a busy machine may not be."""


class Session:
    """A program's sandbox, started again where a test killed it, until the program's total time is used up."""

    def __init__(self, arguments: list[str], limits: Any, mode: str, code: str, **more: Any):
        self._arguments, self._limits = arguments, limits
        self._job = jail.job(mode, code, limits, **more)
        self._jail: jail.Jail | None = None
        self._until = time.monotonic() + limits.total

    def left(self) -> float:
        return float(min(self._limits.test, self._until - time.monotonic()))

    def ask(self, letter: str, payload: bytes) -> tuple[str, bytes]:
        """One step of the program.  Raises `Ended` where the total time is over or the sandbox is lost."""
        if self._jail is None:
            self.start()
        assert self._jail is not None
        if self.left() <= 0:
            raise Ended("the total time limit passed")
        try:
            answer = self._jail.ask(letter, payload, self.left())
        except jail.Broken as error:
            self.close()
            raise Ended(str(error)) from error
        if answer[0] == "F" or (answer[0] in "TOD" and letter != "I"):
            self.close()  # the program's process is gone, or its files are in the way; the next test gets a new one
        return answer

    def start(self) -> None:
        """A new sandbox with the program loaded.  Raises `Ended` where the program does not even load."""
        self._jail = jail.Jail(self._arguments)
        self._until = max(self._until, time.monotonic() + 0.05)
        try:
            letter, payload = self._jail.ask("J", self._job, max(self.left(), 0.05))
        except jail.Broken as error:
            raise Ended(str(error)) from error
        if letter != "R":
            raise Ended(f"the program does not load: {explain(letter, payload)}")

    def begin(self) -> tuple[str, bytes]:
        """For mode check: start and return the first thing the process says."""
        global _kept
        self._jail, _kept = _kept or jail.Jail(self._arguments), None
        try:
            return self._jail.ask("J", self._job, self.left())
        except jail.Broken as error:
            self.close()
            raise Ended(str(error)) from error

    def keep(self) -> None:
        """Leave the sandbox to the next check: what ran in it was the dataset's code, in a process that is over."""
        global _kept
        assert self._jail is not None
        try:
            self._jail.ask("Q", b"", 1.0)
        except jail.Broken:
            return  # whoever closes this session closes the sandbox
        _kept, self._jail = self._jail, None

    def close(self) -> None:
        if self._jail is not None:
            ending, self._jail = self._jail, None
            ending.close()


def explain(letter: str, payload: bytes) -> str:
    """A frame that is no value, in words."""
    if letter == "T":
        return "the time limit passed"
    if letter == "O":
        return "too much output"
    if letter == "F":
        return "too many files"
    try:
        value = codec.decode(payload, _READING)
    except ValueError:
        return "the process sent nonsense"
    if letter == "D" and isinstance(value, int) and 0 <= value < 1 << 16:
        if os.WIFSIGNALED(value):
            return f"the process was killed by signal {os.WTERMSIG(value)}"
        return f"the process exited with status {os.waitstatus_to_exitcode(value)}"
    if letter == "E" and isinstance(value, str):
        return "".join(letter if letter.isprintable() else "?" for letter in value[:300])  # it may end in a terminal
    return "the process sent nonsense"


def reading(expected: Any, answer: bytes) -> float:
    """Seconds of CPU that decoding `answer` may take: an honest one takes about as long as the expected value."""
    if len(answer) < _LONG:
        return _READING
    began = time.thread_time()
    codec.decode(codec.encode(expected))
    return max(_READING, _SLACK * (time.thread_time() - began))


def call(session: Session, args: Any, kwargs: Any, expected: Any = None, seconds: float = 0.0) -> Any:
    """The program's answer to one call.  `Ended` is the end of everything, ValueError this call's failure."""
    letter, payload = session.ask("C", codec.encode((args, kwargs)))
    if letter != "V":
        raise (Raised if letter == "E" else ValueError)(explain(letter, payload))
    return codec.decode(payload, seconds or reading(expected, payload))


def grade_calls(arguments: list[str], request: dict[str, Any], limits: Any) -> dict[str, Any]:
    """Call the entry point with each test's arguments and compare what it returns."""
    tests = codec.decode(base64.b64decode(request["tests"]))
    rule, given, floats = request.get("rule"), request.get("atol", 0.0), request.get("float_atol", 0.0)
    session = Session(arguments, limits, "call", request["code"], entry=request["entry"])

    def one(test: Any) -> str:
        args, kwargs, expected = test
        found = call(session, args, kwargs, expected)
        if isinstance(found, tuple) and request.get("tuple_as_list"):
            found = list(found)
        atol = given or (floats if floats and is_floats(expected) else 0.0)
        right = same(expected, found, atol) or (rule == "root" and is_root(args[0], found, atol))
        return "" if right else f"{shown(args, kwargs)} gives {short(found)}, not {short(expected)}"

    return _grade_each(session, tests, one, request.get("all", False))


def grade_stdin(arguments: list[str], request: dict[str, Any], limits: Any) -> dict[str, Any]:
    """Run the program on each input and compare what it prints."""
    session = Session(arguments, limits, "stdin", request["code"])

    def one(test: Any) -> str:
        given, expected = test
        letter, payload = session.ask("I", str(given).encode("utf-8", "surrogatepass"))
        if letter != "V":
            return explain(letter, payload)
        status, printed = codec.decode(payload)
        if status != 0:
            return f"exit status {status}"
        text = printed.decode("utf-8", "replace")
        return (
            ""
            if same_text(expected, text, request.get("atol", 0.0))
            else f"prints {short(text)}, not {short(expected)}"
        )

    return _grade_each(session, request["tests"], one, request.get("all", False))


def _grade_each(session: Session, tests: Any, one: Any, go_on: bool) -> dict[str, Any]:
    passed, reason = 0, ""
    try:
        for number, test in enumerate(tests):
            try:
                why = one(test)
            except ValueError as error:
                why = str(error)
            passed += not why
            if why and not reason:
                reason = f"test {number + 1} of {len(tests)}: {why}"
            if why and not go_on:
                break
    except Ended as error:
        reason = reason or f"after {passed} of {len(tests)} tests: {error}"
    finally:
        session.close()
    right = passed == len(tests) > 0
    return {"verdict": "right" if right else "wrong", "reason": reason, "passed": passed, "total": len(tests)}


def grade_check(arguments: list[str], request: dict[str, Any], limits: Any) -> dict[str, Any]:
    """Run the dataset's `check(candidate)` in one sandbox, the candidate in another, calls going between."""
    checker = Session(arguments, limits, "check", request["prompt"], entry=request["entry"], test=request["test"])
    session = Session(arguments, limits, "call", request["code"], entry=request["entry"])
    calls, reason, wrong = 0, "", False
    try:
        letter, payload = checker.begin()
        while letter == "C":
            calls += 1
            args, kwargs = codec.decode(payload)
            try:
                answer = session.ask("C", codec.encode((args, kwargs)))
                if answer[0] == "V":
                    codec.decode(answer[1], _READING)  # what is no plain value is an exception to the tests
                else:
                    wrong = True
                    answer = ("E", codec.encode(explain(*answer)))
            except (Ended, ValueError) as error:
                wrong = True
                answer = ("E", codec.encode(str(error)))
            letter, payload = checker.ask(*answer)
        if letter in "VE":
            checker.keep()
        if letter == "V" and codec.decode(payload) is True and calls and not wrong:
            return {"verdict": "right", "reason": "", "passed": 1, "total": 1}
        reason = explain(letter, payload) if calls else f"the tests called nothing: {explain(letter, payload)}"
        if not calls:
            return {"verdict": "unscorable", "reason": reason, "passed": 0, "total": 1}
    except (Ended, ValueError) as error:
        reason = str(error)
    finally:
        session.close()
        checker.close()
    return {"verdict": "wrong", "reason": reason, "passed": 0, "total": 1}


def outputs_of(arguments: list[str], request: dict[str, Any], limits: Any) -> dict[str, Any]:
    """What a trusted solution returns for each input, to be expected from others."""
    inputs = codec.decode(base64.b64decode(request["tests"]))
    session = Session(arguments, limits, "call", request["code"], entry=request["entry"])
    try:
        values = [shrunk(value := call(session, args, {}, seconds=limits.test), codec.encode(value)) for args in inputs]
    except (Ended, ValueError) as error:
        reason = f"the canonical solution fails: {error}"
        return {"verdict": "unscorable", "reason": reason, "lasting": isinstance(error, Raised)}
    finally:
        session.close()
    return {"verdict": "right", "reason": "", "outputs": base64.b64encode(codec.encode(values)).decode()}


def probe(arguments: list[str], request: dict[str, Any], limits: Any) -> dict[str, Any]:
    """Run a function in a sandbox and return its plain value (the self-test)."""
    return outputs_of(arguments, {**request, "tests": base64.b64encode(codec.encode([()])).decode()}, limits)


_REPR = reprlib.Repr()  # reads the first few items only: an answer may hold millions
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxfrozenset = _REPR.maxdict = 20


def short(value: Any) -> str:
    try:
        text = _REPR.repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits to print
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def shown(args: Any, kwargs: Any) -> str:
    return short(tuple(args) if not kwargs else (*args, kwargs))


KINDS = {"calls": grade_calls, "stdin": grade_stdin, "check": grade_check, "outputs": outputs_of, "probe": probe}


def main() -> None:
    requests, replies = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(quiet, descriptor)
    os.close(quiet)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        python = jail.interpreter()
        arguments = jail.command(python)
        jail.harness_code()
        jail.adopt_orphans()
        jail.drop_root(jail.prefix_of(python))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        jail.Jail(arguments).close()
    except (jail.NoIsolation, jail.Broken, OSError) as error:
        print(json.dumps({"missing": f"programs cannot be graded safely here: {error}"}), file=replies, flush=True)
        return
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in requests:
        request = json.loads(line)
        limits = SimpleNamespace(**request["limits"])
        signal.setitimer(signal.ITIMER_REAL, 3 * limits.total + 30)  # even if nobody is left to kill this process
        try:
            reply = KINDS[request["kind"]](arguments, request, limits)
        except (Exception, RecursionError) as error:
            reply = {
                "verdict": "unscorable",
                "reason": f"the grader failed: {type(error).__name__}: {str(error)[:200]}",
            }
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    main()
