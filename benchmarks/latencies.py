"""Latencies: a High Dynamic Range histogram, so that trials add up and the tail keeps three significant digits.

Source: Gil Tene, "How NOT to Measure Latency"; the library is HdrHistogram's own port.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from hdrh.histogram import HdrHistogram

_LONGEST_US = 600_000_000
_DIGITS = 3


class Latencies:
    """A distribution of latencies from 1 µs to 10 minutes; what is shorter or longer counts as that."""

    def __init__(self) -> None:
        self._histogram: Any = HdrHistogram(1, _LONGEST_US, _DIGITS)

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Latencies:
        """The distribution of these values."""
        made = cls()
        for each in seconds:
            made._histogram.record_value(min(max(round(each * 1e6), 1), _LONGEST_US))
        return made

    def add(self, other: Latencies) -> None:
        """Count what another one counted, too."""
        self._histogram.add(other._histogram)

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def ms(self, share: float) -> float:
        """The smallest of the values that `share` (0 to 1) of them do not exceed, in milliseconds: the nearest rank."""
        # The library rounds to the nearest rank, which in a small sample is one below.
        rank = max(1, math.ceil(share * len(self)))
        return float(self._histogram.get_value_at_percentile(100 * rank / len(self))) / 1000
