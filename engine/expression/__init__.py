"""The one safe language of every rule: eligibility, segments, triggers, formulas, filters, content.

Text is parsed by Python's own parser, held against a whitelist and compiled once to nested closures over a
*scope*: a mapping of roots (`profile`, `signal`, `segments`, `now_ms`, ...) to plain values (dict, list,
tuple, set, str, bool, int, float, None). Read in the order `syntax` (text to tree), `schema` (names and
types), `closures` (tree to function), `panel` (many trees to one table), `compiled` (what callers hold).

**What may be written.** `and or not`; `== != < <= > >=`, chained as in `18 <= profile.age < 65`; `in`, `not
in`; `is null`, `is not null`; dotted paths; `path["any key"]`, `path[0]`, `path[expression]`; text, numbers,
`true false null` (or `True False None`); lists and tuples; `+ - * / %` and unary minus on numbers; `a if
condition else b`; and calls of these functions, nothing else:

| function | gives |
|---|---|
| `has(path)` | true when the path exists and is not null |
| `default(x, y)` | x, or y when x is an error or null |
| `len(x)` | characters of a text, entries of a list |
| `lower(t)`, `upper(t)` | the text in lower, upper case |
| `contains(x, y)` | text x contains text y, or list x has the entry y |
| `starts_with(t, p)`, `ends_with(t, p)` | whether the text begins, ends with p |
| `min(a, b, ...)`, `max(a, b, ...)` | the smallest, greatest number |
| `abs(x)`, `floor(x)`, `ceil(x)` | as in mathematics |
| `round(x)`, `round(x, digits)` | the nearest integer or decimal, halves to even; digits 0 to 10 |
| `clamp(x, low, high)` | x held within low and high; an error when low > high |
| `sqrt(x)`, `log1p(x)` | square root (x >= 0), natural logarithm of 1 + x (x > -1) |
| `days_since(ms)`, `hours_since(ms)` | from a time in epoch ms to `now_ms`; fractions, negative when ahead |
| `hour(ms)`, `hour(ms, offset)` | hour 0 to 23, UTC, or `offset` minutes east of UTC |
| `weekday(ms)`, `weekday(ms, offset)` | ISO day of the week, Monday 1 to Sunday 7, as for `hour` |

**Errors are values.** A missing field, a wrong type, a division by zero, a number beyond 64-bit integers or
finite floats is an *error value*, with the logic of Kleene and of CEL: `error and false` is false, `error or
true` is true, in both orders; everywhere else the error goes through, so `not error` is an error. Only `has`
and `default` catch it. A rule holds only when its value is exactly true: with an error, a number or a text it
does not, and putting `not` before an error does not open it.

**Types are strict.** `and`, `or`, `not` and conditions take true and false only; there is no truthiness, and
true is not 1. Numbers equal numbers (1 == 1.0), texts equal texts, and other pairs are errors; but anything
may be compared with null. Lists and maps are not compared. `<` takes two numbers or two texts (by code
point). `in` takes a list, or a map with a text (is there such a key); entries of another type are simply
different. Dots are look-ups in maps, never attributes of objects; only maps and lists are looked into. `%`
has the sign of the divisor and `/` always gives fractions. NaN is an error. Line breaks count as spaces;
there are no comments.

**Bounds.** At most 4,000 characters, 400 nodes, 50 levels, 1,000 characters a text, integers of 64 bits.
Nothing loops and no text or list can be put together, so evaluation costs at most one visit per node, each
bounded: functions refuse (error value) texts over 10,000 characters, and looking for an entry refuses lists
over 1,000 entries; in sets and maps it is one hash look-up.
"""

from engine.expression.compiled import Expression, Memo, Predicates, compile_expression
from engine.expression.panel import Answers, Panel
from engine.expression.schema import Schema, Spec
from engine.expression.syntax import ExpressionError
from engine.expression.values import ANY, BOOLEAN, LIST, MAP, MISSING, NUMBER, STRING, Scope, Type

__all__ = [
    "ANY",
    "BOOLEAN",
    "LIST",
    "MAP",
    "MISSING",
    "NUMBER",
    "STRING",
    "Answers",
    "Expression",
    "ExpressionError",
    "Memo",
    "Panel",
    "Predicates",
    "Schema",
    "Scope",
    "Spec",
    "Type",
    "compile_expression",
]
