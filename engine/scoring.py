"""Score: the port through which models say how likely each candidate is to be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from engine.context import Context
from engine.exploration import Draws
from engine.features import Value
from engine.profile import Profile
from engine.repertoire import Candidate

Column = npt.NDArray[np.float64]


class Scores(msgspec.Struct, frozen=True, gc=False):
    """What models say of some candidates, in their order.

    `propensities`: each in [0, 1]. `models`: id → version of what said so. `draws`: what the propensities could be,
    as far as the models know; None: they are taken for certain. `reach`: the share of customers each may be sent
    to so far; None: all. `features`: the customer's, as they were read for the models.
    """

    propensities: Sequence[float] | Column
    models: Mapping[str, str]
    draws: Draws | None = None
    reach: Sequence[float] | None = None
    features: tuple[Value, ...] = ()


class Scorer(Protocol):
    """Scores candidates for one customer at one moment; pure, and never slower for lack of training."""

    def score(self, candidates: Sequence[Candidate], context: Context, profile: Profile, draw: int = 0) -> Scores:
        """Propensities of the candidates. `draw`: what makes the random draws of this decision its own."""
        ...
