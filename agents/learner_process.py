"""The learner's process: a member of the group `<group>-learners`, which shares the partitions of `batuta.learning`.

A process of its own, so that learning never holds the event loop that decides. Faust would add nothing: positions
come from the models' own states, nothing is co-partitioned, and all is done by one task, in turns with the group.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import monotonic, time
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError, KafkaError

from agents.learner import Extent, Share, take_up
from agents.model_topic import Shelf, open_topic
from agents.offsets import TopicPartition
from agents.process import DONE, NO_BROKER, WRONG, fail, named, prepare_topics, quiet_logging, say, watch_loop
from agents.settings import Settings
from agents.topics import ISOLATION_LEVEL, MAX_RECORD_BYTES, Topic, TopicsUnusable
from engine.murmur import partition_of
from engine.record import Output
from engine.repertoire import Repertoire

log = logging.getLogger("batuta")

NICENESS = 5
"""Decisions come first where processes share a machine."""
SLICE_SECONDS = 0.02
"""How long examples are learned before the group, and what is to be published, get their turn."""
POLL_SECONDS = 0.2
"""Longest wait for examples: how long a rebalance or a stop may have to wait for its turn."""
MAX_RECORDS = 2_000
_GRACE_SECONDS = 15.0


class Learner(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka comes without types
    """One member of the learners' group. All methods belong to one event loop."""

    def __init__(self, settings: Settings, repertoire: Repertoire) -> None:
        self._settings = settings
        self._repertoire = repertoire
        self._topic = f"{settings.prefix}learning"
        self._shelf = Shelf([rule.id for rule in repertoire.models])
        self._shares: dict[int, Share] = {}
        self._assigned: Sequence[TopicPartition] | None = None
        self._generation = -1
        self._turn = asyncio.Lock()
        """Held by whoever learns, publishes or changes what is owned: the task of `run`, or the group's."""

    async def run(self, stop: asyncio.Event) -> None:
        """Join the group and teach until `stop`, then publish what was learned and leave. KafkaError."""
        await self._connect()
        try:
            while not stop.is_set():
                await self._step()
            async with self._turn:
                await self._hand_over()
        finally:
            await self._disconnect()

    async def _connect(self) -> None:
        settings = self._settings
        self._models = await open_topic(settings.bootstrap, f"{settings.prefix}models")
        self._producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap,
            acks="all",
            enable_idempotence=settings.idempotent,
            max_request_size=MAX_RECORD_BYTES,
        )
        await self._producer.start()
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap,
            group_id=f"{settings.group}-learners",
            group_instance_id=settings.instance or None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=ISOLATION_LEVEL,
            session_timeout_ms=int(settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_seconds * 1000),
            rebalance_timeout_ms=int(settings.rebalance_timeout_seconds * 1000),
        )
        self._consumer.subscribe([self._topic], listener=self)
        await self._consumer.start()

    async def _disconnect(self) -> None:
        # aiokafka has members with a name stay in the group until their session ends; this one is done for good.
        self._consumer._coordinator._group_instance_id = None  # noqa: SLF001 - no argument of it says so
        await self._consumer.stop()
        await self._producer.stop()
        await self._models.stop()

    # --- The group ---

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002 - always all
        """Publish what was learned, as long as the partitions are still ours, and forget it."""
        await self._guarded("giving partitions up", self._hand_over())

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Note what there is to take over; done by the task of `run`, while the heart beats."""
        self._assigned = sorted(assigned)

    async def _guarded(self, what: str, work: Any) -> None:
        """Have the process end when something fails that aiokafka would only note."""
        try:
            async with self._turn:
                await work
        except Exception as error:  # noqa: BLE001 - as the docstring says
            fail(what, error)

    async def _take_over(self, assigned: Sequence[TopicPartition]) -> None:
        """Take the models of these partitions up where their last learner left them."""
        self._generation = self._present_generation()
        await self._shelf.read_on(self._models)
        first = await self._consumer.beginning_offsets(assigned)
        ends = await self._consumer.end_offsets(assigned)
        shares = {at.partition: self._share(at, Extent(first[at], ends[at])) for at in assigned}
        # The group confirms that this member was one of this generation when everything was read: no later owner
        # had begun, so that whoever comes next finds a standing above what it found.
        if await self._is_owner(shares):
            self._shares = shares
            models = ", ".join(sorted(name for share in shares.values() for name in share.pupils)) or "none"
            log.info("Learning models: %s; partitions %s", models, ", ".join(map(str, sorted(shares))) or "none")

    def _present_generation(self) -> int:
        """The group's generation this member belongs to; negative once the group has given it up."""
        generation: int = self._consumer._coordinator.generation  # noqa: SLF001 - aiokafka tells nobody
        return generation

    def _share(self, at: TopicPartition, extent: Extent) -> Share:
        settings, key = self._settings, self._settings.signing_key
        rules = [rule for rule in self._repertoire.models if partition_of(rule.id, settings.partitions) == at.partition]
        pupils = {
            rule.id: take_up(rule, self._repertoire, self._shelf[rule.id], at.partition, extent, self._generation, key)
            for rule in rules
        }
        position = min((pupil.start for pupil in pupils.values()), default=extent.end)
        with suppress(IllegalStateError):  # it was revoked this moment
            self._consumer.seek(at, position)
        return Share(at.partition, pupils, position, settings, now=monotonic())

    async def _hand_over(self) -> None:
        """Publish everything there is, and own nothing any more."""
        self._assigned = None
        await self._publish(final=True)
        self._shares = {}

    async def _is_owner(self, shares: dict[int, Share]) -> bool:
        """Commit what is learned, for the lag to be seen; False when the group has moved on, which refuses it."""
        if self._present_generation() != self._generation:
            return False  # a commit without a generation is not refused while the group is empty
        try:
            await self._consumer.commit(
                {TopicPartition(self._topic, number): share.position for number, share in shares.items()}
            )
        except (CommitFailedError, IllegalStateError):
            return False
        return True

    # --- Learning ---

    async def _step(self) -> None:
        """Take over what was assigned; else learn what has come, and publish what is due."""
        async with self._turn:
            if self._assigned is not None:
                assigned, self._assigned = self._assigned, None
                await self._take_over(assigned)
        # Not in our turn: while the group rebalances this waits for it, and the group for its turn.
        shares, patience_ms = self._shares, self._patience_ms()
        fetched = await self._consumer.getmany(timeout_ms=patience_ms, max_records=MAX_RECORDS)
        async with self._turn:
            # What was fetched around a rebalance is fetched again, by whoever takes the partition over.
            for at, records in fetched.items() if shares is self._shares else ():
                if at.partition in shares:
                    await self._teach(shares[at.partition], deque(records))
            await self._publish()

    def _patience_ms(self) -> int:
        now = monotonic()
        waits = [share.wait_seconds(now) for share in self._shares.values()]
        return max(1, int(min([POLL_SECONDS, *waits]) * 1000))

    async def _teach(self, share: Share, records: deque[Any]) -> None:
        while records:
            share.learn(records, SLICE_SECONDS)
            await self._publish()
            await asyncio.sleep(0)

    async def _publish(self, *, final: bool = False) -> None:
        """Publish what is due; what a learner has to say that lost its partitions is dropped."""
        now, now_ms = monotonic(), int(time() * 1000)
        outputs = [output for share in self._shares.values() for output in share.due(now, now_ms, final=final)]
        if not outputs:
            return
        if not await self._is_owner(self._shares):
            self._shares = {}
            return
        for future in [await self._send(output) for output in outputs]:
            await future

    async def _send(self, output: Output) -> Any:
        topic = f"{self._settings.prefix}{output.topic}"
        return await self._producer.send(topic, output.value, output.key, headers=list(output.headers))


# --- The process ---


def run_learner(settings: Settings, repertoire: Repertoire, needed: Sequence[Topic], *, lifeline: bool = False) -> int:
    """Run one learner until SIGTERM or SIGINT; returns the exit code of the process, as `run_worker` does.

    `lifeline`: also stop when standard input closes, which it does when the worker that started it ends, however.
    """
    quiet_logging()
    os.nice(NICENESS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(settings, repertoire, needed, lifeline=lifeline))
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not leave a half-dead process
        fail("the learner", error, NO_BROKER if isinstance(error, KafkaConnectionError) else WRONG)


async def _run(settings: Settings, repertoire: Repertoire, needed: Sequence[Topic], *, lifeline: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline:
        _hold_lifeline()
    try:
        await prepare_topics(settings, needed, create=True)
    except (KafkaError, TimeoutError) as error:
        return say(NO_BROKER, f"cannot reach Kafka at {settings.bootstrap}: {named(error)}")
    except TopicsUnusable as error:
        return say(WRONG, str(error))
    watch_loop(loop, settings.stall_seconds)
    log.info("Learner %s of group %s-learners starts", settings.name, settings.group)
    await Learner(settings, repertoire).run(stop)
    log.info("Learner %s stopped; everything learned is published", settings.name)
    return DONE


def _hold_lifeline() -> None:
    """Stop in order once standard input closes, and at once when that takes too long."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_GRACE_SECONDS)
        os._exit(WRONG)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
