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
from typing import Literal, NamedTuple

import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka import KafkaException

from agents import topics
from agents.broker import KafkaBroker
from agents.children import Children
from benchmarks.chaos import channel, crowd, notes, publisher, reader
from benchmarks.chaos.clocks import Clock, sweep
from benchmarks.chaos.crowd import Shares
from benchmarks.chaos.faults import (
    CLOCK_FAULTS,
    FAULTS,
    LEARNER_FAULTS,
    NETWORK_FAULTS,
    STATE_FAULTS,
    STEP_SECONDS,
    CannotStrike,
    Stage,
    on_a_small_disk,
)
from benchmarks.chaos.following import asker, progress
from benchmarks.chaos.lessons import Lessons, judge_lessons, relearned_after
from benchmarks.chaos.notes import Evidence, Injection, Reports, Sent
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
    `padding`: of decisions, in characters. `people`: how many customers, 0: so many that limits bite. `learners`:
    processes that learn from what a channel reports of offers; 0: nothing is learned. `stored`: workers keep their
    state on disk. `guarantee`: the workers' setting, and how strict the verdict is.
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
    people: int = 0
    learners: int = 0
    stored: bool = False
    guarantee: Literal["idempotent", "exactly_once"] = "idempotent"

    @property
    def faults(self) -> frozenset[str]:
        """Everything that is done."""
        return frozenset(fault for lane in self.lanes for fault in lane)

    @property
    def customers(self) -> int:
        """How many act."""
        return self.people or max(100, int(1.5 * self.rate))


class Played(NamedTuple):
    """What came of a scenario. `recovered`: fault → seconds per strike, the slowest of its partitions.

    `never`: strikes after which some partition decided nothing new. `exits`: of workers, by themselves or by a fault.
    `complaints`: what went wrong besides the verdict. `lessons`: the verdict on learning, where there are learners.
    `ahead`, `behind`, `early`: as in `notes.Evidence`.
    """

    scenario: Scenario
    verdict: Verdict
    injections: list[Injection]
    recovered: dict[str, list[float]]
    never: int
    exits: list[Exit]
    complaints: list[str]
    lessons: Lessons | None = None
    ahead: float = 0.0
    behind: float = 0.0
    early: float = 0.0

    @property
    def lost(self) -> int:
        """What was accepted and has not the effect it should have."""
        return self.verdict.lost + (self.lessons.untold + self.lessons.unlearned if self.lessons else 0)

    @property
    def repeated(self) -> int:
        """What had its effect more than once."""
        return self.verdict.repeated + (self.lessons.relearned if self.lessons else 0)

    @property
    def conflicting(self) -> int:
        """What contradicts itself, or what was asked."""
        return self.verdict.conflicting + (self.lessons.wrong if self.lessons else 0)

    @property
    def faults(self) -> list[str]:
        """Sentences on everything that was not as it must be, and on what was not put to the test."""
        verdict, lessons = self.verdict, self.lessons
        said = [verdict.faults, lessons.faults if lessons else None]
        if self.never:
            said.append(f"after {self.never} faults some partition decided nothing new")
        return [*(each for each in said if each is not None), *self._untested(), *self.complaints]

    def _untested(self) -> Iterator[str]:
        verdict, lessons = self.verdict, self.lessons
        if not verdict.capped or not verdict.joined:
            yield f"{verdict.capped} offers held back and {verdict.joined} devices joined: nothing was put to the test"
        if lessons is not None and not (lessons.outcomes and lessons.duplicates):
            yield f"{lessons.outcomes} outcomes and {lessons.duplicates} duplicates: nothing was put to the test"
        struck = {each.fault for each in self.injections}
        for fault, seconds in {"clock-forward": self.ahead, "clock-back": self.behind}.items():
            if fault in struck and seconds < STEP_SECONDS / 2:
                yield f"{fault}: no clock was seen off by more than {seconds:.0f} s: nothing was put to the test"


def play(scenario: Scenario, bootstrap: str, broker: KafkaBroker | None, seed: str, keep: Path | None = None) -> Played:
    """Play a scenario on topics of its own; `broker`: when faults may touch it.

    `keep`: where logs and notes go when something is wrong. Raises `ScenarioFailed`.
    """
    with closing(Children()) as children:
        played = _Play(scenario, bootstrap, broker, seed, children).run()
        if keep is not None and played.faults:
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
            self._config,
            name=self._run,
            prefix=self._prefix,
            partitions=scenario.partitions,
            padding=scenario.padding,
            learns=scenario.learners > 0,
        )
        asyncio.run(self._create_topics())
        with Supervisor(self._children) as supervisor, Supervisor(self._children) as learners:
            stage = self._stage(supervisor, learners)
            self._start("reader", reader.Plan(self._bootstrap, str(self._config), self._group, self._notes("reader")))
            if scenario.learners:
                self._start("channel", self._delivering())
            for name in self._workers():
                self._join(supervisor, name)
            for number in range(scenario.learners):
                self._teach(learners, f"learner-{number}")
            self._wait_until_whole(stage)
            start = monotonic()
            self._start("publisher", self._publishing())
            injections = self._strike_all(stage)
            self._wait_until_whole(stage)
            sleep(max(0.0, start + (scenario.signals - scenario.burst) / scenario.rate - monotonic()))
            self._finish("publisher", _PUBLISHED_SECONDS)
            self._settle()
            if scenario.learners:
                self._finish("channel", _PUBLISHED_SECONDS)
                self._settle(crowd.WINDOW_SECONDS)
                self._settle_learners()
            self._wait_until_whole(stage)
            self._dismiss(supervisor)
            self._dismiss(learners)
        self._finish("reader", _READ_SECONDS)
        asyncio.run(self._delete_topics())
        sent = notes.read(Path(self._notes("publisher")), list[Sent])
        evidence = notes.read(Path(self._notes("reader")), Evidence)
        reports = notes.read(Path(self._notes("channel")), Reports) if scenario.learners else None
        notes.write(self._children.directory / "injections", injections)
        return self._played(sent, reports, evidence, injections, [*supervisor.exits, *learners.exits])

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

    def _stage(self, supervisor: Supervisor, learners: Supervisor) -> Stage:
        scenario, networks, states, clocks = self._scenario, {}, {}, {}
        if scenario.stored or scenario.faults & STATE_FAULTS:
            states = {name: self._children.directory / "state" / name for name in self._workers()}
        if scenario.faults & NETWORK_FAULTS:
            if self._broker is None:
                raise ScenarioFailed(f"{scenario.name} cuts networks, which needs a broker of its own")
            networks = dict(zip(self._workers(), self._broker.networks[: scenario.workers], strict=True))
        if scenario.faults & CLOCK_FAULTS:
            sweep()
            clocks = {name: Clock(self._children.directory / f"{name}.clock") for name in self._workers()}
        stage = Stage(
            supervisor,
            learners,
            self._children,
            lambda name: self._join(supervisor, name),
            partitions=scenario.partitions,
            session_seconds=scenario.session_seconds,
            networks=networks,
            states=states,
            clocks=clocks,
            broker=self._broker,
        )
        self._networks, self._states, self._clocks = networks, states, clocks
        for name in networks:
            stage.open_network(name)
        return stage

    def _join(self, supervisor: Supervisor, name: str) -> None:
        """Start a worker as users do."""
        network, state, clock = self._networks.get(name), self._states.get(name), self._clocks.get(name)
        where = self._bootstrap if network is None else network.bootstrap
        store = {} if state is None else {"BATUTA_STORE": "rocksdb", "BATUTA_STATE_DIR": str(state)}
        command = self._engine("up", name, where, "--web-port", "0", "--no-learner", **store)
        if clock is not None:
            command = clock.on(command)
        if state is not None:
            state.mkdir(parents=True)
        if state is not None and "disk-full" in self._scenario.faults:
            command = on_a_small_disk(state, command)
        supervisor.add(name, command)

    def _teach(self, learners: Supervisor, name: str) -> None:
        """Start a learner as users do."""
        learners.add(name, self._engine("learn", name, self._bootstrap))

    def _engine(self, role: str, name: str, bootstrap: str, *options: str, **settings: str) -> list[str]:
        """A command of the engine with its settings."""
        session = self._scenario.session_seconds
        settings |= {
            "BATUTA_SESSION_TIMEOUT_SECONDS": f"{session}",
            "BATUTA_HEARTBEAT_SECONDS": f"{session / 8}",
            "BATUTA_GUARANTEE": self._scenario.guarantee,
            **({"BATUTA_INSTANCE": name} if self._scenario.named else {}),
        }
        engine = [sys.executable, "-m", "agents", role, str(self._config), "--bootstrap", bootstrap, *options]
        return ["env", *(f"{key}={value}" for key, value in settings.items()), *engine]

    def _delivering(self) -> channel.Plan:
        return channel.Plan(
            self._bootstrap,
            self._group,
            f"{self._prefix}decisions",
            f"{self._prefix}outcomes",
            self._seed,
            self._notes("channel"),
        )

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

    def _settle(self, window_seconds: float = 0.0) -> None:
        """Wait until everything is handled and committed, and nothing comes after it but what `window_seconds` end."""
        names = [f"{self._prefix}{role}" for role in topics.READ_IN_BATCHES]
        with self._watcher(self._group, names) as behind:
            if not _within(SETTLE_SECONDS, lambda: not behind()):
                self._complaints.append(
                    f"{behind()} records were not handled {SETTLE_SECONDS:.0f} s after the last one"
                )
                return
            sleep(max(crowd.WAIT_SECONDS, window_seconds) + 1)
            _within(SETTLE_SECONDS, lambda: not behind())

    def _settle_learners(self) -> None:
        """Wait until everything that was told is learned."""
        with self._watcher(f"{self._group}-learners", [f"{self._prefix}learning"]) as behind:
            if not _within(SETTLE_SECONDS, lambda: not behind()):
                self._complaints.append(
                    f"{behind()} examples were not learned {SETTLE_SECONDS:.0f} s after the last one"
                )

    @contextmanager
    def _watcher(self, group: str, names: Sequence[str]) -> Iterator[Callable[[], int]]:
        """What says how many records a group has not committed; many while the brokers do not say."""
        with closing(asker(self._bootstrap, group)) as consumer:

            def behind() -> int:
                try:
                    return sum(max(0, each.end - each.committed) for each in progress(consumer, names))
                except (KafkaException, TimeoutError):
                    return 1

            yield behind

    def _dismiss(self, supervisor: Supervisor) -> None:
        """Stop what a supervisor keeps running in order; each has to end well."""
        names = supervisor.names()
        with ThreadPoolExecutor(max(1, len(names))) as beside:
            for name, status in zip(names, beside.map(supervisor.remove, names), strict=True):
                if status != 0:
                    said = self._children.last_words(name)
                    self._complaints.append(f"{name} ended with status {status} when told to stop: {said}")

    # --- What came of it ---

    def _played(
        self,
        sent: list[Sent],
        reports: Reports | None,
        evidence: Evidence,
        injections: list[Injection],
        exits: list[Exit],
    ) -> Played:
        due = {each.message_id: each.at for each in sent if each.kind == "signal"}
        recovered: dict[str, list[float]] = {}
        never = 0
        for injection in injections:
            seconds = recoveries(injection, evidence.decisions, due)
            never += len(seconds) < len(injection.partitions)
            slowest = (
                relearned_after(injection, evidence)
                if injection.fault in LEARNER_FAULTS
                else max(seconds.values(), default=None)
            )
            if slowest is not None:
                recovered.setdefault(injection.fault, []).append(slowest)
        unusable, lessons = [], None
        if reports is not None:
            unusable, lessons = reports.poison, judge_lessons(reports, evidence, crowd.OFFERS, crowd.MOST_BROUGHT)
        strict = self._scenario.guarantee == "exactly_once"
        verdict = judge([*sent, *unusable], evidence, CAPS, exactly_once=strict)
        return Played(
            self._scenario,
            verdict,
            injections,
            recovered,
            never,
            exits,
            self._complaints,
            lessons,
            evidence.ahead,
            evidence.behind,
            evidence.early,
        )


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
