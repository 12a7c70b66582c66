"""A decision as people would tell it in a sentence or two, and which one is worth telling."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from agents.demo.tally import is_request
from engine.candidates import Rejection
from engine.decision import Decision

SPOTLIGHT_SECONDS = 6.0
_HELD_BACK = frozenset({"consent", "contact-policy", "quiet-hours", "budget"})
"""Stages that speak about the customer of the moment rather than about the offer."""
_NOT_TRUE = "not true: "


class Words(msgspec.Struct, frozen=True):
    """What was decided for whom, why that, and why not something else."""

    what: str
    why: str
    left_out: str


class Narrator:
    """Tells decisions. `channels`: treatment → its channel. `first_name`: of a customer id."""

    def __init__(self, channels: Mapping[str, str], first_name: Callable[[str], str]) -> None:
        self._channels = channels
        self._first_name = first_name

    def tell(self, decision: Decision, most: int = 3) -> Words:
        """A decision in words, with at most `most` reasons why others were left out."""
        occasion = f"{decision.placement or decision.channel} asked" if is_request(decision) else decision.trigger
        who = f"{self._first_name(decision.customer_id)} ({occasion}):"
        left_out = self._left_out(decision, most)
        if decision.action is None:
            return Words(f"{who} nothing", "nothing qualified", left_out)
        title = next(iter((decision.content or {}).values()), "")
        said = f", “{title}”" if title else ""
        return Words(f"{who} {decision.channel} {decision.action}{said}", _why(decision), left_out)

    def _left_out(self, decision: Decision, most: int) -> str:
        """Reasons, those that have to do with the customer first."""
        rejected = sorted(decision.explanation.rejected, key=lambda each: each.stage not in _HELD_BACK)
        reasons = list(dict.fromkeys(self._reason(each, decision.action) for each in rejected))
        more = f"; {len(reasons) - most} more" if len(reasons) > most else ""
        return "; ".join(reasons[:most]) + more if reasons else "nothing was left out"

    def _reason(self, rejection: Rejection, chosen: str | None) -> str:
        where, _, reason = rejection.reason.partition(": ")
        channel = self._channels.get(where)
        rule = reason.removeprefix(_NOT_TRUE)
        if rule != reason:
            reason = f"{rule} is not true"
        elif channel is None:
            reason = rejection.reason
        about = " ".join(each for each in (channel, rejection.action) if each is not None)
        return f"{channel if channel is not None and rejection.action == chosen else about}: {reason}"


def _why(decision: Decision) -> str:
    score, rivals = decision.score, decision.explanation.contenders
    if score is None or score.priority == 0.0:
        return "the fallback, as nothing else qualified"
    factors = f"a chance of {score.propensity:.2g} times a worth of {score.value:.3g}"
    factors += f" times {score.context_weight:.3g} for the moment" if score.context_weight != 1 else ""
    factors += f" times {score.lever:.3g} for the lever" if score.lever != 1 else ""
    reason = f"{factors} = {score.priority:.3g}"
    if not rivals:
        return f"{reason}; nothing else qualified"
    rival = f"{rivals[0].action} with {rivals[0].priority:.3g}"
    return f"{reason}, more than {rival}" if rivals[0].priority <= score.priority else f"{reason}; tried before {rival}"


class Spotlight:
    """The decision being told: one at a time, long enough to be read, the most telling one since the last."""

    def __init__(self) -> None:
        self.shown: Decision | None = None
        self._since = float("-inf")
        self._best = -1
        self._next: Decision | None = None

    def offer(self, decision: Decision, now: float) -> None:
        """Consider a decision; `now` in seconds."""
        interest = _interest(decision)
        if interest > self._best:
            self._best, self._next = interest, decision
        if now - self._since >= SPOTLIGHT_SECONDS:
            self.shown, self._since, self._best = self._next, now, -1


def _interest(decision: Decision) -> int:
    """How much a decision has to tell: held back by the customer's own rules, contested, unasked."""
    if decision.action is None or decision.control:
        return 0
    held_back = len({each.reason for each in decision.explanation.rejected if each.stage in _HELD_BACK})
    return 2 * min(held_back, 3) + 2 * bool(decision.explanation.contenders) + 3 * (not is_request(decision))
