from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.broker import BrokerKind
from agents.children import Children
from agents.journal import EPOCH_HEADER, OWNER_KEY, Reader
from agents.model_topic import Found, TrainingState, encode_state
from agents.tables import Changelog, Table, TableSpec
from benchmarks.chaos import clocks, crowd, faults, report
from benchmarks.chaos.__main__ import _possible, main
from benchmarks.chaos.channel import sayings
from benchmarks.chaos.clocks import Clock
from benchmarks.chaos.crowd import BURST, MODELS, MOST, MOST_BROUGHT, OFFERS, Crowd, Shares
from benchmarks.chaos.following import Following, asker, progress
from benchmarks.chaos.lessons import judge_lessons, relearned_after
from benchmarks.chaos.notes import (
    Counted,
    Decided,
    Evidence,
    Injection,
    Learned,
    Progress,
    Rejected,
    Reported,
    Reports,
    Sent,
    Taught,
    Version,
)
from benchmarks.chaos.play import CAPS, Played, Scenario, _in_turn, play
from benchmarks.chaos.reader import counted, decided, learned, rejected, taught
from benchmarks.chaos.scenarios import FULL, QUICK
from benchmarks.chaos.supervisor import Supervisor
from benchmarks.chaos.verdict import Latest, Verdict, judge, recoveries
from benchmarks.results import Report
from config.load import load_directory
from engine.learning import decode_example
from engine.profile import encode_profile
from engine.replay import Replay
from models.baseline import PriorScorer
from models.model import Model
from models.scorer import ModelScorer
from tests.agents.kafka_in_memory import Stored

NOON_MS = 1_767_614_400_000
SCENARIO = Scenario("kill", (("kill",),), 1, (0.0, 0.0), 10, 0, 1.0)


# --- A run without Kafka ---


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Sent], Evidence]:
    """What a crowd sent, and what the engine made of it in process: nothing is wrong with it."""
    config = crowd.write_config(tmp_path_factory.mktemp("config"), name="x", prefix="x.", partitions=4)
    repertoire = load_directory(config)
    replay = Replay(repertoire, PriorScorer(repertoire))
    people = Crowd("seed", 40, "run", Shares(0.02, 0.1, 0.2), clock=lambda: replay.now_ms / 1000 or NOON_MS / 1000)
    sent, outputs = [], []
    for number in range(1_500):
        message = people.next()
        came = replay.publish(
            "signals", message.routing and message.routing.decode(), message.value or b"", NOON_MS + 50 * number
        )
        # A replay numbers what the engine reads itself; the verdict knows a message by where it was published.
        refused = next(
            (rejected(each.value) for each in came if each.topic == "rejects"), Rejected("x", 0, number, b"")
        )
        sent.append(
            Sent(
                message.kind, message.message_id, message.number, message.key, message.joins, float(number),
                refused.topic, refused.partition, refused.offset,
            )
        )  # fmt: skip
        outputs += came
    outputs += replay.advance(NOON_MS + 3_600_000)
    states = replay.partitions
    evidence = Evidence(
        [decided(0, float(at), each.value) for at, each in enumerate(outputs) if each.topic == "decisions"],
        [rejected(each.value) for each in outputs if each.topic == "rejects"],
        {
            key: counted(encode_profile(profile), repertoire)
            for state in states
            for key, profile in state.profiles.items()
            if key not in state.identities
        },
        {key: redirect.canonical for state in states for key, redirect in state.identities.items()},
        [Progress("x.signals", number, 7, 7) for number in range(4)],
    )
    return sent, evidence


def test_a_run_in_which_nothing_goes_wrong_is_in_order(run):
    """Everything is accounted for, and everything that can go wrong had the chance to."""
    sent, evidence = run
    verdict = judge(sent, evidence, CAPS)
    assert verdict.faults is None
    assert verdict.signals == verdict.applied == sum(each.kind == "signal" for each in sent)
    assert verdict.rejected == verdict.poison > 10
    assert min(verdict.duplicates, verdict.capped, verdict.joined) > 10
    assert verdict.redelivered == 0
    offers = [each for each in evidence.decisions if each.action in CAPS.actions]
    assert len(offers) > BURST * 40
    assert any(each.trigger == "reminded" for each in evidence.decisions)


def plant(evidence: Evidence, **changes: object) -> Evidence:
    """The evidence with something else in it."""
    return replace(evidence, **changes)


def a_decision(evidence: Evidence) -> Decided:
    """Any decision that names its customer's counter."""
    return next(each for each in evidence.decisions if each.action == "answer")


def other_counts(evidence: Evidence, signals: int, total: int) -> Evidence:
    """One profile counts more or less."""
    customer, found = max(evidence.profiles.items())
    changed = Counted(found.signals + signals, found.total + total, found.merged)
    return plant(evidence, profiles={**evidence.profiles, customer: changed})


def a_merged(evidence: Evidence) -> tuple[str, Counted]:
    """A customer who was anonymous, and the profile."""
    return next((customer, each) for customer, each in evidence.profiles.items() if each.merged)


def offers(evidence: Evidence, times: list[int]) -> Evidence:
    """Further offers to one customer, on the signals that have their decision already."""
    model = next(each for each in evidence.decisions if each.action in CAPS.actions)
    return plant(
        evidence,
        decisions=[
            replace(each, customer_id="capped", action=model.action, decided_ms=times[at], seen=f"{at}")
            if at < len(times)
            else replace(each, action="answer")
            for at, each in enumerate(evidence.decisions)
        ],
    )


PLANTED: dict[str, tuple[Callable[[Evidence], Evidence], dict[str, int]]] = {
    "a decision is missing": (lambda e: plant(e, decisions=e.decisions[1:]), {"undecided": 1}),
    "an id has two contents": (
        lambda e: plant(e, decisions=[*e.decisions, replace(a_decision(e), digest=b"other")]),
        {"conflicting": 1},
    ),
    "a signal is answered under two ids": (
        lambda e: plant(e, decisions=[*e.decisions, replace(a_decision(e), decision_id="other", seen="")]),
        {"conflicting": 1},
    ),
    "a decision answers nothing": (
        lambda e: plant(e, decisions=[*e.decisions, replace(a_decision(e), decision_id="b", signal_id="b", seen="")]),
        {"conflicting": 1},
    ),
    "a counter was set back": (
        lambda e: plant(
            e,
            decisions=[replace(each, seen="1") if each.customer_id == "user-000001" else each for each in e.decisions],
        ),
        {"conflicting": 1},
    ),
    "a signal was not applied": (lambda e: other_counts(e, -1, -5), {"unapplied": 1}),
    "a signal was applied twice": (lambda e: other_counts(e, 1, 5), {"reapplied": 1}),
    "one was lost and another applied twice": (lambda e: other_counts(e, 0, 5), {"unapplied": 1, "reapplied": 1}),
    "somebody nobody knows has a profile": (
        lambda e: plant(e, profiles={**e.profiles, "nobody": Counted(2, 0, [])}),
        {"reapplied": 2},
    ),
    "a reject is missing": (lambda e: plant(e, rejects=e.rejects[1:]), {"unrejected": 1}),
    "a reject has two contents": (
        lambda e: plant(e, rejects=[*e.rejects, replace(e.rejects[0], digest=b"other")]),
        {"conflicting": 1},
    ),
    "something good was rejected": (
        lambda e: plant(e, rejects=[*e.rejects, Rejected("x", 0, 10**9, b"")]),
        {"conflicting": 1},
    ),
    "too many offers at once": (lambda e: offers(e, [0, 5_000, 9_999]), {"over_cap": 1}),
    "too many offers in all": (lambda e: offers(e, [20_000 * at for at in range(MOST + 2)]), {"over_cap": 2}),
    "a login had no effect": (lambda e: plant(e, redirects=dict([*e.redirects.items()][1:])), {"unjoined": 1}),
    "a device was joined twice": (
        lambda e: plant(
            e,
            profiles={
                **e.profiles,
                a_merged(e)[0]: replace(a_merged(e)[1], merged=[*a_merged(e)[1].merged, a_merged(e)[1].merged[0]]),
            },
        ),
        {"unjoined": 1},
    ),
    "a record is not committed": (lambda e: plant(e, progress=[Progress("x.links", 0, 3, 5)]), {"uncommitted": 2}),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found(run, planted):
    """A harness that cannot fail says nothing: each thing that can go wrong is seen, and taken for nothing else."""
    sent, evidence = run
    change, expected = PLANTED[planted]
    verdict = judge(sent, change(evidence), CAPS)
    assert verdict.faults is not None
    names = ("unapplied", "reapplied", "undecided", "unrejected", "conflicting", "over_cap", "unjoined", "uncommitted")
    found = {name: count for name in names if (count := getattr(verdict, name))}
    if planted == "a counter was set back":
        assert found.keys() == expected.keys()
    else:
        assert found == expected
    assert verdict.samples


@settings(max_examples=25)
@given(st.data())
def test_losses_are_counted_one_by_one(run, data):
    """Whatever is taken away from the decisions, and however often the rest comes again, is told exactly."""
    sent, evidence = run
    gone = data.draw(st.sets(st.sampled_from(range(len(evidence.decisions))), max_size=50))
    again = data.draw(st.lists(st.sampled_from(evidence.decisions), max_size=20))
    left = [each for at, each in enumerate(evidence.decisions) if at not in gone]
    kept = {each.decision_id for each in left}
    repeated = [each for each in again if each.decision_id in kept]
    verdict = judge(sent, plant(evidence, decisions=[*left, *repeated]), CAPS)
    assert (verdict.undecided, verdict.redelivered, verdict.conflicting) == (len(gone), len(repeated), 0)


def test_what_may_come_again_elsewhere_is_repeated_where_everything_comes_once(run):
    """With transactions the same bytes under the same id are one too many, of decisions and of rejects."""
    sent, evidence = run
    assert judge(sent, evidence, CAPS, exactly_once=True).faults is None
    again = plant(
        evidence,
        decisions=[*evidence.decisions, a_decision(evidence)],
        rejects=[*evidence.rejects, evidence.rejects[0]],
    )
    lenient, strict = judge(sent, again, CAPS), judge(sent, again, CAPS, exactly_once=True)
    assert (lenient.faults, lenient.redelivered, lenient.repeated) == (None, 2, 0)
    assert strict.repeated == strict.doubled == 2
    assert a_decision(evidence).decision_id in str(strict.faults)


# --- Learning ---


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reports, Evidence]:
    """What a channel said of a crowd's offers, and what models learned of them in process: nothing is wrong with it."""
    config = crowd.write_config(tmp_path_factory.mktemp("config"), name="x", prefix="x.", partitions=4, learns=True)
    repertoire = load_directory(config)
    replay = Replay(repertoire, ModelScorer(repertoire))
    people = Crowd("seed", 40, "run", Shares(0.0, 0.1, 0.2, 0.0), clock=lambda: replay.now_ms / 1000 or NOON_MS / 1000)
    said, again, outputs = [], 0, []
    for number in range(1_000):
        message, at_ms = people.next(), NOON_MS + 50 * number
        came = replay.publish("signals", message.routing and message.routing.decode(), message.value or b"", at_ms)
        outputs += came
        for offer in [decided(0, 0.0, each.value) for each in came if each.topic == "decisions"]:
            for saying in sayings("seed", offer.decision_id, offer.customer_id) if offer.action in OFFERS else ():
                outputs += replay.publish("outcomes", offer.customer_id, saying.value, at_ms)
                said += [saying.outcome] if saying.kind == "outcome" else []
                again += saying.kind == "again"
    outputs += replay.advance(NOON_MS + 3_600_000)
    models = {rule.id: Model(rule, repertoire.features, repertoire.action_features) for rule in repertoire.models}
    for each in (each for each in outputs if each.topic == "learning"):
        assert models[each.key.decode()].learn(decode_example(each.value)) == "learned"
    evidence = Evidence(
        [decided(0, 0.0, each.value) for each in outputs if each.topic == "decisions"],
        [], {}, {}, [],
        taught=[taught(at, float(at), each.value) for at, each in enumerate(outputs) if each.topic == "learning"],
        learned={
            name: learned(Found(encode_state(TrainingState(name, 0, len(outputs), model.dump()), None)))
            for name, model in models.items()
        },
    )  # fmt: skip
    return Reports(said, [], again), evidence


def test_lessons_in_which_nothing_goes_wrong_are_in_order(lessons):
    """Everything reported was told and learned, by both models, and there was enough of it."""
    reports, evidence = lessons
    judged = judge_lessons(reports, evidence, OFFERS, MOST_BROUGHT)
    assert judged.faults is None
    assert judged.examples == judged.learned == len(evidence.taught) > 200
    assert judged.duplicates > 10
    assert min(evidence.learned[model].examples for model in MODELS) > 50
    assert sum(each.value > 0 for each in reports.outcomes) > 50


def a_purchase(reports: Reports) -> Reported:
    """Any outcome that brought something."""
    return next(each for each in reports.outcomes if each.value)


def a_model(evidence: Evidence, **changes: object) -> dict[str, Learned]:
    """What was learned, with something else of one model."""
    return {**evidence.learned, "red": replace(evidence.learned["red"], **changes)}


MISTAUGHT: dict[str, tuple[Callable[[Reports, Evidence], tuple[Reports, Evidence]], dict[str, int]]] = {
    "a purchase was never told": (
        lambda r, e: (replace(r, outcomes=[*r.outcomes, Reported("new", a_purchase(r).decision_id, 7.0)]), e),
        {"untold": 1, "wrong": 1},
    ),
    "a purchase was told that nobody reported": (
        lambda r, e: (replace(r, outcomes=[each for each in r.outcomes if each is not a_purchase(r)]), e),
        {"wrong": 2},
    ),
    "a purchase counted twice": (
        lambda r, e: (
            r,
            replace(
                e,
                taught=[
                    replace(each, reward=2 * each.reward) if each.decision_id == a_purchase(r).decision_id else each
                    for each in e.taught
                ],
            ),
        ),
        {"wrong": 1},
    ),
    "an offer was never shown": (
        lambda r, e: (
            r, replace(e, decisions=[*e.decisions, replace(e.decisions[0], decision_id="new", action=OFFERS[0])])
        ),
        {"untold": 2},
    ),
    "an example has two contents": (
        lambda r, e: (r, replace(e, taught=[*e.taught, replace(e.taught[0], digest=b"other", offset=10**6)])),
        {"wrong": 1},
    ),
    "an example was not learned": (
        lambda r, e: (r, replace(e, learned=a_model(e, examples=e.learned["red"].examples - 1))),
        {"unlearned": 1},
    ),
    "an example was learned twice": (
        lambda r, e: (r, replace(e, learned=a_model(e, examples=e.learned["red"].examples + 1))),
        {"relearned": 1},
    ),
    "one was left out and another learned twice": (
        lambda r, e: (r, replace(e, learned=a_model(e, history=b"other"))),
        {"unlearned": 1, "relearned": 1},
    ),
    "a model has no state": (
        lambda r, e: (r, replace(e, learned={**e.learned, "red": Learned(0, b"")})),
        {"unlearned": -1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("planted", MISTAUGHT)
def test_what_is_taught_or_learned_wrongly_is_found(lessons, planted):
    """Each thing that can go wrong with outcomes and examples is seen, and taken for nothing else."""
    change, expected = MISTAUGHT[planted]
    judged = judge_lessons(*change(*lessons), OFFERS, MOST_BROUGHT)
    names = ("untold", "wrong", "unlearned", "relearned")
    found = {name: count for name in names if (count := getattr(judged, name))}
    whole = {name: lessons[1].learned["red"].examples if count < 0 else count for name, count in expected.items()}
    assert found == whole
    assert judged.faults is not None
    assert judged.samples


def test_an_example_that_comes_again_is_one(lessons):
    """What a worker told twice, the models learn once."""
    reports, evidence = lessons
    again = [*evidence.taught, replace(evidence.taught[3], offset=10**6)]
    judged = judge_lessons(reports, replace(evidence, taught=again), OFFERS, MOST_BROUGHT)
    assert (judged.faults, judged.redelivered) == (None, 1)


def test_relearning_counts_to_the_version_of_each_model_that_knows_what_came_after():
    """Versions that only know what was told before do not count, and the slower model does."""

    def told(offset: int, at: float, model: str) -> Taught:
        return Taught(at, offset, model, f"e{offset}", "d", 0.0, b"")

    log = [told(1, 9.0, "red"), told(2, 11.0, "red"), told(3, 11.5, "azure"), told(4, 12.0, "red")]
    versions = [Version(11.2, 2, "red"), Version(12.5, 4, "red"), Version(14.0, 4, "azure"), Version(15.0, 5, "red")]
    evidence = Evidence([], [], {}, {}, [], taught=log, versions=versions)
    struck = Injection("learner-kill", 10.0, 10.0, [])
    assert relearned_after(struck, evidence) == 4.0
    assert relearned_after(replace(struck, at=13.0), evidence) is None
    assert relearned_after(struck, replace(evidence, versions=versions[:2])) is None


# --- The crowd ---


def test_the_crowd_repeats_only_what_was_just_said_by_the_same_way():
    """A duplicate has the bytes of one of the last messages of its customer, who said it by name."""
    people, said = Crowd("seed", 20, "run", Shares(0.05, 0.3, 0.0)), {}

    def user_of(key: str) -> str:
        return key.removeprefix("anonymousId:anon-")[:11]

    for _ in range(3_000):
        message = people.next()
        if message.kind == "duplicate":
            assert message._replace(kind="signal") in said[user_of(message.key)][-5:]
            assert message.key.startswith("user-")
        elif message.kind == "signal":
            said.setdefault(user_of(message.key), []).append(message)


def test_the_crowd_follows_from_its_seed():
    """The same seed, the same messages; another seed, others."""

    def told(seed: str) -> list[object]:
        people = Crowd(seed, 20, "run", clock=lambda: 1e9)
        return [people.next() for _ in range(300)]

    assert told("a") == told("a") != told("b")


# --- Epochs and recoveries ---


KEYS = st.sampled_from([OWNER_KEY, b"a", b"b", b"c"])
RECORDS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=3), st.integers(1, 4)), max_size=30)


@given(RECORDS)
def test_the_last_values_are_those_a_new_owner_restores(records):
    """The verdict's reader of changelogs and the worker's agree on every order of epochs."""
    table = Table[bytes](TableSpec("profiles", "profiles", bytes, bytes))
    worker, latest = Reader(Changelog("profiles", [table])), Latest()
    for offset, (key, value, epoch) in enumerate(records):
        worker.apply([Stored(offset, 0, key, value, ((EPOCH_HEADER, b"%d" % epoch),))])
        latest.apply(key, value, epoch)
    assert {key.decode(): value for key, value in latest.values.items()} == dict(table.items())


def test_recovery_counts_from_the_fault_to_the_first_answer_to_what_came_after_it():
    """Answers to what was due before the fault, and of partitions it did not touch, do not count."""

    def answer(partition: int, at: float, to: str) -> Decided:
        return Decided(partition, at, f"d-{to}", to, "c", "noticed", None, "", 0, b"")

    due = {"early": 9.0, "late": 10.5, "later": 12.0}
    answers = [answer(0, 10.1, "early"), answer(0, 13.0, "later"), answer(0, 12.5, "late"), answer(2, 11.0, "late")]
    assert recoveries(Injection("kill", 10.0, 10.0, [0, 1]), answers, due) == {0: 2.5}


# --- The processes ---


@pytest.fixture
def children() -> Iterator[Children]:
    """Children of this test, gone after it."""
    with closing(Children()) as started:
        yield started


def soon(promise: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether a promise comes true in time."""
    deadline = time.monotonic() + seconds
    while not promise() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(promise())


def test_supervisor_starts_again_whoever_ends_and_nobody_who_was_told_to_stop(children):
    """A killed process is back with another pid and its end is on record; a removed one stays away."""
    with Supervisor(children) as supervisor:
        supervisor.add("worker", ["sleep", "600"])
        pid = children.pid("worker")
        assert supervisor.send("worker", signal.SIGKILL)
        assert soon(lambda: children.alive("worker") and children.pid("worker") != pid)
        assert [(each.name, each.status) for each in supervisor.exits] == [("worker", -signal.SIGKILL)]
        assert supervisor.remove("worker") == -signal.SIGTERM
        assert not soon(lambda: children.alive("worker"), seconds=1.0)
        assert supervisor.names() == []


def an_echo() -> socket.socket:
    """A server on a free port that answers each connection with what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while chunk := connection.recv(1024):
                    connection.sendall(chunk)

    threading.Thread(target=serve, daemon=True).start()
    return server


def test_a_frozen_network_swallows_everything_and_brings_it_when_it_thaws(children):
    """Bytes pass; frozen, none come back and no connection breaks; thawed, they arrive; killed, it is reset."""
    with an_echo() as server, socket.create_server(("127.0.0.1", 0)) as reserved:
        way_in, way_out = reserved.getsockname()[1], server.getsockname()[1]
        reserved.close()
        children.start("network", [sys.executable, "-m", "benchmarks.chaos.relay", f"{way_in}:{way_out}"])
        assert soon(lambda: _connects(way_in))
        with socket.create_connection(("127.0.0.1", way_in), timeout=10) as client:
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            os.kill(children.pid("network"), signal.SIGSTOP)
            client.sendall(b"two")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(10)
            os.kill(children.pid("network"), signal.SIGCONT)
            client.settimeout(10)
            assert client.recv(10) == b"two"
            children.stop("network", signal.SIGKILL, 10)
            assert client.recv(10) == b""


def test_a_full_disk_takes_no_byte_until_it_is_freed(children, tmp_path):
    """The file system of one process fills up to the last byte, and nobody else's does."""
    if not faults.has_small_disks():
        pytest.skip("this system lets nobody have file systems of their own")
    children.start("worker", faults.on_a_small_disk(tmp_path, ["sleep", "600"]))
    disk = Path(f"/proc/{children.pid('worker')}/root{tmp_path}")
    assert soon(lambda: disk.stat().st_dev != tmp_path.stat().st_dev)
    faults._fill(disk / "ballast")
    with pytest.raises(OSError, match="No space left"):
        (disk / "more").write_bytes(b"x" * 5_000)
    (disk / "ballast").unlink()
    (disk / "more").write_bytes(b"x" * 5_000)
    assert list(tmp_path.iterdir()) == []


def test_a_clock_is_set_while_its_process_runs_and_nobody_elses_is(children, tmp_path):
    """Forward, back and right again; waiting takes as long as ever."""
    if not clocks.has_clocks():
        pytest.skip("libfaketime is only where Linux runs on x86-64")
    clock, said = Clock(tmp_path / "clock"), children.directory / "worker.out"
    told = "import time\nwhile True: print(time.time(), flush=True); time.sleep(0.1)"
    children.start("worker", clock.on([sys.executable, "-c", told]))

    def off() -> float:
        lines = said.read_text().splitlines() if said.exists() else []
        return float(lines[-1]) - time.time() if lines else -1e9

    for seconds in (0, 3_600, -3_600, 0):
        clock.put(seconds)
        assert soon(lambda seconds=seconds: abs(off() - seconds) < 1.0)
    before, began = len(said.read_text().splitlines()), time.monotonic()
    clock.put(3_600)
    time.sleep(2.0)
    ticks = (len(said.read_text().splitlines()) - before) / ((time.monotonic() - began) / 0.1)
    assert 0.3 < ticks < 1.2


@given(st.binary(min_size=200, max_size=400), st.integers())
def test_damage_changes_a_file(tmp_path_factory, content, seed):
    """What was there is not there any more."""
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    faults._damage(path, random.Random(seed))
    assert path.read_bytes() != content


@given(st.lists(st.sampled_from([*faults.FAULTS]), min_size=1, unique=True), st.integers(0, 40), st.integers())
def test_every_fault_of_a_lane_has_its_turn_before_one_comes_again(lane, count, seed):
    """Between the most and the least frequent there is never more than one strike."""
    times = Counter(_in_turn(lane, count, random.Random(seed)))
    assert times.total() == count
    assert max(times[each] for each in lane) - min(times[each] for each in lane) <= 1


def test_all_that_can_be_done_is_done():
    """Either form plays every fault there is, and enough of them."""
    for form, least in ((QUICK, 1), (FULL, 50)):
        assert set().union(*(each.faults for each in form)) == set(faults.FAULTS)
        assert sum(each.strikes * len(each.lanes) for each in form) >= least
        assert len({each.name for each in form}) == len(form)
    assert sum(each.signals for each in QUICK) >= 20_000
    assert sum(each.signals for each in FULL) >= 500_000
    assert all(not each.faults & faults.LEARNER_FAULTS or each.learners for each in (*QUICK, *FULL))


def test_what_a_system_cannot_do_is_left_out(monkeypatch, capsys):
    """Scenarios about it are not played, it is not played among others, and both is said."""
    monkeypatch.setattr("benchmarks.chaos.__main__.has_clocks", lambda: False)
    monkeypatch.setattr("benchmarks.chaos.__main__.has_small_disks", lambda: False)
    left, all_ = [*_possible(FULL)], {each.name for each in FULL}
    assert all_ - {each.name for each in left} == {"disk-full", "clock", "clock-kill"}
    assert not set().union(*(each.faults for each in left)) & {"disk-full", *faults.CLOCK_FAULTS}
    assert all(all(each.lanes) for each in left)
    assert "libfaketime" in capsys.readouterr().err
    monkeypatch.undo()
    if clocks.has_clocks() and faults.has_small_disks():
        assert [*_possible(FULL)] == [*FULL]


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# --- The report ---


def played(verdict: Verdict, **changes: object) -> Played:
    """A scenario as it was played."""
    injections = [Injection("kill", 0.0, 0.0, [0])]
    return Played(SCENARIO, verdict, injections, {"kill": [1.5]}, 0, [], [])._replace(**changes)


def test_the_report_names_what_is_wrong_and_marks_its_row(run, tmp_path):
    """A loss, a partition that never came back and a complaint are each a fault; without them there is none."""
    sent, evidence = run
    good = played(judge(sent, evidence, CAPS))
    assert report.faults([good]) == []
    bad = played(judge(sent, plant(evidence, decisions=evidence.decisions[1:]), CAPS), never=1, complaints=["hm"])
    assert [sentence.partition(": ")[2][:11] for sentence in report.faults([bad])] == [
        "1 undecided",
        "after 1 fau",
        "hm",
    ]
    rows = {each.metric: each for each in report.rows([good, bad])}
    assert (rows["chaos.lost"].value, rows["chaos.lost"].met) == (1, False)
    assert rows["chaos.sent"].value == 2 * good.verdict.signals
    report.write(chaos_report(), [good, bad], "1", tmp_path)
    assert msgspec.json.decode((tmp_path / "chaos.json").read_bytes())["rows"]
    table = (tmp_path / "chaos.md").read_text("utf-8")
    signals = good.verdict.signals
    assert f"| kill | 2 | {2 * signals:,} | {2 * signals:,} | 1 | 0 | 0 | 1.5 s | 1.5 s |" in table
    still = played(good.verdict, injections=[Injection("clock-back", 0.0, 0.0, [0])], ahead=3_600.0, behind=9.0)
    assert ["nothing was put to the test" in sentence for sentence in report.faults([still])] == [True]


def test_what_is_wrong_with_learning_is_in_every_count(lessons, run):
    """What was lost, repeated or contradicted in learning is told with what became of signals."""
    (reports, evidence), good = lessons, judge(*run, CAPS)
    assert report.faults([played(good, lessons=judge_lessons(reports, evidence, OFFERS, MOST_BROUGHT))]) == []
    for planted, (change, _) in MISTAUGHT.items():
        bad = played(good, lessons=judge_lessons(*change(reports, evidence), OFFERS, MOST_BROUGHT))
        assert bad.lost + bad.repeated + bad.conflicting > 0, planted
        assert [sentence.startswith("kill: learning: ") for sentence in report.faults([bad])] == [True]
        rows = {each.metric: each for each in report.rows([bad])}
        assert not all(rows[f"chaos.{name}"].met for name in ("lost", "repeated", "conflicting"))
        assert "chaos.kill.learned" in rows


def chaos_report():
    """A report of nowhere."""
    return Report("a machine", "a date", "a commit", ())


def test_an_unknown_scenario_is_a_usage_error(capsys):
    """The names there are are told."""
    assert main(["flood"]) == 2
    assert "no scenario flood; there are " in capsys.readouterr().err


# --- On Kafka ---


def test_marks_of_transactions_are_nothing_left_to_handle(broker, unique_prefix, unique_group):
    """What was committed is read, what was not is none; the offsets that their ends take are no record."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker knows no transactions")
    name = f"{unique_prefix}x"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": unique_group})
    producer.init_transactions(20)

    def publish(value: bytes, *, whole: bool) -> None:
        producer.begin_transaction()
        producer.produce(name, value)
        producer.flush(20)
        (producer.commit_transaction if whole else producer.abort_transaction)(20)

    publish(b"one", whole=True)
    publish(b"none", whole=False)
    with closing(asker(broker.bootstrap, unique_group)) as consumer:
        consumer.commit(offsets=[TopicPartition(name, 0, 1)], asynchronous=False)
        assert progress(consumer, [name]) == [Progress(name, 0, 1, 1)]
        with Following(broker.bootstrap, unique_group, [name]) as read:
            assert [each.value() for each in read.rest()] == [b"one"]
            publish(b"two", whole=True)
            (left,) = progress(consumer, [name])
            assert left.end > left.committed == 1
            assert [each.value() for each in read.rest()] == [b"two"]


@pytest.mark.slow
def test_nothing_is_lost_or_repeated_while_workers_are_killed_stopped_and_frozen(broker, tmp_path):
    """Two workers as users start them, on a real broker; every signal is accounted for from the topics alone."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker refuses idempotent producers")
    scenario = Scenario(
        "brief", (("kill", "freeze", "terminate"),), 3, (0.2, 1.0), 3_000, 1_500, 150.0,
        partitions=4, session_seconds=3.0,
    )  # fmt: skip
    done = play(scenario, broker.bootstrap, None, "ci", tmp_path)
    assert report.faults([done]) == []
    assert done.verdict.signals + done.verdict.duplicates + done.verdict.poison >= 3_000
    assert {each.fault for each in done.injections} == {"kill", "freeze", "terminate"}
