"""Many Gaussian posteriors as one product: what `bayesian` exports, and candidates bound to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from engine.exploration import Link
from models.expansion import Waves
from models.gaussian import Matrix, Rows
from models.learner import Arm, Vector
from models.scaling import scale
from models.tree import lineage

Rule = Literal["thompson", "ucb"]
FORMAT = 2
BELIEVED = 0.1
"""A chance is not put below this share of what is usual, nor that of the opposite."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """Arrays of n arms over d features: 1, the slots, the action's slots; then waves, of which only means are known.

    An arm of prior q has the offset c = q times `ratio` and the weights `pulls - c·sums`; `relatives` likewise. Raw
    bytes: `covariances` float32, n by the upper triangle row by row, off-diagonals doubled, so that `x'Sx` is one
    product; all others float64. `variances`: by which an arm that is not known is unsure.
    """

    format: int
    rule: Rule
    exploration: float
    ratio: float
    slots: tuple[str, ...]
    action_slots: tuple[str, ...]
    center: bytes
    inverse: bytes
    frequencies: bytes
    phases: bytes
    arms: list[tuple[str, str, str]]
    pulls: bytes
    sums: bytes
    covariances: bytes
    relatives: list[tuple[str, str, str]]
    relative_pulls: bytes
    relative_sums: bytes
    variances: bytes


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


def limits(offset: Vector) -> tuple[Vector, Vector]:
    """Within what a straight line is believed: it knows no bounds, and whoever is certain and wrong is very wrong."""
    return BELIEVED * offset, 1.0 - BELIEVED * (1.0 - offset)


def encode(exported: Exported) -> bytes:
    """As msgpack."""
    return _encoder.encode(exported)


class Bound:
    """A posterior over candidates: two products per decision, whatever their number (see `learner.Posterior`)."""

    link: Link = "identity"

    def __init__(
        self, data: bytes, slots: Sequence[str], arms: Sequence[Arm], action_x: Matrix, priors: Vector
    ) -> None:
        told = _decode(data)
        self._optimistic = told.rule == "ucb"
        places = {slot: place for place, slot in enumerate(told.slots)}
        known = [places[each] for each in slots if each in places]
        self._known = None if len(known) == len(slots) else [n for n, each in enumerate(slots) if each in places]
        center, inverse = np.frombuffer(told.center), np.frombuffer(told.inverse)
        self._scale = center[known], inverse[known]
        self._waves = _waves(told, known)
        first = len(told.slots)
        action = scale(action_x, center[first:], inverse[first:])
        offsets = np.minimum(priors * told.ratio, 1.0)
        self._low, self._high = limits(offsets)
        weights, covariances = _of_arms(told, arms, offsets)
        self._fix(told, weights, covariances, 1 + np.array(known, dtype=np.intp), action)
        self._weights[:, 0] += offsets

    def _fix(self, told: Exported, weights: Matrix, covariances: Matrix, customer: Rows, action: Matrix) -> None:
        """Keep what varies with the customer; 1 and the action's slots, the same every time, become one feature."""
        fixed = np.hstack([np.ones((len(action), 1)), action])
        d = 1 + len(told.slots) + len(told.action_slots)
        own = np.array([0, *range(1 + len(told.slots), d)])
        level = (weights[:, own] * fixed).sum(1, keepdims=True)
        self._weights = np.hstack([level, weights[:, customer], weights[:, d:]])
        kept = np.zeros((len(weights), 1 + len(customer), 1 + len(customer)))
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
        features[1:] = scale(own, *self._scale)
        squares = (features.take(self._upper) * features.take(self._right)).astype(np.float32)
        if self._waves is not None:
            features = np.concatenate([features, self._waves.expand(features[1:])])
        mean = self._weights @ features
        deviation = np.sqrt(np.maximum(self._packed @ squares, 0)).astype(float)
        if rows is not None:
            mean, deviation = mean[rows], deviation[rows]
        return (mean + deviation, np.zeros_like(mean)) if self._optimistic else (mean, deviation)

    def propensities(self, mean: Vector, deviation: Vector, rows: Rows | None) -> Vector:  # noqa: ARG002 - the protocol's
        """The means within `limits`."""
        low, high = (self._low, self._high) if rows is None else (self._low[rows], self._high[rows])
        return np.minimum(np.maximum(mean, low), high)


def _decode(data: bytes) -> Exported:
    try:
        told = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an exported Bayesian linear model: {error}") from error
    if told.format != FORMAT:
        raise ValueError(f"a Bayesian linear model of format {told.format}, expected {FORMAT}")
    return told


def _waves(told: Exported, known: list[int]) -> Waves | None:
    """The waves where only some slots are known, in this order; the others are at their centre."""
    phases = np.frombuffer(told.phases)
    if not len(phases):
        return None
    return Waves(np.frombuffer(told.frequencies).reshape(len(phases), len(told.slots))[:, known], phases)


def _of_arms(told: Exported, arms: Sequence[Arm], offsets: Vector) -> tuple[Matrix, Matrix]:
    """Weights and covariances of each arm; one that is not known starts from its closest relative."""
    d = 1 + len(told.slots) + len(told.action_slots)
    known = {Arm(*arm): row for row, arm in enumerate(told.arms)}
    width = d + len(told.phases) // 8
    pulls, sums = (np.frombuffer(each).reshape(len(known), width) for each in (told.pulls, told.sums))
    packed = np.frombuffer(told.covariances, dtype=np.float32).reshape(len(known), d * (d + 1) // 2)
    above = {Arm(*arm): row for row, arm in enumerate(told.relatives)}
    relative_pulls, relative_sums = (
        np.frombuffer(each).reshape(len(above), d) for each in (told.relative_pulls, told.relative_sums)
    )
    weights = np.zeros((len(arms), width))
    covariances = np.zeros((len(arms), d, d))
    for n, (arm, offset) in enumerate(zip(arms, offsets.tolist(), strict=True)):
        row = known.get(arm)
        if row is not None:
            weights[n], covariances[n] = pulls[row] - offset * sums[row], unpack(packed[row], d)
            continue
        covariances[n] = np.diag(np.frombuffer(told.variances))
        relative = next((above[each] for _, each in reversed(lineage(arm)) if each in above), None)
        if relative is not None:
            weights[n, :d] = relative_pulls[relative] - offset * relative_sums[relative]
    return weights, covariances
