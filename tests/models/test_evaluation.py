from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models import estimators
from models.evaluation import Logged, estimate, evaluate
from models.intervals import clustered, empirical_bernstein, guaranteed, t_quantile
from models.reward_model import MAX_COLUMNS, fit_reward_model

# --- A world with a known truth ---


class World(NamedTuple):
    """Kinds of customers (rows) and actions (columns): chance of a reward, chance of being logged, of being chosen."""

    logit: np.ndarray
    kinds: np.ndarray
    decisions: np.ndarray
    logged: np.ndarray
    targets: dict[str, np.ndarray]
    money: float


class Sample(NamedTuple):
    clusters: np.ndarray
    kinds: np.ndarray
    actions: np.ndarray
    logged: np.ndarray
    rewards: np.ndarray


def softmax(values: np.ndarray) -> np.ndarray:
    """Probabilities of each row."""
    raised = np.exp(values - values.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def a_world(seed: int, base: float, floor: float, money: float, kinds: int = 8, actions: int = 6) -> World:
    """Logged by a peaked policy that likes what it likes, with a floor: weights reach actions / floor."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(base, 1, (kinds, actions))
    logged = (1 - floor) * softmax(rng.normal(0, 2, (kinds, actions))) + floor / actions
    targets = {
        "uniform": np.full((kinds, actions), 1 / actions),
        "best": np.eye(actions)[logit.argmax(axis=1)],
        "soft": softmax(2 * logit),
    }
    return World(logit, rng.dirichlet(np.full(kinds, 3.0)), rng.integers(1, 9, kinds), logged, targets, money)


def a_sample(world: World, rng: np.random.Generator, customers: int) -> Sample:
    """Customers with one to some twenty decisions, whose rewards have the customer's own mood in common."""
    kind = rng.choice(len(world.kinds), customers, p=world.kinds)
    clusters = np.repeat(np.arange(customers), 1 + rng.poisson(world.decisions[kind] - 1))
    mood, kinds = rng.choice((-1, 1), customers)[clusters], kind[clusters]
    chances = world.logged[kinds]
    actions = np.minimum((chances.cumsum(axis=1) < rng.random((len(kinds), 1))).sum(axis=1), chances.shape[1] - 1)
    rewards = (rng.random(len(kinds)) < 1 / (1 + np.exp(-world.logit[kinds, actions] - mood))).astype(float)
    rewards *= np.exp(world.money * rng.normal(size=len(kinds)))
    return Sample(clusters, kinds, actions, chances[np.arange(len(kinds)), actions], rewards)


def true_value(world: World, target: np.ndarray) -> float:
    """Expected reward per decision, in closed form."""
    chance = sum(0.5 / (1 + np.exp(-world.logit - mood)) for mood in (-1, 1)) * np.exp(world.money**2 / 2)
    share = world.kinds * world.decisions
    return float(share @ (chance * target).sum(axis=1) / share.sum())


# --- Estimators ---

chances = st.lists(st.integers(1, 9), min_size=2, max_size=5)
values = st.floats(-5, 5)


@given(chances, st.data())
def test_ips_and_dr_find_the_value_of_a_log_that_is_exactly_as_probable(counts, data):
    """Each action as often as its probability says: the estimate is the value, for any reward model."""
    size = len(counts)
    rewards, model = (np.array(data.draw(st.lists(values, min_size=size, max_size=size))) for _ in "rq")
    target = np.array(data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))) + 1e-3
    target, logged = target / target.sum(), np.array(counts) / sum(counts)
    taken = np.repeat(np.arange(size), counts)
    weights = (target / logged)[taken]
    value = float(target @ rewards)
    ips = estimators.ips(rewards[taken], weights)
    modelled = np.full(len(taken), float(target @ model))
    robust = estimators.doubly_robust(rewards[taken], weights, model[taken], modelled)
    assert (ips.value, robust.value) == pytest.approx((value, value), abs=1e-9)
    assert ips.influence.mean() == pytest.approx(0, abs=1e-9)


few = settings(max_examples=40)
"""For what is false of nearly any log when it is false."""
unit = st.floats(0, 1)
logs = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        arrays(float, n, elements=unit), arrays(float, n, elements=st.floats(0.01, 1)), arrays(float, n, elements=unit)
    )
)


@few
@given(logs)
def test_a_policy_equal_to_the_logged_one_earns_what_was_earned(log):
    """Every estimate is the mean reward, and nothing changes."""
    rewards, logged, _ = log
    seen = estimate(rewards, logged, logged)
    assert [seen[name].value for name in ("ips", "clipped-ips", "snips")] == pytest.approx([rewards.mean()] * 3)
    assert (seen.change.value, seen.change.low, seen.change.high) == pytest.approx((0, 0, 0), abs=1e-9)
    assert (seen.overlap.mean_weight, seen.overlap.ess) == pytest.approx((1, len(rewards)))


@few
@given(logs, st.floats(-10, 10))
def test_snips_moves_with_rewards_and_stays_among_them(log, shift):
    """A constant on all rewards moves it by as much; it is never beyond the lowest or the highest."""
    rewards, logged, target = log
    weights = target / logged
    if weights.sum() == 0:
        return
    value = estimators.snips(rewards, weights).value
    assert rewards.min() - 1e-9 <= value <= rewards.max() + 1e-9
    assert estimators.snips(rewards + shift, weights).value == pytest.approx(value + shift, abs=1e-7)


@few
@given(logs)
def test_dr_without_a_model_is_ips_and_with_full_shrinkage_the_model(log):
    """Nothing modelled leaves the weighted rewards; weights shrunk to nothing leave the model."""
    rewards, logged, target = log
    weights, none, half = target / logged, np.zeros(len(rewards)), np.full(len(rewards), 0.5)
    assert estimators.doubly_robust(rewards, weights, none, none).value == pytest.approx(
        estimators.ips(rewards, weights).value
    )
    assert np.array_equal(estimators.shrunk(weights, np.inf), weights)
    assert estimators.doubly_robust(rewards, estimators.shrunk(weights, 0.0), half, half).value == pytest.approx(0.5)


@given(logs, st.floats(0, 1e6))
def test_shrunk_weights_are_between_nothing_and_the_weight(log, amount):
    """Shrinkage never adds weight."""
    weights = log[2] / log[1]
    less = estimators.shrunk(weights, amount)
    assert np.all((less >= 0) & (less <= weights * (1 + 1e-12)))


def test_shrinkage_and_switch_err_less_than_dr_under_heavy_weights():
    """That is what the bias is taken for: a smaller mean squared error with a fair model."""
    rng, world = np.random.default_rng(5), a_world(5, base=-1, floor=0.03, money=0.0)
    target, errors = world.targets["uniform"], {"dr": [], "dr-shrunk": [], "switch-dr": []}
    fair = np.full(world.logit.shape, 0.3)
    for _ in range(60):
        s = a_sample(world, rng, 60)
        seen = estimate(
            s.rewards, s.logged, target[s.kinds, s.actions], s.clusters,
            fair[s.kinds, s.actions], (fair * target).sum(axis=1)[s.kinds],
        )  # fmt: skip
        for name, kept in errors.items():
            kept.append((seen[name].value - true_value(world, target)) ** 2)
    assert np.mean(errors["dr-shrunk"]) < np.mean(errors["dr"])
    assert np.mean(errors["switch-dr"]) < np.mean(errors["dr"])


# --- Intervals ---


@pytest.mark.parametrize(
    ("freedom", "exact"), [(2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1e9, 1.95996)]
)
def test_t_quantiles_are_those_of_the_tables(freedom, exact):
    """Within 1 % at 2 degrees of freedom and a thousandth from 5 on."""
    assert t_quantile(0.975, freedom) == pytest.approx(exact, rel=1e-2 if freedom < 5 else 1e-3)


@given(arrays(float, st.integers(3, 50), elements=st.floats(-100, 100)), st.integers(2, 5))
def test_repeating_what_customers_did_does_not_narrow_an_interval(influence, times):
    """More decisions of the same customers are no more customers."""
    influence = influence - influence.mean()
    once = clustered(0.0, influence, np.arange(len(influence)), 0.95)
    often = clustered(0.0, np.repeat(influence, times), np.repeat(np.arange(len(influence)), times), 0.95)
    assert often == pytest.approx(once, rel=1e-6, abs=1e-9)


@few
@given(arrays(float, st.integers(3, 50), elements=st.floats(-100, 100)))
def test_intervals_contain_the_estimate_and_mirror_with_it(influence):
    """The lower end of what is turned around is the upper end."""
    influence = influence - influence.mean()
    ids = np.arange(len(influence))
    low, high = clustered(1.0, influence, ids, 0.95)
    assert low <= 1.0 + 1e-9
    assert high >= 1.0 - 1e-9
    assert clustered(-1.0, -influence, ids, 0.95) == pytest.approx((-high, -low), rel=1e-6, abs=1e-6)


def test_intervals_lean_towards_where_rare_terms_would_come_from():
    """Few heavy terms upwards: the truth is more likely far above than far below."""
    influence = np.r_[np.full(95, -1.0), np.full(5, 19.0)]
    low, high = clustered(0.0, influence, np.arange(100), 0.95)
    assert high > 1.5 * -low


def test_one_customer_tells_nothing():
    """Without a second one there is no spread between them."""
    assert clustered(0.5, np.array([0.1, -0.1]), np.zeros(2, dtype=int), 0.95) == (-np.inf, np.inf)
    assert empirical_bernstein(np.array([1.0]), 1.0, 0.95) == np.inf


@given(logs, st.floats(0.5, 0.99))
def test_guaranteed_interval_stays_in_the_range_of_rewards(log, confidence):
    """Also where weights are far from averaging 1."""
    rewards, logged, target = log
    low, high = guaranteed(rewards, target / logged, np.arange(len(rewards)), (0.0, 1.0), confidence)
    assert all(0 <= end <= 1 for end in (low, high))


def test_guaranteed_interval_holds_where_the_log_never_takes_what_the_target_would():
    """Half of the target's choices are missing; whatever they would earn, the interval allows for it."""
    rng = np.random.default_rng(0)
    rewards = (rng.random(4000) < 0.5).astype(float)
    low, high = guaranteed(rewards, np.full(4000, 0.5), np.arange(4000), (0.0, 1.0), 0.95)
    assert low < 0.25
    assert high > 0.75
    assert low > 0.15


def test_no_reward_at_all_is_no_certainty():
    """A log without a single reward has an interval all the same."""
    seen = estimate(np.zeros(500), np.full(500, 0.5), np.full(500, 0.5))
    assert seen["ips"].low == 0
    assert 0 < seen["ips"].high < 1


# --- Reports and their warnings ---


def rows(count: int = 400, **changes) -> list[Logged]:
    """A good log: four actions at random, the target prefers the first."""
    rng = np.random.default_rng(1)
    targets = {"a": 0.4, "b": 0.2, "c": 0.2, "d": 0.2}
    made = []
    for index in range(count):
        action = "abcd"[rng.integers(4)]
        row = {
            "decision_id": f"d{index}", "cluster": f"c{index % (count // 2)}", "action": action, "logged": 0.25,
            "reward": float(rng.random() < (0.6 if action == "a" else 0.3)), "target": targets[action],
            "features": (float(rng.normal()),), "targets": targets,
        }  # fmt: skip
        made.append(Logged(**{**row, **changes}))
    return made


def replaced(kept: list[Logged], count: int, **changes) -> list[Logged]:
    """The first so many with something changed."""
    first = [Logged(**{**{f: getattr(r, f) for f in r.__struct_fields__}, **changes}) for r in kept[:count]]
    return first + kept[count:]


def test_a_good_log_gives_no_warning_and_every_estimate():
    """All estimators answer, and only those with a bias speak of it."""
    seen = evaluate(rows())
    assert seen.warnings == ()
    assert {e.estimator for e in seen.estimates if e.warnings} <= {"dm", "dr-shrunk", "switch-dr"}
    names = ["ips", "clipped-ips", "snips", "dm", "dr", "dr-shrunk", "switch-dr", "bernstein"]
    assert [e.estimator for e in seen.estimates] == names
    assert all(e.low <= 0.42 <= e.high for e in seen.estimates)
    assert (seen.recommended, seen.overlap.never_logged_share, seen.overlap.clusters) == ("dr", 0.0, 200)


def test_without_features_the_report_goes_by_snips():
    """There is nothing to fit a model on."""
    seen = evaluate(rows(features=None))
    assert seen.recommended == "snips"
    with pytest.raises(KeyError, match="no estimate 'dr'; there are ips"):
        seen["dr"]


def test_the_chance_of_the_logged_action_is_found_among_all():
    """`target` may be left out where `targets` are given."""
    assert evaluate(rows(target=None)) == evaluate(rows())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"logged": None}, "no probability was logged"),
        ({"logged": 0.0}, "the logged probability of what was chosen is 0"),
        ({"target": None, "targets": None}, "what the target policy would do there is not known"),
        ({"decision_id": "d399"}, "the same decision a second time"),
    ],
)
def test_rows_that_cannot_be_used_are_left_out_and_counted(changes, reason):
    """The report says how many, and why."""
    (said,) = [each for each in evaluate(replaced(rows(), 30, **changes)).warnings if reason in each]
    assert said.startswith("30 of 400")
    assert "the values are for the others only" in said


def test_a_log_without_any_usable_row_is_refused():
    """With the reasons."""
    with pytest.raises(ValueError, match=r"none of 4 decisions can be used \(4 times: no probability was logged\)"):
        evaluate(rows(4, logged=None))
    with pytest.raises(ValueError, match="the log is empty"):
        evaluate([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logged": 1.5}, "logged probability 1.5 of decision 0: expected a number from"),
        ({"logged": -0.5}, "logged probability -0.5 of decision 0"),
        ({"target": 1.2}, "target probability 1.2 of decision 0"),
        ({"target": float("nan")}, "target probability nan of decision 0"),
        ({"reward": float("inf")}, "reward inf of decision 0"),
    ],
)
def test_values_outside_their_range_are_refused(changes, message):
    """An error names the value and what was expected."""
    with pytest.raises(ValueError, match=message):
        evaluate(replaced(rows(features=None), 1, **changes))


def test_a_reward_outside_its_declared_range_is_refused():
    """And so are arrays of different lengths, and a confidence that is none."""
    one = np.ones(3)
    with pytest.raises(ValueError, match=r"reward 2\.0 of decision 0"):
        estimate(one * 2, one, one, reward_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="3 rewards, 2 logged and 3 target"):
        estimate(one, one[:2], one)
    with pytest.raises(ValueError, match="confidence 95"):
        estimate(one, one, one, confidence=95)


def warned(logged: float | np.ndarray, target: np.ndarray, rewards: np.ndarray | None = None) -> str:
    """The report as people read it."""
    rewards = np.tile((0.0, 1.0), len(target) // 2) if rewards is None else rewards
    return estimate(rewards, np.broadcast_to(logged, len(target)).astype(float), target).as_text()


def test_warns_of_a_log_that_seldom_did_what_the_target_would():
    """Few effective decisions, in number or in share."""
    assert "are worth 50 (50.0%) of the policy's own" in warned(0.5, np.tile((1.0, 0.0), 50))
    assert "are worth 100 (1.0%) of the policy's own" in warned(0.01, np.r_[np.ones(100), np.zeros(9900)])
    assert "of the policy's own" not in warned(0.5, np.full(2000, 0.5))


def test_warns_of_weights_that_do_not_average_one():
    """Too low or too high, beyond chance; not within it."""
    assert "not 1: the log could not take about 50%" in warned(0.5, np.tile((0.2, 0.3), 500))
    assert "the logged probabilities are too low" in warned(0.5, np.tile((0.8, 0.7), 500))
    assert "not 1" not in warned(0.5, np.tile((1.0, 0.0), 500))


def test_tests_the_mean_weight_against_one():
    """Its z is about normal where the probabilities are right, and far out where they are not."""
    rng = np.random.default_rng(3)
    target = (rng.random(4000) < 0.5).astype(float)
    right = estimate(target, np.full(4000, 0.5), target).overlap
    wrong = estimate(target, np.full(4000, 0.6), target).overlap
    assert abs(right.mean_weight_z) < 3
    assert right.mean_weight_p > 0.001
    assert wrong.mean_weight_z < -5
    assert wrong.mean_weight_p < 1e-6


def test_warns_of_one_decision_with_most_of_the_weight_and_of_tiny_probabilities():
    """A single unlikely choice decides nothing."""
    logged = np.r_[0.001, np.full(999, 0.5)]
    said = warned(logged, np.full(1000, 0.5))
    assert "One decision carries 33% of all the weight" in said
    assert "is on the 0.2% of decisions that had a chance below 1%" in warned(
        np.r_[0.0005, 0.0005, np.full(998, 0.5)], np.full(1000, 0.5)
    )


def test_warns_of_few_rewards_and_of_clipped_weights():
    """What an estimate rests on stands beside it."""
    few = warned(0.5, np.full(1000, 0.5), np.r_[np.ones(7), np.zeros(993)])
    assert "ips: rests on about 7 rewards" in few
    assert "clipped-ips: 0.10% of the weights are clipped to 32" in warned(
        np.r_[0.01, np.full(999, 0.5)], np.full(1000, 0.5)
    )


def test_warns_of_actions_that_were_never_logged():
    """With their names and their share of the target's choices."""
    seen = evaluate(rows(target=None, targets={"a": 0.5, "z": 0.3, "y": 0.2}))
    assert seen.overlap.never_logged_share == pytest.approx(0.5)
    assert any(
        "50.0% of the policy's choices go to actions that no logged" in s and "'z', 'y'" in s for s in seen.warnings
    )


def test_a_target_that_never_takes_a_logged_action_has_no_snips():
    """Undefined is said to be undefined, and is None in JSON."""
    seen = estimate(np.tile((0.0, 1.0), 50), np.full(100, 0.5), np.zeros(100))
    assert seen["snips"].warnings == ("the policy never takes a logged action.",)
    assert (seen["bernstein"].low, seen["bernstein"].high) == (0.0, 1.0)
    plain = json.loads(json.dumps(seen.as_dict(), allow_nan=False))
    assert plain["change"]["value"] is None


def test_a_report_reads_as_a_table_and_as_json():
    """The same numbers in both."""
    seen = evaluate(rows())
    text, plain = seen.as_text(), json.loads(json.dumps(seen.as_dict(), allow_nan=False))
    assert "400 decisions of 200 customers, 95% intervals" in text
    for each in plain["estimates"]:
        assert f"{each['value']:.6g}" in text
    assert plain["overlap"]["ess"] == seen.overlap.ess


# --- The reward model ---


@pytest.mark.parametrize("money", [0.0, 0.5])
def test_a_customer_is_predicted_without_its_own_rewards(money):
    """Other rewards of one customer change no prediction of its own, and some of others."""
    rng = np.random.default_rng(2)
    s = a_sample(a_world(2, base=0, floor=0.3, money=money), rng, 60)
    features, others = np.eye(8)[s.kinds], s.rewards.copy()
    others[s.clusters == 7] = 1.0 - (others[s.clusters == 7] > 0)
    first, second = (fit_reward_model(features, s.actions, r, s.clusters, 6) for r in (s.rewards, others))
    own = s.clusters == 7
    assert np.array_equal(first[own], second[own])
    assert not np.allclose(first[~own], second[~own])


@pytest.mark.parametrize("binary", [True, False])
def test_the_reward_model_finds_what_actions_bring(binary):
    """Chances and means, each action with its own dependence on the features, also for actions not taken."""
    rng = np.random.default_rng(4)
    features, actions = rng.normal(size=(6000, 2)), rng.integers(3, size=6000)
    slope = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]])
    true = features @ slope.T - 0.5
    true = 1 / (1 + np.exp(-true)) if binary else true
    taken = true[np.arange(6000), actions]
    rewards = (rng.random(6000) < taken).astype(float) if binary else taken + rng.normal(size=6000)
    predicted = fit_reward_model(features, actions, rewards, np.arange(6000), 3)
    assert np.sqrt(np.mean((predicted - true) ** 2)) < (0.03 if binary else 0.1)


def test_many_actions_keep_their_levels():
    """Beyond the columns allowed there are no slopes by action, and it still learns which action pays."""
    rng = np.random.default_rng(6)
    actions = rng.integers(60, size=6000)
    features = rng.normal(size=(6000, 8))
    assert MAX_COLUMNS < 60 * 8
    rewards = (rng.random(6000) < np.where(actions < 30, 0.8, 0.2)).astype(float)
    predicted = fit_reward_model(features, actions, rewards, np.arange(6000), 60)
    assert predicted[:, :30].mean() - predicted[:, 30:].mean() > 0.5


def test_rewards_that_features_separate_or_that_are_all_the_same_are_fitted():
    """The penalty keeps a logistic fit finite."""
    features = np.linspace(-1, 1, 100)[:, None]
    for rewards in ((features[:, 0] > 0).astype(float), np.zeros(100), np.ones(100)):
        predicted = fit_reward_model(features, np.zeros(100, dtype=int), rewards, np.arange(100), 1)
        assert np.mean(np.abs(predicted[:, 0] - rewards)) < 0.15


def test_fewer_customers_than_folds_are_refused():
    """And fewer than two folds."""
    zeros = np.zeros(8, dtype=int)
    for folds in (5, 1):
        with pytest.raises(ValueError, match=f"in {folds} folds"):
            fit_reward_model(np.zeros((8, 1)), zeros, np.zeros(8), np.arange(8) % 4, 1, folds)


# --- Coverage ---

RUNS = 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "base", "floor", "money", "customers"),
    [(3, -3.0, 0.1, 0.0, 250), (7, -2.0, 0.1, 0.7, 400)],
    ids=["clicks", "money"],
)
def test_intervals_cover_the_true_value_at_the_nominal_rate(seed, base, floor, money, customers):
    """95 of 100 intervals hold the true value, for three policies, dependent decisions and weights up to 60.

    Few rewards and heavy weights: normal intervals hold it in about 90 of 100 here. Each rate is within three
    standard errors of its 400 runs, and not so high that intervals are needlessly wide.
    The guaranteed interval holds at least as often.
    """
    world = a_world(seed, base, floor, money)
    names = ("ips", "snips", "dr", "change", *(() if money else ("bernstein",)))
    missed = {(policy, name): 0 for policy in world.targets for name in names}
    earned = true_value(world, world.logged)
    for run in range(RUNS):
        s = a_sample(world, np.random.default_rng((seed, run)), customers)
        predicted = fit_reward_model(np.eye(8)[s.kinds], s.actions, s.rewards, s.clusters, 6)
        for policy, target in world.targets.items():
            truth, index = true_value(world, target), np.arange(len(s.kinds))
            v_target = (predicted * target[s.kinds]).sum(axis=1)
            arguments = (target[s.kinds, s.actions], s.clusters, predicted[index, s.actions], v_target)
            seen = estimate(s.rewards, s.logged, *arguments, reward_range=None if money else (0, 1))
            for each in (*seen.estimates, seen.change):
                if (policy, each.estimator) in missed:
                    value = truth - earned if each.estimator == "change" else truth
                    missed[policy, each.estimator] += not each.low <= value <= each.high
    covered = {key: 1 - count / RUNS for key, count in missed.items()}
    below = 3 * np.sqrt(0.95 * 0.05 / RUNS)
    assert min(covered.values()) >= 0.95 - below, covered
    assert 0.94 <= np.mean([rate for (_, name), rate in covered.items() if name != "bernstein"]) <= 0.98, covered


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_the_order_of_rows_does_not_matter(seed):
    """Without a model, whose folds follow the customers' names, a report is the same for any order."""
    kept = rows(60, features=None)
    order = np.random.default_rng(seed).permutation(60)
    first, second = evaluate(kept), evaluate([kept[index] for index in order])
    assert [e.low for e in first.estimates] == pytest.approx([e.low for e in second.estimates])
