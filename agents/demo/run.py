"""`batuta demo`: a broker, a worker, a shop full of simulated customers, and what the engine makes of them, live.

Everything is real but the customers: a worker in a process of its own on a Kafka broker, signals from a producer,
decisions read by an independent consumer, outcomes sent back. Only the clock is not: a second lasts an hour in the
shop, so that waits, caps and quiet hours can be watched (`agents.demo.worker`). Rates and latencies are in real time.

This file starts and stops it all; `agents.demo.play` is what goes on in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path
from time import monotonic, time

import aiohttp
import msgspec
import uvloop
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from rich.console import Console

from agents.broker import BrokerKind, BrokerUnavailable, RunningBroker, running_broker
from agents.children import Children
from agents.demo.play import Play
from agents.demo.view import Scene, is_live
from agents.demo.worker import Assignment, FastClock, topics_of
from agents.process import NO_BROKER
from agents.settings import Settings
from config import load_directory
from engine.repertoire import Repertoire

DONE, FAILED = 0, 1
SPEED = 3_600
"""A second of the demo is an hour of the shop."""
READY_SECONDS = 90.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.1


class DemoFailed(Exception):
    """The demo cannot go on; the text says why."""


def run_demo(minutes: float, rate: float, console: Console) -> int:
    """Play the retail example for some minutes at about `rate` signals per second; returns the exit code.

    Shows a live view on a terminal and a plain line every few seconds elsewhere, and ends with a summary, sooner on
    Ctrl-C. Nothing it started is left running, however it ends. Raises `BrokerUnavailable`.
    """
    if isinstance(console.file, io.TextIOWrapper):
        console.file.reconfigure(errors="replace")  # a terminal without our characters shows question marks
    console.print("Batuta demo: a shop full of simulated customers, live. Ctrl-C ends it early.", highlight=False)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what goes wrong is raised; here it would spoil the view
    said: list[str] = []

    def announce(sentence: str) -> None:
        said.append(sentence)
        console.print(sentence, highlight=False, soft_wrap=True)

    try:
        with as_file(files("config") / "repertoires" / "retail") as directory, contextlib.ExitStack() as stack:
            with _busy(console, "Starting the broker"):
                broker = stack.enter_context(running_broker(announce))
            children = Children()
            stack.callback(children.close)
            stage = _Stage(broker, said[-1], directory, children, console)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_perform(stage, minutes * 60, rate))
    except KeyboardInterrupt:
        console.print("Stopped before it began.")
    except (DemoFailed, KafkaError) as error:
        console.print(f"The demo stopped: {error}", style="red", highlight=False, soft_wrap=True)
        return FAILED
    return DONE


class _Stage:
    """What a run plays on. `sentence`: which broker it is, for people.

    On a broker that was given, topics and group have names of their own. The topics are deleted afterwards; the
    group, empty by then, expires.
    """

    def __init__(
        self, broker: RunningBroker, sentence: str, directory: Path, children: Children, console: Console
    ) -> None:
        self.broker, self.sentence, self.children, self.console = broker, sentence, children, console
        self.directory = directory
        self.clock = FastClock(int(time() * 1000), _this_monday_ms(), SPEED)
        self.repertoire, self.settings = _own_names(load_directory(directory), broker)

    @property
    def web(self) -> str:
        """Where the worker's web port answers."""
        return f"http://{self.settings.web_host}:{self.settings.web_port}"

    def start_worker(self) -> None:
        """Start the worker as a child process; what it logs is in its last words."""
        assignment = msgspec.json.encode(Assignment(self.settings, str(self.directory), self.clock))
        command = [sys.executable, "-P", "-m", "agents.demo.worker", assignment.decode()]
        self.children.start("worker", command)

    def check_worker(self) -> None:
        """Raise `BrokerUnavailable` or `DemoFailed` when the worker has ended."""
        if not self.children.alive("worker"):
            status, words = self.children.wait("worker", STOP_SECONDS), self.children.last_words("worker")
            raise BrokerUnavailable(words) if status == NO_BROKER else DemoFailed(f"the worker ended: {words}")


def _own_names(repertoire: Repertoire, broker: RunningBroker) -> tuple[Repertoire, Settings]:
    group = f"batuta-demo-{uuid.uuid4().hex[:8]}"
    prefix = f"{group}." if broker.kind is BrokerKind.GIVEN else repertoire.prefix
    embedded = broker.kind is BrokerKind.EMBEDDED
    settings = Settings(
        bootstrap=broker.bootstrap,
        prefix=prefix,
        group=group,
        partitions=repertoire.partitions,
        web_port=_free_port(),
        idempotent=not embedded,
        fetch_wait_ms=15 if embedded else 100,
        # The embedded broker lets a group wait that long before its first member may work.
        session_timeout_seconds=6.0 if embedded else 10.0,
        rebalance_timeout_seconds=6.0 if embedded else 30.0,
    )
    return msgspec.structs.replace(repertoire, prefix=prefix), settings


async def _perform(stage: _Stage, seconds: float, rate: float) -> None:
    """Start the worker, play, and stop the worker again."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stage.start_worker()
    try:
        with _busy(stage.console, "Starting the worker"):
            await _until(stage, stop, "/readyz", lambda status, _: status == 200)
        if stop.is_set():
            raise KeyboardInterrupt
        play = Play(stage.clock, stage.repertoire, stage.settings, stage.console, rate)
        async with play:
            with _busy(stage.console, f"Telling it about {play.customers:,} customers and what they bought so far"):
                loaded = await play.load()
                await _until(stage, stop, "/metrics", lambda _, page: _count(page, "batuta_signals_total") >= loaded)
            embedded = stage.broker.kind is BrokerKind.EMBEDDED
            scene = Scene(stage.sentence, embedded, seconds, SPEED, play.customers)
            if not stop.is_set():
                await play.run(stop, scene, stage.check_worker)
    finally:
        await _clean_up(stage)


async def _until(stage: _Stage, stop: asyncio.Event, path: str, ready: Callable[[int, str], bool]) -> None:
    """Ask the worker's web port until what it answers will do, or the demo is to stop; raises `DemoFailed`."""
    deadline = monotonic() + READY_SECONDS
    async with aiohttp.ClientSession() as session:
        while not stop.is_set():
            stage.check_worker()
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(stage.web + path) as response:
                    if ready(response.status, await response.text()):
                        return
            if monotonic() > deadline:
                raise DemoFailed(f"the worker was not ready within {READY_SECONDS:.0f} s")
            await asyncio.sleep(POLL_SECONDS)


def _count(page: str, metric: str) -> float:
    """The sum of a counter over its labels, from Prometheus text."""
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{metric}{{"))


async def _clean_up(stage: _Stage) -> None:
    if stage.children.alive("worker"):
        await asyncio.to_thread(stage.children.stop, "worker", signal.SIGTERM, STOP_SECONDS)
    if stage.broker.kind is BrokerKind.GIVEN:
        with contextlib.suppress(KafkaError, TimeoutError):
            await _delete_topics(stage)


async def _delete_topics(stage: _Stage) -> None:
    async with asyncio.timeout(STOP_SECONDS):
        admin = AIOKafkaAdminClient(bootstrap_servers=stage.broker.bootstrap)
        try:
            await admin.start()
            await admin.delete_topics([f"{stage.settings.prefix}{topic.role}" for topic in topics_of(stage.repertoire)])
        finally:
            await admin.close()


@contextlib.contextmanager
def _busy(console: Console, what: str) -> Iterator[None]:
    """Say what takes a while: a spinner on a terminal, a line elsewhere."""
    if is_live(console):
        with console.status(f"{what} …"):
            yield
    else:
        console.print(f"{what} …", highlight=False)
        yield


def _free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _this_monday_ms() -> int:
    """Two o'clock on Monday of this week, UTC: the shop's week begins about when the worker is ready."""
    today = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0)
    return int((today - timedelta(days=today.weekday())).timestamp() * 1000)
