"""Only what is done, and everything before it, is committed; what is read is read without gap or repetition."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.offsets import Offsets, Positions, TopicPartition
from tests.agents.kafka_in_memory import Stored

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
    spans = [offsets.begin(AT, first, last) for first, last in pairwise([start, *ends])]
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
    first, second = offsets.begin(AT, 10, 12), offsets.begin(AT, 12, 15)
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
    old = offsets.begin(AT, 0, 5)
    offsets.close([AT])
    offsets.finish(AT, old)
    offsets.open({AT: 2})
    offsets.finish(AT, old)
    assert offsets.committable() == {}
    assert (offsets.opened(), offsets.next_offset(AT)) == ([AT], 2)


@pytest.mark.parametrize(("start", "end"), [(6, 9), (8, 9), (7, 7)])
def test_lost_or_repeated_batch_is_noticed(start, end):
    """A batch that does not begin where the one before it ended is a bug, and said so before anything is handled."""
    offsets = Offsets()
    offsets.open({AT: 7})
    with pytest.raises(ValueError, match="expected them to start at 7"):
        offsets.begin(AT, start, end)


FATES = st.sampled_from(["delivered", "refused", "late", "again", "rebalance"])


@given(st.lists(st.tuples(FATES, st.integers(1, 4)), max_size=40))
def test_reading_has_no_gap_and_no_repetition(fetches):
    """Whatever happens to fetched batches, each assignment delivers the records from its start on, one by one."""
    positions = Positions()
    positions.open({AT: 0})
    start = cursor = 0
    delivered: list[int] = []
    for fate, size in fetches:
        cursor = positions.to_seek().get(AT, cursor)
        if fate == "again":
            cursor = max(0, cursor - 1)
        opening = positions.opening
        batch = [Stored(cursor + index, 1, None, None, ()) for index in range(size)]
        cursor += size
        if fate == "refused":
            positions.refuse(AT)
        elif fate in ("rebalance", "late"):
            positions.close()
            if fate == "rebalance":
                assert positions.admit(AT, batch, opening) == ()
            start = cursor = len(delivered)
            delivered = []
            positions.open({AT: start})
            assert positions.admit(AT, batch, opening) == (), "fetched before the partitions came back"
        else:
            admitted = positions.admit(AT, batch, opening)
            if admitted:
                assert positions.advance(AT, admitted[-1].offset + 1) == start + len(delivered)
            delivered += [record.offset for record in admitted]
        assert delivered == list(range(start, start + len(delivered)))


def test_gaps_of_the_log_itself_are_no_obstacle():
    """Offsets that a topic does not have (transaction markers, expired records) are passed over."""
    positions = Positions()
    positions.open({AT: 0})
    batch = [Stored(offset, 1, None, None, ()) for offset in (4, 5, 9)]
    assert positions.admit(AT, batch, positions.opening) == batch
    assert positions.advance(AT, 10) == 0
    assert positions.admit(AT, batch, positions.opening) == []
    assert positions.to_seek() == {}


def test_delivered_is_unknown_while_something_is_fetched_again():
    """Where a fetch stands says nothing when some of it was not delivered."""
    positions = Positions()
    assert positions.delivered(AT) is None
    positions.open({AT: 3})
    assert positions.delivered(AT) == 3
    positions.advance(AT, 5)
    assert positions.delivered(AT) == 5
    positions.refuse(AT)
    assert positions.delivered(AT) is None
    positions.to_seek()
    assert positions.delivered(AT) == 5
