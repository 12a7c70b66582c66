"""Everybody is woken once they are due, not before, and the wheel does not grow beyond its customers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.timers import Timers

CUSTOMERS = st.sampled_from(["ana", "bea", "carl", "dora"])


@given(st.lists(st.tuples(CUSTOMERS, st.integers(0, 100))), st.integers(0, 100))
def test_woken_are_exactly_those_due(scheduled, now_ms):
    """Due are the customers whose earliest moment has come, in that order; the others stay."""
    timers = Timers()
    earliest: dict[str, int] = {}
    for customer, due_ms in scheduled:
        timers.schedule(customer, due_ms)
        earliest[customer] = min(due_ms, earliest.get(customer, due_ms))
    assert len(timers) == len(earliest)
    assert timers.next_due() == min(earliest.values(), default=None)
    woken = timers.pop_due(now_ms, limit=100)
    assert [due_ms for _, due_ms in woken] == sorted(due_ms for _, due_ms in woken)
    assert dict(woken) == {each: due_ms for each, due_ms in earliest.items() if due_ms <= now_ms}
    assert timers.pop_due(now_ms, limit=100) == []
    assert len(timers) == len(earliest) - len(woken)


def test_limit_leaves_the_rest_for_the_next_time():
    """No more than `limit` customers are woken at once, earliest first."""
    timers = Timers()
    for number in range(10):
        timers.schedule(f"c{number}", 10 - number)
    assert timers.pop_due(100, limit=3) == [("c9", 1), ("c8", 2), ("c7", 3)]
    assert len(timers) == 7


def test_customer_can_be_scheduled_again_after_waking():
    """A customer that was woken may wait for a later moment, and an earlier one replaces it."""
    timers = Timers()
    timers.schedule("ana", 10)
    assert timers.pop_due(10, limit=1) == [("ana", 10)]
    timers.schedule("ana", 50)
    timers.schedule("ana", 40)
    assert timers.next_due() == 40
    assert timers.pop_due(60, limit=5) == [("ana", 40)]
    assert timers.next_due() is None
