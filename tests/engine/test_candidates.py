"""Which treatments a trigger, a slot of a request or a fallback may choose from."""

from __future__ import annotations

import msgspec
import pytest

from engine.candidates import Pool, for_fallback, for_request, for_trigger, indices_of, is_sent
from engine.context import Request
from engine.repertoire import Constraints, ContactLimit, Placement, Repertoire, Scope, Trigger, Window
from tests.repertoires import Builder, a_profile, let_through


def _shop(**changes) -> Repertoire:
    """Three actions: `a` by e-mail, push and in the hero, `b` by e-mail, `c` anywhere on the web and in the footer."""
    b = Builder()
    hero, footer = frozenset({"hero"}), frozenset({"footer"})
    b.action(
        "a",
        b.treatment("a-email"),
        b.treatment("a-push", "push"),
        b.treatment("a-hero", "web", placements=hero),
        tags=frozenset({"promo"}),
    )
    b.action("b", group="other", issue="care")
    b.action("c", b.treatment("c-web", "web"), b.treatment("c-footer", "web", placements=footer))
    placements = (
        Placement(id="hero", channel="web", limit=3, fallback="c"),
        Placement(id="footer", channel="web"),
    )
    return b.build(placements={each.id: each for each in placements}, **changes)


SHOP = _shop()


def _ids(candidates) -> list[str]:
    return [each.treatment.id for each in candidates]


def _request(**fields) -> Request:
    return Request(**{"id": "r1", "placements": (), "channel": None, "limit": None, **fields})


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({}, ["a-email", "a-push", "b-email"]),
        ({"issues": {"care"}}, ["b-email"]),
        ({"groups": {"offers"}}, ["a-email", "a-push"]),
        ({"actions": {"b", "c"}}, ["b-email"]),
        ({"tags": {"promo", "x"}}, ["a-email", "a-push"]),
        ({"channels": {"push"}}, ["a-push"]),
        ({"channels": {"web"}}, []),
        ({"groups": {"offers"}, "channels": {"email"}}, ["a-email"]),
    ],
)
def test_a_trigger_chooses_from_what_is_sent_within_its_scope(scope, expected):
    """Nothing made for a slot and nothing on an inbound channel, and only what every list of the scope covers."""
    trigger = Trigger(id="t", scope=Scope(**{name: frozenset(values) for name, values in scope.items()}))
    assert _ids(for_trigger(_shop(), trigger)) == expected


def test_a_slot_chooses_from_what_is_made_for_it_or_for_any():
    """Treatments on the slot's channel without placements, or with this one among them."""
    assert _ids(for_request(SHOP, _request(), "hero")[0]) == ["a-hero", "c-web"]
    assert _ids(for_request(SHOP, _request(), "footer")[0]) == ["c-footer", "c-web"]


@pytest.mark.parametrize(
    ("placement", "channel"), [("nowhere", None), ("", None), ("*", None), (None, "fax"), (None, ""), (None, "*")]
)
def test_a_slot_or_channel_nobody_configured_has_nothing(placement, channel):
    """An unknown name is no error and no wildcard."""
    assert for_request(SHOP, _request(channel=channel), placement) == ((), 1, None)


def test_without_a_slot_everything_on_the_channel_is_considered():
    """Or everything, when no channel is named either."""
    assert _ids(for_request(SHOP, _request(channel="email"), None)[0]) == ["a-email", "b-email"]
    assert _ids(for_request(SHOP, _request(channel="push"), None)[0]) == ["a-push"]
    assert for_request(SHOP, _request(), None)[0] == SHOP.candidates


@pytest.mark.parametrize(("asked", "limit"), [(None, 3), (1, 1), (2, 2), (3, 3), (20, 3)])
def test_a_request_may_ask_for_less_than_fits_a_slot(asked, limit):
    """More decisions than the slot holds are not made."""
    assert for_request(SHOP, _request(limit=asked), "hero")[1:] == (limit, "c")
    assert for_request(SHOP, _request(limit=asked), None)[1] == (1 if asked is None else asked)


def test_a_fallback_fits_the_slot_or_can_be_sent():
    """A slot shows what is made for it; a trigger sends nothing that only a page can show."""
    assert _ids(for_fallback(SHOP, "c", "hero")) == ["c-web"]
    assert _ids(for_fallback(SHOP, "a", "hero")) == ["a-hero"]
    assert _ids(for_fallback(SHOP, "a", None)) == ["a-email", "a-push"]
    assert for_fallback(SHOP, "c", None) == []
    assert for_fallback(SHOP, "b", "hero") == []


def test_pools_are_kept_apart():
    """A trigger, a slot and a channel of one name have different pools, each looked up once."""
    b = Builder()
    b.action("a", b.treatment("a-email"), b.treatment("a-web", "web"))
    slot = Placement(id="email", channel="web")
    repertoire = b.build(placements={"email": slot}, triggers=(Trigger(id="email"),))
    asked = [
        for_trigger(repertoire, repertoire.triggers[0]),
        for_request(repertoire, _request(), "email")[0],
        for_request(repertoire, _request(channel="email"), None)[0],
    ]
    assert [_ids(each) for each in asked] == [["a-email"], ["a-web"], ["a-email"]]
    assert for_trigger(repertoire, repertoire.triggers[0]) is asked[0]


def test_a_copy_with_other_rules_has_pools_of_its_own():
    """What was compiled of the one is not true of the other."""
    trigger = SHOP.triggers[0]
    limit = ContactLimit(id="none", limit=0, window=Window(span_ms=1))
    strict = msgspec.structs.replace(SHOP, constraints=Constraints(purposes={}, contact_limits=(limit,)))
    assert for_trigger(SHOP, trigger) == for_trigger(strict, trigger)
    for repertoire, reasons in ((SHOP, set()), (strict, {"consent"})):
        assert {each.stage for each in let_through(repertoire, a_profile())[1]} == reasons


def test_a_pool_is_in_the_order_of_ids_and_selections_keep_it():
    """However it was put together; what is kept of it is kept in order, by mask, by place or by what is true of it."""
    pool = Pool(reversed(SHOP.candidates), SHOP)
    assert pool == SHOP.candidates
    assert pool.every[1:3] == list(SHOP.candidates[1:3])
    assert pool.every[-1] is SHOP.candidates[-1]
    emails = pool.every.where(lambda each: each.treatment.channel == "email")
    assert _ids(emails) == ["a-email", "b-email"]
    assert _ids(emails.keep(slice(1, None))) == ["b-email"]
    assert indices_of(emails).tolist() == [each.index for each in emails]
    with pytest.raises(IndexError):
        emails[2]


def test_what_is_sent_and_what_is_shown():
    """Made for a slot or on an inbound channel: shown; all else is sent."""
    assert {each.treatment.id for each in SHOP.candidates if is_sent(each, SHOP)} == {"a-email", "a-push", "b-email"}
    assert for_request(SHOP, _request(), None)[0].action_count == 3
