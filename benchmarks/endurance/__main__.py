"""`python -m benchmarks.endurance`: overload and soak; writes `benchmarks/results/endurance.json` and `.md`.

    python -m benchmarks.endurance [--hours HOURS] [PART …]

Parts: overload, soak. With parts named, only those are played and nothing is written. `--hours`: how long to soak.
`QUICK=1` in the environment: a form of a few minutes. Exit code 1 when something was lost, repeated, conflicting or
out of order, 2 on usage, 3 when Kafka cannot be started.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing import get_context
from pathlib import Path

from agents.broker import MEASURED_JVM, BrokerUnavailable, KafkaBroker
from agents.children import Children
from benchmarks.endurance import overload, soak
from benchmarks.endurance.stage import SETTINGS
from benchmarks.load import LoadFailed
from benchmarks.results import Findings, Row, begin, complete, figure, write
from benchmarks.stream import Bench

DONE, WRONG, USAGE, NO_BROKER = 0, 1, 2, 3


def main(arguments: Sequence[str]) -> int:
    """Play parts by name, or both; returns the exit code."""
    asked = _arguments(arguments)
    unknown = [name for name in asked.parts if name not in PARTS]
    if unknown:
        return _complain(USAGE, f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    report, quick = begin(), os.environ.get("QUICK", "0") not in ("", "0")
    found: list[Findings] = []
    try:
        for name in asked.parts or PARTS:
            print(f"{name} …", file=sys.stderr, flush=True)
            found.append(_play(name, quick=quick, hours=asked.hours))
    except BrokerUnavailable as error:
        return _complain(NO_BROKER, str(error))
    except LoadFailed as error:
        return _complain(WRONG, str(error))
    if not asked.parts:
        write(complete(report, [row for each in found for row in each.rows]), "endurance")
    faults = [fault for each in found for fault in each.faults]
    return _complain(WRONG, "; ".join(faults)) if faults else DONE


def _play(name: str, *, quick: bool, hours: float | None) -> Findings:
    with _bench() as bench:
        found = PARTS[name](bench, quick=quick, hours=hours)
    for row in found.rows:
        met = "" if not row.target else "  met" if row.met else f"  NOT MET: {row.target}"
        span = f"({figure(row.low)} - {figure(row.high)})"
        print(f"{row.metric:36} {figure(row.value):>9} {row.unit:26} {span}{met}", flush=True)
    return found


def _overload(bench: Bench, *, quick: bool, hours: float | None) -> Findings:  # noqa: ARG001 - a minute, whatever
    found = overload.play(bench, overload.QUICK if quick else overload.FULL)
    return _findings("overload", overload.rows(found), found.verdict.faults)


def _soak(bench: Bench, *, quick: bool, hours: float | None) -> Findings:
    form = soak.QUICK if quick else soak.FULL
    if hours is not None:
        form = form._replace(seconds=3_600 * hours)
    found = soak.play(bench, form)
    return _findings("soak", soak.rows(found), found.verdict.faults)


PARTS: Mapping[str, Callable[..., Findings]] = {"overload": _overload, "soak": _soak}
"""What is played, in order, each on a broker of its own."""


def _findings(name: str, rows: Iterator[Row], faults: str | None) -> Findings:
    return Findings(tuple(rows), () if faults is None else (f"{name}: {faults}",))


@contextmanager
def _bench() -> Iterator[Bench]:
    if not Path("/proc/self/statm").exists():
        raise LoadFailed("memory and files are read from /proc, which this system does not have; use Linux")
    with (
        KafkaBroker(jvm=MEASURED_JVM, settings=SETTINGS) as broker,
        closing(Children()) as children,
        ProcessPoolExecutor(1, get_context("spawn")) as publisher,
    ):
        yield Bench(broker.bootstrap, children, publisher)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance", description="Overload and soak a worker.")
    parser.add_argument("parts", metavar="PART", nargs="*", help="overload or soak; none: both")
    parser.add_argument("--hours", type=float, help="how long to soak; else half an hour, a minute with QUICK=1")
    return parser.parse_args(arguments)


def _complain(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
