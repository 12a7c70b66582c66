"""The whole engine on a real broker, published to and read by an independent client, against `batuta replay`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from confluent_kafka import Consumer, Producer

from agents.broker import BrokerKind, RunningBroker
from agents.lookup import find_profile
from config.load import load_directory
from engine.replay import Replay
from engine.schemas import message_schema
from models.baseline import PriorScorer
from tests.agents.command import batuta
from tests.builders import CONFIG, write_config

ROOT = Path(__file__).parents[2]
NOON_MS = 1_767_614_400_000
"""2026-01-05T12:00:00Z, outside all quiet hours of the example."""
DEADLINE_SECONDS = 60


class Published:
    """One message: its key as upstream chose it (None: no key), its value, its time."""

    def __init__(self, key: str | None, value: bytes, at: int) -> None:
        self.key = key
        self.value = value
        self.at_ms = NOON_MS + at * 1000


def a_message(at: int, key: str | None, **body: Any) -> Published:
    """A signal at so many seconds past noon."""
    return Published(key, json.dumps({"messageId": f"m-{at}", **body}).encode(), at)


def customers_act() -> list[Published]:
    """Known customers, keyed by the client's own partitioner; people seen once, without a key; and garbage."""
    messages = []
    for n in range(20):
        who = f"user-{n}"
        traits = {"first_name": f"Name{n}", "email": f"{n}@example.org", "age": 16 + n}
        messages.append(a_message(10 * n, who, type="identify", userId=who, traits=traits))
        order = {"orderId": f"o{n}", "total": 10.0 * n}
        messages.append(a_message(10 * n + 1, who, type="track", event="Order Completed", userId=who, properties=order))
        asked = {"requestId": f"r{n}", "placement": "hero", "limit": 2}
        messages.append(
            a_message(10 * n + 2, who, type="track", event="Decision Requested", userId=who, properties=asked)
        )
        messages.append(
            a_message(10 * n + 3, None, type="track", event="Order Completed", userId=f"once-{n}", properties=order)
        )
    messages.append(Published("user-1", b'{"type": "track"', 300))
    messages.append(Published(None, b"\xff\xfe", 301))
    messages.append(a_message(302, "user-1", type="dance", userId="user-1"))
    return messages


def strangers_browse() -> list[Published]:
    """Anonymous visitors, keyed by their anonymous id."""
    added = {"sku": "s1", "price": 20.0}
    return [
        a_message(400 + n, f"anon-{n}", type="track", event="Product Added", anonymousId=f"anon-{n}", properties=added)
        for n in range(5)
    ]


def strangers_tell_who_they_are() -> list[Published]:
    """The same visitors sign in, keyed by user id."""
    return [
        a_message(500 + n, f"user-{n}", type="identify", userId=f"user-{n}", anonymousId=f"anon-{n}") for n in range(5)
    ]


def strangers_return() -> list[Published]:
    """And ask for something once their two histories are one, still keyed by the anonymous id."""
    asked = {"placement": "hero"}
    return [
        a_message(
            600 + n,
            f"anon-{n}",
            type="track",
            event="Decision Requested",
            anonymousId=f"anon-{n}",
            properties={**asked, "requestId": f"back-{n}"},
        )
        for n in range(5)
    ]


@contextmanager
def worker(config: Path, broker: RunningBroker, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`batuta up`, in a process of its own; killed when a test leaves it running."""
    idempotent = "true" if broker.kind is BrokerKind.KAFKA else "false"
    environ = {**os.environ, "BATUTA_IDEMPOTENT": idempotent, "BATUTA_GROUP": f"group-{config.name}-{os.getpid()}"}
    command = [sys.executable, "-m", "agents", "up", str(config), "--bootstrap", broker.bootstrap, "--web-port", "0"]
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=out, stdout=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def publish(broker: RunningBroker, topic: str, messages: list[Published]) -> None:
    """Publish with librdkafka, whose default partitioner hashes keys otherwise than Java's."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for message in messages:
        producer.produce(topic, message.value, key=message.key, timestamp=message.at_ms)
    assert producer.flush(DEADLINE_SECONDS) == 0


class Reader:
    """Reads topics from their beginning with librdkafka and keeps every value."""

    def __init__(self, broker: RunningBroker, group: str, *topics: str) -> None:
        settings = {"bootstrap.servers": broker.bootstrap, "group.id": group, "auto.offset.reset": "earliest"}
        self._consumer = Consumer({**settings, "log_level": 0, "topic.metadata.refresh.interval.ms": 1000})
        self._consumer.subscribe(list(topics))
        self.values: dict[str, list[bytes]] = {topic: [] for topic in topics}

    def read_until(self, promise: Callable[[], bool], calm_seconds: float = 1.0) -> None:
        """Read until the promise holds, and a little longer, in case more comes than there should be."""
        deadline, calm_until = time.monotonic() + DEADLINE_SECONDS, None
        while calm_until is None or time.monotonic() < calm_until:
            for message in self._consumer.consume(500, timeout=0.2):
                if message.error() is None:
                    self.values[message.topic()].append(message.value())
            if calm_until is None and promise():
                calm_until = time.monotonic() + calm_seconds
            assert time.monotonic() < deadline, {topic: len(values) for topic, values in self.values.items()}

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()


def replayed(config: Path, *phases: list[Published]) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Decisions by id and rejects, as the engine makes them in process."""
    repertoire = load_directory(config)
    engine = Replay(repertoire, PriorScorer(repertoire))
    outputs = [out for phase in phases for each in phase for out in engine.signal(each.value, each.at_ms)]
    decisions = [each.value for each in outputs if each.topic == "decisions"]
    rejects = [json.loads(each.value) for each in outputs if each.topic == "rejects"]
    return by_id(decisions), rejects


def by_id(decisions: list[bytes]) -> dict[str, bytes]:
    """Decisions by id; one id never has two contents."""
    found: dict[str, bytes] = {}
    for value in decisions:
        assert found.setdefault(json.loads(value)["decisionId"], value) == value
    return found


def wait_for_topics(broker: RunningBroker, *topics: str) -> None:
    """Until the worker has created them."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not set(topics) <= producer.list_topics(timeout=10).topics.keys():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def config(tmp_path: Path, unique_prefix: str) -> Path:
    """The example shop under this test's own topics, without the trigger that waits for wall-clock time."""
    triggers = {name: each for name, each in CONFIG["triggers"]["triggers"].items() if "after" not in each}
    directory = tmp_path / unique_prefix.strip(".")
    directory.mkdir()
    return write_config(
        directory,
        engine={**CONFIG["engine"], "prefix": unique_prefix},
        triggers={"triggers": triggers},
        experiments=None,
    )


def test_kafka_and_replay_decide_the_same(
    broker: RunningBroker, unique_prefix: str, unique_group: str, config: Path, tmp_path: Path
):
    """Whatever partitioner upstream uses, the decisions are those of a replay, and fit the published schemas."""
    signals, decisions, rejects = (f"{unique_prefix}{role}" for role in ("signals", "decisions", "rejects"))
    phases = [customers_act(), strangers_browse(), strangers_tell_who_they_are(), strangers_return()]
    expected, expected_rejects = replayed(config, *phases)
    with worker(config, broker, tmp_path / "worker.log") as process:
        wait_for_topics(broker, signals, decisions, rejects)
        reader = Reader(broker, unique_group, decisions, rejects)
        publish(broker, signals, phases[0])
        after_first = replayed(config, phases[0])[0].keys()
        reader.read_until(lambda: by_id(reader.values[decisions]).keys() >= after_first)
        publish(broker, signals, phases[1])
        wait_for_profiles(broker, unique_prefix, [f"anonymousId:anon-{n}" for n in range(5)], "Product Added")
        publish(broker, signals, phases[2])
        wait_for_profiles(broker, unique_prefix, [f"user-{n}" for n in range(5)], "Product Added")
        publish(broker, signals, phases[3])
        reader.read_until(lambda: by_id(reader.values[decisions]).keys() >= expected.keys())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (tmp_path / "worker.log").read_text()
        reader.close()
    assert by_id(reader.values[decisions]) == expected
    refused = [json.loads(value) for value in reader.values[rejects]]
    assert {(each["original"], each["code"]) for each in refused} == {
        (each["original"], each["code"]) for each in expected_rejects
    }
    for kind, values in (("decision", reader.values[decisions]), ("reject", reader.values[rejects])):
        validator = jsonschema.Draft202012Validator(message_schema(kind))
        for value in values:
            validator.validate(json.loads(value))


def wait_for_profiles(broker: RunningBroker, prefix: str, customers: list[str], event: str) -> None:
    """Until every customer's profile has seen an event, as `batuta profile` would show it."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    waiting = list(customers)
    while waiting:
        assert time.monotonic() < deadline, waiting
        waiting = [each for each in waiting if not _has_seen(broker, prefix, each, event)]


def _has_seen(broker: RunningBroker, prefix: str, customer: str, event: str) -> bool:
    profile = asyncio.run(find_profile(broker.bootstrap, prefix, customer))
    return profile is not None and profile.customer_id == customer and event in profile.last


def test_killed_worker_loses_and_repeats_nothing(
    broker: RunningBroker, unique_prefix: str, unique_group: str, config: Path, tmp_path: Path
):
    """Killed without warning in the middle and started again: every decision is there, with one content."""
    signals, decisions = f"{unique_prefix}signals", f"{unique_prefix}decisions"
    messages = [each for each in customers_act() if each.key is not None]
    more = [
        a_message(
            1000 + n, f"user-{n % 20}", type="track", event="Order Completed", userId=f"user-{n % 20}",
            properties={"orderId": f"x{n}", "total": float(n)},
        )
        for n in range(2000)
    ]  # fmt: skip
    expected, _ = replayed(config, messages, more)
    with worker(config, broker, tmp_path / "worker.log") as first:
        wait_for_topics(broker, signals, decisions)
        reader = Reader(broker, unique_group, decisions)
        publish(broker, signals, messages + more)
        reader.read_until(lambda: len(reader.values[decisions]) > 200, calm_seconds=0)
        first.kill()
        first.wait()
    with worker(config, broker, tmp_path / "worker.log") as second:
        reader.read_until(lambda: by_id(reader.values[decisions]).keys() >= expected.keys())
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0, (tmp_path / "worker.log").read_text()
        reader.close()
    assert by_id(reader.values[decisions]) == expected


def test_a_running_engine_can_be_looked_into(
    broker: RunningBroker, unique_prefix: str, unique_group: str, config: Path, tmp_path: Path
):
    """`topics` shows what is there, `profile` who a customer is, `explain` why a decision was made."""
    signals, decisions = f"{unique_prefix}signals", f"{unique_prefix}decisions"
    where = ("--bootstrap", broker.bootstrap)
    assert batuta("topics", config, *where).returncode == 1
    created = batuta("topics", config, "--apply", *where)
    assert (created.returncode, f"{unique_prefix}decisions.email" in created.stdout) == (0, True)
    assert batuta("topics", config, *where).returncode == 0
    with worker(config, broker, tmp_path / "worker.log"):
        reader = Reader(broker, unique_group, decisions)
        publish(broker, signals, customers_act())
        reader.read_until(lambda: len(reader.values[decisions]) >= 40, calm_seconds=0)
        reader.close()
    profile = batuta("profile", "user-3", "--prefix", unique_prefix, *where)
    assert json.loads(profile.stdout)["traits"]["first_name"] == "Name3"
    assert batuta("profile", "nobody", "--prefix", unique_prefix, *where).returncode == 1
    decision = json.loads(reader.values[decisions][0])
    explained = batuta("explain", decision["decisionId"], "--prefix", unique_prefix, *where)
    assert (explained.returncode, decision["customerId"] in explained.stdout) == (0, True)
    assert batuta("explain", "never", "--prefix", unique_prefix, *where).returncode == 1


def test_worker_without_a_broker_says_so_in_one_line(config: Path):
    """Nothing listens there: exit code 3 and one line; and `python -m agents` is `batuta`."""
    command = [sys.executable, "-m", "agents", "up", str(config), "--bootstrap", "127.0.0.1:9"]
    environ = {**os.environ, "BATUTA_CONNECT_SECONDS": "0.2"}
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 3
    assert result.stderr.startswith("cannot reach Kafka at 127.0.0.1:9")
    assert result.stderr.count("\n") == 1
