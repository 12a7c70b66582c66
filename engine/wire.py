"""JSON at the door: one decode with types, and a precise reason when it fails."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from engine.rejects import Reject

_T = TypeVar("_T")


def parse(decoder: msgspec.json.Decoder[_T], value: bytes | None, max_bytes: int) -> _T | Reject:
    """Decode a JSON object of a known shape, at most `max_bytes` long, or say what is wrong with it."""
    if not value:
        return Reject("empty", "The record has no value; expected a JSON object.")
    if len(value) > max_bytes:
        return Reject("too-large", f"The message has {len(value)} bytes; at most {max_bytes} are accepted.")
    try:
        return decoder.decode(value)
    except msgspec.ValidationError as error:
        return _shape_fault(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _syntax_fault(value, error)


def _shape_fault(text: str) -> Reject:
    """Read msgspec's "Expected X, got Y - at `$.path`"."""
    what, _, where = text.partition(" - at ")
    path = where.strip("`").removeprefix("$.") or "the message"
    if "missing required field" in what:
        return Reject("missing-field", f"{path}: {what.removeprefix('Object ')}.")
    code = "number-out-of-range" if "out of range" in what else "wrong-type"
    return Reject(code, f"{path}: {what[0].lower()}{what[1:]}.")


def _syntax_fault(value: bytes, error: Exception) -> Reject:
    try:
        value.decode()
    except UnicodeDecodeError as undecodable:
        return Reject("not-utf8", f"The message is not UTF-8: byte {undecodable.start} cannot be decoded.")
    if isinstance(error, RecursionError):
        return Reject("too-deep", "The message is nested too deeply.")
    return Reject("not-json", f"The message is not JSON: {error}.")


def is_deeper(value: Any, levels: int) -> bool:
    """Whether decoded JSON is nested in more than so many levels of objects and arrays; a scalar is in none."""
    level = [value]
    for _ in range(levels + 1):
        containers = [item for item in level if isinstance(item, (dict, list))]
        if not containers:
            return False
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
    return True
