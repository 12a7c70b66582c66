"""The network of one worker: a process that passes bytes on between it and the brokers.

    python -m benchmarks.chaos.relay ENTRANCE:EXIT …

Frozen, it is a network that swallows everything: connections stand, nothing comes through, and what was sent arrives
when it thaws, as packets that are sent again do. Killed, it is one that resets every connection. No rights are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence

import uvloop

Passage = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_CHUNK = 65_536


async def relay(routes: Sequence[tuple[int, int]]) -> None:
    """Listen on each entrance and pass on to its exit, both loopback ports; until cancelled."""
    servers = [await asyncio.start_server(_passage(way_out), "127.0.0.1", way_in) for way_in, way_out in routes]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def _passage(way_out: int) -> Passage:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            beyond = await asyncio.open_connection("127.0.0.1", way_out)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pass_on(reader, beyond[1]), _pass_on(beyond[0], writer))

    return connected


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass one direction on until it ends; then the other one ends too."""
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


def main(routes: Sequence[str]) -> None:
    """Relay the routes given as `entrance:exit`."""
    pairs = [route.split(":") for route in routes]
    uvloop.run(relay([(int(way_in), int(way_out)) for way_in, way_out in pairs]))


if __name__ == "__main__":
    main(sys.argv[1:])
