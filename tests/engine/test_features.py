"""Features: read in any scope, the same number of slots whatever turns up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.expression import compile_expression
from engine.features import MAX_NUMBER, Feature, FeatureSchema

NOW_MS = 1_000_000
SCHEMA = FeatureSchema(
    version="v1",
    features=(
        Feature(name="age", value=compile_expression("profile.age")),
        Feature(
            name="city",
            kind="categorical",
            value=compile_expression("profile.city"),
            buckets=4,
            as_of=compile_expression("profile.city_ms"),
            fresh_ms=1_000,
        ),
    ),
)
JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80) | st.lists(st.integers())


def _scope(**traits):
    return {"profile": traits, "now_ms": NOW_MS}


@given(st.dictionaries(st.sampled_from(["age", "city", "city_ms"]), JSON))
def test_whatever_a_profile_holds_there_is_a_vector(traits):
    """Finite, bounded, one number per slot; a category is one of its buckets or missing, never both."""
    vector = SCHEMA.vector(SCHEMA.read(_scope(**traits)))
    assert vector.shape == (len(SCHEMA.slots),) == (8,)
    assert np.isfinite(vector).all()
    assert np.abs(vector).max() <= MAX_NUMBER
    assert vector[2:7].sum() == 1.0


def test_what_is_missing_is_flagged_and_what_is_old_too():
    """Each has a slot of its own; a value of an unknown date counts as old."""
    named = dict(zip(SCHEMA.slots, SCHEMA.vector(SCHEMA.read(_scope())), strict=True))
    assert (named["age"], named["age?"], named["city?"], named["city!"]) == (0.0, 1.0, 1.0, 1.0)
    known = SCHEMA.vector(SCHEMA.read(_scope(age=41, city="Lyon", city_ms=NOW_MS - 1_000)))
    named = dict(zip(SCHEMA.slots, known, strict=True))
    assert (named["age"], named["age?"], named["city?"], named["city!"]) == (41.0, 0.0, 0.0, 0.0)
    old = SCHEMA.vector(SCHEMA.read(_scope(city="Lyon", city_ms=NOW_MS - 1_001)))
    assert old[SCHEMA.slots.index("city!")] == 1.0


def test_a_category_always_falls_into_the_same_bucket():
    """A golden value: buckets that moved would make every model wrong after an upgrade."""
    vector = SCHEMA.vector((None, "Lyon", False))
    assert SCHEMA.slots[int(vector[2:6].argmax()) + 2] == "city=0"


@pytest.mark.parametrize("values", [(), (1.0,), (1.0, "a"), (1.0, "a", True, True)])
def test_values_of_another_schema_are_refused(values):
    """Too few or too many say so."""
    with pytest.raises(ValueError, match="feature values for 2 features of schema v1"):
        SCHEMA.vector(values)


def test_without_features_there_is_an_empty_vector():
    """A model may know nothing but its arms."""
    empty = FeatureSchema()
    assert empty.vector(empty.read(_scope())).shape == (0,)
