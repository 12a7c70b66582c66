"""Adaptive Hoeffding trees over all arms, by River; alone, or bagged for a posterior from their spread.

Trees see named values: the slots of the customer (a number only where it is not missing), those of the action, and
the arm's group, action and treatment as categories. Candidates are asked one by one.
"""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from river import ensemble, tree

from engine.exploration import Link, expected
from models.evidence import Smoothing, count
from models.learner import Arm, Observation, Vector
from models.predictors import predictors

_INTP = npt.NDArray[np.intp]
_NOMINAL = ["group", "action", "treatment"]
"""No clash with slots: those carry a prefix."""
LeafPrediction = Literal["mc", "nb", "nba"]
Values = dict[str, float | str]


class _Names:
    """Slots as names of values, without the numbers that are missing."""

    def __init__(self, prefix: str, slots: Sequence[str]) -> None:
        self._names = [f"{prefix}:{slot}" for slot in slots]
        self._absent = [
            (each.places[0], each.missing) for each in predictors(slots) if each.numeric and each.missing >= 0
        ]

    def values(self, x: Vector) -> Values:
        found: Values = dict(zip(self._names, x.tolist(), strict=True))
        for place, missing in self._absent:
            if x[missing]:
                del found[self._names[place]]
        return found


class _Pickled(NamedTuple):
    """What a dump, and an export, holds."""

    kind: str
    evidence: dict[Arm, float]
    starting_evidence: float
    members: int
    action_slots: tuple[str, ...]
    river: Any


class _Pickler(pickle.Pickler):
    """Leaves out the random numbers that every River distribution carries for sampling: 2.5 KB each, never drawn.

    Those the tree draws from are kept.
    """

    def __init__(self, file: io.BytesIO, kept: Sequence[random.Random]) -> None:
        super().__init__(file, protocol=5)
        self._kept = {id(each) for each in kept}

    def reducer_override(self, obj: Any) -> Any:
        """A generator nobody draws from becomes an unused one."""
        if isinstance(obj, random.Random) and id(obj) not in self._kept:
            return random.Random, (0,)
        return NotImplemented


class TreePosterior:
    """Trees, and the candidates to ask them about."""

    link: Link = "logit"

    def __init__(self, members: Sequence[Any], names: _Names, arms: Sequence[Values], smoothing: Smoothing) -> None:
        self._members, self._names, self._arms, self._smoothing = members, names, arms, smoothing

    def rates(self, x: Vector, rows: _INTP | None) -> Vector:
        """What each tree says, members by candidates, before smoothing."""
        values = self._names.values(x)
        arms = self._arms if rows is None else [self._arms[row] for row in rows.tolist()]
        return np.array([[_rate(each, values | arm) for arm in arms] for each in self._members])

    def propensities(self, mean: Vector, deviation: Vector, rows: _INTP | None) -> Vector:  # noqa: ARG002 - the protocol's
        """Expected rewards; see `learner.Posterior`."""
        return expected(mean, deviation, self.link)

    def score(self, x: Vector, rows: _INTP | None) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each candidate's log odds."""
        rates = self.rates(x, rows)
        if len(rates) == 1:
            return self._smoothing.score(rates[0], rows)
        return self._smoothing.score(rates.mean(axis=0), rows, rates.var(axis=0, ddof=1))

    def expected(self, x: Vector, rows: _INTP | None) -> Vector:
        """The expected reward of each candidate."""
        return self._smoothing.rate(self.rates(x, rows).mean(axis=0), rows)


class _Trees:
    """What one tree and several bagged ones have in common."""

    kind: ClassVar[str]
    corrigible: ClassVar[bool] = False
    pickled: ClassVar[bool] = True

    def __init__(
        self,
        slots: Sequence[str],
        action_slots: Sequence[str],
        seed: int,
        members: int,
        grace_period: int,
        delta: float,
        max_depth: int,
        leaf_prediction: LeafPrediction,
        starting_evidence: float,
    ) -> None:
        if leaf_prediction not in get_args(LeafPrediction):
            raise ValueError(f"leaf_prediction {leaf_prediction!r} is none of mc, nb, nba")
        if min(grace_period, max_depth, members) < 1 or not 0.0 < delta < 1.0 or starting_evidence <= 0.0:
            raise ValueError(
                f"grace_period {grace_period}, max_depth {max_depth} and members {members} must be at least 1, delta"
                f" {delta} in (0, 1), starting_evidence {starting_evidence} above 0"
            )
        self.slots, self.action_slots = tuple(slots), tuple(action_slots)
        self.evidence: dict[Arm, float] = {}
        self._starting_evidence, self._members = starting_evidence, members
        self._names, self._action_names = _Names("customer", slots), _Names("action", action_slots)
        self.river: Any = tree.HoeffdingAdaptiveTreeClassifier(
            grace_period=grace_period,
            delta=delta,
            # Two branches a split: at most 2 ** max_depth leaves, whatever values turn up.
            max_depth=max_depth,
            binary_split=True,
            leaf_prediction=leaf_prediction,
            nominal_attributes=list(_NOMINAL),
            # Rewards are rare: the usual .99 would keep a tree from ever splitting.
            max_share_to_split=1.0,
            # Weighted observations would be counted past River's own check of memory.
            seed=seed,
        )
        if members > 1:
            self.river = ensemble.BaggingClassifier(self.river, members, seed)

    def learn(self, seen: Observation) -> None:
        """Learn a reward r as a 1 of weight r and a 0 of weight 1 - r."""
        count(self.evidence, seen.arm)
        values = self.values(seen)
        for label, weight in ((True, seen.reward), (False, 1.0 - seen.reward)):
            if weight > 0.0:
                self.river.learn_one(values, label, w=weight)

    def correct(self, seen: Observation, before: float) -> None:
        """Not possible: a split that was made is not undone."""
        raise NotImplementedError(f"{self.kind} cannot replace {before} by {seen.reward}: let it learn closed examples")

    def values(self, seen: Observation) -> Values:
        """An observation as River sees it."""
        return self._names.values(seen.x) | _arm_values(seen.arm, self._action_names, seen.action_x)

    def predict(self, seen: Observation) -> float:
        """The mean of the trees' rates, smoothed towards the prior."""
        values = self.values(seen)
        rate = np.mean([_rate(each, values) for each in _members(self.river)])
        smoothing = Smoothing(self.evidence, [seen.arm], np.array([seen.prior]), self._starting_evidence)
        return float(smoothing.rate(np.array([rate]), None)[0])

    def dump(self) -> bytes:
        """A pickle."""
        file = io.BytesIO()
        drawn = {id(each): each for each in (self.river, *_members(self.river))}
        kept = [each._rng for each in drawn.values()]  # noqa: SLF001 - River offers no other way to them
        _Pickler(file, kept).dump(
            tuple(
                _Pickled(
                    self.kind, self.evidence, self._starting_evidence, self._members, self.action_slots, self.river
                )
            )
        )
        return file.getvalue()

    export = dump

    def load(self, data: bytes) -> None:
        """Become what was dumped; a split on a slot that no longer exists sends all the way most went."""
        found = _unpickled(data)
        if (found.kind, found.members) != (self.kind, self._members):
            raise ValueError(
                f"a dump of {found.members} members of {found.kind} is not for {self._members} of {self.kind}"
            )
        self.evidence, self.river = found.evidence, found.river

    @classmethod
    def posterior(
        cls, exported: bytes, slots: Sequence[str], arms: Sequence[Arm], action_x: Vector, priors: Vector
    ) -> TreePosterior:
        """Bind the trees to candidates."""
        found = _unpickled(exported)
        names = _Names("action", found.action_slots)
        asked = [_arm_values(arm, names, row) for arm, row in zip(arms, np.asarray(action_x), strict=True)]
        smoothing = Smoothing(found.evidence, arms, priors, found.starting_evidence)
        return TreePosterior(_members(found.river), _Names("customer", slots), asked, smoothing)


class AdaptiveTree(_Trees):
    """One Hoeffding adaptive tree (Bifet & Gavaldà 2009), whose branches are replaced when they go stale.

    Parameters: observations between attempts to split, `grace_period`; chance of a wrong split, `delta`; `max_depth`;
    what leaves say, `leaf_prediction`: mc, their frequencies, nb, naive Bayes, nba, whichever was right more often;
    `starting_evidence`, observations the prior is worth.
    """

    kind: ClassVar[str] = "adaptive-tree"

    def __init__(
        self,
        slots: Sequence[str],
        action_slots: Sequence[str],
        seed: int = 0,
        *,
        grace_period: int = 100,
        delta: float = 0.05,
        max_depth: int = 6,
        leaf_prediction: LeafPrediction = "mc",
        starting_evidence: float = 10.0,
    ) -> None:
        super().__init__(
            slots, action_slots, seed, 1, grace_period, delta, max_depth, leaf_prediction, starting_evidence
        )


class BaggedTrees(_Trees):
    """Adaptive trees that see each observation Poisson(1) times (Oza 2005); what they disagree about is not known yet.

    Parameters: how many `members`; the others are those of `adaptive-tree`.
    """

    kind: ClassVar[str] = "bagged-trees"

    def __init__(
        self,
        slots: Sequence[str],
        action_slots: Sequence[str],
        seed: int = 0,
        *,
        members: int = 5,
        grace_period: int = 100,
        delta: float = 0.05,
        max_depth: int = 6,
        leaf_prediction: LeafPrediction = "mc",
        starting_evidence: float = 10.0,
    ) -> None:
        super().__init__(
            slots, action_slots, seed, members, grace_period, delta, max_depth, leaf_prediction, starting_evidence
        )


def _members(river: Any) -> Sequence[Any]:
    return river.models if isinstance(river, ensemble.BaggingClassifier) else [river]


def _rate(river: Any, values: Mapping[str, float | str]) -> float:
    """Of a positive; .5 as long as nothing was seen."""
    return float(river.predict_proba_one(values).get(True, 0.0 if river.classes else 0.5))


def _arm_values(arm: Arm, names: _Names, action_x: Vector) -> Values:
    return names.values(action_x) | dict(zip(_NOMINAL, arm, strict=True))


def _unpickled(data: bytes) -> _Pickled:
    try:
        return _Pickled(*pickle.loads(data))  # noqa: S301 - only what was signed gets here
    except Exception as error:
        raise ValueError(f"not the pickle of a tree: {error!r}") from error
