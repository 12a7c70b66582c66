"""What holds a qualified candidate back: consent, contact policies, contact limits, quiet hours, budgets.

In that order, for one person and moment. Each constraint can only take candidates away, and the reason it
records has the numbers in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from engine import budgets, consent, history
from engine.budgets import Budgets, Share
from engine.calendar import calendar_start_ms, format_day, format_duration, format_rfc3339, quiet_until_ms
from engine.candidates import (
    Pool,
    Rejections,
    Selection,
    is_sent,
    named,
    tags_of,
    text_prefix,
    text_suffix,
)
from engine.profile import Answer, Contact, Profile
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
Held = tuple[str, str] | None
"""Stage and reason; None when nothing holds a candidate back."""
Pause = tuple[int, SuppressionPolicy]
"""When it ends, and whose it is."""
Pauses = dict[tuple[str, str], int]
"""Action or group, and channel (empty for all) → when its pause ends."""


class Surroundings(msgspec.Struct, frozen=True, gc=False):
    """What constraints consult besides the candidate, at one moment.

    `zones`: all that could be the recipient's. `in_slot`: the choice is shown where the customer came, not sent.
    """

    profile: Profile
    budgets: Budgets
    share: Share
    repertoire: Repertoire
    in_slot: bool
    zones: tuple[tzinfo, ...]


def surroundings(
    profile: Profile, budgets: Budgets, share: Share, repertoire: Repertoire, *, in_slot: bool
) -> Surroundings:
    """A moment of a customer."""
    rules = repertoire.profile
    timezone, country = profile.traits.get(rules.timezone_trait), profile.traits.get(rules.country_trait)
    zones = repertoire.zones.of(
        timezone if isinstance(timezone, str) else None, country if isinstance(country, str) else None
    )
    return Surroundings(profile, budgets, share, repertoire, in_slot, zones)


def permit(candidates: Selection, around: Surroundings, rejections: Rejections) -> Selection:
    """The candidates nothing holds back; why each other one is held goes to `rejections`."""
    covering, rows = candidates.pool.part(covering_of), candidates.rows
    held, paused = _held(covering, around), _paused(covering, around)
    if not held and not paused:
        return candidates
    flags = bytearray(len(covering.candidates))
    for row in paused:
        flags[row] = 1
    left_out = np.frombuffer(flags, dtype=np.bool_)
    for each in held:
        left_out |= covering.members[each]
    mask = left_out.take(rows)
    whom = rows[mask].tolist()
    waiting = {row: _suppression_reason(*paused[row], around) for row in whom if row in paused}
    covering.tell(whom, held, waiting, rejections)
    return candidates.keep(~mask)


class _Found(NamedTuple):
    """Why there is no consent by channel and purpose, which limits are reached, quiet channels, exhausted budgets."""

    consent: Mapping[tuple[str, str], str]
    limits: Mapping[str, str]
    quiet: Mapping[str, str]
    budgets: Mapping[tuple[str, float], str]


def _held(covering: Covering, around: Surroundings) -> dict[int, tuple[str, str]]:
    """The classes of candidates that are held back, whatever their action, and why."""
    found = _Found(
        _without_consent(covering.purposes, around),
        _reached(covering.limits, around) if covering.limits else {},
        {} if around.in_slot or not covering.quiet else _quiet(covering.quiet, around),
        _exhausted(covering.budgets, around) if covering.budgets else {},
    )
    if not any(found):
        return {}
    verdicts = {number: _verdict(rules, found, around) for number, rules in enumerate(covering.rules)}
    return {number: verdict for number, verdict in verdicts.items() if verdict is not None}


def _verdict(rules: CoveringRules, found: _Found, around: Surroundings) -> Held:
    """The first of what was found that speaks of a class, in the order constraints are asked in."""
    reason = found.consent.get((rules.channel, rules.purpose))
    if reason is not None:
        return "consent", reason
    for limit in rules.contact_limits:
        # A limit over all channels is about being written to, not about what a page shows.
        if limit.id in found.limits and (limit.scope.channels or (rules.sent and not around.in_slot)):
            return "contact-policy", found.limits[limit.id]
    if rules.channel in found.quiet and rules.sent and not rules.ignores_quiet_hours:
        return "quiet-hours", found.quiet[rules.channel]
    for budget in rules.budgets:
        reason = found.budgets.get((budget.id, budgets.amount_of(budget, rules.cost)))
        if reason is not None:
            return "budget", reason
    return None


# --- Rules of the same kind, compiled ---


class Covering(NamedTuple):
    """The rules that speak of the candidates of a pool: most of them share theirs with many others.

    `classes`: the place in `rules` of each row's; `members`: the rows of each place, as a mask. `purposes`, `limits`,
    `quiet`, `budgets`: all that any of the rules asks about: channels with their purposes, contact limits, channels
    with quiet hours, budgets with what a candidate uses of them. `subjects`: rows by what pauses speak of: the level,
    its action or group, and a channel, empty for all. `prefixes`: how the rejection of each row begins, by stage, as
    far as it was asked for.
    """

    candidates: Sequence[Candidate]
    rules: Sequence[CoveringRules]
    classes: Sequence[int]
    members: Sequence[npt.NDArray[np.bool_]]
    purposes: Sequence[tuple[str, str]]
    limits: Sequence[ContactLimit]
    quiet: Sequence[str]
    budgets: Sequence[tuple[BudgetRule, float]]
    subjects: Mapping[tuple[str, str, str], Sequence[int]]
    prefixes: dict[str, Sequence[bytes]]

    def tell(
        self,
        rows: Sequence[int],
        held: Mapping[int, tuple[str, str]],
        paused: Mapping[int, str],
        rejections: Rejections,
    ) -> None:
        """Note the rows that are held back, by what holds their class, or by the reason for which they are paused."""
        classes, texts = self.classes, []
        of_class = {each: self._said(*reason) for each, reason in held.items()}
        counts: dict[str, int] = {}
        for row in rows:
            said, pause = of_class.get(classes[row]), paused.get(row)
            # Pauses come after consent and before everything else.
            if pause is not None and (said is None or said.stage != "consent"):
                said = self._said("contact-policy", pause)
            assert said is not None
            texts.append(said.prefixes[row] + said.suffix)
            counts[said.stage] = counts.get(said.stage, 0) + 1
        rejections.add_texts(texts, counts)

    def _said(self, stage: str, reason: str) -> _Said:
        prefixes = self.prefixes.get(stage)
        if prefixes is None:
            prefixes = [text_prefix(each.action.id, stage, f"{each.treatment.id}: ") for each in self.candidates]
            self.prefixes[stage] = prefixes
        return _Said(stage, prefixes, text_suffix(reason))


class _Said(NamedTuple):
    """What is said of those held back for one reason: the stage, and the text in two parts."""

    stage: str
    prefixes: Sequence[bytes]
    suffix: bytes


def covering_of(pool: Pool) -> Covering:
    """The rules that speak of the candidates of a pool."""
    places: dict[CoveringRules, int] = {}
    classes = [places.setdefault(rules_for(each, pool.repertoire), len(places)) for each in pool]
    subjects: dict[tuple[str, str, str], list[int]] = {}
    for row, each in enumerate(pool):
        for level, name in (("action", each.action.id), ("group", each.action.group)):
            for channel in ("", each.treatment.channel):
                subjects.setdefault((level, name, channel), []).append(row)
    channels, rules, purposes = pool.repertoire.channels, tuple(places), pool.repertoire.constraints.purposes
    asking = {(each.channel, each.purpose): None for each in rules if purposes.get(each.purpose, "required") != "none"}
    return Covering(
        candidates=pool.candidates,
        rules=rules,
        classes=classes,
        members=[np.array(classes, dtype=np.intp) == each for each in range(len(rules))],
        purposes=tuple(asking),
        limits=tuple({limit.id: limit for each in rules for limit in each.contact_limits}.values()),
        quiet=tuple({each.channel: None for each in rules if each.sent and channels[each.channel].quiet_hours}),
        budgets=tuple(
            {
                (budget.id, amount): (budget, amount)
                for each in rules
                for budget in each.budgets
                for amount in (budgets.amount_of(budget, each.cost),)
            }.values()
        ),
        subjects=subjects,
        prefixes={},
    )


def rules_for(candidate: Candidate, repertoire: Repertoire) -> CoveringRules:
    """The rules that speak of a candidate."""
    every, action, treatment = repertoire.constraints, candidate.action, candidate.treatment
    return CoveringRules(
        channel=treatment.channel,
        purpose=treatment.purpose,
        cost=treatment.cost,
        sent=is_sent(candidate, repertoire),
        ignores_quiet_hours=action.ignores_quiet_hours,
        suppressions=_speaking_of(candidate, every.suppressions),
        contact_limits=_speaking_of(candidate, every.contact_limits) if action.obeys_caps else (),
        budgets=budgets_of(candidate, repertoire),
    )


def budgets_of(candidate: Candidate, repertoire: Repertoire) -> tuple[BudgetRule, ...]:
    """The budgets that a candidate uses."""
    return _speaking_of(candidate, repertoire.constraints.budgets)


def _speaking_of(candidate: Candidate, rules: Sequence[_Scoped]) -> tuple[_Scoped, ...]:
    if not rules:
        return ()
    names = named(candidate)
    return tuple(each for each in rules if each.scope.covers(*names))


# --- Consent ---


def _without_consent(purposes: Sequence[tuple[str, str]], around: Surroundings) -> dict[tuple[str, str], str]:
    """The channels and purposes for which the customer may not be contacted, and why."""
    found, profile = {}, around.profile
    for each in purposes:
        said = consent.verdict(profile.consent, *each, profile.now_ms)
        if not said.allowed:
            reason = _why_not(*each, said, around)
            if reason is not None:
                found[each] = reason
    return found


def _why_not(channel: str, purpose: str, said: consent.Verdict, around: Surroundings) -> str | None:
    if said.allowed is None and around.repertoire.constraints.purposes.get(purpose, "required") == "implied":
        return None
    if said.statement is None:
        return f"no consent on record for {channel}, {purpose}"
    zone = around.zones[0]
    if said.statement.status == "granted" and said.statement.expires_ms is not None:
        return f"consent for {channel}, {purpose} expired on {format_day(said.statement.expires_ms, zone)}"
    return f"{said.statement.status} for {channel}, {purpose} on {format_day(said.statement.at_ms, zone)}"


# --- Contact policies ---


def _paused(covering: Covering, around: Surroundings) -> dict[int, Pause]:
    """The rows that are paused: of all policies that speak of one, the pause that ends last."""
    longest: dict[int, Pause] = {}
    profile = around.profile
    for policy in around.repertoire.constraints.suppressions:
        if not (profile.contacts if policy.outcome == "contact" else profile.answers):
            continue
        for (name, channel), until_ms in pauses(policy, profile).items():
            for row in covering.subjects.get((policy.level, name, channel), ()):
                speaks = policy in covering.rules[covering.classes[row]].suppressions
                if speaks and (row not in longest or until_ms > longest[row][0]):
                    longest[row] = until_ms, policy
    return longest


def pauses(policy: SuppressionPolicy, profile: Profile) -> Pauses:
    """What a policy pauses at the profile's time, and until when.

    A pause starts with the outcome that completes `threshold` of them within the window (Pega, "Configuring
    contact policies to temporarily suppress actions"); of several in a row the last one counts.
    """
    times: dict[tuple[str, str], list[int]] = {}
    since_ms = profile.now_ms - policy.pause_ms - policy.window_ms
    by_action, across = policy.level == "action", policy.across_channels
    for each in _entries(policy, profile):
        if each.at_ms >= since_ms:  # what is older has no part in a pause that still lasts
            # What is counted and paused together.
            subject = each.action if by_action else each.group, "" if across else each.channel
            times.setdefault(subject, []).append(each.at_ms)
    found: Pauses = {}
    for subject, counted in times.items():
        if len(counted) >= policy.threshold:
            until_ms = _paused_until_ms(policy, sorted(counted))
            if until_ms is not None and until_ms > profile.now_ms:
                found[subject] = until_ms
    return found


def _entries(policy: SuppressionPolicy, profile: Profile) -> Sequence[Contact | Answer]:
    """What a policy counts; `contact` counts the decisions themselves."""
    if policy.outcome == "contact":
        return profile.contacts
    return [each for each in profile.answers if each.type == policy.outcome]


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


def _reached(limits: Sequence[ContactLimit], around: Surroundings) -> dict[str, str]:
    """The limits that are reached, or that cannot be counted any more, and how far."""
    profile, found = around.profile, {}
    if profile.lost_ms is None:
        # Fewer contacts than a limit allows cannot reach it.
        limits = [each for each in limits if each.limit <= len(profile.contacts)]
        if not limits:
            return {}
    since = [_since_ms(each.window, around) for each in limits]
    counts = count_contacts(limits, since, profile.contacts, around.repertoire)
    for limit, since_ms, held in zip(limits, since, counts, strict=True):
        if not history.is_complete(profile, since_ms):
            day = format_day(since_ms, around.zones[0])
            found[limit.id] = f"contacts since {day} had no room in the history and cannot be counted ({limit.id})"
        elif held >= limit.limit:
            what, day = " or ".join(sorted(limit.scope.channels)) or "any", format_day(since_ms, around.zones[0])
            found[limit.id] = f"{held} of {limit.limit} {what} contacts since {day} ({limit.id})"
    return found


def count_contacts(
    limits: Sequence[ContactLimit], since_ms: Sequence[int], contacts: Sequence[Contact], repertoire: Repertoire
) -> list[int]:
    """Contacts that count toward each limit since its moment, of those in order of time.

    An action's tags are read as they are now (Braze). A scope without channels counts only what was sent.
    """
    counts = [0] * len(limits)
    earliest_ms = min(since_ms, default=0)
    covering: dict[tuple[str, str, str, str], list[int]] = {}
    for contact in reversed(contacts):
        if contact.at_ms < earliest_ms:
            break
        if not contact.counts:
            continue
        kind = contact.issue, contact.group, contact.action, contact.channel
        toward = covering.get(kind)
        if toward is None:
            toward = covering[kind] = _counting(*kind, limits, repertoire)
        for at in toward:
            if contact.at_ms >= since_ms[at] and (contact.outbound or limits[at].scope.channels):
                counts[at] += 1
    return counts


def _counting(
    issue: str, group: str, action: str, channel: str, limits: Sequence[ContactLimit], repertoire: Repertoire
) -> list[int]:
    """The places of the limits that contacts of a kind count toward."""
    tags = tags_of(action, repertoire)
    return [at for at, each in enumerate(limits) if each.scope.covers(issue, group, action, tags, channel)]


def _since_ms(window: Window, around: Surroundings) -> int:
    """Start of a window; with several possible zones the earliest, as it counts the most."""
    now_ms = around.profile.now_ms
    if window.unit is None:
        return now_ms - window.span_ms
    if len(around.zones) == 1:
        return calendar_start_ms(now_ms, window.unit, window.count, around.zones[0])
    return min(calendar_start_ms(now_ms, window.unit, window.count, zone) for zone in around.zones)


# --- Quiet hours ---


def _quiet(channels: Sequence[str], around: Surroundings) -> dict[str, str]:
    """The channels in quiet hours, and until when."""
    ends = ((each, quiet_until(each, around)) for each in channels)
    return {
        each: f"quiet hours on {each} until {format_rfc3339(until_ms)}"
        for each, until_ms in ends
        if until_ms is not None
    }


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


def _exhausted(asked: Sequence[tuple[BudgetRule, float]], around: Surroundings) -> dict[tuple[str, float], str]:
    """The budgets that so much more does not fit into, and why."""
    now_ms, zones = around.profile.now_ms, around.repertoire.zones
    reasons = (
        ((budget.id, amount), budgets.exhausted(budget, around.budgets, amount, now_ms, around.share, zones))
        for budget, amount in asked
    )
    return {each: reason for each, reason in reasons if reason is not None}
