"""The simulated world of the demo: customers who browse, buy and complain, and channels that answer decisions.

Pure: time is an argument and all chance comes from the seed, so two worlds with one seed hold the same people with
the same hidden preferences; only what they are offered sets them apart:

    for message in world.load(): publish it                 (what the shop knows already)
    world.begin(now_ms), and then again and again
    for message in world.advance(now_ms): publish it        (signals, and outcomes of decisions received)
    for decision in decisions read: world.receive(decision, now_ms)
"""

from __future__ import annotations

import copy
import heapq
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, NamedTuple

import msgspec

from agents.demo.demand import BOUNCES, Demand, Earnings, noticed_at_ms, refusal
from agents.demo.population import DAY_MS, HOUR_MS, SHELVES, Device, Person, Product, person_of
from engine.calendar import format_rfc3339
from engine.consent import CONSENT_EVENT
from engine.decision import Decision
from engine.funnel import REQUEST
from engine.identity import ANONYMOUS_ID, USER_ID, identifier_key
from engine.outcomes import OutcomeType
from engine.repertoire import Repertoire
from engine.triggers import REQUEST_EVENT

SIGNALS_PER_DAY = 4.7
"""How many signals one customer sends on average."""
SECOND_MS = 1_000
MINUTE_MS = 60_000

ALL_NEW_MS = 5 * DAY_MS
"""Time within which all newcomers and strangers have come for the first time."""
MOST_ASKED = 5_000
"""Requests whose circumstances are remembered until they are answered; older ones are forgotten."""
CONSENT_GRACE_MS = 2 * HOUR_MS
"""How long after a customer's no a message may still arrive that was under way."""

_encode = msgspec.json.Encoder().encode


class Message(NamedTuple):
    """A record for Kafka. `topic`: its role; `id`: `messageId` or `outcomeId`; `at_ms`: its event time.

    `about`: the decision an outcome is of.
    """

    at_ms: int
    topic: str
    key: str
    id: str
    value: bytes
    about: str = ""


class World:
    """Customers, their moods and their channels. `size`: how many; `start_ms`: what time it is, epoch milliseconds.

    Nothing happens by itself before `begin`.
    """

    def __init__(self, repertoire: Repertoire, size: int, seed: int, start_ms: int) -> None:
        self.now_ms = start_ms
        self.earned = Earnings()
        self.breaches = 0
        self.people = [person_of(number, seed, start_ms) for number in range(size)]
        self._rules = repertoire.identity
        self._demand = Demand(repertoire, seed)
        self._slots = _slots_of(repertoire)
        self._rooms = {each.id: each.limit for each in repertoire.placements.values()}
        self._rooms |= {each.id: each.limit for each in repertoire.triggers}
        needs = repertoire.constraints.purposes.items()
        self._purposes = sorted(purpose for purpose, consent in needs if consent == "required")
        self._people_by_key = {key: person for person in self.people for key in self._keys_of(person)}
        self._asked: dict[str, tuple[Person, int]] = {}
        self._agenda: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._said: list[Message] = []

    def _keys_of(self, person: Person) -> Iterator[str]:
        yield identifier_key(USER_ID, person.user_id, self._rules)
        for device in person.devices:
            yield identifier_key(_kind_of(device), device.identifier, self._rules)

    # --- What the world says and hears ---

    def load(self) -> list[Message]:
        """What the shop knows before the start: its customers of old, what they agreed to, what they bought."""
        for person in self.people:
            if person.standing == "known":
                self._introduce(person)
        return self._take_said()

    def begin(self, at_ms: int) -> None:
        """Open the shop: from this time on customers turn up, who never were there before one after the other."""
        self.now_ms = max(self.now_ms, at_ms)
        for person in self.people:
            new = 0.0 if person.standing == "known" else person.random.random()
            self._next_visit(person, self.now_ms + int(new * ALL_NEW_MS))

    def advance(self, until_ms: int) -> list[Message]:
        """Let time pass; returns what customers do and channels report meanwhile, in order of time."""
        while self._agenda and self._agenda[0][0] <= until_ms:
            self.now_ms, _, act, arguments = heapq.heappop(self._agenda)
            act(*arguments)
        self.now_ms = max(self.now_ms, until_ms)
        return self._take_said()

    def receive(self, decision: Decision, at_ms: int) -> None:
        """A channel gets a decision to act on; what comes of it is reported as time passes."""
        person = self._people_by_key.get(decision.customer_id)
        if person is None or decision.action is None or decision.channel is None or decision.control:
            return
        now_ms = max(at_ms, self.now_ms)
        # What was asked for is seen as it was asked: on a fast clock an answer takes minutes, in which people move on.
        then, then_ms = self._asked.get(decision.request_id or "", (person, now_ms))
        contact = _Contact(decision, person, decision.action, decision.channel, now_ms, then, then_ms)
        self.earned.realised -= self._demand.cost(contact.action, contact.channel)
        if self._had_a_choice(decision):
            self.earned.choose(self._reward(then, contact.action, contact.channel, then_ms))
        self.breaches += self._is_breach(contact)
        self._answer(contact, Random(decision.decision_id))

    def chance(self, customer_id: str, action: str, channel: str) -> float:
        """The hidden chance that this customer would take this action on this channel at this moment.

        KeyError for a customer or an action that does not exist.
        """
        return self._demand.chance(self._people_by_key[customer_id], action, channel, self.now_ms)

    def expected_reward(self, customer_id: str, action: str, channel: str) -> float:
        """What contacting this customer with this action on this channel would bring at this moment, on average.

        The chance of success times its worth, less the cost of the contact, in euros. KeyError as in `chance`.
        """
        return self._reward(self._people_by_key[customer_id], action, channel, self.now_ms)

    def _reward(self, person: Person, action: str, channel: str, now_ms: int) -> float:
        taken = self._demand.chance(person, action, channel, now_ms) * self._demand.worth(person, action)
        return taken - self._demand.cost(action, channel)

    def _had_a_choice(self, decision: Decision) -> bool:
        """Whether more actions qualified than there was room for, so that the policy mattered."""
        room = self._rooms.get(decision.placement or decision.trigger, 1)
        others = {each.action for each in decision.explanation.contenders} - {decision.action}
        return len(others) > room - decision.rank

    def first_name(self, customer_id: str) -> str:
        """What to call a customer: by name once it is known, else by where they come from."""
        person = self._people_by_key.get(customer_id)
        named = person is not None and person.signed_up and customer_id == person.user_id
        return person.first_name if person is not None and named else "A visitor"

    def _take_said(self) -> list[Message]:
        said, self._said = self._said, []
        return said

    def _at(self, at_ms: int, act: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (at_ms, self._count, act, arguments))

    def _id(self, person: Person) -> str:
        self._count += 1
        return f"{person.seed}/{self._count}"

    # --- Channels ---

    def _is_breach(self, contact: _Contact) -> bool:
        """Whether the customer had said no to this, and said it long enough ago for the engine to know."""
        said_no_ms = contact.person.denied_ms.get(contact.channel)
        if said_no_ms is None or self._demand.purpose(contact.action, contact.channel) not in self._purposes:
            return False
        return contact.at_ms - said_no_ms > CONSENT_GRACE_MS

    def _answer(self, contact: _Contact, random: Random) -> None:
        """Draw what comes of a contact and schedule it, by when the customer notices."""
        person, channel, at_ms = contact.person, contact.channel, contact.at_ms
        takes = random.random() < self._demand.chance(contact.then, contact.action, channel, contact.then_ms)
        tired = person.tiredness(at_ms)
        asked = contact.decision.trigger == REQUEST
        if not asked:
            person.contacted_ms.append(at_ms)
            if not takes and random.random() < BOUNCES.get(channel, 0.0):
                self._at(at_ms + 20 * SECOND_MS, self._report, contact, "bounce")
                return
            self._at(at_ms + random.randint(1, 20) * SECOND_MS, self._report, contact, "delivered")
        noticed_ms = (
            at_ms + random.randint(1, 8) * SECOND_MS if asked else noticed_at_ms(person, channel, at_ms, random)
        )
        if not takes and random.random() > 0.6:
            return
        self._at(noticed_ms, self._report, contact, "impression")
        reaction = "convert" if takes else refusal(random.random(), tired)
        if reaction in ("convert", "click"):
            self._at(noticed_ms + 10 * SECOND_MS, self._report, contact, "click")
        if reaction == "convert":
            self._at(noticed_ms + random.randint(1, 20) * MINUTE_MS, self._take, contact)
        elif reaction not in (None, "click"):
            self._at(noticed_ms + 5 * SECOND_MS, self._report, contact, reaction)

    def _take(self, contact: _Contact) -> None:
        """The customer does what was proposed; an order, unless something else made them buy meanwhile."""
        person, action = contact.person, contact.action
        worth, products = self._demand.worth(person, action), []
        if self._demand.sells(action):
            products = self._demand.order(person, action)
            if not products:
                return
            signed_in = (each for each in person.devices if each.known)
            self._order(person, next(signed_in, person.devices[0]), products)
        if self._demand.group(action) == "recovery":
            person.unhappy = False
        self.earned.realised += worth
        self._report(contact, "convert" if products else "accept", worth)

    def _report(self, contact: _Contact, what: OutcomeType, worth: float | None = None) -> None:
        decision = contact.decision
        if what == "unsubscribe":
            contact.person.decline(contact.channel, self.now_ms)
        body: dict[str, Any] = {
            "outcomeId": f"{decision.decision_id}-{what}",
            "decisionId": decision.decision_id,
            "customerId": decision.customer_id,
            "type": what,
            "timestamp": format_rfc3339(self.now_ms),
        }
        if worth is not None:
            body["value"] = worth
        said = Message(
            self.now_ms, "outcomes", decision.customer_id, body["outcomeId"], _encode(body), decision.decision_id
        )
        self._said.append(said)

    # --- Customers ---

    def _next_visit(self, person: Person, after_ms: int) -> None:
        pause = person.random.expovariate(person.visits_per_day) * DAY_MS
        self._at(person.awake_at(after_ms + int(pause)), self._visit, person)

    def _visit(self, person: Person) -> None:
        """A person turns up somewhere; what happens until they leave again is planned here."""
        self._next_visit(person, self.now_ms)
        device = person.random.choices(person.devices, [each.weight for each in person.devices])[0]
        if device.channel in ("store", "call-center"):
            self._ask(person, device)
            if device.channel == "store" and person.random.random() < 0.5:
                self._at(self.now_ms + 5 * MINUTE_MS, self._order, person, device, [_pick(person)])
            return
        self._say(person, device, "screen" if device.channel == "app" else "page", properties={"name": "home"})
        if not device.known and person.standing != "stranger" and person.random.random() < 0.35:
            self._log_in(person, device)
        self._ask(person, device)
        self._browse(person, device)
        if device.known and person.random.random() < 0.015:
            self._change_mind(person, device)

    def _browse(self, person: Person, device: Device) -> None:
        """Look at some products of a category, perhaps put one into the basket; then go on to buy, or back home."""
        random, at_ms, category = person.random, self.now_ms, person.favourite()
        for _ in range(random.choices((1, 2, 3, 5, 8), (3, 4, 4, 3, 1))[0]):
            at_ms += random.randint(15, 90) * SECOND_MS
            product = random.choice(SHELVES[category])
            self._at(at_ms, self._view, person, device, product)
            if random.random() < 0.2:
                self._at(at_ms + 10 * SECOND_MS, self._add, person, device, product)
        if random.random() < 0.4:
            self._at(at_ms + MINUTE_MS, self._check_out, person, device)
        else:
            self._at(at_ms + MINUTE_MS, self._ask, person, device)

    def _view(self, person: Person, device: Device, product: Product) -> None:
        person.looked_at = product
        self._say(person, device, "track", "Product Viewed", _described(product))

    def _add(self, person: Person, device: Device, product: Product) -> None:
        person.basket = [*person.basket[-2:], product]
        self._say(person, device, "track", "Product Added", {**_described(product), "quantity": 1})

    def _check_out(self, person: Person, device: Device) -> None:
        if not person.basket:
            return
        if not device.known and person.standing != "stranger":
            self._log_in(person, device)
        total = sum(each.price for each in person.basket)
        self._say(person, device, "track", "Checkout Started", {"value": total})
        self._ask(person, device)
        if person.random.random() < 0.55:
            self._at(self.now_ms + 3 * MINUTE_MS, self._order, person, device, None)

    def _order(self, person: Person, device: Device, products: list[Product] | None) -> None:
        """Buy the given products, or what is in the basket."""
        bought = person.basket if products is None else products
        if not bought:
            return
        dearest = max(bought, key=lambda each: each.price)
        order = {"order_id": self._id(person), "total": sum(each.price for each in bought)}
        self._say(
            person,
            device,
            "track",
            "Order Completed",
            {**order, "category": dearest.category, "items": len(bought)},
        )
        person.ordered_ms, person.bought = self.now_ms, dearest.category
        person.basket = [each for each in person.basket if each not in bought]
        person.unhappy = person.unhappy or person.random.random() < 0.15
        if person.random.random() < 0.4:
            answered_ms = person.awake_at(self.now_ms + int(person.random.uniform(4, 30) * HOUR_MS))
            self._at(answered_ms, self._answer_survey, person, device)

    def _answer_survey(self, person: Person, device: Device) -> None:
        score = person.random.randint(0, 6) if person.unhappy else person.random.randint(7, 10)
        answers = {"metric": "nps", "score": score, "touchpoint": device.channel}
        if score <= 3:
            answers["comment"] = "The parcel came late and nobody answered"
        self._say(person, device, "track", "Survey Answered", answers)

    # --- Who they are, and what they allow ---

    def _introduce(self, person: Person) -> None:
        """A customer of old, as the shop's records have them: traits, consent, and two orders of the last weeks."""
        card = Device("store", f"card-{person.number}", known=True, weight=0.0)
        self._identify(person, card)
        for days in sorted((person.random.uniform(20, 80), person.random.uniform(90, 300)), reverse=True):
            dearest = {"category": person.usual_category, "items": 1, "total": person.usual_order}
            at_ms = self.now_ms - int(days * DAY_MS)
            order = {"order_id": self._id(person), **dearest}
            self._say(person, card, "track", "Order Completed", order, at_ms=at_ms)
            person.ordered_ms, person.bought = at_ms, person.usual_category

    def _log_in(self, person: Person, device: Device) -> None:
        """The device turns out to be this person's; whoever is new signs up with it."""
        device.known = True
        if not person.signed_up:
            self._identify(person, device)
        else:
            self._say(person, device, "identify", traits={"first_name": person.first_name})

    def _identify(self, person: Person, device: Device) -> None:
        person.signed_up = True
        self._say(person, device, "identify", traits=person.traits())
        self._consent(person, device, person.agreed)
        for channel in [each for each, yes in person.agreed.items() if not yes]:
            person.decline(channel, self.now_ms)

    def _change_mind(self, person: Person, device: Device) -> None:
        channel = person.random.choice(sorted(person.agreed))
        if person.agreed[channel]:
            person.decline(channel, self.now_ms)
        else:
            person.agreed[channel] = True
            person.denied_ms.pop(channel, None)
        self._consent(person, device, {channel: person.agreed[channel]})

    def _consent(self, person: Person, device: Device, agreed: dict[str, bool]) -> None:
        said = [
            {"channel": channel, "purpose": purpose, "status": "granted" if yes else "denied"}
            for channel, yes in agreed.items()
            for purpose in self._purposes
        ]
        self._say(person, device, "track", CONSENT_EVENT, {"consents": said})

    def _ask(self, person: Person, device: Device) -> None:
        """The touchpoint asks for something to show."""
        slots = [each for each in self._slots.get(device.channel, []) if person.basket or "cart" not in each]
        if slots:
            request_id = self._id(person)
            self._asked[request_id] = copy.copy(person), self.now_ms
            if len(self._asked) > MOST_ASKED:
                del self._asked[next(iter(self._asked))]
            properties = {"requestId": request_id, "channel": device.channel, "placement": slots}
            self._say(person, device, "track", REQUEST_EVENT, properties)

    def _say(
        self,
        person: Person,
        device: Device,
        kind: str,
        event: str | None = None,
        properties: dict[str, Any] | None = None,
        *,
        traits: dict[str, Any] | None = None,
        at_ms: int | None = None,
    ) -> None:
        """Publish a signal, naming the customer as far as the device knows who it is."""
        at_ms = self.now_ms if at_ms is None else at_ms
        body: dict[str, Any] = {"messageId": self._id(person), "type": kind, "timestamp": format_rfc3339(at_ms)}
        body |= {"event": event} if event is not None else {}
        body |= {"userId": person.user_id} if device.known else {}
        kind_of_id = _kind_of(device)
        if kind_of_id == ANONYMOUS_ID:
            body["anonymousId"] = device.identifier
        elif device.channel == "store":
            body["externalIds"] = [{"type": kind_of_id, "id": device.identifier}]
        body |= {"channel": device.channel, "properties": properties or {}}
        body |= {"traits": traits} if traits is not None else {}
        key = person.user_id if device.known else device.identifier
        self._said.append(Message(at_ms, "signals", key, body["messageId"], _encode(body)))


class _Contact(NamedTuple):
    """A decision on its way to a customer. `then`: the person as it was at `then_ms`, when it was asked for."""

    decision: Decision
    person: Person
    action: str
    channel: str
    at_ms: int
    then: Person
    then_ms: int


# --- Small change ---


def customers_for(signals_per_second: float, speed: int) -> int:
    """How many customers send that many signals per real second when time passes `speed` times as fast."""
    return max(20, round(signals_per_second * DAY_MS / 1_000 / speed / SIGNALS_PER_DAY))


def _slots_of(repertoire: Repertoire) -> dict[str, list[str]]:
    """Touchpoint → the placements it asks for."""
    slots: dict[str, list[str]] = {}
    for placement in repertoire.placements.values():
        slots.setdefault(placement.channel, []).append(placement.id)
    return slots


def _pick(person: Person) -> Product:
    return person.random.choice(SHELVES[person.favourite()])


def _described(product: Product) -> dict[str, Any]:
    return {"product_id": product.id, "name": product.name, "category": product.category, "price": product.price}


def _kind_of(device: Device) -> str:
    return "loyalty" if device.channel in ("store", "call-center") else ANONYMOUS_ID
