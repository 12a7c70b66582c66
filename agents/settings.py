"""What a worker is told from outside: arguments, and the environment, which is read here and nowhere else."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agents.topics import MAX_RECORD_BYTES

ENV_PREFIX = "BATUTA_"
LEAST_KEY = 16
"""Characters of a key that cannot be guessed, when they are random."""

Seconds = Annotated[float, Meta(gt=0)]


class InvalidSettings(ValueError):
    """One or more settings are wrong; the text names each, with the value found and what is expected."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one worker. Each may be given as an environment variable: BATUTA_ and the name in capitals."""

    bootstrap: Annotated[str, Meta(description="Kafka brokers, host:port, comma-separated", min_length=1)] = (
        "127.0.0.1:9092"
    )
    prefix: Annotated[str, Meta(description="Prefix of all topic names", max_length=100)] = "batuta."
    group: Annotated[str, Meta(description="Application name and consumer group", min_length=1)] = "batuta"
    instance: Annotated[
        str,
        Meta(
            description="Name of this worker, like no other's in the group. With it, a worker that is restarted takes "
            "its partitions back at once; without it, a killed one's are free when its session ends"
        ),
    ] = ""
    partitions: Annotated[int, Meta(description="Partitions of the topics keyed by customer", ge=1, le=1024)] = 8
    web_host: Annotated[str, Meta(description="Address the web server listens on")] = "127.0.0.1"
    web_port: Annotated[int, Meta(description="Port of the web server; 0 picks a free one", ge=0, le=65535)] = 6066
    idempotent: Annotated[bool, Meta(description="Idempotent producers; off for brokers that refuse them")] = True
    guarantee: Annotated[
        Literal["idempotent", "exactly_once"],
        Meta(
            description="`idempotent`: a decision may be there twice, with the same id and the same bytes; "
            "`exactly_once`: transactions, and consumers that read committed records see each once, later"
        ),
    ] = "idempotent"
    fetch_wait_ms: Annotated[
        int,
        Meta(
            description="How long the broker may hold an empty fetch; short for one that does not end it when records "
            "arrive",
            ge=1,
            le=500,
        ),
    ] = 100
    fetch_bytes: Annotated[int, Meta(description="Most bytes per partition and fetch", ge=1024)] = 262_144
    batches_in_flight: Annotated[int, Meta(description="Most fetched batches at work at once", ge=1)] = 64
    commit_interval_seconds: Annotated[Seconds, Meta(description="Time between commits of offsets")] = 0.25
    session_timeout_seconds: Annotated[
        Seconds, Meta(description="Silence after which the group, and the worker itself, give the worker up")
    ] = 10.0
    heartbeat_seconds: Annotated[Seconds, Meta(description="Time between heartbeats to the group")] = 1.5
    rebalance_timeout_seconds: Annotated[Seconds, Meta(description="Time workers have to rejoin")] = 30.0
    drain_seconds: Annotated[Seconds, Meta(description="Time to finish what is at work before handing over")] = 15.0
    stall_seconds: Annotated[Seconds, Meta(description="Time without progress after which the worker ends")] = 60.0
    connect_seconds: Annotated[Seconds, Meta(description="Time to reach the broker at start")] = 15.0
    store: Annotated[
        Literal["memory", "rocksdb"],
        Meta(
            description="Where state is kept beside its changelogs: `memory`, or `rocksdb`, in `state_dir`, so that it "
            "may be larger than memory and a restart reads only what it missed"
        ),
    ] = "memory"
    state_dir: Annotated[str, Meta(description="Directory for `rocksdb`, on a local disk that outlives restarts")] = ""
    state_memory_bytes: Annotated[
        int, Meta(description="Memory of `rocksdb`: its cache and what is not written yet", ge=8_388_608)
    ] = 134_217_728
    standby_replicas: Annotated[
        int,
        Meta(
            description="Other workers that keep up a copy of each partition's state, so that one of them can take it "
            "over at once: as much memory or disk again, and one more reader of its changelogs",
            ge=0,
            le=8,
        ),
    ] = 0
    learner: Annotated[
        bool, Meta(description="Run a learner beside the worker, when the configuration has models; see `batuta learn`")
    ] = True
    snapshot_interval_ms: Annotated[
        int, Meta(description="Least time between two snapshots of a model for the workers", ge=1)
    ] = 250
    state_interval_seconds: Annotated[
        Seconds, Meta(description="Least time between two states of a model for its next learner")
    ] = 2.0
    snapshot_bytes: Annotated[
        int, Meta(description="Largest snapshot that is published, and read", ge=1024, le=MAX_RECORD_BYTES - 65_536)
    ] = 4_194_304
    model_key: Annotated[
        str,
        Meta(
            description="Key that snapshots and states of models are signed with, the same for all workers and "
            "learners; some learners need one. Never logged"
        ),
    ] = ""

    @property
    def name(self) -> str:
        """`instance`, or the host and process."""
        return self.instance or f"{socket.gethostname()}-{os.getpid()}"

    @property
    def signing_key(self) -> bytes | None:
        """`model_key` as bytes; None when there is none."""
        return self.model_key.encode() or None

    def environment(self) -> dict[str, str]:
        """The settings as environment variables, for another process of this deployment."""
        return {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in msgspec.structs.asdict(self).items()}

    def __repr__(self) -> str:
        shown = {**msgspec.structs.asdict(self), "model_key": "…" if self.model_key else ""}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def read_settings(environ: Mapping[str, str], **given: Any) -> Settings:
    """Settings from arguments (those that are not None) over the environment over the defaults.

    Raises `InvalidSettings`, naming every fault at once.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    for field in msgspec.structs.fields(Settings):
        variable = f"{ENV_PREFIX}{field.name.upper()}"
        source, raw = field.name, given.pop(field.name, None)
        if raw is None and environ.get(variable, "").strip():
            source, raw = variable, environ[variable].strip()
        if raw is None:
            continue
        try:
            values[field.name] = msgspec.convert(raw, field.type, strict=False)
        except msgspec.ValidationError as error:
            faults.append(f"{source} is {raw!r}: {error}")
    if given:
        raise TypeError(f"no such settings: {', '.join(sorted(given))}")
    faults += _contradictions(values)
    if faults:
        raise InvalidSettings("; ".join(faults))
    return Settings(**values)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    merged = {**{field.name: field.default for field in msgspec.structs.fields(Settings)}, **values}
    found = []
    if merged["heartbeat_seconds"] * 2 > merged["session_timeout_seconds"]:
        beat, session = merged["heartbeat_seconds"], merged["session_timeout_seconds"]
        found.append(
            f"heartbeat_seconds is {beat}; expected at most half of session_timeout_seconds, which is {session}"
        )
    if merged["guarantee"] == "exactly_once" and not merged["idempotent"]:
        found.append("guarantee is exactly_once, but idempotent is false; transactions need idempotent producers")
    if merged["store"] == "rocksdb" and not merged["state_dir"]:
        found.append("store is rocksdb, but state_dir is not set; give it a directory on a local disk")
    if 0 < len(merged["model_key"]) < LEAST_KEY:
        found.append(f"model_key has {len(merged['model_key'])} characters; expected {LEAST_KEY} or more, or none")
    return found


def settings_table() -> str:
    """Every setting as a Markdown table, for `docs/operations.md`."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for field in msgspec.structs.fields(Settings):
        said = next(meta.description for meta in field.type.__metadata__ if meta.description)
        default = f"`{field.default}`" if field.default != "" else ""
        rows.append(f"| `{ENV_PREFIX}{field.name.upper()}` | {default} | {said} |")
    return "\n".join(rows)
