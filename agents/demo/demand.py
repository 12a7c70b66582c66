"""The hidden truth of the simulated world: how likely an offer is taken, what that is worth, what contacts brought."""

from __future__ import annotations

import math
from random import Random

import msgspec

from agents.demo.population import CATEGORY_SPREAD, REPLENISHED, SHELVES, Person, Product
from engine.outcomes import OutcomeType
from engine.repertoire import Action, Candidate, Repertoire, Treatment

MARGIN = 0.3
BOUNCES = {"email": 0.02, "sms": 0.01}
"""Share of addresses on a channel that do not work, by channel."""

_NOTICED_AFTER_MINUTES = {"push": 8, "sms": 4, "whatsapp": 5, "email": 75}
"""Median time until a message is noticed, by channel; elsewhere a minute."""
_SELLING = frozenset({"cart", "replenishment", "discovery", "welcome", "win-back"})
"""Groups of actions whose success is an order."""
_GOODWILL = {"recovery": 20.0, "feedback": 3.0, "tiers": 6.0, "window": 2.0, "courtesy": 1.0}
"""What success is worth where nothing is sold, in euros."""
_IMPOSSIBLE = -6.0


class Demand:
    """What customers make of a repertoire's offers. The same for the same seed.

    An offer is an action on a channel. What everybody makes of it lies around what the operator expects, which is
    right only roughly; to that come what one person makes of channel and action, and what the moment adds.
    """

    def __init__(self, repertoire: Repertoire, seed: int) -> None:
        offers = sorted(repertoire.candidates, key=lambda each: each.treatment.propensity)
        self._actions = {each.action.id: each.action for each in offers}
        self._treatments = {_offer(each): each.treatment for each in offers}
        self._appeals = {at: _appeal(at, each, seed) for at, each in self._treatments.items()}

    def group(self, action: str) -> str:
        """The group of an action; KeyError when there is none of this id."""
        return self._actions[action].group

    def chance(self, person: Person, action: str, channel: str, now_ms: int) -> float:
        """The chance that this person takes an action on a channel; KeyError when it is not offered there.

        Logistic in the appeal to everybody, the person's likes, the need of the moment, and how tired of messages
        the person is; times the share of addresses that work.
        """
        log_odds = self._appeals[action, channel]
        log_odds += person.like(f"channel {channel}", 0.8) + person.like(f"action {action}", 1.0)
        log_odds += _need(person, self._actions[action])
        log_odds -= 0.8 * max(0.0, person.tiredness(now_ms) - 0.5)
        return (1 - BOUNCES.get(channel, 0.0)) / (1 + math.exp(-log_odds))

    def worth(self, person: Person, action: str) -> float:
        """What success brings at this moment, in euros: the margin of the order, or the worth of goodwill."""
        group = self.group(action)
        if group not in _SELLING:
            return _GOODWILL.get(group, 0.0)
        return MARGIN * sum(each.price for each in self.order(person, action))

    def cost(self, action: str, channel: str) -> float:
        """What a contact costs, in euros."""
        return self._treatments[action, channel].cost

    def purpose(self, action: str, channel: str) -> str:
        """The purpose a contact needs consent for."""
        return self._treatments[action, channel].purpose

    def sells(self, action: str) -> bool:
        """Whether success is an order."""
        return self.group(action) in _SELLING

    def order(self, person: Person, action: str) -> list[Product]:
        """What the person buys when an action that sells succeeds; empty when there is nothing left to buy."""
        group = self.group(action)
        if group == "cart":
            return list(person.basket)
        if group == "discovery":
            return [] if person.looked_at is None else [person.looked_at]
        return [min(SHELVES[person.usual_category], key=lambda each: abs(each.price - person.usual_order))]


def _offer(candidate: Candidate) -> tuple[str, str]:
    return candidate.action.id, candidate.treatment.channel


def _appeal(offer: tuple[str, str], treatment: Treatment, seed: int) -> float:
    expected = min(max(treatment.propensity, 0.005), 0.95)
    return math.log(expected / (1 - expected)) + Random(f"{seed}/{offer}").gauss(-0.2, 0.5)


def _need(person: Person, action: Action) -> float:
    """What the moment adds, in log-odds."""
    need = 3.0 * (person.thrift - 0.5) if "voucher" in action.tags else 0.0
    if action.group == "cart":
        return need + (0.3 * len(person.basket) if person.basket else _IMPOSSIBLE)
    if action.group == "replenishment":
        return need + (0.5 if person.usual_category in REPLENISHED else _IMPOSSIBLE)
    if action.group == "discovery":
        seen = person.looked_at
        return need + (_IMPOSSIBLE if seen is None else 0.4 * person.like(f"category {seen.category}", CATEGORY_SPREAD))
    if action.group == "recovery":
        return need + (0.5 if person.unhappy else _IMPOSSIBLE)
    return need


# --- How people react ---


def noticed_at_ms(person: Person, channel: str, at_ms: int, random: Random) -> int:
    """When a message that arrives at `at_ms` is noticed: after a while that depends on the channel, and awake."""
    median_ms = _NOTICED_AFTER_MINUTES.get(channel, 1) * 60_000
    return person.awake_at(at_ms + int(median_ms * random.lognormvariate(0.0, 0.8)))


def refusal(draw: float, tired: float) -> OutcomeType | None:
    """How somebody who saw an offer does not take it, by a draw from [0, 1); the more tired, the harder."""
    annoyed = 0.3 + 0.7 * min(tired, 2.0)
    refusals: tuple[tuple[OutcomeType, float], ...] = (("unsubscribe", 0.008), ("reject", 0.03), ("dismiss", 0.15))
    for what, share in refusals:
        draw -= share * annoyed
        if draw < 0:
            return what
    return "click" if draw < 0.1 else None


# --- What it brought ---


class Earnings(msgspec.Struct):
    """What decisions brought, in euros.

    `choices`: decisions where more actions qualified than could be given. `expected`: the true expected rewards of
    those added up, which tells policies apart long before luck averages out; `squares`: of them. `realised`: what
    all successes so far were worth, less what all contacts cost.
    """

    choices: int = 0
    expected: float = 0.0
    squares: float = 0.0
    realised: float = 0.0

    def choose(self, expected: float) -> None:
        """One of several actions was chosen."""
        self.choices += 1
        self.expected += expected
        self.squares += expected * expected

    def per_thousand(self) -> float:
        """Expected reward per 1,000 choices; 0 without any."""
        return 1_000 * self.expected / self.choices if self.choices else 0.0

    def error_per_thousand(self) -> float:
        """Standard error of `per_thousand`, as if choices were independent."""
        if self.choices < 2:
            return 0.0
        variance = self.squares / self.choices - (self.expected / self.choices) ** 2
        return 1_000 * math.sqrt(max(0.0, variance) / self.choices)
