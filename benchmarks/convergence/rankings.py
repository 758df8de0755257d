"""What an arm ranks by: one real score table per family and seed, and other columns put in the place of its score.

The table is made by gainrl's scorer with the base model before training, directions and likelihoods included; its
seconds are kept beside it, so that every run can report what its ranking cost.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from filelock import FileLock

from benchmarks.convergence.bed import Bed
from gainrl.files import write_text
from gainrl.scoring import AngleScorer, ScoringPrompt, Source, model_identity, score_dataset
from gainrl.table import ScoreTable, ranks

Floats = npt.NDArray[np.float64]


def _intra_without_diagonal(table: ScoreTable) -> Floats:
    """(‖U_q‖² − q)/(q(q−1)) from ‖U_q‖²/q²."""
    q = table.column("question_tokens").astype(np.float64)
    return (q * table.column("intra") - 1.0) / (q - 1.0)


def _without_length(table: ScoreTable) -> Floats:
    """C minus what length predicts, as `gainrl score --control length`: least squares on 1, x, x², x = ln q."""
    x = np.log(table.column("question_tokens").astype(np.float64))
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    score = table.column("score").astype(np.float64)
    return score - design @ np.linalg.lstsq(design, score, rcond=None)[0]


RANKINGS: dict[str, Callable[[ScoreTable], Floats]] = {
    "C": lambda table: table.scores,
    "C without diagonal": lambda table: _intra_without_diagonal(table) + table.column("inter"),
    "C, length regressed out": _without_length,
    "C_intra": lambda table: table.column("intra").astype(np.float64),
    "C_inter": lambda table: table.column("inter").astype(np.float64),
    "-C": lambda table: -table.scores,
    "shortest first": lambda table: -table.column("question_tokens").astype(np.float64),
    "lowest NLL first": lambda table: -table.column("nll").astype(np.float64),
}
"""By name: (N,) values in dataset order, the highest is ranked first."""


def score_table(bed: Bed) -> tuple[ScoreTable, float]:
    """The bed's score table and the seconds that making it took (once; it is cached beside the base)."""
    problems = "\n".join(bed.dataset["prompt"])
    path = bed.directory / f"scores-{hashlib.sha256(problems.encode()).hexdigest()[:12]}.parquet"
    taken = path.with_suffix(".json")
    with FileLock(path.with_suffix(".lock")):
        if not taken.is_file():
            model = bed.model().eval()
            prompts = [ScoringPrompt(bed.family.prompt(problem), problem.question) for problem in bed.problems]
            started = time.perf_counter()
            scorer = AngleScorer(model, bed.tokenizer, directions=True, nll=True)
            score_dataset(
                scorer, prompts, path, Source(f"convergence/{bed.family.name}/{bed.seed}"), overwrite=True,
                model_name=f"convergence/{bed.directory.name}", model_hash=model_identity(str(bed.directory)),
            )  # fmt: skip
            write_text(taken, json.dumps({"seconds": time.perf_counter() - started}))
    return ScoreTable.read(path), float(json.loads(taken.read_text())["seconds"])


def ranked_by(table: ScoreTable, ranking: str, *, own_directions: bool = True) -> ScoreTable:
    """The table with another column as its score and its ranks, and directions permuted if not own; else the same."""
    values = RANKINGS[ranking](table).astype(np.float32)
    columns = table.columns
    for name, new in (("score", values), ("rank", ranks(table.ids, values))):
        at = columns.schema.get_field_index(name)
        columns = columns.set_column(at, columns.schema.field(at), pa.array(new, type=columns.schema.field(at).type))
    if not own_directions:
        at = columns.schema.get_field_index("direction")
        others = np.random.default_rng(0).permutation(len(columns))
        columns = columns.set_column(at, columns.schema.field(at), columns.column(at).take(pa.array(others)))
    return dataclasses.replace(table, columns=columns)
