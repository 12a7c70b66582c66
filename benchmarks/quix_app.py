"""The worker's work as an app on quixstreams, written as its documentation does: a data frame with state, to a topic.

quixstreams is left as it is set up by default: state in RocksDB with a changelog, producers that wait 5 ms for more to
send, a checkpoint every 5 s, and decisions sent whether or not the state that remembers them is safe.

    python -m benchmarks.quix_app HOST:PORT PREFIX CANDIDATES PARTITIONS STATE_DIRECTORY
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from quixstreams import Application, State, message_context
from quixstreams.models import TopicConfig

from benchmarks.deciding import ROLE, Deciding
from engine.record import Output, Record

_PROFILE = "profile"


def build_app(bootstrap: str, prefix: str, candidates: int, partitions: int, directory: str) -> Application:
    """The app, not started yet."""
    app = Application(
        broker_address=bootstrap,
        consumer_group=f"{prefix}quixstreams",
        auto_offset_reset="earliest",
        state_dir=directory,
        loglevel="ERROR",
    )
    layout = TopicConfig(num_partitions=partitions, replication_factor=1)
    signals = app.topic(f"{prefix}signals", key_deserializer="bytes", value_deserializer="bytes", config=layout)
    decisions = app.topic(f"{prefix}decisions", key_serializer="bytes", value_serializer="bytes", config=layout)
    deciding = Deciding(candidates, partitions)

    def decide(value: bytes, key: bytes, timestamp: int, headers: Any, state: State) -> Sequence[Output]:
        at = message_context()
        record = Record(ROLE, at.partition, at.offset, timestamp, key, value, tuple(headers or ()))
        outputs, profile = deciding.decide_alone(record, state.get_bytes(_PROFILE))
        if profile is not None:
            state.set_bytes(_PROFILE, profile)
        return outputs

    frame = app.dataframe(signals).apply(decide, stateful=True, metadata=True, expand=True)
    frame = frame.set_headers(lambda output, *_: list(output.headers)).apply(lambda output: output.value)
    frame.to_topic(decisions)
    return app


if __name__ == "__main__":
    build_app(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]).run()
