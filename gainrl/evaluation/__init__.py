"""Evaluation of a model on a task: avg@k, pass@k, maj@k with intervals."""

from gainrl.evaluation.engines import Completed, Engine, Sampling, TransformersEngine
from gainrl.evaluation.evaluate import Evaluation, Generation, Store, append_record, evaluate, rows_digest
from gainrl.evaluation.metrics import majority_at_k, mean_interval, pass_at_k, row_accuracy

__all__ = [
    "Completed", "Engine", "Evaluation", "Generation", "Sampling", "Store", "TransformersEngine", "append_record",
    "evaluate", "majority_at_k", "mean_interval", "pass_at_k", "row_accuracy", "rows_digest",
]  # fmt: skip
