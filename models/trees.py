"""Adaptive Hoeffding trees over all arms, by River; alone, or bagged for a posterior from their spread.

Trees see named values: the slots of the customer (a number only where it is not missing), those of the action, and
the arm's group, action and treatment as categories. Candidates are asked one by one.
"""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
from river import tree

from models.evidence import Smoothing
from models.learner import Arm, Observation, Vector
from models.predictors import predictors
from models.rates import Members, MembersLearner, MembersPosterior, Rows, rate

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
    action_slots: tuple[str, ...]
    river: Members


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


class TreePosterior(MembersPosterior):
    """Trees, and the candidates to ask them about."""

    def __init__(self, members: Members, names: _Names, arms: Sequence[Values], smoothing: Smoothing) -> None:
        super().__init__(smoothing)
        self._members, self._names, self._arms = members, names, arms

    def rates(self, x: Vector, rows: Rows | None) -> Vector:
        """What each tree says, before smoothing."""
        values = self._names.values(x)
        arms = self._arms if rows is None else [self._arms[row] for row in rows.tolist()]
        return np.array([[rate(each, values | arm) for arm in arms] for each in self._members])


class AdaptiveTree(MembersLearner):
    """One Hoeffding adaptive tree (Bifet & Gavaldà 2009), whose branches are replaced when they go stale.

    Parameters: observations between attempts to split, `grace_period`; chance of a wrong split, `delta`; `max_depth`;
    what leaves say, `leaf_prediction`: mc, their frequencies, nb, naive Bayes, nba, whichever was right more often;
    `starting_evidence`, observations the prior is worth.
    """

    kind: ClassVar[str] = "adaptive-tree"
    pickled: ClassVar[bool] = True

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
        if leaf_prediction not in get_args(LeafPrediction):
            raise ValueError(f"leaf_prediction {leaf_prediction!r} is none of mc, nb, nba")
        if min(grace_period, max_depth) < 1 or not 0.0 < delta < 1.0 or starting_evidence <= 0.0:
            raise ValueError(
                f"grace_period {grace_period} and max_depth {max_depth} must be at least 1, delta {delta} in (0, 1),"
                f" starting_evidence {starting_evidence} above 0"
            )
        one = tree.HoeffdingAdaptiveTreeClassifier(
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
        super().__init__(slots, action_slots, starting_evidence, Members(one, 1, seed))
        self._names, self._action_names = _Names("customer", slots), _Names("action", action_slots)

    def features(self, seen: Observation) -> Values:
        """An observation as River sees it."""
        return self._names.values(seen.x) | _arm_values(seen.arm, self._action_names, seen.action_x)

    def dump(self) -> bytes:
        """A pickle."""
        file = io.BytesIO()
        drawing = self.river if len(self.river) == 1 else [self.river, *self.river]
        kept = [each._rng for each in drawing]  # noqa: SLF001 - River offers no other way to them
        state = _Pickled(self.kind, self.evidence, self._starting_evidence, self.action_slots, self.river)
        _Pickler(file, kept).dump(tuple(state))
        return file.getvalue()

    export = dump

    def load(self, data: bytes) -> None:
        """Become what was dumped; a split on a slot that no longer exists sends all the way most went."""
        found = _unpickled(data)
        if (found.kind, len(found.river)) != (self.kind, len(self.river)):
            raise ValueError(
                f"a dump of {len(found.river)} members of {found.kind} is not for {len(self.river)} of {self.kind}"
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
        return TreePosterior(found.river, _Names("customer", slots), asked, smoothing)


class BaggedTrees(AdaptiveTree):
    """Adaptive trees that see each observation Poisson(1) times (Oza 2005); what they disagree about is not known yet.

    Parameters: how many `members`; the others are those of `adaptive-tree`.
    """

    kind: ClassVar[str] = "bagged-trees"

    def __init__(
        self, slots: Sequence[str], action_slots: Sequence[str], seed: int = 0, *, members: int = 5, **others: Any
    ) -> None:
        super().__init__(slots, action_slots, seed, **others)
        self.river = Members(self.river[0], members, seed)


def _arm_values(arm: Arm, names: _Names, action_x: Vector) -> Values:
    return names.values(action_x) | dict(zip(_NOMINAL, arm, strict=True))


def _unpickled(data: bytes) -> _Pickled:
    try:
        return _Pickled(*pickle.loads(data))  # noqa: S301 - only what was signed gets here
    except Exception as error:
        raise ValueError(f"not the pickle of a tree: {error!r}") from error
