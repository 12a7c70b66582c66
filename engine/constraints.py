"""What holds a qualified candidate back: consent, contact policies, contact limits, quiet hours, budgets.

In that order, for one person and moment. Each constraint can only take candidates away, and the reason it
records has the numbers in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import tzinfo
from typing import TypeVar

import msgspec

from engine import budgets, consent, history
from engine.budgets import Budgets, Share
from engine.calendar import calendar_start_ms, format_day, format_duration, format_rfc3339, quiet_until_ms
from engine.candidates import Rejection, is_sent, named, tags_of
from engine.profile import Answer, Contact, Profile
from engine.repertoire import (
    BudgetRule,
    Candidate,
    ContactLimit,
    CoveringRules,
    Repertoire,
    Scope,
    SuppressionPolicy,
    Window,
)

_Scoped = TypeVar("_Scoped", SuppressionPolicy, ContactLimit, BudgetRule)
Held = tuple[str, str] | None
"""Stage and reason; None when nothing holds a candidate back."""
Pauses = dict[tuple[str, str], int]
"""Action or group, and channel (empty for all) → when its pause ends."""


class Surroundings(msgspec.Struct, frozen=True):
    """What constraints consult besides the candidate, at one moment.

    `zones`: all that could be the recipient's. `in_slot`: the choice is shown where the customer came, not sent.
    The rest is what they found so far: most constraints say the same of many candidates.
    """

    profile: Profile
    budgets: Budgets
    share: Share
    repertoire: Repertoire
    in_slot: bool
    zones: tuple[tzinfo, ...]
    held: dict[int, Held] = {}
    pauses: dict[str, Pauses] = {}
    limits: dict[str, str | None] = {}
    quiet: dict[str, str | None] = {}
    budget: dict[tuple[str, float], str | None] = {}


def surroundings(
    profile: Profile, budgets: Budgets, share: Share, repertoire: Repertoire, *, in_slot: bool
) -> Surroundings:
    """A moment about which nothing was found yet."""
    rules = repertoire.profile
    timezone, country = profile.traits.get(rules.timezone_trait), profile.traits.get(rules.country_trait)
    zones = repertoire.zones.of(
        timezone if isinstance(timezone, str) else None, country if isinstance(country, str) else None
    )
    return Surroundings(profile, budgets, share, repertoire, in_slot, zones)


def permit(candidates: Iterable[Candidate], around: Surroundings, rejections: list[Rejection]) -> list[Candidate]:
    """The candidates nothing holds back; why each other one is held goes to `rejections`."""
    permitted = []
    for candidate in candidates:
        rejection = held_back(candidate, around)
        if rejection is None:
            permitted.append(candidate)
        else:
            rejections.append(rejection)
    return permitted


def held_back(candidate: Candidate, around: Surroundings) -> Rejection | None:
    """The first constraint that holds a candidate back, or None."""
    rules = rules_for(candidate, around.repertoire)
    if id(rules) not in around.held:
        around.held[id(rules)] = _held(rules, around)
    held = around.held[id(rules)]
    if rules.suppressions and (held is None or held[0] != "consent"):
        paused = _suppression(candidate, rules, around)
        held = held if paused is None else ("contact-policy", paused)
    if held is None:
        return None
    return Rejection(candidate.action.id, held[0], f"{candidate.treatment.id}: {held[1]}")


def _held(rules: CoveringRules, around: Surroundings) -> Held:
    """What holds back every candidate of these rules, whatever its action."""
    for stage, check in _CHECKS:
        reason = check(rules, around)
        if reason is not None:
            return stage, reason
    return None


def rules_for(candidate: Candidate, repertoire: Repertoire) -> CoveringRules:
    """The rules that speak of a candidate, looked up once; equal ones are one object."""
    found = repertoire.covering.get(candidate.index)
    if found is None:
        every, action, treatment = repertoire.constraints, candidate.action, candidate.treatment
        rules = CoveringRules(
            channel=treatment.channel,
            purpose=treatment.purpose,
            cost=treatment.cost,
            sent=is_sent(candidate, repertoire),
            ignores_quiet_hours=action.ignores_quiet_hours,
            suppressions=_covering(candidate, every.suppressions),
            contact_limits=_covering(candidate, every.contact_limits) if action.obeys_caps else (),
            budgets=_covering(candidate, every.budgets),
        )
        found = repertoire.covering.setdefault(rules, rules)
        repertoire.covering[candidate.index] = found
    return found


def _covering(candidate: Candidate, rules: Sequence[_Scoped]) -> tuple[_Scoped, ...]:
    return tuple(each for each in rules if each.scope.covers(*named(candidate)))


# --- Consent ---


def _consent(rules: CoveringRules, around: Surroundings) -> str | None:
    channel, purpose = rules.channel, rules.purpose
    rule = around.repertoire.constraints.purposes.get(purpose, "required")
    if rule == "none":
        return None
    said = consent.verdict(around.profile.consent, channel, purpose, around.profile.now_ms)
    if said.allowed or (said.allowed is None and rule == "implied"):
        return None
    if said.statement is None:
        return f"no consent on record for {channel}, {purpose}"
    zone = around.zones[0]
    if said.statement.status == "granted" and said.statement.expires_ms is not None:
        return f"consent for {channel}, {purpose} expired on {format_day(said.statement.expires_ms, zone)}"
    return f"{said.statement.status} for {channel}, {purpose} on {format_day(said.statement.at_ms, zone)}"


# --- Contact policies ---


def _suppression(candidate: Candidate, rules: CoveringRules, around: Surroundings) -> str | None:
    """The pause that ends last, of all policies that speak of the candidate."""
    longest: tuple[int, SuppressionPolicy] | None = None
    for policy in rules.suppressions:
        if policy.id not in around.pauses:
            around.pauses[policy.id] = pauses(policy, around.profile)
        paused = around.pauses[policy.id]
        if paused:
            action = candidate.action
            subject = _subject(policy, action.id, action.group, candidate.treatment.channel)
            until_ms = paused.get(subject, 0)
            if until_ms and (longest is None or until_ms > longest[0]):
                longest = until_ms, policy
    return None if longest is None else _suppression_reason(*longest, around)


def pauses(policy: SuppressionPolicy, profile: Profile) -> Pauses:
    """What a policy pauses at the profile's time, and until when.

    A pause starts with the outcome that completes `threshold` of them within the window (Pega, "Configuring
    contact policies to temporarily suppress actions"); of several in a row the last one counts.
    """
    times: dict[tuple[str, str], list[int]] = {}
    for each in _entries(policy, profile):
        times.setdefault(_subject(policy, each.action, each.group, each.channel), []).append(each.at_ms)
    found: Pauses = {}
    for subject, counted in times.items():
        until_ms = _paused_until_ms(policy, sorted(counted))
        if until_ms is not None and until_ms > profile.now_ms:
            found[subject] = until_ms
    return found


def _entries(policy: SuppressionPolicy, profile: Profile) -> Sequence[Contact | Answer]:
    """What a policy counts; `contact` counts the decisions themselves."""
    if policy.outcome == "contact":
        return profile.contacts
    return [each for each in profile.answers if each.type == policy.outcome]


def _subject(policy: SuppressionPolicy, action: str, group: str, channel: str) -> tuple[str, str]:
    """What is counted and paused together."""
    return action if policy.level == "action" else group, "" if policy.across_channels else channel


def _paused_until_ms(policy: SuppressionPolicy, times: list[int]) -> int | None:
    """When the latest pause ends that so many outcomes at these times imposed, if any did."""
    for last in range(len(times) - 1, policy.threshold - 2, -1):
        if times[last] - times[last - policy.threshold + 1] <= policy.window_ms:
            return times[last] + policy.pause_ms
    return None


def _suppression_reason(until_ms: int, policy: SuppressionPolicy, around: Surroundings) -> str:
    what = "this action" if policy.level == "action" else "its group"
    where = "" if policy.across_channels else " on this channel"
    until = format_day(until_ms, around.zones[0])
    window = format_duration(policy.window_ms)
    return f"paused until {until}: {policy.threshold} {policy.outcome} of {what}{where} within {window} ({policy.id})"


# --- Contact limits ---


def _limits(rules: CoveringRules, around: Surroundings) -> str | None:
    for limit in rules.contact_limits:
        if not limit.scope.channels and (around.in_slot or not rules.sent):
            continue  # a limit over all channels is about being written to, not about what a page shows
        if limit.id not in around.limits:
            around.limits[limit.id] = _reached(limit, around)
        reason = around.limits[limit.id]
        if reason is not None:
            return reason
    return None


def _reached(limit: ContactLimit, around: Surroundings) -> str | None:
    since_ms = _since_ms(limit.window, around)
    if not history.is_complete(around.profile, since_ms):
        since = format_day(since_ms, around.zones[0])
        return f"contacts since {since} had no room in the history and cannot be counted ({limit.id})"
    held = count_contacts(limit.scope, since_ms, around.profile.contacts, around.repertoire)
    if held < limit.limit:
        return None
    what = " or ".join(sorted(limit.scope.channels)) or "any"
    return f"{held} of {limit.limit} {what} contacts since {format_day(since_ms, around.zones[0])} ({limit.id})"


def count_contacts(scope: Scope, since_ms: int, contacts: Sequence[Contact], repertoire: Repertoire) -> int:
    """Contacts since a moment, of those in order of time, that count toward a limit.

    An action's tags are read as they are now (Braze). A scope without channels counts only what was sent.
    """
    count = 0
    for contact in reversed(contacts):
        if contact.at_ms < since_ms:
            break
        if contact.counts and (contact.outbound or scope.channels):
            tags = tags_of(contact.action, repertoire)
            count += scope.covers(contact.issue, contact.group, contact.action, tags, contact.channel)
    return count


def _since_ms(window: Window, around: Surroundings) -> int:
    """Start of a window; with several possible zones the earliest, as it counts the most."""
    now_ms = around.profile.now_ms
    if window.unit is None:
        return now_ms - window.span_ms
    return min(calendar_start_ms(now_ms, window.unit, window.count, zone) for zone in around.zones)


# --- Quiet hours ---


def _quiet_hours(rules: CoveringRules, around: Surroundings) -> str | None:
    if around.in_slot or not rules.sent or rules.ignores_quiet_hours:
        return None
    channel = rules.channel
    if channel not in around.quiet:
        until_ms = quiet_until(channel, around)
        held = f"quiet hours on {channel} until {format_rfc3339(until_ms)}" if until_ms is not None else None
        around.quiet[channel] = held
    return around.quiet[channel]


def quiet_until(channel: str, around: Surroundings) -> int | None:
    """When the quiet hours a channel is in end, epoch milliseconds; quiet in any zone that could be theirs is quiet."""
    ends_ms = [
        until_ms
        for zone in around.zones
        for quiet in around.repertoire.channels[channel].quiet_hours
        if (until_ms := quiet_until_ms(quiet, around.profile.now_ms, zone)) is not None
    ]
    return max(ends_ms, default=None)


# --- Budgets ---


def _budget(rules: CoveringRules, around: Surroundings) -> str | None:
    for budget in rules.budgets:
        amount = budgets.amount_of(budget, rules.cost)
        key = budget.id, amount
        if key not in around.budget:
            around.budget[key] = budgets.exhausted(
                budget, around.budgets, amount, around.profile.now_ms, around.share, around.repertoire.zones
            )
        reason = around.budget[key]
        if reason is not None:
            return reason
    return None


_Check = Callable[[CoveringRules, Surroundings], str | None]
_CHECKS: tuple[tuple[str, _Check], ...] = (
    ("consent", _consent),
    ("contact-policy", _limits),
    ("quiet-hours", _quiet_hours),
    ("budget", _budget),
)
"""The constraints in the order they are asked, each with the stage its reasons name; pauses come after consent."""
