"""Counts in bins say what Pega's formulas say, classifiers are calibrated, and what was counted can be taken back."""

from __future__ import annotations

import bisect
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.binning import UNKNOWN, Binning, classifier
from models.learner import Arm, Observation
from models.naive_bayes import NaiveBayes

SLOTS = ("age", "age?", "city=0", "city=1", "city=2", "city?", "old!")
ARM = Arm("", "", "")
NONE = np.zeros(0)


def a_customer(rng) -> np.ndarray:
    """Values of `SLOTS`."""
    x = np.zeros(len(SLOTS))
    x[0], x[1] = (rng.normal(40.0, 10.0), 0.0) if rng.random() < 0.8 else (0.0, 1.0)
    x[2 + rng.integers(4)], x[6] = 1.0, rng.random() < 0.5
    return x


def examples(count, seed=0, arms=(ARM,)):
    """Old people and those of city 1 answer."""
    rng = np.random.default_rng(seed)
    for at_ms in range(count):
        x = a_customer(rng)
        chance = 0.1 + 0.4 * (x[0] > 45.0) + 0.3 * x[3]
        arm = arms[rng.integers(len(arms))]
        yield Observation(x, arm, NONE, 0.2, float(rng.random() < chance), at_ms // 3)


def test_the_score_is_pegas():
    """Counted and summed by hand, the score falls in the same bin and has its rate."""
    learner, seen = NaiveBayes(SLOTS, (), bins=4, warm_up=50, starting_evidence=1e-9), list(examples(400))
    for each in seen:
        learner.learn(each)
    edges = learner._edges["age"]
    assert len(edges) == 3

    def bins(x):
        age = 4 if x[1] else bisect.bisect_right(edges, x[0])
        return {("age", age, 5), ("city", int(x[2:6].argmax()), 4), ("old!", int(x[6]), 2)}

    counts: dict = {
        label: Counter(key for each in seen if each.reward == label for key in bins(each.x)) for label in (0, 1)
    }
    positives = sum(each.reward for each in seen)
    negatives = len(seen) - positives
    wide, _ = learner._classifiers
    for asked in examples(40, seed=1):
        score = math.log(1 + positives) - math.log(1 + negatives)
        for key in bins(asked.x):
            score += math.log(counts[1][key] + 1 / key[2]) - math.log(counts[0][key] + 1 / key[2])
            score += math.log(1 + negatives) - math.log(1 + positives)
        wanted = wide(np.array([score / 4]))[0]
        assert learner.predict(asked) == pytest.approx(wanted, abs=1e-6)


@given(
    pairs=st.lists(st.tuples(st.floats(-50, 50), st.sampled_from([0.0, 1.0, 0.25])), max_size=200),
    bins=st.integers(1, 20),
)
def test_a_classifier_is_monotone_and_smoothed(pairs, bins):
    """Rates rise with the score, each is (0.5 + positives) / (1 + observations) of its bin, and all are counted."""
    score, reward = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    found = classifier(score, reward, bins)
    assert len(found.rates) == len(found.thresholds) + 1 <= bins
    assert (np.diff(found.rates) > 0.0).all()
    place = np.searchsorted(found.thresholds, score, side="right")
    wanted = [(0.5 + reward[place == n].sum()) / (1.0 + (place == n).sum()) for n in range(len(found.rates))]
    assert found.rates == pytest.approx(wanted)
    assert found(score) == pytest.approx(found.rates[place])


@given(
    edges=st.lists(st.floats(-100, 100), max_size=9, unique=True).map(sorted),
    value=st.floats(-200, 200),
    missing=st.booleans(),
    bucket=st.integers(0, 3),
)
def test_bins_are_found(edges, value, missing, bucket):
    """A number's place among edges, one bin more for missing; a category's bucket; a flag."""
    x = np.zeros(len(SLOTS))
    x[0], x[1], x[2 + bucket], x[6] = 0.0 if missing else value, missing, 1.0, 1.0
    binning = Binning(SLOTS, {"age": edges})
    age = len(edges) + 1 if missing else bisect.bisect_right(edges, value)
    assert binning.encode(x).tolist() == [age, bucket, 1]
    assert binning.encode(np.array([x, x])).tolist() == [[age, bucket, 1]] * 2
    assert binning.sizes.tolist() == [len(edges) + 2, 4, 2]
    assert Binning(SLOTS, {}).encode(x).tolist() == [UNKNOWN, bucket, 1]


ARMS = tuple(Arm(f"g{n % 2}", f"a{n}", f"t{n}") for n in range(4))


@pytest.mark.parametrize("warm_up", [1, 60, 200], ids=["bins at once", "bins in between", "no bins yet"])
@settings(max_examples=8)
@given(seed=st.integers(0, 1000), wrong=st.sets(st.integers(0, 99), max_size=60), fraction=st.sampled_from([0.0, 0.3]))
def test_what_was_counted_can_be_taken_back(warm_up, seed, wrong, fraction):
    """Corrected, the counts are at once, and all is with the next classifiers, to the byte, as if learned right."""
    corrected, right = (NaiveBayes(SLOTS, (), warm_up=warm_up, window=250) for _ in range(2))
    seen = list(examples(160, seed, ARMS))
    for at, each in enumerate(seen):
        right.learn(each)
        corrected.learn(each._replace(reward=fraction) if at in wrong else each)
        if at == 120:
            for late in sorted(wrong, reverse=True):
                corrected.correct(seen[late], fraction)
            assert corrected._counts.tobytes() == right._counts.tobytes()
    assert corrected.dump() == right.dump()


def test_it_claims_no_skill_for_noise():
    """Of ten numbers that say nothing it learns the rate, and no more than that."""
    rng = np.random.default_rng(3)
    slots = tuple(f"n{each}" for each in range(10))
    learner = NaiveBayes(slots, (), warm_up=50)
    for at_ms in range(600):
        learner.learn(Observation(rng.normal(size=10), ARM, NONE, 0.2, float(rng.random() < 0.2), at_ms))
    found = np.array([learner.predict(Observation(rng.normal(size=10), ARM, NONE, 0.2)) for _ in range(100)])
    assert found.mean() == pytest.approx(0.2, abs=0.04)
    assert found.std() < 0.06


def test_the_actions_own_values_count():
    """Of an arm nobody has seen a low price is believed to do what low prices did."""
    learner, rng = NaiveBayes((), ("price",), bins=2, warm_up=20), np.random.default_rng(4)
    for at_ms in range(400):
        price = float(at_ms % 2)
        arm = Arm("g", f"a{at_ms % 20}", f"t{at_ms % 20}")
        learner.learn(Observation(NONE, arm, np.array([price]), 0.2, float(rng.random() < 0.6 - 0.5 * price), at_ms))
    cheap, dear = (
        learner.predict(Observation(NONE, Arm("g", "new", "new"), np.array([price]), 0.2)) for price in (0.0, 1.0)
    )
    assert cheap > dear + 0.3
    posterior = NaiveBayes.posterior(
        learner.export(), (), [Arm("g", "new", "new")] * 2, np.array([[0.0], [1.0]]), np.full(2, 0.2)
    )
    assert posterior.expected(NONE, None) == pytest.approx([cheap, dear])


def test_a_predictor_that_joins_later_gets_bins_of_its_own():
    """Loaded with a number more, it counts it from then on."""
    learner = NaiveBayes(SLOTS, (), warm_up=50)
    for each in examples(200):
        learner.learn(each)
    wider = NaiveBayes((*SLOTS, "points"), (), warm_up=50)
    wider.load(learner.dump())
    rng = np.random.default_rng(5)
    for each in examples(49, seed=6):
        wider.learn(each._replace(x=np.append(each.x, rng.normal())))
    assert "points" not in wider._edges
    for each in examples(300, seed=7):
        points = rng.normal()
        wider.learn(each._replace(x=np.append(each.x, points), reward=float(points > 0.0)))
    x = np.append(a_customer(rng), 0.0)
    low, high = (wider.predict(Observation(np.append(x[:-1], points), ARM, NONE, 0.2)) for points in (-1.5, 1.5))
    assert high > low + 0.3


@pytest.mark.parametrize(
    "wrong",
    [{"bins": 1}, {"bins": 255}, {"warm_up": 0}, {"window": 10}, {"classes": 0}, {"starting_evidence": 0.0}],
    ids=str,
)
def test_impossible_parameters_are_refused(wrong):
    """With what was given."""
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=rf"{name} {value}"):
        NaiveBayes(SLOTS, (), **wrong)
