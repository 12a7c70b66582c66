"""Arrivals: whose a record is, and the same message after it was sent on."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.aggregates import Aggregate, AggregateState, Window
from engine.arrival import (
    FIRST,
    HOPS,
    KIND,
    MAX_HEADER_BYTES,
    MAX_HOPS,
    MAX_KEY,
    ORIGIN,
    Arrival,
    Notice,
    Tick,
    arrive,
    claim_message,
    decode_claim,
    forward,
    merge_message,
    notice,
)
from engine.identity import Claim
from engine.murmur import partition_of
from engine.outcomes import Outcome
from engine.profile import Profile
from engine.record import Headers, Output, Record
from engine.rejects import Reject
from engine.repertoire import ProfileRules
from engine.signal import Signal
from tests.engine.strategies import TEXT
from tests.repertoires import START_MS, Builder, a_signal

REPERTOIRE = Builder().action("a").build()
CLICK = b'{"decisionId":"d1","customerId":"u1","type":"click"}'


def arrived(topic: str, value: bytes | None, key: bytes | None = None, headers: Headers = ()) -> Arrival:
    """The arrival of a record of partition 1 at offset 9."""
    arrival = arrive(Record(topic, 1, 9, START_MS, key, value, headers), REPERTOIRE)
    assert isinstance(arrival, Arrival), arrival
    return arrival


def read(output: Output, partition: int = 2, offset: int = 40) -> Record:
    """An output as the engine reads it back."""
    assert output.timestamp_ms is not None
    return Record(output.topic, partition, offset, output.timestamp_ms, output.key, output.value, output.headers)


def refused(record: Record) -> Reject:
    """Why a record did not arrive."""
    reject = arrive(record, REPERTOIRE)
    assert isinstance(reject, Reject), reject
    return reject


def test_a_signal_is_known_by_its_strongest_identifier() -> None:
    """A user id before an e-mail before an anonymous id, whatever key upstream gave the record."""
    value = a_signal(user=None, anonymousId="a1", externalIds=[{"type": "email", "id": "x"}])
    arrival = arrived("signals", value, key=b"anything")
    assert (arrival.key, arrival.first, arrival.source, arrival.offset) == ("email:x", "email:x", "signals:1", 9)
    assert [each.key for each in arrival.named] == ["email:x", "anonymousId:a1"]
    assert arrived("signals", a_signal(anonymousId="a1")).key == "u1"


def test_an_outcome_is_known_by_the_customer_of_its_decision() -> None:
    """As the channel found it in the decision."""
    arrival = arrived("outcomes", CLICK)
    assert isinstance(arrival.body, Outcome)
    assert (arrival.kind, arrival.key, arrival.body.outcome_id) == ("outcome", "u1", "outcomes:1:9")


def test_a_signal_of_nobody_is_rejected() -> None:
    """When every identifier is on the list of blocked values."""
    value = a_signal(user="null", anonymousId="000", externalIds=[{"type": "email", "id": "-1"}])
    assert refused(Record("signals", 1, 9, START_MS, None, value)).code == "blocked-identifier"


@given(TEXT.filter(bool), st.integers(1, 5))
def test_a_message_sent_on_stays_the_same(key: str, times: int) -> None:
    """However often: its body, where upstream put it, the key it set out with, time and foreign headers; not ours."""
    foreign: Headers = (("traceparent", b"00-1"), ("batuta-hops", b"60"), (KIND, b"tick"))
    record = Record("signals", 1, 9, START_MS, b"k", a_signal(), foreign)
    first = arrive(record, REPERTOIRE)
    assert isinstance(first, Arrival)
    arrival = first
    for hop in range(times):
        record = read(forward(record, arrival, key), offset=hop)
        again = arrive(record, REPERTOIRE)
        assert isinstance(again, Arrival)
        arrival = again
    assert arrival == msgspec.structs.replace(first, key=key, hops=times)
    assert record.timestamp_ms == START_MS
    assert record.headers[0] == foreign[0]
    assert len(record.headers) == 5


def test_a_derived_message_id_survives_being_sent_on() -> None:
    """It is made of the place where upstream put the signal, not of where the engine put it since."""
    record = Record("signals", 1, 9, START_MS, None, a_signal())
    arrival = arrived("signals", a_signal())
    again = arrive(read(forward(record, arrival, "u9")), REPERTOIRE)
    assert isinstance(again, Arrival)
    assert isinstance(again.body, Signal)
    assert again.body.message_id == "signals:1:9"


def test_a_message_that_circulates_is_given_up() -> None:
    """After so many hops something is wrong with the identities; the message is kept among the rejects."""
    arrival = msgspec.structs.replace(arrived("signals", a_signal()), hops=MAX_HOPS)
    record = read(forward(Record("signals", 1, 9, START_MS, None, a_signal()), arrival, "u9"))
    assert refused(record).code == "malformed"


def test_the_engines_own_messages() -> None:
    """Merges, notices and ticks come back as what was sent."""
    profile = Profile(customer_id="anonymousId:a1", now_ms=START_MS, traits={"a": 1})
    merge = arrive(read(merge_message("u1", profile, START_MS)), REPERTOIRE)
    adopt = arrive(read(notice("adopt", "u1", Notice("email:x", explicit=True), START_MS)), REPERTOIRE)
    tick = arrive(Record("customers", 2, 40, START_MS, b"u1", None, ((KIND, b"tick"),)), REPERTOIRE)
    assert isinstance(merge, Arrival)
    assert isinstance(adopt, Arrival)
    assert isinstance(tick, Arrival)
    assert (merge.kind, merge.key, merge.body) == ("merge", "u1", profile)
    assert (adopt.kind, adopt.key, adopt.body) == ("adopt", "u1", Notice("email:x", explicit=True))
    assert (tick.kind, tick.key, tick.body, tick.source, tick.offset) == ("tick", "u1", Tick(), "customers:2", 40)


GARBAGE: list[tuple[str, bytes | None, Headers]] = [
    ("no key", None, ()),
    ("an empty key", b"", ()),
    ("a key that is not UTF-8", b"\xff", ()),
    ("a long key", b"k" * (MAX_KEY + 1), ()),
    ("an unknown kind", b"k", ((KIND, b"party"),)),
    ("a kind that is not UTF-8", b"k", ((KIND, b"\xff"),)),
    ("no origin of ours", b"k", ((ORIGIN, b"somewhere"),)),
    ("an offset beyond 64 bits", b"k", ((ORIGIN, b"signals:1:9999999999999999999"),)),
    ("digits of another script", b"k", ((ORIGIN, "signals:1:٣".encode()),)),
    ("a long first key", b"k", ((FIRST, b"k" * (MAX_KEY + 1)),)),
    ("hops that are no number", b"k", ((HOPS, b"-1"),)),
    ("hops of another script", b"k", ((HOPS, "٣".encode()),)),
    ("hops beyond all numbers", b"k", ((HOPS, b"9" * 5_000),)),
    ("a merge that is none", b"k", ((KIND, b"merge"),)),
    ("an adoption without identifier", b"k", ((KIND, b"adopt"),)),
]


@pytest.mark.parametrize(("key", "headers"), [each[1:] for each in GARBAGE], ids=[each[0] for each in GARBAGE])
def test_garbage_on_customers_is_rejected(key: bytes | None, headers: Headers) -> None:
    """A record no engine wrote is a reject with a code, whatever its key and headers are."""
    code = refused(Record("customers", 1, 9, START_MS, key, a_signal(), headers)).code
    assert code in ("malformed", "missing-field")


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_merge_is_rejected(at: int, change: int) -> None:
    """A profile is believed as a whole or not at all: any changed byte is noticed."""
    output = merge_message("u1", Profile(customer_id="a", traits={"a": [1, 2.5, "x"]}, recent=[1, 2**63]), START_MS)
    value = bytearray(output.value)
    value[at % len(value)] ^= change
    assert refused(read(msgspec.structs.replace(output, value=bytes(value)))).code == "malformed"


COUNTED = Aggregate(name="signals", function="count", window=Window("lifetime"))
FORGED: list[tuple[str, Any]] = [
    ("no version", {"customer_id": "a"}),
    ("no customer", (1, {})),
    ("a customer that is no text", (1, {"customer_id": 5})),
    ("text that is not UTF-8", msgspec.Raw(b"\x92\x01\x81\xabcustomer_id\xa1\xff")),
    ("deeper than can be read", msgspec.Raw(b"\x92\x01\x82\xabcustomer_id\xa1a\xa6traits\x81\xa1a" + b"\x91" * 9_999)),
    ("a list for a set of traits", (1, {"customer_id": "a", "traits": [1]})),
    ("a clock beyond all dates", (1, {"customer_id": "a", "now_ms": 2**62})),
    ("more dropped than can be counted", (1, {"customer_id": "a", "dropped": {"traits": 2**63}})),
    ("cells of another form", (1, Profile(customer_id="a", aggregates={"signals": AggregateState(COUNTED.tag, 1, 0)}))),
]
FORGED[-1][1][1].aggregates["signals"].cells[""] = {0: [1, 2]}


@pytest.mark.parametrize("forged", [each[1] for each in FORGED], ids=[each[0] for each in FORGED])
def test_a_merge_that_nobody_can_have_sent_is_rejected(forged: Any) -> None:
    """Its checksum is right, and it is no profile all the same: a reject, and no end of the worker."""
    rules = ProfileRules(aggregates=(COUNTED,))
    repertoire = msgspec.structs.replace(REPERTOIRE, profile=rules)
    body = msgspec.msgpack.encode(forged)
    value = msgspec.msgpack.encode((zlib.crc32(body), body))
    found = arrive(Record("customers", 1, 9, START_MS, b"u1", value, ((KIND, b"merge"),)), repertoire)
    assert isinstance(found, Reject)
    assert found.code == "malformed"


def test_a_merge_of_a_later_schema_is_not_lost() -> None:
    """An engine that cannot read it must stop instead of throwing a history away."""
    body = msgspec.msgpack.encode((99, {}))
    value = msgspec.msgpack.encode((zlib.crc32(body), body))
    with pytest.raises(ValueError, match="schema version 99"):
        arrive(Record("customers", 1, 9, START_MS, b"u1", value, ((KIND, b"merge"),)), REPERTOIRE)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"[]",
        b"\xff",
        b'{"x":' + b"[" * 5_000,
        b'{"identifier":"a"}',
        b'{"identifier":"","customer_id":"u1"}',
        b'{"identifier":"a","customer_id":""}',
        b'{"identifier":"a","customer_id":"%s"}' % (b"k" * (MAX_KEY + 1)),
        b'{"identifier":"%s","customer_id":"u1"}' % (b"k" * (MAX_KEY + 1)),
    ],
)
def test_garbage_on_links_is_rejected(value: bytes | None) -> None:
    """What is no claim has a code."""
    assert isinstance(decode_claim(Record("links", 1, 9, START_MS, None, value), 4), Reject)


def test_a_claim_is_decided_where_its_identifier_lives() -> None:
    """A claim in another partition than its identifier's is refused: that partition decides about others."""
    output = claim_message(Claim("email:x", "u1"), START_MS)
    home = partition_of("email:x", 4)
    assert decode_claim(read(output, home), 4) == Claim("email:x", "u1")
    assert isinstance(decode_claim(read(output, (home + 1) % 4), 4), Reject)


def test_headers_are_bounded_and_only_those_read_travel() -> None:
    """Too many bytes in headers the engine reads is a reject; others are neither counted nor sent on."""
    repertoire = Builder().action("a").build()
    other = ("x-noise", b"n" * MAX_HEADER_BYTES * 4)
    fine = Record("signals", 0, 0, START_MS, None, a_signal(), (other, ("traceparent", b"00-a-b-01")))
    arrival = arrive(fine, repertoire)
    assert isinstance(arrival, Arrival)
    assert {name for name, _ in forward(fine, arrival, "u1").headers} == {"traceparent", KIND, ORIGIN, FIRST, HOPS}
    heavy = Record("signals", 0, 0, START_MS, None, a_signal(), (("ce_source", b"s" * (MAX_HEADER_BYTES + 1)),))
    refused = arrive(heavy, repertoire)
    assert isinstance(refused, Reject)
    assert refused.code == "too-large"
