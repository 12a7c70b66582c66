"""Two kinds of picture as SVG text: distributions of latency, and bars. Nothing to install, and they show anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import floor, log10

from benchmarks.latencies import Latencies
from benchmarks.results import figure

WIDTH, HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 50
_COLOURS = ("#0b6e4f", "#c0392b", "#2471a3", "#b9770e", "#7d3c98", "#566573")
_BAR, _BAR_GAP, _LABELS = 26, 12, 130
_NINES = 3
"""How far the distribution is drawn: to 99.9 %."""
_STEPS = 20
"""Points per nine."""


def percentiles(title: str, curves: Mapping[str, Latencies]) -> str:
    """Milliseconds over percentile, one curve each; both axes are logarithmic, the lower one in nines."""
    shares = [1 - 10 ** (-step / _STEPS) for step in range(1, _NINES * _STEPS + 1)]
    lines = {name: [max(each.ms(share), 0.01) for share in shares] for name, each in curves.items()}
    seen = [value for line in lines.values() for value in line]
    bottom, top = floor(log10(min(seen))), floor(log10(max(seen))) + 1
    return _svg(title, [*_grid(bottom, top), *_curves(lines, bottom, top)], HEIGHT)


def _grid(bottom: int, top: int) -> Iterator[str]:
    for power in range(bottom, top + 1):
        y = _height(10.0**power, bottom, top)
        yield _line(_LEFT, y, WIDTH - _RIGHT, y)
        yield _text(_LEFT - 8, y + 4, f"{figure(10.0**power)} ms", "end")
    for nine, label in enumerate(("0 %", "90 %", "99 %", "99.9 %")):
        x = _LEFT + nine / _NINES * (WIDTH - _LEFT - _RIGHT)
        yield _line(x, _TOP, x, HEIGHT - _BOTTOM)
        yield _text(x, HEIGHT - _BOTTOM + 18, label, "middle")


def _curves(lines: Mapping[str, Sequence[float]], bottom: int, top: int) -> Iterator[str]:
    width = WIDTH - _LEFT - _RIGHT
    for number, (name, values) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(
            f"{_LEFT + step / len(values) * width:.1f},{_height(value, bottom, top):.1f}"
            for step, value in enumerate(values, 1)
        )
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield _text(_LEFT + 12, _TOP + 16 + 16 * number, name, "start", colour)


def _height(value: float, bottom: int, top: int) -> float:
    return HEIGHT - _BOTTOM - (log10(value) - bottom) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM)


def bars(title: str, values: Mapping[str, float]) -> str:
    """One bar each, with its number."""
    most = max(values.values())
    body = []
    for number, (name, value) in enumerate(values.items()):
        y = _TOP + number * (_BAR + _BAR_GAP)
        length, colour = value / most * (WIDTH - _LABELS - 90), _COLOURS[number % len(_COLOURS)]
        body += [
            _text(_LABELS - 8, y + _BAR - 8, name, "end"),
            f'<rect x="{_LABELS}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
            _text(_LABELS + length + 6, y + _BAR - 8, figure(value), "start"),
        ]
    return _svg(title, body, _TOP + len(values) * (_BAR + _BAR_GAP))


def _svg(title: str, body: Sequence[str], height: int) -> str:
    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
    back = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join(
        [
            f'<svg {box} font-family="sans-serif" font-size="12">',
            back,
            _text(_LEFT, 22, title, "start"),
            *body,
            "</svg>",
            "",
        ]
    )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
