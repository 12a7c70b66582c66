"""The decision core in process: microseconds of CPU per signal, bytes in to bytes out, for 10, 100 and 500 candidates.

Every signal is another one, of another customer. Counted are the engine's one function and the encoding of the
profile it changed, as for the changelog. The yardstick, in the same run and turn by turn: msgspec alone reading
those same signals and writing those same decisions, which no engine in Python can do without.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from time import perf_counter, process_time
from typing import NamedTuple

import msgspec

from benchmarks import workload
from benchmarks.results import Findings, Row, row
from benchmarks.workload import Message
from engine.pipeline import handle
from engine.profile import encode_profile
from engine.record import Record
from engine.state import MemoryState
from models.baseline import PriorScorer

CANDIDATES = (10, 100, 500)
START_MS = 1_790_000_000_000
BETWEEN_MS = 8 * 3_600_000
"""How long a customer is silent between two signals, on average."""
IN_FLIGHT = 500
"""Signals handled and not yet committed: their decisions are still kept in the profiles, as in a worker."""


class Sizes(NamedTuple):
    """How much is measured: `batches` of `batch` signals, after one of warming up per candidate count."""

    customers: int
    batches: int
    batch: int


FULL, QUICK = Sizes(2_000, 9, 1_000), Sizes(1_000, 5, 400)


class Core:
    """One partition of the engine in memory, with customers who have introduced themselves."""

    def __init__(self, candidates: int, customers: int) -> None:
        self._repertoire = workload.load(candidates)
        self._scorer = PriorScorer(self._repertoire)
        self._state = MemoryState()
        self._step_ms = BETWEEN_MS // customers
        self._now_ms, self._offset = START_MS, 0
        self.feed(workload.introductions(customers))

    def feed(self, messages: Sequence[Message], stages: Stages | None = None) -> list[bytes]:
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


class Stages:
    """Adds up the seconds between one call and the next, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def __call__(self, stage: str) -> None:
        """Note that a stage is over."""
        now = perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def text(self, signals: int) -> str:
        """Microseconds per signal, stage by stage."""
        return ", ".join(f"{name} {spent / signals * 1e6:.1f}" for name, spent in self.seconds.items())


def measure(*, quick: bool) -> Findings:
    """Rows for every number of candidates; nothing can get lost here."""
    sizes = QUICK if quick else FULL
    return Findings(tuple(each for count in CANDIDATES for each in measure_candidates(count, sizes)))


def measure_candidates(candidates: int, sizes: Sizes) -> list[Row]:
    """Cost per signal in microseconds of CPU time, and the same over that of the yardstick."""
    core = Core(candidates, sizes.customers)
    signals = workload.signals((sizes.batches + 2) * sizes.batch, sizes.customers, "core")
    warming, staged, *batches = [signals[at : at + sizes.batch] for at in range(0, len(signals), sizes.batch)]
    decisions = core.feed(warming)
    stages = Stages()
    core.feed(staged, stages)
    gc.collect()
    gc.freeze()
    turns = [_turn(core, batch) for batch in batches]
    gc.unfreeze()
    name = f"core.{candidates}-candidates"
    detail = (
        f"one core; {len(batches)} batches of {sizes.batch} signals of {sizes.customers} customers; a signal has "
        f"{workload.mean_size([each.value for each in signals])} bytes, a decision {workload.mean_size(decisions)}; "
        f"µs by stage: {stages.text(len(staged))}"
    )
    yardstick = "CPU over that of msgspec alone reading the same signals and writing the same decisions"
    return [
        row(f"{name}.signal", [engine / sizes.batch * 1e6 for engine, _ in turns], "µs", detail=detail),
        row(f"{name}.over-codec", [engine / codec for engine, codec in turns], "ratio", detail=yardstick),
    ]


def _turn(core: Core, signals: Sequence[Message]) -> tuple[float, float]:
    """CPU seconds of the engine for a batch of signals, and of the yardstick for the same."""
    begun = process_time()
    decisions = core.feed(signals)
    engine = process_time() - begun
    contents = [msgspec.json.decode(each) for each in decisions]
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    begun = process_time()
    for message, content in zip(signals, contents, strict=True):
        decode(message.value)
        encode(content)
    return engine, process_time() - begun
