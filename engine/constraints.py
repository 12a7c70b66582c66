"""What holds a qualified candidate back: consent, contact policies, contact limits, quiet hours, budgets.

In that order, for one person and moment. Each constraint can only take candidates away, and the reason it
records has the numbers in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import tzinfo
from functools import partial
from typing import TypeVar

import msgspec

from engine import budgets, consent, history
from engine.budgets import Budgets, Share
from engine.calendar import calendar_start_ms, format_day, format_duration, format_rfc3339, quiet_until_ms
from engine.candidates import Rejection
from engine.profile import Profile
from engine.repertoire import (
    BudgetRule,
    Candidate,
    ContactLimit,
    CoveringRules,
    Repertoire,
    SuppressionPolicy,
    Window,
)

_Scoped = TypeVar("_Scoped", SuppressionPolicy, ContactLimit, BudgetRule)


class Surroundings(msgspec.Struct, frozen=True):
    """What constraints consult besides the candidate, at one moment.

    `outbound`: the engine speaks first, so quiet hours hold. `reasons`: answers found so far; most constraints
    say the same of many candidates.
    """

    profile: Profile
    now_ms: int
    budgets: Budgets
    share: Share
    outbound: bool
    reasons: dict[tuple[str, ...], str | None] = {}


def permit(
    candidates: Sequence[Candidate], around: Surroundings, repertoire: Repertoire, rejections: list[Rejection]
) -> list[Candidate]:
    """The candidates nothing holds back; why each other one is held goes to `rejections`."""
    permitted = []
    for candidate in candidates:
        rejection = held_back(candidate, around, repertoire)
        if rejection is None:
            permitted.append(candidate)
        else:
            rejections.append(rejection)
    return permitted


def held_back(candidate: Candidate, around: Surroundings, repertoire: Repertoire) -> Rejection | None:
    """The first constraint that holds a candidate back, or None."""
    rules = _rules_for(candidate, repertoire)
    for stage, check in _CHECKS:
        reason = check(candidate, rules, around, repertoire)
        if reason is not None:
            return Rejection(candidate.action.id, stage, f"{candidate.treatment.id}: {reason}")
    return None


def _rules_for(candidate: Candidate, repertoire: Repertoire) -> CoveringRules:
    """The rules that speak of a candidate, looked up once."""
    rules = repertoire.covering.get(candidate.index)
    if rules is None:
        action, channel, all_rules = candidate.action, candidate.treatment.channel, repertoire.constraints

        def covering(rules: Sequence[_Scoped]) -> tuple[_Scoped, ...]:
            named = (action.issue, action.group, action.id, action.tags, channel)
            return tuple(each for each in rules if each.scope.covers(*named))

        rules = CoveringRules(
            suppressions=covering(all_rules.suppressions),
            contact_limits=covering(all_rules.contact_limits) if action.obeys_caps else (),
            budgets=covering(all_rules.budgets),
        )
        repertoire.covering[candidate.index] = rules
    return rules


def _once(around: Surroundings, key: tuple[str, ...], find: Callable[[], str | None]) -> str | None:
    """A reason found at most once per moment."""
    if key not in around.reasons:
        around.reasons[key] = find()
    return around.reasons[key]


# --- Consent ---


def _consent(candidate: Candidate, _: CoveringRules, around: Surroundings, repertoire: Repertoire) -> str | None:
    channel, purpose = candidate.treatment.channel, candidate.treatment.purpose
    return _once(around, ("consent", channel, purpose), lambda: _no_consent(channel, purpose, around, repertoire))


def _no_consent(channel: str, purpose: str, around: Surroundings, repertoire: Repertoire) -> str | None:
    rule = repertoire.constraints.purposes.get(purpose, "required")
    if rule == "none":
        return None
    said = consent.verdict(around.profile.consent, channel, purpose, around.now_ms)
    if said.allowed or (said.allowed is None and rule == "implied"):
        return None
    if said.statement is None:
        return f"no consent on record for {channel}, {purpose}"
    zone = _zones(around, repertoire)[0]
    if said.statement.status == "granted" and said.statement.expires_ms is not None:
        return f"consent for {channel}, {purpose} expired on {format_day(said.statement.expires_ms, zone)}"
    return f"{said.statement.status} for {channel}, {purpose} on {format_day(said.statement.at_ms, zone)}"


# --- Contact policies ---


def _suppression(
    candidate: Candidate, rules: CoveringRules, around: Surroundings, repertoire: Repertoire
) -> str | None:
    longest: tuple[int, str] | None = None
    for policy in rules.suppressions:
        until_ms = suppressed_until_ms(policy, candidate, around.profile)
        if until_ms is not None and until_ms > around.now_ms and (longest is None or until_ms > longest[0]):
            longest = (until_ms, _suppression_reason(policy, until_ms, around, repertoire))
    return None if longest is None else longest[1]


def suppressed_until_ms(policy: SuppressionPolicy, candidate: Candidate, profile: Profile) -> int | None:
    """When the latest pause a policy ever imposed on a candidate ends; None when there was none.

    A pause starts with the outcome that completes `threshold` of them within the window (Pega, "Configuring
    contact policies to temporarily suppress actions").
    """
    times = _times_counted(policy, candidate, profile)
    reached = [
        at
        for earlier, at in zip(times, times[policy.threshold - 1 :], strict=False)
        if at - earlier <= policy.window_ms
    ]
    return reached[-1] + policy.pause_ms if reached else None


def _times_counted(policy: SuppressionPolicy, candidate: Candidate, profile: Profile) -> list[int]:
    """When the outcomes a policy counts happened, in order; `contact` counts the decisions themselves."""
    action, channel = candidate.action, candidate.treatment.channel
    entries = (
        profile.contacts
        if policy.outcome == "contact"
        else [each for each in profile.answers if each.type == policy.outcome]
    )
    return sorted(
        each.at_ms
        for each in entries
        if (policy.across_channels or each.channel == channel)
        and (each.action == action.id if policy.level == "action" else each.group == action.group)
    )


def _suppression_reason(policy: SuppressionPolicy, until_ms: int, around: Surroundings, repertoire: Repertoire) -> str:
    what = "this action" if policy.level == "action" else "its group"
    where = "" if policy.across_channels else " on this channel"
    until = format_day(until_ms, _zones(around, repertoire)[0])
    window = format_duration(policy.window_ms)
    return f"paused until {until}: {policy.threshold} {policy.outcome} of {what}{where} within {window} ({policy.id})"


# --- Contact limits ---


def _limits(candidate: Candidate, rules: CoveringRules, around: Surroundings, repertoire: Repertoire) -> str | None:
    bound = repertoire.profile.limits.contacts
    if candidate.action.obeys_caps and history.is_full(around.profile, bound):
        return f"the contact history is full ({bound})"
    for limit in rules.contact_limits:
        if not limit.scope.channels and not around.outbound:
            continue  # a limit over all channels is about being written to, not about what a page shows
        reason = _once(around, ("limit", limit.id), partial(_reached, limit, around, repertoire))
        if reason is not None:
            return reason
    return None


def _reached(limit: ContactLimit, around: Surroundings, repertoire: Repertoire) -> str | None:
    since_ms = _since_ms(limit.window, around, repertoire)
    held = count_contacts(limit, since_ms, around.profile, repertoire)
    if held < limit.limit:
        return None
    since = format_day(since_ms, _zones(around, repertoire)[0])
    what = " or ".join(sorted(limit.scope.channels)) or "any"
    return f"{held} of {limit.limit} {what} contacts since {since} ({limit.id})"


def count_contacts(limit: ContactLimit, since_ms: int, profile: Profile, repertoire: Repertoire) -> int:
    """Contacts since a moment that count toward a limit; an action's tags are read as they are now (Braze)."""
    count = 0
    for contact in profile.contacts:
        if contact.counts and contact.at_ms >= since_ms and (contact.outbound or limit.scope.channels):
            action = repertoire.actions.get(contact.action)
            tags = frozenset() if action is None else action.tags
            count += limit.scope.covers(contact.issue, contact.group, contact.action, tags, contact.channel)
    return count


def _since_ms(window: Window, around: Surroundings, repertoire: Repertoire) -> int:
    """Start of a window; with several possible zones the earliest, as it counts the most."""
    if window.unit is None:
        return around.now_ms - window.span_ms
    zones = _zones(around, repertoire)
    return min(calendar_start_ms(around.now_ms, window.unit, window.count, zone) for zone in zones)


# --- Quiet hours ---


def _quiet_hours(candidate: Candidate, _: CoveringRules, around: Surroundings, repertoire: Repertoire) -> str | None:
    if not around.outbound or candidate.action.ignores_quiet_hours:
        return None
    channel = candidate.treatment.channel
    return _once(around, ("quiet-hours", channel), lambda: _quiet(channel, around, repertoire))


def _quiet(channel: str, around: Surroundings, repertoire: Repertoire) -> str | None:
    spans = repertoire.channels[channel].quiet_hours
    ends_ms = [
        until_ms
        for zone in _zones(around, repertoire)
        for quiet in spans
        if (until_ms := quiet_until_ms(quiet, around.now_ms, zone)) is not None
    ]
    if not ends_ms:
        return None
    return f"quiet hours on {channel} until {format_rfc3339(max(ends_ms))}"


# --- Budgets ---


def _budget(candidate: Candidate, rules: CoveringRules, around: Surroundings, repertoire: Repertoire) -> str | None:
    for budget in rules.budgets:
        amount = budgets.amount_of(budget, candidate)
        spent = partial(
            budgets.exhausted, budget, around.budgets, amount, around.now_ms, around.share, repertoire.zones
        )
        reason = _once(around, ("budget", budget.id, repr(amount)), spent)
        if reason is not None:
            return reason
    return None


_Check = Callable[[Candidate, CoveringRules, Surroundings, Repertoire], str | None]
_CHECKS: tuple[tuple[str, _Check], ...] = (
    ("consent", _consent),
    ("contact-policy", _suppression),
    ("contact-policy", _limits),
    ("quiet-hours", _quiet_hours),
    ("budget", _budget),
)
"""The constraints in the order they are asked, each with the stage its reasons name."""


def _zones(around: Surroundings, repertoire: Repertoire) -> tuple[tzinfo, ...]:
    """The recipient's zones; several when only a country, or nothing, is known."""
    traits, rules = around.profile.traits, repertoire.profile
    timezone, country = traits.get(rules.timezone_trait), traits.get(rules.country_trait)
    return repertoire.zones.of(
        timezone if isinstance(timezone, str) else None, country if isinstance(country, str) else None
    )
