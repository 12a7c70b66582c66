"""What crosses the border of the engine: a `Record` read from a topic, and the `Effects` of handling it."""

from __future__ import annotations

import msgspec

Headers = tuple[tuple[str, bytes], ...]
"""Kafka record headers in order; a name may repeat, and the last one counts."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record of a topic the engine reads.

    `topic`: its role, without the prefix (`signals`, `links`, `customers`, `outcomes`). `timestamp_ms`: the
    broker's, epoch milliseconds; it is the engine's only notion of "now".
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to write. `topic`: its role (`decisions`, `decisions.<channel>`, `customers`, `rejects` …).

    `timestamp_ms`: the record's own time when it must be kept (a forwarded signal); None: when it is sent.
    """

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers = ()
    timestamp_ms: int | None = None


class Effects(msgspec.Struct):
    """What handling one record asks of the shell, besides the state it changed.

    `outputs`: in the order to be written. `timers`: (customer id, epoch milliseconds) when it is to be woken next.
    `counts`: (metric name, label values …) → how often, for the counters of the contract's metrics. `laps`: stage
    and seconds, filled in by whoever measures.
    """

    outputs: list[Output] = msgspec.field(default_factory=list)
    timers: list[tuple[str, int]] = msgspec.field(default_factory=list)
    counts: dict[tuple[str, ...], int] = msgspec.field(default_factory=dict)
    laps: list[tuple[str, float]] = msgspec.field(default_factory=list)

    def count(self, metric: str, *labels: str, times: int = 1) -> None:
        """Add to a counter, named without its `batuta_` prefix and `_total` suffix."""
        key = (metric, *labels)
        self.counts[key] = self.counts.get(key, 0) + times


def header(headers: Headers, name: str) -> bytes | None:
    """The last value of a header, or None."""
    found = None
    for key, value in headers:
        if key == name:
            found = value
    return found
