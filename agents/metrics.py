"""The worker's metrics: plain numbers while it works, Prometheus families when somebody scrapes.

Nothing on the hot path touches the Prometheus client: a counter is an integer in a dict, a histogram a list of
integers. `Metrics.collect` makes the families, so that `MetricsCollector` can be registered like any other.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "signals": ("Signals read, by type and what became of them", ("type", "result")),
    "decisions": ("Decisions made", ("action", "channel", "trigger", "control")),
    "rejects": ("Records not accepted", ("topic", "code")),
    "outcomes": ("Outcomes read, by type and what became of them", ("type", "result")),
    "messages": ("Messages from one customer's partition to another's", ("kind", "result")),
    "suppressed": ("Candidates left out, by the stage that did", ("stage",)),
    "learning_examples": ("Labelled examples written for the learners", ("model",)),
    "state_copies": ("Local copies of state given up, by why", ("result",)),
    "model_snapshots": ("Snapshots of models that arrived, by what became of them", ("model", "result")),
}
"""Counters by the names the engine uses for them: help and label names."""
GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "profiles": ("Profiles in the state table", ("partition",)),
    "timers_pending": ("Customers waiting to be woken", ("partition",)),
    "consumer_lag": ("Records not yet begun", ("topic", "partition")),
    "recovery_seconds": ("Time the last takeover of partitions took", ()),
    "recovery_records": ("Changelog records the last takeover of partitions read", ()),
    "standby_lag": ("Offsets of a changelog that its standby has not read", ("topic", "partition")),
    "batches_in_flight": ("Fetched batches at work", ()),
    "tasks": ("Tasks of the worker's event loop", ()),
    "memory_blocks": ("Blocks of memory Python has allocated", ()),
    "model_age_seconds": ("Time since the version being served was made", ("model",)),
    "model_examples": ("Examples the version being served has learned", ("model",)),
    "model_tripped": ("1 while a model is worse than the base rate, and the priors are served instead", ("model",)),
    "model_logloss": ("Log loss of the last decisions whose window closed", ("model",)),
    "model_base_logloss": ("Log loss of the base rate on the same decisions", ("model",)),
    "model_auc": ("Chance that a decision with a reward had the higher propensity", ("model",)),
    "model_calibration_error": ("Mean difference between propensity and rate of reward", ("model",)),
}
"""Numbers of this moment, by name: help and label names."""
TOLD: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "model_drift": ("Times the losses of a model have risen", ("model",)),
    "learning_results": ("Examples read by the learners, by what became of them", ("model", "result")),
}
"""Counters kept by the learners; every worker tells the same of them, so take the maximum, never the sum."""
MAX_SERIES = 1_000
"""Label combinations per counter; beyond them, everything is counted under `other`."""
DECISION_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
STAGE_BUCKETS = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)
MAX_STAGES = 32

Gauges = Mapping[str, Mapping[tuple[str, ...], float]]


class Histogram:
    """Counts of values in seconds by upper bound; the last count is of what exceeds them all."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value; a clock that ran backwards counts as no time."""
        seconds = max(seconds, 0.0)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        cumulated, running = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            cumulated.append((bound, float(running)))
        return cumulated


class Metrics:
    """Everything one worker counts. `gauges`, `models`: asked at every scrape for what is current."""

    def __init__(self, gauges: Callable[[], Gauges] = dict, models: Callable[[], Gauges] = dict) -> None:
        self.gauges = gauges
        self.models = models
        self._counts: dict[str, dict[tuple[str, ...], int]] = {name: {} for name in COUNTERS}
        self._decisions = Histogram(DECISION_BUCKETS)
        self._stages: dict[str, Histogram] = {}

    def add(self, counts: Mapping[tuple[str, ...], int]) -> None:
        """Add what the engine counted: (counter name, label values …) → how often. KeyError: no such counter."""
        for (name, *labels), count in counts.items():
            series = self._counts[name]
            key = tuple(labels)
            if key not in series and len(series) >= MAX_SERIES:
                key = ("other",) * len(key)
            series[key] = series.get(key, 0) + count

    def count(self, name: str, *labels: str) -> int:
        """The present value of a counter."""
        return self._counts[name].get(labels, 0)

    def observe_decision(self, seconds: float) -> None:
        """Note the time from a signal's broker timestamp to the acknowledgement of its decision."""
        self._decisions.observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Note how long a stage took. ValueError when there are more than `MAX_STAGES` of them.

        The worker's own: `handle`, one record in the engine; `remember` and `publish`, one batch until its state
        and its outputs are safe.
        """
        if stage not in self._stages:
            if len(self._stages) >= MAX_STAGES:
                raise ValueError(f"stage {stage!r} is one more than {MAX_STAGES}; stage names must be few and fixed")
            self._stages[stage] = Histogram(STAGE_BUCKETS)
        self._stages[stage].observe(seconds)

    def collect(self) -> Iterable[Metric]:
        """The Prometheus families of this moment."""
        for name, (text, labels) in COUNTERS.items():
            counter = CounterMetricFamily(f"batuta_{name}", text, labels=labels)
            for values, count in list(self._counts[name].items()):
                counter.add_metric(values, count)
            yield counter
        yield self._histogram("decision_seconds", "From a signal's timestamp to its decision", {(): self._decisions})
        stages: dict[tuple[str, ...], Histogram] = {(stage,): each for stage, each in self._stages.items()}
        yield self._histogram("stage_seconds", "Time spent in each stage", stages, ("stage",))
        current = {**self.gauges(), **self.models()}
        for kind, table in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, TOLD)):
            for name, (text, labels) in table.items():
                family = kind(f"batuta_{name}", text, labels=labels)
                for values, value in current.get(name, {}).items():
                    family.add_metric(values, value)
                yield family
        build = GaugeMetricFamily("batuta_build_info", "Version of the engine", labels=("version", "python"))
        build.add_metric((version("batuta"), platform.python_version()), 1)
        yield build

    @staticmethod
    def _histogram(
        name: str, text: str, series: Mapping[tuple[str, ...], Histogram], labels: tuple[str, ...] = ()
    ) -> Metric:
        family = HistogramMetricFamily(f"batuta_{name}", text, labels=labels)
        for values, histogram in list(series.items()):
            family.add_metric(values, histogram.buckets(), histogram.total)
        return family


class MetricsCollector(Collector):
    """Hands `Metrics` to a Prometheus registry."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """The families of this moment."""
        return self._metrics.collect()


def exposition(metrics: Metrics) -> bytes:
    """The metrics as Prometheus text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MetricsCollector(metrics))
    return generate_latest(registry)
