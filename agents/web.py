"""The worker's web port: is it alive, is it ready, its metrics, and a look into the profiles it owns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from agents.metrics import Metrics, exposition
from agents.ownership import Ownership
from engine.murmur import partition_of

CONTENT_TYPE_METRICS = "text/plain; version=1.0.0; charset=utf-8"
_MISDIRECTED = 421
"""HTTP status of a request sent to a worker that does not own the customer (RFC 9110, section 15.5.20)."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def routes(ownership: Ownership, metrics: Metrics) -> list[web.RouteDef]:
    """The worker's own routes. They answer from memory and never wait."""

    async def healthz(_: web.Request) -> web.Response:
        reason = ownership.stalled()
        return _json({"alive": reason is None, "reason": reason}, 200 if reason is None else 503)

    async def readyz(_: web.Request) -> web.Response:
        body = {"ready": ownership.serving, "stage": ownership.stage, "partitions": ownership.numbers()}
        return _json(body, 200 if ownership.serving else 503)

    async def prometheus(_: web.Request) -> web.Response:
        return web.Response(body=exposition(metrics), headers={"Content-Type": CONTENT_TYPE_METRICS})

    async def profile(request: web.Request) -> web.Response:
        return _profile(ownership, request.match_info["customer"])

    return [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", prometheus),
        web.get("/v1/profiles/{customer}", profile),
    ]


def _profile(ownership: Ownership, customer: str) -> web.Response:
    if not ownership.serving:
        return _json({"error": f"not ready: {ownership.stage}"}, 503)
    number = partition_of(customer, ownership.settings.partitions)
    partition = ownership.partition(number)
    if partition is None:
        error = f"customer {customer!r} belongs to partition {number}, which another worker serves"
        return _json({"error": error, "partition": number}, _MISDIRECTED)
    value = partition.tables["profiles"].get(customer)
    if value is None:
        return _json({"error": f"no profile of customer {customer!r}", "partition": number}, 404)
    return _json(value, 200)


def _json(body: Any, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


async def start(ownership: Ownership, metrics: Metrics, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Serve on `host:port` (0: a free one); returns what to clean up, and the port. OSError when it is taken."""
    app = web.Application()
    app.add_routes(routes(ownership, metrics))
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, runner.addresses[0][1]
