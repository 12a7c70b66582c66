"""What compiling every kind shares: names, expressions, references, times, and the faults found on the way.

Every method reports what is wrong and then gives a harmless stand-in, so that compiling goes on to the next fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta, tzinfo
from typing import cast

from config.documents.values import Scope as ScopeDocument
from config.draft import Draft
from config.faults import Fault, Path, closest, one_of, show
from config.vocabulary import BUILT_IN_EVENTS, Vocabulary, names_of
from engine.calendar import DAY_MS, Unit, parse_duration_ms, parse_rfc3339_ms
from engine.expression import (
    ANY,
    BOOLEAN,
    NUMBER,
    Expression,
    ExpressionError,
    Predicates,
    Schema,
    Type,
    compile_expression,
)
from engine.repertoire import Rule, Scope, Window
from engine.template import Template, compile_template

_STAND_INS = {BOOLEAN: compile_expression("true"), NUMBER: compile_expression("0"), ANY: compile_expression("null")}
_EXPECTED = {
    BOOLEAN: "an expression that is true or false",
    NUMBER: "a number or an expression that gives one",
    ANY: "an expression",
}
LONGEST_MS = 366 * DAY_MS
_DAYS: dict[Unit, float] = {"hour": 1 / 24, "day": 1, "week": 7, "month": 30}
_LISTED = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Compilation:
    """One run over a draft. `zone`: in which dates without a time are read. `partitions`: who shares budgets."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.names = names_of(draft.written)
        self.vocabulary = Vocabulary(draft.written, self.names)
        self.predicates = Predicates()
        self.zone: tzinfo = UTC
        self.partitions = 1
        self.faults: list[Fault] = []
        self._spoilt = {path[:end] for path in draft.left_out for end in range(len(path) + 1)}

    def fault(
        self,
        path: Path,
        message: str,
        *,
        found: str = "",
        expected: str = "",
        suggestion: str = "",
        given: Path | None = None,
    ) -> None:
        """Report a fault, unless it comes of a part that was left out, at the path or at what is `given` with it."""
        if path not in self._spoilt and given not in self._spoilt:
            place = self.draft.where(path)
            self.faults.append(place.fault(path[1:], message, found=found, expected=expected, suggestion=suggestion))

    # --- Expressions ---

    def expression(self, path: Path, text: str, schema: Schema, needs: Type = BOOLEAN) -> Expression:
        """The expression at a path, whose value is of a type."""
        try:
            expression = compile_expression(text, schema)
        except ExpressionError as error:
            self._faulty(path, text, error, _EXPECTED[needs])
            return _STAND_INS[needs]
        if needs not in (ANY, expression.type) and expression.type is not ANY:
            self.fault(path, f"this is {in_words(expression.type)}", found=show(text), expected=_EXPECTED[needs])
        return expression

    def optional(self, path: Path, text: str | None, schema: Schema) -> Expression | None:
        """The condition at a path, if there is one."""
        return None if text is None else self.expression(path, text, schema)

    def rule(self, path: Path, text: str, where: str) -> Rule:
        """The condition at a path, its conjuncts shared with all other rules."""
        expression = self.expression(path, text, self.vocabulary.rules)
        return Rule(predicates=self.predicates.add(expression), where=where)

    def template(self, path: Path, text: str) -> Template:
        """The content template at a path."""
        try:
            return compile_template(text, self.vocabulary.rules)
        except ExpressionError as error:
            self._faulty(path, text, error, "text with {expressions}")
            return compile_template("")

    def _faulty(self, path: Path, text: str, error: ExpressionError, expected: str) -> None:
        place = self.draft.place(path).inside(text, error.offset)
        suggestion = error.suggestion or ""
        self.faults.append(
            place.fault(path[1:], error.message, found=show(text.strip()), expected=expected, suggestion=suggestion)
        )

    # --- References ---

    def refer(self, path: Path, name: str | None, known: AbstractSet[str], what: str) -> bool:
        """Check that a name, if there is one, is known; whether it is."""
        if name is None or name in known:
            return name is not None
        expected = one_of(known) if len(known) <= _LISTED else f"a known {what}"
        self.fault(path, f"unknown {what}", found=show(name), expected=expected, suggestion=closest(name, known))
        return False

    def refer_all(self, path: Path, names: Iterable[str], known: AbstractSet[str], what: str) -> None:
        """Check every name of a set, each at its own place in the list."""
        for name in sorted(names):
            self.refer(self.draft.item(path, name), name, known, what)

    def events(self, path: Path, names: Iterable[str]) -> None:
        """Check names of signals, once any are declared."""
        if self.names.events:
            self.refer_all(path, names, self.names.events | BUILT_IN_EVENTS, "event")

    def scope(self, path: Path, written: ScopeDocument) -> Scope:
        """Which candidates a rule speaks of, every name in it known."""
        names = self.names
        known = {
            "issues": names.issues,
            "groups": names.groups,
            "actions": names.actions,
            "tags": names.tags,
            "channels": names.channels,
        }
        for field, those in known.items():
            self.refer_all((*path, field), getattr(written, field), those, field.removesuffix("s"))
        return Scope(**{field: getattr(written, field) for field in known})

    # --- Times ---

    def span_ms(self, path: Path, text: str, *, or_none: bool = False) -> int:
        """A duration, above zero unless none will do, at most a year."""
        ms = parse_duration_ms(text)
        if ms > LONGEST_MS or (ms == 0 and not or_none):
            expected = f"{'no time' if or_none else 'more than none'} to 366d"
            self.fault(path, "a duration out of range", found=show(text), expected=expected)
            return DAY_MS
        return ms

    def window(self, path: Path, per: str | None, rolling: str | None) -> Window:
        """The window of a limit: exactly one of a calendar span and a duration."""
        if (per is None) is (rolling is None):
            found = "neither" if per is None else "both"
            self.fault(path, "over which time?", found=found, expected='one of per: "1 week" and rolling: 7d')
            return Window(span_ms=DAY_MS)
        if rolling is not None:
            return Window(span_ms=self.span_ms((*path, "rolling"), rolling))
        count, _, unit_name = (per or "").removesuffix("s").rpartition(" ")
        unit, times = cast("Unit", unit_name), int(count or 1)
        if times * _DAYS[unit] > 366:
            self.fault((*path, "per"), "longer than a year", found=show(per), expected="at most 12 months")
        return Window(unit=unit, count=times)

    def moment_ms(self, path: Path, text: str | None, *, ending: bool = False) -> int | None:
        """The time at a path, if there is one."""
        try:
            return None if text is None else parse_moment_ms(text, self.zone, ending=ending)
        except ValueError as error:
            self.fault(path, f"not a time ({error})", found=show(text), expected="2026-11-30 or 2026-11-30T18:00:00Z")
            return None


def parse_moment_ms(text: str, zone: tzinfo, *, ending: bool = False) -> int:
    """Epoch milliseconds of an RFC 3339 time, or of the beginning or end of a day; raises ValueError for others."""
    if len(text) > 10:
        return parse_rfc3339_ms(text)
    try:
        day = datetime.fromisoformat(text).replace(tzinfo=zone) + timedelta(days=ending)
        return (day - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError as error:
        raise ValueError(f"{text} is out of range") from error


def in_words(type_: Type) -> str:
    """`a number`, `text`: for a sentence that begins with "this is"."""
    return type_.value if type_.value[:4] in ("true", "null", "text") else f"a {type_.value}"
