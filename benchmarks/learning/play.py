"""Play: a policy chooses arms step by step and hears of rewards when they come."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.learning.streams import Trial


class Policy(Protocol):
    """Chooses one arm at each step of a trial it was constructed with. Times are ms from the start of the trial."""

    def choose(self, step: int) -> int:
        """The arm to offer."""
        ...

    def exposed(self, step: int, arm: int) -> None:
        """It was offered; nothing is known of its reward."""
        ...

    def answered(self, step: int, arm: int, reward: float, at_ms: int) -> None:
        """A reward above 0 came, within the window."""
        ...

    def closed(self, step: int, arm: int, reward: float, at_ms: int) -> None:
        """The window ended; 0 is now known to be 0."""
        ...


Entrant = Callable[[Trial], Policy]


def play(entrant: Entrant, trial: Trial) -> npt.NDArray[np.intp]:
    """The arm chosen at each step. What falls due up to a step is told before it chooses, in the order of time."""
    policy = entrant(trial)
    chosen = np.zeros(len(trial.values), dtype=np.intp)
    due: list[tuple[int, int, int, float]] = []
    for step in range(len(chosen)):
        now_ms = step * trial.spacing_ms
        _tell(policy, chosen, due, now_ms)
        arm = chosen[step] = policy.choose(step)
        policy.exposed(step, int(arm))
        reward = float(trial.rewards[step, arm])
        came = reward > 0 and trial.delays_ms[step] <= trial.window_ms
        if came:
            heapq.heappush(due, (now_ms + int(trial.delays_ms[step]), 0, step, reward))
        heapq.heappush(due, (now_ms + trial.window_ms, 1, step, reward if came else 0.0))
    return chosen


def _tell(policy: Policy, chosen: npt.NDArray[np.intp], due: list[tuple[int, int, int, float]], now_ms: int) -> None:
    while due and due[0][0] <= now_ms:
        at_ms, closing, step, reward = heapq.heappop(due)
        tell = policy.closed if closing else policy.answered
        tell(step, int(chosen[step]), reward, at_ms)
