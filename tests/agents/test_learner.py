"""Each example is learned once, what is published says how much it includes, and nothing is refused silently."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import learner_child
from agents.learner import STATE_LIMIT_BYTES, Extent, Pupil, Share, take_up, unusable
from agents.model_topic import (
    Found,
    Shelf,
    Standing,
    TrainingState,
    decode_report,
    decode_state,
    encode_state,
    report_key,
    standing_of,
    state_key,
)
from agents.settings import Settings
from engine.learning import Example
from engine.record import Output
from engine.repertoire import LearnerRule
from models.snapshot import Refusal, Snapshot, decode
from tests.agents.command import batuta
from tests.agents.teaching import (
    MODELS,
    PICKLED_KIND,
    a_repertoire,
    a_rule,
    an_example,
    headers_of,
    knowledge,
    record_of,
    state_in,
    taught,
)
from tests.agents.worker_process import until
from tests.builders import write_config

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(partitions=4)
NOW_MS = 1_767_700_000_000


def log_of(examples: Sequence[Example | bytes]) -> list[Any]:
    """The records of a partition; bytes are no examples."""
    pairs = [(b"offers", each) if isinstance(each, bytes) else record_of(each) for each in examples]
    return [
        SimpleNamespace(offset=offset, timestamp=NOW_MS, key=key, value=value)
        for offset, (key, value) in enumerate(pairs)
    ]


def a_share(shelf: Shelf, end: int, models: Sequence[str] = ("offers",), generation: int = 1, **settings: Any) -> Share:
    """Partition 0 as its next learner takes it over."""
    repertoire = a_repertoire(*map(a_rule, models))
    pupils = {
        rule.id: take_up(rule, repertoire, shelf[rule.id], 0, Extent(0, end), generation, None)
        for rule in repertoire.models
    }
    position = min(pupil.start for pupil in pupils.values())
    return Share(0, pupils, position, msgspec.structs.replace(SETTINGS, **settings))


def put(shelf: Shelf, outputs: Sequence[Output]) -> None:
    """Have published what a share says."""
    for each in outputs:
        if each.topic == "models":
            shelf.put(each.key, each.value, each.headers)


def kinds(outputs: Sequence[Output]) -> list[str]:
    """Where the outputs go, by key."""
    return [f"{each.topic}:{(each.key or b'').decode()}" for each in outputs]


def snapshot_in(outputs: Sequence[Output], model: str = "offers") -> Snapshot:
    """The snapshot of a model among some outputs."""
    (value,) = [each.value for each in outputs if each.key == model.encode()]
    found = decode(value, None)
    assert isinstance(found, Snapshot), found
    return found


# --- Once ---


@given(
    numbers=st.lists(st.integers(0, 15), max_size=40),
    owners=st.lists(st.sampled_from(MODELS[:2]), min_size=40, max_size=40),
    crashes=st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=5),
)
@settings(max_examples=50)
def test_crashes_lose_and_repeat_nothing(numbers, owners, crashes):
    """Wherever a learner dies, and whichever of its states were kept, the models end as if nothing had happened."""
    examples = [an_example(number, owner) for number, owner in zip(numbers, owners, strict=False)]
    log = log_of(examples)
    shelf = Shelf(MODELS[:2])
    for read, kept in crashes:
        share = a_share(shelf, len(log), MODELS[:2])
        share.learn(deque(record for record in log[share.position :][:read]))
        if kept:
            outputs = share.due(1e6, NOW_MS)
            put(shelf, outputs[: 1 + read % max(1, len(outputs))])
    share = a_share(shelf, len(log), MODELS[:2])
    share.learn(deque(log[share.position :]))
    for model in MODELS[:2]:
        undisturbed = taught((each for each in examples if each.model == model), model)
        assert knowledge(share.pupils[model].model) == knowledge(undisturbed)


def test_repetitions_on_the_log_are_known_by_their_id():
    """What upstream writes twice is learned once, and counted as repeated."""
    share = a_share(Shelf(["offers"]), 0)
    share.learn(deque(log_of([an_example(n) for n in (0, 1, 0, 2, 1)])))
    assert share.results == {("offers", "learned"): 3, ("offers", "repeated"): 2}
    assert share.position == 5


def test_each_model_skips_what_its_state_includes():
    """A partition is read from where the model that is furthest behind left off; the others skip up to theirs."""
    log = log_of([an_example(n, model) for n in range(10) for model in MODELS[:2]])
    shelf = Shelf(MODELS[:2])
    ahead = a_share(shelf, 20, ["offers"])
    ahead.learn(deque(log[:16]))
    put(shelf, ahead.due(1e6, NOW_MS))
    share = a_share(shelf, 20, MODELS[:2])
    assert (share.position, share.pupils["offers"].start) == (0, 16)
    share.learn(deque(log))
    assert share.results == {("offers", "learned"): 2, ("content", "learned"): 10}
    assert knowledge(share.pupils["offers"].model) == knowledge(taught(an_example(n) for n in range(10)))


# --- Publishing ---


def test_snapshots_keep_their_distance():
    """The first change is published at once, further ones when the interval is over, none without a change."""
    share = a_share(Shelf(["offers"]), 0, snapshot_interval_ms=250, state_interval_seconds=1000)
    log = deque(log_of([an_example(n) for n in range(4)]))
    share.due(99.0, NOW_MS)
    share.learn(deque([log.popleft()]))
    assert share.wait_seconds(100.0) == 0.0
    first = share.due(100.0, NOW_MS)
    assert snapshot_in(first).examples == 1
    share.learn(log)
    assert share.wait_seconds(100.1) == pytest.approx(0.15)
    assert share.due(100.1, NOW_MS) == []
    assert snapshot_in(share.due(100.25, NOW_MS)).examples == 4
    assert share.due(200.0, NOW_MS) == []


def test_states_keep_theirs_and_name_their_offset():
    """A state is kept every few seconds when something was learned, with the offset it includes; `final` at once."""
    share = a_share(Shelf(["offers"]), 0, state_interval_seconds=2)
    log = deque(log_of([an_example(0), an_example(0), an_example(3)]))
    share.learn(deque([log.popleft()]))
    assert "models:offers#state" not in kinds(share.due(1.0, NOW_MS))
    (state,) = [each for each in share.due(2.0, NOW_MS) if each.key == state_key("offers")]
    assert (state_in(state.value).offset, standing_of(state.headers)) == (1, Standing(1, 1, 1))
    share.learn(log)
    assert kinds(share.due(3.0, NOW_MS)) == ["models:offers", "models:#report/0"]
    final = share.due(3.0, NOW_MS, final=True)
    assert kinds(final) == ["models:offers#state"]
    assert state_in(final[0].value).offset == 3
    assert share.due(9.0, NOW_MS, final=True) == []


def test_offsets_are_kept_though_nothing_was_learned():
    """What is repeated moves the offset, which is kept after a minute, so that nobody has to read far back."""
    share = a_share(Shelf(["offers"]), 0)
    share.learn(deque(log_of([an_example(0)])))
    share.due(10.0, NOW_MS)
    share.learn(deque(log_of([an_example(0), an_example(0)])))
    assert "models:offers#state" not in kinds(share.due(20.0, NOW_MS))
    assert "models:offers#state" in kinds(share.due(80.0, NOW_MS))


def test_workers_are_not_taken_back():
    """A learner that learns again what its predecessor had served already says nothing until it is as far."""
    log = log_of([an_example(n) for n in range(8)])
    shelf = Shelf(["offers"])
    share = a_share(shelf, 8, state_interval_seconds=1000)
    share.learn(deque(log[:6]))
    put(shelf, share.due(1.0, NOW_MS))
    successor = a_share(shelf, 8)
    assert (successor.position, successor.pupils["offers"].served) == (0, 6)
    successor.learn(deque(log[:4]))
    assert "models:offers" not in kinds(successor.due(1.0, NOW_MS))
    successor.learn(deque(log[4:]))
    assert snapshot_in(successor.due(2.0, NOW_MS)).examples == 8


def test_what_is_too_large_is_not_sent(caplog):
    """A snapshot above the limit is counted and logged once; the model learns on, and its states are still kept."""
    share = a_share(Shelf(["offers"]), 0, snapshot_bytes=64)
    for record in log_of([an_example(0), an_example(3)]):
        share.learn(deque([record]))
        assert kinds(share.due(record.offset * 10.0, NOW_MS, final=True)) == ["models:offers#state", "models:#report/0"]
    assert share.results["offers", "snapshot-too-large"] == 2
    assert caplog.text.count("snapshot-too-large") == 1


def test_states_that_are_too_large_are_not_sent():
    """A state above what the topic takes is counted, and the older one stays."""
    share = a_share(Shelf(["offers"]), 0)
    share._is_too_large("offers", "state", b"x" * (STATE_LIMIT_BYTES + 1), STATE_LIMIT_BYTES)
    assert share.results == {("offers", "state-too-large"): 1}
    assert not share._is_too_large("offers", "state", b"x" * STATE_LIMIT_BYTES, STATE_LIMIT_BYTES)


def test_health_travels_with_the_snapshot():
    """Once windows have closed, the numbers of the model's health are in its snapshots."""
    share = a_share(Shelf(["offers"]), 0)
    share.learn(deque(log_of([an_example(n) for n in range(40)])))
    health = snapshot_in(share.due(1.0, NOW_MS)).health
    assert health.keys() == {"logloss", "base_logloss", "auc", "calibration_error", "drift"}
    assert 0.0 < health["logloss"] < 5.0


# --- What is refused ---


def test_refused_examples_are_counted_logged_and_rejected(caplog):
    """No example ends silently: each kind has its count and one line, and what is no example goes to `rejects`."""
    share = a_share(Shelf(["offers"]), 0)
    log = [b"{", an_example(0, "weather"), an_example(0, schema="f0"), an_example(2, features=()), b"[]", an_example(4)]
    records = log_of(log)
    records[5].key = b"content"
    share.learn(deque(records))
    assert share.results == {
        ("other", "malformed"): 3,
        ("other", "unknown-model"): 1,
        ("offers", "other-schema"): 1,
        ("offers", "malformed"): 1,
    }
    outputs = share.due(10.0, NOW_MS)
    rejects = [msgspec.json.decode(each.value) for each in outputs if each.topic == "rejects"]
    assert [(each["topic"], each["offset"], each["code"]) for each in rejects] == [
        ("batuta.learning", offset, "malformed") for offset in (0, 4, 5)
    ]
    assert len(caplog.records) == 4
    report = decode_report(outputs[-1].value)
    assert outputs[-1].key == report_key(0)
    assert report is not None
    assert report.results["other"] == {"malformed": 3, "unknown-model": 1}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"", "malformed"),
        (encode_state(TrainingState("offers", 0, 3, b"nothing"), None), "not the state of a model"),
        (encode_state(TrainingState("offers", 0, 99, taught([]).dump()), None), "created anew"),
        (encode_state(TrainingState("content", 0, 3, taught([], "content").dump()), None), "the state of content"),
        (encode_state(TrainingState("offers", 1, 3, taught([]).dump()), None), "partition 1, expected of offers"),
    ],
)
def test_a_state_that_cannot_be_used_means_learning_again(value, said, caplog):
    """Damaged, somebody else's or from a log that is gone: said in one line, and all there is is learned again."""
    shelf = Shelf(["offers"])
    shelf.put(state_key("offers"), value, headers_of(offset=3))
    share = a_share(shelf, 8)
    assert (share.position, share.pupils["offers"].standing) == (0, Standing(2, 1, 0))
    assert said in caplog.text


def test_examples_deleted_before_they_were_learned_are_told(caplog):
    """A learner that was away for longer than examples are kept says how many are missing."""
    state = encode_state(TrainingState("offers", 0, 3, taught([]).dump()), None)
    rule = a_rule("offers")
    pupil = take_up(rule, a_repertoire(rule), Found(state), 0, Extent(10, 20), 1, None)
    assert pupil.start == 10
    assert "missed up to 7 examples" in caplog.text


def test_states_are_signed():
    """With a key, a state of another key or of none is not read; a pickled one is never read without a key."""
    value = encode_state(TrainingState("offers", 0, 3, b""), b"a key of this deployment")
    read = {"model": "offers", "partition": 0, "limit_bytes": 10_000}
    assert decode_state(value, b"a key of this deployment", pickled=True, **read) == TrainingState("offers", 0, 3, b"")
    for key, pickled in ((b"some other key to be", False), (None, True)):
        refusal = decode_state(value, key, pickled=pickled, **read)
        assert isinstance(refusal, Refusal)
        assert refusal.code in {"signature", "unsigned"}


def test_learners_that_cannot_run_are_named():
    """An unknown kind, a parameter that does not exist, and pickles without a key: a sentence each."""
    learners = {
        "tree": LearnerRule(kind=PICKLED_KIND),
        "oracle": LearnerRule(kind="oracle"),
        "odd": LearnerRule(kind="logistic", parameters={"colour": "red"}),
    }
    repertoire = a_repertoire(a_rule("offers"), a_rule("content", learners=learners))
    unknown, parameter, key = unusable(repertoire, None)
    assert "model content: learner oracle" in unknown
    assert "model content: learner odd" in parameter
    assert PICKLED_KIND in key
    assert len(unusable(repertoire, b"a key of this deployment")) == 2
    assert unusable(a_repertoire(), None) == []


def a_shop(directory: Path, kind: str) -> Path:
    """A configuration with one model of one learner."""
    learners = {"only": {"kind": kind}}
    return write_config(directory, models={"models": {"offers": {"learners": learners}}})


@pytest.mark.parametrize("command", ["up", "learn"])
def test_commands_refuse_pickles_without_a_key(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Before anything is connected, in one line, with exit code 1."""
    monkeypatch.delenv("BATUTA_MODEL_KEY", raising=False)
    shop = a_shop(tmp_path, PICKLED_KIND)
    refused = batuta(command, shop)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"learners {PICKLED_KIND} are published as pickles: set BATUTA_MODEL_KEY" in refused.stderr


def test_nothing_to_learn_is_said(tmp_path: Path):
    """A learner for a configuration without models ends at once, with code 1."""
    refused = batuta("learn", write_config(tmp_path))
    assert (refused.returncode, refused.stderr.strip()) == (
        1,
        f"{tmp_path} has no models, so there is nothing to learn",
    )


def test_a_learner_without_a_broker_exits_with_3(tmp_path: Path):
    """As a worker does: one line that names the address."""
    shop = a_shop(tmp_path, "logistic")
    environ = {**os.environ, "BATUTA_CONNECT_SECONDS": "0.2"}
    command = [sys.executable, "-m", "agents", "learn", str(shop), "--bootstrap", "127.0.0.1:1"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=ROOT, check=False)
    assert ended.returncode == 3
    assert ended.stderr.startswith("cannot reach Kafka at 127.0.0.1:1")
    assert ended.stderr.count("\n") == 1


# --- The child of a worker ---


async def test_a_learner_that_dies_is_started_again_after_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The pauses grow, so that one that cannot start costs little; the settings reach it, under the worker's name."""
    monkeypatch.setattr(learner_child, "FIRST_PAUSE_SECONDS", 0.05)
    said = tmp_path / "said"
    script = f"echo $BATUTA_INSTANCE $BATUTA_GROUP $(date +%s%N) >> {said}; exit 7"
    settings = Settings(group="g")
    async with learner_child.learner_beside(["sh", "-c", script], settings):
        await asyncio.to_thread(until, lambda: said.exists() and said.read_text().count("\n") >= 4, "starting again")
    lines = [line.split() for line in said.read_text().splitlines()]
    assert {(name, group) for name, group, _ in lines} == {(settings.name, "g")}
    times = [int(at) / 1e9 for *_, at in lines]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] >= 0.05
    assert pauses[1] >= 0.1
    assert pauses[2] >= 0.2


@pytest.mark.parametrize("on_request", ["exit 0", ""])
async def test_a_learner_ends_with_its_worker(on_request: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is asked to stop, in its own session so that Ctrl-C is not for it, and killed when it does not."""
    monkeypatch.setattr(learner_child, "_STOP_SECONDS", 0.2)
    pid = tmp_path / "pid"
    script = f"trap '{on_request}' TERM; echo $$ > {pid}; while :; do sleep 0.05; done"
    async with learner_child.learner_beside(["sh", "-c", script], Settings()):
        await asyncio.to_thread(until, lambda: pid.exists() and pid.read_text(), "starting")
        assert os.getsid(int(pid.read_text())) == int(pid.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


# --- Who counts ---


@given(st.permutations([Standing(1, 1, 9), Standing(2, 1, 3), Standing(2, 2, 1), Standing(2, 2, 5)]))
def test_the_highest_standing_counts_in_whatever_order(standings):
    """An epoch above what was found counts more, then the later generation, then the offset: never the latest write."""
    shelf = Shelf(["offers"])
    for each in standings:
        shelf.put(state_key("offers"), b"%d" % each.offset, each.headers())
        shelf.put(b"offers", b"", each.headers())
    assert shelf["offers"] == Found(b"5", Standing(2, 2, 5), Standing(2, 2, 5))


def test_a_learner_that_lost_its_partition_cannot_undo_its_successor():
    """It publishes late, what is older; the next learner goes on from the successor's state all the same.

    And should compaction have left only the late state, it is a valid one: the rest is learned again.
    """
    log = log_of([an_example(n) for n in range(12)])
    shelf = Shelf(["offers"])
    zombie = a_share(shelf, 12, generation=5)
    zombie.learn(deque(log[:4]))
    successor = a_share(shelf, 12, generation=6)
    successor.learn(deque(log[:9]))
    put(shelf, successor.due(1e6, NOW_MS))
    late = zombie.due(1e6, NOW_MS)
    put(shelf, late)
    assert shelf["offers"].state_standing == Standing(1, 6, 9)
    compacted = Shelf(["offers"])
    put(compacted, late)
    for kept, start in ((shelf, 9), (compacted, 4)):
        third = a_share(kept, 12)
        assert third.position == start
        third.learn(deque(log[start:]))
        assert knowledge(third.pupils["offers"].model) == knowledge(taught(an_example(n) for n in range(12)))


@given(st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=20))))
def test_headers_from_anybody_are_no_harm(headers):
    """Whatever stands in the headers of a record, it has a standing."""
    assert standing_of(headers) >= Standing()
    assert standing_of([*headers, *Standing(3, 2, 1).headers()]) == Standing(3, 2, 1)


def test_a_new_epoch_is_above_all_there_is():
    """Also above the snapshots of a learner whose states were lost."""
    shelf = Shelf(["offers"])
    shelf.put(b"offers", b"", headers_of(epoch=7, offset=2))
    pupil = a_share(shelf, 5).pupils["offers"]
    assert isinstance(pupil, Pupil)
    assert pupil.standing == Standing(8, 1, 0)
