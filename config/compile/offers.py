"""Compiling what can be done, and where: channels, placements, the hierarchy of actions, their candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config.compile.compilation import Compilation
from config.documents.offers import Action as ActionDocument
from config.documents.offers import ActionsFile, ChannelsFile, Group, Issue
from config.documents.offers import Engagement as EngagementDocument
from config.documents.offers import Placement as PlacementDocument
from config.documents.offers import QuietHours as QuietHoursDocument
from config.documents.offers import Treatment as TreatmentDocument
from config.faults import Path, show
from engine.calendar import QuietHours
from engine.expression import NUMBER, Expression
from engine.repertoire import Action, Candidate, Channel, ConsentRule, Engagement, Placement, Rule, Treatment

_DAYS = {day: n for n, day in enumerate(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"))}
_LAYERS = ("eligibility", "applicability", "suitability")


def compile_channels(file: ChannelsFile, c: Compilation) -> dict[str, Channel]:
    """Channels by id, in order."""
    channels = {}
    for id_, each in sorted(file.channels.items()):
        path: Path = ("channels", "channels", id_)
        reachable = each.reachable and c.rule((*path, "reachable"), each.reachable, f"channel {id_}")
        quiet = tuple(
            span
            for index, written in enumerate(each.quiet_hours)
            if (span := _quiet_hours((*path, "quiet_hours", index), written, c)) is not None
        )
        channels[id_] = Channel(
            id=id_,
            inbound=each.inbound,
            topic=each.topic,
            reachable=reachable or None,
            answers=each.answers,
            impressions=each.impressions,
            quiet_hours=quiet,
        )
    return channels


def _quiet_hours(path: Path, written: QuietHoursDocument, c: Compilation) -> QuietHours | None:
    days = None if written.days is None else frozenset(_DAYS[day] for day in written.days)
    try:
        return QuietHours(_minute(written.start), _minute(written.end), days)
    except ValueError:
        found = f"{written.start} to {written.end}"
        expected = "a span that begins and ends; 00:00 to 24:00 for whole days, but not for every day"
        c.fault(path, "not quiet hours", found=found, expected=expected)
        return None


def _minute(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def compile_placements(file: ChannelsFile, actions: ActionsFile, c: Compilation) -> dict[str, Placement]:
    """Placements by id, in order."""
    placements = {}
    for id_, each in sorted(file.placements.items()):
        path: Path = ("channels", "placements", id_)
        c.refer((*path, "channel"), each.channel, c.names.channels, "channel")
        c.refer((*path, "fallback"), each.fallback, c.names.actions, "action")
        _check_fallback((*path, "fallback"), id_, each, actions, c)
        placements[id_] = Placement(id=id_, channel=each.channel, limit=each.limit, fallback=each.fallback)
    return placements


def _check_fallback(path: Path, id_: str, written: PlacementDocument, actions: ActionsFile, c: Compilation) -> None:
    """The fallback of a slot has a treatment that can be shown there."""
    action = actions.actions.get(written.fallback or "")
    if action is None or any(
        each.channel not in c.names.channels
        or (each.channel == written.channel and (not each.placements or id_ in each.placements))
        for each in action.treatments.values()
    ):
        return
    c.fault(
        path,
        "never fits this placement",
        found=show(written.fallback),
        expected=f"an action with a treatment for it on {written.channel}",
        given=("actions", "actions", written.fallback or ""),
    )


# --- Actions ---


class _Level:
    """A group with what lies above it. `rules`: of its issue and of all actions; `own`: its own."""

    __slots__ = ("issue", "lever", "own", "rules")

    def __init__(self, issue: str, lever: float, rules: Sequence[Engagement], own: Engagement) -> None:
        self.issue, self.lever, self.rules, self.own = issue, lever, rules, own


def compile_actions(
    file: ActionsFile,
    placements: Mapping[str, Placement],
    purposes: Mapping[str, ConsentRule],
    c: Compilation,
) -> dict[str, Action]:
    """Actions by id, in order, each with every rule that holds for it."""
    levels = _levels(file, c)
    _check_treatment_ids(file, c)
    actions = {}
    for id_, written in sorted(file.actions.items()):
        path: Path = ("actions", "actions", id_)
        c.refer((*path, "group"), written.group, c.names.groups, "group")
        level = levels.get(written.group, _NO_LEVEL)
        actions[id_] = _action(id_, written, level, placements, purposes, c)
    return actions


_EMPTY = Engagement(eligibility=(), applicability=(), suitability=())
_NO_LEVEL = _Level("", 0.0, (), _EMPTY)


def _levels(file: ActionsFile, c: Compilation) -> dict[str, _Level]:
    """Groups by id, with the rules and levers of their issue."""
    root: Path = ("actions",)
    everything = _engagement((*root, "all_actions"), file.all_actions, "all actions", c)
    levels: dict[str, _Level] = {}
    for issue_id, issue in sorted(file.issues.items()):
        path = (*root, "issues", issue_id)
        above = (everything, _engagement(path, issue, f"issue {issue_id}", c))
        for group_id, group in sorted(issue.groups.items()):
            at = (*path, "groups", group_id)
            if group_id in levels:
                said = f"issue {levels[group_id].issue} has a group of this id"
                c.fault(at, said, found=show(group_id), expected="an id of its own")
            own = _engagement(at, group, f"group {group_id}", c)
            levels[group_id] = _Level(issue_id, _lever(issue, group), above, own)
    return levels


def _lever(issue: Issue, group: Group) -> float:
    return issue.lever + group.lever


def _engagement(path: Path, written: EngagementDocument, where: str, c: Compilation) -> Engagement:
    layers: dict[str, tuple[Rule, ...]] = {
        layer: tuple(c.rule((*path, layer, index), text, where) for index, text in enumerate(getattr(written, layer)))
        for layer in _LAYERS
    }
    return Engagement(**layers)


def _joined(parts: Sequence[Engagement]) -> Engagement:
    return Engagement(**{layer: tuple(rule for part in parts for rule in getattr(part, layer)) for layer in _LAYERS})


def _check_treatment_ids(file: ActionsFile, c: Compilation) -> None:
    """Experiments name actions and treatments alike, so no two of either share an id."""
    owners = dict.fromkeys(file.actions, "an action has this id")
    for action_id, action in sorted(file.actions.items()):
        for treatment_id in sorted(action.treatments):
            path: Path = ("actions", "actions", action_id, "treatments", treatment_id)
            if treatment_id in owners:
                c.fault(path, owners[treatment_id], found=show(treatment_id), expected="an id of its own")
            owners[treatment_id] = f"action {action_id} has a treatment of this id"


def _action(
    id_: str,
    written: ActionDocument,
    level: _Level,
    placements: Mapping[str, Placement],
    purposes: Mapping[str, ConsentRule],
    c: Compilation,
) -> Action:
    path: Path = ("actions", "actions", id_)
    own = _engagement(path, written, f"action {id_}", c)
    group_rules = () if written.opt_out_of_group_rules else (level.own,)
    starts_ms, ends_ms = _validity(path, written, c)
    expires_ms, answerable_ms = _openness(path, written, c)
    obeys = written.action_class == "default" if written.obeys_caps is None else written.obeys_caps
    counts = obeys if written.counts_toward_caps is None else written.counts_toward_caps
    expected = written.action_class == "transactional"
    return Action(
        id=id_,
        issue=level.issue,
        group=written.group,
        tags=written.tags,
        action_class=written.action_class,
        obeys_caps=obeys,
        counts_toward_caps=counts,
        ignores_quiet_hours=expected if written.ignores_quiet_hours is None else written.ignores_quiet_hours,
        starts_ms=starts_ms,
        ends_ms=ends_ms,
        expires_after_ms=expires_ms,
        answerable_ms=answerable_ms,
        engagement=_joined((*level.rules, *group_rules, own)),
        value=_value(path, written, c),
        lever=level.lever + written.lever,
        treatments=tuple(
            _treatment((*path, "treatments", key), key, each, written, placements, purposes, c)
            for key, each in sorted(written.treatments.items())
        ),
    )


def _value(path: Path, written: ActionDocument, c: Compilation) -> Expression | float:
    if isinstance(written.value, str):
        return c.expression((*path, "value"), written.value, c.vocabulary.values, NUMBER)
    return float(written.value)


def _validity(path: Path, written: ActionDocument, c: Compilation) -> tuple[int | None, int | None]:
    starts_ms = c.moment_ms((*path, "starts"), written.starts)
    ends_ms = c.moment_ms((*path, "ends"), written.ends, ending=True)
    if starts_ms is not None and ends_ms is not None and ends_ms <= starts_ms:
        c.fault((*path, "ends"), "before it starts", found=show(written.ends), expected=f"after {written.starts}")
    return starts_ms, ends_ms


def _openness(path: Path, written: ActionDocument, c: Compilation) -> tuple[int, int]:
    expires_ms = c.span_ms((*path, "expires_after"), written.expires_after)
    if written.answerable is None:
        return expires_ms, expires_ms
    answerable_ms = c.span_ms((*path, "answerable"), written.answerable)
    if answerable_ms < expires_ms:
        expected = f"at least expires_after, {written.expires_after}"
        c.fault((*path, "answerable"), "shorter than the offer", found=show(written.answerable), expected=expected)
    return expires_ms, answerable_ms


def _treatment(
    path: Path,
    id_: str,
    written: TreatmentDocument,
    action: ActionDocument,
    placements: Mapping[str, Placement],
    purposes: Mapping[str, ConsentRule],
    c: Compilation,
) -> Treatment:
    c.refer((*path, "channel"), written.channel, c.names.channels, "channel")
    c.refer_all((*path, "placements"), written.placements, c.names.placements, "placement")
    for name in sorted(written.placements & placements.keys()):
        if placements[name].channel != written.channel and written.channel in c.names.channels:
            at = c.draft.item((*path, "placements"), name)
            expected = f"a placement on {written.channel}"
            c.fault(at, f"this placement is on {placements[name].channel}", found=show(name), expected=expected)
    purpose = written.purpose or ("marketing" if action.action_class == "default" else "transactional")
    c.refer((*path, "purpose"), purpose, purposes.keys(), "purpose")
    return Treatment(
        id=id_,
        channel=written.channel,
        placements=written.placements,
        purpose=purpose,
        content={key: c.template((*path, "content", key), text) for key, text in sorted(written.content.items())},
        propensity=action.propensity if written.propensity is None else written.propensity,
        cost=written.cost,
        when=None if written.when is None else c.rule((*path, "when"), written.when, f"treatment {id_}"),
    )


def candidates_of(actions: Mapping[str, Action]) -> tuple[Candidate, ...]:
    """Every action in every treatment, sorted by both ids."""
    pairs = [(action, treatment) for action in actions.values() for treatment in action.treatments]
    pairs.sort(key=lambda pair: (pair[0].id, pair[1].id))
    return tuple(Candidate(index=n, action=action, treatment=each) for n, (action, each) in enumerate(pairs))
