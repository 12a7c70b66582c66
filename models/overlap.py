"""Overlap: whether a log has what a target policy needs, told from the importance weights alone."""

from __future__ import annotations

from statistics import NormalDist

import msgspec
import numpy as np

from models.intervals import Numbers, clustered, per_cluster
from models.learner import Vector

LEAST_ESS = 100.0
LEAST_ESS_SHARE = 0.05
TINY_PROBABILITY = 0.01
MOST_TINY_WEIGHT = 0.5
MOST_WEIGHT_OF_ONE = 0.1
WEIGHT_CONFIDENCE = 0.99
"""Of the interval that the mean weight must have 1 in: wide, so that a report seldom warns of nothing."""


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the log has what the target policy needs.

    `mean_weight` is 1 where the logged probabilities are right and the log could take whatever the target would;
    `mean_weight_low` and `_high` bound it with 99 % confidence, `mean_weight_z` and `_p` test it against 1.
    `max_weight_share`: of all weight, on one decision. `tiny_share`: of decisions, whose action the target could
    take and the log had less than a chance of 1 % to. `tiny_weight_share`: of all weight, on those.
    `never_logged_share`: of the target's choices, for actions that no logged decision took; None when not known.
    """

    n: int
    clusters: int
    ess: float
    mean_weight: float
    mean_weight_low: float
    mean_weight_high: float
    mean_weight_z: float
    mean_weight_p: float
    max_weight: float
    max_weight_share: float
    tiny_share: float
    tiny_weight_share: float
    never_logged_share: float | None = None


def effective_sample_size(weights: Vector) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted decisions they are worth (Kish 1965)."""
    squares = float(np.sum(weights**2))
    return float(np.sum(weights)) ** 2 / squares if squares > 0 else 0.0


def overlap_of(logged: Vector, target: Vector, clusters: Numbers) -> Overlap:
    """Measure it. `logged` in (0, 1] and `target` in [0, 1]: of the action taken; `clusters`: from 0."""
    weights = target / logged
    total = float(weights.sum())
    influence = weights - weights.mean()
    interval = clustered(float(weights.mean()), influence, clusters, WEIGHT_CONFIDENCE)
    sums = per_cluster(influence, clusters)
    error = float(np.sqrt(np.sum(sums**2) * len(sums) / max(len(sums) - 1, 1))) / len(weights)
    z = (float(weights.mean()) - 1) / error if error > 0 else 0.0
    tiny = (target > 0) & (logged < TINY_PROBABILITY)
    return Overlap(
        n=len(weights),
        clusters=len(sums),
        ess=effective_sample_size(weights),
        mean_weight=float(weights.mean()),
        mean_weight_low=interval.low,
        mean_weight_high=interval.high,
        mean_weight_z=z,
        mean_weight_p=2 * NormalDist().cdf(-abs(z)),
        max_weight=float(weights.max()),
        max_weight_share=float(weights.max()) / total if total else 0.0,
        tiny_share=float(tiny.mean()),
        tiny_weight_share=float(weights[tiny].sum()) / total if total else 0.0,
    )


def warnings_of(seen: Overlap) -> list[str]:
    """What to tell people, in sentences; nothing when the overlap is good."""
    warnings = []
    if seen.ess < LEAST_ESS or seen.ess < LEAST_ESS_SHARE * seen.n:
        warnings.append(
            f"The {seen.n} decisions are worth {seen.ess:.0f} ({seen.ess / seen.n:.1%}) of the policy's own, under "
            f"{LEAST_ESS:.0f} or {LEAST_ESS_SHARE:.0%}: the log seldom did what it would do. Log more, or explore more."
        )
    around = f"The weights average {seen.mean_weight:.3f} ({seen.mean_weight_low:.3f} to {seen.mean_weight_high:.3f})"
    if seen.mean_weight_high < 1 - 1e-9:
        warnings.append(
            f"{around}, not 1: the log could not take about {1 - seen.mean_weight:.0%} of what the policy would "
            "choose, or its probabilities are too high. SNIPS takes the missing part to earn what the rest does, IPS "
            "takes it to earn nothing."
        )
    if seen.mean_weight_low > 1 + 1e-9:
        warnings.append(
            f"{around}, not 1: the logged probabilities are too low, or the policy's add up to more than 1."
        )
    if seen.max_weight_share > MOST_WEIGHT_OF_ONE:
        warnings.append(f"One decision carries {seen.max_weight_share:.0%} of all the weight.")
    if seen.tiny_weight_share > MOST_TINY_WEIGHT:
        warnings.append(
            f"{seen.tiny_weight_share:.0%} of the weight is on the {seen.tiny_share:.1%} of decisions that had a "
            f"chance below {TINY_PROBABILITY:.0%}: a small error of those probabilities is a large one of the value."
        )
    return warnings
