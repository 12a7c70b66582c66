"""Profiles: facts by event time in any order, one person out of two, bounds on everything, and old forms read."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.aggregates import Aggregate, Window
from engine.consent import CONSENT_EVENT
from engine.profile import (
    SCHEMA,
    Answer,
    Contact,
    LastSignal,
    Outbound,
    Profile,
    Seen,
    Timer,
    decode_profile,
    encode_profile,
    enforce_bounds,
    fold,
    merge,
    message_hash,
    note_identifier,
    remember_message,
)
from engine.repertoire import Limits, MergeStrategy, ProfileRules
from engine.signal import Signal
from tests.engine.strategies import JSON, OBJECTS, TEXT, signals
from tests.repertoires import DAY_MS, START_MS


def _name(scope: Any) -> Any:
    return scope["signal"]["name"]


RULES = ProfileRules(
    aggregates=(
        Aggregate(name="all", function="count", window=Window("lifetime")),
        Aggregate(name="by_event", function="count", window=Window("sliding", DAY_MS), by=_name),
        Aggregate(name="last", function="last", window=Window("lifetime"), of=_name),
    )
)


def folded(*sequence: Signal, profile: Profile | None = None, rules: ProfileRules = RULES) -> Profile:
    """A profile that saw these signals."""
    profile = Profile(customer_id="u1") if profile is None else profile
    for signal in sequence:
        fold(profile, signal, rules, {"signal": {"name": signal.name}})
    return profile


def track(at_ms: int, event: str = "Go", **fields: Any) -> Signal:
    """A track of one customer."""
    return Signal("m", "track", at_ms, event, "u1", **fields)


def some(names: str) -> st.SearchStrategy[list[Signal]]:
    """Signals about these traits and no others, some of them statements of consent."""
    traits = st.dictionaries(st.sampled_from(names), JSON, max_size=3)
    consent = st.fixed_dictionaries(
        {"status": st.sampled_from(["granted", "denied"]), "channel": st.sampled_from(["email", "sms"])}
    )
    stated = signals(event=st.just(CONSENT_EVENT), properties=consent)
    events = st.sampled_from([f"{each} happened" for each in names])
    return st.lists(signals(traits=traits, event=events) | stated, max_size=6)


# --- Fold ---


@given(some("abc"), st.randoms(use_true_random=False))
def test_the_order_of_signals_does_not_matter(sequence: list[Signal], chance: Any) -> None:
    """Late ones land where their event time says: traits, last signals, consent, aggregates, first and last sight."""
    shuffled = sequence.copy()
    chance.shuffle(shuffled)
    assert folded(*shuffled) == folded(*sequence)


def test_a_trait_is_what_was_said_last() -> None:
    """By event time, not by arrival."""
    profile = folded(track(5, traits={"a": "new"}), track(3, traits={"a": "old", "b": None}))
    assert (profile.traits, profile.trait_times) == ({"a": "new", "b": None}, {"a": 5, "b": 3})


def test_traits_of_a_group_are_kept_together() -> None:
    """They describe the group, not the person."""
    profile = folded(Signal("m", "group", 5, user_id="u1", traits={"name": "Acme"}))
    assert profile.traits == {"group": {"name": "Acme"}}


def test_the_epoch_is_a_time_like_others() -> None:
    """A phone with a lost clock says 1970: it is earlier than what follows, whatever comes first."""
    for sequence in ((track(0), track(7)), (track(7), track(0)), (track(-5), track(0), track(7))):
        profile = folded(*sequence)
        assert (profile.created_ms, profile.seen_ms) == (sequence[0].time_ms if len(sequence) == 3 else 0, 7)


def test_the_state_of_an_aggregate_nobody_declares_any_more_goes() -> None:
    """Profiles do not keep what earlier configurations counted."""
    profile = folded(track(1))
    assert sorted(profile.aggregates) == ["all", "by_event", "last"]
    folded(track(2), profile=profile, rules=ProfileRules(aggregates=RULES.aggregates[:1]))
    assert sorted(profile.aggregates) == ["all"]


def test_repeated_message_ids_are_recognised() -> None:
    """Among the last so many."""
    profile = Profile(customer_id="u1")
    assert [remember_message(profile, each, 2) for each in "abacba"] == [True, True, False, True, False, True]
    assert len(profile.recent) == 2
    assert message_hash("a") != message_hash("b")


# --- Merge ---


@given(some("ab"), some("cd"), some("ef"))
def test_disjoint_facts_merge_in_any_order(one: list[Signal], two: list[Signal], three: list[Signal]) -> None:
    """And come to what one profile would know that saw all of it, save for consent, which only gets stricter."""

    def merged(first: list[Signal], *others: list[Signal]) -> Profile:
        profile = folded(*first)
        for n, other in enumerate(others):
            assert merge(profile, folded(*other, profile=Profile(customer_id=f"a{n}")), RULES)
        profile.merged.clear()
        profile.consent.sort(key=repr)
        return profile

    assert merged(one, two, three) == merged(one, three, two) == merged(three, two, one)
    whole, together = folded(*one, *two, *three), merged(one, two, three)
    together.consent = whole.consent
    assert together == whole


def test_a_profile_is_merged_once() -> None:
    """A second time it changes nothing, also when it came by way of another merge."""
    rules = ProfileRules(aggregates=RULES.aggregates, merge={"points": "adding"})
    anonymous = folded(track(5, traits={"points": 3}), profile=Profile(customer_id="anonymousId:a"))
    email = folded(track(6, traits={"points": 4}), profile=Profile(customer_id="email:x"))
    profile = folded(track(7, traits={"points": 10}))
    assert merge(email, copy.deepcopy(anonymous), rules)
    assert merge(profile, email, rules)
    before = encode_profile(profile)
    assert not merge(profile, anonymous, rules)
    assert not merge(profile, folded(profile=Profile(customer_id="email:x", traits={"points": 1})), rules)
    assert encode_profile(profile) == before
    assert profile.traits == {"points": 17}
    assert sorted(profile.merged) == ["anonymousId:a", "email:x"]


MERGES: list[tuple[MergeStrategy, Any, Any, Any]] = [
    ("most-recent", (1, "ours"), (2, "theirs"), (2, "theirs")),
    ("most-recent", (2, "ours"), (1, "theirs"), (2, "ours")),
    ("most-recent", (1, "b"), (1, "a"), (1, "b")),
    ("oldest", (1, "ours"), (2, "theirs"), (1, "ours")),
    ("oldest", (2, "ours"), (1, "theirs"), (1, "theirs")),
    ("adding", (1, 3), (2, 4.5), (2, 7.5)),
    ("adding", (2, ["a"]), (1, ["b", "a"]), (2, ["a", "b"])),
    ("adding", (1, True), (2, 1), (2, 1)),
    ("adding", (1, "3"), (2, 4), (2, 4)),
    ("adding", (1, 2**63 - 1), (2, 1), (2, 1)),
    ("adding", (1, -(2**62)), (2, -(2**62)), (2, -(2**62))),
    ("adding", (1, ["x" * 3_000]), (2, ["y" * 3_000]), (2, ["y" * 3_000])),
    ("non-empty", (2, ""), (1, "theirs"), (1, "theirs")),
    ("non-empty", (1, "ours"), (2, {}), (1, "ours")),
    ("non-empty", (1, 0), (2, None), (1, 0)),
    ("non-empty", (1, "ours"), (2, "theirs"), (2, "theirs")),
    ("keep", (1, "ours"), (2, "theirs"), (1, "ours")),
]


def with_trait(dated: tuple[int, Any], customer: str = "u1") -> Profile:
    """A profile with one trait."""
    return Profile(customer_id=customer, traits={"a": dated[1]}, trait_times={"a": dated[0]})


def merged_trait(strategy: MergeStrategy, *dated: tuple[int, Any]) -> tuple[int, Any]:
    """Time and value of a trait after profiles with these were merged into the first."""
    profile = with_trait(dated[0])
    for n, each in enumerate(dated[1:]):
        merge(profile, with_trait(each, f"a{n}"), ProfileRules(merge={"a": strategy}))
    return profile.trait_times["a"], profile.traits["a"]


@pytest.mark.parametrize(("strategy", "ours", "theirs", "expected"), MERGES)
def test_merge_strategies_of_traits(strategy: MergeStrategy, ours: Any, theirs: Any, expected: Any) -> None:
    """Each of the five, with what happens at its edges; whatever comes out can be stored."""
    assert merged_trait(strategy, ours, theirs) == expected


@given(st.sampled_from(["most-recent", "oldest", "non-empty", "adding"]), st.data())
def test_merge_strategies_do_not_depend_on_the_order(strategy: MergeStrategy, data: st.DataObject) -> None:
    """Three profiles merged in any order give the same; sums up to the same total."""
    numbers = st.integers(-(2**40), 2**40)
    values = numbers if strategy == "adding" else JSON
    dated = data.draw(st.lists(st.tuples(st.integers(1, 4), values), min_size=3, max_size=3))
    expected = merged_trait(strategy, *dated)
    assert merged_trait(strategy, *data.draw(st.permutations(dated))) == expected


def test_what_both_know_of_an_identifier() -> None:
    """Seen first and last over both; it is somebody else's only where both were told so; not one's own key."""
    ours = Profile(customer_id="u1", identifiers={"a": Seen("k", 3, 5), "b": Seen("k", 3, 5, refused=True)})
    theirs = Profile(
        customer_id="x",
        identifiers={
            "a": Seen("k", 1, 4, refused=True),
            "b": Seen("k", 4, 9, refused=True),
            "c": Seen("k", 7, 7, refused=True),
            "u1": Seen("userId", 1, 1),
        },
    )
    merge(ours, theirs, RULES)
    assert ours.identifiers == {
        "a": Seen("k", 1, 5),
        "b": Seen("k", 3, 9, refused=True),
        "c": Seen("k", 7, 7, refused=True),
    }


def test_histories_are_put_together_in_order_of_time() -> None:
    """Also what happened to both at the same moment; of each waiting trigger only the later wait goes on."""

    def a_contact(id_: str, at_ms: int) -> Contact:
        return Contact(id_, at_ms, "i", "g", "a", "t", "email", at_ms, at_ms, counts=True, outbound=True)

    answer, signal = Answer("click", 2, "i", "g", "a", "email"), track(1)
    ours = Profile(customer_id="u1", contacts=[a_contact("d2", 2)], answers=[answer])
    ours.timers = [Timer("cart", 5, signal), Timer("other", 9, signal)]
    theirs = Profile(customer_id="x", contacts=[a_contact("d1", 1), a_contact("d3", 3)], answers=[answer])
    theirs.timers = [Timer("cart", 7, signal)]
    merge(ours, theirs, RULES)
    assert [each.decision_id for each in ours.contacts] == ["d1", "d2", "d3"]
    assert ours.answers == [answer, answer]
    assert [(each.trigger, each.at_ms) for each in ours.timers] == [("cart", 7), ("other", 9)]


def test_the_later_alias_names_both() -> None:
    """Whichever profile it was told to."""
    names = [None, (3, "u3"), (5, "u5")]
    for one in names:
        for other in names:
            profile = Profile(customer_id="u1", alias=one)
            merge(profile, Profile(customer_id="x", alias=other), RULES)
            assert profile.alias == max((each for each in (one, other) if each), default=None)


# --- Bounds ---

SMALL = Limits(
    traits=3,
    trait_bytes=20,
    last_signals=3,
    last_signal_bytes=20,
    identifiers=3,
    timers=3,
    merges=3,
    watermarks=3,
    recent_messages=3,
)


def overfull() -> Profile:
    """Five of everything, the first ones the oldest; the time of what comes later does not come in order of names."""
    order = "edcba"
    return Profile(
        customer_id="u1",
        traits=dict.fromkeys(order, 1),
        trait_times={name: at for at, name in enumerate(order)},
        last={name: LastSignal(at, {}) for at, name in enumerate(order)},
        identifiers={name: Seen("k", 0, at) for at, name in enumerate(order)},
        timers=[Timer(name, at, track(0)) for at, name in enumerate(order)],
        merged=[*order],
        watermarks=dict.fromkeys(order, 9),
    )


def test_every_bound_holds_and_is_counted() -> None:
    """The oldest make room, except among timers, where the next ones stay."""
    profile = overfull()
    enforce_bounds(profile, SMALL)
    for kept in (
        profile.traits,
        profile.trait_times,
        profile.last,
        profile.identifiers,
        profile.merged,
        profile.watermarks,
    ):
        assert sorted(kept) == ["a", "b", "c"]
    assert [each.trigger for each in profile.timers] == ["e", "d", "c"]
    counted = ("traits", "last_signals", "identifiers", "timers", "merges", "watermarks")
    assert profile.dropped == dict.fromkeys(counted, 2)
    before = encode_profile(profile)
    enforce_bounds(profile, SMALL)
    assert encode_profile(profile) == before


def test_merging_keeps_the_bounds() -> None:
    """Two full profiles make one full profile."""
    profile, other = Profile(customer_id="u0"), overfull()
    merge(profile, other, ProfileRules(limits=SMALL))
    assert max(map(len, (profile.traits, profile.last, profile.identifiers, profile.timers, profile.merged))) == 3
    assert len(profile.recent) <= 2 * SMALL.recent_messages


def test_what_is_too_large_is_not_kept() -> None:
    """A trait's value or name, or a signal's properties: dropped and counted; the signal itself is remembered."""
    rules = ProfileRules(limits=SMALL)
    large = {"text": "x" * 30, "list": [1] * 30, "n" * 257: 1, "fits": "x" * 18}
    profile = folded(
        track(1, properties={"a": "x" * 30}, traits=large), track(1, "Fits", properties={"a": 1}), rules=rules
    )
    assert profile.traits == {"fits": "x" * 18}
    assert profile.last == {"Go": LastSignal(1, {}), "Fits": LastSignal(1, {"a": 1})}
    assert profile.dropped == {"trait_bytes": 3, "last_signal_bytes": 1}


def test_consent_without_room_is_counted() -> None:
    """As everything that hits a bound."""
    many = [{"channel": f"c{n}", "status": "granted"} for n in range(70)]
    assert folded(track(1, CONSENT_EVENT, properties={"consents": many})).dropped == {
        "consent": 6,
        "last_signal_bytes": 1,
    }


@given(st.lists(signals(traits=st.dictionaries(TEXT, JSON)), max_size=12))
def test_no_signals_make_a_profile_grow_without_end(sequence: list[Signal]) -> None:
    """After each signal every part is within its bound."""
    rules = ProfileRules(limits=SMALL)
    profile = Profile(customer_id="u1")
    for signal in sequence:
        fold(profile, signal, rules, {})
        for each in signal.external_ids:
            note_identifier(profile, each.id, each.type, signal.time_ms, signal.time_ms)
        enforce_bounds(profile, SMALL)
        assert max(len(profile.traits), len(profile.last), len(profile.identifiers)) <= 3
        assert profile.trait_times.keys() == profile.traits.keys()


def test_thousands_of_traits_cost_no_quadratic_time() -> None:
    """One signal may carry as many as fit into a message."""
    profile = folded(track(1, traits={str(n): n for n in range(20_000)}))
    enforce_bounds(profile, Limits())
    assert (len(profile.traits), profile.dropped) == (200, {"traits": 19_800})


# --- Encoding ---


@given(some("abc"), OBJECTS)
def test_a_profile_comes_back_as_it_was(sequence: list[Signal], properties: dict[str, Any]) -> None:
    """Every part of it."""
    profile = folded(*sequence)
    profile.timers = [Timer("cart", 5, track(3, properties=properties))]
    profile.outbox = [Outbound("signals", 7, "decisions", b"u1", b"{}", (("ce_id", b"x"),), None)]
    profile.alias = (3, "u3")
    profile.recent = [2**64 - 1]
    profile.drop("traits")
    assert encode_profile(decode_profile(encode_profile(profile))) == encode_profile(profile)


def _renamed(raw: dict[str, Any]) -> dict[str, Any]:
    """A step from schema 0: traits were called attributes."""
    return {**raw, "traits": raw.pop("attributes")}


def _dated(raw: dict[str, Any]) -> dict[str, Any]:
    """A step from the schema after that: traits had no times."""
    return {**raw, "trait_times": dict.fromkeys(raw["traits"], START_MS)}


@given(some("abc"))
def test_old_forms_are_read_step_by_step(sequence: list[Signal]) -> None:
    """A profile of two versions ago goes through both steps, one of the last version through the second."""
    profile = folded(*sequence)
    profile.trait_times = dict.fromkeys(profile.traits, START_MS)
    version, raw = msgspec.msgpack.decode(encode_profile(profile))
    assert version == SCHEMA
    raw.pop("trait_times", None)
    last = {**raw, "traits": raw.get("traits", {})}
    first = {"attributes": raw.get("traits", {}), **{name: each for name, each in raw.items() if name != "traits"}}
    steps = {SCHEMA: _renamed, SCHEMA + 1: _dated}
    for version, old in ((SCHEMA, first), (SCHEMA + 1, last)):
        found = decode_profile(msgspec.msgpack.encode((version, old)), steps, SCHEMA + 2)
        assert encode_profile(found) == encode_profile(profile)


@pytest.mark.parametrize("version", [SCHEMA + 1, SCHEMA - 1])
def test_a_version_without_a_step_is_refused(version: int) -> None:
    """A later one, or one so old that nobody reads it any more."""
    with pytest.raises(ValueError, match=f"has schema version {version}, this engine reads up to {SCHEMA}"):
        decode_profile(msgspec.msgpack.encode((version, {})))


@given(st.binary(max_size=40))
def test_garbage_is_no_profile(data: bytes) -> None:
    """It is an error, not an empty profile."""
    assume(not data.startswith(b"\x92\x01"))
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's errors and ours share no narrower type
        decode_profile(data)
