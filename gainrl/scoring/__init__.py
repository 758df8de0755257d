"""Scoring: a dataset to a score table with one forward pass of a model.

`AngleScorer` scores prompts in memory; `score_dataset` writes a score table, with a journal so that nothing is lost.
"""

from gainrl.models import load_model, load_tokenizer, model_identity, resolve_model
from gainrl.scoring.data import open_rows, scoring_prompts
from gainrl.scoring.prompts import ScoringPrompt
from gainrl.scoring.results import Scores
from gainrl.scoring.run import Run, Source, score_dataset
from gainrl.scoring.scorer import AngleScorer
from gainrl.scoring.settings import Definition, ScoringSettings

__all__ = [
    "AngleScorer", "Definition", "Run", "Scores", "ScoringPrompt", "ScoringSettings", "Source", "load_model",
    "load_tokenizer", "model_identity", "open_rows", "resolve_model", "score_dataset", "scoring_prompts",
]  # fmt: skip
