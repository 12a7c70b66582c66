"""Online logistic regression over all arms, by River; alone, or bagged for a posterior from its spread.

One regression learns every arm. A customer's slots appear in it once for all actions, once for the group, once for
the action and once for the treatment (Daumé 2007, "Frustratingly easy domain adaptation"), so the weights of an arm
are a sum down its lineage and those of an arm nobody has seen are its relatives'. Slots of the action are there
once. Vectors are divided by the square root of how many predictors there are, so that a rate fits few and many.
Scoring adds the weights up when candidates are bound: one product of a matrix and a vector is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import msgspec
import numpy as np
from river import linear_model, optim
from river.utils import VectorDict

from models.evidence import Smoothing
from models.learner import Arm, Observation, Vector
from models.predictors import Moments, moved, predictors
from models.rates import Members, MembersLearner, MembersPosterior, Rows
from models.tree import lineage

OptimizerName = Literal["adagrad", "sgd"]


class FadingAdaGrad(optim.AdaGrad):
    """AdaGrad (Duchi et al. 2011) whose sums of squares start at 1 and fade, so that rates never fall to nothing.

    With `keep` = 1 nothing fades; else a weight follows about its last 1 / (1 - keep) gradients.
    """

    def __init__(self, lr: float = 0.1, keep: float = 1.0) -> None:
        super().__init__(lr)
        self.keep = keep

    def _step_with_dict(self, w: Any, g: Any) -> Any:
        rate, keep, squares = self.learning_rate, self.keep, self.g2
        for i, gi in g.items():
            squares[i] = total = keep * squares[i] + gi * gi
            w[i] -= rate / (1.0 + total) ** 0.5 * gi
        return w


class Regression(linear_model.LogisticRegression):
    """River's logistic regression, whose weights can be put back. The intercept is a feature like any other."""

    def __init__(self, optimizer: optim.base.Optimizer, l2: float = 0.0) -> None:
        super().__init__(optimizer, l2=l2, intercept_lr=0.0)

    def state(self, size: int) -> Vector:
        """Weights and, of an adaptive optimizer, sums of squares: 2 by `size`, by feature number."""
        table = np.zeros((2, size))
        for row, values in zip(table, (self._weights.to_dict(), getattr(self.optimizer, "g2", {})), strict=True):
            row[list(values)] = list(values.values())
        return table

    def restore(self, table: Vector, steps: int) -> None:
        """Become what `state` told, after `steps` observations."""
        self._weights = VectorDict({place: float(table[0, place]) for place in np.flatnonzero(table[0]).tolist()})
        self.optimizer.n_iterations = steps
        if isinstance(self.optimizer, FadingAdaGrad):
            self.optimizer.g2.update({place: float(table[1, place]) for place in np.flatnonzero(table[1]).tolist()})


class _State(msgspec.Struct, frozen=True, array_like=True):
    """What a dump holds. Arrays are little-endian float64; `tables`: members by 2 by features."""

    slots: tuple[str, ...]
    action_slots: tuple[str, ...]
    arms: tuple[Arm, ...]
    """The arms in the order of their blocks of features."""
    evidence: tuple[float, ...]
    moments: bytes
    action_moments: bytes
    tables: bytes
    steps: tuple[int, ...]
    random: tuple[int, ...]
    optimizer: str
    starting_evidence: float


class LinearPosterior(MembersPosterior):
    """Weights, members by candidates by slots; the rate is the mean of the members'."""

    def __init__(self, weights: Vector, offset: Vector, moments: Moments, smoothing: Smoothing) -> None:
        super().__init__(smoothing)
        self._weights, self._offset = weights, offset
        self._moments, self._standard = moments, moments.standardise()

    def rates(self, x: Vector, rows: Rows | None) -> Vector:
        """What each regression says, before smoothing."""
        weights, offset = self._weights, self._offset
        if rows is not None:
            weights, offset = weights[:, rows], offset[:, rows]
        return _logistic(weights @ self._moments.scaled(x, self._standard) + offset)


class Logistic(MembersLearner):
    """One regression.

    Parameters: `optimizer`, adagrad or sgd; its `learning_rate`; `keep`, how much of AdaGrad's sums of squares stays
    at each step; `l2`, penalty on weights; `starting_evidence`, observations the prior is worth.
    """

    kind: ClassVar[str] = "logistic"
    pickled: ClassVar[bool] = False

    def __init__(
        self,
        slots: Sequence[str],
        action_slots: Sequence[str],
        seed: int = 0,
        *,
        optimizer: OptimizerName = "adagrad",
        learning_rate: float = 0.2,
        keep: float = 1.0,
        l2: float = 0.0,
        starting_evidence: float = 10.0,
    ) -> None:
        if optimizer not in get_args(OptimizerName):
            raise ValueError(f"optimizer {optimizer!r} is none of {', '.join(get_args(OptimizerName))}")
        if min(learning_rate, starting_evidence) <= 0.0 or l2 < 0.0 or not 0.0 < keep <= 1.0:
            raise ValueError(
                f"learning_rate {learning_rate} and starting_evidence {starting_evidence} must be above 0, l2 {l2} at"
                f" least 0, keep {keep} in (0, 1]"
            )
        step = optim.SGD(learning_rate) if optimizer == "sgd" else FadingAdaGrad(learning_rate, keep)
        super().__init__(slots, action_slots, starting_evidence, Members(Regression(step, l2), 1, seed))
        self._optimizer = optimizer
        self._blocks: dict[Arm, int] = {}
        self._length = _length(slots, action_slots)
        self._moments, self._action_moments = Moments(slots), Moments(action_slots)

    def learn(self, seen: Observation) -> None:
        """Learn a reward r as a 1 of weight r and a 0 of weight 1 - r; the first one's prior is where to start from."""
        if not self._blocks:
            start = np.zeros((2, len(self.action_slots) + len(self.slots) + 1))
            start[0, -1] = np.log(seen.prior / (1.0 - seen.prior))
            for each in self.river:
                each.restore(start, 0)
        self._moments.learn(seen.x)
        self._action_moments.learn(seen.action_x)
        for _, arm in lineage(seen.arm):
            self._blocks.setdefault(arm, len(self._blocks))
        super().learn(seen)

    def features(self, seen: Observation) -> dict[int, float]:
        """An observation as River sees it: numbered features, those of arms nobody has seen left out."""
        z = self._moments.scaled(seen.x) / self._length
        action_z = self._action_moments.scaled(seen.action_x) / self._length
        places, width = np.flatnonzero(z), len(z) + 1
        values = z[places].tolist()
        found = {int(place): float(action_z[place]) for place in np.flatnonzero(action_z)}
        for _, arm in lineage(seen.arm):
            block = self._blocks.get(arm)
            if block is not None:
                first = len(action_z) + block * width
                found.update(zip((places + first).tolist(), values, strict=True))
                found[first + width - 1] = 1.0
        return found

    def dump(self) -> bytes:
        """Arrays and names, as msgpack."""
        return msgspec.msgpack.encode(self._state())

    def _state(self) -> _State:
        size = len(self.action_slots) + len(self._blocks) * (len(self.slots) + 1)
        return _State(
            self.slots,
            self.action_slots,
            tuple(self._blocks),
            tuple(self.evidence[arm] for arm in self._blocks),
            self._moments.table.tobytes(),
            self._action_moments.table.tobytes(),
            np.array([each.state(size) for each in self.river]).tobytes(),
            tuple(each.optimizer.n_iterations for each in self.river),
            tuple(self.river.random_state()),
            self._optimizer,
            self._starting_evidence,
        )

    def load(self, data: bytes) -> None:
        """Become what was dumped, slots matched by name."""
        state = _decoded(data)
        if len(state.steps) != len(self.river) or state.optimizer != self._optimizer:
            raise ValueError(
                f"a dump of {len(state.steps)} members with {state.optimizer} is not for {len(self.river)} with"
                f" {self._optimizer}"
            )
        tables = self._remapped(state)
        for each, table, steps in zip(self.river, tables, state.steps, strict=True):
            each.restore(table, steps)
        self.river.restore_random(state.random)
        self._blocks = {arm: block for block, arm in enumerate(state.arms)}
        self.evidence = dict(zip(state.arms, state.evidence, strict=True))

    def _remapped(self, state: _State) -> Vector:
        """Tables, and moments, of the slots there are: what was known of them, else zeros."""
        old, new = moved(state.slots, self.slots)
        action_old, action_new = moved(state.action_slots, self.action_slots)
        action, blocks = _split(state)
        ratio = self._length / _length(state.slots, state.action_slots)
        # What was learned of longer or shorter vectors: the same products, and gradients as they would have been.
        scales = np.array([ratio, ratio**-2])
        action, slopes = action * scales[:, None], blocks[..., :-1] * scales[:, None, None]
        kept = np.zeros((len(blocks), 2, len(state.arms), len(self.slots) + 1))
        kept[..., new], kept[..., -1] = slopes[..., old], blocks[..., -1]
        kept_action = np.zeros((len(blocks), 2, len(self.action_slots)))
        kept_action[..., action_new] = action[..., action_old]
        self._moments = _moments(state.moments, state.slots, self.slots)
        self._action_moments = _moments(state.action_moments, state.action_slots, self.action_slots)
        return np.concatenate([kept_action, kept.reshape(len(blocks), 2, -1)], axis=2)

    def export(self) -> bytes:
        """The same arrays without what only learning needs."""
        state = self._state()
        weights = np.frombuffer(state.tables).reshape(len(state.steps), 2, -1)[:, :1]
        return msgspec.msgpack.encode(msgspec.structs.replace(state, tables=weights.tobytes(), random=()))

    @classmethod
    def posterior(
        cls, exported: bytes, slots: Sequence[str], arms: Sequence[Arm], action_x: Vector, priors: Vector
    ) -> LinearPosterior:
        """Add up the weights of each candidate's lineage."""
        state = _decoded(exported)
        action, blocks = _split(state)
        action, blocks = action[:, 0], blocks[:, 0]
        number = {arm: block for block, arm in enumerate(state.arms)}
        summed = np.zeros((len(blocks), len(arms), len(state.slots) + 1))
        for row, arm in enumerate(arms):
            known = [number[each] for _, each in lineage(arm) if each in number]
            summed[:, row] = blocks[:, known].sum(axis=1)
        old, new = moved(state.slots, slots)
        weights = np.zeros((len(blocks), len(arms), len(slots)))
        length = _length(state.slots, state.action_slots)
        weights[..., new] = summed[..., old] / length
        action_moments = _moments(state.action_moments, state.action_slots, state.action_slots)
        action_z = action_moments.scaled(action_x)
        moments, evidence = (
            _moments(state.moments, state.slots, slots),
            dict(zip(state.arms, state.evidence, strict=True)),
        )
        smoothing = Smoothing(evidence, arms, priors, state.starting_evidence)
        return LinearPosterior(weights, summed[..., -1] + action @ action_z.T / length, moments, smoothing)


class BaggedLogistic(Logistic):
    """Regressions that see each observation Poisson(1) times; what they disagree about is not known yet.

    Parameters: how many `members`; the others are those of `logistic`.
    """

    kind: ClassVar[str] = "bagging"

    def __init__(
        self, slots: Sequence[str], action_slots: Sequence[str], seed: int = 0, *, members: int = 10, **others: Any
    ) -> None:
        super().__init__(slots, action_slots, seed, **others)
        self.river = Members(self.river[0], members, seed)


def _decoded(data: bytes) -> _State:
    """A checked state. ValueError for what is none."""
    try:
        state = msgspec.msgpack.decode(data, type=_State)
        members, arms = len(state.steps), len(state.arms)
        size = len(state.action_slots) + arms * (len(state.slots) + 1)
        numbers = np.frombuffer(state.tables)
        fits = numbers.size in {members * size, members * 2 * size} and len(state.evidence) == arms and members > 0
        _moments(state.moments, state.slots, ())
        _moments(state.action_moments, state.action_slots, ())
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"not the state of a logistic regression: {error}") from error
    if not fits or not np.isfinite(numbers).all():
        raise ValueError(
            f"not the state of a logistic regression: {numbers.size} numbers for {members} members of {size} features"
        )
    return state


def _split(state: _State) -> tuple[Vector, Vector]:
    """Tables as members by rows by action slots, and members by rows by arms by (slots and intercept)."""
    members, actions = len(state.steps), len(state.action_slots)
    size = actions + len(state.arms) * (len(state.slots) + 1)
    numbers = np.frombuffer(state.tables)
    table = numbers.reshape(members, numbers.size // (members * size) if size else 1, size)
    return table[..., :actions], table[..., actions:].reshape(*table.shape[:2], len(state.arms), len(state.slots) + 1)


def _moments(data: bytes, slots: Sequence[str], wanted: Sequence[str]) -> Moments:
    """Moments of the slots wanted, as far as they are among those stored."""
    old, new = moved(slots, wanted)
    moments = Moments(wanted)
    moments.table[:, new] = np.frombuffer(data).reshape(3, len(slots))[:, old]
    return moments


def _length(slots: Sequence[str], action_slots: Sequence[str]) -> float:
    """Of a usual vector: each predictor is about 1 long."""
    return math.sqrt(max(len(predictors(slots)) + len(predictors(action_slots)), 1))


def _logistic(z: Vector) -> Vector:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0)))
