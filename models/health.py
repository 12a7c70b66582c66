"""Health: how good the propensities were that a model gave before it learned what came of the decision.

Progressive validation with delayed labels (Gama, Sebastião & Rodrigues 2013, "On evaluating stream learning
algorithms"): a prediction is made when a decision is shown and judged when its window has closed. It is compared on
the same decisions with the base rate, the share of closed decisions that brought a reward up to when it was made,
and with the stated prior. Rewards may be fractional: losses are cross entropies with soft labels.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from river.drift import ADWIN

from models.learner import Vector
from models.snapshot import Status

CLIP = 1e-3
"""Propensities are judged within `CLIP` and 1 - `CLIP`, so that one decision costs `MOST_LOSS` at the most."""
MOST_LOSS = -math.log(CLIP)
WINDOW = 1_000
"""Closed decisions that are looked at."""
LEAST = 200
"""Closed decisions below which nothing is concluded."""
RECENT = 400
"""Closed decisions, at most, on which a model has to beat the base rate to be served again."""
CHECK_EVERY = 25
"""Closed decisions between two looks at the breaker."""
BINS = 10
MARGIN = 0.02
"""A model is worse than the base rate when its loss is higher by this share, and by `SURE` standard errors."""
SURE = 3.0
MISCALIBRATED = 0.25
"""A model is miscalibrated when its calibration error is above this share of the mean, beyond what chance explains."""


def log_loss(predicted: float, reward: float, clip: float = CLIP) -> float:
    """Cross entropy of a reward in [0, 1], in nats, from 0 to -ln(clip); predictions count within [clip, 1 - clip]."""
    p = min(max(predicted, clip), 1.0 - clip)
    return -reward * math.log(p) - (1.0 - reward) * math.log1p(-p)


class Judged(NamedTuple):
    """A closed decision: what the model, the base rate and the prior said, and its reward."""

    predicted: float
    base: float
    prior: float
    reward: float


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """What a window of `examples` closed decisions shows; None where there are too few to say.

    `lead`: mean loss above the base rate's, negative when the model is better; `lead_error`: its standard error.
    `auc`: of telling decisions with a reward from those without. `calibration_error`: mean difference between
    predicted and observed in `BINS` bins of equal count; `calibration_excess`: what chance does not explain of it,
    as a share of the mean.
    """

    examples: int = 0
    logloss: float | None = None
    base_logloss: float | None = None
    prior_logloss: float | None = None
    lead: float | None = None
    lead_error: float | None = None
    auc: float | None = None
    calibration_error: float | None = None
    calibration_excess: float | None = None


class Window:
    """The last `WINDOW` decisions judged of one learner."""

    def __init__(self, judged: Sequence[Judged] = ()) -> None:
        self._judged = deque(judged, WINDOW)

    def __len__(self) -> int:
        return len(self._judged)

    def add(self, judged: Judged) -> None:
        """Take in one more; the oldest goes."""
        self._judged.append(judged)

    def keep(self, latest: int) -> None:
        """Forget all but the latest so many."""
        self._judged = deque(list(self._judged)[max(0, len(self._judged) - latest) :], WINDOW)

    def dump(self) -> list[Judged]:
        """What to construct an equal window from."""
        return list(self._judged)

    def numbers(self, latest: int = WINDOW) -> Numbers:
        """What it shows, or its latest decisions show. Costs about 0.3 ms when full."""
        if not self._judged:
            return Numbers()
        predicted, base, prior, reward = np.array(self._judged)[-latest:].T
        loss, base_loss = _losses(predicted, reward), _losses(base, reward)
        error, excess = calibration(predicted, reward)
        return Numbers(
            examples=len(reward),
            logloss=float(loss.mean()),
            base_logloss=float(base_loss.mean()),
            prior_logloss=float(_losses(prior, reward).mean()),
            lead=float((loss - base_loss).mean()),
            lead_error=float((loss - base_loss).std(ddof=1) / math.sqrt(len(loss))) if len(loss) > 1 else None,
            auc=auc(predicted, reward > 0.0),
            calibration_error=error,
            calibration_excess=excess,
        )


def _losses(predicted: Vector, reward: Vector) -> Vector:
    p = np.clip(predicted, CLIP, 1.0 - CLIP)
    losses: Vector = -reward * np.log(p) - (1.0 - reward) * np.log1p(-p)
    return losses


def auc(predicted: Vector, positive: np.typing.NDArray[np.bool_]) -> float | None:
    """Chance that a positive one is ranked above a negative one, ties counting half (Mann & Whitney 1947).

    None unless there are both.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, place, count = np.unique(predicted, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[place]
    return float((rank[positive].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def calibration(predicted: Vector, reward: Vector) -> tuple[float, float]:
    """Calibration error, and how much of it chance does not explain as a share of the mean.

    Expected calibration error over bins of equal count (Nixon et al. 2019, "Measuring calibration in deep learning").
    In a bin of n rewards of variance v at most p (1 - p), a calibrated model errs by about sqrt(2 v / (π n)).
    """
    order = np.argsort(predicted, kind="stable")
    bins = max(1, min(BINS, len(order) // 20))
    error = chance = 0.0
    for members in np.array_split(order, bins):
        p = predicted[members]
        error += abs(float(p.mean() - reward[members].mean())) * len(members)
        chance += math.sqrt(2.0 / math.pi * float((p * (1.0 - p)).mean()) * len(members))
    error, chance = error / len(order), chance / len(order)
    mean = max(float(predicted.mean()), float(reward.mean()), CLIP)
    return error, max(0.0, error - chance) / mean


class BaseRate:
    """The rate of reward with the last `WINDOW` or so closed decisions counting most: what every model has to beat."""

    def __init__(self, rewards: float = 0.5, closed: float = 1.0) -> None:
        self.rewards = rewards
        self.closed = closed

    @property
    def rate(self) -> float:
        """In (0, 1); a half before anything was seen."""
        return self.rewards / self.closed

    def add(self, reward: float) -> None:
        """Count a closed decision."""
        keep = 1.0 - 1.0 / WINDOW
        self.rewards = self.rewards * keep + reward
        self.closed = self.closed * keep + 1.0


class Drift:
    """Whether losses have risen: ADWIN (Bifet & Gavaldà 2007) over the losses since the last change, `WINDOW` to
    twice as many of them, so that they are all there is to be stored. That losses fell is no alarm."""

    def __init__(self, losses: Sequence[float] = ()) -> None:
        self._start(losses)

    def add(self, loss: float) -> int:
        """Take in a loss, at most `MOST_LOSS`; for how many losses they have been higher, 0 while they are not.

        When losses have changed it begins anew.
        """
        if len(self._losses) == 2 * WINDOW:
            self._start(self._losses[-WINDOW:])
        self._losses.append(loss)
        self._update(loss)
        if not self._adwin.drift_detected:
            return 0
        rose = self._adwin.estimation * MOST_LOSS > sum(self._losses) / len(self._losses)
        latest = int(self._adwin.width) if rose else 0
        self._start(())
        return latest

    def dump(self) -> list[float]:
        """What to construct an equal one from."""
        return list(self._losses)

    def _start(self, losses: Sequence[float]) -> None:
        self._losses = list(losses)
        self._adwin = ADWIN()  # type: ignore[no-untyped-call] # River annotates few constructors
        for each in losses:
            self._update(each)

    def _update(self, loss: float) -> None:
        self._adwin.update(loss / MOST_LOSS)  # type: ignore[no-untyped-call] # as above


# --- The breaker ---


def fault(numbers: Numbers, *, drifted: bool) -> str | None:
    """What is wrong with a model that is worse than the base rate; None while nothing is.

    It has drifted lately, or it is miscalibrated; and by `LEAST` decisions or more its loss is higher than the base
    rate's, by `MARGIN` of that and by `SURE` standard errors.
    """
    if numbers.examples < LEAST or not _is_worse(numbers):
        return None
    excess = numbers.calibration_excess
    miscalibrated = excess is not None and excess > MISCALIBRATED
    return "drift" if drifted else "miscalibration" if miscalibrated else None


def has_recovered(numbers: Numbers) -> bool:
    """Whether a model may serve again: by `LEAST` decisions or more its loss is below the base rate's.

    By one standard error: between that and a fault lies what changes nothing.
    """
    if numbers.examples < LEAST or numbers.lead is None or numbers.lead_error is None:
        return False
    return numbers.lead < -numbers.lead_error


def is_behind_prior(numbers: Numbers) -> bool:
    """Whether the stated priors would have done better."""
    return numbers.logloss is not None and numbers.prior_logloss is not None and numbers.logloss > numbers.prior_logloss


def _is_worse(numbers: Numbers) -> bool:
    if numbers.lead is None or numbers.lead_error is None or numbers.base_logloss is None:
        return False
    return numbers.lead > max(MARGIN * numbers.base_logloss, SURE * numbers.lead_error)


# --- What is told ---


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The health of a model, for its metrics.

    `drift`: how often its losses rose. `unevaluated`: closed decisions that were not judged. `e_values`: evidence
    for each challenger to be better than the champion.
    """

    model: str
    champion: str
    status: Status
    numbers: Numbers
    drift: int
    unevaluated: int
    e_values: Mapping[str, float]


class Drifted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The losses of the champion rose."""

    model: str
    learner: str
    numbers: Numbers
    at_ms: int

    def __str__(self) -> str:
        return f"model {self.model}: the losses of {self.learner} rose, {_figures(self.numbers)}"


class Tripped(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The champion is worse than the base rate; `status`: "serving" when the priors are worse still."""

    model: str
    learner: str
    why: str
    status: Status
    numbers: Numbers
    at_ms: int

    def __str__(self) -> str:
        until = "priors are served" if self.status == "tripped" else "it serves on, since the priors are worse still,"
        return (
            f"model {self.model}: {self.learner} is worse than the base rate after {self.why}, "
            f"{_figures(self.numbers)}; {until} until it or a replacement trained from here beats the base rate: "
            f"look at its features and outcomes"
        )


class Recovered(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The champion, or the `replacement` trained in its stead, beats the base rate again."""

    model: str
    learner: str
    replacement: bool
    numbers: Numbers
    at_ms: int

    def __str__(self) -> str:
        who = "the replacement of " if self.replacement else ""
        return f"model {self.model}: {who}{self.learner} beats the base rate and serves, {_figures(self.numbers)}"


def _figures(numbers: Numbers) -> str:
    if numbers.logloss is None or numbers.base_logloss is None:
        return "no decision judged yet"
    return f"log loss {numbers.logloss:.4f}, base rate {numbers.base_logloss:.4f} over {numbers.examples} decisions"
