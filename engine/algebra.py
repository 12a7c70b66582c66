"""The functions of aggregates as commutative algebras: events in any order combine to the same cell.

A cell is what one time bucket keeps: a number or a short tuple (a list once decoded), never changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from operator import add
from typing import Any, Literal, NamedTuple

Function = Literal["count", "sum", "mean", "min", "max", "last", "distinct", "rate"]
WindowKind = Literal["tumbling", "sliding", "decayed", "lifetime"]
Scalar = float | int | str | bool


class Algebra(NamedTuple):
    """How cells are made, combined and read."""

    cell: Callable[[Any, int], Any]  # from a value and its event time
    combine: Callable[[Any, Any], Any]  # commutative and associative
    value: Callable[[Any, int], Scalar]  # of a cell, as of a time


def algebra_of(function: Function, window: WindowKind, window_ms: int, per_ms: int, has_value: bool) -> Algebra:
    """The algebra of a function over a window; `has_value`: a rate sums values instead of counting events.

    For a decayed window `window_ms` is the half-life, and the function must be one that adds up.
    """
    if window == "decayed":
        return _decayed(function, window_ms, per_ms)
    if function != "rate":
        return _ALGEBRAS[function]
    if window == "lifetime":
        return Algebra(
            lambda value, at_ms: (float(value), at_ms),
            lambda a, b: (a[0] + b[0], min(a[1], b[1])),
            lambda cell, as_of_ms: cell[0] * per_ms / max(as_of_ms - cell[1], per_ms),
        )
    total = _ALGEBRAS["sum" if has_value else "count"]
    return total._replace(value=lambda cell, _as_of: cell * per_ms / window_ms)


def _decayed(function: Function, half_life_ms: int, per_ms: int) -> Algebra:
    """Cells are (reference time, amount as of then); for a mean also the weight.

    A steady rate r holds the amount at r x half-life / ln 2: the integral of r 2^(-age / half-life).
    """
    scale = per_ms * log(2) / half_life_ms if function == "rate" else 1.0

    def combine_means(a: Any, b: Any) -> Any:
        if a[0] < b[0]:
            a, b = b, a
        weight = 2.0 ** ((b[0] - a[0]) / half_life_ms)
        return a[0], a[1] + b[1] * weight, a[2] + b[2] * weight

    def combine(a: Any, b: Any) -> Any:
        if a[0] < b[0]:
            a, b = b, a
        return a[0], a[1] + b[1] * 2.0 ** ((b[0] - a[0]) / half_life_ms)

    if function == "mean":
        return Algebra(
            lambda value, at_ms: (at_ms, float(value), 1.0), combine_means, lambda cell, _as_of: cell[1] / cell[2]
        )
    return Algebra(
        lambda value, at_ms: (at_ms, float(value)),
        combine,
        lambda cell, as_of_ms: cell[1] * scale * 2.0 ** ((cell[0] - as_of_ms) / half_life_ms),
    )


def _newest(a: Any, b: Any) -> Any:
    # Of two at the same instant the greater counts, whatever came first.
    return max(a, b, key=lambda cell: (cell[0], type(cell[1]).__name__, cell[1]))


def _itself(cell: Any, _as_of: int) -> Any:
    return cell


_ALGEBRAS: dict[str, Algebra] = {
    "count": Algebra(lambda _value, _at: 1, add, _itself),
    "sum": Algebra(lambda value, _at: float(value), add, _itself),
    "mean": Algebra(
        lambda value, _at: (1, float(value)),
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        lambda cell, _as_of: cell[1] / cell[0],
    ),
    "min": Algebra(lambda value, _at: value, min, _itself),
    "max": Algebra(lambda value, _at: value, max, _itself),
    "last": Algebra(lambda value, at_ms: (at_ms, value), _newest, lambda cell, _as_of: cell[1]),
    "distinct": Algebra(lambda bucket, _at: bucket, max, _itself),
}
