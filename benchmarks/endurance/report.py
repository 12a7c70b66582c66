"""What the rows of overload and soak have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator

from agents.broker import kafka_version
from benchmarks.endurance.account import Verdict
from benchmarks.endurance.numbered import CANDIDATES, SIGNALS_A_DAY
from benchmarks.results import Row, cores, row
from benchmarks.stream import PARTITIONS


def counted_rows(part: str, verdict: Verdict, detail: str) -> Iterator[Row]:
    """What became of the signals, from the topics alone."""
    yield row(f"{part}.signals", [verdict.signals], "signals", detail=detail)
    for name, count in {
        "lost": verdict.lost,
        "repeated": verdict.twice,
        "conflicting": verdict.contradicted,
        "out-of-order": verdict.disordered,
    }.items():
        yield row(f"{part}.{name}", [count], "signals", target="== 0", detail=detail)


def surroundings(customers: int) -> str:
    """Where it ran: one worker, and what else on the same cores."""
    return (
        f"one worker, {customers} customers with {SIGNALS_A_DAY} signals a day of record time, {CANDIDATES} "
        f"candidates, {PARTITIONS} partitions; Kafka {kafka_version()}, one node, publisher and reader on the same "
        f"{cores()} cores, load average {os.getloadavg()[0]:.1f} at the end"
    )
