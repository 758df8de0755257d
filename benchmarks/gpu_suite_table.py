"""The GPU figures, from the JSON that `gpu_suite.sh` wrote: what was found, what is wanted, whether it holds.

python benchmarks/gpu_suite_table.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def native(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = row["providers"]["native"]
    return found


def worst_share(found: list[dict[str, Any]]) -> float | None:
    return min((native(row)["share_of_ceiling"] for row in found), default=None)


def least_gain(found: list[dict[str, Any]], other: str) -> float | None:
    """Smallest factor by which the native kernels beat another provider."""
    return min((row["providers"][other]["times_first"] for row in found if other in row["providers"]), default=None)


def main() -> None:
    folder = Path(sys.argv[1])
    large, small, micro = (rows(folder, f"angle_cuda_{name}") for name in ("large", "64mib", "micro"))
    publish = rows(folder, "angle_cuda_published")
    host = json.loads((folder / "angle_cuda_micro.json").read_text())["host_s"] if micro else None
    microseconds = native(micro[0])["seconds"] * 1e6 if micro else None
    table = [
        ("1 GB and more, bf16, every width: share of the read ceiling", worst_share(large), 0.92, True),
        ("the same: times torch.compile", least_gain(large, "compiled"), 1.3, True),
        ("the same, width 1536: times the published procedure", least_gain(publish, "published"), 50.0, True),
        ("64 MB, cold: share of the read ceiling", worst_share(small), 0.80, True),
        ("16 x 512 x 1536 bf16: GPU time, us", microseconds, 15.0, False),
        ("16 x 512 x 1536 bf16: host cost, us", None if host is None else host * 1e6, 20.0, False),
    ]
    print(f"{'figure':62} {'found':>8} {'wanted':>8}")
    for name, found, wanted, at_least in table:
        if found is None:
            print(f"{name:62} {'not yet measured':>17}")
            continue
        holds = found >= wanted if at_least else found <= wanted
        print(f"{name:62} {found:8.2f} {'>=' if at_least else '<='} {wanted:5.2f}  {'holds' if holds else 'MISSED'}")


if __name__ == "__main__":
    main()
