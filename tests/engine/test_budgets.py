"""Volume and money budgets: over all customers and partitions together, in any window, never exceeded."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.budgets import ROLLING_STEPS, Share, Spending, amount_of, exhausted, release, reserve
from engine.calendar import format_rfc3339
from engine.repertoire import BudgetRule, Window
from tests.repertoires import DAY_MS, HOUR_MS, START_MS, zones

ZONES = zones(("Europe/Madrid",))
MADRID = ZONES.zones["Europe/Madrid"]
DAY_STARTS_MS = START_MS - 9 * HOUR_MS
"""Midnight in Madrid."""


def _budget(limit: float, **changes) -> BudgetRule:
    return BudgetRule(**{"id": "b", "unit": "decisions", "limit": limit, "window": Window(unit="day"), **changes})


@given(st.integers(0, 10_000), st.integers(1, 64), st.text(max_size=10))
def test_shares_add_up_to_the_limit(limit, partitions, id_):
    """Whole decisions are dealt out without a rest and as evenly as can be; money is divided."""
    budget = _budget(float(limit), id=id_)
    shares = [Share(n, partitions).of(budget) for n in range(partitions)]
    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1
    money = [Share(n, partitions).of(_budget(limit / 7, unit="money")) for n in range(partitions)]
    assert math.isclose(sum(money), limit / 7)


def test_small_budgets_do_not_all_fall_to_one_partition():
    """Which partition gets the single decision of a budget depends on the budget."""
    owners = {n for id_ in "abcdefghijklmnop" for n in range(8) if Share(n, 8).of(_budget(1, id=id_))}
    assert len(owners) > 3


def test_a_reason_has_the_numbers():
    """What is used of what, in which unit, since when."""
    spent = {"b": Spending({DAY_STARTS_MS: 2.0})}
    said = exhausted(_budget(2), spent, 1.0, START_MS, Share(0, 1), ZONES)
    assert said == f"2 of 2 decisions used since {format_rfc3339(DAY_STARTS_MS)} (b)"
    assert exhausted(_budget(3), spent, 1.0, START_MS, Share(0, 1), ZONES) is None
    assert exhausted(_budget(2), spent, 1.0, DAY_STARTS_MS + DAY_MS, Share(0, 1), ZONES) is None


def test_what_a_contact_uses():
    """One decision, or what it costs."""
    assert amount_of(_budget(1), 2.5) == 1.0
    assert amount_of(_budget(1, unit="money"), 2.5) == 2.5


def test_a_rolling_window_is_free_again_when_it_has_passed():
    """After its span, and at most one of its steps more."""
    budget, budgets, share = _budget(1, window=Window(span_ms=DAY_MS)), dict[str, Spending](), Share(0, 1)
    reserve(budget, budgets, 1.0, START_MS, ZONES)
    assert exhausted(budget, budgets, 1.0, START_MS + DAY_MS, share, ZONES) is not None
    assert exhausted(budget, budgets, 1.0, START_MS + DAY_MS + DAY_MS // ROLLING_STEPS, share, ZONES) is None


def _room(budget: BudgetRule, now_ms: int) -> int:
    """How many times 1 fits into an unused budget."""
    budgets: dict[str, Spending] = {}
    while exhausted(budget, budgets, 1.0, now_ms, Share(0, 1), ZONES) is None:
        reserve(budget, budgets, 1.0, now_ms, ZONES)
    return round(sum(each.used[max(each.used)] for each in budgets.values()))


@pytest.mark.parametrize(
    ("unit", "window", "day", "hours", "allowed"),
    [
        ("decisions", "day", 5, 0, 0),
        ("decisions", "day", 5, 1, 3),
        ("decisions", "day", 5, 12, 30),
        ("money", "day", 5, 12, 30),
        ("money", "day", 5, 1, 2),
        ("money", "hour", 5, 12.25, 15),
        ("decisions", "week", 5, 24, 9),
        ("money", "week", 8, 12, 30),
        ("money", "month", 16, 12, 30),
        ("decisions", "month", 1, 24, 2),
    ],
)
def test_an_even_pace_spreads_a_budget_over_its_window(unit, window, day, hours, allowed):
    """Sixty in all, in January 2026: by noon half of the day's, by Thursday noon half of the week's, and so on.

    Of decisions the next whole one, so that a small share is used at all.
    """
    budget = _budget(60, unit=unit, pacing="even", window=Window(unit=window))
    now_ms = DAY_STARTS_MS + (day - 5) * DAY_MS + round(hours * HOUR_MS)
    assert _room(budget, now_ms) == allowed
    if allowed == 3:
        said = exhausted(budget, {"b": Spending({DAY_STARTS_MS: 3.0})}, 1.0, now_ms, Share(0, 1), ZONES)
        assert said == f"3 of 3 decisions so far used since {format_rfc3339(DAY_STARTS_MS)} (b)"


def test_a_late_timer_uses_the_window_it_was_due_in():
    """A day's budget that is used up stays so, for one that decides as of yesterday after today has begun."""
    budget, budgets, share = _budget(1), dict[str, Spending](), Share(0, 1)
    reserve(budget, budgets, 1.0, DAY_STARTS_MS, ZONES)
    reserve(budget, budgets, 1.0, DAY_STARTS_MS + DAY_MS, ZONES)
    assert exhausted(budget, budgets, 1.0, DAY_STARTS_MS + DAY_MS - 1, share, ZONES) is not None


@given(st.lists(st.integers(0, 400), min_size=1, max_size=60).map(sorted), st.sampled_from([1, 7 * DAY_MS, 100]))
def test_memory_is_bounded(days, span_ms):
    """However long a budget is used, what is kept of it is a few windows or steps."""
    budgets: dict[str, Spending] = {}
    for day in days:
        reserve(_budget(9), budgets, 1.0, START_MS + day * DAY_MS, ZONES)
        reserve(_budget(9, id="r", window=Window(span_ms=span_ms)), budgets, 1.0, START_MS + day * DAY_MS, ZONES)
    assert len(budgets["b"].used) <= 2
    assert len(budgets["r"].used) <= 2 * ROLLING_STEPS + 3


# --- Never exceeded ---


class Step(NamedTuple):
    """So long after the last one, on a partition: spend, or let an earlier spending bounce."""

    wait_ms: int
    partition: int
    cost: float
    bounces: int | None


PARTITIONS = 3
STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from([0, 1, 1000, HOUR_MS, 5 * HOUR_MS, 23 * HOUR_MS, DAY_MS, 3 * DAY_MS]),
        st.integers(0, PARTITIONS - 1),
        st.sampled_from([0.0, 0.1, 0.7, 1.0, 2.5]),
        st.none() | st.integers(0, 30),
    ),
    max_size=60,
)


class Spent(NamedTuple):
    """One spending that went through; `back_ms`: when it was given back."""

    partition: int
    at_ms: int
    amount: float
    back_ms: int | None = None


def _play(budget: BudgetRule, steps: list[Step]) -> list[Spent]:
    """Spend whatever fits, at each partition by its own share, and give back what bounces, once."""
    budgets: list[dict[str, Spending]] = [{} for _ in range(PARTITIONS)]
    spent: list[Spent] = []
    now_ms = START_MS
    for step in steps:
        now_ms += step.wait_ms
        if step.bounces is not None and step.bounces < len(spent):
            each = spent[step.bounces]
            if each.back_ms is None:
                release(budget, budgets[each.partition], each.amount, each.at_ms, ZONES)
                spent[step.bounces] = each._replace(back_ms=now_ms)
            continue
        amount = amount_of(budget, step.cost)
        share = Share(step.partition, PARTITIONS)
        if exhausted(budget, budgets[step.partition], amount, now_ms, share, ZONES) is None:
            reserve(budget, budgets[step.partition], amount, now_ms, ZONES)
            spent.append(Spent(step.partition, now_ms, amount))
    return spent


def _holds(spent: list[Spent], limit: float, same_window: Callable[[int, int], bool]) -> bool:
    """Whenever something was spent, it and all before it in its window that had not come back stayed in the limit."""
    return all(
        math.fsum(
            each.amount
            for each in spent
            if each.at_ms <= last.at_ms
            and same_window(each.at_ms, last.at_ms)
            and (each.back_ms is None or each.back_ms > last.at_ms)
        )
        <= limit + 1e-6
        for last in spent
    )


LIMITS = st.sampled_from([0.0, 1.0, 2.0, 5.0, 8.0])
UNITS = st.sampled_from(["decisions", "money"])


@given(STEPS, LIMITS, UNITS, st.sampled_from([HOUR_MS, DAY_MS, 3 * DAY_MS + 7]))
def test_no_span_of_a_rolling_budget_is_exceeded(steps, limit, unit, span_ms):
    """Over all partitions, at any moment, the span that ends there."""
    budget = _budget(limit, unit=unit, window=Window(span_ms=span_ms))
    assert _holds(_play(budget, steps), limit, lambda at_ms, last_ms: at_ms >= last_ms - span_ms)


@given(STEPS, LIMITS, UNITS, st.sampled_from(["hour", "day", "week", "month"]), st.integers(1, 3))
@example([Step(0, 0, 1.0, None)] * 20 + [Step(23 * HOUR_MS, 0, 1.0, None)] * 20, 5.0, "decisions", "day", 2)
def test_no_calendar_window_of_a_budget_is_exceeded(steps, limit, unit, calendar_unit, count):
    """Over all partitions: no hour, day, week or month of the engine's zone, nor so many in a row."""
    budget = _budget(limit, unit=unit, window=Window(unit=calendar_unit, count=count))
    spent = _play(budget, steps)
    assert _holds(
        spent, limit, lambda at_ms, last_ms: _number(calendar_unit, last_ms) - _number(calendar_unit, at_ms) < count
    )


@given(STEPS, st.sampled_from([3.0, 9.0, 24.0]))
def test_a_pace_is_kept_by_every_partition(steps, limit):
    """Of decisions never more than the next whole one of the elapsed share of the day; of money never more."""
    for unit in ("decisions", "money"):
        budget = _budget(limit, unit=unit, pacing="even")
        spent = [each for each in _play(budget, steps) if each.back_ms is None]
        for last in spent:
            day = [each for each in spent if _number("day", each.at_ms) == _number("day", last.at_ms)]
            used = sum(each.amount for each in day if each.partition == last.partition and each.at_ms <= last.at_ms)
            share = Share(last.partition, PARTITIONS).of(budget)
            may = share * ((last.at_ms - DAY_STARTS_MS) % DAY_MS) / DAY_MS
            assert used <= (math.ceil(may) if unit == "decisions" else may) + 1e-6


def _number(unit: str, at_ms: int) -> int:
    """Counts the hours, days, weeks and months of Madrid's calendar."""
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(MADRID)
    numbers = {"hour": at_ms // HOUR_MS, "day": local.toordinal(), "week": (local.toordinal() - 1) // 7}
    return numbers.get(unit, local.year * 12 + local.month)


def test_giving_back_makes_no_more_room_than_there_was():
    """Not when it is done too often, of a time that has left, or of a budget nobody used."""
    budget, budgets = _budget(3, window=Window(span_ms=DAY_MS)), dict[str, Spending]()
    for _ in range(3):
        taken = 0
        while exhausted(budget, budgets, 1.0, START_MS, Share(0, 1), ZONES) is None:
            reserve(budget, budgets, 1.0, START_MS, ZONES)
            taken += 1
        assert taken == 3
        for _ in range(5):
            release(budget, budgets, 1.0, START_MS, ZONES)
        release(budget, budgets, 1.0, START_MS - 2 * DAY_MS, ZONES)
    release(_budget(1, id="unused"), budgets, 1.0, START_MS, ZONES)
    assert "unused" not in budgets
