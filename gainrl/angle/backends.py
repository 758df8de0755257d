"""Which backend serves a call, and why another cannot.

| name | where | needs |
|---|---|---|
| native | CPU, NVIDIA GPUs | the compiled module; for GPUs built with nvcc, driver 580 or newer |
| triton | GPUs, widths up to 16,384 | triton (on the CPU only with TRITON_INTERPRET=1, for tests) |
| torch | everywhere | torch |
| reference | everywhere, float64, quadratic | NumPy |

A backend named by the caller never falls back.  `auto` takes the first that works and logs its choice once.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from gainrl.angle.call import AngleCall, Outputs
from gainrl.errors import UserError

log = logging.getLogger("gainrl.angle")

TRITON_WIDEST = 16384
"""Widest row that the triton backend serves: it and two sums must fit one program's registers."""


@functools.cache
def native_module() -> ModuleType | str:
    """The compiled module, or why there is none."""
    name = __name__.partition(".")[0] + "._native"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return "gainrl was installed without its compiled module (gainrl._native)"
        return f"the compiled module does not load: {error}"


@functools.cache
def _native_cuda() -> str:
    module: Any = native_module()
    if isinstance(module, str):
        return module
    return str(module.cuda_status()) if module.built_with_cuda else "the compiled module was built without CUDA code"


def _native(device: str, width: int) -> str:
    if device == "cuda":
        return _native_cuda()
    if device != "cpu":
        return f"it serves cpu and cuda tensors, not {device}"
    module = native_module()
    return module if isinstance(module, str) else "ok"


@functools.cache
def _imports(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # OSError where a library of CUDA is missing, ValueError where one does not fit
        return f"{name} does not import: {error}"
    return "ok"


def _triton(device: str, width: int) -> str:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    for name in ("torch", "triton"):
        if _imports(name) != "ok":
            return _imports(name)
    if device == "cpu" and not interpreted:
        return "it serves GPU tensors (on the CPU only with TRITON_INTERPRET=1)"
    if width > TRITON_WIDEST:
        return f"it serves widths up to {TRITON_WIDEST}, not {width}; use backend 'native' or 'torch'"
    return "ok"


def _module(name: str) -> Callable[[AngleCall], Outputs]:
    """The backend's `run`, whose module is imported by the first call."""
    loaded: list[Callable[[AngleCall], Outputs]] = []

    def run(call: AngleCall) -> Outputs:
        if not loaded:
            loaded.append(importlib.import_module(f"{__package__}.{name}").run)
        outputs: Outputs = loaded[0](call)
        return outputs

    return run


class Backend(NamedTuple):
    """One way to serve a call."""

    available: Callable[[str, int], str]
    """"ok" for tensors on a device type with rows of a width, or why not."""
    run: Callable[[AngleCall], Outputs]


BACKENDS = {
    "native": Backend(_native, _module("native")),
    "triton": Backend(_triton, _module("triton_backend")),
    "torch": Backend(lambda device, width: _imports("torch"), _module("torch_backend")),
    "reference": Backend(lambda device, width: "ok", _module("reference")),
}


def available_backends() -> dict[str, str]:
    """Each backend with "ok" or the reason why it cannot serve a call on this machine."""
    triton = _triton("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda", 1)
    if triton == "ok" and os.environ.get("TRITON_INTERPRET") != "1":
        torch = importlib.import_module("torch")
        if not torch.cuda.is_available():
            triton = "triton needs a GPU that torch can use (or TRITON_INTERPRET=1 to test it on the CPU)"
    return {
        "native": _native("cpu", 1),
        "native-cuda": _native_cuda(),
        "triton": triton,
        "torch": _imports("torch"),
        "reference": "ok",
    }


def unavailable(name: str, device: str, width: int = 1) -> str:
    """Empty if backend `name` can serve tensors on device type `device`, else the reason."""
    reason = BACKENDS[name].available(device, width)
    return "" if reason == "ok" else reason


def choose(backend: str, device: str, width: int = 1) -> str:
    """The backend for a call: `backend` itself, or for "auto" the first that serves `device`."""
    if backend == "auto":
        return _automatic(device, width > TRITON_WIDEST)
    if reason := unavailable(backend, device, width):
        raise UserError(f"backend {backend!r} cannot serve {device} tensors: {reason}")
    return backend


def order(device: str) -> tuple[str, ...]:
    """The backends that `auto` tries for arrays on device type `device`, one after the other."""
    # The reference serves NumPy arrays where neither torch nor the compiled module is installed.
    return ("native", "torch", "reference") if device == "cpu" else ("native", "triton", "torch")


@functools.cache
def _automatic(device: str, wide: bool) -> str:
    passed: list[tuple[str, str]] = []
    for name in order(device):
        if not (reason := unavailable(name, device, TRITON_WIDEST + 1 if wide else 1)):
            why = "".join(f"; not {other}: {text}" for other, text in passed)
            slow = name in ("torch", "reference") and device in ("cpu", "cuda")
            # CUDA code that is there and cannot run is worth a word, though Triton is as good.
            refused = device == "cuda" and name != "native" and getattr(native_module(), "built_with_cuda", False)
            log.log(
                logging.WARNING if slow or refused else logging.INFO,
                "angle concentration on %s uses the %s backend%s", device, name, why,
            )  # fmt: skip
            return name
        passed.append((name, reason))
    raise UserError("no backend can serve the call: " + "; ".join(f"{n}: {r}" for n, r in passed))
