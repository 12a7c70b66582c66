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
from models.learner import Arm, Observation
from models.scaling import Scaling

SLOTS = ("a", "b", "c")
NOTHING = np.zeros(0)
ANY = Arm("", "", "")
PLAIN = {"half_lives": (0,), "precisions": (1,), "pooled": False, "expansion": 0}
ALONE = PLAIN | {"scaled": False}


def _arm(action: str = "x", group: str = "g", treatment: str = "t") -> Arm:
    return Arm(group, action, treatment)


def _stream(n: int, arms: int = 3, seed: int = 0, slots: int = len(SLOTS)) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [
        Observation(rng.normal(size=slots), _arm(f"x{rng.integers(arms)}"), NOTHING, 0.3, float(rng.random() < 0.4), at)
        for at in range(n)
    ]


def _learner(observations=(), slots=SLOTS, **parameters) -> BayesianLinear:
    learner = BayesianLinear(slots, (), **parameters)
    for each in observations:
        learner.learn(each)
    return learner


def _bound(learner: BayesianLinear, arms, priors=None, slots=SLOTS, action_x=None):
    action_x = np.zeros((len(arms), 0)) if action_x is None else action_x
    priors = np.full(len(arms), 0.3) if priors is None else np.array(priors)
    return BayesianLinear.posterior(learner.export(), slots, arms, action_x, priors)


# --- Against what is known ---


@pytest.mark.parametrize("precision", [0.5, 1.0, 7.0])
def test_one_arm_equals_rivers_bayesian_regression(precision):
    """Without scaling, discounts and relatives, to 1e-9; River is given a slot of ones and rewards less the prior."""
    strict = {"precisions": (precision,), "level_precision": precision, "pooled": True}
    learner = BayesianLinear(SLOTS, (), **ALONE | strict)
    learner._weights = np.array([0.0, 1.0])  # the expert that learns of an arm without a name
    river = BayesianLinearRegression(alpha=precision, beta=1)
    for seen in _stream(200):
        x = {"1": 1.0, **dict(zip(SLOTS, seen.x.tolist(), strict=True))}
        at_root = seen._replace(arm=ANY)
        mean, _ = _bound(learner, [ANY]).score(seen.x, None)
        assert mean[0] - 0.3 == pytest.approx(river.predict_one(x), abs=1e-9)
        learner.learn(at_root)
        learner._weights = np.array([0.0, 1.0])
        river.learn_one(x, seen.reward - 0.3)


def test_the_covariance_is_the_batch_ridge_solution():
    """After any number of rank-one updates: S = (X'X + Λ)⁻¹, and the mean is S X'y."""
    seen = [each._replace(arm=_arm()) for each in _stream(400)]
    learner = _learner(seen, **ALONE | {"precisions": (2.0,)})
    x = np.column_stack([np.ones(len(seen)), [each.x for each in seen]])
    y = np.array([each.reward - each.prior for each in seen])
    prior = np.diag([1.0, 2.0, 2.0, 2.0])
    cov = np.linalg.inv(x.T @ x + prior)
    leaf = learner._tree.rows[_arm()]
    np.testing.assert_allclose(learner._stacks[0].read(np.array([leaf]), learner._clock).cov[0, 0], cov, rtol=1e-9)
    weights = cov @ x.T @ y  # an only child starts from nothing its parents know from it
    probe = np.array([1.0, 0.5, -1.0, 2.0])
    assert learner.predict(seen[0]._replace(x=probe[1:])) == pytest.approx(0.3 + probe @ weights, abs=1e-6)


def test_the_noise_is_the_residual_variance():
    """A known noise is found, so that standard deviations are honest: the truth lies within two of them, mostly."""
    rng = np.random.default_rng(1)
    hits, sds = [], []
    for _ in range(20):
        truth = np.concatenate([[0.5], rng.normal(0, 0.05, 3)])
        learner = BayesianLinear(SLOTS, (), **ALONE, exploration=1.0)
        for _ in range(100):
            x = rng.normal(size=3)
            reward = float(truth @ [1, *x] + rng.normal(0, 0.1))
            learner.learn(Observation(x, _arm(), NOTHING, 0.5, reward))
        probe = rng.normal(size=3)
        mean, sd = _bound(learner, [_arm()], [0.5]).score(probe, None)
        hits.append(abs(mean[0] - truth @ [1, *probe]) < 2 * sd[0])
        sds.append(sd[0] * 100**0.5 / np.linalg.norm([1, *probe]))
    assert np.mean(hits) > 0.85
    assert 0.08 < np.mean(sds) < 0.2  # ten observations' worth of doubt about the noise included


@pytest.mark.parametrize("link", ["identity", "logit"])
def test_it_is_calibrated_on_a_logistic_process(link):
    """Predictions in a band come true as often as they say."""
    rng = np.random.default_rng(2)
    truth = np.array([-1.0, 0.8, -0.5, 0.0])
    learner = BayesianLinear(SLOTS, (), link=link)
    said, came = [], []
    for n in range(3000):
        x = rng.normal(size=3)
        reward = float(rng.random() < 1 / (1 + np.exp(-truth @ [1, *x])))
        seen = Observation(x, _arm(f"x{n % 2}"), NOTHING, 0.1, reward, n)
        if n >= 1000:
            said.append(learner.predict(seen))
            came.append(reward)
        learner.learn(seen)
    order = np.argsort(said)
    for band in np.array_split(order, 5):
        assert np.mean(np.array(said)[band]) == pytest.approx(np.mean(np.array(came)[band]), abs=0.06)


# --- Before and beyond what was learned ---


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.01, 0.99),
    st.sampled_from(["identity", "logit"]),
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
)
def test_untrained_the_prior_stands(prior, link, values):
    """Whatever the features; and the deviation is a number above 0."""
    learner = BayesianLinear(SLOTS, (), link=link)
    x = np.array(values)
    assert learner.predict(Observation(x, _arm(), NOTHING, prior)) == pytest.approx(prior)
    posterior = _bound(learner, [_arm()], [prior])
    mean, sd = posterior.score(x, None)
    assert posterior.link == link
    assert mean[0] == pytest.approx(prior if link == "identity" else np.log(prior / (1 - prior)))
    assert sd[0] > 0


def test_a_new_arm_starts_from_its_relatives():
    """A treatment from its action, an action from its group, a group from all; each is less sure than they are."""
    rng = np.random.default_rng(3)
    learner = BayesianLinear(SLOTS, ())
    for n in range(800):
        x = rng.normal(size=3)
        rate = 0.9 if x[0] > 0 else 0.5
        learner.learn(Observation(x, _arm(f"x{n % 5}"), NOTHING, 0.1, float(rng.random() < rate), n))
    probe = np.array([1.0, 0.0, 0.0])
    arms = [_arm("x0"), _arm("x0", treatment="other"), _arm("new"), _arm("new", group="other")]
    mean, sd = _bound(learner, arms, [0.1] * 4).score(probe, None)
    assert mean == pytest.approx([0.9] * 4, abs=0.2)
    assert mean[1] == pytest.approx(mean[0], abs=0.05)
    assert (sd[1:] > 3 * sd[0]).all()
    for arm, own in zip(arms, mean, strict=True):
        assert learner.predict(Observation(probe, arm, NOTHING, 0.1)) == pytest.approx(min(own, 1.0), abs=1e-9)


def test_what_an_action_is_like_carries_over():
    """Rewards that depend on the action's own features: a new action is rated by its features."""
    rng = np.random.default_rng(4)
    learner = BayesianLinear(SLOTS, ("discount",))
    for n in range(1000):
        discount = float(n % 10) / 10
        reward = float(rng.random() < 0.1 + 0.8 * discount)
        learner.learn(Observation(rng.normal(size=3), _arm(f"x{n % 10}"), np.array([discount]), 0.3, reward, n))
    posterior = BayesianLinear.posterior(
        learner.export(), SLOTS, [_arm("low"), _arm("high")], np.array([[0.05], [0.85]]), np.full(2, 0.3)
    )
    low, high = posterior.score(np.zeros(3), None)[0]
    assert low == pytest.approx(0.14, abs=0.12)
    assert high == pytest.approx(0.78, abs=0.12)


# --- Serving ---


@pytest.mark.parametrize("parameters", [{}, {"expansion": 0}, {"link": "logit"}, {"half_lives": (0, 50)}])
def test_bound_candidates_say_what_the_learner_predicts(parameters):
    """To 1e-9, for all candidates or some; scoring changes nothing."""
    seen = _stream(400)
    learner = _learner(seen, **parameters)
    arms = [_arm(f"x{n}") for n in range(4)]
    posterior = _bound(learner, arms)
    before = learner.dump(), learner.export()
    for each in seen[:20]:
        mean, sd = posterior.score(each.x, None)
        said = mean if posterior.link == "identity" else 1 / (1 + np.exp(-mean))
        predicted = [learner.predict(each._replace(arm=arm)) for arm in arms]
        assert np.clip(said, 0, 1) == pytest.approx(predicted, abs=1e-9)
        some = np.array([3, 1], dtype=np.intp)
        for part, whole in zip(posterior.score(each.x, some), (mean, sd), strict=True):
            np.testing.assert_array_equal(part, whole[some])
    assert (learner.dump(), learner.export()) == before


def test_the_deviation_is_the_covariances():
    """To the precision of float32: exploration times the root of the noise times x'Sx."""
    learner = _learner([each._replace(arm=_arm()) for each in _stream(300)], **ALONE, exploration=0.5)
    view = learner._views(Observation(np.array([0.3, -2.0, 1.0]), _arm(), NOTHING, 0.3))[0]
    _, sd = _bound(learner, [_arm()]).score(view.x[1:], None)
    assert sd[0] == pytest.approx(0.5 * float(np.sqrt(view.noise * view.share[-1])[0]), rel=1e-5)


def test_ucb_adds_the_deviation_to_the_mean():
    """LinUCB on the same posterior: the bound as the mean, nothing left to draw."""
    seen = _stream(300)
    arms = [_arm("x0"), _arm("x1")]
    mean, sd = _bound(_learner(seen, exploration=0.7), arms).score(seen[0].x, None)
    bound, nothing = _bound(_learner(seen, exploration=0.7, rule="ucb"), arms).score(seen[0].x, None)
    np.testing.assert_allclose(bound, mean + sd)
    assert not nothing.any()


def test_bound_slots_are_matched_by_name():
    """Reordered: the same; an unknown one is ignored, a missing one counts as average."""
    learner = _learner(_stream(400))
    arms = [_arm("x0"), _arm("x1")]
    x = np.array([0.5, -1.0, 2.0])
    mean, sd = _bound(learner, arms).score(x, None)
    other, other_sd = _bound(learner, arms, slots=("new", "c", "a", "b")).score(np.array([9.0, 2.0, 0.5, -1.0]), None)
    np.testing.assert_allclose(other, mean)
    np.testing.assert_allclose(other_sd, sd, rtol=1e-5)
    fewer, _ = _bound(learner, arms, slots=("a", "b")).score(x[:2], None)
    average, _ = _bound(learner, arms).score(np.array([0.5, -1.0, learner._scaling.center[2]]), None)
    np.testing.assert_allclose(fewer, average, atol=1e-6)


def test_what_was_not_exported_is_refused():
    """Bytes that are none of ours, and other formats."""
    told = msgspec.msgpack.decode(_learner(_stream(5)).export()) | {"format": 99}
    for data in (b"", b"\x80", msgspec.msgpack.encode(told)):
        with pytest.raises(ValueError, match="Bayesian linear model"):
            BayesianLinear.posterior(data, SLOTS, [_arm()], np.zeros((1, 0)), np.array([0.5]))


# --- Rewards that change ---


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**16), st.integers(10, 60), st.booleans())
def test_a_corrected_reward_is_as_one_learned_at_once(seed, n, scaled):
    """Mean, noise and covariance, in any order of corrections (identity link, one expert, from the first scale on)."""
    rng = np.random.default_rng(seed)
    truth = _stream(n, seed=seed)
    settings_ = PLAIN | {"scaled": scaled}
    at_once = _learner(truth, **settings_)
    later = _learner([each._replace(reward=each.reward * (place < 8)) for place, each in enumerate(truth)], **settings_)
    for index in 8 + rng.permutation(n - 8):
        if scaled and np.abs(truth[index].x).max() > 3:
            return  # clipped under one scale and not another: as close as that
        later.correct(truth[index], 0.0)
    arms = [_arm(f"x{each}") for each in range(3)]
    for x in rng.normal(size=(3, 3)):
        for own, other in zip(_bound(at_once, arms).score(x, None), _bound(later, arms).score(x, None), strict=True):
            np.testing.assert_allclose(own, other, atol=1e-6)


@pytest.mark.parametrize("link", ["identity", "logit"])
def test_delayed_rewards_lead_to_the_same_beliefs(link):
    """Exposed as nothing and corrected 100 observations later: about what learning at once leads to."""
    truth = _stream(800, seed=5)
    at_once, later = _learner(truth, link=link, expansion=0), BayesianLinear(SLOTS, (), link=link, expansion=0)
    for n, each in enumerate(truth):
        later.learn(each._replace(reward=0.0))
        if n >= 100 and truth[n - 100].reward:
            later.correct(truth[n - 100], 0.0)
    off = [later.predict(each) - at_once.predict(each) for each in _stream(50, seed=6)]
    assert np.abs(np.mean(off)) < 0.07
    assert np.abs(off).max() < 0.2


def test_a_correction_of_an_unknown_arm_is_ignored():
    """Nothing was learned that could be replaced."""
    learner = BayesianLinear(SLOTS, ())
    before = learner.dump()
    learner.correct(_stream(1)[0], 0.0)
    assert learner.dump() == before


# --- Change ---


def test_a_stream_that_jumps_is_followed_and_one_that_stands_is_not_forgotten():
    """Standing still, nothing much is lost to one that never forgets; after a jump the discounted expert takes over."""
    rng = np.random.default_rng(7)
    both = [BayesianLinear(SLOTS, (), **PLAIN | {"half_lives": each}) for each in ((0, 100), (0,))]
    before, after = np.zeros(2), np.zeros(2)
    for n in range(3000):
        x = rng.normal(size=3)
        rate = 0.5 + 0.4 * np.tanh(x[0]) * (1 if n < 2000 else -1)
        seen = Observation(x, _arm(), NOTHING, 0.5, float(rng.random() < rate), n)
        errors = np.array([(each.predict(seen) - rate) ** 2 for each in both])
        before += errors * (500 <= n < 2000)
        after += errors * (n >= 2300)
        for each in both:
            each.learn(seen)
    assert before[0] < 1.3 * before[1]
    assert after[0] < 0.3 * after[1]
    assert both[0]._weights[1] > 0.9


def test_a_discounted_prior_is_filled_up_again():
    """However long nothing is heard of an arm, it becomes unknown again, no more than that."""
    learner = _learner(_stream(200), **PLAIN | {"half_lives": (20,)}, exploration=1.0)
    rows = np.array([learner._tree.rows[_arm("x0")]])
    found = learner._stacks[0].read(rows, learner._clock + 5000)
    prior = 1 / learner._stacks[0].precision[3, 0]
    np.testing.assert_allclose(found.cov[0, 0], np.diag(prior), rtol=1e-6, atol=1e-9)
    assert np.abs(found.pull).max() < 1e-9


def test_curves_are_learned_where_there_are_some():
    """Rewards inside a ring: beyond any straight line, and a straight line is not given up for nothing."""
    rng = np.random.default_rng(8)
    curved, straight = (BayesianLinear(("a", "b"), (), expansion=each) for each in (64, 0))
    right: dict[int, list[bool]] = {0: [], 1: []}
    for n in range(1000):
        x = rng.normal(size=2)
        reward = float(np.hypot(*x) < 1.2)
        seen = Observation(x, _arm(), NOTHING, 0.5, reward, n)
        if n > 500:
            for place, learner in enumerate((curved, straight)):
                right[place].append((learner.predict(seen) > 0.5) == bool(reward))
        curved.learn(seen)
        straight.learn(seen)
    assert np.mean(right[0]) > 0.88
    assert np.mean(right[1]) < 0.7
    mean, _ = _bound(curved, [_arm()], [0.5], slots=("a", "b")).score(np.array([0.1, 0.1]), None)
    assert mean[0] > 0.8


# --- Scale ---


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.integers(20, 80))
def test_a_moving_scale_loses_nothing(seed, n):
    """Sums gathered under earlier scales equal those under the last one, from the first scale on, clipping apart."""
    rng = np.random.default_rng(seed)
    values = np.sign(rng.normal(size=(n, 3))) * rng.uniform(0.5, 1, size=(n, 3)) * [1, 100, 0] + [0, 500, 3]
    scaling, gram = Scaling(3), np.zeros((4, 4))
    used: list[int] = []
    for place, each in enumerate(values):
        change = scaling.observe(each)
        if change is not None:
            gram = change @ gram @ change.T
        x = np.concatenate([[1.0], scaling.apply(each)])
        if scaling.inverse[:2].all() and np.abs(x).max() < 5:
            used.append(place)
            gram += np.outer(x, x)
    whole = np.column_stack([np.ones(n), (values - scaling.center) * scaling.inverse])[used]
    assert scaling.inverse[2] == 0
    np.testing.assert_allclose(gram, whole.T @ whole, atol=1e-8)


def test_a_rare_flag_is_not_blown_up():
    """One in a hundred: two at most, not ten; a number as rare is scaled by its spread, up to the limit."""
    scaling = Scaling(2)
    for n in range(640):
        rare = float(n % 100 == 50)
        scaling.observe(np.array([rare, 3 * rare]))
    np.testing.assert_allclose(scaling.apply(np.array([1.0, 3.0])), [2, 5], atol=0.1)


def test_units_do_not_matter():
    """Cents or euros, seconds or years: the same predictions."""
    seen = _stream(300)
    factor, shift = np.array([1e-6, 1.0, 1e6]), np.array([5.0, 0.0, -3e7])
    own = _learner(seen)
    other = _learner([each._replace(x=each.x * factor + shift) for each in seen])
    for each in seen[:20]:
        assert other.predict(each._replace(x=each.x * factor + shift)) == pytest.approx(own.predict(each), abs=1e-5)


def test_a_wild_value_moves_a_prediction_within_bounds():
    """Scaled values are clipped."""
    learner = _learner(_stream(300))
    at_limit, beyond = (learner.predict(_stream(1)[0]._replace(x=np.full(3, each))) for each in (1e4, 1e12))
    assert at_limit == beyond


# --- Keeping ---


@pytest.mark.parametrize("n", [0, 3, 50, 160])
def test_dump_and_load_round_trip(n):
    """To the byte, and so is what is learned after."""
    seen = _stream(n + 40)
    learner, other = _learner(seen[:n]), BayesianLinear(SLOTS, ())
    other.load(learner.dump())
    assert other.dump() == learner.dump()
    for each in seen[n:]:
        learner.learn(each)
        other.learn(each)
    assert other.dump() == learner.dump()
    assert other.export() == learner.export()


def test_equal_observations_give_equal_bytes():
    """The same seed and stream; another seed draws other waves."""
    seen = _stream(150)
    assert _learner(seen).dump() == _learner(seen).dump()
    assert _learner(seen).dump() != _learner(seen, seed=1).dump()


def test_slots_that_come_and_go():
    """A vanished slot leaves what would have been learned without it; a new one starts from nothing and learns."""
    seen = _stream(300)
    without = [each._replace(x=each.x[[0, 2]]) for each in seen]
    learner = BayesianLinear(("c", "a"), (), **ALONE)
    learner.load(_learner(seen, **ALONE).dump())
    never = _learner(without, slots=("a", "c"), **ALONE)
    for each in without[:20]:
        assert learner.predict(each._replace(x=each.x[::-1])) == pytest.approx(never.predict(each), abs=1e-9)
    more = BayesianLinear(("new", *SLOTS), ())
    before = _learner(seen)
    more.load(before.dump())
    for n, each in enumerate(seen):
        x = np.concatenate([[float(n % 2)], each.x])
        if n == 0:
            straight = _learner(seen, expansion=0)
            assert more.predict(each._replace(x=x)) == pytest.approx(straight.predict(each), abs=0.1)
        more.learn(each._replace(x=x, reward=float(n % 2)))
    on, off = (more.predict(seen[0]._replace(x=np.concatenate([[each], np.zeros(3)]))) for each in (1.0, 0.0))
    assert on > off + 0.3


def test_what_is_no_dump_is_refused():
    """ValueError, and what to look at."""
    learner = _learner(_stream(5))
    for data in (b"", b"\xc1", msgspec.msgpack.encode({"kind": "other"}), _learner(pooled=False).dump()):
        with pytest.raises(ValueError, match="not the dump of a bayesian-linear"):
            learner.load(data)


def test_memory_is_bounded():
    """The leaf least often used makes room; parents keep what it taught them, and its own room is clean."""
    learner = BayesianLinear(SLOTS, (), max_arms=12, expansion=8)
    rng = np.random.default_rng(9)
    for n in range(400):
        arm = _arm("often") if n % 2 else _arm(f"x{n}")
        learner.learn(Observation(rng.normal(size=3), arm, NOTHING, 0.5, 1.0, n))
        assert len(learner._tree.rows) <= 12
    assert _arm("often") in learner._tree.rows
    assert len(learner._stacks[0]._level) <= 24
    assert learner.predict(Observation(np.zeros(3), _arm("x0"), NOTHING, 0.5)) > 0.8
    assert all(each in learner._tree.rows for arm in learner._tree.rows for _, each in bayesian.lineage(arm))
