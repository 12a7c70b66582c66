"""Workers on a real broker: whatever is done to them, every record counts once and every decision is there."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.broker import BrokerKind, RunningBroker
from agents.journal import OWNER_KEY
from engine.murmur import partition_of
from tests.agents.counting import FATAL
from tests.agents.worker_process import PARTITIONS, Group, until

KEYS = [f"customer-{number}" for number in range(40)]


@pytest.fixture(params=["idempotent", "exactly_once"])
def group(
    request: pytest.FixtureRequest, broker: RunningBroker, unique_prefix: str, unique_group: str, tmp_path: Path
) -> Iterator[Group]:
    """A group of workers that does not exist yet, with one guarantee and with the other."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker refuses idempotent producers and is slow to form groups; see test_end_to_end")
    group = Group(broker.bootstrap, unique_prefix, unique_group, tmp_path, request.param)
    yield group
    group.close()


def signals(start: int, end: int) -> list[tuple[bytes, bytes]]:
    """Numbered signals of all customers in turn."""
    return [(KEYS[number % len(KEYS)].encode(), b"%d" % number) for number in range(start, end)]


def counted(group: Group) -> int:
    """How many signals the durable state has counted."""
    return sum(counter.count for counter in group.state().values())


def nothing_is_repeated(group: Group) -> bool:
    """Whether a consumer of committed records sees every decision once; where that is promised."""
    return group.guarantee == "idempotent" or len(group.read("decisions")) == len(group.decisions())


def test_killed_worker_neither_loses_nor_repeats(group: Group):
    """Killed in the middle of its work and restarted, even sent back to the start: each record counts once."""
    worker = group.start()
    until(lambda: worker.serves() == list(range(PARTITIONS)), "serving")
    group.publish(signals(0, 500))
    until(lambda: len(group.read("decisions")) >= 100, "deciding")
    group.publish(signals(500, 4000))
    assert worker.stop(signal.SIGKILL) == -signal.SIGKILL
    worker = group.start()
    until(lambda: len(group.decisions()) >= 4000, "catching up")
    decisions = group.decisions()
    assert {decision.split(b":")[1] for decision in decisions} == {b"%d" % number for number in range(4000)}
    assert worker.stop() == 0
    assert counted(group) == 4000
    assert nothing_is_repeated(group)
    group.rewind()
    before = len(group.read("decisions"))
    worker = group.start()
    until(lambda: len(group.read("decisions")) >= before + 4000, "reading everything again")
    assert worker.stop() == 0
    assert group.decisions() == decisions, "a record read again is answered with the same bytes"
    assert counted(group) == 4000


def test_stopped_worker_has_committed_everything(group: Group):
    """SIGTERM: what was begun is finished and committed, the exit code is 0, and nothing is decided again."""
    worker = group.start()
    until(worker.serves, "serving")
    publishing = threading.Thread(target=group.publish, args=[signals(0, 15_000)])
    publishing.start()
    until(lambda: group.read("decisions"), "deciding")
    assert worker.stop() == 0
    publishing.join()
    group.publish(signals(15_000, 20_000))
    done = len(group.read("decisions"))
    assert 0 < sum(group.committed().values()) == done == counted(group) < 20_000
    worker = group.start()
    until(lambda: len(group.read("decisions")) >= 20_000, "finishing")
    assert worker.stop() == 0
    assert len(group.read("decisions")) == 20_000, "no decision is made twice across a clean restart"
    assert "everything is committed" in worker.said()


def test_partitions_move_with_their_state(group: Group):
    """Two workers share the partitions of all topics alike; when one leaves, the other goes on with its state."""
    first = group.start()
    until(lambda: first.serves() == list(range(PARTITIONS)), "first worker alone")
    group.publish(signals(0, 400))
    until(lambda: len(group.read("decisions")) >= 400, "deciding alone")
    second = group.start()
    until(lambda: len(first.serves()) == len(second.serves()) == 2, "sharing")
    assert sorted([*first.serves(), *second.serves()]) == list(range(PARTITIONS))
    moved = next(key for key in KEYS if partition_of(key, PARTITIONS) in second.serves())
    assert second.get(f"/v1/profiles/{moved}")[1]["count"] == 10, "the state came along"
    assert first.get(f"/v1/profiles/{moved}")[0] == 421
    group.publish(signals(400, 800))
    until(lambda: len(group.decisions()) >= 800, "deciding together")
    assert first.stop() == 0
    until(lambda: second.serves() == list(range(PARTITIONS)), "second worker alone")
    group.publish(signals(800, 1200))
    until(lambda: len(group.decisions()) >= 1200, "deciding alone again")
    assert second.stop() == 0
    assert {counter.count for counter in group.state().values()} == {30}
    assert len(group.read("decisions")) == 1200, "orderly moves repeat nothing"


def test_paused_worker_cannot_contradict_its_successor(group: Group):
    """A worker that is frozen past its session loses its partitions; when it wakes up it ends and changes nothing."""
    frozen = group.start()
    until(frozen.serves, "serving")
    group.publish(signals(0, 200))
    until(lambda: len(group.read("decisions")) >= 50, "deciding")
    frozen.process.send_signal(signal.SIGSTOP)
    group.publish(signals(200, 400))
    successor = group.start()
    until(lambda: len(group.decisions()) >= 400, "the successor decides")
    frozen.process.send_signal(signal.SIGCONT)
    assert frozen.process.wait(20) != 0
    assert "Stopping at once" in frozen.said()
    group.publish(signals(400, 600))
    until(lambda: len(group.decisions()) >= 600, "the successor goes on")
    assert successor.stop() == 0
    assert counted(group) == 600
    assert len(group.decisions()) == 600, "one content per decision"
    assert nothing_is_repeated(group)


def test_worker_of_the_same_name_replaces_the_first(group: Group):
    """A named worker that is started again gets its partitions at once, and its forgotten twin ends."""
    twin = group.start(instance="worker-1")
    until(twin.serves, "serving")
    worker = group.start(instance="worker-1")
    until(worker.serves, "serving in its place")
    group.publish(signals(0, 400))
    until(lambda: len(group.decisions()) >= 400, "deciding")
    assert twin.process.wait(20) == 1
    assert worker.stop() == 0
    assert counted(group) == len(group.decisions()) == 400


def test_failing_handler_ends_the_worker_before_its_record(group: Group):
    """When the handler raises, the process ends with an error that names the record, and commits nothing past it."""
    key = KEYS[0].encode()
    worker = group.start()
    until(worker.serves, "serving")
    group.publish([(key, b"1"), (key, b"2")])
    until(lambda: len(group.read("decisions")) == 2, "deciding")
    group.publish([(key, FATAL), (key, b"3")])
    assert worker.process.wait(20) == 1
    at = partition_of(KEYS[0], PARTITIONS)
    assert f"handling {group.prefix}signals[{at}] at offset 2: RuntimeError" in worker.said()
    assert "Traceback" not in worker.said()
    assert group.committed()[at] <= 2
    assert group.state()[KEYS[0]].count == 2


def test_poison_is_data(group: Group):
    """Records no handler can like are rejected, and the stream goes on."""
    worker = group.start()
    until(worker.serves, "serving")
    poison = [(None, b"no key"), (b"\xff\xfe", b"bad key"), (b"k", b"\xff"), (None, None), (b"", b"empty key")]
    group.publish(poison)
    group.publish([(b"last", None)])
    until(lambda: len(group.read("rejects")) == 5 and len(group.read("decisions")) == 1, "rejecting")
    assert worker.stop() == 0


def test_customer_is_woken_when_due_even_after_a_crash(group: Group):
    """A timer survives the worker: what fell due while nobody ran is woken late, but it is, and once."""
    worker = group.start()
    until(worker.serves, "serving")
    now_ms = int(time.time() * 1000)
    group.publish([(b"soon", b"wake:%d" % (now_ms + 300)), (b"later", b"wake:%d" % (now_ms + 3000))])
    until(lambda: len(group.decisions()) == 3, "waking the first")
    worker.stop(signal.SIGKILL)
    worker = group.start()
    until(lambda: len(group.decisions()) == 4, "waking the second")
    assert worker.stop() == 0
    assert {key: counter.ticks for key, counter in group.state().items()} == {"soon": 1, "later": 1}
    assert nothing_is_repeated(group)
    assert all(record.timestamp()[1] >= now_ms + 300 for record in group.read("customers"))


def test_every_record_of_state_carries_its_owner(group: Group):
    """Readers of the changelog can tell by the epoch which worker wrote, and skip the claims by their empty key."""
    worker = group.start()
    until(worker.serves, "serving")
    group.publish(signals(0, 10))
    until(lambda: len(group.read("decisions")) == 10, "deciding")
    assert worker.stop() == 0
    records = group.read("profiles")
    assert all(dict(record.headers())["batuta-epoch"] == b"1" for record in records)
    claims = [record for record in records if record.key() == OWNER_KEY]
    assert sorted(record.partition() for record in claims) == list(range(PARTITIONS))
    assert {dict(record.headers())["batuta-kind"] for record in claims} == {b"owner"}


def test_missing_topics_are_named(group: Group):
    """A worker that is not to create topics says which are missing and what to do, and exits with 1."""
    worker = group.start("--only-existing-topics")
    assert worker.process.wait(20) == 1
    assert f"missing: {group.prefix}signals, " in worker.said()
    assert "`batuta topics --apply`" in worker.said()
    assert len(worker.said().splitlines()) == 1
