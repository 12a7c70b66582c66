"""The Bayesian linear learner: what its posteriors promise, against batch solutions, River and known processes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.linear_model import BayesianLinearRegression

from models import bayesian
from models.bayesian import BayesianLinear
from models.collapsed import limits
from models.learner import Arm, Observation
from models.scaling import Scaling
from models.tree import lineage

SLOTS = ("a", "b", "c")
NOTHING = np.zeros(0)
PRIOR = 0.3
PLAIN = {"half_lives": (), "expansion": 0, "relevance": False}
"""One expert that forgets nothing, sees straight lines and leaves precisions as they were stated."""
FIRM = {"starting_evidence": 1e15}
"""The stated prior stands, whatever comes."""
seeds = st.integers(0, 2**16)


def _arm(action: str = "x", group: str = "g", treatment: str = "t") -> Arm:
    return Arm(group, action, treatment)


def _stream(n: int, arms: int = 1, seed: int = 0, slots: int = len(SLOTS)) -> list[Observation]:
    """Rewards that depend on the first feature and the arm."""
    rng = np.random.default_rng(seed)
    found = []
    for at in range(n):
        x, arm = rng.normal(size=slots), int(rng.integers(arms))
        rate = 0.3 + 0.15 * np.tanh(x[0]) + 0.2 * arm / arms
        found.append(Observation(x, _arm(f"x{arm}"), NOTHING, PRIOR, float(rng.random() < rate), at))
    return found


def _learner(observations=(), slots=SLOTS, *, settled=False, **parameters) -> BayesianLinear:
    """`settled`: features are on their scale already, and it does not move."""
    learner = BayesianLinear(slots, (), **parameters)
    if settled:
        _settle(learner._scaling)
    for each in observations:
        learner.learn(each)
    return learner


def _settle(scaling: Scaling) -> None:
    scaling.seen[:] = scaling.squares[:] = 1e18
    scaling.flags[:] = 0.0


def _bound(learner: BayesianLinear, arms, priors=None, slots=SLOTS):
    priors = np.full(len(arms), PRIOR) if priors is None else np.array(priors)
    return BayesianLinear.posterior(learner.export(), slots, arms, np.zeros((len(arms), 0)), priors)


def _mean(learner: BayesianLinear, x, arm) -> float:
    """What it believes before what is incredible is cut off."""
    return float(_bound(learner, [arm]).score(np.array(x), None)[0][0])


def _weights(learner: BayesianLinear) -> np.ndarray:
    return learner._shares()


# --- Against what is known ---


@pytest.mark.parametrize("precision", [0.5, 1.0, 7.0])
def test_one_arm_equals_rivers_bayesian_regression(precision):
    """To 1e-9 after each of 200 observations; River is given a slot of ones and rewards less the prior."""
    learner = _learner(settled=True, precision=precision, intercept_precision=precision, **PLAIN, **FIRM)
    river = BayesianLinearRegression(alpha=precision, beta=1)
    for seen in _stream(200):
        x = {"1": 1.0, **dict(zip(SLOTS, seen.x.tolist(), strict=True))}
        assert _mean(learner, seen.x, seen.arm) - PRIOR == pytest.approx(river.predict_one(x), abs=1e-9)
        learner.learn(seen)
        river.learn_one(x, seen.reward - PRIOR)


@given(seeds, st.integers(1, 120), st.floats(0.1, 20.0), st.floats(0.1, 20.0))
@settings(max_examples=20, deadline=None)
def test_the_mean_is_the_batch_ridge_solution(seed, n, precision, intercept_precision):
    """Of the features the learner saw, whatever scale they had, around the offset as it is in the end."""
    held = {"precision": precision, "intercept_precision": intercept_precision, "starting_evidence": 5.0}
    learner = BayesianLinear(SLOTS, (), **held, **PLAIN)
    stream, x = _stream(n, seed=seed), []
    for seen in stream:
        learner.learn(seen)
        x.append(learner._features(seen.x)[0])
    y = np.array([each.reward for each in stream])
    ratio = (5.0 + y.sum()) / (5.0 + PRIOR * n)
    offset = min(PRIOR * ratio, 1.0)
    prior = np.diag([intercept_precision, *[precision] * 3])
    weights = np.linalg.solve(np.transpose(x) @ x + prior, np.transpose(x) @ (y - offset))
    probe = np.array([0.5, -1.0, 2.0])
    said = offset + learner._features(probe)[0] @ weights
    assert _mean(learner, probe, stream[0].arm) == pytest.approx(said, abs=1e-8)
    low, high = limits(np.array(offset))
    assert learner.predict(stream[0]._replace(x=probe)) == pytest.approx(min(max(said, low), high), abs=1e-8)


def test_the_deviation_is_that_of_batch_ridge():
    """Exploration times the root of noise times x'(X'X + Λ)⁻¹x; the noise is about that of the rewards."""
    stream = _stream(400)
    learner = _learner(stream, settled=True, exploration=0.5, **PLAIN, **FIRM)
    x = np.column_stack([np.ones(len(stream)), [each.x for each in stream]])
    cov = np.linalg.inv(x.T @ x + np.diag([4.0, 4.0, 4.0, 4.0]))
    probe = np.array([1.0, 0.3, -2.0, 1.0])
    noise = learner._stacks[0].noise
    _, deviation = _bound(learner, [stream[0].arm]).score(probe[1:], None)
    assert deviation[0] == pytest.approx(0.5 * np.sqrt(noise * probe @ cov @ probe), rel=1e-4)
    y = np.array([each.reward for each in stream])
    assert noise == pytest.approx(np.var(y - PRIOR - x @ cov @ x.T @ (y - PRIOR)), rel=0.15)


def test_deviations_are_honest():
    """With exploration 1 the truth lies within two deviations, mostly, and they are not wide for nothing."""
    rng, hits, deviations = np.random.default_rng(1), [], []
    for _ in range(30):
        truth = np.array([0.5, *rng.normal(0, 0.1, 3)])
        learner = _learner(settled=True, exploration=1.0, **PLAIN)
        for n in range(150):
            x = rng.normal(size=3)
            reward = float(truth @ [1, *x] + rng.normal(0, 0.1))
            learner.learn(Observation(x, _arm(), NOTHING, 0.5, reward, n))
        probe = rng.normal(size=3)
        mean, deviation = _bound(learner, [_arm()], [0.5]).score(probe, None)
        hits.append(abs(mean[0] - truth @ [1, *probe]) < 2 * deviation[0])
        deviations.append(deviation[0])
    assert np.mean(hits) > 0.85
    assert np.mean(deviations) < 0.05


def test_it_is_calibrated_on_a_logistic_process():
    """In each fifth of the predictions, from low to high, they are on average what the chances were."""
    rng, truth = np.random.default_rng(2), np.array([-1.0, 0.8, -0.5, 0.0])
    learner = BayesianLinear(SLOTS, ())
    said, chances = [], []
    for n in range(2500):
        x = rng.normal(size=3)
        chance = 1 / (1 + np.exp(-truth @ [1, *x]))
        seen = Observation(x, _arm(f"x{n % 2}"), NOTHING, 0.1, float(rng.random() < chance), n)
        if n >= 500:
            said.append(learner.predict(seen))
            chances.append(chance)
        learner.learn(seen)
    for band in np.array_split(np.argsort(said), 5):
        assert np.mean(np.array(said)[band]) == pytest.approx(np.mean(np.array(chances)[band]), abs=0.05)


# --- Before and beyond what was learned ---


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 0.99), st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_untrained_the_prior_stands(prior, values):
    """Exactly, whatever the features; and the deviation is above 0."""
    learner, x = BayesianLinear(SLOTS, ()), np.array(values)
    assert learner.predict(Observation(x, _arm(), NOTHING, prior)) == prior
    mean, deviation = _bound(learner, [_arm()], [prior]).score(x, None)
    assert mean[0] == prior
    assert deviation[0] > 0


def test_a_new_arm_starts_from_its_closest_relative():
    """A treatment from its action, an action from its group, a group from all; each less sure than what is known."""
    rng, learner = np.random.default_rng(3), BayesianLinear(SLOTS, ())
    rate = {"x": 0.9, "y": 0.5, "z": 0.1}
    for n in range(900):
        action = "xyz"[n % 3]
        arm = _arm(action, group="other" if action == "z" else "g")
        learner.learn(Observation(rng.normal(size=3), arm, NOTHING, PRIOR, float(rng.random() < rate[action]), n))
    arms = [_arm("x", treatment="new"), _arm("new"), _arm("new", group="other"), _arm("new", group="new")]
    mean, deviation = _bound(learner, [*arms, _arm("x")]).score(np.zeros(3), None)
    # Strangers are believed to be like their relatives by three to nine parts in ten.
    assert mean[:4] == pytest.approx([0.79, 0.66, 0.2, 0.48], abs=0.06)
    assert (deviation[:4] > 3 * deviation[4]).all()
    unseen = [Observation(np.zeros(3), arm, NOTHING, PRIOR, own, 900) for arm, own in zip(arms, mean, strict=False)]
    for seen in unseen:
        assert learner.predict(seen) == pytest.approx(seen.reward, abs=1e-9)
    for seen in unseen:
        own, offset = learner.predict(seen), learner._offset(PRIOR)
        learner.learn(seen._replace(reward=own))
        # A reward that is no surprise; what it moves is the offset, of which the prior, four fifths by now, follows.
        moved = 0.8 * (learner._offset(PRIOR) - offset)
        assert learner.predict(seen) == pytest.approx(own + moved, abs=0.005)


def test_what_an_action_is_like_carries_over():
    """Rewards that depend on the action's own features: a new action is rated by its features."""
    rng, learner = np.random.default_rng(4), BayesianLinear(SLOTS, ("discount",))
    for n in range(1000):
        discount = float(n % 10) / 10
        reward = float(rng.random() < 0.1 + 0.8 * discount)
        learner.learn(Observation(rng.normal(size=3), _arm(f"x{n % 10}"), np.array([discount]), PRIOR, reward, n))
    arms, discounts = [_arm("low"), _arm("high")], np.array([[0.05], [0.85]])
    posterior = BayesianLinear.posterior(learner.export(), SLOTS, arms, discounts, np.full(2, PRIOR))
    low, high = posterior.score(np.zeros(3), None)[0]
    assert low == pytest.approx(0.14, abs=0.12)
    assert high == pytest.approx(0.78, abs=0.12)


def test_priors_that_promise_too_much_are_put_right_together():
    """All arms said .5 and bring .1: what an arm nobody knows is expected to bring is about .1 as well."""
    rng, learner = np.random.default_rng(5), BayesianLinear(SLOTS, ())
    for n in range(600):
        arm = _arm(f"x{n % 4}")
        learner.learn(Observation(rng.normal(size=3), arm, NOTHING, 0.5, float(rng.random() < 0.1), n))
    assert learner.predict(Observation(np.zeros(3), _arm("new"), NOTHING, 0.5)) == pytest.approx(0.1, abs=0.04)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0.01, 0.99), st.sampled_from([0.0, 0.4, 1.0])), max_size=40),
    st.floats(0.1, 10.0),
    st.integers(0, 40),
)
def test_the_offset_follows_what_arms_bring_on_average(told, evidence, late):
    """The mean over arms of (evidence + rewards) / (evidence + priors), also of rewards that came later; 1 at first."""
    learner = BayesianLinear(SLOTS, (), starting_evidence=evidence, **PLAIN)
    seen = [Observation(np.zeros(3), _arm(f"x{arm}"), NOTHING, prior, reward, 0) for arm, prior, reward in told]
    for each in seen[:late]:
        learner.learn(each._replace(reward=0.5))
    for each in seen[:late]:
        learner.correct(each, 0.5)
    for each in seen[late:]:
        learner.learn(each)
    arms = {each.arm: [other for other in seen if other.arm == each.arm] for each in seen}
    ratios = [
        (evidence + sum(each.reward for each in its)) / (evidence + sum(each.prior for each in its))
        for its in arms.values()
    ]
    wanted = np.mean(ratios) if ratios else 1.0
    assert msgspec.msgpack.decode(learner.export())["ratio"] == pytest.approx(wanted, rel=1e-9)


def test_an_arm_that_is_always_right_does_not_speak_for_all():
    """However often it is chosen: the four that bring .1 count as much as the one that brings 1."""
    rng, learner = np.random.default_rng(11), BayesianLinear(SLOTS, ())
    for n in range(1000):
        arm = n % 4 if n < 200 else 4
        reward = float(arm == 4 or rng.random() < 0.1)
        learner.learn(Observation(rng.normal(size=3), _arm(f"x{arm}"), NOTHING, PRIOR, reward, n))
    assert learner._offset(PRIOR) == pytest.approx((1.0 + 4 * 0.1) / 5, abs=0.05)


def test_a_changed_prior_washes_out():
    """An operator halves or triples it: everything at first, less after six rewards, next to nothing after hundreds.

    Of a stranger a part stays: it is only partly believed to be like its relatives.
    """

    def moved(learner, arm) -> float:
        said = [learner.predict(Observation(np.zeros(3), arm, NOTHING, prior)) for prior in (0.15, 0.3, 0.9)]
        return max(said) - min(said)

    stream = _stream(600)
    none, few, many = (_learner(stream[:n]) for n in (0, 6, 600))
    assert moved(none, stream[0].arm) == pytest.approx(0.75)
    assert 0.02 < moved(few, stream[0].arm) < 0.5
    assert moved(many, stream[0].arm) < 0.01
    assert moved(many, _arm("new")) < 0.2


# --- Serving ---


@pytest.mark.parametrize("parameters", [{}, {"expansion": 0}, PLAIN, {"half_lives": (10, 100)}])
def test_bound_candidates_say_what_the_learner_predicts(parameters):
    """To 1e-9, known arms and others; scoring changes nothing."""
    stream = _stream(300, arms=3)
    learner = _learner(stream, **parameters)
    arms = [*(_arm(f"x{n}") for n in range(4)), _arm("x0", treatment="new"), _arm("x0", group="new")]
    posterior = _bound(learner, arms)
    before = learner.dump(), learner.export()
    for each in stream[:20]:
        x = 3 * each.x
        found = posterior.propensities(*posterior.score(x, None), None)
        predicted = [learner.predict(each._replace(x=x, arm=arm)) for arm in arms]
        assert found == pytest.approx(predicted, abs=1e-9)
        assert ((found > 0) & (found < 1)).all()
    assert (learner.dump(), learner.export()) == before


@given(st.lists(st.integers(0, 4), max_size=8), seeds)
@settings(max_examples=30, deadline=None)
def test_rows_are_rows_of_the_whole(rows, seed):
    """To the bit, in any order and any number of times."""
    posterior = _bound(_learner(_stream(60, arms=4)), [_arm(f"x{n}") for n in range(5)])
    x, asked = np.random.default_rng(seed).normal(size=3), np.array(rows, dtype=np.intp)
    whole, part = posterior.score(x, None), posterior.score(x, asked)
    for own, other in zip(part, whole, strict=True):
        np.testing.assert_array_equal(own, other[asked])
    np.testing.assert_array_equal(posterior.propensities(*part, asked), posterior.propensities(*whole, None)[asked])


def test_no_line_is_believed_beyond_reason():
    """A chance is not below a tenth of the usual one, nor is that of the opposite."""
    learner = _learner([each._replace(reward=float(each.x[0] > 0)) for each in _stream(300)], **FIRM)
    seen = _stream(1)[0]
    far = [learner.predict(seen._replace(x=np.array([each, 0.0, 0.0]))) for each in (-9.0, 9.0)]
    assert far == pytest.approx([0.03, 0.93])


def test_ucb_adds_the_deviation_to_the_mean():
    """LinUCB on the same posterior: the bound as the mean, nothing left to draw."""
    stream, arms = _stream(300, arms=2), [_arm("x0"), _arm("x1")]
    mean, deviation = _bound(_learner(stream, exploration=0.7), arms).score(stream[0].x, None)
    bound, nothing = _bound(_learner(stream, exploration=0.7, rule="ucb"), arms).score(stream[0].x, None)
    np.testing.assert_allclose(bound, mean + deviation)
    assert not nothing.any()


def test_an_arm_that_is_always_right_leaves_doubt_about_the_others():
    """Of the others, each seen five times, and of a stranger, there is at least half the doubt there is beside .8."""

    def doubt(rate: float) -> np.ndarray:
        rng, learner = np.random.default_rng(1), BayesianLinear(SLOTS, ())
        for n in range(1000):
            other = n < 25
            reward = float(n % 2 if other else rng.random() < rate)
            arm = _arm(f"x{n % 5}" if other else "sure")
            learner.learn(Observation(rng.normal(size=3), arm, NOTHING, PRIOR, reward, n))
        assert (learner._stacks[0].noise < 0.1 * bayesian.LEAST_NOISE) == (rate == 1.0)
        return _bound(learner, [_arm(f"x{n}") for n in range(6)]).score(np.zeros(3), None)[1]

    assert (doubt(1.0) > 0.5 * doubt(0.8)).all()


def test_exploration_scales_the_deviation():
    """And nothing else."""
    stream, arms = _stream(100, arms=2), [_arm("x0"), _arm("new")]
    mean, deviation = _bound(_learner(stream), arms).score(stream[0].x, None)
    other, twice = _bound(_learner(stream, exploration=0.5), arms).score(stream[0].x, None)
    np.testing.assert_array_equal(other, mean)
    np.testing.assert_allclose(twice, 2 * deviation, rtol=1e-5)


def test_bound_slots_are_matched_by_name():
    """Reordered: the same; an unknown one is ignored, a missing one counts as average."""
    learner, arms = _learner(_stream(300, arms=2)), [_arm("x0"), _arm("x1")]
    x = np.array([0.5, -1.0, 2.0])
    mean, deviation = _bound(learner, arms).score(x, None)
    shuffled = _bound(learner, arms, slots=("new", "c", "a", "b"))
    other, other_deviation = shuffled.score(np.array([9.0, 2.0, 0.5, -1.0]), None)
    np.testing.assert_allclose(other, mean)
    np.testing.assert_allclose(other_deviation, deviation, rtol=1e-5)
    fewer, _ = _bound(learner, arms, slots=("a", "b")).score(x[:2], None)
    average, _ = _bound(learner, arms).score(np.array([0.5, -1.0, learner._scaling.mean[2]]), None)
    np.testing.assert_allclose(fewer, average, atol=1e-9)


def test_what_is_exported_is_arrays():
    """Names, numbers and raw floats: the right number of them, each finite."""
    told = msgspec.msgpack.decode(_learner(_stream(300, arms=3)).export())
    assert {type(each) for each in told.values()} <= {int, float, str, bytes, list}
    assert all(isinstance(name, str) for key in ("arms", "relatives") for arm in told[key] for name in arm)
    assert len(told["covariances"]) == 3 * 10 * 4
    for key, each in told.items():
        if isinstance(each, bytes):
            assert np.isfinite(np.frombuffer(each, np.float32 if key == "covariances" else np.float64)).all()


def test_what_was_not_exported_is_refused():
    """Bytes that are none of ours, and other formats."""
    told = msgspec.msgpack.decode(_learner(_stream(5)).export()) | {"format": 99}
    for data in (b"", b"\x80", msgspec.msgpack.encode(told)):
        with pytest.raises(ValueError, match="Bayesian linear model"):
            BayesianLinear.posterior(data, SLOTS, [_arm()], np.zeros((1, 0)), np.array([0.5]))


# --- Rewards that change ---


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 60), st.booleans())
def test_a_reward_corrected_at_once_is_as_one_learned(seed, n, expansion):
    """Every expert, forgetting or not: means to 1e-9; how unsure and which expert, nearly."""
    *stream, last = _stream(n, arms=2, seed=seed)
    parameters = {"expansion": 64 if expansion else 0, "relevance": False}
    at_once = _learner([*stream, last], **parameters)
    later = _learner([*stream, last._replace(reward=1.0 - last.reward)], **parameters)
    later.correct(last, 1.0 - last.reward)
    row = later._tree.rows[last.arm]
    for own, other in zip(later._stacks, at_once._stacks, strict=True):
        x = later._features(last.x)[0 if len(own.precision) == 4 else -1]
        assert own.look(row, x, PRIOR) == pytest.approx(other.look(row, x, PRIOR), abs=1e-9)
        assert own.noise == pytest.approx(other.noise, rel=0.2)
    assert later._ratio() == pytest.approx(at_once._ratio(), abs=1e-12)
    assert later.predict(last) == pytest.approx(at_once.predict(last), abs=0.02)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(12, 80))
def test_a_reward_corrected_later_is_as_one_learned_at_once(seed, n):
    """In any order, after other observations of the arm, to 1e-6: weights of who does not forget, and relatives."""
    # Where an arm starts is what its relatives seemed to be like then: the first of each arm is right from the start.
    truth = [each._replace(arm=_arm(f"x{place % 2}")) for place, each in enumerate(_stream(n, seed=seed))]
    at_once = _learner(truth, settled=True, **PLAIN)
    exposed = [each._replace(reward=each.reward * (place < 2)) for place, each in enumerate(truth)]
    later = _learner(exposed, settled=True, **PLAIN)
    for place in 2 + np.random.default_rng(seed).permutation(n - 2):
        later.correct(truth[place], 0.0)
    arms = [_arm("x0"), _arm("x1"), _arm("new"), _arm("new", group="new")]
    own, other = (_bound(each, arms).score(truth[0].x, None) for each in (later, at_once))
    np.testing.assert_allclose(own[0], other[0], atol=1e-6)
    np.testing.assert_allclose(own[1], other[1], rtol=0.3)


def test_delayed_rewards_lead_to_the_same_beliefs():
    """Half of what was expected until they are known, 50 observations later: about the same beliefs."""
    truth = _stream(800, arms=2, seed=5)
    at_once, later = _learner(truth), BayesianLinear(SLOTS, ())
    credited = []
    for n, each in enumerate(truth):
        credited.append(0.5 * later.predict(each))
        later.learn(each._replace(reward=credited[-1], provisional=True))
        if n >= 50:
            later.correct(truth[n - 50], credited[n - 50])
    for each, credit in zip(truth[-50:], credited[-50:], strict=True):
        later.correct(each, credit)
    off = np.array([later.predict(each) - at_once.predict(each) for each in _stream(100, arms=2, seed=6)])
    assert abs(off.mean()) < 0.05
    assert np.abs(off).max() < 0.2


@settings(max_examples=20)
@given(seeds, st.integers(1, 60), st.floats(0.0, 0.5))
def test_a_provisional_reward_taken_back_was_never_credited(seed, n, credit):
    """Replaced by nothing in any order: means as if nothing had been learned from the start, to 1e-9."""
    stream = _stream(n, seed=seed)
    credited = _learner([each._replace(reward=credit, provisional=True) for each in stream], settled=True, **PLAIN)
    for place in np.random.default_rng(seed).permutation(n):
        credited.correct(stream[place]._replace(reward=0.0), credit)
    never = _learner([each._replace(reward=0.0) for each in stream], settled=True, **PLAIN)
    for arm in (stream[0].arm, _arm("new"), _arm("new", group="new")):
        assert _mean(credited, stream[0].x, arm) == pytest.approx(_mean(never, stream[0].x, arm), abs=1e-9)
    assert credited._ratio() == pytest.approx(never._ratio(), abs=1e-12)


def test_waves_have_no_say_while_most_rewards_are_provisional():
    """They bend to what was credited where decisions were made last; once half is settled they count as ever."""
    truth, learner = _stream(100), BayesianLinear(SLOTS, ())
    for each in truth:
        learner.learn(each._replace(reward=0.15, provisional=True))
    learner._log_weights[:] = [-9.0, -99.0, 0.0]
    assert _weights(learner) == pytest.approx([1.0, 0.0, 0.0])
    for each in truth[:50]:
        learner.correct(each._replace(provisional=True), 0.15)
    learner._log_weights[:] = [-9.0, -99.0, 0.0]
    assert _weights(learner) == pytest.approx([0.0, 0.0, 1.0])


def test_who_forgets_before_answers_come_has_no_say():
    """However well it predicted what was only provisional, and however far behind the others are.

    Answers come 30 decisions later, which is more than half of its half-life of 34: it forgets too fast.
    """
    truth, learner = _stream(300), BayesianLinear(SLOTS, ())
    for n, each in enumerate(truth):
        learner.learn(each._replace(reward=0.15, provisional=True))
        if n >= 30:
            learner.correct(truth[n - 30]._replace(provisional=True), 0.15)
    learner._log_weights[:] = -2000.0
    learner._log_weights[1] = 0.0
    assert _weights(learner) == pytest.approx([0.5, 0.0, 0.5])
    assert 0 < learner.predict(truth[0]) < 1
    at_once = _learner(truth)
    at_once._log_weights[:] = learner._log_weights
    assert _weights(at_once) == pytest.approx([0.0, 1.0, 0.0])


def test_a_correction_of_an_unknown_arm_is_ignored():
    """Nothing was learned that could be replaced."""
    learner = BayesianLinear(SLOTS, ())
    before = learner.dump()
    learner.correct(_stream(1)[0], 0.0)
    assert learner.dump() == before


# --- What matters ---

MANY = tuple(f"s{n}" for n in range(20))
STRAIGHT = {"half_lives": (), "expansion": 0}


def _sparse(n: int, weights, seed: int):
    """Four arms, of twenty slots only the first matter, for every other arm the other way round; and true rates."""
    rng = np.random.default_rng(seed)
    for at in range(n):
        x, arm = rng.normal(size=len(MANY)), int(rng.integers(4))
        sign = 1.0 if arm % 2 else -1.0
        rate = float(np.clip(0.5 + sign * (x[: len(weights)] @ weights), 0.02, 0.98))
        yield Observation(x, _arm(f"x{arm}"), NOTHING, PRIOR, float(rng.random() < rate), at), rate


@pytest.mark.parametrize("seed", range(3))
def test_slots_that_do_not_matter_are_held_and_those_that_do_are_not(seed):
    """From a stated precision of 4: of nineteen that say nothing it grows, of the one that decides it does not."""
    learner = BayesianLinear(MANY, (), **STRAIGHT)
    for seen, _ in _sparse(600, np.array([0.4]), seed):
        learner.learn(seen)
    found = learner._stacks[0].precision
    assert found[0] == 4.0
    assert found[1] <= 4.0
    assert (found[2:] > 4.0 * 4.0).all()


def test_who_learns_what_matters_predicts_better():
    """Three of twenty slots matter: its error is less than nine tenths of that of who takes all slots alike."""
    errors = np.zeros(2)
    for seed in range(2):
        both = [BayesianLinear(MANY, (), **STRAIGHT, relevance=each) for each in (True, False)]
        for n, (seen, rate) in enumerate(_sparse(600, np.array([0.2, -0.15, 0.1]), seed)):
            errors += [(each.predict(seen) - rate) ** 2 * (n >= 300) for each in both]
            for each in both:
                each.learn(seen)
    assert errors[0] < 0.9 * errors[1]


def test_who_forgets_keeps_the_precision_that_was_stated():
    """What it knows is too little to tell what matters; nor do relatives, of which there may be few."""
    learner = _learner(_stream(200, arms=2))
    stable, forgetting, waves = learner._stacks
    assert (forgetting.precision == 4.0).all()
    assert (learner._relatives.precision == 4.0).all()
    assert (stable.precision[1:] != 4.0).all()
    # Waves as one: which of them are drawn means nothing.
    assert len(set(waves.precision[4:].tolist())) == 1
    assert waves.precision[4] != 4.0
    for each in (stable, waves):
        assert ((each.precision >= bayesian.LEAST_PRECISION) & (each.precision <= bayesian.MOST_PRECISION)).all()


@pytest.mark.parametrize("stops", [(49,), (50,), (51, 80, 119)])
def test_precisions_outlive_a_restart(stops):
    """Stopped and loaded before, at and after they are estimated, it goes on to the byte as if never stopped."""
    stream = _stream(160, arms=3)
    whole, stopped = BayesianLinear(SLOTS, ()), BayesianLinear(SLOTS, ())
    for n, each in enumerate(stream):
        if n in stops:
            heir = BayesianLinear(SLOTS, ())
            heir.load(stopped.dump())
            for own, other in zip(heir._stacks, stopped._stacks, strict=True):
                np.testing.assert_array_equal(own.precision, other.precision)
            stopped = heir
        for one in (whole, stopped):
            one.learn(each)
    assert (whole._stacks[0].precision[1:] != 4.0).all()
    assert stopped.dump() == whole.dump()
    assert stopped.export() == whole.export()


# --- Change ---


def _jumping(n: int, jumps: bool, seed: int = 7):
    """A process that turns round after two thirds, and the true rate of each observation."""
    rng = np.random.default_rng(seed)
    for at in range(n):
        x = rng.normal(size=3)
        rate = 0.5 + 0.4 * np.tanh(x[0]) * (-1 if jumps and at >= 2 * n // 3 else 1)
        yield Observation(x, _arm(), NOTHING, 0.5, float(rng.random() < rate), at), rate


def test_a_jump_is_followed():
    """Who forgets takes over, and the error is a fraction of that of who does not."""
    both = [BayesianLinear(SLOTS, (), expansion=0, half_lives=each) for each in ((34,), ())]
    before, errors = _weights(both[0]), np.zeros(2)
    for n, (seen, rate) in enumerate(_jumping(900, jumps=True)):
        if n == 600:
            before = _weights(both[0])
        errors += [(each.predict(seen) - rate) ** 2 * (n >= 700) for each in both]
        for each in both:
            each.learn(seen)
    assert before[0] > 0.7
    assert _weights(both[0])[1] > 0.9
    assert errors[0] < 0.4 * errors[1]


def test_standing_still_nothing_is_forgotten():
    """Who forgets nothing keeps the weight, and little is lost to having asked."""
    both = [BayesianLinear(SLOTS, (), expansion=0, half_lives=each) for each in ((34,), ())]
    errors, weights = np.zeros(2), []
    for n, (seen, rate) in enumerate(_jumping(900, jumps=False)):
        errors += [(each.predict(seen) - rate) ** 2 * (n >= 200) for each in both]
        for each in both:
            each.learn(seen)
        weights.append(_weights(both[0])[0])
    assert np.mean(weights[200:]) > 0.9
    assert errors[0] < 1.3 * errors[1]


@pytest.mark.parametrize("dead", [0, 20])
def test_features_that_never_vary_do_no_harm(dead):
    """Forgetting works beside slots that are always the same: no number runs away, and a jump is followed."""
    learner, errors = BayesianLinear([*SLOTS, *(f"dead{n}" for n in range(dead))], (), half_lives=(10,)), []
    for n, (seen, rate) in enumerate(_jumping(1500, jumps=True)):
        here = seen._replace(x=np.concatenate([seen.x, np.ones(dead)]))
        errors += [(learner.predict(here) - rate) ** 2] if n >= 1150 else []
        learner.learn(here)
    stack = learner._stacks[1]
    # Features that say nothing stay as the prior has them, however long nothing is heard of them.
    assert (np.diagonal(stack.cov[0]) <= 1.0 / stack.precision + 1e-9).all()
    assert np.abs(stack.cov[0]).max() <= 1.0
    assert np.mean(errors) < 0.05


@given(seeds, st.floats(1.0, 50.0))
@settings(max_examples=15, deadline=None)
def test_who_forgets_never_knows_less_than_at_first(seed, half_life):
    """Covariances stay positive and no variance exceeds the prior's."""
    learner = _learner(_stream(150, seed=seed), half_lives=(half_life,), expansion=0)
    cov = learner._stacks[1].cov[learner._tree.rows[_arm("x0")]]
    assert (np.diagonal(cov) <= 1.0 / learner._stacks[1].precision + 1e-9).all()
    assert np.linalg.eigvalsh(cov).min() > 0


@pytest.mark.parametrize("shape", ["xor", "circle"])
def test_curves_are_learned_with_waves(shape):
    """Beyond any straight line; without waves nothing is learned of them."""
    rng, curved, straight = np.random.default_rng(8), *(BayesianLinear(("a", "b"), (), expansion=n) for n in (64, 0))
    right: list[list[bool]] = [[], []]
    for n in range(900):
        x = rng.normal(size=2)
        reward = float(x[0] * x[1] > 0 if shape == "xor" else np.hypot(*x) < 1.2)
        seen = Observation(x, _arm(), NOTHING, 0.5, reward, n)
        for learner, found in zip((curved, straight), right, strict=True):
            if n >= 500:
                found.append((learner.predict(seen) > 0.5) == bool(reward))
            learner.learn(seen)
    assert np.mean(right[0]) > 0.85
    assert np.mean(right[1]) < 0.65
    assert _weights(curved)[-1] > 0.99


def test_among_many_slots_there_are_no_waves():
    """Straight lines have enough to go by, and cost a fraction."""
    assert BayesianLinear([f"s{n}" for n in range(bayesian.WIDEST)], ())._waves is not None
    assert BayesianLinear([f"s{n}" for n in range(bayesian.WIDEST + 1)], ())._waves is None


# --- Scale ---


def test_a_rare_flag_is_not_blown_up():
    """One in a hundred: two at most, not ten; a number as rare is scaled by its spread, up to the limit."""
    learner = BayesianLinear(("flag", "number"), (), **PLAIN)
    for n in range(640):
        rare = float(n % 100 == 50)
        learner._scaling.observe(np.array([rare, 3 * rare]))
    np.testing.assert_allclose(learner._features(np.array([1.0, 3.0]))[0], [1, 2, 5], atol=0.1)


def test_units_do_not_matter():
    """Cents or euros, seconds or years: the same predictions."""
    stream = _stream(200)
    factor, shift = np.array([1e-6, 1.0, 1e6]), np.array([5.0, 0.0, -3e7])
    own = _learner(stream)
    other = _learner([each._replace(x=each.x * factor + shift) for each in stream])
    for each in stream[:20]:
        assert other.predict(each._replace(x=each.x * factor + shift)) == pytest.approx(own.predict(each), abs=1e-5)


def test_a_wild_value_moves_a_prediction_within_bounds():
    """Scaled values are cut off."""
    learner, seen = _learner(_stream(200)), _stream(1)[0]
    assert learner.predict(seen._replace(x=np.full(3, 1e4))) == learner.predict(seen._replace(x=np.full(3, 1e12)))


# --- Keeping ---


@pytest.mark.parametrize("n", [0, 3, 50, 160])
def test_dump_and_load_round_trip(n):
    """To the byte, and so is what is learned and corrected after; the waves are those it learned with."""
    stream = _stream(n + 40, arms=3)
    learner, other = _learner(stream[:n]), BayesianLinear(SLOTS, (), seed=99)
    other.load(learner.dump())
    assert other.dump() == learner.dump()
    for each in stream[n:]:
        for one in (learner, other):
            one.learn(each)
            one.correct(each._replace(reward=0.5), each.reward)
    assert other.dump() == learner.dump()
    assert other.export() == learner.export()


def test_equal_observations_give_equal_bytes():
    """The same seed and stream; another seed draws other waves."""
    stream = _stream(100)
    assert _learner(stream).dump() == _learner(stream).dump()
    assert _learner(stream).export() == _learner(stream).export()
    assert _learner(stream).dump() != _learner(stream, seed=1).dump()


def test_a_slot_that_goes_leaves_what_would_have_been_learned_without_it():
    """In whatever order the others are; exactly, though it went along with one that stays."""
    stream = [each._replace(x=each.x + np.array([0, each.x[0], 0])) for each in _stream(300, arms=2)]
    without = [each._replace(x=each.x[[0, 2]]) for each in stream]
    learner, never = BayesianLinear(("c", "a"), (), **PLAIN), _learner(without, slots=("a", "c"), **PLAIN)
    learner.load(_learner(stream, **PLAIN).dump())
    for arm in (_arm("x0"), _arm("x0", treatment="new"), _arm("new")):
        for each in without[:20]:
            own = learner.predict(each._replace(x=each.x[::-1], arm=arm))
            assert own == pytest.approx(never.predict(each._replace(arm=arm)), abs=1e-6)


def test_curves_start_anew_when_slots_change():
    """What is left is the straight line: nothing that balanced the waves is left over."""
    stream = _stream(400, arms=2)
    learner, straight = BayesianLinear(("new", *SLOTS), (), relevance=False), _learner(stream, **PLAIN)
    learner.load(_learner(stream, relevance=False).dump())
    for each in stream[:20]:
        row = learner._tree.rows[each.arm]
        x = learner._features(np.concatenate([[0.0], each.x]))[-1]
        x[5:] = 0.0
        said = learner._stacks[-1].look(row, x, PRIOR)[0]
        assert said == pytest.approx(straight._stacks[0].look(row, straight._features(each.x)[0], PRIOR)[0], abs=1e-9)


def test_a_slot_that_comes_is_learned():
    """On a scale of its own, however much was learned before it came; nothing of the rest is lost."""
    stream = _stream(2000)
    learner, before = BayesianLinear(("new", *SLOTS), (), expansion=0), _learner(stream, expansion=0)
    learner.load(before.dump())
    rng, seen = np.random.default_rng(9), stream[0]
    assert learner.predict(seen._replace(x=np.array([1e3, *seen.x]))) == pytest.approx(before.predict(seen), abs=1e-9)
    for n in range(300):
        value = rng.normal(1000.0, 1.0)
        x = np.array([value, *rng.normal(size=3)])
        learner.learn(Observation(x, seen.arm, NOTHING, PRIOR, float(value > 1000.0), 2000 + n))
    low, high = (learner.predict(seen._replace(x=np.array([each, 0.0, 0.0, 0.0]))) for each in (999.0, 1001.0))
    assert high > low + 0.3


@pytest.mark.parametrize(
    ("then", "now"), [(bayesian.WIDEST, bayesian.WIDEST + 1), (bayesian.WIDEST + 1, bayesian.WIDEST)]
)
def test_waves_may_come_and_go_with_slots(then, now):
    """One slot more than waves are drawn for, or one less again: straight lines go on, and so does learning."""
    stream = _stream(40, slots=bayesian.WIDEST + 1)
    names = [f"s{n}" for n in range(bayesian.WIDEST + 1)]
    learner, loaded = BayesianLinear(names[:then], ()), BayesianLinear(names[:now], ())
    for each in stream:
        learner.learn(each._replace(x=each.x[:then]))
    loaded.load(learner.dump())
    for each in stream:
        assert 0 < loaded.predict(each._replace(x=each.x[:now])) < 1
        loaded.learn(each._replace(x=each.x[:now]))
    row = loaded._tree.rows[_arm("x0")]
    assert np.isfinite(loaded._stacks[-1].cov[row]).all()
    assert np.linalg.eigvalsh(loaded._stacks[-1].cov[row]).min() > 0
    assert len(_weights(loaded)) == len(loaded._stacks)


@pytest.mark.parametrize(
    "impossible",
    [{"rule": "greedy"}, {"half_lives": (34, 0)}, {"precision": 0.0}, {"memory": 1.5}, {"starting_evidence": 0.0}],
    ids=repr,
)
def test_impossible_parameters_are_refused(impossible):
    """ValueError, with what they must be."""
    with pytest.raises(ValueError, match=r"must be"):
        BayesianLinear(SLOTS, (), **impossible)


def test_what_is_no_dump_is_refused():
    """ValueError, and what to look at."""
    learner = _learner(_stream(5))
    for data in (b"", b"\xc1", msgspec.msgpack.encode({"kind": "other"}), _learner(half_lives=()).dump()):
        with pytest.raises(ValueError, match="not the dump of a bayesian-linear"):
            learner.load(data)


def test_memory_is_bounded():
    """The leaf least often used makes room; ancestors stay and keep what it taught them, its own room is clean."""
    learner = BayesianLinear(SLOTS, (), max_arms=12, expansion=8)
    rng = np.random.default_rng(9)
    for n in range(400):
        arm = _arm("often") if n % 2 else _arm(f"x{n}")
        learner.learn(Observation(rng.normal(size=3), arm, NOTHING, 0.5, 1.0, n))
        assert len(learner._tree.rows) <= 12
    rows = learner._tree.rows
    assert _arm("often") in rows
    assert all(each in rows for arm in rows for _, each in lineage(arm))
    assert max(rows.values()) < 12
    assert set(learner._times) == set(learner._kept) == {each for each in rows if each.treatment}
    assert learner._ratio() == pytest.approx(np.mean([(1 + r) / (1 + p) for r, p in learner._kept.values()]))
    assert len(learner._times[_arm("often")]) <= bayesian.RECENT
    assert learner.predict(Observation(np.zeros(3), _arm("x0"), NOTHING, 0.5)) > 0.8
    other = BayesianLinear(SLOTS, (), max_arms=12, expansion=8)
    other.load(learner.dump())
    assert other.dump() == learner.dump()


def test_an_arm_that_made_room_and_returns_starts_from_its_relatives():
    """Nothing of who had its row in the meantime is left."""
    learner, rng = BayesianLinear(SLOTS, (), max_arms=5, **PLAIN, **FIRM), np.random.default_rng(10)
    for n in range(200):
        learner.learn(Observation(rng.normal(size=3), _arm("x"), NOTHING, PRIOR, 0.0, n))
    gone = Observation(np.zeros(3), _arm("x", treatment="other"), NOTHING, PRIOR, 0.0, 300)
    learner.learn(gone)
    learner.learn(gone._replace(arm=_arm("x", treatment="third"), reward=1.0))
    assert gone.arm not in learner._tree.rows
    own = learner.predict(gone)
    learner.learn(gone._replace(reward=own))
    cov = learner._stacks[0].cov[learner._tree.rows[gone.arm]]
    assert cov[0, 0] == pytest.approx(0.2, abs=0.02)
    assert learner.predict(gone) == pytest.approx(own, abs=0.02)
