"""Running standardisation of slots, in steps: a scale holds until a slot was seen twice as often as at the last step.

What was learned under one scale is carried over to the next by the linear map between the two, exactly but for
values that were clipped; so a scale that still moves costs nothing that is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]
LIMIT = 5.0
"""Scaled values are held within plus and minus this many standard deviations."""
CONSTANT = 1e-9
"""A slot whose standard deviation is below this share of its largest value does not vary."""


def scale(values: Vector, center: Vector, inverse: Vector) -> Vector:
    """Values less their centre over their spread, clipped; 0 where `inverse` is 0."""
    scaled: Vector = np.minimum(np.maximum((values - center) * inverse, -LIMIT), LIMIT)
    return scaled


FIRST = 5.0
"""How often a slot is seen before it has a scale; until then it counts as average."""


class Scaling:
    """Mean and variance of each slot (Welford 1962), and the scale in force. Without `adapts`, values stay as they are.

    A flag (a slot that was never anything but 0 or 1) is divided by no less than ½, so that a rare one is not blown up.
    """

    def __init__(self, size: int, adapts: bool = True) -> None:
        self.adapts = adapts
        self.seen = np.zeros(size)
        self.mean = np.zeros(size)
        self.squares = np.zeros(size)
        self.flags = np.ones(size)
        self.center = np.zeros(size)
        self.inverse = np.zeros(size)
        self._due = np.full(size, FIRST)
        self._next = FIRST

    def apply(self, values: Vector) -> Vector:
        """Values on the scale in force."""
        return scale(values, self.center, self.inverse) if self.adapts else values

    def observe(self, values: Vector) -> Matrix | None:
        """Count one vector. When a step is due: the map from `[1, old scaled]` to `[1, scaled]`; else None."""
        if not self.adapts or not len(values):
            return None
        self.seen += 1.0
        delta = values - self.mean
        self.mean += delta / self.seen
        self.squares += delta * (values - self.mean)
        self.flags *= (values == 0) | (values == 1)
        self._next -= 1.0
        return self._step() if self._next <= 0 else None

    def _step(self) -> Matrix:
        due = self.seen >= self._due
        center, inverse = np.where(due, self.mean, self.center), np.where(due, self._inverse(), self.inverse)
        change = np.eye(len(center) + 1)
        change[1:, 0] = (self.center - center) * inverse * (self.inverse > 0)
        ratio = np.divide(inverse, self.inverse, out=np.zeros_like(inverse), where=self.inverse > 0)
        change[1:, 1:] = np.diag(ratio)
        self.center, self.inverse = center, inverse
        self._due = np.where(due, 2 * self.seen, self._due)
        self._next = float((self._due - self.seen).min())
        return change

    def _inverse(self) -> Vector:
        spread = np.sqrt(self.squares / np.maximum(self.seen, 1.0))
        varies = spread > CONSTANT * np.maximum(np.abs(self.mean), 1e-3)
        spread = np.maximum(spread, 0.5 * self.flags)
        return np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)

    def dump(self) -> dict[str, Any]:
        """Everything, as lists of numbers."""
        names = ("seen", "mean", "squares", "flags", "center", "inverse", "_due")
        return {name: getattr(self, name).tolist() for name in names}

    def load(self, state: dict[str, Any], kept: npt.NDArray[np.intp]) -> None:
        """Take over what was dumped: slot n of this one is slot `kept[n]` of that, -1 for none."""
        known = kept >= 0
        for name, values in state.items():
            getattr(self, name)[known] = np.array(values, dtype=float)[kept[known]]
        self._next = float((self._due - self.seen).min()) if len(kept) else 0.0
