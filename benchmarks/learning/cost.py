"""Cost: what a decision with 100 actions spends on scoring, and what an example costs the learner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np
import numpy.typing as npt

from benchmarks.learning.contestant import PRIOR, START_MS, Brain, Shown
from benchmarks.results import Row, row
from engine.exploration import Draws, posterior_draws, shares_won
from models.learner import Arm, Posterior
from models.registry import LEARNERS

ACTIONS, FEATURES, GROUPS = 100, 30, 10
BATCHES, BATCH = 15, 400


def measure(decisions: int) -> list[Row]:
    """Microseconds of one decision's scoring, per part, and of one example; bytes of a snapshot after `decisions`."""
    draw = np.random.default_rng(5)
    brain = _brain()
    learning = list(_taught(brain, draw, decisions))
    snapshot = brain.model.snapshot(START_MS)
    posterior = LEARNERS[snapshot.learner].posterior(
        snapshot.exported, brain.schema.slots, brain.arms, np.zeros((ACTIONS, 0)), np.full(ACTIONS, PRIOR)
    )
    vectors = [brain.schema.vector(tuple(x)) for x in draw.standard_normal((BATCH, FEATURES)).tolist()]
    columns = [np.arange(ACTIONS) + int(each) for each in draw.integers(1 << 31, size=BATCH)]
    drawn = [_drawn(posterior, x, at) for x, at in zip(vectors, columns, strict=True)]

    def score() -> None:
        for x in vectors:
            posterior.score(x, None)

    def score_and_draw() -> None:
        for x, at in zip(vectors, columns, strict=True):
            _drawn(posterior, x, at)

    def choose() -> None:
        for each in drawn:
            shares_won(each)

    slots = len(brain.schema.slots)
    what = f"{ACTIONS} actions, {FEATURES} features ({slots} slots), another customer each time, one thread"
    taught = f"examples exposed, answered and closed, over {ACTIONS} actions in {GROUPS} groups, with health and all"
    return [
        row(
            "scoring.mean-and-draws",
            _timed(score_and_draw),
            "µs",
            target="<= 60",
            detail=f"{what}; mean, deviation and 64 draws of each action",
        ),
        row("scoring.mean-only", _timed(score), "µs", detail=f"{what}; mean and deviation"),
        row(
            "scoring.chances",
            _timed(choose),
            "µs",
            detail=f"{what}; the chance of each action to be chosen, from its draws",
        ),
        row("learning.example", learning, "µs", detail=taught),
        row("learning.snapshot", [len(snapshot.exported)], "bytes", detail=f"exported after {decisions} decisions"),
    ]


def _drawn(posterior: Posterior, x: npt.NDArray[np.float64], columns: npt.NDArray[np.intp]) -> Draws:
    mean, deviation = posterior.score(x, None)
    return posterior_draws(mean, deviation, posterior.link, columns)


def _brain() -> Brain:
    arms = [Arm(f"group-{each % GROUPS}", f"action-{each}", f"action-{each}") for each in range(ACTIONS)]
    return Brain([f"x{each}" for each in range(FEATURES)], frozenset(), arms, window_ms=60_000)


def _taught(brain: Brain, draw: np.random.Generator, decisions: int) -> Iterator[float]:
    """Teach it, and tell the microseconds per example of each hundred decisions."""
    effects = draw.standard_normal((ACTIONS, FEATURES)) / 10
    for first in range(0, decisions, 100):
        told, begun = 0, perf_counter()
        for number in range(first, first + 100):
            x, arm, at_ms = draw.standard_normal(FEATURES), int(draw.integers(ACTIONS)), START_MS + number * 1_000
            reward = float(draw.random() < 0.2 + effects[arm] @ x)
            shown = Shown(number, arm, tuple(x.tolist()), 0.2, 1 / ACTIONS, brain.version, at_ms)
            brain.tell(shown, "exposed", 0.0, 0.0, at_ms)
            if reward:
                brain.tell(shown, "answered", reward, 0.0, at_ms + 1)
            brain.tell(shown, "closed", reward, reward, at_ms + brain.window_ms)
            told += 3 if reward else 2
        yield (perf_counter() - begun) / told * 1e6


def _timed(work: Callable[[], None]) -> list[float]:
    """Microseconds per call of each batch, after one to warm up."""
    work()
    spent = []
    for _ in range(BATCHES):
        begun = perf_counter()
        work()
        spent.append((perf_counter() - begun) / BATCH * 1e6)
    return spent
