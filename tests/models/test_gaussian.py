"""Gaussian posteriors side by side: priors that change afterwards, and how far rewards settle weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.gaussian import NOISE, Stack

shapes = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(0, 40), st.integers(0, 2**16))
"""Features, rows, observations and a seed."""


def _learned(shape, precision) -> tuple[Stack, list[list[tuple[np.ndarray, float]]]]:
    """A stack that began with this precision, and what each of its rows learned."""
    width, rows, count, seed = shape
    rng, stack = np.random.default_rng(seed), Stack(precision, 1.0)
    told: list[list[tuple[np.ndarray, float]]] = [[] for _ in range(rows)]
    for row in range(rows):
        stack.reset(row, np.zeros(width))
    for _ in range(count):
        row, x, reward = int(rng.integers(rows)), rng.normal(size=width), float(rng.random())
        stack.learn(np.array([row]), x, reward)
        told[row].append((x, reward))
    return stack, told


def _precisions(shape) -> tuple[np.ndarray, np.ndarray]:
    """Two of them, between a tenth and hundreds."""
    stated, found = np.exp(np.random.default_rng(shape[-1] + 1).uniform(-2.0, 6.0, (2, shape[0])))
    return stated, found


def _in_use(shape) -> np.ndarray:
    return np.arange(shape[1])


@settings(max_examples=60)
@given(shapes, st.floats(0.0, 1.0))
def test_a_precision_found_later_is_as_one_stated_at_first(shape, offset):
    """Every row is the batch ridge solution under the new precision, and goes on as the stack that began with it."""
    stated, found = _precisions(shape)
    stack, told = _learned(shape, stated)
    other, _ = _learned(shape, found)
    stack.tighten(_in_use(shape), found)
    width, probe = shape[0], np.random.default_rng(shape[-1] + 2).normal(size=shape[0])
    for row, seen in enumerate(told):
        x = np.array([each for each, _ in seen]).reshape(len(seen), width)
        cov = np.linalg.inv(x.T @ x + np.diag(found))
        weights = cov @ x.T @ (np.array([reward for _, reward in seen]) - offset)
        assert stack.look(row, probe, offset) == pytest.approx(
            (offset + weights @ probe, probe @ cov @ probe), abs=1e-8
        )
        for each in (stack, other):
            each.learn(np.array([row]), probe, 1.0)
        assert stack.look(row, probe, offset) == pytest.approx(other.look(row, probe, offset), abs=1e-8)
    np.testing.assert_array_equal(stack.cov, stack.cov.transpose(0, 2, 1))
    for each in (stack, other):
        each.reset(shape[1], np.ones(width))
    assert stack.look(shape[1], probe, offset) == other.look(shape[1], probe, offset)


@settings(max_examples=60)
@given(shapes, st.floats(0.0, 1.0))
def test_what_rewards_settle_is_what_the_prior_leaves_to_them(shape, offset):
    """One less the prior's share of the precision there is now, by feature; nothing for rows that learned nothing."""
    stated, _ = _precisions(shape)
    stack, told = _learned(shape, stated)
    settled, squares = stack.relevance(_in_use(shape), np.full(shape[1], offset))
    wanted, weights = np.zeros(shape[0]), np.zeros(shape[0])
    for seen in told:
        if not seen:
            continue
        x = np.array([each for each, _ in seen])
        cov = np.linalg.inv(x.T @ x + np.diag(stated))
        wanted += 1.0 - np.diagonal(cov) * stated
        weights += (cov @ x.T @ (np.array([reward for _, reward in seen]) - offset)) ** 2
    # Nobody looked for surprises, so the noise is the one a stack begins with.
    np.testing.assert_allclose(settled, wanted, atol=1e-8)
    np.testing.assert_allclose(squares, weights / NOISE, atol=1e-7)
