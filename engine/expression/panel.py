"""Many predicates answered at once. Those that compare one path with constants are a table, however many they are.

Such a predicate (`18 <= profile.age < 65`, `profile.tier in ["gold"]`, `has(profile.email)`) changes its truth only
at the constants it names. So all those of one path are evaluated beforehand: at each constant, between them and
beyond, for a text they do not name, for null, true, false and the error value. For a customer the value is looked
up. The predicates themselves make the table, so it says what they say.

An answer is one number with a bit for each predicate that does not hold, and next to them whatever else these mark. So
the conditions of all candidates are answered by a union of as many numbers as there are paths.
"""

from __future__ import annotations

import ast
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from engine.expression.closures import build
from engine.expression.syntax import called, static_path
from engine.expression.values import MISSING, Evaluator, Scope

MAX_TABLE = 64
"""Predicates of one table: its size grows with their square."""
_LARGEST = 2**53
"""Between two neighbouring fractions up to here lies no whole number either."""


class Answers:
    """What a panel says of a scope. `marked`: everything that predicates which are not exactly true mark."""

    __slots__ = ("_failing", "marked")

    def __init__(self, failing: int, marked: int) -> None:
        self._failing, self.marked = failing, marked

    def __getitem__(self, place: int) -> bool:
        """Whether the predicate of a place is exactly true; what stands at -1 always is."""
        return place < 0 or not self._failing >> place & 1


class Panel:
    """Predicates by their numbers. `places`: where the answer to each stands.

    `marks`: what each marks when it does not hold, as the bits of a number.
    """

    __slots__ = ("_others", "_tables", "places")

    def __init__(self, predicates: Mapping[int, ast.expr], marks: Mapping[int, int] | None = None) -> None:
        self.places = {number: place for place, number in enumerate(predicates)}
        count = len(predicates)
        self._others: list[_Marking] = []
        by_path: dict[tuple[str, ...], list[_Compared]] = {}
        for number, tree in predicates.items():
            mark = 1 << self.places[number] | (0 if marks is None else marks[number] << count)
            comparison, marking = _comparison(tree), _Marking(build(tree), mark)
            if comparison is None:
                self._others.append(marking)
            else:
                by_path.setdefault(comparison.path, []).append(_Compared(comparison, marking))
        # By all of a path but its last key, which is looked up once for all that lies below it.
        tables: dict[tuple[str, ...], list[_Table]] = {}
        for path, compared in by_path.items():
            for at in range(0, len(compared), MAX_TABLE):
                tables.setdefault(path[:-1], []).append(_table(compared[at : at + MAX_TABLE]))
        self._tables = list(tables.items())

    def answer(self, scope: Scope) -> Answers:
        """Whether each predicate is exactly true in a scope; written out, as it is most of what a predicate costs."""
        marked = _marks(self._others, scope)
        for path, tables in self._tables:
            above: Any = scope
            try:
                for key in path:
                    above = above[key]
            except (LookupError, TypeError):
                above = MISSING
            for key, bounds, by_number, by_text, other_text, rest, markings in tables:
                try:
                    value = above[key]
                except (LookupError, TypeError):
                    value = MISSING
                kind = type(value)
                if kind is int or (kind is float and value == value):  # noqa: PLR0124  only NaN differs from itself
                    marked |= by_number[bisect_left(bounds, value) + bisect_right(bounds, value)]
                elif kind is str:
                    marked |= by_text.get(value, other_text)
                elif kind is bool or value is None or value is MISSING:
                    marked |= rest[value]
                else:
                    marked |= _marks(markings, scope)
        count = len(self.places)
        return Answers(marked & ((1 << count) - 1), marked >> count)


class _Marking(NamedTuple):
    """A predicate, and what it marks when it does not hold."""

    evaluate: Evaluator
    mark: int


def _marks(markings: Iterable[_Marking], scope: Scope) -> int:
    """What those mark that are not exactly true."""
    marked = 0
    for evaluate, mark in markings:
        if evaluate(scope) is not True:
            marked |= mark
    return marked


class _Compared(NamedTuple):
    """A predicate that compares one path with constants."""

    comparison: _Comparison
    marking: _Marking


class _Table(NamedTuple):
    """What predicates over one path mark for the value at its last key.

    `by_number`: below all bounds, at each, between it and the next; `by_text`: for the texts named, `other_text`: for
    any other; `rest`: for true, false, null and the error value. `markings`: for what is none of these.
    """

    key: str
    bounds: Sequence[float]
    by_number: Sequence[int]
    by_text: Mapping[str, int]
    other_text: int
    rest: Mapping[Any, int]
    markings: Sequence[_Marking]


def _table(compared: Sequence[_Compared]) -> _Table:
    """The table of predicates over one path."""
    path = compared[0].comparison.path
    constants = {each for comparison, _ in compared for each in comparison.constants}
    bounds = sorted({each for kind, each in constants if kind is not str})
    markings = [marking for _, marking in compared]
    known: dict[int, int] = {}

    def marks(value: Any) -> int:
        scope: Any = value
        for key in reversed(path):
            scope = {key: scope}
        marked = _marks(markings, scope)
        return known.setdefault(marked, marked)  # neighbours often mark the same, and marks may be long

    by_text = {each: marks(each) for kind, each in constants if kind is str}
    return _Table(
        key=path[-1],
        bounds=bounds,
        by_number=[marks(each) for each in _probes(bounds)],
        by_text=by_text,
        other_text=marks("".join(by_text) + "?"),
        rest={each: marks(each) for each in (True, False, None, MISSING)},
        markings=markings,
    )


def _probes(bounds: Sequence[float]) -> Iterator[float]:
    """A number below all bounds, each bound and one between it and the next, and a number beyond them."""
    if not bounds:
        yield 0
        return
    yield bounds[0] - 1
    for at, bound in enumerate(bounds):
        yield bound
        yield bound + 1 if at + 1 == len(bounds) else (bound + bounds[at + 1]) / 2


class _Comparison(NamedTuple):
    """A predicate whose truth depends on the value at one path alone, and changes only at these constants."""

    path: tuple[str, ...]
    constants: frozenset[tuple[type, Any]]
    """Numbers and texts, with their types: True is not 1."""


def _comparison(tree: ast.expr) -> _Comparison | None:
    """What a predicate compares, if it compares one path with constants in ways a table can hold."""
    paths: set[tuple[str, ...]] = set()
    constants: set[tuple[type, Any]] = set()
    if not _gather(tree, paths, constants) or len(paths) != 1:
        return None
    return _Comparison(paths.pop(), frozenset(constants))


def _gather(node: ast.expr, paths: set[tuple[str, ...]], constants: set[tuple[type, Any]]) -> bool:
    """Collect paths and constants of a tree; False when it has anything else in it."""
    path = static_path(node)
    if path is not None:
        paths.add(path)
        return True
    match node:
        case ast.Constant(value=bool() | None):
            return True
        case ast.Constant(value=str(text)):
            constants.add((str, text))
            return True
        case ast.Constant(value=(int() | float()) as number):
            constants.add((float, number))
            return -_LARGEST < number < _LARGEST
        case ast.BoolOp(values=parts):
            pass
        case ast.UnaryOp(op=ast.Not(), operand=part):
            parts = [part]
        case ast.Call(args=[part]) if called(node) == "has":
            parts = [part]
        case ast.Compare(left=left, ops=ops, comparators=rights) if _is_plain(ops, [left, *rights]):
            parts = [left, *(entry for right in rights for entry in _entries(right))]
        case _:
            return False
    return all(_gather(part, paths, constants) for part in parts)


def _is_plain(ops: Sequence[ast.cmpop], operands: Sequence[ast.expr]) -> bool:
    """Whether a comparison is one of numbers, of equality, or with a list of constants."""
    for op, right in zip(ops, operands[1:], strict=True):
        listed = isinstance(right, ast.List) and all(isinstance(each, ast.Constant) for each in right.elts)
        if isinstance(op, (ast.In, ast.NotIn)) is not listed:
            return False
    ordered = any(isinstance(op, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) for op in ops)
    return not (ordered and any(isinstance(each, ast.Constant) and isinstance(each.value, str) for each in operands))


def _entries(node: ast.expr) -> Sequence[ast.expr]:
    return node.elts if isinstance(node, ast.List) else [node]
