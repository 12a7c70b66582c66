"""A learner in training: the stages of decisions it learns from, its evidence and its track record."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.learning import Example
from engine.repertoire import LearnerRule
from models.delay import Delays
from models.health import Judged, Window
from models.learner import Arm, Learner, Observation
from models.snapshot import Evidence

REFRESH_EVERY = 64
"""Exposures after which the maturity used for judging is looked up again."""
PRIOR_WORTH = 5.0
"""Observations a learner's prior is taken to be worth; they are not waiting for rewards. Without them an arm shown a
few times, of whose rewards a tenth could have come, would be overrated sevenfold (tried with the linear learner of
log odds and a rate of .1: .74 after one exposure, .28 after twenty; with 5: .09 and .10; with 10: .08 and .07)."""


class Record(msgspec.Struct, kw_only=True):
    """A trainee as stored."""

    name: str
    rule: bytes
    number: int
    since_ms: int
    serves_from: int
    learned: bytes
    delays: bytes
    exposures: int
    evidence: dict[Arm, Evidence]
    maturity: dict[Arm, float]
    window: list[Judged]


class Trainee:
    """One learner of a model, by `name`, and by a `number` that no other learner of the model ever had.

    It learns of decisions made after `since_ms` and no others: of earlier ones it was not told that they were shown,
    and to learn of their answers alone would be to learn that everything is answered.
    `serves_from`: number of examples of the model from which on versions of that name are its own.
    """

    def __init__(
        self, name: str, rule: LearnerRule, learner: Learner, number: int, since_ms: int, serves_from: int
    ) -> None:
        self.name = name
        self.rule = identity(rule)
        self.learner = learner
        self.number = number
        self.since_ms = since_ms
        self.serves_from = serves_from
        self.window = Window()
        self.evidence: dict[Arm, Evidence] = {}
        self.maturity: Mapping[Arm, float] = {}
        self.delays = Delays()
        self._exposures = 0

    def predict(self, seen: Observation) -> float:
        """Expected reward in [0, 1], for what rewards are still to come as well."""
        predicted = self.learner.predict(seen)
        return min(1.0, predicted / self.maturity.get(seen.arm, 1.0)) if self.learner.corrigible else predicted

    def learn(self, example: Example, seen: Observation) -> bool:
        """Learn from one stage of a decision; False when there was nothing in it for this learner."""
        if example.decided_ms <= self.since_ms:
            return False
        if not self.learner.corrigible:
            return example.stage == "closed" and self._closed(seen)
        if example.stage == "exposed":
            return self._exposed(seen, example)
        return example.stage == "answered" and example.reward != example.previous and self._answered(seen, example)

    def _exposed(self, seen: Observation, example: Example) -> bool:
        self.learner.learn(seen)
        self.delays.exposed(seen.arm, example.decided_ms, example.window_ms)
        self._count(seen.arm, 1, int(seen.reward > 0.0))
        self._exposures += 1
        if self._exposures % REFRESH_EVERY == 0:
            self.maturity = self.matured(example.at_ms)
        return True

    def _answered(self, seen: Observation, example: Example) -> bool:
        self.learner.correct(seen, example.previous)
        if example.previous == 0.0:
            self.delays.rewarded(seen.arm, max(0, example.at_ms - example.decided_ms), example.window_ms)
        self._count(seen.arm, 0, int(example.reward > 0.0) - int(example.previous > 0.0))
        return True

    def _closed(self, seen: Observation) -> bool:
        self.learner.learn(seen)
        self._count(seen.arm, 1, int(seen.reward > 0.0))
        return True

    def _count(self, arm: Arm, examples: int, positives: int) -> None:
        known = self.evidence.get(arm, Evidence())
        self.evidence[arm] = Evidence(known.examples + examples, known.positives + positives)

    def matured(self, now_ms: int) -> dict[Arm, float]:
        """What an arm's prediction is to be divided by, in (0, 1]; empty when it learns only of what is closed.

        With a share s of the rewards of n exposures come, and a prior worth w, p = (w·prior + rewards) / (w + n) is
        to be what it would be of s·n exposures: it is divided by (w + s·n) / (w + n).
        """
        if not self.learner.corrigible:
            return {}
        worth = {arm: PRIOR_WORTH + self.evidence[arm].examples for arm in self.evidence}
        shares = self.delays.maturity(now_ms).items()
        return {arm: 1.0 - (1.0 - share) * (1.0 - PRIOR_WORTH / worth[arm]) for arm, share in shares}

    def dump(self) -> Record:
        """Everything, for `load`."""
        return Record(
            name=self.name,
            rule=self.rule,
            number=self.number,
            since_ms=self.since_ms,
            serves_from=self.serves_from,
            learned=self.learner.dump(),
            delays=self.delays.dump(),
            exposures=self._exposures,
            evidence=self.evidence,
            maturity=dict(self.maturity),
            window=self.window.dump(),
        )

    def load(self, record: Record) -> None:
        """Become what was dumped under the same rule. ValueError when it cannot be used."""
        if record.rule != self.rule:
            raise ValueError(f"it was {record.rule.decode()} and is {self.rule.decode()}")
        self.learner.load(record.learned)
        self.delays.load(record.delays)
        self.since_ms = record.since_ms
        self.serves_from = record.serves_from
        self.window = Window(record.window)
        self.evidence = record.evidence
        self.maturity = record.maturity
        self._exposures = record.exposures


def identity(rule: LearnerRule) -> bytes:
    """What makes a learner another one: its kind and its parameters."""
    return msgspec.json.encode([rule.kind, rule.parameters], order="deterministic")
