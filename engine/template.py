"""Content templates: text with values of the scope written into it.

`"Hi {profile.first_name|there}, {signal.properties.product} is waiting"`: braces hold an expression (see
`engine.expression`), usually a path, and after a bar what to write when it gives nothing; `{{` and `}}` are
plain braces. A placeholder gives nothing when its value is an error, null, a blank text, a list or a map, or
too long for the whole to stay within 10,000 characters; without a default the content then cannot be offered.
Numbers: 1.0 is written 1, fractions to six significant digits without trailing zeros, never with an exponent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import msgspec

from engine.expression import (
    ANY,
    BOOLEAN,
    MISSING,
    NUMBER,
    STRING,
    Expression,
    ExpressionError,
    Schema,
    Scope,
    compile_expression,
)
from engine.expression.syntax import is_unicode
from engine.expression.values import bounded

MAX_SOURCE = 4_000
"""Characters of a template."""
MAX_RESULT = 10_000
"""Characters of a rendered text."""
_WRITABLE = frozenset({ANY, BOOLEAN, NUMBER, STRING})
_DIGITS = 6
_PART = re.compile(r"(?P<text>([^{}]|\{\{|\}\})+)|\{(?P<expression>[^{}|]*)(\|(?P<default>[^{}]*))?\}")


class Rendered(msgspec.Struct, frozen=True):
    """The text, or the placeholder that had nothing to show; exactly one of the two is set."""

    text: str | None = None
    missing: str | None = None


class _Placeholder(msgspec.Struct, frozen=True):
    expression: Expression
    default: str | None


class Template:
    """A compiled template; immutable.

    `may_miss`: whether it has a placeholder without a default. `likeness`: equal for templates that lack the same in a
    scope where both are short. `constant`: the text of one without placeholders.
    """

    __slots__ = ("_parts", "_placeholders", "_room", "constant", "likeness", "may_miss", "paths", "source")

    def __init__(self, source: str, parts: tuple[str | _Placeholder, ...]) -> None:
        self.source, self._parts = source, parts
        self._room = MAX_RESULT - len(source)
        placeholders = tuple(part for part in parts if isinstance(part, _Placeholder))
        self._placeholders = placeholders
        self.may_miss = any(each.default is None for each in placeholders)
        self.likeness = tuple((each.expression.source, each.default) for each in placeholders)
        self.constant = None if placeholders else "".join(map(str, parts))
        self.paths = frozenset(path for each in placeholders for path in each.expression.paths)

    def render(self, scope: Scope) -> Rendered:
        """The text for this scope, at most 10,000 characters, or the first placeholder without one."""
        texts, room = [], self._room
        for part in self._parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            text = written(part.expression.value(scope))
            if text is not None and len(text) <= room:
                room -= len(text)
            else:
                text = part.default
            if text is None:
                return Rendered(missing=part.expression.source)
            texts.append(text)
        return Rendered(text="".join(texts))

    def is_short(self, scope: Scope) -> bool:
        """Whether all that its placeholders give would fit into any template."""
        texts = (written(each.expression.value(scope)) for each in self._placeholders)
        return sum(len(text) for text in texts if text is not None) <= MAX_RESULT - MAX_SOURCE

    def missing(self, scope: Scope) -> str | None:
        """The first placeholder without a text, as `render` finds it, without the trouble of writing the text."""
        if not self.may_miss:
            return None
        room = self._room
        for each in self._placeholders:
            text = written(each.expression.value(scope))
            if text is not None and len(text) <= room:
                room -= len(text)
            elif each.default is None:
                return each.expression.source
        return None


def compile_template(source: str, schema: Schema | None = None) -> Template:
    """The template written in `source`.

    Raises ExpressionError, placed in `source`, for a faulty placeholder, a lone brace or too long a text.

    >>> compile_template("Hi {profile.name|there}!").render({"profile": {}})
    Rendered(text='Hi there!', missing=None)
    """
    if len(source) > MAX_SOURCE:
        raise ExpressionError(f"a template of {len(source):,} characters, allowed are {MAX_SOURCE:,}", source)
    if not is_unicode(source):
        raise ExpressionError("a template with half a surrogate pair is no Unicode text", source)
    return Template(source, tuple(_parts(source, schema)))


def _parts(source: str, schema: Schema | None) -> Iterator[str | _Placeholder]:
    at = 0
    while at < len(source):
        part = _PART.match(source, at)
        if part is None:
            raise ExpressionError(f"a lone {source[at]!r}, plain braces are written twice", source, at)
        at = part.end()
        if part["text"] is not None:
            yield part["text"].replace("{{", "{").replace("}}", "}")
        else:
            yield _placeholder(source, part, schema)


def _placeholder(source: str, part: re.Match[str], schema: Schema | None) -> _Placeholder:
    start = part.start("expression")
    try:
        expression = compile_expression(part["expression"], schema)
    except ExpressionError as fault:
        raise ExpressionError(fault.message, source, start + fault.offset, fault.suggestion) from None
    if expression.type not in _WRITABLE:
        raise ExpressionError(f"a {expression.type.value} cannot be written into a text", source, start)
    return _Placeholder(expression, part["default"])


def written(value: object) -> str | None:
    """How a value reads in a text; None when there is nothing to show."""
    match value:
        case str():
            return value if value.strip() else None
        case bool():
            return "true" if value else "false"
        case int() if bounded(value) is not MISSING:
            return str(value)
        case float() if math.isfinite(value):
            return _fraction(value)
    return None


def _fraction(value: float) -> str:
    """Decimal notation to six significant digits, all digits before the point, and at most twelve after it.

    >>> _fraction(1.0), _fraction(19.90), _fraction(2 / 3), _fraction(1234567.5)
    ('1', '19.9', '0.666667', '1234568')
    """
    magnitude = math.floor(math.log10(abs(value))) + 1 if value else 1
    text = f"{value:.{min(max(_DIGITS - magnitude, 0), 2 * _DIGITS)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
