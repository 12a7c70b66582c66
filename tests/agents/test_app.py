"""The worker is put together in one place, and of Faust's parts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mode.signals import Signal

from agents.app import _GENERATION_POLL_SECONDS, _follow_group, _standbys, batch_agent, build_app
from agents.offsets import TopicPartition
from agents.partitions import Batch
from agents.settings import Settings
from agents.transport import Transport, broker_urls
from tests.agents.counting import counting_engine

ROOT = Path(__file__).parents[2]


async def test_agent_runs_on_any_stream():
    """An agent is a plain coroutine: on a list of batches it processes them in order, one after another."""
    batches = [Batch("signals", TopicPartition("batuta.signals", number), 0, [], 0) for number in range(3)]
    log: list[str] = []

    async def stream():
        for batch in batches:
            yield batch

    async def process(batch: Batch) -> None:
        log.append(f"began {batch.at.partition}")
        await asyncio.sleep(0)
        log.append(f"ended {batch.at.partition}")

    await batch_agent(process)(stream())
    assert log == [f"{what} {number}" for number in range(3) for what in ("began", "ended")]


async def test_composition():
    """One agent per topic read in batches, in order; our transport; Faust's own co-partitioning assignor."""
    app = build_app(Settings(prefix="x.", group="g", bootstrap="a:1, b:2"), counting_engine(), pytest.fail)
    app.finalize()
    assert [next(iter(agent.channel.topics)) for agent in app.agents.values()] == [
        "x.signals",
        "x.links",
        "x.customers",
        "x.outcomes",
    ]
    assert isinstance(app.transport, Transport)
    assert [str(url) for url in app.conf.broker] == ["batuta://a:1", "batuta://b:2"]
    assert app.conf.table_standby_replicas == 1, "else Faust assigns partitions topic by topic"
    assert app.conf.id == "g"
    assert app.ownership.stage == "joining the group"


async def test_standbys_are_those_of_the_assignor_when_they_are_wanted():
    """The group tells of every topic keyed by customer; what it tells counts only with the setting."""
    for wanted, expected in ((0, set()), (2, {3, 5})):
        app = build_app(Settings(group="g", standby_replicas=wanted), counting_engine(), pytest.fail)
        app.finalize()
        assert app.conf.table_standby_replicas == max(1, wanted)
        app.assignor._assignment.standbys = {"batuta.signals": [3, 5], "batuta.links": [3, 5], "other": [7]}
        assert _standbys(app) == expected


def test_broker_addresses():
    """Several servers become several URLs of our scheme."""
    assert list(broker_urls("one:9092,two:9093")) == ["batuta://one:9092", "batuta://two:9093"]


def test_importing_creates_nothing():
    """Importing the worker makes no app, no loop, no thread and no directory, and configures no logging."""
    code = (
        "import threading, logging, agents.worker, faust.app.base as base, gc;"
        "assert threading.active_count() == 1;"
        "assert not logging.getLogger().handlers;"
        "assert not [each for each in gc.get_objects() if isinstance(each, base.App)]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_blocked_event_loop_ends_the_process():
    """A loop that does nothing for too long is ended from outside of it, with a line that says so."""
    code = (
        "import asyncio, time; from agents import process; process.quiet_logging()\n"
        "async def main():\n"
        "    process.watch_loop(asyncio.get_running_loop(), 0.2)\n"
        "    await asyncio.sleep(0.5)\n"
        "    time.sleep(30)\n"
        "asyncio.run(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, timeout=20, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "Stopping at once: the event loop: TimeoutError: did nothing for 0.2 s" in ended.stderr


def test_own_lines_only():
    """The libraries' log lines stay out, ours come through; a logging that is configured already is left alone."""
    code = (
        "import logging; from agents import process; process.quiet_logging();"
        "logging.getLogger('faust').error('noise'); logging.getLogger('batuta').info('ours')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "noise" not in ended.stderr
    assert "INFO ours" in ended.stderr
    code = code.replace("process.quiet", "logging.basicConfig(format='mine: %(message)s'); process.quiet")
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert ended.stderr == "mine: noise\n"


async def test_waiting_for_the_group_ends_with_the_next_assignment():
    """A member with a name of its own may be assigned its partitions again within one generation (KIP-345)."""

    async def revoked_meanwhile(*_: object) -> bool:
        return False

    app = SimpleNamespace(
        consumer_generation_id=7,
        consumer=SimpleNamespace(assignment=set),
        ownership=SimpleNamespace(assignments=1, take_over=revoked_meanwhile),
        roles={},
        settings=Settings(),
        on_rebalance_complete=Signal(),
    )
    _follow_group(app)
    waiting = asyncio.create_task(app.on_rebalance_complete.send(None))
    await asyncio.sleep(3 * _GENERATION_POLL_SECONDS)
    assert not waiting.done()
    app.ownership.assignments += 1
    await asyncio.wait_for(waiting, 5)
