"""Compiling who a customer is and what is known: zones, identifiers, aggregates, segments."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from config.compile.compilation import Compilation
from config.documents.customers import Aggregate as AggregateDocument
from config.documents.customers import EngineFile, Identifiers, ProfileFile, SegmentsFile
from config.documents.customers import Window as WindowDocument
from config.faults import Path, show
from config.zones import all_zones, zones_for
from engine.aggregates import Aggregate, Window
from engine.algebra import WindowKind
from engine.calendar import Zones
from engine.expression import ANY, NUMBER, Expression, compile_expression
from engine.identity import USER_ID
from engine.repertoire import IdentifierKind, IdentityRules, Limits, ProfileRules, Segment

ALWAYS_BLOCKED = re.compile(r"\A(?:[0-]*|-1|null|anonymous|undefined|unknown|none)\Z", re.IGNORECASE)
"""Values that identify nobody (Segment, "Identity Resolution", blocked values; mission D11)."""
_NUMERIC = frozenset({"sum", "mean", "min", "max", "rate"})
_signal_name = compile_expression("signal.name").value


def compile_zones(engine: EngineFile, c: Compilation) -> Zones:
    """The engine's zones; sets the zone that dates are read in."""
    path: Path = ("engine", "timezones")
    known = all_zones()
    found = [
        name for index, name in enumerate(engine.timezones) if c.refer((*path, index), name, known.keys(), "time zone")
    ]
    zones = zones_for(found or ["UTC"])
    c.zone = zones.of(None, None)[0]
    return zones


def compile_identity(identifiers: Identifiers, c: Compilation) -> IdentityRules:
    """Kinds of identifiers from strong to weak, and the values that identify nobody."""
    path: Path = ("profile", "identifiers")
    kinds: dict[str, IdentifierKind] = {}
    for index, each in enumerate(identifiers.priority):
        at = (*path, "priority", index)
        if each.kind in kinds:
            c.fault((*at, "kind"), "given twice", found=show(each.kind), expected="each kind once")
        window_ms = None if each.window is None else c.span_ms((*at, "window"), each.window)
        kinds[each.kind] = IdentifierKind(kind=each.kind, limit=each.limit, window_ms=window_ms)
    if next(iter(kinds)) != USER_ID:
        # Anything stronger than user ids would make users one customer without an `alias`.
        c.fault((*path, "priority"), "user ids must be the strongest kind", found=next(iter(kinds)), expected=USER_ID)
    blocked = [_pattern((*path, "blocked"), each, c) for each in sorted(identifiers.blocked)]
    return IdentityRules(kinds=tuple(kinds.values()), blocked=(ALWAYS_BLOCKED, *blocked))


def _pattern(path: Path, text: str, c: Compilation) -> re.Pattern[str]:
    """`/…/` is a regular expression found anywhere in a value; other texts are the whole value."""
    if not (len(text) > 2 and text.startswith("/") and text.endswith("/")):
        return re.compile(rf"\A{re.escape(text)}\Z")
    try:
        return re.compile(text[1:-1])
    except re.error as error:
        c.fault(c.draft.item(path, text), f"not a regular expression ({error})", found=show(text))
        return ALWAYS_BLOCKED


def compile_profile(profile: ProfileFile, segments: SegmentsFile, c: Compilation) -> ProfileRules:
    """What of a signal is kept."""
    return ProfileRules(
        limits=Limits(**msgspec.structs.asdict(profile.limits)),
        merge={name: trait.merge for name, trait in sorted(profile.traits.items())},
        aggregates=tuple(_aggregate(name, each, c) for name, each in sorted(profile.aggregates.items())),
        segments=tuple(
            Segment(id=id_, when=c.expression(("segments", "segments", id_, "when"), each.when, c.vocabulary.segments))
            for id_, each in sorted(segments.segments.items())
        ),
        timezone_trait=profile.timezone_trait,
        country_trait=profile.country_trait,
    )


# --- Aggregates ---


def _aggregate(name: str, written: AggregateDocument, c: Compilation) -> Aggregate:
    path: Path = ("profile", "aggregates", name)
    c.events((*path, "events"), written.events)
    schema = c.vocabulary.folded(written.events)
    needs = NUMBER if written.function in _NUMERIC else ANY
    where = c.optional((*path, "where"), written.where, schema)
    of = None if written.of is None else c.expression((*path, "of"), written.of, schema, needs)
    by = None if written.by is None else c.expression((*path, "by"), written.by, schema, ANY)
    keys = [None if each is None else each.key for each in (where, of, by)]
    try:
        return Aggregate(
            name=name,
            function=written.function,
            window=_window((*path, "window"), written.window, c),
            where=_filter(written.events, where),
            events=written.events,
            of=None if of is None else of.value,
            by=None if by is None else by.value,
            max_keys=written.max_keys,
            max_distinct=written.max_distinct,
            per_ms=c.span_ms((*path, "per"), written.per),
            source=repr((sorted(written.events), *keys)),
        )
    except ValueError as error:
        c.fault(path, str(error).removeprefix(f"aggregate {name!r}: "))
        return Aggregate(name=name, function="count", window=Window("lifetime"))


def _filter(events: frozenset[str], where: Expression | None) -> Callable[[Any], bool] | None:
    if not events:
        return None if where is None else where.test
    if where is None:
        return lambda scope: _signal_name(scope) in events
    test = where.test
    return lambda scope: _signal_name(scope) in events and test(scope)


def _window(path: Path, written: str | WindowDocument, c: Compilation) -> Window:
    if isinstance(written, str):
        return Window("lifetime")
    kinds: tuple[WindowKind, ...] = ("tumbling", "sliding", "decayed")
    given = [kind for kind in kinds if getattr(written, kind) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        c.fault(path, "which window?", found=found, expected="one of tumbling, sliding and decayed")
        return Window("lifetime")
    kind = given[0]
    window_ms = c.span_ms((*path, kind), getattr(written, kind))
    offset_ms = 0 if written.offset is None else c.span_ms((*path, "offset"), written.offset, or_none=True)
    if written.buckets is not None and kind != "sliding":
        c.fault((*path, "buckets"), "only a sliding window has buckets", found=str(written.buckets))
    buckets = 30 if written.buckets is None else written.buckets
    try:
        return Window(kind, window_ms, buckets, offset_ms)
    except ValueError as error:
        c.fault(path, str(error))
        return Window("lifetime")
