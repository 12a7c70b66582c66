from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.broker import BrokerKind, BrokerUnavailable
from agents.children import Children
from benchmarks.learning import latency
from benchmarks.learning.__main__ import WRONG, main
from benchmarks.learning.latency import (
    MODEL,
    Leg,
    Seen,
    Sizes,
    Taught,
    examples_of,
    known_seconds,
    learned_at,
    rows,
    run_leg,
    taught_by,
    write_config,
)
from benchmarks.load import LoadFailed
from benchmarks.stream import Bench
from config.load import load_directory
from tests.agents.teaching import an_example

TINY = Sizes(1, 4, 60)


def leg(factor):
    """A leg as it would be measured on a machine slower by a factor."""
    return Leg([factor * ms for ms in range(1, 101)], [0.1 * factor, 0.4 * factor], 5, 0.1)


@pytest.mark.parametrize(
    ("version", "examples"),
    [("linear.120.0a1b", 120), ("tripped.linear.7.ff", 7), ("a.b.3.c", 3), ("untrained", 0), ("", 0), ("a.b.c", 0)],
)
def test_versions_tell_how_much_was_learned(version, examples):
    """The number before the digest; nothing is known of a version of another form."""
    assert examples_of(version) == examples


def test_answers_are_found_in_the_log():
    """An answer counts as learned in a model with as many examples as the log has up to it; exposures do not."""
    log = [an_example(n) for n in range(4)]
    staged = [
        msgspec.structs.replace(each, decision_id=f"d{n // 2}", stage="answered" if n % 2 else "exposed")
        for n, each in enumerate(log)
    ]
    assert learned_at(map(msgspec.json.encode, staged)) == {"d0": 2, "d1": 4}


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50)), min_size=1), st.integers(1, 50), st.floats(-10, 0))
def test_an_outcome_is_known_at_the_first_decision_that_shows_it(read, needed, published):
    """In whatever order decisions are read; what none shows lasts until the last of them, and no less."""
    seen = [Seen(at, number, examples) for number, (at, examples) in enumerate(read)]
    expected = min((each.at for each in seen if each.examples >= needed), default=max(each.at for each in seen))
    assert known_seconds({"d": published}, {"d": needed}, seen) == [expected - published]
    assert known_seconds({"d": published}, {}, seen) == [max(each.at for each in seen) - published]


def test_rows_compare_turn_by_turn():
    """One over the other within each turn, and targets missed when learning costs or takes too much."""
    turns = [{"on": leg(factor), "off": leg(2.0), "none": leg(1.0)} for factor in (2.0, 2.1, 3.0)]
    found = {each.metric: each for each in rows(turns, TINY)}
    ratio = found["learning.p99-on-over-off"]
    assert (ratio.value, ratio.low, ratio.high, ratio.met) == (pytest.approx(1.05), 1.0, 1.5, True)
    assert found["learning.outcome-to-decision-p95"].value == pytest.approx(0.84)
    assert found["learning.outcome-to-decision-p95"].met
    slow = {each.metric: each for each in rows([{"on": leg(3.0), "off": leg(1.0), "none": leg(1.0)}], TINY)}
    assert [name for name, each in slow.items() if not each.met] == [
        "learning.p99-on-over-off",
        "learning.outcome-to-decision-p95",
    ]


def test_the_model_scores_every_candidate(tmp_path):
    """The configuration is valid, and as large as the rows say."""
    write_config(tmp_path, "batuta.", models=True)
    repertoire = load_directory(tmp_path)
    assert [rule.id for rule in repertoire.models] == [MODEL]
    assert len(repertoire.features.features) == 15
    assert len(repertoire.candidates) == 80
    (rule,) = repertoire.models
    assert not any((rule.scope.channels, rule.scope.actions, rule.scope.groups, rule.scope.issues, rule.scope.tags))


@pytest.mark.parametrize("error", [LoadFailed("a leg stalled"), BrokerUnavailable("no Java")], ids=repr)
def test_what_cannot_be_measured_is_said_in_one_line(monkeypatch, capsys, error):
    """And exit code 1, without a report."""

    def measure(*, quick):
        raise error

    monkeypatch.setattr(latency, "measure", measure)
    assert main(["latency"]) == WRONG
    assert capsys.readouterr().err == f"{error}\n"


def test_legs_learn_or_do_not(broker, unique_prefix):
    """A worker with a learner shows in its decisions what it was told of; one without goes on with what there was."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker refuses idempotent producers")
    with closing(Children()) as children, ProcessPoolExecutor(1, get_context("spawn")) as publisher:
        bench = Bench(broker.bootstrap, children, publisher)
        on = run_leg("on", f"{unique_prefix}on.", TINY, bench, Taught())
        taught = taught_by(f"{unique_prefix}on.", broker.bootstrap)
        off = run_leg("off", f"{unique_prefix}off.", TINY, bench, taught)
    assert on.versions > 1
    assert 0 < on.known_seconds[0] <= on.known_seconds[-1] < 4
    assert len(taught.examples) > 240
    assert len(taught.models) == 2
    assert off.versions == 1
    assert len(on.latencies_ms) == len(off.latencies_ms) == 216
