"""A scorer that knows each treatment's posterior, for tests of what the engine does with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.context import Context
from engine.exploration import posterior_draws
from engine.learning import model_of
from engine.profile import Profile
from engine.repertoire import Candidate, Repertoire
from engine.scoring import Scores


class KnownScorer:
    """Says of each treatment a mean and a deviation on the scale of rewards; those not named are certain of 0."""

    def __init__(
        self,
        repertoire: Repertoire,
        known: Mapping[str, tuple[float, float]],
        reach: Mapping[str, float] | None = None,
    ) -> None:
        self._repertoire, self._known, self._reach = repertoire, known, reach

    def score(self, candidates: Sequence[Candidate], context: Context, profile: Profile, draw: int = 0) -> Scores:  # noqa: ARG002 - the port's signature
        """Draws around the known means, and the features as they are read."""
        pairs = np.array([self._known.get(each.treatment.id, (0.0, 0.0)) for each in candidates]).reshape(-1, 2)
        columns = np.array([each.index for each in candidates], dtype=np.intp) + draw
        draws = posterior_draws(pairs[:, 0], pairs[:, 1], "identity", columns)
        rules = {rule.id: "v7" for each in candidates if (rule := model_of(each, self._repertoire)) is not None}
        reach = None if self._reach is None else [self._reach.get(each.treatment.id, 1.0) for each in candidates]
        return Scores(pairs[:, 0].tolist(), rules, draws, reach, self._repertoire.features.read(context))
