"""The baseline: every draw is uniform over all prompts, without replacement."""

from __future__ import annotations

from gainrl.curriculum.base import Navigator
from gainrl.curriculum.prompts import Floats


class UniformNavigator(Navigator):
    """All prompts are equally likely, whatever was observed."""

    name = "uniform"

    def race(self, n: int) -> Floats:
        """(M,) independent uniforms."""
        return self.rng.random(len(self.prompts))
