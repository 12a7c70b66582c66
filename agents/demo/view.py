"""What the demo shows: a live frame for terminals, plain lines for everything else, and the summary at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, tzinfo

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from agents.demo.chart import Line, plot
from agents.demo.demand import Earnings
from agents.demo.lessons import Lessons
from agents.demo.tally import CURVE_SPAN, NOTHING, POLICIES, Latencies, Tally
from agents.demo.words import Narrator
from engine.decision import Decision
from models.snapshot import Snapshot

TITLE, FIGURE = "bold magenta", "bold cyan"
STYLES = {"engine": "bold green", "random": "yellow", "oracle": "bold blue"}
TALL, WIDE = 32, 130
"""From how many lines on there is room for longer explanations, and from how many columns for all figures."""
NEXT_STEPS = (
    "`batuta init my-shop` writes this configuration to a directory; `batuta up my-shop` runs it on your Kafka."
)
_LEGEND_WIDTH = 18


class Scene(msgspec.Struct, frozen=True):
    """What does not change while the demo plays. `broker`: one line for people; `seconds`: how long it plays."""

    broker: str
    embedded: bool
    seconds: float
    speed: int
    customers: int


class Moment(msgspec.Struct, frozen=True):
    """How far the demo is: seconds played, and what time it is in the shop, whose clocks show `zone`."""

    elapsed: float
    shop_ms: int
    zone: tzinfo

    @property
    def shop_time(self) -> str:
        """Weekday and time of day."""
        return datetime.fromtimestamp(self.shop_ms / 1000, self.zone).strftime("%a %H:%M")


def is_live(console: Console) -> bool:
    """Whether a view that redraws itself can be shown."""
    return console.is_terminal and not console.is_dumb_terminal


# --- Live ---


class Frame:
    """The whole screen at one moment, fitted to whatever size the terminal has. `shown`: the decision explained."""

    def __init__(
        self,
        tally: Tally,
        lessons: Lessons,
        scene: Scene,
        moment: Moment,
        narrator: Narrator,
        shown: Decision | None,
    ) -> None:
        self._tally, self._lessons, self._scene, self._moment = tally, lessons, scene, moment
        self._narrator, self._shown = narrator, shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or options.size.height
        tall = height >= TALL
        yield _heading(self._scene, self._moment)
        yield Text()
        yield _figures(self._tally)
        models = _models(self._lessons, brief=options.max_width < WIDE)
        yield Text(models, "dim", no_wrap=True, overflow="ellipsis")
        yield _lists(self._tally, max(2, height - (28 if tall else 18)))
        yield _rule("One decision in words", options)
        yield self._explained(options.max_width, 5 if tall else 2)
        yield _rule(f"Expected reward of 1,000 choices, in euros; the last {CURVE_SPAN}", options)
        yield from _curves(self._tally, options, 9 if tall else 3)

    def _explained(self, width: int, lines: int) -> RenderableType:
        """What, why, and in up to so many lines why nothing else; always as high."""
        if self._shown is None:
            return Text("waiting for the first one …" + "\n" * (lines + 1), "dim")
        words = self._narrator.tell(self._shown, most=2 * lines)
        left_out = Text(f"left out: {words.left_out}", "dim").wrap(Console(width=width), width)
        if len(left_out) > lines:
            left_out[lines - 1].truncate(width - 2)
            left_out[lines - 1].append(" …")
        spare = [Text()] * max(0, lines - len(left_out))
        first = (Text(words.what, "bold"), Text(f"because {words.why}"))
        for text in first:
            text.no_wrap, text.overflow = True, "ellipsis"
        return Group(*first, *left_out[:lines], *spare)


def _heading(scene: Scene, moment: Moment) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True)
    clock = Text.assemble(("Batuta  ", TITLE), (moment.shop_time, "bold"))
    clock.append(f" in the shop, where a second is {_span(scene.speed)}", "dim")
    line.add_row(clock, f"{_clock(moment.elapsed)} of {_clock(scene.seconds)}")
    bar = ProgressBar(total=scene.seconds, completed=min(moment.elapsed, scene.seconds), complete_style="magenta")
    return Group(line, bar, Text(scene.broker, "dim", no_wrap=True, overflow="ellipsis"))


def _figures(tally: Tally) -> RenderableType:
    """The numbers that matter, each under its name."""
    figures = {
        "signals/s": f"{tally.signal_pace.per_second:,.0f}",
        "decisions/s": f"{tally.decision_pace.per_second:,.0f}",
        **{name if name != "p50" else "latency p50": value for name, value in _quantiles(tally.latencies).items()},
        "signals": f"{tally.signals:,}",
        "decisions": f"{tally.decisions:,}",
        "outcomes": f"{tally.outcomes:,}",
    }
    table = Table.grid(expand=True)
    for _ in figures:
        table.add_column(no_wrap=True)
    table.add_row(*(Text(name, "dim") for name in figures))
    table.add_row(*(Text(value, FIGURE) for value in figures.values()))
    return table


def _quantiles(latencies: Latencies) -> dict[str, str]:
    return {f"p{share}": _duration(latencies.quantile(share / 100)) for share in (50, 95, 99)}


def _lists(tally: Tally, rows: int) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(width=38)
    grid.add_column(ratio=1)
    grid.add_row(_decisions(tally, rows), _left_out(tally, rows))
    return grid


def _decisions(tally: Tally, rows: int) -> Table:
    table = _list("decided", "on")
    listed = [*tally.by_action.most_common(rows)]
    for (action, channel), count in listed:
        table.add_row(f"{count:,}", action, channel)
    return _filled(table, rows - len(listed))


def _left_out(tally: Tally, rows: int) -> Table:
    """The stages that left something out, each with its commonest reasons, as many as there is room for."""
    table = _list("left out by", "mostly because of")
    stages = tally.by_stage.most_common(rows)
    each = rows // max(1, len(stages))
    used = 0
    for stage, count in stages:
        for number, (reason, _) in enumerate(tally.reasons[stage].most_common(each)):
            table.add_row("" if number else f"{count:,}", "" if number else stage, reason)
            used += 1
    return _filled(table, rows - used)


def _list(what: str, detail: str) -> Table:
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style=TITLE, pad_edge=False)
    table.add_column("", justify="right", no_wrap=True, style="cyan", width=6)
    table.add_column(what, no_wrap=True, overflow="ellipsis", width=19 if detail == "on" else 14)
    table.add_column(detail, no_wrap=True, overflow="ellipsis", style="dim", ratio=1)
    return table


def _filled(table: Table, rows: int) -> Table:
    for _ in range(rows):
        table.add_row("", "", "")
    return table


def _rule(title: str, options: ConsoleOptions) -> RenderableType:
    characters = "-" if options.ascii_only else "─"
    return Rule(Text(title, TITLE), align="left", characters=characters, style="dim")


# --- What was learned, and what it brought ---


def _models(lessons: Lessons, *, brief: bool) -> str:
    """What each model has learned, how good it was before it had, and how fast that reaches the workers."""
    if not lessons.snapshots:
        return "models: nothing learned yet"
    after = lessons.latencies.quantile(0.5)
    known = [f"{name} {_known(each, brief=brief)}" for name, each in sorted(lessons.snapshots.items())]
    return f"models: {'; '.join(known)}" + (f"; after {_duration(after)}" if after is not None else "")


def _known(snapshot: Snapshot, *, brief: bool = False) -> str:
    health = snapshot.health
    said = [f"{snapshot.examples:,} examples"]
    if "logloss" in health and not brief:
        said.append(f"log loss {health['logloss']:.2f} (base {health['base_logloss']:.2f})")
    if "auc" in health:
        said.append(f"AUC {health['auc']:.2f}")
    return ", ".join(said) + (", tripped" if snapshot.status == "tripped" else "")


def _lesson_time(latencies: Latencies) -> str:
    return f"p50 {_duration(latencies.quantile(0.5))}, p95 {_duration(latencies.quantile(0.95))}"


def _curves(tally: Tally, options: ConsoleOptions, height: int) -> Iterator[RenderableType]:
    """The policies' curves in one plot, each one's name and latest figure before it."""
    curves = [tally.curves[each].points for each in POLICIES]
    width = options.max_width - _LEGEND_WIDTH
    drawn: Sequence[Line] = [[]] * height if options.ascii_only else plot(curves, width, height)
    for row, line in enumerate(drawn):
        name = POLICIES[row] if row < len(POLICIES) else ""
        points = tally.curves[name].points if name else ()
        figure = f"{points[-1]:,.0f}" if points else ""
        text = Text(no_wrap=True)
        text.append(f"{name:<8}{figure:>8}  ", STYLES.get(name, ""))
        for cell, owner in line:
            text.append(cell, None if owner is None else STYLES[POLICIES[owner]])
        yield text


# --- Plain lines ---


def plain_line(tally: Tally, lessons: Lessons, moment: Moment) -> str:
    """One line for logs and pipes."""
    quantiles = "  ".join(f"{name} {value}" for name, value in _quantiles(tally.latencies).items())
    curves = tally.curves.items()
    reward = ", ".join(f"{name} {curve.points[-1]:,.0f}" for name, curve in curves if curve.points)
    examples = sum(each.examples for each in lessons.snapshots.values())
    return (
        f"{_clock(moment.elapsed)}  {moment.shop_time}  "
        f"{tally.signals:,} signals ({tally.signal_pace.per_second:,.0f}/s)  "
        f"{tally.decisions:,} decisions ({tally.decision_pace.per_second:,.0f}/s)  {quantiles}"
        + (f"  {examples:,} examples learned" if examples else "")
        + (f"  1,000 choices: {reward}" if reward else "")
    )


# --- Summary ---


class Result(msgspec.Struct, frozen=True):
    """What the simulated worlds saw: rewards under each policy, and the engine's messages against consent."""

    earned: Mapping[str, Earnings]
    breaches: int


def summary(tally: Tally, lessons: Lessons, scene: Scene, moment: Moment, result: Result) -> RenderableType:
    """The whole run in numbers."""
    table = Table(title="Summary", box=None, show_header=False, title_justify="left", title_style=TITLE)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in summary_rows(tally, lessons, scene, moment, result):
        table.add_row(name, value)
    return Group(table, Text(), Text.assemble(("Next: ", TITLE), NEXT_STEPS))


def summary_rows(tally: Tally, lessons: Lessons, scene: Scene, moment: Moment, result: Result) -> list[tuple[str, str]]:
    """Name and value of each line of the summary."""
    seconds = max(moment.elapsed, 1e-9)
    shop = _span(int(moment.elapsed * scene.speed))
    whose = "; these are the embedded broker's, not the engine's" if scene.embedded else ""
    return [
        ("played", f"{_clock(moment.elapsed)}, {shop} in a shop of {scene.customers:,} customers"),
        ("broker", scene.broker.removeprefix("Broker: ")),
        ("signals", f"{tally.signals:,}, {tally.signals / seconds:,.0f} a second; {tally.rejects} rejected"),
        ("decisions", f"{tally.decisions:,}, {tally.decisions / seconds:,.0f} a second; {_repeated(tally)}"),
        ("mostly", _mostly(tally)),
        ("latency", f"{_latency(tally.latencies)}{whose}"),
        ("left out", ", ".join(f"{count:,} by {stage}" for stage, count in tally.by_stage.most_common()) or "nothing"),
        ("outcomes", f"{tally.outcomes:,}, which earned {result.earned['engine'].realised:,.0f} euros so far"),
        ("consent", f"{result.breaches:,} messages to customers who had said no"),
        ("choices", _choices(result)),
        ("learning", _learning(tally)),
        *((name, f"{each.version}: {_known(each)}") for name, each in sorted(lessons.snapshots.items())),
        ("learned", _learned(lessons)),
    ]


def _latency(latencies: Latencies) -> str:
    if not latencies.count:
        return "nothing to measure"
    quantiles = ", ".join(f"{name} {value}" for name, value in _quantiles(latencies).items())
    return f"{quantiles} from sending a signal to reading its decision, {latencies.count:,} times"


def _choices(result: Result) -> str:
    """What choosing was worth, where there was a choice."""
    if any(each.choices < 2 for each in result.earned.values()):
        return "too few to compare policies"
    worth = {
        name: f"{each.per_thousand():,.0f} ± {2 * each.error_per_thousand():,.0f}"
        for name, each in result.earned.items()
    }
    return (
        f"1,000 of the engine's are worth {worth['engine']} euros, of a random policy's {worth['random']}, of an "
        f"oracle's {worth['oracle']}, which knows what every customer would do"
    )


def _learning(tally: Tally) -> str:
    """How far the engine came from the random policy to the oracle, in the first and the last choices of each."""
    curves = [tally.curves[each] for each in POLICIES]
    first = [each.first for each in curves if each.first is not None]
    if len(first) < len(curves):
        return "too short to tell"
    last = [each.points[-1] for each in curves]
    return (
        f"from {first[0]:,.0f} euros in the first {CURVE_SPAN} choices to {last[0]:,.0f} in the last; "
        f"from {_progress(*first)} to {_progress(*last)} of the way from random to oracle"
    )


def _progress(engine: float, random: float, oracle: float) -> str:
    return f"{(engine - random) / (oracle - random):.0%}" if oracle > random else "?"


def _learned(lessons: Lessons) -> str:
    if not lessons.latencies.count:
        return "nothing to measure"
    return f"{_lesson_time(lessons.latencies)} from sending an outcome to reading a model that has learned from it"


def _repeated(tally: Tally) -> str:
    """Delivery is at least once: what comes again must be the same."""
    return f"{tally.repeated:,} delivered again, {tally.contradicted:,} of them changed"


def _mostly(tally: Tally) -> str:
    acted = [(at, count) for at, count in tally.by_action.most_common(4) if at[0] != NOTHING]
    return ", ".join(f"{action} on {channel} {count:,}" for (action, channel), count in acted[:3]) or "none"


# --- Small change ---


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:,.0f} ms"


def _span(seconds: int) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = round(seconds / length, 1)
            return f"{count:g} {unit}s" if count != 1 else f"{'an' if unit == 'hour' else 'a'} {unit}"
    return f"{seconds} seconds"
