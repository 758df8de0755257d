"""Grades programs: the worker of `gainrl.tasks.workers` behind `gainrl.tasks.sandbox.pool`.

Started by root it first becomes an unprivileged user for good.  Each program gets a sandbox of its own (`jail.py`),
which is killed whole at the end; inputs go in, outputs come out, and every comparison with an expected output happens
here.  What comes out is bounded before it is read: its length by the expected output's, reading it by a time.

Requests: {"kind", "code", "limits": {...}, ...}.
  calls     "entry", "tests" (packed), "atol" (of numbers), "float_atol" (of floats, if atol is 0), "rule" ("root"),
            "tuple_as_list" (at every depth), "all" (go on after a failure)
  stdin     "tests" [[input, output], ...], "atol" (of numbers expected with a point), "any_case", "all"
  check     "entry", "prompt" and "test" (code that defines check)
  outputs   "entry", "tests" (packed): the tests with what a trusted program returns as expected
Reply: {"verdict": "right" | "wrong" | "unscorable", "reason", "passed", "total", "outputs"?, "lasting"?, "differs"?}.
"""

from __future__ import annotations

import json
import marshal
import os
import reprlib
import sys
import time
from contextlib import closing
from types import SimpleNamespace
from typing import Any

from gainrl.tasks.frames import LARGEST
from gainrl.tasks.sandbox import codec, jail
from gainrl.tasks.sandbox.compare import as_lists, is_floats, is_root, same, same_text
from gainrl.tasks.sandbox.filter import filters
from gainrl.tasks.sandbox.harness import backstop
from gainrl.tasks.sandbox.jail import Ended

MEMORY = 4 << 30  # bytes of address space: expected outputs and answers are decoded here
_READING = 2.0  # seconds of CPU time for decoding one answer
_SHORT = 1 << 16  # bytes that any answer may have
_LONGER = 4  # times as long as the expected one may an answer be


class Differs(str):
    """The words for an output that is another than the expected one."""


class Raised(ValueError):
    """The program raised an exception: its own failure, as a time limit on a busy machine may not be."""


class Session(jail.Jail):
    """A program's sandbox and what is left of its time, which nothing extends.

    CPU time decides: `limits.test` for each test and for loading, `limits.total`, or what the tests can need, for all
    together.  Wall time is the backstop.
    """

    def __init__(self, limits: Any, mode: str, code: str, tests: int, most: int = LARGEST, **more: Any):
        hard = {
            "AS": limits.memory, "CPU": int(limits.total) + 2, "FSIZE": 0, "NPROC": limits.processes, "NOFILE": 64,
            "CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0, "SIGPENDING": 0,
        }  # fmt: skip
        job = {"mode": mode, "code": code, "most": most, "filter": filters()[1], "limits": hard, **more}
        self._job, self._stdin = marshal.dumps(job), mode == "stdin"
        self._test, self._left = limits.test, min(limits.total, tests * limits.test + 5)
        self._until, self._loaded = 0.0, False
        super().__init__()

    def load(self) -> tuple[str, bytes]:
        """Have the program loaded, again where its process is gone; its first answer."""
        self.ready()
        self._until, self._loaded = self._until or time.monotonic() + backstop(self._left), True
        return self.step("J", self._job)

    def step(self, letter: str, payload: bytes) -> tuple[str, bytes]:
        """One step of the program.  Raises `Ended` where the total time is over or the sandbox is lost."""
        if not self._loaded and (answer := self.load())[0] != "R":
            raise Ended(f"the program does not load: {explain(*answer)}")
        left = min(self._test, self._left, self._until - time.monotonic())
        if left <= 0:
            raise Ended("the total time limit passed")
        found, spent, reply = self.ask(letter, payload, left)
        self._left -= spent
        self._loaded = self._stdin or found not in "TOD"
        return found, reply


def explain(letter: str, payload: bytes) -> str:
    """A frame that is no value, in words."""
    if letter == "T":
        return "the time limit passed"
    if letter == "O":
        return "too much output"
    if letter == "D":
        status = os.waitstatus_to_exitcode(int(payload))
        return f"the process {f'was killed by signal {-status}' if status < 0 else f'exited with status {status}'}"
    try:
        value = codec.decode(payload) if len(payload) < _SHORT else None
    except ValueError:
        value = None
    if letter == "E" and isinstance(value, str):
        return "".join(letter if letter.isprintable() else "?" for letter in value[:300])  # it may end in a terminal
    return "the process sent nonsense"


def longest(expected: str) -> int:
    return _SHORT + _LONGER * len(expected)


def call(session: Session, args: Any, kwargs: Any) -> bytes:
    """The program's answer to one call, undecoded.  `Ended` ends everything, ValueError is this call's failure."""
    letter, payload = session.step("C", marshal.dumps((args, kwargs)))
    if letter != "V":
        raise (Raised if letter == "E" else ValueError)(explain(letter, payload))
    return payload


def grade_calls(request: dict[str, Any], limits: Any) -> dict[str, Any]:
    """Call the entry point with each test's arguments and compare what it returns."""
    tests = json.loads(request["tests"])
    rule, given, floats = request.get("rule"), request.get("atol", 0.0), request.get("float_atol", 0.0)
    most = max((longest(expected) for _, expected in tests), default=_SHORT)
    session = Session(limits, "call", request["code"], len(tests), most, entry=request["entry"])

    def one(test: Any) -> str:
        (args, kwargs), expected = codec.decode(test[0].encode()), test[1]
        payload = call(session, args, kwargs)
        if payload == expected.encode():
            return ""
        if len(payload) > longest(expected):
            return "the value is much longer than the expected one"
        found = codec.decode(payload, _READING + longest(expected) / 2e7)
        wanted = codec.decode(expected.encode())
        if request.get("tuple_as_list"):
            found, wanted = as_lists(found), as_lists(wanted)
        atol = given or (floats if floats and is_floats(wanted) else 0.0)
        if same(wanted, found, atol) or (rule == "root" and is_root(args[0], found, atol)):
            return ""
        given_to = short((*args, kwargs) if kwargs else tuple(args))
        why = f"{given_to} gives {short(found)}, not {short(wanted)}"
        return Differs(why) if type(found) is type(wanted) else why  # None is not another right output

    return _grade_each(session, tests, one, request.get("all", False))


def grade_stdin(request: dict[str, Any], limits: Any) -> dict[str, Any]:
    """Run the program on each input and compare what it prints."""
    session = Session(limits, "stdin", request["code"], len(request["tests"]), limits.output)

    def one(test: Any) -> str:
        given, expected = test
        letter, payload = session.step("I", str(given).encode("utf-8", "surrogatepass"))
        if letter != "V":
            return explain(letter, payload)
        status, _, printed = payload.partition(b" ")
        if status != b"0":
            return f"exit status {int(status)}"
        if len(printed) > longest(expected):
            return "prints much more than is expected"
        text = printed.decode("utf-8", "replace")
        if same_text(expected, text, request.get("atol", 0.0), request.get("any_case", False)):
            return ""
        why = f"prints {short(text)}, not {short(expected)}"
        return Differs(why) if text.strip() else why

    return _grade_each(session, request["tests"], one, request.get("all", False))


def _grade_each(session: Session, tests: Any, one: Any, go_on: bool) -> dict[str, Any]:
    passed, reason, differs = 0, "", False
    try:
        for number, test in enumerate(tests):
            try:
                why = one(test)
            except (ValueError, ArithmeticError, RecursionError) as error:  # signalling NaNs, lists nested too deeply
                why = str(error) or "the answer cannot be compared"
            passed += not why
            if why and not reason:
                reason, differs = f"test {number + 1} of {len(tests)}: {why}", isinstance(why, Differs)
            if why and not go_on:
                break
    except Ended as error:
        reason = reason or f"after {passed} of {len(tests)} tests: {error}"
    finally:
        session.close()
    right = passed == len(tests) > 0
    verdict = "right" if right else "wrong"
    return {"verdict": verdict, "reason": reason, "passed": passed, "total": len(tests), "differs": differs}


def grade_check(request: dict[str, Any], limits: Any) -> dict[str, Any]:
    """Run the dataset's `check(candidate)` in one sandbox, the candidate in another, calls going between.

    Back goes the value, and the arguments, which the candidate may have changed in place.
    """
    calls, wrong, reason = 0, "", ""
    with (
        closing(Session(limits, "check", request["prompt"], 1, entry=request["entry"], test=request["test"])) as tests,
        closing(Session(limits, "seen", request["code"], 1, 16 * _SHORT, entry=request["entry"])) as session,
    ):
        try:
            letter, payload = tests.load()
            while letter == "C":
                calls += 1
                args, kwargs = codec.decode(payload)
                try:
                    answer = call(session, args, kwargs)
                    value = codec.decode(answer, _READING)
                except Raised as error:  # an exception, which the tests may expect
                    letter, payload = tests.step("E", str(error).encode(errors="replace"))
                    continue
                except ValueError as error:
                    wrong = str(error)
                    break
                try:
                    letter, payload = tests.step("V", marshal.dumps(value))
                except ValueError:  # a fraction, a decimal, an Opaque
                    letter, payload = tests.step("W", answer)
            reason = wrong or ("" if letter == "V" else explain(letter, payload))
        except Ended as error:
            reason = str(error)
    if not calls:
        return {"verdict": "unscorable", "reason": f"the tests called nothing: {reason}", "passed": 0, "total": 1}
    return {"verdict": "wrong" if reason else "right", "reason": reason, "passed": int(not reason), "total": 1}


def outputs_of(request: dict[str, Any], limits: Any) -> dict[str, Any]:
    """What a trusted solution returns for each test's arguments, to be expected from others."""
    tests = [given for given, _ in json.loads(request["tests"])]
    with closing(Session(limits, "call", request["code"], len(tests), entry=request["entry"])) as session:
        try:
            found = [[given, call(session, *codec.decode(given.encode())).decode()] for given in tests]
        except (Ended, ValueError) as error:
            reason = f"the canonical solution fails: {error}"
            return {"verdict": "unscorable", "reason": reason, "lasting": isinstance(error, Raised)}
    if not found:
        return {"verdict": "unscorable", "reason": "the row has no test inputs", "lasting": True}
    return {"verdict": "right", "reason": "", "outputs": json.dumps(found)}


_REPR = reprlib.Repr()  # reads the first few items only: an answer may hold millions
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80


def short(value: Any) -> str:
    text = _REPR.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


KINDS = {"calls": grade_calls, "stdin": grade_stdin, "check": grade_check, "outputs": outputs_of}


def prepare() -> str:
    """Become unprivileged and start one sandbox; why programs cannot be graded safely here, or an empty string."""
    sys.setrecursionlimit(10_000)
    try:
        jail.command()
        jail.harness_code()
        filters()
        jail.become_keeper()
        jail.drop_root(jail.interpreter().parent.parent)
        first = jail.Jail()
        first.ready()
        first.close()
    except ImportError as error:
        return f"the sandbox's filter needs libseccomp ({error}): pip install pyseccomp, apt-get install libseccomp2"
    except (jail.NoIsolation, OSError) as error:
        return f"programs cannot be graded safely here: {error}"
    return ""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request; see the module's docstring."""
    try:
        return KINDS[request["kind"]](request, SimpleNamespace(**request["limits"]))
    except jail.NoIsolation as error:
        return {"verdict": "unscorable", "reason": f"no sandbox starts any more: {error}"}
