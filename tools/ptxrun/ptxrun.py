"""Runs the PTX that a compiler made, on the CPU, with checks that no GPU makes: see machine.cpp for what they find.

    module = Module(Path("kernels.ptx").read_text())
    report = module.kernel("angle_sum").launch(grid=3, threads=96, shared=9000, parameters=bytes(288),
                                               buffers=[Buffer(hidden), Buffer(sums, writable=True, written=False)])
    assert not report.faults, report

Pointers in `parameters` are the addresses of NumPy arrays that `buffers` names; everything else is out of bounds.  What
the buffers hold is changed in place.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SHARED_BASE = 0x1000
SPECIAL = {"%tid.x": -2, "%ctaid.x": -3, "%ntid.x": -4, "%nctaid.x": -5, "%laneid": -6}
ZERO = {"%tid.y", "%tid.z", "%ctaid.y", "%ctaid.z"}
ONE = {"%ntid.y", "%ntid.z", "%nctaid.y", "%nctaid.z"}
SAME = {"and": "and_", "or": "or_", "xor": "xor_", "not": "not_"}
PLAIN = {"add", "sub", "fma", "div", "rem", "min", "max", "neg", "abs", "sqrt", "rcp", "rsqrt", "shl", "shr", "bfi",
         "bfe", "brev", "popc", "clz", "selp", "mul", "mad", "and_", "or_", "xor_", "not_", "prmt"}  # fmt: skip
# A brace, a label, or an instruction up to its semicolon, vectors in braces included.
STATEMENT = re.compile(r"[{}](?![^;{}]*[,}])|[\w$]+:(?!:)|[^;{}]*\{[^}]*\}[^;]*;|[^;]+;")


class Unsupported(Exception):
    """PTX that this machine does not model."""


class _Operand(ctypes.Structure):
    _fields_ = (("reg", ctypes.c_int32), ("negated", ctypes.c_int32), ("value", ctypes.c_int64))


class _Instruction(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("op", "type", "from_", "cmp", "space", "count", "guard", "guard_negated",
                                              "target", "line")),
        ("to", ctypes.c_int32 * 4), ("into", _Operand * 5),
    )  # fmt: skip


class _Buffer(ctypes.Structure):
    _fields_ = (("address", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("writable", ctypes.c_int32),
                ("written", ctypes.c_int32))  # fmt: skip


@functools.cache
def machine() -> ctypes.CDLL:
    """The compiled machine, built beside its source."""
    source = Path(__file__).with_name("machine.cpp")
    folder = source.parent if os.access(source.parent, os.W_OK) else Path(tempfile.gettempdir())
    target = folder / f"ptxrun-machine-{os.getuid()}.so"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(
            ["g++", "-std=c++17", "-O2", "-ffp-contract=off", "-mfma", "-fPIC", "-shared", source, "-o", target],
            check=True,
        )
    library = ctypes.CDLL(str(target))
    library.machine_names.restype = library.machine_run.restype = ctypes.c_char_p
    assert library.machine_instruction_bytes() == ctypes.sizeof(_Instruction)
    return library


@functools.cache
def _numbers(which: int) -> dict[str, int]:
    names = machine().machine_names(which).decode().rstrip(",").split(",")
    return {name: i for i, name in enumerate(names)}


@dataclass
class Buffer:
    """Memory that a kernel may touch.  `known`: which bytes have a value, kept from launch to launch."""

    array: np.ndarray
    writable: bool = False
    written: bool = True
    known: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.known = np.full(self.array.nbytes if self.writable else 0, self.written, dtype=np.uint8)


@dataclass
class Report:
    """What a launch did: faults (PTX line, how often, what) and counts; per instruction how often it was issued."""

    faults: list[tuple[int, int, str]]
    counts: dict[str, int]
    stopped: bool
    executed: np.ndarray
    divergent: np.ndarray

    def __str__(self) -> str:
        lines = [f"PTX line {line}, {times} times: {what}" for line, times, what in self.faults]
        return "\n".join(lines + (["stopped"] if self.stopped else []))


class Kernel:
    """One .entry, decoded."""

    def __init__(self, name: str, body: list[tuple[int, str]], symbols: dict[str, int], static_shared: int) -> None:
        self.name, self.symbols, self.static_shared = name, symbols, static_shared
        self.registers: dict[str, int] = {}
        self.scopes: list[dict[str, str]] = [{}]
        self.labels: dict[str, int] = {}
        self.parameter_bytes = 0
        self.instructions: list[_Instruction] = []
        self.text: list[str] = []
        self._pending: list[tuple[_Instruction, str]] = []
        self._blocks = 0
        for line, statement in body:
            self._statement(line, statement)
        for instruction, label in self._pending:
            instruction.target = self.labels[label]
        self.code = (_Instruction * len(self.instructions))(*self.instructions)

    # Decoding ------------------------------------------------------------------------------------------------------

    def _statement(self, line: int, text: str) -> None:
        if text == "{":
            self.scopes.append({})
        elif text == "}":
            self.scopes.pop()
        elif text.endswith(":"):
            self.labels[text[:-1]] = len(self.instructions)
        elif text.startswith(".reg"):
            if len(self.scopes) > 2:  # inside a block of inline assembly: names of its own
                for name in re.findall(r"%\w+", text):
                    self._blocks += 1
                    self.scopes[-1][name] = f"{name}.{self._blocks}"
        elif not text.startswith("."):
            self._instruction(line, text)

    def _register(self, name: str) -> int:
        for scope in reversed(self.scopes):
            name = scope.get(name, name)
            if "." in name:
                break
        return self.registers.setdefault(name, len(self.registers))

    def _value(self, text: str) -> _Operand:
        text = text.strip()
        if text.startswith("!"):
            operand = self._value(text[1:])
            operand.negated = 1
            return operand
        if text in SPECIAL:
            return _Operand(SPECIAL[text], 0, 0)
        if text in ZERO or text in ONE:
            return _Operand(-1, 0, int(text in ONE))
        if text.startswith("%"):
            return _Operand(self._register(text), 0, 0)
        if match := re.fullmatch(r"0([fF]|[dD])([0-9a-fA-F]+)", text):
            return _Operand(-1, 0, _signed(int(match[2], 16)))
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
            return _Operand(-1, 0, _signed(int(text.rstrip("U"), 0)))
        if text in ("true", "false"):
            return _Operand(-1, 0, int(text == "true"))
        name, plus, offset = text.partition("+")
        if name in self.symbols:
            return _Operand(-1, 0, self.symbols[name] + (int(offset) if plus else 0))
        raise Unsupported(f"operand {text!r}")

    def _address(self, text: str) -> _Operand:
        inner = text.strip().removeprefix("[").removesuffix("]").strip()
        if inner.startswith("%"):
            name, _, offset = (part.strip() for part in inner.partition("+"))
            operand = self._value(name)
            operand.value = int(offset, 0) if offset else 0
            return operand
        return self._value(inner.replace(" ", ""))

    def _instruction(self, line: int, text: str) -> None:
        guard = re.match(r"@(!?)(%\w+)\s+", text)
        rest = text[guard.end() :] if guard else text
        opcode, _, operands = rest.partition(" ") if " " in rest else rest.partition("\t")
        opcode, parts = opcode.strip(), opcode.strip().split(".")
        arguments = _split(operands.strip())
        made = _Instruction(line=line, guard=-1, target=-1, count=1)
        made.to[:] = [-1] * 4
        for operand in made.into:
            operand.reg = -1
        if guard:
            made.guard, made.guard_negated = self._register(guard[2]), int(bool(guard[1]))
        types = [_numbers(1)[part] for part in parts if part in _numbers(1)]
        made.type = types[0] if types else _numbers(1)["b32"]
        name = self._decode(made, parts, types, arguments)
        made.op = _numbers(0)[name]
        self.instructions.append(made)
        self.text.append(text)

    def _decode(self, made: _Instruction, parts: list[str], types: list[int], arguments: list[str]) -> str:
        base = SAME.get(parts[0], parts[0])

        def into(*texts: str) -> None:
            for i, text in enumerate(texts):
                made.into[i] = self._value(text)

        def to(*texts: str) -> None:
            for i, text in enumerate(texts):
                made.to[i] = -1 if text.strip() == "_" else self._register(text.strip())

        if base == "bra":
            self._pending.append((made, arguments[0].strip()))
            return "bra"
        if base in ("ret", "exit"):
            return "ret"
        if base in ("ld", "ldu", "st"):
            made.space = _numbers(3)[
                next((p.partition("::")[0] for p in parts if p.partition("::")[0] in _numbers(3)), "generic")
            ]
            made.count = int(next((p[1:] for p in parts if re.fullmatch(r"v\d", p)), 1))
            made.type = types[-1]
            address, value = (arguments[1], arguments[0]) if base != "st" else (arguments[0], arguments[1])
            values = _split(value.strip().strip("{}")) if "{" in value else [value]
            assert len(values) == made.count
            made.into[0] = self._address(address)
            if base == "st":
                for i, text in enumerate(values):
                    made.into[1 + i] = self._value(text)
                return "st"
            to(*values)
            return "ld"
        if base == "mov":
            if arguments[0].startswith("{"):
                places = _split(arguments[0].strip("{}"))
                made.count = len(places)
                to(*places)
                into(arguments[1])
                return "unpack"
            to(arguments[0])
            if arguments[1].startswith("{"):
                values = _split(arguments[1].strip("{}"))
                made.count = len(values)
                into(*values)
                return "pack"
            into(arguments[1])
            return "mov"
        if base == "createpolicy":  # of the level-2 cache, which is not modelled
            to(arguments[0])
            into("0")
            return "mov"
        if base == "cvta":
            to(arguments[0])
            into(arguments[1])
            return "mov"
        if base == "cvt":
            made.type, made.from_ = types
            to(arguments[0])
            into(arguments[1])
            return "cvt"
        if base == "setp":
            made.cmp = _numbers(2)[{"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(parts[1], parts[1])]
            if len(parts) != 3 or "|" in arguments[0]:
                raise Unsupported(".".join(parts))
            to(arguments[0])
            into(*arguments[1:])
            return "setp"
        if base == "shfl":
            to(*arguments[0].split("|"))
            into(*arguments[1:])
            return "shfl_" + {"idx": "idx", "bfly": "bfly", "up": "up", "down": "down"}[parts[2]]
        if base == "redux":
            if parts[2] != "add":
                raise Unsupported(".".join(parts))
            to(arguments[0])
            into(*arguments[1:])
            return "redux_add"
        if base == "vote":
            to(arguments[0])
            into(*arguments[1:])
            return "vote_" + parts[2]
        if base in ("bar", "barrier"):
            if "red" in parts:
                to(arguments[0])
                into(*arguments[1:])
                if len(arguments) != 3:
                    raise Unsupported(".".join(parts))
                return "bar_" + next(p for p in parts if p in ("or", "and", "popc"))
            if parts[1] == "warp":
                into(arguments[0])
                return "warpsync"
            if arguments != ["0"]:
                raise Unsupported(f"barrier {arguments}")
            return "bar_sync"
        if base == "cp" and parts[1] == "async":
            if "commit_group" in parts:
                return "cp_commit"
            if "wait_group" in parts:
                into(arguments[0])
                return "cp_wait"
            if "cg" not in parts or arguments[2].strip() != "16":
                raise Unsupported(".".join(parts))
            made.into[0], made.into[1] = self._address(arguments[0]), self._address(arguments[1])
            made.into[2] = self._value("16")
            made.into[3] = self._value(arguments[3] if len(arguments) > 3 else "16")
            return "cp_async"
        if base == "atom" and "add" in parts:
            to(arguments[0])
            made.into[0], made.into[1] = self._address(arguments[1]), self._value(arguments[2])
            return "atom_add"
        if base in ("membar", "fence"):
            return "nop" if "cta" in parts else "membar"
        if base == "bfind":
            if "shiftamt" not in parts:
                raise Unsupported(".".join(parts))
            to(arguments[0])
            into(arguments[1])
            return "bfind"
        if base == "activemask":
            to(arguments[0])
            return "activemask"
        if base in PLAIN:
            to(arguments[0])
            into(*arguments[1:])
            if "wide" in parts or "hi" in parts:
                return base + ("_wide" if "wide" in parts else "_hi")
            return base
        raise Unsupported(".".join(parts))

    # Running -------------------------------------------------------------------------------------------------------

    def launch(
        self, *, grid: int, threads: int, shared: int, parameters: bytes, buffers: list[Buffer], seed: int = 0,
        concurrent: int = 1, most_instructions: int = 1 << 36,
    ) -> Report:  # fmt: skip
        """Runs the kernel.  `seed` 0: blocks and warps in order, 1: backwards, else by chance, warps interleaved."""
        described = (_Buffer * max(1, len(buffers)))()
        for i, buffer in enumerate(buffers):
            described[i] = _Buffer(buffer.array.ctypes.data, buffer.array.nbytes, buffer.writable, buffer.written)
        known = np.concatenate([np.zeros(0, np.uint8), *(b.known for b in buffers if b.writable)])
        executed, divergent = (np.zeros(len(self.code), dtype=np.uint64) for _ in range(2))
        text = machine().machine_run(
            self.code, len(self.code), len(self.registers), grid, threads, ctypes.c_uint64(shared + self.static_shared),
            parameters, len(parameters), described, len(buffers), ctypes.c_void_p(known.ctypes.data), concurrent,
            ctypes.c_uint(seed), ctypes.c_uint64(most_instructions), ctypes.c_void_p(executed.ctypes.data),
            ctypes.c_void_p(divergent.ctypes.data),
        ).decode()  # fmt: skip
        at = 0
        for buffer in buffers:
            if buffer.writable:
                buffer.known[:] = known[at : at + buffer.array.nbytes]
                at += buffer.array.nbytes
        faults, counts = [], {}
        for row in text.splitlines():
            kind, *fields = row.split("\t")
            if kind == "fault":
                faults.append((int(fields[0]), int(fields[1]), fields[2]))
            elif kind == "count":
                counts[fields[0]] = int(fields[1])
        return Report(faults, counts, "stopped" in text.splitlines(), executed, divergent)


class Module:
    """The kernels of one PTX text."""

    def __init__(self, text: str) -> None:
        self.bodies: dict[str, list[tuple[int, str]]] = {}
        self.symbols: dict[str, int] = {}
        self.static_shared = 0
        self._kernels: dict[str, Kernel] = {}
        body: list[tuple[int, str]] | None = None
        depth = 0
        waiting = ""
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.split("//")[0].strip()
            if match := re.match(r"(?:\.visible |\.extern )?\.entry (\w+)", line):
                waiting, body = match[1], None
                for symbol in re.findall(r"\b(\w+_param_0)\b", line):
                    self.symbols[symbol] = 0
            if waiting and (match := re.search(r"(\w+_param_(\d+))", line)) and body is None:
                self._parameter(waiting, match[1], line)
            if (
                body is None
                and not waiting
                and (match := re.match(r"(?:\.extern )?\.shared \.align (\d+) \.b8 (\w+)\[(\d*)\]", line))
            ):
                align, name, size = int(match[1]), match[2], int(match[3] or 0)
                self.static_shared = -(-self.static_shared // align) * align
                self.symbols[name] = SHARED_BASE + self.static_shared
                self.static_shared += size
            for piece in STATEMENT.findall(line):
                piece = piece.strip().rstrip(";").strip()
                if waiting and piece == "{" and body is None:
                    body, depth = [], 0
                    self.bodies[waiting] = body
                    waiting = ""
                if body is None:
                    continue
                depth += (piece == "{") - (piece == "}")
                body.append((number, piece))
                if depth == 0:
                    body = None
            if body is not None and not line.startswith(".") and (left := STATEMENT.sub("", line).strip()):
                raise Unsupported(f"line {number}: {left!r}")  # a statement over several lines, say

    def _parameter(self, kernel: str, name: str, line: str) -> None:
        taken = self.symbols.setdefault(f"{kernel} bytes", 0)
        if name in self.symbols and not name.endswith("_param_0"):
            return
        match = re.search(r"\.(?:align (\d+) )?\.?(b8|u32|u64|s32|f32|b32|b64|s64|u8|u16|f64)\b", line)
        array = re.search(r"\[(\d+)\]", line)
        size = int(array[1]) if array else {"8": 1, "16": 2, "32": 4, "64": 8}[re.search(r"\d+$", match[2])[0]]
        align = 8 if array else size
        at = -(-taken // align) * align
        self.symbols[name] = at
        self.symbols[f"{kernel} bytes"] = at + size

    def kernel(self, name: str) -> Kernel:
        """The kernel of that (mangled) name."""
        if name not in self._kernels:
            self._kernels[name] = Kernel(name, self.bodies[name], self.symbols, self.static_shared)
        return self._kernels[name]


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _split(text: str) -> list[str]:
    """Arguments between commas that are not inside braces or brackets."""
    out, depth, current = [], 0, ""
    for c in text:
        depth += c in "{["
        depth -= c in "}]"
        if c == "," and depth == 0:
            out.append(current.strip())
            current = ""
        else:
            current += c
    if current.strip():
        out.append(current.strip())
    return out
