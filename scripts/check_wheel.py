"""Check built wheels:  python scripts/check_wheel.py [--cuda] WHEEL_OR_FOLDER...

A wheel for Linux holds one compiled module that exports its entry point alone, needs no library but the system's, and
knows neither torch nor a shared CUDA runtime; `--cuda` asks for CUDA code in it.  A pure wheel holds no compiled file.
Each is below 10 MB and lets any newer torch be installed beside it.  Needs pyelftools.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from elftools.elf.elffile import ELFFile

LARGEST = 10_000_000
SYSTEM = re.compile(r"(libc|libm|libpthread|libdl|librt|libstdc\+\+|libgcc_s|ld-linux-[\w-]+)\.so(\.\d+)*")
FOREIGN = re.compile(r"torch|c10|_ZNK?2at\d|^Py(?!Init)|^cuda[A-Z]|^cu[A-Z]")
"""Undefined symbols that would tie the module to a torch, or to a CUDA library that is not in it; `Py` is Python's."""


def problems_of_module(data: bytes, cuda: bool) -> Iterator[str]:
    """What is wrong with the compiled module, a sentence each."""
    elf = ELFFile(io.BytesIO(data))
    dynamic = elf.get_section_by_name(".dynamic")
    tags = list(dynamic.iter_tags())
    for library in (tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"):
        if not SYSTEM.fullmatch(library):
            yield f"needs {library}"
    if any(tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH") for tag in tags):
        yield "has a run path"
    defined, undefined = set(), set()
    for symbol in elf.get_section_by_name(".dynsym").iter_symbols():
        (undefined if symbol.entry.st_shndx == "SHN_UNDEF" else defined).add(symbol.name)
    if extra := defined - {"PyInit__native"}:
        yield f"exports {len(extra)} symbols besides PyInit__native: {', '.join(sorted(extra)[:5])}"
    if "PyInit__native" not in defined:
        yield "does not export PyInit__native"
    foreign = sorted(name for name in undefined if FOREIGN.search(name) and not name.startswith("Py"))
    if foreign:
        yield f"needs symbols of torch or CUDA: {', '.join(foreign[:5])}"
    if cuda and elf.get_section_by_name(".nv_fatbin") is None:
        yield "has no CUDA code"


def problems(path: Path, cuda: bool) -> Iterator[str]:
    """What is wrong with the wheel, a sentence each."""
    if path.stat().st_size >= LARGEST:
        yield f"has {path.stat().st_size:,} bytes; below {LARGEST:,} is wanted"
    pure = path.stem.endswith("-py3-none-any")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        compiled = [name for name in names if re.search(r"\.(so|pyd|dylib|a)(\.\d+)*$", name)]
        metadata = wheel.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
        if pure and compiled:
            yield f"is said to be pure and holds {compiled[0]}"
        if not pure:
            if len(compiled) != 1 or not re.fullmatch(r"gainrl/_native\.cpython-\d+-[\w-]+\.so", compiled[0]):
                yield f"holds {', '.join(compiled) or 'no compiled module'}; gainrl/_native alone is wanted"
            if "manylinux" not in path.stem:
                yield "has no manylinux tag (auditwheel repair gives it one)"
            for name in compiled:
                yield from problems_of_module(wheel.read(name), cuda)
    torch = re.findall(r"^Requires-Dist: torch\b(.*)$", metadata, flags=re.MULTILINE)
    if len(torch) != 1 or not re.fullmatch(r">=[\d.]+", torch[0].strip()):
        yield f"ties torch to {torch}; one lower bound is wanted"


def main() -> int:
    """Print a line for each wheel; the exit status is 1 where one has a problem or none was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--cuda", action="store_true", help="compiled wheels must hold CUDA code")
    given = parser.parse_args()
    wheels = [w for path in given.paths for w in (sorted(path.glob("*.whl")) if path.is_dir() else [path])]
    if not wheels:
        print(f"no wheel in {', '.join(map(str, given.paths))}", file=sys.stderr)
        return 1
    found = {wheel: list(problems(wheel, given.cuda)) for wheel in wheels}
    for wheel, wrong in found.items():
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {'; '.join(wrong) or 'ok'}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
