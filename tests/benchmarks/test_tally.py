from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tally import signal_of, tally


def decision(signal: str, number: int = 1, action: str = "a") -> bytes:
    """A decision as far as the tally reads it."""
    return json.dumps({"decisionId": f"{signal}/{number}", "signalId": signal, "action": action}).encode()


SIGNALS = [f"s-{number}" for number in range(5)]
COMPLETE = [decision(each) for each in SIGNALS]


@given(st.permutations(COMPLETE), st.lists(st.sampled_from(COMPLETE)))
def test_one_content_under_one_id_per_signal_is_in_order_however_often_it_came(once, again):
    """At least once may repeat; the order does not matter."""
    found = tally(SIGNALS, [*once, *again])
    assert found.faults is None
    assert (found.signals, found.repeated) == (5, len(again))


def test_a_signal_without_a_decision_is_lost():
    """What is missing is counted, whatever else came."""
    found = tally(SIGNALS, COMPLETE[1:])
    assert found.lost == 1
    assert found.faults == "of 5 signals' decisions: 1 lost"


def test_an_id_with_two_contents_is_changed():
    """The same decision never says two things."""
    found = tally(SIGNALS, [*COMPLETE, decision("s-2", action="b")])
    assert (found.changed, found.conflicting, found.lost) == (1, 0, 0)
    assert found.faults is not None


def test_a_signal_with_two_ids_is_conflicting():
    """A signal that asks for one decision never gets two."""
    found = tally(SIGNALS, [*COMPLETE, decision("s-2", number=2)])
    assert (found.conflicting, found.changed, found.repeated) == (1, 0, 0)
    assert found.faults is not None


def test_a_decision_on_a_signal_that_asked_for_none_is_unasked():
    """Nothing comes out that nothing went in for."""
    found = tally(SIGNALS, [*COMPLETE, decision("s-9")])
    assert found.unasked == 1
    assert found.faults is not None


def test_a_decision_names_its_signal():
    """The id that latencies are matched by."""
    assert signal_of(COMPLETE[3]) == "s-3"
