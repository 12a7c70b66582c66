"""Bayesian linear models of all arms: what an action's reward depends on, and how sure that is.

See `BayesianLinear`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np

from engine.exploration import Link
from models.collapsed import FORMAT, Bound, Exported, Rule, encode, pack
from models.expansion import Waves, draw
from models.gaussian import Beliefs, Generation, Rows, Stack, means, noises
from models.learner import Arm, Observation, Posterior, Vector
from models.scaling import Matrix, Scaling
from models.tree import ACTION, LEVELS, Tree, lineage

LEAST_VARIANCE = 0.02
"""On the log odds scale p(1 - p) is held above it, so that no single surprise moves a mean without bound."""
NEGLIGIBLE = 1e-3
"""Experts below this weight are left out of what is served."""
LEAST_WEIGHT = 1e-12
FEW_SLOTS = 10
"""Up to so many slots the prior of a slope is as configured; with more it is stricter in proportion, so that all
together allow for no more variance."""
ALONE = 1e9
"""Precision of a prior that nothing moves."""
WARM_UP = 100
"""Observations before random features are drawn, by when the scale of the slots is known."""
CURVED = 0.1
"""Weight an expert of curves starts with."""
WAVE_PRECISION = 0.3
"""Of the priors of its random features, in units of the noise."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class View(NamedTuple):
    """What the experts of one stack believe of one observation: of the nodes `rows`, the last of which is its arm's.

    `mean` n by h on the scale of the link, less the offset; `along` (Sx) n by h by d, `share` (x'Sx) n by h; `noise`
    h, of the arm.
    """

    stack: Stack
    rows: Rows
    x: Vector
    beliefs: Beliefs
    mean: Matrix
    along: Matrix
    share: Matrix
    noise: Vector


class BayesianLinear:
    """Gaussian posteriors with full covariance for each arm, its action, group and all actions (see `gaussian`).

    A mean is the prior plus `w·x`, on the scale of `link`: for `identity`, recursive least squares on rewards, with
    the noise estimated online; for `logit`, the online Laplace approximation of logistic regression (the extended
    Kalman filter), whose rewards can be replaced as well. Several experts run side by side:

    * without a discount, one for each of `precisions`, those of the priors of slopes in units of the noise;
    * with discounts, one for each of `half_lives` after the first, in observations of the model (0: no discount);
    * with `pooled`, one whose actions start from the slopes of their group and of all actions; for the others only
      levels and what depends on the action's own features carry over from action to action;
    * with `expansion` random features, one of curves (see `expansion`), from `WARM_UP` observations on.

    Their weights follow their predictive likelihood, which counts `memory` less per observation (dynamic model
    averaging, Raftery, Kárný and Ettler 2010): a stream that stands still loses nothing and one that moves is followed.

    `rule`: `thompson` exports standard deviations times `exploration`; `ucb` adds them to the mean instead and
    exports none (LinUCB, Li et al. 2010). `level_precision`: as `precisions`, of levels. `max_arms`: nodes kept.
    `scaled`: slots are standardised as they come (see `scaling`); what was learned is carried over to each scale.
    """

    kind: ClassVar[str] = "bayesian-linear"
    corrigible: ClassVar[bool] = True
    pickled: ClassVar[bool] = False

    def __init__(
        self,
        slots: Sequence[str],
        action_slots: Sequence[str],
        seed: int = 0,
        *,
        link: Link = "identity",
        rule: Rule = "thompson",
        exploration: float = 0.2,
        half_lives: Sequence[float] = (0, 300),
        pooled: bool = True,
        expansion: int = 64,
        precisions: Sequence[float] = (1, 8),
        level_precision: float = 1.0,
        memory: float = 0.99,
        max_arms: int = 2000,
        scaled: bool = True,
    ) -> None:
        self._slots, self._action_slots, self._seed = tuple(slots), tuple(action_slots), seed
        self._link, self._rule, self._exploration = link, rule, exploration
        self._expansion, self._memory = expansion, memory
        self._tree = Tree(max_arms)
        self._scaling = Scaling(len(slots) + len(action_slots), scaled)
        lives = [half_lives[0]] * len(precisions) + [*half_lives[1:]] + [half_lives[0]] * pooled
        many = max(1.0, (len(slots) + len(action_slots)) / FEW_SLOTS)
        strict = [many * each for each in precisions] + [many * max(precisions)] * (len(lives) - len(precisions))
        own = np.tile(np.array(strict, dtype=float)[:, None], (LEVELS, 1, 1 + len(slots) + len(action_slots)))
        own[..., 0] = level_precision
        own[:ACTION, : len(lives) - pooled, 1 : 1 + len(slots)] = ALONE
        self._stacks = [Stack(own, np.array([0.5 ** (1 / each) if each else 1.0 for each in lives]))]
        self._weights = np.full(len(lives), 1 / len(lives))
        # The least strict of equals is the most unsure: its covariance is served for all, so that none stops exploring.
        easiest = int(np.argmin(strict[: len(precisions)]))
        self._lenders = [easiest if life == half_lives[0] else n for n, life in enumerate(lives)]
        self._waves = Waves(len(slots))
        self._clock = 0
        self._drawn_at = WARM_UP
        self._spread = 0.0

    # --- Learning ---

    def learn(self, seen: Observation) -> None:
        """Learn from one observation."""
        raw = np.concatenate([seen.x, seen.action_x])
        self._clock += 1
        self._spread += seen.prior * (1 - seen.prior)
        change = self._scaling.observe(raw)
        if change is not None:
            self._rebase(change)
        if self._expansion and self._clock == self._drawn_at:
            self._draw(seen.at_ms)
        for place in self._tree.settle(seen.arm):
            for stack in self._stacks:
                stack.reset(place.row, place.level, self._clock)
        views = self._views(seen)
        for view in views:
            self._fold(view, seen)
        self._weigh(self._weights**self._memory, self._likelihoods(views, seen.prior, seen.reward))

    def correct(self, seen: Observation, before: float) -> None:
        """Replace the reward `before`, learned with an otherwise equal observation, by `seen.reward`.

        Exactly, for an expert without discount, unless a slot was clipped or had no scale when it was learned. For
        one with a discount the reward ages from its correction on, so that delays alone do not lower its level. The
        experts' weights are corrected by what they believe today.
        """
        views = self._views(seen)
        for view in views[: 1 + (seen.at_ms >= self._waves.from_ms)]:
            view.beliefs.pull[:] += (seen.reward - before) * view.x
            view.beliefs.squares[:] += (seen.reward - seen.prior) ** 2 - (before - seen.prior) ** 2
            view.stack.write(view.rows, view.beliefs, self._clock)
        if views:
            after, then = (self._likelihoods(views, seen.prior, each) for each in (seen.reward, before))
            self._weigh(self._weights, after - then)

    def _rebase(self, change: Matrix) -> None:
        for stack in self._stacks:
            whole = np.eye(stack.width)
            whole[: len(change), : len(change)] = change
            stack.rebase(whole)

    def _draw(self, at_ms: int) -> None:
        """Start the expert of curves, on random features of the slots at the scale in force."""
        n = len(self._slots)
        self._waves = draw(self._scaling.center[:n], self._scaling.inverse[:n], self._expansion, self._seed, at_ms)
        self._stacks.append(self._curved())
        for arm, row in self._tree.rows.items():
            self._stacks[1].reset(row, lineage(arm)[-1][0], self._clock)
        self._weights = np.append(self._weights * (1 - CURVED), CURVED)

    def _curved(self) -> Stack:
        straight = self._stacks[0]
        own = np.full((LEVELS, 1, straight.width + self._expansion), WAVE_PRECISION)
        own[..., : straight.width] = straight.precision[:, :1]
        own[:ACTION] = ALONE
        return Stack(own, straight.decays[:1])

    def _views(self, seen: Observation) -> list[View]:
        """One per stack that knows the arm or relatives: curves are known of actions and treatments only."""
        raw = np.concatenate([seen.x, seen.action_x])
        line = self._tree.known(seen.arm)
        straight = np.concatenate([[1.0], self._scaling.apply(raw)])
        views = [self._view(self._stacks[0], line, straight)] if line else []
        if len(line) > ACTION and len(self._stacks) > 1:
            curved = np.concatenate([straight, self._waves.expand(seen.x)])
            views.append(self._view(self._stacks[1], line[ACTION:], curved))
        return views

    def _view(self, stack: Stack, relatives: list[Arm], x: Vector) -> View:
        rows = np.array([self._tree.rows[each] for each in relatives], dtype=np.intp)
        line = self._tree.descent(relatives)
        beliefs = stack.read(rows, self._clock)
        lent = stack.prior(rows, beliefs)
        weights, starts = means(beliefs, lent, line)
        along = beliefs.cov @ x
        noise = self._noises(beliefs, lent, weights, starts, line)[-1]
        return View(stack, rows, x, beliefs, weights @ x, along, along @ x, noise)

    def _noises(
        self, beliefs: Beliefs, lent: Matrix, weights: Matrix, starts: Matrix, line: Sequence[Generation]
    ) -> Matrix:
        if self._link == "logit":
            return np.ones_like(beliefs.rest)
        return noises(beliefs, lent, weights, starts, self._spread / self._clock if self._clock else 0.25, line)

    def _fold(self, view: View, seen: Observation) -> None:
        """One observation more for the nodes of a view (Sherman and Morrison 1950)."""
        beliefs, mean = view.beliefs, view.mean
        if self._link == "identity":
            weight, target = np.ones_like(mean), np.full_like(mean, seen.reward - seen.prior)
        else:
            chance = _chance(mean + _log_odds(seen.prior))
            weight = np.maximum(chance * (1 - chance), LEAST_VARIANCE)
            target = mean + (seen.reward - chance) / weight
        along = view.along / np.sqrt(1 / weight + view.share)[..., None]
        beliefs.cov[:] -= along[..., None] * along[..., None, :]
        beliefs.pull[:] += (weight * target)[..., None] * view.x
        beliefs.squares[:] += weight * target**2
        beliefs.mass[:] += weight
        view.stack.write(view.rows, beliefs, self._clock)

    def _weigh(self, before: Vector, likely: Vector) -> None:
        raised = np.log(np.maximum(before, LEAST_WEIGHT)) + likely
        shares = np.exp(raised - raised.max())
        self._weights = shares / shares.sum()

    def _joined(self, parts: list[Vector]) -> Vector:
        """What each expert says; one of curves that knows nothing of an arm says what the first expert says."""
        said = np.concatenate(parts)
        return said if len(said) == len(self._weights) else np.append(said, said[0])

    def _likelihoods(self, views: list[View], prior: float, reward: float) -> Vector:
        """Of a reward, by expert: logarithms, up to a constant."""
        mean = self._joined([view.mean[-1] for view in views])
        share, noise = self._joined([view.share[-1] for view in views]), self._joined([view.noise for view in views])
        if self._link == "identity":
            variance = noise * (1 + share)
            likely: Vector = -0.5 * (np.log(variance) + (reward - prior - mean) ** 2 / variance)
            return likely
        chance = np.clip(_chance((mean + _log_odds(prior)) / np.sqrt(1 + np.pi / 8 * share)), 1e-6, 1 - 1e-6)
        entropy: Vector = reward * np.log(chance) + (1 - reward) * np.log(1 - chance)
        return entropy

    def predict(self, seen: Observation) -> float:
        """Expected reward in [0, 1], whatever `seen.reward` says; pure, and works before anything was learned."""
        views = self._views(seen)
        total = float(self._served() @ self._joined([view.mean[-1] for view in views])) if views else 0.0
        if self._link == "identity":
            return min(max(seen.prior + total, 0.0), 1.0)
        return float(_chance(np.array(total + _log_odds(seen.prior))))

    def _served(self) -> Vector:
        """The experts' weights without the negligible ones."""
        kept = np.where(self._weights >= NEGLIGIBLE, self._weights, 0)
        shares: Vector = kept / kept.sum()
        return shares

    # --- Keeping ---

    def dump(self) -> bytes:
        """Everything it knows, for `load`."""
        told = {
            "slots": self._slots,
            "action_slots": self._action_slots,
            "clock": self._clock,
            "drawn_at": self._drawn_at,
            "spread": self._spread,
            "weights": self._weights.tolist(),
            "tree": self._tree.dump(),
            "scaling": self._scaling.dump(),
            "stacks": [stack.dump() for stack in self._stacks],
            "waves": self._waves.dump(),
        }
        return _encoder.encode({"kind": self.kind, **told})

    def load(self, data: bytes) -> None:
        """Become what was dumped; see `learner.Learner`. Curves start anew when the customer's slots changed."""
        try:
            self._take(_decoder.decode(data))
        except (msgspec.MsgspecError, KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"not the dump of a {self.kind} learner with these parameters: {error!r}") from error

    def _take(self, told: dict[str, Any]) -> None:
        experts = len(self._stacks[0].decays) + len(told["stacks"]) - 1
        if told["kind"] != self.kind or len(told["weights"]) != experts:
            raise ValueError(
                f"kind {told['kind']!r} of {len(told['weights'])} experts, expected {self.kind!r} of {experts}"
            )
        then = [*told["slots"], *("\0" + each for each in told["action_slots"])]
        own = [*self._slots, *("\0" + each for each in self._action_slots)]
        kept = np.array([then.index(each) if each in then else -1 for each in own], dtype=np.intp)
        columns = np.concatenate([[0], np.where(kept >= 0, kept + 1, -1)])
        self._tree.load(told["tree"])
        self._scaling.load(told["scaling"], kept)
        self._stacks[0].load(told["stacks"][0], columns)
        self._clock, self._spread, self._drawn_at = told["clock"], told["spread"], told["drawn_at"]
        self._weights = np.array(told["weights"])
        if len(told["stacks"]) == 1:
            return
        if tuple(told["slots"]) == self._slots:
            self._waves.load(told["waves"])
            self._stacks = [self._stacks[0], self._curved()]
            waves = 1 + len(then) + np.arange(self._expansion)
            self._stacks[1].load(told["stacks"][1], np.concatenate([columns, waves]))
        else:
            self._weights = self._weights[:-1] / self._weights[:-1].sum()
            self._drawn_at = self._clock + WARM_UP

    # --- Serving ---

    def export(self) -> bytes:
        """The experts collapsed into one: weighted means and covariances; curves borrow those of straight lines."""
        rows, line = self._tree.everything()
        served = self._served()
        h = len(self._stacks[0].decays)
        stacks = [(self._stacks[0], served[:h]), *((each, served[h:]) for each in self._stacks[1:] if served[h:].any())]
        straight = self._stacks[0].read(rows, self._clock).cov[:, self._lenders]
        weights = np.zeros((len(rows), stacks[-1][0].width))
        covariances, noise = np.zeros((len(rows), *straight.shape[2:])), np.zeros(len(rows))
        above = self._tree.levels() < ACTION
        first: Matrix | None = None
        for stack, shares in stacks:
            beliefs = stack.read(rows, self._clock)
            lent = stack.prior(rows, beliefs)
            own, starts = means(beliefs, lent, line)
            noisy = self._noises(beliefs, lent, own, starts, line)
            if first is None:
                first, first_noisy = own[above, :1], noisy[above, :1]
            else:  # curves are known of actions and treatments only
                own[above, :, : first.shape[2]], noisy[above] = first, first_noisy
            unsure = shares * noisy
            weights[:, : stack.width] += np.einsum("h,nhd->nd", shares, own)
            covariances += np.einsum("nh,nhij->nij", unsure, straight[:, : len(shares)])
            noise += unsure.sum(1)
        priors = served[:h] + (np.arange(h) == 0) * served[h:].sum()
        told = Exported(
            format=FORMAT,
            link=self._link,
            rule=self._rule,
            exploration=self._exploration,
            slots=self._slots,
            action_slots=self._action_slots,
            scaled=self._scaling.adapts,
            center=self._scaling.center.tobytes(),
            inverse=self._scaling.inverse.tobytes(),
            waves=self._waves.dump() if len(stacks) > 1 else Waves(len(self._slots)).dump(),
            arms=[(arm.group, arm.action, arm.treatment) for arm in self._tree.rows],
            weights=weights.tobytes(),
            covariances=pack(covariances).tobytes(),
            variances=np.einsum("h,lhd->ld", priors, 1 / self._stacks[0].precision).tobytes(),
            noises=noise.tobytes(),
        )
        return encode(told)

    @classmethod
    def posterior(
        cls, exported: bytes, slots: Sequence[str], arms: Sequence[Arm], action_x: Matrix, priors: Vector
    ) -> Posterior:
        """Bind what was exported to candidates; see `learner.Learner`."""
        return Bound(exported, slots, arms, action_x, priors)


def _chance(log_odds: Matrix) -> Matrix:
    chance: Matrix = 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
    return chance


def _log_odds(chance: float) -> float:
    return math.log(chance / (1 - chance))
