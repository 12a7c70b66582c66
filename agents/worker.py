"""One worker process, from the first connection to the last commit."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from time import monotonic
from typing import NoReturn

import uvloop
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError

from agents import topics, web
from agents.app import App, build_app
from agents.partitions import Engine
from agents.settings import Settings
from agents.topics import Topic, TopicsUnusable

log = logging.getLogger("batuta")

DONE, WRONG, NO_BROKER = 0, 1, 3
"""Exit codes: stopped as asked; input or configuration wrong, or failed; the broker cannot be reached."""
_STOP_SECONDS = 10.0
_LOOP_POLL_SECONDS = 1.0


def run_worker(
    settings: Settings, engine: Engine, needed: Sequence[Topic] = topics.TOPICS, *, create_topics: bool = False
) -> int:
    """Run one worker until SIGTERM or SIGINT; returns the exit code of the process.

    On a signal, finishes and commits what is at work and returns 0. When the broker cannot be reached at the
    start, returns 3; when topics are missing (and not to be created) or wrong, 1; either with one line on
    standard error. On anything fatal later on it says so in one line and ends the process at once with code 1,
    without committing: the restart replays.
    """
    quiet_logging()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(settings, engine, needed, create_topics=create_topics))
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not leave a half-dead process
        fail("the worker", error)


def quiet_logging() -> None:
    """Our own lines from INFO on, nothing of the libraries: what goes wrong in them ends up in a line of ours.

    Does nothing when logging is configured already.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.CRITICAL, format="%(asctime)s %(levelname)s %(message)s")
        log.setLevel(logging.INFO)


def fail(what: str, error: BaseException, code: int = WRONG) -> NoReturn:
    """End the process at once: nothing more is sent or committed."""
    details = error if log.isEnabledFor(logging.DEBUG) else None
    log.critical("Stopping at once: %s: %s", what, _named(error), exc_info=details)
    logging.shutdown()
    os._exit(code)


def _named(error: BaseException) -> str:
    """The error's text with its type, which Kafka's errors name themselves."""
    kind, text = type(error).__name__, str(error)
    return text if text.startswith(kind) else f"{kind}: {text}".rstrip(": ")


async def _run(settings: Settings, engine: Engine, needed: Sequence[Topic], *, create_topics: bool) -> int:
    try:
        await _prepare_topics(settings, needed, create=create_topics)
    except (KafkaError, TimeoutError) as error:
        return _say(NO_BROKER, f"cannot reach Kafka at {settings.bootstrap}: {_named(error)}")
    except TopicsUnusable as error:
        return _say(WRONG, str(error))
    app = build_app(settings, engine, fail)
    async with AsyncExitStack() as stack:
        try:
            runner, port = await web.start(app.ownership, app.metrics, settings.web_host, settings.web_port)
        except OSError as error:
            return _say(WRONG, f"cannot listen on {settings.web_host}:{settings.web_port}: {error}")
        stack.push_async_callback(runner.cleanup)
        log.info("Worker %s of group %s starts; web port %d", settings.name, settings.group, port)
        await _serve(app)
    log.info("Worker %s stopped; everything is committed", settings.name)
    return DONE


async def _prepare_topics(settings: Settings, needed: Sequence[Topic], *, create: bool) -> None:
    """See that Kafka answers and its topics are right; KafkaError or TimeoutError when it does not answer."""
    async with asyncio.timeout(settings.connect_seconds):
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
        try:
            await admin.start()
            await topics.ensure(admin, needed, settings.prefix, settings.partitions, apply=create)
        finally:
            await admin.close()


async def _serve(app: App) -> None:
    """Work until a signal comes, then finish, commit and leave the group."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch_loop(loop, app.settings.stall_seconds)
    app.finalize()
    starting = loop.create_task(_start(app))
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


async def _start(app: App) -> None:
    """Start Faust, and end the process when it crashes."""
    try:
        await app.start()
        await app.wait_until_stopped()
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker cannot go on
        fail("starting", error, NO_BROKER if isinstance(error, KafkaConnectionError) else WRONG)
    if not app.should_stop:
        fail("Faust crashed", app.crash_reason or RuntimeError("no reason given"))


def watch_loop(loop: asyncio.AbstractEventLoop, limit_seconds: float) -> threading.Thread:
    """End the process when the event loop does nothing for so long; a loop cannot watch itself."""
    answered = [monotonic()]

    def answer() -> None:
        answered[0] = monotonic()

    def watch() -> None:
        pause = threading.Event()
        while not loop.is_closed():
            loop.call_soon_threadsafe(answer)
            pause.wait(min(_LOOP_POLL_SECONDS, limit_seconds / 4))
            if monotonic() - answered[0] > limit_seconds:
                fail("the event loop", TimeoutError(f"did nothing for {limit_seconds:g} s"))

    thread = threading.Thread(target=watch, name="watch-loop", daemon=True)
    thread.start()
    return thread


def _say(code: int, text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return code
