"""What is fuzzed: one function of bytes per decoder. Whatever it raises is a finding.

A refusal that a decoder documents is caught here; a result is held to what it promises: that it can be written
again, that it is the same the second time.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from agents.decisioning import TABLES, due_ms
from agents.journal import EPOCH_HEADER, Reader, epoch_of
from agents.model_topic import Report, TrainingState, decode_report, decode_state, encode_state
from agents.store import Claim, Copy, Lineage, Mark, open_store
from agents.tables import changelogs
from benchmarks import workload
from config import load_directory
from config.load import check_directory
from engine.arrival import FIRST, HOPS, KIND, ORIGIN
from engine.budgets import Spending
from engine.identity import Identity
from engine.learning import decode_example
from engine.pipeline import handle
from engine.profile import SCHEMA, decode_profile, encode_profile
from engine.record import Record
from engine.repertoire import Repertoire
from engine.state import MemoryState
from models.baseline import PriorScorer
from models.snapshot import Snapshot, decode, encode, seal

NOW_MS = 1_790_000_000_000
CUSTOMER = "customer-000000"
TOPICS = ("signals", "outcomes", "customers", "links")
KINDS = (None, b"signal", b"outcome", b"merge", b"adopt", b"refused", b"tick")
_ENVELOPE = b"\x92"
"""What a merge with its checksum begins with; a fuzzed one without is given them."""
_LIMIT = 1 << 20
_KEY = b"a key of more than sixteen bytes"
_MEMORY = 8 << 20
_LEFT = ExitStack()
atexit.register(_LEFT.close)
REPERTOIRES = Path(__file__).parents[2] / "config" / "repertoires"


class Target(NamedTuple):
    """What is fuzzed, and inputs to begin with, made by the encoders of today."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]


# --- Records: everything that is read from a topic keyed by customer ---


class _World(NamedTuple):
    repertoire: Repertoire
    scorer: PriorScorer
    profile: bytes


@cache
def _world() -> _World:
    repertoire = workload.load(10)
    scorer = PriorScorer(repertoire)
    state = MemoryState()
    messages = [*workload.introductions(1), *workload.signals(6, 1, "fuzz")]
    for at, message in enumerate(messages):
        record = Record("signals", 0, at, NOW_MS + at, message.key, message.value)
        handle(record, state, repertoire, scorer)
    return _World(repertoire, scorer, encode_profile(state.profiles[CUSTOMER]))


def records(data: bytes) -> None:
    """Any record of any topic: handled without an exception, and what comes out can be written."""
    if len(data) < 2:
        return
    key, _, value = data[2:].partition(b"\n")
    headers = _headers(data[1], key)
    if (KIND, b"merge") in headers and value[:1] != _ENVELOPE:
        # As if an engine had sent it: the fuzzer does not find checksums. One of a later schema ends the worker.
        encoded = msgspec.msgpack.encode((SCHEMA, msgspec.Raw(value)))
        value = msgspec.msgpack.encode((zlib.crc32(encoded), encoded))
    record = Record(TOPICS[data[0] % 4], 0, 99, NOW_MS, key, value, headers)
    world = _world()
    answers = []
    for _ in range(2):
        state = MemoryState({CUSTOMER: decode_profile(world.profile)})
        effects = handle(record, state, world.repertoire, world.scorer)
        answers.append([(each.topic, each.key, each.value) for each in effects.outputs])
        for profile in state.profiles.values():
            decode_profile(encode_profile(profile))
    assert answers[0] == answers[1], "the same record of the same customer is answered with the same bytes"


def _headers(choice: int, text: bytes) -> tuple[tuple[str, bytes], ...]:
    kind = KINDS[choice % len(KINDS)]
    headers: list[tuple[str, bytes]] = [] if kind is None else [(KIND, kind)]
    if choice & 64:
        headers += [(ORIGIN, text), (FIRST, text), (HOPS, text)]
    if choice & 128:
        headers += [(f"ce_{name}", text) for name in ("type", "id", "time", "source", "specversion")]
    return tuple(headers)


def record_seeds() -> Iterable[bytes]:
    """Signals, outcomes of each kind, notices, claims, ticks and a merge."""
    for message in [*workload.introductions(1), *workload.signals(3, 1, "seed")]:
        for start in (bytes([0, 0]), bytes([2, 1])):
            yield start + message.key + b"\n" + message.value
    decided = decode_profile(_world().profile).contacts[-1].decision_id
    for kind in ("impression", "click", "accept", "reject", "convert", "bounce", "unsubscribe"):
        outcome = {"decisionId": decided, "customerId": CUSTOMER, "type": kind, "value": 3.5}
        yield bytes([1, 0]) + CUSTOMER.encode() + b"\n" + msgspec.json.encode(outcome)
    for notice in (4, 5, 6):
        yield bytes([2, notice]) + CUSTOMER.encode() + b'\n{"identifier":"email:a@b","explicit":true}'
    yield (
        bytes([3, 0]) + b'email:a@b\n{"identifier":"email:a@b","claimant":"' + CUSTOMER.encode() + b'","explicit":true}'
    )
    merged = msgspec.msgpack.encode(msgspec.structs.replace(decode_profile(_world().profile), customer_id="other"))
    yield bytes([2, 3]) + CUSTOMER.encode() + b"\n" + merged
    yield bytes([0, 128]) + b'1.0\n{"type":"track","event":"A","userId":"u","timestamp":"2026-01-01T00:00:00Z"}'


# --- State ---


def profiles(data: bytes) -> None:
    """A stored profile: read, or refused as documented; what is read is written, read and due as before."""
    try:
        profile = decode_profile(data)
    except (ValueError, msgspec.DecodeError, RecursionError):
        return
    again = decode_profile(encode_profile(profile))
    assert encode_profile(again) == encode_profile(profile)
    moments = [each.at_ms for each in profile.timers]
    assert due_ms(data) == min(moments if profile.closes_ms is None else [*moments, profile.closes_ms], default=None)


def small_states(data: bytes) -> None:
    """A stored identity or the spending of a budget."""
    for kind in (Identity, Spending):
        try:
            value = msgspec.msgpack.decode(data, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            continue
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind) == value


def small_seeds() -> Iterable[bytes]:
    """One of each."""
    yield msgspec.msgpack.encode(Identity(CUSTOMER, 1, 2))
    yield msgspec.msgpack.encode(Spending({1: 2.5}))


def changelog_records(data: bytes) -> None:
    """A record of a changelog: any header of an epoch, any claim, any value is read past; keys are text."""
    header, _, rest = data.partition(b"\n")
    key, _, value = rest.partition(b"\n")
    try:
        key.decode()
    except UnicodeDecodeError:
        return
    tables, logs = changelogs(TABLES)
    for log in logs:
        Reader(log).apply([_Stored(key, value, ((EPOCH_HEADER, header),))])
        Reader(log).apply([_Stored(b"", value, ((EPOCH_HEADER, header),))])
    epoch_of(((EPOCH_HEADER, header),))
    for table in tables.values():
        len(table)


class _Stored(NamedTuple):
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


def changelog_seeds() -> Iterable[bytes]:
    """A claim, a profile, and a budget."""
    claim = msgspec.json.encode(Claim("worker", 3, "process"))
    yield b"3\n\n" + claim
    yield b"3\n" + CUSTOMER.encode() + b"\n" + _world().profile
    yield b"12\nbudget:x\n" + msgspec.msgpack.encode(Spending({1: 2.5}))


@cache
def _copy() -> Copy:
    store = open_store(_directory(), _MEMORY, lambda _: None)
    assert store is not None
    _LEFT.callback(store.close)
    copy = store.copy(0, {"profiles": None}, {"profiles": Lineage("topic", 1 << 40)}, NOW_MS)
    assert copy is not None
    return copy


def _directory() -> Path:
    """A new directory, which goes when the process ends in order."""
    directory = Path(tempfile.mkdtemp(prefix="batuta-fuzz-"))
    _LEFT.callback(shutil.rmtree, directory)
    return directory


def copy_marks(data: bytes) -> None:
    """What a local copy says about itself: believed, or the copy is thrown away."""
    copy = _copy()
    copy._database._rdict.put(copy._key, data)  # noqa: SLF001 - as a damaged disk would have it
    copy.marks = {}
    copy.open(NOW_MS)
    for mark in copy.marks.values():
        assert isinstance(mark, Mark)


def copy_seeds() -> Iterable[bytes]:
    """A mark as it is written."""
    claim = Claim("worker", 3, "process")
    mark = Mark(17, NOW_MS, 3, 1, claim, {b"key"})
    yield msgspec.msgpack.encode([1, {"profiles": "topic"}, {"profiles": mark}])


# --- Learning ---


def examples(data: bytes) -> None:
    """An example of a decision."""
    try:
        example = decode_example(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return
    assert decode_example(msgspec.json.encode(example)) == example


def example_seeds() -> Iterable[bytes]:
    """One with every field."""
    yield msgspec.json.encode(
        {
            "exampleId": "d:closed",
            "model": "m",
            "stage": "closed",
            "label": "positive",
            "reward": 1.0,
            "previous": 0.0,
            "late": False,
            "decisionId": "d",
            "customerId": CUSTOMER,
            "group": "g",
            "action": "a",
            "treatment": "t",
            "channel": "push",
            "prior": 0.1,
            "propensity": 0.2,
            "version": "v",
            "probability": 0.3,
            "schema": "s",
            "features": [1.5, "x", None, True],
            "actionSchema": "s",
            "actionFeatures": [],
            "decidedMs": 1,
            "atMs": 2,
            "windowMs": 3,
        }
    )


def snapshots(data: bytes) -> None:
    """A snapshot as it came, and one whose seal is right and whose content is not."""
    for sealed in (data, seal(data, None, "snapshot"), seal(data, _KEY, "snapshot")):
        for key in (None, _KEY):
            decode(sealed, key, _LIMIT)


def snapshot_seeds() -> Iterable[bytes]:
    """One as published, and its content."""
    snapshot = Snapshot(
        model="m",
        version="v",
        learner="bayesian-linear",
        slots=("a",),
        schema="s",
        action_slots=(),
        action_schema="s",
        exported=b"x",
        pickled=False,
        status="serving",
        evidence={},
        maturity={},
        examples=1,
        at_ms=1,
    )
    yield encode(snapshot, None)
    yield msgspec.msgpack.encode(snapshot)


def states(data: bytes) -> None:
    """A learner's state, and one whose seal is right; and a report."""
    for sealed in (data, seal(data, None), seal(data, _KEY)):
        for key in (None, _KEY):
            decode_state(sealed, key, "m", 0, pickled=False, limit_bytes=_LIMIT)
    decode_report(data)


def state_seeds() -> Iterable[bytes]:
    """A state sealed, and its content; a report."""
    state = TrainingState("m", 0, 1, b"x")
    yield encode_state(state, None)
    yield msgspec.msgpack.encode(state)
    yield msgspec.json.encode(Report(0, NOW_MS, {"m": {"learned": 1}}))


# --- Configuration ---


@cache
def _configured() -> Path:
    return _directory()


def configuration(data: bytes) -> None:
    """A file of a configuration: compiled, or its faults are told."""
    path = _configured()
    (path / "any.yaml").write_bytes(data)
    checked = check_directory(path)
    assert (checked.repertoire is None) == bool(checked.faults)


def configuration_seeds() -> Iterable[bytes]:
    """The files of the retail repertoire."""
    yield from (path.read_bytes() for path in sorted((REPERTOIRES / "retail").glob("*.yaml")))


TARGETS: Mapping[str, Target] = {
    "records": Target(records, record_seeds),
    "profiles": Target(profiles, lambda: [_world().profile]),
    "small-states": Target(small_states, small_seeds),
    "changelog-records": Target(changelog_records, changelog_seeds),
    "copy-marks": Target(copy_marks, copy_seeds),
    "examples": Target(examples, example_seeds),
    "snapshots": Target(snapshots, snapshot_seeds),
    "states": Target(states, state_seeds),
    "configuration": Target(configuration, configuration_seeds),
}
"""By name."""


def world() -> None:
    """Make what targets share, before coverage is looked at."""
    _world()
    load_directory(REPERTOIRES / "retail")
