"""The worker's models: follows `batuta.models`, checks every snapshot and swaps what is good between two messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from time import time
from typing import Any, NamedTuple, Protocol

from agents.metrics import Gauges, Metrics
from agents.model_topic import REPORT, Report, Standing, batches_to_end, decode_report, open_topic, standing_of
from agents.ownership import Fail
from agents.settings import Settings
from engine.repertoire import Repertoire
from models.snapshot import Refusal, Snapshot, decode

log = logging.getLogger("batuta")

LARGE_BYTES = 32_768
"""Snapshots from here on are decoded and bound in a thread: up to here it takes less than a millisecond."""
_POLL_MS = 1_000


class Target(Protocol):
    """What scores by the snapshots; `models.scorer.ModelScorer`."""

    def bind(self, snapshot: Snapshot) -> Any:
        """Prepare a version, in whatever thread. ValueError or KeyError when it cannot be used here."""
        ...

    def swap(self, bound: Any) -> None:
        """Score by a prepared version from the next message on."""
        ...


class Arrival(NamedTuple):
    """A record that may replace a model."""

    standing: Standing
    value: bytes


class Ready(NamedTuple):
    """A snapshot that was checked, and what the target made of it."""

    snapshot: Snapshot
    bound: Any


class ModelFeed:
    """Keeps a target supplied with the models of a configuration. All methods belong to one event loop."""

    def __init__(self, settings: Settings, repertoire: Repertoire, target: Target, metrics: Metrics) -> None:
        self._settings = settings
        self._schemas = (repertoire.features.version, repertoire.action_features.version)
        self._models = {rule.id.encode(): rule.id for rule in repertoire.models}
        self._target = target
        self._metrics = metrics
        self._consumer: Any = None
        self._following: asyncio.Task[None] | None = None
        self._standing: dict[str, Standing] = {}
        self._installed: dict[str, Snapshot] = {}
        self._reports: dict[int, Report] = {}
        self._said: set[tuple[str, str]] = set()
        metrics.models = self.gauges

    async def start(self, fail: Fail) -> None:
        """Install the models there are by now, and go on following; KafkaError when the topic cannot be read.

        `fail(what, error)` is called when following them ends by an error.
        """

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                fail("following the models", error)

        await self._load()
        self._following = asyncio.get_running_loop().create_task(self._follow(), name="follow models")
        self._following.add_done_callback(ended)

    async def stop(self) -> None:
        """Stop following and disconnect; harmless when it never began."""
        if self._following is not None:
            self._following.cancel()
        if self._consumer is not None:
            await self._consumer.stop()

    async def _load(self) -> None:
        self._consumer = await open_topic(self._settings.bootstrap, f"{self._settings.prefix}models")
        newest: dict[str, Arrival] = {}
        async for records in batches_to_end(self._consumer):
            newest |= self._newest(records, {model: each.standing for model, each in newest.items()})
        await self._install_all(newest)

    async def _follow(self) -> None:
        while True:
            for records in (await self._consumer.getmany(timeout_ms=_POLL_MS)).values():
                await self._install_all(self._newest(records, {}))

    # --- One batch ---

    def _newest(self, records: Iterable[Any], above: Mapping[str, Standing]) -> dict[str, Arrival]:
        """The record of each model that counts most, of those that count at least as much as what there is."""
        newest: dict[str, Arrival] = {}
        for record in records:
            if record.key is None or record.value is None:
                continue
            model = self._models.get(record.key)
            if model is None:
                self._note_report(record)
                continue
            standing = standing_of(record.headers)
            least = newest[model].standing if model in newest else above.get(model, self._standing.get(model))
            if least is not None and standing < least:
                self._count(model, "outdated")
            else:
                newest[model] = Arrival(standing, record.value)
        return newest

    async def _install_all(self, arrivals: Mapping[str, Arrival]) -> None:
        for model, arrival in arrivals.items():
            if len(arrival.value) < LARGE_BYTES:
                prepared = self._prepare(model, arrival.value)
            else:
                prepared = await asyncio.to_thread(self._prepare, model, arrival.value)
            self._install(model, arrival.standing, prepared)

    def _prepare(self, model: str, value: bytes) -> Ready | Refusal:
        """Check and bind; touches nothing that others see, since it may run in a thread."""
        schema, action_schema = self._schemas
        snapshot = decode(
            value,
            self._settings.signing_key,
            self._settings.snapshot_bytes,
            schema=schema,
            action_schema=action_schema,
        )
        if isinstance(snapshot, Refusal):
            return snapshot
        if snapshot.model != model:
            return Refusal("malformed", f"it is of model {snapshot.model!r}")
        try:
            return Ready(snapshot, self._target.bind(snapshot))
        except (ValueError, KeyError) as error:
            return Refusal("malformed", f"it cannot be bound: {error}")

    def _install(self, model: str, standing: Standing, prepared: Ready | Refusal) -> None:
        if isinstance(prepared, Refusal):
            self._count(model, prepared.code)
            if (model, prepared.code) not in self._said:
                self._said.add((model, prepared.code))
                log.warning("Model %s: a snapshot is refused, what there was stays: %s", model, prepared.reason)
            return
        self._target.swap(prepared.bound)
        self._standing[model] = standing
        self._installed[model] = prepared.snapshot
        self._said -= {each for each in self._said if each[0] == model}
        self._count(model, "installed")

    def _note_report(self, record: Any) -> None:
        if record.key.startswith(REPORT.encode()) and (report := decode_report(record.value)) is not None:
            self._reports[report.partition] = report

    def _count(self, model: str, result: str) -> None:
        self._metrics.add({("model_snapshots", model, result): 1})

    # --- Looking in ---

    def gauges(self) -> Gauges:
        """What is known of the models, for the metrics."""
        now_ms = time() * 1000
        families: dict[str, dict[tuple[str, ...], float]] = {
            "model_age_seconds": {(name,): (now_ms - each.at_ms) / 1000 for name, each in self._installed.items()},
            "model_examples": {(name,): each.examples for name, each in self._installed.items()},
            "model_tripped": {(name,): float(each.status == "tripped") for name, each in self._installed.items()},
            "learning_results": {},
        }
        for name, each in self._installed.items():
            for number, value in each.health.items():
                families.setdefault(f"model_{number}", {})[name,] = value
        for report in self._reports.values():
            for model, results in report.results.items():
                for result, count in results.items():
                    series = families["learning_results"]
                    series[model, result] = series.get((model, result), 0) + count
        return families
