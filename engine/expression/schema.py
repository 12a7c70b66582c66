"""Which names exist and of what type they are, and what is wrong with a tree before it is ever evaluated."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, TypeAlias

from engine.expression.functions import FUNCTIONS
from engine.expression.syntax import Text, called, closest, static_path
from engine.expression.values import ANY, BOOLEAN, LIST, MAP, NUMBER, ORDERED, SCALARS, STRING, Type

Spec: TypeAlias = "Type | frozenset[str] | Mapping[str, Spec]"
"""What stands at a name: a type; a list whose possible entries are known; or a map, key by key.

In a map, the key `*` gives the spec of every key not listed; without it, other keys are unknown names.
MAP is a map with any keys."""

_OTHERS = "*"


class Schema:
    """The roots of a scope and what is below them.

    >>> schema = Schema({"profile": {"age": NUMBER, "address": MAP}, "segments": frozenset({"loyal"})})
    """

    __slots__ = ("roots",)

    def __init__(self, roots: Mapping[str, Spec]) -> None:
        self.roots = roots


def infer(tree: ast.expr, schema: Schema | None, text: Text) -> Type:
    """Type of the expression's value, ANY where only evaluation can tell.

    Raises ExpressionError for an unknown name, and for types that can never go together.
    """
    return _kind(_Inference(schema, text).visit(tree))


def _kind(spec: Spec) -> Type:
    if isinstance(spec, Type):
        return spec
    return LIST if isinstance(spec, frozenset) else MAP


def _join(specs: list[Spec]) -> Spec:
    """The spec that holds whichever of these it is."""
    return specs[0] if specs and all(spec == specs[0] for spec in specs) else ANY


class _Inference(ast.NodeVisitor):
    """Every method returns the spec of its node, after checking what is below."""

    def __init__(self, schema: Schema | None, text: Text) -> None:
        self._schema, self._text = schema, text

    def visit_Constant(self, node: ast.Constant) -> Spec:
        match node.value:
            case None:
                return Type.NULL
            case bool():
                return BOOLEAN
            case str():
                return STRING
        return NUMBER

    def visit_List(self, node: ast.List) -> Spec:
        for entry in node.elts:
            self.visit(entry)
        return LIST

    def visit_Name(self, node: ast.Name) -> Spec:
        return ANY if self._schema is None else self._look_up(node, self._schema.roots, node.id, "")

    def visit_Attribute(self, node: ast.Attribute) -> Spec:
        return self._entry(node, self.visit(node.value), node.attr)

    def visit_Subscript(self, node: ast.Subscript) -> Spec:
        base, key = self.visit(node.value), self._need(node.slice, ORDERED)
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            return self._entry(node, base, node.slice.value)
        self._expect(node, base, {NUMBER: {LIST}, STRING: {MAP}}.get(key, {LIST, MAP}))
        return _join(list(base.values())) if isinstance(base, Mapping) else ANY

    def _entry(self, node: ast.Attribute | ast.Subscript, base: Spec, key: str) -> Spec:
        self._expect(node, base, {MAP})
        if not isinstance(base, Mapping):
            return ANY
        above = static_path(node.value)
        return self._look_up(node, base, key, "" if above is None else ".".join(above) + ".")

    def _look_up(self, node: ast.expr, known: Mapping[str, Spec], key: str, above: str) -> Spec:
        spec = known.get(key, known.get(_OTHERS))
        if spec is not None:
            return spec
        meant = closest(key, known)
        suggestion = None if meant is None else above + meant
        raise self._text.error(node, f"unknown name {above + key!r}", suggestion)

    def visit_BoolOp(self, node: ast.BoolOp) -> Spec:
        for term in node.values:
            self._need(term, {BOOLEAN})
        return BOOLEAN

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Spec:
        expected = BOOLEAN if isinstance(node.op, ast.Not) else NUMBER
        self._need(node.operand, {expected})
        return expected

    def visit_BinOp(self, node: ast.BinOp) -> Spec:
        self._need(node.left, {NUMBER})
        self._need(node.right, {NUMBER})
        return NUMBER

    def visit_IfExp(self, node: ast.IfExp) -> Spec:
        self._need(node.test, {BOOLEAN})
        return _join([self.visit(node.body), self.visit(node.orelse)])

    def visit_Compare(self, node: ast.Compare) -> Spec:
        operands = [node.left, *node.comparators]
        specs = [self.visit(operand) for operand in operands]
        for index, op in enumerate(node.ops):
            self._check_relation(op, operands[index : index + 2], specs[index : index + 2])
        return BOOLEAN

    def _check_relation(self, op: ast.cmpop, operands: list[ast.expr], specs: list[Spec]) -> None:
        left, right = specs
        if isinstance(op, (ast.In, ast.NotIn)):
            self._expect(operands[0], left, SCALARS)
            self._expect(operands[1], right, {LIST, MAP})
            self._check_member(operands[0], right)
            return
        types = {_kind(left), _kind(right)}
        if isinstance(op, (ast.Eq, ast.NotEq)):
            if Type.NULL in types:
                return
            accepted = SCALARS
        else:
            accepted = ORDERED
        for operand, spec in zip(operands, specs, strict=True):
            self._expect(operand, spec, accepted)
        if len(types - {ANY}) > 1:
            raise self._text.error(operands[0], f"{_kind(left).value} is compared with {_kind(right).value}")

    def _check_member(self, item: ast.expr, container: Spec) -> None:
        if not isinstance(container, frozenset) or not isinstance(item, ast.Constant):
            return
        if item.value not in container:
            meant = closest(str(item.value), sorted(container))
            raise self._text.error(item, f"unknown entry {item.value!r}", meant)

    def visit_Call(self, node: ast.Call) -> Spec:
        name, function = called(node), FUNCTIONS[called(node)]
        specs = [self.visit(argument) for argument in node.args]
        for argument, spec, types in zip(node.args, specs, function.types(len(specs)), strict=True):
            self._expect(argument, spec, types)
        if name == "contains":
            self._check_member(node.args[1], specs[0])
        return _join(specs) if name == "default" else function.gives

    def _need(self, node: ast.expr, accepted: set[Type] | frozenset[Type]) -> Type:
        spec = self.visit(node)
        self._expect(node, spec, accepted)
        return _kind(spec)

    def _expect(self, node: ast.expr, spec: Spec, accepted: set[Type] | frozenset[Type]) -> None:
        """Raise unless the spec is of an accepted type, or of any."""
        found = _kind(spec)
        if found is not ANY and found not in accepted:
            wanted = " or ".join(sorted(each.value for each in accepted))
            raise self._text.error(node, f"{found.value} stands where {wanted} is needed")

    def visit(self, node: ast.AST) -> Any:
        """Spec of a node."""
        return super().visit(node)
