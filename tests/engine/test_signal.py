"""The only door in: what is a signal, what is not, and which code says so."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.calendar import format_rfc3339
from engine.record import Headers, Record
from engine.rejects import CODES, Reject
from engine.signal import MAX_BYTES, MAX_DEPTH, MAX_KIND, SIGNAL_TYPES, Signal, decode_signal
from engine.wire import is_deeper
from tests.engine.strategies import JSON, bodies
from tests.repertoires import START_MS, a_signal

MAX_FUTURE_MS = 600_000


def decode(value: bytes | None, headers: Headers = ()) -> Signal | Reject:
    """Decode a record of partition 3 at offset 17."""
    return decode_signal(Record("signals", 3, 17, START_MS, None, value, headers), "signals:3:17", MAX_FUTURE_MS)


def accepted(value: bytes, headers: Headers = ()) -> Signal:
    """Decode what must be a signal."""
    signal = decode(value, headers)
    assert isinstance(signal, Signal), signal
    return signal


def nested(levels: int, field: str = "properties") -> bytes:
    """A signal whose deepest value lies in so many objects and arrays."""
    inner = "[" * (levels - 2) + "]" * (levels - 2)
    return b'{"type":"track","event":"Go","userId":"u1","%s":{"a":%s}}' % (field.encode(), inner.encode())


def ahead(milliseconds: int) -> str:
    """A timestamp so far ahead of the broker's."""
    return format_rfc3339(START_MS + milliseconds)


FAULTS: list[tuple[str, bytes | None, str, str]] = [
    ("no value", None, "empty", "no value"),
    ("nothing", b"", "empty", "no value"),
    ("oversized", a_signal(properties={"a": "x" * MAX_BYTES}), "too-large", "at most 262144"),
    ("broken JSON", b'{"type": "track"', "not-json", "not JSON"),
    ("two values", b"{} {}", "not-json", "not JSON"),
    ("NaN", b'{"type":"page","userId":"u","properties":{"a":NaN}}', "not-json", "not JSON"),
    ("lone surrogate", b'{"type":"page","userId":"\\ud800"}', "not-json", "not JSON"),
    ("lone surrogate in UTF-8", b'{"type":"page","userId":"\xed\xa0\x80"}', "not-utf8", "byte 25"),
    ("not UTF-8", b'{"type":"page","userId":"\xff"}', "not-utf8", "byte 25"),
    ("not UTF-8 where nobody looks", b'{"type":"page","userId":"u","x":"\xff"}', "not-utf8", "byte 33"),
    ("too deep", nested(MAX_DEPTH + 1), "too-deep", "deeper than 16"),
    ("too deep where nobody looks", nested(MAX_DEPTH + 1, "other"), "too-deep", "deeper than 16"),
    ("far too deep", nested(5_000), "too-deep", "nested"),
    ("far too deep where nobody looks", nested(5_000, "other"), "too-deep", "nested"),
    ("an array", b"[]", "wrong-type", "the message: expected `object`, got `array`"),
    ("a number for an id", a_signal(user=None, userId=7), "wrong-type", "userId: expected `str | null`, got `int`"),
    ("a list of properties", a_signal(properties=[]), "wrong-type", "properties: expected `object | null`"),
    ("a number in externalIds", a_signal(externalIds=[{"type": "email", "id": 7}]), "wrong-type", "externalIds[0].id"),
    ("an external id without type", a_signal(externalIds=[{"id": "x"}]), "missing-field", "externalIds[0]"),
    ("an integer beyond 64 bits", a_signal(properties={"a": [2**63]}), "number-out-of-range", "64 bits"),
    ("a deep one below", a_signal(traits={"a": {"b": -(2**63) - 1}}), "number-out-of-range", "64 bits"),
    ("a float beyond 64 bits", b'{"type":"page","userId":"u","traits":{"a":1e999}}', "number-out-of-range", "traits"),
    ("no type", a_signal(None, type=None), "missing-field", "type is missing"),
    ("another type", a_signal(type="purchase"), "unknown-type", "'purchase'; expected one of track, identify"),
    ("a track of nothing", a_signal(None), "missing-field", "event is missing"),
    ("a track of an empty event", a_signal(""), "missing-field", "event is missing"),
    ("an alias of nobody", a_signal(type="alias"), "missing-field", "previousId is missing"),
    ("nobody", a_signal(user=None), "missing-identifier", "expected userId, anonymousId or externalIds"),
    ("nobody, in empty texts", a_signal(user="", anonymousId="", externalIds=[]), "missing-identifier", "Nobody"),
    ("a long message id", a_signal(messageId="x" * 129), "too-long", "messageId has 129 characters; at most 128"),
    ("a long user id", a_signal(user="x" * 257), "too-long", "userId has 257"),
    ("a long anonymous id", a_signal(anonymousId="x" * 257), "too-long", "anonymousId has 257"),
    ("a long previous id", a_signal(type="alias", previousId="x" * 257), "too-long", "previousId has 257"),
    ("a long event", a_signal("x" * 257), "too-long", "event has 257"),
    ("a long channel", a_signal(channel="x" * 257), "too-long", "channel has 257"),
    ("many external ids", a_signal(externalIds=[{"type": "a", "id": "b"}] * 33), "too-long", "33 entries; at most 32"),
    ("an empty external id", a_signal(externalIds=[{"type": "a", "id": ""}]), "too-long", "externalIds[0].id has 0"),
    (
        "a long kind",
        a_signal(externalIds=[{"type": "a" * (MAX_KIND + 1), "id": "b"}]),
        "too-long",
        "externalIds[0].type has 129",
    ),
    ("no date", a_signal(timestamp="yesterday"), "bad-timestamp", "'yesterday' is not an RFC 3339"),
    ("an impossible date", a_signal(timestamp="2026-02-30T10:00:00Z"), "bad-timestamp", "exist"),
    ("no offset", a_signal(timestamp="2026-01-05T08:00:00"), "bad-timestamp", "offset included"),
    ("the future", a_signal(timestamp=ahead(MAX_FUTURE_MS + 1_000)), "future-timestamp", "601 s ahead"),
]


@pytest.mark.parametrize(("value", "code", "said"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_every_fault_has_its_code_and_says_what_is_wrong(value: bytes | None, code: str, said: str) -> None:
    """Each rule of the contract's table fires, with the value seen or the form expected in its sentence."""
    reject = decode(value)
    assert isinstance(reject, Reject), reject
    assert (reject.code, said in reject.sentence) == (code, True), reject
    assert reject.code in CODES
    assert reject.sentence.endswith(".")


@pytest.mark.parametrize("kind", SIGNAL_TYPES)
def test_all_six_types(kind: str) -> None:
    """Each type of the Segment spec is a signal; what is named is the event of a track, else the type."""
    signal = accepted(a_signal("Go", type=kind, previousId="u0"))
    assert (signal.type, signal.name) == (kind, "Go" if kind == "track" else kind)


def test_what_is_absent_has_its_default() -> None:
    """Nulls and absent fields are the same: message id from the record's place, time from the broker, empty objects."""
    nulls = dict.fromkeys(("messageId", "anonymousId", "timestamp", "channel", "properties", "externalIds", "context"))
    for value in (a_signal(), json.dumps({**json.loads(a_signal()), **nulls}).encode(), a_signal(messageId="")):
        assert accepted(value) == Signal("signals:3:17", "track", START_MS, "Go", "u1")


def test_limits_are_inclusive() -> None:
    """What is exactly as long, deep, large or early as it may be is accepted."""
    accepted(nested(MAX_DEPTH))
    accepted(a_signal("e" * 256, user="u" * 256, messageId="m" * 128, channel="c" * 256))
    accepted(a_signal(externalIds=[{"type": "t" * MAX_KIND, "id": "i" * 256}] * 32))
    accepted(a_signal(properties={"a": [2**63 - 1, -(2**63), "9" * 40]}))
    assert accepted(a_signal(timestamp=ahead(MAX_FUTURE_MS))).time_ms == START_MS + MAX_FUTURE_MS
    whole = a_signal(properties={"a": ""})
    accepted(a_signal(properties={"a": "x" * (MAX_BYTES - len(whole))}))


def test_brackets_in_texts_are_not_levels() -> None:
    """Depth is that of the structure, whatever the texts look like."""
    accepted(a_signal(properties={'"]}' * 9: '\\"[[[{{{' * 9, "b": "\\"}, traits={"a": "[" * 40}))


@given(JSON, st.integers(0, 6))
def test_depth_is_counted_from_bytes_as_from_values(value: Any, levels: int) -> None:
    """Reading brackets finds the depth that walking the decoded value finds."""

    def depth(each: Any) -> int:
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    assert is_deeper(json.dumps(value).encode(), levels) is (depth(value) > levels)


@given(bodies())
def test_whatever_is_accepted_can_be_stored(body: dict[str, Any]) -> None:
    """A signal survives MessagePack, and keeps the free JSON it came with."""
    signal = accepted(json.dumps(body).encode())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(signal), type=Signal) == signal
    assert signal.properties == (body.get("properties") or {})
    assert signal.traits == (body.get("traits") or {})


# --- CloudEvents ---

EVENT: Headers = (
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e-1"),
    ("ce_type", b"Order Completed"),
    ("ce_source", b"/shop"),
    ("ce_time", b"2026-01-05T07:59:00Z"),
)


def test_cloudevents_fill_what_the_data_leaves_open() -> None:
    """In binary mode id, type, time and source come from headers, and data without a type is a track."""
    signal = accepted(b'{"userId":"u1","properties":{"total":3}}', EVENT)
    assert (signal.message_id, signal.type, signal.event) == ("e-1", "track", "Order Completed")
    assert (signal.time_ms, signal.context) == (START_MS - 60_000, {"source": "/shop"})


def test_cloudevents_do_not_overrule_the_data() -> None:
    """What the data says itself counts."""
    body = a_signal(messageId="m", timestamp="2026-01-05T07:58:00Z", context={"source": "own"})
    signal = accepted(body, EVENT)
    assert (signal.message_id, signal.event, signal.context) == ("m", "Go", {"source": "own"})
    assert signal.time_ms == START_MS - 120_000


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (b"identify", ("identify", None)),
        (b"com.example.screen", ("screen", None)),
        (b"com.example.Cart", ("track", "com.example.Cart")),
    ],
)
def test_the_type_of_a_cloudevent(kind: bytes, expected: tuple[str, str | None]) -> None:
    """A type of the Segment spec, alone or at the end of a dotted name; any other is the event of a track."""
    signal = accepted(b'{"userId":"u1"}', (("ce_type", kind),))
    assert (signal.type, signal.event) == expected


def test_the_event_of_the_data_names_a_track() -> None:
    """`ce_type` does not replace an event the data names."""
    assert accepted(b'{"userId":"u1","event":"Go"}', (("ce_type", b"com.example.Cart"),)).event == "Go"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ((("ce_specversion", b"0.3"), ("ce_type", b"page")), "bad-cloudevent"),
        ((("ce_type", b"\xff"),), "bad-cloudevent"),
        ((("ce_type", b"page"), ("ce_time", b"noon")), "bad-timestamp"),
        ((("ce_type", b"page"), ("ce_id", b"x" * 129)), "too-long"),
        ((("ce_type", b"page"), ("ce_id", b"x" * 128), ("ce_type", b"x" * 257)), "too-long"),
        ((("ce_id", b"e-1"),), "missing-field"),
    ],
)
def test_bad_cloudevents(headers: Headers, code: str) -> None:
    """A version or bytes we do not know, and values the contract's table refuses."""
    reject = decode(b'{"userId":"u1"}', headers)
    assert isinstance(reject, Reject)
    assert reject.code == code


def test_the_trace_is_kept_and_bounded() -> None:
    """`traceparent` goes with the signal, whatever bytes somebody put into it."""
    assert accepted(a_signal(), (("traceparent", b"00-abc-def-01"),)).traceparent == "00-abc-def-01"
    assert accepted(a_signal(), (("traceparent", b"\xff" * 100),)).traceparent == "\ufffd" * 64
