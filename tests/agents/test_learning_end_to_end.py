"""Learners on a real broker: killed, frozen, sharing; and workers that decide by what they learned."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka import KafkaException

from agents import topics
from agents.broker import BrokerKind, RunningBroker
from agents.model_topic import Found, Shelf, decode_report
from engine.learning import Example
from engine.murmur import partition_of
from models.snapshot import Snapshot, decode
from tests.agents.teaching import MODELS, an_example, knowledge, record_of, state_in, taught
from tests.agents.worker_process import PARTITIONS, ROOT, Group, until

QUICK = {"state_interval_seconds": 0.2, "session_timeout_seconds": 3, "heartbeat_seconds": 0.3}


class School:
    """Processes of one deployment, by role, and what stands in their topics."""

    def __init__(self, group: Group, directory: Path) -> None:
        self.group = group
        self._directory = directory
        self._numbers = count()
        self.processes: list[Process] = []

    def start(self, role: str, *arguments: str, **settings: Any) -> Process:
        """Start another learner (`learn`) or worker with a learner beside it (`serve`)."""
        given = {
            "bootstrap": self.group.bootstrap,
            "prefix": self.group.prefix,
            "group": self.group.group,
            "partitions": PARTITIONS,
            "web_port": 0,
            **QUICK,
            **settings,
        }
        log = self._directory / f"{role}-{next(self._numbers)}.log"
        process = Process([role, *arguments], log, given)
        self.processes.append(process)
        return process

    def is_open(self) -> bool:
        """Whether the topics can be read, which takes a moment after they were created."""
        try:
            return self.group.read("models") == self.group.read("learning")
        except KafkaException:
            return False

    def close(self) -> None:
        """Kill what still runs."""
        for each in self.processes:
            each.kill()

    def publish(self, examples: list[Example]) -> None:
        """Publish examples to the partitions of their models, as workers do."""
        name = f"{self.group.prefix}learning"
        for example in examples:
            key, value = record_of(example)
            at = partition_of(example.model, PARTITIONS)
            self.group._producer.produce(name, key=key, value=value, partition=at)
            self.group._producer.poll(0)
        assert self.group._producer.flush(20) == 0

    def found(self, model: str) -> Found:
        """What counts of a model on `batuta.models`, in whatever order it was written."""
        shelf = Shelf([model])
        for message in self.group.read("models"):
            shelf.put(message.key(), message.value(), message.headers() or ())
        return shelf[model]

    def included(self, model: str) -> int:
        """Offset up to which the state of a model goes; -1 while there is none."""
        state = self.found(model).state
        return -1 if state is None else state_in(state).offset

    def versions(self, model: str) -> list[Snapshot]:
        """The snapshots published, in order."""
        found = [decode(each.value(), None) for each in self.group.read("models") if each.key() == model.encode()]
        assert all(isinstance(each, Snapshot) for each in found)
        return found  # type: ignore[return-value] # as asserted


class Process:
    """One process of `tests.agents.teaching`, with its log."""

    def __init__(self, arguments: list[str], log: Path, settings: dict[str, Any]) -> None:
        environ = {f"BATUTA_{name.upper()}": str(value) for name, value in settings.items()}
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.agents.teaching", *arguments],
                cwd=ROOT,
                env={**os.environ, **environ},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        """What it printed so far."""
        return self._log.read_text()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(how)
        return self.process.wait(25)

    def kill(self) -> None:
        """End it if it runs, also when it is frozen."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
async def school(broker: RunningBroker, unique_prefix: str, unique_group: str, tmp_path: Path):
    """A deployment whose topics exist and whose processes do not."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker refuses idempotent producers and is slow to form groups")
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    await topics.ensure(admin, topics.TOPICS, unique_prefix, PARTITIONS, apply=True)
    await admin.close()
    started = School(Group(broker.bootstrap, unique_prefix, unique_group, tmp_path), tmp_path)
    await asyncio.to_thread(until, started.is_open, "the topics have leaders")
    yield started
    started.close()


def children_of(pid: int) -> list[int]:
    """The processes started by a process."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def installed(process: Process, model: str) -> list[tuple[int, float]]:
    """What a worker installed of a model: examples, and when (epoch seconds)."""
    return [(int(n), float(at)) for n, at in re.findall(rf"installed {model} (\d+) ([\d.]+)", process.said())]


def test_killed_learners_lose_and_repeat_nothing(school: School):
    """Killed over and over amid some thousand examples, many of them written twice: each is learned once."""
    examples = [an_example(number, model) for number in range(1000) for model in MODELS]
    log: list[Example] = []
    for at, each in enumerate(examples):
        # Every seventh time, one from some way behind is written again.
        log += [each, examples[max(0, at - 60)]] if at % 7 == 0 else [each]
    learner = school.start("learn", instance="learner")
    for start in range(0, len(log), 860):
        school.publish(log[start : start + 860])
        before = school.included(MODELS[0])
        until(lambda seen=before: school.included(MODELS[0]) > seen, "learning")
        assert learner.stop(signal.SIGKILL) == -signal.SIGKILL
        learner = school.start("learn", instance="learner")
    total = {model: sum(each.model == model for each in log) for model in MODELS}
    sharing = {model: sum(total[o] for o in MODELS if _same(o, model)) for model in MODELS}
    for model in MODELS:
        until(lambda model=model: school.included(model) == sharing[model], f"learning all of {model}")
    # The one before may have learned everything already, so this one may still be on its way.
    until(lambda: "-learners starts" in learner.said(), "starting")
    assert learner.stop() == 0
    for model in MODELS:
        state = school.found(model).state
        assert state is not None
        learned = taught([], model)
        learned.load(state_in(state).dump)
        undisturbed = taught((each for each in log if each.model == model), model)
        assert undisturbed._examples == 1000
        assert knowledge(learned) == knowledge(undisturbed)


def _same(one: str, other: str) -> bool:
    return partition_of(one, PARTITIONS) == partition_of(other, PARTITIONS)


def test_learners_share_models_and_hand_them_over(school: School):
    """Two learners have the partitions between them; what one leaves in order, the other goes on with at once."""
    first = school.start("learn")
    until(lambda: "Learning models: content, offers, service" in first.said(), "one learner has all")
    school.publish([an_example(n, model) for n in range(100) for model in MODELS])
    second = school.start("learn")
    until(lambda: "Learning models" in second.said(), "the second has its share")
    school.publish([an_example(n, model) for n in range(100, 200) for model in MODELS])
    until(lambda: all(school.versions(m) and school.versions(m)[-1].examples == 200 for m in MODELS), "both learn")
    started = time.monotonic()
    assert second.stop() == 0
    school.publish([an_example(n, model) for n in range(200, 300) for model in MODELS])
    until(lambda: all(school.versions(m)[-1].examples == 300 for m in MODELS), "the first goes on with all")
    assert time.monotonic() - started < 10, "a learner that leaves in order is not waited for"
    assert first.stop() == 0
    for model in MODELS:
        state = school.found(model).state
        assert state is not None
        learned = taught([], model)
        learned.load(state_in(state).dump)
        assert knowledge(learned) == knowledge(taught((an_example(n, model) for n in range(300)), model))


def test_frozen_learner_cannot_undo_its_successor(school: School):
    """Frozen past its session, with something still to say: when it wakes up, what counts is its successor's."""
    frozen = school.start("learn", snapshot_interval_ms=700, state_interval_seconds=0.7)
    school.publish([an_example(n) for n in range(200)])
    until(lambda: school.included("offers") == 200, "learning")
    school.publish([an_example(n) for n in range(200, 300)])
    time.sleep(0.1)
    frozen.process.send_signal(signal.SIGSTOP)
    successor = school.start("learn")
    until(lambda: "Learning models: content" in successor.said(), "the successor takes over")
    school.publish([an_example(n) for n in range(300, 400)])
    until(lambda: school.included("offers") == 400, "the successor learns")
    assert successor.stop() == 0
    kept = school.found("offers")
    frozen.process.send_signal(signal.SIGCONT)
    school.publish([an_example(n) for n in range(400, 500)])
    until(lambda: school.included("offers") == 500, "the first, a member again, goes on from there")
    assert frozen.stop() == 0
    found = school.found("offers")
    assert found.state_standing.epoch == kept.state_standing.epoch + 1
    assert found.state is not None
    learned = taught([])
    learned.load(state_in(found.state).dump)
    assert knowledge(learned) == knowledge(taught(an_example(n) for n in range(500)))


def test_worker_decides_by_what_was_learned(school: School):
    """A worker is ready once it has the models there are; what is learned then is installed well within a second.

    A killed learner costs no readiness and is started again; a killed worker takes its learner along.
    """
    earlier = school.start("learn")
    school.publish([an_example(n, model) for n in range(100) for model in MODELS])
    until(lambda: all(school.included(model) > 0 for model in MODELS), "learning")
    assert earlier.stop() == 0
    worker = school.start("serve")
    until(lambda: _ready(worker), "serving")
    for model in MODELS:
        assert installed(worker, model)[0][0] == 100, "the models there were are installed before it is ready"
    lags = []
    for number in range(100, 115):
        sent = time.time()
        school.publish([an_example(3 * number)])
        until(lambda n=number: installed(worker, "offers")[-1][0] == n + 1, "installing")
        lags.append(installed(worker, "offers")[-1][1] - sent)
        time.sleep(0.26)
    assert sorted(lags)[len(lags) * 3 // 4] < 1.0
    (learner,) = children_of(worker.process.pid)
    os.kill(learner, signal.SIGKILL)
    until(lambda: children_of(worker.process.pid) not in ([], [learner]), "the learner is started again")
    assert _ready(worker)
    school.publish([an_example(3 * 115)])
    until(lambda: installed(worker, "offers")[-1][0] == 116, "learning goes on")
    (learner,) = children_of(worker.process.pid)
    assert worker.stop(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: gone(learner), "the learner ends with its worker")
    assert "stopped; everything learned is published" in worker.said()


def test_worker_stops_its_learner(school: School):
    """A worker that stops in order stops its learner in order; one told to have none has none."""
    worker = school.start("serve")
    until(lambda: _ready(worker) and children_of(worker.process.pid), "serving")
    (learner,) = children_of(worker.process.pid)
    school.publish([an_example(n) for n in range(50)])
    until(lambda: installed(worker, "offers") and installed(worker, "offers")[-1][0] >= 50, "learning")
    assert worker.stop() == 0
    assert gone(learner)
    assert school.included("offers") == 50
    reports = [decode_report(each.value()) for each in school.group.read("models") if b"#report" in each.key()]
    last = {each.partition: each.results for each in reports if each is not None}
    assert last[partition_of("offers", PARTITIONS)]["offers"] == {"learned": 50}
    alone = school.start("serve", learner=False)
    until(lambda: _ready(alone), "serving")
    assert children_of(alone.process.pid) == []
    assert installed(alone, "offers")[-1][0] == 50
    assert alone.stop() == 0


def _ready(process: Process) -> bool:
    port = re.search(r"web port (\d+)", process.said())
    if port is None:
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
