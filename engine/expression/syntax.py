"""From text to a tree that holds nothing but the language, in one canonical form."""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from engine.expression.functions import FUNCTIONS
from engine.expression.values import GREATEST_INTEGER

MAX_LENGTH = 4_000
"""Characters of one expression."""
MAX_NODES = 400
MAX_DEPTH = 50
MAX_CONSTANT = 1_000
"""Characters of one text written in an expression."""


class ExpressionError(ValueError):
    """A text that is no acceptable expression or template.

    `line` and `column` count from 1; `suggestion`, if any, is what was probably meant.
    """

    def __init__(self, message: str, source: str, offset: int = 0, suggestion: str | None = None) -> None:
        self.message, self.source, self.suggestion = message, source, suggestion
        self.offset = min(max(offset, 0), len(source))
        self.line = source.count("\n", 0, self.offset) + 1
        self.column = self.offset - source.rfind("\n", 0, self.offset)
        hint = "" if suggestion is None else f"; did you mean {suggestion!r}?"
        super().__init__(f"{message}{hint} (line {self.line}, column {self.column})")


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most resembles, if any does."""
    return next(iter(get_close_matches(name, known, n=1)), None)


class Text:
    """The text of one expression: gives its tree, and places faults in it."""

    def __init__(self, source: str) -> None:
        self.source = source
        unbroken = source.replace("\r", " ").replace("\n", " ")
        self._line = unbroken.lstrip()
        self._lead = len(unbroken) - len(self._line)
        self._nodes = 0

    def tree(self) -> ast.expr:
        """The checked canonical tree. Raises ExpressionError, whatever the text."""
        if len(self.source) > MAX_LENGTH:
            raise self._fault(f"an expression of {len(self.source):,} characters, allowed are {MAX_LENGTH:,}")
        if not self._line:
            raise self._fault("the expression is empty")
        tree = self._parsed()
        self._check(tree, 1)
        canonical = _Canonical().visit(tree)
        assert isinstance(canonical, ast.expr)
        return canonical

    def error(self, node: ast.expr, message: str, suggestion: str | None = None) -> ExpressionError:
        """A fault at this node."""
        return self._fault(message, self._characters(node.col_offset), suggestion)

    def _fault(self, message: str, offset: int = 0, suggestion: str | None = None) -> ExpressionError:
        return ExpressionError(message, self.source, self._lead + offset, suggestion)

    def _characters(self, octets: int) -> int:
        """Python counts columns in UTF-8 octets."""
        return len(self._line.encode()[:octets].decode(errors="ignore"))

    def _parsed(self) -> ast.expr:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # "\d" and the like are faults, not guesses
                tree = ast.parse(self._line, mode="eval").body
        except SyntaxError as fault:
            message = re.sub(r"(\. (Perhaps|Maybe).*|\(detected.*| \(<.*)", "", fault.msg).strip()
            at = (fault.offset or 1) - 1
            raise self._fault(f"not an expression: {message}", at, _habit(self._line)) from None
        except (ValueError, MemoryError, RecursionError, Warning) as fault:
            raise self._fault(f"not an expression: {type(fault).__name__}") from None
        self._check_end(tree)
        return tree

    def _check_end(self, tree: ast.expr) -> None:
        """A comment would swallow the lines after it, as line breaks count as spaces."""
        end = self._characters(tree.end_col_offset or 0)
        rest = self._line[end:].lstrip(") \t")
        if rest:
            raise self._fault(f"not an expression from {rest[:20]!r} on", len(self._line) - len(rest))

    def _check(self, node: ast.expr, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self.error(node, f"more than {MAX_NODES} parts, split the rule")
        if depth > MAX_DEPTH:
            raise self.error(node, f"nested more than {MAX_DEPTH} levels deep, split the rule")
        self._check_kind(node)
        self._check_words(node)
        for child in _children(node):
            self._check(child, depth + 1)

    def _check_kind(self, node: ast.expr) -> None:
        for part in (node, *_operators(node)):
            if type(part) not in _ALLOWED:
                instead = _INSTEAD.get(type(part))
                raise self.error(node, f"{type(part).__name__} is not part of the language", instead)
        if isinstance(node, ast.Compare):
            self._check_is(node)

    def _check_is(self, node: ast.Compare) -> None:
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, (ast.Is, ast.IsNot)) and not _is_null(right):
                raise self.error(right, "`is` only asks for null", "==" if isinstance(op, ast.Is) else "!=")

    def _check_words(self, node: ast.expr) -> None:
        match node:
            case ast.Constant():
                self._check_constant(node)
            case ast.Name(id=name) | ast.Attribute(attr=name) if name.startswith("_"):
                raise self.error(node, f"names do not begin with an underscore: {name!r}")
            case ast.Name(id=name) if name in FUNCTIONS:
                raise self.error(node, f"{name} is a function and is written with parentheses")
            case ast.Call():
                self._check_call(node)

    def _check_constant(self, node: ast.Constant) -> None:
        match node.value:
            case bool() | float() | None:
                pass
            case int(number):
                if number > GREATEST_INTEGER:
                    raise self.error(node, "an integer of more than 64 bits")
            case str(text):
                if len(text) > MAX_CONSTANT:
                    raise self.error(node, f"a text of {len(text):,} characters, allowed are {MAX_CONSTANT:,}")
                if not is_unicode(text):
                    raise self.error(node, "a text with half a surrogate pair is no Unicode text")
            case other:
                raise self.error(node, f"{type(other).__name__} constants are not part of the language")
        if node.value in _INFINITE:
            raise self.error(node, "a number too great to be held")

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name):
            raise self.error(node, f"only functions are called, by their name: {', '.join(FUNCTIONS)}")
        name, function = node.func.id, FUNCTIONS.get(node.func.id)
        if function is None:
            raise self.error(node, f"unknown function {name!r}", closest(name, FUNCTIONS))
        if node.keywords:
            raise self.error(node, f"arguments of {name} are given without names")
        expected = function.arity(len(node.args))
        if expected:
            raise self.error(node, f"arguments of {name}: {expected} expected, {len(node.args)} given")
        if name == "has" and not isinstance(node.args[0], (ast.Name, ast.Attribute, ast.Subscript)):
            raise self.error(node, "has takes a path, such as has(profile.age)")


_ALLOWED = frozenset(
    {ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub}
    | {ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot}
    | {ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.IfExp, ast.Call}
    | {ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.List, ast.Tuple}
)
_INSTEAD = {ast.BitAnd: "and", ast.BitOr: "or", ast.Invert: "not", ast.NamedExpr: "==", ast.FloorDiv: "floor"}
_HABITS = (
    ("&&", "and"),
    (r"\|\|", "or"),
    ("!(?!=)", "not"),
    ("(?<![=!<>:])=(?!=)", "=="),
    (r"\?", "if ... else"),
)
_INFINITE = (float("inf"),)
_WORDS = {"true": True, "false": False, "null": None}


def _habit(line: str) -> str | None:
    """What a habit from another language is called here."""
    return next((word for pattern, word in _HABITS if re.search(pattern, line)), None)


def is_unicode(text: str) -> bool:
    """Whether a text can be sent: JSON and Python let half a surrogate pair through, UTF-8 does not."""
    return text == text.encode(errors="ignore").decode()


def _is_null(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=None) | ast.Name(id="null"):
            return True
    return False


def _operators(node: ast.expr) -> list[ast.AST]:
    op = getattr(node, "op", None)
    return [op] if op is not None else [*getattr(node, "ops", ())]


def _children(node: ast.expr) -> Iterator[ast.expr]:
    """Parts that are expressions themselves: all but the name of a called function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr) and not (isinstance(node, ast.Call) and child is node.func):
            yield child


class _Canonical(ast.NodeTransformer):
    """One form for what means the same: so equal rules have equal text, and the compiler has fewer cases."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return _at(node, ast.Constant(_WORDS[node.id])) if node.id in _WORDS else node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return _at(node, ast.Constant(node.value))  # without the mark of u"..."

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        self.generic_visit(node)
        return _at(node, ast.List(node.elts, ast.Load()))

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        match node.slice:
            case ast.Constant(value=str(key)) if _is_plain(key):
                return _at(node, ast.Attribute(node.value, key, ast.Load()))
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number) | float(number))):
                return node if isinstance(number, bool) else _at(node, ast.Constant(-number))
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        node.ops = [_EQUALITY.get(type(op), type(op))() for op in node.ops]
        repeatable = all(isinstance(each, ast.Constant) or static_path(each) for each in node.comparators[:-1])
        return _at(node, ast.BoolOp(ast.And(), _links(node))) if repeatable and len(node.ops) > 1 else node


def _links(node: ast.Compare) -> list[ast.expr]:
    """`a < b < c` as `a < b` and `b < c`."""
    lefts = [node.left, *node.comparators]
    links = zip(lefts, node.ops, node.comparators, strict=False)
    return [_at(left, ast.Compare(left, [op], [right])) for left, op, right in links]


_EQUALITY: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Is: ast.Eq, ast.IsNot: ast.NotEq}


def _at(node: ast.expr, instead: ast.expr) -> ast.expr:
    return ast.copy_location(instead, node)


def _is_plain(key: str) -> bool:
    """Whether a key can stand after a dot and means the same there."""
    return key.isascii() and key.isidentifier() and not key.startswith("_") and not keyword.iskeyword(key)


def static_path(node: ast.expr) -> tuple[str, ...] | None:
    """Root and keys of a path that is fixed when written; None for anything else."""
    match node:
        case ast.Name(id=root):
            return (root,)
        case ast.Attribute(value=base, attr=str(key)):
            pass
        case ast.Subscript(value=base, slice=ast.Constant(value=str(key))):
            pass
        case _:
            return None
    above = static_path(base)
    return None if above is None else (*above, key)


def paths(node: ast.expr) -> Iterator[tuple[str, ...]]:
    """Every path the tree reads, each as far as it is fixed when written."""
    path = static_path(node)
    if path is not None:
        yield path
        return
    if isinstance(node, ast.Call):
        yield from ((root,) for root in FUNCTIONS[called(node)].reads)
    for child in _children(node):
        yield from paths(child)


def called(node: ast.Call) -> str:
    """Name of the function in a checked call."""
    assert isinstance(node.func, ast.Name)
    return node.func.id
