"""Durations, RFC 3339, calendar windows and quiet hours, over real zones and their odd days."""

from __future__ import annotations

import doctest
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import engine.calendar
from engine.calendar import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    QuietHours,
    Zones,
    calendar_start_ms,
    format_day,
    format_duration,
    format_rfc3339,
    parse_duration_ms,
    parse_rfc3339_ms,
    quiet_until_ms,
)

ZONES = [
    "America/Havana",  # the clock goes back from 01:00 to midnight
    "America/New_York",
    "America/Santiago",  # midnight does not exist when summer begins
    "America/Sao_Paulo",
    "America/St_Johns",  # changed at 00:01, half-hour offset
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Europe/Madrid",
    "Pacific/Apia",  # 2011-12-30 never happened
    "UTC",
]
MADRID = ZoneInfo("Europe/Madrid")
START, END = datetime(2008, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)


def ms(text: str) -> int:
    """The instant of a text."""
    return parse_rfc3339_ms(text)


def wall(at_ms: int, tz: ZoneInfo) -> datetime:
    """What the clock on the wall shows, to the second."""
    return datetime.fromtimestamp(at_ms // 1000, tz).replace(tzinfo=None, fold=0)


def clock_changes(name: str) -> list[int]:
    """The hours in which the offset of a zone changes, as epoch ms."""
    tz, hour = ZoneInfo(name), timedelta(hours=1)
    days = [START + timedelta(days=n) for n in range((END - START).days)]
    changing = [a for a, b in pairwise(days) if a.astimezone(tz).utcoffset() != b.astimezone(tz).utcoffset()]
    hours = [day + n * hour for day in changing for n in range(24)]
    return [
        int(at.timestamp() * 1000)
        for at in hours
        if at.astimezone(tz).utcoffset() != (at + hour).astimezone(tz).utcoffset()
    ]


CHANGES = {name: clock_changes(name) for name in ZONES}


@st.composite
def moments(draw: st.DrawFn) -> tuple[int, ZoneInfo]:
    """An instant and a zone, half of the time within a day and a half of a change of the clock."""
    name = draw(st.sampled_from(ZONES))
    anywhere = st.integers(int(START.timestamp() * 1000), int(END.timestamp() * 1000))
    near = st.builds(
        lambda at, by: at + by,
        st.sampled_from(CHANGES[name] or [0]),
        st.integers(-36 * HOUR_MS, 36 * HOUR_MS),
    )
    return draw(st.one_of(near, anywhere)), ZoneInfo(name)


@st.composite
def quiet_hours(draw: st.DrawFn) -> QuietHours:
    """Any span, often with edges on full hours, where clocks change."""
    start = draw(st.integers(0, 23).map(lambda hour: hour * 60) | st.integers(0, 1439))
    end = draw(st.integers(0, 24).map(lambda hour: hour * 60) | st.integers(0, 1440))
    days = draw(st.none() | st.frozensets(st.integers(0, 6), min_size=1, max_size=6))
    if start == end or (start, end, days) == (0, 1440, None):
        start = (end + 1) % 1440
    return QuietHours(start, end, days)


def shows_quiet(quiet: QuietHours, at: datetime) -> bool:
    """Whether a wall clock reads a quiet minute: the definition, without any zone."""
    minute, yesterday = at.hour * 60 + at.minute, (at.weekday() - 1) % 7
    days = quiet.days if quiet.days is not None else frozenset(range(7))
    if quiet.start_minute < quiet.end_minute:
        return at.weekday() in days and quiet.start_minute <= minute < quiet.end_minute
    return (at.weekday() in days and minute >= quiet.start_minute) or (yesterday in days and minute < quiet.end_minute)


def test_examples_in_docstrings_hold():
    """Every example in a docstring gives what it shows."""
    assert doctest.testmod(engine.calendar).failed == 0


class TestDuration:
    @given(st.integers(0, 10**13))
    def test_reads_back_what_it_writes(self, value):
        """Formatting and parsing are inverse."""
        assert parse_duration_ms(format_duration(value)) == value

    @given(st.lists(st.integers(0, 999), min_size=6, max_size=6))
    def test_units_add_up(self, numbers):
        """Every unit counts with its length, in one text."""
        text = "".join(f"{n}{unit}" for n, unit in zip(numbers, ["w", "d", "h", "m", "s", "ms"], strict=True))
        lengths = [7 * DAY_MS, DAY_MS, HOUR_MS, MINUTE_MS, 1000, 1]
        assert parse_duration_ms(text) == sum(n * ms for n, ms in zip(numbers, lengths, strict=True))

    @pytest.mark.parametrize("text", ["", "d", "30", "30 d", "-1d", "1h1d", "1d1d", "1.5h", "1y", "٣d", "1D", "1d\n"])
    def test_anything_else_is_refused(self, text):
        """The refusal shows the text and an example of what would be right."""
        with pytest.raises(ValueError, match=re.escape(repr(text)) + r".*1d12h"):
            parse_duration_ms(text)

    def test_people_read_days_and_smaller(self):
        """Weeks are shown as days, nothing as 0s, and below zero with a sign."""
        assert [format_duration(n) for n in (0, 14 * DAY_MS, 36 * HOUR_MS, -90_000, 1_250)] == [
            "0s", "14d", "1d12h", "-1m30s", "1s250ms",
        ]  # fmt: skip


RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.IGNORECASE | re.ASCII,
)


class TestRfc3339:
    @given(st.datetimes(timezones=st.just(UTC)))
    def test_round_trip(self, at):
        """What is written reads back as the same millisecond."""
        at_ms = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        assert parse_rfc3339_ms(format_rfc3339(at_ms)) == at_ms
        assert format_rfc3339(at_ms) == at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"

    @given(
        st.datetimes(timezones=st.just(UTC)).filter(lambda at: 1 < at.year < 9999),
        st.integers(-1439, 1439),
        st.text("0123456789"),
    )
    def test_offset_and_fraction(self, at, offset, digits):
        """The offset is taken off, and digits beyond the third are cut off."""
        sign, (hours, minutes) = "+-"[offset < 0], divmod(abs(offset), 60)
        fraction = f".{digits}" if digits else ""
        text = f"{at.replace(tzinfo=None, microsecond=0).isoformat()}{fraction}{sign}{hours:02}:{minutes:02}"
        utc_seconds = round(at.replace(microsecond=0).timestamp()) - offset * 60
        assert parse_rfc3339_ms(text) == utc_seconds * 1000 + int((digits + "000")[:3])

    @given(
        st.sampled_from(["2026-11-16T10:00:00Z", "2026-11-16t10:00:00.123z", "2026-02-28T23:59:59.9+01:30"]),
        st.integers(0, 26),
        st.integers(0, 2),
        st.text("0123456789-+:.,TtZz W٣\n", max_size=2),
    )
    @example("2026-11-16T10:00:00Z", 10, 1, " ")
    @example("2026-11-16T10:00:00.5Z", 20, 1, "")
    @example("2026-11-16T10:00:00.5Z", 19, 1, ",")
    def test_takes_exactly_the_grammar(self, text, at, length, put):
        """A text is read if and only if the grammar of RFC 3339 and the calendar allow it."""
        text = text[:at] + put + text[at + length :]
        assume(text[17:19] != "60")
        found = RFC3339.fullmatch(text)
        try:
            parse_rfc3339_ms(text)
            read = True
        except ValueError:
            read = False
        if found is None or not read:
            assert not read
            assert found is None or not _exists(*map(int, found.groups()[:3]))
        else:
            assert _exists(*map(int, found.groups()[:3]))

    def test_a_leap_second_is_the_next_second(self):
        """23:59:60 UTC, in any offset, is midnight; 60 anywhere else is refused."""
        assert ms("2016-12-31T23:59:60Z") == ms("2017-01-01T00:00:00Z")
        assert ms("2017-01-01T00:59:60.250+01:00") == ms("2017-01-01T00:00:00.250Z")
        with pytest.raises(ValueError, match="leap second only at 23:59:60 UTC"):
            ms("2016-12-31T22:59:60Z")

    @pytest.mark.parametrize(
        "text", ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59.9-00:01", "0000-01-01T00:00:00Z"]
    )
    def test_years_are_bounded(self, text):
        """An instant that could not be written again is refused."""
        with pytest.raises(ValueError, match="RFC 3339"):
            parse_rfc3339_ms(text)

    def test_edges_of_the_years(self):
        """The first and the last millisecond are read, and written the same."""
        for text in ("0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"):
            assert format_rfc3339(parse_rfc3339_ms(text)) == text

    def test_refusal_is_short_and_says_what_is_wrong(self):
        """A long text is cut; an impossible date says why."""
        with pytest.raises(ValueError, match=r"offset included") as caught:
            parse_rfc3339_ms("x" * 10_000)
        assert len(str(caught.value)) < 200
        with pytest.raises(ValueError, match="day is out of range"):
            parse_rfc3339_ms("2026-02-29T00:00:00Z")


def _exists(year: int, month: int, day: int) -> bool:
    try:
        datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        return False
    return True


class TestZones:
    ZONES = Zones(
        {name: ZoneInfo(name) for name in ZONES},
        {"ES": ("Europe/Madrid",), "US": ("America/New_York", "America/Havana"), "XX": ()},
        ("UTC", "Europe/Madrid"),
    )

    @pytest.mark.parametrize(
        ("timezone", "country", "expected"),
        [
            ("Asia/Kathmandu", "ES", ["Asia/Kathmandu"]),
            ("Mars/Olympus", "us", ["America/New_York", "America/Havana"]),
            (None, "ES", ["Europe/Madrid"]),
            (None, "XX", ["UTC", "Europe/Madrid"]),
            (None, "??", ["UTC", "Europe/Madrid"]),
            (None, None, ["UTC", "Europe/Madrid"]),
        ],
    )
    def test_zone_then_country_then_default(self, timezone, country, expected):
        """A known zone wins, else all of the country's, else the default ones."""
        assert [str(zone) for zone in self.ZONES.of(timezone, country)] == expected

    def test_unknown_names_and_no_default_are_refused(self):
        """What could not be looked up later is refused at once."""
        with pytest.raises(ValueError, match="ES: unknown time zone 'Madrid'"):
            Zones({"UTC": ZoneInfo("UTC")}, {"ES": ("Madrid",)}, ("UTC",))
        with pytest.raises(ValueError, match="default: unknown"):
            Zones({}, {}, ("UTC",))
        with pytest.raises(ValueError, match="no default"):
            Zones({}, {}, ())


class TestCalendarStart:
    @given(moments(), st.integers(1, 30))
    def test_days_begin_at_the_first_instant_of_their_date(self, moment, count):
        """The clock shows that date, and the millisecond before it shows another."""
        now_ms, tz = moment
        start_ms = calendar_start_ms(now_ms, "day", count, tz)
        day = wall(now_ms, tz).date() - timedelta(days=count - 1)
        assume(not (str(tz) == "Pacific/Apia" and day.isoformat() == "2011-12-30"))
        assert start_ms <= now_ms
        assert wall(start_ms, tz).date() == day
        assert wall(start_ms - 1, tz).date() != day

    @given(moments(), st.integers(1, 4), st.sampled_from(["week", "month"]), st.sampled_from([0, 6]))
    def test_weeks_and_months_begin_with_their_first_day(self, moment, count, unit, first_weekday):
        """A window of weeks or months starts where its first day starts."""
        now_ms, tz = moment
        start_ms = calendar_start_ms(now_ms, unit, count, tz, first_weekday)
        assert start_ms == calendar_start_ms(start_ms, "day", 1, tz) <= now_ms
        today, first = wall(now_ms, tz).date(), wall(start_ms, tz).date()
        assume(first.isoformat() != "2011-12-31")
        if unit == "month":
            months = (today.year - first.year) * 12 + today.month - first.month
            assert (first.day, months) == (1, count - 1)
        else:
            assert first.weekday() == first_weekday
            assert (count - 1) * 7 <= (today - first).days < count * 7

    @given(moments(), st.integers(1, 23))
    def test_hours_are_sixty_minutes_on_the_local_clock(self, moment, count):
        """The present hour began less than an hour ago, the others 60 minutes each before it."""
        now_ms, tz = moment
        start_ms = calendar_start_ms(now_ms, "hour", count, tz)
        assert (count - 1) * HOUR_MS <= now_ms - start_ms < count * HOUR_MS
        if not any(abs(now_ms - at) < 30 * HOUR_MS for at in CHANGES[str(tz)]):
            assert wall(start_ms, tz).minute == 0

    def test_days_of_23_25_hours_and_without_midnight(self):
        """Madrid's long and short Sundays; Santiago's day that begins at one."""
        sunday_evening = ms("2026-03-29T20:00:00Z")
        assert calendar_start_ms(sunday_evening, "day", 1, MADRID) == ms("2026-03-29T00:00:00+01:00")
        long_evening = ms("2026-10-25T20:00:00Z")
        assert calendar_start_ms(long_evening, "day", 1, MADRID) == ms("2026-10-25T00:00:00+02:00")
        santiago = ZoneInfo("America/Santiago")
        start_ms = calendar_start_ms(ms("2026-09-06T20:00:00Z"), "day", 1, santiago)
        assert (start_ms, wall(start_ms, santiago).hour) == (ms("2026-09-06T01:00:00-03:00"), 1)

    def test_eleven_at_night_and_midnight_are_two_days(self):
        """A day is the recipient's calendar day, not 24 hours."""
        late, early = ms("2026-11-16T23:00:00+01:00"), ms("2026-11-17T00:00:00+01:00")
        assert calendar_start_ms(early, "day", 1, MADRID) == early > late
        assert format_day(late, MADRID) == "2026-11-16"
        assert format_day(early, MADRID) == "2026-11-17"

    def test_a_window_of_nothing_is_refused(self):
        """A count below one has no start."""
        with pytest.raises(ValueError, match="at least 1"):
            calendar_start_ms(0, "day", 0, MADRID)


class TestQuietHours:
    @given(moments(), quiet_hours())
    def test_a_quiet_clock_is_quiet_and_the_end_is_not(self, moment, quiet):
        """A clock that shows a quiet minute is quiet; the end is later, and its clock is not."""
        now_ms, tz = moment
        until_ms = quiet_until_ms(quiet, now_ms, tz)
        if shows_quiet(quiet, wall(now_ms, tz)):
            assert until_ms is not None
        if until_ms is not None:
            assert until_ms > now_ms
            assert quiet_until_ms(quiet, until_ms, tz) is None
            assert not shows_quiet(quiet, wall(until_ms, tz))
            assert shows_quiet(quiet, wall(until_ms - 1, tz))

    @given(moments(), quiet_hours(), st.floats(0, 1, exclude_max=True))
    def test_the_end_is_the_same_all_through(self, moment, quiet, share):
        """Asked again before the end, the answer is the same end."""
        now_ms, tz = moment
        until_ms = quiet_until_ms(quiet, now_ms, tz)
        if until_ms is not None:
            later_ms = now_ms + int((until_ms - now_ms) * share)
            assert quiet_until_ms(quiet, later_ms, tz) == until_ms

    @given(moments(), quiet_hours())
    def test_away_from_clock_changes_only_a_quiet_clock_is_quiet(self, moment, quiet):
        """On ordinary days the wall clock alone decides."""
        now_ms, tz = moment
        if any(abs(now_ms - at) < 50 * HOUR_MS for at in CHANGES[str(tz)]):
            now_ms += 100 * HOUR_MS
        assert (quiet_until_ms(quiet, now_ms, tz) is not None) == shows_quiet(quiet, wall(now_ms, tz))

    def test_a_span_over_midnight_belongs_to_its_start_day(self):
        """Friday's night is quiet until Saturday morning, Thursday's and Saturday's are not."""
        quiet = QuietHours(22 * 60, 6 * 60, frozenset({4}))
        for at, until in [
            ("2026-11-20T23:00:00+01:00", "2026-11-21T06:00:00+01:00"),
            ("2026-11-21T05:30:00+01:00", "2026-11-21T06:00:00+01:00"),
        ]:
            assert quiet_until_ms(quiet, ms(at), MADRID) == ms(until)
        for at in ("2026-11-20T05:30:00+01:00", "2026-11-21T06:00:00+01:00", "2026-11-21T23:00:00+01:00"):
            assert quiet_until_ms(quiet, ms(at), MADRID) is None

    def test_a_quiet_weekend_ends_on_monday(self):
        """Whole days that touch end together."""
        quiet = QuietHours(0, 1440, frozenset({5, 6}))
        assert quiet_until_ms(quiet, ms("2026-11-21T12:00:00+01:00"), MADRID) == ms("2026-11-23T00:00:00+01:00")

    @pytest.mark.parametrize(
        ("span", "at", "until"),
        [
            # 2026-03-29 in Madrid jumps from 02:00 to 03:00; 2026-10-25 goes back from 03:00 to 02:00.
            ((22 * 60, 150), "2026-03-29T01:59:00+01:00", "2026-03-29T03:00:00+02:00"),
            ((150, 240), "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"),
            ((130, 170), "2026-03-29T03:10:00+02:00", None),
            ((22 * 60, 150), "2026-10-25T02:40:00+02:00", "2026-10-25T02:30:00+01:00"),
            ((150, 240), "2026-10-25T02:10:00+01:00", "2026-10-25T04:00:00+01:00"),
            ((60, 120), "2026-10-25T01:30:00+02:00", "2026-10-25T02:00:00+02:00"),
        ],
    )
    def test_the_clock_jumps_and_goes_back(self, span, at, until):
        """A skipped edge falls on the jump; of a repeated end the second counts, of a start the first."""
        expected = None if until is None else ms(until)
        assert quiet_until_ms(QuietHours(*span), ms(at), MADRID) == expected

    @pytest.mark.parametrize(
        ("start", "end", "days", "text"),
        [
            (-1, 60, None, "0 to 1440"),
            (1440, 60, None, "0 to 1440"),
            (0, 1441, None, "0 to 1440"),
            (60, 60, None, "whole day"),
            (0, 60, frozenset({7}), "6 .Sunday"),
            (0, 1440, None, "nothing could ever be sent"),
            (0, 1440, frozenset(range(7)), "nothing could ever be sent"),
        ],
    )
    def test_impossible_quiet_hours_are_refused(self, start, end, days, text):
        """Each refusal says what would be right."""
        with pytest.raises(ValueError, match=text):
            QuietHours(start, end, days)
