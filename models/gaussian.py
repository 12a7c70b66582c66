"""Stacked Gaussian posteriors of a tree of linear models, each with its parent's mean as its prior mean.

Node n knows its observations by a covariance `S` (of the noise's unit), and a pull `b`: its mean is
`w = S (rΛ w_parent + b)` with `S = (rΛ + Σ v x x')⁻¹` and `b = Σ v x z`, Bayesian linear regression (Bishop 2006,
§3.3) on targets z with weights v. Several discounts are kept side by side: what is t observations old counts
`decay ** t`, prior included (`r`), until the prior has lost half its weight and is filled up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Generation = tuple[slice | Rows, slice | Rows | None]
"""Nodes of a level and their parents, by place; None for those without."""
REFILL = 0.5
"""Share of its weight at which a prior is filled up again."""
EVIDENCE = 10.0
"""How many observations the noise of a parent weighs in the noise of its child."""


class Beliefs(NamedTuple):
    """What n nodes believe under h discounts.

    `cov`: n by h by d by d. `pull`: n by h by d. `rest` (r), `squares` (Σ v z²), `mass` (Σ v): n by h.
    """

    cov: Array
    pull: Array
    rest: Array
    squares: Array
    mass: Array


class Stack:
    """Room for nodes that grows by doubling. `precision`: the priors', level by h by d. `decays`: h, each a step."""

    def __init__(self, precision: Array, decays: Array) -> None:
        self.precision = precision
        self.decays = decays
        self._all = self._blank(np.zeros(0, dtype=np.intp))
        self._level = np.zeros(0, dtype=np.intp)
        self._clock = np.zeros(0, dtype=np.int64)

    def _blank(self, levels: Rows) -> Beliefs:
        shape = (len(levels), len(self.decays))
        prior = np.zeros((*shape, self.width, self.width))
        prior[..., range(self.width), range(self.width)] = 1 / self.precision[levels]
        return Beliefs(prior, np.zeros((*shape, self.width)), np.ones(shape), np.zeros(shape), np.zeros(shape))

    @property
    def width(self) -> int:
        """Slots of the features."""
        return self.precision.shape[2]

    def reset(self, row: int, level: int, clock: int) -> None:
        """Make a row a node of a level that knows nothing."""
        if row >= len(self._level):
            more = np.zeros(max(8, row + 1), dtype=np.intp)
            self._all = Beliefs(*map(np.concatenate, zip(self._all, self._blank(more), strict=True)))
            self._level, self._clock = np.concatenate([self._level, more]), np.concatenate([self._clock, more])
        for part, blank in zip(self._all, self._blank(np.array([level])), strict=True):
            part[row] = blank[0]
        self._level[row], self._clock[row] = level, clock

    def read(self, rows: Rows, clock: int) -> Beliefs:
        """What the nodes believe at a moment: a discounted copy."""
        kept = self.decays ** (clock - self._clock[rows])[:, None]
        cov, pull, rest, squares, mass = (part[rows] for part in self._all)
        cov /= kept[..., None, None]
        pull *= kept[..., None]
        found = Beliefs(cov, pull, rest * kept, squares * kept, mass * kept)
        self._refill(rows, found)
        return found

    def _refill(self, rows: Rows, found: Beliefs) -> None:
        low = np.nonzero(found.rest < REFILL)
        if len(low[0]):
            precision = np.linalg.inv(found.cov[low])
            missing = (1 - found.rest[low])[:, None] * self.precision[self._level[rows[low[0]]], low[1]]
            precision[:, range(self.width), range(self.width)] += missing
            found.cov[low] = _symmetric(np.linalg.inv(precision))
            found.rest[low] = 1.0

    def write(self, rows: Rows, beliefs: Beliefs, clock: int) -> None:
        """Put back what `read` gave, changed."""
        for part, own in zip(self._all, beliefs, strict=True):
            part[rows] = own
        self._clock[rows] = clock

    def prior(self, rows: Rows, beliefs: Beliefs) -> Array:
        """The precision of the priors of nodes read, n by h by d."""
        lent: Array = beliefs.rest[..., None] * self.precision[self._level[rows]]
        return lent

    def rebase(self, change: Array) -> None:
        """Carry everything over to features that are `change` times those so far; the priors stay."""
        rows = np.arange(len(self._level))
        diagonal = range(self.width)
        prior = self.prior(rows, self._all)
        precision = np.linalg.inv(self._all.cov)
        precision[..., diagonal, diagonal] -= prior
        precision = change @ precision @ change.T
        precision[..., diagonal, diagonal] += prior
        self._all.cov[:] = _symmetric(np.linalg.inv(precision))
        self._all.pull[:] = self._all.pull @ change.T

    def dump(self) -> dict[str, Any]:
        """Everything, as raw bytes; of covariances the upper triangles."""
        upper = self._all.cov[..., *np.triu_indices(self.width)]
        parts = zip(Beliefs._fields, (upper, *self._all[1:]), strict=True)
        told: dict[str, Any] = {name: part.tobytes() for name, part in parts}
        return told | {"level": self._level.tolist(), "clock": self._clock.tolist(), "width": self.width}

    def load(self, told: dict[str, Any], columns: Rows) -> None:
        """Take over what was dumped: feature n of this stack is `columns[n]` of that, -1 for none.

        Features no longer there are forgotten as if never seen, others start from their prior.
        """
        self._level, self._clock = np.array(told["level"], dtype=np.intp), np.array(told["clock"], dtype=np.int64)
        shape, d = (len(self._level), len(self.decays)), told["width"]
        cov = np.zeros((*shape, d, d))
        upper = np.triu_indices(d)
        cov[..., *upper] = np.frombuffer(told["cov"]).reshape(*shape, len(upper[0]))
        cov[..., upper[1], upper[0]] = cov[..., *upper]
        pull = np.frombuffer(told["pull"]).reshape(*shape, d)
        rest, squares, mass = (np.frombuffer(told[name]).reshape(shape).copy() for name in ("rest", "squares", "mass"))
        if len(columns) == d and (columns == np.arange(d)).all():
            self._all = Beliefs(cov, pull.copy(), rest, squares, mass)
            return
        known = np.nonzero(columns >= 0)[0]
        self._all = self._blank(self._level)
        precision = np.zeros_like(self._all.cov)
        precision[..., range(self.width), range(self.width)] = rest[..., None] * self.precision[self._level]
        precision[..., known[:, None], known] = np.linalg.inv(cov)[..., columns[known][:, None], columns[known]]
        self._all.cov[:] = _symmetric(np.linalg.inv(precision))
        self._all.pull[..., known] = pull[..., columns[known]]
        for own, part in zip(self._all[2:], (rest, squares, mass), strict=True):
            own[:] = part


def _symmetric(matrices: Array) -> Array:
    both: Array = (matrices + matrices.swapaxes(-1, -2)) / 2
    return both


def means(beliefs: Beliefs, prior: Array, generations: Sequence[Generation]) -> tuple[Array, Array]:
    """The mean weights of nodes and those they start from, n by h by d. `generations`: from the root down."""
    weights, starts = np.empty_like(beliefs.pull), np.zeros_like(beliefs.pull)
    for nodes, parents in generations:
        pull = beliefs.pull[nodes]
        if parents is not None:
            starts[nodes] = weights[parents]
            pull = pull + prior[nodes] * starts[nodes]
        weights[nodes] = (beliefs.cov[nodes] @ pull[..., None])[..., 0]
    return weights, starts


def noises(
    beliefs: Beliefs, prior: Array, weights: Array, starts: Array, root: float, generations: Sequence[Generation]
) -> Array:
    """The variance of targets around the means, n by h: residuals over degrees of freedom, shrunk to the parent's.

    `root`: the variance where nothing is known. Residual sum of squares: `Σ v z² - w·b + w·rΛ(w_parent - w)`.
    """
    held = (prior * np.diagonal(beliefs.cov, axis1=-2, axis2=-1)).sum(-1)
    free = EVIDENCE + np.maximum(beliefs.mass - beliefs.pull.shape[-1] + held, 0)
    residual = beliefs.squares + (weights * (prior * (starts - weights) - beliefs.pull)).sum(-1)
    own = np.maximum(residual, 0) / free
    shrunk = EVIDENCE / free
    found = np.empty_like(own)
    for nodes, parents in generations:
        found[nodes] = own[nodes] + shrunk[nodes] * (root if parents is None else found[parents])
    return found
