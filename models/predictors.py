"""Predictors: which slots of a vector belong together, and what is known of their scale.

The names are those that `engine.features` gives: `age`, `age?` (missing), `age!` (old); `city=0` …, `city?`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.learner import Vector

CLIP = 6.0
"""Standardised values are held within plus and minus this: one absurd value must not undo what was learned."""


class Predictor(NamedTuple):
    """One predictor and the places of its slots. `missing`: place of the flag, -1 without one."""

    name: str
    numeric: bool
    places: tuple[int, ...]
    missing: int = -1


def predictors(slots: Sequence[str]) -> tuple[Predictor, ...]:
    """The predictors behind slots, in the order of their first slot; a flag that a value is old is one of its own."""
    places = {slot: place for place, slot in enumerate(slots)}
    found: dict[str, Predictor] = {}
    for place, slot in enumerate(slots):
        name, missing, numeric = _owner(slot, places)
        before = found[name].places if name in found else ()
        if place != missing:
            found[name] = Predictor(name, numeric, (*before, place), missing)
    # Buckets by their numbers, wherever they stand.
    return tuple(
        each._replace(places=tuple(sorted(each.places, key=lambda at: _bucket(slots[at])))) for each in found.values()
    )


def _bucket(slot: str) -> tuple[int, str]:
    number = slot.rpartition("=")[2]
    return (int(number) if number.isdecimal() else -1), number


def _owner(slot: str, places: dict[str, int]) -> tuple[str, int, bool]:
    """The predictor a slot belongs to, the place of its missing flag, whether it is numeric."""
    if slot.endswith("?") and (slot[:-1] in places or f"{slot[:-1]}=0" in places):
        return slot[:-1], places[slot], slot[:-1] in places
    if slot.endswith("!"):
        return slot, -1, False
    name, equals, _ = slot.rpartition("=")
    if equals and f"{name}?" in places:
        return name, places[f"{name}?"], False
    return slot, places.get(f"{slot}?", -1), True


class Moments:
    """Running mean and variance of numeric slots, where they are not missing (Welford 1962); flags are left alone.

    Shared by all arms, so that their weights can be compared and summed.
    """

    def __init__(self, slots: Sequence[str]) -> None:
        self.slots = tuple(slots)
        numeric = [each for each in predictors(slots) if each.numeric]
        self._numeric = np.array([each.places[0] for each in numeric], dtype=np.intp)
        self._flagged = np.array([each.places[0] for each in numeric if each.missing >= 0], dtype=np.intp)
        self._flags = np.array([each.missing for each in numeric if each.missing >= 0], dtype=np.intp)
        self.table = np.zeros((3, len(slots)))
        """Rows: how many values, their mean, the sum of squared distances from it."""

    def learn(self, x: Vector) -> None:
        """Count one vector."""
        present = np.zeros(len(x))
        present[self._numeric] = 1.0
        present[self._flagged] -= x[self._flags]
        count, mean, squares = self.table
        count += present
        away = (x - mean) * present
        mean += away / np.maximum(count, 1.0)
        squares += away * (x - mean)

    def standardise(self) -> tuple[Vector, Vector]:
        """The `(shift, factor)` of `scaled`. A slot without variance, as yet, is always 0."""
        shift, factor = np.zeros(len(self.slots)), np.ones(len(self.slots))
        at = self._numeric
        count, mean, squares = self.table[:, at]
        deviation = np.sqrt(squares / np.maximum(count, 1.0))
        shift[at] = mean
        factor[at] = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-12)
        return shift, factor

    def scaled(self, x: Vector, standard: tuple[Vector, Vector] | None = None) -> Vector:
        """A vector, or the rows of a matrix, in standard deviations from the mean; what is missing is 0."""
        shift, factor = self.standardise() if standard is None else standard
        z: Vector = np.minimum(np.maximum((x - shift) * factor, -CLIP), CLIP)
        if len(self._flags):
            z[..., self._flagged] *= 1.0 - x[..., self._flags]
        return z


def moved(old: Sequence[str], new: Sequence[str]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Places in `old` and in `new` of the slots that both have."""
    places = {slot: place for place, slot in enumerate(old)}
    both = [(places[slot], place) for place, slot in enumerate(new) if slot in places]
    table = np.array(both, dtype=np.intp).reshape(-1, 2)
    return table[:, 0], table[:, 1]
