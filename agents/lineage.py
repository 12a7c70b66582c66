"""Which topic a name stands for: the id Kafka gave it when it was created, which no other topic ever has.

aiokafka asks for metadata in a version that does not tell the id; this asks in one that does (Kafka 3.0, KIP-516).
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any
from uuid import UUID

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from agents.store import Lineage

_TOMBSTONES = "delete.retention.ms"
_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)


class _Uuid(AbstractType[UUID]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _TopicsResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), _TAGS)),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", CompactArray(Int32)),
                        ("isr_nodes", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        _TAGS,
                    ),
                ),
                ("topic_authorized_operations", Int32),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _TopicsStruct(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _TopicsResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("name", _TEXT), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class _TopicsRequest(Request[_TopicsStruct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_TopicsStruct]) -> _TopicsStruct:
        return request_struct_class([(UUID(int=0), topic, {}) for topic in self._topics], False, False, {})


async def lineages(bootstrap: str, topics: Sequence[str]) -> dict[str, Lineage]:
    """The lineage of each topic; without those whose id or configuration the broker does not tell."""
    ids = await _topic_ids(bootstrap, topics)
    kept_ms = await _tombstones_ms(bootstrap, list(ids))
    return {topic: Lineage(ids[topic], kept_ms[topic]) for topic in kept_ms}


async def _topic_ids(bootstrap: str, topics: Sequence[str]) -> dict[str, str]:
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        answer: Any = await client.send(client.get_random_node(), _TopicsRequest(topics))
    except (IncompatibleBrokerVersion, NotImplementedError):
        # An older broker: aiokafka finds no version of the request in common, or none that it knows at all.
        return {}
    finally:
        await client.close()
    return {name: topic_id.hex for code, name, topic_id, *_ in answer.topics if not code and topic_id.int}


async def _tombstones_ms(bootstrap: str, topics: Sequence[str]) -> dict[str, int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic, {_TOMBSTONES: ""}) for topic in topics]
        answers = await admin.describe_configs(wanted) if wanted else []
    except KafkaError:
        return {}
    finally:
        await admin.close()
    return {
        topic: int(value)
        for answer in answers
        for code, _, _, topic, entries in answer.resources
        for name, value, *_ in entries
        if not code and name == _TOMBSTONES
    }
