"""`python -m benchmarks.learning`: play everything, print the rows, write `learning.json` and `learning.md`.

With sections named, only those run and replace their rows in the report. `QUICK=1` in the environment: a short form.
Exit code 1 when data, a peer or Kafka is missing or a measurement is void, 2 for a section nobody knows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from agents.broker import BrokerUnavailable
from benchmarks.learning import bandits, cdnow, cost, latency, open_bandit
from benchmarks.learning.bandits import Kind, Task
from benchmarks.learning.peers import PeersMissing, require_packages
from benchmarks.learning.simulator import DRIFTS
from benchmarks.learning.streams import STREAMS, read_csv
from benchmarks.load import LoadFailed
from benchmarks.results import DIRECTORY, Row, begin, complete, figure, write

DONE, WRONG, USAGE = 0, 1, 2


class Sizes(NamedTuple):
    """`seeds`; `rows` of a stream; `steps` of the simulator; every how many-th customer of CDNOW, `apart`."""

    seeds: int
    rows: int
    steps: int
    apart: int


FULL, QUICK = Sizes(10, 1_200, 3_000, 1), Sizes(3, 250, 1_800, 12)


def main(arguments: Sequence[str]) -> int:
    """Run sections by name, or all, or a file of one's own; returns the exit code."""
    if arguments[:1] == ["--own"]:
        return _own(arguments[1:])
    unknown = [name for name in arguments if name not in SECTIONS]
    if unknown:
        return _complain(USAGE, f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}, or --own FILE.csv")
    report, sizes = begin(), _sizes()
    rows: list[Row] = []
    try:
        require_packages()
        for name in arguments or SECTIONS:
            rows += SECTIONS[name](sizes)
    except (PeersMissing, subprocess.CalledProcessError, LoadFailed, BrokerUnavailable) as error:
        return _complain(WRONG, str(error))
    write(complete(report, _beside(rows) if arguments else rows), "learning")
    missed = [each.metric for each in rows if not each.met]
    print(f"{len(missed)} targets missed: {', '.join(missed)}" if missed else "every target met")
    return DONE


def _beside(rows: list[Row]) -> list[Row]:
    """These rows and those of the report that were not measured again, as they were."""
    path = DIRECTORY / "learning.json"
    if not path.exists():
        return rows
    replaced = {each.metric for each in rows}
    known = msgspec.convert(msgspec.json.decode(path.read_bytes())["rows"], list[Row])
    return [*(each for each in known if each.metric not in replaced), *rows]


def _own(paths: Sequence[str]) -> int:
    """Play a file of one's own as all others are played."""
    if len(paths) != 1:
        return _complain(USAGE, "--own takes one CSV file")
    try:
        require_packages()
        read_csv(Path(paths[0]))
    except (PeersMissing, OSError, ValueError) as error:
        return _complain(WRONG, str(error))
    _bandits("instant", paths, _sizes())
    return DONE


def _sizes() -> Sizes:
    return QUICK if os.environ.get("QUICK", "0") not in {"", "0"} else FULL


def _bandits(kind: Kind, names: Sequence[str], sizes: Sizes) -> list[Row]:
    """Everybody on every stream of a kind; printed stream by stream as they end."""
    cap = sizes.steps if kind == "drifting" else sizes.rows
    tasks = [Task(kind, name, seed, cap) for name in names for seed in range(sizes.seeds)]
    summarise = bandits.drift_rows if kind == "drifting" else bandits.stream_rows
    rows: list[Row] = []
    played: list[bandits.Played] = []
    for each in bandits.spread(bandits.play_task, tasks):
        played.append(each)
        if len(played) == sizes.seeds:
            rows += _told(summarise(played))
            played.clear()
    return rows


def _streams(kind: Kind, sizes: Sizes) -> list[Row]:
    rows = _bandits(kind, list(STREAMS), sizes)
    return rows + _told(bandits.lead_rows(kind, rows))


def _cdnow(sizes: Sizes) -> list[Row]:
    asked = cdnow.cases([each for each in cdnow.load() if int(each.customer) % sizes.apart == 0])
    tasks = [(name, asked) for name in cdnow.FORECASTERS]
    return _told(cdnow.rows(asked, dict(bandits.spread(cdnow.forecast, tasks))))


def _scoring(sizes: Sizes) -> list[Row]:
    [rows] = bandits.spread(cost.measure, [500 if sizes == QUICK else 3_000])
    return _told(rows)


SECTIONS: Mapping[str, Callable[[Sizes], list[Row]]] = {
    "instant": lambda sizes: _streams("instant", sizes),
    "delayed": lambda sizes: _streams("delayed", sizes),
    "drifting": lambda sizes: _bandits("drifting", list(DRIFTS), sizes),
    "cdnow": _cdnow,
    "scoring": _scoring,
    "latency": lambda sizes: _told(latency.measure(quick=sizes == QUICK)),
    "estimators": lambda _: _told(open_bandit.measure()),
}
"""What is played, in order."""


def _told(rows: list[Row]) -> list[Row]:
    for each in rows:
        met = "" if not each.target else "  met" if each.met else f"  NOT MET: {each.target}"
        span = f"({figure(each.low)} to {figure(each.high)})"
        print(f"{each.metric:52} {figure(each.value):>9} {each.unit:7} {span}{met}", flush=True)
    return rows


def _complain(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
