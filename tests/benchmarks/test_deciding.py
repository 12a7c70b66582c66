from __future__ import annotations

from benchmarks import workload
from benchmarks.deciding import ROLE, Deciding
from engine.murmur import partition_of
from engine.record import Record

PARTITIONS, CUSTOMERS = 2, 20
START_MS = 1_790_000_000_000


def records():
    """Customers introduce themselves, then signal, each on the partition of its key."""
    ends = [0] * PARTITIONS
    for number, each in enumerate([*workload.introductions(CUSTOMERS), *workload.signals(120, CUSTOMERS, "run")]):
        partition = partition_of(each.key.decode(), PARTITIONS)
        yield Record(ROLE, partition, ends[partition], START_MS + 60_000 * number, each.key, each.value)
        ends[partition] += 1


def test_all_subjects_decide_alike():
    """State in memory, or bytes in a framework's table: the same signals bring the same decisions and profiles."""
    deciding, stored = Deciding(10, PARTITIONS), {}
    decided = 0
    for record in records():
        outputs, profile = deciding.decide_alone(record, stored.get(record.key))
        if profile is not None:
            stored[record.key] = profile
        deciding.committed(record.partition, record.offset)
        assert deciding.decide(record) == outputs
        assert dict(deciding.changes(record.partition)) == ({} if profile is None else {record.key: profile})
        decided += len(outputs)
    assert decided == 120


def test_changes_are_told_once():
    """What changed since the last time, each customer once."""
    deciding = Deciding(10, PARTITIONS)
    for record in records():
        deciding.decide(record)
    changed = [key for partition in range(PARTITIONS) for key, _ in deciding.changes(partition)]
    assert len(changed) == len(set(changed)) == CUSTOMERS
    assert not any(list(deciding.changes(partition)) for partition in range(PARTITIONS))
