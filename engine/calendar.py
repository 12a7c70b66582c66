"""Time as people read it: durations, RFC 3339, calendar windows and quiet hours in the recipient's zone.

Pure arithmetic on integer epoch milliseconds. Zones are handed in, never looked up here, and wall clocks are
resolved through gaps and folds of daylight saving time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Literal

from msgspec import Struct

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS

Unit = Literal["hour", "day", "week", "month"]

_MS = timedelta(milliseconds=1)
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_NAIVE = _EPOCH.replace(tzinfo=None)
_FIRST_MS = -62_135_596_800_000  # 0001-01-01T00:00:00Z
_LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
_MINUTES_A_DAY = 1_440

_DURATION = re.compile(
    r"(?=[0-9])(?:([0-9]{1,9})w)?(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?"
    r"(?:([0-9]{1,9})ms)?"
)
_DURATION_UNITS_MS = (WEEK_MS, DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, 1)
# fromisoformat alone takes more than RFC 3339: week dates, commas, any separator, an offset of +01:60.
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-5][0-9])"
)


def parse_duration_ms(text: str) -> int:
    """The milliseconds of a duration such as `30d`, `1d12h`, `15m`, `45s`, `2w` or `250ms`.

    Each unit (w, d, h, m, s, ms) at most once, largest first, whole numbers; days are 24 hours.
    Raises ValueError for anything else.

    >>> parse_duration_ms("1d12h")
    129600000
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is not a duration: expected whole numbers with w, d, h, m, s or ms, largest first, "
            'for example "30d", "1d12h" or "15m"'
        )
    return sum(int(n) * unit_ms for n, unit_ms in zip(found.groups(), _DURATION_UNITS_MS, strict=True) if n)


@lru_cache(maxsize=1_024)
def format_duration(ms: int) -> str:
    """The duration in days and smaller units, as `parse_duration_ms` reads it back; `-` before if below 0.

    >>> format_duration(30 * DAY_MS), format_duration(90 * MINUTE_MS)
    ('30d', '1h30m')
    """
    if ms < 0:
        return "-" + format_duration(-ms)
    parts, left_ms = [], ms
    for unit_ms, name in ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "m"), (SECOND_MS, "s"), (1, "ms")):
        n, left_ms = divmod(left_ms, unit_ms)
        if n:
            parts.append(f"{n}{name}")
    return "".join(parts) or "0s"


def parse_rfc3339_ms(text: str) -> int:
    """The epoch milliseconds of an RFC 3339 date-time (section 5.6), finer fractions cut off.

    The offset is required. `23:59:60` UTC, a leap second, is the first second of the next day.
    Raises ValueError for any other text, impossible dates, and instants outside the years 0001 to 9999 UTC.

    >>> parse_rfc3339_ms("1970-01-01T01:00:00.0019+01:00")
    1
    """
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(_not_rfc3339(text, "for example 2026-11-16T10:00:00.123Z, offset included"))
    try:
        ms = _since_epoch_ms(datetime.fromisoformat(text))
    except ValueError as error:
        ms = _rfc3339_odd_ms(text, error)
    if _FIRST_MS <= ms <= _LAST_MS:
        return ms
    raise ValueError(_not_rfc3339(text, "an instant in the years 0001 to 9999 UTC"))


def _rfc3339_odd_ms(text: str, error: ValueError) -> int:
    """What fromisoformat refuses and RFC 3339 allows: small t and z, and the leap second."""
    leap_ms = SECOND_MS if text[17:19] == "60" else 0
    regular = text.upper() if not leap_ms else f"{text[:17]}59{text[19:]}".upper()
    try:
        ms = _since_epoch_ms(datetime.fromisoformat(regular)) + leap_ms
    except ValueError:
        raise ValueError(_not_rfc3339(text, f"a date and time that exist ({error})")) from error
    if leap_ms and ms % DAY_MS >= SECOND_MS:
        raise ValueError(_not_rfc3339(text, "a leap second only at 23:59:60 UTC"))
    return ms


def _not_rfc3339(text: str, expected: str) -> str:
    shown = repr(text if len(text) <= 64 else text[:64] + "…")
    return f"{shown} is not an RFC 3339 date-time: expected {expected}"


def format_rfc3339(ms: int) -> str:
    """The instant in UTC with milliseconds; raises OverflowError outside the years 0001 to 9999.

    >>> format_rfc3339(1)
    '1970-01-01T00:00:00.001Z'
    """
    minute, rest_ms = divmod(ms, MINUTE_MS)
    day, minute = divmod(minute, _MINUTES_A_DAY)
    second, rest_ms = divmod(rest_ms, SECOND_MS)
    return f"{_date(day)}{_CLOCK[minute]}{second:02}.{rest_ms:03}Z"


_CLOCK = [f"T{minute // 60:02}:{minute % 60:02}:" for minute in range(_MINUTES_A_DAY)]


@lru_cache(maxsize=512)
def _date(day: int) -> str:
    """The date so many days after the epoch."""
    return (_EPOCH_NAIVE + day * _DAY).date().isoformat()


def format_day(ms: int, tz: tzinfo) -> str:
    """The calendar day of an instant in `tz`, such as `2026-11-16`."""
    return _local(ms, tz).date().isoformat()


class Zones(Struct, frozen=True):
    """Which time zones hold for a person; zone data and the country table come from the shell.

    Raises ValueError when a country or the default names a zone not in `zones`, or there is no default.
    """

    zones: Mapping[str, tzinfo]
    by_country: Mapping[str, tuple[str, ...]]  # ISO 3166-1 alpha-2, upper case -> zone names
    default: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.default:
            raise ValueError("no default time zone given: name at least one")
        for owner, names in (*self.by_country.items(), ("default", self.default)):
            unknown = [name for name in names if name not in self.zones]
            if unknown:
                raise ValueError(f"{owner}: unknown time zone {unknown[0]!r}; expected an IANA name")

    def of(self, timezone: str | None, country: str | None) -> tuple[tzinfo, ...]:
        """The person's own zone if known, else all zones of the country, else the default zones.

        With several, the strictest must hold: quiet in any of them is quiet.
        """
        zone = self.zones.get(timezone) if timezone is not None else None
        if zone is not None:
            return (zone,)
        names = self.by_country.get(country.upper()) if country is not None else None
        return tuple(self.zones[name] for name in names or self.default)


def calendar_start_ms(now_ms: int, unit: Unit, count: int, tz: tzinfo, first_weekday: int = 0) -> int:
    """The start of the calendar window: the present hour, day, week or month and the `count` - 1 before it.

    So "2 per 3 days" looks at today and the two days before, from midnight in `tz`: no three days in a row
    ever hold more. A local day has 23 or 25 hours when the clock changes; an hour always has 60 minutes.
    `first_weekday`: 0 Monday to 6 Sunday. Raises ValueError when `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"a calendar window of {count} {unit}s: expected at least 1")
    now = _local(now_ms, tz)
    if unit == "hour":
        offset_ms = (now.utcoffset() or timedelta()) // _MS
        return now_ms - (now_ms + offset_ms) % HOUR_MS - (count - 1) * HOUR_MS
    return _reached_ms(_first_day(now.date(), unit, count, first_weekday).toordinal(), 0, tz)


def _first_day(today: date, unit: Unit, count: int, first_weekday: int) -> date:
    if unit == "day":
        return today - (count - 1) * _DAY
    if unit == "week":
        return today - ((today.weekday() - first_weekday) % 7 + (count - 1) * 7) * _DAY
    year, month = divmod(today.year * 12 + today.month - count, 12)
    return date(year, month + 1, 1)


class QuietHours(Struct, frozen=True):
    """A span of the recipient's wall clock in which nothing is sent, from start to just before the end.

    Minutes of the day; `end_minute` up to 1440. An end before the start is the next day's, and the whole span
    belongs to the day it starts on: with `days` {4} (Friday), 22:00 to 06:00 is quiet until Saturday morning.
    `days`: 0 Monday to 6 Sunday, None all of them.
    Raises ValueError for values out of range, an empty span, or quiet hours that would never end.
    """

    start_minute: int
    end_minute: int
    days: frozenset[int] | None = None

    def __post_init__(self) -> None:
        start, end, days = self.start_minute, self.end_minute, self.days
        if not (0 <= start < _MINUTES_A_DAY and 0 <= end <= _MINUTES_A_DAY):
            raise ValueError(f"quiet hours {start} to {end}: expected minutes of the day, 0 to 1440")
        if start == end:
            raise ValueError(f"quiet hours start and end at minute {start}: for a whole day write 0 to 1440")
        if days is not None and not days <= frozenset(range(7)):
            raise ValueError(f"quiet days {sorted(days)}: expected 0 (Monday) to 6 (Sunday)")
        if (start, end) == (0, _MINUTES_A_DAY) and (days is None or len(days) == 7):
            raise ValueError("quiet hours cover every day from 0 to 1440: nothing could ever be sent")


def quiet_until_ms(quiet: QuietHours, now_ms: int, tz: tzinfo) -> int | None:
    """When the quiet hours that hold at `now_ms` end; None when none hold.

    Spans that touch (a quiet Saturday and Sunday) end together. Whenever the wall clock shows a quiet minute
    it is quiet: when the clock is put back, an end that comes twice counts the second time, a start the first
    time; one that the clock skips falls on the jump.
    """
    until_ms = None
    end_ms = _span_end_ms(quiet, now_ms, tz)
    while end_ms is not None:
        until_ms = end_ms
        end_ms = _span_end_ms(quiet, until_ms, tz)
    return until_ms


def _span_end_ms(quiet: QuietHours, now_ms: int, tz: tzinfo) -> int | None:
    today = _local(now_ms, tz).toordinal()
    crosses = quiet.end_minute <= quiet.start_minute
    for day in (today, today - 1) if crosses else (today,):
        if quiet.days is not None and (day + 6) % 7 not in quiet.days:  # ordinal 1 was a Monday
            continue
        if _reached_ms(day, quiet.start_minute, tz) <= now_ms:
            end_ms = _passed_ms(day + crosses, quiet.end_minute, tz)
            if now_ms < end_ms:
                return end_ms
    return None


# Everybody in a zone shares its days, so what a wall clock resolves to is remembered. The bound holds the dozen of days
# that matter at a time, today's and those at which windows begin, in forty zones.
@lru_cache(maxsize=512)
def _reached_ms(day: int, minute: int, tz: tzinfo) -> int:
    """The first instant at which the clock of `tz` shows that minute of that day, or jumps over it."""
    wall = _wall(day, minute)
    ms = _since_epoch_ms(wall.replace(tzinfo=tz, fold=0))
    return ms if _local(ms, tz).replace(tzinfo=None) == wall else _jump_ms(wall, tz)


@lru_cache(maxsize=512)
def _passed_ms(day: int, minute: int, tz: tzinfo) -> int:
    """The instant from which the clock of `tz` never again shows a time before that minute of that day."""
    last = _wall(day, minute) - _MS
    ms = _since_epoch_ms(last.replace(tzinfo=tz, fold=1))
    return ms + 1 if _local(ms, tz).replace(tzinfo=None) == last else _jump_ms(last, tz)


def _wall(day: int, minute: int) -> datetime:
    return datetime.combine(date.fromordinal(day), time()) + timedelta(minutes=minute)


def _local(ms: int, tz: tzinfo) -> datetime:
    return (_EPOCH + ms * _MS).astimezone(tz)


def _since_epoch_ms(aware: datetime) -> int:
    since = aware - _EPOCH
    return since.days * DAY_MS + since.seconds * SECOND_MS + since.microseconds // 1_000


def _jump_ms(skipped: datetime, tz: tzinfo) -> int:
    """The instant at which the clock of `tz` jumps over the wall time `skipped`, found by bisection."""
    # PEP 495: in a gap fold=1 uses the offset after the jump and lies before it, fold=0 the other way round.
    before_ms = _since_epoch_ms(skipped.replace(tzinfo=tz, fold=1))
    after_ms = _since_epoch_ms(skipped.replace(tzinfo=tz, fold=0))
    while after_ms - before_ms > 1:
        middle_ms = (before_ms + after_ms) // 2
        if _local(middle_ms, tz).replace(tzinfo=None) < skipped:
            before_ms = middle_ms
        else:
            after_ms = middle_ms
    return after_ms
