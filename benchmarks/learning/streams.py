"""Streams: classification data as contextual bandits with full information, without any estimator.

For each row a policy offers one class (arm) and is told only whether that was right: reward 1 or 0. The data are
those inside River's wheel, and generators of River's for more arms. The seed shuffles the rows, the same for all.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from river import datasets

from engine.features import Value

Vectors = npt.NDArray[np.float64]


class Stream(NamedTuple):
    """A classification set: `columns` names the entries of `rows`, `labels` are places in `arms`."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Value, ...]]
    labels: npt.NDArray[np.intp]
    arms: tuple[str, ...]


class Trial(NamedTuple):
    """One play of a stream, step by step, the same for every policy.

    `values`: each step's features as they come. `vectors`: the same as numbers for peers, see `encode`. `rewards`:
    steps by arms, what each arm would bring. `expected`: the same before chance had its say. `rows`: which row of
    the stream a step is. `delays_ms`: how long a reward of that step takes. `seed`: for whatever a policy draws.
    """

    columns: tuple[str, ...]
    categorical: frozenset[str]
    values: Sequence[tuple[Value, ...]]
    vectors: Vectors
    rewards: Vectors
    expected: Vectors
    rows: npt.NDArray[np.intp]
    delays_ms: npt.NDArray[np.int64]
    window_ms: int
    spacing_ms: int
    arms: tuple[str, ...]
    seed: int


HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SPACING_MS = HOUR_MS
"""Time between two rows."""
MEAN_DELAY_MS, WINDOW_MS = 2 * DAY_MS, 7 * DAY_MS
"""Of delayed rewards: exponential, and what has not come by the end of the window never comes."""


def trial(stream: Stream, seed: int, cap: int, *, delayed: bool = False) -> Trial:
    """At most `cap` rows in the order of a seed; delayed: rewards come days later, and 3 % of them never."""
    draw = np.random.default_rng((seed, *stream.name.encode()))
    order = draw.permutation(len(stream.rows))[:cap]
    delays = draw.exponential(MEAN_DELAY_MS, len(order)) if delayed else np.zeros(len(order))
    values = [stream.rows[each] for each in order]
    vectors, categorical = encode(stream.columns, values)
    rewards = np.zeros((len(order), len(stream.arms)))
    rewards[np.arange(len(order)), stream.labels[order]] = 1.0
    return Trial(
        columns=stream.columns,
        categorical=categorical,
        values=values,
        vectors=vectors,
        rewards=rewards,
        expected=rewards,
        rows=order,
        delays_ms=delays.astype(np.int64),
        window_ms=WINDOW_MS if delayed else 0,
        spacing_ms=SPACING_MS,
        arms=stream.arms,
        seed=seed,
    )


def encode(columns: Sequence[str], values: Sequence[Sequence[Value]]) -> tuple[Vectors, frozenset[str]]:
    """What peers get: numbers standardised by the rows up to each row, one-hot categories, and a constant 1.

    Also tells which columns are categorical. Standardising looks at no later row.
    """
    blocks, categorical = [], set()
    for name, column in zip(columns, zip(*values, strict=True), strict=True):
        if any(isinstance(each, str) for each in column):
            categorical.add(name)
            kinds = sorted({str(each) for each in column})
            blocks.append(np.array([[float(str(each) == kind) for kind in kinds] for each in column]))
        else:
            blocks.append(_standardised(np.array(column, dtype=np.float64))[:, None])
    return np.hstack([*blocks, np.ones((len(values), 1))]), frozenset(categorical)


def _standardised(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each number by mean and deviation of those up to it. A shift by the first one keeps the sums exact."""
    numbers = numbers - numbers[0]
    count = np.arange(1, len(numbers) + 1)
    mean = np.cumsum(numbers) / count
    deviation = np.sqrt(np.maximum(np.cumsum(numbers**2) / count - mean**2, 0.0))
    known = deviation > 1e-9
    return np.divide(numbers - mean, deviation, out=np.zeros_like(numbers), where=known)


# --- What River ships ---


def _classes(name: str, rows: Iterable[tuple[Mapping[str, Any], object]]) -> Stream:
    """A stream of River's rows; arms in the order of their names."""
    pairs = list(rows)
    columns = tuple(str(each) for each in pairs[0][0])
    arms = tuple(sorted({str(label) for _, label in pairs}))
    places = {arm: place for place, arm in enumerate(arms)}
    values = [tuple(each if isinstance(each, str) else float(each) for each in x.values()) for x, _ in pairs]
    return Stream(name, columns, values, np.array([places[str(label)] for _, label in pairs]), arms)


def _rows(name: str) -> Iterable[tuple[Mapping[str, Any], Any]]:
    """A set of River's that lies inside its wheel."""
    rows: Iterable[tuple[Mapping[str, Any], Any]] = getattr(datasets, name)()
    return rows


def _yeast() -> Stream:
    """The first of a gene's several labels, in the order of their numbers."""
    labelled = ((x, next((name for name, true in y.items() if true), "")) for x, y in _rows("Yeast"))
    return _classes("yeast", ((x, name) for x, name in labelled if name))


def _solar_flare() -> Stream:
    """How many flares of class C follow: none, one, several."""
    return _classes(
        "solar-flare",
        ((x, ("none", "one", "several")[min(y["c-class-flares"], 2)]) for x, y in _rows("SolarFlare")),
    )


def _generated(name: str, generator: Iterable[tuple[Mapping[str, Any], object]], rows: int = 6_000) -> Stream:
    return _classes(name, itertools.islice(iter(generator), rows))


STREAMS: Mapping[str, Callable[[], Stream]] = {
    "phishing": lambda: _classes("phishing", _rows("Phishing")),
    "bananas": lambda: _classes("bananas", _rows("Bananas")),
    "image-segments": lambda: _classes("image-segments", _rows("ImageSegments")),
    "shuttle": lambda: _classes("shuttle", _rows("Shuttle")),
    "yeast": _yeast,
    "solar-flare": _solar_flare,
    "waveform": lambda: _generated("waveform", datasets.synth.Waveform(seed=1)),
    "digits": lambda: _generated("digits", datasets.synth.LED(seed=1, noise_percentage=0.1, irrelevant_features=True)),
}
"""Full-information streams by name: six sets of River's and two of its generators, one with ten arms."""


def read_csv(path: Path) -> Stream:
    """A classification set of one's own: a heading, then rows whose last column is the class. ValueError otherwise."""
    with path.open(encoding="utf-8", newline="") as file:
        heading, *rows = [row for row in csv.reader(file) if row]
    if len(heading) < 2 or not rows or any(len(row) != len(heading) for row in rows):
        raise ValueError(f"{path}: expected a heading and rows of as many columns, two or more, the last the class")
    numeric = [all(_is_number(row[place]) for row in rows) for place in range(len(heading) - 1)]
    parsed = (
        (
            {name: float(cell) if number else cell for name, cell, number in zip(heading, row, numeric, strict=False)},
            row[-1],
        )
        for row in rows
    )
    return _classes(path.stem, parsed)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
