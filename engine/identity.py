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
* Redirects go from the weaker to the stronger key, so they cannot form a circle; only `alias`, which says
  which user id replaces which, can. A message that comes round a circle is kept by its smallest key.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Protocol

import msgspec

from engine.profile import Outbound, Profile, note_identifier
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
    """To whom an identifier redirects, and since when.

    `moved`: what was sent when its profile moved there, kept until the claim that moved it is committed, so that
    a redelivered claim sends the same again.
    """

    canonical: str
    since_ms: int
    moved: tuple[Outbound, ...] = ()


class Identifier(msgspec.Struct, frozen=True):
    """An identifier: its kind and the key that stands for it everywhere."""

    kind: str
    key: str


class Identities(Protocol):
    """What resolving needs of a partition's state."""

    @property
    def identities(self) -> MutableMapping[str, Identity]:
        """Identifier key → redirect."""
        ...

    @property
    def profiles(self) -> MutableMapping[str, Profile]:
        """Canonical customer id → profile."""
        ...


def identifier_key(kind: str, value: str, rules: IdentityRules) -> str:
    """The key of an identifier; a user id's is the id itself, unless that would read as another kind's key."""
    if kind == USER_ID:
        return f"{USER_ID}:{value}" if kind_of(value, rules) != USER_ID else value
    return f"{kind}:{value}" if _is_listed(kind, rules) else f"{EXTERNAL_ID}:{kind}:{value}"


def kind_of(key: str, rules: IdentityRules) -> str:
    """The kind of identifier a key stands for."""
    prefix, colon, _ = key.partition(":")
    return prefix if colon and (prefix in (EXTERNAL_ID, BUDGET) or _is_listed(prefix, rules)) else USER_ID


def _is_listed(kind: str, rules: IdentityRules) -> bool:
    return kind in (USER_ID, ANONYMOUS_ID) or any(each.kind == kind for each in rules.kinds)


def rank(key: str, rules: IdentityRules) -> tuple[int, str]:
    """Orders keys from strong to weak: by the configured priority of their kind, then by name."""
    kind = kind_of(key, rules)
    place = next((at for at, each in enumerate(rules.kinds) if each.kind == kind), len(rules.kinds))
    return place, key


def identifiers_of(signal: Signal, rules: IdentityRules) -> list[Identifier]:
    """The usable identifiers of a signal, strongest first; blocked values (D11) are left out."""
    named: list[tuple[str, str | None]] = [(USER_ID, signal.user_id), (ANONYMOUS_ID, signal.anonymous_id)]
    named += [(each.type, each.id) for each in signal.external_ids]
    found = {}
    for kind, value in named:
        if value and not is_blocked(value, rules):
            key = identifier_key(kind, value, rules)
            found[key] = Identifier(kind, key)
    return sorted(found.values(), key=lambda each: rank(each.key, rules)) if len(found) > 1 else [*found.values()]


def previous_identifiers(signal: Signal, rules: IdentityRules) -> list[Identifier]:
    """What an `alias` replaces: its previous id as a user id and, as many libraries send that, as an anonymous one."""
    value = signal.previous_id
    if signal.type != "alias" or not value or is_blocked(value, rules):
        return []
    return [Identifier(kind, identifier_key(kind, value, rules)) for kind in (USER_ID, ANONYMOUS_ID)]


def is_blocked(value: str, rules: IdentityRules) -> bool:
    """Whether a value names nobody: `null`, `anonymous`, zeros … (Segment, "Blocked values")."""
    return any(pattern.search(value) for pattern in rules.blocked)


# --- Resolving ---


def resolve(state: Identities, key: str, hops: Iterable[str], rules: IdentityRules) -> str:
    """Follow one redirect of a key this partition owns; returns the key itself when it is canonical.

    `hops`: keys the message already came through. Ends a circle of aliases at its smallest key.
    """
    redirect = state.identities.get(key)
    if redirect is None:
        return key
    passed = list(hops)
    if key in passed and key == min(passed[passed.index(key) :], key=lambda each: rank(each, rules)):
        del state.identities[key]
        return key
    return redirect.canonical


# --- Claiming ---


class Claim(msgspec.Struct, frozen=True):
    """A customer's claim to an identifier: the value of `batuta.links`."""

    identifier: str
    customer_id: str
    at_ms: int


class Demoted(msgspec.Struct, frozen=True):
    """An identifier that is not claimed, and why."""

    reason: str


def admit(
    profile: Profile, identifier: Identifier, at_ms: int, rules: IdentityRules, *, explicit: bool = False
) -> Claim | Demoted | None:
    """What to do with a further identifier that came with a customer's signal; None: it is known already.

    One over the limit of its kind is demoted: left out, without touching whom it belongs to (D11). An `explicit`
    request, an `alias`, is not limited.
    """
    key = identifier.key
    if key == profile.customer_id:
        return None
    known = key in profile.identifiers
    if not known and not explicit:
        limit = _limit_of(identifier.kind, rules)
        since = 0 if limit.window_ms is None else at_ms - limit.window_ms
        same_kind = [each for each in profile.identifiers.values() if each.kind == identifier.kind]
        held = sum(each.first_ms >= since for each in same_kind)
        if held >= limit.limit:
            return Demoted(f"{held} of {limit.limit} {identifier.kind} are already known")
    note_identifier(profile, key, identifier.kind, at_ms, at_ms)
    return None if known else Claim(key, profile.customer_id, at_ms)


def _limit_of(kind: str, rules: IdentityRules) -> IdentifierKind:
    return next((each for each in rules.kinds if each.kind == kind), _UNLISTED)


class Settlement(msgspec.Struct, frozen=True):
    """How a claim was settled at the identifier's own partition.

    `merge`: the profile known under the identifier so far, the claimant's from here on. `adopt`: (stronger,
    weaker) customers who turned out to be one person, for the stronger to claim the weaker. `refused`: the
    identifier belongs to another known customer.
    """

    merge: Profile | None = None
    adopt: tuple[str, str] | None = None
    refused: bool = False


def settle(state: Identities, claim: Claim, rules: IdentityRules) -> Settlement:
    """Settle a claim: the first one to an identifier wins, and what was known under it moves once."""
    key, claimant = claim.identifier, claim.customer_id
    redirect = state.identities.get(key)
    if key == claimant or (redirect is not None and redirect.canonical == claimant):
        return Settlement()
    if redirect is None:
        state.identities[key] = Identity(claimant, claim.at_ms)
        return Settlement(merge=state.profiles.pop(key, None))
    owner = redirect.canonical
    if kind_of(owner, rules) == USER_ID and kind_of(claimant, rules) == USER_ID:
        return Settlement(refused=True)
    stronger, weaker = sorted((owner, claimant), key=lambda each: rank(each, rules))
    return Settlement(adopt=(stronger, weaker))
