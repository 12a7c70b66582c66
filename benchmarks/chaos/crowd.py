"""The crowd: customers whose every signal counts, and the configuration that counts it.

A signal carries its number; a profile keeps how many signals it has seen and the sum of their numbers, so that one
lost and another repeated do not cancel out. Every signal asks for exactly one decision, and a decision's content says
how many signals its customer had sent by then: made again from other state, it has other bytes. Offers are capped by
two limits that bite. Many customers are anonymous first and log in later, some come back under the old identifier,
and one signal of each starts a wait whose end is the decision. Everything but the times follows from the seed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import msgspec

from benchmarks.chaos.notes import Kind

SEEN, TOTAL = "seen", "total"
"""Aggregates: how many signals, and the sum of their numbers."""
OFFERS, NOTICED = ("offer-red", "offer-blue"), "noticed"
"""The actions that limits hold back; the trigger that decides at once."""
BURST, BURST_MS, MOST = 2, 10_000, 8
"""No customer gets more than `BURST` offers within `BURST_MS`, or more than `MOST` in an hour."""
MODELS, WINDOW_SECONDS, MOST_BROUGHT = ("red", "azure"), 45, 100
"""The models, one for each offer, in partitions that two learners share between them; how long an offer is waited
for, longer than any outage: once it is over, a history may drop the offer of an action that was answered before; what
counts as the greatest success."""
WAIT_SECONDS = 2
"""How long a reminder waits."""

_EVENTS = ("Item Viewed", "Item Added", "identify")
_REMINDER = "Reminder Asked"
_DEVICES = 3
"""Anonymous identifiers of one customer, at most; five would be demoted."""
_REPEATABLE = 5
"""A message is repeated while it is among so many last ones of its customer; profiles remember more."""
_EAGER = 2
"""So many customers send far more than the others: between two commits more than profiles remember the ids of."""
_LONG_BYTES = 5_000_000


class Message(NamedTuple):
    """One message as it is published; the other fields are as in `notes.Sent`."""

    routing: bytes | None
    value: bytes | None
    kind: Kind
    message_id: str
    number: int
    key: str
    joins: str = ""


class Shares(NamedTuple):
    """Shares from 0 to 1: of messages nobody can use and of duplicates among all, of signals with old times, and of
    what the eager customers say.
    """

    poison: float = 0.01
    duplicates: float = 0.03
    late: float = 0.1
    eager: float = 0.15


_USUAL = Shares()


# --- The configuration ---


def write_config(
    directory: Path, *, name: str, prefix: str, partitions: int, padding: int = 0, learns: bool = False
) -> Path:
    """Write the configuration, one file per kind, and return the directory.

    `padding`: characters per decision. `learns`: whether models score the offers and learn from what they bring.
    """
    kinds = dict(_kinds(name, prefix, partitions, padding))
    if learns:
        kinds["models"] = _models()
        for offer in OFFERS:
            kinds["actions"]["actions"][offer]["answerable"] = "1h"
    for kind, body in kinds.items():
        # JSON is YAML.
        text = msgspec.json.format(msgspec.json.encode({"kind": kind, **body}), indent=2)
        (directory / f"{kind}.yaml").write_bytes(text)
    return directory


def _kinds(name: str, prefix: str, partitions: int, padding: int) -> Mapping[str, dict[str, Any]]:
    number = "signal.properties.number"
    content = {SEEN: f"{{aggregates.{SEEN}}}", **({"text": "x" * padding} if padding else {})}
    return {
        "engine": {"name": name, "source": "/chaos", "prefix": prefix, "partitions": partitions},
        "profile": {
            "aggregates": {SEEN: {"function": "count"}, TOTAL: {"function": "sum", "of": number}},
            "limits": {"contacts": 60},
        },
        "channels": {"channels": {"push": {}, "email": {}}},
        "actions": {
            "issues": {"all": {"groups": {"offers": {}, "answers": {}}}},
            "actions": {
                OFFERS[0]: _action(OFFERS[0], "offers", "default", "push", content),
                OFFERS[1]: _action(OFFERS[1], "offers", "default", "email", content),
                "answer": _action("answer", "answers", "transactional", "push", content),
                "reminder": _action("reminder", "answers", "transactional", "email", content),
            },
        },
        "triggers": {
            "triggers": {
                NOTICED: {
                    "on": list(_EVENTS),
                    "consider": {"groups": ["offers"]},
                    "fallback": "answer",
                    "answer": "always",
                },
                "reminded": {
                    "on": _REMINDER,
                    "after": f"{WAIT_SECONDS}s",
                    "consider": {"actions": ["reminder"]},
                    "answer": "always",
                },
            }
        },
        "constraints": {
            "purposes": {"free": "none"},
            "contact_limits": {
                "burst": {"limit": BURST, "rolling": f"{BURST_MS // 1000}s"},
                "most": {"limit": MOST, "rolling": "1h"},
            },
        },
        "arbitration": {"exploration": {"epsilon": 0.3}},
    }


def _action(name: str, group: str, kind: str, channel: str, content: Mapping[str, str]) -> dict[str, Any]:
    treatment = {"channel": channel, "purpose": "free", "content": content}
    return {"group": group, "class": kind, "expires_after": "3s", "treatments": {f"{name}-{channel}": treatment}}


def _models() -> dict[str, Any]:
    """A model for each offer; an offer is worth what its purchases bring, so that none may count twice."""
    return {
        "features": {"attention": {"value": f"log1p(aggregates.{SEEN})"}},
        "models": {
            model: {
                "scope": {"actions": [offer]},
                "reward": {"type": "money", "most": MOST_BROUGHT},
                "window": f"{WINDOW_SECONDS}s",
                "learners": {"linear": {"kind": "bayesian-linear"}},
            }
            for model, offer in zip(MODELS, OFFERS, strict=True)
        },
    }


# --- Customers ---


class _Person:
    """One customer. `device`: the anonymous identifier in use; `left`: signals until the login that names both.

    The eager ones have none: what they say goes one way, in order.
    """

    def __init__(self, number: int) -> None:
        self.eager = number < _EAGER
        self.user = f"user-{number:06d}"
        self.device = ""
        self.left = 0
        self.known: list[str] = []
        self.reminded = False
        self.said: deque[Message] = deque(maxlen=_REPEATABLE)

    def repeatable(self) -> list[Message]:
        """What was said a moment ago by name: all of that goes one way, so that a repetition comes after it."""
        return [each for each in self.said if each.key == self.user]

    def take_device(self, draw: random.Random) -> None:
        self.device = f"anon-{self.user}-{len(self.known)}"
        self.left = draw.randint(1, 8)


class Crowd:
    """Customers who act for ever. `run`: sets the ids of its messages apart; `clock`: epoch seconds, for old times."""

    def __init__(
        self, seed: str, customers: int, run: str, shares: Shares = _USUAL, clock: Callable[[], float] = time
    ) -> None:
        self._draw = random.Random(seed)
        self._run = run
        self._shares = shares
        self._clock = clock
        self._people = [_Person(number) for number in range(customers)]
        self._number = 0
        for person in self._people[_EAGER::2]:
            person.take_device(self._draw)

    def next(self) -> Message:
        """What happens next."""
        chance = self._draw.random()
        if chance < self._shares.poison:
            return self._poison()
        eager = self._draw.random() < self._shares.eager
        person = self._draw.choice(self._people[:_EAGER] if eager else self._people)
        if chance < self._shares.poison + self._shares.duplicates and (said := person.repeatable()):
            return self._draw.choice(said)._replace(kind="duplicate")
        person.said.append(message := self._signal(person))
        return message

    def _signal(self, person: _Person) -> Message:
        if person.device:
            person.left -= 1
            return self._log_in(person) if person.left < 0 else self._by_device(person.device)
        chance = self._draw.random()
        if chance < 0.1 and person.known:
            return self._by_device(self._draw.choice(person.known))
        if chance < 0.15 and not person.eager and len(person.known) < _DEVICES:
            person.take_device(self._draw)
            return self._by_device(person.device)
        if chance < 0.2 and not person.reminded:
            person.reminded = True
            return self._by_name(person, _REMINDER)
        return self._by_name(person, self._draw.choice(_EVENTS[:2]))

    def _by_device(self, device: str) -> Message:
        """A signal that names a device only; after its login it goes to the customer by a longer way."""
        who = {"type": "track", "event": _EVENTS[0], "anonymousId": device}
        return self._message(f"anonymousId:{device}", who, device)

    def _log_in(self, person: _Person) -> Message:
        device, person.device = person.device, ""
        person.known.append(device)
        who = {"type": "identify", "userId": person.user, "anonymousId": device}
        return self._message(person.user, who, person.user, joins=f"anonymousId:{device}")

    def _by_name(self, person: _Person, event: str) -> Message:
        who = {"type": "track", "event": event, "userId": person.user}
        return self._message(person.user, who, person.user)

    def _message(self, key: str, body: Mapping[str, Any], routing: str, joins: str = "") -> Message:
        number, self._number = self._number, self._number + 1
        message_id = f"{self._run}-{number}"
        late = self._draw.random() < self._shares.late
        value = {"messageId": message_id, **body, "properties": {"number": number}, **(self._old() if late else {})}
        return Message(routing.encode(), msgspec.json.encode(value), "signal", message_id, number, key, joins)

    def _old(self) -> dict[str, str]:
        """A time of the last hour, as of an app that was offline."""
        at = datetime.fromtimestamp(self._clock() - self._draw.randrange(3600), UTC)
        return {"timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z")}

    # --- What nobody can use ---

    def _poison(self) -> Message:
        """Something that must end among the rejects; every so often between the signals of a customer."""
        value = self._draw.choices(_POISON, _WEIGHTS)[0]
        routing = None if self._draw.random() < 0.5 else self._draw.choice(self._people).user.encode()
        return Message(routing, value, "poison", "", -1, "")


def _nested(levels: int) -> bytes:
    return b'{"type":"track","event":"e","userId":"u","properties":{"a":' + b"[" * levels + b"]" * levels + b"}}"


_POISON = (
    None,
    b"",
    b"\xff\xfe\x00",
    b"not json",
    b'{"type":"track","event":"Item Viewed"',
    b"[]",
    b'{"type":7,"event":"e","userId":"u"}',
    b'{"type":"track","event":"e","userId":["u"]}',
    b'{"type":"track","event":"e","userId":"u","properties":"none"}',
    b'{"type":"dance","userId":"u"}',
    b'{"type":"track","event":"e"}',
    b'{"type":"track","event":"e","userId":"u","timestamp":"yesterday"}',
    b'{"type":"track","event":"e","userId":"\xc3\x28"}',
    _nested(30),
    _nested(50_000),
    b'{"type":"track","event":"e","userId":"u","properties":{"text":"' + b"x" * _LONG_BYTES + b'"}}',
)
_WEIGHTS = (*(100 for _ in _POISON[:-2]), 30, 5)
