"""What expressions compute with: types, the error value, and the relations between values."""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from types import NoneType
from typing import Any, Final

Scope = Mapping[str, Any]
"""Roots by name, of dict (or by `__missing__`), list, tuple, set, frozenset, str, bool, int, float, None."""
Evaluator = Callable[[Scope], Any]
Relation = Callable[[Any, Any], Any]

MAX_ENTRIES = 1_000
"""Longest list an entry is searched in."""
LEAST_INTEGER, GREATEST_INTEGER = -(2**63), 2**63 - 1
"""Integers an expression can hold."""
GREATEST_FRACTION = sys.float_info.max


class Type(Enum):
    """Type of a value; `list` stands for lists, tuples and sets, `any` is known only at run time."""

    NUMBER = "number"
    STRING = "text"
    BOOLEAN = "true or false"
    NULL = "null"
    LIST = "list"
    MAP = "map"
    ANY = "any"


NUMBER, STRING, BOOLEAN = Type.NUMBER, Type.STRING, Type.BOOLEAN
LIST, MAP, ANY = Type.LIST, Type.MAP, Type.ANY
ORDERED = frozenset({Type.NUMBER, Type.STRING})
SCALARS = ORDERED | {Type.BOOLEAN, Type.NULL}


class _Missing:
    """The error value. It is false, so that a careless `if` fails closed."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()

_TYPES: Mapping[type, Type] = {
    int: NUMBER,
    float: NUMBER,
    str: STRING,
    bool: BOOLEAN,
    NoneType: Type.NULL,
    list: LIST,
    tuple: LIST,
    set: LIST,
    frozenset: LIST,
    dict: MAP,
}
_LISTS = (list, tuple, set, frozenset)
_SUBCLASSED = (str, dict, *_LISTS)


def kind(value: object) -> Type | None:
    """Type of a value; None for NaN, the error value and foreign objects, such as numbers of numpy."""
    found = _TYPES.get(type(value))
    if found is None:
        return next((_TYPES[base] for base in _SUBCLASSED if isinstance(value, base)), None)
    if found is NUMBER and value != value:  # noqa: PLR0124  NaN is the one value that differs from itself
        return None
    return found


def bounded(value: Any) -> Any:
    """The number itself, or MISSING beyond 64-bit integers and finite floats, and for what is no number."""
    found = type(value)
    if found is float:
        return value if -GREATEST_FRACTION <= value <= GREATEST_FRACTION else MISSING
    return value if found is int and LEAST_INTEGER <= value <= GREATEST_INTEGER else MISSING


def equal(left: object, right: object) -> Any:
    """Equality of two scalars of one type, or of anything with null; else MISSING."""
    one, other = kind(left), kind(right)
    if one is None or other is None:
        return MISSING
    if Type.NULL in (one, other):
        return one is other
    return left == right if one is other and one in SCALARS else MISSING


def member(item: object, container: object) -> Any:
    """Whether a scalar is an entry of a list or set, or a text a key of a map; else MISSING."""
    sought = kind(item)
    if sought not in SCALARS:
        return MISSING
    if isinstance(container, dict):
        return _is_key(item, container) if sought is STRING else MISSING
    if not isinstance(container, _LISTS):
        return MISSING
    if isinstance(container, (set, frozenset)) and (sought is STRING or item not in container):
        return item in container
    if len(container) > MAX_ENTRIES:
        return MISSING
    return any(entry == item and kind(entry) is sought for entry in container)


def _is_key(key: Any, container: dict[Any, Any]) -> bool:
    """Looked up rather than tested with `in`, so that a lazy map computes it."""
    try:
        container[key]
    except KeyError:
        return False
    return True


def _negated(relation: Relation) -> Relation:
    def relate(left: Any, right: Any) -> Any:
        holds = relation(left, right)
        return MISSING if holds is MISSING else not holds

    return relate


def _ordering(compare: Relation) -> Relation:
    def relate(left: Any, right: Any) -> Any:
        one = kind(left)
        return compare(left, right) if one in ORDERED and one is kind(right) else MISSING

    return relate


PLAIN: Mapping[type[ast.cmpop], Relation] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
"""Python's own comparisons: right only between two values already known to be of one scalar type."""

RELATIONS: Mapping[type[ast.cmpop], Relation] = {
    ast.Lt: _ordering(operator.lt),
    ast.LtE: _ordering(operator.le),
    ast.Gt: _ordering(operator.gt),
    ast.GtE: _ordering(operator.ge),
    ast.Eq: equal,
    ast.NotEq: _negated(equal),
    ast.In: member,
    ast.NotIn: _negated(member),
}
"""The language's comparisons, between any two values."""
