"""A learner in training: what is credited until rewards are known, what replaces it, and what maturity makes of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.learning import Example
from engine.repertoire import LearnerRule
from models.bayesian import BayesianLinear
from models.learner import Arm, Observation
from models.naive_bayes import REFRESH, UNIT, NaiveBayes
from models.snapshot import Evidence
from models.trainee import CREDIT, Record, Trainee

HOUR_MS = 3_600_000
WINDOW_MS = 7 * 24 * HOUR_MS
ARM = Arm("g", "a", "t")
SLOTS = ("n", "flag!")
BAYESIAN = LearnerRule(kind="bayesian-linear", parameters={"half_lives": (), "expansion": 0, "relevance": False})
COUNTS = LearnerRule(kind="naive-bayes")
kinds = pytest.mark.parametrize("rule", [BAYESIAN, COUNTS], ids=lambda rule: rule.kind)


def _trainee(rule: LearnerRule, slots: Sequence[str] = SLOTS) -> Trainee:
    """One that has learned nothing; the scale of a linear learner's features stands, so that it can take back all."""
    learner = {each.kind: each for each in (BayesianLinear, NaiveBayes)}[rule.kind](slots, (), 0, **rule.parameters)
    if isinstance(learner, BayesianLinear):
        learner._scaling.seen[:] = learner._scaling.squares[:] = 1e18
        learner._scaling.flags[:] = 0.0
    return Trainee("a", rule, learner, 1, -1, 0)


def _told(stage: str, decision: int = 0, reward: float = 0.0, previous: float | None = None, **changes) -> Example:
    """One stage of a decision made every minute, of which .4 was expected."""
    decided_ms = decision * 60_000
    given = {
        "example_id": f"d{decision}:{stage}", "model": "offers", "stage": stage, "label": None, "reward": reward,
        "previous": previous, "late": False, "decision_id": f"d{decision}", "customer_id": "c", "group": ARM.group,
        "action": ARM.action, "treatment": ARM.treatment, "channel": "email", "prior": 0.3, "propensity": 0.4,
        "version": None, "probability": 1.0, "schema": "f1", "features": _features(decision), "action_schema": "none",
        "action_features": (), "decided_ms": decided_ms, "at_ms": decided_ms, "window_ms": WINDOW_MS,
    }  # fmt: skip
    return Example(**{**given, **changes})


def _life(answers: Sequence[float], closes: int, decision: int = 0, **changes) -> Iterator[Example]:
    """What a worker tells of a decision whose window closes after so many of these answers."""
    yield _told("exposed", decision, **changes)
    known: float | None = None
    for place in range(len(answers) + 1):
        if place == closes:
            yield _told("closed", decision, known or 0.0, known, **changes)
        if place < len(answers) and answers[place] != known:
            yield _told("answered", decision, answers[place], known, late=place >= closes, **changes)
            known = answers[place]


def _learn(trainee: Trainee, example: Example) -> bool:
    """With features that are the decision's own, if it has any."""
    arm = Arm(example.group, example.action, example.treatment)
    x = np.array(example.features)
    return trainee.learn(example, Observation(x, arm, np.zeros(0), example.prior, example.reward, example.decided_ms))


def _features(decision: int) -> tuple[float, float]:
    """Values of `SLOTS`, of no two decisions the same."""
    return float(np.sin(decision)), float(decision % 3 == 0)


def _rewards(trainee: Trainee, arm: Arm = ARM) -> float:
    """What the learner takes an arm to have brought so far."""
    learner = trainee.learner
    if isinstance(learner, BayesianLinear):
        return learner._kept[arm][0]
    assert isinstance(learner, NaiveBayes)
    return float(learner._totals[learner._nodes[arm], 1]) / UNIT


# --- Stages ---


@kinds
def test_half_of_what_was_expected_is_credited_at_first(rule):
    """Of an exposure nothing else is known; nor is a credit taken for an answer that came at once."""
    trainee = _trainee(rule)
    assert _learn(trainee, _told("exposed"))
    assert _rewards(trainee) == pytest.approx(CREDIT * 0.4)
    assert getattr(trainee.learner, "_lag", np.inf) == np.inf
    assert trainee.evidence == {ARM: Evidence(1, 0)}


@kinds
@pytest.mark.parametrize(
    ("answers", "closes", "steps"),
    [
        ((), 0, (0.2, 0.0)),
        ((0.0, 1.0), 2, (0.2, 0.0, 1.0, 1.0)),
        ((1.0,), 0, (0.2, 0.0, 1.0)),
        ((0.0,), 0, (0.2, 0.0, 0.0)),
        ((1.0, 0.0), 2, (0.2, 1.0, 0.0, 0.0)),
        ((0.9, 0.0), 1, (0.2, 0.9, 0.9, 0.0)),
    ],
    ids=["silence", "no, yes", "late yes", "late no", "yes, scored 0 again", "scored 0 late"],
)
def test_each_stage_replaces_what_was_known(rule, answers, closes, steps):
    """The first answer or the end replaces the credit, whatever it says; then each answer the one before."""
    trainee, found = _trainee(rule), []
    for each in _life(answers, closes):
        _learn(trainee, each)
        found.append(_rewards(trainee))
    assert found == pytest.approx(steps)


@kinds
@settings(max_examples=40)
@given(
    lives=st.lists(st.tuples(st.lists(st.sampled_from([0.0, 0.375, 1.0]), max_size=4), st.integers(0, 4)), max_size=8)
)
def test_in_the_end_only_the_last_answers_count(rule, lives):
    """Whatever was said in between, early or late: the sum of the last rewards, and how many were above nothing."""
    trainee = _trainee(rule)
    for decision, (answers, closes) in enumerate(lives):
        for each in _life(answers, min(closes, len(answers)), decision):
            _learn(trainee, each)
    last = [answers[-1] if answers else 0.0 for answers, _ in lives]
    if lives:
        assert _rewards(trainee) == pytest.approx(sum(last), abs=1e-9)
        assert trainee.evidence == {ARM: Evidence(len(lives), sum(each > 0.0 for each in last))}


@pytest.mark.parametrize("stage", ["answered", "closed"])
def test_what_is_known_already_teaches_nothing(stage):
    """The reward there was; and a late no, of what closed in silence."""
    trainee = _trainee(COUNTS)
    for each in (*_life((1.0,), 1), *_life((), 0, 1)):
        _learn(trainee, each)
    before = trainee.dump()
    assert not _learn(trainee, _told(stage, 0, 1.0, 1.0))
    assert not _learn(trainee, _told("answered", 1, 0.0, late=True))
    assert trainee.dump() == before


# --- Credit that was taken back ---


def _scattered(n: int, seed: int, answers: bool) -> list[Example]:
    """Decisions whose stages overlap: silent ones, or with yes and no at any time, the last of them closed."""
    rng, told = np.random.default_rng(seed), []
    for decision in range(n):
        said = rng.choice([0.0, 1.0], int(rng.integers(3))).tolist() if answers else []
        life = list(_life(said, int(rng.integers(len(said) + 1)), decision, propensity=float(rng.random())))
        after = np.cumsum([0.0, *rng.exponential(20.0, len(life) - 1)])
        told += [
            (decision + each, place, example) for place, (each, example) in enumerate(zip(after, life, strict=True))
        ]
    return [example for _, _, example in sorted(told, key=lambda each: each[:2])]


@kinds
@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 60))
def test_of_a_credit_that_was_taken_back_nothing_is_left(rule, seed, n):
    """Silence after all: as if each decision had been a nothing from the start."""
    trainee, never = _trainee(rule), _trainee(rule).learner
    for each in _scattered(n, seed, answers=False):
        _learn(trainee, each)
    x = [np.array(_features(decision)) for decision in range(n + REFRESH)]
    for decision in range(n):
        never.learn(Observation(x[decision], ARM, np.zeros(0), 0.3, 0.0, decision * 60_000))
    if isinstance(never, NaiveBayes):
        # Classifiers are made of what is known at the time; with the next ones all is equal to the byte.
        for decision in range(n, n + REFRESH):
            for each in (trainee.learner, never):
                each.learn(Observation(x[decision], ARM, np.zeros(0), 0.3, float(decision % 2), decision * 60_000))
        assert trainee.learner.dump() == never.dump()
    for each in x[:n]:
        for arm in (ARM, Arm("g", "new", "new")):
            asked = Observation(each, arm, np.zeros(0), 0.3)
            assert trainee.learner.predict(asked) == pytest.approx(never.predict(asked), abs=1e-9)


@kinds
@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), share=st.floats(0.0, 1.0))
def test_credit_is_taken_back_after_a_restart_as_well(rule, seed, share):
    """Stopped with open credits and loaded from bytes, it goes on to the byte as if it had not been."""
    told = _scattered(60, seed, answers=True)
    whole, stopped = _trainee(rule), _trainee(rule)
    for place, each in enumerate(told):
        if place == int(share * len(told)):
            heir = _trainee(rule)
            heir.load(msgspec.msgpack.decode(msgspec.msgpack.encode(stopped.dump()), type=Record))
            stopped = heir
        assert _learn(whole, each) == _learn(stopped, each)
    assert stopped.dump() == whole.dump()
    assert stopped.matured(WINDOW_MS) == whole.matured(WINDOW_MS)


# --- Maturity ---

RATES = {Arm("g", "rare", "t"): 0.05, Arm("g", "half", "t"): 0.5, Arm("g", "often", "t"): 0.9}
DELAYS = {
    "exponential": lambda rng, n: rng.exponential(WINDOW_MS / 5, n),
    "even": lambda rng, n: rng.uniform(0, WINDOW_MS, n),
}


def _deployment(delays: str, windows: float, seed: int) -> list[Example]:
    """What is told, in order of time, of 1,000 decisions a window, and of 3,000 of an arm of rare rewards."""
    rng, told = np.random.default_rng(seed), []
    for arm, rate in RATES.items():
        n = int(windows * (3_000 if rate < 0.1 else 1_000))
        at, late = np.sort(rng.uniform(0, windows * WINDOW_MS, n)).astype(int), DELAYS[delays](rng, 4 * n)
        late = late[late < WINDOW_MS][:n].astype(int)
        for number, (decided_ms, delay, taken) in enumerate(zip(at, late, rng.random(n) < rate, strict=True)):
            known = {
                "group": arm.group, "action": arm.action, "treatment": arm.treatment, "propensity": rate,
                "decision_id": f"{arm.action}{number}", "decided_ms": int(decided_ms), "features": (),
            }  # fmt: skip
            told.append(_told("exposed", at_ms=int(decided_ms), **known))
            if taken:
                told.append(_told("answered", reward=1.0, at_ms=int(decided_ms + delay), **known))
            else:
                told.append(_told("closed", at_ms=int(decided_ms) + WINDOW_MS, **known))
    return sorted(told, key=lambda each: each.at_ms)


@pytest.mark.parametrize("delays", sorted(DELAYS))
def test_what_is_known_so_far_over_its_maturity_is_the_rate(delays):
    """Of rewards and credits, of arms of any rate, once a deployment is a window old.

    Within three standard errors of what the rewards that have come say of it, and the half of a twenty-fourth of a
    window to which ages are known.
    """
    ages = (1.0, 1.5, 3.0)
    trainee, told = _trainee(BAYESIAN, ()), deque(_deployment(delays, max(ages), seed=1))
    for age in ages:
        now_ms = int(age * WINDOW_MS)
        while told and told[0].at_ms <= now_ms:
            _learn(trainee, told.popleft())
        maturity = trainee.matured(now_ms)
        for arm, rate in RATES.items():
            n, come = trainee.evidence[arm]
            found, error = _rewards(trainee, arm) / n / maturity[arm], np.sqrt((1 - come / n) / come)
            assert found / rate == pytest.approx(1.0, abs=3 * error + 1 / 48)
        # What is credited to who has not answered is more of what rare rewards bring than of what frequent ones do.
        by_rate = [maturity[arm] for arm in RATES]
        assert by_rate == sorted(by_rate, reverse=True)


def test_in_the_first_window_early_rewards_are_taken_for_a_part_of_more():
    """Ages nobody has lived through are taken to be like the others: rates are overrated, by less than twice."""
    trainee, now_ms = _trainee(BAYESIAN, ()), WINDOW_MS // 2
    for each in _deployment("exponential", 0.5, seed=1):
        if each.at_ms <= now_ms:
            _learn(trainee, each)
    maturity = trainee.matured(now_ms)
    for arm, rate in RATES.items():
        assert 1.0 < _rewards(trainee, arm) / trainee.evidence[arm].examples / maturity[arm] / rate < 2.0


def test_a_prediction_is_divided_by_maturity_whichever_side_of_one():
    """Credits may be more than what is still to come; a reward is never above 1."""
    trainee = _trainee(BAYESIAN)
    for number in range(40):
        for each in _life((float(number % 2),), 1, number):
            _learn(trainee, each)
    asked = Observation(np.zeros(2), ARM, np.zeros(0), 0.3)
    own = trainee.learner.predict(asked)
    for maturity in (1.25, 0.8, 0.1):
        trainee.maturity = {ARM: maturity}
        assert trainee.predict(asked) == pytest.approx(min(1.0, own / maturity))


def test_an_arm_shown_once_is_hardly_divided():
    """Its only exposure is credited half of what was expected, and its prior waits for nothing."""
    trainee = _trainee(COUNTS)
    _learn(trainee, _told("exposed"))
    (share,) = trainee.matured(1).values()
    assert 0.8 < share < 1.0
