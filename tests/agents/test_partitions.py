"""Effects become safe in order: state, then outputs, then offsets; and nothing gets past a failure."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.journal import Journal, Ousted
from agents.metrics import Metrics
from agents.offsets import Offsets, TopicPartition
from agents.partitions import MOST_KEPT_BYTES, PART_BYTES, Batch, Partition, Routes, Surroundings
from agents.tables import changelogs
from agents.transactions import Transactions
from engine.murmur import partition_of
from engine.record import Effects, Output, Record
from tests.agents.counting import FATAL, Counter, counting_engine
from tests.agents.kafka_in_memory import Kafka, Stored, TransactionalProducer

SIGNALS = TopicPartition("batuta.signals", 2)
DECISIONS = TopicPartition("batuta.decisions", partition_of("ana", 4))
PROFILES = TopicPartition("batuta.profiles", 2)
ROUTES = Routes("batuta.", 4, frozenset({"decisions", "customers", "links"}))


class Bench:
    """One partition with everything around it; `failures` gathers what would have ended the process."""

    def __init__(self, kafka: Kafka, transactions: Transactions | None = None, **engine: Any) -> None:
        self.kafka = kafka
        self.failures: list[str] = []
        self.done = self.commits = 0
        self.owned = True
        self.offsets = Offsets()
        self.offsets.open({SIGNALS: 0})
        self.metrics = Metrics()
        parts = counting_engine(**engine)
        tables, logs = changelogs(parts.tables)
        sender, markers = transactions or kafka.changelog_sender, Transactions.MARKERS if transactions else 0
        journal = Journal(
            sender, 2, 1, logs, {"profiles": "batuta.profiles"}, {"profiles": 0}, self._read, markers=markers
        )
        around = Surroundings(
            parts,
            kafka.output_sender,
            ROUTES,
            self.offsets,
            self.metrics,
            self._check,
            self._on_done,
            self._commit,
            self._fail,
        )
        self.partition = Partition(2, tables, journal, around, transactions)

    async def _read(self, at: TopicPartition, start: int, end: int) -> list[Any]:
        return self.kafka.logs[at][start:end]

    def _check(self) -> None:
        if not self.owned:
            raise Ousted("no heartbeat")

    def _on_done(self) -> None:
        self.done += 1

    async def _commit(self) -> None:
        self.commits += 1

    def _fail(self, what: str, error: BaseException) -> None:
        self.failures.append(f"{what}: {type(error).__name__}: {error}")

    def batch(self, values: Iterable[bytes], start: int = 0, key: bytes = b"ana") -> Batch:
        """A batch of signals of one key."""
        records = [Stored(start + index, 1, key, value, ()) for index, value in enumerate(values)]
        return Batch("signals", SIGNALS, start, records, 0)


async def settle() -> None:
    """Let everything run that does not wait for an acknowledgement."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_outputs_wait_for_state_and_offsets_for_outputs():
    """A decision is sent when its state is acknowledged; its offset is committable when the decision is, too."""
    bench = Bench(Kafka(held=True))
    state, outputs = bench.kafka.changelog_sender, bench.kafka.output_sender
    bench.partition.start()
    await bench.partition.process(bench.batch([b"a", b"b"]))
    await settle()
    assert (len(state.waiting), outputs.waiting) == (1, []), "one record per changed key, no decision yet"
    state.release()
    await settle()
    assert [sent.record.value for sent in outputs.waiting] == [b"signals/2@0:a", b"signals/2@1:b"]
    assert (bench.offsets.committable(), bench.done) == ({}, 0)
    outputs.release()
    await settle()
    assert (bench.offsets.committable(), bench.done) == ({SIGNALS: 2}, 1)
    bench.partition.stop()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["batch", "state", "outputs"]), max_size=25))
def test_no_interleaving_breaks_the_order(steps):
    """However batches and acknowledgements interleave, no decision runs ahead of its state, no offset of a decision."""

    async def run() -> None:
        bench = Bench(Kafka(held=True))
        state, outputs = bench.kafka.changelog_sender, bench.kafka.output_sender
        bench.partition.start()
        offset = 0
        for step in steps:
            if step == "batch":
                await bench.partition.process(bench.batch([b"x", b"y"], offset, b"k%d" % (offset % 6)))
                offset += 2
            else:
                (state if step == "state" else outputs).release()
            await settle()
            _check_order(bench)
        bench.partition.stop()
        assert bench.failures == []

    asyncio.run(run())


def decisions_of(size: int) -> Callable[[Record, Any], Effects]:
    """A handler whose every record asks for a decision of so many bytes."""

    def handle(record: Record, state: Any) -> Effects:
        counter = state.profiles.get("ana") or Counter()
        counter.count += 1
        state.profiles["ana"] = counter
        return Effects(outputs=[Output("decisions", b"ana", b"%d" % record.offset + b"." * size)])

    return handle


async def test_no_more_is_kept_than_a_record_can_hold():
    """A batch that asks for too much is handled in parts, the next one when what is kept is committed; none is lost."""
    bench = Bench(Kafka(), handle=decisions_of(PART_BYTES // 5))
    bench.partition.start()
    processing = asyncio.create_task(bench.partition.process(bench.batch([b"x"] * 50)))
    for handled in (20, 40, 50):
        await asyncio.sleep(0.1)
        assert bench.commits or handled == 50, "somebody who waits for commits asks for one"
        assert bench.kafka.logs[PROFILES][-1].value == counting_engine().tables[0].encode(Counter(count=handled))
        assert bench.offsets.committable() == {SIGNALS: handled}
        assert (processing.done(), bench.done) == (handled == 50, int(handled == 50))
        bench.partition.committed["signals"] = handled
    sent = [record.value.partition(b".")[0] for record in bench.kafka.logs[DECISIONS]]
    assert sent == [b"%d" % offset for offset in range(50)]
    assert bench.failures == []
    bench.partition.stop()


async def test_a_batch_that_waits_for_room_is_left_when_the_partition_goes():
    """What was begun is finished and reported; what was not is left to the next owner, even if that is this worker."""
    bench = Bench(Kafka(), handle=decisions_of(MOST_KEPT_BYTES))
    bench.partition.start()
    processing = asyncio.create_task(bench.partition.process(bench.batch([b"x"] * 3)))
    await asyncio.sleep(0.05)
    bench.partition.close()
    bench.partition.stop()
    bench.offsets.close([SIGNALS])
    bench.offsets.open({SIGNALS: 1})
    bench.partition.start()
    await processing
    assert bench.offsets.next_offset(SIGNALS) == 1
    assert bench.failures == []
    bench.partition.stop()


def _check_order(bench: Bench) -> None:
    decode = counting_engine().tables[0].decode
    remembered = max(
        (decode(record.value).seen["signals/2"] for record in bench.kafka.logs[PROFILES] if record.value), default=-1
    )
    sent = [int(each.record.value.split(b"@")[1].split(b":")[0]) for each in bench.kafka.output_sender.waiting]
    published = [
        int(record.value.split(b"@")[1].split(b":")[0])
        for at, log in bench.kafka.logs.items()
        if at.topic == "batuta.decisions"
        for record in log
    ]
    assert max([*sent, *published], default=-1) <= remembered
    assert sorted(published) == list(range(len(published)))
    assert bench.offsets.committable().get(SIGNALS, 0) <= len(published)


async def test_failing_handler_stops_there():
    """An exception of the handler names the record; nothing of the batch is written, and no offset passes it."""
    bench = Bench(Kafka())
    bench.partition.start()
    await bench.partition.process(bench.batch([b"a"]))
    await settle()
    before = {at: len(log) for at, log in bench.kafka.logs.items()}
    await bench.partition.process(bench.batch([b"b", FATAL, b"c"], start=1))
    await settle()
    assert bench.failures == ["handling batuta.signals[2] at offset 2: RuntimeError: the handler cannot survive this"]
    assert {at: len(log) for at, log in bench.kafka.logs.items()} == before
    assert bench.offsets.committable() == {SIGNALS: 1}
    bench.partition.stop()


async def test_refused_changelog_ends_the_worker():
    """When Kafka refuses a state change, no decision is sent."""
    bench = Bench(Kafka(held=True))
    bench.partition.start()
    await bench.partition.process(bench.batch([b"a"]))
    bench.kafka.changelog_sender.waiting[0].future.set_exception(ValueError("too large"))
    await settle()
    assert bench.failures == ["partition 2: _publish[2]: ValueError: too large"]
    assert bench.kafka.output_sender.waiting == []
    bench.partition.stop()


async def test_ousted_worker_sends_nothing():
    """A worker that may have been given up by its group keeps its decisions to itself."""
    bench = Bench(Kafka())
    bench.owned = False
    bench.partition.start()
    await bench.partition.process(bench.batch([b"a"]))
    await settle()
    assert bench.failures == ["partition 2: _publish[2]: Ousted: no heartbeat"]
    assert not any(at.topic == "batuta.decisions" for at in bench.kafka.logs)
    bench.partition.stop()


async def test_closed_partition_begins_nothing():
    """After `close`, batches that still arrive are left to the next owner."""
    bench = Bench(Kafka())
    bench.partition.start()
    bench.partition.close()
    await bench.partition.process(bench.batch([b"a"]))
    assert bench.offsets.pending() == 0
    assert bench.kafka.logs == {}
    bench.partition.stop()


async def test_long_batch_lets_others_run():
    """A batch that takes long is handled in slices, so that heartbeats, health checks and other partitions go on."""
    turns = 0

    def slow(record: Record, state: Any) -> Effects:
        until = asyncio.get_running_loop().time() + 0.002
        while asyncio.get_running_loop().time() < until:
            pass
        return Effects()

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    bench = Bench(Kafka(), handle=slow)
    bench.partition.start()
    task = asyncio.create_task(others())
    await bench.partition.process(bench.batch([b"x"] * 50))
    assert turns >= 15
    task.cancel()
    bench.partition.stop()


async def test_what_was_left_unsent_is_sent_once_and_first():
    """Whoever restores a partition sends what its last owner may not have sent, state changes of it first."""

    def resume(state: Any) -> list[Output]:
        state.profiles["ana"] = Counter(count=7)
        return [Output("customers", b"ana", b"left")]

    bench = Bench(Kafka(), resume=resume)
    await bench.partition.resume()
    await bench.partition.resume()
    customers = TopicPartition("batuta.customers", partition_of("ana", 4))
    assert [record.value for record in bench.kafka.logs[customers]] == [b"left"]
    assert [record.key for record in bench.kafka.logs[PROFILES]] == [b"ana"]


async def test_with_transactions_everything_counts_together():
    """State, outputs and offsets of all batches that wait are one transaction, and what follows is the next."""
    kafka = Kafka()
    bench = Bench(kafka, Transactions(TransactionalProducer(kafka), "group"))
    bench.partition.start()
    await bench.partition.process(bench.batch([b"a"]))
    await bench.partition.process(bench.batch([b"b", b"c"], start=1))
    assert (kafka.logs, kafka.committed) == ({}, {})
    await settle()
    assert [record.value for record in kafka.logs[DECISIONS]] == [
        b"signals/2@0:a", b"signals/2@1:b", b"signals/2@2:c", None
    ]  # fmt: skip
    assert kafka.committed == {SIGNALS: 3}
    assert (bench.offsets.committable(), bench.done) == ({}, 2), "nothing is left to commit"
    await bench.partition.process(bench.batch([b"d"], start=3))
    await settle()
    assert [record.key for record in kafka.logs[PROFILES]] == [b"ana", b"ana", None, b"ana", None]
    assert (kafka.committed, bench.failures) == ({SIGNALS: 4}, [])
    assert not bench.partition.is_torn
    bench.partition.stop()


async def test_with_transactions_nothing_is_sent_again_once_resumed():
    """The last owner may have had another guarantee: what it left is sent, and from then on nothing is unsent."""
    known = []

    def resume(state: Any) -> list[Output]:
        known.append(state.committed.get("signals", 0))
        return [Output("customers", b"ana", b"left")]

    kafka = Kafka()
    bench = Bench(kafka, Transactions(TransactionalProducer(kafka), "group"), resume=resume)
    bench.partition.committed["signals"] = 7
    await bench.partition.resume()
    assert known == [7]
    assert [record.value for record in kafka.logs[TopicPartition("batuta.customers", DECISIONS.partition)]] == [
        b"left", None
    ]  # fmt: skip
    assert bench.partition._state.committed["signals"] == sys.maxsize
    assert bench.partition.committed == {"signals": 7}


async def test_timers_come_from_effects_and_from_the_table():
    """The wheel is filled by what is handled, and after a restore by what the table holds."""
    bench = Bench(Kafka())
    bench.partition.start()
    await bench.partition.process(bench.batch([b"wake:5000"]))
    assert bench.partition.timers.next_due() == 5000
    again = Bench(Kafka())
    again.partition.tables["profiles"].load("ana", bench.partition.tables["profiles"].encoded("ana"))
    again.partition.schedule_stored()
    assert again.partition.timers.pop_due(6000, limit=5) == [("ana", 5000)]
    bench.partition.stop()


@pytest.mark.parametrize(
    ("role", "partition"),
    [("customers", partition_of("ana", 4)), ("decisions.push", partition_of("ana", 4)), ("rejects", None)],
)
def test_customers_go_to_the_partition_that_owns_them(role, partition):
    """Outputs keyed by customer go to the owner's partition by Kafka's own rule, others wherever the producer likes."""
    assert ROUTES.partition(Output(role, b"ana", b"")) == partition
    assert ROUTES.partition(Output(role, None, b"")) is None
    assert ROUTES.topic(role) == f"batuta.{role}"


async def test_metrics_are_counted():
    """What the engine counts, and how long a decision took, ends up in the metrics."""
    bench = Bench(Kafka())
    bench.partition.start()
    await bench.partition.process(bench.batch([b"a", b"b", b"c"]))
    await settle()
    assert bench.metrics.count("signals", "track", "applied") == 3
    names = {sample.name: sample.value for family in bench.metrics.collect() for sample in family.samples}
    assert names["batuta_decision_seconds_count"] == 3
    bench.partition.stop()
