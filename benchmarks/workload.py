"""The workload: a configuration with so many candidates, and the customers and signals that make it decide.

Thirty distinct predicates, each true for about 70 % of decisions; every action asks three of them, so that about a
third of the actions qualify. One treatment per action, spread over three channels, so that actions and candidates
are the same number. Consent, four contact limits and two suppressions are checked on what is left. No quiet hours:
results would depend on the time of day. Everything follows from fixed seeds.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from config import load_directory
from engine.repertoire import Repertoire

EVENTS = ("Product Viewed", "Product Added", "Order Completed", "Search Performed")
"""The events that start a decision, one each."""
CHANNELS = ("email", "push", "sms")
CATEGORIES = ("shoes", "outdoor", "electronics", "home", "coffee", "garden")

NUMBERS = ("age", "income", "tenure", "basket", "visits", "rating", "distance", "loyalty")
"""Traits drawn evenly from 0 to 100."""
_GROUPS = {"sales": ("cross-sell", "upsell", "win-back"), "care": ("service", "advice")}

PREDICATES = (
    *(f"profile.{name} {test}" for name, test in product(NUMBERS, (">= 30", "< 70"))),
    'profile.tier in ["silver", "gold"]',
    'profile.language != "fr"',
    "profile.has_app",
    "aggregates.views_7d <= 30",
    "aggregates.spent_30d >= 20",
    "aggregates.orders_30d <= 20",
    "aggregates.interest >= 0.2",
    "aggregates.average_order <= 70",
    'hours_since(last["Product Viewed"].at_ms) < 100',
    'last["Order Completed"].properties.total >= 20',
    '"regular" in segments',
    '"big-spender" not in segments',
    "signal.properties.price >= 30",
    'signal.channel != "store"',
)


class Message(NamedTuple):
    """A signal as it is published."""

    key: bytes
    value: bytes


# --- The configuration ---


def write_config(
    directory: Path, candidates: int, *, prefix: str = "batuta.", partitions: int = 8, rules: int | None = None
) -> Path:
    """Write the configuration, one file per kind, and return the directory.

    `rules`: so many rules over all actions instead, no two of them alike and nearly all of them true.
    """
    kinds: dict[str, dict[str, Any]] = {
        "engine": {
            "name": "bench",
            "source": "/bench",
            "prefix": prefix,
            "partitions": partitions,
            "timezones": ["Europe/Madrid"],
        },
        "profile": {"traits": _traits(), "aggregates": _aggregates()},
        "segments": {"segments": _SEGMENTS},
        "channels": {"channels": {channel: {"answers": 0.1} for channel in CHANNELS}},
        "actions": {
            "issues": {issue: {"groups": {group: {} for group in groups}} for issue, groups in _GROUPS.items()},
            "actions": _actions(candidates, rules),
        },
        "constraints": _CONSTRAINTS,
        "triggers": {"triggers": {"signalled": {"on": EVENTS, "answer": "always"}}},
    }
    for kind, body in kinds.items():
        # JSON is YAML.
        text = msgspec.json.format(msgspec.json.encode({"kind": kind, **body}), indent=2)
        (directory / f"{kind}.yaml").write_bytes(text)
    return directory


def load(candidates: int, *, partitions: int = 1, rules: int | None = None) -> Repertoire:
    """The compiled configuration."""
    with tempfile.TemporaryDirectory() as directory:
        return load_directory(write_config(Path(directory), candidates, partitions=partitions, rules=rules))


def _traits() -> dict[str, dict[str, str]]:
    others = {
        "tier": "string",
        "language": "string",
        "has_app": "boolean",
        "first_name": "string",
        "timezone": "string",
    }
    return {name: {"type": kind} for name, kind in {**dict.fromkeys(NUMBERS, "number"), **others}.items()}


def _aggregates() -> dict[str, dict[str, Any]]:
    total = "signal.properties.total"
    orders, views = ["Order Completed"], ["Product Viewed"]
    return {
        "views_7d": {"function": "count", "events": views, "window": {"sliding": "7d", "buckets": 7}},
        "spent_30d": {"function": "sum", "events": orders, "of": total, "window": {"sliding": "30d"}},
        "orders_30d": {"function": "count", "events": orders, "window": {"sliding": "30d"}},
        "average_order": {"function": "mean", "events": orders, "of": total},
        "interest": {"function": "count", "events": list(EVENTS), "window": {"decayed": "3d"}},
        "views_by_category": {"function": "count", "events": views, "by": "signal.properties.category"},
    }


_SEGMENTS = {
    "regular": {"when": "aggregates.orders_30d >= 1"},
    "big-spender": {"when": "aggregates.spent_30d >= 150"},
    "curious": {"when": "aggregates.views_7d >= 3"},
}

_CONSTRAINTS = {
    "contact_limits": {
        "email-day": {"limit": 20, "per": "day", "scope": {"channels": ["email"]}},
        "push-week": {"limit": 60, "rolling": "7d", "scope": {"channels": ["push"]}},
        "promo-month": {"limit": 100, "rolling": "30d", "scope": {"tags": ["promo"]}},
        "any-week": {"limit": 150, "rolling": "7d"},
    },
    "suppressions": {
        "seen-enough": {"outcome": "contact", "threshold": 3, "within": "1d", "pause": "1d"},
        "said-no": {"outcome": "reject", "threshold": 1, "within": "1d", "pause": "30d", "across_channels": True},
    },
}


def _actions(candidates: int, rules: int | None) -> dict[str, dict[str, Any]]:
    draw = random.Random(candidates)
    groups = [group for each in _GROUPS.values() for group in each]
    actions = {f"action-{at:03d}": _action(at, groups[at % len(groups)], draw) for at in range(candidates)}
    if rules is not None:
        for at, action in enumerate(actions.values()):
            own = [_rule(number) for number in range(at, rules, candidates)]
            action |= {"eligibility": own[::3], "applicability": own[1::3], "suitability": own[2::3]}
    return actions


def _rule(number: int) -> str:
    """The n-th of many comparisons, each with a number of its own; nearly all hold."""
    name, step = NUMBERS[number // 4 % len(NUMBERS)], number / 1_000
    return (
        f"profile.{name} >= {step}",
        f"profile.{name} < {98 + step}",
        f"aggregates.interest < {1_000 + step}",
        f"signal.properties.price < {98 + step}",
    )[number % 4]


def _action(at: int, group: str, draw: random.Random) -> dict[str, Any]:
    eligible, applicable, suitable = draw.sample(PREDICATES, 3)
    content = {"title": f"Offer {at} for {{profile.first_name|you}}", "body": "Only this week, and only for members."}
    return {
        "group": group,
        "eligibility": [eligible],
        "applicability": [applicable],
        "suitability": [suitable],
        "tags": ["promo"] if at % 3 == 0 else [],
        "value": "10 + 0.1 * default(aggregates.average_order, 50)" if at % 5 == 0 else draw.randint(5, 60),
        "propensity": round(draw.uniform(0.02, 0.3), 3),
        "treatments": {f"treatment-{at:03d}": {"channel": CHANNELS[at % len(CHANNELS)], "content": content}},
    }


# --- Customers and their signals ---


def introductions(customers: int, *, further: int = 0) -> list[Message]:
    """Two signals per customer that start no decision: who they are, and what they consented to.

    `further`: how many traits of 40 characters there are besides those that rules look at.
    """
    draw = random.Random(customers)
    return [message for number in range(customers) for message in _introduction(number, further, draw)]


def _introduction(number: int, further: int, draw: random.Random) -> Iterator[Message]:
    traits = {
        **{f"further_{at:03d}": f"{at:03d}{number:037d}" for at in range(further)},
        **{name: draw.randrange(100) for name in NUMBERS},
        "tier": draw.choice(("basic", "silver", "gold")),
        "language": draw.choice(("es", "en", "fr")),
        "has_app": draw.random() < 0.7,
        "first_name": draw.choice(("Ana", "Luis", "Eva", "Hugo")),
        "timezone": "Europe/Madrid",
    }
    consents = [
        {"channel": channel, "purpose": "marketing", "status": "granted" if draw.random() < 0.9 else "denied"}
        for channel in CHANNELS
    ]
    yield _message(number, f"identify-{number}", {"type": "identify", "traits": traits})
    asked = {"type": "track", "event": "Consent Updated", "properties": {"consents": consents}}
    yield _message(number, f"consent-{number}", asked)


def signals(count: int, customers: int, run: str) -> list[Message]:
    """Signals that start one decision each, of customers drawn evenly; the n-th has `messageId` `<run>-<n>`."""
    draw = random.Random(f"{run}/{count}")
    return [_signal(f"{run}-{at}", draw.randrange(customers), draw) for at in range(count)]


def _signal(message_id: str, customer: int, draw: random.Random) -> Message:
    event = draw.choices(EVENTS, (6, 2, 1, 3))[0]
    properties = {
        "productId": f"sku-{draw.randrange(5_000)}",
        "name": "A product with a name of usual length",
        "category": draw.choice(CATEGORIES),
        "price": draw.randrange(1, 100),
        "quantity": draw.randrange(1, 4),
        "coupon": None,
    }
    if event == "Order Completed":
        properties |= {"orderId": f"order-{draw.randrange(10**9)}", "total": draw.randrange(5, 100)}
    body = {
        "type": "track",
        "event": event,
        "channel": draw.choice(("web", "app", "store")),
        "properties": properties,
        "context": {"library": {"name": "analytics.js", "version": "2.1"}, "locale": "es-ES", "page": "/catalogue"},
    }
    return _message(customer, message_id, body)


def _message(customer: int, message_id: str, body: dict[str, Any]) -> Message:
    user = f"customer-{customer:06d}"
    return Message(user.encode(), msgspec.json.encode({"messageId": message_id, "userId": user, **body}))


def mean_size(values: Sequence[bytes]) -> int:
    """Mean length in bytes."""
    return sum(map(len, values)) // len(values)
