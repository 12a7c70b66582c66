from __future__ import annotations

from xml.etree import ElementTree as ET

from benchmarks import plots
from benchmarks.latencies import Latencies

SVG = "{http://www.w3.org/2000/svg}"


def test_every_curve_is_drawn_inside_the_frame():
    """One line per subject, rising from left to right, none of it outside."""
    curves = {"quick": Latencies.of(at / 1e5 for at in range(1, 500)), "slow & long": Latencies.of([0.001, 2.0])}
    drawn = ET.fromstring(plots.percentiles("Latency <here>", curves))
    lines = [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in drawn.iter(f"{SVG}polyline")
    ]
    assert len(lines) == 2
    for line in lines:
        assert all(0 <= x <= plots.WIDTH and 0 <= y <= plots.HEIGHT for x, y in line)
        assert [x for x, _ in line] == sorted(x for x, _ in line)
        assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    told = {text.text for text in drawn.iter(f"{SVG}text")}
    assert {"Latency <here>", "quick", "slow & long", "99.9 %"} <= told


def test_bars_are_as_long_as_their_numbers():
    """Half the number, half the bar."""
    drawn = ET.fromstring(plots.bars("Signals per second", {"one": 1000.0, "other": 500.0}))
    _, one, other = drawn.iter(f"{SVG}rect")
    assert float(one.get("width")) == 2 * float(other.get("width"))
