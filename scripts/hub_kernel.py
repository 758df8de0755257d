"""Assemble the op in the form that the Hugging Face `kernels` package loads, from built wheels:

    python scripts/hub_kernel.py --output build/hub dist/*.whl

Nothing is compiled and there is no second source: each variant is `gainrl/angle` and `gainrl/errors.py` of the wheels
with their imports made relative (the package loads a kernel under a name of its own, beside other versions of itself),
and the compiled modules of all CPythons side by side, of which each Python takes its own.

| folder under build/ | serves |
|---|---|
| torch-stable-abi29-cu130-x86_64-linux | torch 2.9 and newer with CUDA 13: the CUDA kernels |
| torch-stable-abi29-cpu-x86_64-linux | torch 2.9 and newer for CPUs: the C++ kernels |
| torch-cuda, torch-rocm, torch-xpu, torch-cpu | everything else: Triton, and plain torch |

The module uses nothing of torch, so "stable ABI 2.9" only names the oldest torch that gainrl allows.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.machinery
import importlib.util
import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

NAME = "gainrl-angle"
VERSION = 1
"""Of the kernel's interface; the Hub's branch v1."""
IMPORTS = (
    (re.compile(r"^(\s*)from gainrl\.angle import ", re.MULTILINE), r"\1from . import "),
    (re.compile(r"^(\s*)from gainrl\.angle\.(\w+) import ", re.MULTILINE), r"\1from .\2 import "),
    (re.compile(r"^(\s*)from gainrl\.errors import ", re.MULTILINE), r"\1from ..errors import "),
)
INIT = '''"""Angle concentration of hidden states (gainrl), as a kernel of the Hugging Face Hub."""

from .angle import AngleConcentration, SharedPrefix, Status, angle_concentration, available_backends, shared_prefix
from .errors import UserError

__all__ = ["AngleConcentration", "SharedPrefix", "Status", "UserError", "angle_concentration", "available_backends",
           "shared_prefix"]
'''


def relative(source: str, name: str) -> str:
    """A module of gainrl.angle with relative imports; ValueError where one of gainrl's own is left."""
    for pattern, replacement in IMPORTS:
        source = pattern.sub(replacement, source)
    for node in ast.walk(ast.parse(source)):
        named = [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if any(module.partition(".")[0] == "gainrl" for module in named):
            raise ValueError(f"{name} imports {', '.join(named)}, which a kernel outside gainrl has not")
    return source


def compiled_for(modules: list[Path]) -> tuple[str, list[str]]:
    """(CUDA release, architectures as compute capabilities) of the module for this Python; ("", []) without CUDA."""
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    path = next((path for path in modules if any(path.name == f"_native{suffix}" for suffix in suffixes)), None)
    if path is None:
        raise SystemExit(f"no wheel for this Python ({sys.implementation.cache_tag}) is given: its module is asked")
    spec: Any = importlib.util.spec_from_file_location("gainrl._native", path)
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not module.built_with_cuda:
        return "", []
    capabilities = []
    for name in module.cuda_architectures.split(","):
        digits = name.removesuffix("-real")
        capabilities.append(f"{digits[:-1]}.{digits[-1]}" + ("" if name.endswith("-real") else "+PTX"))
    return module.cuda_version, capabilities


def write_variant(folder: Path, package: Path, modules: list[Path], backend: dict[str, Any]) -> None:
    """One variant: the op's Python, the modules, and metadata.json with an identity made from all of it."""
    files = {Path("__init__.py"): INIT.encode(), Path("errors.py"): (package / "errors.py").read_bytes()}
    for path in sorted((package / "angle").glob("*.py")):
        files[Path("angle") / path.name] = relative(path.read_text(encoding="utf-8"), path.name).encode()
    files |= {Path(path.name): path.read_bytes() for path in modules}
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files[name])
    metadata = {
        "id": f"{NAME.replace('-', '_')}_{backend['type']}_{digest.hexdigest()[:12]}",
        "name": NAME, "version": VERSION, "kernels-minver": "0.17.0", "license": "MIT", "python-depends": [],
        "backend": backend,
    }  # fmt: skip
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def assemble(package: Path, modules: list[Path], output: Path) -> list[Path]:
    """Write every variant under `output`/build; returns their folders."""
    wanted: list[tuple[str, list[Path], dict[str, Any]]] = [
        (f"torch-{kind}", [], {"type": kind}) for kind in ("cpu", "cuda", "rocm", "xpu")
    ]
    if modules:
        cuda, capabilities = compiled_for(modules)
        wanted.append(("torch-stable-abi29-cpu-x86_64-linux", modules, {"type": "cpu"}))
        if cuda:
            name = f"torch-stable-abi29-cu{cuda.replace('.', '')}-x86_64-linux"
            wanted.append((name, modules, {"type": "cuda", "archs": capabilities}))
    folders = []
    for name, of_variant, backend in wanted:
        folders.append(output / "build" / name)
        write_variant(folders[-1], package, of_variant, backend)
    return folders


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder of the kernel repository")
    given = parser.parse_args()
    if (given.output / "build").exists():
        raise SystemExit(f"{given.output / 'build'} exists; remove it or name another --output")
    with tempfile.TemporaryDirectory() as temporary:
        unpacked = Path(temporary)
        for wheel in given.wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
        modules = sorted((unpacked / "gainrl").glob("_native*.so"))
        for folder in assemble(unpacked / "gainrl", modules, given.output):
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"{folder.name}: {size:,} bytes")


if __name__ == "__main__":
    main()
