"""Assignment by hash: sticky, in proportion, independent between salts; arms and the global holdout."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.candidates import Rejection, Rejections, select
from engine.context import context_of
from engine.experiments import arm_of, bucket, experiment_for, is_exempt, is_held_out, left_by, shares
from engine.expression import compile_expression
from engine.repertoire import Arm, Experiment, Holdout
from engine.signal import Signal
from tests.repertoires import START_MS, Builder, a_profile

CUSTOMERS = [f"customer-{n}" for n in range(20_000)]


def _experiment(*weights: float, salt: str = "s", **changes) -> Experiment:
    arms = tuple(Arm(id=f"arm{n}", weight=weight) for n, weight in enumerate(weights))
    return Experiment(**{"id": "x", "salt": salt, "arms": arms, **changes})


def _assignments(experiment: Experiment) -> list[int]:
    return [experiment.arms.index(arm_of(experiment, each)) for each in CUSTOMERS]


# --- Assignment ---


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_bucket_is_in_range_and_always_the_same(salt, unit):
    """In [0, 1), a pure function."""
    assert 0 <= bucket(salt, unit) < 1
    assert bucket(salt, unit) == bucket(salt, unit)


def test_buckets_are_not_those_of_another_split():
    """Salt and unit are kept apart, so that no two pairs of them share a draw by accident."""
    assert bucket("ab", "c") != bucket("a", "bc")


def test_buckets_are_uniform():
    """Kolmogorov-Smirnov over 20,000 customers: at most 1.95 / sqrt(n), which chance exceeds once in a thousand."""
    drawn = sorted(bucket("uniform", each) for each in CUSTOMERS)
    distance = max(max((n + 1) / len(drawn) - each, each - n / len(drawn)) for n, each in enumerate(drawn))
    assert distance < 1.95 / math.sqrt(len(drawn))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.9, 0.1), (1.0, 2.0, 3.0), (5.0,), (0.0, 1.0, 0.0, 3.0)])
def test_customers_fall_to_arms_by_their_weights(weights):
    """Within four standard errors, and none to an arm without weight."""
    experiment = _experiment(*weights)
    assigned = _assignments(experiment)
    assert math.isclose(sum(shares(experiment)), 1)
    for n, share in enumerate(shares(experiment)):
        tolerance = 4 * math.sqrt(len(assigned) * share * (1 - share))
        assert abs(assigned.count(n) - share * len(assigned)) <= tolerance


def test_experiments_with_different_salts_are_independent():
    """Chi-square of each pair of eight three-armed experiments: below 20, which chance exceeds once in 2,000 (4 df)."""
    assigned = [_assignments(_experiment(1.0, 1.0, 1.0, salt=f"salt{n}")) for n in range(8)]
    for one, other in pairwise(assigned):
        cells = list(zip(one, other, strict=True))
        expected = {(a, b): one.count(a) * other.count(b) / len(cells) for a, b in product(range(3), repeat=2)}
        chi_square = sum((cells.count(cell) - each) ** 2 / each for cell, each in expected.items())
        assert chi_square < 20


def test_one_salt_is_one_assignment():
    """Two experiments that share a salt put customers into the same arms, whatever these are called."""
    same = _experiment(1.0, 1.0, id="y", arms=(Arm(id="left", weight=2.0), Arm(id="right", weight=2.0)))
    assert _assignments(same) == _assignments(_experiment(1.0, 1.0))


def test_growing_an_arm_moves_nobody_out_of_it():
    """From 10 % to 50 %: who was in the first arm stays."""
    before, after = _assignments(_experiment(0.1, 0.9)), _assignments(_experiment(0.5, 0.5))
    assert all(late == 0 for early, late in zip(before, after, strict=True) if early == 0)


# --- Which experiment ---


def test_the_first_experiment_that_speaks_of_cause_and_customer():
    """By trigger (or `request`, or any) and by its condition, in the order of ids."""
    vip = compile_expression("profile.vip == true")
    experiments = (
        _experiment(1.0, id="a", triggers=frozenset({"go"}), when=vip),
        _experiment(1.0, id="b", triggers=frozenset({"request"})),
        _experiment(1.0, id="c", when=vip),
    )
    repertoire = Builder().action("a").build(experiments=experiments)

    def found(cause: str, **traits) -> str | None:
        context = context_of(a_profile(traits=traits), Signal("m1", "track", START_MS), repertoire)
        experiment = experiment_for(repertoire, cause, context)
        return None if experiment is None else experiment.id

    assert found("go", vip=True) == "a"
    assert found("go") is None
    assert found("request") == "b"
    assert found("other", vip=True) == "c"


# --- Arms ---


@pytest.mark.parametrize(
    ("arm", "left"),
    [
        ({}, ["t1", "t2", "u"]),
        ({"only": {"a"}}, ["t1", "t2"]),
        ({"only": {"t2", "b"}}, ["t2", "u"]),
        ({"exclude": {"t1"}}, ["t2", "u"]),
        ({"exclude": {"a"}}, ["u"]),
        ({"only": {"a"}, "exclude": {"t2"}}, ["t1"]),
    ],
)
def test_an_arm_leaves_actions_or_treatments(arm, left):
    """Those it names only, or all but those it names; each of the others has a reason."""
    b = Builder()
    b.action("a", b.treatment("t1"), b.treatment("t2")).action("b", b.treatment("u"))
    repertoire, rejections = b.build(), Rejections()
    candidates = select(repertoire.candidates, repertoire)
    split = Arm(id="arm", weight=1.0, **{name: frozenset(ids) for name, ids in arm.items()})
    kept = [each.treatment.id for each in left_by(split, _experiment(1.0), candidates, rejections)]
    assert kept == left
    others = [each for each in candidates if each.treatment.id not in left]
    assert rejections == [
        Rejection(each.action.id, "experiment", f"{each.treatment.id}: not in arm arm of x") for each in others
    ]


# --- Holdout ---


def test_the_holdout_is_a_range_of_buckets():
    """Its low end is in, its high end is not; neighbouring ranges share nobody and leave nobody out."""
    parts = [Holdout(id="h", salt="s", low=low, high=low + 0.25) for low in (0.0, 0.25, 0.5, 0.75)]
    for customer in CUSTOMERS[:2_000]:
        assert [is_held_out(part, customer) for part in parts].count(True) == 1
    edge = bucket("s", CUSTOMERS[0])
    assert is_held_out(Holdout(id="h", salt="s", low=edge, high=1.0), CUSTOMERS[0])
    assert not is_held_out(Holdout(id="h", salt="s", low=0.0, high=edge), CUSTOMERS[0])
    assert not is_held_out(None, CUSTOMERS[0])


@pytest.mark.parametrize(
    ("exempt", "reached"),
    [
        (set(), []),
        ({"transactional"}, ["receipt"]),
        ({"mandatory", "legal"}, ["legal", "recall"]),
        ({"default"}, ["legal", "offer"]),
    ],
)
def test_classes_and_tags_may_be_exempt(exempt, reached):
    """They reach held-out customers all the same."""
    b = Builder().action("offer").action("receipt", action_class="transactional")
    b.action("recall", action_class="mandatory").action("legal", tags=frozenset({"legal"}))
    holdout = Holdout(id="h", salt="s", low=0.0, high=1.0, exempt=frozenset(exempt))
    assert [each.action.id for each in b.build().candidates if is_exempt(holdout, each)] == reached


def test_no_arm_holds_back_what_is_mandatory():
    """An arm that shows only one action still lets a recall through."""
    b = Builder().action("offer").action("other").action("recall", action_class="mandatory")
    arm = Arm(id="a", weight=1.0, only=frozenset({"offer"}), exclude=frozenset({"recall"}))
    experiment = Experiment(id="e", salt="s", arms=(arm,))
    repertoire = b.build()
    left = left_by(arm, experiment, select(repertoire.candidates, repertoire), Rejections())
    assert [each.action.id for each in left] == ["offer", "recall"]
