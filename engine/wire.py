"""JSON at the door: one decode with types, and a precise reason when it fails."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from engine.rejects import Reject

_T = TypeVar("_T")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


def parse(decoder: msgspec.json.Decoder[_T], value: bytes | None, max_bytes: int) -> _T | Reject:
    """Decode a JSON object of a known shape, at most `max_bytes` long, or say what is wrong with it."""
    if not value:
        return Reject("empty", "The record has no value; expected a JSON object.")
    if len(value) > max_bytes:
        return Reject("too-large", f"The message has {len(value)} bytes; at most {max_bytes} are accepted.")
    try:
        if not value.isascii():
            value.decode()  # msgspec does not look into fields it skips
        return decoder.decode(value)
    except UnicodeDecodeError as error:
        return Reject("not-utf8", f"The message is not UTF-8: byte {error.start} cannot be decoded.")
    except msgspec.ValidationError as error:
        return _shape_fault(str(error))
    except msgspec.DecodeError as error:
        return Reject("not-json", f"The message is not JSON: {error}.")
    except RecursionError:
        return Reject("too-deep", "The message is nested too deeply.")


def _shape_fault(text: str) -> Reject:
    """Read msgspec's "Expected X, got Y - at `$.path`"."""
    what, _, where = text.partition(" - at ")
    path = where.strip("`").removeprefix("$.") or "the message"
    if "missing required field" in what:
        return Reject("missing-field", f"{path}: {what.removeprefix('Object ')}.")
    code = "number-out-of-range" if "out of range" in what else "wrong-type"
    return Reject(code, f"{path}: {what[0].lower()}{what[1:]}.")


def is_deeper(value: bytes, levels: int) -> bool:
    """Whether JSON is nested in more than so many levels of objects and arrays; a scalar is in none."""
    if value.count(b"{") + value.count(b"[") <= levels:
        return False
    level = 0
    for bracket in _STRING.sub(b"", value).translate(None, _NO_BRACKETS):
        level += 1 if bracket in b"{[" else -1
        if level > levels:
            return True
    return False
