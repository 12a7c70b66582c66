"""The simulated world: repeatable, understood by the engine, and driven by what its customers secretly want."""

from __future__ import annotations

import math
import statistics
from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.demo.demand import MARGIN, Earnings
from agents.demo.population import CATALOGUE, DAY_MS, HOUR_MS, Person, person_of
from agents.demo.simulation import CONSENT_GRACE_MS, SIGNALS_PER_DAY, Message, World, customers_for
from config import load_directory
from engine.candidates import Rejection
from engine.decision import Contender, Decision, Explanation
from engine.outcomes import decode_outcome
from engine.record import Output, Record
from engine.repertoire import Arbitration, Repertoire
from engine.replay import Replay
from engine.scoring import Scorer
from engine.signal import Signal, decode_signal
from models.baseline import PriorScorer, RandomScorer

START_MS = 1_767_600_000_000
"""Monday 2026-01-05, 08:00 UTC."""
RETAIL = Path(__file__).parents[3] / "config" / "repertoires" / "retail"


@cache
def retail() -> Repertoire:
    """The example the demo plays."""
    return load_directory(RETAIL)


def a_world(size: int = 60, seed: int = 1) -> World:
    """A small world of the retail example, about to begin."""
    world = World(retail(), size, seed, START_MS)
    world.begin(START_MS)
    return world


def a_decision(action: str | None, channel: str | None, **changes: object) -> Decision:
    """A decision for `customer-0`; asked for by a touchpoint unless `trigger` says otherwise."""
    fields: dict[str, object] = {
        "decision_id": "d",
        "customer_id": "customer-0",
        "signal_id": "s",
        "request_id": None,
        "trigger": "request",
        "journey": None,
        "action": action,
        "treatment": f"{action}-{channel}",
        "channel": channel,
        "placement": None,
        "content": {},
        "rank": 1,
        "score": None,
        "probability": 1.0,
        "control": False,
        "experiment": None,
        "explanation": Explanation(1, [], []),
        "models": {},
        "config": "",
        "decided_at": "",
        "expires_at": None,
    }
    return Decision(**{**fields, **changes})  # type: ignore[arg-type]


def outcomes_of(messages: list[Message]) -> list[str]:
    """Types of the outcomes among some messages."""
    return [msgspec.json.decode(each.value)["type"] for each in messages if each.topic == "outcomes"]


def standing(world: World, what: str) -> Person:
    """The first person of a standing."""
    return next(each for each in world.people if each.standing == what)


# --- Repeatable ---


@given(steps=st.lists(st.integers(1, 12 * HOUR_MS), max_size=8))
@settings(max_examples=10, deadline=None)
def test_the_same_seed_gives_the_same_life_whatever_the_steps(steps):
    """How time is cut into steps changes nothing; another seed changes everything."""
    whole, stepwise, other = a_world(20), a_world(20), a_world(20, seed=2)
    expected = whole.load() + whole.advance(START_MS + 4 * DAY_MS)
    said = stepwise.load()
    for step in steps:
        said += stepwise.advance(stepwise.now_ms + step)
    said += stepwise.advance(START_MS + 4 * DAY_MS)
    assert said == expected
    assert other.load() + other.advance(START_MS + 4 * DAY_MS) != expected


def test_a_person_is_the_same_in_worlds_of_any_size():
    """What a policy meets does not depend on how many others there are."""
    few, many = a_world(10), a_world(30)
    assert [each.traits() for each in few.people] == [each.traits() for each in many.people[:10]]


# --- Understood by the engine ---


def test_signals_are_valid_in_order_and_about_as_many_as_promised():
    """All are accepted, stand in order of time within their step, and come at the rate `customers_for` counts on."""
    world = a_world(300)
    loaded = world.load()
    assert all(isinstance(_decoded(each), Signal) for each in loaded)
    said = world.advance(START_MS + 4 * DAY_MS)
    assert [each.at_ms for each in said] == sorted(each.at_ms for each in said)
    assert all(START_MS < each.at_ms <= START_MS + 4 * DAY_MS for each in said)
    assert all(isinstance(_decoded(each), Signal) for each in said)
    assert len(said) / 300 / 4 == pytest.approx(SIGNALS_PER_DAY, rel=0.15)
    assert customers_for(200, 3_600) == pytest.approx(200 * 24 / SIGNALS_PER_DAY, abs=1)


def _decoded(message: Message) -> object:
    record = Record(message.topic, 0, 0, message.at_ms, message.key.encode(), message.value)
    return decode_signal(record, "o", 0) if message.topic == "signals" else decode_outcome(record, "o")


def test_outcomes_are_valid_and_name_their_decision():
    """A channel reports under the decision's id and customer, with what success was worth."""
    world = a_world()
    for number in range(200):
        world.receive(a_decision("welcome", "web", decision_id=f"d{number}"), START_MS)
    reported = [each for each in world.advance(START_MS + DAY_MS) if each.topic == "outcomes"]
    assert {msgspec.json.decode(each.value)["customerId"] for each in reported} == {"customer-0"}
    assert all(getattr(_decoded(each), "decision_id", "").startswith("d") for each in reported)
    assert {"impression", "click", "convert"} <= set(outcomes_of(reported))


def test_strangers_stay_strangers_and_newcomers_are_recognised():
    """Who never logs in never says a user id; a newcomer's anonymous device later belongs to the customer."""
    world = a_world(80)
    engine, _ = _play(world, PriorScorer(retail()), 3)
    newcomer = next(each for each in world.people if each.standing == "newcomer" and each.signed_up)
    device = next(each for each in newcomer.devices if each.known)
    redirects = {key: each.canonical for partition in engine.partitions for key, each in partition.identities.items()}
    assert redirects[f"anonymousId:{device.identifier}"] == newcomer.user_id
    stranger = standing(world, "stranger")
    known = {key for partition in engine.partitions for key in partition.profiles}
    assert stranger.user_id not in known
    assert newcomer.user_id in known


# --- Driven by hidden preferences ---


def test_offers_succeed_as_often_as_their_hidden_chance_says():
    """Over many contacts the share of successes is the chance, within four standard errors, and worth what it says."""
    world = a_world()
    chance, count = world.chance("customer-0", "welcome", "web"), 3_000
    worth = world.expected_reward("customer-0", "welcome", "web") / chance
    for number in range(count):
        world.receive(a_decision("welcome", "web", decision_id=f"d{number}"), START_MS)
    reported = [msgspec.json.decode(each.value) for each in world.advance(START_MS + HOUR_MS)]
    taken = [each["value"] for each in reported if each["type"] == "convert"]
    assert abs(len(taken) - count * chance) < 4 * (count * chance * (1 - chance)) ** 0.5
    assert taken == pytest.approx([worth] * len(taken))
    assert world.earned.realised == pytest.approx(sum(taken))


def test_people_differ_in_what_they_like():
    """The same offer has a different chance with everybody, and other people prefer other channels."""
    world = a_world()
    chances = [world.chance(each.user_id, "review-request", "email") for each in world.people]
    assert statistics.stdev(chances) > 0.2 * statistics.fmean(chances)
    prefers_push = [
        world.chance(each.user_id, "review-request", "push") > world.chance(each.user_id, "review-request", "email")
        for each in world.people
    ]
    assert 5 < sum(prefers_push) < 55


def test_nobody_takes_free_shipping_without_a_basket():
    """Need drives outcomes: without a basket there is nothing to ship."""
    world = a_world()
    person = world.people[0]
    assert world.expected_reward(person.user_id, "free-shipping", "web") < 0
    person.basket = [*CATALOGUE[:2]]
    assert world.expected_reward(person.user_id, "free-shipping", "web") > 0


def test_people_in_the_same_circumstances_lean_the_same_way():
    """What was bought or looked at last, the hour and the weekend change chances, for everybody by as much."""
    world = a_world(12)

    def log_odds(person: Person, now_ms: int = START_MS) -> float:
        world.now_ms = now_ms
        chance = world.chance(person.user_id, "bestsellers", "web")
        return math.log(chance / (1 - chance))

    changes: tuple[tuple[str, object], ...] = (("bought", "coffee"), ("looked_at", CATALOGUE[0]))
    for trait, value in changes:
        effects = []
        for person in world.people:
            before = log_odds(person)
            setattr(person, trait, value)
            effects.append(log_odds(person) - before)
        assert effects == pytest.approx([effects[0]] * 12)
        assert effects[0] != pytest.approx(0.0)
    noon_ms = [START_MS // DAY_MS * DAY_MS + 12 * HOUR_MS - each.offset_ms for each in world.people]
    for later_ms in (7 * HOUR_MS, 5 * DAY_MS):
        effects = [
            log_odds(each, at + later_ms) - log_odds(each, at) for each, at in zip(world.people, noon_ms, strict=True)
        ]
        assert effects == pytest.approx([effects[0]] * 12)
        assert effects[0] != pytest.approx(0.0)


def test_a_voucher_costs_something_when_it_is_used():
    """Offering free shipping costs nothing, using it does."""
    world = a_world()
    person = world.people[0]
    world.receive(a_decision("free-shipping", "web"), START_MS)
    assert world.earned.realised == 0.0
    person.basket = [*CATALOGUE[:2]]
    chance, reward = (each(person.user_id, "free-shipping", "web") for each in (world.chance, world.expected_reward))
    assert reward / chance == pytest.approx(MARGIN * sum(each.price for each in person.basket) - 1.2)


def test_what_was_asked_for_is_seen_as_it_was_asked():
    """However long its answer takes, a request is worth what it was worth at the time."""
    world = a_world()
    asked: list[str] = []
    while not asked:
        said = [msgspec.json.decode(each.value) for each in world.advance(world.now_ms + HOUR_MS)]
        asked = [each["properties"]["requestId"] for each in said if each.get("event") == "Decision Requested"]
    person = next(each for each in world.people if asked[-1].startswith(f"{each.seed}/"))
    worth = []
    for looked_at in (CATALOGUE[0], CATALOGUE[-1]):
        person.looked_at = looked_at
        before = world.earned.expected
        changes = {"customer_id": person.user_id, "request_id": asked[-1], "placement": "home-hero"}
        others = Explanation(2, [], [Contender("reorder", 1.0, 0.0)])
        world.receive(a_decision("cross-sell", "web", explanation=others, **changes), world.now_ms + HOUR_MS)
        worth.append(world.earned.expected - before)
    assert worth[0] == pytest.approx(worth[1])


def test_messages_tire():
    """Each message within three days lowers the chance of the next; rest restores it."""
    world = a_world()
    before = world.chance("customer-0", "review-request", "email")
    for number in range(6):
        world.receive(a_decision("review-request", "email", decision_id=f"d{number}", trigger="t"), START_MS)
    assert world.chance("customer-0", "review-request", "email") < 0.7 * before
    world.now_ms += 4 * DAY_MS
    assert world.chance("customer-0", "review-request", "email") == pytest.approx(before)


def test_nobody_reads_asleep():
    """What arrives at night is noticed in the morning, in the customer's own time zone."""
    person = person_of(0, 1, START_MS)
    for hour in range(24):
        at_ms = person.awake_at(START_MS + hour * HOUR_MS)
        local = (at_ms + person.offset_ms) % DAY_MS / HOUR_MS
        assert person.wakes - 0.01 <= local < person.sleeps
        assert 0 <= at_ms - (START_MS + hour * HOUR_MS) < DAY_MS


def test_a_no_is_held_against_later_messages():
    """A marketing message long after a no is a breach; one under way, a transactional one or one agreed to is not."""
    world = a_world()
    world.people[0].decline("email", START_MS)
    late_ms = START_MS + CONSENT_GRACE_MS + 1
    world.receive(a_decision("cart-related", "email", trigger="t"), START_MS + CONSENT_GRACE_MS)
    world.receive(a_decision("order-confirmation", "email", trigger="t"), late_ms)
    world.receive(a_decision("cart-reminder", "push", trigger="t"), late_ms)
    assert world.breaches == 0
    world.receive(a_decision("cart-related", "email", trigger="t"), late_ms)
    assert world.breaches == 1


def test_only_real_choices_count():
    """A decision counts as a choice when more actions qualified than there was room for."""
    rivals = [Contender("reorder", 1.0, 0.0), Contender("bestsellers", 0.5, 0.0)]
    cases = (
        ("home-hero", 1, rivals, 1),
        ("home-hero", 1, [], 0),
        ("home-hero", 1, [Contender("welcome", 1.0, 0.0)], 0),
        ("app-inbox", 1, rivals, 0),
        ("app-inbox", 3, rivals, 1),
    )
    for placement, rank, contenders, choices in cases:
        world = a_world()
        explanation = Explanation(3, [Rejection("x", "consent", "no")], contenders)
        channel = "web" if placement == "home-hero" else "app"
        world.receive(a_decision("welcome", channel, placement=placement, rank=rank, explanation=explanation), START_MS)
        assert world.earned.choices == choices


def test_control_and_nothing_have_no_effect():
    """Held-out customers and empty answers reach nobody."""
    world = a_world()
    world.receive(a_decision("welcome", "web", control=True), START_MS)
    world.receive(a_decision(None, None), START_MS)
    world.receive(a_decision("welcome", "web", customer_id="somebody-else"), START_MS)
    assert world.earned == Earnings()
    assert not outcomes_of(world.advance(START_MS + HOUR_MS))


@given(st.lists(st.floats(-10, 100), min_size=2, max_size=50))
def test_earnings_are_a_mean_and_its_standard_error(rewards):
    """Per 1,000 choices, from running sums."""
    earnings = Earnings()
    for each in rewards:
        earnings.choose(each)
    assert earnings.per_thousand() == pytest.approx(1_000 * statistics.fmean(rewards), abs=1e-6)
    error = 1_000 * statistics.pstdev(rewards) / len(rewards) ** 0.5
    assert earnings.error_per_thousand() == pytest.approx(error, abs=1e-2)


# --- The engine in this world ---


def test_the_engine_beats_chance_and_breaks_no_promise():
    """With the operator's rough expectations choices are worth more than by chance; nobody is written to after a no."""
    by_chance = msgspec.structs.replace(retail(), arbitration=Arbitration(context=False, value=False, lever=False))
    worlds = []
    for repertoire, scorer in ((retail(), PriorScorer(retail())), (by_chance, RandomScorer(1))):
        world = World(repertoire, 160, 5, START_MS)
        world.begin(START_MS)
        _, rejected = _play(world, scorer, 2, repertoire)
        worlds.append(world)
        assert world.breaches == 0
        assert rejected <= {"expired-decision"}
    engine, chance = (each.earned for each in worlds)
    assert min(engine.choices, chance.choices) > 100
    assert engine.per_thousand() > 1.4 * chance.per_thousand()


def _play(world: World, scorer: Scorer, days: int, repertoire: Repertoire | None = None) -> tuple[Replay, set[str]]:
    """Let an engine in memory serve a world for some days; returns it and the codes of what it rejected."""
    engine, codes = Replay(repertoire or retail(), scorer), set()

    def hear(outputs: list[Output]) -> None:
        for output in outputs:
            if output.topic == "decisions":
                world.receive(msgspec.json.decode(output.value, type=Decision), world.now_ms)
            elif output.topic == "rejects":
                codes.add(msgspec.json.decode(output.value)["code"])

    messages = world.load()
    until_ms = world.now_ms + days * DAY_MS
    while world.now_ms < until_ms:
        for message in messages:
            hear(engine.publish(message.topic, message.key, message.value, world.now_ms))
        hear(engine.advance(world.now_ms + 60_000))
        messages = world.advance(world.now_ms + 60_000)
    return engine, codes
