"""Arrive: what a record is, whose it is, and the same message sent on to the partition that owns its customer.

A record that is sent on keeps its bytes, headers and time. The sender adds where upstream had put it, where it
itself read it, and the keys the message came through.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from engine.identity import Claim, identifiers_of
from engine.outcomes import Outcome, decode_outcome
from engine.profile import Profile, decode_profile
from engine.record import Output, Record, header
from engine.rejects import Reject
from engine.repertoire import Repertoire
from engine.signal import Signal, decode_signal

Kind = Literal["signal", "outcome", "merge", "adopt", "refused", "tick"]
KINDS: tuple[str, ...] = get_args(Kind)
KIND, ORIGIN, SENDER, HOPS = "batuta-kind", "batuta-origin", "batuta-sender", "batuta-hops"
MAX_HOPS = 64


class Merge(msgspec.Struct, frozen=True):
    """A profile that became part of the customer the message is addressed to. `id`: so that it is merged once."""

    id: str
    profile: Profile


class Notice(msgspec.Struct, frozen=True):
    """A word about an identifier: `adopt` asks a customer to claim it, `refused` tells it that it may not."""

    identifier: str
    at_ms: int


class Tick(msgspec.Struct, frozen=True):
    """Time has passed for a customer."""


Body = Signal | Outcome | Merge | Notice | Tick


class Arrival(msgspec.Struct, frozen=True):
    """A message of a customer. `key`: by which it is known so far.

    `origin`: `topic:partition:offset` where upstream put it. `sender`, `sender_offset`: the topic partition this
    engine read it from last before it came here, which sees every customer's messages in order.
    """

    kind: str
    key: str
    body: Body
    origin: str
    sender: str
    sender_offset: int
    hops: tuple[str, ...] = ()


def arrive(record: Record, repertoire: Repertoire) -> Arrival | Reject:
    """Decode a record of `signals`, `outcomes` or `customers`."""
    here = f"{record.topic}/{record.partition}"
    if record.topic == "customers":
        return _forwarded(record, here, repertoire)
    origin = f"{record.topic}:{record.partition}:{record.offset}"
    kind = "signal" if record.topic == "signals" else "outcome"
    body = _decode(kind, record, origin, repertoire)
    if isinstance(body, Reject):
        return body
    key = _key_of(body, repertoire)
    return key if isinstance(key, Reject) else Arrival(kind, key, body, origin, here, record.offset)


def _forwarded(record: Record, here: str, repertoire: Repertoire) -> Arrival | Reject:
    try:
        kind = (header(record.headers, KIND) or b"signal").decode()
        key = (record.key or b"").decode()
        origin = (header(record.headers, ORIGIN) or b"").decode() or f"{here}:{record.offset}"
        sender, _, offset = (header(record.headers, SENDER) or b"").decode().rpartition("/")
        hops = tuple(each for each in (header(record.headers, HOPS) or b"").decode().split("\0") if each)
        sender_offset = int(offset) if sender else record.offset
    except ValueError:
        return Reject("malformed", "A record of customers has headers that no engine wrote.")
    if not key or kind not in KINDS or len(hops) > MAX_HOPS:
        return Reject("malformed", f"A record of customers has kind {kind[:20]!r} and {len(hops)} hops.")
    body = _decode(kind, record, origin, repertoire)
    if isinstance(body, Reject):
        return body
    return Arrival(kind, key, body, origin, sender or here, sender_offset, hops)


def _decode(kind: str, record: Record, origin: str, repertoire: Repertoire) -> Body | Reject:
    if kind == "signal":
        return decode_signal(record, origin, repertoire.max_future_ms)
    if kind == "outcome":
        return decode_outcome(record, origin)
    if kind == "tick":
        return Tick()
    try:
        if kind == "merge":
            source, profile = msgspec.msgpack.decode(record.value or b"", type=tuple[str, bytes])
            return Merge(source, decode_profile(profile))
        return msgspec.json.decode(record.value or b"", type=Notice)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        return Reject("malformed", f"A {kind} cannot be read: {error}.")


def _key_of(body: Body, repertoire: Repertoire) -> str | Reject:
    if isinstance(body, Outcome):
        return body.customer_id
    if isinstance(body, Signal):
        identifiers = identifiers_of(body, repertoire.identity)
        if identifiers:
            return identifiers[0].key
    return Reject("blocked-identifier", "Every identifier of the signal is on the list of blocked values.")


def decode_claim(record: Record) -> Claim | Reject:
    """Decode a record of `links`."""
    try:
        return msgspec.json.decode(record.value or b"", type=Claim)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Reject("malformed", f"A claim cannot be read: {error}.")


# --- Sending on ---


def forward(record: Record, arrival: Arrival, key: str) -> Output:
    """The same message for whoever owns `key`."""
    kept = tuple(each for each in record.headers if not each[0].startswith("batuta-"))
    added = (
        (KIND, arrival.kind.encode()),
        (ORIGIN, arrival.origin.encode()),
        (SENDER, f"{record.topic}/{record.partition}/{record.offset}".encode()),
        (HOPS, "\0".join((*arrival.hops, arrival.key)).encode()),
    )
    return Output("customers", key.encode(), record.value or b"", (*kept, *added), record.timestamp_ms)


def notice(kind: Kind, to: str, identifier: str, record: Record) -> Output:
    """An `adopt` or `refused` for a customer, caused by a record."""
    body = msgspec.json.encode(Notice(identifier, record.timestamp_ms))
    return Output("customers", to.encode(), body, _caused(kind, record), record.timestamp_ms)


def merge_message(to: str, source: str, profile: bytes, record: Record) -> Output:
    """A whole profile for the customer it became part of. `source`: id of this merge."""
    body = msgspec.msgpack.encode((source, profile))
    return Output("customers", to.encode(), body, _caused("merge", record), record.timestamp_ms)


def claim_message(claim: Claim, record: Record) -> Output:
    """A claim for the partition that owns the identifier."""
    return Output("links", claim.identifier.encode(), msgspec.json.encode(claim), (), record.timestamp_ms)


def _caused(kind: Kind, record: Record) -> tuple[tuple[str, bytes], ...]:
    sender = f"{record.topic}/{record.partition}/{record.offset}"
    return (KIND, kind.encode()), (SENDER, sender.encode())
