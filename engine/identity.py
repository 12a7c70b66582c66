"""Identify: any identifier of a signal → the canonical customer, and how identifiers of one person come together.

Every identifier has a key, and the partition that owns the key decides about it, alone and in order:

* A key nobody linked is its own canonical customer id. A user id's key is the user id itself, others are
  `kind:value`, so that an anonymous id can never pass for a user id.
* A signal is worked on by its strongest identifier. Seen on a partition that does not own that key, or whose
  key redirects elsewhere, it is republished on `customers`.
* A customer seen with a further identifier claims it by a message on `links`, sent to that key's partition.
  There the first claim wins: the key redirects to the customer, and what was known under it is sent to the
  customer once, as a merge. A later claim by another user is refused: the identifier stays with the first,
  demoted instead of two people merged (Segment, "Identity Resolution"; Unomi's merge rule, step 3).
* Redirects of keys that had a profile go from the weaker to the stronger key, and a key without one never
  claimed anything: so redirects cannot form a circle, whatever `alias` signals contradict each other.
* Only `alias` makes two user ids one. Which of them is the key of the profile follows from their order;
  `Profile.known_as`, which decisions carry, is the user id that the latest alias introduced.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Protocol

import msgspec

from engine.profile import Profile, note_identifier
from engine.repertoire import IdentifierKind, IdentityRules
from engine.signal import Signal

USER_ID = "userId"
ANONYMOUS_ID = "anonymousId"
EXTERNAL_ID = "externalId"
"""Prefix of keys whose kind the configuration does not list."""
BUDGET = "budget"
"""Prefix of keys that are no identifiers but lie in the same changelog."""

_UNLISTED = IdentifierKind(kind="*")


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """To whom an identifier redirects, since when, and by which claim (its offset in `links`)."""

    canonical: str
    since_ms: int
    claim_offset: int


class Identifier(msgspec.Struct, frozen=True, gc=False):
    """An identifier: its kind and the key that stands for it everywhere."""

    kind: str
    key: str


class Identities(Protocol):
    """What settling needs of a partition's state."""

    @property
    def identities(self) -> MutableMapping[str, Identity]:
        """Identifier key → redirect."""
        ...

    @property
    def profiles(self) -> MutableMapping[str, Profile]:
        """Canonical customer id → profile."""
        ...


def identifier_key(kind: str, value: str, rules: IdentityRules) -> str:
    """The key of an identifier; a user id's is the id itself, unless that begins like a key with a kind."""
    if kind == USER_ID:
        return f"{USER_ID}:{value}" if _prefix(value, rules) else value
    if _is_listed(kind, rules):
        return f"{kind}:{value}"
    return f"{EXTERNAL_ID}:{kind.replace('%', '%25').replace(':', '%3A')}:{value}"


def kind_of(key: str, rules: IdentityRules) -> str:
    """The kind of identifier a key stands for."""
    return _prefix(key, rules) or USER_ID


def _prefix(text: str, rules: IdentityRules) -> str:
    """The kind a text names before its first colon, or nothing."""
    prefix, colon, _ = text.partition(":")
    return prefix if colon and (prefix in (EXTERNAL_ID, BUDGET) or _is_listed(prefix, rules)) else ""


def _is_listed(kind: str, rules: IdentityRules) -> bool:
    """Whether a kind's own name begins its keys; one with a colon in it would not be found again."""
    if kind in (USER_ID, ANONYMOUS_ID):
        return True
    return kind in rules.places and kind != EXTERNAL_ID and ":" not in kind


def rank(key: str, rules: IdentityRules) -> tuple[int, str]:
    """Orders keys from strong to weak: by the configured priority of their kind, then by name.

    User ids come first and other kinds last where the configuration does not list them.
    """
    kind = kind_of(key, rules)
    return rules.places.get(kind, -1 if kind == USER_ID else len(rules.kinds)), key


def identifiers_of(signal: Signal, rules: IdentityRules) -> list[Identifier]:
    """The usable identifiers of a signal, strongest first; blocked values (D11) are left out.

    A signal has one user id: `externalIds` of that kind count only where `userId` names nobody.
    """
    named: list[tuple[str, str | None]] = [(USER_ID, signal.user_id), (ANONYMOUS_ID, signal.anonymous_id)]
    if signal.external_ids:
        named += [(each.type, each.id) for each in signal.external_ids]
    found: dict[str, Identifier] = {}
    user = None
    for kind, value in named:
        if value and not (kind == USER_ID and user) and not is_blocked(value, rules):
            key = identifier_key(kind, value, rules)
            found[key] = Identifier(kind, key)
            user = user or (key if kind == USER_ID else None)
    return sorted(found.values(), key=lambda each: rank(each.key, rules)) if len(found) > 1 else [*found.values()]


def previous_identifiers(signal: Signal, rules: IdentityRules) -> list[Identifier]:
    """What an `alias` replaces: its previous id as a user id and, as many libraries send that, as an anonymous one."""
    value = signal.previous_id
    if signal.type != "alias" or not value or is_blocked(value, rules):
        return []
    return [Identifier(kind, identifier_key(kind, value, rules)) for kind in (USER_ID, ANONYMOUS_ID)]


def is_blocked(value: str, rules: IdentityRules) -> bool:
    """Whether a value names nobody: `null`, `anonymous`, zeros … (Segment, "Blocked values")."""
    for pattern in rules.blocked:  # noqa: SIM110 - asked for every identifier of every signal: twice as fast
        if pattern.search(value):
            return True
    return False


# --- Claiming ---


class Claim(msgspec.Struct, frozen=True):
    """A customer's claim to an identifier: the value of `batuta.links`. `explicit`: an `alias` asked for it."""

    identifier: str
    customer_id: str
    explicit: bool = False


class Demoted(msgspec.Struct, frozen=True):
    """An identifier that is not claimed, and why."""

    reason: str


def admit(
    profile: Profile,
    identifier: Identifier,
    at_ms: int,
    rules: IdentityRules,
    *,
    explicit: bool = False,
    again: bool = False,
) -> Claim | Demoted | None:
    """What to do with a further identifier of a customer; None: it is known already, and not to be claimed `again`.

    One over the limit of its kind is demoted: left out, without touching whom it belongs to (D11). An `explicit`
    request, an `alias`, is not limited.
    """
    key = identifier.key
    if key == profile.customer_id:
        return None
    known = key in profile.identifiers
    if not known and not explicit:
        limit = _limit_of(identifier.kind, rules)
        since = None if limit.window_ms is None else at_ms - limit.window_ms
        same_kind = [each for each in profile.identifiers.values() if each.kind == identifier.kind and not each.refused]
        held = sum(since is None or each.first_ms >= since for each in same_kind)
        if held >= limit.limit:
            return Demoted(f"{held} of {limit.limit} {identifier.kind} are already known")
    seen = note_identifier(profile, key, identifier.kind, at_ms, at_ms)
    if known and not again:
        return None
    seen.refused = False
    return Claim(key, profile.customer_id, explicit)


def _limit_of(kind: str, rules: IdentityRules) -> IdentifierKind:
    return rules.kinds[rules.places[kind]] if kind in rules.places else _UNLISTED


def refuse(profile: Profile, key: str) -> None:
    """Remember that an identifier belongs to somebody else, so as not to claim it again and again."""
    seen = profile.identifiers.get(key)
    if seen is not None and not seen.refused:
        seen.refused = True
        profile.drop("identifiers_refused")


def rename(profile: Profile, signal: Signal, rules: IdentityRules) -> None:
    """Let an `alias` say what its customer is called from its time on, if the customer has that user id."""
    if signal.type == "alias" and signal.user_id:
        key = identifier_key(USER_ID, signal.user_id, rules)
        seen = profile.identifiers.get(key)
        if key == profile.customer_id or (seen is not None and not seen.refused):
            profile.alias = max(profile.alias or (signal.time_ms, key), (signal.time_ms, key))


class Settlement(msgspec.Struct, frozen=True):
    """How a claim was settled at the identifier's own partition.

    `moved`: the profile known under the identifier so far is the claimant's from here on. `adopt`: (stronger,
    weaker) customers who turned out to be one person, for the stronger to claim the weaker. `refused`: the
    identifier belongs to another known customer.
    """

    moved: bool = False
    adopt: tuple[str, str] | None = None
    refused: bool = False


def settle(state: Identities, claim: Claim, at_ms: int, offset: int, rules: IdentityRules) -> Settlement:
    """Settle a claim read at an offset: the first one to an identifier wins, and what was known under it moves."""
    key, claimant = claim.identifier, claim.customer_id
    redirect = state.identities.get(key)
    owner = key if redirect is None else redirect.canonical
    if owner == claimant:
        return Settlement()
    users = kind_of(owner, rules) == USER_ID and kind_of(claimant, rules) == USER_ID
    if users and not (claim.explicit and kind_of(key, rules) == USER_ID):
        return Settlement(refused=True)
    known = key in state.profiles
    stronger, weaker = sorted((owner, claimant), key=lambda each: rank(each, rules))
    if redirect is None and (stronger == claimant or not known):
        state.identities[key] = Identity(claimant, at_ms, offset)
        return Settlement(moved=known)
    return Settlement(adopt=(stronger, weaker))
