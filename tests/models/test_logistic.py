"""Many arms in one product say what River says of each, and rates suit few slots and many."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import ensemble

from models.learner import Arm, Observation
from models.logistic import BaggedLogistic, Logistic

SLOTS = ("age", "age?", "city=0", "city=1", "city?")
ACTION_SLOTS = ("price",)
ARMS = [Arm(f"group{n % 3}", f"action{n % 5}", f"treatment{n}") for n in range(12)]
PRICES = np.arange(12.0)[:, None]


def examples(count, seed=0, sign=1.0, slots=SLOTS):
    """Age decides, more so for some arms; the sign turns it round."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        x = np.zeros(len(slots))
        x[0], x[2 + rng.integers(len(slots) - 2)] = rng.normal(40.0, 10.0), 1.0
        n = int(rng.integers(8))
        z = sign * (x[0] - 40.0) * 0.1 * (1 + n % 2) - 1.0
        yield Observation(x, ARMS[n], PRICES[n], 0.2, float(rng.random() < 1.0 / (1.0 + math.exp(-z))))


def taught(learner, seen):
    """The learner, having learned."""
    for each in seen:
        learner.learn(each)
    return learner


LEARNED = taught(Logistic(SLOTS, ACTION_SLOTS), examples(300))


@given(
    candidates=st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True),
    age=st.floats(-1e6, 1e6),
    missing=st.booleans(),
)
def test_one_product_equals_river(candidates, age, missing):
    """Every candidate's rate is River's `predict_proba_one`, also of few and of arms nobody has seen."""
    x = np.array([0.0 if missing else age, float(missing), 1.0, 0.0, 0.0])
    arms, prices = [ARMS[n] for n in candidates], PRICES[candidates]
    posterior = Logistic.posterior(LEARNED.export(), SLOTS, arms, prices, np.full(len(arms), 0.2))
    [river] = LEARNED.river
    own = [
        river.predict_proba_one(LEARNED.features(Observation(x, arm, price)))[True]
        for arm, price in zip(arms, prices, strict=True)
    ]
    assert posterior.rates(x, None)[0] == pytest.approx(own, abs=1e-9)
    rows = np.arange(len(arms))[::2]
    assert posterior.rates(x, rows)[0] == pytest.approx(own[::2], abs=1e-9)


def test_bagged_it_is_rivers_ensemble():
    """The rate is River's own average, and the members differ."""
    learner = taught(BaggedLogistic(SLOTS, ACTION_SLOTS, 5, members=4), examples(200))
    posterior = BaggedLogistic.posterior(learner.export(), SLOTS, ARMS, PRICES, np.full(12, 0.2))
    for each in examples(20, seed=1):
        found = posterior.rates(each.x, None)[:, ARMS.index(each.arm)]
        own = ensemble.BaggingClassifier.predict_proba_one(learner.river, learner.features(each))[True]
        assert found.mean() == pytest.approx(own, abs=1e-9)
        assert found.std() > 0.0


def test_where_members_disagree_there_is_doubt():
    """A customer unlike any other is less sure than a usual one."""
    learner = taught(BaggedLogistic(SLOTS, ACTION_SLOTS, 5), examples(400))
    posterior = BaggedLogistic.posterior(learner.export(), SLOTS, ARMS[:8], PRICES[:8], np.full(8, 0.2))
    usual = np.array([40.0, 0.0, 1.0, 0.0, 0.0])
    odd = np.array([75.0, 0.0, 0.0, 0.0, 1.0])
    assert posterior.rates(odd, None).std(axis=0).mean() > posterior.rates(usual, None).std(axis=0).mean()
    assert (posterior.score(odd, None)[1] > posterior.score(usual, None)[1]).mean() > 0.5


def _loss(learner, seen) -> float:
    found = [(learner.predict(each), each.reward) for each in seen]
    return -float(np.mean([math.log(p if reward else 1.0 - p) for p, reward in found]))


@pytest.mark.parametrize("optimizer", ["adagrad", "sgd"])
def test_it_learns_what_decides(optimizer):
    """Both optimizers do clearly better than the base rate."""
    seen = list(examples(800))
    base = np.mean([each.reward for each in seen])
    learner = taught(Logistic(SLOTS, ACTION_SLOTS, optimizer=optimizer), seen)
    entropy = -(base * math.log(base) + (1.0 - base) * math.log(1.0 - base))
    assert _loss(learner, examples(300, seed=2)) < 0.93 * entropy


def test_fading_rates_follow_a_change():
    """Once all is turned round, the learner whose rates fade is right again sooner."""
    first, then, after = (
        list(examples(n, seed, sign)) for n, seed, sign in ((3000, 3, 1.0), (300, 4, -1.0), (300, 5, -1.0))
    )
    losses = [_loss(taught(Logistic(SLOTS, ACTION_SLOTS, keep=keep), first + then), after) for keep in (1.0, 0.98)]
    assert losses[1] < losses[0] - 0.02


def test_a_penalty_shrinks_weights():
    """With l2 the odds spread less."""
    learners = [taught(Logistic(SLOTS, ACTION_SLOTS, l2=l2), examples(300)) for l2 in (0.0, 0.1)]
    spread = [np.std([learner.predict(each) for each in examples(50, 6)]) for learner in learners]
    assert spread[1] < spread[0]


@settings(max_examples=10)
@given(extra=st.integers(1, 30))
def test_more_slots_change_nothing_at_first(extra):
    """Loaded with slots more, each prediction is the same, though vectors are divided by another length."""
    slots = (*SLOTS, *(f"more{n}" for n in range(extra)))
    wider = Logistic(slots, ACTION_SLOTS)
    wider.load(LEARNED.dump())
    for each in examples(10, seed=7):
        x = np.append(each.x, np.zeros(extra))
        assert wider.predict(each._replace(x=x)) == pytest.approx(LEARNED.predict(each), abs=1e-9)


def test_it_starts_at_the_first_prior():
    """So that rare rewards need not be learned from one half down."""
    learner = Logistic(SLOTS, ACTION_SLOTS, starting_evidence=0.01)
    [first] = examples(1)
    learner.learn(first._replace(prior=0.01, reward=0.0))
    assert learner.predict(first._replace(prior=0.01)) < 0.011


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "adam"}, {"learning_rate": 0.0}, {"starting_evidence": 0.0}, {"l2": -1.0}, {"keep": 0.0},
        {"keep": 1.1}, {"members": 0},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_parameters_are_refused(wrong):
    """With what was given."""
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=rf"{name} .*{value}"):
        BaggedLogistic(SLOTS, ACTION_SLOTS, **wrong)


def test_a_dump_of_another_configuration_is_refused():
    """Other members or another optimizer are not what was dumped."""
    for other in (BaggedLogistic(SLOTS, ACTION_SLOTS, members=3), Logistic(SLOTS, ACTION_SLOTS, optimizer="sgd")):
        with pytest.raises(ValueError, match="not for"):
            other.load(LEARNED.dump())


@pytest.mark.parametrize("place", [8, 6])
def test_weights_that_are_no_numbers_are_refused(place):
    """Infinite ones, and too few, are not served."""
    state = msgspec.msgpack.decode(LEARNED.export())
    assert isinstance(state[6], bytes)
    state[6] = np.full(len(state[6]) // 8, np.inf).tobytes() if place == 6 else state[6][:-8]
    with pytest.raises(ValueError, match="not the state of a logistic regression"):
        Logistic.posterior(msgspec.msgpack.encode(state), SLOTS, ARMS, PRICES, np.full(12, 0.2))
