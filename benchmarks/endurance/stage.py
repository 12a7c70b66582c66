"""The stage: one worker as users start it, numbered signals, and everything that watches it from outside."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from time import monotonic, sleep, time
from typing import NamedTuple, Self

from confluent_kafka import KafkaException

from benchmarks import load, probe, stream, subjects, workload
from benchmarks.chaos.following import asker
from benchmarks.endurance import numbered
from benchmarks.endurance.account import Account, Verdict
from benchmarks.endurance.follower import Follower, final_progress, final_state, uncommitted
from benchmarks.endurance.numbered import Load, Published
from benchmarks.load import LoadFailed
from benchmarks.stream import PARTITIONS, Bench
from config import load_directory

_NEVER_MS = 100 * 365 * numbered.DAY_MS
SETTINGS = {
    "log.segment.bytes": str(32 * 1024 * 1024),
    "log.retention.bytes": str(512 * 1024 * 1024),
    "log.retention.check.interval.ms": "10000",
    "log.cleaner.backoff.ms": "5000",
    "log.roll.ms": str(_NEVER_MS),
}
"""Of a broker that runs for hours: what was read long ago is deleted, and what is overwritten compacted, as it runs.

Segments end when they are full: by the time of their records, a week would be over every few seconds.
"""
_WARM_SHARE = 0.2
_READY_SECONDS = 120.0
_REST_SECONDS = 2.0
_POLL_SECONDS = 0.02
_STOP_SECONDS = 10.0


class Pace(NamedTuple):
    """Signals a worker decides per second, and the CPU seconds one takes."""

    per_second: float
    cpu_seconds: float


class Sample(NamedTuple):
    """The worker at one moment.

    `at`: monotonic seconds; `cpu`: seconds it has used so far; `answered`: seconds its metrics took; `ready`: whether
    it said so; `lag`: records not yet begun, as it says; `behind`: records not committed, as the broker says;
    `in_flight`: fetched batches at work; `decided`: decisions read so far; `memory`: bytes resident; `blocks`: that
    Python has allocated. What was not told is NaN.
    """

    at: float
    cpu: float
    answered: float
    ready: bool
    lag: float
    behind: float
    in_flight: float
    decided: int
    memory: int
    files: int
    threads: int
    tasks: float
    blocks: float


class Stage:
    """A worker with so many customers. Use it as a context manager.

    Everything raises `LoadFailed` when the worker ends, stalls, or cannot be watched any more.
    """

    def __init__(self, name: str, customers: int, bench: Bench) -> None:
        self.account = Account()
        self.sent = 0
        self._bench = bench
        self._name = name
        self._prefix = f"{name}-{os.urandom(3).hex()}."
        self._group = f"{self._prefix}batuta"
        self._config = bench.children.directory / f"{self._prefix}config"
        self._port = probe.free_port()
        self._customers = customers
        self._publishing: Future[Published] | None = None
        self._clock_ms = int(time() * 1000)

    def __enter__(self) -> Self:
        self._config.mkdir()
        numbered.write_config(self._config, prefix=self._prefix, partitions=PARTITIONS)
        asyncio.run(stream.create_topics(self._bench.bootstrap, self._prefix))
        load.publish(self._bench.bootstrap, self._topic("signals"), workload.introductions(self._customers))
        self._follower = Follower(self._bench.bootstrap, self._group, self._topic("decisions"), self.account)
        self._follower.start()
        self._asker = asker(self._bench.bootstrap, self._group)
        settings = [f"BATUTA_GROUP={self._group}"]
        self._bench.children.start(
            self._name, subjects.worker(self._config, self._bench.bootstrap, settings, self._port)
        )
        self._wait(lambda: probe.is_ready(self._port), _READY_SECONDS, "is not ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._asker.close()
        self._follower.finish()
        if self._bench.children.alive(self._name):
            self._bench.children.stop(self._name, signal.SIGKILL, _STOP_SECONDS)

    def _topic(self, role: str) -> str:
        return f"{self._prefix}{role}"

    # --- Load ---

    def publish(self, count: int, rate: float = 0.0) -> Future[Published]:
        """Publish signals, `rate` a second, 0 as fast as they are taken, once those before are."""
        self.sent += count
        what = Load(self._bench.bootstrap, self._topic("signals"), count, rate, self._said(), self._clock_ms)
        self._publishing = self._bench.publisher.submit(numbered.publish, what)
        return self._publishing

    def _said(self) -> list[int]:
        """How many signals each customer gave; waits until all of them are acknowledged."""
        return [0] * self._customers if self._publishing is None else self._publishing.result().said

    def warm_up(self) -> None:
        """Let days pass until every window and history is full: before that, a signal costs less and less is kept."""
        before, count = self.account.decisions, numbered.FULL_DAYS * numbered.SIGNALS_A_DAY * self._customers
        published = self.publish(count)
        self._wait_decided(before + count)
        published.result()

    def sustainable(self, count: int) -> Pace:
        """What the worker manages while it always has more to do, after a share of so many signals."""
        before, pid = self.account.decisions, self._bench.children.pid(self._name)
        published = self.publish(count)
        begun = self._wait_decided(before + int(_WARM_SHARE * count))
        started, used = monotonic(), stream.cpu_seconds(pid)
        ended = self._wait_decided(before + count)
        seconds, used = monotonic() - started, stream.cpu_seconds(pid) - used
        published.result()
        if ended == begun:
            raise LoadFailed(f"{count} signals were decided before a rate could be read; let there be more")
        return Pace((ended - begun) / seconds, used / (ended - begun))

    def rest(self) -> Sample:
        """The worker once it has nothing to do for a moment."""
        self._wait(lambda: self._behind() == 0, load.STALLED_SECONDS, "does not commit")
        sleep(_REST_SECONDS)
        return self.sample()

    def _wait_decided(self, count: int) -> int:
        self._wait(lambda: self.account.decisions >= count, load.STALLED_SECONDS, f"gave less than {count} decisions")
        return self.account.decisions

    def watch(self, published: Future[Published], every: float) -> Iterator[Sample]:
        """A sample every so many seconds, until everything is published, decided and committed."""
        moved, decided = monotonic(), -1
        while True:
            began = monotonic()
            yield (sample := self.sample())
            if sample.decided > decided:
                moved, decided = began, sample.decided
            if published.done() and sample.decided >= self.sent and sample.behind == 0:
                published.result()
                return
            self._check(began - moved, f"gave {decided} of {self.sent} decisions")
            sleep(max(0.0, began + every - monotonic()))

    def _wait(self, promise: Callable[[], bool], seconds: float, otherwise: str) -> None:
        """Wait for a promise. `seconds`: without any further decision."""
        moved, decided = monotonic(), self.account.decisions
        while not promise():
            if self.account.decisions > decided:
                moved, decided = monotonic(), self.account.decisions
            self._check(monotonic() - moved, otherwise, seconds)
            sleep(_POLL_SECONDS)

    def _check(self, idle: float, otherwise: str, most: float = load.STALLED_SECONDS) -> None:
        self._follower.check()
        if self._publishing is not None and self._publishing.done():
            self._publishing.result()
        if not self._bench.children.alive(self._name) or idle > most:
            said = self._bench.children.last_words(self._name)
            raise LoadFailed(f"{self._name} {otherwise}. It said: {said}")

    # --- Looking at it ---

    def sample(self) -> Sample:
        """The worker at this moment."""
        pid, at = self._bench.children.pid(self._name), monotonic()
        metrics = probe.page(self._port, "/metrics")
        answered = monotonic() - at

        def told(name: str) -> float:
            return math.nan if metrics is None else probe.total(metrics, name)

        return Sample(
            at=at,
            cpu=stream.cpu_seconds(pid),
            answered=answered,
            ready=probe.is_ready(self._port),
            lag=told("batuta_consumer_lag"),
            behind=self._behind(),
            in_flight=told("batuta_batches_in_flight"),
            decided=self.account.decisions,
            memory=probe.resident(pid),
            files=probe.open_files(pid),
            threads=probe.threads(pid),
            tasks=told("batuta_tasks"),
            blocks=told("batuta_memory_blocks"),
        )

    def _behind(self) -> float:
        try:
            return uncommitted(self._asker, self._topic("signals"))
        except (KafkaException, TimeoutError):
            return math.nan

    # --- What came of it ---

    def finish(self) -> tuple[Verdict, int]:
        """Stop the worker as an operator would; the verdict, and the bytes of all profiles it leaves."""
        stream.stop(self._name, self._bench)
        self._follower.finish()
        bootstrap, group = self._bench.bootstrap, self._group
        state = final_state(bootstrap, group, load_directory(self._config))
        committed, rejected = final_progress(bootstrap, group, self._prefix)
        said = {numbered.name_of(at): count for at, count in enumerate(self._said())}
        return self.account.close(said, state.profiles, committed, rejected), state.size
