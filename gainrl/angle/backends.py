"""Which backend serves a call, and why another cannot.

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

from gainrl.angle.result import AngleCall, AngleConcentration
from gainrl.errors import UserError

log = logging.getLogger("gainrl.angle")
TRITON_WIDEST = 16384  # a row and its sums must fit one program's registers


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


def _native(device: str) -> str:
    module: Any = native_module()
    if isinstance(module, str):
        return module
    if device == "cuda":
        status = module.cuda_status() if module.built_with_cuda else "the compiled module was built without CUDA code"
        return "" if status == "ok" else str(status)
    return "" if device == "cpu" else f"it serves cpu and cuda tensors, not {device}"


def _imports(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # OSError where a library of CUDA is missing, ValueError where one does not fit
        return f"{name} does not import: {error}"
    return ""


def _triton(device: str) -> str:
    if missing := _imports("torch") or _imports("triton"):
        return missing
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device == "cpu":
        return "it serves GPU tensors (on the CPU only with TRITON_INTERPRET=1)"
    if not importlib.import_module("torch").cuda.is_available():
        return "triton needs a GPU that torch can use (or TRITON_INTERPRET=1 to test it on the CPU)"
    return ""


BACKENDS: dict[str, tuple[Callable[[str], str], str]] = {
    "native": (_native, "native"),
    "triton": (_triton, "triton_backend"),
    "torch": (lambda device: _imports("torch"), "torch_backend"),
    "reference": (lambda device: "", "reference"),
}
"""Name: (why it cannot serve a device type, else empty; the module of this package whose `run` serves)."""
NAMES = ("auto", *BACKENDS)


def check_backend(backend: str) -> None:
    """Raise UserError unless `backend` is a known name."""
    if backend not in NAMES:
        raise UserError(f"backend is {backend!r}; it must be one of {', '.join(NAMES)}")


@functools.cache
def runner(name: str) -> Callable[[AngleCall], AngleConcentration]:
    """The `run` of backend `name`, whose module the first call imports."""
    run: Callable[[AngleCall], AngleConcentration] = importlib.import_module(f"{__package__}.{BACKENDS[name][1]}").run
    return run


def unavailable(name: str, device: str) -> str:
    """Empty if backend `name` can serve tensors on device type `device`, else the reason."""
    return BACKENDS[name][0](device)


def available_backends() -> dict[str, str]:
    """Each backend with "ok" or the reason why it cannot serve a call on this machine."""
    found = {"native": _native("cpu"), "native-cuda": _native("cuda"), "triton": _triton("cuda")}
    return {name: why or "ok" for name, why in (found | {"torch": _imports("torch"), "reference": ""}).items()}


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
    names: tuple[str, ...] = (backend,)
    if backend == "auto":  # the reference: for NumPy arrays where neither torch nor the compiled module is installed
        names = ("native", "torch", "reference") if device == "cpu" else ("native", "triton", "torch")
    on_gpu = hidden is not None and device == "cuda"
    return _first(backend, device, tuple((name, _unfit(name, hidden) if on_gpu else "") for name in names))


@functools.cache
def _first(backend: str, device: str, candidates: tuple[tuple[str, str], ...]) -> str:
    """The first candidate, a name and why it does not fit the call, that can serve; for "auto" the choice is logged."""
    passed: list[str] = []
    for name, unfit in candidates:
        if reason := unavailable(name, device) or unfit:
            passed.append(f"not {name}: {reason}")
            continue
        if backend == "auto":
            # CUDA code that is there and cannot run is worth a word, though Triton is as good.
            refused = device == "cuda" and name != "native" and getattr(native_module(), "built_with_cuda", False)
            slow = name in ("torch", "reference") and device in ("cpu", "cuda")
            level = logging.WARNING if slow or refused else logging.INFO
            log.log(level, "angle concentration on %s uses the backend %s", device, "; ".join((name, *passed)))
        return name
    if backend == "auto":
        raise UserError("no backend can serve the call: " + "; ".join(passed))
    raise UserError(f"backend {backend!r} cannot serve {device} tensors: {reason}")
