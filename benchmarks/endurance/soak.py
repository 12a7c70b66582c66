"""Soak: steady load for minutes, or for hours; whatever a worker holds must stop growing.

The customers stay the same, and days of theirs pass within seconds, so their windows and histories, and what is
remembered of days (`engine.calendar` keeps up to 512), fill during the warm-up; from then on nothing may grow. Slopes
are Theil and Sen's: the median of the slopes between all pairs, which a few odd samples do not move, with their 99 %
interval. The pairs are of stretches, each the median of its samples: samples that follow each other are too much alike
for the interval to mean anything.

Source: Sen 1968, "Estimates of the regression coefficient based on Kendall's tau"; SciPy has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from scipy.stats import theilslopes

from benchmarks.endurance.account import Verdict
from benchmarks.endurance.numbered import SIGNALS_A_DAY
from benchmarks.endurance.report import counted_rows, surroundings
from benchmarks.endurance.stage import Sample, Stage
from benchmarks.results import Row, row
from benchmarks.stream import Bench

SHARE = 0.6
"""Of what the worker manages."""
WARM_UP = 0.4
"""This share of the run, its first part, has no say in the slopes."""
STRETCHES = 24
PER_SIGNALS = 100_000
CONFIDENCE = 0.99


class Form(NamedTuple):
    """How much: customers, signals to find the sustainable rate with, seconds of load, seconds between samples."""

    customers: int
    saturating: int
    seconds: float
    every: float


FULL, QUICK = Form(500, 60_000, 1_800.0, 5.0), Form(100, 10_000, 60.0, 0.5)


class Soak(NamedTuple):
    """What came of it. `samples`: from the first signal to the last."""

    form: Form
    sustainable: float
    rate: float
    samples: list[Sample]
    verdict: Verdict

    @property
    def steady(self) -> list[Sample]:
        """The samples after the warm-up."""
        return self.samples[int(WARM_UP * len(self.samples)) :]


class Slope(NamedTuple):
    """Of what is fitted per signal decided, with its 99 % interval."""

    low: float
    middle: float
    high: float


def play(bench: Bench, form: Form) -> Soak:
    """Find the sustainable rate, load the worker with a share of it, and look at what came of it."""
    with Stage("soak", form.customers, bench) as stage:
        stage.warm_up()
        sustainable = stage.sustainable(form.saturating).per_second
        stage.rest()
        published = stage.publish(int(SHARE * sustainable * form.seconds), SHARE * sustainable)
        samples = [*stage.watch(published, form.every)]
        verdict, _ = stage.finish()
    done = published.result()
    during = [each for each in samples if each.at <= done.begun + done.seconds]
    return Soak(form, sustainable, (during[-1].decided - during[0].decided) / done.seconds, during, verdict)


def slope(samples: Sequence[Sample], what: Callable[[Sample], float]) -> Slope:
    """How much something grows per signal decided. ValueError when there are less than two samples."""
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} samples; expected two or more")
    count = min(STRETCHES, len(samples))
    edges = [len(samples) * at // count for at in range(count + 1)]
    stretches = [samples[start:end] for start, end in pairwise(edges)]
    values = [median(map(what, each)) for each in stretches]
    decided = [median(float(sample.decided) for sample in each) for each in stretches]
    found = theilslopes(values, decided, CONFIDENCE)
    return Slope(float(found.low_slope), float(found.slope), float(found.high_slope))


# --- What it comes to ---


_FITTED: Sequence[tuple[str, str, float, Callable[[Sample], float]]] = (
    ("memory", "kB", 1e-3, lambda sample: sample.memory),
    ("memory-blocks", "blocks", 1.0, lambda sample: sample.blocks),
    ("files", "files", 1.0, lambda sample: sample.files),
    ("tasks", "tasks", 1.0, lambda sample: sample.tasks),
    ("threads", "threads", 1.0, lambda sample: sample.threads),
)
"""Name, unit, what a value is multiplied with to be in that unit, and where it is."""


def rows(found: Soak) -> Iterator[Row]:
    """The rows of one soak."""
    detail = _detail(found)
    yield row("soak.rate", [found.rate], "signals/s", detail=detail)
    yield row("soak.lag", [each.lag for each in found.steady], "records", detail=detail)
    for name, unit, factor, what in _FITTED:
        yield row(f"soak.{name}", [what(each) * factor for each in found.steady], unit, detail=detail)
        yield from _slope_rows(name, unit, factor, slope(found.steady, what), detail)
    yield from counted_rows("soak", found.verdict, detail)


def _slope_rows(name: str, unit: str, factor: float, fitted: Slope, detail: str) -> Iterator[Row]:
    said = (
        f"{detail}; slope by Theil and Sen with its {CONFIDENCE:.0%} interval; sure growth is the lower end of that, "
        "where it is above 0"
    )
    scaled = [each * factor * PER_SIGNALS for each in fitted]
    per = f"{unit} per {PER_SIGNALS:,} signals"
    yield row(f"soak.{name}.slope", scaled, per, detail=said)
    yield row(f"soak.{name}.sure-growth", [max(0.0, scaled[0])], per, target="<= 0", detail=said)


def _detail(found: Soak) -> str:
    form, signals = found.form, found.verdict.signals
    days = signals / form.customers / SIGNALS_A_DAY
    return (
        f"{surroundings(form.customers)}; {form.seconds:.0f} s at {SHARE:.0%} of the {found.sustainable:.0f} signals/s "
        f"it manages, {days:.0f} days of record time; {len(found.steady)} samples after the first {WARM_UP:.0%}"
    )
