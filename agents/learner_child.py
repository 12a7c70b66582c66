"""The learner a worker has beside it: a child process that is started again when it dies and ends with the worker.

Its standard input is a pipe that only the worker holds open: when the worker ends, however, the pipe closes and the
learner stops in order (`learner_process`). A learner that dies costs no decision.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic

import msgspec

from agents.settings import Settings

log = logging.getLogger("batuta")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
HEALTHY_SECONDS = 60.0
"""A learner that lived so long is started again after the first pause."""
_STOP_SECONDS = 10.0


@asynccontextmanager
async def learner_beside(command: Sequence[str], settings: Settings) -> AsyncIterator[None]:
    """Run a learner for as long as the context lasts; it gets the settings as environment variables."""
    task = asyncio.get_running_loop().create_task(_keep_running(command, settings), name="learner")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _keep_running(command: Sequence[str], settings: Settings) -> None:
    # A member of its group by the worker's name, so that one that was killed is replaced at once.
    named = msgspec.structs.replace(settings, instance=settings.name)
    environment = {**os.environ, **named.environment()}
    pause = FIRST_PAUSE_SECONDS
    while True:
        started = monotonic()
        code = await _run(command, environment)
        if monotonic() - started > HEALTHY_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        log.warning("The learner ended with code %d; decisions go on, it starts again in %.1f s", code, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a learner to its end, which is asked for when the task is cancelled. Ctrl-C reaches the worker alone."""
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, env=environment, start_new_session=True
    )
    try:
        return await child.wait()
    finally:
        if child.returncode is None:
            await _stop(child)


async def _stop(child: asyncio.subprocess.Process) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await child.wait()
    except TimeoutError:
        log.warning("The learner did not stop within %.0f s", _STOP_SECONDS)
        child.kill()
        await child.wait()
