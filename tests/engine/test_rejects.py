"""Rejects: what arrived, as it arrived, and why it was not accepted."""

from __future__ import annotations

import base64

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.record import Record
from engine.rejects import (
    CODES,
    LAST_MS,
    MAX_KEY,
    MAX_ORIGINAL,
    Reject,
    RejectMessage,
    bad_timestamp,
    reject_output,
)
from engine.schemas import message_schema
from tests.repertoires import START_MS, Builder, a_replay, a_signal

SCHEMA = jsonschema.Draft202012Validator(message_schema("reject"))


def reject(value: bytes | None, code: str = "not-json", timestamp_ms: int = START_MS) -> RejectMessage:
    """The message about a record, seen to be valid against its published schema."""
    record = Record("signals", 2, 5, timestamp_ms, b"\xffkey", value)
    output = reject_output(record, Reject(code, "Because."), "shop.signals")
    assert (output.topic, output.key) == ("rejects", b"\xffkey")
    SCHEMA.validate(msgspec.json.decode(output.value))
    return msgspec.json.decode(output.value, type=RejectMessage)


@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")))
def test_the_original_bytes_are_kept(value: bytes) -> None:
    """As text, or as base64 when they are no UTF-8: nothing is lost."""
    message = reject(value)
    original = message.original
    assert (base64.b64decode(original) if message.encoding == "base64" else original.encode()) == value


def test_where_it_came_from_and_why() -> None:
    """Topic by its full name, partition, offset, code, sentence, and the broker's time."""
    assert reject(b"{") == RejectMessage(
        original="{",
        encoding="utf-8",
        topic="shop.signals",
        partition=2,
        offset=5,
        code="not-json",
        sentence="Because.",
        rejected_at="2026-01-05T08:00:00.000Z",
    )
    assert reject(None).original == ""


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_in_the_schema(code: str) -> None:
    """A reject with any code of the engine is valid."""
    assert reject(b"", code).code == code


@pytest.mark.parametrize("timestamp_ms", [-1, -(2**62), LAST_MS + 1, 2**62])
def test_a_record_from_no_time_is_rejected(timestamp_ms: int) -> None:
    """A producer can put any timestamp on a record; one that is no date must not become a customer's clock."""
    found = bad_timestamp(Record("signals", 0, 0, timestamp_ms, None, a_signal()))
    assert found is not None
    assert found.code == "bad-timestamp"
    assert reject(b"", timestamp_ms=timestamp_ms).rejected_at in (
        "1970-01-01T00:00:00.000Z",
        "2999-12-31T23:59:59.999Z",
    )


def test_a_signal_is_accepted_or_rejected() -> None:
    """A reject says so on its topic and in the counts, and nothing else happens."""
    replay = a_replay(Builder().action("a").build())
    outputs = replay.signal(b"{", START_MS)
    assert [each.topic for each in outputs] == ["rejects"]
    assert replay.counts == {("rejects", "batuta.signals", "not-json"): 1}
    assert not any(each.profiles for each in replay.partitions)


def test_the_schema_refuses_what_is_no_reject() -> None:
    """The schema is closed: an unknown code or a further field is not valid."""
    message = msgspec.to_builtins(reject(b"{"))
    SCHEMA.validate(message)
    for change in ({"code": "because"}, {"more": 1}, {"encoding": "latin-1"}):
        with pytest.raises(jsonschema.ValidationError):
            SCHEMA.validate({**message, **change})


@pytest.mark.parametrize("value", [b"\xff" * (MAX_ORIGINAL * 2), b"\0" * MAX_ORIGINAL, "é".encode() * MAX_ORIGINAL])
def test_a_reject_of_any_original_can_be_sent(value: bytes) -> None:
    """However large or full of escapes it is, its reject fits the topic, says so, and keeps what it can."""
    record = Record("signals", 0, 7, 1000, b"k" * (MAX_KEY * 2), value)
    output = reject_output(record, Reject("too-large", "Too large."), "batuta.signals")
    assert len(output.value) + len(output.key or b"") < 7 * 1024 * 1024
    message = msgspec.json.decode(output.value, type=RejectMessage)
    kept = base64.b64decode(message.original) if message.encoding == "base64" else message.original.encode()
    assert kept == value[:MAX_ORIGINAL]
    assert ("bytes the first" in message.sentence) is (len(value) > MAX_ORIGINAL)
