"""The requirement for the oldest or the newest torch that pyproject.toml allows:  python scripts/torch_range.py oldest

`torch==2.9.*` and `torch>=2.9` for `torch>=2.9`.  Used where wheels are tested (.github/workflows/wheels.yml).
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def requirement(which: str, dependencies: list[str]) -> str:
    """`which` is oldest or newest."""
    (allowed,) = (line for line in dependencies if re.match(r"torch\b", line))
    lowest = re.fullmatch(r"torch>=(\d+\.\d+)(?:\.\d+)?(?:,.*)?", allowed.replace(" ", ""))
    if lowest is None:
        raise SystemExit(f"pyproject.toml says {allowed!r}; a lower bound torch>=X.Y is wanted")
    if which not in ("oldest", "newest"):
        raise SystemExit(f"{which!r}: oldest or newest")
    return f"torch=={lowest[1]}.*" if which == "oldest" else allowed


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(requirement(sys.argv[1], project["dependencies"]))
