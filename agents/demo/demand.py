"""The hidden truth of the simulated world: how likely an offer is taken, what that is worth, what contacts brought."""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random

import msgspec

from agents.demo.population import CATEGORY_SPREAD, REPLENISHED, SHELVES, Person, Product
from engine.outcomes import OutcomeType
from engine.repertoire import Action, Candidate, Repertoire

MARGIN = 0.3
BOUNCES = {"email": 0.02, "sms": 0.01}
"""Share of addresses on a channel that do not work, by channel."""

_NOTICED_AFTER_MINUTES = {"push": 8, "sms": 4, "whatsapp": 5, "email": 75}
"""Median time until a message is noticed, by channel; elsewhere a minute."""
_SELLING = frozenset({"cart", "replenishment", "discovery", "welcome", "win-back"})
"""Groups of actions whose success is an order."""
_GOODWILL = {"recovery": 20.0, "feedback": 3.0, "tiers": 6.0, "window": 2.0, "courtesy": 1.0}
"""What success is worth where nothing is sold, in euros."""
_SERVICES = frozenset({"service", "transactional"})
"""Purposes of contacts that promote nothing."""
_IMPOSSIBLE = -6.0
USUAL = 0.07
"""How many take up an offer that is neither good nor bad."""
BUYERS_SPREAD, LOOKERS_SPREAD, HOURS_SPREAD = 1.5, 1.5, 0.7
"""Standard deviations, in log-odds, of what offers lean to: by category bought or looked at last, and by time."""
SATURDAY = 5


class Demand:
    """What customers make of a repertoire's offers. The same for the same seed.

    An offer is an action on a channel. What everybody makes of it lies around what the operator expects, which is
    right only roughly. To that come things the operator has no idea of, though the engine is told all they depend on
    (what was bought last and looked at last, the time of day, the weekend); what one person makes of channel and
    action, which nobody is told; and what the moment adds.
    """

    def __init__(self, repertoire: Repertoire, seed: int) -> None:
        offers = sorted(repertoire.candidates, key=lambda each: each.treatment.propensity)
        self._actions = {each.action.id: each.action for each in offers}
        self._treatments = {_offer(each): each.treatment for each in offers}
        self._vouchers = _vouchers(offers)
        self._appeals = {_offer(each): _appeal(each, seed) for each in offers}
        self._seed = seed
        self._leanings: dict[str, float] = {}

    def group(self, action: str) -> str:
        """The group of an action; KeyError when there is none of this id."""
        return self._actions[action].group

    def chance(self, person: Person, action: str, channel: str, now_ms: int) -> float:
        """The chance that this person takes an action on a channel; KeyError when it is not offered there.

        Logistic in the appeal to everybody, to people like this one, and to this one, the need of the moment, and how
        tired of messages the person is; times the share of addresses that work.
        """
        log_odds = self._appeals[action, channel] + self._leaning(person, action, channel, now_ms)
        log_odds += person.like(f"channel {channel}", 0.4) + person.like(f"action {action}", 0.5)
        log_odds += _need(person, self._actions[action])
        log_odds -= 0.8 * max(0.0, person.tiredness(now_ms) - 0.5)
        return (1 - BOUNCES.get(channel, 0.0)) / (1 + math.exp(-log_odds))

    def _leaning(self, person: Person, action: str, channel: str, now_ms: int) -> float:
        """What people in the same circumstances make of an offer, in log-odds."""
        hour, weekday = person.local_time(now_ms)
        looked_at = "nothing" if person.looked_at is None else person.looked_at.category
        circumstances = (
            (f"{action} to buyers of {person.bought}", BUYERS_SPREAD),
            (f"{action} to lookers at {looked_at}", LOOKERS_SPREAD),
            (f"{action} {'in the evening' if 17 <= hour < 23 else 'by day'}", HOURS_SPREAD),
            (f"{channel} {'in the evening' if 17 <= hour < 23 else 'by day'}", HOURS_SPREAD),
            (f"{action} {'at the weekend' if weekday >= SATURDAY else 'on a working day'}", HOURS_SPREAD),
        )
        return sum(self._settled(each, spread) for each, spread in circumstances)

    def _settled(self, what: str, spread: float) -> float:
        if what not in self._leanings:
            self._leanings[what] = Random(f"{self._seed}/{what}").gauss(0.0, spread)
        return self._leanings[what]

    def worth(self, person: Person, action: str) -> float:
        """What success brings at this moment, in euros: the margin of the order, or the worth of goodwill.

        Less the voucher, which costs something only when it is used.
        """
        group = self.group(action)
        if group not in _SELLING:
            return _GOODWILL.get(group, 0.0)
        return MARGIN * sum(each.price for each in self.order(person, action)) - self._vouchers.get(action, 0.0)

    def cost(self, action: str, channel: str) -> float:
        """What a contact costs, in euros, whatever comes of it."""
        return self._treatments[action, channel].cost - self._vouchers.get(action, 0.0)

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


def _vouchers(offers: Iterable[Candidate]) -> dict[str, float]:
    """What using the voucher of an action costs: what contacts cost on its cheapest channel."""
    vouchers: dict[str, float] = {}
    for action, treatment in ((each.action, each.treatment) for each in offers):
        if "voucher" in action.tags:
            vouchers[action.id] = min(treatment.cost, vouchers.get(action.id, treatment.cost))
    return vouchers


def _appeal(offer: Candidate, seed: int) -> float:
    """What everybody makes of an offer, in log-odds: operators know their service, and overrate what they promote."""
    expected = _log_odds(min(max(offer.treatment.propensity, 0.005), 0.95))
    if offer.treatment.purpose not in _SERVICES:
        expected = 0.4 * expected + 0.6 * _log_odds(USUAL)
    return expected + Random(f"{seed}/{_offer(offer)}").gauss(0.0, 0.6)


def _log_odds(chance: float) -> float:
    return math.log(chance / (1 - chance))


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
