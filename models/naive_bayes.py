"""Naive Bayes by counts in bins: log odds per predictor, and a calibrated classifier over their sum.

Counts are kept for every arm and for what it belongs to, whose rates are smoothed into one another, from the stated
prior down to the arm. Two classifiers, one for all actions and groups and one for actions and treatments, are made
of the scores that the latest observations would get had they not been counted, so they do not mistake memory for
skill. As counts do not depend on the order of what was counted, a reward can be replaced exactly: in the counts at
once, in the classifiers when they are next made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from models.binning import (
    UNKNOWN,
    UNTRAINED,
    Binning,
    Bins,
    Classifier,
    Rates,
    classifier,
    matched,
    quantiles,
)
from models.evidence import LEAST, log_odds
from models.learner import Arm, Observation, Vector
from models.predictors import predictors
from models.rates import RatePosterior, Rows
from models.tree import LEVELS, lineage

UNIT = 1_000_000
"""Counts are integers, in millionths of an observation, so that what is taken away leaves no remainder."""
REFRESH = 50
"""Observations after which classifiers are made anew, at the latest."""
_Counts = npt.NDArray[np.int64]


class Latest:
    """The latest observations: node at the root and at the end of its lineage, time, units of reward, bins.

    `waiting`: the values of the newest ones, as long as some predictors have no bins.
    """

    def __init__(self, size: int, width: int) -> None:
        self.taken = 0
        self.roots = np.zeros(size, dtype=np.intp)
        self.ends = np.zeros(size, dtype=np.intp)
        self.times = np.zeros(size, dtype=np.int64)
        self.units = np.zeros(size, dtype=np.int64)
        self.bins: Bins = np.zeros((size, width), dtype=np.uint8)
        self.waiting: list[Vector] = []

    def order(self) -> Rows:
        """Places from the oldest to the newest."""
        size = len(self.ends)
        return np.arange(max(self.taken - size, 0), self.taken) % size

    def append(self, root: int, end: int, at_ms: int, units: int, bins: Bins) -> None:
        """Take one in, and the oldest out when there is no room."""
        place = self.taken % len(self.ends)
        self.roots[place], self.ends[place], self.times[place] = root, end, at_ms
        self.units[place], self.bins[place] = units, bins
        self.taken += 1

    def replace(self, end: int, at_ms: int, was: int, becomes: int, bins: Bins, values: Vector) -> None:
        """Correct the units of the newest such observation, if it is still here."""
        order = self.order()[::-1]
        like = (self.ends[order] == end) & (self.times[order] == at_ms) & (self.units[order] == was)
        for age in np.flatnonzero(like & (self.bins[order] == bins).all(axis=1)).tolist():
            if age >= len(self.waiting) or (self.waiting[-1 - age] == values).all():
                self.units[order[age]] = becomes
                return


class _State(msgspec.Struct, frozen=True, array_like=True):
    """What a dump holds: counts are nodes by predictors by bins by (negative, positive), little-endian int64."""

    slots: tuple[str, ...]
    action_slots: tuple[str, ...]
    width: int
    edges: dict[str, tuple[float, ...]]
    nodes: tuple[Arm, ...]
    totals: bytes
    counts: bytes
    latest: tuple[bytes, bytes, bytes, bytes]
    """Ends, times, units and bins, from the oldest on."""
    waiting: bytes
    taken: int
    due: int
    classifiers: tuple[Rates, Rates]


class _Export(msgspec.Struct, frozen=True, array_like=True):
    """What is served: float32 log contributions, nodes by predictors by bins, and the classifiers."""

    slots: tuple[str, ...]
    action_slots: tuple[str, ...]
    width: int
    edges: dict[str, tuple[float, ...]]
    nodes: tuple[Arm, ...]
    evidence: tuple[float, ...]
    base: bytes
    contributions: bytes
    classifiers: tuple[Rates, Rates]
    starting_evidence: float


class BinnedPosterior(RatePosterior):
    """Rows of log contributions by predictor and bin: a score is the sum of one row per predictor."""

    def __init__(
        self,
        binning: Binning,
        rows: Rows,
        table: npt.NDArray[np.float32],
        offset: Vector,
        classifiers: tuple[Classifier, Classifier],
        weights: Vector,
        prior: Vector,
        strength: Vector,
    ) -> None:
        """`rows`: of the table, the first of each predictor, -1 for one it lacks. `weights`: levels by candidates."""
        self._binning = binning
        self._known, self._first = np.flatnonzero(rows >= 0), rows[rows >= 0]
        self._table, self._offset, self._classifiers = table, offset, classifiers
        self._weights, self._prior, self._strength = weights, prior, strength

    def expected(self, x: Vector, rows: Rows | None) -> Vector:
        """The expected reward of each candidate."""
        some: slice | Rows = slice(None) if rows is None else rows
        chosen = self._first + self._binning.encode(x)[self._known]
        table = self._table[chosen] if rows is None else self._table[chosen[:, None], :, rows].transpose(0, 2, 1)
        scores = self._offset[:, some] + table.sum(axis=0, dtype=np.float64)
        wide, narrow = self._classifiers
        found = np.concatenate([wide(scores[:2]), narrow(scores[2:])])
        rate = self._prior[some] + (self._weights[:, some] * found).sum(axis=0)
        held: Vector = np.minimum(np.maximum(rate, LEAST), 1.0 - LEAST)
        return held

    def score(self, x: Vector, rows: Rows | None) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each candidate's log odds."""
        return log_odds(self.expected(x, rows), self._strength if rows is None else self._strength[rows])


class NaiveBayes:
    """Pega's naive Bayes (Pega documentation, "Adaptive models"), per arm and for all it belongs to.

    For a predictor of n bins: `ln(pos + 1/n) - ln(neg + 1/n) - ln(1 + Σpos) + ln(1 + Σneg)`; the score is the
    mean of these and of `ln(1 + positives) - ln(1 + negatives)`.

    Parameters: `bins` of a number, by equal frequency among the first `warm_up` observations, for good; `window`, how
    many of the latest observations make the classifiers, of at most `classes` bins; `starting_evidence`, observations
    the prior is worth, and each level to the next.
    """

    kind: ClassVar[str] = "naive-bayes"
    corrigible: ClassVar[bool] = True
    pickled: ClassVar[bool] = False

    def __init__(
        self,
        slots: Sequence[str],
        action_slots: Sequence[str],
        seed: int = 0,  # noqa: ARG002 - every learner has one; counting knows no chance
        *,
        bins: int = 10,
        warm_up: int = 200,
        window: int = 1000,
        classes: int = 20,
        starting_evidence: float = 10.0,
    ) -> None:
        if not (2 <= bins < UNKNOWN and 1 <= warm_up <= window and classes >= 1 and starting_evidence > 0.0):
            raise ValueError(
                f"bins {bins} must be 2 to 254, warm_up {warm_up} at least 1 and at most window {window}, classes"
                f" {classes} at least 1, starting_evidence {starting_evidence} above 0"
            )
        self.slots, self.action_slots = tuple(slots), tuple(action_slots)
        self._names = _names(slots, action_slots)
        self._bins, self._warm_up, self._classes = bins, warm_up, classes
        self._starting_evidence = starting_evidence
        self._binning = Binning(self._names, {})
        self._width = max([bins + 2, *(self._binning.sizes.tolist())])
        self._edges: dict[str, tuple[float, ...]] = {}
        self._nodes: dict[Arm, int] = {}
        self._totals: _Counts = np.zeros((0, 2), dtype=np.int64)
        self._counts: _Counts = np.zeros((0, len(self._binning.predictors), self._width, 2), dtype=np.int64)
        self._latest = Latest(window, len(self._binning.predictors))
        self._classifiers = UNTRAINED, UNTRAINED
        self._due = 1

    def learn(self, seen: Observation) -> None:
        """Count an observation as its reward of a positive and the rest of a negative."""
        values = np.concatenate([seen.x, seen.action_x])
        bins, units = self._binning.encode(values), _units(seen.reward)
        rows = self._count(seen.arm, bins, units, UNIT - units)
        self._latest.append(rows[0], rows[-1], seen.at_ms, units, bins)
        if (self._binning.sizes == 0).any():
            self._latest.waiting.append(values)
            if len(self._latest.waiting) >= self._warm_up:
                self._settle()
        if self._latest.taken >= self._due:
            self._classify()

    def _classify(self) -> None:
        latest, order = self._latest, self._latest.order()
        self._classifiers = self._classifier(latest.roots[order]), self._classifier(latest.ends[order])
        self._due = latest.taken + min(REFRESH, 1 + latest.taken // 20)

    def correct(self, seen: Observation, before: float) -> None:
        """Move what was counted from one side to the other, and in the latest observations."""
        values = np.concatenate([seen.x, seen.action_x])
        bins, was, becomes = self._binning.encode(values), _units(before), _units(seen.reward)
        rows = self._count(seen.arm, bins, becomes - was, was - becomes)
        self._latest.replace(rows[-1], seen.at_ms, was, becomes, bins, values)

    def _count(self, arm: Arm, bins: Bins, positive: int, negative: int) -> list[int]:
        known = np.flatnonzero(bins != UNKNOWN)
        rows = [self._nodes.setdefault(node, len(self._nodes)) for _, node in lineage(arm)]
        if (more := len(self._nodes) - len(self._totals)) > 0:
            self._totals = np.concatenate([self._totals, np.zeros_like(self._totals, shape=(more, 2))])
            empty = np.zeros_like(self._counts, shape=(more, *self._counts.shape[1:]))
            self._counts = np.concatenate([self._counts, empty])
        for row in rows:
            self._totals[row] += (negative, positive)
            self._counts[row, known, bins[known]] += (negative, positive)
        return rows

    def _settle(self) -> None:
        """Give edges to the numbers that have none, and count in them what waited."""
        latest, late = self._latest, self._binning.sizes == 0
        values, places = np.array(latest.waiting), latest.order()[-len(latest.waiting) :]
        for predictor in self._binning.predictors:
            if predictor.numeric and predictor.name not in self._edges:
                self._edges[predictor.name] = quantiles(values, predictor, self._bins)
        self._binning = Binning(self._names, self._edges)
        latest.bins[places] = self._binning.encode(values)
        nodes = list(self._nodes)
        for place in places.tolist():
            units, bins = int(latest.units[place]), latest.bins[place]
            for _, node in lineage(nodes[latest.ends[place]]):
                self._counts[self._nodes[node], late, bins[late]] += (UNIT - units, units)
        latest.waiting.clear()

    def predict(self, seen: Observation) -> float:
        """What `posterior` would say."""
        nodes = [node for _, node in lineage(seen.arm) if node in self._nodes]
        bound = _bind(self._export(nodes), self.slots, [seen.arm], seen.action_x[None], np.array([seen.prior]))
        return float(bound.expected(seen.x, None)[0])

    def dump(self) -> bytes:
        """Counts, edges and the latest observations, as msgpack."""
        latest, order = self._latest, self._latest.order()
        state = _State(
            self.slots,
            self.action_slots,
            self._width,
            self._edges,
            tuple(self._nodes),
            self._totals.tobytes(),
            self._counts.tobytes(),
            (
                latest.ends[order].tobytes(),
                latest.times[order].tobytes(),
                latest.units[order].tobytes(),
                latest.bins[order].tobytes(),
            ),
            np.array(latest.waiting).tobytes(),
            latest.taken,
            self._due,
            (self._classifiers[0].plain(), self._classifiers[1].plain()),
        )
        return msgspec.msgpack.encode(state)

    def load(self, data: bytes) -> None:
        """Become what was dumped; a predictor whose bins are others starts anew."""
        try:
            self._take(msgspec.msgpack.decode(data, type=_State))
        except (msgspec.DecodeError, ValueError, IndexError) as error:
            raise ValueError(f"not the state of a naive Bayes: {error}") from error

    def _take(self, state: _State) -> None:
        names = _names(state.slots, state.action_slots)
        old, numeric = Binning(names, state.edges), {each.name for each in predictors(self._names) if each.numeric}
        edges = {name: found for name, found in state.edges.items() if name in numeric}
        binning = Binning(self._names, edges)
        source, target = matched(old, binning)
        totals = np.frombuffer(state.totals, dtype=np.int64).reshape(len(state.nodes), 2).copy()
        counts = np.frombuffer(state.counts, dtype=np.int64)
        counts = counts.reshape(len(state.nodes), len(old.predictors), state.width, 2)
        kept = np.zeros((len(state.nodes), len(binning.predictors), self._width, 2), dtype=np.int64)
        width = min(self._width, state.width)
        kept[:, target, :width] = counts[:, source, :width]
        latest = self._remembered(state, len(old.predictors), source, target, len(binning.predictors))
        if names == self._names:
            latest.waiting = list(np.frombuffer(state.waiting).reshape(-1, max(len(names), 1)))[-len(latest.ends) :]
        self._nodes = {node: row for row, node in enumerate(state.nodes)}
        self._edges, self._binning, self._totals, self._counts = edges, binning, totals, kept
        self._latest, self._due = latest, state.due
        wide, narrow = map(Classifier.of, state.classifiers)
        self._classifiers = wide, narrow

    def _remembered(self, state: _State, before: int, source: Rows, target: Rows, width: int) -> Latest:
        ends, times, units = [np.frombuffer(each, dtype=np.int64) for each in state.latest[:3]]
        bins = np.frombuffer(state.latest[3], dtype=np.uint8).reshape(len(ends), before)
        moved = np.full((len(ends), width), UNKNOWN, dtype=np.uint8)
        moved[:, target] = bins[:, source]
        found, number = Latest(len(self._latest.ends), width), {node: row for row, node in enumerate(state.nodes)}
        found.taken = state.taken - len(ends)
        roots = [number[lineage(node)[0][1]] for node in state.nodes]
        for end, at_ms, unit, row in zip(ends.tolist(), times.tolist(), units.tolist(), moved, strict=True):
            found.append(roots[end], end, at_ms, unit, row)
        return found

    def export(self) -> bytes:
        """Log contributions and classifiers, as msgpack."""
        return msgspec.msgpack.encode(self._export(list(self._nodes)))

    def _export(self, nodes: Sequence[Arm]) -> _Export:
        """What is served of some nodes."""
        rows = [self._nodes[node] for node in nodes]
        counts, totals = self._counts[rows] / UNIT, self._totals[rows] / UNIT
        active = np.flatnonzero(self._binning.sizes)
        share = 1.0 / (1.0 + len(active))
        contributions = np.zeros(counts.shape[:3], dtype=np.float32)
        own, sums = counts[:, active], counts[:, active].sum(axis=2, keepdims=True)
        contributions[:, active] = share * _contribution(own, sums, self._binning.sizes[active][:, None])
        return _Export(
            self.slots,
            self.action_slots,
            self._width,
            dict(self._edges),
            tuple(nodes),
            tuple(totals.sum(axis=1).tolist()),
            (share * _base(totals)).tobytes(),
            contributions.tobytes(),
            (self._classifiers[0].plain(), self._classifiers[1].plain()),
            self._starting_evidence,
        )

    def _classifier(self, rows: Rows) -> Classifier:
        """Over the scores that the latest observations get from all others of their nodes."""
        order = self._latest.order()
        units, bins = self._latest.units[order], self._latest.bins[order]
        own = np.stack([UNIT - units, units], axis=1)
        active = np.flatnonzero(self._binning.sizes)
        bins = bins[:, active]
        known = bins != UNKNOWN
        left_out = own[:, None] * known[..., None]
        nodes, row = np.unique(rows, return_inverse=True)
        held = self._counts[nodes[:, None], active]
        place = (row[:, None] * len(active) + np.arange(len(active))) * self._width + bins * known
        counts = (held.reshape(-1, 2).take(place, axis=0) - left_out) / UNIT
        sums = (held.sum(axis=2).take(row, axis=0) - left_out) / UNIT
        contributions = _contribution(counts, sums, self._binning.sizes[active]) * known
        score = (_base((self._totals[rows] - own) / UNIT) + contributions.sum(axis=1)) / (1.0 + len(active))
        return classifier(score, units / UNIT, min(self._classes, 1 + len(units) // 50))

    @classmethod
    def posterior(
        cls, exported: bytes, slots: Sequence[str], arms: Sequence[Arm], action_x: Vector, priors: Vector
    ) -> BinnedPosterior:
        """Lay out the contributions of each candidate's lineage by predictor and bin."""
        try:
            return _bind(msgspec.msgpack.decode(exported, type=_Export), slots, arms, action_x, priors)
        except (msgspec.DecodeError, ValueError, IndexError) as error:
            raise ValueError(f"not the export of a naive Bayes: {error}") from error


def _bind(
    export: _Export, slots: Sequence[str], arms: Sequence[Arm], action_x: Vector, priors: Vector
) -> BinnedPosterior:
    learned = Binning(_names(export.slots, export.action_slots), export.edges)
    base = np.frombuffer(export.base)
    contributions = np.frombuffer(export.contributions, dtype=np.float32)
    contributions = contributions.reshape(len(export.nodes), len(learned.predictors), export.width)
    number = {node: row for row, node in enumerate(export.nodes)}
    table = np.zeros((len(learned.predictors), export.width, LEVELS, len(arms)), dtype=np.float32)
    offset, evidence = np.zeros((LEVELS, len(arms))), np.zeros((LEVELS, len(arms)))
    for column, arm in enumerate(arms):
        for level, node in lineage(arm):
            if (row := number.get(node)) is not None:
                table[:, :, level, column] = contributions[row]
                offset[level, column], evidence[level, column] = base[row], export.evidence[row]
    binning = Binning(slots, export.edges)
    source, target = matched(learned, binning)
    rows = np.full(len(binning.predictors), -1, dtype=np.intp)
    rows[target] = source * export.width
    offset += _of_actions(learned, table, action_x, len(export.slots))
    rest = export.starting_evidence / (export.starting_evidence + evidence)
    weights = (1.0 - rest) * np.cumprod(np.vstack([rest[1:], np.ones(len(arms))])[::-1], axis=0)[::-1]
    wide, narrow = map(Classifier.of, export.classifiers)
    strength = export.starting_evidence + np.array([export.evidence[number[a]] if a in number else 0.0 for a in arms])
    flat = table.reshape(len(learned.predictors) * export.width, LEVELS, len(arms))
    return BinnedPosterior(binning, rows, flat, offset, (wide, narrow), weights, rest.prod(axis=0) * priors, strength)


def _of_actions(learned: Binning, table: npt.NDArray[np.float32], action_x: Vector, customers: int) -> Vector:
    """What the actions' own predictors add, levels by candidates."""
    bins = learned.encode(np.hstack([np.zeros((len(action_x), customers)), action_x]))
    own = [row for row, each in enumerate(learned.predictors) if each.places[0] >= customers and learned.sizes[row]]
    total = np.zeros(table.shape[2:])
    for row in own:
        total += table[row, bins[:, row], :, np.arange(len(action_x))].T
    return total


def _contribution(counts: Vector, sums: Vector, sizes: Vector | npt.NDArray[np.int64]) -> Vector:
    """What a bin says for a positive, of counts whose last axis is (negative, positive)."""
    least = np.maximum(counts, 0.0) + 1.0 / sizes[..., None]
    found: Vector = np.log(least[..., 1] / least[..., 0]) - _base(sums)
    return found


def _base(totals: Vector) -> Vector:
    """`ln(1 + positives) - ln(1 + negatives)`."""
    least = np.maximum(totals, 0.0) + 1.0
    found: Vector = np.log(least[..., 1] / least[..., 0])
    return found


def _names(slots: Sequence[str], action_slots: Sequence[str]) -> tuple[str, ...]:
    """Slots of the customer and of the action under one roof."""
    return (*slots, *(f"action:{each}" for each in action_slots))


def _units(reward: float) -> int:
    return round(reward * UNIT)
