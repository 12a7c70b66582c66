"""A crowd that shares devices and addresses: what it does on the broker, and what must be true in the end."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from typing import Any

from hypothesis import strategies as st

from engine import aggregates
from engine.aggregates import Aggregate, Window
from engine.profile import Profile
from engine.repertoire import Limits, ProfileRules, Repertoire, Trigger
from tests.engine.memory_broker import Broker
from tests.repertoires import HOUR_MS, START_MS, Builder

EACH = Aggregate(
    name="each",
    function="count",
    window=Window("lifetime"),
    by=lambda scope: scope["signal"]["properties"].get("n"),
    max_keys=1_000,
)
"""How often each signal was counted, by its number."""
USERS = ("u0", "u1", "u2", "u3")
LATE = {"late": 2 * HOUR_MS, "later": 4 * HOUR_MS}
"""Delayed triggers of the event `Late`; all signals of a crowd lie within an hour."""


def repertoire(partitions: int = 4) -> Repertoire:
    """Decides for every `Go`, and twice some hours after the last `Late`; message ids are forgotten at once."""
    delayed = (Trigger(id=id_, events=frozenset({"Late"}), after_ms=ms, answer_always=True) for id_, ms in LATE.items())
    return (
        Builder()
        .action("a")
        .build(
            partitions=partitions,
            profile=ProfileRules(limits=Limits(recent_messages=1), aggregates=(EACH,)),
            triggers=(Trigger(id="go", events=frozenset({"Go"}), answer_always=True), *delayed),
        )
    )


@st.composite
def _deeds(draw: st.DrawFn) -> dict[str, Any]:
    """One signal's body: an alias now and then, else a track by any mixture of identifiers."""
    users, devices = st.sampled_from(USERS), st.sampled_from(("a0", "a1", "a2", "a3"))
    if draw(st.integers(0, 7)) == 7:
        return {"type": "alias", "userId": draw(users), "previousId": draw(users | st.just("a0"))}
    body: dict[str, Any] = {"type": "track", "event": draw(st.sampled_from(["Go", "Late", "Other"]))}
    body |= draw(st.fixed_dictionaries({}, optional={"userId": users, "anonymousId": devices}))
    address = st.fixed_dictionaries(
        {"type": st.sampled_from(["email", "phone"]), "id": st.sampled_from(["x", "y", "z"])}
    )
    body["externalIds"] = draw(st.lists(address, min_size=len(body) == 2, max_size=2))
    return body


def crowds(max_size: int = 25) -> st.SearchStrategy[list[dict[str, Any]]]:
    """What a crowd does, numbered in order."""
    return st.lists(_deeds(), min_size=1, max_size=max_size).map(
        lambda deeds: [{**deed, "messageId": f"s{n}", "properties": {"n": n}} for n, deed in enumerate(deeds)]
    )


def play(deeds: list[dict[str, Any]], seed: int, crashes: float = 0.0, partitions: int = 4) -> Broker:
    """Publish the signals to any partition, one a second, work in between as the seed says, then let time pass."""
    chance = random.Random(seed)
    broker = Broker(repertoire(partitions), seed, crashes, answers=True)
    for n, deed in enumerate(deeds):
        partition = chance.randrange(partitions)
        broker.publish("signals", None, json.dumps(deed).encode(), START_MS + n * 1_000, partition=partition)
        broker.run(chance.randint(0, 8))
    for hours in (1, 3, 5):
        broker.advance(START_MS + hours * HOUR_MS)
    return broker


# --- What must be true in the end ---


def counted(profile: Profile) -> set[int]:
    """The numbers of the signals a profile counted."""
    return {int(n) for n in aggregates.breakdown(EACH, profile.aggregates.get("each"), 0)}


def assert_each_counted_once(broker: Broker, deeds: list[dict[str, Any]]) -> None:
    """Over all customers, every signal is in exactly one profile, once."""
    counts: Counter[str] = Counter()
    for profile in broker.customers().values():
        for n, count in aggregates.breakdown(EACH, profile.aggregates.get("each"), 0).items():
            counts[n] += int(count)
    assert counts == Counter(str(n) for n in range(len(deeds)))


def assert_one_customer_per_person(broker: Broker, deeds: list[dict[str, Any]]) -> None:
    """User ids lead to one customer if, and only if, aliases connect them; every other identifier leads to somebody."""
    person = {user: user for deed in deeds for user in (deed.get("userId"), deed.get("previousId")) if user}
    for deed in deeds:
        if deed["type"] == "alias":
            one, other = person[deed["userId"]], person[deed["previousId"]]
            person = {user: other if each == one else each for user, each in person.items()}
    customers: defaultdict[str, set[str]] = defaultdict(set)
    for user, each in person.items():
        customers[each].add(broker.resolve(user))
    found = [customer for each in customers.values() for customer in each]
    assert sorted(found) == sorted(set(found))
    assert len(found) == len(customers)
    for worker in broker.workers:
        for key in worker.identities:
            assert broker.resolve(key) in broker.customers()


def assert_decided_once(broker: Broker, deeds: list[dict[str, Any]]) -> None:
    """Every `Go` made one decision, every customer that did `Late` one for each delay; each id has one content."""
    contents: defaultdict[str, set[bytes]] = defaultdict(set)
    made: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for output in broker.outputs:
        assert output.topic == "decisions", output
        decision = json.loads(output.value)
        contents[decision["decisionId"]].add(output.value)
        made[decision["trigger"], decision["signalId"]].add(decision["decisionId"])
    assert all(len(each) == 1 for each in contents.values())
    assert all(len(each) == 1 for each in made.values())
    went = {("go", deed["messageId"]) for deed in deeds if deed.get("event") == "Go"}
    assert {each for each in made if each[0] == "go"} == went
    late = {deed["properties"]["n"] for deed in deeds if deed.get("event") == "Late"}
    waited = sum(not late.isdisjoint(counted(profile)) for profile in broker.customers().values())
    assert Counter(trigger for trigger, _ in made if trigger != "go") == Counter(
        dict.fromkeys(LATE, waited) if waited else {}
    )
    assert_remembered(broker, set(contents))


def assert_remembered(broker: Broker, decisions: set[str]) -> None:
    """Every decision is in one history, and the click on it was counted once."""
    profiles = broker.customers().values()
    assert sorted(each.decision_id for profile in profiles for each in profile.contacts) == sorted(decisions)
    assert sum(len(profile.answers) for profile in profiles) == len(decisions)
