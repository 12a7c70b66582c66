"""Health: what a window of judged decisions shows, when losses rose, when a model is at fault and when it is well."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import metrics

from models.health import (
    LEAST,
    MOST_LOSS,
    WINDOW,
    BaseRate,
    Drift,
    Drifted,
    Judged,
    Numbers,
    Recovered,
    Tripped,
    Window,
    auc,
    calibration,
    fault,
    has_recovered,
    is_behind_prior,
    log_loss,
)

RATES = st.floats(0, 1)
JUDGED = st.builds(Judged, RATES, RATES, RATES, RATES)


def _window(says, *, truth=0.2, base=None, prior=0.5, n=WINDOW, seed=0) -> Numbers:
    """Numbers of a forecaster of a yes of chance `truth`, where the base rate knows that chance."""
    rng = np.random.default_rng(seed)
    chances = rng.choice(np.atleast_1d(truth), n)
    rewards = (rng.random(n) < chances).astype(float)
    known = float(np.mean(truth)) if base is None else base
    said = [Judged(says(p), known, prior, r) for p, r in zip(chances.tolist(), rewards.tolist(), strict=True)]
    return Window(said).numbers()


@given(RATES, RATES)
def test_a_loss_is_bounded(predicted, reward):
    """However sure a model was and however wrong, and for fractional rewards too."""
    assert 0.0 <= log_loss(predicted, reward) <= MOST_LOSS + 1e-12


@given(st.lists(JUDGED, min_size=1, max_size=60))
def test_mean_losses_are_those_of_single_decisions(judged):
    """The window computes them all at once."""
    numbers = Window(judged).numbers()
    assert numbers.logloss == pytest.approx(np.mean([log_loss(each.predicted, each.reward) for each in judged]))
    assert numbers.base_logloss == pytest.approx(np.mean([log_loss(each.base, each.reward) for each in judged]))
    assert numbers.prior_logloss == pytest.approx(np.mean([log_loss(each.prior, each.reward) for each in judged]))
    assert numbers.lead == pytest.approx(numbers.logloss - numbers.base_logloss)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_the_area_counts_pairs_in_the_right_order(ranked):
    """A half for ties; nothing to say without both kinds."""
    yes = [score for score, positive in ranked if positive]
    no = [score for score, positive in ranked if not positive]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in yes for b in no]
    found = auc(np.array([score / 5 for score, _ in ranked]), np.array([positive for _, positive in ranked], bool))
    assert found == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_the_area_is_rivers():
    """On distinct scores, where its rolling one needs no thresholds."""
    rng = np.random.default_rng(1)
    scores, positive = rng.random(300), rng.random(300) < 0.3
    reference = metrics.RollingROCAUC(window_size=300)
    for score, label in zip(scores.tolist(), positive.tolist(), strict=True):
        reference.update(label, score)
    assert auc(scores, positive) == pytest.approx(reference.get())


def test_the_calibration_error_of_a_constant_is_its_distance():
    """Half of them answer where a fifth was predicted."""
    error, excess = calibration(np.full(1_000, 0.2), np.tile([0.0, 1.0], 500))
    assert error == pytest.approx(0.3)
    assert 0.5 < excess < 0.6


@pytest.mark.parametrize("truth", [(0.01, 0.03), (0.1, 0.4), (0.02, 0.9)])
def test_what_chance_explains_is_no_miscalibration(truth):
    """The truth, told for rare and for frequent rewards, stays well below the bound."""
    for seed in range(20):
        assert _window(lambda p: p, truth=truth, seed=seed).calibration_excess < 0.25


@given(st.lists(JUDGED, max_size=30))
def test_a_window_goes_on_from_what_was_stored(judged):
    """Equal numbers of equal windows; the oldest go."""
    window = Window(judged)
    assert Window(window.dump()).numbers() == window.numbers()
    full = Window([Judged(1.0, 0.5, 0.5, 0.0)] * WINDOW)
    for each in judged:
        full.add(each)
    assert len(full) == WINDOW
    assert full.dump()[WINDOW - len(judged) :] == judged


@given(st.lists(JUDGED, max_size=30), st.integers(0, 40))
def test_a_window_may_forget(judged, latest):
    """All but the latest."""
    window = Window(judged)
    if latest:
        assert window.numbers(latest) == Window(judged[-latest:]).numbers()
    window.keep(latest)
    assert window.dump() == judged[max(0, len(judged) - latest) :]


def test_an_empty_window_says_nothing():
    """Neither good nor bad: no fault, no recovery, no reason to prefer the priors."""
    empty = Window().numbers()
    assert empty == Numbers()
    assert fault(empty, drifted=True) is None
    assert not has_recovered(empty)
    assert not is_behind_prior(empty)
    assert Window([Judged(0.5, 0.5, 0.5, 1.0)]).numbers().lead_error is None


@given(st.lists(RATES, max_size=50))
def test_a_base_rate_is_within_zero_and_one(rewards):
    """A half at first, and between the extremes of what it saw and that half."""
    base = BaseRate()
    assert base.rate == 0.5
    for each in rewards:
        base.add(each)
    assert 0.0 < base.rate < 1.0
    assert min([0.5, *rewards]) - 1e-12 <= base.rate <= max([0.5, *rewards]) + 1e-12


def test_a_base_rate_follows():
    """After three windows of another rate hardly anything of the one before is left."""
    base = BaseRate()
    for reward in (1.0, 0.0):
        for _ in range(3 * WINDOW):
            base.add(reward)
    assert base.rate == pytest.approx(math.exp(-3), abs=0.01)


# --- Drift ---


def _drifts(rates, seed=0) -> list[int]:
    """After how many decisions losses were said to have risen, of a model that says a tenth."""
    rng = np.random.default_rng(seed)
    drift = Drift()
    return [n for n, rate in enumerate(rates) if drift.add(log_loss(0.1, float(rng.random() < rate)))]


def test_a_rise_of_the_loss_is_found():
    """Within 200 decisions, on each of ten streams whose rate of answers rises from a tenth to a half."""
    for seed in range(10):
        found = _drifts([0.1] * 3_000 + [0.5] * 400, seed)
        assert next(n for n in found if n >= 3_000) < 3_200


def test_a_rise_says_since_when():
    """Not exactly, as ADWIN forgets in blocks; most of what was before the change is forgotten."""
    rng = np.random.default_rng(0)
    drift = Drift()
    for n, rate in enumerate([0.05] * 1_000 + [0.8] * 500):
        latest = drift.add(log_loss(0.05, float(rng.random() < rate)))
        if latest:
            assert n >= 1_000
            assert n - 999 <= latest < 300
            break
    else:
        pytest.fail("nothing was found")


def test_a_fall_of_the_loss_is_no_drift():
    """A model that gets better, as all do at first, is left alone."""
    assert [_drifts([0.5] * 1_000 + [0.05] * 1_000, seed) for seed in range(10)] == [[]] * 10


def test_a_steady_loss_is_rarely_a_drift():
    """At most one alarm in 40,000 decisions."""
    assert sum(len(_drifts([0.1] * 4_000, seed)) for seed in range(10)) <= 1


@pytest.mark.parametrize("at", [0, 1, 700, WINDOW, 2 * WINDOW, 2 * WINDOW + 1, 2_900, 3_100])
def test_the_watch_goes_on_from_what_was_stored(at):
    """To the same alarms, also where it has begun anew in between; what it stores is bounded."""
    rng = np.random.default_rng(2)
    losses = [log_loss(0.1, float(rng.random() < rate)) for rate in [0.1] * 3_000 + [0.6] * 500]
    whole, part = Drift(), Drift()
    for n, loss in enumerate(losses):
        if n == at:
            part = Drift(part.dump())
        assert whole.add(loss) == part.add(loss)
        assert len(part.dump()) <= 2 * WINDOW


# --- The breaker ---


def test_a_model_as_good_as_it_gets_is_at_no_fault():
    """The truth, and the base rate itself, drifted or not, on 40 windows."""
    for seed in range(40):
        for says in (lambda p: p, lambda _p: 0.25):
            assert fault(_window(says, truth=(0.1, 0.4), seed=seed), drifted=True) is None


def test_a_miscalibrated_model_that_is_worse_than_the_base_rate_is_at_fault():
    """It says two thirds where a fifth answers."""
    assert fault(_window(lambda _p: 0.66), drifted=False) == "miscalibration"


def test_a_drifted_model_that_is_worse_than_the_base_rate_is_at_fault():
    """Calibrated on the whole, and worse than the base rate since it mixes up who answers."""
    numbers = _window(lambda p: 0.45 - p, truth=(0.15, 0.3), base=0.225)
    calibrated = Numbers(**{**_fields(numbers), "calibration_excess": 0.0})
    assert fault(calibrated, drifted=True) == "drift"
    assert fault(calibrated, drifted=False) is None


def test_a_miscalibrated_model_that_beats_the_base_rate_serves():
    """It exaggerates, and still tells them apart."""
    numbers = _window(lambda p: 0.001 if p < 0.5 else 0.999, truth=(0.02, 0.98))
    assert fault(Numbers(**{**_fields(numbers), "calibration_excess": 1.0}), drifted=True) is None


def test_few_decisions_show_no_fault():
    """One short of what is needed, and no recovery either."""
    assert fault(_window(lambda _p: 0.66, n=LEAST - 1), drifted=True) is None
    assert fault(_window(lambda _p: 0.66, n=LEAST), drifted=True) == "drift"
    assert not has_recovered(_window(lambda p: p, truth=(0.05, 0.5), n=LEAST - 1))


def test_it_has_recovered_when_it_beats_the_base_rate():
    """By more than chance would; between that and the fault lies a margin in which nothing changes."""
    better = _window(lambda p: p, truth=(0.05, 0.5))
    assert has_recovered(better)
    same = _window(lambda _p: 0.2)
    barely = Numbers(**{**_fields(better), "lead": -0.5 * better.lead_error})
    for each in (same, barely):
        assert not has_recovered(each)
        assert fault(each, drifted=True) is None


def test_priors_that_are_worse_still_are_known():
    """A fallback has to be better than what it stands in for."""
    assert is_behind_prior(_window(lambda _p: 0.66, prior=0.3))
    assert not is_behind_prior(_window(lambda _p: 0.66, prior=0.9))


def _fields(numbers: Numbers) -> dict[str, object]:
    return {name: getattr(numbers, name) for name in Numbers.__struct_fields__}


def test_events_are_sentences():
    """They name the model, the learner, the figures, and what the operator may do."""
    numbers = _window(lambda _p: 0.66)
    figures = f"{numbers.logloss:.4f}"
    drifted = Drifted(model="offers", learner="main", numbers=numbers, at_ms=1)
    tripped = Tripped(model="offers", learner="main", why="drift", status="tripped", numbers=numbers, at_ms=1)
    serving = Tripped(model="offers", learner="main", why="drift", status="serving", numbers=numbers, at_ms=1)
    recovered = Recovered(model="offers", learner="main", replacement=True, numbers=Numbers(), at_ms=1)
    for each in (drifted, tripped, serving):
        assert "offers" in str(each)
        assert figures in str(each)
    assert "priors are served" in str(tripped)
    assert "it serves on" in str(serving)
    assert "the replacement of main" in str(recovered)
