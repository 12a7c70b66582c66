"""The worker's work as an app on plain Faust, written as its documentation does: an agent, a table, a topic.

Faust is left as it is set up by default, except for its loop. Its table is in memory with a changelog; it commits every
2.8 s, and sends decisions whether or not the state that remembers them is safe.

    python -m benchmarks.faust_app HOST:PORT PREFIX CANDIDATES PARTITIONS
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import faust

from benchmarks.deciding import ROLE, Deciding
from engine.record import Record


def build_app(bootstrap: str, prefix: str, candidates: int, partitions: int) -> faust.App:
    """The app, not started yet."""
    app = faust.App(
        f"{prefix}faust",
        broker=f"kafka://{bootstrap}",
        store="memory://",
        datadir=tempfile.mkdtemp(prefix="faust-"),
        topic_partitions=partitions,
        topic_replication_factor=1,
        web_enabled=False,
    )
    signals = app.topic(f"{prefix}signals", key_type=bytes, value_serializer="raw")
    decisions = app.topic(f"{prefix}decisions", key_type=bytes, value_serializer="raw")
    raw: Any = faust.Schema(key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="raw")
    profiles = app.Table("profiles", schema=raw, partitions=partitions)
    deciding = Deciding(candidates, partitions)

    async def decide(stream: Any) -> AsyncIterator[None]:
        async for event in stream.events():
            message = event.message
            record = Record(
                ROLE,
                message.partition,
                message.offset,
                int(message.timestamp * 1000),
                event.key,
                event.value,
                tuple(message.headers or ()),
            )
            outputs, profile = deciding.decide_alone(record, profiles.get(event.key))
            if profile is not None:
                profiles[event.key] = profile
            for output in outputs:
                await decisions.send(
                    key=output.key, value=output.value, partition=message.partition, headers=dict(output.headers)
                )
            yield

    app.agent(signals)(decide)
    return app


if __name__ == "__main__":
    os.environ.setdefault("FAUST_LOOP", "uvloop")
    faust.Worker(
        build_app(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])), loglevel="ERROR"
    ).execute_from_commandline()
