from __future__ import annotations

from contextlib import closing

import pytest

from agents.broker import BrokerKind
from agents.children import Children
from benchmarks import recovery
from benchmarks.recovery import Bench, Heir, Life, Trial, patterns, profiles, publish, run_trial
from engine.profile import decode_profile


def test_profiles_are_of_different_customers_and_nothing_is_left_to_send():
    """As many as asked for, each under its own name, with the history of a customer and an empty outbox."""
    alike = patterns()
    made = dict(profiles(len(alike) + 10, alike))
    assert len(made) == len(alike) + 10
    for name, value in made.items():
        profile = decode_profile(value)
        assert profile.customer_id == name
        assert not profile.outbox
    assert any(decode_profile(value).contacts for value in made.values())


@pytest.mark.slow
def test_a_trial_restores_every_profile(broker, unique_prefix, tmp_path):
    """In memory, into an empty copy, from a full one and from a standby: all are there, and the times come out."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker refuses idempotent producers")
    publish(broker.bootstrap, unique_prefix, 500, patterns())
    with closing(Children()) as children:
        trial = run_trial(unique_prefix, 0, Bench(broker.bootstrap, tmp_path, children), ["standby"])
    heir = trial.heirs["standby"]
    assert {each.profiles for each in (trial.memory, trial.cold, trial.warm, heir)} == {500}
    assert all(0 < life.restoring < life.ready for life in (trial.memory, trial.cold, trial.warm))
    assert heir.restoring > 0
    assert heir.ready > 0
    assert trial.bare > 0


def test_a_missing_profile_is_a_fault():
    """Whoever is ready without all of its state is not ready."""
    whole, torn, heir = Life(1.0, 0.5, 1, 10), Life(1.0, 0.5, 1, 9), Heir(1.0, 0.5, 2, 8)
    assert not [*recovery._missing(10, [Trial(1.0, whole, whole, whole, {})])]
    assert [*recovery._missing(10, [Trial(1.0, whole, torn, whole, {"standby": heir})])] == [
        "9 of 10 profiles were there, turn 0, cold",
        "8 of 10 profiles were there, turn 0, standby",
    ]


def test_the_loop_is_free_between_signals(monkeypatch):
    """The longest time between two turns is measured over work that was done."""
    monkeypatch.setattr(recovery, "STALL_SIGNALS", 50)
    cpu_ms, wall_ms = recovery.stalls(20)
    assert 0 < cpu_ms <= wall_ms * 1.5
