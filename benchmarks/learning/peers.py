"""Peers: what others offer for the same task, each with its documented settings, fed in the way it documents.

A pull is learned once: when its reward comes, or when its window ends without one (waiting for the window with every
pull was tried for MABWiser and brought less). Contexts end with a constant 1, since none of the linear policies has an
intercept of its own. Beside the documented alpha of 1, MABWiser's also play with 0.2, so that the best is a fair one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from river import bandit, linear_model

from benchmarks.learning.play import Entrant
from benchmarks.learning.streams import Trial

PACKAGES = ("mabwiser", "vowpalwabbit")
"""Needed for peers beside River, at development time only."""
EPSILON = 0.05


class PeersMissing(Exception):
    """A package of a peer is not installed; the message says what to do."""


def require_packages() -> None:
    """Raise PeersMissing unless every peer can play: a comparison never goes on without one."""
    for name in ("mabwiser.mab", "vowpalwabbit"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise PeersMissing(
                f"cannot import {name} ({error}); the comparison needs {' and '.join(PACKAGES)}: "
                "run `make setup`, which installs the development dependencies"
            ) from error


class Peer:
    """A policy that learns each pull once, from its final reward."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.arms = range(len(trial.arms))
        self.random = np.random.default_rng((trial.seed, 7))

    def choose(self, step: int) -> int:
        """The arm to offer; by chance unless overridden."""
        del step
        return int(self.random.integers(len(self.arms)))

    def exposed(self, step: int, arm: int) -> None:
        """Nothing to learn yet."""

    def answered(self, step: int, arm: int, reward: float, at_ms: int) -> None:
        """Learn what came."""
        del at_ms
        self.learn(step, arm, reward)

    def closed(self, step: int, arm: int, reward: float, at_ms: int) -> None:
        """Learn that nothing came."""
        del at_ms
        if reward == 0:
            self.learn(step, arm, 0.0)

    def learn(self, step: int, arm: int, reward: float) -> None:
        """Learn one pull; chance learns nothing."""


class BestFixed(Peer):
    """The one arm that brings the most over the whole trial: nobody can know it before."""

    def choose(self, step: int) -> int:
        """Always the same."""
        del step
        return int(self.trial.expected.sum(axis=0).argmax())


class Habit(Peer):
    """The arm that was rewarded most often so far; by chance as long as none was."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        self.rewards = np.zeros(len(trial.arms))

    def choose(self, step: int) -> int:
        """One line."""
        return int(self.rewards.argmax()) if self.rewards.any() else super().choose(step)

    def learn(self, step: int, arm: int, reward: float) -> None:
        """Count."""
        del step
        self.rewards[arm] += reward


class RiverLinUcb(Peer):
    """`river.bandit.LinUCBDisjoint` as its documentation shows it; `smoothing` makes it forget."""

    def __init__(self, trial: Trial, smoothing: float | None = None) -> None:
        super().__init__(trial)
        self.policy: Any = bandit.LinUCBDisjoint(alpha=1.0, beta=1.0, smoothing=smoothing, seed=trial.seed)
        self.names = list(range(trial.vectors.shape[1]))

    def choose(self, step: int) -> int:
        """Its pull."""
        return int(self.policy.pull(list(self.arms), context=self._context(step)))

    def learn(self, step: int, arm: int, reward: float) -> None:
        """Its update."""
        self.policy.update(arm, self._context(step), reward)

    def _context(self, step: int) -> dict[int, float]:
        return dict(zip(self.names, self.trial.vectors[step].tolist(), strict=True))


class RiverLogistic(Peer):
    """One `river.linear_model.LogisticRegression` per arm, as it comes, and the best of them but for `EPSILON`."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        self.models: list[Any] = [linear_model.LogisticRegression() for _ in self.arms]
        self.names = list(range(trial.vectors.shape[1]))

    def choose(self, step: int) -> int:
        """Greedy, of equals by chance."""
        if self.random.random() < EPSILON:
            return super().choose(step)
        x = self._context(step)
        chances = np.array([model.predict_proba_one(x)[True] for model in self.models])
        return int(self.random.choice(np.flatnonzero(chances == chances.max())))

    def learn(self, step: int, arm: int, reward: float) -> None:
        """The chosen arm's model."""
        self.models[arm].learn_one(self._context(step), reward > 0)

    def _context(self, step: int) -> dict[int, float]:
        return dict(zip(self.names, self.trial.vectors[step].tolist(), strict=True))


class MabWiser(Peer):
    """MABWiser's linear policies, by the names of its `LearningPolicy`; starts from an empty observation."""

    def __init__(self, trial: Trial, kind: str, alpha: float) -> None:
        super().__init__(trial)
        module = importlib.import_module("mabwiser.mab")
        policy = getattr(module.LearningPolicy, kind)(alpha=alpha)
        self.mab = module.MAB(list(self.arms), policy, seed=trial.seed)
        self.mab.fit(np.array([0]), np.array([0.0]), np.zeros((1, trial.vectors.shape[1])))

    def choose(self, step: int) -> int:
        """Its prediction."""
        return int(self.mab.predict(self.trial.vectors[step : step + 1]))

    def learn(self, step: int, arm: int, reward: float) -> None:
        """Its `partial_fit` of one pull, without the copy it makes of every other arm: the same state for less time."""
        fit_arm = self.mab._imp._fit_arm  # noqa: SLF001 - see above
        fit_arm(arm, np.array([arm]), np.array([reward]), self.trial.vectors[step : step + 1])


class VowpalWabbit(Peer):
    """`--cb_explore_adf` with one explorer, features crossed with arms as its tutorial does."""

    def __init__(self, trial: Trial, explorer: str) -> None:
        super().__init__(trial)
        options = f"--cb_explore_adf {explorer} --interactions ca --random_seed {trial.seed + 1} --quiet"
        self.workspace = importlib.import_module("vowpalwabbit").Workspace(options)
        self.chances: dict[int, float] = {}

    def choose(self, step: int) -> int:
        """Drawn by the chances it gives."""
        chances = np.clip(np.array(self.workspace.predict(self._lines(step))), 0.0, None)
        arm = int(self.random.choice(len(chances), p=chances / chances.sum()))
        self.chances[step] = float(chances[arm] / chances.sum())
        return arm

    def learn(self, step: int, arm: int, reward: float) -> None:
        """Cost is 1 less the reward, with the chance it was chosen with."""
        lines = self._lines(step)
        lines[arm + 1] = f"0:{1.0 - reward}:{self.chances.pop(step)} {lines[arm + 1]}"
        self.workspace.learn(lines)

    def _lines(self, step: int) -> list[str]:
        numbers = self.trial.vectors[step][:-1].tolist()  # it adds a constant itself
        context = " ".join(
            f"{place}:{number:.6g}" for place, number in enumerate(numbers) if not math.isclose(number, 0)
        )
        return [f"shared |c {context}", *(f"|a {arm}" for arm in self.arms)]


PEERS: Mapping[str, Entrant] = {
    "river-linucb": RiverLinUcb,
    "mabwiser-linucb": lambda trial: MabWiser(trial, "LinUCB", 1.0),
    "mabwiser-linucb-0.2": lambda trial: MabWiser(trial, "LinUCB", 0.2),
    "mabwiser-lints": lambda trial: MabWiser(trial, "LinTS", 1.0),
    "mabwiser-lints-0.2": lambda trial: MabWiser(trial, "LinTS", 0.2),
    "vw-squarecb": lambda trial: VowpalWabbit(trial, "--squarecb"),
    "vw-bag": lambda trial: VowpalWabbit(trial, "--bag 5"),
    "river-logistic": RiverLogistic,
    "habit": Habit,
    "best-fixed": BestFixed,
    "random": Peer,
}
"""Everybody the engine is put beside, by name."""
FORGETTING_PEERS: Mapping[str, Entrant] = {
    **PEERS,
    "river-linucb-smoothing-0.99": lambda trial: RiverLinUcb(trial, smoothing=0.99),
}
"""The same, and River's with the setting it documents for drift."""
