"""The topics of the contract: what they are, whether a cluster has them, and what to do when not."""

from __future__ import annotations

import re

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from agents import topics
from agents.broker import BrokerKind, RunningBroker
from agents.topics import Topic, TopicsUnusable

CHANGELOGS = {"profiles", "identities"}


def test_table_is_the_contract():
    """Roles, cleanup and which topics share the customers' partitions are those of the contract."""
    by_role = {topic.role: topic for topic in topics.needed()}
    assert by_role.keys() == {
        *("signals", "links", "customers", "decisions", "outcomes", "learning", "models"),
        *("profiles", "identities", "journeys", "config", "rejects"),
    }
    compacted = {topic.role for topic in by_role.values() if topic.cleanup == "compact"}
    assert compacted == {*CHANGELOGS, "models", "config"}
    assert {*topics.READ_IN_BATCHES, *CHANGELOGS, "decisions"} <= topics.BY_KEY


def test_channels_with_a_topic_of_their_own():
    """A channel's topic is keyed and split like the decisions; channels are named once."""
    added = topics.needed(["push", "email", "push"])[len(topics.TOPICS) :]
    assert [topic.role for topic in added] == ["decisions.email", "decisions.push"]
    assert all(topics.partition_count(topic, 6) == 6 for topic in added)


@pytest.mark.parametrize(
    ("topic", "found", "policy", "said"),
    [
        (Topic("signals", "id"), 3, "delete", "t.signals has 3 partitions, expected 8.*BATUTA_PARTITIONS=3"),
        (Topic("models", "id", "compact", single=True), 2, "compact", "t.models has 2 partitions, expected 1"),
        (Topic("profiles", "id", "compact"), 8, "delete", "cleanup.policy=delete, expected compact"),
        (Topic("profiles", "id", "compact"), 8, "compact,delete", "which deletes state"),
        (Topic("signals", "id"), 8, "compact", "cleanup.policy=compact, expected delete"),
        (Topic("signals", "id"), 8, "compact,delete", None),
        (Topic("signals", "id"), 8, None, None),
        (Topic("rejects", "id", by_key=False), 3, "delete", None),
    ],
)
def test_mismatch_says_what_to_do(topic, found, policy, said):
    """A topic that exists otherwise than needed is described with what is there, what is expected, and what to do."""
    sentence = topics._mismatch(topic, f"t.{topic.role}", found, policy, 8)
    if said is None:
        assert sentence is None
    else:
        assert sentence is not None
        assert re.search(said, sentence)


async def test_topics_are_created_and_found_right(broker: RunningBroker, unique_prefix: str):
    """What is missing is named, created with the right partitions and cleanup, and then nothing is missing."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await _create_and_inspect(admin, unique_prefix, kafka=broker.kind is BrokerKind.KAFKA)
    finally:
        await admin.close()


async def _create_and_inspect(admin: AIOKafkaAdminClient, prefix: str, *, kafka: bool) -> None:
    needed = topics.needed(["push"])
    with pytest.raises(TopicsUnusable, match=f"missing: {prefix}signals.*`batuta topics --apply`"):
        await topics.ensure(admin, needed, prefix, 3, apply=False)
    await topics.ensure(admin, needed, prefix, 3, apply=True)
    found = await topics.inspect(admin, needed, prefix, 3)
    assert (found.missing, found.mismatched) == ((), ())
    await topics.create(admin, needed, prefix, 3)
    rows = topics.describe(found, prefix, needed, 3)
    assert {row["state"] for row in rows} == {"ok"}
    assert {row["topic"]: row["partitions"] for row in rows}[f"{prefix}config"] == 1
    if kafka:
        with pytest.raises(TopicsUnusable, match=f"{prefix}signals has 3 partitions, expected 4"):
            await topics.ensure(admin, needed, prefix, 4, apply=True)
        await topics.create(admin, [Topic("x.profiles", "id", "delete")], prefix, 3)
        found = await topics.inspect(admin, [Topic("x.profiles", "id", "compact")], prefix, 3)
        assert "expected compact" in found.mismatched[0].sentence
