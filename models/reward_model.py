"""A reward model for off-policy evaluation: what each action would have brought in each decision, cross-fitted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.intervals import Numbers
from models.learner import Vector

Matrix = npt.NDArray[np.float64]

MAX_COLUMNS = 128
"""Beyond this an action no longer gets its own slope for each feature, only its own level."""
_STEPS = 50


def fit_reward_model(
    features: Matrix,
    actions: Numbers,
    rewards: Vector,
    clusters: Numbers,
    number_of_actions: int,
    folds: int = 5,
    penalty: float = 1.0,
    seed: int = 0,
) -> Matrix:
    """Predicted reward of every action in every decision, (n, number of actions), each by a fit that never saw it.

    Cross-fitting by customer: the model of a fold learns from the customers of all others, so that a doubly robust
    estimate built on it stays unbiased (Chernozhukov et al. 2018, "Double/debiased machine learning"). Logistic
    regression where every reward is 0 or 1, else linear; both with an L2 penalty on standardised features, action
    one-hots and, up to `MAX_COLUMNS`, their products.

    `features`: (n, d). `actions`: (n,), from 0. `clusters`: (n,), from 0. `penalty`: in observations, above 0.
    Raises ValueError when there are fewer customers than `folds` or fewer than two folds.
    """
    fold_of = _folds(clusters, folds, seed)
    scaled = _standardised(features)
    binary = bool(np.isin(rewards, (0.0, 1.0)).all())
    predicted = np.empty((len(rewards), number_of_actions))
    for fold in range(folds):
        held, seen = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        design = _design(scaled[seen], actions[seen], number_of_actions)
        weights = (_logistic if binary else _ridge)(design, rewards[seen], penalty)
        linear = _all_actions(scaled[held], weights, number_of_actions)
        predicted[held] = _sigmoid(linear) if binary else linear
    return predicted


def _folds(clusters: Numbers, folds: int, seed: int) -> Numbers:
    count = int(clusters.max(initial=-1)) + 1
    if not 2 <= folds <= count:
        raise ValueError(f"cannot cross-fit {count} customers in {folds} folds; at least 2 folds and a customer each")
    shuffled = np.random.default_rng(seed).permutation(count)
    folded: Numbers = (shuffled % folds)[clusters]
    return folded


def _standardised(features: Matrix) -> Matrix:
    spread = features.std(axis=0)
    scaled: Matrix = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scaled


def _design(scaled: Matrix, actions: Numbers, number_of_actions: int) -> Matrix:
    """Intercept, features, one-hots, and their products while there are few enough."""
    count, slots = scaled.shape
    hot = np.zeros((count, number_of_actions))
    hot[np.arange(count), actions] = 1.0
    columns = [np.ones((count, 1)), scaled, hot]
    if 1 + slots + number_of_actions + slots * number_of_actions <= MAX_COLUMNS:
        columns.append((hot[:, :, None] * scaled[:, None, :]).reshape(count, -1))
    return np.hstack(columns)


def _all_actions(scaled: Matrix, weights: Vector, number_of_actions: int) -> Matrix:
    """What the weights of a design say of every action, (n, number of actions)."""
    slots = scaled.shape[1]
    shared, levels, products = np.split(weights, [1 + slots, 1 + slots + number_of_actions])
    linear: Matrix = (shared[0] + scaled @ shared[1:])[:, None] + levels
    return linear + scaled @ products.reshape(number_of_actions, slots).T if products.size else linear


def _penalties(columns: int, penalty: float) -> Vector:
    """All but the intercept; that one only so much that it can always be solved for."""
    penalties = np.full(columns, penalty)
    penalties[0] = 1e-9
    return penalties


def _ridge(design: Matrix, rewards: Vector, penalty: float) -> Vector:
    gram = design.T @ design + np.diag(_penalties(design.shape[1], penalty))
    weights: Vector = np.linalg.solve(gram, design.T @ rewards).astype(np.float64)
    return weights


def _logistic(design: Matrix, rewards: Vector, penalty: float) -> Vector:
    """Newton's method on the penalised likelihood, with half steps where a whole one would lose likelihood."""
    penalties = _penalties(design.shape[1], penalty)
    # The base rate, held off 0 and 1: where it is extreme, Newton's first step from 0 is the one that overshoots.
    rate = (rewards.sum() + 0.5) / (len(rewards) + 1)
    weights = np.zeros(design.shape[1])
    weights[0] = np.log(rate / (1 - rate))
    loss = _loss(design, rewards, weights, penalties)
    for _ in range(_STEPS):
        chance = _sigmoid(design @ weights)
        gradient = design.T @ (chance - rewards) + penalties * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(penalties)
        step, scale = np.linalg.solve(curvature, gradient), 1.0
        while (tried := _loss(design, rewards, weights - scale * step, penalties)) > loss and scale > 1e-6:
            scale /= 2
        if loss - tried < 1e-8 * max(loss, 1.0):
            break
        weights, loss = weights - scale * step, tried
    return weights


def _loss(design: Matrix, rewards: Vector, weights: Vector, penalties: Vector) -> float:
    linear = design @ weights
    return float(np.sum(np.logaddexp(0, linear) - rewards * linear) + np.sum(penalties * weights**2) / 2)


def _sigmoid(linear: Vector) -> Vector:
    chance: Vector = 1 / (1 + np.exp(-np.clip(linear, -30, 30)))
    return chance
