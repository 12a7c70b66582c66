"""The decision core in process: microseconds of CPU per signal, bytes in to bytes out, and how they grow.

Every signal is another one, of another customer. Counted are the engine's one function and the encoding of the
profile it changed, as for the changelog. Yardsticks, in the same run and turn by turn: `benchmarks.reference_core`,
the fused least that a decision takes in Python and numpy; and msgspec alone reading those same signals and writing
those same decisions, which no engine in Python can do without.

One thing grows at a time: candidates, rules, what a profile holds. All sizes take turns, so that what else runs on the
machine meets them alike, and each has its slope: a straight line through the medians. Customers and workers grow in
`benchmarks.growth`.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from time import process_time
from typing import NamedTuple, Protocol
from unittest.mock import patch

import msgspec
import numpy as np

from agents.decisioning import MEASURED, stopwatch
from benchmarks import workload
from benchmarks.reference_core import Profile, ReferenceCore
from benchmarks.results import Findings, Row, row
from benchmarks.workload import Message
from engine import decision
from engine.constraints import Covering
from engine.eligibility import Conditions
from engine.funnel import Lap
from engine.pipeline import handle
from engine.profile import encode_profile
from engine.record import Record
from engine.repertoire import Repertoire
from engine.state import MemoryState
from models.baseline import PriorScorer

CANDIDATES = (10, 20, 100, 500, 2_000)
RULES = (10, 100, 500, 1_000)
FURTHER_TRAITS = (0, 60, 180)
START_MS = 1_790_000_000_000
BETWEEN_MS = 8 * 3_600_000
"""How long a customer is silent between two signals, on average."""
IN_FLIGHT = 500
"""Signals handled and not yet committed: their decisions are still kept in the profiles, as in a worker."""


class Sizes(NamedTuple):
    """How much is measured: `batches` of `batch` signals, after one of warming up and one whose stages are timed."""

    customers: int
    batches: int
    batch: int


FULL, QUICK = Sizes(2_000, 9, 1_000), Sizes(1_000, 5, 400)


class Subject(Protocol):
    """What is measured."""

    def feed(self, messages: Sequence[Message]) -> list[bytes]:
        """Handle signals one by one; returns the decisions they caused."""
        ...


class Core:
    """One partition of the engine in memory, with customers who have introduced themselves."""

    def __init__(self, repertoire: Repertoire, customers: int, further: int = 0) -> None:
        self._repertoire = repertoire
        self._scorer = PriorScorer(repertoire)
        self._state = MemoryState()
        self._step_ms = BETWEEN_MS // customers
        self._now_ms, self._offset = START_MS, 0
        self.feed(workload.introductions(customers, further=further))

    def feed(self, messages: Sequence[Message], stages: Lap | None = None) -> list[bytes]:
        """Handle signals one by one; returns the decisions they caused."""
        decisions: list[bytes] = []
        for message in messages:
            self._now_ms += self._step_ms
            record = Record("signals", 0, self._offset, self._now_ms, message.key, message.value)
            effects = handle(record, self._state, self._repertoire, self._scorer, stages)
            encode_profile(self._state.profiles[message.key.decode()])
            decisions += [each.value for each in effects.outputs if each.topic == "decisions"]
            self._offset += 1
            self._state.committed["signals"] = self._offset - IN_FLIGHT
            if stages is not None:
                stages("encode")
        return decisions

    def profile_size(self) -> int:
        """Mean bytes of an encoded profile."""
        return workload.mean_size([encode_profile(each) for each in list(self._state.profiles.values())[:200]])


class Reference:
    """The reference core, with the same customers and the same clock."""

    def __init__(self, repertoire: Repertoire, customers: int) -> None:
        self._core = ReferenceCore(repertoire)
        self._step_ms = BETWEEN_MS // customers
        self._now_ms = START_MS
        self.feed(workload.introductions(customers))

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """What it knows of its customers."""
        return self._core.profiles

    def feed(self, messages: Sequence[Message]) -> list[bytes]:
        """Handle signals one by one; returns the decisions they caused."""
        decisions = self._core.feed(messages, self._now_ms, self._step_ms)
        self._now_ms += self._step_ms * len(messages)
        return decisions


class Codec:
    """msgspec alone: reads signals, and writes the decisions a core made of them."""

    def __init__(self, decisions: Sequence[bytes]) -> None:
        self._decisions = [msgspec.json.decode(each) for each in decisions]

    def feed(self, messages: Sequence[Message]) -> list[bytes]:
        """Read the signals, write as many decisions."""
        decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
        written = []
        for message, content in zip(messages, self._decisions, strict=True):
            decode(message.value)
            written.append(encode(content))
        return written


class Stages:
    """Adds up the CPU seconds between one call and the next, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = process_time()

    def __call__(self, stage: str) -> None:
        """Note that a stage is over."""
        now = process_time()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def text(self, signals: int) -> str:
        """Microseconds per signal, stage by stage."""
        return ", ".join(f"{name} {spent / signals * 1e6:.1f}" for name, spent in self.seconds.items())


def measure(*, quick: bool) -> Findings:
    """Rows for everything that grows; nothing can get lost here."""
    sizes = QUICK if quick else FULL
    return Findings(
        (
            *measure_candidates(CANDIDATES, sizes),
            measure_explanations(sizes),
            *measure_rules(RULES, sizes),
            *measure_profiles(FURTHER_TRAITS, sizes),
        )
    )


# --- Taking turns ---


Costs = Mapping[int, Sequence[float]]
"""Size → µs of CPU per signal, one number per turn."""


def take_turns(subjects: Mapping[str, Subject], sizes: Sizes, crowds: Mapping[str, int]) -> dict[str, list[float]]:
    """µs of CPU per signal of each subject: every one handles a batch, then every one the next.

    `crowds`: how many customers each has.
    """
    signals = {name: workload.signals((sizes.batches + 1) * sizes.batch, crowds[name], "core") for name in subjects}
    for name, subject in subjects.items():
        subject.feed(signals[name][: sizes.batch])
    gc.collect()
    gc.freeze()
    costs: dict[str, list[float]] = {name: [] for name in subjects}
    for at in range(sizes.batch, (sizes.batches + 1) * sizes.batch, sizes.batch):
        for name, subject in subjects.items():
            batch = signals[name][at : at + sizes.batch]
            begun = process_time()
            subject.feed(batch)
            costs[name].append((process_time() - begun) / sizes.batch * 1e6)
    gc.unfreeze()
    return costs


def grow(cores: Mapping[int, Core], sizes: Sizes) -> Costs:
    """The cost of each core, by what grows."""
    named = {str(size): core for size, core in cores.items()}
    costs = take_turns(named, sizes, dict.fromkeys(named, sizes.customers))
    return {size: costs[str(size)] for size in cores}


def over(costs: Costs, size: int, other: int) -> list[float]:
    """How much more one size costs than another, turn by turn."""
    return [one / two for one, two in zip(costs[size], costs[other], strict=True)]


def slope(costs: Costs) -> float:
    """Rise of the straight line through the medians, per unit of size."""
    return float(np.polyfit(list(costs), [median(each) for each in costs.values()], 1)[0])


# --- What telling why costs ---


class Explaining(NamedTuple):
    """A core as a worker runs it: one signal in `MEASURED` has its stages timed."""

    core: Core

    def feed(self, messages: Sequence[Message]) -> list[bytes]:
        """Handle signals one by one; returns the decisions they caused."""
        decisions = []
        for at in range(0, len(messages), MEASURED):
            decisions += self.core.feed(messages[at : at + 1], stopwatch([]))
            decisions += self.core.feed(messages[at + 1 : at + MEASURED])
        return decisions


class Silent(NamedTuple):
    """The same engine with nothing timed, no reason for a rejection written down and no contender named."""

    core: Core

    def feed(self, messages: Sequence[Message]) -> list[bytes]:
        """Handle signals one by one; returns the decisions they caused."""
        with ExitStack() as stack:
            for owner, name, silent in (
                (Conditions, "tell", lambda *_: None),
                (Covering, "tell", lambda *_: None),
                (decision, "listed", lambda _: decision.Listing(b"[]")),
                (decision, "contenders_of", lambda *_: []),
            ):
                stack.enter_context(patch.object(owner, name, silent))
            return self.core.feed(messages)


def measure_explanations(sizes: Sizes) -> Row:
    """What it costs to say why, and to time the stages, of 100 candidates."""
    repertoire = workload.load(100)
    subjects: dict[str, Subject] = {
        "on": Explaining(Core(repertoire, sizes.customers)),
        "off": Silent(Core(repertoire, sizes.customers)),
    }
    costs = take_turns(subjects, sizes, dict.fromkeys(subjects, sizes.customers))
    detail = (
        f"CPU with every rejection and contender explained and the stages of one signal in {MEASURED} timed, as in a "
        "worker, over CPU of the same engine with neither; "
        f"µs: {median(costs['on']):.0f} over {median(costs['off']):.0f}"
    )
    ratios = [on / off for on, off in zip(costs["on"], costs["off"], strict=True)]
    return row("core.explained-over-silent", ratios, "ratio", target="<= 1.15", detail=detail)


# --- What grows ---


def measure_candidates(counts: Sequence[int], sizes: Sizes) -> list[Row]:
    """Cost per signal and over both yardsticks, by the number of candidates."""
    repertoires = {count: workload.load(count) for count in counts}
    cores = {count: Core(repertoire, sizes.customers) for count, repertoire in repertoires.items()}
    signals = workload.signals(sizes.batch, sizes.customers, "staged")
    details, subjects = {}, dict[str, Subject]()
    for count, core in cores.items():
        core.feed(signals)
        stages = Stages()
        decisions = core.feed(workload.signals(sizes.batch, sizes.customers, "timed"), stages)
        details[count] = (
            f"one core; {sizes.batches} batches of {sizes.batch} signals of {sizes.customers} customers; bytes of a "
            f"signal {workload.mean_size([each.value for each in signals])}, of a decision "
            f"{workload.mean_size(decisions)}, of a profile {core.profile_size()}; "
            f"µs by stage: {stages.text(sizes.batch)}"
        )
        reference = Reference(repertoires[count], sizes.customers)
        subjects |= {f"{count}": core, f"{count} reference": reference, f"{count} codec": Codec(decisions)}
    costs = take_turns(subjects, sizes, dict.fromkeys(subjects, sizes.customers))
    rows = [each for count in counts for each in _rows_of(count, costs, details[count])]
    return [*rows, *_growth("candidates", {count: costs[f"{count}"] for count in counts}, _CANDIDATES_BOUNDS)]


_CANDIDATES_BOUNDS = {(500, 20): "<= 1.8", (2_000, 100): "<= 3"}
_RULES_BOUNDS = {(500, 100): "<= 1.3"}


def _rows_of(count: int, costs: Mapping[str, Sequence[float]], detail: str) -> list[Row]:
    name, engine = f"core.{count}-candidates", costs[f"{count}"]
    ratios = {
        kind: [one / two for one, two in zip(engine, costs[f"{count} {kind}"], strict=True)]
        for kind in ("reference", "codec")
    }
    fused = (
        "CPU over that of the fused reference core (benchmarks/reference_core.py), which decides on the same signals "
        f"and explains nothing; µs of it with {count} candidates: {median(costs[f'{count} reference']):.0f}"
    )
    alone = "CPU over that of msgspec alone reading the same signals and writing the same decisions"
    return [
        row(f"{name}.signal", engine, "µs", detail=detail),
        row(f"{name}.over-reference", ratios["reference"], "ratio", target="<= 1.5" * (count == 100), detail=fused),
        row(f"{name}.over-codec", ratios["codec"], "ratio", detail=alone),
    ]


def _growth(what: str, costs: Costs, bounds: Mapping[tuple[int, int], str], note: str = "") -> list[Row]:
    """The ratios that are bounded, and the slope."""
    medians = ", ".join(f"{size}: {median(each):.0f}" for size, each in costs.items())
    detail = f"µs of CPU per signal by {what}: {medians}{note}"
    rows = [
        row(f"core.{size}-over-{other}-{what}", over(costs, size, other), "ratio", target=bound, detail=detail)
        for (size, other), bound in bounds.items()
        if size in costs and other in costs
    ]
    return [*rows, row(f"core.{what}.slope", [slope(costs) * 1e3], f"ns per {what[:-1]}", detail=detail)]


def measure_rules(counts: Sequence[int], sizes: Sizes) -> list[Row]:
    """Cost by the number of rules over 100 actions, each a comparison of its own."""
    cores = {count: Core(workload.load(100, rules=count), sizes.customers) for count in counts}
    note = "; each rule is a comparison with a number of its own, and nearly all hold"
    return _growth("rules", grow(cores, sizes), _RULES_BOUNDS, note)


def measure_profiles(further: Sequence[int], sizes: Sizes) -> list[Row]:
    """Cost by the bytes of an encoded profile: more traits, which no rule looks at."""
    repertoire = workload.load(100)
    cores = [Core(repertoire, sizes.customers, each) for each in further]
    by_size = {core.profile_size(): core for core in cores}
    return _growth("profile-bytes", grow(by_size, sizes), {})
