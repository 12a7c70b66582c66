"""Results: what was measured, as rows; written as JSON for machines and Markdown for people."""

from __future__ import annotations

import math
import operator
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import msgspec

DIRECTORY = Path(__file__).parent / "results"

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number: the median of its repetitions, with the lowest and the highest.

    `metric`: a stable name. `target`: `<= 2`, or empty when nothing is asked of the number; then it is met.
    `detail`: what was measured, and what ran beside it.
    """

    metric: str
    value: float
    low: float
    high: float
    unit: str
    target: str
    met: bool
    detail: str


class Findings(msgspec.Struct, frozen=True):
    """What a section found. `faults`: sentences on what was lost, repeated or conflicting; empty when all is well.

    `plots`: SVG texts by name.
    """

    rows: tuple[Row, ...]
    faults: tuple[str, ...] = ()
    plots: Mapping[str, str] = {}


class Report(msgspec.Struct, frozen=True):
    """All rows of one run, with where and when it ran, and on which commit."""

    machine: str
    date: str
    commit: str
    rows: tuple[Row, ...]


def row(metric: str, values: Sequence[float], unit: str, *, target: str = "", detail: str = "") -> Row:
    """A row from the repetitions of a measurement. ValueError without any, or when the target cannot be read."""
    if not values:
        raise ValueError(f"{metric}: no values; expected one per repetition")
    middle = median(values)
    return Row(
        metric=metric,
        value=middle,
        low=min(values),
        high=max(values),
        unit=unit,
        target=target,
        met=meets(middle, target),
        detail=detail,
    )


def meets(value: float, target: str) -> bool:
    """Whether a value is as a target such as `<= 2` asks; every value meets the empty target."""
    if not target:
        return True
    sign, _, bound = target.partition(" ")
    if sign not in _COMPARISONS or not bound:
        raise ValueError(f"target is {target!r}; expected one of {', '.join(_COMPARISONS)}, a space and a number")
    return _COMPARISONS[sign](value, float(bound))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that `share` (0 to 1) of them do not exceed: the nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


# --- Where and when ---


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin() -> Report:
    """A report without rows yet: this machine and how busy it is, this moment and this commit, before measuring."""
    machine = f"{_machine()}, load average {os.getloadavg()[0]:.1f} at the start"
    return Report(machine, datetime.now(UTC).isoformat(timespec="seconds"), _commit(), ())


def complete(report: Report, rows: Sequence[Row]) -> Report:
    """The report with what was measured."""
    return msgspec.structs.replace(report, rows=tuple(rows))


def _machine() -> str:
    system = f"{platform.system()} {platform.release()}"
    return f"{_processor()}, {cores()} cores, {system}, Python {platform.python_version()}"


def _processor() -> str:
    """The processor's name as Linux tells it, else its architecture."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text("utf-8").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """The commit of the code, `-dirty` when files differ from it; `unknown` outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        found = subprocess.run(command, cwd=DIRECTORY.parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


# --- Writing ---


def write(report: Report, name: str, directory: Path = DIRECTORY, plots: Mapping[str, str] | None = None) -> None:
    """Write `<name>.json`, `<name>.md`, and `<name>-<plot>.svg` for each plot, which the page shows."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = {plot: f"{name}-{plot}.svg" for plot in plots or ()}
    (directory / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    (directory / f"{name}.md").write_text(markdown(report, name, pictures), "utf-8")
    for plot, file in pictures.items():
        (directory / file).write_text((plots or {})[plot], "utf-8")


def markdown(report: Report, name: str, pictures: Mapping[str, str] | None = None) -> str:
    """The report as a table, pictures by what they show, and what stands behind the numbers below them."""
    behind: dict[str, list[str]] = {}
    for each in report.rows:
        behind.setdefault(each.detail, []).append(each.metric)
    lines = [
        f"# Results: {name}",
        "",
        f"{report.date} · commit {report.commit} · {report.machine}",
        "",
        "| metric | median | low to high | unit | target | met |",
        "|---|---:|---:|---|---|---|",
        *(_line(each) for each in report.rows),
        "",
        *(f"![{shows}]({file})\n" for shows, file in (pictures or {}).items()),
        *(f"* {', '.join(metrics)}: {detail}." for detail, metrics in behind.items() if detail),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _line(each: Row) -> str:
    met = ("yes" if each.met else "**no**") if each.target else ""
    span = f"{figure(each.low)} to {figure(each.high)}"
    return f"| {each.metric} | {figure(each.value)} | {span} | {each.unit} | {each.target} | {met} |"


def figure(value: float) -> str:
    """A number for people: whole from 100 on, else three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
