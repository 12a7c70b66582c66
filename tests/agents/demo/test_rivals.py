"""The rivals of the demo: bounded in time, under the same rules, and with the truth between nothing and everything."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import perf_counter

import msgspec
import pytest

from agents.demo.demand import Earnings
from agents.demo.population import DAY_MS, HOUR_MS
from agents.demo.rivals import STEP_MS, Rival, rivals
from agents.demo.simulation import World
from config import load_directory
from engine.decision import Decision
from engine.record import Output
from engine.repertoire import Repertoire
from engine.replay import Replay
from models.rehearsal import Rehearsal
from models.scorer import ModelScorer

START_MS = 1_767_600_000_000
"""Monday 2026-01-05, 08:00 UTC."""
SEED = 3
RETAIL = Path(__file__).parents[3] / "config" / "repertoires" / "retail"


@cache
def retail() -> Repertoire:
    """The example the demo plays."""
    return load_directory(RETAIL)


def _lived(rival: Rival, days: float) -> Earnings:
    rival.world.begin(START_MS)
    assert rival.catch_up(START_MS + int(days * DAY_MS), 600)
    return rival.world.earned


def test_the_oracle_earns_more_than_chance_and_breaks_no_promise():
    """Who knows every expected reward chooses far better than who knows nothing, with the same rules in force."""
    played = rivals(retail(), 150, SEED, START_MS)
    random, oracle = (_lived(played[each], 2.5) for each in ("random", "oracle"))
    assert min(random.choices, oracle.choices) > 150
    assert oracle.per_thousand() > 1.3 * random.per_thousand()
    assert not any(each.world.breaches for each in played.values())


def test_rivals_take_turns():
    """One that is far behind stops when its time is up, and goes on from there."""
    rival = rivals(retail(), 100, SEED, START_MS)["random"]
    rival.world.begin(START_MS)
    until_ms, turns = START_MS + 6 * HOUR_MS, 1
    began = perf_counter()
    while not rival.catch_up(until_ms, 0.002):
        assert perf_counter() - began < 60
        turns += 1
    assert turns > 5
    assert rival.world.now_ms == until_ms


@pytest.mark.slow
def test_the_engine_learns_in_this_world():
    """With models it ends well on its way from chance to the oracle."""
    days, late = 5, {}
    for name, rival in rivals(retail(), 500, SEED, START_MS).items():
        late[name] = _late(rival.world, lambda ms, rival=rival: rival.catch_up(ms, 600), days)
    late["engine"] = _late(*_a_learning_engine(500), days)
    assert late["engine"] > late["random"] + 0.35 * (late["oracle"] - late["random"]), late


def _late(world: World, live: Callable[[int], object], days: int) -> float:
    """Expected reward per choice in the last third of so many days; `live` has the world go on until some time."""
    world.begin(START_MS)
    live(START_MS + days * DAY_MS * 2 // 3)
    early = msgspec.structs.replace(world.earned)
    live(START_MS + days * DAY_MS)
    return (world.earned.expected - early.expected) / (world.earned.choices - early.choices)


def _a_learning_engine(size: int) -> tuple[World, Callable[[int], object]]:
    """A world, and what has an engine that learns live in it until some time."""
    world, scorer = World(retail(), size, SEED, START_MS), ModelScorer(retail())
    engine, rehearsal = Replay(retail(), scorer), Rehearsal(retail(), scorer, interval_ms=15 * STEP_MS)

    def hear(outputs: list[Output]) -> None:
        rehearsal.take(outputs)
        for output in outputs:
            if output.topic == "decisions":
                world.receive(msgspec.json.decode(output.value, type=Decision), world.now_ms)

    def live(until_ms: int) -> None:
        while world.now_ms < until_ms:
            for message in world.advance(world.now_ms + STEP_MS):
                hear(engine.publish(message.topic, message.key, message.value, world.now_ms))
            hear(engine.advance(world.now_ms))

    for message in world.load():
        engine.publish(message.topic, message.key, message.value, START_MS)
    return world, live
