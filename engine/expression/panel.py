"""Many predicates answered at once. Those that compare one path with constants are a table, however many they are.

Such a predicate (`18 <= profile.age < 65`, `profile.tier in ["gold"]`, `has(profile.email)`) changes its truth only
at the constants it names. So all those of one path are evaluated beforehand: at each constant, between them and
beyond, for a text they do not name, for null, true, false and the error value. For a customer the value is looked
up. The predicates themselves make the table, so it says what they say.
"""

from __future__ import annotations

import ast
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.expression.closures import build
from engine.expression.syntax import called, static_path
from engine.expression.values import MISSING, Evaluator, Scope

Answers = npt.NDArray[np.bool_]
MAX_TABLE = 64
"""Predicates of one table: its size grows with their square."""
_LARGEST = 2**53
"""Between two neighbouring fractions up to here lies no whole number either."""


class Panel:
    """Predicates by their numbers. `places`: where the answer to each stands; behind all of them stands a True."""

    __slots__ = ("_singles", "_tables", "places")

    def __init__(self, predicates: Mapping[int, ast.expr]) -> None:
        self.places: dict[int, int] = {}
        self._singles: list[tuple[int, Evaluator]] = []
        by_path: dict[tuple[str, ...], list[int]] = {}
        for number, tree in predicates.items():
            comparison = _comparison(tree)
            if comparison is None:
                self._singles.append((self._place([number]), build(tree)))
            else:
                by_path.setdefault(comparison.path, []).append(number)
        # By all of a path but its last key, which is looked up once for all that lies below it.
        self._tables: dict[tuple[str, ...], list[_Table]] = {}
        for path, numbers in by_path.items():
            for at in range(0, len(numbers), MAX_TABLE):
                chunk = numbers[at : at + MAX_TABLE]
                table = _table(path, [predicates[each] for each in chunk], self._place(chunk))
                self._tables.setdefault(path[:-1], []).append(table)

    def _place(self, numbers: Sequence[int]) -> int:
        """Give predicates the next places; returns the first."""
        first = len(self.places)
        self.places.update({number: first + at for at, number in enumerate(numbers)})
        return first

    def answer(self, scope: Scope) -> Answers:
        """Whether each predicate is exactly true in a scope, by place, and a True."""
        answers = bytearray(len(self.places) + 1)
        answers[-1] = 1
        for place, evaluate in self._singles:
            answers[place] = evaluate(scope) is True
        for above, tables in self._tables.items():
            _look_up(_reached(scope, above), tables, scope, answers)
        return np.frombuffer(answers, dtype=np.bool_)


class _Table(NamedTuple):
    """What the predicates from one place to before another say of the value at a key.

    `by_number`: below all bounds, at each, between it and the next; `by_text`: of the texts named, `other_text`: of
    any other; `rest`: of true, false, null and the error value. `evaluators`: for what is none of these.
    """

    key: str
    first: int
    last: int
    bounds: Sequence[float]
    by_number: Sequence[bytes]
    by_text: Mapping[str, bytes]
    other_text: bytes
    rest: Mapping[Any, bytes]
    evaluators: Sequence[Evaluator]


def _reached(scope: Scope, path: tuple[str, ...]) -> Any:
    found: Any = scope
    try:
        for key in path:
            found = found[key]
    except (LookupError, TypeError):
        return MISSING
    return found


def _look_up(above: Any, tables: Sequence[_Table], scope: Scope, answers: bytearray) -> None:
    """Fill in the answers of tables below one map; written out, as it is most of what a predicate costs."""
    for key, first, last, bounds, by_number, by_text, other_text, rest, evaluators in tables:
        try:
            value = above[key]
        except (LookupError, TypeError):
            value = MISSING
        kind = type(value)
        if (kind is int or kind is float) and value == value:  # noqa: PLR0124  only NaN differs from itself
            at = bisect_left(bounds, value)
            answers[first:last] = by_number[2 * at + (at < len(bounds) and bounds[at] == value)]
        elif kind is str:
            answers[first:last] = by_text.get(value, other_text)
        elif kind is bool or value is None or value is MISSING:
            answers[first:last] = rest[value]
        else:
            answers[first:last] = bytes(evaluate(scope) is True for evaluate in evaluators)


def _table(path: tuple[str, ...], trees: Sequence[ast.expr], first: int) -> _Table:
    """The table of predicates over one path, from their first place on."""
    constants = {each for tree in trees if (found := _comparison(tree)) is not None for each in found.constants}
    bounds = sorted({each for kind, each in constants if kind is not str})
    evaluators = [build(tree) for tree in trees]

    def row(value: Any) -> bytes:
        scope: Any = value
        for key in reversed(path):
            scope = {key: scope}
        return bytes(evaluate(scope) is True for evaluate in evaluators)

    by_text = {each: row(each) for kind, each in constants if kind is str}
    return _Table(
        key=path[-1],
        first=first,
        last=first + len(trees),
        bounds=bounds,
        by_number=[row(each) for each in _probes(bounds)],
        by_text=by_text,
        other_text=row("".join(by_text) + "?"),
        rest={each: row(each) for each in (True, False, None, MISSING)},
        evaluators=evaluators,
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
