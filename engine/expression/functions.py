"""The functions an expression may call: one table from name to function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from engine.expression.values import ANY, BOOLEAN, LIST, MISSING, NUMBER, SCALARS, STRING, Type, member

MAX_TEXT = 10_000
"""Longest text, in characters, that a function takes."""
_MINUTE_MS, _HOUR_MS, _DAY_MS = 60_000, 3_600_000, 86_400_000

Types = frozenset[Type]
NUMERIC: Types = frozenset({NUMBER})
_TEXT: Types = frozenset({STRING})
_TEXT_OR_LIST: Types = frozenset({STRING, LIST})
_ANYTHING: Types = frozenset(Type)


class Function(NamedTuple):
    """What a name in front of parentheses stands for."""

    run: Callable[..., Any]
    takes: tuple[Types, ...]
    gives: Type
    optional: int = 0
    """How many of `takes`, from the end, may be left out."""
    variadic: bool = False
    """Whether the last of `takes` may be repeated."""
    reads: tuple[str, ...] = ()
    """Numeric roots of the scope handed over before the written arguments."""
    strict: bool = True
    """Whether an error value or a type not in `takes` makes the result an error before `run` sees it."""

    def arity(self, given: int) -> str | None:
        """How many arguments are expected, in words, unless `given` is right."""
        low, high = len(self.takes) - self.optional, len(self.takes)
        if given >= low and (self.variadic or given <= high):
            return None
        return f"{low} or more" if self.variadic else f"{low}" if low == high else f"{low} to {high}"

    def types(self, given: int) -> tuple[Types, ...]:
        """Accepted types of each of `given` written arguments."""
        return (self.takes + self.takes[-1:] * given)[:given]


def _has(value: object) -> bool:
    return value is not MISSING and value is not None


def _default(value: object, instead: object) -> object:
    return instead if value is MISSING or value is None else value


def _contains(whole: Any, part: Any) -> Any:
    if not isinstance(whole, str):
        return member(part, whole)
    return part in whole if isinstance(part, str) else MISSING


def _round(value: float, digits: float = 0) -> Any:
    if digits not in range(11):
        return MISSING
    return round(value, int(digits)) if digits else round(value)


def _clamp(value: float, low: float, high: float) -> Any:
    return min(max(value, low), high) if low <= high else MISSING


def _hour(ms: float, offset_minutes: float = 0) -> int:
    return math.floor(ms + offset_minutes * _MINUTE_MS) % _DAY_MS // _HOUR_MS


def _weekday(ms: float, offset_minutes: float = 0) -> int:
    days = math.floor(ms + offset_minutes * _MINUTE_MS) // _DAY_MS
    return (days + 3) % 7 + 1  # 1970-01-01 was a Thursday


_ONE, _TWO = (NUMERIC,), (NUMERIC, NUMERIC)

FUNCTIONS: Mapping[str, Function] = {
    "has": Function(_has, (_ANYTHING,), BOOLEAN, strict=False),
    "default": Function(_default, (_ANYTHING, _ANYTHING), ANY, strict=False),
    "len": Function(len, (_TEXT_OR_LIST,), NUMBER),
    "lower": Function(str.lower, (_TEXT,), STRING),
    "upper": Function(str.upper, (_TEXT,), STRING),
    "contains": Function(_contains, (_TEXT_OR_LIST, SCALARS), BOOLEAN),
    "starts_with": Function(str.startswith, (_TEXT, _TEXT), BOOLEAN),
    "ends_with": Function(str.endswith, (_TEXT, _TEXT), BOOLEAN),
    "min": Function(min, _TWO, NUMBER, variadic=True),
    "max": Function(max, _TWO, NUMBER, variadic=True),
    "abs": Function(abs, _ONE, NUMBER),
    "floor": Function(math.floor, _ONE, NUMBER),
    "ceil": Function(math.ceil, _ONE, NUMBER),
    "round": Function(_round, _TWO, NUMBER, optional=1),
    "clamp": Function(_clamp, (NUMERIC, NUMERIC, NUMERIC), NUMBER),
    "sqrt": Function(math.sqrt, _ONE, NUMBER),
    "log1p": Function(math.log1p, _ONE, NUMBER),
    "days_since": Function(lambda now, then: (now - then) / _DAY_MS, _ONE, NUMBER, reads=("now_ms",)),
    "hours_since": Function(lambda now, then: (now - then) / _HOUR_MS, _ONE, NUMBER, reads=("now_ms",)),
    "hour": Function(_hour, _TWO, NUMBER, optional=1),
    "weekday": Function(_weekday, _TWO, NUMBER, optional=1),
}
