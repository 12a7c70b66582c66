"""What the demo counts: signals, decisions, latencies, reasons, reward. Numbers only; `agents.demo.view` shows them."""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Collection, Mapping
from typing import Any

from agents.demo.demand import Earnings
from engine.decision import Decision
from engine.funnel import REQUEST

MAX_REMEMBERED = 50_000
"""Signals waiting for their decisions, and decisions known by their ids; older ones are forgotten."""
PACE_SECONDS = 3.0
POLICIES = ("engine", "random", "oracle")
"""Who is compared: see `agents.demo.rivals`."""
CURVE_STEP = 25
CURVE_SPAN = 500
CURVE_START = 100
NOTHING = "(nothing qualified)"
CONTROL = "(held out)"

_GROWTH = math.log(1.02)
_SHORTEST_SECONDS = 1e-5
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(T[\d:.]+(Z|[+-]\d\d:\d\d))?")


class Latencies:
    """Durations counted in logarithmic buckets: quantiles of any number of them to 2 %, in bounded memory."""

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0.0
        self._buckets: Counter[int] = Counter()

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.count += 1
        self.longest = max(self.longest, seconds)
        self._buckets[math.ceil(math.log(max(seconds, _SHORTEST_SECONDS) / _SHORTEST_SECONDS) / _GROWTH)] += 1

    def quantile(self, share: float) -> float | None:
        """The duration in seconds that a share in (0, 1] does not exceed, at most 2 % too long; None: none counted."""
        left = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return min(self.longest, _SHORTEST_SECONDS * math.exp(bucket * _GROWTH))
        return None


class Pace:
    """How fast a count grows, per second, over the last few seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, count: int) -> None:
        """Note a count at a time in seconds; times never go back."""
        self._marks.append((now, count))
        while len(self._marks) > 2 and now - self._marks[1][0] >= PACE_SECONDS:
            self._marks.popleft()

    @property
    def per_second(self) -> float:
        """0 until two moments are known."""
        if len(self._marks) < 2 or self._marks[-1][0] == self._marks[0][0]:
            return 0.0
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start)


class Curve:
    """Reward per 1,000 choices so far: a point every `CURVE_STEP` of them, over the last `CURVE_SPAN` at most."""

    def __init__(self) -> None:
        self.points: list[float] = []
        self.first: float | None = None
        """The first point over all of `CURVE_SPAN` choices."""
        self._marks: deque[tuple[int, float]] = deque([(0, 0.0)], maxlen=CURVE_SPAN // CURVE_STEP + 1)

    def note(self, choices: int, reward: float) -> None:
        """Note how many choices were made and what they brought so far."""
        if choices - self._marks[-1][0] >= CURVE_STEP:
            self._marks.append((choices, reward))
            made, earned = self._marks[0]
            if choices - made >= CURVE_START:
                self.points.append(1_000 * (reward - earned) / (choices - made))
                if self.first is None and choices - made >= CURVE_SPAN:
                    self.first = self.points[-1]


class Tally:
    """Everything counted while the demo plays. `waiting`: triggers that wait before they decide.

    Latency is what an outsider sees, in real time: from just before a signal is handed to its producer until its
    decision has been read back, where the decision follows from the signal at once.
    """

    def __init__(self, waiting: Collection[str] = ()) -> None:
        self.signals = self.outcomes = self.rejects = 0
        self.decisions = self.repeated = self.contradicted = 0
        self.by_action: Counter[tuple[str, str]] = Counter()
        self.by_stage: Counter[str] = Counter()
        self.reasons: dict[str, Counter[str]] = {}
        self.latencies = Latencies()
        self.signal_pace, self.decision_pace = Pace(), Pace()
        self.curves = {each: Curve() for each in POLICIES}
        self._waiting = frozenset(waiting)
        self._sent: dict[str, float] = {}
        self._read: dict[str, int] = {}

    def send_signal(self, message_id: str, now: float) -> None:
        """A signal is about to be published; `now` in seconds, of a clock that only goes forward."""
        self.signals += 1
        self._sent[message_id] = now
        shorten(self._sent)

    def read_decision(self, decision: Decision, now: float, value: bytes = b"") -> bool:
        """A decision was read, as these bytes; False when its id was read before, which is only counted."""
        content, known = hash(value), self._read.get(decision.decision_id)
        if known is not None:
            self.repeated += 1
            self.contradicted += known != content
            return False
        self._read[decision.decision_id] = content
        shorten(self._read)
        self.decisions += 1
        self.by_action[label_of(decision), decision.channel or "-"] += 1
        sent = self._sent.get(decision.signal_id)
        if sent is not None and decision.trigger not in self._waiting:
            self.latencies.observe(now - sent)
        for rejection in decision.explanation.rejected:
            self.by_stage[rejection.stage] += 1
            self.reasons.setdefault(rejection.stage, Counter())[kind_of_reason(rejection.reason)] += 1
        return True

    def reject(self) -> None:
        """A record was rejected."""
        self.rejects += 1

    def note_earned(self, earned: Mapping[str, Earnings]) -> None:
        """Note what each policy has earned by this moment, for the curves."""
        for name, each in earned.items():
            self.curves[name].note(each.choices, each.expected)

    def mark(self, now: float) -> None:
        """Note the counts of this moment, for the paces."""
        self.signal_pace.mark(now, self.signals)
        self.decision_pace.mark(now, self.decisions)


def shorten(remembered: dict[str, Any]) -> None:
    """Forget the oldest when there are more than `MAX_REMEMBERED`."""
    if len(remembered) > MAX_REMEMBERED:
        del remembered[next(iter(remembered))]


def label_of(decision: Decision) -> str:
    """The action of a decision, or what stands for there being none to act on."""
    if decision.action is None:
        return NOTHING
    return CONTROL if decision.control else decision.action


def kind_of_reason(reason: str) -> str:
    """A reason without what differs from case to case: the treatment or level it begins with, dates and times."""
    _, _, rest = reason.partition(": ")
    return _MOMENT.sub("…", rest or reason).removeprefix("not true: ")


def is_request(decision: Decision) -> bool:
    """Whether a touchpoint asked for it, instead of the engine speaking first."""
    return decision.trigger == REQUEST
