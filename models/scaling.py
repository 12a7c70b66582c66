"""Running standardisation of slots: values less their mean, over their spread so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from models.learner import Vector

LIMIT = 5.0
"""Scaled values are held within plus and minus this many standard deviations."""
CONSTANT = 1e-9
"""A slot whose standard deviation is below this share of its size does not vary."""
_NAMES = ("seen", "mean", "squares", "flags")


class Scaling:
    """Mean and variance of each slot (Welford 1962).

    A flag (a slot that was never anything but 0 or 1) is divided by no less than ½, so that a rare one is not blown up.
    What was learned under an earlier scale is left as it is: the scale settles with one over the number of vectors.
    """

    def __init__(self, size: int) -> None:
        self.seen = np.zeros(size)
        self.mean = np.zeros(size)
        self.squares = np.zeros(size)
        self.flags = np.ones(size)

    def observe(self, values: Vector) -> None:
        """Count one vector."""
        self.seen += 1
        delta = values - self.mean
        self.mean += delta / self.seen
        self.squares += delta * (values - self.mean)
        self.flags *= (values == 0) | (values == 1)

    def in_force(self) -> tuple[Vector, Vector]:
        """Centre and one over the spread of each slot; 0 for one that does not vary."""
        spread = np.sqrt(self.squares / np.maximum(self.seen, 1))
        varies = spread > CONSTANT * np.maximum(np.abs(self.mean), 1e-3)
        spread = np.maximum(spread, 0.5 * self.flags)
        return self.mean, np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)

    def dump(self) -> dict[str, Any]:
        """Everything, as numbers."""
        return {name: getattr(self, name).tolist() for name in _NAMES}

    def load(self, state: dict[str, Any], kept: npt.NDArray[np.intp]) -> None:
        """Take over what was dumped: slot n of this one is slot `kept[n]` of that, -1 for none."""
        known = kept >= 0
        for name in _NAMES:
            getattr(self, name)[known] = np.array(state[name], dtype=float)[kept[known]]


def scale(values: Vector, center: Vector, inverse: Vector) -> Vector:
    """Values less their centre over their spread, within plus and minus `LIMIT`."""
    scaled: Vector = np.minimum(np.maximum((values - center) * inverse, -LIMIT), LIMIT)
    return scaled
