"""Learners that say a rate, by one member or by several that differ, and the posteriors around such a rate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from river import ensemble

from engine.exploration import Link, expected
from models.evidence import Smoothing, count
from models.learner import Arm, Observation, Vector

Rows = npt.NDArray[np.intp]


class RatePosterior:
    """What all posteriors of log odds have in common."""

    link: Link = "logit"

    def propensities(self, mean: Vector, deviation: Vector, rows: Rows | None) -> Vector:  # noqa: ARG002 - the protocol's
        """Expected rewards; see `learner.Posterior`."""
        return expected(mean, deviation, self.link)


class MembersPosterior(RatePosterior, ABC):
    """The mean of the members' rates, smoothed, and as much doubt as they disagree."""

    def __init__(self, smoothing: Smoothing) -> None:
        self._smoothing = smoothing

    @abstractmethod
    def rates(self, x: Vector, rows: Rows | None) -> Vector:
        """What each member says, members by candidates, before smoothing."""

    def score(self, x: Vector, rows: Rows | None) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each candidate's log odds."""
        rates = self.rates(x, rows)
        variance = rates.var(axis=0, ddof=1) if len(rates) > 1 else None
        return self._smoothing.score(rates.mean(axis=0), rows, variance)

    def expected(self, x: Vector, rows: Rows | None) -> Vector:
        """The expected reward of each candidate."""
        return self._smoothing.rate(self.rates(x, rows).mean(axis=0), rows)


class Members(ensemble.BaggingClassifier):
    """River's online bagging: members see each observation Poisson(1) times (Oza 2005); a single one sees it once."""

    def __init__(self, model: Any, n_models: int, seed: int) -> None:
        if n_models < 1:
            raise ValueError(f"members {n_models} must be at least 1")
        super().__init__(model, n_models, seed)

    @property
    def _min_number_of_models(self) -> int:
        return 1

    def learn_one(self, x: dict[Any, Any], y: bool | str | int, **weight: float) -> None:
        """Learn one observation."""
        if len(self) == 1:
            self[0].learn_one(x, y, **weight)
        else:
            super().learn_one(x, y, **weight)  # type: ignore[no-untyped-call]  # River's ensembles carry no types

    def random_state(self) -> Sequence[int]:
        """The state of the random numbers; nothing for a single member, which draws none."""
        return () if len(self) == 1 else self._rng.getstate()[1]

    def restore_random(self, state: Sequence[int]) -> None:
        """Become what `random_state` told."""
        if state:
            self._rng.setstate((3, tuple(state), None))


class MembersLearner(ABC):
    """What learners with members have in common. `river`: the members."""

    kind: ClassVar[str]
    corrigible: ClassVar[bool] = False

    def __init__(
        self, slots: Sequence[str], action_slots: Sequence[str], starting_evidence: float, river: Members
    ) -> None:
        self.slots, self.action_slots = tuple(slots), tuple(action_slots)
        self.evidence: dict[Arm, float] = {}
        self.river = river
        self._starting_evidence = starting_evidence

    @abstractmethod
    def features(self, seen: Observation) -> dict[Any, Any]:
        """An observation as River sees it."""

    def learn(self, seen: Observation) -> None:
        """Learn a reward r as a 1 of weight r and a 0 of weight 1 - r."""
        count(self.evidence, seen.arm)
        features = self.features(seen)
        for label, weight in ((True, seen.reward), (False, 1.0 - seen.reward)):
            if weight > 0.0:
                self.river.learn_one(features, label, w=weight)

    def correct(self, seen: Observation, before: float) -> None:
        """Not possible: what was learned since depends on it."""
        raise NotImplementedError(f"{self.kind} cannot replace {before} by {seen.reward}: let it learn closed examples")

    def predict(self, seen: Observation) -> float:
        """The mean of the members' rates, smoothed towards the prior."""
        features = self.features(seen)
        mean = np.mean([rate(each, features) for each in self.river])
        smoothing = Smoothing(self.evidence, [seen.arm], np.array([seen.prior]), self._starting_evidence)
        return float(smoothing.rate(np.array([mean]), None)[0])


def rate(member: Any, features: dict[Any, Any]) -> float:
    """The chance of a reward by one member; .5 as long as it has seen nothing."""
    said = member.predict_proba_one(features)
    return float(said.get(True, 0.0)) if said else 0.5
