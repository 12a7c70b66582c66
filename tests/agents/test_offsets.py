"""Only what is done, and everything before it, is ever committed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.offsets import Offsets, TopicPartition

AT = TopicPartition("batuta.signals", 3)


@given(st.integers(0, 1000), st.lists(st.integers(1, 50), max_size=20), st.randoms(use_true_random=False))
def test_committable_is_the_done_prefix(start, sizes, random):
    """Whatever the order in which batches get done, the committable offset is the end of the unbroken done prefix."""
    offsets = Offsets()
    offsets.open({AT: start})
    ends, end = [], start
    for size in sizes:
        end += size
        ends.append(end)
    spans = [offsets.begin(AT, each) for each in ends]
    done: set[int] = set()
    for index in random.sample(range(len(spans)), len(spans)):
        offsets.finish(AT, spans[index])
        done.add(index)
        prefix = next((each for each in range(len(spans)) if each not in done), len(spans))
        expected = {AT: ends[prefix - 1]} if prefix else {}
        assert offsets.committable() == expected
        assert offsets.pending() == len(spans) - prefix


def test_committed_is_not_committed_again():
    """After a commit only later offsets are committable, and an older confirmation takes nothing back."""
    offsets = Offsets()
    offsets.open({AT: 10})
    first, second = offsets.begin(AT, 12), offsets.begin(AT, 15)
    offsets.finish(AT, first)
    offsets.commit(offsets.committable())
    assert (offsets.committable(), offsets.committed(AT)) == ({}, 12)
    offsets.finish(AT, second)
    assert offsets.committable() == {AT: 15}
    offsets.commit({AT: 15})
    offsets.commit({AT: 12})
    assert offsets.committed(AT) == 15


def test_batch_of_an_earlier_assignment_changes_nothing():
    """A batch that gets done after its partition was taken away and given back is not counted."""
    offsets = Offsets()
    offsets.open({AT: 0})
    old = offsets.begin(AT, 5)
    offsets.close([AT])
    offsets.finish(AT, old)
    offsets.open({AT: 2})
    offsets.finish(AT, old)
    assert offsets.committable() == {}
    assert (offsets.opened(), offsets.next_offset(AT)) == ([AT], 2)


def test_beginning_the_same_records_twice_is_refused():
    """A batch that does not lie after those begun is a bug, and said so."""
    offsets = Offsets()
    offsets.open({AT: 7})
    with pytest.raises(ValueError, match=r"batuta.signals\[3\]: offset 7 follows 7"):
        offsets.begin(AT, 7)
