"""Workers take a snapshot that is good and newer, refuse any other, and go on with what they have."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import model_feed
from agents.metrics import Metrics, exposition
from agents.model_feed import ModelFeed
from agents.model_topic import Report, Standing, report_key, state_key
from agents.settings import Settings
from models.snapshot import Snapshot, encode
from tests.agents.teaching import Noting, a_repertoire, an_example, headers_of, taught

KEY = "a secret of this deployment"
FIRST = Standing(1, 1, 1)
SNAPSHOT = taught(map(an_example, range(8))).snapshot(1_767_700_000_000)


class Fed:
    """A feed without a connection, its target and its metrics."""

    def __init__(self, **settings: Any) -> None:
        self.target, self.metrics = Noting(), Metrics()
        self.feed = ModelFeed(Settings(**settings), a_repertoire(), self.target, self.metrics)

    async def take(self, *records: Any) -> None:
        """Have one batch of records arrive."""
        await self.feed._install_all(self.feed._newest(records, {}))

    def results(self) -> dict[str, int]:
        """What became of the snapshots of `offers`."""
        return {
            result: count
            for (model, result), count in self.metrics._counts["model_snapshots"].items()
            if model == "offers"
        }


def a_record(value: bytes | None, standing: Standing = FIRST, key: bytes = b"offers") -> Any:
    """One record of `batuta.models`."""
    return SimpleNamespace(key=key, value=value, headers=standing.headers())


def snapshot(**changes: Any) -> Snapshot:
    """A good snapshot, or what the changes make of it."""
    return msgspec.structs.replace(SNAPSHOT, **changes)


async def test_newest_of_a_batch_is_installed():
    """Of several snapshots that arrive together, only the one that counts most is decoded and installed."""
    fed = Fed()
    values = [encode(snapshot(examples=number), None) for number in (1, 2, 3)]
    standings = [Standing(1, 1, 1), Standing(2, 1, 9), Standing(1, 9, 9)]
    await fed.take(*(a_record(value, standing) for value, standing in zip(values, standings, strict=True)))
    assert fed.target.installed["offers"].examples == 2
    assert fed.results() == {"installed": 1, "outdated": 1}


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 5)).map(Standing._make), min_size=1))
async def test_a_worker_never_goes_back(standings: Sequence[Standing]):
    """In whatever order snapshots arrive, what is installed is the highest so far, and finally that of all."""
    fed = Fed()
    installed = Standing()
    for each in standings:
        await fed.take(a_record(encode(snapshot(version=f"{each}"), None), each))
        installed = max(installed, each)
        assert fed.target.installed["offers"].version == f"{installed}"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"", "malformed"),
        (encode(SNAPSHOT, None)[:-1] + b"!", "digest"),
        (encode(snapshot(exported=b"x" * 20_000), None), "too-large"),
        (encode(snapshot(schema="f0"), None), "schema"),
        (encode(snapshot(action_schema="f0"), None), "schema"),
        (encode(snapshot(pickled=True), None), "unsigned"),
        (encode(snapshot(model="content"), None), "malformed"),
        (encode(snapshot(examples=-1), None), "malformed"),
    ],
)
async def test_a_bad_snapshot_is_refused_and_the_old_one_serves_on(value, code, caplog):
    """It is counted by why, said in one line however often it comes, and a later good one is installed."""
    fed = Fed(snapshot_bytes=16_384)
    await fed.take(a_record(encode(snapshot(), None)))
    for _ in range(3):
        await fed.take(a_record(value, Standing(5, 1, 1)))
    assert fed.target.installed["offers"] == snapshot()
    assert fed.results() == {"installed": 1, code: 3}
    assert caplog.text.count("a snapshot is refused") == 1
    await fed.take(a_record(encode(snapshot(examples=9), None), Standing(1, 1, 2)))
    assert fed.target.installed["offers"].examples == 9


async def test_with_a_key_only_what_is_signed_is_read():
    """An unsigned snapshot, or one signed with another key, is refused; a signed one is installed."""
    fed = Fed(model_key=KEY)
    await fed.take(a_record(encode(snapshot(), None)))
    await fed.take(a_record(encode(snapshot(), b"some other key of somebody")))
    assert "offers" not in fed.target.installed
    await fed.take(a_record(encode(snapshot(), KEY.encode())))
    assert fed.results() == {"unsigned": 1, "signature": 1, "installed": 1}


async def test_states_and_strangers_are_passed_over():
    """Training states are skipped by their key, undecoded; so are models this configuration does not have."""
    fed = Fed()
    records = [a_record(b"x", key=key) for key in (state_key("offers"), b"weather", b"", b"#report/1")]
    await fed.take(*records, a_record(None), SimpleNamespace(key=None, value=b"x", headers=()))
    assert (fed.target.installed, fed.results()) == ({}, {})


async def test_large_snapshots_are_prepared_beside_the_loop(monkeypatch):
    """From a certain size on decoding and binding happen in a thread, the swap always on the loop's own."""
    fed, threads = Fed(), []
    monkeypatch.setattr(fed.target, "bind", lambda snapshot: threads.append(threading.current_thread()) or snapshot)
    await fed.take(a_record(encode(snapshot(exported=b"x" * model_feed.LARGE_BYTES), None)))
    await fed.take(a_record(encode(snapshot(exported=b""), None)))
    assert threads[0] is not threading.main_thread()
    assert threads[1] is threading.main_thread()
    assert fed.results() == {"installed": 2}


class Topic:
    """`batuta.models` with some records in it, as a started consumer sees it; broken once they are read."""

    def __init__(self, *records: Any) -> None:
        self._records = list(records)
        self._read = 0

    def assignment(self) -> set[int]:
        """Its one partition."""
        return {0}

    async def end_offsets(self, partitions: list[int]) -> dict[int, int]:
        """Where it ends."""
        return dict.fromkeys(partitions, len(self._records))

    async def position(self, at: int) -> int:
        """Where it is read on."""
        return self._read + at

    async def getmany(self, at: int = 0, **_: Any) -> dict[int, list[Any]]:
        """The next record."""
        if self._read == len(self._records):
            raise OSError("the topic is gone")
        self._read += 1
        return {at: self._records[self._read - 1 : self._read]}

    async def stop(self) -> None:
        """Nothing to close."""


async def test_what_there_is_is_loaded_and_an_end_of_following_is_told(monkeypatch):
    """When `start` returns, the newest version of each model serves; a feed that breaks later says so."""
    fed, told, ended = Fed(), [], asyncio.Event()
    values = [encode(snapshot(examples=number), None) for number in (1, 2, 3)]
    topic = Topic(a_record(values[0]), a_record(values[2], Standing(2, 1, 1)), a_record(values[1], Standing(1, 1, 2)))

    async def opened(bootstrap: str, name: str) -> Topic:
        told.append((bootstrap, name))
        return topic

    def fail(what: str, error: BaseException) -> None:
        told.append((what, str(error)))
        ended.set()

    monkeypatch.setattr(model_feed, "open_topic", opened)
    await fed.feed.start(fail)
    assert fed.target.installed["offers"].examples == 3
    assert fed.results() == {"outdated": 1, "installed": 1}
    await ended.wait()
    assert told == [("127.0.0.1:9092", "batuta.models"), ("following the models", "the topic is gone")]
    await fed.feed.stop()


async def test_metrics_tell_of_models_and_learners():
    """Age, examples, health and state of what is served; the learners' counts summed over partitions."""
    fed = Fed()
    health = {"logloss": 0.5, "base_logloss": 0.6, "auc": 0.7, "calibration_error": 0.01, "drift": 2.0}
    reports = [Report(n, 0, {"offers": {"learned": 5}, "other": {"malformed": n}}) for n in (0, 1)]
    await fed.take(
        a_record(encode(snapshot(status="tripped", health=health), None)),
        *(a_record(msgspec.json.encode(each), key=report_key(each.partition)) for each in reports),
    )
    shown = exposition(fed.metrics).decode()
    for line in (
        'batuta_model_examples{model="offers"} 8.0',
        'batuta_model_tripped{model="offers"} 1.0',
        'batuta_model_logloss{model="offers"} 0.5',
        'batuta_model_base_logloss{model="offers"} 0.6',
        'batuta_model_auc{model="offers"} 0.7',
        'batuta_model_calibration_error{model="offers"} 0.01',
        'batuta_model_drift_total{model="offers"} 2.0',
        'batuta_learning_results_total{model="offers",result="learned"} 10.0',
        'batuta_learning_results_total{model="other",result="malformed"} 1.0',
        'batuta_model_snapshots_total{model="offers",result="installed"} 1.0',
    ):
        assert line in shown
    age = fed.feed.gauges()["model_age_seconds"]["offers",]
    assert age > 0


def test_headers_say_who_wrote():
    """The headers are three numbers in text, so that any client can read them."""
    assert headers_of(3, 7, 11) == (("batuta-epoch", b"3"), ("batuta-generation", b"7"), ("batuta-offset", b"11"))
