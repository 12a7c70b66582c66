"""The report: scenario by scenario and fault by fault, what was done, what was sent and what became of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from agents.broker import kafka_version
from benchmarks import results
from benchmarks.chaos.faults import CLOCK_FAULTS, FAULTS
from benchmarks.chaos.lessons import Lessons
from benchmarks.chaos.play import Played, Scenario
from benchmarks.chaos.supervisor import Exit
from benchmarks.results import DIRECTORY, Report, Row, complete, cores, row

_OWN = (1, 3)
"""Statuses of a worker that ended by itself; the others are of what was done to it."""
_STOPPING = "Stopping at once: "
_NUMBER = re.compile(r"\d+")
_WRONG: Mapping[str, Callable[[Played], int]] = {
    "lost": lambda each: each.lost,
    "repeated": lambda each: each.repeated,
    "conflicting": lambda each: each.conflicting,
    "over-cap": lambda each: each.verdict.over_cap,
}
"""What must not be, by name."""


# --- For people ---


def told(played: Played) -> str:
    """One line on a scenario, and one for each way in which workers ended by themselves."""
    verdict, seconds = played.verdict, _seconds([played])
    recovered = f"recovered in {median(seconds):.1f} s (max {max(seconds):.1f})" if seconds else "nothing to recover"
    line = (
        f"{played.scenario.name}: {len(played.injections)} faults, {verdict.signals} signals, {verdict.applied} "
        f"applied, {played.lost} lost, {played.repeated} repeated, {played.conflicting} conflicting, {recovered}"
    )
    said = [each.said.partition(_STOPPING)[2] or each.said for each in _own_ends(played)]
    alike = {_NUMBER.sub("#", each): each for each in said}
    times = Counter(_NUMBER.sub("#", each) for each in said)
    return "\n".join([line, *(f"  ended by itself {times[each]} times: {alike[each]}" for each in alike)])


def faults(played: Iterable[Played]) -> list[str]:
    """Sentences on everything that was not as it must be; empty when all is well."""
    return [f"{each.scenario.name}: {sentence}" for each in played for sentence in each.faults]


def table(played: Sequence[Played]) -> list[str]:
    """Two tables in Markdown: what was done, what became of the signals and how long recovery took, by scenario and
    by fault.
    """
    return [*_by_scenario(played), "", *_by_fault(played)]


def _by_scenario(played: Sequence[Played]) -> Iterator[str]:
    yield (
        "| scenario | nodes | faults | signals | applied | lost | repeated | conflicting | over a cap | redelivered "
        "| rejected | own ends | recovery p50 | max |"
    )
    yield "|---|" + "---:|" * 13
    for each in played:
        verdict, seconds = each.verdict, _seconds([each])
        numbers = (
            each.scenario.nodes, len(each.injections), verdict.signals, verdict.applied, each.lost, each.repeated,
            each.conflicting, verdict.over_cap, verdict.redelivered, verdict.rejected, len(_own_ends(each)),
        )  # fmt: skip
        spans = (f"{median(seconds):.1f} s", f"{max(seconds):.1f} s") if seconds else ("", "")
        yield f"| {each.scenario.name} | {' | '.join([*(f'{number:,}' for number in numbers), *spans])} |"


def _by_fault(played: Sequence[Played]) -> Iterator[str]:
    """Signals are those of the scenarios in which a fault struck, alone or among others."""
    yield ("| fault | injected | signals | applied | lost | repeated | conflicting | recovery p50 | max | what it is |")
    yield "|---|" + "---:|" * 8 + "---|"
    injected = Counter(injection.fault for each in played for injection in each.injections)
    for name, known in FAULTS.items():
        struck = [each for each in played if any(injection.fault == name for injection in each.injections)]
        found = [second for each in struck for second in each.recovered.get(name, [])]
        numbers = (
            injected[name],
            sum(each.verdict.signals for each in struck),
            sum(each.verdict.applied for each in struck),
            *(
                sum(count(each) for each in struck)
                for count in (_WRONG["lost"], _WRONG["repeated"], _WRONG["conflicting"])
            ),
        )
        spans = (f"{median(found):.1f} s", f"{max(found):.1f} s") if found else ("", "")
        yield f"| {name} | {' | '.join([*(f'{number:,}' for number in numbers), *spans])} | {known.does} |"


def _seconds(played: Iterable[Played]) -> list[float]:
    return [second for each in played for seconds in each.recovered.values() for second in seconds]


def _own_ends(played: Played) -> list[Exit]:
    return [each for each in played.exits if each.status in _OWN]


# --- For machines ---


def rows(played: Sequence[Played]) -> list[Row]:
    """The rows of all scenarios, and of all together."""
    return [row for each in played for row in _rows(each)] + [*_totals(played)]


def _rows(played: Played) -> Iterator[Row]:
    scenario, verdict = played.scenario, played.verdict
    name, detail = f"chaos.{scenario.name}", _detail(played)
    yield row(f"{name}.injected", [len(played.injections)], "faults", detail=detail)
    yield row(f"{name}.sent", [verdict.signals], "signals", detail=detail)
    yield row(f"{name}.applied", [verdict.applied], "signals", target=f"== {verdict.signals}", detail=detail)
    for wrong, count in _WRONG.items():
        yield row(f"{name}.{wrong}", [count(played)], "", target="== 0", detail=detail)
    if played.lessons is not None:
        examples = played.lessons.examples
        yield row(f"{name}.learned", [played.lessons.learned], "examples", target=f"== {examples}", detail=detail)
    yield row(f"{name}.redelivered", [verdict.redelivered], "messages", detail=detail)
    if seconds := _seconds([played]):
        yield row(f"{name}.recovery", seconds, "s", detail=detail)


def _totals(played: Sequence[Played]) -> Iterator[Row]:
    detail = "all scenarios together"
    yield row("chaos.injected", [sum(len(each.injections) for each in played)], "faults", detail=detail)
    yield row("chaos.sent", [sum(each.verdict.signals for each in played)], "signals", detail=detail)
    for wrong, count in _WRONG.items():
        yield row(f"chaos.{wrong}", [sum(map(count, played))], "", target="== 0", detail=detail)


def _detail(played: Played) -> str:
    scenario, verdict = played.scenario, played.verdict
    faults = Counter(each.fault for each in played.injections)
    done = ", ".join(f"{times} of {fault}" for fault, times in faults.items())
    return (
        f"{done or 'no fault'}; Kafka {kafka_version()}, {scenario.nodes} nodes, {scenario.workers} workers"
        f"{_setup(scenario)}, session {scenario.session_seconds:g} s, {scenario.partitions} "
        f"partitions, {scenario.customers} customers; {scenario.burst} signals at once, then {scenario.rate:g}/s; with "
        f"{verdict.duplicates} duplicates and {verdict.poison} messages nobody can use; {verdict.capped} times a limit "
        f"held offers back, {verdict.joined} devices joined their customers; {verdict.overruled} late writes of "
        f"workers that had lost their partition were overruled{_clocked(played)}{_taught(played.lessons)}"
    )


def _setup(scenario: Scenario) -> str:
    """How the workers of a scenario are not like those of the others."""
    told = {
        " without names": not scenario.named,
        ", state on disk": scenario.stored,
        f", guarantee {scenario.guarantee}": scenario.guarantee != "idempotent",
        f", {scenario.learners} learners": scenario.learners > 0,
    }
    return "".join(words for words, so in told.items() if so)


def _clocked(played: Played) -> str:
    if not played.scenario.faults & CLOCK_FAULTS:
        return ""
    return (
        f"; clocks of workers were up to {played.ahead:,.0f} s fast and {played.behind:,.0f} s slow, decisions dated "
        f"up to {played.early:.1f} s ahead"
    )


def _taught(lessons: Lessons | None) -> str:
    if lessons is None:
        return ""
    return (
        f"; {lessons.outcomes} outcomes and {lessons.duplicates} duplicates of them made {lessons.examples} examples, "
        f"of which {lessons.redelivered} came again and {lessons.learned} were learned"
    )


def write(started: Report, played: Sequence[Played], seed: str, directory: Path = DIRECTORY) -> None:
    """Write `chaos.json` and `chaos.md`."""
    report = complete(started, rows(played))
    results.write(report, "chaos", directory)
    signals = sum(each.verdict.signals for each in played)
    injected = sum(len(each.injections) for each in played)
    lines = [
        "# Results: chaos",
        "",
        f"{report.date} · commit {report.commit} · {report.machine} · seed {seed}",
        "",
        f"{injected} faults, {signals:,} signals; all processes on {cores()} cores. Recovery is from the fault to the",
        "first decision, as a reader sees it, on a signal due after it, in the slowest of the partitions whose work it",
        "interrupted; of a learner, to versions of the models that know an example told after it. Own ends: of workers",
        "and learners that ended by themselves and were started again. What became of signals is told by fault for all",
        "scenarios it was in, alone or among others.",
        "",
        *table(played),
        "",
        *(f"* {each.scenario.name}: {_detail(each)}." for each in played),
    ]
    (directory / "chaos.md").write_text("\n".join(lines) + "\n", "utf-8")
