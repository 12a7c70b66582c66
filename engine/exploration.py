"""Exploration: how likely each candidate is to be the best, as far as its model knows.

Thompson sampling (Thompson 1933; Chapelle & Li 2011) draws one value from every posterior and takes the best. Its
chance of taking a candidate has no closed form, and offline evaluation needs that chance. So the draws are a fixed
table: `DRAWS` of them per candidate, stratified, so that they hold the quantiles of the distribution exactly. The
chance of a candidate is the share of draws it wins, and the choice is made by those chances with one random number:
what is logged as probability is then exact, not an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

Draws = npt.NDArray[np.float32]
"""A row per candidate, a column per draw."""
DRAWS = 64
_ROWS = 2_048
"""Candidates whose draws are independent of each other."""


def _tables() -> tuple[Draws, Draws]:
    """Quantiles of the uniform and of the standard normal distribution, in another order in each row."""
    # RandomState's streams are frozen for good, unlike those of numpy's Generator.
    shuffle = np.random.RandomState(20_260_101)
    uniform = (np.arange(DRAWS) + 0.5) / DRAWS
    orders = np.array([shuffle.permutation(DRAWS) for _ in range(_ROWS)])
    normal = np.array([NormalDist().inv_cdf(each) for each in uniform])
    # Midpoints of strata vary less than the distribution does.
    normal /= normal.std()
    return uniform[orders].astype(np.float32), normal[orders].astype(np.float32)


_UNIFORM, _NORMAL = _tables()


def posterior_draws(
    mean: npt.NDArray[np.float64],
    deviation: npt.NDArray[np.float64],
    link: Literal["identity", "logit"],
    columns: npt.NDArray[np.intp],
) -> Draws:
    """Draws of each candidate's expected reward, in [0, 1], one row per candidate.

    `mean`, `deviation`: of its posterior on the scale of `link`. `columns`: a number per candidate; those with
    different numbers (modulo 2,048) are drawn independently, and equal numbers give equal draws.
    """
    drawn = _NORMAL[columns % _ROWS]
    drawn *= deviation.astype(np.float32)[:, None]
    drawn += mean.astype(np.float32)[:, None]
    if link == "identity":
        return np.clip(drawn, 0.0, 1.0, out=drawn)
    np.clip(drawn, -30.0, 30.0, out=drawn)
    np.negative(drawn, out=drawn)
    np.exp(drawn, out=drawn)
    drawn += 1.0
    return np.reciprocal(drawn, out=drawn)


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
