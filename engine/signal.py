"""Decode: bytes of `batuta.signals` → a `Signal`, or a `Reject` that says precisely what is wrong. The only door in."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

from engine.calendar import parse_rfc3339_ms
from engine.record import Record, header
from engine.rejects import Reject
from engine.wire import is_deeper, parse

SignalType = Literal["track", "identify", "page", "screen", "alias", "group"]
SIGNAL_TYPES: tuple[str, ...] = get_args(SignalType)

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_MESSAGE_ID = 128
MAX_IDENTIFIER = 256
MAX_NAME = 256
"""Characters of an event's or a channel's name."""
MAX_EXTERNAL_IDS = 32
MAX_KIND = 128
"""Characters of the type of an external id: its key must fit where a customer's id does."""

_INT64 = 2**63
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_MANY_DIGITS = b"0" * 19
"""Digits of the shortest whole number that may not fit in 64 bits."""


class ExternalId(msgspec.Struct, frozen=True, gc=False):
    """An identifier of a further kind: e-mail hash, phone hash, CRM id, loyalty card …"""

    type: str
    id: str


class Signal(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A valid signal. `time_ms`: event time; `message_id`: the idempotency key, derived when upstream sent none."""

    message_id: str
    type: str
    time_ms: int
    event: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    external_ids: tuple[ExternalId, ...] = ()
    previous_id: str | None = None
    channel: str | None = None
    properties: dict[str, Any] = {}
    traits: dict[str, Any] = {}
    context: dict[str, Any] = {}
    traceparent: str | None = None

    @property
    def name(self) -> str:
        """What the signal is called: the event of a `track`, else `identify`, `page` …"""
        return self.event if self.event is not None else self.type


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """The signal as it is sent (Segment spec, "Spec: Common Fields"); fields beyond these are ignored."""

    type: str | None = None
    message_id: str | None = None
    event: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    external_ids: list[ExternalId] | None = None
    previous_id: str | None = None
    timestamp: str | None = None
    channel: str | None = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    context: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_Wire)


def decode_signal(record: Record, origin: str, max_future_ms: int) -> Signal | Reject:
    """Validate one record once; expects the contract's signal, plain or as CloudEvents 1.0 in binary mode.

    `origin`: `topic:partition:offset` where upstream put it, from which a missing `messageId` is derived.
    `max_future_ms`: how far event time may be ahead of the broker's timestamp.
    """
    wire = _parse(record.value)
    if isinstance(wire, Reject):
        return wire
    if record.headers and any(name.startswith("ce_") for name, _ in record.headers):
        fault = _add_cloudevent(wire, record)
        if fault is not None:
            return fault
    fault = _check(wire)
    if fault is not None:
        return fault
    time_ms = _event_time_ms(wire.timestamp, record.timestamp_ms, max_future_ms)
    if isinstance(time_ms, Reject):
        return time_ms
    return _signal(wire, record, origin, time_ms)


def _parse(value: bytes | None) -> _Wire | Reject:
    wire = parse(_decoder, value, MAX_BYTES)
    if isinstance(wire, Reject) or value is None:
        return wire
    if is_deeper(value, MAX_DEPTH):
        return Reject("too-deep", f"The message is nested deeper than {MAX_DEPTH} levels.")
    if _MANY_DIGITS in value.translate(_ZEROS) and not _fits_64_bits([wire.properties, wire.traits, wire.context]):
        return Reject("number-out-of-range", "A whole number does not fit in 64 bits; send it as a string.")
    return wire


def _fits_64_bits(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_fits_64_bits(item) for item in value.values())
    if isinstance(value, list):
        return all(_fits_64_bits(item) for item in value)
    return not isinstance(value, int) or -_INT64 <= value < _INT64


def _add_cloudevent(wire: _Wire, record: Record) -> Reject | None:
    """Fill what the body leaves open from the `ce_` headers (CloudEvents 1.0, Kafka protocol binding, §3.2)."""
    try:
        ce = {name: (header(record.headers, f"ce_{name}") or b"").decode() for name in ("type", "id", "time", "source")}
        version = (header(record.headers, "ce_specversion") or b"1.0").decode()
    except UnicodeDecodeError:
        return Reject("bad-cloudevent", "A ce_ header is not UTF-8.")
    if version != "1.0":
        return Reject("bad-cloudevent", f"ce_specversion is {version[:20]!r}; expected 1.0.")
    wire.message_id = wire.message_id or ce["id"] or None
    wire.timestamp = wire.timestamp or ce["time"] or None
    if wire.type is None and ce["type"]:
        kind = ce["type"].rpartition(".")[2]
        wire.type = kind if kind in SIGNAL_TYPES else "track"
        if wire.type == "track" and wire.event is None and kind not in SIGNAL_TYPES:
            wire.event = ce["type"]
    if ce["source"]:
        wire.context = {"source": ce["source"], **(wire.context or {})}
    return None


def _check(wire: _Wire) -> Reject | None:
    if wire.type is None:
        return Reject("missing-field", "type is missing; expected one of " + ", ".join(SIGNAL_TYPES) + ".")
    if wire.type not in SIGNAL_TYPES:
        return Reject("unknown-type", f"type is {wire.type[:40]!r}; expected one of {', '.join(SIGNAL_TYPES)}.")
    if wire.type == "track" and not wire.event:
        return Reject("missing-field", "event is missing; a track needs the event's name.")
    if wire.type == "alias" and not wire.previous_id:
        return Reject("missing-field", "previousId is missing; an alias needs the id it replaces.")
    if not (wire.user_id or wire.anonymous_id or wire.external_ids):
        return Reject("missing-identifier", "Nobody is named: expected userId, anonymousId or externalIds.")
    return _check_lengths(wire)


def _check_lengths(wire: _Wire) -> Reject | None:
    for name, value, limit in (
        ("messageId", wire.message_id, MAX_MESSAGE_ID),
        ("userId", wire.user_id, MAX_IDENTIFIER),
        ("anonymousId", wire.anonymous_id, MAX_IDENTIFIER),
        ("previousId", wire.previous_id, MAX_IDENTIFIER),
        ("event", wire.event, MAX_NAME),
        ("channel", wire.channel, MAX_NAME),
    ):
        if value is not None and len(value) > limit:
            return Reject("too-long", f"{name} has {len(value)} characters; at most {limit} are accepted.")
    external = wire.external_ids
    if external and len(external) > MAX_EXTERNAL_IDS:
        return Reject("too-long", f"externalIds has {len(external)} entries; at most {MAX_EXTERNAL_IDS} are accepted.")
    for at, entry in enumerate(external or ()):
        for name, value, limit in (("type", entry.type, MAX_KIND), ("id", entry.id, MAX_IDENTIFIER)):
            if not 0 < len(value) <= limit:
                length = f"{len(value)} characters; expected 1 to {limit}"
                return Reject("too-long", f"externalIds[{at}].{name} has {length}.")
    return None


def _event_time_ms(timestamp: str | None, broker_ms: int, max_future_ms: int) -> int | Reject:
    if timestamp is None:
        return broker_ms
    try:
        time_ms = parse_rfc3339_ms(timestamp)
    except ValueError as error:
        return Reject("bad-timestamp", f"timestamp: {error}.")
    if time_ms > broker_ms + max_future_ms:
        ahead = (time_ms - broker_ms) // 1000
        return Reject(
            "future-timestamp",
            f"timestamp is {ahead} s ahead of the broker's; at most {max_future_ms // 1000} s are accepted.",
        )
    return time_ms


def _signal(wire: _Wire, record: Record, origin: str, time_ms: int) -> Signal:
    traceparent = header(record.headers, "traceparent")
    return Signal(
        message_id=wire.message_id or origin,
        type=wire.type or "",
        time_ms=time_ms,
        event=wire.event if wire.type == "track" else None,
        user_id=wire.user_id or None,
        anonymous_id=wire.anonymous_id or None,
        external_ids=tuple(wire.external_ids or ()),
        previous_id=wire.previous_id or None,
        channel=wire.channel,
        properties=wire.properties or {},
        traits=wire.traits or {},
        context=wire.context or {},
        traceparent=traceparent.decode("ascii", "replace")[:64] if traceparent else None,
    )
