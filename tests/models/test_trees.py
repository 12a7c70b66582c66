"""Trees say what River's say, leave missing numbers missing, and travel light."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from models.learner import Arm, Observation
from models.trees import AdaptiveTree, BaggedTrees

SLOTS = ("age", "age?", "n")
ARMS = [Arm("g", f"a{n}", f"t{n}") for n in range(3)]
NONE = np.zeros(0)


def examples(count, seed=0, sign=1.0):
    """The sign of n decides, but for the arm 0."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        missing = float(rng.random() < 0.2)
        x, n = np.array([0.0 if missing else rng.normal(40.0, 10.0), missing, rng.normal()]), int(rng.integers(3))
        chance = 0.5 if n == 0 else 0.9 if sign * x[2] > 0.0 else 0.1
        yield Observation(x, ARMS[n], NONE, 0.2, float(rng.random() < chance))


def taught(learner, seen):
    """The learner, having learned."""
    for each in seen:
        learner.learn(each)
    return learner


TREE = taught(AdaptiveTree(SLOTS, ()), examples(1500))


def test_the_rate_is_rivers():
    """Each candidate is asked of River's own tree."""
    posterior = AdaptiveTree.posterior(TREE.export(), SLOTS, ARMS, np.zeros((3, 0)), np.full(3, 0.2))
    for each in examples(30, seed=1):
        own = [TREE.river[0].predict_proba_one(TREE.features(each._replace(arm=arm)))[True] for arm in ARMS]
        assert posterior.rates(each.x, None)[0] == pytest.approx(own)


def test_it_finds_what_decides():
    """Above and below the split the rates are far apart."""
    low, high = (TREE.predict(Observation(np.array([40.0, 0.0, n]), ARMS[1], NONE, 0.2)) for n in (-1.5, 1.5))
    assert low < 0.25
    assert high > 0.75


def test_missing_numbers_are_left_out():
    """So that they are not taken for a nought."""
    seen = Observation(np.array([0.0, 1.0, 2.0]), ARMS[0], NONE)
    assert TREE.features(seen) == {
        "customer:age?": 1.0, "customer:n": 2.0, "group": "g", "action": "a0", "treatment": "t0",
    }  # fmt: skip


def test_random_numbers_nobody_draws_stay_at_home():
    """A dump is a fraction of the plain pickle, and those the tree draws from are in it."""
    assert len(TREE.dump()) < 0.2 * len(pickle.dumps(TREE.river))
    again = AdaptiveTree(SLOTS, (), seed=77)
    again.load(TREE.dump())
    assert again.river[0]._rng.getstate() == TREE.river[0]._rng.getstate()


def test_it_follows_a_change():
    """Once all is turned round, so are its predictions."""
    learner = taught(AdaptiveTree(SLOTS, ()), [*examples(1500), *examples(2500, seed=2, sign=-1.0)])
    low, high = (learner.predict(Observation(np.array([40.0, 0.0, n]), ARMS[1], NONE, 0.2)) for n in (-1.5, 1.5))
    assert low > high + 0.3


@pytest.mark.parametrize("depth", [1, 3])
def test_leaves_are_bounded(depth):
    """At most two to the power of the depth, whatever the number of values and arms."""
    rng = np.random.default_rng(3)
    learner = AdaptiveTree(SLOTS, (), max_depth=depth, grace_period=20)
    for n in range(1500):
        x = np.array([rng.normal(), 0.0, rng.normal()])
        arm = Arm(f"g{n % 7}", f"a{n % 31}", f"t{n % 61}")
        learner.learn(Observation(x, arm, NONE, 0.2, float((x[0] > 0.0) ^ (n % 31 < 15))))
    leaves = learner.river[0].summary["n_leaves"]
    assert 2 <= leaves <= 2**depth


def test_bagged_trees_differ():
    """Their mean is the rate, and their spread is doubt."""
    learner = taught(BaggedTrees(SLOTS, (), 4, members=3), examples(400))
    posterior = BaggedTrees.posterior(learner.export(), SLOTS, ARMS, np.zeros((3, 0)), np.full(3, 0.2))
    spread = [posterior.rates(each.x, None).std(axis=0).max() for each in examples(20, seed=5)]
    assert max(spread) > 0.0
    [asked] = examples(1, seed=6)
    own = learner.river.predict_proba_one(learner.features(asked))[True]
    assert posterior.rates(asked.x, None)[:, ARMS.index(asked.arm)].mean() == pytest.approx(own)


def test_a_dump_of_another_kind_is_refused():
    """One tree is not three."""
    with pytest.raises(ValueError, match="not for 3 of bagged-trees"):
        BaggedTrees(SLOTS, (), members=3).load(TREE.dump())


@pytest.mark.parametrize(
    "wrong",
    [
        {"leaf_prediction": "x"},
        {"grace_period": 0},
        {"max_depth": 0},
        {"members": 0},
        {"delta": 1.0},
        {"starting_evidence": 0.0},
    ],
    ids=str,
)
def test_impossible_parameters_are_refused(wrong):
    """With what was given."""
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=rf"{name} .*{value}"):
        BaggedTrees(SLOTS, (), **wrong)
