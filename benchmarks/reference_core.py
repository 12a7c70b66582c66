"""The reference core: the least a decision core in Python and numpy has to do, fused into one function.

Bytes in, bytes out, over the very customers, actions, rules and signals of `benchmarks.workload`: decode, state looked
up and updated, 30 features, 30 predicates as bits of one word, contact policy, Thompson sampling in score space,
arbitration by value, the best three, the decision, and the profile for the changelog.

What it leaves out is what makes an engine: nothing is configured, checked, explained, merged, delivered twice or
given a probability, and windows are plain counters. It is what is left when all of that costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from benchmarks.workload import CHANNELS, EVENTS, NUMBERS, PREDICATES, Message
from engine.expression import Expression
from engine.repertoire import Action, Repertoire

FEATURES = 30
DAY_MS = 86_400_000
HALF_LIFE_MS = 3 * DAY_MS
RING = 8
"""How many of the latest decisions a profile remembers."""
MOST = 3
"""Times an action may be decided for a customer within a day."""
_TIERS, _LANGUAGES, _TOUCHPOINTS = ("basic", "silver", "gold"), ("es", "en", "fr"), ("web", "app", "store")


class Properties(msgspec.Struct, rename="camel", omit_defaults=True):
    """What is read of a signal's properties."""

    product_id: str = ""
    name: str = ""
    category: str = ""
    order_id: str = ""
    price: float = 0.0
    quantity: float = 0.0
    total: float = 0.0
    consents: list[dict[str, str]] = []


class Wire(msgspec.Struct, rename="camel"):
    """What is read of a signal."""

    message_id: str
    user_id: str
    type: str
    event: str = ""
    channel: str = ""
    properties: Properties = msgspec.field(default_factory=Properties)
    traits: dict[str, Any] = {}


class Contact(msgspec.Struct, array_like=True):
    """A decision a profile remembers."""

    decision_id: str
    at_ms: int
    row: int
    action: str
    channel: str


class Profile(msgspec.Struct):
    """What is known of a customer, about 2 KB: traits and their dates, the latest signal of each event, four counters,
    a decayed one, and the latest decisions."""

    customer: str
    traits: dict[str, Any] = {}
    trait_times: dict[str, int] = {}
    consent: dict[str, bool] = {}
    last: dict[str, tuple[int, Properties]] = {}
    views: int = 0
    orders: int = 0
    spent: float = 0.0
    signals: int = 0
    interest: float = 0.0
    seen_ms: int = 0
    viewed_ms: int = 0
    last_total: float = -1.0
    contacts: list[Contact] = []


class Decision(msgspec.Struct, rename="camel"):
    """What goes out."""

    decision_id: str
    customer_id: str
    action: str | None
    channel: str | None
    propensity: float
    priority: float
    contenders: list[str]
    decided_at: int


class ReferenceCore:
    """The fused core over the actions of a repertoire of the workload."""

    def __init__(self, repertoire: Repertoire) -> None:
        actions = list(repertoire.actions.values())
        count = len(actions)
        chance = np.random.RandomState(count)
        self.profiles: dict[str, Profile] = {}
        self._ids = [each.id for each in actions]
        self._channels = [each.treatments[0].channel for each in actions]
        self._by_channel = {
            channel: np.array([each == channel for each in self._channels], dtype=np.float64) for channel in CHANNELS
        }
        self._needs = np.array([_needs(each, repertoire) for each in actions], dtype=np.uint64)
        self._values = np.array([_value(each) for each in actions])
        self._weights = chance.normal(0.0, 0.3, (count, FEATURES))
        self._weights[:, -1] = [math.log(p / (1 - p)) for p in (each.treatments[0].propensity for each in actions)]
        self._variances = chance.uniform(0.001, 0.01, (count, FEATURES))
        self._normal = np.random.default_rng(count).standard_normal
        self._decode = msgspec.json.Decoder(Wire).decode
        self._write = msgspec.json.Encoder().encode
        self._store = msgspec.msgpack.Encoder().encode

    def feed(self, messages: Sequence[Message], now_ms: int, step_ms: int) -> list[bytes]:
        """Handle signals, one every `step_ms`; returns the decisions they caused."""
        decisions: list[bytes] = []
        for message in messages:
            now_ms += step_ms
            signal = self._decode(message.value)
            profile = self.profiles.get(signal.user_id)
            if profile is None:
                profile = self.profiles[signal.user_id] = Profile(signal.user_id)
            _fold(profile, signal, now_ms)
            if signal.event in EVENTS:
                decisions.append(self._decide(profile, signal, now_ms))
            self._store(profile)
        return decisions

    def _decide(self, profile: Profile, signal: Wire, now_ms: int) -> bytes:
        x = _features(profile, signal, now_ms)
        needs = self._needs
        priority = ((needs & _truths(profile, signal, now_ms)) == needs) * self._values
        for channel, by_channel in self._by_channel.items():
            if not profile.consent.get(channel, False):
                priority -= priority * by_channel
        lately = [each.row for each in profile.contacts if now_ms - each.at_ms < DAY_MS]
        for action in lately:
            if lately.count(action) >= MOST:
                priority[action] = 0.0
        score = self._weights @ x
        score += np.sqrt(self._variances @ (x * x)) * self._normal(len(score))
        propensity = 1.0 / (1.0 + np.exp(-score))
        priority *= propensity
        best = []
        for _ in range(3):
            at = int(priority.argmax())
            best.append((at, float(priority[at])))
            priority[at] = 0.0
        at, won = best[0]
        decision = f"{signal.message_id}/1"
        if won > 0.0:
            profile.contacts.append(Contact(decision, now_ms, at, self._ids[at], self._channels[at]))
            del profile.contacts[:-RING]
        return self._write(
            Decision(
                decision_id=decision,
                customer_id=profile.customer,
                action=self._ids[at] if won > 0.0 else None,
                channel=self._channels[at] if won > 0.0 else None,
                propensity=float(propensity[at]),
                priority=won,
                contenders=[self._ids[other] for other, priority in best[1:] if priority > 0.0],
                decided_at=now_ms,
            )
        )


def _needs(action: Action, repertoire: Repertoire) -> int:
    """The predicates an action asks for, as bits in the order of the workload."""
    sources = [repertoire.predicates.source(each) for each in action.engagement.predicates]
    bits = {_canonical(source): 1 << at for at, source in enumerate(PREDICATES)}
    return sum(bits[_canonical(source)] for source in sources)


def _canonical(source: str) -> str:
    return source.replace("'", '"')


def _value(action: Action) -> float:
    return 15.0 if isinstance(action.value, Expression) else action.value


def _fold(profile: Profile, signal: Wire, now_ms: int) -> None:
    if signal.traits:
        profile.traits.update(signal.traits)
        profile.trait_times.update(dict.fromkeys(signal.traits, now_ms))
    for each in signal.properties.consents:
        profile.consent[each["channel"]] = each["status"] == "granted"
    profile.last[signal.event] = now_ms, signal.properties
    profile.signals += 1
    profile.interest = profile.interest * 2.0 ** ((profile.seen_ms - now_ms) / HALF_LIFE_MS) + 1.0
    profile.seen_ms = now_ms
    if signal.event == "Product Viewed":
        profile.views += 1
        profile.viewed_ms = now_ms
    elif signal.event == "Order Completed":
        profile.orders += 1
        profile.spent += signal.properties.total
        profile.last_total = signal.properties.total


def _features(profile: Profile, signal: Wire, now_ms: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    get, properties = profile.traits.get, signal.properties
    tier, language, touchpoint, event = get("tier"), get("language"), signal.channel, signal.event
    return np.array(
        [
            *[get(name, 0) / 100.0 for name in NUMBERS],
            *[tier == each for each in _TIERS],
            *[language == each for each in _LANGUAGES],
            get("has_app", False),
            profile.views / 10.0,
            profile.orders / 10.0,
            profile.spent / 1000.0,
            profile.interest / 10.0,
            (now_ms - profile.viewed_ms) / (30.0 * DAY_MS) if profile.viewed_ms else 1.0,
            properties.price / 100.0,
            *[touchpoint == each for each in _TOUCHPOINTS],
            *[event == each for each in EVENTS],
            properties.quantity / 4.0,
            1.0,
        ],
        dtype=np.float64,
    )


def _truths(profile: Profile, signal: Wire, now_ms: int) -> np.uint64:
    """The predicates that hold, as bits: those of the workload, written out by hand."""
    get, bits, bit = profile.traits.get, 0, 1
    for name in NUMBERS:
        number = get(name, -1)
        if number >= 30:
            bits |= bit
        if 0 <= number < 70:
            bits |= bit << 1
        bit <<= 2
    orders, spent, properties = profile.orders, profile.spent, signal.properties
    others = (
        get("tier") in ("silver", "gold"),
        get("language") != "fr",
        get("has_app") is True,
        profile.views <= 30,
        spent >= 20,
        orders <= 20,
        profile.interest >= 0.2,
        orders > 0 and spent / orders <= 70,
        now_ms - profile.viewed_ms < 360_000_000,
        profile.last_total >= 20,
        orders >= 1,
        spent < 150,
        properties.price >= 30,
        signal.channel != "store",
    )
    for holds in others:
        if holds:
            bits |= bit
        bit <<= 1
    return np.uint64(bits)
