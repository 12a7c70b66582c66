"""Volume and money budgets over all customers: each partition owns a share, so that none is ever exceeded.

Decisions are counted where they are made, without asking anybody: partition n of N may use an N-th of a limit.
A share that one partition does not use is not lent to another.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import MutableMapping

import msgspec

from engine.calendar import DAY_MS, HOUR_MS, Zones, calendar_start_ms, format_rfc3339
from engine.repertoire import BudgetRule, Window

ROLLING_STEPS = 24
"""A rolling window is counted in so many steps; what falls into a step leaves with the whole step."""
_ROUNDING = 1e-9
"""What adding up fractions of money may be off by."""
_LONGEST_MS = {
    "hour": HOUR_MS * 3 // 2,
    "day": DAY_MS * 3 // 2,
    "week": DAY_MS * 15 // 2,
    "month": DAY_MS * 63 // 2,
}


class Spending(msgspec.Struct, array_like=True):
    """What one partition used of a budget: start of a step or window, epoch milliseconds → amount."""

    used: dict[int, float] = {}


Budgets = MutableMapping[str, Spending]


class Share(msgspec.Struct, frozen=True, gc=False):
    """Which share of every budget a partition owns."""

    partition: int
    partitions: int

    def of(self, budget: BudgetRule) -> float:
        """The partition's part of the limit; whole decisions are dealt out so that the parts add up."""
        if budget.unit == "money":
            return budget.limit / self.partitions
        whole, rest = divmod(int(budget.limit), self.partitions)
        first = int.from_bytes(hashlib.blake2b(budget.id.encode(), digest_size=4).digest(), "big")
        return whole + ((self.partition + first) % self.partitions < rest)


def amount_of(budget: BudgetRule, cost: float) -> float:
    """What one contact of a cost uses of a budget."""
    return 1.0 if budget.unit == "decisions" else cost


def exhausted(
    budget: BudgetRule, budgets: Budgets, amount: float, now_ms: int, share: Share, zones: Zones
) -> str | None:
    """Why so much more does not fit into the partition's share, or None when it fits."""
    start_ms = _start_ms(budget.window, now_ms, zones)
    limit = share.of(budget)
    spending = budgets.get(budget.id)
    used = 0.0 if spending is None else math.fsum(each for at, each in spending.used.items() if at >= start_ms)
    if budget.pacing == "even":
        limit = _paced(budget, limit, (now_ms - start_ms) / (_end_ms(budget.window, now_ms, zones) - start_ms))
    if used + amount <= limit + _ROUNDING:
        return None
    paced = " so far" if budget.pacing == "even" else ""
    return f"{used:g} of {limit:g} {budget.unit}{paced} used since {format_rfc3339(start_ms)} ({budget.id})"


def _paced(budget: BudgetRule, limit: float, elapsed: float) -> float:
    """What may have been used of a limit; of decisions the next whole one, as a small share would else wait forever."""
    return float(math.ceil(limit * elapsed)) if budget.unit == "decisions" else limit * elapsed


def reserve(budget: BudgetRule, budgets: Budgets, amount: float, now_ms: int, zones: Zones) -> None:
    """Use up a part of a budget."""
    spending = budgets.get(budget.id) or Spending()
    step = _step_ms(budget.window, now_ms, zones)
    spending.used[step] = spending.used.get(step, 0.0) + amount
    if len(spending.used) > 1:
        # One window more than needed: a timer that fires late decides in the window it was due in.
        since_ms = _start_ms(budget.window, _start_ms(budget.window, now_ms, zones) - 1, zones)
        spending.used = {at: each for at, each in spending.used.items() if at >= since_ms}
    budgets[budget.id] = spending


def release(budget: BudgetRule, budgets: Budgets, amount: float, reserved_ms: int, zones: Zones) -> None:
    """Give back what was reserved at a moment, as when a message bounced; nothing when that time has left."""
    spending = budgets.get(budget.id)
    step = _step_ms(budget.window, reserved_ms, zones)
    if spending is not None and step in spending.used:
        spending.used[step] = max(0.0, spending.used[step] - amount)
        budgets[budget.id] = spending


def _start_ms(window: Window, now_ms: int, zones: Zones) -> int:
    """Start of the window that holds a moment; a rolling one begins on a step."""
    if window.unit is None:
        step = _rolling_step_ms(window)
        return (now_ms - window.span_ms) // step * step
    return calendar_start_ms(now_ms, window.unit, window.count, zones.of(None, None)[0])


def _end_ms(window: Window, now_ms: int, zones: Zones) -> int:
    if window.unit is None:
        return now_ms
    zone = zones.of(None, None)[0]
    # Half a unit beyond the longest one lies in the next, whatever daylight saving or the month's length is.
    beyond_ms = calendar_start_ms(now_ms, window.unit, 1, zone) + _LONGEST_MS[window.unit]
    return calendar_start_ms(beyond_ms, window.unit, 1, zone)


def _step_ms(window: Window, at_ms: int, zones: Zones) -> int:
    if window.unit is None:
        step = _rolling_step_ms(window)
        return at_ms // step * step
    return calendar_start_ms(at_ms, window.unit, 1, zones.of(None, None)[0])


def _rolling_step_ms(window: Window) -> int:
    return max(1, window.span_ms // ROLLING_STEPS)
