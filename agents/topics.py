"""The topics: what each is for, as a table, and what of it exists on a cluster.

| delivery | of | repeated after a crash? | a reader drops repetitions by |
|---|---|---|---|
| at least once | `decisions`, `decisions.<channel>` | with the same id and content | `decisionId` |
| at least once | `links`, `customers`, `learning`, `journeys`, `rejects` | yes | ids in their values |
| once, under owner epochs | `profiles`, `identities` | last value per key counts | the key |
| at least once | `models` | older values after newer ones | headers, see `agents.model_topic` |

With the guarantee `exactly_once`, readers of committed records see everything but `models` once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, Literal

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from engine.apprentice import TOPIC

DAY_MS = 86_400_000
MAX_RECORD_BYTES = 8 * 1024 * 1024
"""Records that carry whole profiles may be larger than what brokers take by default (1 MiB)."""
ISOLATION_LEVEL = "read_committed"
"""How topics are read: what a transaction took back was never said."""
_BROKER_DEFAULT = -1
_CLEANUP = "cleanup.policy"
_VISIBLE_SECONDS = 10.0
_VISIBLE_POLL_SECONDS = 0.05


class Topic(msgspec.Struct, frozen=True):
    """One topic. `role`: its name without the prefix. `by_key`: its records go to the partition their key maps to.

    Topics `by_key` have equally many partitions, so those keyed by customer have partition n in common. `single`: has
    one. `retention_ms`, `max_bytes` (of one record), `segment_bytes`: None: the broker's default.
    """

    role: str
    key: str
    cleanup: Literal["delete", "compact"] = "delete"
    by_key: bool = True
    single: bool = False
    retention_ms: int | None = None
    max_bytes: int | None = None
    segment_bytes: int | None = None


TOPICS = (
    Topic("signals", "any identifier of the customer"),
    Topic("links", "identifier"),
    Topic("customers", "canonical customer id", max_bytes=MAX_RECORD_BYTES),
    Topic("decisions", "canonical customer id"),
    Topic("outcomes", "customer id as found in the decision"),
    Topic("learning", "model id"),
    # Every worker reads it from the beginning when it starts, and only segments that are full are compacted.
    Topic(
        "models",
        "model id",
        cleanup="compact",
        by_key=False,
        single=True,
        max_bytes=MAX_RECORD_BYTES,
        segment_bytes=2 * MAX_RECORD_BYTES,
    ),
    Topic("profiles", "canonical customer id", cleanup="compact", max_bytes=MAX_RECORD_BYTES),
    Topic("identities", "identifier", cleanup="compact"),
    Topic("journeys", "canonical customer id", retention_ms=30 * DAY_MS),
    Topic("config", "config version", cleanup="compact", by_key=False, single=True),
    Topic("rejects", "as received", by_key=False, max_bytes=MAX_RECORD_BYTES, retention_ms=30 * DAY_MS),
)
READ_IN_BATCHES = ("signals", "links", "customers", "outcomes")
"""Roles whose records change the state of a partition."""
BY_KEY = frozenset(topic.role for topic in TOPICS if topic.by_key)


class Mismatch(msgspec.Struct, frozen=True):
    """A topic that exists otherwise than it should. `sentence`: what is there, what is expected, what to do."""

    topic: str
    sentence: str


class Inspection(msgspec.Struct, frozen=True):
    """What a cluster has of the topics needed."""

    missing: tuple[Topic, ...]
    mismatched: tuple[Mismatch, ...]


class TopicsUnusable(Exception):
    """Topics are missing or differ from what the engine needs; the text says what to do."""


APPRENTICE = Topic(TOPIC, "canonical customer id", retention_ms=30 * DAY_MS)
"""What an apprentice would decide; only needed beside one (see `engine.apprentice`)."""


def needed(channels: Iterable[str] = ()) -> tuple[Topic, ...]:
    """All topics, with one for each channel that is configured with its own."""
    return (*TOPICS, *(Topic(f"decisions.{channel}", "canonical customer id") for channel in sorted(set(channels))))


def partition_count(topic: Topic, partitions: int) -> int:
    """How many partitions the topic is created with."""
    return 1 if topic.single else partitions


async def inspect(admin: AIOKafkaAdminClient, topics: Sequence[Topic], prefix: str, partitions: int) -> Inspection:
    """Compare the topics with what the cluster has; changes nothing."""
    found = await _partitions_found(admin, [f"{prefix}{topic.role}" for topic in topics])
    existing = [topic for topic in topics if f"{prefix}{topic.role}" in found]
    policies = await _cleanup_policies(admin, [f"{prefix}{topic.role}" for topic in existing])
    mismatched = []
    for topic in existing:
        name = f"{prefix}{topic.role}"
        sentence = _mismatch(topic, name, found[name], policies.get(name), partitions)
        if sentence is not None:
            mismatched.append(Mismatch(name, sentence))
    missing = tuple(topic for topic in topics if f"{prefix}{topic.role}" not in found)
    return Inspection(missing, tuple(mismatched))


async def create(admin: AIOKafkaAdminClient, topics: Sequence[Topic], prefix: str, partitions: int) -> None:
    """Create topics, replicated as the broker does by default; returns when they can be seen.

    One that exists by now is left alone. Raises `TopicsUnusable` when the broker refuses one.
    """
    if not topics:
        return
    response = await admin.create_topics([_new_topic(topic, prefix, partitions) for topic in topics])
    for name, code, *message in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            reason = message[0] if message and message[0] else error.__name__
            raise TopicsUnusable(f"the broker refused to create {name}: {reason}")
    names = {f"{prefix}{topic.role}" for topic in topics}
    deadline = monotonic() + _VISIBLE_SECONDS
    while unseen := names.difference(await admin.list_topics()):
        if monotonic() > deadline:
            raise TopicsUnusable(f"{', '.join(sorted(unseen))} cannot be seen {_VISIBLE_SECONDS:g} s after creation")
        await asyncio.sleep(_VISIBLE_POLL_SECONDS)


async def ensure(
    admin: AIOKafkaAdminClient, topics: Sequence[Topic], prefix: str, partitions: int, *, apply: bool
) -> Inspection:
    """Create what is missing if `apply`; raises `TopicsUnusable`, naming every fault, when topics cannot be used."""
    inspection = await inspect(admin, topics, prefix, partitions)
    faults = [mismatch.sentence for mismatch in inspection.mismatched]
    if inspection.missing and not apply:
        names = ", ".join(f"{prefix}{topic.role}" for topic in inspection.missing)
        faults.append(f"missing: {names}; create them with `batuta topics --apply`")
    if faults:
        raise TopicsUnusable("; ".join(faults))
    await create(admin, inspection.missing, prefix, partitions)
    return inspection


def _new_topic(topic: Topic, prefix: str, partitions: int) -> NewTopic:
    configs: dict[str, str] = {_CLEANUP: topic.cleanup}
    if topic.retention_ms is not None:
        configs["retention.ms"] = str(topic.retention_ms)
    if topic.max_bytes is not None:
        configs["max.message.bytes"] = str(topic.max_bytes)
    if topic.segment_bytes is not None:
        configs["segment.bytes"] = str(topic.segment_bytes)
    return NewTopic(
        f"{prefix}{topic.role}",
        partition_count(topic, partitions),
        _BROKER_DEFAULT,
        replica_assignments={},
        topic_configs=configs,
    )


def _mismatch(topic: Topic, name: str, found: int, policy: str | None, partitions: int) -> str | None:
    """What is wrong with an existing topic; None when nothing is."""
    expected = partition_count(topic, partitions)
    if found != expected and (topic.by_key or topic.single):
        return (
            f"{name} has {found} partitions, expected {expected}: its keys are spread over partitions by number, "
            f"so it cannot be changed in place; set BATUTA_PARTITIONS={found} if all topics have {found}, "
            "or use another prefix"
        )
    if policy is not None and topic.cleanup not in policy.split(","):
        return f"{name} has {_CLEANUP}={policy}, expected {topic.cleanup}; alter the topic's configuration"
    if policy is not None and topic.cleanup == "compact" and "delete" in policy.split(","):
        return f"{name} has {_CLEANUP}={policy}, which deletes state; expected compact; alter the topic's configuration"
    return None


async def _partitions_found(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, int]:
    """Partition counts of those of the topics that exist."""
    present = set(await admin.list_topics()).intersection(names)
    described = await admin.describe_topics(sorted(present)) if present else []
    return {each["topic"]: len(each["partitions"]) for each in described if not each["error_code"]}


async def _cleanup_policies(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, str]:
    """Cleanup policies as far as the broker tells them."""
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, {_CLEANUP: ""}) for name in names]
    try:
        responses = await admin.describe_configs(resources) if resources else []
    except KafkaError:
        return {}
    policies: dict[str, str] = {}
    for response in responses:
        for code, _, _, name, entries in response.resources:
            found = [entry[1] for entry in entries if entry[0] == _CLEANUP]
            if not code and found:
                policies[name] = found[0]
    return policies


def describe(inspection: Inspection, prefix: str, topics: Sequence[Topic], partitions: int) -> list[dict[str, Any]]:
    """One row per topic for a table: name, partitions, key, cleanup and state (`ok`, `missing`, or what is wrong)."""
    wrong = {mismatch.topic: mismatch.sentence for mismatch in inspection.mismatched}
    missing = {topic.role for topic in inspection.missing}
    return [
        {
            "topic": f"{prefix}{topic.role}",
            "partitions": partition_count(topic, partitions),
            "key": topic.key,
            "cleanup": topic.cleanup,
            "state": "missing" if topic.role in missing else wrong.get(f"{prefix}{topic.role}", "ok"),
        }
        for topic in topics
    ]
