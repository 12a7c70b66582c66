"""Score: the port through which models say how likely each candidate is to be taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from engine.context import Context
from engine.profile import Profile
from engine.repertoire import Candidate


class Scores(msgspec.Struct, frozen=True):
    """`propensities`: one per candidate, in their order, each in [0, 1]. `models`: id → version of what said so."""

    propensities: Sequence[float]
    models: Mapping[str, str]


class Scorer(Protocol):
    """Scores candidates for one customer at one moment; pure, and never slower for lack of training."""

    def score(self, candidates: Sequence[Candidate], context: Context, profile: Profile) -> Scores:
        """Propensities of the candidates."""
        ...
