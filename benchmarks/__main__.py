"""`python -m benchmarks`: run every section, print its rows, write `benchmarks/results/bench.json`, `bench.md` and
their pictures.

    python -m benchmarks [SECTION …]

With sections named, only those run and nothing is written. `QUICK=1` in the environment: a form of a few minutes.
Exit code 1 when something was lost, changed or conflicting, 3 when Kafka cannot be started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from agents.broker import BrokerUnavailable
from benchmarks import core, growth, guarantees, side_by_side
from benchmarks.load import LoadFailed
from benchmarks.results import Findings, Row, begin, complete, figure, write

SECTIONS: Mapping[str, Callable[..., Findings]] = {
    "core": core.measure,
    "growth": growth.measure,
    "stream": side_by_side.measure,
    "guarantees": guarantees.measure,
}
"""What is measured, in order. Each is called with `quick`."""
DONE, WRONG, USAGE, NO_BROKER = 0, 1, 2, 3


def main(names: Sequence[str]) -> int:
    """Run sections by name, or all; returns the exit code."""
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        return _complain(USAGE, f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    report = begin()
    quick = os.environ.get("QUICK", "0") not in ("", "0")
    rows: list[Row] = []
    faults: list[str] = []
    plots: dict[str, str] = {}
    for name in names or SECTIONS:
        try:
            found = SECTIONS[name](quick=quick)
        except BrokerUnavailable as error:
            return _complain(NO_BROKER, str(error))
        except LoadFailed as error:
            return _complain(WRONG, f"{name}: {error}")
        rows += found.rows
        faults += found.faults
        plots |= found.plots
        for row in found.rows:
            print(_line(row), flush=True)
    if not names:
        write(complete(report, rows), "bench", plots=plots)
    return _complain(WRONG, "; ".join(faults)) if faults else DONE


def _line(row: Row) -> str:
    span = f"({figure(row.low)} - {figure(row.high)})"
    met = "" if not row.target else "  met" if row.met else f"  NOT MET: {row.target}"
    return f"{row.metric:34} {figure(row.value):>9} {row.unit:10} {span}{met}"


def _complain(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
