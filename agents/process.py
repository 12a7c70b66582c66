"""What every long-running process of ours does alike: log, check its topics, watch its loop, and end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Sequence
from time import monotonic
from typing import NoReturn

from aiokafka.admin import AIOKafkaAdminClient

from agents import topics
from agents.settings import Settings
from agents.topics import Topic

log = logging.getLogger("batuta")

DONE, WRONG, NO_BROKER = 0, 1, 3
"""Exit codes: stopped as asked; input or configuration wrong, or failed; the broker cannot be reached."""
_LOOP_POLL_SECONDS = 1.0


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
    log.critical("Stopping at once: %s: %s", what, named(error), exc_info=details)
    logging.shutdown()
    os._exit(code)


def named(error: BaseException) -> str:
    """The error's text with its type, which Kafka's errors name themselves."""
    kind, text = type(error).__name__, str(error)
    return text if text.startswith(kind) else f"{kind}: {text}".rstrip(": ")


async def prepare_topics(settings: Settings, needed: Sequence[Topic], *, create: bool) -> None:
    """See that Kafka answers and its topics are right; KafkaError or TimeoutError when it does not answer."""
    async with asyncio.timeout(settings.connect_seconds):
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
        try:
            await admin.start()
            await topics.ensure(admin, needed, settings.prefix, settings.partitions, apply=create)
        finally:
            await admin.close()


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


def say(code: int, text: str) -> int:
    """Write one line to standard error; returns the code."""
    sys.stderr.write(f"{text}\n")
    return code
