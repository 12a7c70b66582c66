"""Random Fourier features: a linear model of them learns smooth curves of the slots it is given.

Their inner products approximate a Gaussian kernel (Rahimi and Recht 2007, "Random features for large-scale kernel
machines"), so ridge regression on them approximates kernel ridge regression at a fixed cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.scaling import Vector, scale

REACH = 0.7
"""Length scale of the kernel, in standard deviations times the root of the number of slots that vary."""


class Waves:
    """Features `√(2/size) cos(Ω z + φ)` of slots, z on a scale of their own; none before they are drawn or loaded.

    `from_ms`: when they were drawn.
    """

    def __init__(self, slots: int) -> None:
        self.center, self.inverse = np.zeros(slots), np.zeros(slots)
        self.frequencies, self.phases = np.zeros((0, slots)), np.zeros(0)
        self.from_ms = 0

    def expand(self, values: Vector) -> Vector:
        """The features of slots, each within ±√(2/size)."""
        size = max(len(self.phases), 1)
        waved: Vector = np.cos(self.frequencies @ scale(values, self.center, self.inverse) + self.phases)
        return waved * (2 / size) ** 0.5

    def of(self, slots: list[int]) -> Waves:
        """The same features where only these slots are known, in this order; the others are at their centre."""
        some = Waves(len(slots))
        some.center, some.inverse = self.center[slots], self.inverse[slots]
        some.frequencies, some.phases = self.frequencies[:, slots], self.phases
        return some

    def dump(self) -> dict[str, Any]:
        """Everything, as raw bytes."""
        names = ("center", "inverse", "frequencies", "phases")
        return {"from_ms": self.from_ms, **{name: getattr(self, name).tobytes() for name in names}}

    def load(self, told: dict[str, Any]) -> None:
        """Take over what was dumped."""
        self.from_ms = told["from_ms"]
        self.center, self.inverse = np.frombuffer(told["center"]), np.frombuffer(told["inverse"])
        self.phases = np.frombuffer(told["phases"])
        self.frequencies = np.frombuffer(told["frequencies"]).reshape(len(self.phases), len(self.center))


def draw(center: Vector, inverse: Vector, size: int, seed: int, at_ms: int) -> Waves:
    """Draw waves over slots of this scale; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    drawn = Waves(len(center))
    reach = REACH * max(int(np.count_nonzero(inverse)), 1) ** 0.5
    drawn.frequencies = rng.standard_normal((size, len(center))) / reach
    drawn.phases = rng.uniform(0, 2 * np.pi, size)
    drawn.center, drawn.inverse, drawn.from_ms = center.copy(), inverse.copy(), at_ms
    return drawn
