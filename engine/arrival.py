"""Arrive: what a record is, whose it is, and the same message sent on to the partition that owns its customer.

A record that is sent on keeps its bytes, headers and time. The sender adds where upstream had put it, the key
it set out with, and how often it was sent on.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

import msgspec

from engine.identity import Claim, Identifier, identifiers_of
from engine.murmur import partition_of
from engine.outcomes import Outcome, decode_outcome
from engine.profile import Profile, decode_profile, encode_profile, flaw
from engine.record import Output, Record, header
from engine.rejects import Reject
from engine.repertoire import ProfileRules, Repertoire
from engine.signal import Signal, decode_signal
from engine.wire import parse

Kind = Literal["signal", "outcome", "merge", "adopt", "refused", "tick"]
KINDS: tuple[str, ...] = get_args(Kind)
KIND, ORIGIN, FIRST, HOPS = "batuta-kind", "batuta-origin", "batuta-first-key", "batuta-hops"
MAX_HOPS = 64
"""How often a message may be sent on before it is given up; identities are a few redirects deep at most."""
MAX_KEY = 1024
"""Characters of an identifier's key or a customer's id."""
MAX_BYTES = 16 * 1024
"""Bytes of a claim or a notice."""
MAX_HEADER_BYTES = 32 * 1024
"""Bytes of the headers that the engine reads of one record, and sends on."""

_ORIGIN = re.compile(r"([a-z]{1,20}:\d{1,9}):(\d{1,18})", re.ASCII)
_HOPS = re.compile(r"[0-9]{1,3}")
_Message = TypeVar("_Message", Claim, "Notice")


class Notice(msgspec.Struct, frozen=True):
    """A word about an identifier: `adopt` asks a customer to claim it, `refused` tells it that it may not."""

    identifier: str
    explicit: bool = False


class Tick(msgspec.Struct, frozen=True):
    """Time has passed for a customer."""


Body = Signal | Outcome | Profile | Notice | Tick


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message of a customer. `key`: by which it is known so far; `first`: by which it set out.

    `source`, `offset`: the topic and partition (`signals:3`) and the offset where upstream put it. `body`: of a
    merge, the profile that became part of the customer. `named`: the identifiers of a signal, strongest first.
    `hops`: how often it was sent on.
    """

    kind: str
    key: str
    body: Body
    source: str
    offset: int
    first: str
    named: Sequence[Identifier] = ()
    hops: int = 0


def arrive(record: Record, repertoire: Repertoire) -> Arrival | Reject:
    """Decode a record of `signals`, `outcomes` or `customers`."""
    source = f"{record.topic}:{record.partition}"
    if record.topic == "customers":
        return _forwarded(record, source, repertoire)
    size = sum(len(value or b"") for name, value in record.headers if _is_read(name)) if record.headers else 0
    if size > MAX_HEADER_BYTES:
        return Reject("too-large", f"The record's headers have {size} bytes; at most {MAX_HEADER_BYTES} are accepted.")
    kind = "signal" if record.topic == "signals" else "outcome"
    body = _decode(kind, record, f"{source}:{record.offset}", repertoire)
    if isinstance(body, Reject):
        return body
    if isinstance(body, Outcome):
        return Arrival(kind, body.customer_id, body, source, record.offset, body.customer_id)
    named = _named(body, repertoire)
    if not named:
        return Reject("blocked-identifier", "Every identifier of the signal is on the list of blocked values.")
    return Arrival(kind, named[0].key, body, source, record.offset, named[0].key, named)


def _forwarded(record: Record, source: str, repertoire: Repertoire) -> Arrival | Reject:
    try:
        key = (record.key or b"").decode()
        kind, origin, first, hops = (
            (header(record.headers, name) or default).decode()
            for name, default in (
                (KIND, b"signal"),
                (ORIGIN, f"{source}:{record.offset}".encode()),
                (FIRST, record.key or b""),
                (HOPS, b"0"),
            )
        )
    except UnicodeDecodeError:
        return Reject("malformed", "A record of customers has a key or headers that are not UTF-8.")
    came = _ORIGIN.fullmatch(origin)
    if not key or kind not in KINDS or came is None or len(key) > MAX_KEY or len(first) > MAX_KEY:
        return Reject("malformed", f"No engine wrote this record of customers: {kind[:20]!r}, {origin[:40]!r}.")
    if _HOPS.fullmatch(hops) is None or int(hops) > MAX_HOPS:
        return Reject("malformed", f"A record of customers was sent on {hops[:5]} times; at most {MAX_HOPS} may be.")
    body = _decode(kind, record, origin, repertoire)
    if isinstance(body, Reject):
        return body
    return Arrival(kind, key, body, came[1], int(came[2]), first, _named(body, repertoire), int(hops))


def _named(body: Body, repertoire: Repertoire) -> Sequence[Identifier]:
    return identifiers_of(body, repertoire.identity) if isinstance(body, Signal) else ()


def _decode(kind: str, record: Record, origin: str, repertoire: Repertoire) -> Body | Reject:
    if kind == "signal":
        return decode_signal(record, origin, repertoire.max_future_ms)
    if kind == "outcome":
        return decode_outcome(record, origin)
    if kind == "merge":
        return _decode_merge(record.value or b"", repertoire.profile)
    return Tick() if kind == "tick" else _decode_message(_notice_decoder, record.value)


_notice_decoder = msgspec.json.Decoder(Notice)
_claim_decoder = msgspec.json.Decoder(Claim)
_merge_decoder = msgspec.msgpack.Decoder(tuple[int, bytes])


def _decode_merge(value: bytes, rules: ProfileRules) -> Profile | Reject:
    """A profile is believed as a whole or not at all: its checksum and its form say that an engine wrote it.

    Raises ValueError for one of a schema version this engine cannot read: it must not get lost.
    """
    try:
        checksum, encoded = _merge_decoder.decode(value)
        if zlib.crc32(encoded) != checksum:
            return Reject("malformed", "A merge does not have the checksum of its profile.")
        profile = decode_profile(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Reject("malformed", f"A merge cannot be read: {error}.")
    fault = flaw(profile, rules)
    return profile if fault is None else Reject("malformed", f"No engine wrote the profile of this merge: {fault}.")


def _decode_message(decoder: msgspec.json.Decoder[_Message], value: bytes | None) -> _Message | Reject:
    message = parse(decoder, value, MAX_BYTES)
    if not isinstance(message, Reject) and not 0 < len(message.identifier) <= MAX_KEY:
        return Reject("malformed", f"identifier has {len(message.identifier)} characters; expected 1 to {MAX_KEY}.")
    return message


def decode_claim(record: Record, partitions: int) -> Claim | Reject:
    """Decode a record of `links`, which must be in the partition that owns its identifier."""
    claim = _decode_message(_claim_decoder, record.value)
    if isinstance(claim, Reject):
        return claim
    if not 0 < len(claim.customer_id) <= MAX_KEY:
        return Reject("malformed", f"customer_id has {len(claim.customer_id)} characters; expected 1 to {MAX_KEY}.")
    owner = partition_of(claim.identifier, partitions)
    if owner != record.partition:
        return Reject("malformed", f"A claim is in partition {record.partition}; its identifier belongs to {owner}.")
    return claim


# --- Sending on ---


def forward(record: Record, arrival: Arrival, key: str) -> Output:
    """The same message for whoever owns `key`."""
    kept = tuple(each for each in record.headers if _is_read(each[0]))
    added = (
        (KIND, arrival.kind.encode()),
        (ORIGIN, f"{arrival.source}:{arrival.offset}".encode()),
        (FIRST, arrival.first.encode()),
        (HOPS, str(arrival.hops + 1).encode()),
    )
    return Output("customers", key.encode(), record.value or b"", (*kept, *added), record.timestamp_ms)


def _is_read(name: str) -> bool:
    """Whether the engine looks at a header that upstream may set."""
    return name == "traceparent" or name.startswith("ce_")


def notice(kind: Literal["adopt", "refused"], to: str, about: Notice, at_ms: int) -> Output:
    """A word for a customer."""
    return Output("customers", to.encode(), msgspec.json.encode(about), ((KIND, kind.encode()),), at_ms)


def merge_message(to: str, profile: Profile, at_ms: int) -> Output:
    """A whole profile for the customer it became part of, without what it still had to send."""
    encoded = encode_profile(msgspec.structs.replace(profile, outbox=[]))
    value = msgspec.msgpack.encode((zlib.crc32(encoded), encoded))
    return Output("customers", to.encode(), value, ((KIND, b"merge"),), at_ms)


def claim_message(claim: Claim, at_ms: int) -> Output:
    """A claim for the partition that owns the identifier."""
    return Output("links", claim.identifier.encode(), msgspec.json.encode(claim), (), at_ms)
