"""Promotion: a challenger takes over when evidence against "it is no better" has grown large enough, at any time.

Testing by betting (Waudby-Smith & Ramdas 2023, "Estimating means of bounded random variables by betting", §4): on
every closed decision the challenger stakes a share of its wealth on its loss being lower than the champion's. If it
is no better, its wealth has no drift upwards, so that it ever exceeds 1 / alpha has a chance of at most alpha
(Ville 1939), however often one looks. With several challengers each has alpha divided by their number.

Bets are on log losses, whose range is made known, and narrow, by clipping: to a tenth of the base rate, so that rare
rewards can be told apart and frequent ones need no patience.

"No better" means: whatever happened before, its expected loss on the next decision is not lower. Decisions are those
the champion's choices led to, and both predict at the same moment with the same examples behind them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import msgspec

from models.health import CLIP, log_loss

ALPHA = 0.05
MOST_CLIP = 0.05
LEAST = 200
"""Closed decisions before a challenger may take over."""
STAKES = (0.05, 0.15, 0.45, 0.9)
"""Shares staked, side by side, since the best one depends on what is to be found."""
RENEW_EVERY = 1_000
"""Decisions after which a tenth of the reserve joins the game: a challenger that was worse until the world changed
has not lost everything."""


class Promotion(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A challenger became the champion, and the evidence for it.

    `mean_difference`: the former champion's loss less the challenger's, in nats, the last `RENEW_EVERY` or so of the
    `examples` decisions counting most. `e_value`: at least 1 / `alpha`, the challenger's share of `ALPHA`.
    """

    model: str
    from_learner: str = msgspec.field(name="from")
    to_learner: str = msgspec.field(name="to")
    examples: int
    mean_difference: float
    e_value: float
    alpha: float
    at_ms: int

    def __str__(self) -> str:
        return (
            f"model {self.model}: {self.to_learner} takes over from {self.from_learner}, log loss lately lower "
            f"by {self.mean_difference:.4f}, {self.examples} decisions, e-value {self.e_value:.1f} "
            f"at alpha {self.alpha:g}"
        )


class Bet(msgspec.Struct):
    """The wealth of one challenger that began with 1: in `stakes`, one for each of `STAKES`, and in `reserve`.

    `difference`: how much lower its losses are, on the mean, of late.
    """

    stakes: list[float] = msgspec.field(default_factory=lambda: [0.5 / len(STAKES)] * len(STAKES))
    reserve: float = 0.5
    examples: int = 0
    difference: float = 0.0

    @property
    def e_value(self) -> float:
        """The evidence that the challenger is better: its expectation is at most 1 when it is not."""
        return self.reserve + sum(self.stakes)

    def add(self, difference: float, most: float) -> None:
        """Take in the champion's loss less the challenger's on one decision, within ±`most`.

        `most` may depend on what was before this decision, and on nothing of the decision.
        """
        share = min(max(difference / most, -1.0), 1.0)
        self.stakes = [each * (1.0 + staked * share) for each, staked in zip(self.stakes, STAKES, strict=True)]
        self.examples += 1
        self.difference += (difference - self.difference) / min(self.examples, RENEW_EVERY)
        if self.examples % RENEW_EVERY == 0:
            moved = 0.1 * self.reserve
            self.reserve -= moved
            self.stakes = [each + moved / len(STAKES) for each in self.stakes]


class Contest:
    """One champion against its challengers, all judged on the same decisions."""

    def __init__(self, challengers: Collection[str], bets: Mapping[str, Bet] | None = None) -> None:
        known = bets or {}
        self.bets = {each: known.get(each) or Bet() for each in sorted(challengers)}
        self.alpha = ALPHA / max(1, len(self.bets))

    def add(self, champion: float, challengers: Mapping[str, float], base: float, reward: float) -> None:
        """Take in what was predicted of one decision, also by the base rate, and its reward.

        A challenger that had predicted nothing sits it out.
        """
        clip = min(max(min(base, 1.0 - base) / 10.0, CLIP), MOST_CLIP)
        most, loss = -math.log(clip), log_loss(champion, reward, clip)
        for name, predicted in challengers.items():
            self.bets[name].add(loss - log_loss(predicted, reward, clip), most)

    def winner(self) -> str | None:
        """The challenger to promote, that with the highest e-value; None while nothing is proven."""
        proven = [name for name, bet in self.bets.items() if bet.examples >= LEAST and bet.e_value >= 1.0 / self.alpha]
        return max(proven, key=lambda name: self.bets[name].e_value, default=None)
