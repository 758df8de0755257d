"""Which backend serves a call, and why another cannot.

| name | where | needs |
|---|---|---|
| native | CPU | the compiled module |
| native-cuda | NVIDIA GPUs (`backend="native"` for CUDA tensors) | the module built with nvcc, driver 580 or newer |
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
from types import ModuleType

from gainrl.errors import UserError

log = logging.getLogger("gainrl.angle")


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
    module = native_module()
    if isinstance(module, str):
        return module
    if not module.built_with_cuda:
        return "the compiled module was built without CUDA code"
    return str(module.cuda_status())


@functools.cache
def _torch() -> str:
    try:
        importlib.import_module("torch")
    except Exception as error:  # OSError where a library of CUDA is missing, ValueError where one does not fit
        return f"torch does not import: {error}"
    return "ok"


@functools.cache
def _triton(interpreted: bool) -> str:
    if _torch() != "ok":
        return _torch()
    try:
        importlib.import_module("triton")
    except Exception as error:
        return f"triton does not import: {error}"
    if not interpreted:
        import torch

        if not torch.cuda.is_available():
            return "triton needs a GPU that torch can use (or TRITON_INTERPRET=1 to test it on the CPU)"
    return "ok"


def available_backends() -> dict[str, str]:
    """Each backend with "ok" or the reason why it cannot serve a call on this machine."""
    module = native_module()
    return {
        "native": module if isinstance(module, str) else "ok",
        "native-cuda": _native_cuda(),
        "triton": _triton(_interpreted()),
        "torch": _torch(),
        "reference": "ok",
    }


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def unavailable(name: str, device: str) -> str:
    """Empty if backend `name` can serve tensors on device type `device`, else the reason."""
    if name in ("torch", "reference"):
        reason = "ok" if name == "reference" else _torch()
    elif name == "native":
        if device == "cpu":
            module = native_module()
            reason = module if isinstance(module, str) else "ok"
        elif device == "cuda":
            reason = _native_cuda()
        else:
            reason = f"it serves cpu and cuda tensors, not {device}"
    elif device == "cpu" and not _interpreted():
        reason = "it serves GPU tensors (on the CPU only with TRITON_INTERPRET=1)"
    else:
        reason = _triton(device == "cpu")
    return "" if reason == "ok" else reason


def choose(backend: str, device: str) -> str:
    """The backend for a call: `backend` itself, or for "auto" the first that serves `device`."""
    if backend == "auto":
        return _automatic(device)
    if reason := unavailable(backend, device):
        raise UserError(f"backend {backend!r} cannot serve {device} tensors: {reason}")
    return backend


def order(device: str) -> tuple[str, ...]:
    """The backends that `auto` tries for arrays on device type `device`, one after the other."""
    # The reference serves NumPy arrays where neither torch nor the compiled module is installed.
    return ("native", "torch", "reference") if device == "cpu" else ("native", "triton", "torch")


@functools.cache
def _automatic(device: str) -> str:
    passed: list[tuple[str, str]] = []
    for name in order(device):
        if not (reason := unavailable(name, device)):
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
