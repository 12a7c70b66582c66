"""One scenario, from its first signal to its verdict."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka import Consumer, KafkaException

from agents import topics
from agents.broker import KafkaBroker
from agents.children import Children
from benchmarks.chaos import crowd, notes, publisher, reader
from benchmarks.chaos.crowd import Shares
from benchmarks.chaos.faults import FAULTS, NETWORK_FAULTS, STATE_FAULTS, CannotStrike, Stage, on_a_small_disk
from benchmarks.chaos.notes import Evidence, Injection, Sent
from benchmarks.chaos.supervisor import Exit, Supervisor
from benchmarks.chaos.verdict import Caps, Verdict, judge, recoveries

CAPS = Caps(crowd.OFFERS, crowd.BURST, crowd.BURST_MS, crowd.MOST, crowd.NOTICED)
WHOLE_SECONDS = 120.0
"""How long it may take after a fault until all workers serve again, and all partitions are served."""
SETTLE_SECONDS = 180.0
"""How long the workers may take to finish what is left at the end."""
_PUBLISHED_SECONDS = 200.0
_READ_SECONDS = 200.0
_POLL_SECONDS = 0.3


class ScenarioFailed(Exception):
    """A scenario could not be played or looked at; there is no verdict."""


class Scenario(NamedTuple):
    """What is played. `lanes`: faults, drawn in turn, each lane beside the others; `strikes`: per lane.

    `pause`: seconds between two strikes, drawn evenly. `patient`: wait until all partitions are served before the
    next strike. `named`: workers have names of their own. `signals`: at least so many, `burst` of them at once.
    `padding`: of decisions, in characters.
    """

    name: str
    lanes: tuple[tuple[str, ...], ...]
    strikes: int
    pause: tuple[float, float]
    signals: int
    burst: int
    rate: float
    workers: int = 2
    nodes: int = 1
    patient: bool = True
    named: bool = True
    partitions: int = 8
    session_seconds: float = 10.0
    shares: Shares = Shares()
    padding: int = 0

    @property
    def faults(self) -> frozenset[str]:
        """Everything that is done."""
        return frozenset(fault for lane in self.lanes for fault in lane)

    @property
    def customers(self) -> int:
        """So many that limits bite."""
        return max(100, int(1.5 * self.rate))


class Played(NamedTuple):
    """What came of a scenario. `recovered`: fault → seconds per strike, the slowest of its partitions.

    `never`: strikes after which some partition decided nothing new. `exits`: of workers, by themselves or by a fault.
    `complaints`: what went wrong besides the verdict.
    """

    scenario: Scenario
    verdict: Verdict
    injections: list[Injection]
    recovered: dict[str, list[float]]
    never: int
    exits: list[Exit]
    complaints: list[str]


def play(scenario: Scenario, bootstrap: str, broker: KafkaBroker | None, seed: str, keep: Path | None = None) -> Played:
    """Play a scenario on topics of its own; `broker`: when faults may touch it.

    `keep`: where logs and notes go when something is wrong. Raises `ScenarioFailed`.
    """
    with closing(Children()) as children:
        played = _Play(scenario, bootstrap, broker, seed, children).run()
        if keep is not None and (played.verdict.faults or played.complaints):
            shutil.copytree(children.directory, keep / scenario.name, dirs_exist_ok=True)
        return played


class _Play:
    """The course of one scenario."""

    def __init__(
        self, scenario: Scenario, bootstrap: str, broker: KafkaBroker | None, seed: str, children: Children
    ) -> None:
        self._scenario = scenario
        self._bootstrap = bootstrap
        self._broker = broker
        self._seed = f"{seed}/{scenario.name}"
        self._children = children
        self._run = f"{scenario.name}-{os.urandom(3).hex()}"
        self._prefix = f"{self._run}."
        self._config = children.directory / "config"
        self._complaints: list[str] = []

    def run(self) -> Played:
        """Play it."""
        scenario = self._scenario
        self._config.mkdir()
        crowd.write_config(
            self._config, name=self._run, prefix=self._prefix, partitions=scenario.partitions, padding=scenario.padding
        )
        asyncio.run(self._create_topics())
        with Supervisor(self._children) as supervisor:
            stage = self._stage(supervisor)
            self._start("reader", reader.Plan(self._bootstrap, str(self._config), self._group, self._notes("reader")))
            for name in self._workers():
                self._join(supervisor, name)
            self._wait_until_whole(stage)
            start = monotonic()
            self._start("publisher", self._publishing())
            injections = self._strike_all(stage)
            self._wait_until_whole(stage)
            sleep(max(0.0, start + (scenario.signals - scenario.burst) / scenario.rate - monotonic()))
            self._finish("publisher", _PUBLISHED_SECONDS)
            self._settle()
            self._wait_until_whole(stage)
            self._dismiss(supervisor)
        self._finish("reader", _READ_SECONDS)
        asyncio.run(self._delete_topics())
        sent = notes.read(Path(self._notes("publisher")), list[Sent])
        evidence = notes.read(Path(self._notes("reader")), Evidence)
        notes.write(self._children.directory / "injections", injections)
        return self._played(sent, evidence, injections, supervisor.exits)

    # --- Who takes part ---

    @property
    def _group(self) -> str:
        return f"batuta-{self._run}"

    def _notes(self, name: str) -> str:
        return str(self._children.directory / f"{name}.notes")

    def _workers(self) -> list[str]:
        return [f"worker-{number}" for number in range(self._scenario.workers)]

    async def _create_topics(self) -> None:
        async with self._admin() as admin:
            await topics.ensure(admin, topics.TOPICS, self._prefix, self._scenario.partitions, apply=True)

    async def _delete_topics(self) -> None:
        """What is judged need not be recovered when a broker is killed in the next scenario."""
        async with self._admin() as admin:
            await admin.delete_topics([f"{self._prefix}{topic.role}" for topic in topics.TOPICS])

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    def _stage(self, supervisor: Supervisor) -> Stage:
        scenario, networks, states = self._scenario, {}, {}
        if scenario.faults & STATE_FAULTS:
            states = {name: self._children.directory / "state" / name for name in self._workers()}
        if scenario.faults & NETWORK_FAULTS:
            if self._broker is None:
                raise ScenarioFailed(f"{scenario.name} cuts networks, which needs a broker of its own")
            networks = dict(zip(self._workers(), self._broker.networks[: scenario.workers], strict=True))
        stage = Stage(
            supervisor,
            self._children,
            lambda name: self._join(supervisor, name),
            partitions=scenario.partitions,
            session_seconds=scenario.session_seconds,
            networks=networks,
            states=states,
            broker=self._broker,
        )
        self._networks, self._states = networks, states
        for name in networks:
            stage.open_network(name)
        return stage

    def _join(self, supervisor: Supervisor, name: str) -> None:
        """Start a worker as users do."""
        network, state = self._networks.get(name), self._states.get(name)
        settings = {
            "BATUTA_SESSION_TIMEOUT_SECONDS": f"{self._scenario.session_seconds}",
            "BATUTA_HEARTBEAT_SECONDS": f"{self._scenario.session_seconds / 8}",
            **({"BATUTA_INSTANCE": name} if self._scenario.named else {}),
            **({} if state is None else {"BATUTA_STORE": "rocksdb", "BATUTA_STATE_DIR": str(state)}),
        }
        where = self._bootstrap if network is None else network.bootstrap
        worker = [sys.executable, "-m", "agents", "up", str(self._config), "--bootstrap", where, "--web-port", "0"]
        command = ["env", *(f"{key}={value}" for key, value in settings.items()), *worker]
        if state is not None:
            state.mkdir(parents=True)
        if state is not None and "disk-full" in self._scenario.faults:
            command = on_a_small_disk(state, command)
        supervisor.add(name, command)

    def _publishing(self) -> publisher.Plan:
        scenario = self._scenario
        return publisher.Plan(
            self._bootstrap,
            f"{self._prefix}signals",
            self._seed,
            self._run,
            scenario.customers,
            scenario.burst,
            scenario.rate,
            scenario.shares,
            self._notes("publisher"),
        )

    def _start(self, role: str, plan: msgspec.Struct) -> None:
        path = self._children.directory / f"{role}.json"
        path.write_bytes(msgspec.json.encode(plan))
        self._children.start(role, [sys.executable, "-m", f"benchmarks.chaos.{role}", str(path)])

    def _finish(self, role: str, seconds: float) -> None:
        """Tell a process of ours to come to its end, and wait for it."""
        os.kill(self._children.pid(role), signal.SIGTERM)
        status = self._children.wait(role, seconds)
        if status != 0:
            said = self._children.last_words(role)
            raise ScenarioFailed(f"{self._scenario.name}: the {role} ended with status {status}: {said}")

    # --- What happens ---

    def _strike_all(self, stage: Stage) -> list[Injection]:
        lanes = self._scenario.lanes
        with ThreadPoolExecutor(max(1, len(lanes))) as beside:
            played = [beside.submit(self._strike_lane, stage, number) for number in range(len(lanes))]
        try:
            injections = [injection for each in played for injection in each.result()]
        except CannotStrike as error:
            raise ScenarioFailed(f"{self._scenario.name}: {error}") from error
        return sorted(injections, key=lambda each: each.at)

    def _strike_lane(self, stage: Stage, number: int) -> list[Injection]:
        scenario, lane = self._scenario, self._scenario.lanes[number]
        draw = random.Random(f"{self._seed}/{number}")
        injections = []
        for fault in _in_turn(lane, scenario.strikes, draw):
            sleep(draw.uniform(*scenario.pause))
            injections.append(FAULTS[fault].strike(stage, draw))
            if scenario.patient:
                self._wait_until_whole(stage)
        return injections

    def _wait_until_whole(self, stage: Stage) -> None:
        """Wait until all workers serve; who is told to stop while it starts knows nothing to do before it ends."""
        if not _within(WHOLE_SECONDS, stage.is_whole):
            served = {name: stage.supervisor.partitions(name) for name in stage.supervisor.names()}
            self._complaints.append(f"after {WHOLE_SECONDS:.0f} s not all partitions and workers serve: {served}")

    def _settle(self) -> None:
        """Wait until everything is handled and committed, and nothing comes after it."""
        with self._watcher() as behind:
            if not _within(SETTLE_SECONDS, lambda: not behind()):
                self._complaints.append(
                    f"{behind()} records were not handled {SETTLE_SECONDS:.0f} s after the last one"
                )
                return
            sleep(crowd.WAIT_SECONDS + 1)
            _within(SETTLE_SECONDS, lambda: not behind())

    @contextmanager
    def _watcher(self) -> Iterator[Callable[[], int]]:
        """What says how many records are not committed; many while the brokers do not say."""
        with closing(
            Consumer({"bootstrap.servers": self._bootstrap, "group.id": self._group, "log_level": 2})
        ) as asker:
            names = [f"{self._prefix}{role}" for role in topics.READ_IN_BATCHES]

            def behind() -> int:
                try:
                    return sum(max(0, each.end - each.committed) for each in reader.progress(asker, names))
                except (KafkaException, TimeoutError):
                    return 1

            yield behind

    def _dismiss(self, supervisor: Supervisor) -> None:
        """Stop the workers in order; each has to end well."""
        with ThreadPoolExecutor(len(supervisor.names())) as beside:
            names = supervisor.names()
            for name, status in zip(names, beside.map(supervisor.remove, names), strict=True):
                if status != 0:
                    said = self._children.last_words(name)
                    self._complaints.append(f"{name} ended with status {status} when told to stop: {said}")

    # --- What came of it ---

    def _played(self, sent: list[Sent], evidence: Evidence, injections: list[Injection], exits: list[Exit]) -> Played:
        due = {each.message_id: each.at for each in sent if each.kind == "signal"}
        recovered: dict[str, list[float]] = {}
        never = 0
        for injection in injections:
            seconds = recoveries(injection, evidence.decisions, due)
            never += len(seconds) < len(injection.partitions)
            if seconds:
                recovered.setdefault(injection.fault, []).append(max(seconds.values()))
        verdict = judge(sent, evidence, CAPS)
        return Played(self._scenario, verdict, injections, recovered, never, exits, self._complaints)


def _in_turn(lane: Sequence[str], count: int, draw: random.Random) -> list[str]:
    """So many faults, every one of the lane before any comes again."""
    faults: list[str] = []
    while len(faults) < count:
        faults += draw.sample(lane, len(lane))
    return faults[:count]


def _within(seconds: float, promise: Callable[[], bool]) -> bool:
    """Whether a promise comes true in time."""
    deadline = monotonic() + seconds
    while not (kept := promise()) and monotonic() < deadline:
        sleep(_POLL_SECONDS)
    return kept
