"""Simulator: rewards whose dependence on the context moves, with an oracle that knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.learning.streams import SPACING_MS, Trial, encode

FEATURES, ARMS = 5, 4
STEEPNESS = 1.0
"""Standard deviation of each weight; log odds then vary by about 2.4."""


class Drift(NamedTuple):
    """How weights move. `every`: steps between jumps to new ones, 0: none. `pace`: share of a weight that is renewed
    at each step, 0: none.
    """

    every: int = 0
    pace: float = 0.0


DRIFTS: Mapping[str, Drift] = {
    "jumps": Drift(every=1_500),
    "walk": Drift(pace=0.001),
    "jumps-and-walk": Drift(every=1_500, pace=0.0005),
}


def drifting(drift: Drift, seed: int, steps: int) -> Trial:
    """A trial whose rewards are Bernoulli, with log odds linear in the context and weights that move."""
    draw = np.random.default_rng((seed, 23))
    contexts = draw.standard_normal((steps, FEATURES))
    weights = _weights(drift, draw, steps)
    odds = np.einsum("sad,sd->sa", weights[:, :, 1:], contexts) + weights[:, :, 0] - 1.0
    expected = 1 / (1 + np.exp(-odds))
    columns, values = tuple(f"x{each}" for each in range(FEATURES)), [tuple(row) for row in contexts.tolist()]
    vectors, categorical = encode(columns, values)
    return Trial(
        columns=columns,
        categorical=categorical,
        values=values,
        vectors=vectors,
        rewards=(draw.random((steps, ARMS)) < expected).astype(np.float64),
        expected=expected,
        rows=np.arange(steps),
        delays_ms=np.zeros(steps, dtype=np.int64),
        window_ms=0,
        spacing_ms=SPACING_MS,
        arms=tuple(f"arm-{each}" for each in range(ARMS)),
        seed=seed,
    )


def _weights(drift: Drift, draw: np.random.Generator, steps: int) -> npt.NDArray[np.float64]:
    """By step and arm: a constant, then one per feature. A walk keeps their spread: w ← √(1-p)·w + √p·fresh."""
    weights = np.empty((steps, ARMS, 1 + FEATURES))
    keep, renew = np.sqrt(1 - drift.pace), np.sqrt(drift.pace)
    for step in range(steps):
        fresh = STEEPNESS * draw.standard_normal((ARMS, 1 + FEATURES))
        jumps = step == 0 or (drift.every > 0 and step % drift.every == 0)
        weights[step] = fresh if jumps else keep * weights[step - 1] + renew * fresh
    return weights


def regret(trial: Trial, chosen: npt.NDArray[np.intp]) -> float:
    """Cumulative regret: what the oracle's choices would have brought more, in expectation."""
    return float((trial.expected.max(axis=1) - trial.expected[np.arange(len(chosen)), chosen]).sum())
