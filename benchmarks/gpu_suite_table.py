"""The GPU figures from what `gpu_suite.sh` has measured so far: what was found, what is wanted, whether it holds.

python benchmarks/gpu_suite_table.py PARTS OUTPUT.json

PARTS holds `<name>.json` of each run of `angle.py`, `steps.tsv` (name, how it ended, seconds) and `gpu.csv`; all of it
is written to OUTPUT.json, whole or not at all.  Every row measured is printed, then the table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gainrl.files import write_text

Rows = list[dict[str, Any]]


def collected(folder: Path) -> dict[str, Any]:
    def lines(name: str) -> list[str]:
        return (folder / name).read_text().splitlines() if (folder / name).exists() else []

    return {
        "gpu": lines("gpu.csv"),
        "steps": [
            dict(zip(("step", "ended", "seconds"), step.split("\t"), strict=True)) for step in lines("steps.tsv")
        ],
        "results": {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))},
    }


def value(row: dict[str, Any], provider: str, key: str) -> float | None:
    """A figure of one provider, or None where it failed or was not run."""
    found = row.get("providers", {}).get(provider)
    return None if found is None else float(found[key])


def worst_share(rows: Rows) -> float | None:
    """Smallest share of the ceiling of the native kernels; zero where they failed."""
    return min((value(row, "native", "share_of_ceiling") or 0.0 for row in rows), default=None)


def least_gain(rows: Rows, other: str) -> float | None:
    """Smallest factor by which the native kernels beat another provider, over the rows that have both."""
    both = [row for row in rows if value(row, "native", "seconds") and value(row, other, "seconds")]
    return min((value(row, other, "times_first") or 0.0 for row in both), default=None)


def main() -> None:
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    everything = collected(folder)
    write_text(output, json.dumps(everything, indent=1) + "\n")
    results = everything["results"]

    def rows(name: str) -> Rows:
        found: Rows = results[name]["rows"] if name in results else []
        return found

    for name in results:
        for row in rows(name):
            cells = [
                f"{provider} {r['seconds'] * 1e6:.1f} us {r['share_of_ceiling']:.1%}"
                for provider, r in row.get("providers", {}).items()
            ]
            cells += [f"{provider} FAILED" for provider in row.get("failed", {})]
            print(f"{name:10} {row['shape']:7} {row['dtype']:8} {row['width']:5}  {'  '.join(cells)}")
    large, small, micro = rows("large"), rows("64mib"), rows("micro")
    seconds = value(micro[0], "native", "seconds") if micro else None
    host = results["micro"].get("host_s") if micro else None
    below, beyond = ((rows(name) or [{}])[0] for name in ("below", "beyond"))
    per_row = [(value(row, "native", "seconds") or 0.0) / row.get("rows", 1) for row in (below, beyond)]
    table = [
        (
            "D = 4096: time per row at 655 over that at 520 thousand rows",
            per_row[1] / per_row[0] if all(per_row) else None,
            1.03,
            False,
        ),
        ("1 GB and more, bf16, every width: share of the read ceiling", worst_share(large), 0.92, True),
        ("the same: times torch.compile", least_gain(rows("compiled"), "compiled"), 1.3, True),
        ("the same, width 1536: times the published procedure", least_gain(rows("published"), "published"), 50.0, True),
        ("64 MB, cold: share of the read ceiling", worst_share(small), 0.80, True),
        ("16 x 512 x 1536 bf16: GPU time, us", None if seconds is None else seconds * 1e6, 15.0, False),
        ("16 x 512 x 1536 bf16: host cost, us", None if host is None else host * 1e6, 20.0, False),
    ]
    wanted_rows = {"large": (large, 14), "64mib": (small, 14), "compiled": (rows("compiled"), 7)}
    short = [
        f"{name} has {len(found)} of {count} rows" for name, (found, count) in wanted_rows.items() if len(found) < count
    ]
    print(f"\n{'figure':62} {'found':>8} {'wanted':>8}")
    for name, found, wanted, at_least in table:
        if found is None:
            print(f"{name:62} {'not yet measured':>17}")
            continue
        holds = found >= wanted if at_least else found <= wanted
        print(f"{name:62} {found:8.2f} {'>=' if at_least else '<='} {wanted:5.2f}  {'holds' if holds else 'MISSED'}")
    if short:
        print("not complete: " + ", ".join(short))


if __name__ == "__main__":
    main()
