"""The broker of a test session: Apache Kafka, or the embedded one on a laptop without Java, said aloud."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

from agents.broker import (
    BrokerKind,
    BrokerUnavailable,
    EmbeddedBroker,
    KafkaBroker,
    RunningBroker,
    find_broker,
)

_USED = pytest.StashKey[str]()

# A deadline would be an absolute time, which a busy machine misses.
settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[RunningBroker]:
    """One broker for the whole session. BATUTA_BOOTSTRAP is ignored: tests never touch a cluster of yours."""
    in_ci = bool(os.environ.get("CI"))
    try:
        choice = find_broker(environ={})
        if in_ci and choice.kind is not BrokerKind.KAFKA:
            pytest.fail(f"CI runs broker tests on Apache Kafka only. {choice.sentence}")
        kafka = choice.kind is BrokerKind.KAFKA
        with KafkaBroker(archive_classes=not in_ci) if kafka else EmbeddedBroker() as running:
            request.config.stash[_USED] = choice.sentence
            yield RunningBroker(running.bootstrap, choice.kind)
    except BrokerUnavailable as error:
        pytest.fail(str(error))


@pytest.fixture
def unique_prefix() -> str:
    """Prefix for the topics of one test, as no other test has it."""
    return f"test-{uuid.uuid4().hex[:12]}."


@pytest.fixture
def unique_group(unique_prefix: str) -> str:
    """Consumer group of one test, as no other test has it."""
    return f"{unique_prefix}group"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for the broker carries its marker, so `-m "not broker"` never starts one."""
    for item in items:
        if "broker" in getattr(item, "fixturenames", ()):
            item.add_marker("broker")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which broker the tests ran on."""
    if _USED in config.stash:
        terminalreporter.write_line(config.stash[_USED])
