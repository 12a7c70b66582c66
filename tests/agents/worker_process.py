"""Workers as processes on a real broker: started, looked at, killed; and what they leave in their topics."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.agents.counting import Counter, decode

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
PATIENCE_SECONDS = 25.0


class Group:
    """One consumer group of workers with topics of its own, and everything a test does to it."""

    def __init__(self, bootstrap: str, prefix: str, group: str, directory: Path, guarantee: str = "idempotent") -> None:
        self.bootstrap, self.prefix, self.group, self.guarantee = bootstrap, prefix, group, guarantee
        self._directory = directory
        self._workers: list[Worker] = []
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})

    def start(self, *arguments: str, **settings: Any) -> Worker:
        """Start another worker of the group."""
        worker = Worker(self, self._directory / f"worker-{len(self._workers)}.log", arguments, settings)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """Kill what still runs."""
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGCONT)
                worker.process.kill()
                worker.process.wait()

    def publish(self, pairs: Iterable[tuple[bytes | None, bytes | None]], topic: str = "signals") -> None:
        """Publish (key, value) pairs, and return when they are stored."""
        for key, value in pairs:
            self._producer.produce(f"{self.prefix}{topic}", key=key, value=value)
            self._producer.poll(0)
        assert self._producer.flush(PATIENCE_SECONDS) == 0

    def read(self, topic: str) -> list[Message]:
        """All committed records of a topic there are by now."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "none",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        name = f"{self.prefix}{topic}"
        waiting = set(consumer.list_topics(name, PATIENCE_SECONDS).topics[name].partitions)
        consumer.assign([TopicPartition(name, at, 0) for at in waiting])
        messages: list[Message] = []
        while waiting:
            for message in consumer.consume(1000, 0.1):
                if message.error() is None:
                    messages.append(message)
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    waiting.discard(message.partition())
        consumer.close()
        return messages

    def decisions(self) -> set[bytes]:
        """The distinct decisions published so far."""
        return {message.value() for message in self.read("decisions")}

    def state(self) -> dict[str, Counter]:
        """The counters as the changelog has them: last value per key, without the owners' claims."""
        latest = {message.key(): message.value() for message in self.read("profiles") if message.key()}
        return {key.decode(): decode(value) for key, value in latest.items() if value is not None}

    def committed(self, topic: str = "signals") -> dict[int, int]:
        """Offsets the group has committed."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        partitions = [TopicPartition(f"{self.prefix}{topic}", number) for number in range(PARTITIONS)]
        offsets = {each.partition: max(each.offset, 0) for each in consumer.committed(partitions, PATIENCE_SECONDS)}
        consumer.close()
        return offsets

    def rewind(self) -> None:
        """Have the group read all signals again; only while no worker runs."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        topic = f"{self.prefix}signals"
        offsets = [TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                consumer.commit(offsets=offsets, asynchronous=False)
                break
            except KafkaException:
                assert time.monotonic() < deadline, "the group is not empty"
                time.sleep(0.2)
        consumer.close()


class Worker:
    """One worker process."""

    def __init__(self, group: Group, log: Path, arguments: Iterable[str], settings: Mapping[str, Any]) -> None:
        given = {
            "bootstrap": group.bootstrap,
            "prefix": group.prefix,
            "group": group.group,
            "partitions": PARTITIONS,
            "guarantee": group.guarantee,
            "web_port": 0,
            "session_timeout_seconds": 3,
            "heartbeat_seconds": 0.3,
            **settings,
        }
        environ = {f"BATUTA_{name.upper()}": str(value) for name, value in given.items()}
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.agents.counting", *arguments],
                cwd=ROOT,
                env={**os.environ, **environ},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        """What it printed so far."""
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, Any]:
        """Ask its web port; (0, None) when it does not listen (yet)."""
        port = re.search(r"web port (\d+)", self.said())
        if port is None:
            return 0, None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}{path}", timeout=5) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, None

    def page(self, path: str) -> str:
        """A page of its web port as text."""
        port = re.search(r"web port (\d+)", self.said())
        assert port is not None, self.said()
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}{path}", timeout=5) as response:
            return str(response.read().decode())

    def serves(self) -> list[int]:
        """The partitions it serves; none while it is not ready."""
        status, body = self.get("/readyz")
        return body["partitions"] if status == 200 else []

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_SECONDS)


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS:g} s"
        time.sleep(0.05)
