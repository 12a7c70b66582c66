"""Cases: the examples in rule files, run through the engine's own stages, so that rules mean what was meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from config.compile.compilation import parse_moment_ms
from config.documents.values import Case, Given
from config.draft import Draft
from config.faults import Fault, Path, closest, one_of, show
from config.shape import Fitted
from config.sources import Source
from config.verdicts import Moment, Verdict, eligible, judge, rule_ids
from config.vocabulary import BUILT_IN_EVENTS, Names, Vocabulary, names_of
from engine.context import Context, context_of
from engine.expression import MISSING, ExpressionError, Schema, compile_expression
from engine.profile import LastSignal, Profile
from engine.repertoire import Repertoire
from engine.signal import Signal
from engine.triggers import SegmentChanges, update_segments

ELIGIBLE = "eligible"
_SIGNAL_FIELDS = frozenset(Signal.__struct_fields__) - {"time_ms", "traceparent", "external_ids"}


def run_cases(fitted: Sequence[Fitted], draft: Draft, repertoire: Repertoire) -> tuple[int, list[Fault]]:
    """Run every case of every file; returns how many there are, and what did not come out as expected."""
    names = names_of(draft.written)
    rules = Vocabulary(draft.written, names).rules
    count, faults = 0, []
    for each in fitted:
        for index, written in enumerate((each.data or {}).get("cases", ())):
            count += 1
            case = msgspec.convert(written, Case)
            faults += _CaseRun(each.source, str(each.kind), ("cases", index), case, names, rules).run(repertoire)
    return count, faults


class _CaseRun:
    """One case of one file."""

    def __init__(self, source: Source, kind: str, path: Path, case: Case, names: Names, rules: Schema) -> None:
        self.source, self.kind, self.path, self.case = source, kind, path, case
        self.names, self.rules = names, rules
        self.faults: list[Fault] = []

    def run(self, repertoire: Repertoire) -> list[Fault]:
        self._check_names()
        moment = self._moment(repertoire)
        if moment is not None:
            for key, expected in self.case.expect.items():
                self._expect(key, expected, moment)
        return self.faults

    def _fault(self, path: Path, message: str, *, found: str = "", expected: str = "", suggestion: str = "") -> None:
        at = (*self.path, *path)
        place = self.source.key_at(at) if suggestion else self.source.at(at)
        self.faults.append(place.fault(at, message, found=found, expected=expected, suggestion=suggestion))

    # --- What is given ---

    def _check_names(self) -> None:
        given, names = self.case.given, self.names
        if names.traits:
            self._check(("given", "profile"), given.profile, names.traits, "trait")
        if names.events:
            self._check(("given", "last"), given.last, names.events | BUILT_IN_EVENTS, "event")
        self._check(("given", "aggregates"), given.aggregates, names.aggregates, "aggregate")
        self._check(("given", "signal"), given.signal, _SIGNAL_FIELDS, "field of a signal")
        for field in ("segments", "entered", "left"):
            self._check(("given", field), getattr(given, field) or (), names.segments, "segment")

    def _check(
        self, path: Path, used: Mapping[str, Any] | frozenset[str] | tuple[()], known: frozenset[str], what: str
    ) -> None:
        for name in sorted(used):
            if name not in known:
                at = (*path, name) if isinstance(used, Mapping) else path
                meant = closest(name, known)
                self._fault(at, f"unknown {what}", found=show(name), expected=one_of(known), suggestion=meant)

    def _moment(self, repertoire: Repertoire) -> Moment | None:
        given = self.case.given
        try:
            at_ms = parse_moment_ms(given.at, repertoire.zones.of(None, None)[0])
            written = {"message_id": "case", "type": "track", "time_ms": at_ms, **given.signal}
            signal = msgspec.convert(written, Signal)
        except ValueError as error:
            self._fault(("given",), f"no such moment ({error})")
            return None
        profile = _profile(given, at_ms)
        context = _context(given, profile, signal, repertoire)
        changes = SegmentChanges(given.entered, given.left)
        return Moment(signal, context, changes, repertoire)

    # --- What is expected ---

    def _expect(self, key: str, expected: Any, moment: Moment) -> None:
        if key == ELIGIBLE:
            expected = sorted(expected) if _is_ids(expected) else expected
            verdict: Verdict | None = eligible(moment, expected if isinstance(expected, list) else ())
        elif key in rule_ids(self.kind, moment.repertoire):
            verdict = judge(self.kind, key, moment)
        else:
            verdict = self._value(key, expected, moment)
        if verdict is not None and not _same(verdict.value, expected):
            found = f"{_text(verdict.value)} ({verdict.why})" if verdict.why else _text(verdict.value)
            self._fault(("expect", key), f"case {show(self.case.name)} fails", found=found, expected=_text(expected))

    def _value(self, text: str, expected: Any, moment: Moment) -> Verdict | None:
        """The value of an expression; whether it holds, as a rule would see it, when true or false is expected."""
        try:
            expression = compile_expression(text, self.rules)
        except ExpressionError as error:
            ids = rule_ids(self.kind, moment.repertoire)
            meant = closest(text, ids) or error.suggestion or ""
            said = f"neither a rule of this file nor an expression: {error.message}"
            self._fault(("expect", text), said, expected=one_of(ids), suggestion=meant)
            return None
        value = expression.value(moment.context)
        if isinstance(expected, bool):
            return Verdict(value is True, "a value is missing" if value is MISSING else "")
        return Verdict(sorted(value) if isinstance(value, frozenset) else value)


def _profile(given: Given, at_ms: int) -> Profile:
    return Profile(
        customer_id=str(given.customer.get("id", "case")),
        created_ms=at_ms,
        seen_ms=at_ms,
        now_ms=at_ms,
        traits=dict(given.profile),
        last={event: LastSignal(at_ms, dict(properties)) for event, properties in given.last.items()},
        segments=dict.fromkeys(given.segments or (), at_ms),
    )


def _context(given: Given, profile: Profile, signal: Signal, repertoire: Repertoire) -> Context:
    """The engine's own context, with what is given directly written into it."""
    context = context_of(profile, signal, repertoire)
    for root in ("aggregates", "age_ms", "customer"):
        context[root].update(getattr(given, root))
    if given.request:
        context["request"] = {"properties": signal.properties, **given.request}
    if given.segments is None:
        update_segments(profile, context, repertoire.profile)
    return context


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _same(value: Any, expected: Any) -> bool:
    """Equality in which true is not 1."""
    return isinstance(value, bool) is isinstance(expected, bool) and bool(value == expected)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "nothing, as a value is missing" if value is MISSING else show(value)
