"""How much is known of an arm, for learners that say a rate and not how sure they are of it.

A rate is smoothed towards the stated propensity, `(SE·SP + E·p) / (SE + E)` (Pega Academy, "Smooth propensity",
with weights that add up), and believed as a Beta distribution with mean p and SE + E observations ("Thompson
sampling", ibid.).
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

import numpy as np
import numpy.typing as npt

from models.learner import Arm, Vector
from models.tree import lineage

LEAST = 1e-6
"""No propensity is nearer to 0 or to 1 than this."""


def count(evidence: MutableMapping[Arm, float], arm: Arm) -> None:
    """Count an observation for an arm and for what it belongs to."""
    for _, each in lineage(arm):
        evidence[each] = evidence.get(each, 0.0) + 1.0


def smoothed(p: Vector, prior: Vector, evidence: Vector, starting_evidence: float) -> Vector:
    """A rate found in `evidence` observations, drawn towards a prior worth `starting_evidence` of them."""
    rate = (starting_evidence * prior + evidence * p) / (starting_evidence + evidence)
    held: Vector = np.minimum(np.maximum(rate, LEAST), 1.0 - LEAST)
    return held


def log_odds(p: Vector, strength: Vector) -> tuple[Vector, Vector]:
    """Mean and standard deviation of the normal log odds closest to Beta(p·strength, (1 - p)·strength).

    A Beta variable is G1 / (G1 + G2) for Gamma variables of shapes a and b, so its log odds are ln G1 - ln G2.
    Each is replaced by the lognormal of equal mean and variance: ln a - ln(1 + 1/a) / 2 and ln(1 + 1/a). The exact
    moments, digamma and trigamma, are those of a distribution with a long lower tail when a < 1; a normal one gives
    them an upper tail as long: for p = .01 and 10 observations its mean propensity is .11, and of this one .0097.
    """
    a = p * strength
    b = strength - a
    spread_a, spread_b = np.log1p(1.0 / a), np.log1p(1.0 / b)
    return np.log(a / b) - 0.5 * (spread_a - spread_b), np.sqrt(spread_a + spread_b)


class Smoothing:
    """Smoothing bound to candidates: `prior`, weight of the rate, and observations a candidate's rate is worth.

    A model over all arms has learned from `total` observations; how sure it is of one arm depends on that arm's own.
    """

    def __init__(
        self, evidence: Mapping[Arm, float], arms: Sequence[Arm], priors: Vector, starting_evidence: float
    ) -> None:
        self.prior = priors
        self.total = np.full(len(arms), evidence.get(Arm("", "", ""), 0.0))
        self.strength = np.array([starting_evidence + evidence.get(arm, 0.0) for arm in arms])
        self._starting_evidence = starting_evidence

    def rate(self, p: Vector, rows: npt.NDArray[np.intp] | None) -> Vector:
        """The expected reward of candidates whose learned rate is `p`."""
        prior, total = (self.prior, self.total) if rows is None else (self.prior[rows], self.total[rows])
        return smoothed(p, prior, total, self._starting_evidence)

    def score(
        self, p: Vector, rows: npt.NDArray[np.intp] | None, variance: Vector | None = None
    ) -> tuple[Vector, Vector]:
        """Mean and deviation of the log odds; never surer than `variance`, of the rate, allows."""
        rate = self.rate(p, rows)
        strength, total = (self.strength, self.total) if rows is None else (self.strength[rows], self.total[rows])
        if variance is not None:
            spread = variance * (total / (total + self._starting_evidence)) ** 2
            agreed = rate * (1.0 - rate) / np.maximum(spread, 1e-12)
            strength = np.clip(agreed - 1.0, 1.0, strength)
        return log_odds(rate, strength)
