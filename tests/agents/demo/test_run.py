"""The demo: its clock, its sums, its words, its screen; and the whole of it on a broker, leaving nothing behind."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from agents.broker import BrokerKind, RunningBroker
from agents.demo.chart import plot
from agents.demo.demand import Earnings
from agents.demo.lessons import Lessons
from agents.demo.tally import CURVE_SPAN, CURVE_START, POLICIES, Curve, Latencies, Pace, Tally, kind_of_reason
from agents.demo.view import Frame, Moment, Result, Scene, plain_line, summary, summary_rows
from agents.demo.words import SPOTLIGHT_SECONDS, Narrator, Spotlight
from agents.demo.worker import FastClock, fast_engine
from agents.model_topic import Standing
from agents.partitions import Engine
from agents.tables import TableSpec
from engine.candidates import Rejection
from engine.decision import Contender, Decision, Explanation, Score
from engine.learning import Example, decode_example, outputs_of
from engine.record import Effects, Output, Record
from models.snapshot import Snapshot, encode

MADRID = ZoneInfo("Europe/Madrid")
SCENE = Scene("Broker: Apache Kafka, started for this run", False, 120.0, 3_600, 1_021)
MOMENT = Moment(61.0, 1_767_600_000_000, MADRID)
CLOCKS = st.builds(FastClock, st.integers(10**12, 2 * 10**12), st.integers(10**12, 2 * 10**12), st.integers(1, 10_000))


def a_decision(**changes: object) -> Decision:
    """A message in answer to a basket left behind, with an e-mail that was held back."""
    fields: dict[str, object] = {
        "decision_id": "d1",
        "customer_id": "customer-1",
        "signal_id": "s1",
        "request_id": None,
        "trigger": "basket-left",
        "journey": None,
        "action": "free-shipping",
        "treatment": "free-shipping-push",
        "channel": "push",
        "placement": None,
        "content": {"title": "Shipping is on us"},
        "rank": 1,
        "score": Score(0.131, 1.0, 40.0, 1.0, 5.24),
        "probability": 1.0,
        "control": False,
        "experiment": None,
        "explanation": Explanation(
            3,
            [
                Rejection("reorder", "applicability", "action reorder: not true: aggregates.orders >= 1"),
                Rejection("free-shipping", "contact-policy", "free-shipping-email: 2 of 2 since 2026-11-16 (week)"),
            ],
            [Contender("cart-reminder", 4.1, 0.0)],
        ),
        "models": {},
        "config": "",
        "decided_at": "",
        "expires_at": None,
    }
    return Decision(**{**fields, **changes})  # type: ignore[arg-type]


NOTHING_EARNED = Result({each: Earnings() for each in POLICIES}, 0)
NARRATOR = Narrator({"free-shipping-push": "push", "free-shipping-email": "email"}, lambda _: "Ana")


# --- The fast clock ---


@given(CLOCKS, st.integers(-(10**9), 10**9))
def test_the_fast_clock_never_wakes_early(clock, ahead_ms):
    """A real moment survives the way to the shop and back; a due time is met at its first real millisecond."""
    real_ms = clock.real_ms + ahead_ms
    assert clock.real(clock.shop(real_ms)) == real_ms
    due_ms = clock.shop_ms + ahead_ms
    assert clock.shop(clock.real(due_ms)) >= due_ms
    assert clock.shop(clock.real(due_ms) - 1) < due_ms


def test_a_fast_engine_lives_in_the_shop_and_answers_in_real_time():
    """Records come in with the shop's time; timers, forwarded records and stored due times go out with real time."""
    clock, seen = FastClock(1_000_000, 5_000_000, 3_600), list[int]()

    def handle(record: Record, _: object) -> Effects:
        seen.append(record.timestamp_ms)
        outputs = [Output("customers", b"c", b"", (), record.timestamp_ms), Output("decisions", b"c", b"")]
        return Effects(outputs=outputs, timers=[("c", record.timestamp_ms + 3_600_000)])

    table = TableSpec("profiles", "profiles", bytes, bytes, due=lambda _: 5_000_000 + 7_200_000)
    engine = fast_engine(Engine(handle, dict, [table, table._replace(due=None)]), clock)
    effects = engine.handle(Record("signals", 0, 0, 1_000_010, b"c", b"{}"), None)
    assert seen == [5_036_000]
    assert effects.timers == [("c", 1_001_010)]
    assert [each.timestamp_ms for each in effects.outputs] == [1_000_010, None]
    assert engine.tables[0].due is not None
    assert engine.tables[0].due(b"") == 1_002_000
    assert engine.tables[1].due is None


def an_example(**changes: object) -> Example:
    """An offer that was taken."""
    fields: dict[str, object] = {
        "example_id": "d1:answered:x",
        "model": "slots",
        "stage": "answered",
        "label": "positive",
        "reward": 1.0,
        "previous": 0.0,
        "late": False,
        "decision_id": "d1",
        "customer_id": "customer-1",
        "group": "cart",
        "action": "free-shipping",
        "treatment": "free-shipping-web",
        "channel": "web",
        "prior": 0.1,
        "propensity": 0.1,
        "version": None,
        "probability": 1.0,
        "schema": "s",
        "features": (1.0, "coffee", None),
        "action_schema": "a",
        "action_features": (),
        "decided_ms": 5_000_000,
        "at_ms": 5_000_000,
        "window_ms": 43_200_000,
    }
    return Example(**{**fields, **changes})  # type: ignore[arg-type]


@given(CLOCKS, st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_examples_leave_a_fast_engine_in_real_time(clock, ahead_ms, waited_ms, window_ms):
    """A learner finds them as old as they are, and in or after their window as they were; the rest is as it was."""
    decided_ms = clock.shop_ms + ahead_ms
    shop = an_example(decided_ms=decided_ms, at_ms=decided_ms + waited_ms, window_ms=window_ms)
    effects = Effects(outputs=outputs_of([shop]))
    engine = fast_engine(Engine(lambda _, __: effects, dict, []), clock)
    [output] = engine.handle(Record("signals", 0, 0, clock.real_ms, b"c", b"{}"), None).outputs
    real = decode_example(output.value)
    assert output.key == b"slots"
    assert real.decided_ms == clock.real(decided_ms)
    assert abs((real.at_ms - real.decided_ms) * clock.speed - waited_ms) <= clock.speed
    assert abs(real.window_ms * clock.speed - window_ms) <= clock.speed
    if waited_ms >= window_ms:
        assert real.at_ms >= real.decided_ms + real.window_ms
    kept = {"decided_ms": decided_ms, "at_ms": shop.at_ms, "window_ms": window_ms}
    assert msgspec.structs.replace(real, **kept) == shop


# --- Sums ---


@given(st.lists(st.floats(1e-5, 100.0), min_size=1, max_size=300), st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_quantiles_are_right_to_two_percent(durations, share):
    """Never below the exact quantile and at most 2 % above; the longest is exact."""
    latencies = Latencies()
    for each in durations:
        latencies.observe(each)
    exact = sorted(durations)[max(0, -(-int(share * 100) * len(durations) // 100) - 1)]
    found = latencies.quantile(share)
    assert found is not None
    assert exact * 0.999999 <= found <= exact * 1.0201
    assert latencies.quantile(1.0) == max(durations) == latencies.longest


def test_without_durations_there_are_no_quantiles():
    """Nothing counted, nothing claimed."""
    assert Latencies().quantile(0.5) is None


def test_pace_is_of_the_last_seconds():
    """A count that grew by 100 a second and then by 10 is soon reported as 10."""
    pace, count = Pace(), 0
    assert pace.per_second == 0.0
    for tick in range(40):
        count += 25 if tick < 20 else 10
        pace.mark(tick * 0.25, count)
    assert pace.per_second == pytest.approx(40, rel=0.01)


@settings(max_examples=30)
@given(st.lists(st.floats(-5, 50), min_size=CURVE_START, max_size=900))
def test_the_curve_is_the_reward_of_the_last_choices(rewards):
    """Its last point is 1,000 times the mean reward of at most `CURVE_SPAN` choices before it."""
    curve, total, noted = Curve(), 0.0, 0
    for made, reward in enumerate(rewards, 1):
        total += reward
        before = len(curve.points)
        curve.note(made, total)
        noted = made if len(curve.points) > before else noted
    span = min(CURVE_SPAN, noted)
    assert curve.points[-1] == pytest.approx(1_000 * statistics.fmean(rewards[noted - span : noted]), abs=1e-6)
    assert (curve.first is None) == (noted < CURVE_SPAN)
    assert curve.first is None or curve.first == pytest.approx(1_000 * statistics.fmean(rewards[:CURVE_SPAN]), abs=1e-6)


def test_latency_is_measured_where_a_signal_decides_at_once():
    """A decision that waited, an unknown cause or a repetition measures nothing; a repetition is not counted."""
    tally = Tally(waiting={"basket-left"})
    tally.send_signal("s1", 10.0)
    assert tally.read_decision(a_decision(), 11.0)
    assert not tally.read_decision(a_decision(), 11.0)
    tally.read_decision(a_decision(decision_id="d2", trigger="request"), 10.02)
    tally.read_decision(a_decision(decision_id="d3", trigger="request", signal_id="other"), 10.5)
    assert (tally.decisions, tally.repeated, tally.latencies.count) == (3, 1, 1)
    assert tally.latencies.longest == pytest.approx(0.02)
    assert tally.by_stage == {"applicability": 3, "contact-policy": 3}
    assert tally.reasons["contact-policy"] == {"2 of 2 since … (week)": 3}


def test_a_decision_delivered_again_must_be_the_same():
    """Repetitions are counted, and apart from them those with another content under the same id."""
    tally = Tally()
    for value in (b"one", b"one", b"other"):
        tally.read_decision(a_decision(), 0.0, value)
    assert (tally.decisions, tally.repeated, tally.contradicted) == (1, 2, 1)


def test_reasons_of_a_kind_are_counted_together():
    """Treatments, levels, days and times do not tell reasons apart; the numbers in them do."""
    assert kind_of_reason("a-push: quiet hours on push until 2026-11-16T08:00:00Z") == "quiet hours on push until …"
    assert kind_of_reason("group cart: not true: aggregates.orders >= 1") == "aggregates.orders >= 1"
    assert kind_of_reason("held out by holdout") == "held out by holdout"


def a_version(examples: int, offset: int, key: bytes = b"slots") -> ConsumerRecord:
    """A record of `batuta.models`: a model that has learned everything below an offset."""
    snapshot = Snapshot(
        model="slots",
        version=f"linear.{examples}.x",
        learner="bayesian-linear",
        slots=(),
        schema="s",
        action_slots=(),
        action_schema="a",
        exported=b"",
        pickled=False,
        status="serving",
        evidence={},
        maturity={},
        examples=examples,
        at_ms=0,
        health={"logloss": 0.4, "base_logloss": 0.5, "auc": 0.7},
    )
    return ConsumerRecord(key, encode(snapshot, None), Standing(1, 1, offset).headers())


class ConsumerRecord(NamedTuple):
    """What a consumer hands over, as far as it is looked at."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def test_a_lesson_lasts_until_a_version_includes_it():
    """From the outcome to the first version that has learned its example, whichever of the two is read first."""
    lessons = Lessons(["slots"])
    lessons.send_outcome("d1", 10.0)
    lessons.send_outcome("d2", 10.0)
    [answer], [shown] = outputs_of([an_example()]), outputs_of([an_example(stage="exposed", label=None)])
    lessons.read_example(6, shown.value, 10.1)
    lessons.read_example(7, answer.value, 10.1)
    lessons.read_version(a_version(7, 7), 10.2)
    assert lessons.latencies.count == 0
    lessons.read_version(a_version(8, 8), 10.3)
    assert lessons.latencies.count == 1
    assert lessons.latencies.longest == pytest.approx(0.3)
    lessons.read_version(a_version(9, 9), 10.4)
    lessons.read_example(8, outputs_of([an_example(decision_id="d2")])[0].value, 10.5)
    assert lessons.latencies.count == 2
    assert lessons.latencies.longest == pytest.approx(0.5)
    assert lessons.snapshots["slots"].examples == 9


@pytest.mark.parametrize(
    "record",
    [
        a_version(5, 5, key=b"slots#state"),
        a_version(5, 5)._replace(value=b"damaged"),
        a_version(5, 5)._replace(key=b"somebody-elses"),
    ],
)
def test_what_is_no_version_is_passed_over(record):
    """States, reports and damaged records say nothing of a model."""
    lessons = Lessons(["slots"])
    lessons.read_version(record, 1.0)
    assert not lessons.snapshots


def test_the_summary_adds_up():
    """Rates are totals over the time played, and choices are compared per 1,000."""
    tally = Tally()
    for number in range(610):
        tally.send_signal(f"s{number}", number / 10)
        tally.read_decision(a_decision(decision_id=f"d{number}", signal_id=f"s{number}"), number / 10 + 0.02)
    earned = {name: Earnings() for name in POLICIES}
    for _ in range(2 * CURVE_SPAN):
        for each, early, late in zip(POLICIES, (2.4, 2.0, 4.0), (3.5, 2.0, 4.0), strict=True):
            earned[each].choose(early if earned[each].choices < CURVE_SPAN else late)
        tally.note_earned(earned)
    lessons = Lessons(["slots"])
    lessons.read_version(a_version(1_200, 1_200), 1.0)
    rows = dict(summary_rows(tally, lessons, SCENE, MOMENT, Result(earned, 0)))
    assert rows["played"] == "1:01, 2.5 days in a shop of 1,021 customers"
    assert rows["signals"] == "610, 10 a second; 0 rejected"
    assert rows["decisions"] == "610, 10 a second; 0 delivered again, 0 of them changed"
    assert rows["mostly"] == "free-shipping on push 610"
    assert rows["latency"] == "p50 20 ms, p95 20 ms, p99 20 ms from sending a signal to reading its decision, 610 times"
    assert rows["choices"] == (
        "1,000 of the engine's are worth 2,950 ± 35 euros, of a random policy's 2,000 ± 0, of an oracle's 4,000 ± 0, "
        "which knows what every customer would do"
    )
    assert rows["learning"] == (
        "from 2,400 euros in the first 500 choices to 3,500 in the last; from 20% to 75% of the way from random to "
        "oracle"
    )
    assert rows["slots"] == "linear.1200.x: 1,200 examples, log loss 0.40 (base 0.50), AUC 0.70"
    assert rows["left out"] == "610 by applicability, 610 by contact-policy"


def test_the_embedded_brokers_latencies_are_called_its_own():
    """Nobody takes what the embedded broker can do for what the engine can."""
    tally = Tally()
    tally.send_signal("s1", 0.0)
    tally.read_decision(a_decision(), 0.2)
    scene = msgspec.structs.replace(SCENE, embedded=True)
    rows = dict(summary_rows(tally, Lessons([]), scene, MOMENT, NOTHING_EARNED))
    assert rows["latency"].endswith("these are the embedded broker's, not the engine's")


# --- Words ---


def test_a_decision_is_told_in_words():
    """Who, what and why with the numbers; what was left out with its reason, the customer's own reasons first."""
    words = NARRATOR.tell(a_decision())
    assert words.what == "Ana (basket-left): push free-shipping, “Shipping is on us”"
    assert words.why == "a chance of 0.13 times a worth of 40 = 5.24, more than cart-reminder with 4.1"
    assert words.left_out == "email: 2 of 2 since 2026-11-16 (week); reorder: aggregates.orders >= 1 is not true"


_FULL = (
    "a chance of 0.1 times a worth of 10 times 1.5 for the moment times 1.2 for the lever = 1.8; nothing else qualified"
)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"score": None}, "the fallback, as nothing else qualified"),
        ({"score": Score(0.1, 1.5, 10.0, 1.2, 1.8), "explanation": Explanation(1, [], [])}, _FULL),
        (
            {"score": Score(0.1, 1.0, 10.0, 1.0, 1.0)},
            "a chance of 0.1 times a worth of 10 = 1; tried before cart-reminder with 4.1",
        ),
        ({"action": None, "channel": None, "score": None}, "nothing qualified"),
    ],
)
def test_every_kind_of_decision_has_a_why(changes, why):
    """Fallbacks, weights, exploration and empty answers are called what they are."""
    assert NARRATOR.tell(a_decision(**changes)).why == why


def test_the_spotlight_stays_long_enough_to_be_read():
    """The first decision is shown at once, the next only after a while, and then the most telling since."""
    spotlight = Spotlight()
    dull = a_decision(decision_id="dull", trigger="request", explanation=Explanation(1, [], []))
    telling = a_decision(decision_id="telling")
    spotlight.offer(dull, 0.0)
    assert spotlight.shown is dull
    spotlight.offer(telling, 1.0)
    assert spotlight.shown is dull
    spotlight.offer(dull, SPOTLIGHT_SECONDS)
    assert spotlight.shown is telling


# --- The screen ---


def _a_busy_tally() -> Tally:
    tally = Tally()
    for number in range(300):
        tally.send_signal(f"s{number}", number / 100)
        decision = a_decision(decision_id=f"d{number}", signal_id=f"s{number}", action=f"action-{number % 30}")
        tally.read_decision(decision, number / 100 + 0.01)
        for name, reward in zip(POLICIES, (20.0, 15.0, 30.0), strict=True):
            tally.curves[name].note(number * 10, number * reward)
        tally.mark(number / 100)
    return tally


def _busy_lessons() -> Lessons:
    lessons = Lessons(["slots"])
    lessons.read_version(a_version(123_456, 7), 1.0)
    lessons.latencies.observe(0.3)
    return lessons


def _drawn(width: int, height: int, tally: Tally, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", write_through=True)
    console = Console(file=file, width=width, height=height, force_terminal=False)
    console.print(Frame(tally, _busy_lessons(), SCENE, MOMENT, NARRATOR, a_decision()))
    return file.buffer.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60), (80, 20), (60, 24)])
@pytest.mark.parametrize("tally", [Tally(), _a_busy_tally()], ids=["empty", "busy"])
def test_the_frame_fits_the_terminal(size, tally):
    """No line is too long and no more lines are drawn than there are."""
    width, height = size
    lines = _drawn(width, height, tally)
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert any("Mon 09:00" in line for line in lines)


def test_the_frame_can_be_drawn_in_ascii():
    """A terminal without line drawing gets hyphens and numbers instead of rules and charts."""
    text = "\n".join(_drawn(80, 24, _a_busy_tally(), "ascii"))
    assert "----" in text
    for name, figure in zip(POLICIES, ("2,000", "1,500", "3,000"), strict=True):
        assert re.search(rf"{name} +{figure}", text)
    assert "slots 123,456 examples" in text


CURVES = st.lists(st.lists(st.floats(-10, 100), max_size=200), min_size=1, max_size=3)


@given(CURVES, st.integers(1, 60), st.integers(1, 9))
def test_plots_fit(curves, width, height):
    """Any curves are drawn in the room there is, the highest of them up to the top."""
    lines = plot(curves, width, height)
    assert [len(line) for line in lines] == [width] * height
    assert {owner for line in lines for _, owner in line} <= {None, *range(len(curves))}
    if max(map(len, curves)) <= 2 * width and max((each for curve in curves for each in curve), default=0.0) > 0:
        assert any(owner is not None for _, owner in lines[0])


@given(st.integers(2, 40), st.integers(1, 9), st.floats(1, 100))
def test_curves_are_drawn_on_one_scale(length, height, top):
    """The higher of two curves is at the top, the other at its share of the height, each as its own."""
    lines = plot([[top] * length, [0.0] * length], length, height)
    cells = -(-length // 2)
    assert [owner for _, owner in lines[0][:cells]] == [0] * cells
    if height > 1:
        assert [owner for _, owner in lines[-1][:cells]] == [1] * cells


def test_plain_output_has_no_control_codes():
    """What goes into a pipe is text, line by line."""
    file = io.StringIO()
    console = Console(file=file, width=80)
    tally = _a_busy_tally()
    console.print(plain_line(tally, _busy_lessons(), MOMENT), highlight=False, soft_wrap=True)
    console.print(summary(tally, _busy_lessons(), SCENE, MOMENT, NOTHING_EARNED))
    assert "\x1b" not in file.getvalue()
    assert file.getvalue().startswith("1:01  Mon 09:00  300 signals (")
    assert "123,456 examples learned  1,000 choices: engine 2,000, random 1,500, oracle 3,000" in file.getvalue()


# --- The whole demo ---


def _start_demo(minutes: float, directory: str, **environ: str) -> subprocess.Popen[str]:
    """The command as users type it; its temporary files, and so its children, carry the directory's name."""
    inherited = {name: value for name, value in os.environ.items() if name != "BATUTA_BOOTSTRAP"}
    command = [sys.executable, "-m", "agents", "demo", "--minutes", str(minutes), "--rate", "100"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**inherited, "TMPDIR": directory, **environ},
    )


def _processes_of(directory: str) -> list[str]:
    """Processes that run with this directory as their temporary one."""
    listed = subprocess.run(["ps", "axeww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if f"TMPDIR={directory}" in line]


def _soon(promise: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not promise() and time.monotonic() < deadline:
        time.sleep(0.1)
    return promise()


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1].replace(",", ""))


@pytest.mark.broker
@pytest.mark.slow
def test_the_demo_plays_and_leaves_nothing_behind(tmp_path):
    """Started, played, summed up: exit code 0, decisions made, no process and no file left."""
    demo = _start_demo(0.25, str(tmp_path))
    said, _ = demo.communicate(timeout=180)
    assert demo.returncode == 0, said
    assert "\x1b" not in said
    assert _number(r"decisions +([\d,]+), ", said) > 100
    assert _number(r"consent +(\d+) messages", said) == 0
    assert _number(r"([\d,]+) of them changed", said) == 0
    assert "p50 " in said
    assert _number(r"([\d,]+) examples learned", said) > 0
    assert not _processes_of(str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_demo_leaves_nothing_behind(tmp_path, how):
    """Ctrl-C ends it early with its summary; not even kill -9 leaves a broker or a worker running."""
    demo = _start_demo(5, str(tmp_path))
    try:
        assert demo.stdout is not None
        said = ""
        for line in demo.stdout:
            said += line
            if re.match(r"0:0[1-9]", line):
                break
        assert len(_processes_of(str(tmp_path))) >= 3, said
        demo.send_signal(how)
        rest, _ = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert (demo.returncode == -signal.SIGKILL) if how is signal.SIGKILL else (demo.returncode == 0), said + rest
    assert ("Summary" in rest) == (how is not signal.SIGKILL)
    assert _soon(lambda: not _processes_of(str(tmp_path)))
    assert _soon(lambda: not list(tmp_path.iterdir()))


@pytest.mark.slow
def test_a_given_broker_gets_its_topics_deleted_again(broker: RunningBroker, tmp_path):
    """On somebody's cluster the demo keeps to topics of its own, and takes them away."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip(
            "a broker that is given is taken for Apache Kafka; the embedded one refuses its idempotent producers"
        )
    demo = _start_demo(0.1, str(tmp_path), BATUTA_BOOTSTRAP=broker.bootstrap)
    said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, said
    assert _soon(lambda: not [each for each in asyncio.run(_topics(broker)) if each.startswith("batuta-demo-")])


async def _topics(broker: RunningBroker) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    try:
        await admin.start()
        return list(await admin.list_topics())
    finally:
        await admin.close()
