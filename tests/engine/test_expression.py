"""The expression language: what it means, what it refuses, and that nothing written in it can do harm."""

from __future__ import annotations

import ast
import copy
import doctest
import math
import operator
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import engine.expression
from engine.expression import (
    ANY,
    BOOLEAN,
    LIST,
    MAP,
    MISSING,
    NUMBER,
    STRING,
    Expression,
    ExpressionError,
    Predicates,
    Schema,
    compile_expression,
    compiled,
    schema,
)
from engine.expression.functions import FUNCTIONS, MAX_TEXT
from engine.expression.syntax import MAX_CONSTANT, MAX_DEPTH, MAX_LENGTH, MAX_NODES
from engine.expression.values import MAX_ENTRIES

SCHEMA = Schema(
    {
        "profile": {
            "age": NUMBER,
            "name": STRING,
            "vip": BOOLEAN,
            "tags": LIST,
            "address": MAP,
            "x": ANY,
            "spend": {"*": NUMBER},
        },
        "segments": frozenset({"loyal", "new"}),
        "now_ms": NUMBER,
    }
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("tnmls"), inner, max_size=3),
    max_leaves=6,
)
FLAGS, NUMBERS, TEXTS = st.booleans(), st.sampled_from([0, 1, 2, 1.5, -3]), st.sampled_from(["a", "b", "t"])
LISTS = st.lists(NUMBERS | TEXTS | FLAGS, max_size=4)
MAPS = st.fixed_dictionaries({"t": FLAGS}, optional={"n": NUMBERS, "s": TEXTS, "m": st.just({"n": 1})})
LIKELY = {"t": FLAGS, "n": NUMBERS, "s": TEXTS, "l": LISTS, "m": MAPS, "now_ms": st.just(10**12)}


@st.composite
def scopes(draw: st.DrawFn) -> dict[str, Any]:
    """Roots that mostly are what their letter says, now and then anything else, or missing."""
    scope = {name: draw(likely) for name, likely in LIKELY.items()}
    for name in draw(st.sets(st.sampled_from([*LIKELY]), max_size=2)):
        scope[name] = draw(JSON)
    for name in draw(st.sets(st.sampled_from([*LIKELY]), max_size=1)):
        del scope[name]
    return scope


SCOPES = scopes()


def value(source: str, **scope: Any) -> Any:
    """Value of an expression over these roots."""
    return compile_expression(source).value(scope)


def fault(source: str, known: Schema | None = None) -> ExpressionError:
    """Why a text is refused."""
    with pytest.raises(ExpressionError) as caught:
        compile_expression(source, known)
    return caught.value


LEAVES = {
    "truth": ["t", "m.t", "true", "m.m.t", "n"],
    "number": ["n", "m.n", "m.m.n", "l[0]", "2", "missing"],
    "text": ["s", "m.s", "'a'", "m"],
    "list": ["l", "[1, 'a', n]", "('a', 'b')", "m", "s"],
    "path": ["t", "n", "m.n", "l", "m", "l[0]", "m[s]", "s", "m.m.n", "missing"],
}
FORMS = {
    "truth": [
        *[("({} and {})", "truth truth"), ("({} or {})", "truth truth"), ("(not {})", "truth")] * 3,
        *[(f"({{}} {op} {{}})", "number number") for op in ("<", ">=", "==", "!=")],
        *[(f"({path} {op} 1)", "") for path in ("n", "m.n", "m.m.n") for op in ("<", ">=", "==", "!=")],
        *[("(s == {})", "text"), ("(m.s != 'a')", ""), ("({} == m[s])", "path"), ("({} < {})", "path path")],
        *[("(1.5 < {} <= {} != 3)", "number number"), ("('t' in m)", ""), ("('a' in l)", ""), ("('a' in m.s)", "")],
        *[("({} in {})", "text list"), ("({} not in {})", "number list"), ("(t in {})", "list")],
        *[("({} == null)", "path"), ("({} is not null)", "number"), ("({} in ['a', 'b'])", "text")],
        *[("has({})", "path"), ("contains({}, {})", "list path"), ("starts_with({}, 'a')", "text")],
        *[("({} if {} else {})", "truth truth truth"), ("default({}, {})", "path truth")],
    ],
    "number": [
        *[(f"({{}} {op} {{}})", "number number") for op in "+-*/%"],
        *[("(-{})", "number"), ("default({}, {})", "path number"), ("floor({})", "number"), ("len({})", "list")],
        *[("min({}, {})", "number number"), ("round({}, {})", "number number"), ("len(upper(s))", "")],
        *[("days_since({})", "number"), ("weekday({})", "number"), ("clamp({}, 0, {})", "number number")],
        *[("({} if {} else {})", "number truth number"), ("{}", "path")],
    ],
}


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3, kind: str = "truth") -> str:
    """Expressions whose types may fit, over fields of any type: so most go wrong somewhere when evaluated."""
    if kind not in FORMS or depth == 0:
        return draw(st.sampled_from(LEAVES[kind]))
    form, kinds = draw(st.sampled_from(FORMS[kind]))
    return form.format(*(draw(expressions(depth - 1, each)) for each in kinds.split()))


def compiled_or_refused(source: str) -> Expression | None:
    """The expression, unless its constants already show that its types do not fit."""
    try:
        return compile_expression(source)
    except ExpressionError:
        return None


KLEENE = {"true": True, "false": False, "e.rr": MISSING, "e.text": MISSING}
SAMPLES: list[Any] = [None, True, False, 0, 1, 1.0, -0.5, "", "a", "b", [], [1], (1,), {}, {"a": 1}, {1}, frozenset()]
SAMPLES += [math.nan, object(), 1j]
PLAIN_ARITHMETIC: dict[str, Any] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
}
ABUSE = [
    "().__class__.__bases__[0].__subclasses__()",
    "profile.__class__",
    "_x",
    "profile._x",
    "__import__('os').system('true')",
    "open('/etc/passwd')",
    "9**9**9",
    "9**9",
    "'a' * 10000000000",
    "[1] * 10000000000",
    "'a' + 'b'",
    "'a' % 'b'",
    "[x for x in range(10**10)]",
    "{x for x in a}",
    "(x for x in a)",
    "lambda: 1",
    "(lambda: 1)()",
    "(a := 1)",
    "f'{a}'",
    "'{0.__class__}'.format(a)",
    "a.lower()",
    "lower",
    "a == lower",
    "has()(a)",
    "[*a]",
    "min(*a)",
    "round(a, digits=1)",
    "round(**a)",
    "a[1:2]",
    "a[...]",
    "{'a': 1}",
    "{1}",
    "b'a'",
    "1j",
    "await a",
    "yield",
    "a; b",
    "a = 1",
    "import os",
    "a # comment\nand b",
    "a if b",
    "a @ b",
    "~a",
    "a << 9",
    "a // 2",
    "a is b",
    "a == [1]",
    "1 < 'a'",
    "1 < true",
    "'a' in 'abc'",
    "not 1",
    "1 and a",
    "has(1)",
    "has(lower(a))",
    "1e999",
    "-1e999",
    "'\\d'",
    "'\\ud800'",
    "'\ud800'",
    "1if a else 2",
    "\0",
    "a\0",
    "'a\0'",
    "\ufeffa",
    "a\xa0+ 1",
    "",
    " \n\t ",
    "(" * 500 + "a" + ")" * 500,
    "[" * 500 + "]" * 500,
    "(" * 2000,
    "-" * 3999 + "a",
    "not " * 999 + "a",
    "a" + ".b" * 1900,
    "a" + "[0]" * 1300,
    "9" * 4000,
    "0x" + "f" * 3990,
    "a if b else " * 300 + "a",
    "lambda:" * 500 + "a",
    "f'" * 1900,
]
TOKENS = [
    *"ab()[]<>=+-*/%&|~^@:;{}#\\\n_.,12'!",
    *("'a'", "2.5", "0x1", "1e9", ".x", "__", "f'{a}'", "b''", "**a", "...", "==", "!=", "<=", ">=", ":=", "//"),
    *("true", "null", "and", "or", "not", "in", "is", "if", "else", "for", "lambda", "yield", "await"),
    *("has(", "default(", "len(", "min(", "upper("),
]


def type_of(found: Any) -> str | None:
    """Scalar type of a sample, None for others."""
    names = {bool: "bool", int: "number", float: "number", str: "str", type(None): "null"}
    return None if isinstance(found, float) and math.isnan(found) else names.get(type(found))


def member(item: Any, holder: Any) -> Any:
    """The rule for `in`, the long way."""
    kind = type_of(item)
    if kind is None or not isinstance(holder, (list, tuple, set, dict)):
        return MISSING
    if isinstance(holder, dict):
        return item in holder if kind == "str" else MISSING
    return any(entry == item and type_of(entry) == kind for entry in holder)


class Counted(Mapping[str, Any]):
    """A scope that counts how often its roots are read."""

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self.roots, self.reads = roots, 0

    def __getitem__(self, name: str) -> Any:
        self.reads += 1
        return self.roots[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.roots)

    def __len__(self) -> int:
        return len(self.roots)


class TestMeaning:
    """Values of expressions."""

    @pytest.mark.parametrize("size", [2, 3])
    def test_and_or_follow_kleene_in_every_order(self, size: int) -> None:
        """One false decides `and`, one true decides `or`; else an error, or a value that is no truth, is an error."""
        for names in product(KLEENE, repeat=size):
            found = [KLEENE[name] for name in names]
            all_of = False if False in found else MISSING if MISSING in found else True
            any_of = True if True in found else MISSING if MISSING in found else False
            assert value(" and ".join(names), e={"text": "t"}) is all_of
            assert value(" or ".join(names), e={"text": "t"}) is any_of

    @pytest.mark.parametrize("error", ["x.y", "1 / 0", "1 < z.text", "z.text + 1", "z.text and true", "sqrt(-1)"])
    def test_errors_fail_closed(self, error: str) -> None:
        """An error makes no rule true, whatever it is wrapped in, unless it is asked for."""
        for rule in (
            "{}", "not ({})", "not not ({})", "({}) == ({})", "({}) != 1", "({}) == null", "({}) != null",
            "({}) in [1]", "({}) not in [1]", "1 not in [({})]", "true if ({}) else true",
            "not (({}) and true)", "1 < ({}) < 3", "not (1 < ({}) < 3)", "not contains([1], ({}))",
            "len([({})]) == 1",
        ):  # fmt: skip
            expression = compiled_or_refused(rule.format(error, error))
            if expression is not None:
                assert expression.value({"z": {"text": "t"}}) is MISSING
                assert not expression.test({"z": {"text": "t"}})
        assert value(f"default({error}, 7)", z={"text": "t"}) == 7

    @pytest.mark.parametrize("found", [1, 1.0, "true", [True], {"a": True}, None])
    def test_only_true_itself_makes_a_rule_true(self, found: Any) -> None:
        """Values that Python takes for true do not open a rule."""
        rule = compile_expression("a")
        assert rule.test({"a": True})
        assert not rule.test({"a": found})
        assert not compile_expression("a and a").test({"a": found})

    def test_the_error_value_is_false(self) -> None:
        """An `if` on a value that was not checked fails closed."""
        assert not value("x.y")
        assert repr(value("x.y")) == "MISSING"

    def test_comparison_is_strict(self) -> None:
        """Equality joins scalars of one type, or anything with null; order joins two numbers or two texts."""
        plain = (list, tuple, dict, set, frozenset)
        for left, right in product(SAMPLES, repeat=2):
            one, other = type_of(left), type_of(right)
            alike = one is not None and one == other
            against_null = "null" in (one, other) and all(
                kind is not None or isinstance(found, plain) for kind, found in ((one, left), (other, right))
            )
            expected = left == right if alike or against_null else MISSING
            assert value("a == b", a=left, b=right) is expected
            assert value("a != b", a=left, b=right) is (MISSING if expected is MISSING else not expected)
            ordered = left < right if alike and one in ("number", "str") else MISSING
            assert value("a < b", a=left, b=right) is ordered
            assert value("b > a", a=left, b=right) is ordered

    @pytest.mark.parametrize("op", ["<", "<=", ">", ">=", "==", "!="])
    def test_constants_compare_as_fields_do(self, op: str) -> None:
        """The quick forms, a path of one to four names beside a constant on either side, give the general result."""
        for found, (text, constant) in product(
            SAMPLES, {"1": 1, "0.5": 0.5, "'a'": "a", "true": True, "null": None}.items()
        ):
            if op not in ("==", "!=") and text in ("true", "null"):
                continue
            expected = value(f"a {op} b", a=found, b=constant), value(f"b {op} a", a=found, b=constant)
            for path, scope in {
                "a": {"a": found},
                "a.b": {"a": {"b": found}},
                "a.b.c": {"a": {"b": {"c": found}}},
                "a.b.c.d": {"a": {"b": {"c": {"d": found}}}},
            }.items():
                assert (value(f"{path} {op} {text}", **scope), value(f"{text} {op} {path}", **scope)) == expected

    def test_membership_is_strict(self) -> None:
        """Lists and sets hold entries of the same type, maps hold keys; text is asked with contains."""
        texts = {"'a'": "a", "1": 1, "1.0": 1.0, "true": True, "null": None, "m.l": [], "x.y": MISSING}
        holders = [["a", 1, None], [True], {"a", 1}, {True}, ("a",), {"a": 0}, "abc", 7, None, MISSING]
        for (text, item), holder in product(texts.items(), holders):
            expected = member(item, holder)
            scope = {"m": {"l": [], "h": holder}, "h": holder}
            for container in ("h", "m.h"):
                assert value(f"{text} in {container}", **scope) is expected, (text, holder)
                negated = MISSING if expected is MISSING else not expected
                assert value(f"{text} not in {container}", **scope) is negated, (text, holder)

    @pytest.mark.parametrize(("item", "held"), [("a", True), ("z", False), (1, False), (None, False)])
    def test_written_lists_hold_what_they_list(self, item: Any, held: bool) -> None:
        """A list of constants answers like one from the scope, also when asked for another type."""
        assert value("x in ['a', 'b']", x=item) is held
        assert value("x not in ('a', 'b')", x=item) is not held
        assert value("x in l", x=item, l=["a", "b"]) is held

    @given(st.integers(-(2**63), 2**63 - 1) | st.floats(), st.sampled_from("+-*/%"), st.integers(-9, 9) | st.floats())
    def test_arithmetic_is_pythons_within_bounds(self, left: float, op: str, right: float) -> None:
        """Numbers compute as in Python; beyond 64-bit integers and finite floats they are errors."""
        try:
            expected = PLAIN_ARITHMETIC[op](left, right)
            fits = math.isfinite(expected) if isinstance(expected, float) else -(2**63) <= expected < 2**63
        except ArithmeticError:
            fits = False
        found = value(f"a {op} b", a=left, b=right)
        assert (found == expected) if fits else (found is MISSING)

    @pytest.mark.parametrize("wrong", [True, "1", None, [1], {}])
    def test_arithmetic_takes_numbers_only(self, wrong: Any) -> None:
        """Truth values are not numbers, and texts and lists are never put together or repeated."""
        for source in ("a + 1", "1 - a", "a * 3", "3 * a", "a / 1", "a % 2", "-a", "a + a"):
            assert value(source, a=wrong) is MISSING

    @given(SCOPES)
    @example({"m": {"m": {"n": {"t": 1}}}})
    @example({"m": "text"})
    def test_dots_are_look_ups_in_maps(self, scope: dict[str, Any]) -> None:
        """A path gives what nested maps hold, and an error where one of them is no map."""
        for path in (["m"], ["m", "m"], ["m", "m", "n"], ["m", "m", "n", "t"], ["m", "m", "n", "t", "s"]):
            expected: Any = scope
            for name in path:
                expected = expected.get(name, MISSING) if isinstance(expected, dict) else MISSING
            assert value(".".join(path), **scope) is expected
            assert value(path[0] + "".join(f"[{name!r}]" for name in path[1:]), **scope) is expected
            assert value(f"has({'.'.join(path)})", **scope) is (expected is not MISSING and expected is not None)

    def test_objects_show_nothing(self) -> None:
        """Attributes and items of anything but maps and lists stay out of reach."""
        when = datetime.now(UTC)
        for source in ("a.year", "a['year']", "a.b.year", "a['b']['year']", "a[0]", "a.real", "a.count"):
            for found in (when, "text", 5, {"b": when}, {"b": "text"}, len, (1,) if source != "a[0]" else 1):
                assert value(source, a=found) is MISSING

    def test_lists_are_indexed_by_integers(self) -> None:
        """From the front or the back; any other key, or one too many, is an error."""
        scope = {"l": ["a", "b"], "m": {"x": 1, "1": 2}, "k": "x", "t": True, "f": 1.0}
        expected = {
            "l[0]": "a", "l[-1]": "b", "l[2]": MISSING, "l[-3]": MISSING, "l[t]": MISSING, "l[f]": MISSING,
            "l[k]": MISSING, "m[k]": 1, "m['1']": 2, "m[1]": MISSING, "m[l]": MISSING, "m[no.key]": MISSING,
            "(1, 2)[1]": 2,
        }  # fmt: skip
        assert {source: value(source, **scope) for source in expected} == expected

    def test_lazy_maps_are_computed_when_asked(self) -> None:
        """Whatever way a key is asked for, `__missing__` answers, and only for that key."""

        class Lazy(dict[str, Any]):
            def __missing__(self, key: str) -> Any:
                if key == "none":
                    raise KeyError(key)
                asked.append(key)
                return 3

        asked: list[str] = []
        scope = {"last": Lazy(), "k": "d"}
        for source in (
            "last.a == 3",
            "last['b'] == 3",
            "'c' in last",
            "last[k] == 3",
            "has(last.e)",
            "not has(last.none)",
        ):
            assert compile_expression(source).test(scope), source
        assert asked == ["a", "b", "c", "d", "e"]

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("18 <= a < 65", True),
            ("18 <= a < 20", False),
            ("1 < abs(a) < 3 < 4", False),
            ("1 < abs(a) < 31 > 4", True),
            ("1 < abs(no.a) < 3", MISSING),
            ("1 < abs(no.a) < 3 < 2", False),
            ("'x' if a > 9 else 'y'", "x"),
            ("'x' if a > 99 else 'y'", "y"),
            ("'x' if a else 'y'", MISSING),
            ("true if true else no.a", True),
            ("7 % -3", -2),
            ("-7 % 3", 2),
            ("- - a", 30),
            ("2 + 3 * 4 - 1", 13),
            ("[1, 'a', null]", [1, "a", None]),
            ("[1, no.a]", MISSING),
            ("a\n  +\r\n  1", 31),
            ("'it''s'", "its"),
            ("a is not null", True),
        ],
    )
    def test_forms(self, source: str, expected: Any) -> None:
        """Chains, conditions, signs, precedence, lists, line breaks."""
        found = value(source, a=30)
        assert (found, type(found)) == (expected, type(expected))


class TestFunctions:
    """The function table."""

    NOW = 1_800_000_000_000

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("has(m.a)", True),
            ("has(m.null)", False),
            ("has(m.none)", False),
            ("has(l[0])", True),
            ("has(l[9].x)", False),
            ("default(m.none, 5)", 5),
            ("default(m.null, 5)", 5),
            ("default(m.a, 5)", 1),
            ("default(1 / 0, m.none)", MISSING),
            ("len('añ😀')", 3),
            ("len(l)", 2),
            ("len(m)", MISSING),
            ("lower('ÑA')", "ña"),
            ("upper('ña')", "ÑA"),
            ("upper(m.a)", MISSING),
            ("contains('abc', 'b')", True),
            ("contains('abc', m.a)", MISSING),
            ("contains(l, 'x')", True),
            ("contains(l, 'z')", False),
            ("contains(m, 'a')", MISSING),
            ("starts_with('abc', 'ab')", True),
            ("starts_with('abc', 'b')", False),
            ("starts_with('abc', l)", MISSING),
            ("ends_with('abc', 'bc')", True),
            ("min(3, 1, 2)", 1),
            ("max(3, m.a)", 3),
            ("max(3, m.none)", MISSING),
            ("abs(-2.5)", 2.5),
            ("floor(-2.5)", -3),
            ("ceil(-2.5)", -2),
            ("floor(1e300)", MISSING),
            ("round(2.5)", 2),
            ("round(-1.275, 1)", -1.3),
            ("round(1.5, 11)", MISSING),
            ("round(1.5, 0.5)", MISSING),
            ("clamp(5, 1, 3)", 3),
            ("clamp(0, 1, 3)", 1),
            ("clamp(2, 1, 3)", 2),
            ("clamp(2, 3, 1)", MISSING),
            ("sqrt(9)", 3.0),
            ("sqrt(-1)", MISSING),
            ("log1p(0)", 0.0),
            ("log1p(-1)", MISSING),
            ("days_since(now_ms - 129600000)", 1.5),
            ("hours_since(now_ms + 1800000)", -0.5),
            ("days_since(m.none)", MISSING),
            ("hour(m.inf)", MISSING),
            ("min(m.nan, 1)", MISSING),
            ("min(1, m.nan)", MISSING),
            ("abs(true and m.b)", MISSING),
        ],
    )
    def test_results(self, source: str, expected: Any) -> None:
        """What the table in the documentation says, domains and wrong types included."""
        scope = {
            "m": {"a": 1, "b": True, "null": None, "nan": math.nan, "inf": math.inf},
            "l": ["x", True],
            "now_ms": self.NOW,
        }
        expression = compiled_or_refused(source)
        assert (MISSING if expression is None else expression.value(scope)) == expected

    def test_elapsed_time_needs_a_now(self) -> None:
        """Without `now_ms`, or with one that is no number, how long ago is unknown."""
        assert value("days_since(1)") is MISSING
        assert value("days_since(1)", now_ms="today") is MISSING

    @given(st.integers(-(10**13), 10**13), st.integers(-14 * 60, 14 * 60))
    def test_clock_functions_agree_with_the_calendar(self, ms: int, offset: int) -> None:
        """Hour and ISO weekday, in UTC and at a fixed offset, before and after 1970."""
        utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
        local = utc + timedelta(minutes=offset)
        assert value("[hour(t), weekday(t)]", t=ms) == [utc.hour, utc.isoweekday()]
        assert value("[hour(t, o), weekday(t, o)]", t=ms, o=offset) == [local.hour, local.isoweekday()]

    def test_the_table_is_documented_whole(self) -> None:
        """The documentation lists each function, and none that is not there."""
        rows = [line for line in (engine.expression.__doc__ or "").splitlines() if line.startswith("| `")]
        named = {call.split("(")[0] for row in rows for call in row.split("|")[1].replace("`", "").split("), ")}
        assert {name.strip() for name in named} == set(FUNCTIONS)

    @pytest.mark.parametrize(("name", "function"), FUNCTIONS.items())
    def test_arguments_are_counted(self, name: str, function: Any) -> None:
        """One argument too few or too many is refused, and the right number is told."""
        low, high = len(function.takes) - function.optional, len(function.takes)
        for count in (low - 1, *([] if function.variadic else [high + 1])):
            assert f"arguments of {name}: " in fault(f"{name}({', '.join(['a'] * count)})").message


class TestRefusals:
    """Texts that are no expressions."""

    @pytest.mark.parametrize("source", ABUSE, ids=lambda source: source[:30])
    def test_abuse_is_refused(self, source: str) -> None:
        """Escapes from the language, bombs and the rest of Python end in one kind of error, before evaluation."""
        error = fault(source)
        assert error.source == source
        assert 1 <= error.line <= source.count("\n") + 1
        assert 1 <= error.column <= len(source) + 1

    @settings(max_examples=300)
    @given(st.text(max_size=40) | st.binary(max_size=40).map(lambda octets: octets.decode("latin-1")))
    def test_random_text_never_crashes(self, source: str) -> None:
        """Any text is an expression or an ExpressionError."""
        expression = compiled_or_refused(source)
        assert expression is None or expression.test({}) in (True, False)

    @settings(max_examples=500)
    @given(st.lists(st.sampled_from(TOKENS), max_size=12), SCOPES)
    def test_random_tokens_never_crash(self, tokens: list[str], scope: dict[str, Any]) -> None:
        """Any row of words of the language is an expression that evaluates, or an ExpressionError."""
        expression = compiled_or_refused(" ".join(tokens))
        if expression is not None:
            expression.value(scope)
            assert expression.test(scope) in (True, False)

    def test_warnings_of_the_parser_are_faults_and_leave_no_trace(self) -> None:
        """The verdict does not depend on how warnings are filtered, and the filters stay as they were."""
        before = warnings.filters[:]
        for action in ("ignore", "error"):
            with warnings.catch_warnings():
                warnings.simplefilter(action)  # type: ignore[arg-type]  # both are actions
                assert "invalid escape" in fault(r"'\d'").message
        assert warnings.filters == before

    @pytest.mark.parametrize(
        ("source", "line", "column", "suggestion"),
        [
            ("profile.age >= 18 && profile.vip", 1, 20, "and"),
            ("profile.vip || profile.vip", 1, 14, "or"),
            ("!profile.vip", 1, 1, "not"),
            ("profile.age = 3", 1, 13, "=="),
            ("profile.age & 1", 1, 1, "and"),
            ("profile.agee > 1", 1, 1, "profile.age"),
            ("1 < profil.age", 1, 5, "profile"),
            ("profile['agee'] > 1", 1, 1, "profile.age"),
            ("'loayl' in segments", 1, 1, "loyal"),
            ("'é' == 'ñ' and 'nw' not in segments", 1, 16, "new"),
            ("contains(segments, 'loya')", 1, 20, "loyal"),
            ("lowr(profile.name)", 1, 1, "lower"),
            ("\n  profile.vip and\r\n  profile.nam == 'x'", 3, 3, "profile.name"),
            ("profile.vip and\n(profile.age", 2, 1, None),
            ("nothing.like == 1", 1, 1, None),
        ],
    )
    def test_faults_say_where_and_what_was_meant(
        self, source: str, line: int, column: int, suggestion: str | None
    ) -> None:
        """Line and column count characters from 1; names near a known one come with it."""
        error = fault(source, SCHEMA)
        assert (error.line, error.column, error.suggestion) == (line, column, suggestion)
        assert f"line {line}, column {column}" in str(error)
        assert suggestion is None or repr(suggestion) in str(error)

    @pytest.mark.parametrize(
        "source",
        [
            "profile.age < profile.name",
            "profile.age == profile.vip",
            "profile.age == 'x'",
            "profile.vip < true",
            "profile.age",
            "profile.age.years",
            "profile.name[0]",
            "profile.tags.first",
            "profile.tags['a']",
            "profile.tags == profile.tags",
            "profile.address[0]",
            "profile.address == 1",
            "profile.name + 'x'",
            "profile.vip * 2",
            "-profile.name",
            "profile.age in profile.age",
            "profile.tags in profile.tags",
            "'a' in profile.name",
            "upper(profile.age)",
            "len(profile.age)",
            "len(segments) == 'a'",
            "min(1, profile.vip)",
            "profile.spend.shoes == 'a'",
            "profile.spend[profile.name] == 'a'",
            "profile.spend[1] == 2",
            "(profile.age if profile.vip else 1) == 'a'",
            "default(profile.age, 1) == 'a'",
            "1 if profile.age else 2",
            "days_since(profile.name) > 1",
        ],
    )
    def test_types_that_never_fit_are_told_before_evaluation(self, source: str) -> None:
        """What the schema shows to be always an error is refused; a number alone may be a formula but is no term."""
        assert fault(f"({source}) and true", SCHEMA).suggestion is None

    @pytest.mark.parametrize(
        ("source", "type_"),
        [
            ("profile.age", NUMBER),
            ("profile.x", ANY),
            ("profile.address.city", ANY),
            ("profile.spend.shoes + 1", NUMBER),
            ("profile.spend[profile.name]", NUMBER),
            ("profile[profile.name]", ANY),
            ("profile.age == null or profile.tags != null", BOOLEAN),
            ("profile.x == 'a' or profile.x == 1 or profile.x", BOOLEAN),
            ("profile.name in segments", BOOLEAN),
            ("1 if profile.vip else 'a'", ANY),
            ("default(profile.name, 'there')", STRING),
            ("segments", LIST),
            ("profile.address", MAP),
            ("days_since(default(profile.x, 0))", NUMBER),
        ],
    )
    def test_the_type_of_the_value_is_known(self, source: str, type_: Any) -> None:
        """What may fit is accepted, and its type told, so that a formula can be asked to be a number."""
        assert compile_expression(source, SCHEMA).type is type_

    @given(st.sampled_from(["age", "name", "vip", "tags", "address"]), st.data())
    def test_a_slip_of_the_pen_is_understood(self, name: str, data: st.DataObject) -> None:
        """A declared name with two letters swapped is unknown, and the suggestion is a declared name."""
        at = data.draw(st.integers(0, len(name) - 2))
        slip = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
        if slip != name:
            error = fault(f"has(profile.{slip})", SCHEMA)
            assert error.suggestion in {None, *(f"profile.{known}" for known in SCHEMA.roots["profile"])}  # type: ignore[union-attr]
            assert len(name) < 4 or error.suggestion == f"profile.{name}"


class TestBounds:
    """Each bound holds exactly, and fires."""

    def test_length(self) -> None:
        """Characters, blanks included."""
        assert value("1" + " " * (MAX_LENGTH - 1)) == 1
        assert "4,001 characters" in fault("1" + " " * MAX_LENGTH).message

    def test_nodes(self) -> None:
        """Operands and operations, counted before anything is compiled."""
        assert value(f"[{', '.join('1' * (MAX_NODES - 1))}]") == [1] * (MAX_NODES - 1)
        assert "more than 400 parts" in fault(f"[{', '.join('1' * MAX_NODES)}]").message

    def test_depth(self) -> None:
        """Levels of operations; parentheses cost none."""
        assert value("not " * (MAX_DEPTH - 1) + "a", a=True) is (MAX_DEPTH % 2 == 1)
        assert "50 levels" in fault("not " * MAX_DEPTH + "a").message
        assert value("(" * 150 + "a" + ")" * 150, a=1) == 1

    def test_constants(self) -> None:
        """Texts of 1,000 characters, integers of 64 bits."""
        assert value(f"len('{'é' * MAX_CONSTANT}')") == MAX_CONSTANT
        assert "1,001 characters" in fault(f"'{'é' * (MAX_CONSTANT + 1)}'").message
        assert value(str(2**63 - 1)) == 2**63 - 1
        assert "64 bits" in fault(str(2**63)).message
        assert "too great" in fault("1e309").message

    def test_numbers(self) -> None:
        """What grows out of 64 bits or of the finite floats is an error."""
        assert value("a + 1", a=2**63 - 2) == 2**63 - 1
        for source, found in (
            ("a + 1", 2**63 - 1),
            ("a * a", 1e200),
            ("-a", -(2**63)),
            ("abs(a)", -(2**63)),
            ("a - a", math.inf),
        ):
            assert value(source, a=found) is MISSING
        assert value("a / b", a=10**400, b=3) is MISSING
        assert value("a * 1.5", a=10**400) is MISSING
        assert value("a > 1", a=10**400) is True

    def test_lists_searched(self) -> None:
        """Lists of 1,000 entries; sets and maps of texts have no bound, as they are not searched."""
        names = [str(number) for number in range(MAX_ENTRIES + 1)]
        for source in ("'7' in a", "contains(a, '7')", "x in a"):
            assert value(source, a=names[:-1], x="7") is True
            assert value(source, a=names, x="7") is MISSING
            assert value(source, a=tuple(names), x="7") is MISSING
            assert value(source, a=set(names), x="7") is True
        assert value("'7' in a", a=dict.fromkeys(names)) is True
        assert value("7 in a", a=set(range(MAX_ENTRIES + 1))) is MISSING
        assert value("-7 in a", a=set(range(MAX_ENTRIES + 1))) is False

    def test_texts_taken_by_functions(self) -> None:
        """Texts of 10,000 characters."""
        fits = "x" * MAX_TEXT
        for source in (
            "len(a) > 0",
            "contains(a, 'x')",
            "starts_with(a, 'x')",
            "lower(a) == upper(a)",
            "contains('x', a)",
        ):
            assert value(source, a=fits) is not MISSING
            assert value(source, a=fits + "x") is MISSING
        assert value("a == b", a=fits + "x", b=fits + "x") is True

    @settings(max_examples=100)
    @given(expressions(depth=4), SCOPES)
    def test_every_path_is_read_at_most_once(self, source: str, scope: dict[str, Any]) -> None:
        """Evaluation never goes over a part again, however errors and chains are nested: so cost is bounded by size."""
        expression, counted = compile_expression(source), Counted(scope)
        expression.value(counted)
        names = sum(isinstance(node, ast.Name) for node in ast.walk(ast.parse(expression.key)))
        assert counted.reads <= names


class TestExpression:
    """What callers hold."""

    @settings(max_examples=250)
    @given(expressions(), SCOPES)
    def test_evaluation_neither_raises_nor_changes_the_scope(self, source: str, scope: dict[str, Any]) -> None:
        """Over any JSON, a value comes out, test is whether it is exactly true, and the scope is as before."""
        expression, before = compile_expression(source), copy.deepcopy(scope)
        assert expression.test(scope) is (expression.value(scope) is True)
        assert repr(scope) == repr(before)

    @settings(max_examples=300)
    @given(st.lists(expressions(depth=2), min_size=2, max_size=3), SCOPES)
    @example(["t", "t and (m.t and t)"], {"t": True, "m": {"t": True}})
    def test_conjuncts_one_by_one_equal_the_whole(self, terms: list[str], scope: dict[str, Any]) -> None:
        """A rule tests true exactly when each of its conjuncts does, errors and wrong types included."""
        expression = compile_expression(" and ".join(f"({term})" for term in terms))
        split = expression.conjuncts()
        assert len(split) >= len(terms)
        assert all(len(each.conjuncts()) == 1 for each in split)
        assert expression.test(scope) is all(each.test(scope) for each in split)

    @given(expressions(), SCOPES)
    def test_the_key_means_the_same_and_is_final(self, source: str, scope: dict[str, Any]) -> None:
        """Compiling a key gives that key again, the same paths, and the same value in every scope."""
        expression = compile_expression(source)
        again = compile_expression(expression.key)
        assert (again.key, again.paths) == (expression.key, expression.paths)
        assert repr(again.value(scope)) == repr(expression.value(scope))

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("a.b>=1 and c", " ( a.b  >= 1 )\nand ((c))"),
            ("a == 'x'", 'a == "x"'),
            ("a == 'x'", "a == u'x'"),
            ("a['b'].c", "a.b['c']"),
            ("a is null", "a == None"),
            ("a is not null", "a != null"),
            ("true", "True"),
            ("a in (1, 2)", "a in [1, 2]"),
            ("-1", "- 1"),
            ("1000.0", "1e3"),
            ("0x10", "16"),
            ("1 < a < 3", "1 < a and a < 3"),
        ],
    )
    def test_equal_rules_have_equal_keys(self, one: str, other: str) -> None:
        """Spacing, quotes, redundant parentheses and the spelling of constants, paths and chains do not matter."""
        assert compile_expression(one).key == compile_expression(other).key

    @pytest.mark.parametrize("name", ["x", "x y", "if", "None", "true", "_x", "é", "ﬁ", "1", "", "'", "\n"])
    def test_any_text_can_be_a_quoted_key(self, name: str) -> None:
        """A key after a bracket is looked up as written, and so it is in the canonical form."""
        rule = compile_expression(f"m[{name!r}] == 1")
        for again in (rule, compile_expression(rule.key)):
            assert again.test({"m": {name: 1}})
            assert again.paths == {("m", name)}

    def test_different_rules_have_different_keys(self) -> None:
        """Order, types and look-ups that only look alike are kept apart."""
        sources = [
            "a and b",
            "b and a",
            "a or b",
            "a == 1",
            "a == 1.0",
            "a == '1'",
            "a == true",
            "a.b",
            "a['b.c']",
            "a.b.c",
            "a[b]",
        ]
        assert len({compile_expression(source).key for source in sources}) == len(sources)

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("profile.age > 1 and profile.age < 9", {("profile", "age")}),
            ("profile['first name'].x", {("profile", "first name", "x")}),
            ("signal.products[0].price", {("signal", "products")}),
            ("aggregates[signal.kind].sum", {("aggregates",), ("signal", "kind")}),
            ("'a' in segments or has(b.c)", {("segments",), ("b", "c")}),
            ("days_since(last.at)", {("last", "at"), ("now_ms",)}),
            ("1 + 2 == 3", set()),
        ],
    )
    def test_paths_are_what_is_read(self, source: str, expected: set[tuple[str, ...]]) -> None:
        """Each path as far as it is written down, clocks included."""
        assert compile_expression(source).paths == expected

    def test_equal_scopes_give_equal_values_in_any_order_of_keys(self) -> None:
        """The order of keys in a map decides nothing."""
        rule = compile_expression("a.x == 1 and ('y' in a or has(a.z))")
        items = {"x": 1, "y": 2, "z": 3}.items()
        assert {rule.test({"a": dict(order)}) for order in permutations(items)} == {True}

    def test_examples_in_the_documentation_hold(self) -> None:
        """Doctests."""
        assert [doctest.testmod(module).failed for module in (compiled, schema)] == [0, 0]


class TestPredicates:
    """Sharing of equal predicates."""

    @settings(max_examples=100)
    @given(st.lists(expressions(depth=2), min_size=1, max_size=6), SCOPES)
    def test_rules_through_the_table_are_the_rules(self, sources: list[str], scope: dict[str, Any]) -> None:
        """A rule holds exactly when none of its predicates is false, in any order of asking."""
        texts = [*sources, " and ".join(f"({source})" for source in sources)]
        rules = [compile_expression(text) for text in texts]
        table = Predicates()
        indices = [table.add(rule) for rule in rules]
        memo = table.evaluate(scope)
        for rule, own in reversed([*zip(rules, indices, strict=True)]):
            first = memo.first_false(own)
            assert (first is None) is rule.test(scope)
            assert first == next((index for index in own if not memo.truth(index)), None)

    def test_equal_predicates_are_evaluated_once_and_only_when_asked(self) -> None:
        """Rules that share predicates share their evaluation, and what follows a false one is not evaluated."""
        table = Predicates()
        one = table.add(compile_expression("a > 1 and b > 1 and c > 1"))
        other = table.add(compile_expression("c > 1 and ( a>1 )"))
        assert (one, other, len(table)) == ((0, 1, 2), (2, 0), 3)
        counted = Counted({"a": 2, "b": 0, "c": 2})
        memo = table.evaluate(counted)
        assert counted.reads == 0
        assert (memo.first_false(one), counted.reads) == (1, 2)
        assert (memo.first_false(other), counted.reads) == (None, 3)
        assert [memo.truth(index) for index in (0, 1, 2)] == [True, False, True]
        assert counted.reads == 3

    def test_predicates_are_shown_as_written(self) -> None:
        """A rule of one predicate by its own text, a conjunct by its canonical one."""
        table = Predicates()
        (single,) = table.add(compile_expression("profile.age>=18"))
        _, second = table.add(compile_expression('(profile.age  >= 18) and profile.country == "ES"'))
        assert table.source(single) == "profile.age>=18"
        assert table.evaluate({}).source(second) == "profile.country == 'ES'"
