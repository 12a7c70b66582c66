"""The composition root: everything a worker consists of is made and joined here, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any

import faust
from faust.sensors.monitor import Monitor
from faust.tables.manager import TableManager

from agents import topics, transport
from agents.metrics import Metrics
from agents.offsets import TopicPartition
from agents.ownership import Fail, Ownership
from agents.partitions import Batch, Engine, Routes
from agents.settings import Settings

_GENERATION_POLL_SECONDS = 0.02

Agent = Callable[[AsyncIterable[Batch]], Awaitable[None]]


class App(faust.App):
    """Faust's app with what belongs to a worker. Build it with `build_app`."""

    settings: Settings
    metrics: Metrics
    ownership: Ownership
    roles: Mapping[str, str]

    def _create_directories(self) -> None:
        """Keep nothing on disk: state is in Kafka."""


class NoTables(TableManager):
    """Faust's table manager without tables, and without the second it waits for some at every start."""

    async def on_start(self) -> None:
        """Go on at once."""
        await self._update_channels()
        await self.recovery.start()


class QuietMonitor(Monitor):
    """Faust's sensor without sensing: what it would cost per message buys nothing here."""

    def on_message_in(self, tp: Any, offset: int, message: Any) -> None:
        """Nothing."""

    def on_stream_event_in(self, tp: Any, offset: int, stream: Any, event: Any) -> None:
        """Nothing."""

    def on_stream_event_out(self, tp: Any, offset: int, stream: Any, event: Any, state: Any = None) -> None:
        """Nothing."""

    def on_message_out(self, tp: Any, offset: int, message: Any) -> None:
        """Nothing."""

    def on_topic_buffer_full(self, tp: Any) -> None:
        """Nothing."""

    def on_tp_commit(self, tp_offsets: Any) -> None:
        """Nothing."""

    def track_tp_end_offset(self, tp: Any, offset: int) -> None:
        """Nothing."""


class Batches(faust.Schema):  # type: ignore[type-arg]
    """Batches are passed on as they are: there is nothing to decode."""

    def compile(self, app: Any, **_: Any) -> Any:
        """What makes the event of a message."""

        async def event(message: Any, **_: Any) -> Any:
            return app.create_event(None, message.value, None, message)

        return event


def batch_agent(process: Callable[[Batch], Awaitable[None]]) -> Agent:
    """An agent that processes the batches of its stream one after another."""

    async def agent(batches: AsyncIterable[Batch]) -> None:
        async for batch in batches:
            await process(batch)

    return agent


def build_app(settings: Settings, engine: Engine, fail: Fail) -> App:
    """Build the app of one worker; nothing is connected before it is started.

    `fail(what, error)` is called once something is beyond repair, and should end the process.
    """
    transport.register()
    metrics = Metrics()
    routes = Routes(settings.prefix, settings.partitions, topics.BY_KEY)
    app = App(settings.group, **_faust_settings(settings))
    app.settings, app.metrics = settings, metrics
    app.ownership = Ownership(settings, engine, routes, metrics, fail)
    app.roles = {routes.topic(role): role for role in topics.READ_IN_BATCHES}
    for name, role in app.roles.items():
        topic = app.topic(name, schema=Batches(), acks=False, partitions=settings.partitions)
        app.agent(topic, name=role)(batch_agent(app.ownership.process))
    _follow_group(app)
    return app


def _faust_settings(settings: Settings) -> dict[str, Any]:
    """Faust's settings; those not named by a setting of ours are what the transport relies on."""
    return {
        "broker": list(transport.broker_urls(settings.bootstrap)),
        "Monitor": QuietMonitor,
        "TableManager": NoTables,
        "broker_commit_interval": 60.0,
        "broker_max_poll_interval": 3600.0,
        "broker_session_timeout": settings.session_timeout_seconds,
        "broker_heartbeat_interval": settings.heartbeat_seconds,
        "broker_rebalance_timeout": settings.rebalance_timeout_seconds,
        "broker_request_timeout": max(20.0, settings.session_timeout_seconds),
        "consumer_auto_offset_reset": "earliest",
        "consumer_group_instance_id": settings.instance or None,
        "consumer_max_fetch_size": settings.fetch_bytes,
        "cython_optimizations": True,
        "producer_acks": -1,
        "producer_linger": 0,
        "producer_max_request_size": topics.MAX_RECORD_BYTES,
        "producer_max_batch_size": 524_288,
        "stream_wait_empty": True,
        # Of tables that Faust has none of: with one at least it uses its own assignor, which puts partition n of all
        # topics on one worker, leaves it there, and says who its standbys are.
        "table_standby_replicas": max(1, settings.standby_replicas),
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "web_enabled": False,
        "web_host": settings.web_host,
        "web_port": settings.web_port or 6066,
    }


def _standbys(app: App) -> set[int]:
    """The partitions that the group would give to this worker if their owner went, when it is to follow them."""
    if not app.settings.standby_replicas:
        return set()
    return {at.partition for at in app.assignor.assigned_standbys() if at.topic in app.roles}


def _follow_group(app: App) -> None:
    """Restore state when the group has assigned partitions, before records flow."""

    async def restore(*_: Any, **__: Any) -> None:
        generation, assignments = app.consumer_generation_id, app.ownership.assignments
        assigned = [TopicPartition(*at) for at in app.consumer.assignment()]
        try:
            ready = await app.ownership.take_over(assigned, app.roles, _standbys(app))
        except Exception as error:
            app.ownership.fail("taking partitions over", error)
            raise
        # The partitions are gone and the group is not done yet: returning would let records flow. A member with a name
        # of its own may be assigned them again within one generation (KIP-345).
        while (  # noqa: ASYNC110 - Faust has no event for it
            not ready and app.consumer_generation_id == generation and app.ownership.assignments == assignments
        ):
            await asyncio.sleep(_GENERATION_POLL_SECONDS)

    app.on_rebalance_complete.connect(restore)
