from __future__ import annotations

import math
import random
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.broker import BrokerKind
from agents.children import Children
from benchmarks import probe
from benchmarks.chaos.crowd import SEEN, TOTAL
from benchmarks.chaos.notes import Counted, Progress
from benchmarks.chaos.reader import counted
from benchmarks.core import Core
from benchmarks.endurance import numbered, overload, soak
from benchmarks.endurance.__main__ import main
from benchmarks.endurance.account import Account
from benchmarks.endurance.numbered import name_of, named_in, signal_id
from benchmarks.endurance.stage import Pace, Sample
from benchmarks.stream import Bench
from benchmarks.workload import Message
from config import load_directory
from engine.profile import encode_profile

# --- The account ---


def decision(customer: int, number: int, content: str = "") -> bytes:
    """A decision as the account reads it."""
    signal = signal_id(name_of(customer), number)
    said = {"decisionId": f"{signal}/1", "signalId": signal, "customerId": name_of(customer), "content": content}
    return msgspec.json.encode(said)


@st.composite
def histories(draw):
    """How many signals each of a few customers gave, and the decisions on them, customers mixed, each in order."""
    said = {at: draw(st.integers(1, 6)) for at in range(draw(st.integers(1, 4)))}
    turns = draw(st.permutations([customer for customer, count in said.items() for _ in range(count)]))
    numbers = dict.fromkeys(said, 0)
    made = []
    for customer in turns:
        numbers[customer] += 1
        made.append((customer, numbers[customer]))
    return said, made


def verdict(said, decisions, **changes):
    """The verdict over decisions in this order, with final profiles that count everything."""
    account = Account()
    for each in decisions:
        account.take(each)
    profiles = {name_of(at): Counted(count, count * (count + 1) // 2, []) for at, count in said.items()}
    profiles |= {name_of(at): each for at, each in changes.get("profiles", {}).items()}
    given_by = {name_of(at): count for at, count in said.items()}
    return account.close(given_by, profiles, changes.get("progress", ()), changes.get("rejected", 0))


@given(histories())
def test_an_account_finds_nothing_wrong_where_nothing_is(history):
    """Every customer's decisions in order, however customers are mixed: no fault."""
    said, made = history
    found = verdict(said, [decision(*each) for each in made])
    assert found.faults is None
    assert (found.signals, found.lost, found.twice, found.contradicted) == (len(made), 0, 0, 0)


@given(histories(), st.data())
def test_an_account_finds_the_one_decision_that_is_missing(history, data):
    """Whichever it is, the last of a customer too."""
    said, made = history
    gone = data.draw(st.integers(0, len(made) - 1))
    found = verdict(said, [decision(*each) for at, each in enumerate(made) if at != gone])
    assert (found.undecided, found.lost, found.disordered) == (1, 1, 0)
    assert found.faults is not None


@given(histories(), st.data())
def test_an_account_tells_repeated_from_conflicting(history, data):
    """The same bytes again are repeated; other content under the same id is a conflict."""
    said, made = history
    again = data.draw(st.sampled_from(made))
    decisions = [decision(*each) for each in made]
    found = verdict(said, [*decisions, decision(*again)])
    assert (found.repeated, found.conflicting, found.lost) == (1, 0, 0)
    found = verdict(said, [*decisions, decision(*again, content="other")])
    assert (found.repeated, found.conflicting, found.lost) == (0, 1, 0)


def test_an_account_finds_what_is_out_of_order():
    """A decision after one of a later signal of its customer; of another customer it is no matter."""
    first, second, other = decision(0, 1), decision(0, 2), decision(1, 1)
    assert verdict({0: 2, 1: 1}, [other, second, first]).disordered == 1
    assert verdict({0: 2, 1: 1}, [first, other, second]).faults is None


def test_an_account_finds_what_nobody_asked_for():
    """A decision on a signal without a number, or under another customer's name."""
    stranger = msgspec.json.encode({"decisionId": "x", "signalId": "identify-3", "customerId": name_of(0)})
    wrong = msgspec.json.encode({"decisionId": "x", "signalId": f"{name_of(0)}/1", "customerId": name_of(1)})
    found = verdict({0: 1}, [decision(0, 1), stranger, wrong])
    assert (found.unasked, found.contradicted) == (2, 2)


@pytest.mark.parametrize(
    ("profile", "wrong"),
    [
        (Counted(2, 3, []), (1, 0)),
        (Counted(4, 7, []), (0, 1)),
        (Counted(3, 5, []), (1, 1)),
        (Counted(3, 6, []), (0, 0)),
    ],
)
def test_an_account_reads_profiles(profile, wrong):
    """One signal missed, one counted twice, and one of each, which the sum of the numbers gives away."""
    found = verdict({0: 3}, [decision(0, number) for number in (1, 2, 3)], profiles={0: profile})
    assert (found.unapplied, found.reapplied) == wrong


def test_an_account_wants_everything_committed_and_nothing_rejected():
    """Either is a loss."""
    found = verdict({0: 1}, [decision(0, 1)], progress=[Progress("signals", 0, 3, 5)], rejected=1)
    assert (found.uncommitted, found.rejected, found.lost) == (2, 1, 3)


@given(st.integers(0, 999_999), st.integers(1, 10**9))
def test_a_signal_is_known_by_its_id(customer, number):
    """Customer and number go into the id and come out of it."""
    assert named_in(signal_id(name_of(customer), number)) == (name_of(customer), number)
    assert named_in(f"consent-{customer}")[1] == 0


def test_profiles_count_numbered_signals(tmp_path):
    """What is published is what the engine understands: every signal decides, and profiles add the numbers up."""
    repertoire = load_directory(numbered.write_config(tmp_path, prefix="test.", partitions=1))
    core, tails = Core(repertoire, customers=1), numbered._tails()
    signals = [Message(name_of(0).encode(), numbered._value(name_of(0), at, tails[at])) for at in range(1, 41)]
    decisions = core.feed(signals)
    assert [named_in(msgspec.json.decode(each)["signalId"]) for each in decisions] == [
        (name_of(0), at) for at in range(1, 41)
    ]
    found = counted(encode_profile(core._state.profiles[name_of(0)]), repertoire)
    assert (found.signals, found.total) == (40, 820)
    assert {SEEN, TOTAL} <= {each.name for each in repertoire.profile.aggregates}


# --- Slopes ---


def sample(at: int, **changes) -> Sample:
    """A worker that has decided on 100 signals a second and is well."""
    well = Sample(
        at=at, cpu=at / 2, answered=0.01, ready=True, lag=0.0, behind=0.0, in_flight=1.0, decided=100 * at,
        memory=200_000_000, files=20, threads=6, tasks=60.0, blocks=1_000_000.0,
    )  # fmt: skip
    return well._replace(**changes)


@given(st.integers(0, 50), st.integers())
def test_a_slope_is_found_under_noise_and_odd_samples(per_signal, seed):
    """What grows by so many bytes a signal has that in its interval; a few wild samples do not move it."""
    draw = random.Random(seed)
    samples = [
        sample(at, memory=200_000_000 + 100 * at * per_signal + draw.randrange(200) + 10**8 * (at % 37 == 0))
        for at in range(1, 200)
    ]
    found = soak.slope(samples, lambda each: each.memory)
    assert found.low <= found.middle <= found.high
    assert found.middle == pytest.approx(per_signal, abs=0.1)


def test_growth_is_reported_where_it_is_sure():
    """A leak of one block a signal misses its target; a worker that stays as it is meets all of them."""
    pace = soak.Form(10, 100, 100.0, 1.0)
    verdict_ = verdict({0: 1}, [decision(0, 1)])
    still = soak.Soak(pace, 100.0, 60.0, [sample(at) for at in range(1, 100)], verdict_)
    assert all(each.met for each in soak.rows(still))
    leaking = still._replace(samples=[sample(at, blocks=1e6 + 100.0 * at) for at in range(1, 100)])
    assert {each.metric for each in soak.rows(leaking) if not each.met} == {"soak.memory-blocks.sure-growth"}


def test_a_slope_needs_two_samples():
    """One moment has none."""
    with pytest.raises(ValueError, match="1 samples; expected two"):
        soak.slope([sample(1)], lambda each: each.memory)


# --- Overload ---


def test_what_is_wrong_under_overload_misses_its_target():
    """Each guard fires: too slow a publisher, a lag that is not told, memory, batches, readiness, what it cost."""
    form = overload.Form(10, 100, 2.0, 1.0)
    before = sample(1)
    during = [sample(2, lag=950.0, behind=1_000.0, decided=200), sample(3, lag=1_900.0, behind=2_000.0, decided=300)]
    after = [sample(at, decided=100 * at) for at in range(4, 25)]
    good = overload.Overload(
        form, Pace(100.0, 0.005), 1_010.0, 2_020, 1.5, 2.0, before, before, [*during, *after],
        verdict({0: 1}, [decision(0, 1)]), 1_000,
    )  # fmt: skip
    rows = {each.metric: each for each in overload.rows(good)}
    assert all(each.met for each in rows.values())
    assert rows["overload.backlog"].value == 2_020 - 200
    assert rows["overload.catching-up-over-expected"].value == pytest.approx(20.5 / 18.2)
    bad = good._replace(
        rate=900.0,
        samples=[during[0]._replace(lag=10.0), during[1]._replace(lag=20.0, in_flight=65.0, memory=10**9)]
        + [each._replace(ready=False, cpu=each.cpu * 2) for each in after],
    )
    assert {each.metric.removeprefix("overload.") for each in overload.rows(bad) if not each.met} == {
        "rate-over-sustainable", "lag-over-broker", "memory-growth-over-allowed", "most-batches-in-flight",
        "cpu-over-sustainable", "not-ready",
    }  # fmt: skip


# --- A worker from outside ---


def test_metrics_are_added_up_by_name():
    """With labels and without; one whose name only begins alike is another one."""
    text = 'a{x="1"} 2.0\na{x="2"} 3.5\nab 7.0\n# HELP a of b\nb 4.0\n'
    assert (probe.total(text, "a"), probe.total(text, "b"), probe.total(text, "c")) == (5.5, 4.0, 0.0)


def test_an_unknown_part_is_a_usage_error(capsys):
    """The names there are are told."""
    assert main(["marathon"]) == 2
    assert "no part marathon; there are overload, soak" in capsys.readouterr().err


# --- On Kafka ---


@pytest.fixture
def bench(broker):
    """What both share, on the session's broker."""
    if broker.kind is not BrokerKind.KAFKA:
        pytest.skip("the embedded broker refuses idempotent producers")
    with closing(Children()) as children, ProcessPoolExecutor(1, get_context("spawn")) as publisher:
        yield Bench(broker.bootstrap, children, publisher)


@pytest.mark.slow
def test_ten_times_too_much_is_worked_off_in_order(bench):
    """Lag shows while signals come faster than they are decided; then all is decided, once and in order."""
    found = overload.play(bench, overload.Form(50, 1_500, 0.5, 0.1))
    assert found.verdict.faults is None
    assert found.verdict.signals == 50 * numbered.FULL_DAYS + 1_500 + found.sent
    assert found.backlog > 0.5 * found.sent
    assert max(each.lag for each in found.samples) > 0.1 * found.sent
    assert (found.samples[-1].lag, found.samples[-1].behind) == (0, 0)
    assert {each.ready for each in found.samples} == {True}
    assert found.worst - found.fresh.memory <= found.allowed


@pytest.mark.slow
def test_under_steady_load_files_tasks_and_threads_stay(bench):
    """A few seconds of it: every signal is accounted for, and nothing is opened or started for good."""
    found = soak.play(bench, soak.Form(20, 1_500, 5.0, 0.1))
    assert found.verdict.faults is None
    assert not any(math.isnan(each.tasks) or math.isnan(each.blocks) for each in found.samples)
    early, late = found.samples[: len(found.samples) // 2], found.samples[len(found.samples) // 2 :]
    for what in ("files", "tasks", "threads"):
        # One a signal would be hundreds; some come and go with every request.
        assert max(getattr(each, what) for each in late) <= max(getattr(each, what) for each in early) + 10, what
    assert {"soak.memory.slope", "soak.memory-blocks.sure-growth"} <= {each.metric for each in soak.rows(found)}
