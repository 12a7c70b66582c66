"""Time zones: the IANA data of the `tzdata` package, read once, in the form the engine takes.

The package's data and never the machine's, so that every worker and every replay sees the same clocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

from engine.calendar import Zones

_DATA = resources.files("tzdata")


@cache
def all_zones() -> Mapping[str, ZoneInfo]:
    """Every IANA zone by name, links such as `US/Eastern` included."""
    zones = {}
    for name in (_DATA / "zones").read_text("utf-8").split():
        with _DATA.joinpath("zoneinfo", *name.split("/")).open("rb") as file:
            zones[name] = ZoneInfo.from_file(file, key=name)
    return zones


@cache
def zones_by_country() -> Mapping[str, tuple[str, ...]]:
    """Zones of each country by its ISO 3166-1 alpha-2 code (tz database, `zone.tab`)."""
    found = defaultdict(list)
    for line in (_DATA / "zoneinfo" / "zone.tab").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            country, _, zone, *_ = line.split("\t")
            found[country].append(zone)
    return {country: tuple(sorted(names)) for country, names in found.items()}


def zones_for(operating: Sequence[str]) -> Zones:
    """The zones of an engine that operates in `operating`; raises ValueError for an unknown name."""
    return Zones(all_zones(), zones_by_country(), tuple(operating))
