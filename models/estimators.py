"""Off-policy estimators: the value of a policy from decisions that another policy took.

Notation, one entry per logged decision: r the reward, w = pi / p the weight (the target policy's probability of the
logged action over the logged one), q the modelled reward of the logged action, v = sum over actions of pi(a) q(a).
Each function returns the `Terms` whose ratio of sums is the estimate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from models.learner import Vector

_LEAST_AMOUNT = 1e-280
"""Below it the square of a weight, divided by it, might be no number."""


class Terms(NamedTuple):
    """An estimate is sum(top) / sum(bottom). `weights`: as the estimator uses them; None when it uses none."""

    top: Vector
    bottom: Vector
    weights: Vector | None

    @property
    def value(self) -> float:
        """The estimate; nan when there is nothing to divide by."""
        bottom = float(self.bottom.sum())
        return float(self.top.sum()) / bottom if bottom > 0 else float("nan")

    @property
    def influence(self) -> Vector:
        """What each decision contributes to the error, of mean 0 (linearised; exact for plain means)."""
        influence: Vector = (self.top - self.value * self.bottom) / self.bottom.mean()
        return influence


def mean(rewards: Vector) -> Terms:
    """The value of the policy that was logged: mean of r."""
    return Terms(rewards, np.ones(len(rewards)), None)


def ips(rewards: Vector, weights: Vector) -> Terms:
    """Inverse propensity score: mean of w r; unbiased (Horvitz & Thompson 1952)."""
    return Terms(weights * rewards, np.ones(len(rewards)), weights)


def clipped_ips(rewards: Vector, weights: Vector, clip: float) -> Terms:
    """Mean of min(w, clip) r; too low for rewards above 0 where it clips (Ionides 2008, "Truncated importance
    sampling", which takes the root of n for `clip`).
    """
    return ips(rewards, np.minimum(weights, clip))


def snips(rewards: Vector, weights: Vector) -> Terms:
    """Self-normalised: sum of w r over sum of w; consistent, stays among the rewards seen (Swaminathan & Joachims
    2015, "The self-normalized estimator for counterfactual learning").
    """
    return Terms(weights * rewards, weights, weights)


def direct(v_target: Vector) -> Terms:
    """Direct method: mean of v; as right as the reward model."""
    return Terms(v_target, np.ones(len(v_target)), None)


def doubly_robust(rewards: Vector, weights: Vector, q_chosen: Vector, v_target: Vector) -> Terms:
    """Mean of v + w (r - q); unbiased when the probabilities or the model are (Dudik, Erhan, Langford & Li 2014,
    "Doubly robust policy evaluation and optimization").
    """
    return Terms(v_target + weights * (rewards - q_chosen), np.ones(len(rewards)), weights)


def shrunk(weights: Vector, amount: float) -> Vector:
    """Optimistic shrinkage of weights: amount w / (w^2 + amount); 0 gives nothing, infinity w itself."""
    if amount < _LEAST_AMOUNT:
        return np.zeros(len(weights))
    less: Vector = weights / (1 + weights**2 / amount)
    return less


def shrunk_doubly_robust(rewards: Vector, weights: Vector, q_chosen: Vector, v_target: Vector) -> Terms:
    """Doubly robust with shrunk weights (Su, Dimakopoulou, Krishnamurthy & Dudik 2020, "Doubly robust off-policy
    evaluation with shrinkage", section 3; the amount as in section 4).
    """
    top = float(weights.max(initial=0.0)) ** 2
    amounts = [*(np.geomspace(1e-3, 1e2, 16) * top), np.inf]
    used = _least_error((shrunk(weights, amount) for amount in amounts), weights, rewards - q_chosen, v_target)
    return doubly_robust(rewards, used, q_chosen, v_target)


def switch(rewards: Vector, weights: Vector, q_chosen: Vector, v_target: Vector) -> Terms:
    """Doubly robust where w is at most a threshold, the model alone beyond (Wang, Agarwal & Dudik 2017, "Optimal and
    adaptive off-policy evaluation in contextual bandits").
    """
    thresholds = np.unique(np.quantile(weights, np.linspace(0.5, 1, 16)))
    used = (np.where(weights <= threshold, weights, 0.0) for threshold in thresholds)
    return doubly_robust(rewards, _least_error(used, weights, rewards - q_chosen, v_target), q_chosen, v_target)


def _least_error(tried: Iterable[Vector], weights: Vector, residuals: Vector, v_target: Vector) -> Vector:
    """The weights with the least estimated mean squared error: variance of the mean plus the bias seen, squared."""

    def error(used: Vector) -> float:
        bias = float(np.mean((weights - used) * residuals))
        return float(np.var(v_target + used * residuals)) / len(residuals) + bias**2

    return min(tried, key=error)
