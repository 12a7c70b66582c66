"""What callers hold: compiled expressions, and the table that shares equal predicates between rules."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from engine.expression.closures import build, build_test, conjuncts
from engine.expression.panel import Answers, Panel
from engine.expression.schema import Schema, infer
from engine.expression.syntax import Text, paths
from engine.expression.values import Evaluator, Scope, Type


class Expression:
    """One compiled expression; immutable.

    `source`: the text as written. `tree`: what it was parsed to. `key`: its canonical form: spacing, quotes,
    redundant parentheses and the spelling of constants and paths do not matter, order does. `type`: of its value,
    when that is no error. `paths`: every path it reads, as root and keys. `value(scope)`: its value, or MISSING.
    `test(scope)`: whether its value is exactly true. Neither changes the scope, or raises for one of plain values.
    """

    __slots__ = ("key", "paths", "source", "test", "tree", "type", "value")

    def __init__(self, source: str, tree: ast.expr, type_: Type) -> None:
        self.source, self.type, self.tree = source, type_, tree
        self.key = ast.unparse(tree)
        self.paths = frozenset(paths(tree))
        self.value = build(tree)
        self.test = build_test(tree)

    def __repr__(self) -> str:
        return f"Expression({self.source!r})"

    def conjuncts(self) -> tuple[Expression, ...]:
        """The terms of the `and` at the top: the expression tests true exactly when each of them does."""
        terms = conjuncts(self.tree)
        if len(terms) == 1:
            return (self,)
        return tuple(Expression(ast.unparse(term), term, Type.BOOLEAN) for term in terms)


def compile_expression(source: str, schema: Schema | None = None) -> Expression:
    """The expression written in `source`.

    Raises ExpressionError, and nothing else, for a text outside the language or its bounds, for types that
    cannot go together and, given a schema, for unknown names and unknown entries of enumerated lists.

    >>> rule = compile_expression("profile.age >= 18 and 'loyal' in segments")
    >>> rule.test({"profile": {"age": 20}, "segments": {"loyal"}})
    True
    >>> rule.test({"profile": {}, "segments": {"loyal"}})
    False
    """
    text = Text(source)
    tree = text.tree()
    return Expression(source, tree, infer(tree, schema, text))


class Predicates:
    """The distinct predicates of many rules, each to be evaluated at most once per scope."""

    def __init__(self) -> None:
        self._indices: dict[str, int] = {}
        self._predicates: list[Expression] = []
        self._values: list[Evaluator] = []

    def add(self, expression: Expression) -> tuple[int, ...]:
        """Indices of the expression's conjuncts; equal ones share an index."""
        return tuple(self._index(conjunct) for conjunct in expression.conjuncts())

    def _index(self, predicate: Expression) -> int:
        index = self._indices.setdefault(predicate.key, len(self._predicates))
        if index == len(self._predicates):
            self._predicates.append(predicate)
            self._values.append(predicate.value)
        return index

    def __len__(self) -> int:
        return len(self._predicates)

    def source(self, index: int) -> str:
        """The text of a predicate, to be shown to people."""
        return self._predicates[index].source

    def panel(self, indices: Iterable[int], marks: Mapping[int, int] | None = None) -> Panel:
        """These predicates, to be answered together. `marks`: what each marks when it does not hold."""
        return Panel({index: self._predicates[index].tree for index in indices}, marks)

    def evaluate(self, scope: Scope) -> Memo:
        """The truth of each predicate, found when first asked for; the scope must not change meanwhile."""
        return Memo(self, self._values, scope)


class Memo:
    """Which predicates hold in one scope, each found out when first asked for."""

    __slots__ = ("_answers", "_known", "_places", "_scope", "_values", "source")

    def __init__(self, predicates: Predicates, values: list[Evaluator], scope: Scope) -> None:
        self._values, self._scope, self.source = values, scope, predicates.source
        self._known: dict[int, bool] = {}
        self._places: Mapping[int, int] = {}
        self._answers: Answers | None = None

    def answer(self, panel: Panel) -> Answers:
        """The answers of a panel of these predicates, by its `places`; remembered."""
        if self._answers is None or self._places is not panel.places:
            self._places, self._answers = panel.places, panel.answer(self._scope)
        return self._answers

    def truth(self, index: int) -> bool:
        """Whether predicate `index` is exactly true."""
        holds = self._known.get(index)
        if holds is None:
            place = self._places.get(index)
            if place is None or self._answers is None:
                holds = self._values[index](self._scope) is True
            else:
                holds = self._answers[place]
            self._known[index] = holds
        return holds

    def first_false(self, indices: Iterable[int]) -> int | None:
        """The first of these that does not hold, the reason why a rule did not; None when the rule holds."""
        return next((index for index in indices if not self.truth(index)), None)
