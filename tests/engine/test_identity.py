"""Identity: which identifiers are one person, which never become one, and what a customer is called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.identity import (
    BUDGET,
    EXTERNAL_ID,
    USER_ID,
    Claim,
    Demoted,
    Identifier,
    Identity,
    Settlement,
    admit,
    identifier_key,
    identifiers_of,
    is_blocked,
    kind_of,
    previous_identifiers,
    rank,
    refuse,
    rename,
    settle,
)
from engine.profile import Profile, Seen
from engine.repertoire import IdentifierKind, IdentityRules
from engine.signal import ExternalId, Signal
from engine.state import MemoryState
from tests.engine.memory_broker import Broker
from tests.engine.strategies import IDS, TEXT
from tests.repertoires import DAY_MS, START_MS, Builder, identity_rules

RULES = identity_rules()
KINDS = st.sampled_from([USER_ID, "anonymousId", "email", "phone", "a:b", "a%3Ab", BUDGET, EXTERNAL_ID])
WEEKLY = IdentityRules(
    kinds=(IdentifierKind(kind=USER_ID, limit=1), IdentifierKind(kind="email", limit=1, window_ms=7 * DAY_MS)),
    blocked=(),
)


# --- Keys ---


@given(st.lists(st.tuples(KINDS, IDS | TEXT.filter(bool)), min_size=2, max_size=2, unique=True))
def test_two_identifiers_never_share_a_key(pair: list[tuple[str, str]]) -> None:
    """Whatever a user id looks like, and whatever colons a kind or a value has."""
    one, other = (identifier_key(kind, value, RULES) for kind, value in pair)
    assert one != other


@given(KINDS, IDS | TEXT.filter(bool))
def test_a_key_tells_its_kind(kind: str, value: str) -> None:
    """So that an anonymous id never passes for a user id; kinds nobody configured share one."""
    expected = kind if kind in (USER_ID, "anonymousId", "email") else EXTERNAL_ID
    assert kind_of(identifier_key(kind, value, RULES), RULES) == expected


def test_the_key_of_a_user_id_is_the_id() -> None:
    """Unless it begins as keys with a kind do; other colons and unknown kinds do not matter."""
    ids = ("u1", "a:b:c", "phone:1", ":", "email:x@y.z", "userId:u1", "budget:b", "externalId:x")
    keys = [identifier_key(USER_ID, each, RULES) for each in ids]
    assert keys == [*ids[:4], *(f"userId:{each}" for each in ids[4:])]


def test_strong_and_weak() -> None:
    """By the configured order of kinds, kinds nobody configured last, then by name; user ids first if not listed."""
    keys = ["u1", "u2", "email:a", "email:b", "anonymousId:a", "externalId:phone:1"]
    mixed = [*keys[3:], *keys[:3]]
    assert sorted(mixed, key=lambda each: rank(each, RULES)) == keys
    unlisted = IdentityRules(kinds=(IdentifierKind(kind="email"),), blocked=())
    assert sorted(mixed, key=lambda each: rank(each, unlisted)) == [*keys[:4], "anonymousId:a", keys[5]]


# --- The identifiers of a signal ---


def a(**fields: Any) -> Signal:
    """A signal with these identifiers."""
    return Signal("m", fields.pop("type", "track"), START_MS, "Go", **fields)


def keys_of(signal: Signal) -> list[str]:
    """The keys of its identifiers."""
    return [each.key for each in identifiers_of(signal, RULES)]


def test_identifiers_come_strongest_first_and_once() -> None:
    """With their kinds; one given twice is one."""
    external = (ExternalId("phone", "1"), ExternalId("email", "x"), ExternalId("email", "x"))
    found = identifiers_of(a(user_id="u1", anonymous_id="a1", external_ids=external), RULES)
    assert [each.key for each in found] == ["u1", "email:x", "anonymousId:a1", "externalId:phone:1"]
    assert [each.kind for each in found] == [USER_ID, "email", "anonymousId", "phone"]


@pytest.mark.parametrize("value", ["null", "anonymous", "-1", "0", "0000-00", "---", ""])
def test_blocked_values_name_nobody(value: str) -> None:
    """In every kind of identifier, and in an alias."""
    assert is_blocked(value, RULES)
    signal = a(
        type="alias", user_id="u1", anonymous_id=value, external_ids=(ExternalId("email", value),), previous_id=value
    )
    assert keys_of(signal) == ["u1"]
    assert previous_identifiers(signal, RULES) == []


def test_other_values_are_not_blocked() -> None:
    """Only whole values are, unless the pattern says otherwise."""
    assert not any(is_blocked(value, RULES) for value in ("nullable", "u-1", "00a0", "Null Island"))
    test_users = IdentityRules(kinds=(), blocked=(re.compile("test"),))
    assert is_blocked("my-test-user", test_users)


def test_a_signal_has_one_user_id() -> None:
    """Two user ids are one person only by alias: a second one among `externalIds` does not count."""
    two = (ExternalId(USER_ID, "u2"), ExternalId(USER_ID, "u3"))
    assert keys_of(a(user_id="u1", external_ids=two)) == ["u1"]
    assert keys_of(a(anonymous_id="a", external_ids=two)) == ["u2", "anonymousId:a"]
    assert keys_of(a(user_id="null", external_ids=two)) == ["u2"]


def test_an_alias_replaces_a_user_id_or_an_anonymous_one() -> None:
    """Libraries send either; other signals replace nothing."""
    found = previous_identifiers(a(type="alias", user_id="u1", previous_id="p"), RULES)
    assert [each.key for each in found] == ["p", "anonymousId:p"]
    assert previous_identifiers(a(type="identify", user_id="u1", previous_id="p"), RULES) == []


# --- Admitting ---


def email(value: str) -> Identifier:
    """An e-mail."""
    return Identifier("email", f"email:{value}")


def claimed(
    profile: Profile, identifiers: Iterable[Identifier], at_ms: int, rules: IdentityRules, **asked: bool
) -> int:
    """How many of these a customer claims."""
    return sum(isinstance(admit(profile, each, at_ms, rules, **asked), Claim) for each in identifiers)


def test_a_further_identifier_is_claimed_once() -> None:
    """Then it is known, unless somebody asks again; one's own key is no claim."""
    profile = Profile(customer_id="u1")
    assert admit(profile, email("x"), 5, RULES) == Claim("email:x", "u1")
    assert admit(profile, email("x"), 3, RULES) is None
    assert admit(profile, email("x"), 9, RULES, again=True) == Claim("email:x", "u1")
    assert admit(profile, Identifier(USER_ID, "u1"), 9, RULES) is None
    seen = profile.identifiers["email:x"]
    assert (seen.first_ms, seen.last_ms) == (3, 9)


@given(st.integers(1, 5), st.integers(0, 8))
def test_one_too_many_is_demoted(limit: int, count: int) -> None:
    """Beyond the limit of its kind; an alias is not limited, and other kinds have their own limit."""
    profile, rules = Profile(customer_id="u1"), identity_rules(email=limit)
    emails = [email(str(n)) for n in range(count)]
    assert claimed(profile, emails, START_MS, rules) == min(limit, count)
    assert claimed(profile, [Identifier("phone", f"externalId:phone:{n}") for n in range(9)], START_MS, rules) == 5
    assert claimed(profile, [email("more")], START_MS, rules, explicit=True) == 1
    demoted = admit(profile, email("another"), START_MS, identity_rules(email=1))
    assert isinstance(demoted, Demoted)
    assert demoted.reason.endswith("of 1 email are already known")


def test_limits_have_windows() -> None:
    """One a week: the next one is welcome a week after the first, not before."""
    profile = Profile(customer_id="u1")
    assert claimed(profile, [email("x"), email("y")], START_MS, WEEKLY) == 1
    assert claimed(profile, [email("y")], START_MS + 7 * DAY_MS, WEEKLY) == 0
    assert claimed(profile, [email("y")], START_MS + 7 * DAY_MS + 1, WEEKLY) == 1


def test_what_was_refused_does_not_count_and_is_not_asked_again() -> None:
    """Shared devices would otherwise cost a question with every signal, and use up the limit."""
    profile, rules = Profile(customer_id="u1"), identity_rules(email=1)
    admit(profile, email("shared"), START_MS, rules)
    for _ in range(2):
        refuse(profile, "email:shared")
    refuse(profile, "email:never-seen")
    assert profile.dropped == {"identifiers_refused": 1}
    assert claimed(profile, [email("shared")], START_MS, rules) == 0
    assert claimed(profile, [email("own")], START_MS, rules) == 1
    assert claimed(profile, [email("shared")], START_MS, rules, explicit=True, again=True) == 1


def test_the_latest_alias_names_the_customer() -> None:
    """By event time, in any order, if it is one of the customer's own user ids; other signals do not."""
    profile = Profile(customer_id="u0")
    for key, refused in (("u5", False), ("userId:email:u9", False), ("u7", False), ("u11", True)):
        profile.identifiers[key] = Seen(USER_ID, 0, 0, refused)
    assert profile.known_as == "u0"
    for at_ms, user in ((5, "u5"), (9, "email:u9"), (7, "u7"), (8, "u0"), (11, "u11"), (12, "u12")):
        rename(profile, Signal("m", "alias", at_ms, user_id=user, previous_id="u0"), RULES)
    rename(profile, Signal("m", "identify", 20, user_id="u20"), RULES)
    assert profile.known_as == "userId:email:u9"


# --- Settling ---


def settled(claim: Claim, *profiles: str, **redirects: str) -> tuple[Settlement, dict[str, str]]:
    """How a claim is settled where these customers and redirects are known, and the redirects there are then."""
    identities = {key.replace("__", ":"): Identity(to, START_MS, 0) for key, to in redirects.items()}
    state = MemoryState(profiles={key: Profile(customer_id=key) for key in profiles}, identities=identities)
    settlement = settle(state, claim, START_MS, 3, RULES)
    return settlement, {key: each.canonical for key, each in state.identities.items()}


X = "email:x"
SETTLED: list[tuple[str, Claim, tuple[str, ...], dict[str, str], Settlement, str | None]] = [
    ("nobody's", Claim(X, "u1"), (), {}, Settlement(), "u1"),
    ("one with a history", Claim(X, "u1"), (X,), {}, Settlement(moved=True), "u1"),
    ("one's own", Claim(X, "u1"), (), {"email__x": "u1"}, Settlement(), "u1"),
    ("another user's", Claim(X, "u2"), (), {"email__x": "u1"}, Settlement(refused=True), "u1"),
    ("another user's, by alias", Claim(X, "u2", explicit=True), (), {"email__x": "u1"}, Settlement(refused=True), "u1"),
    (
        "a stranger's, by a user",
        Claim(X, "u1"),
        (),
        {"email__x": "email:a"},
        Settlement(adopt=("u1", "email:a")),
        "email:a",
    ),
    ("a user's, by a stranger", Claim(X, "email:a"), (), {"email__x": "u1"}, Settlement(adopt=("u1", "email:a")), "u1"),
    (
        "two strangers'",
        Claim(X, "email:b"),
        (),
        {"email__x": "email:a"},
        Settlement(adopt=("email:a", "email:b")),
        "email:a",
    ),
    ("a stronger one", Claim(X, "email:y"), (X,), {}, Settlement(adopt=(X, "email:y")), None),
    ("a stronger one without history", Claim(X, "email:y"), (), {}, Settlement(), "email:y"),
    ("a user without alias", Claim("u1", "u0"), ("u1",), {}, Settlement(refused=True), None),
    ("a weaker user by alias", Claim("u1", "u0", explicit=True), ("u1",), {}, Settlement(moved=True), "u0"),
    ("a stronger user by alias", Claim("u0", "u1", explicit=True), ("u0",), {}, Settlement(adopt=("u0", "u1")), None),
    ("an unknown user by alias", Claim("u0", "u1", explicit=True), (), {}, Settlement(), "u1"),
    ("an aliased user", Claim("u2", "u1", explicit=True), (), {"u2": "u0"}, Settlement(adopt=("u0", "u1")), "u0"),
]


@pytest.mark.parametrize(
    ("claim", "profiles", "redirects", "expected", "owner"),
    [each[1:] for each in SETTLED],
    ids=[each[0] for each in SETTLED],
)
def test_claims_are_settled(
    claim: Claim,
    profiles: tuple[str, ...],
    redirects: dict[str, str],
    expected: Settlement,
    owner: str | None,
) -> None:
    """The first claim wins; strangers join; users stay apart unless an alias names one of them."""
    settlement, identities = settled(claim, *profiles, **redirects)
    assert settlement == expected
    assert identities.get(claim.identifier) == owner


# --- Stories, in any order of partitions ---


def tell(story: Iterable[dict[str, Any]], seed: int, *, orderly: bool = False, **kinds: int) -> Broker:
    """Publish signals one after the other, working a little in between, or when `orderly` to the end."""
    broker = Broker(Builder().action("a").build(identity=identity_rules(**kinds)), seed)
    for n, fields in enumerate(story):
        body = {"type": "track", "event": "Other", "messageId": f"s{n}", "traits": {f"t{n}": n}, **fields}
        broker.publish("signals", None, json.dumps(body).encode(), START_MS + n, partition=n % 4)
        broker.run(None if orderly else seed % 7)
    broker.run()
    return broker


def by_email(value: str) -> list[dict[str, str]]:
    """`externalIds` with one e-mail."""
    return [{"type": "email", "id": value}]


ALIASES = [
    [("u1", "u0")],
    [("u0", "u1")],
    [("u0", "u1"), ("u1", "u0")],
    [("u0", "u1"), ("u1", "u2"), ("u2", "u0")],
    [("u2", "u1"), ("u1", "u0"), ("u0", "u2"), ("u2", "u0")],
    [("u1", "u0"), ("u2", "u0")],
]


@pytest.mark.parametrize("aliases", ALIASES)
@given(seed=st.integers(0, 2**32))
def test_aliases_end_in_one_customer(aliases: list[tuple[str, str]], seed: int) -> None:
    """Even those that go in a circle: one survivor with every history, called as the last one says."""
    users = sorted({user for pair in aliases for user in pair})
    story: list[dict[str, Any]] = [{"userId": user} for user in users]
    story += [{"type": "alias", "userId": user, "previousId": previous} for user, previous in aliases]
    broker = tell([*story, *({"userId": user} for user in users)], seed)
    (profile,) = broker.customers().values()
    assert {broker.resolve(user) for user in users} == {profile.customer_id}
    assert profile.known_as == aliases[-1][0]
    assert len(profile.traits) == len(story) + len(users)


@given(st.integers(0, 2**32))
def test_an_anonymous_visitor_becomes_known(seed: int) -> None:
    """The history is merged once, a redirect is left, and later anonymous signals go to the user."""
    broker = tell(
        [{"anonymousId": "a"}, {"anonymousId": "a"}, {"userId": "u1", "anonymousId": "a"}, {"anonymousId": "a"}], seed
    )
    (profile,) = broker.customers().values()
    assert (profile.customer_id, len(profile.traits)) == ("u1", 4)
    assert broker.resolve("anonymousId:a") == "u1"
    assert len(profile.merged) <= 1


@given(st.integers(0, 2**32))
def test_an_alias_of_an_anonymous_id(seed: int) -> None:
    """As older libraries say it: the user keeps its own id."""
    broker = tell(
        [{"anonymousId": "a"}, {"type": "alias", "userId": "u1", "previousId": "a"}, {"anonymousId": "a"}], seed
    )
    (profile,) = broker.customers().values()
    assert (profile.customer_id, profile.known_as, len(profile.traits)) == ("u1", "u1", 3)


@given(st.integers(0, 2**32))
def test_a_known_address_does_not_merge_two_users(seed: int) -> None:
    """The e-mail stays with the first user, and what is said by it alone goes there (D11)."""
    story = [{"userId": "u1"}, {"userId": "abc456"}, {}]
    broker = tell([{**each, "externalIds": by_email("x")} for each in story], seed, orderly=True)
    customers = broker.customers()
    assert {key: sorted(each.traits) for key, each in customers.items()} == {"u1": ["t0", "t2"], "abc456": ["t1"]}
    assert customers["abc456"].dropped == {"identifiers_refused": 1}


@given(st.integers(0, 2**32))
def test_a_shared_device_does_not_merge_its_users(seed: int) -> None:
    """Whoever claims it first has what was done on it without a user; nobody's signals go astray."""
    users = ["u1", "u2", "u3"] * 2
    broker = tell([{"userId": user, "anonymousId": "tablet"} for user in users], seed)
    customers = broker.customers()
    assert sorted(customers) == ["u1", "u2", "u3"]
    assert sum(len(each.traits) for each in customers.values()) == len(users)
    refused = [key for key, each in customers.items() if each.dropped.get("identifiers_refused")]
    assert len(refused) == 2
    assert broker.resolve("anonymousId:tablet") not in refused


@given(st.integers(0, 2**32))
def test_two_strangers_turn_out_to_be_one(seed: int) -> None:
    """Clusters without a user join by any identifier they share; then a user takes them all over."""
    strangers = [
        {"anonymousId": "a", "externalIds": by_email("x")},
        {"anonymousId": "b", "externalIds": by_email("y")},
        {"externalIds": [*by_email("x"), *by_email("y")]},
        {"anonymousId": "b"},
    ]
    assert list(tell(strangers, seed).customers()) == [X]
    broker = tell([*strangers, {"userId": "u1", "anonymousId": "b"}], seed)
    assert {key: len(each.traits) for key, each in broker.customers().items()} == {"u1": 5}


@given(st.integers(0, 2**32))
def test_an_identifier_beyond_the_limit_stays_with_itself(seed: int) -> None:
    """Demoted: the signal goes to its user all the same, what is said by the identifier alone does not."""
    story = [*({"userId": "u1", "anonymousId": f"a{n}"} for n in range(3)), {"anonymousId": "a2"}]
    customers = tell(story, seed, orderly=True, anonymousId=2).customers()
    assert {key: sorted(each.traits) for key, each in customers.items()} == {
        "u1": ["t0", "t1", "t2"],
        "anonymousId:a2": ["t3"],
    }
    assert customers["u1"].dropped == {"identifiers_demoted": 1}


def test_user_ids_that_look_like_other_keys_stay_apart() -> None:
    """A client cannot name itself another customer's identifier."""
    names = ["email:x", "userId:email:x", "anonymousId:a", "budget:b", "a:b"]
    broker = tell([*({"userId": each} for each in names), {"anonymousId": "a"}, {"externalIds": by_email("x")}], 0)
    assert len(broker.customers()) == len(names) + 2
