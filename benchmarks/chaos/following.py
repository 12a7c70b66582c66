"""Reading topics by librdkafka, from their beginning: what comes, and the rest there is by a moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from msgspec.structs import replace

from benchmarks.chaos.notes import Progress

_BATCH, _WAIT_SECONDS = 1_000, 0.05
_ASK_SECONDS = 10.0
_END_SECONDS = 120.0
_LOOK_SECONDS = 5.0
_FINAL = (KafkaError._AUTO_OFFSET_RESET, KafkaError._FATAL, KafkaError.UNKNOWN_TOPIC_OR_PART)  # noqa: SLF001 - their names
"""What no patience helps against; everything else librdkafka tries again by itself."""


class Following:
    """Reads some topics from their beginning, committed records only. Use it as a context manager."""

    def __init__(self, bootstrap: str, group: str, names: Sequence[str]) -> None:
        self._consumer = asker(bootstrap, group)
        self._at = places(self._consumer, names)
        self._read: dict[tuple[str, int], int] = {}
        self._consumer.assign([TopicPartition(each.topic, each.partition, OFFSET_BEGINNING) for each in self._at])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._consumer.close()

    def come(self) -> Iterator[Message]:
        """What has come, after a moment's wait at most. KafkaException when nothing more can come."""
        for message in self._consumer.consume(_BATCH, _WAIT_SECONDS):
            offset = _reached(message)
            if offset is not None:
                self._read[message.topic() or "", message.partition() or 0] = offset
            if message.error() is None:
                yield message

    def rest(self) -> Iterator[Message]:
        """All there is by now and was not read. TimeoutError when it does not come."""
        ends = {(each.topic, each.partition): _end(self._consumer, each) for each in self._at}
        deadline = monotonic() + _END_SECONDS
        while any(self._read.get(at, 0) < end for at, end in ends.items()):
            yield from self.come()
            if monotonic() > deadline:
                raise TimeoutError(f"what there is could not be read within {_END_SECONDS:.0f} s")


def asker(bootstrap: str, group: str) -> Consumer:
    """A consumer in the group, to be told its offsets, but never a member: it assigns itself."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "reconnect.backoff.max.ms": 500,
            "fetch.wait.max.ms": 50,
            "log_level": 2,
        }
    )


def progress(asker: Consumer, names: Sequence[str]) -> list[Progress]:
    """How far the asker's group is with some topics. Raises KafkaException or TimeoutError when nobody tells."""
    committed = asker.committed(places(asker, names), _ASK_SECONDS)
    found = [Progress(each.topic, each.partition, max(each.offset, 0), _end(asker, each)) for each in committed]
    behind = [each for each in found if each.committed < each.end]
    done = _without_records(asker, behind) if behind else frozenset()
    return [replace(each, end=each.committed) if (each.topic, each.partition) in done else each for each in found]


def _without_records(asker: Consumer, behind: Sequence[Progress]) -> frozenset[tuple[str, int]]:
    """Where nothing follows what is committed but the marks that end transactions."""
    asker.assign([TopicPartition(each.topic, each.partition, each.committed) for each in behind])
    ends = {(each.topic, each.partition): each.end for each in behind}
    empty: set[tuple[str, int]] = set()
    looked: set[tuple[str, int]] = set()
    deadline = monotonic() + _LOOK_SECONDS
    while len(looked) < len(behind) and monotonic() < deadline:
        for message in asker.consume(_BATCH, _WAIT_SECONDS):
            offset, at = _reached(message), (message.topic() or "", message.partition() or 0)
            if offset is not None and at not in looked and (message.error() is None or offset >= ends[at]):
                looked.add(at)
                if message.error() is not None:
                    empty.add(at)
    asker.unassign()
    return frozenset(empty)


def places(consumer: Consumer, names: Sequence[str]) -> list[TopicPartition]:
    """All partitions of some topics."""
    return [
        TopicPartition(name, number)
        for name in names
        for number in consumer.list_topics(name, _ASK_SECONDS).topics[name].partitions
    ]


def _reached(message: Message) -> int | None:
    """Offset up to which a partition is read with this message, which may say that this is the end; None: an error."""
    error, offset = message.error(), message.offset()
    if error is None:
        return (offset or 0) + 1
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - their name
        return offset
    if error.code() in _FINAL:
        raise KafkaException(error)
    return None


def _end(consumer: Consumer, at: TopicPartition) -> int:
    watermarks = consumer.get_watermark_offsets(TopicPartition(at.topic, at.partition), _ASK_SECONDS)
    if watermarks is None:
        raise TimeoutError(f"the broker did not say where {at.topic}[{at.partition}] ends")
    return watermarks[1]
