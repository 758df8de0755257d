"""From scores to prompts: the ranking, the window that moves over it, exact draws, and a state that resumes.

NumPy and the standard library only.  Begin with `Ranking` and `GaussianNavigator`; the contract that all navigators
share is in `gainrl.curriculum.base`, the law of the draws in `gainrl.curriculum.draw`.
"""

from gainrl.curriculum.base import ORDERS, Navigator
from gainrl.curriculum.controller import AT_END, Position, WindowSettings, step
from gainrl.curriculum.draw import draw_ranks
from gainrl.curriculum.features import PromptFeatures
from gainrl.curriculum.navigators import (
    NAVIGATORS,
    FixedNavigator,
    ShortestFirstNavigator,
    shortest_first_ranking,
)
from gainrl.curriculum.posterior import PosteriorNavigator
from gainrl.curriculum.probe import ProbeNavigator
from gainrl.curriculum.ranking import Ranking
from gainrl.curriculum.totals import Totals
from gainrl.curriculum.windows import GaussianNavigator, TargetNavigator, UniformNavigator

__all__ = [
    "AT_END",
    "NAVIGATORS",
    "ORDERS",
    "FixedNavigator",
    "GaussianNavigator",
    "Navigator",
    "Position",
    "PosteriorNavigator",
    "ProbeNavigator",
    "PromptFeatures",
    "Ranking",
    "ShortestFirstNavigator",
    "TargetNavigator",
    "Totals",
    "UniformNavigator",
    "WindowSettings",
    "draw_ranks",
    "shortest_first_ranking",
    "step",
]
