"""Stories of customers played through the example repertoires, step by step, as their author would expect them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import config
from config.load import load_directory
from engine.experiments import arm_of, is_held_out
from engine.murmur import partition_of
from engine.repertoire import Repertoire
from engine.replay import Replay
from models.baseline import PriorScorer
from tests.repertoires import decisions_of

Decision = dict[str, Any]


@cache
def example(name: str) -> Repertoire:
    """A repertoire, loaded once."""
    return load_directory(Path(config.__file__).parent / "repertoires" / name)


def somebody(name: str, arm: str | None = None, *, held_out: bool = False) -> str:
    """A customer in or out of the holdout, in an arm of the first experiment."""
    return next(somebodies(name, arm, held_out=held_out))


def somebodies(
    name: str, arm: str | None = None, *, held_out: bool = False, partition: int | None = None
) -> Iterator[str]:
    """All of them, in order."""
    repertoire = example(name)
    for number in range(100_000):
        user = f"customer-{number}"
        if is_held_out(repertoire.holdout, user) is not held_out:
            continue
        if arm is not None and arm_of(repertoire.experiments[0], user).id != arm:
            continue
        if partition is None or partition_of(user, repertoire.partitions) == partition:
            yield user


class Story:
    """What happens to one customer after another, on one clock. Times are local to Madrid in winter."""

    def __init__(self, name: str, start: str, user: str | None = None) -> None:
        self.replay = Replay(example(name), PriorScorer(example(name)))
        self.now = datetime.fromisoformat(start + "+01:00")
        self.user = somebody(name) if user is None else user
        self.sent = 0

    @property
    def now_ms(self) -> int:
        """The clock in epoch milliseconds."""
        return int(self.now.timestamp() * 1000)

    def waits(self, **span: float) -> list[Decision]:
        """Time passes; what the engine decides meanwhile."""
        self.now += timedelta(**span)
        return decisions_of(self.replay.advance(self.now_ms))

    def signal(self, type_: str, **fields: Any) -> list[Decision]:
        """The customer sends a signal; what is decided at once."""
        self.sent += 1
        body = {"type": type_, "messageId": f"m-{self.sent}", "userId": self.user, **fields}
        return decisions_of(self.replay.signal(json.dumps(body).encode(), self.now_ms))

    def is_known(self, *, consents: bool = True, **traits: Any) -> list[Decision]:
        """The customer has these traits and agreed to marketing, or refused it."""
        reachable = {"first_name": "Ana", "email": "ana@example.com", "phone": "+34600000000", "push_token": "t-1"}
        made = self.signal("identify", traits={"timezone": "Europe/Madrid", **reachable, **traits})
        status = "granted" if consents else "denied"
        return made + self.does("Consent Updated", purpose="marketing", status=status)

    def does(self, event: str, **properties: Any) -> list[Decision]:
        """The customer does something that is tracked."""
        return self.signal("track", event=event, properties=properties)

    def comes_to(self, placement: str, channel: str) -> list[Decision]:
        """The customer turns up and a slot asks what to show."""
        properties = {"requestId": "r", "placement": placement}
        return self.signal("track", event="Decision Requested", channel=channel, properties=properties)

    def answers(self, decision: Decision, outcome: str) -> None:
        """A channel reports how the customer took a decision."""
        body = {"decisionId": decision["decisionId"], "customerId": decision["customerId"], "type": outcome}
        self.replay.publish("outcomes", decision["customerId"], json.dumps(body).encode(), self.now_ms)


def by(trigger: str, made: Iterable[Decision]) -> list[Decision]:
    """What one trigger decided."""
    return [each for each in made if each["trigger"] == trigger]


def treatments(made: Iterable[Decision]) -> list[str | None]:
    """The treatments chosen."""
    return [each["treatment"] for each in made]


def actions(made: Iterable[Decision]) -> list[str | None]:
    """The actions chosen."""
    return [each["action"] for each in made]


def reasons(decision: Decision, action: str) -> list[str]:
    """`stage: reason` of every treatment of an action that was left out."""
    rejected = decision["explanation"]["rejected"]
    return [f"{each['stage']}: {each['reason']}" for each in rejected if each["action"] == action]


SHOES = {"product_id": "p-1", "name": "Trail shoes", "category": "shoes", "price": 80, "quantity": 1}
COFFEE_ORDER = {"order_id": "o-1", "total": 40, "category": "coffee", "items": 2}


# --- Retail ---


def a_shopper(arm: str = "reminder", start: str = "2026-01-12T10:00", **known: Any) -> Story:
    """Somebody who has bought before, on a Monday in the middle of the month."""
    story = Story("retail", start, somebody("retail", arm))
    story.is_known(**known)
    story.does("Order Completed", **COFFEE_ORDER)
    story.waits(minutes=5)
    return story


def test_a_basket_left_is_recalled_by_push_then_by_email_then_in_the_app() -> None:
    """An hour later a push, the next day an e-mail with what goes with it, on return free shipping."""
    ana = a_shopper()
    assert ana.does("Product Added", **SHOES) == []
    assert ana.waits(minutes=59) == []
    (push,) = ana.waits(minutes=1)
    assert (push["treatment"], push["channel"]) == ("cart-reminder-push", "push")
    assert push["content"]["title"] == "Still thinking about Trail shoes?"
    (mail,) = ana.waits(hours=23)
    assert mail["treatment"] == "cart-related-email"
    assert "socks and shoe care" in mail["content"]["body"]
    ana.waits(hours=1)
    (banner,) = ana.comes_to("cart-banner", "web")
    assert banner["treatment"] == "free-shipping-web"


def test_whoever_buys_meanwhile_is_left_alone() -> None:
    """The order confirms itself and ends the wait for the basket."""
    ana = a_shopper()
    ana.does("Product Added", **SHOES)
    ana.waits(minutes=30)
    assert treatments(ana.does("Order Completed", **{**COFFEE_ORDER, "category": "shoes"})) == [
        "order-confirmation-email"
    ]
    assert ana.waits(days=3) == []


def test_what_the_push_promised_the_app_shows_first() -> None:
    """Free shipping promised by push comes first in the app's inbox, until it is used."""
    ana = a_shopper("shipping")
    ana.does("Product Added", **SHOES)
    (push,) = ana.waits(hours=1)
    assert push["treatment"] == "free-shipping-push"
    shown = ana.comes_to("app-inbox", "app")
    assert (shown[0]["treatment"], shown[0]["rank"], shown[0]["probability"]) == ("free-shipping-app", 1, 1.0)
    ana.does("Order Completed", **{**COFFEE_ORDER, "category": "shoes"})
    assert "free-shipping" not in actions(ana.comes_to("app-inbox", "app"))


def test_what_the_night_holds_back_is_pushed_in_the_morning() -> None:
    """A basket left at half past nine in the evening: ten is past the hour for a push, nine in the morning is not."""
    ana = a_shopper(start="2026-01-12T21:25")
    ana.does("Product Added", **SHOES)
    (nothing,) = ana.waits(hours=1)
    assert nothing["action"] is None
    why = "quiet-hours: cart-reminder-push: quiet hours on push until 2026-01-13T08:00:00.000Z"
    assert why in reasons(nothing, "cart-reminder")
    assert treatments(ana.waits(hours=11)) == ["cart-reminder-push"]


def test_the_second_push_of_a_day_is_held_back() -> None:
    """One push a day; the explanation counts."""
    ana = a_shopper()
    ana.does("Product Added", **SHOES)
    assert actions(ana.waits(hours=1)) == ["cart-reminder"]
    ana.does("Product Added", **SHOES)
    (nothing,) = ana.waits(hours=1)
    why = "contact-policy: cart-reminder-push: 1 of 1 push contacts since 2026-01-12 (push-day)"
    assert why in reasons(nothing, "cart-reminder")


def test_without_consent_only_the_order_is_confirmed() -> None:
    """Marketing needs a yes; what was bought is confirmed all the same."""
    bea = Story("retail", "2026-01-12T10:00", somebody("retail", "reminder"))
    bea.is_known(consents=False)
    assert treatments(bea.does("Order Completed", **COFFEE_ORDER)) == ["order-confirmation-email"]
    bea.waits(minutes=5)
    bea.does("Product Added", **SHOES)
    (nothing,) = bea.waits(hours=1)
    why = "consent: cart-reminder-push: denied for push, marketing on 2026-01-12"
    assert why in reasons(nothing, "cart-reminder")
    assert actions(bea.waits(days=2)) == []


def test_a_detractor_gets_a_call_and_no_offers() -> None:
    """A three on nps: somebody calls; a basket left afterwards is not chased; the home page sells nothing."""
    ana = a_shopper()
    (call,) = by("detractor", ana.does("Survey Answered", metric="nps", score=3, comment="Arrived broken"))
    assert (call["treatment"], call["channel"]) == ("recovery-call-task", "call-center")
    assert "Arrived broken" in call["content"]["task"]
    ana.does("Product Added", **SHOES)
    (nothing,) = by("basket-left", ana.waits(hours=1))
    assert nothing["action"] is None
    assert set(reasons(nothing, "cart-reminder")) == {'suitability: issue sales: not true: "unhappy" not in segments'}
    assert actions(ana.comes_to("home-hero", "web")) == ["bestsellers"]
    assert actions(ana.comes_to("agent-desktop", "call-center"))[0] == "recovery-call"


def test_on_a_sunday_a_detractor_gets_a_letter_instead_of_a_call() -> None:
    """The call center rests, and the decision says so; an apology goes by e-mail."""
    ana = a_shopper(start="2026-01-18T12:00")
    (letter,) = by("detractor", ana.does("Survey Answered", metric="nps", score=2))
    assert letter["treatment"] == "apology-email"
    assert reasons(letter, "recovery-call")[0].startswith("quiet-hours: recovery-call-task: quiet hours on call-center")


def test_recency_brings_a_reorder_and_later_a_voucher_to_come_back() -> None:
    """Coffee lasts some 25 days; after 60 without an order there is something to come back for."""
    ana = a_shopper()
    made = ana.waits(days=61)
    assert [(each["trigger"], each["action"]) for each in made] == [
        ("opinion-due", "review-request"),
        ("reorder-due", "reorder"),
        ("lapsing", "win-back"),
    ]


def test_a_newcomer_is_welcomed_and_later_offered_a_voucher() -> None:
    """Half an hour after signing up a welcome; after four days of looking and not buying a voucher."""
    eva = Story("retail", "2026-01-12T10:00")
    assert eva.is_known() == []
    assert treatments(eva.waits(minutes=31)) == ["welcome-email"]
    assert treatments(eva.comes_to("home-hero", "web")) == ["welcome-web"]
    eva.waits(days=2)
    for _ in range(2):
        eva.does("Product Viewed", product_id="p-2", name="Lamp", category="home", price=60)
    assert treatments(eva.waits(days=2)) == ["welcome-voucher-email"]


def test_interest_in_a_category_is_followed_up_unless_dismissed_twice() -> None:
    """Three looks at lamps make them the hero of the home page; two closed heroes end it there."""
    ana = a_shopper()
    for _ in range(3):
        ana.does("Product Viewed", product_id="p-2", name="Lamp", category="home", price=60)
    for _ in range(2):
        (hero,) = ana.comes_to("home-hero", "web")
        assert hero["treatment"] == "cross-sell-web"
        ana.answers(hero, "dismiss")
    (hero,) = ana.comes_to("home-hero", "web")
    assert hero["action"] == "bestsellers"
    assert "2 dismiss of this action on this channel within 14d (closed-twice)" in reasons(hero, "cross-sell")[-1]


def test_vouchers_are_paced_over_the_month() -> None:
    """Just after midnight on the first nearly nothing of the month's money may be spent."""
    ana = a_shopper(start="2026-01-31T22:50")
    ana.does("Product Added", **SHOES)
    ana.waits(minutes=70)
    (nothing,) = ana.comes_to("cart-banner", "web")
    assert reasons(nothing, "free-shipping")[-1].startswith("budget: free-shipping-web: 0 of 0.37")
    ana.waits(hours=9)
    assert actions(ana.comes_to("cart-banner", "web")) == ["free-shipping"]


def test_the_holdout_gets_its_order_confirmed_and_nothing_else() -> None:
    """What would have been sent is published as control, without content."""
    zoe = Story("retail", "2026-01-12T10:00", somebody("retail", held_out=True))
    zoe.is_known()
    (confirmed,) = zoe.does("Order Completed", **COFFEE_ORDER)
    assert (confirmed["action"], confirmed["control"]) == ("order-confirmation", False)
    zoe.waits(minutes=5)
    zoe.does("Product Added", **SHOES)
    (control,) = zoe.waits(hours=1)
    assert (control["control"], control["content"]) == (True, None)


# --- Banking ---


def a_client(start: str = "2026-01-12T10:00", user: str | None = None, **known: Any) -> Story:
    """An adult with an income, no debts, and the app."""
    story = Story("banking", start, somebody("banking", "sms") if user is None else user)
    story.is_known(**{"age": 34, "in_arrears": False, "vulnerable": False, "monthly_income": 2100, **known})
    return story


def test_a_mortgage_enquiry_is_answered_then_an_appointment_offered_then_tips_given() -> None:
    """The next steps by e-mail at once, an SMS to choose a time, an adviser's call, tips by push."""
    ana = a_client(risk_profile="bold")
    (confirmed,) = ana.does("Enquiry Submitted", product="mortgage", amount=180_000)
    assert confirmed["treatment"] == "mortgage-confirmation-email"
    assert "180000 €" in confirmed["content"]["body"]
    assert ana.waits(hours=1, minutes=59) == []
    assert treatments(ana.waits(minutes=1)) == ["mortgage-appointment-sms"]
    assert treatments(ana.waits(days=1)) == ["mortgage-advice-adviser"]
    assert treatments(ana.waits(days=2)) == ["mortgage-tips-mixed-push"]


def test_whoever_books_a_call_is_not_asked_again() -> None:
    """A booked call ends the wait for the SMS and for the adviser's own call."""
    ana = a_client()
    ana.does("Enquiry Submitted", product="mortgage", amount=180_000)
    ana.does("Advisor Call Booked", topic="mortgage")
    assert treatments(ana.waits(days=4)) == ["mortgage-tips-fixed-push"]


def test_tips_need_consent_and_service_messages_do_not() -> None:
    """Somebody who refused marketing still gets the confirmation and the appointment."""
    bea = a_client(consents=False)
    made = bea.does("Enquiry Submitted", product="mortgage", amount=20_000) + bea.waits(days=4)
    assert actions(made) == ["mortgage-confirmation", "mortgage-appointment"]


def test_calls_end_with_the_capacity_of_the_day() -> None:
    """Forty calls a day, an eighth of them on each partition; the next enquiry waits, and is told why."""
    story = a_client()
    for user, _ in zip(somebodies("banking", partition=3), range(6), strict=False):
        story.user = user
        story.is_known(age=40, in_arrears=False)
        story.does("Enquiry Submitted", product="mortgage", amount=180_000)
    called = by("mortgage-adviser-due", story.waits(days=1))
    assert actions(called) == ["mortgage-advice"] * 5 + [None]
    assert reasons(called[-1], "mortgage-advice")[-1].startswith("budget: mortgage-advice-adviser: 5 of 5 decisions")


@pytest.mark.parametrize("asked_for", ["push", "sms"])
def test_a_fraud_alert_goes_out_at_three_in_the_morning_to_anybody(asked_for: str) -> None:
    """Whatever was refused, capped or held out."""
    known: dict[str, Any] = {"push_token": None} if asked_for == "sms" else {}
    zoe = a_client("2026-01-11T03:00", somebody("banking", held_out=True), consents=False, **known)
    for _ in range(3):
        (alert,) = zoe.does("Payment Flagged", amount=249.9, merchant="Electro", last4="1234")
        assert (alert["treatment"], alert["control"]) == (f"fraud-alert-{asked_for}", False)


@pytest.mark.parametrize(
    ("known", "stage", "reason"),
    [
        ({"age": 17}, "eligibility", "profile.age >= parameters.adult"),
        ({"in_arrears": True}, "suitability", "not profile.in_arrears"),
        ({"vulnerable": True}, "suitability", "not profile.vulnerable"),
        ({"monthly_income": 900}, "suitability", "profile.monthly_income >= parameters.loan_income"),
    ],
)
def test_no_credit_where_it_would_do_harm(known: dict[str, Any], stage: str, reason: str) -> None:
    """Minors, people in arrears, vulnerable people and small incomes are offered no loan."""
    story = a_client(**known)
    story.does("Balance Updated", balance=1_200)
    (answer,) = by("loan-enquired", story.does("Enquiry Submitted", product="loan", amount=6_000))
    assert answer["action"] != "personal-loan"
    assert reasons(answer, "personal-loan")[0].startswith(f"{stage}: ")
    assert reasons(answer, "personal-loan")[0].endswith(f"not true: {reason}")


def test_who_can_carry_a_loan_is_offered_one() -> None:
    """The rules that protect do not shut everybody out."""
    ana = a_client()
    ana.does("Balance Updated", balance=1_200)
    assert actions(ana.does("Enquiry Submitted", product="loan", amount=6_000)) == ["personal-loan"]


def test_falling_into_arrears_brings_help() -> None:
    """A payment plan, not a reminder and not a loan."""
    ana = a_client()
    (help_,) = ana.signal("identify", traits={"in_arrears": True})
    assert (help_["trigger"], help_["action"]) == ("arrears", "arrears-support")


def test_the_agent_sees_the_next_best_conversation() -> None:
    """A complaint is spoken of first and silences every offer; with nothing to say there is small talk."""
    ana = a_client()
    assert actions(ana.comes_to("agent-desktop", "call-center")) == ["checkup"]
    ana.does("Salary Received", amount=2_000)
    ana.does("Balance Updated", balance=9_000)
    assert actions(ana.comes_to("agent-desktop", "call-center"))[0] == "savings-plan"
    assert treatments(by("complaint", ana.does("Complaint Filed", topic="fees"))) == ["complaint-care-email"]
    shown = ana.comes_to("agent-desktop", "call-center")
    assert actions(shown) == ["complaint-care", "checkup"]
    assert any("waiting-for-us" in each for each in reasons(shown[0], "savings-plan"))


def test_a_salary_that_stops_and_money_that_leaves_are_noticed() -> None:
    """Forty days without a salary, or half the balance gone: somebody asks before the customer leaves."""
    ana = a_client()
    ana.does("Salary Received", amount=2_000)
    assert ana.waits(days=39) == []
    assert treatments(ana.waits(days=1)) == ["salary-bonus-email"]
    bea = a_client()
    for balance in (3_000, 3_000, 900):
        bea.waits(days=1)
        made = bea.does("Balance Updated", balance=balance)
    assert [(each["trigger"], each["treatment"]) for each in made] == [("leaving", "retention-talk-adviser")]


def test_a_card_is_mentioned_until_it_is_activated() -> None:
    """Five days after it was issued, unless it is in use by then."""
    ana, bea = a_client(), a_client()
    ana.does("Card Issued", card="debit", last4="1234")
    bea.does("Card Issued", card="debit", last4="1234")
    bea.does("Card Activated", card="debit", last4="1234")
    assert treatments(ana.waits(days=5)) == ["card-activation-push"]
    assert bea.waits(days=5) == []


# --- Travel ---

TRIP = {"booking_id": "B7", "destination": "Lisbon", "departs_on": "2026-03-10", "nights": 3, "total": 640}
ARRIVAL = {"hotel": "Casa Azul", "nights": 3, "suites_free": 2, "suite_price": 60}


def a_traveller(start: str = "2026-03-02T11:00", **known: Any) -> Story:
    """Somebody on WhatsApp, a week before a trip."""
    story = Story("travel", start, somebody("travel", "sms"))
    story.is_known(**{"whatsapp": True, **known})
    return story


def test_a_trip_is_accompanied_from_booking_to_survey() -> None:
    """Confirmed by e-mail, check-in by WhatsApp, an upgrade on arrival that the desk keeps, a survey by SMS."""
    ana = a_traveller()
    (confirmed,) = ana.does("Booking Confirmed", **TRIP, with_flight=True, bags=0)
    assert (confirmed["treatment"], confirmed["content"]["subject"]) == ("booking-confirmation-email", "Lisbon: booked")
    assert actions(ana.waits(days=2)) == ["extra-bag"]
    ana.waits(days=5)
    (check_in,) = ana.does("Check-in Opened", flight="IB 3166", departs_on="2026-03-10", departs_at="09:40")
    assert check_in["treatment"] == "check-in-whatsapp"
    ana.waits(minutes=10)
    ana.does("Checked In", flight="IB 3166")
    assert actions(ana.waits(days=1)) == ["transfer"]
    ana.does("Guest Arrived", **ARRIVAL)
    (offer,) = ana.waits(minutes=30)
    assert offer["treatment"] == "upgrade-push"
    assert "60 € a night" in offer["content"]["body"]
    assert treatments(ana.comes_to("desk-screen", "front-desk"))[0] == "upgrade-desk"
    ana.waits(days=3)
    ana.does("Stay Completed", hotel="Casa Azul", destination="Lisbon", nights=3, total=700)
    assert treatments(ana.waits(days=1)) == ["stay-survey-sms"]


def test_nobody_is_woken_for_check_in_wherever_they_live() -> None:
    """One moment, three clocks: morning in New York, midnight in Tokyo; where the zone is unknown, the strictest."""
    opened = {"flight": "IB 3166", "departs_on": "2026-03-11", "departs_at": "16:00"}
    awake = a_traveller("2026-03-10T16:00", timezone="America/New_York")
    assert treatments(awake.does("Check-in Opened", **opened)) == ["check-in-whatsapp"]
    asleep = a_traveller("2026-03-10T16:00", timezone="Asia/Tokyo", email=None)
    (held,) = asleep.does("Check-in Opened", **opened)
    quiet = "quiet-hours: check-in-whatsapp: quiet hours on whatsapp until 2026-03-10T23:00:00.000Z"
    assert quiet in reasons(held, "check-in")
    assert actions(by("check-in-open", asleep.waits(hours=8))) == ["check-in"]
    unknown = a_traveller("2026-03-10T14:00", timezone=None, email=None)
    assert actions(unknown.does("Check-in Opened", **opened)) == [None]


def test_a_long_delay_is_rebooked_at_any_hour_and_nothing_is_sold() -> None:
    """Half past eleven at night: rebooking goes out, the lounge is paid, and no bag is offered."""
    ana = a_traveller("2026-03-02T23:30")
    ana.does("Booking Confirmed", **TRIP, with_flight=True, bags=0)
    (rebooking,) = ana.does("Flight Delayed", flight="IB 3166", minutes=240)
    assert rebooking["treatment"] == "rebooking-push"
    assert treatments(by("long-wait", ana.waits(minutes=15))) == ["comfort-voucher-email"]
    (first, *_) = ana.comes_to("app-inbox", "app")
    assert first["action"] == "rebooking"
    assert any("Flight Delayed" in each for each in reasons(first, "extra-bag"))


def test_a_short_delay_is_announced_and_no_more() -> None:
    """Forty-five minutes: a notice, no voucher, no rebooking."""
    ana = a_traveller()
    assert actions(ana.does("Flight Delayed", flight="IB 3166", minutes=45)) == ["delay-notice"]
    assert ana.waits(hours=1) == []


def test_an_unhappy_guest_hears_from_the_manager_and_no_offers() -> None:
    """A two after the stay: a call; searches for another trip stay unanswered while it lasts."""
    ana = a_traveller()
    (call,) = by("detractor", ana.does("Survey Answered", metric="nps", score=2, comment="Noise all night"))
    assert call["treatment"] == "manager-call-task"
    for _ in range(2):
        ana.does("Trip Searched", destination="Porto", departs_on="2026-06-01", price=300)
    assert by("dreaming", ana.waits(days=1)) == []
    (hero,) = ana.comes_to("web-hero", "web")
    assert hero["action"] == "city-guide"
    assert reasons(hero, "next-trip") == ['suitability: issue sales: not true: "unhappy" not in segments']


def test_loyal_guests_reach_a_tier_once() -> None:
    """Seven nights make an explorer, twenty gold; each is written about three days after the stay."""
    ana = a_traveller()
    ana.does("Stay Completed", hotel="Casa Azul", destination="Lisbon", nights=7, total=900)
    assert "loyalty-tier-explorer-email" in treatments(ana.waits(days=4))
    ana.does("Stay Completed", hotel="Casa Azul", destination="Lisbon", nights=14, total=1_900)
    made = ana.waits(days=4)
    assert "loyalty-tier-gold-email" in treatments(made)
    assert "loyalty-tier-explorer-email" not in treatments(made)
