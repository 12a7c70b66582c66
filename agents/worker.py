"""One worker process, from the first connection to the last commit."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

import uvloop
from aiokafka.errors import KafkaConnectionError, KafkaError

from agents import topics, web
from agents.app import App, build_app
from agents.learner_child import learner_beside
from agents.partitions import Engine
from agents.process import DONE, NO_BROKER, WRONG, fail, named, prepare_topics, quiet_logging, say, watch_loop
from agents.settings import Settings
from agents.topics import Topic, TopicsUnusable
from engine.repertoire import Repertoire

if TYPE_CHECKING:
    from agents.model_feed import ModelFeed, Target

log = logging.getLogger("batuta")

_STOP_SECONDS = 10.0


class Learning(NamedTuple):
    """A configuration with models, the target of their snapshots, and the command of a learner, if one is to run."""

    repertoire: Repertoire
    target: Target
    learner: Sequence[str] = ()


def run_worker(
    settings: Settings,
    engine: Engine,
    needed: Sequence[Topic] = topics.TOPICS,
    *,
    create_topics: bool = False,
    learning: Learning | None = None,
) -> int:
    """Run one worker until SIGTERM or SIGINT; returns the exit code of the process.

    With `learning` it decides by the models there are from its first record on, and a learner runs beside it.

    On a signal, finishes and commits what is at work and returns 0. When the broker cannot be reached at the
    start, returns 3; when topics are missing (and not to be created) or wrong, 1; either with one line on
    standard error. On anything fatal later on it says so in one line and ends the process at once with code 1,
    without committing: the restart replays.
    """
    quiet_logging()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(settings, engine, needed, learning, create_topics=create_topics))
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not leave a half-dead process
        fail("the worker", error)


async def _run(
    settings: Settings, engine: Engine, needed: Sequence[Topic], learning: Learning | None, *, create_topics: bool
) -> int:
    try:
        await prepare_topics(settings, needed, create=create_topics)
    except (KafkaError, TimeoutError) as error:
        return say(NO_BROKER, f"cannot reach Kafka at {settings.bootstrap}: {named(error)}")
    except TopicsUnusable as error:
        return say(WRONG, str(error))
    app = build_app(settings, engine, fail)
    async with AsyncExitStack() as stack:
        try:
            runner, port = await web.start(app.ownership, app.metrics, settings.web_host, settings.web_port)
        except OSError as error:
            return say(WRONG, f"cannot listen on {settings.web_host}:{settings.web_port}: {error}")
        stack.push_async_callback(runner.cleanup)
        log.info("Worker %s of group %s starts; web port %d", settings.name, settings.group, port)
        feed = None
        if learning is not None:
            from agents.model_feed import ModelFeed  # noqa: PLC0415 - River, for nothing where there are no models

            feed = ModelFeed(settings, learning.repertoire, learning.target, app.metrics)
            stack.push_async_callback(feed.stop)
            if learning.learner:
                await stack.enter_async_context(learner_beside(learning.learner, settings))
        await _serve(app, feed)
    log.info("Worker %s stopped; everything is committed", settings.name)
    return DONE


async def _serve(app: App, feed: ModelFeed | None) -> None:
    """Work until a signal comes, then finish, commit and leave the group."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch_loop(loop, app.settings.stall_seconds)
    app.finalize()
    starting = loop.create_task(_start(app, feed))
    await stop.wait()
    starting.cancel()
    app.consumer.stop_flow()
    await app.ownership.stop()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await app.stop()
    except TimeoutError:
        log.warning("Faust did not stop within %.0f s; everything is committed all the same", _STOP_SECONDS)
        logging.shutdown()
        os._exit(DONE)


async def _start(app: App, feed: ModelFeed | None) -> None:
    """Load the models, then start Faust, and end the process when either fails."""
    try:
        if feed is not None:
            app.ownership.stage = "loading models"
            await feed.start(fail)
            app.ownership.stage = "joining the group"
        await app.start()
        await app.wait_until_stopped()
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker cannot go on
        fail("starting", error, NO_BROKER if isinstance(error, KafkaConnectionError) else WRONG)
    if not app.should_stop:
        fail("Faust crashed", app.crash_reason or RuntimeError("no reason given"))
