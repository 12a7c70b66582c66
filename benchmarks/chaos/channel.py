"""The channel, a process of its own: delivers decisions by librdkafka and reports what came of them, until SIGTERM.

    python -m benchmarks.chaos.channel PLAN.json

As a channel should, it drops decisions it has seen. Of each offer it reports that it was delivered, then up to two
purchases that brought something, each after a while; some reports it says again, and some nobody can use. What becomes
of an offer follows from the seed and the decision's id. Told to stop, it reports on all decisions there are.
"""

from __future__ import annotations

import heapq
import random
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Literal, NamedTuple

import msgspec
from confluent_kafka import KafkaError, Message, Producer

from benchmarks.chaos import notes
from benchmarks.chaos.crowd import MOST_BROUGHT, OFFERS
from benchmarks.chaos.following import Following
from benchmarks.chaos.notes import Reported, Reports, Sent

PURCHASES = 2
"""An offer brings so many at most."""
_DELAY_SECONDS = 2.0
_AGAIN, _POISON = 0.1, 0.02
"""Shares of outcomes that are reported again, and of delivered offers that are followed by what nobody can use."""
_FLUSH_SECONDS = 150.0
_NOTHING = Reported("", "", 0.0)
_UNUSABLE = (b"", b"not json", b'{"type":"convert"}', b'{"decisionId":"d","customerId":"c","type":"applause"}', b"[7]")


class Plan(msgspec.Struct, frozen=True):
    """What is delivered, and where outcomes go; topics by their full names."""

    bootstrap: str
    group: str
    decisions: str
    outcomes: str
    seed: str
    notes: str


class _Decision(msgspec.Struct, rename="camel"):
    decision_id: str
    customer_id: str
    action: str | None


class _Outcome(msgspec.Struct, rename="camel", omit_defaults=True):
    outcome_id: str
    decision_id: str
    customer_id: str
    type: Literal["delivered", "convert"]
    value: float | None = None


class Saying(NamedTuple):
    """What is said of an offer, so many seconds after it was delivered. `outcome`: what it means, if anything."""

    after: float
    kind: Literal["outcome", "again", "poison"]
    value: bytes
    outcome: Reported


class _Report(NamedTuple):
    """What is to be said at a moment. `order`: of two that are due together."""

    due: float
    order: int
    key: bytes
    saying: Saying


_decision = msgspec.json.Decoder(_Decision)


def sayings(seed: str, decision_id: str, customer_id: str) -> Iterator[Saying]:
    """All that will be said of an offer: in this order, as `after` grows."""
    draw, after = random.Random(f"{seed}/{decision_id}"), 0.0
    brought = draw.sample(range(1, MOST_BROUGHT // PURCHASES), draw.randint(0, PURCHASES))
    outcomes = [_outcome("delivered", None, decision_id, customer_id)]
    outcomes += [_outcome(f"purchase-{at}", float(each), decision_id, customer_id) for at, each in enumerate(brought)]
    for outcome, value in outcomes:
        after += draw.uniform(0.0, _DELAY_SECONDS)
        yield Saying(after, "outcome", value, outcome)
        if draw.random() < _AGAIN:
            yield Saying(after, "again", value, outcome)
    if draw.random() < _POISON:
        yield Saying(after, "poison", draw.choice(_UNUSABLE), _NOTHING)


def _outcome(name: str, brought: float | None, decision_id: str, customer_id: str) -> tuple[Reported, bytes]:
    outcome_id = f"{decision_id}/{name}"
    said = _Outcome(outcome_id, decision_id, customer_id, "delivered" if brought is None else "convert", brought)
    return Reported(outcome_id, decision_id, brought or 0.0), msgspec.json.encode(said)


class Channel:
    """Delivers what a plan says."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._seen: set[str] = set()
        self._due: list[_Report] = []
        self._order = 0
        self._outcomes: list[Reported] = []
        self._poison: list[Sent] = []
        self._again = 0
        self._refused: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": plan.bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "linger.ms": 2,
                "reconnect.backoff.max.ms": 500,
                "log_level": 2,
            }
        )

    def run(self, stop: threading.Event) -> None:
        """Deliver and report until told to stop, report on what is left, and note what was accepted.

        Raises RuntimeError when something was refused or stays unacknowledged.
        """
        plan = self._plan
        with Following(plan.bootstrap, plan.group, [plan.decisions]) as decisions:
            while not stop.is_set():
                self._deliver(decisions.come())
                self._report(monotonic())
            self._deliver(decisions.rest())
        self._report(float("inf"))
        left = self._producer.flush(_FLUSH_SECONDS)
        if left or self._refused:
            raise RuntimeError(f"{left} outcomes unacknowledged, {len(self._refused)} refused: {self._refused[:3]}")
        notes.write(Path(plan.notes), Reports(self._outcomes, self._poison, self._again))

    def _deliver(self, messages: Iterable[Message]) -> None:
        for message in messages:
            decision = _decision.decode(message.value() or b"")
            if decision.decision_id not in self._seen and decision.action in OFFERS:
                self._plan_reports(decision)
            self._seen.add(decision.decision_id)

    def _plan_reports(self, decision: _Decision) -> None:
        delivered, key = monotonic(), decision.customer_id.encode()
        for saying in sayings(self._plan.seed, decision.decision_id, decision.customer_id):
            self._order += 1
            heapq.heappush(self._due, _Report(delivered + saying.after, self._order, key, saying))

    def _report(self, until: float) -> None:
        """Say what is due by a moment."""
        while self._due and self._due[0].due <= until:
            self._publish(heapq.heappop(self._due))
        self._producer.poll(0)

    def _publish(self, report: _Report) -> None:
        topic, saying = self._plan.outcomes, report.saying

        def note(error: KafkaError | None, delivered: Message) -> None:
            if error is not None:
                self._refused.append(str(error))
            elif saying.kind == "outcome":
                self._outcomes.append(saying.outcome)
            elif saying.kind == "again":
                self._again += 1
            else:
                at = delivered.partition() or 0, delivered.offset() or 0
                self._poison.append(Sent("poison", "", -1, "", "", report.due, topic, *at))

        # librdkafka's own partitioner: many outcomes come to a worker that does not own their customer.
        self._producer.produce(topic, saying.value, report.key, on_delivery=note)


def main(plan: Path) -> None:
    """Deliver what the plan of a file says."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Channel(msgspec.json.decode(plan.read_bytes(), type=Plan)).run(stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
