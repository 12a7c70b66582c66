"""Slots become predictors again by their names, and numbers lose their units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import preprocessing

from models.predictors import CLIP, Moments, Predictor, moved, predictors


def test_slots_are_read_as_features_write_them():
    """A number and its flags, a category and its buckets in any order, a flag of age, and a name on its own."""
    slots = ("age", "age?", "age!", "city=1", "city=0", "city?", "plain", "odd=name", "why?")
    assert predictors(slots) == (
        Predictor("age", True, (0,), 1),
        Predictor("age!", False, (2,), -1),
        Predictor("city", False, (4, 3), 5),
        Predictor("plain", True, (6,), -1),
        Predictor("odd=name", True, (7,), -1),
        Predictor("why?", True, (8,), -1),
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_numbers_are_scaled_as_river_scales_them(values):
    """In deviations from the mean, as River's StandardScaler does, and held within limits."""
    moments, scaler = Moments(("a",)), preprocessing.StandardScaler()
    for each in values:
        moments.learn(np.array([each]))
        scaler.learn_one({"a": each})
    wanted = scaler.transform_one({"a": values[0]})["a"]
    if np.std(values) > 1e-6:
        assert moments.scaled(np.array([values[0]]))[0] == pytest.approx(np.clip(wanted, -CLIP, CLIP), abs=1e-6)
    assert moments.scaled(np.array([1e12]))[0] <= CLIP


def test_missing_numbers_are_average_and_count_for_nothing():
    """A missing number neither moves the mean nor is far from it; flags and buckets are left alone."""
    moments = Moments(("age", "age?", "city=0", "city?"))
    for age in (30.0, 50.0):
        moments.learn(np.array([age, 0.0, 1.0, 0.0]))
    moments.learn(np.array([0.0, 1.0, 0.0, 1.0]))
    assert moments.scaled(np.array([50.0, 0.0, 1.0, 0.0])).tolist() == [1.0, 0.0, 1.0, 0.0]
    assert moments.scaled(np.array([[0.0, 1.0, 0.0, 1.0]])).tolist() == [[0.0, 1.0, 0.0, 1.0]]


def test_a_slot_without_variance_says_nothing():
    """One value, or always the same: 0."""
    moments = Moments(("a",))
    assert moments.scaled(np.array([5.0])).tolist() == [0.0]
    moments.learn(np.array([5.0]))
    moments.learn(np.array([5.0]))
    assert moments.scaled(np.array([7.0])).tolist() == [0.0]


def test_slots_move_by_name():
    """Places of the slots that both have."""
    old, new = moved(("a", "b", "c"), ("c", "d", "a"))
    assert (old.tolist(), new.tolist()) == ([2, 0], [0, 2])
    assert [each.tolist() for each in moved((), ("a",))] == [[], []]
