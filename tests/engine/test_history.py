"""Contact history: short, and never shorter than a rule looks back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.history import (
    OPEN_CONTACTS,
    add_answer,
    add_contact,
    bound,
    closes,
    find,
    forget,
    is_complete,
    is_open,
    retention_of,
)
from engine.outcomes import OUTCOME_TYPES
from engine.profile import Answer, Contact, Profile
from engine.repertoire import (
    Arbitration,
    Constraints,
    ContactLimit,
    Influencer,
    Retention,
    Scope,
    SuppressionPolicy,
    Window,
)
from tests.repertoires import DAY_MS, START_MS, Builder

WEEK_MS = 7 * DAY_MS
KEPT = Retention(contacts_ms=WEEK_MS, answers_ms=2 * DAY_MS, depth=3)


def a_contact(id_: str, at_ms: int = START_MS, action: str = "a", channel: str = "email", **changes: Any) -> Contact:
    """A contact that can be answered for a day."""
    settings: dict[str, Any] = {
        "issue": "sales",
        "group": "offers",
        "treatment": "t",
        "expires_ms": at_ms + DAY_MS // 2,
        "answerable_until_ms": at_ms + DAY_MS,
        "counts": True,
        "outbound": True,
    }
    return Contact(decision_id=id_, at_ms=at_ms, action=action, channel=channel, **{**settings, **changes})


def an_answer(at_ms: int = START_MS, type_: str = "click", action: str = "a") -> Answer:
    """An answer by e-mail."""
    return Answer(type_, at_ms, "sales", "offers", action, "email")


def ids(profile: Profile) -> list[str]:
    """The decisions in a history."""
    return [each.decision_id for each in profile.contacts]


def test_retention_covers_every_rule() -> None:
    """The longest window and pause, the longest time for answers, and the highest count that any rule asks for."""
    scope = Scope()
    constraints = Constraints(
        contact_limits=(
            ContactLimit(id="month", limit=9, window=Window(unit="month", count=2)),
            ContactLimit(id="rolling", limit=1, window=Window(span_ms=5 * DAY_MS)),
        ),
        suppressions=(
            SuppressionPolicy(
                id="s", outcome="reject", level="action", threshold=12, window_ms=DAY_MS, pause_ms=WEEK_MS
            ),
        ),
    )
    influencer = Influencer(
        id="i", outcome="click", source=scope, target=scope, start=1, end=0, steps=1, period_ms=9 * DAY_MS
    )
    actions = Builder().action("a", answerable_ms=3 * DAY_MS).actions
    found = retention_of(constraints, (Arbitration(influencers=(influencer,)),), tuple(actions))
    assert found == Retention(contacts_ms=64 * DAY_MS, answers_ms=9 * DAY_MS, depth=12)
    assert retention_of(Constraints(), (), ()) == Retention(contacts_ms=DAY_MS, answers_ms=DAY_MS, depth=5)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["email", "sms"]), st.booleans()), max_size=40))
def test_the_newest_of_each_kind_stay(made: list[tuple[str, str, bool]]) -> None:
    """Of one action on one channel as many as any limit asks for, those that count apart from those that do not."""
    profile = Profile(customer_id="u1", now_ms=START_MS)
    everything = []
    for n, (action, channel, counts) in enumerate(made):
        contact = a_contact(f"d{n}", START_MS + n, action, channel, counts=counts, answer="accept")
        everything.append(contact)
        profile.now_ms = contact.at_ms
        add_contact(profile, contact, KEPT, 100)
    for kind in {(each.action, each.channel, each.counts) for each in everything}:
        expected = [each for each in everything if (each.action, each.channel, each.counts) == kind][-KEPT.depth :]
        assert [each for each in profile.contacts if (each.action, each.channel, each.counts) == kind] == expected
    assert [each.at_ms for each in profile.contacts] == sorted(each.at_ms for each in profile.contacts)
    assert profile.dropped == {}


def test_offers_that_wait_for_an_answer_stay_beyond_that() -> None:
    """The newest ones: a late click on a page's offer still finds its decision, however often it was shown since."""
    profile = Profile(customer_id="u1", now_ms=START_MS)
    for n in range(OPEN_CONTACTS + 20):
        add_contact(profile, a_contact(f"d{n}", START_MS + n), KEPT, 1_000)
    assert ids(profile) == [f"d{n}" for n in range(20, OPEN_CONTACTS + 20)]
    profile.now_ms = START_MS + 2 * DAY_MS
    bound(profile, KEPT, 1_000)
    assert len(profile.contacts) == KEPT.depth


def test_what_nobody_looks_at_goes() -> None:
    """Contacts after the longest window, unless they can still be answered; answers after theirs."""
    contacts = [
        a_contact("old"),
        a_contact("long", answerable_until_ms=START_MS + 2 * WEEK_MS),
        a_contact("new", START_MS + 9),
    ]
    profile = Profile(customer_id="u1", now_ms=START_MS + WEEK_MS + 1, contacts=contacts, answers=[an_answer()])
    forget(profile, KEPT)
    assert (ids(profile), profile.answers) == (["long", "new"], [])


def test_the_edge_of_a_window_stays() -> None:
    """What happened exactly a window ago still counts."""
    profile = Profile(customer_id="u1", now_ms=START_MS + WEEK_MS, contacts=[a_contact("edge")])
    forget(profile, KEPT)
    assert ids(profile) == ["edge"]


def test_a_history_without_room_says_so() -> None:
    """The oldest goes and is counted; a window that reaches back to it cannot be trusted, even once there is room."""
    profile = Profile(customer_id="u1", now_ms=START_MS)
    for n in range(6):
        add_contact(profile, a_contact(f"d{n}", START_MS + n, action=f"a{n}"), KEPT, 5)
    assert (ids(profile), profile.dropped) == (["d1", "d2", "d3", "d4", "d5"], {"contacts": 1})
    assert (is_complete(profile, START_MS), is_complete(profile, START_MS + 1)) == (False, True)
    profile.now_ms = START_MS + WEEK_MS + 2
    forget(profile, KEPT)
    assert (len(profile.contacts), is_complete(profile, START_MS)) == (4, False)
    assert is_complete(Profile(customer_id="u1"), 0)


def test_answers_are_thinned_only_when_there_is_no_room() -> None:
    """A pause they began would be forgotten otherwise; then the newest of each kind stay."""
    profile = Profile(customer_id="u1", now_ms=START_MS)
    for n in range(10):
        add_answer(profile, an_answer(START_MS + n), KEPT, 10)
    assert len(profile.answers) == 10
    add_answer(profile, an_answer(START_MS + 10, "reject"), KEPT, 10)
    assert [(each.type, each.at_ms - START_MS) for each in profile.answers] == [
        ("click", 7),
        ("click", 8),
        ("click", 9),
        ("reject", 10),
    ]
    for n in range(8):
        add_answer(profile, an_answer(START_MS + 11 + n, action=f"a{n}"), KEPT, 10)
    assert (len(profile.answers), profile.dropped) == (10, {"answers": 2})


def test_looking_up_a_decision() -> None:
    """By its id; an offer is open until it is answered or expires."""
    profile = Profile(customer_id="u1", contacts=[a_contact("d1"), a_contact("d2", answer="accept")])
    found = find(profile, "d1")
    assert found is not None
    assert find(profile, "d3") is None
    assert is_open(found, found.expires_ms - 1)
    assert not is_open(found, found.expires_ms)
    assert not is_open(profile.contacts[1], START_MS)


@pytest.mark.parametrize("outcome", OUTCOME_TYPES)
def test_which_outcomes_answer(outcome: str) -> None:
    """Seeing or clicking leaves an offer open."""
    assert closes(outcome) is (outcome not in ("delivered", "impression", "click"))
