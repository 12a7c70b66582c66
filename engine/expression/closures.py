"""From a checked canonical tree to nested functions of a scope; whatever goes wrong in them is MISSING."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

from engine.expression.functions import FUNCTIONS, MAX_TEXT, NUMERIC, Function, Types
from engine.expression.syntax import called, static_path
from engine.expression.values import (
    GREATEST_FRACTION,
    MISSING,
    NUMBER,
    PLAIN,
    RELATIONS,
    Evaluator,
    Relation,
    Scope,
    bounded,
    kind,
)

_NUMBERS = frozenset({int, float})
_SETS = frozenset({set, frozenset})
_ALIKE: Mapping[type, tuple[type, type | None]] = {
    int: (int, float),
    float: (int, float),
    str: (str, None),
    bool: (bool, None),
    NoneType: (NoneType, None),
}
"""Types that Python compares with a constant of the given type as here; the second may be NaN."""
_MIRRORED: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.LtE: ast.GtE,
    ast.Gt: ast.Lt,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


def build(tree: ast.expr) -> Evaluator:
    """The value of the expression, MISSING when it is an error."""
    return _BUILDERS[type(tree)](tree)


def build_test(tree: ast.expr) -> Callable[[Scope], bool]:
    """Whether the value of the expression is exactly true; stops at the first conjunct that is not."""
    match [build(term) for term in conjuncts(tree)]:
        case [one]:
            return lambda scope: one(scope) is True
        case [one, two]:
            return lambda scope: one(scope) is True and two(scope) is True
        case [one, two, three]:
            return lambda scope: one(scope) is True and two(scope) is True and three(scope) is True
        case terms:
            return _all(terms)


def _all(terms: list[Evaluator]) -> Callable[[Scope], bool]:
    def test(scope: Scope) -> bool:
        for term in terms:  # noqa: SIM110  the generator of an all() would cost more than the predicates
            if term(scope) is not True:
                return False
        return True

    return test


def conjuncts(tree: ast.expr) -> list[ast.expr]:
    """Terms of the `and` at the top, nested ones included; the tree itself when there is none."""
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        return [term for value in tree.values for term in conjuncts(value)]
    return [tree]


def _constant(node: ast.Constant) -> Evaluator:
    value = node.value
    return lambda _: value


def _list(node: ast.List) -> Evaluator:
    entries = [build(entry) for entry in node.elts]

    def run(scope: Scope) -> Any:
        values = [entry(scope) for entry in entries]
        return MISSING if MISSING in values else values

    return run


def _path(node: ast.Name | ast.Attribute | ast.Subscript) -> Evaluator:
    path = static_path(node)
    if path is None:
        assert not isinstance(node, ast.Name)
        key = ast.Constant(node.attr) if isinstance(node, ast.Attribute) else node.slice
        return _item(build(node.value), build(key))
    return _fixed_path(*path)


def _fixed_path(root: str, *keys: str) -> Evaluator:
    """Looks up without asking for types first: of the values in a scope only maps answer to a text."""
    match keys:
        case ():
            return _root(root)
        case (first,):
            return _path_of_two(root, first)
        case (first, second):
            return _path_of_three(root, first, second)
    above, last = _fixed_path(root, *keys[:-1]), keys[-1]

    def run(scope: Scope) -> Any:
        try:
            return above(scope)[last]
        except (LookupError, TypeError):
            return MISSING

    return run


def _root(root: str) -> Evaluator:
    def run(scope: Scope) -> Any:
        try:
            return scope[root]
        except KeyError:
            return MISSING

    return run


def _path_of_two(root: str, key: str) -> Evaluator:
    def run(scope: Scope) -> Any:
        try:
            return scope[root][key]
        except (LookupError, TypeError):
            return MISSING

    return run


def _path_of_three(root: str, first: str, second: str) -> Evaluator:
    def run(scope: Scope) -> Any:
        try:
            return scope[root][first][second]
        except (LookupError, TypeError):
            return MISSING

    return run


def _item(base: Evaluator, key: Evaluator) -> Evaluator:
    def run(scope: Scope) -> Any:
        container, at = base(scope), key(scope)
        fits = type(at) is int if isinstance(container, (list, tuple)) else isinstance(at, str)
        try:
            return container[at] if fits else MISSING
        except (LookupError, TypeError):
            return MISSING

    return run


def _connective(node: ast.BoolOp) -> Evaluator:
    """Kleene's `and` (decided by a false) or `or` (decided by a true), in any order of the terms."""
    terms = [build(term) for term in node.values]
    neutral = isinstance(node.op, ast.And)
    decisive = not neutral

    def run(scope: Scope) -> Any:
        known = True
        for term in terms:
            value = term(scope)
            if value is neutral:
                continue
            if value is decisive:
                return decisive
            known = False
        return neutral if known else MISSING

    return run


def _unary(node: ast.UnaryOp) -> Evaluator:
    operand = build(node.operand)
    return _not(operand) if isinstance(node.op, ast.Not) else _minus(operand)


def _not(operand: Evaluator) -> Evaluator:
    def run(scope: Scope) -> Any:
        value = operand(scope)
        return not value if value is True or value is False else MISSING

    return run


def _minus(operand: Evaluator) -> Evaluator:
    def run(scope: Scope) -> Any:
        value = operand(scope)
        return bounded(-value) if type(value) in _NUMBERS else MISSING

    return run


def _arithmetic(node: ast.BinOp) -> Evaluator:
    left, right, compute = build(node.left), build(node.right), _ARITHMETIC[type(node.op)]

    def run(scope: Scope) -> Any:
        one, other = left(scope), right(scope)
        if type(one) not in _NUMBERS or type(other) not in _NUMBERS:
            return MISSING
        try:
            result = compute(one, other)
        except ArithmeticError:
            return MISSING
        if type(result) is float and -GREATEST_FRACTION <= result <= GREATEST_FRACTION:
            return result
        return bounded(result)

    return run


def _conditional(node: ast.IfExp) -> Evaluator:
    condition, then, otherwise = build(node.test), build(node.body), build(node.orelse)

    def run(scope: Scope) -> Any:
        holds = condition(scope)
        if holds is True:
            return then(scope)
        return otherwise(scope) if holds is False else MISSING

    return run


def _call(node: ast.Call) -> Evaluator:
    function, arguments = FUNCTIONS[called(node)], [build(argument) for argument in node.args]
    if not function.strict:
        return _lenient(function.run, *arguments)
    implied = [(_root(root), NUMERIC) for root in function.reads]
    return _strict(function, [*implied, *zip(arguments, function.types(len(arguments)), strict=True)])


def _lenient(compute: Callable[..., Any], first: Evaluator, second: Evaluator | None = None) -> Evaluator:
    if second is None:
        return lambda scope: compute(first(scope))
    return lambda scope: compute(first(scope), second(scope))


def _strict(function: Function, arguments: list[tuple[Evaluator, Types]]) -> Evaluator:
    compute, numeric = function.run, function.gives is NUMBER
    checked = [(argument, int if NUMBER in types else None, types) for argument, types in arguments]

    def run(scope: Scope) -> Any:
        values = []
        for argument, sure, types in checked:
            value = argument(scope)
            if type(value) is not sure and not _fits(value, types):
                return MISSING
            values.append(value)
        try:
            return bounded(compute(*values)) if numeric else compute(*values)
        except (ArithmeticError, ValueError):  # outside the domain of the function
            return MISSING

    return run


def _fits(value: object, types: Types) -> bool:
    return kind(value) in types and not (isinstance(value, str) and len(value) > MAX_TEXT)


def _compare(node: ast.Compare) -> Evaluator:
    if len(node.ops) > 1:
        return _chain(node)
    op, left, right = type(node.ops[0]), node.left, node.comparators[0]
    if op in (ast.In, ast.NotIn):
        return _membership(op, left, right)
    if isinstance(right, ast.Constant):
        return _versus(op, left, right.value)
    if isinstance(left, ast.Constant):
        return _versus(_MIRRORED[op], right, left.value)
    return _related(RELATIONS[op], build(left), build(right))


def _related(relation: Relation, left: Evaluator, right: Evaluator) -> Evaluator:
    return lambda scope: relation(left(scope), right(scope))


def _chain(node: ast.Compare) -> Evaluator:
    """`a < b < c` is `a < b and b < c` with b evaluated once."""
    first = build(node.left)
    links = [*zip([RELATIONS[type(op)] for op in node.ops], map(build, node.comparators), strict=True)]

    def run(scope: Scope) -> Any:
        known, left = True, first(scope)
        for relation, operand in links:
            right = operand(scope)
            holds = relation(left, right)
            if holds is False:
                return False
            known = known and holds is True
            left = right
        return known or MISSING

    return run


def _membership(op: type[ast.cmpop], left: ast.expr, right: ast.expr) -> Evaluator:
    """Entries are looked for the long way, except for the two commonest forms."""
    relation, wanted = RELATIONS[op], op is ast.In
    match left, right:
        case ast.Constant(value=str(item)), ast.Name(id=root):
            return _root_holds(item, root, wanted, relation)
    if isinstance(right, ast.List) and all(map(_is_text, right.elts)):
        return _is_listed(build(left), frozenset(map(ast.literal_eval, right.elts)), wanted, relation)
    return _related(relation, build(left), build(right))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _root_holds(item: str, root: str, wanted: bool, relation: Relation) -> Evaluator:
    """A written text in a set at the root, as in `'loyal' in segments`."""

    def run(scope: Scope) -> Any:
        try:
            entries = scope[root]
        except KeyError:
            return MISSING
        if type(entries) in _SETS:
            return (item in entries) is wanted
        return relation(item, entries)

    return run


def _is_listed(item: Evaluator, listed: frozenset[str], wanted: bool, relation: Relation) -> Evaluator:
    """A text among written ones, as in `signal.event in ['Order Completed', 'Order Refunded']`."""

    def run(scope: Scope) -> Any:
        value = item(scope)
        if type(value) is str:
            return (value in listed) is wanted
        return relation(value, listed)

    return run


def _versus(op: type[ast.cmpop], left: ast.expr, constant: Any) -> Evaluator:
    """A comparison with a constant: the commonest predicate, so paths of two and three names save a call."""
    path = static_path(left) or ()
    if len(path) == 2:
        return _two_versus(*path, op, constant)
    if len(path) == 3:
        return _three_versus(*path, op, constant)
    return _any_versus(build(left), op, constant)


def _any_versus(left: Evaluator, op: type[ast.cmpop], constant: Any) -> Evaluator:
    (exact, also), compare, relation = _ALIKE[type(constant)], PLAIN[op], RELATIONS[op]

    def run(scope: Scope) -> Any:
        value = left(scope)
        found = type(value)
        if found is exact or (found is also and value == value):  # noqa: PLR0124  only NaN differs from itself
            return compare(value, constant)
        return relation(value, constant)

    return run


def _two_versus(root: str, key: str, op: type[ast.cmpop], constant: Any) -> Evaluator:
    (exact, also), compare, relation = _ALIKE[type(constant)], PLAIN[op], RELATIONS[op]

    def run(scope: Scope) -> Any:
        try:
            value = scope[root][key]
        except (LookupError, TypeError):
            return MISSING
        found = type(value)
        if found is exact or (found is also and value == value):  # noqa: PLR0124  as in _any_versus
            return compare(value, constant)
        return relation(value, constant)

    return run


def _three_versus(root: str, first: str, second: str, op: type[ast.cmpop], constant: Any) -> Evaluator:
    (exact, also), compare, relation = _ALIKE[type(constant)], PLAIN[op], RELATIONS[op]

    def run(scope: Scope) -> Any:
        try:
            value = scope[root][first][second]
        except (LookupError, TypeError):
            return MISSING
        found = type(value)
        if found is exact or (found is also and value == value):  # noqa: PLR0124  as in _any_versus
            return compare(value, constant)
        return relation(value, constant)

    return run


_BUILDERS: Mapping[type[ast.expr], Callable[[Any], Evaluator]] = {
    ast.Constant: _constant,
    ast.List: _list,
    ast.Name: _path,
    ast.Attribute: _path,
    ast.Subscript: _path,
    ast.BoolOp: _connective,
    ast.UnaryOp: _unary,
    ast.BinOp: _arithmetic,
    ast.IfExp: _conditional,
    ast.Call: _call,
    ast.Compare: _compare,
}
