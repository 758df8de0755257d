"""Which score: how much C_inter weighs, and whether C_intra counts each token's cosine with itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gainrl.errors import UserError

_FORM = re.compile(r"intra(?:\+(?:(?P<weight>\d+(?:\.\d*)?|\.\d+)\*)?(?P<inter>inter))?(?P<bare>,no-diagonal)?")


@dataclass(frozen=True)
class Definition:
    """`score = C_intra + inter_weight · C_inter`; the published one (arXiv 2506.02281) is the default."""

    inter_weight: float = 1.0
    diagonal: bool = True
    """Whether C_intra includes i = j: `‖U_q‖²/q²`, or without it `(‖U_q‖² − q)/(q(q−1))`."""

    @property
    def formula(self) -> str:
        """`intra+inter`, `intra` or `intra+0.5*inter`: the definition in a table's metadata, beside `diagonal`."""
        if self.inter_weight == 0:
            return "intra"
        return "intra+inter" if self.inter_weight == 1 else f"intra+{self.inter_weight:g}*inter"

    @classmethod
    def parse(cls, text: str) -> Definition:
        """`intra+inter`, `intra`, `intra+0.5*inter`, each also with `,no-diagonal`; UserError for anything else."""
        if (found := _FORM.fullmatch(str(text).replace(" ", ""))) is None:
            raise UserError(
                f"definition {text!r}: give intra+inter (as published), intra, or intra+W*inter with a weight W >= 0; "
                "add ,no-diagonal to leave out each token's cosine with itself"
            )
        return cls(float(found["weight"] or 1) if found["inter"] else 0.0, found["bare"] is None)
