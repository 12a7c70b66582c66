"""Many Gaussian posteriors as one product: what `bayesian` exports, and candidates bound to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from engine.exploration import Link
from models.expansion import Waves
from models.gaussian import Rows
from models.learner import Arm, Vector
from models.scaling import Matrix, scale
from models.tree import lineage

Rule = Literal["thompson", "ucb"]
FORMAT = 1
UNKNOWN = 0.25
"""Noise where nothing was learned at all: the largest a reward in [0, 1] can have."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """Arrays of n nodes over d features: 1, the slots, the action's slots; then waves, of which only means are known.

    Raw little-endian bytes: `weights` n by (d + waves) and all others float64; `covariances` float32, n by the upper
    triangle row by row, off-diagonals doubled, so that `x'Sx` is one product. `variances`: of the priors, 4 by d; times
    `noises` (n) they are what an arm without a node of its own is unsure by.
    """

    format: int
    link: Link
    rule: Rule
    exploration: float
    slots: tuple[str, ...]
    action_slots: tuple[str, ...]
    scaled: bool
    center: bytes
    inverse: bytes
    waves: dict[str, Any]
    arms: list[tuple[str, str, str]]
    weights: bytes
    covariances: bytes
    variances: bytes
    noises: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Exported)


def pack(matrices: Matrix) -> npt.NDArray[np.float32]:
    """Upper triangles of symmetric matrices row by row, off-diagonals doubled."""
    upper, right = np.triu_indices(matrices.shape[-1])
    packed: npt.NDArray[np.float32] = (matrices[..., upper, right] * np.where(upper == right, 1, 2)).astype(np.float32)
    return packed


def unpack(packed: npt.NDArray[np.float32], width: int) -> Matrix:
    """The matrices that `pack` was given, to its precision."""
    upper, right = np.triu_indices(width)
    matrices = np.zeros((*packed.shape[:-1], width, width))
    matrices[..., upper, right] = packed * np.where(upper == right, 1, 0.5)
    matrices[..., right, upper] = matrices[..., upper, right]
    return matrices


def encode(exported: Exported) -> bytes:
    """As msgpack."""
    return _encoder.encode(exported)


class Bound:
    """A posterior over candidates: two products per decision, whatever their number (see `learner.Posterior`)."""

    def __init__(
        self, data: bytes, slots: Sequence[str], arms: Sequence[Arm], action_x: Matrix, priors: Vector
    ) -> None:
        told = _decode(data)
        self.link: Link = told.link
        self._optimistic = told.rule == "ucb"
        places = {slot: place for place, slot in enumerate(told.slots)}
        known = [places[each] for each in slots if each in places]
        self._known = None if len(known) == len(slots) else [n for n, each in enumerate(slots) if each in places]
        waves = Waves(len(told.slots))
        waves.load(told.waves)
        self._waves = waves.of(known) if len(waves.phases) else None
        center, inverse = np.frombuffer(told.center), np.frombuffer(told.inverse)
        self._scale = (center[known], inverse[known]) if told.scaled else None
        first = len(told.slots)
        action = scale(action_x, center[first:], inverse[first:]) if told.scaled else action_x
        self._fix(told, arms, 1 + np.array(known, dtype=np.intp), np.hstack([np.ones((len(arms), 1)), action]))
        self._weights[:, 0] += np.log(priors / (1 - priors)) if told.link == "logit" else priors

    def _fix(self, told: Exported, arms: Sequence[Arm], customer: Rows, fixed: Matrix) -> None:
        """Keep what varies with the customer; 1 and the action's slots, the same every time, become one feature."""
        d = 1 + len(told.slots) + len(told.action_slots)
        own = np.array([0, *range(1 + len(told.slots), d)])
        weights, covariances = _of_arms(told, arms, d)
        level = (weights[:, own] * fixed).sum(1, keepdims=True)
        self._weights = np.hstack([level, weights[:, customer], weights[:, d:]])
        kept = np.zeros((len(arms), 1 + len(customer), 1 + len(customer)))
        kept[:, 1:, 1:] = covariances[:, customer[:, None], customer]
        kept[:, 0, 0] = np.einsum("ci,cij,cj->c", fixed, covariances[:, own[:, None], own], fixed)
        kept[:, 0, 1:] = kept[:, 1:, 0] = np.einsum("ci,cij->cj", fixed, covariances[:, own[:, None], customer])
        self._packed = pack(kept * told.exploration**2)
        self._upper, self._right = np.triu_indices(1 + len(customer))

    def score(self, x: Vector, rows: Rows | None) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each candidate; for `ucb` the mean is the bound and nothing deviates."""
        own = x if self._known is None else x[self._known]
        features = np.empty(1 + len(own))
        features[0] = 1.0
        features[1:] = own if self._scale is None else scale(own, *self._scale)
        squares = (features.take(self._upper) * features.take(self._right)).astype(np.float32)
        if self._waves is not None:
            features = np.concatenate([features, self._waves.expand(own)])
        mean = self._weights @ features
        deviation = np.sqrt(np.maximum(self._packed @ squares, 0)).astype(float)
        if rows is not None:
            mean, deviation = mean[rows], deviation[rows]
        return (mean + deviation, np.zeros_like(mean)) if self._optimistic else (mean, deviation)


def _decode(data: bytes) -> Exported:
    try:
        told = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an exported Bayesian linear model: {error}") from error
    if told.format != FORMAT:
        raise ValueError(f"a Bayesian linear model of format {told.format}, expected {FORMAT}")
    return told


def _of_arms(told: Exported, arms: Sequence[Arm], d: int) -> tuple[Matrix, Matrix]:
    """Weights and covariances of each arm, or of a child of its next relative that has learned nothing of its own."""
    rows = {Arm(*arm): row for row, arm in enumerate(told.arms)}
    width = len(told.weights) // 8 // len(rows) if rows else d
    learned = np.frombuffer(told.weights).reshape(len(rows), width)
    packed = np.frombuffer(told.covariances, dtype=np.float32).reshape(len(rows), d * (d + 1) // 2)
    variances, noises = np.frombuffer(told.variances).reshape(-1, d), np.frombuffer(told.noises)
    weights, covariances = np.zeros((len(arms), width)), np.zeros((len(arms), d, d))
    for n, arm in enumerate(arms):
        line = lineage(arm)
        relatives = [rows[each] for _, each in line if each in rows]
        if relatives:
            weights[n] = learned[relatives[-1]]
        if len(relatives) == len(line):
            covariances[n] = unpack(packed[relatives[-1]], d)
        else:
            noise = noises[relatives[-1]] if relatives else UNKNOWN
            covariances[n] = np.diag(noise * variances[line[-1][0]])
    return weights, covariances
