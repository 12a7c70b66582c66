"""Snapshots: what a learner publishes for the workers to score by, sealed so that a bad one is refused.

A sealed record is a msgpack envelope of a version, a digest, a signature where the deployment has a key, and what it
carries. The digest (BLAKE2b) finds damage, the signature (HMAC-SHA256, RFC 2104) forgery. It does not find an older
signed record of the same purpose that is sent again.
Whatever may be unpickled is handed out only after its signature was verified.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

import msgspec

from models.learner import Arm
from models.registry import LEARNERS

ENVELOPE = 1
"""Version of the envelope."""
LIMIT_BYTES = 16 << 20
"""A sealed record may have this many bytes unless the caller says otherwise."""
Status = Literal["serving", "tripped"]
Code = Literal["malformed", "too-large", "digest", "unsigned", "signature", "schema", "version"]


class Refusal(msgspec.Struct, frozen=True):
    """Why something sealed is not used."""

    code: Code
    reason: str


class Evidence(NamedTuple):
    """What a learner knows of one arm: decisions learned from, and how many of them brought a reward."""

    examples: int = 0
    positives: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model, for serving.

    `version`: id of the learner, number of examples, digest of how it came about; what is `tripped` begins with
    "tripped.", and its propensities are to be taken from the priors. `learner`: its kind. `slots`, `action_slots`:
    names of the entries of x and action_x that `exported` was learned with, of the schemas `schema` and
    `action_schema`. `pickled`: `exported` holds pickles. `evidence`: of the arms seen. `maturity`: above 0, what an
    arm's propensity is divided by, since some of its rewards are still to come (`trainee`); an arm not named is mature.
    `examples`: how many the model has learned from. `at_ms`: epoch ms it was made. `health`: numbers for the metrics.
    """

    model: str
    version: str
    learner: str
    slots: tuple[str, ...]
    schema: str
    action_slots: tuple[str, ...]
    action_schema: str
    exported: bytes
    pickled: bool
    status: Status
    evidence: Mapping[Arm, Evidence]
    maturity: Mapping[Arm, float]
    examples: int
    at_ms: int
    health: Mapping[str, float] = {}


class _Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    digest: bytes
    signature: bytes
    body: bytes


_envelopes = msgspec.msgpack.Decoder(_Envelope)
_snapshots = msgspec.msgpack.Decoder(Snapshot)


# --- Any bytes ---


def seal(data: bytes, key: bytes | None, purpose: str = "state") -> bytes:
    """Put bytes under a digest, and under a signature when there is a key.

    What was sealed for one purpose is refused for any other. ValueError for an empty key.
    """
    signature = b"" if key is None else _signature(key, purpose, data)
    digest = _digest(purpose, signature, data)
    return msgspec.msgpack.encode(_Envelope(ENVELOPE, digest, signature, data))


def unseal(
    sealed: bytes, key: bytes | None, *, pickled: bool = False, limit_bytes: int = LIMIT_BYTES, purpose: str = "state"
) -> bytes | Refusal:
    """What was sealed for `purpose`, or why not; never an exception.

    With a key only what is signed with it passes. Without one a signature is not looked at, and nothing passes that
    may be `pickled`.
    """
    if len(sealed) > limit_bytes:
        return Refusal("too-large", f"{len(sealed)} bytes, at most {limit_bytes} are read")
    try:
        envelope = _envelopes.decode(sealed)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as fault:
        return Refusal("malformed", f"not an envelope: {fault}")
    if envelope.version != ENVELOPE:
        return Refusal("version", f"envelope {envelope.version}, this program reads {ENVELOPE}")
    if not hmac.compare_digest(envelope.digest, _digest(purpose, envelope.signature, envelope.body)):
        return Refusal("digest", f"damaged, or sealed for something else than a {purpose}")
    return _distrust(envelope, key, purpose, pickled=pickled) or envelope.body


def _distrust(envelope: _Envelope, key: bytes | None, purpose: str, *, pickled: bool) -> Refusal | None:
    if key is None:
        return Refusal("unsigned", "pickles are read only with the deployment's key") if pickled else None
    if not envelope.signature:
        return Refusal("unsigned", "the deployment has a key, this was sealed without one")
    if not hmac.compare_digest(envelope.signature, _signature(key, purpose, envelope.body)):
        return Refusal("signature", "signed with another key than the deployment's")
    return None


def _signature(key: bytes, purpose: str, data: bytes) -> bytes:
    if not key:
        raise ValueError("the deployment's key is empty: give one of 16 bytes or more, or none at all")
    return hmac.digest(key, b"%d %s\0" % (ENVELOPE, purpose.encode()) + data, "sha256")


def _digest(purpose: str, signature: bytes, data: bytes) -> bytes:
    digest = hashlib.blake2b(b"%d %s\0%d\0" % (ENVELOPE, purpose.encode(), len(signature)), digest_size=32)
    digest.update(signature)
    digest.update(data)
    return digest.digest()


# --- Snapshots ---


def encode(snapshot: Snapshot, key: bytes | None) -> bytes:
    """The value of a record on `batuta.models`; read it with `decode`."""
    return seal(msgspec.msgpack.encode(snapshot), key, "snapshot")


def decode(
    data: bytes,
    key: bytes | None,
    limit_bytes: int = LIMIT_BYTES,
    *,
    schema: str | None = None,
    action_schema: str | None = None,
    pickled: Collection[str] | None = None,
) -> Snapshot | Refusal:
    """The snapshot in a record of `batuta.models`, or why it is not to be used; never an exception.

    Refused unless of the schemas named, where any are. `pickled`: the kinds of learners whose exports hold pickles,
    those of the registry unless given: what a snapshot says of itself is not enough, since it may be forged.
    """
    body = unseal(data, key, limit_bytes=limit_bytes, purpose="snapshot")
    if isinstance(body, Refusal):
        return body
    try:
        snapshot = _snapshots.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as fault:
        return Refusal("malformed", f"not a snapshot: {fault}")
    kinds = _pickled_kinds() if pickled is None else pickled
    if key is None and (snapshot.pickled or snapshot.learner in kinds):
        return Refusal("unsigned", f"{snapshot.learner} holds pickles, which are read only with the deployment's key")
    return _other_schema(snapshot, schema, action_schema) or snapshot


def _pickled_kinds() -> Collection[str]:
    return {kind for kind, learner in LEARNERS.items() if learner.pickled}


def _other_schema(snapshot: Snapshot, schema: str | None, action_schema: str | None) -> Refusal | None:
    for name, found, expected in (
        ("features", snapshot.schema, schema),
        ("action features", snapshot.action_schema, action_schema),
    ):
        if expected is not None and found != expected:
            return Refusal("schema", f"{snapshot.model} learned {name} {found}, this configuration has {expected}")
    return None
