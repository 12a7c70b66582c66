"""Rewards that are still to come: which share of an arm's rewards should be known by now.

A learner that counts every exposure as a provisional nothing underrates what was shown lately, and most of all new
actions (Chapelle 2014, "Modeling delayed feedback in display advertising"; Ktena et al. 2019, "Addressing delayed
feedback for continuous training"). How soon rewards come is the same question as how long lives last while most are
still lived: a life table answers it from the young and the old together (Kaplan and Meier 1958, "Nonparametric
estimation from incomplete observations", and its actuarial form).

Method: the window is cut into `AGES` ages. Rewards that came at an age, over the exposures that have lived through
it (those in the middle of it count by the part they have lived), are its incidence; the cumulated incidence, over
that of the whole window, is F(age), the share of rewards that have come by an age. An arm's maturity is the mean of
F over its exposures: its true rate is about its rate so far over its maturity. All arms with the same window share
one table. A slight pull to constant incidence fills in for ages that few have lived.

Bias: ages nobody has lived through are taken to be like those lived, so within the first window of a deployment early
rewards make maturity too low and late ones too high. Arms that differ in how soon they are rewarded, or whose rates
move while their exposures do, are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from models.learner import Arm

Array = npt.NDArray[np.float64]
AGES = 24
"""Ages a window is cut into."""
LEAST = 0.05
"""No maturity is below this: a rate is never multiplied by more than twenty."""
PULL = 0.1
"""Rewards per age that the constant incidence weighs."""
FRESH_REWARDS = 20_000
"""Rewards in a table at which everything in it is halved, so that it follows what changes."""
MAX_WINDOWS = 16
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class Delays:
    """Counts exposures and rewards by age. Memory: `max_arms` by `AGES` numbers for each of at most 16 windows.

    Beyond, the arm least exposed is no longer told from the others, and a window counts as the one most like it.
    `prior_exposures`: how many mature ones each arm is taken to have had besides, as its learner began with a prior
    that waits for nothing; so a new arm begins mature, and is divided by what it lacks as its own exposures prevail.
    """

    def __init__(self, max_arms: int = 2000, prior_exposures: float = 10.0) -> None:
        self._max_arms = max_arms
        self._prior_exposures = prior_exposures
        self._tables: dict[int, _Table] = {}

    def exposed(self, arm: Arm, at_ms: int, window_ms: int) -> None:
        """Count a decision that was shown at `at_ms` and can be rewarded for `window_ms`."""
        table = self._table(window_ms)
        if table is None:
            table = self._tables[window_ms] = _Table(max(window_ms, AGES) / AGES)
        table.expose(arm, at_ms, self._max_arms)

    def rewarded(self, arm: Arm, delay_ms: int, window_ms: int) -> None:  # noqa: ARG002 - all arms share a table
        """Count a reward that came `delay_ms` after its decision, at most `window_ms`; later ones are not counted."""
        table = self._table(window_ms)
        if table is not None and delay_ms <= window_ms:
            table.reward(max(delay_ms, 0) / max(window_ms, 1))

    def _table(self, window_ms: int) -> _Table | None:
        found = self._tables.get(window_ms)
        if found is None and len(self._tables) >= MAX_WINDOWS:
            return self._tables[min(self._tables, key=lambda each: (_unlike(each, window_ms), each))]
        return found

    def maturity(self, now_ms: int) -> Mapping[Arm, float]:
        """Share of the rewards of each arm's exposures that should have come by `now_ms`, in (0, 1]; pure.

        1 for an arm whose exposures are all older than their window. Arms never exposed are not mentioned.
        """
        pending: dict[Arm, float] = {}
        exposures: dict[Arm, float] = {}
        for table in self._tables.values():
            for arm, shown, come in table.ripeness(now_ms):
                pending[arm] = pending.get(arm, 0.0) + shown - come
                exposures[arm] = exposures.get(arm, self._prior_exposures) + shown
        return {arm: min(max(1 - pending[arm] / exposures[arm], LEAST), 1.0) for arm in pending}

    def open_shares(self, now_ms: int) -> Mapping[Arm, float]:
        """Share of each arm's exposures whose window is open at `now_ms`; of the same arms as `maturity`, and pure."""
        still_open: dict[Arm, float] = {}
        exposures: dict[Arm, float] = {}
        for table in self._tables.values():
            for arm, shown, young in table.youth(now_ms):
                still_open[arm] = still_open.get(arm, 0.0) + young
                exposures[arm] = exposures.get(arm, self._prior_exposures) + shown
        return {arm: each / exposures[arm] for arm, each in still_open.items()}

    def dump(self) -> bytes:
        """Everything counted, for `load`."""
        return _encoder.encode({"tables": [[window, table.dump()] for window, table in self._tables.items()]})

    def load(self, data: bytes) -> None:
        """Become what was dumped. ValueError for what cannot be used."""
        try:
            told = _decoder.decode(data)["tables"]
            self._tables = {window: _Table.load(state) for window, state in told}
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not the dump of a table of delays: {error!r}") from error


def _unlike(window_ms: int, other_ms: int) -> float:
    return max(window_ms, other_ms) / max(min(window_ms, other_ms), 1)


class _Table:
    """Life table of one window: exposures by arm and slot of time (a ring of AGES + 1; older ones in `old`)."""

    def __init__(self, width_ms: float) -> None:
        self._width_ms = width_ms
        self._latest = 0
        self._rows: dict[Arm, int] = {}
        self._young = np.zeros((1, AGES + 1))  # row 0: the arms no longer told apart
        self._old = np.zeros(1)
        self._rewards = np.zeros(AGES)

    def expose(self, arm: Arm, at_ms: int, max_arms: int) -> None:
        slot = int(at_ms // self._width_ms)
        self._turn(slot)
        row = self._row(arm, max_arms)
        if slot < self._latest - AGES:
            self._old[row] += 1
        else:
            self._young[row, slot % (AGES + 1)] += 1

    def _turn(self, slot: int) -> None:
        """Move on to a slot of time; the slots that reappear in the ring are old."""
        if slot <= self._latest:
            return
        gone = np.unique(np.arange(max(self._latest + 1, slot - AGES), slot + 1) % (AGES + 1))
        self._old += self._young[:, gone].sum(1)
        self._young[:, gone] = 0
        self._latest = slot

    def _row(self, arm: Arm, max_arms: int) -> int:
        if arm in self._rows:
            return self._rows[arm]
        if len(self._rows) < max_arms:
            self._rows[arm] = row = len(self._rows) + 1
            if row >= len(self._old):
                self._young = np.concatenate([self._young, np.zeros_like(self._young)])
                self._old = np.concatenate([self._old, np.zeros_like(self._old)])
            return row
        shown = self._young.sum(1) + self._old
        least = min(self._rows, key=lambda each: (shown[self._rows[each]], each))
        row = self._rows[arm] = self._rows.pop(least)
        self._young[0] += self._young[row]
        self._old[0] += self._old[row]
        self._young[row], self._old[row] = 0, 0
        return row

    def reward(self, share: float) -> None:
        """Count a reward that came after a share of the window."""
        self._rewards[min(int(share * AGES), AGES - 1)] += 1
        if self._rewards.sum() > FRESH_REWARDS:
            self._rewards /= 2
            self._young /= 2
            self._old /= 2

    def ripeness(self, now_ms: int) -> list[tuple[Arm, float, float]]:
        """Per arm: exposures, and their sum of F(age)."""
        ages = self._ages(now_ms)
        come = self._young @ np.interp(ages, np.arange(AGES + 1), self._arrived(ages)) + self._old
        shown = self._young.sum(1) + self._old
        return [(arm, float(shown[row]), float(come[row])) for arm, row in self._rows.items()]

    def youth(self, now_ms: int) -> list[tuple[Arm, float, float]]:
        """Per arm: exposures, and those whose window is open."""
        young = self._young @ (self._ages(now_ms) < AGES)
        shown = self._young.sum(1) + self._old
        return [(arm, float(shown[row]), float(young[row])) for arm, row in self._rows.items()]

    def _ages(self, now_ms: int) -> Array:
        """Mean age of the exposures of each place of the ring, in ages of the table."""
        now = now_ms / self._width_ms
        slots = self._latest - (self._latest - np.arange(AGES + 1)) % (AGES + 1)
        ages: Array = now - (slots + np.clip(now, slots, slots + 1)) / 2
        return np.clip(ages, 0, AGES)

    def _arrived(self, ages: Array) -> Array:
        """F at each boundary of ages, from 0 to 1."""
        lived = np.clip(ages[:, None] - np.arange(AGES), 0, 1)
        at_risk = self._young.sum(0) @ lived + self._old.sum()
        usual = max(self._rewards.sum(), PULL) / max(at_risk.sum(), PULL)
        incidence = (self._rewards + PULL) / (at_risk + PULL / usual)
        come = np.cumsum(incidence)
        arrived: Array = np.concatenate([[0.0], come / come[-1]])
        return arrived

    def dump(self) -> list[Any]:
        rows = [[list(arm), row] for arm, row in self._rows.items()]
        return [self._width_ms, self._latest, rows, self._young.tobytes(), self._old.tobytes(), self._rewards.tobytes()]

    @classmethod
    def load(cls, told: list[Any]) -> _Table:
        width_ms, latest, rows, young, old, rewards = told
        table = cls(width_ms)
        table._latest, table._rows = latest, {Arm(*arm): row for arm, row in rows}
        table._young = np.frombuffer(young).reshape(-1, AGES + 1).copy()
        table._old, table._rewards = np.frombuffer(old).copy(), np.frombuffer(rewards).copy()
        return table
