"""Content templates: what is written where, and when a text cannot be offered."""

from __future__ import annotations

import doctest
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine.template
from engine.expression import LIST, STRING, ExpressionError, Schema
from engine.template import MAX_RESULT, MAX_SOURCE, Rendered, compile_template, written

SCHEMA = Schema({"profile": {"first_name": STRING, "tags": LIST, "address": {"city": STRING}}})


def render(source: str, **scope: Any) -> Rendered:
    """A template rendered over these roots."""
    return compile_template(source).render(scope)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_plain_text_is_kept(text: str) -> None:
    """A text whose braces are doubled comes out as it was."""
    assert render(text.replace("{", "{{").replace("}", "}}")).text == text


@given(st.lists(st.sampled_from(["{a}", "{b|y}", "{{", "}}", "text ", "|", "{a|}"]), max_size=8), st.booleans())
def test_placeholders_are_filled_in_place(parts: list[str], here: bool) -> None:
    """Values, else defaults, stand where their placeholders do; one without either withholds the text."""
    shown = {"{a}": "x", "{b|y}": "y", "{{": "{", "}}": "}", "{a|}": "x" if here else ""}
    rendered = render("".join(parts), **({"a": "x"} if here else {}))
    if here or "{a}" not in parts:
        assert rendered == Rendered(text="".join(shown.get(part, part) for part in parts))
    else:
        assert rendered == Rendered(missing="a")


NOTHING = [None, "", "  \n", [], ["a"], {}, {"a": 1}, {1}, math.nan, math.inf, object()]


@pytest.mark.parametrize("nothing", [*NOTHING, pytest.param(10**5000, id="huge")])
def test_what_cannot_be_shown_is_missing(nothing: Any) -> None:
    """Blanks, lists, maps and numbers beyond bounds are not written: the placeholder is named, or its default used."""
    assert render("Hi {profile.name}!", profile={"name": nothing}) == Rendered(missing="profile.name")
    assert render("Hi {profile.name|there}!", profile={"name": nothing}) == Rendered(text="Hi there!")


def test_the_first_missing_placeholder_is_named() -> None:
    """As written, so that the reason points into the template."""
    assert render("{a} {b.c} {d}", a=1).missing == "b.c"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"), (1.0, "1"), (-3.0, "-3"), (0.0, "0"), (-0.0, "0"), (19.9, "19.9"), (19.99, "19.99"),
        (2 / 3, "0.666667"), (1234.5678, "1234.57"), (1234567.5, "1234568"), (999999.9, "1000000"),
        (1e15, "1000000000000000"), (0.00012345678, "0.000123457"), (1e-9, "0.000000001"), (-1e-30, "0"),
        (2**63 - 1, "9223372036854775807"), (True, "true"), (False, "false"), (" a ", " a "),
    ],
)  # fmt: skip
def test_numbers_are_written_for_people(value: Any, text: str) -> None:
    """Whole numbers whole, fractions to six significant digits, no exponents, no negative zero."""
    assert written(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_written_numbers_are_close_and_decimal(value: float) -> None:
    """Any float reads as a plain decimal number within six significant digits, or a millionth of a millionth."""
    text = written(value)
    assert text is not None
    assert set(text) <= set("-0123456789.")
    assert math.isclose(float(text), value, rel_tol=1e-5, abs_tol=1e-12)


def test_formulas_may_be_shown() -> None:
    """Braces hold any expression of the language."""
    assert render("{round(a / 3, 2)} for {upper(b)}", a=10, b="ana").text == "3.33 for ANA"


def test_results_are_bounded() -> None:
    """A value that would take the text past 10,000 characters counts as missing."""
    fits = MAX_RESULT - len("{a} {b|-}")
    assert render("{a} {b|-}", a="x" * fits, b="y").text == "x" * fits + " -"
    assert render("{a} {b|-}", a="x" * (fits + 1)).missing == "a"
    assert render("{a|none}", a="x" * (MAX_RESULT + 1)).text == "none"


@given(st.lists(st.integers(0, 9_000), max_size=4))
def test_no_result_is_longer_than_the_bound(sizes: list[int]) -> None:
    """Whatever the values, a text stays within 10,000 characters."""
    scope = {f"v{index}": "x" * size for index, size in enumerate(sizes)}
    rendered = render("a" * 3_000 + "".join(f"{{{name}|default}}" for name in scope), **scope)
    assert rendered.text is not None
    assert len(rendered.text) <= MAX_RESULT


@pytest.mark.parametrize(
    ("source", "column", "suggestion"),
    [
        ("Hi {profile.first_nam}", 5, "profile.first_name"),
        ("Hi {profile.address.town|you}", 5, None),
        ("Hi {", 4, None),
        ("Hi }", 4, None),
        ("Hi {}", 5, None),
        ("Hi {a{b}}", 4, None),
        ("Hi {profile.tags}", 5, None),
        ("Hi {profile.address|x}", 5, None),
        ("Hi {profile.first_name + 1}", 5, None),
        ("Hi {profile._x}", 5, None),
        ("Hi {profile.first_name.upper()}", 5, None),
        ("\ud800", 1, None),
        ("x" * (MAX_SOURCE + 1), 1, None),
    ],
    ids=lambda case: str(case)[:30].encode(errors="replace").decode(),
)
def test_faults_are_placed_in_the_template(source: str, column: int, suggestion: str | None) -> None:
    """Unknown names, lone braces and what cannot be shown are refused when compiled, with a column and a suggestion."""
    with pytest.raises(ExpressionError) as caught:
        compile_template(source, SCHEMA)
    assert (caught.value.column, caught.value.suggestion, caught.value.source) == (column, suggestion, source)


@given(st.text(st.sampled_from("{}|ab. '\n"), max_size=30))
def test_random_templates_never_crash(source: str) -> None:
    """Any text is a template or an ExpressionError."""
    try:
        rendered = compile_template(source).render({"a": "x", "b": {"a": 1}})
    except ExpressionError:
        return
    assert (rendered.text is None) is (rendered.missing is not None)


def test_paths_are_what_is_read() -> None:
    """Every path of every placeholder."""
    assert compile_template("{a.b|x} {days_since(c)}").paths == {("a", "b"), ("c",), ("now_ms",)}


def test_examples_in_the_documentation_hold() -> None:
    """Doctests."""
    assert doctest.testmod(engine.template).failed == 0
