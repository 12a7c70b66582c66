"""The numbers of the contract, in Prometheus' own format, with bounded labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agents.metrics import COUNTERS, GAUGES, MAX_SERIES, MAX_STAGES, TOLD, Histogram, Metrics, exposition

CONTRACT = {
    "batuta_signals": {"type", "result"},
    "batuta_decisions": {"action", "channel", "trigger", "control"},
    "batuta_decision_seconds": set(),
    "batuta_stage_seconds": {"stage"},
    "batuta_rejects": {"topic", "code"},
    "batuta_outcomes": {"type", "result"},
    "batuta_messages": {"kind", "result"},
    "batuta_suppressed": {"stage"},
    "batuta_learning_examples": {"model"},
    "batuta_learning_results": {"model", "result"},
    "batuta_state_copies": {"result"},
    "batuta_model_snapshots": {"model", "result"},
    "batuta_model_age_seconds": {"model"},
    "batuta_model_examples": {"model"},
    "batuta_model_tripped": {"model"},
    "batuta_model_logloss": {"model"},
    "batuta_model_base_logloss": {"model"},
    "batuta_model_auc": {"model"},
    "batuta_model_calibration_error": {"model"},
    "batuta_model_drift": {"model"},
    "batuta_profiles": {"partition"},
    "batuta_timers_pending": {"partition"},
    "batuta_consumer_lag": {"topic", "partition"},
    "batuta_recovery_seconds": set(),
    "batuta_recovery_records": set(),
    "batuta_standby_lag": {"topic", "partition"},
    "batuta_batches_in_flight": set(),
    "batuta_tasks": set(),
    "batuta_memory_blocks": set(),
    "batuta_build_info": {"version", "python"},
}
"""Metric families of a worker."""


def _gauges():
    return {
        "profiles": {("0",): 5},
        "timers_pending": {("0",): 1},
        "consumer_lag": {("batuta.signals", "0"): 2},
        "recovery_seconds": {(): 0.5},
        "recovery_records": {(): 7},
        "standby_lag": {("batuta.profiles", "1"): 2},
        "batches_in_flight": {(): 3},
        "tasks": {(): 20},
        "memory_blocks": {(): 100_000},
    }


def _models():
    """What a feed tells: every gauge and counter of models."""
    told = {name: labels for name, (_, labels) in {**GAUGES, **TOLD}.items() if "model" in labels}
    return {name: {tuple(label[0] for label in labels): 0.25} for name, labels in told.items()}


def test_scrape_shows_the_contract():
    """Every family of the contract is there by name and labels, and reads back with the values counted."""
    metrics = Metrics(_gauges, _models)
    for name, (_, labels) in COUNTERS.items():
        metrics.add({(name, *labels): 3})
    metrics.observe_decision(0.004)
    metrics.observe_stage("handle", 0.0001)
    families = {family.name: family for family in text_string_to_metric_families(exposition(metrics).decode())}
    assert families.keys() == CONTRACT.keys()
    for name, labels in CONTRACT.items():
        samples = families[name].samples
        assert {key for sample in samples for key in sample.labels} - {"le"} == labels, name
    assert {sample.value for sample in families["batuta_signals"].samples} == {3.0}
    assert families["batuta_profiles"].samples[0].value == 5.0
    (drift,) = families["batuta_model_drift"].samples
    assert (drift.name, drift.value) == ("batuta_model_drift_total", 0.25)


@given(st.lists(st.floats(-1, 100, allow_nan=False)))
def test_histogram_counts_each_value_below_its_bounds(values):
    """Cumulative buckets hold exactly the values up to their bound; a negative duration counts as none."""
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    seen = [max(value, 0.0) for value in values]
    for bound, count in histogram.buckets():
        assert count == sum(value <= float(bound) for value in seen)
    assert histogram.total == pytest.approx(sum(seen))


def test_labels_are_bounded():
    """Beyond the limit of label combinations, what is new is counted under `other`; what is known goes on."""
    metrics = Metrics()
    for number in range(MAX_SERIES + 50):
        metrics.add({("suppressed", f"stage-{number}"): 1})
    metrics.add({("suppressed", "stage-0"): 1})
    assert metrics.count("suppressed", "other") == 50
    assert metrics.count("suppressed", "stage-0") == 2


def test_unknown_counter_is_a_bug():
    """A counter the contract does not know is not invented on the way; stages stay few."""
    metrics = Metrics()
    with pytest.raises(KeyError, match="weather"):
        metrics.add({("weather", "sunny"): 1})
    for number in range(MAX_STAGES):
        metrics.observe_stage(f"stage-{number}", 0.1)
    with pytest.raises(ValueError, match="one more than"):
        metrics.observe_stage("stage-x", 0.1)
