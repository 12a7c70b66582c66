from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.latencies import Latencies
from benchmarks.results import percentile

SECONDS = st.lists(st.floats(0.000_1, 60), min_size=1, max_size=200)


@given(SECONDS, st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_percentiles_are_right_to_three_digits(seconds, share):
    """The histogram tells the nearest rank, however long the tail is."""
    exact = 1000 * percentile(sorted(seconds), share)
    assert Latencies.of(seconds).ms(share) == pytest.approx(exact, rel=0.002, abs=0.001)


@given(SECONDS, SECONDS)
def test_distributions_add_up(first, second):
    """Added, they are the distribution of both."""
    added, both = Latencies.of(first), Latencies.of([*first, *second])
    added.add(Latencies.of(second))
    assert len(added) == len(both) == len(first) + len(second)
    assert [added.ms(share) for share in (0.1, 0.5, 0.99)] == [both.ms(share) for share in (0.1, 0.5, 0.99)]


def test_what_is_out_of_range_counts_at_its_end():
    """A clock that ran backwards, or an answer after an hour, is not lost."""
    assert Latencies.of([-1.0]).ms(0.5) == 0.001
    assert Latencies.of([3600.0]).ms(0.5) == pytest.approx(600_000, rel=0.001)
