"""Judging: what learners predict of decisions is kept until these are closed, and then compared with their rewards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from engine.learning import Example
from models import health
from models.health import BaseRate, Drift, Judged
from models.memory import DAY_MS, Awaited, Awaiting
from models.trainee import Trainee


class JudgingState(msgspec.Struct, kw_only=True):
    """As stored."""

    awaited: dict[int, Awaited]
    bound: int
    base: tuple[float, float]
    drift: list[float]
    drifts: int
    drifted_for: int
    judged: int
    unevaluated: int
    seasoned: int = 0


class Judging:
    """Progressive validation of the learners of one model.

    `drifts`: how often the losses of the champion rose. `judged`, `unevaluated`: closed decisions that were, and were
    not. `seasoned`: of those judged, how many were predicted when a learner could know something. `drifted`: losses
    rose within the last `health.WINDOW` decisions, and nothing was decided about it.
    """

    def __init__(self, state: JudgingState | None = None) -> None:
        self._awaiting, self._base, self._drift = Awaiting(), BaseRate(), Drift()
        self._drifted_for = self.drifts = self.judged = self.unevaluated = self.seasoned = 0
        if state is not None:
            self._awaiting, self._base = Awaiting(state.awaited, state.bound), BaseRate(*state.base)
            self._drift, self._drifted_for = Drift(state.drift), state.drifted_for
            self.drifts, self.judged, self.unevaluated = state.drifts, state.judged, state.unevaluated
            self.seasoned = state.seasoned

    @property
    def drifted(self) -> bool:
        """See the class."""
        return self._drifted_for > 0

    def settle(self) -> None:
        """Look for drift afresh: another learner is served, or is to be."""
        self._drift, self._drifted_for = Drift(), 0

    def expect(self, decision: int, example: Example, predicted: Mapping[int, float], by: Trainee | None) -> None:
        """Keep what was predicted of a decision, by number of learner; `by`: the one it was scored with."""
        awaited = Awaited(
            stale_ms=example.decided_ms + 2 * example.window_ms + DAY_MS,
            base=self._base.rate,
            prior=example.prior,
            served=None if by is None else (by.number, example.propensity),
            predicted=dict(predicted),
            seasoned=self._base.closed > health.LEAST,
        )
        self._awaiting.put(decision, awaited, example.at_ms)

    def close(self, decision: int, reward: float) -> Awaited | None:
        """What was predicted of a decision that is closed; None when that was not kept."""
        self._base.add(reward)
        awaited = self._awaiting.pop(decision)
        self.judged += awaited is not None
        self.seasoned += awaited is not None and awaited.seasoned
        self.unevaluated += awaited is None
        return awaited

    def watch(self, champion: Trainee, awaited: Awaited, reward: float) -> bool:
        """Whether the champion's losses have risen just then; how it did before then counts no more."""
        said = said_of(champion, awaited)
        self._drifted_for = max(0, self._drifted_for - 1)
        latest = 0 if said is None else self._drift.add(health.log_loss(said, reward))
        if latest:
            self.drifts += 1
            self._drifted_for = health.WINDOW
            champion.window.keep(latest)
        return latest > 0

    def dump(self) -> JudgingState:
        """What to construct an equal one from."""
        return JudgingState(
            awaited=self._awaiting.awaited,
            bound=self._awaiting.bound,
            base=(self._base.rewards, self._base.closed),
            drift=self._drift.dump(),
            drifts=self.drifts,
            drifted_for=self._drifted_for,
            judged=self.judged,
            seasoned=self.seasoned,
            unevaluated=self.unevaluated,
        )


def said_of(trainee: Trainee, awaited: Awaited) -> float | None:
    """What a learner said of a decision: when it was made if it was scored with it, else when it was shown."""
    if awaited.served is not None and awaited.served[0] == trainee.number:
        return awaited.served[1]
    return awaited.predicted.get(trainee.number)


def judge(trainees: Iterable[Trainee], awaited: Awaited, reward: float) -> None:
    """Enter a closed decision in the records of learners that had predicted something."""
    for trainee in trainees:
        said = said_of(trainee, awaited)
        if said is not None:
            trainee.window.add(Judged(said, awaited.base, awaited.prior, reward))
