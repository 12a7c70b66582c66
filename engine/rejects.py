"""Bad input as data: why a record was not accepted, and the record of `batuta.rejects` that says so."""

from __future__ import annotations

import base64

import msgspec

from engine.calendar import format_rfc3339
from engine.record import Output, Record

CODES = (
    "empty",
    "too-large",
    "not-utf8",
    "not-json",
    "too-deep",
    "wrong-type",
    "number-out-of-range",
    "missing-field",
    "unknown-type",
    "missing-identifier",
    "blocked-identifier",
    "too-long",
    "bad-timestamp",
    "future-timestamp",
    "bad-cloudevent",
    "unknown-outcome",
    "unknown-decision",
    "expired-decision",
    "malformed",
)
"""Every code there is: the label of `batuta_rejects_total` is bounded by this list."""


class Reject(msgspec.Struct, frozen=True):
    """Why a record is not accepted. `code`: one of `CODES`; `sentence`: for a person."""

    code: str
    sentence: str


class RejectMessage(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Value of `batuta.rejects`. `original`: the bytes as text, or base64 when they are not UTF-8 or mostly escapes."""

    original: str
    encoding: str
    """`utf-8` or `base64`."""
    topic: str
    partition: int
    offset: int
    code: str
    sentence: str
    rejected_at: str


FIRST_MS, LAST_MS = 0, 32_503_679_999_999
"""Timestamps of records that are believed: the years 1970 to 2999, far from where dates end."""


def bad_timestamp(record: Record) -> Reject | None:
    """Why a record's own timestamp cannot be the engine's time; None when it can."""
    if FIRST_MS <= record.timestamp_ms <= LAST_MS:
        return None
    return Reject("bad-timestamp", f"The record's timestamp is {record.timestamp_ms} ms; expected 1970 to 2999.")


MAX_ORIGINAL = 4 * 1024 * 1024
"""Most bytes of an original that its reject carries; a larger one is still where it came from."""
MAX_KEY = 64 * 1024


def reject_output(record: Record, reject: Reject, topic_name: str) -> Output:
    """The record of `batuta.rejects` for one that was not accepted; its key is kept as received, within bounds.

    `topic_name`: the full name of the topic the record came from.
    """
    original, encoding = _as_text((record.value or b"")[:MAX_ORIGINAL])
    sentence = reject.sentence
    if record.value is not None and len(record.value) > MAX_ORIGINAL:
        sentence += f" Of its {len(record.value)} bytes the first {MAX_ORIGINAL} are kept here."
    message = RejectMessage(
        original=original,
        encoding=encoding,
        topic=topic_name,
        partition=record.partition,
        offset=record.offset,
        code=reject.code,
        sentence=sentence,
        rejected_at=format_rfc3339(min(max(record.timestamp_ms, FIRST_MS), LAST_MS)),
    )
    key = record.key if record.key is None or len(record.key) <= MAX_KEY else record.key[:MAX_KEY]
    return Output("rejects", key, msgspec.json.encode(message))


def _as_text(raw: bytes) -> tuple[str, str]:
    """Bytes as JSON can carry them without growing much: text, or base64, also of text that is mostly escapes."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return base64.b64encode(raw).decode(), "base64"
    if len(raw) > MAX_ORIGINAL // 8 and len(msgspec.json.encode(text)) > len(raw) * 3 // 2:
        return base64.b64encode(raw).decode(), "base64"
    return text, "utf-8"
