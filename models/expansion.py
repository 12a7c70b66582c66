"""Random Fourier features: a linear model of them learns curves of the slots it is given.

Their inner products approximate a kernel (Rahimi and Recht 2007, "Random features for large-scale kernel machines"),
here a mixture of Gaussian ones from smooth to sharp, so that no length scale has to be known beforehand.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.learner import Vector

Matrix = npt.NDArray[np.float64]
SMOOTH, SHARP = 0.7, 3.0
"""Frequencies, times the root of the number of slots, from the smoothest to the sharpest wave."""


class Waves(NamedTuple):
    """Features `√(2/size) cos(Ω x + φ)`: `frequencies` Ω is size by slots, `phases` φ."""

    frequencies: Matrix
    phases: Vector

    def expand(self, scaled: Vector) -> Vector:
        """The features of scaled slots, each within ±√(2/size)."""
        waved: Vector = np.cos(self.frequencies @ scaled + self.phases)
        waved *= (2 / len(self.phases)) ** 0.5
        return waved


def draw(slots: int, size: int, seed: int) -> Waves:
    """So many waves over slots; the same for the same arguments."""
    chance = np.random.default_rng(seed)
    reach = np.geomspace(SMOOTH, SHARP, size)[:, None] / max(slots, 1) ** 0.5
    return Waves(chance.standard_normal((size, slots)) * reach, chance.uniform(0, 2 * np.pi, size))
