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
    """Value of `batuta.rejects`. `original`: the bytes as text, or base64 when they are not UTF-8."""

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


def reject_output(record: Record, reject: Reject, topic_name: str) -> Output:
    """The record of `batuta.rejects` for one that was not accepted; its key is kept as received.

    `topic_name`: the full name of the topic the record came from.
    """
    raw = record.value or b""
    try:
        original, encoding = raw.decode(), "utf-8"
    except UnicodeDecodeError:
        original, encoding = base64.b64encode(raw).decode(), "base64"
    message = RejectMessage(
        original=original,
        encoding=encoding,
        topic=topic_name,
        partition=record.partition,
        offset=record.offset,
        code=reject.code,
        sentence=reject.sentence,
        rejected_at=format_rfc3339(min(max(record.timestamp_ms, FIRST_MS), LAST_MS)),
    )
    return Output("rejects", record.key, msgspec.json.encode(message))
