"""How many rewards are still to come: the life table against simulated delays whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import delay
from models.delay import AGES, LEAST, Delays
from models.learner import Arm

HOUR_MS = 3_600_000
WINDOW_MS = 7 * 24 * HOUR_MS
OLD, YOUNG = Arm("g", "old", "t"), Arm("g", "young", "t")
DELAYS = {
    "exponential": lambda rng, n: rng.exponential(WINDOW_MS / 5, n),
    "late": lambda rng, n: WINDOW_MS * rng.beta(6, 3, n),
}


def _play(kind: str, seed: int, windows: float = 4.0, shown: int = 20_000):
    """Exposures of an arm all along and of another in the last four fifths of a window; rates so far and true ones."""
    rng = np.random.default_rng(seed)
    now_ms = int(windows * WINDOW_MS)
    delays = Delays()
    events = []
    rates: dict[Arm, tuple[float, float]] = {}
    for arm, rate, since in ((OLD, 0.3, 0.0), (YOUNG, 0.5, now_ms - 0.8 * WINDOW_MS)):
        n = int(shown * (now_ms - since) / now_ms)
        at = np.sort(rng.uniform(since, now_ms, n))
        late = DELAYS[kind](rng, n)
        takes = (rng.random(n) < rate) & (late <= WINDOW_MS)
        events += [(int(t), arm, None) for t in at]
        events += [(int(t + d), arm, int(d)) for t, d in zip(at[takes], late[takes], strict=True) if t + d <= now_ms]
        come = sum(1 for t, d in zip(at[takes], late[takes], strict=True) if t + d <= now_ms)
        rates[arm] = come / n, rate * np.mean(DELAYS[kind](rng, 200_000) <= WINDOW_MS)
    for at_ms, arm, late_ms in sorted(events, key=lambda each: (each[0], each[1], each[2] or 0)):
        if late_ms is None:
            delays.exposed(arm, at_ms, WINDOW_MS)
        else:
            delays.rewarded(arm, late_ms, WINDOW_MS)
    return delays, delays.maturity(now_ms), rates


@pytest.mark.parametrize("kind", sorted(DELAYS))
def test_a_rate_so_far_over_its_maturity_is_the_true_rate(kind):
    """Within noise, for a new arm as well, of which the rate so far is far off; averaged over seeds."""
    played = [_play(kind, seed) for seed in range(4)]
    for arm, naive_is_off in ((OLD, 0.02), (YOUNG, 0.2)):
        naive = np.mean([rates[arm][0] / rates[arm][1] for _, _, rates in played])
        corrected = np.mean([rates[arm][0] / maturity[arm] / rates[arm][1] for _, maturity, rates in played])
        assert naive < 1 - naive_is_off
        assert corrected == pytest.approx(1, abs=0.04)


def test_in_the_first_window_constant_incidence_is_assumed():
    """A third of the window lived, rewards uniform over it: about a sixth of them have come."""
    delays = Delays()
    rng = np.random.default_rng(1)
    now_ms = WINDOW_MS // 3
    for at in np.sort(rng.uniform(0, now_ms, 5000)):
        delays.exposed(OLD, int(at), WINDOW_MS)
        late = int(rng.uniform(0, WINDOW_MS))
        if at + late <= now_ms:
            delays.rewarded(OLD, late, WINDOW_MS)
    assert delays.maturity(now_ms)[OLD] == pytest.approx(1 / 6, rel=0.1)


def test_old_exposures_are_mature():
    """All of an arm's exposures older than the window: 1; an arm never exposed is not mentioned."""
    delays, _, _ = _play("exponential", 0, shown=200)
    later = delays.maturity(6 * WINDOW_MS)
    assert later == {OLD: 1.0, YOUNG: 1.0}
    assert Delays().maturity(0) == {}


def test_without_rewards_they_are_taken_to_come_evenly():
    """Half the window lived: a half; right after the exposure: not less than the least."""
    delays = Delays(prior_exposures=0)
    delays.exposed(OLD, 0, WINDOW_MS)
    assert delays.maturity(WINDOW_MS // 2)[OLD] == pytest.approx(0.5, abs=1 / AGES)
    assert delays.maturity(0)[OLD] == LEAST


def test_a_new_arm_begins_mature():
    """One exposure hardly moves a prior, so it is hardly divided; a thousand are."""
    delays = Delays()
    delays.exposed(YOUNG, 0, WINDOW_MS)
    assert delays.maturity(0)[YOUNG] == pytest.approx(10 / 11)
    for _ in range(1000):
        delays.exposed(YOUNG, 0, WINDOW_MS)
    assert delays.maturity(0)[YOUNG] == LEAST


def test_maturity_grows_as_time_passes():
    """Between exposures nothing but age changes, and it only adds."""
    delays, _, _ = _play("late", 2, shown=500)
    seen = [delays.maturity(int((4 + n / 10) * WINDOW_MS))[YOUNG] for n in range(12)]
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1]
    assert seen[-1] == 1


def test_rewards_after_the_window_are_not_counted():
    """They belong to no age of the table."""
    delays = Delays()
    delays.exposed(OLD, 0, WINDOW_MS)
    before = delays.dump()
    delays.rewarded(OLD, WINDOW_MS + 1, WINDOW_MS)
    delays.rewarded(OLD, 1, 2 * WINDOW_MS)
    assert delays.dump() == before


def test_windows_have_their_own_tables():
    """An arm in two windows is as mature as its exposures together."""
    delays = Delays(prior_exposures=0)
    delays.exposed(OLD, 0, 10 * HOUR_MS)
    delays.exposed(OLD, 0, 1000 * HOUR_MS)
    assert delays.maturity(10 * HOUR_MS)[OLD] == pytest.approx((1 + 0.01) / 2, abs=1 / AGES)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from([OLD, YOUNG]), st.sampled_from([1, 3])), max_size=40),
    st.integers(0, 100),
    st.sampled_from([0.0, 10.0]),
)
def test_open_shares_count_exposures_whose_window_is_open(shown, later, prior):
    """One by one, over windows together; exposures an arm is taken to have had besides are closed. Nothing changes."""
    delays, width_ms = Delays(prior_exposures=prior), HOUR_MS
    # In the middle of a slot of time the table knows an age exactly; a longer window has wider slots.
    told = sorted(((place // each * each + each / 2) * width_ms, arm, each) for place, arm, each in shown)
    for at_ms, arm, windows in told:
        delays.exposed(arm, int(at_ms), windows * AGES * width_ms)
    now_ms = int((max([60, *(at_ms / width_ms for at_ms, _, _ in told)]) + later + 0.25) * width_ms)
    before = delays.dump()
    found = delays.open_shares(now_ms)
    assert found.keys() == delays.maturity(now_ms).keys() == {arm for _, arm, _ in told}
    for arm, share in found.items():
        ages = [(now_ms - at_ms, windows * AGES * width_ms) for at_ms, each, windows in told if each == arm]
        assert share == pytest.approx(sum(age < window for age, window in ages) / (prior + len(ages)))
    assert delays.dump() == before


def test_out_of_order_and_future_times_are_counted():
    """A straggler older than the window is mature at once, one from the future has not lived at all."""
    delays = Delays(prior_exposures=0)
    delays.exposed(YOUNG, 5 * WINDOW_MS, WINDOW_MS)
    delays.exposed(OLD, 0, WINDOW_MS)
    found = delays.maturity(4 * WINDOW_MS)
    assert found[OLD] == 1
    assert found[YOUNG] == LEAST


def test_memory_is_bounded():
    """The arm least exposed joins the unnamed ones, windows beyond the limit count as the most alike."""
    delays = Delays(max_arms=3)
    for n in range(10):
        for _ in range(n + 1):
            delays.exposed(Arm("g", f"a{n}", "t"), 0, WINDOW_MS)
    assert len(delays.maturity(0)) == 3
    many = Delays()
    for n in range(delay.MAX_WINDOWS + 20):
        many.exposed(OLD, 0, (n + 1) * HOUR_MS)
        many.rewarded(OLD, HOUR_MS // 2, (n + 1) * HOUR_MS)
    assert len(many._tables) == delay.MAX_WINDOWS
    assert len(many.dump()) < 100 * 1024


def test_a_table_follows_what_changes(monkeypatch):
    """Counts are halved at a limit, so that the delays of today prevail."""
    monkeypatch.setattr(delay, "FRESH_REWARDS", 200)
    delays = Delays()
    for n in range(4000):
        at_ms = n * WINDOW_MS // 100
        delays.exposed(OLD, at_ms, WINDOW_MS)
        delays.rewarded(OLD, int(WINDOW_MS * (0.1 if n < 2000 else 0.9)), WINDOW_MS)
    for _ in range(1000):
        delays.exposed(YOUNG, 40 * WINDOW_MS, WINDOW_MS)
    assert delays.maturity(int(40.5 * WINDOW_MS))[YOUNG] < 0.1


def test_dump_and_load_round_trip():
    """Equal bytes, equal maturities; what is no dump is refused."""
    delays, maturity, _ = _play("late", 3, shown=300)
    other = Delays()
    other.load(delays.dump())
    assert other.dump() == delays.dump()
    assert other.maturity(4 * WINDOW_MS) == maturity
    other.exposed(OLD, 4 * WINDOW_MS, WINDOW_MS)
    for broken in (b"", b"\xc1", delays.dump()[:40]):
        with pytest.raises(ValueError, match="not the dump"):
            other.load(broken)
