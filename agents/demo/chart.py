"""Curves drawn with braille dots, several in one plot."""

from __future__ import annotations

from collections.abc import Sequence

Line = list[tuple[str, int | None]]
"""Cells of one line from left to right, each with the curve it shows; None: none."""
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character (Unicode, "Braille Patterns") by row and column."""


def plot(curves: Sequence[Sequence[float]], width: int, height: int) -> list[Line]:
    """Curves on one scale, in `height` lines of `width` cells; later points to the right, all equally far apart.

    The scale begins at 0, or below where a curve does, and ends at the highest point. Where curves meet, the earlier
    one in `curves` is seen. A curve longer than the plot is wide is drawn by means of neighbouring points.
    """
    cells: dict[tuple[int, int], tuple[int, int]] = {}
    longest = max(map(len, curves), default=0)
    per = max(1, -(-longest // max(1, 2 * width)))
    squeezed = [_squeezed(each, per) for each in curves]
    low = min([0.0, *(each for curve in squeezed for each in curve)])
    high = max([0.0, *(each for curve in squeezed for each in curve)])
    span = high - low or 1.0
    for number, curve in reversed([*enumerate(squeezed)]):
        levels = [round((each - low) / span * (4 * height - 1)) for each in curve]
        for column, (level, before) in enumerate(zip(levels, [*levels[:1], *levels], strict=False)):
            for dot in range(min(level, before + 1), max(level, before - 1) + 1):
                _set(cells, column, 4 * height - 1 - dot, number)
    return [[_cell(cells.get((column, row))) for column in range(width)] for row in range(height)]


def _set(cells: dict[tuple[int, int], tuple[int, int]], column: int, row: int, number: int) -> None:
    """One dot; a cell shows one curve only, the last that is drawn there."""
    at = column // 2, row // 4
    bits, owner = cells.get(at, (0, number))
    cells[at] = (bits if owner == number else 0) | _DOTS[row % 4][column % 2], number


def _cell(cell: tuple[int, int] | None) -> tuple[str, int | None]:
    return (" ", None) if cell is None else (chr(0x2800 + cell[0]), cell[1])


def _squeezed(points: Sequence[float], per: int) -> list[float]:
    """Each point the mean of as many neighbours."""
    return [sum(points[at : at + per]) / len(points[at : at + per]) for at in range(0, len(points), per)]
