"""The simulated customers: who they are, and what they would never tell: tastes, patience, and when they sleep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from random import Random
from types import MappingProxyType
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CATEGORY_SPREAD = 2.0
"""Standard deviation, in log-odds, of how much people like a category: most keep to two or three."""
TIRED_AFTER_MS = 3 * DAY_MS
"""How far back a customer feels being written to."""


class Product(NamedTuple):
    """Something the shop sells; `price` in euros."""

    id: str
    name: str
    category: str
    price: float


class Region(NamedTuple):
    """Where customers live: IANA zone, country, what phone numbers begin with, first names."""

    zone: str
    country: str
    dialled: str
    names: tuple[str, ...]


_ASSORTMENT = {
    "shoes": {"Trail shoes": 89.0, "City sneakers": 69.0, "Rain boots": 45.0},
    "outdoor": {"Two-person tent": 99.0, "Day pack": 59.0, "Wool blanket": 39.0},
    "electronics": {"Headphones": 89.0, "Desk lamp": 49.0, "Power bank": 29.0},
    "home": {"Armchair": 99.0, "Tea set": 35.0, "Linen towels": 24.0},
    "coffee": {"Espresso beans, 1 kg": 24.0, "Filter blend, 500 g": 14.0, "Tasting set": 32.0},
    "pet-food": {"Dry food, 10 kg": 48.0, "Cat menu, 24 tins": 27.0, "Puppy food, 3 kg": 19.0},
    "skincare": {"Day cream": 28.0, "Sun lotion": 18.0, "Night serum": 42.0},
}
CATALOGUE = tuple(
    Product(f"{category}-{number}", name, category, price)
    for category, shelf in _ASSORTMENT.items()
    for number, (name, price) in enumerate(shelf.items(), 1)
)
SHELVES: Mapping[str, tuple[Product, ...]] = MappingProxyType(
    {category: tuple(each for each in CATALOGUE if each.category == category) for category in _ASSORTMENT}
)
REPLENISHED = ("coffee", "pet-food", "skincare")
"""Categories that are used up."""
REGIONS = (
    Region("Europe/Madrid", "ES", "+34", ("Ana", "Luis", "Carmen", "Diego", "Elena", "Pablo", "Marta", "Javier")),
    Region("Europe/Berlin", "DE", "+49", ("Greta", "Jonas", "Lena", "Felix", "Clara", "Moritz")),
    Region("America/New_York", "US", "+1", ("Grace", "Noah", "Emily", "Ethan", "Olivia", "Liam")),
    Region("America/Mexico_City", "MX", "+52", ("Sofia", "Mateo", "Valeria", "Emilio", "Ximena", "Andres")),
    Region("America/Argentina/Buenos_Aires", "AR", "+54", ("Julieta", "Bruno", "Camila", "Tomas")),
    Region("Asia/Tokyo", "JP", "+81", ("Yuki", "Haruto", "Sakura", "Ren", "Aoi", "Kaito")),
    Region("Australia/Sydney", "AU", "+61", ("Isla", "Jack", "Ruby", "Cooper")),
)
_AGREE = {"email": 0.75, "push": 0.65, "sms": 0.4, "whatsapp": 0.45}
"""Share of customers who agree to marketing on a channel."""


class Device(msgspec.Struct):
    """What a customer comes through: a browser, a phone with the app, a shop, a call.

    `channel`: the touchpoint. `identifier`: its anonymousId; for a shop the loyalty card. `known`: whether
    signals from it say who the customer is. `weight`: how often it is used.
    """

    channel: str
    identifier: str
    known: bool
    weight: float


class Person(msgspec.Struct, kw_only=True):
    """One customer: who they are, what they secretly want, and what has happened to them so far.

    `likes`: log-odds per channel, action or category. `thrift`: how much a voucher matters, 0 to 1. `patience`:
    messages in three days before they annoy. `wakes`, `sleeps`: local hours of the day. `looked_at`, `bought`: the
    last product, and the category of the last order. `denied_ms`: since when each channel is not wanted.
    """

    number: int
    user_id: str
    first_name: str
    region: Region
    offset_ms: int
    wakes: float
    sleeps: float
    visits_per_day: float
    thrift: float
    patience: float
    devices: list[Device]
    random: Random
    standing: str
    """`known`: a customer of old; `newcomer`: signs up along the way; `stranger`: never says who it is."""
    seed: str
    likes: dict[str, float] = {}
    signed_up: bool = False
    agreed: dict[str, bool] = {}
    denied_ms: dict[str, int] = {}
    basket: list[Product] = []
    looked_at: Product | None = None
    bought: str | None = None
    usual_order: float = 40.0
    usual_category: str = "home"
    ordered_ms: int | None = None
    contacted_ms: list[int] = []
    unhappy: bool = False

    def like(self, what: str, spread: float) -> float:
        """What this person thinks of something, in log-odds around 0; settled at the first thought of it."""
        if what not in self.likes:
            self.likes[what] = Random(f"{self.seed}/{what}").gauss(0.0, spread)
        return self.likes[what]

    def favourite(self) -> str:
        """A category to look at, drawn by taste."""
        categories = list(SHELVES)
        weights = [math.exp(self.like(f"category {each}", CATEGORY_SPREAD)) for each in categories]
        return self.random.choices(categories, weights)[0]

    def local_time(self, at_ms: int) -> tuple[float, int]:
        """Hour of the day and day of the week (Monday is 0) where this person lives."""
        days, ms = divmod(at_ms + self.offset_ms, DAY_MS)
        return ms / HOUR_MS, (days + 3) % 7

    def awake_at(self, at_ms: int) -> int:
        """The first moment from `at_ms` on at which this person is awake, epoch milliseconds."""
        hour, _ = self.local_time(at_ms)
        if self.wakes <= hour < self.sleeps:
            return at_ms
        return at_ms + int((self.wakes - hour) % 24 * HOUR_MS)

    def tiredness(self, at_ms: int) -> float:
        """Messages received in the last three days, over the person's patience."""
        self.contacted_ms = [each for each in self.contacted_ms if at_ms - each < TIRED_AFTER_MS]
        return len(self.contacted_ms) / self.patience

    def traits(self) -> dict[str, object]:
        """What the person tells the shop when signing up."""
        phone = f"{self.region.dialled}5550{self.number:05d}"
        given = {
            "first_name": self.first_name,
            "email": f"{self.first_name.lower()}.{self.number}@example.com",
            "phone": phone if self.like("giving a number", 1.0) > -1.0 else None,
            "whatsapp": self.like("being on whatsapp", 1.0) > 0.0,
            "push_token": f"token-{self.number}" if self.has_app() else None,
            "timezone": self.region.zone,
            "country": self.region.country,
        }
        return {name: value for name, value in given.items() if value is not None}

    def decline(self, channel: str, at_ms: int) -> None:
        """Want nothing more on a channel."""
        self.agreed[channel] = False
        self.denied_ms.setdefault(channel, at_ms)

    def has_app(self) -> bool:
        """Whether notifications can reach the person."""
        return any(each.channel == "app" for each in self.devices)


def person_of(number: int, seed: int, at_ms: int) -> Person:
    """The customer of a number in a world; the same for the same seed."""
    name = f"{seed}/{number}"
    random = Random(name)
    region = random.choice(REGIONS)
    standing = random.choices(("known", "newcomer", "stranger"), (0.75, 0.15, 0.1))[0]
    offset = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(region.zone)).utcoffset()
    person = Person(
        number=number,
        user_id=f"customer-{number}",
        first_name=random.choice(region.names),
        region=region,
        offset_ms=0 if offset is None else int(offset.total_seconds() * 1000),
        wakes=random.uniform(6, 9),
        sleeps=random.uniform(21, 24),
        visits_per_day=0.8 * random.lognormvariate(-0.125, 0.5),
        thrift=random.betavariate(2, 2),
        patience=random.uniform(1.5, 5),
        devices=_devices(number, standing, random),
        random=random,
        standing=standing,
        seed=name,
    )
    person.agreed = {channel: random.random() < share for channel, share in _AGREE.items()}
    person.usual_category = random.choice(REPLENISHED) if random.random() < 0.6 else person.favourite()
    person.usual_order = random.choice(SHELVES[person.usual_category]).price
    return person


def _devices(number: int, standing: str, random: Random) -> list[Device]:
    """One browser at least; most have the app, some a second browser, and known customers come by and call."""
    signed_in = standing == "known"
    devices = [Device("web", f"browser-{number}", signed_in and random.random() < 0.6, 1.0)]
    if random.random() < 0.25:
        devices.append(Device("web", f"tablet-{number}", known=False, weight=0.4))
    if standing != "stranger" and random.random() < 0.7:
        devices.append(Device("app", f"phone-{number}", signed_in, 1.0))
    if signed_in:
        devices.append(Device("store", f"card-{number}", known=True, weight=0.15))
        devices.append(Device("call-center", f"line-{number}", known=True, weight=0.03))
    return devices
