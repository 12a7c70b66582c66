"""Exploration: how likely each candidate is to be the best, as far as its model knows.

Thompson sampling (Thompson 1933; Chapelle & Li 2011) draws one value from every posterior and takes the best. With
many candidates drawn independently that tries too much for too long, so the draws share a part that is never below
the mean: optimism, as in UCB, but of random size (optimistic Bayesian sampling, May et al. 2012; RandUCB, Vaswani et
al. 2020). Their own part keeps candidates apart that are known equally well.

The chance of being drawn best has no closed form, and offline evaluation needs that chance. So the draws are a fixed
table: `DRAWS` of them per candidate, stratified. The chance of a candidate is the share of draws it wins, and the
choice is made by those chances with one random number: what is logged as probability is then exact, not an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

Draws = npt.NDArray[np.float32]
"""A row per candidate, a column per draw."""
Link = Literal["identity", "logit"]
"""Scale of a posterior: rewards themselves, or their log odds."""
DRAWS = 64
_ROWS = 2_048
"""Candidates whose own draws are independent of each other."""
_OWN = 0.5
"""Size of a draw's own part; that of the shared part is the root of one less its square."""


def _tables() -> tuple[Draws, Draws]:
    """Uniform draws, and deviations from the mean; a row per candidate, the strata of its own part in any order."""
    # RandomState's streams are frozen for good, unlike those of numpy's Generator.
    shuffle = np.random.RandomState(20_260_101)
    uniform = (np.arange(DRAWS) + 0.5) / DRAWS
    orders = np.array([shuffle.permutation(DRAWS) for _ in range(_ROWS)])
    own = np.array([NormalDist().inv_cdf(each) for each in uniform])[orders]
    shared = np.array([NormalDist().inv_cdf(0.5 + each / 2) for each in uniform])
    deviations = _OWN * own + (1.0 - _OWN**2) ** 0.5 * shared
    return uniform[orders].astype(np.float32), deviations.astype(np.float32)


_UNIFORM, _DEVIATIONS = _tables()


def posterior_draws(
    mean: npt.NDArray[np.float64],
    deviation: npt.NDArray[np.float64],
    link: Link,
    columns: npt.NDArray[np.intp],
) -> Draws:
    """What each candidate's expected reward could be, in [0, 1], one row per candidate.

    `mean`, `deviation`: of its posterior on the scale of `link`. `columns`: a number per candidate; those with
    different numbers (modulo 2,048) differ in their own part, and equal numbers give equal draws.
    """
    drawn = _DEVIATIONS[columns % _ROWS]
    drawn *= deviation.astype(np.float32)[:, None]
    drawn += mean.astype(np.float32)[:, None]
    if link == "identity":
        return np.clip(drawn, 0.0, 1.0, out=drawn)
    np.clip(drawn, -30.0, 30.0, out=drawn)
    np.negative(drawn, out=drawn)
    np.exp(drawn, out=drawn)
    drawn += 1.0
    return np.reciprocal(drawn, out=drawn)


def expected(mean: npt.NDArray[np.float64], deviation: npt.NDArray[np.float64], link: Link) -> npt.NDArray[np.float64]:
    """Each candidate's expected reward, in [0, 1]; under `logit` averaged over its posterior (MacKay 1992)."""
    if link == "identity":
        return np.clip(mean, 0.0, 1.0)
    odds: npt.NDArray[np.float64] = np.exp(-np.clip(mean / np.sqrt(1.0 + np.pi / 8.0 * deviation**2), -30.0, 30.0))
    return 1.0 / (1.0 + odds)


def random_draws(columns: npt.NDArray[np.intp]) -> Draws:
    """Draws of candidates about which nothing is known: uniform over [0, 1)."""
    return _UNIFORM[columns % _ROWS]


def shares_won(priorities: Draws) -> list[float]:
    """The share of draws (columns) in which each candidate (row) has the greatest priority; adds up to 1.

    Of equals the first wins.
    """
    counts = np.bincount(priorities.argmax(axis=0), minlength=len(priorities))
    return [count / priorities.shape[1] for count in counts.tolist()]


def mixed(chances: Sequence[float], epsilon: float, floor: float) -> list[float]:
    """Chances with a part left to pure chance, so that each is at least `epsilon` over their number, and `floor`.

    With more candidates than `floor` has room for, all are equally likely.
    """
    if not chances:
        return []
    least = min(1.0 / len(chances), max(epsilon / len(chances), floor))
    if least == 0.0:
        return list(chances)
    rest = 1.0 - least * len(chances)
    return [least + rest * each for each in chances]
