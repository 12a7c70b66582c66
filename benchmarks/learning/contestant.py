"""The engine's side of the comparisons: its model, told of decisions as a channel would, choosing as the engine does.

One configuration for everything that is played: a repertoire's defaults. Nothing is tuned to a stream; where another
setting is shown beside it, its row says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.learning.streams import Trial
from engine.choice import draw, pick
from engine.exploration import DRAWS, Draws, mixed, posterior_draws, shares_won
from engine.expression import compile_expression
from engine.features import Feature, FeatureSchema, Value
from engine.learning import Example, Label, Stage
from engine.repertoire import Exploration, LearnerRule, ModelRule
from models.health import Tripped
from models.learner import Arm, Posterior
from models.model import Model
from models.registry import LEARNERS
from models.snapshot import Snapshot

LEARNER = "bayesian-linear"
PRIOR = 0.5
"""Stated propensity of a treatment whose operator states none."""
START_MS = 1_790_000_000_000
Propensities = npt.NDArray[np.float64]
_GIVEN = compile_expression("signal.event")
"""What stands where a repertoire says how a feature is read; here the values are given."""


class Shown(NamedTuple):
    """A decision that was made: what its examples have in common."""

    number: int
    arm: int
    values: tuple[Value, ...]
    propensity: float
    probability: float
    version: str
    decided_ms: int


class Brain:
    """A model and the worker's latest version of it, for fixed arms over given features."""

    def __init__(
        self,
        columns: Sequence[str],
        categorical: frozenset[str],
        arms: Sequence[Arm],
        *,
        window_ms: int,
        seed: int = 0,
        prior: float = PRIOR,
        parameters: Mapping[str, Any] = {},
    ) -> None:
        self.schema = FeatureSchema(
            version="given",
            features=tuple(
                Feature(name=name, kind="categorical" if name in categorical else "numeric", value=_GIVEN)
                for name in columns
            ),
        )
        rule_of_learner = LearnerRule(kind=LEARNER, parameters=parameters)
        rule = ModelRule(id="benchmark", window_ms=window_ms, learners={"only": rule_of_learner}, champion="only")
        self.model = Model(rule, self.schema, FeatureSchema(), seed)
        self.arms, self.window_ms = tuple(arms), window_ms
        self._priors = np.full(len(arms), prior)
        self.version = ""
        self._told = self._bound_at = 0
        self._posterior: Posterior | None = None
        self._maturity = np.ones(len(arms), dtype=np.float32)

    def score(self, values: Sequence[Value], draw_number: int, now_ms: int) -> tuple[Propensities, Draws]:
        """The arms' propensities and what they could be, as `models.scorer` has it."""
        posterior = self._refreshed(now_ms)
        if posterior is None:
            return self._priors, np.repeat(self._priors.astype(np.float32)[:, None], DRAWS, axis=1)
        mean, deviation = posterior.score(self.schema.vector(values), None)
        means = posterior.propensities(mean, deviation, None) / self._maturity
        drawn = posterior_draws(mean, deviation, posterior.link, np.arange(len(self.arms)) + draw_number)
        drawn /= self._maturity[:, None]
        return np.minimum(means, 1.0), np.minimum(drawn, np.float32(1.0), out=drawn)

    def _refreshed(self, now_ms: int) -> Posterior | None:
        """What is served; None while the model is tripped."""
        if not self.version or self._told > self._bound_at:
            self._install(self.model.snapshot(now_ms))
        return self._posterior

    def _install(self, snapshot: Snapshot) -> None:
        self.version, self._bound_at, self._posterior = snapshot.version, self._told, None
        if snapshot.status == "serving":
            self._posterior = LEARNERS[snapshot.learner].posterior(
                snapshot.exported, self.schema.slots, self.arms, np.zeros((len(self.arms), 0)), self._priors
            )
        self._maturity = np.array([snapshot.maturity.get(arm, 1.0) for arm in self.arms], dtype=np.float32)

    def tell(self, shown: Shown, stage: Stage, reward: float, previous: float | None, at_ms: int) -> None:
        """One example; RuntimeError when the model does not take it."""
        example = self.example(shown, stage, reward, previous, at_ms)
        if (said := self.model.learn(example)) != "learned":
            raise RuntimeError(f"the model says {said!r} of example {example.example_id}; expected it to be learned")
        self._told += 1

    def example(self, shown: Shown, stage: Stage, reward: float, previous: float | None, at_ms: int) -> Example:
        """The record a worker would write."""
        arm, label = self.arms[shown.arm], _label(stage, reward)
        return Example(
            example_id=f"{shown.number}:{stage}",
            model="benchmark",
            stage=stage,
            label=label,
            reward=reward,
            previous=previous,
            late=False,
            decision_id=str(shown.number),
            customer_id=str(shown.number),
            group=arm.group,
            action=arm.action,
            treatment=arm.treatment,
            channel="benchmark",
            prior=float(self._priors[shown.arm]),
            propensity=shown.propensity,
            version=shown.version,
            probability=shown.probability,
            schema=self.schema.version,
            features=shown.values,
            action_schema=FeatureSchema().version,
            action_features=(),
            decided_ms=shown.decided_ms,
            at_ms=at_ms,
            window_ms=self.window_ms,
        )


def _label(stage: Stage, reward: float) -> Label | None:
    if stage == "exposed":
        return None
    return "positive" if reward > 0 else "no-response"


class Batuta:
    """The engine as a policy: Thompson sampling over its model's posteriors, by its own chances."""

    def __init__(self, trial: Trial) -> None:
        arms = [Arm("arms", name, name) for name in trial.arms]
        self._trial = trial
        self._brain = Brain(trial.columns, trial.categorical, arms, window_ms=trial.window_ms, seed=trial.seed)
        self._exploration = Exploration()
        self._shown: dict[int, Shown] = {}
        self.trips = 0
        """How often the model's breaker tripped."""
        # A decision's own number, in the engine a hash of its id, chooses its columns of the table of draws.
        self._numbers = np.random.default_rng((trial.seed, 11)).integers(1 << 31, size=len(trial.values))

    def choose(self, step: int) -> int:
        """The arm by the chances of each to be the best."""
        decided_ms = START_MS + step * self._trial.spacing_ms
        propensities, drawn = self._brain.score(self._trial.values[step], int(self._numbers[step]), decided_ms)
        chances = mixed(shares_won(drawn), self._exploration.epsilon, self._exploration.floor)
        arm = pick(chances, draw(str(step), self._trial.seed))
        values, propensity = self._trial.values[step], float(propensities[arm])
        self._shown[step] = Shown(step, arm, values, propensity, chances[arm], self._brain.version, decided_ms)
        return arm

    def exposed(self, step: int, arm: int) -> None:
        """As a worker tells it."""
        del arm
        shown = self._shown[step]
        self._brain.tell(shown, "exposed", 0.0, None, shown.decided_ms)

    def answered(self, step: int, arm: int, reward: float, at_ms: int) -> None:
        """As a worker tells it."""
        del arm
        self._brain.tell(self._shown[step], "answered", reward, None, START_MS + at_ms)

    def closed(self, step: int, arm: int, reward: float, at_ms: int) -> None:
        """As a worker tells it."""
        del arm
        self._brain.tell(self._shown.pop(step), "closed", reward, reward if reward > 0 else None, START_MS + at_ms)
        self.trips += sum(isinstance(each, Tripped) for each in self._brain.model.events())
