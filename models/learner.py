"""What every learner is: observations in, posteriors of candidates out.

A learner lives where its examples land. Workers only ever see what it exported, as a `Posterior` over the
candidates of their configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from engine.exploration import Link

Vector = npt.NDArray[np.float64]


class Arm(NamedTuple):
    """What is learned about, from the general to the special; an empty name stands for "any"."""

    group: str
    action: str
    treatment: str


class Observation(NamedTuple):
    """One decision and what is known of its reward.

    `x`: the customer's features, one per slot. `action_x`: the action's own. `prior`: the stated propensity in
    (0, 1). `reward`: in [0, 1]; `provisional`: it stands for one that is not known yet, or, in a correction,
    it replaces such a one. `at_ms`: when the decision was made.
    """

    x: Vector
    arm: Arm
    action_x: Vector
    prior: float = 0.5
    reward: float = 0.0
    at_ms: int = 0
    provisional: bool = False


class Posterior(Protocol):
    """What a learner believes about the candidates it was bound to; immutable, shared by all decisions."""

    link: Link
    """Scale of `score`: `identity`, rewards themselves; `logit`, their log odds."""

    def score(self, x: Vector, rows: npt.NDArray[np.intp] | None) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each candidate's expected reward, on the scale of `link`.

        `x`: the customer's features, one per slot. `rows`: the candidates asked for, by their place among those
        bound; None: all. Both answers have one entry per candidate asked for. Pure.
        """
        ...

    def propensities(self, mean: Vector, deviation: Vector, rows: npt.NDArray[np.intp] | None) -> Vector:
        """Expected reward of each candidate in [0, 1], from what `score` said of them; never quite 0 or 1."""
        ...


class Learner(Protocol):
    """Learns the expected reward of candidates, online, one observation at a time.

    Constructed as `Kind(slots, action_slots, seed, **parameters)`; what else it takes is its configuration. Equal
    arguments and observations in equal order give equal states. Memory is bounded by slots and arms.
    """

    kind: ClassVar[str]
    """Its name in a configuration."""
    corrigible: ClassVar[bool]
    """Whether `correct` exactly replaces a reward learned before, so that it may learn from provisional ones."""
    pickled: ClassVar[bool]
    """Whether `dump` and `export` contain pickles, which are only ever read when signed."""

    def learn(self, seen: Observation) -> None:
        """Learn from one observation."""
        ...

    def correct(self, seen: Observation, before: float) -> None:
        """Replace the reward `before`, learned with an otherwise equal observation, by `seen.reward`.

        NotImplementedError when the learner is not `corrigible`.
        """
        ...

    def predict(self, seen: Observation) -> float:
        """Expected reward in [0, 1], whatever `seen.reward` says; pure, and works before anything was learned."""
        ...

    def dump(self) -> bytes:
        """Everything it knows, for `load`."""
        ...

    def load(self, data: bytes) -> None:
        """Become what was dumped by a learner of the same kind and parameters.

        Slots are matched by name: what is known of a slot that no longer exists is dropped, and a slot unknown so
        far starts untrained. Raises ValueError for what cannot be used.
        """
        ...

    def export(self) -> bytes:
        """What `posterior` needs of it."""
        ...

    @classmethod
    def posterior(
        cls,
        exported: bytes,
        slots: Sequence[str],
        arms: Sequence[Arm],
        action_x: npt.NDArray[np.float64],
        priors: Vector,
    ) -> Posterior:
        """Bind what was exported to candidates. Raises ValueError for what cannot be used.

        `slots`: names of the features that `x` will have, matched by name. `arms`, `action_x` (candidates by action
        slots) and `priors`: the candidates. An arm nobody has seen starts from its relatives: its action, its
        group, all actions; where nothing was learned at all, its expected reward is its prior.
        """
        ...
