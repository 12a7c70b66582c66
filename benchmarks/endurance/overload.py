"""Overload: ten times what the worker manages, for a minute; then it catches up.

What it manages is measured first, by the same worker, with the same reader beside it. Then signals come on a schedule
that waits for nobody. Every second it is asked how it is, and the broker how far it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agents.partitions import MOST_KEPT_BYTES
from agents.settings import Settings
from agents.topics import READ_IN_BATCHES
from benchmarks.endurance.account import Verdict
from benchmarks.endurance.report import counted_rows, surroundings
from benchmarks.endurance.stage import Pace, Sample, Stage
from benchmarks.results import Row, row
from benchmarks.stream import PARTITIONS, Bench

TIMES = 10.2
"""The schedule's rate over the sustainable one, so that what is reached is ten times as much."""
_IN_MEMORY = 3
"""What a record or an output takes as objects, over its bytes."""
_STATE_IN_MEMORY = 2
"""Most bytes in memory per byte of serialised state, as `benchmarks.recovery` has it."""
_CLEARLY_BEHIND = 0.1
"""Lags are compared where the broker's is at least this share of the longest."""


class Form(NamedTuple):
    """How much: customers, signals to find the sustainable rate with, seconds of overload, seconds between samples."""

    customers: int
    saturating: int
    seconds: float
    every: float


FULL, QUICK = Form(2_000, 60_000, 60.0, 1.0), Form(500, 12_000, 4.0, 0.5)


class Overload(NamedTuple):
    """What came of it. `sustainable`: what the worker manages; `fresh`: how it was before any load.

    `before`: how it was right before the overload, warm and with nothing to do.
    `sent`: signals of the overload, `rate` a second; `published`: seconds until they were, from `begun` (monotonic).
    """

    form: Form
    sustainable: Pace
    rate: float
    sent: int
    begun: float
    published: float
    fresh: Sample
    before: Sample
    samples: list[Sample]
    verdict: Verdict
    state_bytes: int

    @property
    def worst(self) -> int:
        """Most bytes resident."""
        return max(each.memory for each in self.samples)

    @property
    def during(self) -> list[Sample]:
        """Samples while signals were published."""
        return [each for each in self.samples if each.at <= self.begun + self.published]

    @property
    def backlog(self) -> int:
        """Signals without a decision when the last was published."""
        decided = max([each.decided for each in self.during], default=self.before.decided) - self.before.decided
        return self.sent - decided

    @property
    def catching_up(self) -> float:
        """Seconds from the last signal published to everything decided and committed."""
        return self.samples[-1].at - self.begun - self.published

    @property
    def allowed(self) -> int:
        """Bytes by which the worker's memory may grow, as its settings say: what it works on, and its state."""
        settings = Settings()
        fetched = 2 * PARTITIONS * len(READ_IN_BATCHES) + settings.batches_in_flight
        at_work = fetched * settings.fetch_bytes + PARTITIONS * MOST_KEPT_BYTES
        return _IN_MEMORY * at_work + _STATE_IN_MEMORY * self.state_bytes


def play(bench: Bench, form: Form) -> Overload:
    """Find the sustainable rate, go beyond it, let the worker catch up, and look at what came of it."""
    with Stage("overload", form.customers, bench) as stage:
        fresh = stage.rest()
        stage.warm_up()
        sustainable = stage.sustainable(form.saturating)
        before = stage.rest()
        rate = TIMES * sustainable.per_second
        count = int(rate * form.seconds)
        published = stage.publish(count, rate)
        samples = [*stage.watch(published, form.every)]
        verdict, state_bytes = stage.finish()
    done = published.result()
    return Overload(
        form=form,
        sustainable=sustainable,
        rate=count / done.seconds,
        sent=count,
        begun=done.begun,
        published=done.seconds,
        fresh=fresh,
        before=before,
        samples=samples,
        verdict=verdict,
        state_bytes=state_bytes,
    )


# --- What it comes to ---


def rows(found: Overload) -> Iterator[Row]:
    """The rows of one overload."""
    detail = _detail(found)
    over = found.rate / found.sustainable.per_second
    yield row("overload.sustainable", [found.sustainable.per_second], "signals/s", detail=detail)
    yield row("overload.rate", [found.rate], "signals/s", detail=detail)
    yield row("overload.rate-over-sustainable", [over], "ratio", target=">= 10", detail=detail)
    meanwhile = (found.sent - found.backlog) / found.published / found.sustainable.per_second
    yield row("overload.decided-meanwhile", [meanwhile], "of sustainable", detail=detail)
    yield row("overload.backlog", [found.backlog], "signals", detail=detail)
    yield from _lag_rows(found, detail)
    yield from _memory_rows(found, detail)
    yield from _catching_up_rows(found, detail)
    yield from counted_rows("overload", found.verdict, detail)


def _lag_rows(found: Overload, detail: str) -> Iterator[Row]:
    longest = max(each.behind for each in found.samples)
    shares = [each.lag / each.behind for each in found.samples if each.behind > _CLEARLY_BEHIND * longest]
    said = (
        f"{detail}; the sum of batuta_consumer_lag over the records not committed as the broker tells a moment later, "
        f"at {len(shares)} moments; signals go on coming between the two"
    )
    yield row("overload.lag-over-broker", shares or [0.0], "ratio", target=">= 0.9", detail=said)
    yield row("overload.lag-at-the-end", [found.samples[-1].lag], "records", target="== 0", detail=detail)


def _memory_rows(found: Overload, detail: str) -> Iterator[Row]:
    grown = found.worst - found.fresh.memory
    said = (
        f"{detail}; resident bytes at the worst, over those right before the overload; growth is since before any "
        f"load, of which its settings allow {found.allowed / 1e6:.0f} MB: {_IN_MEMORY} times what may be fetched, at "
        f"work and kept, and {_STATE_IN_MEMORY} times the {found.state_bytes / 1e6:.0f} MB of serialised profiles"
    )
    yield row("overload.memory-over-before", [found.worst / found.before.memory], "ratio", detail=said)
    yield row("overload.memory-growth", [grown / 1e6], "MB", detail=said)
    yield row("overload.memory-growth-over-allowed", [grown / found.allowed], "ratio", target="<= 1", detail=said)
    in_flight = [each.in_flight for each in found.samples]
    target = f"<= {Settings().batches_in_flight}"
    yield row("overload.most-batches-in-flight", [max(in_flight)], "batches", target=target, detail=detail)
    files = [max(each.files for each in found.samples) - found.before.files]
    yield row("overload.files-growth", files, "files", detail=detail)


def _catching_up_rows(found: Overload, detail: str) -> Iterator[Row]:
    expected = found.backlog / found.sustainable.per_second
    said = f"{detail}; over the {expected:.0f} s that the backlog takes at the sustainable rate"
    yield row("overload.catching-up", [found.catching_up], "s", detail=said)
    yield row("overload.catching-up-over-expected", [found.catching_up / expected], "ratio", detail=said)
    first, last = found.during[-1], found.samples[-1]
    cpu = (last.cpu - first.cpu) / (last.decided - first.decided) / found.sustainable.cpu_seconds
    of_cpu = f"{detail}; CPU seconds of the worker per signal while it catches up, over those at the sustainable rate"
    yield row("overload.cpu-over-sustainable", [cpu], "ratio", target="<= 1.25", detail=of_cpu)
    unready = sum(not each.ready for each in found.samples)
    yield row("overload.not-ready", [unready], "samples", target="== 0", detail=detail)
    answered = [each.answered * 1000 for each in found.samples]
    yield row("overload.metrics-answered", answered, "ms", detail=f"{detail}; what /metrics took")


def _detail(found: Overload) -> str:
    form = found.form
    return (
        f"{surroundings(form.customers)}; {form.saturating} signals at once to find the sustainable rate, then "
        f"{found.sent} within {found.published:.1f} s; {len(found.samples)} samples"
    )
