"""What every learner of the registry promises; whoever registers one has it tested here."""

from __future__ import annotations

import functools
import pickle

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.learner import Arm, Observation
from models.registry import LEARNERS, new, parameters_of

SLOTS = ("age", "age?", "city=0", "city=1", "city=2", "city?", "spend", "spend?", "spend!")
ACTION_SLOTS = ("price", "price?")
ARMS = [Arm(f"group{n % 2}", f"action{n}", f"treatment{n}") for n in range(6)]
NEW = {"group0": Arm("group0", "new", "new"), "group1": Arm("group1", "new", "new")}
PRICES = np.array([[float(n % 3), 0.0] for n in range(len(ARMS))])
SMALL = {"bagging": {"members": 4}, "bagged-trees": {"members": 3}}
"""Parameters that make a kind quick to test; any other kind is tested as it comes."""
REORDERED = {"bayesian-linear": 0.05}
"""What slots in another order may change at most: a kind whose curves start anew then."""
EXAMPLES = 1200

kinds = pytest.mark.parametrize("kind", sorted(LEARNERS))


def a_customer(rng, **known) -> np.ndarray:
    """Values of `SLOTS`; an age missing now and then."""
    x = np.zeros(len(SLOTS))
    x[1 if rng.random() < 0.2 else 0] = 1.0
    x[0] *= known.get("age", rng.normal(40.0, 12.0))
    x[2 + rng.integers(4)] = 1.0
    x[6], x[8] = rng.exponential(100.0), rng.random() < 0.3
    return x


def truth(x, arm) -> float:
    """The chance of a reward in the known process: by age, by city, by arm; group 0 does better."""
    n = ARMS.index(arm)
    z = (0.0 if n % 2 == 0 else -1.5) + 0.2 * (n // 2) + (0.06 * (x[0] - 40.0) * (1.0 - x[1])) + 1.0 * x[3] - 1.0 * x[4]
    return 1.0 / (1.0 + np.exp(-z))


def examples(count, seed=0):
    """Observations of the known process, arms by chance."""
    rng = np.random.default_rng(seed)
    for at_ms in range(count):
        x, n = a_customer(rng), int(rng.integers(len(ARMS)))
        yield Observation(x, ARMS[n], PRICES[n], 0.2, float(rng.random() < truth(x, ARMS[n])), at_ms)


def make(kind, seed=7, slots=SLOTS, **parameters):
    """A learner that knows nothing."""
    return new(kind, slots, ACTION_SLOTS, seed, {**SMALL.get(kind, {}), **parameters})


@functools.cache
def _trained(kind) -> bytes:
    learner = make(kind)
    for each in examples(EXAMPLES):
        learner.learn(each)
    return learner.dump()


def trained(kind, slots=SLOTS):
    """A learner that has seen the known process, made anew for each test."""
    learner = make(kind, slots=slots)
    learner.load(_trained(kind))
    return learner


def bind(learner, arms=ARMS, action_x=PRICES, prior=0.2, slots=SLOTS):
    """What it exported, over candidates."""
    return type(learner).posterior(learner.export(), slots, arms, action_x, np.full(len(arms), prior))


def rates(posterior, x, rows=None) -> np.ndarray:
    """Expected rewards, as decisions are logged with."""
    mean, deviation = posterior.score(x, rows)
    found = posterior.propensities(mean, deviation, rows)
    assert mean.shape == deviation.shape == found.shape == (len(ARMS) if rows is None else len(rows),)
    return found


def expected(posterior, x) -> np.ndarray:
    """Expected rewards exactly, where a posterior knows them."""
    return posterior.expected(x, None) if hasattr(posterior, "expected") else rates(posterior, x)


# --- Scoring ---


@kinds
def test_scoring_changes_nothing(kind):
    """Predicting, exporting and scoring leave a learner as it was."""
    learner = trained(kind)
    before = learner.dump()
    posterior = bind(learner)
    for each in examples(20, seed=1):
        learner.predict(each)
        posterior.score(each.x, None)
        posterior.score(each.x, np.array([2, 0]))
    assert learner.dump() == before


@kinds
@given(
    prior=st.floats(0.001, 0.999),
    x=st.lists(st.floats(-1e12, 1e12), min_size=len(SLOTS), max_size=len(SLOTS)).map(np.array),
)
@settings(max_examples=15)
def test_untrained_it_answers_the_prior(kind, prior, x):
    """Before anything was learned the expected reward is the stated one, with doubt about it."""
    learner = make(kind)
    assert learner.predict(Observation(x, ARMS[0], PRICES[0], prior)) == pytest.approx(prior, abs=1e-6)
    posterior = bind(learner, prior=prior)
    assert expected(posterior, x) == pytest.approx(prior, abs=1e-6)
    assert (posterior.score(x, None)[1] > 0.0).all()


@kinds
def test_the_export_says_what_the_learner_says(kind):
    """A posterior from the exported bytes equals the learner's own prediction."""
    learner = trained(kind)
    posterior = bind(learner)
    for each in examples(50, seed=2):
        own = [learner.predict(each._replace(arm=arm, action_x=price)) for arm, price in zip(ARMS, PRICES, strict=True)]
        assert expected(posterior, each.x) == pytest.approx(own, abs=1e-9)
        # Those of log odds average a distribution that is only nearly the learner's.
        close = 1e-9 if posterior.link == "identity" else 0.01
        assert rates(posterior, each.x) == pytest.approx(own, abs=close)
        assert rates(posterior, each.x, np.array([4, 1])) == pytest.approx(np.take(own, [4, 1]), abs=close)


@kinds
@given(data=st.data())
@settings(max_examples=20)
def test_propensities_are_chances_whatever_was_scored(kind, data):
    """Within 0 and 1 and in the order of the means, also of scores no customer has; for some as for all."""
    posterior = bind(trained(kind))
    vectors = st.lists(st.floats(-50.0, 50.0), min_size=len(ARMS), max_size=len(ARMS)).map(np.array)
    mean = data.draw(vectors)
    deviation = np.full(len(ARMS), data.draw(st.floats(0.0, 20.0)))
    found = posterior.propensities(mean, deviation, None)
    assert ((found >= 0.0) & (found <= 1.0)).all()
    order = np.argsort(mean)
    assert (np.diff(found[order]) >= 0.0).all()
    rows = np.array([4, 1])
    np.testing.assert_array_equal(posterior.propensities(mean[rows], deviation[rows], rows), found[rows])


@kinds
def test_candidates_do_not_depend_on_each_other(kind):
    """Asked for some, or bound in another order, each candidate scores the same."""
    learner = trained(kind)
    posterior, backwards = bind(learner), bind(learner, ARMS[::-1], PRICES[::-1])
    for each in examples(10, seed=3):
        mean, deviation = posterior.score(each.x, None)
        some = posterior.score(each.x, np.array([4, 1]))
        other = backwards.score(each.x, None)
        assert some[0] == pytest.approx(mean[[4, 1]], abs=1e-9)
        assert some[1] == pytest.approx(deviation[[4, 1]], rel=1e-5)
        assert other[0][::-1] == pytest.approx(mean, abs=1e-9)
        assert other[1][::-1] == pytest.approx(deviation, rel=1e-5)


@kinds
def test_nothing_to_score_is_fine(kind):
    """A configuration may have no candidate for a model."""
    posterior = bind(trained(kind), [], np.zeros((0, len(ACTION_SLOTS))))
    mean, deviation = posterior.score(a_customer(np.random.default_rng(0)), None)
    assert mean.shape == deviation.shape == (0,)


# --- Learning ---


@kinds
def test_it_is_calibrated(kind):
    """Of a known process, after 1,200 examples of six arms: the average is right to .05, of each third to .1."""
    learner = trained(kind)
    fresh = list(examples(600, seed=4))
    found = np.array([learner.predict(each) for each in fresh])
    true = np.array([truth(each.x, each.arm) for each in fresh])
    assert found.mean() == pytest.approx(true.mean(), abs=0.05)
    for third in np.array_split(np.argsort(found), 3):
        assert found[third].mean() == pytest.approx(true[third].mean(), abs=0.1)
    assert np.abs(found - true).mean() < 0.8 * np.abs(true.mean() - true).mean()


@kinds
def test_a_new_arm_starts_from_its_relatives(kind):
    """Of an arm nobody has seen more is expected in the group that did better."""
    learner = trained(kind)
    people = [each.x for each in examples(100, seed=5)]
    found = {
        group: np.mean([learner.predict(Observation(x, arm, PRICES[0], 0.2)) for x in people])
        for group, arm in NEW.items()
    }
    assert found["group0"] > found["group1"] + 0.05


@kinds
def test_doubt_shrinks_with_evidence(kind):
    """An arm seen two hundred times is surer than before, and than one nobody has seen."""
    arms, prices = [ARMS[0], NEW["group0"]], PRICES[[0, 0]]
    x = a_customer(np.random.default_rng(6))
    before = bind(make(kind), arms, prices).score(x, None)[1]
    after = bind(trained(kind), arms, prices).score(x, None)[1]
    assert 0.0 < after[0] < before[0]
    assert after[0] < after[1]


@kinds
def test_fractions_are_rewards(kind):
    """A reward of .3, time and again, is expected then."""
    learner, rng = make(kind), np.random.default_rng(8)
    for at_ms in range(400):
        learner.learn(Observation(a_customer(rng), ARMS[0], PRICES[0], 0.2, 0.3, at_ms))
    found = [learner.predict(Observation(a_customer(rng), ARMS[0], PRICES[0], 0.2)) for _ in range(50)]
    assert np.mean(found) == pytest.approx(0.3, abs=0.03)


@kinds
def test_missing_and_absurd_values_do_no_harm(kind):
    """All missing, none known, a million millions: still a chance, and still the right order of arms afterwards."""
    learner, rng = trained(kind), np.random.default_rng(9)
    missing = np.array([1.0 if slot.endswith("?") else 0.0 for slot in SLOTS])
    absurd = np.where([slot in {"age", "spend"} for slot in SLOTS], 1e12, 0.0)
    for number, x in enumerate((missing, np.zeros(len(SLOTS)), absurd, -absurd)):
        seen = Observation(x, ARMS[0], PRICES[0], 0.2, 1.0, EXAMPLES + number)
        assert 0.0 <= learner.predict(seen) <= 1.0
        assert np.isfinite(bind(learner).score(x, None)).all()
        learner.learn(seen)
        assert 0.0 <= learner.predict(seen) <= 1.0
    posterior = bind(learner)
    found = np.mean([rates(posterior, a_customer(rng)) for _ in range(50)], axis=0)
    assert found[4] > found[1]


@kinds
def test_it_repeats_under_a_seed(kind):
    """Equal arguments and observations give equal states, to the byte."""
    one, other = make(kind), make(kind)
    for each in examples(150, seed=10):
        one.learn(each)
        other.learn(each)
    assert one.dump() == other.dump()
    assert one.export() == other.export()


@kinds
def test_a_reward_is_replaced_or_not_at_all(kind):
    """Correcting late rewards leaves less than a tenth of what is wrong without; who cannot says so."""
    learner, right, wrong = make(kind), make(kind), make(kind)
    seen = list(examples(400, seed=11))
    if not learner.corrigible:
        with pytest.raises(NotImplementedError, match="closed"):
            learner.correct(seen[0], 0.0)
        return
    for at, each in enumerate(seen):
        provisional = each._replace(reward=0.0) if 150 <= at < 300 else each
        learner.learn(provisional)
        wrong.learn(provisional)
        right.learn(each)
        if at == 320:
            for late in seen[150:300]:
                learner.correct(late, 0.0)
    asked = list(examples(60, seed=12))
    found, left, wanted = (np.array([of.predict(each) for each in asked]) for of in (learner, wrong, right))
    assert np.abs(found - wanted).mean() < 0.1 * np.abs(left - wanted).mean()


# --- State ---


@kinds
def test_it_goes_on_where_it_was_dumped(kind):
    """Loaded, it predicts and goes on learning as if it had never stopped."""
    learner, loaded = trained(kind), make(kind, seed=99)
    loaded.load(learner.dump())
    for each in examples(60, seed=13):
        assert loaded.predict(each) == pytest.approx(learner.predict(each), abs=1e-12)
        learner.learn(each)
        loaded.learn(each)


@kinds
def test_slots_are_matched_by_name(kind):
    """In another order, with some gone and others there, it predicts on and learns on."""
    order = np.random.default_rng(14).permutation(len(SLOTS))
    learner, shuffled = trained(kind), trained(kind, tuple(SLOTS[n] for n in order))
    posterior = bind(shuffled, slots=shuffled_slots(order))
    kept = [n for n, slot in enumerate(SLOTS) if not slot.startswith("spend")]
    fewer = trained(kind, tuple(SLOTS[n] for n in kept))
    more = trained(kind, ("points", *SLOTS))
    for each in examples(30, seed=15):
        own = learner.predict(each)
        assert shuffled.predict(each._replace(x=each.x[order])) == pytest.approx(own, abs=REORDERED.get(kind, 1e-6))
        found = expected(posterior, each.x[order])[ARMS.index(each.arm)]
        assert found == pytest.approx(own, abs=REORDERED.get(kind, 1e-6))
        for other, x in ((fewer, each.x[kept]), (more, np.append(0.0, each.x))):
            assert other.predict(each._replace(x=x)) == pytest.approx(own, abs=0.3)
            other.learn(each._replace(x=x))
            assert 0.0 <= other.predict(each._replace(x=x)) <= 1.0


def shuffled_slots(order):
    """`SLOTS` in another order."""
    return tuple(SLOTS[n] for n in order)


@kinds
def test_candidates_may_be_bound_over_other_slots(kind):
    """A worker whose configuration has a slot more, or lacks one, binds what it gets."""
    learner = trained(kind)
    for slots in (("points", *SLOTS), SLOTS[:-1], SLOTS[::-1]):
        mean, deviation = bind(learner, slots=slots).score(np.zeros(len(slots)), None)
        assert np.isfinite(mean).all()
        assert (deviation > 0.0).all()


@kinds
@pytest.mark.parametrize("data", [b"", b"\x00", b"\xc1" * 40, b"\x80\x05.", "half"], ids=repr)
def test_what_is_broken_is_refused(kind, data):
    """Bytes that are no state, or half of one, are a ValueError, and change nothing."""
    learner = trained(kind)
    before, exported = learner.dump(), learner.export()
    with pytest.raises(ValueError, match=r"."):
        learner.load(before[: len(before) // 2] if data == "half" else data)
    assert learner.dump() == before
    broken = exported[: len(exported) // 2] if data == "half" else data
    with pytest.raises(ValueError, match=r"."):
        type(learner).posterior(broken, SLOTS, ARMS, PRICES, np.full(len(ARMS), 0.2))


@kinds
def test_it_is_pickled_only_if_it_says_so(kind):
    """What is not said to be pickled is msgpack without a pickle in it."""
    learner = trained(kind)
    for data in (learner.dump(), learner.export()):
        if learner.pickled:
            assert pickle.loads(data)
        else:
            found = list(_bytes(msgspec.msgpack.decode(data)))
            assert not any(each[:1] == b"\x80" and each[-1:] == b"." for each in found)


def _bytes(value):
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, (list, dict)):
        for each in value if isinstance(value, list) else (*value, *value.values()):
            yield from _bytes(each)


@kinds
def test_memory_is_bounded_by_slots_and_arms(kind):
    """Ever other values do not make it grow, and twice the arms no more than twice."""
    limits = {"naive-bayes": {"window": 100, "warm_up": 100}, "adaptive-tree": {"max_depth": 1}}
    learner, rng = (
        make(kind, **limits.get(kind, limits["adaptive-tree"] if kind == "bagged-trees" else {})),
        np.random.default_rng(16),
    )
    sizes = []
    for at_ms in range(900):
        x = a_customer(rng)
        x[6] = rng.lognormal(0.0, 8.0)
        learner.learn(Observation(x, ARMS[at_ms % 6], PRICES[at_ms % 6], 0.2, float(rng.random() < 0.3), at_ms))
        if at_ms % 300 == 299:
            sizes.append(len(learner.dump()))
    assert sizes[2] < 1.1 * sizes[1]
    for n in range(60):
        learner.learn(Observation(a_customer(rng), Arm("group0", f"more{n}", "email"), PRICES[0], 0.2, 0.0, 1000 + n))
    # A tree keeps a count per arm in each of its leaves; others keep posteriors of arms and little else.
    assert len(learner.dump()) - sizes[2] < 60 * max(sizes[2] / len(ARMS), 400)


# --- Configuration ---


@kinds
def test_parameters_are_the_configuration(kind):
    """Defaults given by name make the same learner, and an unknown name is told what there is."""
    defaults = {name: each.default for name, each in parameters_of(kind).items()}
    assert defaults
    one, other = new(kind, SLOTS, ACTION_SLOTS, 3, defaults), new(kind, SLOTS, ACTION_SLOTS, 3, {})
    for each in examples(5):
        one.learn(each)
        other.learn(each)
    assert one.dump() == other.dump()
    with pytest.raises(ValueError, match=f"{kind} has no parameter flair; it has .*{next(iter(defaults))}"):
        new(kind, SLOTS, ACTION_SLOTS, 3, {"flair": 1})


def test_an_unknown_kind_is_told_what_there_is():
    """The error names what was asked for and what exists."""
    with pytest.raises(ValueError, match=r"'oracle' is none of .*logistic"):
        new("oracle", SLOTS, ACTION_SLOTS, 0, {})


def test_all_kinds_are_there():
    """Under the names configurations use."""
    assert set(LEARNERS) == {"bayesian-linear", "logistic", "bagging", "naive-bayes", "adaptive-tree", "bagged-trees"}
    assert all(learner.kind == kind for kind, learner in LEARNERS.items())
