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

CREDIT = 0.5
"""Share of what was expected of a decision that it is taken to have brought until it is answered or closed. With
nothing, what was chosen a moment ago would look bad wherever it was chosen; with everything, a learner would learn
what it believes (tried on streams with rewards late by days: .69, .75 and .73 of choices right on one, .50, .51 and
.19 on another, with 0, .5 and 1; .25 was better on a third, .29 for .24, and locked onto one arm on a fourth)."""
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
        # A late first answer finds what `closed` left: no reward.
        known = 0.0 if example.late and example.previous is None else example.previous
        if example.reward == known:
            return False
        return self._settled(seen, example, known)

    def _exposed(self, seen: Observation, example: Example) -> bool:
        self.learner.learn(seen._replace(reward=_credit(example), provisional=True))
        self.delays.exposed(seen.arm, example.decided_ms, example.window_ms)
        self._count(seen.arm, 1, 0)
        self._exposures += 1
        if self._exposures % REFRESH_EVERY == 0:
            self.maturity = self.matured(example.at_ms)
        return True

    def _settled(self, seen: Observation, example: Example, known: float | None) -> bool:
        if known is None:
            self.learner.correct(seen._replace(provisional=True), _credit(example))
        else:
            self.learner.correct(seen, known)
        if example.reward > 0.0 and not known:
            self.delays.rewarded(seen.arm, max(0, example.at_ms - example.decided_ms), example.window_ms)
        self._count(seen.arm, 0, int(example.reward > 0.0) - int((known or 0.0) > 0.0))
        return True

    def _closed(self, seen: Observation) -> bool:
        self.learner.learn(seen)
        self._count(seen.arm, 1, int(seen.reward > 0.0))
        return True

    def _count(self, arm: Arm, examples: int, positives: int) -> None:
        known = self.evidence.get(arm, Evidence())
        self.evidence[arm] = Evidence(known.examples + examples, known.positives + positives)

    def matured(self, now_ms: int) -> dict[Arm, float]:
        """What an arm's prediction is to be divided by, above 0; empty when it learns only of what is closed.

        With a share s of what n exposures will bring learned so far, and a prior worth w, p = (w·prior + rewards) /
        (w + n) is to be what it would be of s·n exposures: it is divided by (w + s·n) / (w + n). An open exposure of
        an age at which F of the rewards have come, in an arm of rate π, has brought F + (1 - π·F) · `CREDIT` of it.
        """
        if not self.learner.corrigible:
            return {}
        open_shares = self.delays.open_shares(now_ms)
        return {arm: self._matured(arm, come, open_shares[arm]) for arm, come in self.delays.maturity(now_ms).items()}

    def _matured(self, arm: Arm, come: float, still_open: float) -> float:
        """`come`: share of the arm's rewards that should have come; `still_open`: of its exposures that are open."""
        evidence = self.evidence[arm]
        rate = min(evidence.positives / (come * max(evidence.examples, 1)), 1.0)
        credited = CREDIT * (still_open - rate * max(come - (1.0 - still_open), 0.0))
        return 1.0 - (1.0 - come - credited) * (1.0 - PRIOR_WORTH / (PRIOR_WORTH + evidence.examples))

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


def _credit(example: Example) -> float:
    """The reward of a decision until it is known: a function of the example, so that it can be taken back."""
    return CREDIT * example.propensity


def identity(rule: LearnerRule) -> bytes:
    """What makes a learner another one: its kind and its parameters."""
    return msgspec.json.encode([rule.kind, rule.parameters], order="deterministic")
