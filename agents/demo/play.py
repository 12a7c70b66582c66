"""The demo at play: customers signal, the engine decides, channels answer, models learn, and rivals try the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from time import perf_counter, time
from typing import Any, Self

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rich.console import Console
from rich.live import Live

from agents.demo.lessons import Lessons
from agents.demo.rivals import rivals
from agents.demo.simulation import Message, World, customers_for
from agents.demo.tally import Tally
from agents.demo.view import Frame, Moment, Result, Scene, is_live, plain_line, summary
from agents.demo.words import Narrator, Spotlight
from agents.demo.worker import FastClock
from agents.settings import Settings
from agents.topics import ISOLATION_LEVEL
from engine.decision import Decision
from engine.learning import TOPIC
from engine.repertoire import Repertoire

SEED = 3
MOST_RIVALS = 800
"""How many of the customers each rival meets at most: they share a processor with all the rest."""
STEP_SECONDS = 0.004
"""How often signals are published; at the demo's speed, a quarter of a minute in the shop."""
SLICE_SECONDS = 0.002
"""How long a rival works before others get their turn."""
FRAME_SECONDS = 0.25
PLAIN_SECONDS = 5.0

_decode = msgspec.json.Decoder(Decision).decode


class Play:
    """Kafka on one side, the simulated world on the other. An asynchronous context manager around `load` and `run`."""

    def __init__(
        self, clock: FastClock, repertoire: Repertoire, settings: Settings, console: Console, rate: float
    ) -> None:
        self.customers = customers_for(rate, clock.speed)
        self.tally = Tally({each.id for each in repertoire.triggers if each.after_ms})
        self._clock, self._repertoire, self._settings, self._console = clock, repertoire, settings, console
        start_ms = self._shop_ms()
        self._world = World(repertoire, self.customers, SEED, start_ms)
        self._rivals = rivals(repertoire, min(self.customers, MOST_RIVALS), SEED, start_ms)
        self._lessons = Lessons([rule.id for rule in repertoire.models], settings.signing_key)
        self._narrator = Narrator(
            {each.treatment.id: each.treatment.channel for each in repertoire.candidates}, self._world.first_name
        )
        self._spotlight = Spotlight()
        self._zone = repertoire.zones.of(None, None)[0]
        self._unacknowledged: deque[asyncio.Future[Any]] = deque()

    async def __aenter__(self) -> Self:
        bootstrap = self._settings.bootstrap
        self._producer: Any = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=self._settings.idempotent
        )
        self._consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=ISOLATION_LEVEL,
            fetch_max_wait_ms=self._settings.fetch_wait_ms,
        )
        async with contextlib.AsyncExitStack() as opened:
            for client in (self._producer, self._consumer):
                opened.push_async_callback(client.stop)
                await client.start()
            self._opened = opened.pop_all()
        read, numbers = ("decisions", "rejects", TOPIC), range(self._settings.partitions)
        partitions = [TopicPartition(self._topic(role), each) for role in read for each in numbers]
        self._consumer.assign([*partitions, TopicPartition(self._topic("models"), 0)])
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._opened.aclose()

    def _topic(self, role: str) -> str:
        return f"{self._settings.prefix}{role}"

    def _shop_ms(self) -> int:
        return self._clock.shop(time() * 1000)

    async def load(self) -> int:
        """Publish what the shop knows of its customers; returns how many signals that took."""
        messages = self._world.load()
        for message in messages:
            await self._send(message)
        await self._producer.flush()
        return len(messages)

    async def run(self, stop: asyncio.Event, scene: Scene, check: Callable[[], None]) -> None:
        """Play as long as the scene says or until `stop`, and sum up. `check` raises when the worker is gone."""
        began, begins_ms = perf_counter(), self._shop_ms()
        self._world.begin(begins_ms)
        for rival in self._rivals.values():
            rival.world.begin(begins_ms)
        work = (self._publish(), self._read(), self._live_beside(), self._show(scene, began, check))
        tasks = [asyncio.ensure_future(each) for each in (*work, stop.wait())]
        await asyncio.wait(tasks, timeout=scene.seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        result = Result({name: world.earned for name, world in self._worlds().items()}, self._world.breaches)
        self._console.print(summary(self.tally, self._lessons, scene, self._moment(began), result))

    def _worlds(self) -> dict[str, World]:
        return {"engine": self._world, **{name: rival.world for name, rival in self._rivals.items()}}

    def _moment(self, began: float) -> Moment:
        return Moment(perf_counter() - began, self._shop_ms(), self._zone)

    # --- The four things that go on at once ---

    async def _publish(self) -> None:
        """Customers do what they do, channels report what came of decisions."""
        while True:
            for message in self._world.advance(self._shop_ms()):
                if message.topic == "signals":
                    self.tally.send_signal(message.id, perf_counter())
                else:
                    self.tally.outcomes += 1
                    self._lessons.send_outcome(message.about, perf_counter())
                await self._send(message)
            await asyncio.sleep(STEP_SECONDS)

    async def _send(self, message: Message) -> None:
        topic = self._topic(message.topic)
        self._unacknowledged.append(await self._producer.send(topic, message.value, message.key.encode()))
        while self._unacknowledged and self._unacknowledged[0].done():
            self._unacknowledged.popleft().result()

    async def _read(self) -> None:
        """Decisions come back and go to their channels; what is learned of them is looked at."""
        heard = {
            self._topic("decisions"): self._hear,
            self._topic("rejects"): lambda _, __: self.tally.reject(),
            self._topic(TOPIC): lambda record, now: self._lessons.read_example(record.offset, record.value, now),
            self._topic("models"): self._lessons.read_version,
        }
        while True:
            batches = await self._consumer.getmany(timeout_ms=200)
            now = perf_counter()
            for partition, records in batches.items():
                hear = heard[partition.topic]
                for record in records:
                    hear(record, now)

    def _hear(self, record: Any, now: float) -> None:
        decision = _decode(record.value)
        if self.tally.read_decision(decision, now, record.value):
            self._spotlight.offer(decision, now)
            self._world.receive(decision, self._shop_ms())

    async def _live_beside(self) -> None:
        """Whichever rival is furthest behind lives on."""
        while True:
            rival = min(self._rivals.values(), key=lambda each: each.world.now_ms)
            there = rival.catch_up(self._shop_ms(), SLICE_SECONDS)
            await asyncio.sleep(10 * STEP_SECONDS if there else STEP_SECONDS)

    async def _show(self, scene: Scene, began: float, check: Callable[[], None]) -> None:
        """A frame a few times a second, or a line every few seconds."""
        live = Live(console=self._console, screen=True, auto_refresh=False) if is_live(self._console) else None
        pause = PLAIN_SECONDS if live is None else FRAME_SECONDS
        self.tally.mark(perf_counter())
        with live or contextlib.nullcontext():
            while True:
                await asyncio.sleep(pause)
                check()
                self.tally.mark(perf_counter())
                self.tally.note_earned({name: world.earned for name, world in self._worlds().items()})
                self._draw(live, scene, self._moment(began))

    def _draw(self, live: Live | None, scene: Scene, moment: Moment) -> None:
        if live is None:
            line = plain_line(self.tally, self._lessons, moment)
            self._console.print(line, highlight=False, soft_wrap=True)
        else:
            shown = self._spotlight.shown
            live.update(Frame(self.tally, self._lessons, scene, moment, self._narrator, shown), refresh=True)
