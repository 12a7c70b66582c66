from __future__ import annotations

from math import isnan

import pytest

from benchmarks import side_by_side as section
from benchmarks.latencies import Latencies
from benchmarks.side_by_side import COMMON, OWN_SHARES
from benchmarks.stream import CaughtUp, Paced, Sizes, Trial
from benchmarks.subjects import AIOKAFKA, BATUTA, CONFLUENT, ECHO, FAUST, QUIXSTREAMS
from benchmarks.tally import tally

FORM = section.Form(1, Sizes(100, 10))
PER_SECOND = {BATUTA: 2000.0, AIOKAFKA: 2500.0, CONFLUENT: 2600.0, QUIXSTREAMS: 1600.0, FAUST: 400.0, ECHO: 9000.0}
STAGES = {"decided": 3.0, "handle": 0.2, "remember": 1.25, "publish": 0.5}


def trial(name, decisions=(b'{"decisionId": "d", "signalId": "s"}',)):
    """A trial whose numbers follow from how much the subject manages."""
    per_second = PER_SECOND[name]
    rates = section._rates(600.0, own=name != ECHO)(per_second)
    paced = {part: Paced(rate, Latencies.of([1 / per_second] * 100), 9.0, 0.1, STAGES) for part, rate in rates.items()}
    return Trial(CaughtUp(per_second, 1e5 / per_second, 500.0), paced, 9_000, tally(["s"], decisions), 1.5)


def rows_of(turns):
    """Rows by their metric."""
    return {row.metric: row for row in section._rows(turns, FORM)}


def test_the_engine_is_compared_with_everybody_it_has_a_target_for():
    """Ratios are the engine's number over the other's, with what is asked of them."""
    rows = rows_of([{name: trial(name) for name in PER_SECOND}])
    assert rows["stream.saturation.over-quixstreams"].value == 1.25
    assert rows["stream.saturation.over-faust"].value == 5.0
    assert rows["stream.cpu.over-aiokafka-loop"].value == 1.25
    assert rows["stream.latency-p50.over-echo"].value == pytest.approx(4.5, rel=0.01)
    asked = {metric: (row.target, row.met) for metric, row in rows.items() if row.target}
    assert asked["stream.saturation.over-faust"] == (">= 4", True)
    assert asked["stream.latency-p50.over-echo"] == ("<= 1.5", False)
    assert asked["stream.latency-p99.batuta"] == ("< 10", True)
    assert asked["stream.lost.batuta"] == ("== 0", True)


def test_a_decision_s_milliseconds_add_up():
    """What passes before a batch is handled is what the worker's own stages leave of the whole."""
    rows = rows_of([{name: trial(name) for name in PER_SECOND}])
    way = {name: rows[f"stream.way.{name}"].value for name in ("arrive", "handle", "remember", "publish")}
    assert way == {"arrive": 1.25, "handle": 0.2, "remember": 1.25, "publish": 0.5}


def test_a_subject_that_cannot_keep_the_common_rate_has_no_number_there():
    """600 signals/s are too much for one that manages 400; it is measured at shares of its own."""
    turns = [{name: trial(name) for name in PER_SECOND}]
    assert COMMON not in turns[0][FAUST].paced
    rows = rows_of(turns)
    assert f"stream.latency-p50.{FAUST}" not in rows
    assert all(f"stream.latency-p99-at-{share}.{FAUST}" in rows for share in OWN_SHARES)
    assert not any(isnan(row.value) for row in rows.values())
    assert f"stream.latency-p99-at-50%.{ECHO}" not in rows


def test_losses_of_ours_are_faults_and_those_of_others_are_told():
    """A decision lost by the engine fails the run; one lost by a framework is a row."""
    well = {name: trial(name) for name in PER_SECOND}
    assert list(section._faults([well])) == []
    lossy = {**well, FAUST: trial(FAUST, decisions=()), BATUTA: trial(BATUTA, decisions=())}
    assert list(section._faults([well, lossy])) == ["stream, batuta, turn 2: of 1 signals' decisions: 1 lost"]
    rows = rows_of([lossy])
    assert (rows[f"stream.lost.{FAUST}"].value, rows[f"stream.lost.{FAUST}"].target) == (1, "")
    assert not rows["stream.lost.batuta"].met


def test_one_rate_is_common_to_all_who_can_keep_it():
    """It is set by what the engine manages, and given to the engine and the echo even if it is too much."""
    assert section._rates(None)(2000.0)[COMMON] == 600.0
    assert section._rates(600.0)(2600.0)[COMMON] == 600.0
    assert COMMON not in section._rates(600.0)(700.0)
    assert section._rates(600.0, whatever=True)(700.0)[COMMON] == 600.0
    assert section._rates(600.0, own=False)(9000.0) == {COMMON: 600.0}
    assert section._rates(600.0)(1000.0)["50%"] == 500.0


def test_pictures_show_everybody():
    """The distribution of latencies, and bars for speed and CPU."""
    plots = section._plots([{name: trial(name) for name in PER_SECOND}])
    assert set(plots) == {"latency", "saturation", "cpu"}
    assert all(name in plots["saturation"] for name in PER_SECOND)
