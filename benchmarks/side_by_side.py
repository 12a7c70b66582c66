"""The engine on Kafka beside others that do the same work: quixstreams, plain Faust, and loops on the bare clients.

Same work: every signal through the same call of the same decision core, state changelogged to a compacted topic,
offsets committed after what came of them is acknowledged. Subjects take turns on one broker, in one run; ratios are
taken turn by turn. Latency is counted from the moment a signal was scheduled, so a subject that stalls is charged for
every signal it kept waiting. An echo beside them decides nothing: it is the floor of latency.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from agents.broker import MEASURED_JVM, KafkaBroker, kafka_version
from agents.children import Children
from benchmarks import plots, subjects
from benchmarks.latencies import Latencies
from benchmarks.load import LoadFailed
from benchmarks.results import Findings, Row, cores, row
from benchmarks.stream import CUSTOMERS, PARTITIONS, Bench, Paced, Rates, Sizes, Subject, Trial, run_trial
from benchmarks.subjects import AIOKAFKA, BATUTA, CONFLUENT, ECHO, FAUST, QUIXSTREAMS

OWN_SHARES = {"10%": 0.1, "50%": 0.5, "80%": 0.8}
"""Rates as shares of what each subject manages itself."""
COMMON, COMMON_SHARE = "common", 0.3
"""The one rate that all subjects are given: this share of what the engine managed while everything warmed up."""
MOST_SHARE = 0.8
"""A subject is not given the common rate when it is more than this share of what it manages itself."""
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
OURS = (BATUTA, AIOKAFKA, CONFLUENT, ECHO)
"""Whose losses are faults of this run; what frameworks lose or repeat is reported."""

OVER_ECHO = {"p50": "<= 1.5", "p99": "<= 2", "p99.9": "<= 3"}
SATURATION_OVER = {QUIXSTREAMS: ">= 1.0", FAUST: ">= 4"}
CPU_OVER = {AIOKAFKA: "<= 2.0", CONFLUENT: "<= 3"}

Turn = Mapping[str, Trial]


class Form(NamedTuple):
    """How often all subjects take their turn, and how much is measured each time."""

    turns: int
    sizes: Sizes


FULL, QUICK = Form(3, Sizes(20_000, 12)), Form(1, Sizes(8_000, 6))
WARMING = Sizes(8_000, 2)


def measure(*, quick: bool) -> Findings:
    """Rows of all subjects; a fault for every trial in which one of ours lost, changed or doubled a decision.

    Raises `LoadFailed` when nothing can be measured, `BrokerUnavailable` without Apache Kafka.
    """
    form = QUICK if quick else FULL
    if not Path("/proc/self/stat").exists():
        raise LoadFailed("CPU time of the subjects is read from /proc, which this system does not have; use Linux")
    with (
        tempfile.TemporaryDirectory() as directory,
        KafkaBroker(jvm=MEASURED_JVM) as broker,
        closing(Children()) as children,
        ProcessPoolExecutor(1, get_context("spawn")) as publisher,
    ):
        bench = Bench(broker.bootstrap, children, publisher, broker.directory / "node-1")
        turns = _take_turns(form, bench, Path(directory))
    return Findings(tuple(_rows(turns, form)), tuple(_faults(turns)), _plots(turns))


# --- Turns ---


def _take_turns(form: Form, bench: Bench, directory: Path) -> list[Turn]:
    """Warm the broker up, which tells the common rate by the way, then let everybody take turns, in another order each.

    A virtual machine that is still compiling makes whoever comes first look bad.
    """
    engine, loop = subjects.batuta(bench.bootstrap, directory), subjects.aiokafka_loop(bench.bootstrap)
    for subject in (loop, engine):
        warm = run_trial(subject, f"warming-{subject.name}.", WARMING, bench, _rates(None))
    common = warm.paced[COMMON].rate
    echo = subjects.echo(bench.bootstrap, warm.decision_bytes)
    everybody = [
        subjects.quixstreams(bench.bootstrap, directory),
        echo,
        engine,
        loop,
        subjects.confluent_loop(bench.bootstrap),
        subjects.faust(bench.bootstrap),
    ]
    turns: list[Turn] = []
    for number in range(form.turns):
        first = 2 * number % len(everybody)
        trials: dict[str, Trial] = {}
        for subject in everybody[first:] + everybody[:first]:
            compared = subject in (engine, echo)
            rates = _rates(common, own=subject is not echo, whatever=compared)
            trials[subject.name] = _run(subject, number, form, bench, rates)
        turns.append(trials)
    return turns


def _run(subject: Subject, turn: int, form: Form, bench: Bench, rates: Rates) -> Trial:
    trial = run_trial(subject, f"{subject.name}-{turn}.", form.sizes, bench, rates)
    print(f"  turn {turn + 1}, {subject.name}: {trial.caught_up.per_second:.0f} signals/s", file=sys.stderr, flush=True)
    return trial


def _rates(common: float | None, *, own: bool = True, whatever: bool = False) -> Rates:
    """What to give a subject that manages so many signals per second; without `common`, it sets it.

    `own`: shares of that, too. `whatever`: the common rate even if it is too much.
    """

    def rates(per_second: float) -> dict[str, float]:
        shared = round(COMMON_SHARE * per_second, -1) if common is None else common
        fitting = {COMMON: shared} if whatever or shared <= MOST_SHARE * per_second else {}
        return fitting | ({name: share * per_second for name, share in OWN_SHARES.items()} if own else {})

    return rates


# --- What it comes to ---


def _faults(turns: Sequence[Turn]) -> Iterator[str]:
    for number, turn in enumerate(turns, 1):
        for name in OURS:
            if (found := turn[name].tally.faults) is not None:
                yield f"stream, {name}, turn {number}: {found}"


def _rows(turns: Sequence[Turn], form: Form) -> Iterator[Row]:
    shared = _surroundings(turns)
    waiting = f"{shared}; {form.sizes.waiting} signals waiting; beside it the broker, nothing else"
    yield from _compared(
        "saturation", "signals/s", turns, lambda trial: trial.caught_up.per_second, waiting, SATURATION_OVER
    )
    cpu = f"{waiting}; CPU of the subject's process alone, per 100,000 signals"
    yield from _compared("cpu", "CPU s", turns, lambda trial: trial.caught_up.cpu_seconds, cpu, CPU_OVER)
    written = f"{waiting}; what its topics hold afterwards, but for the one it reads, per 100,000 signals"
    yield from _compared("written", "MB", turns, lambda trial: trial.caught_up.megabytes, written, {AIOKAFKA: ""})
    yield from _common_rows(turns, form, shared)
    yield from _own_rows(turns, form, shared)
    yield from _counted(turns)


def _surroundings(turns: Sequence[Turn]) -> str:
    loads = [trial.load for turn in turns for trial in turn.values()]
    return (
        f"{subjects.CANDIDATES} candidates, {CUSTOMERS} customers, {PARTITIONS} partitions; a decision has "
        f"{turns[0][BATUTA].decision_bytes} bytes; Kafka {kafka_version()}, one node, java {' '.join(MEASURED_JVM)}; "
        f"{len(turns)} turns on {cores()} cores, load average {min(loads):.1f} to {max(loads):.1f}"
    )


def _common_rows(turns: Sequence[Turn], form: Form, shared: str) -> Iterator[Row]:
    """All subjects at the one rate: CPU, and latency over the echo's."""
    rate = turns[0][BATUTA].paced[COMMON].rate
    late = max(paced.generator_ms for turn in turns for trial in turn.values() for paced in trial.paced.values())
    detail = (
        f"{shared}; all at {rate:.0f} signals/s, {COMMON_SHARE:.0%} of what the engine managed before, for "
        f"{form.sizes.seconds} s each; beside it broker, publisher and reader"
    )
    cpu = f"{detail}; CPU of the subject's process alone, per 100,000 signals"
    yield from _compared("cpu-at-common-rate", "CPU s", turns, _paced(lambda paced: paced.cpu_seconds), cpu, CPU_OVER)
    read = f"{detail}; from scheduled to read; the generator itself was {late:.2f} ms late (p99, its worst part)"
    for name, share in PERCENTILES.items():
        yield from _compared(
            f"latency-{name}",
            "ms",
            turns,
            _paced(_at(share)),
            read,
            {ECHO: OVER_ECHO[name]},
            absolute="< 10" if name == "p99" else "",
        )
    yield from _way(turns, detail)


def _way(turns: Sequence[Turn], detail: str) -> Iterator[Row]:
    """Where a decision's milliseconds go at the common rate, as the worker itself tells."""
    told = [turn[BATUTA].paced[COMMON].stages_ms for turn in turns]
    arrives = [each["decided"] - each["remember"] - each["publish"] for each in told]
    for name, values, what in (
        ("arrive", arrives, "from the broker's timestamp until the batch it came in is handled"),
        ("handle", [each["handle"] for each in told], "one signal in the engine"),
        (
            "remember",
            [each["remember"] for each in told],
            "from there until its batch's state is acknowledged, handling and all",
        ),
        ("publish", [each["publish"] for each in told], "from there until its decisions are acknowledged"),
    ):
        yield row(f"stream.way.{name}", values, "ms", detail=f"{detail}; mean, {what}")


def _own_rows(turns: Sequence[Turn], form: Form, shared: str) -> Iterator[Row]:
    """Every subject at shares of what it manages itself."""
    for part in OWN_SHARES:
        for name in turns[0]:
            if name == ECHO:
                continue
            rates = ", ".join(f"{turn[name].paced[part].rate:.0f}" for turn in turns)
            detail = f"{shared}; {rates} signals/s for {form.sizes.seconds} s; from scheduled to read"
            for label, share in PERCENTILES.items():
                values = [turn[name].paced[part].latencies.ms(share) for turn in turns]
                yield row(f"stream.latency-{label}-at-{part}.{name}", values, "ms", detail=detail)


def _paced(read: Callable[[Paced], float]) -> Callable[[Trial], float]:
    """At the common rate; NaN for a subject that it was too much for."""
    return lambda trial: read(trial.paced[COMMON]) if COMMON in trial.paced else float("nan")


def _at(share: float) -> Callable[[Paced], float]:
    return lambda paced: paced.latencies.ms(share)


def _compared(
    metric: str,
    unit: str,
    turns: Sequence[Turn],
    read: Callable[[Trial], float],
    detail: str,
    over: Mapping[str, str],
    absolute: str = "",
) -> Iterator[Row]:
    """The number of every subject, and the engine's over that of others, turn by turn, with what is asked of each."""
    for name in turns[0]:
        values = [read(turn[name]) for turn in turns]
        if all(value == value for value in values):  # noqa: PLR0124 - NaN differs from itself
            target = absolute if name == BATUTA else ""
            yield row(f"stream.{metric}.{name}", values, unit, target=target, detail=detail)
    for name, target in over.items():
        ratios = [read(turn[BATUTA]) / read(turn[name]) for turn in turns]
        yield row(f"stream.{metric}.over-{name}", ratios, "ratio", target=target, detail=detail)


def _counted(turns: Sequence[Turn]) -> Iterator[Row]:
    """What happened to the signals in all trials together; a median would hide the one that went wrong."""
    for subject in turns[0]:
        tallies = [turn[subject].tally for turn in turns]
        detail = f"of {sum(each.signals for each in tallies)} signals, each of which must have one decision, by id"
        target = "== 0" if subject in OURS else ""
        for name in ("lost", "changed", "conflicting", "unasked", "repeated"):
            total = sum(getattr(each, name) for each in tallies)
            if subject == BATUTA or total:
                wanted = "" if name == "repeated" else target
                yield row(f"stream.{name}.{subject}", [total], "decisions", target=wanted, detail=detail)


def _plots(turns: Sequence[Turn]) -> dict[str, str]:
    """Pictures of the run by name: the whole distribution of latencies, and what the signals cost."""
    merged: dict[str, Latencies] = {}
    for turn in turns:
        for name, trial in turn.items():
            if COMMON in trial.paced:
                merged.setdefault(name, Latencies()).add(trial.paced[COMMON].latencies)
    rate = turns[0][BATUTA].paced[COMMON].rate
    names = list(turns[0])
    middle = sorted(turns, key=lambda turn: turn[BATUTA].caught_up.per_second)[len(turns) // 2]
    return {
        "latency": plots.percentiles(f"Latency at {rate:.0f} signals/s, from scheduled to read", merged),
        "saturation": plots.bars("Signals per second", {name: middle[name].caught_up.per_second for name in names}),
        "cpu": plots.bars("CPU seconds per 100,000 signals", {n: middle[n].caught_up.cpu_seconds for n in names}),
    }
