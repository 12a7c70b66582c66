"""A panel says of every predicate what the predicate says itself, however it comes to know it."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from engine.expression import Predicates, compile_expression
from engine.expression.panel import MAX_TABLE

PATHS = st.sampled_from(["profile.a", "profile.b", 'last["x y"].c', "now_ms", "signal.properties.p.q"])
NUMBERS = st.sampled_from([0, 1, 1.0, -1, 2.5, 3, 18, 2**52, 2**53, 2**60, 0.1, 1e300])
TEXTS = st.sampled_from(["", "a", "gold", "ñ", "?"])
WRITTEN = NUMBERS.map(repr) | TEXTS.map(repr) | st.sampled_from(["true", "false", "null"])
VALUES: st.SearchStrategy[Any] = (
    NUMBERS
    | st.integers(-3, 20)
    | st.floats(-3, 20)
    | st.floats()
    | TEXTS
    | st.text(max_size=2)
    | st.none()
    | st.booleans()
    | st.lists(st.sampled_from([1, "a", True]), max_size=2)
    | st.dictionaries(st.sampled_from(["c", "a"]), st.just(1), max_size=1)
)


def _comparisons(path: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    ops = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    return st.one_of(
        st.tuples(path, ops, WRITTEN).map(" ".join),
        st.tuples(WRITTEN, ops, path).map(" ".join),
        st.tuples(WRITTEN, ops, path, ops, WRITTEN).map(" ".join),
        st.tuples(path, st.sampled_from(["in", "not in"]), st.lists(WRITTEN, min_size=1, max_size=3)).map(
            lambda parts: f"{parts[0]} {parts[1]} [{', '.join(parts[2])}]"
        ),
        path.map("has({})".format),
        path,
        st.tuples(path, ops, path).map(" ".join),
        path.map("'a' in {}".format),
        path.map("{} / 2 > 1".format),
    )


PREDICATES = st.recursive(
    _comparisons(PATHS),
    lambda inner: (
        inner.map("not ({})".format)
        | st.tuples(inner, st.sampled_from([" or ", " and "]), inner).map("({0[0]}{0[1]}{0[2]})".format)
    ),
    max_leaves=4,
)


@st.composite
def scopes(draw: st.DrawFn) -> dict[str, Any]:
    """Whatever may stand at the paths, or above them."""
    scope = {
        "profile": st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES}) | VALUES,
        "last": st.fixed_dictionaries({}, optional={"x y": st.fixed_dictionaries({"c": VALUES}) | VALUES}),
        "now_ms": VALUES,
        "signal": st.fixed_dictionaries(
            {"properties": st.fixed_dictionaries({"p": st.fixed_dictionaries({"q": VALUES})})}
        ),
    }
    return {root: draw(found) for root, found in scope.items() if draw(st.integers(0, 9))}


def _compiled(sources: list[str]) -> Predicates:
    predicates = Predicates()
    for source in sources:
        _added(predicates, source)
    return predicates


def _added(predicates: Predicates, source: str) -> tuple[int, ...]:
    try:
        return predicates.add(compile_expression(source))
    except ValueError:
        return ()  # types that can never go together


@given(st.lists(PREDICATES, min_size=1, max_size=8), scopes())
@example(["profile.a == 1", "profile.a == true"], {"profile": {"a": True}})
@example(["profile.a <= 9007199254740992", "profile.a < 9007199254740992.0"], {"profile": {"a": 2**53 + 1}})
@example(["profile.a <= 9007199254740992.0"], {"profile": {"a": 2**53 + 1}})
@example(["profile.a == ''"], {"profile": {"a": "x"}})
@example(["profile.a < 'm'", "profile.a == 'b'"], {"profile": {"a": "b"}})
def test_a_panel_says_what_its_predicates_say(sources, scope):
    """For numbers at, beside and between the constants, texts named or not, null, errors, lists, maps."""
    predicates = _compiled(sources)
    panel = predicates.panel(range(len(predicates)))
    answers, alone = panel.answer(scope), predicates.evaluate(scope)
    assert bool(answers[-1])
    for number in range(len(predicates)):
        assert bool(answers[panel.places[number]]) is alone.truth(number), predicates.source(number)


@given(st.lists(st.tuples(PREDICATES, st.integers(0, 2**70)), min_size=1, max_size=8), scopes())
def test_what_does_not_hold_leaves_its_marks(marked, scope):
    """All that its predicates mark which are not exactly true, and nothing else."""
    predicates = Predicates()
    marks: dict[int, int] = {}
    for source, mark in marked:
        for number in _added(predicates, source):
            marks[number] = mark
    answers, alone = predicates.panel(marks, marks).answer(scope), predicates.evaluate(scope)
    assert answers.marked == reduce(or_, (mark for number, mark in marks.items() if not alone.truth(number)), 0)


def test_more_comparisons_than_one_table_holds():
    """Each of many bounds on one path, whichever table it is in."""
    bounds = range(3 * MAX_TABLE + 5)
    predicates = _compiled([f"profile.a >= {bound}" for bound in bounds])
    panel = predicates.panel(reversed(range(len(predicates))))
    for value in (-1, 0, 0.5, MAX_TABLE, 2 * MAX_TABLE - 0.5, len(bounds)):
        answers = panel.answer({"profile": {"a": value}})
        assert [bool(answers[panel.places[number]]) for number in bounds] == [value >= bound for bound in bounds]


def test_a_path_is_looked_up_once_for_all_its_comparisons():
    """That is what a table is for."""
    asked = []

    class Traits(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    predicates = _compiled(
        [f"profile.age >= {bound}" for bound in range(40)] + ["has(profile.age)", "profile.tier == 'a'"]
    )
    predicates.panel(range(len(predicates))).answer({"profile": Traits(age=7, tier="b")})
    assert sorted(asked) == ["age", "tier"]


def test_a_memo_takes_over_what_a_panel_found():
    """What was answered together is not evaluated again."""
    predicates = _compiled(["profile.a > 1", "profile.b > 1"])
    memo = predicates.evaluate({"profile": {"a": 2, "b": 0}})
    panel = predicates.panel([0])
    assert memo.answer(panel) is memo.answer(panel)
    predicates._values[0] = None  # type: ignore[call-overload]
    assert memo.first_false([0, 1]) == 1
