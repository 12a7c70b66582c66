"""The engine gets the world's time zones from the tzdata package."""

from __future__ import annotations

import pytest

from config.zones import all_zones, zones_by_country, zones_for


def test_zones_have_names_and_rules() -> None:
    """Canonical names and links are there, each a zone of that name."""
    zones = all_zones()
    assert {"UTC", "Europe/Madrid", "America/Argentina/Ushuaia", "US/Eastern"} <= zones.keys()
    assert all(zone.key == name for name, zone in zones.items())


def test_countries_have_zones() -> None:
    """A country of one zone, one of two, one of many; all of them exist."""
    countries = zones_by_country()
    assert countries["NL"] == ("Europe/Amsterdam",)
    assert set(countries["ES"]) == {"Europe/Madrid", "Africa/Ceuta", "Atlantic/Canary"}
    assert len(countries["US"]) > 20
    assert all(zone in all_zones() for names in countries.values() for zone in names)


def test_unknown_zones_are_those_of_the_engine() -> None:
    """A customer of whom nothing is known lives where the engine operates."""
    zones = zones_for(["Europe/Madrid", "Europe/Lisbon"])
    assert [str(zone) for zone in zones.of(None, None)] == ["Europe/Madrid", "Europe/Lisbon"]
    assert [str(zone) for zone in zones.of(None, "nl")] == ["Europe/Amsterdam"]


def test_a_zone_that_does_not_exist() -> None:
    """There is no engine in a zone nobody knows."""
    with pytest.raises(ValueError, match="Europe/Atlantis"):
        zones_for(["Europe/Atlantis"])
