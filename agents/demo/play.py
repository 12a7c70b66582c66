"""The demo at play: customers signal, the engine decides, channels answer, and a policy of chance tries the same."""

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

from agents.demo.simulation import Message, World, customers_for
from agents.demo.tally import Tally
from agents.demo.view import Frame, Moment, Result, Scene, is_live, plain_line, summary
from agents.demo.words import Narrator, Spotlight
from agents.demo.worker import FastClock
from agents.settings import Settings
from engine.decision import Decision
from engine.record import Output
from engine.repertoire import Arbitration, Repertoire
from engine.replay import Replay
from models.baseline import RandomScorer

SEED = 2_026
MOST_RIVALS = 1_500
"""How many of the customers the policy of chance meets at most: it shares a processor with all the rest."""
STEP_SECONDS = 0.004
"""How often signals are published; at the demo's speed, a quarter of a minute in the shop."""
SLICE_SECONDS = 0.002
"""How long the policy of chance works before others get their turn."""
FRAME_SECONDS = 0.25
PLAIN_SECONDS = 5.0

_decode = msgspec.json.Decoder(Decision).decode


class Rival:
    """The same customers in a second copy of their world, met by an engine that ranks by chance what rules permit."""

    def __init__(self, repertoire: Repertoire, size: int, start_ms: int) -> None:
        by_chance = Arbitration(context=False, value=False, lever=False)
        repertoire = msgspec.structs.replace(repertoire, arbitration=by_chance)
        self.world = World(repertoire, size, SEED, start_ms)
        self._engine = Replay(repertoire, RandomScorer(SEED))
        self._waiting = deque(self.world.load())
        self._step_ms = 0

    def catch_up(self, now_ms: int, seconds: float) -> bool:
        """Live on until `now_ms` of the shop, but work no longer than so many seconds; whether it got there."""
        deadline = perf_counter() + seconds
        while perf_counter() < deadline:
            if self._waiting:
                message = self._waiting.popleft()
                at_ms = self.world.now_ms
                self._hear(self._engine.publish(message.topic, message.key, message.value, at_ms))
            elif self.world.now_ms < now_ms:
                step_ms = min(now_ms, self.world.now_ms + 60_000)
                self._hear(self._engine.advance(step_ms))
                self._waiting.extend(self.world.advance(step_ms))
            else:
                return True
        return False

    def _hear(self, outputs: list[Output]) -> None:
        for output in outputs:
            if output.topic == "decisions":
                self.world.receive(_decode(output.value), self.world.now_ms)


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
        self._rival = Rival(repertoire, min(self.customers, MOST_RIVALS), start_ms)
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
            fetch_max_wait_ms=self._settings.fetch_wait_ms,
        )
        async with contextlib.AsyncExitStack() as opened:
            for client in (self._producer, self._consumer):
                opened.push_async_callback(client.stop)
                await client.start()
            self._opened = opened.pop_all()
        read, numbers = ("decisions", "rejects"), range(self._settings.partitions)
        self._consumer.assign([TopicPartition(self._topic(role), each) for role in read for each in numbers])
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
        self._rival.world.begin(begins_ms)
        work = (self._publish(), self._read(), self._live_beside(), self._show(scene, began, check))
        tasks = [asyncio.ensure_future(each) for each in (*work, stop.wait())]
        await asyncio.wait(tasks, timeout=scene.seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        result = Result(self._world.earned, self._rival.world.earned, self._world.breaches)
        self._console.print(summary(self.tally, scene, self._moment(began), result))

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
                await self._send(message)
            await asyncio.sleep(STEP_SECONDS)

    async def _send(self, message: Message) -> None:
        topic = self._topic(message.topic)
        self._unacknowledged.append(await self._producer.send(topic, message.value, message.key.encode()))
        while self._unacknowledged and self._unacknowledged[0].done():
            self._unacknowledged.popleft().result()

    async def _read(self) -> None:
        """Decisions come back and go to their channels."""
        rejects = self._topic("rejects")
        while True:
            batches = await self._consumer.getmany(timeout_ms=200)
            now, shop_ms = perf_counter(), self._shop_ms()
            for partition, records in batches.items():
                if partition.topic == rejects:
                    self.tally.rejects += len(records)
                    continue
                for record in records:
                    decision = _decode(record.value)
                    if self.tally.read_decision(decision, now, record.value):
                        self._spotlight.offer(decision, now)
                        self._world.receive(decision, shop_ms)

    async def _live_beside(self) -> None:
        while True:
            there = self._rival.catch_up(self._shop_ms(), SLICE_SECONDS)
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
                self._note_curves()
                moment = self._moment(began)
                if live is None:
                    self._console.print(plain_line(self.tally, moment), highlight=False, soft_wrap=True)
                else:
                    live.update(Frame(self.tally, scene, moment, self._narrator, self._spotlight.shown), refresh=True)

    def _note_curves(self) -> None:
        for curve, world in ((self.tally.engine, self._world), (self.tally.chance, self._rival.world)):
            curve.note(world.earned.choices, world.earned.expected)
