"""Hypothesis strategies for messages: valid ones with odd content, and what is left of them after an accident."""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import strategies as st

from engine.signal import SIGNAL_TYPES, ExternalId, Signal
from tests.repertoires import START_MS

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
IDS = st.sampled_from(["u1", "u2", "null", "-1", "000", "email:x@y.z", "userId:u1", "ñandú", "budget:b", "a:b:c"])


def _present(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these fields, each of which may also be null."""
    return st.fixed_dictionaries({}, optional={name: st.none() | field for name, field in fields.items()})


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """The body of a valid signal of any type, with whatever free JSON; every field that may be missing may be."""
    kind = draw(st.sampled_from(SIGNAL_TYPES))
    body: dict[str, Any] = {"type": kind, draw(st.sampled_from(["userId", "anonymousId"])): draw(IDS)}
    body |= draw(
        _present(messageId=TEXT, channel=TEXT, properties=OBJECTS, traits=OBJECTS, context=OBJECTS, other=JSON)
    )
    if kind == "track":
        body["event"] = draw(st.sampled_from(["Go", "Later", "Consent Updated", "Decision Requested"]))
    if kind == "alias":
        body["previousId"] = draw(IDS)
    if draw(st.booleans()):
        kinds = st.sampled_from(["email", "phone", "userId", "a:b", "externalId"])
        body["externalIds"] = draw(st.lists(st.fixed_dictionaries({"type": kinds, "id": IDS}), min_size=1, max_size=3))
    return body


def signals(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Signal]:
    """Decoded signals of one customer, at up to a thousand moments; keyword arguments replace fields."""
    names = ("email", "phone")
    return st.builds(
        Signal,
        **{
            "message_id": st.uuids().map(str),
            "type": st.just("track"),
            "time_ms": st.integers(0, 1_000).map(lambda seconds: START_MS + seconds * 1_000),
            "event": st.sampled_from(["Go", "Later", "Other"]),
            "user_id": st.just("u1"),
            "external_ids": st.lists(st.builds(ExternalId, type=st.sampled_from(names), id=IDS), max_size=2).map(tuple),
            "properties": OBJECTS,
            "traits": st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON, max_size=3),
            **fields,
        },
    )


# --- Accidents ---

ODD: tuple[Any, ...] = (
    None,
    0,
    -1,
    2**63,
    2**70,
    1e308,
    "",
    "x" * 300,
    [],
    [[]],
    {},
    {"a": {"a": []}},
    True,
    "2026-13-40T99:99:99Z",
    "\x00",
)
GARBAGE = (
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"NaN",
    b"1e999",
    b"[" * 40,
    b'"',
    b"{",
    b"\x00",
    b"9" * 30,
    b",",
    b"\\",
)


def mutated(value: bytes, chance: random.Random) -> bytes:
    """What an accident makes of a message: a field of another kind, or some bytes lost, changed or doubled."""
    if chance.random() < 0.5:
        return _with_odd_field(value, chance)
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(value) + 1)
        end = min(len(value), start + chance.choice((0, 0, 1, 1, 2, 8, 40)))
        put = chance.choice((*GARBAGE, b"", value[start:end] * 2, chance.randbytes(2)))
        value = value[:start] + put + value[end:]
    return value


def _with_odd_field(value: bytes, chance: random.Random) -> bytes:
    body = json.loads(value)
    name = chance.choice([*body, "type", "userId", "timestamp", "externalIds", "traits"])
    if chance.random() < 0.3:
        body.pop(name, None)
    else:
        body[name] = chance.choice(ODD)
    return json.dumps(body).encode()
