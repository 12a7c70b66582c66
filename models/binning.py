"""Bins: of what predictors say, and of scores; and the rates of the latter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.learner import Vector
from models.predictors import Predictor, predictors

Bins = npt.NDArray[np.uint8]
Rates = tuple[tuple[float, ...], tuple[float, ...]]
UNKNOWN = 255
"""Bin of a predictor that has no bins yet."""


class Binning:
    """Numbers of bins: of a category its bucket, of a number its place among `edges`, and one for missing.

    `width`: bins of the predictor that has most. `sizes`: how many each has; 0 while a number has no edges.
    """

    def __init__(self, slots: Sequence[str], edges: Mapping[str, Sequence[float]]) -> None:
        self.predictors = predictors(slots)
        numeric = [row for row, each in enumerate(self.predictors) if each.numeric]
        self._numeric = np.array(numeric, dtype=np.intp)
        self._places = np.array([self.predictors[row].places[0] for row in numeric], dtype=np.intp)
        self._edges = np.full((len(numeric), max([1, *map(len, edges.values())])), np.inf)
        self._codes = np.zeros((len(slots), len(self.predictors)))
        self.sizes = np.array([_size(each, edges) for each in self.predictors], dtype=np.int64)
        for place, row in enumerate(numeric):
            known = edges.get(self.predictors[row].name, ())
            self._edges[place, : len(known)] = known
        for row, each in enumerate(self.predictors):
            if each.numeric and each.missing >= 0:
                self._codes[each.missing, row] = max(self.sizes[row] - 1, 0)
            elif not each.numeric:
                self._codes[list(each.places), row] = range(len(each.places)) if each.missing >= 0 else 1
                if each.missing >= 0:
                    self._codes[each.missing, row] = len(each.places)
        self._present = np.array([self.predictors[row].missing for row in numeric], dtype=np.intp)
        self._flagged = self._present >= 0
        self._known = self.sizes > 0

    def encode(self, values: Vector) -> Bins:
        """The bin of each predictor, for a vector or for the rows of a matrix."""
        codes = values @ self._codes
        places = (values[..., self._places, None] >= self._edges).sum(axis=-1)
        codes[..., self._numeric] += places * (1.0 - values[..., self._present] * self._flagged)
        top = np.maximum(self.sizes - 1, 0)
        bins: Bins = np.where(self._known, np.minimum(np.maximum(codes, 0.0), top), UNKNOWN).astype(np.uint8)
        return bins


def _size(predictor: Predictor, edges: Mapping[str, Sequence[float]]) -> int:
    missing = predictor.missing >= 0
    if predictor.numeric:
        return len(edges[predictor.name]) + 1 + missing if predictor.name in edges else 0
    return len(predictor.places) + 1


class Classifier(NamedTuple):
    """Rates of bins of the score: `thresholds` between them, one fewer than `rates`."""

    thresholds: Vector
    rates: Vector

    def __call__(self, score: Vector) -> Vector:
        """The rate of each score's bin."""
        return self.rates[np.searchsorted(self.thresholds, score, side="right")]

    def plain(self) -> Rates:
        """Thresholds and rates, to be stored."""
        return tuple(self.thresholds.tolist()), tuple(self.rates.tolist())

    @classmethod
    def of(cls, plain: Rates) -> Classifier:
        """What was stored."""
        return cls(np.array(plain[0]), np.array(plain[1]))


UNTRAINED = Classifier(np.zeros(0), np.array([0.5]))


def classifier(score: Vector, reward: Vector, bins: int) -> Classifier:
    """Bins of equally many scores, neighbours merged until rates rise with the score.

    The rate of a bin is `(0.5 + positives) / (1 + observations)`, so .5 where nothing was seen.
    """
    edges = np.unique(np.quantile(score, np.arange(1, bins) / bins)) if len(score) else np.zeros(0)
    place = np.searchsorted(edges, score, side="right")
    seen = np.bincount(place, minlength=len(edges) + 1)
    positive = np.bincount(place, weights=reward, minlength=len(edges) + 1)
    merged: list[list[float]] = []
    for number, each in enumerate(zip(seen.tolist(), positive.tolist(), strict=True)):
        merged.append([*each, number])
        while len(merged) > 1 and _rate(*merged[-2]) >= _rate(*merged[-1]):
            count, rewards, _ = merged.pop()
            merged[-1] = [merged[-1][0] + count, merged[-1][1] + rewards, merged[-1][2]]
    first = np.array([int(each[2]) for each in merged[1:]], dtype=np.intp)
    return Classifier(edges[first - 1], np.array([_rate(*each) for each in merged]))


def _rate(seen: float, positive: float, *_: float) -> float:
    return (0.5 + positive) / (1.0 + seen)


def quantiles(values: Vector, predictor: Predictor, bins: int) -> tuple[float, ...]:
    """Edges between bins of equally many values that are not missing."""
    column = values[:, predictor.places[0]]
    if predictor.missing >= 0:
        column = column[values[:, predictor.missing] == 0.0]
    if not len(column):
        return ()
    edges = np.unique(np.quantile(column, np.arange(1, bins) / bins))
    return tuple(edges[edges > column.min()].tolist())


def matched(old: Binning, new: Binning) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Places in both of the predictors that both have, in as many bins."""
    places = {
        (each.name, int(size)): row for row, (each, size) in enumerate(zip(old.predictors, old.sizes, strict=True))
    }
    pairs = [
        (places[each.name, int(size)], row)
        for row, (each, size) in enumerate(zip(new.predictors, new.sizes, strict=True))
        if size and (each.name, int(size)) in places
    ]
    table = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return table[:, 0], table[:, 1]
