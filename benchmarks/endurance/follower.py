"""The reader: decisions by librdkafka as they come, and at the end the final profiles and what is committed."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from typing import NamedTuple, cast

from confluent_kafka import Consumer, Message, TopicPartition

from agents.journal import EPOCH_HEADER
from agents.topics import READ_IN_BATCHES
from benchmarks.chaos.following import Following, asker, places, progress
from benchmarks.chaos.notes import Counted, Progress
from benchmarks.chaos.reader import counted
from benchmarks.chaos.verdict import Latest
from benchmarks.endurance.account import Account
from benchmarks.load import LoadFailed
from engine.repertoire import Repertoire

_ASK_SECONDS = 10.0
_FINISH_SECONDS = 200.0


class Follower(threading.Thread):
    """Takes all decisions of a topic into an account, partition by partition in order, until it is told to finish."""

    def __init__(self, bootstrap: str, group: str, topic: str, account: Account) -> None:
        super().__init__(name="follower", daemon=True)
        self._following = Following(bootstrap, group, [topic])
        self._account = account
        self._over = threading.Event()
        self._error: Exception | None = None

    def run(self) -> None:
        """Read."""
        try:
            with self._following as following:
                while not self._over.is_set():
                    self._take(following.come())
                self._take(following.rest())
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to; `check` does
            self._error = error

    def _take(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._account.take(message.value() or b"")

    def check(self) -> None:
        """Raise `LoadFailed` when decisions cannot be read any more."""
        if self._error is not None:
            raise LoadFailed(f"decisions could not be read: {self._error}") from self._error

    def finish(self) -> None:
        """Return when everything there is by now is read; harmless when repeated."""
        self._over.set()
        self.join(_FINISH_SECONDS)
        self.check()


class State(NamedTuple):
    """The last value of each customer on the changelog: what it says was applied, and the bytes of all together."""

    profiles: dict[str, Counted]
    size: int


def final_state(bootstrap: str, group: str, repertoire: Repertoire) -> State:
    """What a worker that took the partitions over would read back."""
    latest: defaultdict[int | None, Latest] = defaultdict(Latest)
    with Following(bootstrap, group, [f"{repertoire.prefix}profiles"]) as following:
        for message in following.rest():
            latest[message.partition()].apply(message.key(), message.value(), _epoch(message))
    values = {key.decode(): value for each in latest.values() for key, value in each.values.items()}
    profiles = {customer: counted(value, repertoire) for customer, value in values.items()}
    return State(profiles, sum(map(len, values.values())))


def final_progress(bootstrap: str, group: str, prefix: str) -> tuple[list[Progress], int]:
    """How far the group is with all topics it reads, and how many records there are among the rejects."""
    with closing(asker(bootstrap, group)) as consumer:
        rejects = progress(consumer, [f"{prefix}rejects"])
        read = progress(consumer, [f"{prefix}{role}" for role in READ_IN_BATCHES])
    return read, sum(each.end for each in rejects)


def uncommitted(consumer: Consumer, topic: str) -> int:
    """Records of a topic that the consumer's group has not committed; reads none of them.

    Raises KafkaException or TimeoutError when the broker does not tell.
    """
    committed = consumer.committed(places(consumer, [topic]), _ASK_SECONDS)
    return sum(max(0, _end(consumer, each) - max(0, each.offset)) for each in committed)


def _end(consumer: Consumer, at: TopicPartition) -> int:
    watermarks = consumer.get_watermark_offsets(TopicPartition(at.topic, at.partition), _ASK_SECONDS)
    if watermarks is None:
        raise TimeoutError(f"the broker did not say where {at.topic}[{at.partition}] ends")
    return watermarks[1]


def _epoch(message: Message) -> int | None:
    headers = cast("list[tuple[str, bytes]]", message.headers() or [])
    return next((int(value) for name, value in headers if name == EPOCH_HEADER), None)
