"""Snapshots travel through Kafka: what was damaged, forged or is too large is refused, never read."""

from __future__ import annotations

import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import snapshot as snapshots
from models.learner import Arm
from models.snapshot import Evidence, Refusal, Snapshot, decode, encode, seal, unseal

KEY = b"the key of the deployment"
KEYS = (None, KEY)


def a_snapshot(**changes) -> Snapshot:
    """A small one."""
    arm = Arm("mobile", "upgrade", "upgrade-email")
    given = {
        "model": "offers",
        "version": "main.17.0badcafe",
        "learner": "rates",
        "slots": ("age", "age?"),
        "schema": "f1",
        "action_slots": (),
        "action_schema": "none",
        "exported": b"\x01\x02\x03",
        "pickled": False,
        "status": "serving",
        "evidence": {arm: Evidence(17, 3)},
        "maturity": {arm: 0.75},
        "examples": 17,
        "at_ms": 1_700_000_000_000,
    }
    return Snapshot(**{**given, **changes})


class Bomb:
    """Notes that it was unpickled."""

    went_off = False

    def __reduce__(self):
        return _go_off, ()


def _go_off() -> None:
    Bomb.went_off = True


def _code(found: object) -> str:
    assert isinstance(found, Refusal), found
    assert found.reason
    return found.code


@pytest.mark.parametrize("key", KEYS)
def test_what_was_encoded_is_decoded(key):
    """To the last field, with a key and without."""
    snapshot = a_snapshot()
    assert decode(encode(snapshot, key), key, pickled=()) == snapshot


@pytest.mark.parametrize("key", KEYS)
def test_every_flipped_bit_is_refused(key):
    """Wherever it is, and by a reader with a key as by one without; no exception."""
    sealed = encode(a_snapshot(), key)
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        for reader in KEYS:
            _code(decode(bytes(flipped), reader, pickled=()))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data):
    """Bytes nobody sealed are no snapshot and no state."""
    for key in KEYS:
        _code(decode(data, key, pickled=()))
        _code(unseal(data, key))


@given(st.binary(max_size=300), st.sampled_from(KEYS))
def test_a_seal_around_no_snapshot_does_not_make_it_one(data, key):
    """Well sealed and still not readable."""
    assert _code(decode(seal(data, key, "snapshot"), key, pickled=())) == "malformed"


@given(st.data())
def test_a_truncated_or_prolonged_record_is_refused(data):
    """Nor may anything be missing or follow."""
    sealed = encode(a_snapshot(), KEY)
    cut = data.draw(st.integers(0, len(sealed) - 1))
    more = data.draw(st.binary(min_size=1, max_size=20))
    _code(decode(sealed[:cut], KEY, pickled=()))
    _code(decode(sealed + more, KEY, pickled=()))


@given(st.binary(max_size=200), st.sampled_from(KEYS), st.booleans())
def test_what_was_sealed_is_unsealed(data, key, pickled):
    """Unless it may be pickled and there is no key to trust it by."""
    found = unseal(seal(data, key), key, pickled=pickled)
    if key is None and pickled:
        assert _code(found) == "unsigned"
    else:
        assert found == data


def test_a_key_asks_for_a_signature_of_that_key():
    """Unsigned, signed with another key: refused by name; without a key a signature cannot be checked."""
    snapshot = a_snapshot()
    assert _code(decode(encode(snapshot, None), KEY, pickled=())) == "unsigned"
    assert _code(decode(encode(snapshot, b"another"), KEY, pickled=())) == "signature"
    assert decode(encode(snapshot, b"another"), None, pickled=()) == snapshot


def test_a_seal_holds_for_its_purpose_alone():
    """A state that was signed is not accepted as a snapshot."""
    body = msgspec.msgpack.encode(a_snapshot())
    for key in KEYS:
        assert _code(decode(seal(body, key, "state"), key, pickled=())) == "digest"


@pytest.mark.parametrize("admitted", [True, False])
def test_pickles_pass_only_when_signed(admitted):
    """Whether the record admits to holding pickles, or only its kind of learner gives it away; none is read."""
    bomb = a_snapshot(exported=pickle.dumps(Bomb()), pickled=admitted, learner="tree")
    assert _code(decode(encode(bomb, None), None, pickled=("tree",))) == "unsigned"
    assert _code(decode(encode(bomb, None), KEY, pickled=("tree",))) == "unsigned"
    assert _code(decode(encode(bomb, b"another"), KEY, pickled=("tree",))) == "signature"
    assert decode(encode(bomb, KEY), KEY, pickled=("tree",)) == bomb
    assert not Bomb.went_off


def test_the_registry_says_which_kinds_are_pickled(monkeypatch):
    """Unless told otherwise."""
    monkeypatch.setattr(snapshots, "LEARNERS", {"tree": Bomb, "rates": Bomb})
    monkeypatch.setattr(Bomb, "pickled", True, raising=False)
    assert _code(decode(encode(a_snapshot(), None), None)) == "unsigned"
    monkeypatch.setattr(Bomb, "pickled", False)
    assert decode(encode(a_snapshot(), None), None) == a_snapshot()


def test_too_large_is_refused_unread():
    """At the limit it passes, a byte above it does not."""
    sealed = encode(a_snapshot(), KEY)
    assert decode(sealed, KEY, len(sealed), pickled=()) == a_snapshot()
    assert _code(decode(sealed, KEY, len(sealed) - 1, pickled=())) == "too-large"


def test_another_envelope_is_refused_by_its_version(monkeypatch):
    """So that an older worker says what is wrong."""
    monkeypatch.setattr(snapshots, "ENVELOPE", 2)
    sealed = encode(a_snapshot(), KEY)
    monkeypatch.undo()
    assert _code(decode(sealed, KEY, pickled=())) == "version"


def test_another_schema_is_refused():
    """Of customers' features or of actions'; not asked for, any is taken."""
    sealed = encode(a_snapshot(), None)
    assert decode(sealed, None, schema="f1", action_schema="none", pickled=()) == a_snapshot()
    assert _code(decode(sealed, None, schema="f2", action_schema="none", pickled=())) == "schema"
    assert _code(decode(sealed, None, schema="f1", action_schema="a2", pickled=())) == "schema"


def test_an_empty_key_is_no_key():
    """A deployment whose key is set to nothing would sign what anybody can forge."""
    with pytest.raises(ValueError, match="empty"):
        seal(b"state", b"")
