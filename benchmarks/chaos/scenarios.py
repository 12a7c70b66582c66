"""The scenarios: every fault alone, then mixed, on one node and on three.

Each begins with signals that are all there at once, so that workers are struck while they have more to do than they
can, and goes on at a fixed rate, so that it is known how long nothing came out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.chaos.crowd import Shares
from benchmarks.chaos.play import Scenario

_BAD_INPUT = Shares(poison=0.1, duplicates=0.2, late=0.5)
_FEW_EAGER = Shares(eager=0.02)
_TWO_CUSTOMERS = Shares(eager=0.9)
_PADDING = 2_500
_CLOCKS = ("clock-forward", "clock-back")
_LEARNERS = ("learner-kill", "learner-freeze", "learner-terminate")
_EXACTLY_ONCE = ("kill", "freeze", "cut")
_LEARNING = 1_000
"""So many customers that offers are made, and learned from, all the time."""
_MANY = 4_000
"""So many customers that some ask for their reminder at any time."""
_WORKERS = ("kill", "terminate", "freeze", "rebalance", "cut", "reset", "kill-all")
_BROKERS = ("broker-kill", "broker-restart", "blackout")


def _quick() -> Iterator[Scenario]:
    """Each fault once; faults of one sort share a scenario."""

    def of(name: str, *lanes: Sequence[str], strikes: int) -> Scenario:
        each = tuple(tuple(lane) for lane in lanes)
        return Scenario(name, each, strikes, (0.5, 1.5), 2_500, 1_200, 120.0, session_seconds=6.0)

    yield of("bad-input", strikes=0)._replace(shares=_BAD_INPUT)
    yield of("two-customers", ["kill"], strikes=1)._replace(
        shares=_TWO_CUSTOMERS, burst=8_000, signals=9_000, padding=_PADDING
    )
    yield of("kill", ["kill"], strikes=4)._replace(patient=False, pause=(2.0, 4.0))
    yield of("kill-unnamed", ["kill"], strikes=1)._replace(named=False)
    yield of("end", ["kill-all", "terminate"], strikes=2)
    yield of("freeze", ["freeze", "blink"], strikes=2)
    yield of("rebalance", ["rebalance"], strikes=2)
    yield of("state", ["state-corrupted"], strikes=2)
    yield of("disk", ["disk-full"], strikes=1)
    yield of("network", ["cut", "hiccup", "reset"], strikes=3)
    yield of("clock", _CLOCKS, strikes=2)._replace(people=_MANY)
    yield of("learning", _LEARNERS, strikes=3)._replace(learners=2, people=_LEARNING)
    yield of("exactly-once", _EXACTLY_ONCE, strikes=3)._replace(guarantee="exactly_once")
    yield of("broker", ["broker-restart", "broker-kill"], strikes=2)
    for cluster in (
        of("cluster-blackout", ["blackout"], strikes=1),
        of("cluster-mixed", ["kill", "freeze", "cut"], ["broker-restart", "broker-kill"], strikes=2),
    ):
        yield cluster._replace(nodes=3, session_seconds=10.0)


def _full() -> Iterator[Scenario]:
    """Each fault alone and several times; then all of them."""

    def of(name: str, *lanes: Sequence[str], strikes: int) -> Scenario:
        each = tuple(tuple(lane) for lane in lanes)
        return Scenario(name, each, strikes, (1.0, 4.0), 22_000, 14_000, 250.0, session_seconds=6.0)

    yield of("bad-input", strikes=0)._replace(shares=_BAD_INPUT)
    yield of("two-customers", ["kill"], strikes=2)._replace(shares=_TWO_CUSTOMERS, padding=_PADDING)
    yield of("kill", ["kill"], strikes=10)._replace(patient=False, pause=(2.0, 6.0), workers=3)
    yield of("kill-unnamed", ["kill"], strikes=2)._replace(named=False)
    for fault, strikes in {"kill-all": 3, "terminate": 4, "freeze": 3, "blink": 3, "rebalance": 4}.items():
        yield of(fault, [fault], strikes=strikes)
    yield of("state-corrupted", ["state-corrupted"], strikes=5)
    yield of("disk-full", ["disk-full", "kill"], strikes=4)
    for fault, strikes in {"cut": 3, "hiccup": 3, "reset": 3, "broker-restart": 2, "broker-kill": 2}.items():
        yield of(fault, [fault], strikes=strikes)
    yield of("clock", _CLOCKS, strikes=4)._replace(people=_MANY)
    yield of("clock-kill", _CLOCKS, ["kill"], strikes=3)._replace(people=_MANY, stored=True)
    yield of("learning", _LEARNERS, ["kill"], strikes=4)._replace(learners=2, people=_LEARNING, shares=_FEW_EAGER)
    yield of("exactly-once", _EXACTLY_ONCE, ["broker-kill"], strikes=4)._replace(guarantee="exactly_once")
    yield of("mixed", _WORKERS, ["broker-kill"], _CLOCKS, strikes=7)._replace(signals=50_000, session_seconds=10.0)
    for cluster in (
        of("cluster-broker-kill", ["broker-kill"], strikes=4),
        of("cluster-broker-restart", ["broker-restart"], strikes=3),
        of("cluster-blackout", ["blackout"], strikes=2),
        of("cluster-mixed", _WORKERS, _BROKERS, strikes=7)._replace(signals=50_000),
    ):
        yield cluster._replace(nodes=3, session_seconds=10.0)


QUICK, FULL = tuple(_quick()), tuple(_full())
