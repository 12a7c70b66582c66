"""Gaussian posteriors of many linear models side by side: recursive least squares with forgetting."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.learner import Vector

Rows = npt.NDArray[np.intp]
Matrix = npt.NDArray[np.float64]
FADING = 0.998
"""Per observation, of what is known of the noise."""
NOISE, NOISE_EVIDENCE = 0.25, 5.0
"""The noise a stack begins with, the largest a reward in [0, 1] can have, and how many observations that is worth."""
LEAST_NOISE = 1e-4


class Stack:
    """One model per row: covariance P (in units of the noise), rewards Σ r·x and exposures Σ x.

    With an offset c the weights are w = P(Σ r·x - c·Σ x), and the mean of a reward c + w·x; c may change at any time.
    `precision`: of the weights' prior, by feature. `decay`: of what a row knows, per observation of its own; it
    never becomes less sure than it was at first.
    """

    def __init__(self, precision: Vector, decay: float) -> None:
        self.precision, self.decay = precision.copy(), decay
        width = len(precision)
        self.cov = np.zeros((0, width, width))
        self.pull = np.zeros((0, width))
        self.sums = np.zeros((0, width))
        self.error, self.evidence = NOISE * NOISE_EVIDENCE, NOISE_EVIDENCE

    @property
    def noise(self) -> float:
        """Variance of a reward around its mean."""
        return max(self.error / self.evidence, LEAST_NOISE)

    def tighten(self, rows: Rows, precision: Vector) -> None:
        """Have all rows in use, which these are, go on as if the prior of weights had been of this precision."""
        information = np.linalg.inv(self.cov[rows])
        places = np.arange(len(precision))
        information[:, places, places] += precision - self.precision
        cov = np.linalg.inv(information)
        self.cov[rows], self.precision = (cov + cov.transpose(0, 2, 1)) / 2.0, precision

    def relevance(self, rows: Rows, offsets: Vector) -> tuple[Vector, Vector]:
        """How far rewards settle each feature's weights, and the squares of these over the noise, summed over rows."""
        told = self.pull[rows] - offsets[:, None] * self.sums[rows]
        weights = np.einsum("nij,nj->ni", self.cov[rows], told)
        settled = 1.0 - self.precision * np.diagonal(self.cov[rows], axis1=1, axis2=2)
        return np.clip(settled, 0.0, 1.0).sum(0), (weights**2).sum(0) / self.noise

    def reset(self, row: int, weights: Vector) -> None:
        """Have a row begin, with these weights as if they were its prior's."""
        if row >= len(self.cov):
            self._grow(max(row + 1, 2 * len(self.cov), 8))
        self.cov[row] = np.diag(1.0 / self.precision)
        self.pull[row], self.sums[row] = self.precision * weights, 0.0

    def _grow(self, rows: int) -> None:
        for name in ("cov", "pull", "sums"):
            old = getattr(self, name)
            grown = np.zeros((rows, *old.shape[1:]))
            grown[: len(old)] = old
            setattr(self, name, grown)

    def look(self, row: int, x: Vector, offset: float) -> tuple[float, float]:
        """Mean of the reward, and x'Px."""
        along = self.cov[row] @ x
        return offset + float(along @ (self.pull[row] - offset * self.sums[row])), float(along @ x)

    def look_without(self, row: int, x: Vector, offset: float, reward: float) -> tuple[float, float]:
        """Mean and x'Px as they would be had this reward of x not been learned (leave-one-out, Allen 1974)."""
        mean, share = self.look(row, x, offset)
        left = max(1.0 - share, 1e-3)
        return (mean - share * reward) / left, share / left

    def learn(self, rows: Rows, x: Vector, reward: float) -> None:
        """Learn an observation in every one of these rows (Sherman and Morrison 1950)."""
        cov, pull, sums = self.cov[rows], self.pull[rows], self.sums[rows]
        if self.decay < 1.0:
            cov /= self.decay
            # What no observation speaks of would be forgotten beyond the prior: each feature stops there.
            held = 1.0 / np.sqrt(np.maximum(np.diagonal(cov, axis1=1, axis2=2) * self.precision, 1.0))
            cov *= held[:, :, None] * held[:, None, :]
            pull *= self.decay / held
            sums *= self.decay / held
        along = cov @ x
        along /= np.sqrt(1.0 + along @ x)[:, None]
        cov -= along[:, :, None] * along[:, None, :]
        pull += reward * x
        sums += x
        self.cov[rows], self.pull[rows], self.sums[rows] = cov, pull, sums

    def surprise(self, error: float, share: float) -> float:
        """Note by how much a reward missed its mean, whose x'Px was `share`; its log likelihood before."""
        expected = self.noise * (1.0 + share)
        self.error = self.error * FADING + error**2 / (1.0 + share)
        self.evidence = self.evidence * FADING + 1.0
        return -0.5 * float(np.log(expected) + error**2 / expected)

    def dump(self, rows: list[int]) -> dict[str, Any]:
        """Everything known of these rows; of each covariance one triangle."""
        upper = np.triu_indices(len(self.precision))
        return {
            "error": self.error,
            "evidence": self.evidence,
            "precision": self.precision.tolist(),
            "cov": self.cov[rows][:, upper[0], upper[1]].tobytes(),
            "pull": self.pull[rows].tobytes(),
            "sums": self.sums[rows].tobytes(),
        }

    def load(self, state: dict[str, Any], rows: list[int], columns: Rows) -> None:
        """Take over what was dumped: feature n of this stack is feature `columns[n]` of that, -1 for none.

        What was learned of a feature that is not there is as if it had never been.
        """
        self.error, self.evidence = state["error"], state["evidence"]
        known = np.flatnonzero(columns >= 0)
        then = columns[known]
        self.precision[known] = np.array(state["precision"])[then]
        width = len(state["pull"]) // 8 // max(len(rows), 1)
        pull, sums = (np.frombuffer(state[name]).reshape(len(rows), width) for name in ("pull", "sums"))
        upper = np.triu_indices(width)
        packed = np.frombuffer(state["cov"]).reshape(len(rows), width * (width + 1) // 2)
        for place, row in enumerate(rows):
            self.reset(row, np.zeros(len(self.precision)))
            whole = np.zeros((width, width))
            whole[upper] = packed[place]
            whole[upper[1], upper[0]] = packed[place]
            self.cov[row][np.ix_(known, known)] = _among(whole, then)
            self.pull[row][known], self.sums[row][known] = pull[place][then], sums[place][then]


def _among(cov: Matrix, kept: Rows) -> Matrix:
    """Covariance of these features had there been no other: those of the information, not those of the covariance."""
    if len(kept) == len(cov):
        return cov[np.ix_(kept, kept)]
    found: Matrix = np.linalg.inv(np.linalg.inv(cov)[np.ix_(kept, kept)])
    return found
