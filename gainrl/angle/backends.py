"""Which backend serves a call, and why another cannot.

| name | where | needs |
|---|---|---|
| native | CPU; NVIDIA GPUs, rows on 16-byte boundaries | the compiled module; for GPUs built with nvcc, driver 580 |
| triton | GPUs | triton (on the CPU only with TRITON_INTERPRET=1, for tests) |
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
from typing import Any

from gainrl.angle.result import AngleCall, Outputs
from gainrl.errors import UserError

log = logging.getLogger("gainrl.angle")
TRITON_WIDEST = 16384
"""Widest row that the Triton kernels take: it and its sums must fit one program's registers."""


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


def _native(device: str) -> str:
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


def _triton(device: str) -> str:
    for name in ("torch", "triton"):
        if _imports(name) != "ok":
            return _imports(name)
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "ok"
    if device == "cpu":
        return "it serves GPU tensors (on the CPU only with TRITON_INTERPRET=1)"
    if not importlib.import_module("torch").cuda.is_available():
        return "triton needs a GPU that torch can use (or TRITON_INTERPRET=1 to test it on the CPU)"
    return "ok"


BACKENDS: dict[str, tuple[Callable[[str], str], str]] = {
    "native": (_native, "native"),
    "triton": (_triton, "triton_backend"),
    "torch": (lambda device: _imports("torch"), "torch_backend"),
    "reference": (lambda device: "ok", "reference"),
}
"""Name: ("ok" for tensors on a device type, or why not; the module of this package whose `run` serves)."""
NAMES = ("auto", *BACKENDS)


def check_backend(backend: str) -> None:
    """Raise UserError unless `backend` is a known name."""
    if backend not in NAMES:
        raise UserError(f"backend is {backend!r}; it must be one of {', '.join(NAMES)}")


@functools.cache
def runner(name: str) -> Callable[[AngleCall], Outputs]:
    """The `run` of backend `name`, whose module the first call imports."""
    run: Callable[[AngleCall], Outputs] = importlib.import_module(f"{__package__}.{BACKENDS[name][1]}").run
    return run


def available_backends() -> dict[str, str]:
    """Each backend with "ok" or the reason why it cannot serve a call on this machine."""
    found = {"native": _native("cpu"), "native-cuda": _native_cuda(), "triton": _triton("cuda")}
    return found | {"torch": _imports("torch"), "reference": "ok"}


def unavailable(name: str, device: str) -> str:
    """Empty if backend `name` can serve tensors on device type `device`, else the reason."""
    reason = BACKENDS[name][0](device)
    return "" if reason == "ok" else reason


def _unfit(name: str, hidden: Any) -> str:
    """Empty if the kernels of `name` take rows that lie as those of a tensor on a GPU do, else the reason."""
    width, size = hidden.shape[-1], hidden.itemsize
    if name == "triton" and width > TRITON_WIDEST:
        return f"it serves widths up to {TRITON_WIDEST}, not {width}"
    if name == "native":
        *strides, column = hidden.stride()
        if column != 1 or width * size > 32768 or hidden.data_ptr() % 16 or any(s * size % 16 for s in strides):
            return "it serves rows of up to 32 KB that begin on 16-byte boundaries, with their columns side by side"
    return ""


def choose(backend: str, device: str, hidden: Any = None) -> str:
    """The backend for a call: `backend` itself, or for "auto" the first that serves `device` and `hidden`."""
    on_gpu = hidden is not None and device == "cuda"
    if backend == "auto":
        return _automatic(device, tuple((name, _unfit(name, hidden)) for name in _order(device)) if on_gpu else ())
    if reason := unavailable(backend, device) or (_unfit(backend, hidden) if on_gpu else ""):
        raise UserError(f"backend {backend!r} cannot serve {device} tensors: {reason}")
    return backend


def _order(device: str) -> tuple[str, ...]:
    # The reference serves NumPy arrays where neither torch nor the compiled module is installed.
    return ("native", "torch", "reference") if device == "cpu" else ("native", "triton", "torch")


@functools.cache
def _automatic(device: str, unfit: tuple[tuple[str, str], ...]) -> str:
    passed: list[str] = []
    for name in _order(device):
        if reason := unavailable(name, device) or dict(unfit).get(name):
            passed.append(f"not {name}: {reason}")
            continue
        # CUDA code that is there and cannot run is worth a word, though Triton is as good.
        refused = device == "cuda" and name != "native" and getattr(native_module(), "built_with_cuda", False)
        slow = name in ("torch", "reference") and device in ("cpu", "cuda")
        level = logging.WARNING if slow or refused else logging.INFO
        log.log(level, "angle concentration on %s uses the backend %s", device, "; ".join((name, *passed)))
        return name
    raise UserError("no backend can serve the call: " + "; ".join(passed))
