"""The web port tells the truth: alive, ready, metrics, and the profiles this worker owns."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession

from agents import web
from tests.agents.desk import Desk
from tests.agents.kafka_in_memory import Kafka


@asynccontextmanager
async def serving(desk: Desk):
    """The web port of a desk; yields a function from path to (status, body)."""
    runner, port = await web.start(desk.ownership, desk.ownership.metrics, "127.0.0.1", 0)

    async def get(path: str):
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await (response.json if "json" in response.content_type else response.text)()

    try:
        yield get
    finally:
        await runner.cleanup()
        await desk.ownership.stop()


async def test_ready_while_serving_only():
    """`/readyz` says 503 with the reason before partitions are assigned, while they move, and 200 in between."""
    desk = Desk(Kafka())
    desk.ownership.start(desk.kafka)
    async with serving(desk) as get:
        assert await get("/readyz") == (503, {"ready": False, "stage": "joining the group", "partitions": []})
        await desk.serve()
        assert await get("/readyz") == (200, {"ready": True, "stage": "serving", "partitions": [0]})
        await desk.ownership.hand_over()
        status, body = await get("/readyz")
        assert (status, body["stage"]) == (503, "rebalancing")
        assert await get("/healthz") == (200, {"alive": True, "reason": None})


async def test_health_ends_with_progress():
    """`/healthz` says 503 and why when batches at work do not get done."""
    desk = Desk(Kafka(), stall_seconds=0.001)
    desk.ownership.start(desk.kafka)
    await desk.serve()
    async with serving(desk) as get:
        desk.kafka.output_sender.held = True
        await desk.signals([b"a"])
        await asyncio.sleep(0.01)
        status, body = await get("/healthz")
        assert (status, body["alive"]) == (503, False)
        assert "none done for" in body["reason"]
        desk.kafka.output_sender.release()


async def test_profile_of_a_customer_served_here():
    """A profile is shown as JSON; an unknown customer is 404."""
    desk = Desk(Kafka())
    desk.ownership.start(desk.kafka)
    async with serving(desk) as get:
        assert (await get("/v1/profiles/ana"))[0] == 503
        await desk.serve()
        await desk.signals([b"a", b"b"], b"ana@example.com/1")
        status, body = await get("/v1/profiles/ana@example.com%2F1")
        assert (status, body["count"]) == (200, 2)
        assert (await get("/v1/profiles/nobody"))[0] == 404


async def test_profile_served_elsewhere_names_its_partition():
    """Asking the wrong worker gives 421 and the partition to ask for."""
    desk = Desk(Kafka(), partitions=1024)
    desk.ownership.start(desk.kafka)
    await desk.serve()
    async with serving(desk) as get:
        status, body = await get("/v1/profiles/ana")
        assert status == 421
        assert f"partition {body['partition']}" in body["error"]


async def test_metrics_are_prometheus_text():
    """`/metrics` is what Prometheus scrapes."""
    desk = Desk(Kafka())
    desk.ownership.start(desk.kafka)
    await desk.serve()
    async with serving(desk) as get:
        await desk.signals([b"a"])
        status, text = await get("/metrics")
        assert status == 200
        assert 'batuta_signals_total{result="applied",type="track"} 1.0' in text
        assert 'batuta_profiles{partition="0"} 1.0' in text


async def test_port_in_use_is_an_error():
    """A second worker on the same port does not start quietly without its web port."""
    desk = Desk(Kafka())
    runner, port = await web.start(desk.ownership, desk.ownership.metrics, "127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        await web.start(desk.ownership, desk.ownership.metrics, "127.0.0.1", port)
    await runner.cleanup()
