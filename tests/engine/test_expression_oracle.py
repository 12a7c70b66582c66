"""The same rules and customers, judged by an independent engine: Common Expression Language, in Rust.

Where the languages differ on purpose, the generator stays away or the translation says it: CEL has no arithmetic
between integers and fractions, lets 1.0 / 0.0 be infinite, calls values of different types unequal, and counts a
null field as present.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import cel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.expression import MISSING, compile_expression


@dataclass(frozen=True)
class Pair:
    """One expression in both languages."""

    ours: str
    cel: str


FRACTIONS = st.integers(-12, 12).map(lambda quarters: quarters / 4)
WORDS = st.sampled_from(["", "a", "b", "ab", "Ana", "ñandú", "😀"])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "n": FRACTIONS,
    "i": st.integers(-9, 9),
    "s": WORDS,
    "b": st.booleans(),
    "l": st.lists(st.sampled_from(["", "a", "Ana", 0.0, 1.0, 2.5, True, False, None]), max_size=4),
    "w": st.sampled_from([True, False, True, False, 1.0, "a", None, [1.0], {"k": 1.0}]),
}
"""Fields of a profile by letter: each of one type, or of any (`w`). There are two of each, all possibly missing."""

Form = tuple[str, str, str]
"""An operation in our words and in CEL's, and the kind of each operand: a letter, or a key of GRAMMAR."""

GRAMMAR: dict[str, list[Form]] = {
    "number": [
        *((f"({{0}} {op} {{1}})", f"({{0}} {op} {{1}})", "number number") for op in "+-*"),
        ("({0} / 4.0)", "({0} / 4.0)", "number"),
        ("(-{0})", "(-{0})", "number"),
        ("({0} + {1})", "({0} + {1})", "number w"),
        ("({1} if {0} else {2})", "({0} ? {1} : {2})", "term number number"),
        ("{0}", "{0}", "n"),
        ("{0}", "{0}", "n"),
    ],
    "count": [("{0}", "{0}", "number"), ("{0}", "{0}", "i"), ("len({0})", "size({0})", "l")],
    "text": [("{0}", "{0}", "s"), ("({1} if {0} else {2})", "({0} ? {1} : {2})", "term text text")],
    "item": [("{0}", "{0}", "text"), ("{0}", "{0}", "number"), ("{0}", "{0}", "b")],
    "truth": [
        *((f"({{0}} {op} {{1}})", f"({{0}} {op} {{1}})", "count count") for op in ("<", "<=", ">=", "==", "!=")),
        *((f"({{0}} {op} {{1}})", f"({{0}} {op} {{1}})", "text text") for op in ("<", ">", "==", "!=")),
        ("({0} > {1})", "({0} > {1})", "w count"),
        ("({0} <= {1})", "({0} <= {1})", "text w"),
        ("({0} != {1})", "({0} != {1})", "b truth"),
        ("({0} == null)", "({0} == null)", "w"),
        ("({0} is not null)", "({0} != null)", "item"),
        ("({0} < {1} <= {2})", "({0} < {1} && {1} <= {2})", "count count count"),
        ("({0} in {1})", "({0} in {1})", "item l"),
        ("({0} not in {1})", "(!({0} in {1}))", "item l"),
        ("contains({1}, {0})", "({0} in {1})", "item l"),
        ("({0} in [{1}, {2}])", "({0} in [{1}, {2}])", "item item item"),
        ("({0} in ['a', 'Ana'])", "({0} in ['a', 'Ana'])", "text"),
        ("({0} in p.m)", "({0} in p.m)", "text"),
        ("contains({0}, {1})", "({0}).contains({1})", "text text"),
        ("starts_with({0}, {1})", "({0}).startsWith({1})", "text text"),
        ("ends_with({0}, {1})", "({0}).endsWith({1})", "text text"),
        ("(p['m']['n0'] <= {0})", "(p['m']['n0'] <= {0})", "count"),
        ("({1} if {0} else {2})", "({0} ? {1} : {2})", "term truth truth"),
        *[("({0} and {1})", "({0} && {1})", "term term")] * 3,
        *[("({0} or {1} or {2})", "({0} || {1} || {2})", "term term term")] * 3,
        *[("(not {0})", "(!{0})", "term")] * 3,
    ],
    "term": [*[("{0}", "{0}", "truth")] * 4, ("{0}", "{0}", "w")],
}
LEAVES = {"number": "n", "count": "i", "text": "s", "item": "s", "truth": "b", "term": "w"}
"""What stands for each kind where the expression must end."""


@st.composite
def pairs(draw: st.DrawFn, kind: str, depth: int) -> Pair:
    """An expression of this kind, at most so deep."""
    if kind in FIELDS:
        return draw(leaves(kind))
    if depth == 0:
        return draw(leaves(LEAVES[kind]))
    ours, translation, operands = draw(st.sampled_from(GRAMMAR[kind]))
    parts = [draw(pairs(operand, depth - 1)) for operand in operands.split()]
    return Pair(ours.format(*(part.ours for part in parts)), translation.format(*(part.cel for part in parts)))


@st.composite
def leaves(draw: st.DrawFn, letter: str) -> Pair:
    """A field, whether it is known, a field or else a constant, or a constant."""
    path = f"p.{draw(st.sampled_from(['', 'm.']))}{letter}{draw(st.integers(0, 1))}"
    form = draw(st.sampled_from(["field", "field", "default", "constant"]))
    if letter == "b" and form == "default":
        return Pair(f"has({path})", known(path))
    if letter in "lwi" or form == "field":
        return Pair(path, path)
    constant = json.dumps(draw(FIELDS[letter]), ensure_ascii=False)
    if form == "constant":
        return Pair(constant, constant)
    return Pair(f"default({path}, {constant})", f"({known(path)} ? {path} : {constant})")


def known(path: str) -> str:
    """CEL's way to ask whether a path is there and not null, also when the map above it is missing."""
    above = "has(p.m) && " if ".m." in path else ""
    return f"({above}has({path}) && {path} != null)"


ABSENT = object()


def present(branch: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that are absent."""
    return {name: value for name, value in branch.items() if value is not ABSENT}


OFTEN = st.sampled_from([True] * 7 + [False])
BRANCH = st.fixed_dictionaries(
    {
        f"{letter}{index}": OFTEN.flatmap(lambda here, values=values: values if here else st.just(ABSENT))
        for letter, values in FIELDS.items()
        for index in (0, 1)
    }
).map(present)
PROFILES = st.builds(lambda top, below, here: {**top, "m": below} if here else top, BRANCH, BRANCH, OFTEN)


def verdict_of_cel(source: str, scope: dict[str, Any]) -> Any:
    """CEL's value, or MISSING where it raises."""
    try:
        return cel.evaluate(source, scope)
    except (ArithmeticError, LookupError, RuntimeError, TypeError):
        return MISSING


def check(pair: Pair, profile: dict[str, Any]) -> None:
    """Both engines give one verdict: the same value of the same type, or both an error."""
    scope = {"p": profile}
    expression = compile_expression(pair.ours)
    expected, found = verdict_of_cel(pair.cel, scope), expression.value(scope)
    assert (type(found), found) == (type(expected), expected), f"{pair.ours}  |  {pair.cel}  |  {profile}"
    assert expression.test(scope) is (expected is True)


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(pairs("truth", 4), PROFILES, PROFILES)
def test_rules_hold_when_cel_says_so(pair: Pair, one: dict[str, Any], other: dict[str, Any]) -> None:
    """A rule's value, errors included, is that of the translated rule in CEL."""
    check(pair, one)
    check(pair, other)


@settings(max_examples=150)
@given(pairs("number", 4), PROFILES)
def test_formulas_give_what_cel_gives(pair: Pair, profile: dict[str, Any]) -> None:
    """A formula's value, errors included, is that of the translated formula in CEL."""
    check(pair, profile)


@settings(max_examples=100)
@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from("+-*%"), st.integers(-(2**63), 2**63 - 1))
def test_integers_overflow_where_those_of_cel_do(left: int, op: str, right: int) -> None:
    """Integer arithmetic is exact and ends at 64 bits; only the sign of a remainder is Python's."""
    if op == "%":
        left, right = abs(left) % 2**63, abs(right) % 2**63
    check(Pair(f"p.a {op} p.b", f"p.a {op} p.b"), {"a": left, "b": right})
