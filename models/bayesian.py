"""Bayesian linear models of all arms: what an action's reward depends on, and how sure that is.

See `BayesianLinear`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import msgspec
import numpy as np

from models.collapsed import FORMAT, Bound, Exported, Rule, encode, limits, pack
from models.expansion import draw
from models.gaussian import Matrix, Rows, Stack
from models.learner import Arm, Observation, Posterior, Vector
from models.scaling import Scaling, scale
from models.tree import Tree

NEGLIGIBLE = 0.005
"""Experts below this weight are left out of what is predicted and served."""
WIDEST = 64
"""Slots up to which waves are drawn: among more, straight lines have enough to go by."""
STRANGERS = 100.0
"""Observations of relatives by which half of what is known of them is believed of one of them that is not known."""
SETTLING = 0.05
"""Weight of the latest answer in how many decisions of its arm it was late."""
PATIENT = 2.0
"""How many such lags a half-life must have."""
MOST_OPEN = 0.5
"""Share of observations whose reward is provisional up to which curves are trusted: they bend to whatever was credited
where decisions were made last."""
RECENT = 256
"""Decisions of an arm whose times are kept, to tell how far one that is corrected has been forgotten."""
FIRST, GROWTH = 50, 1.2
"""Observations at which precisions are estimated first, and by how many times as many before each next time."""
STATED, ALIKE = 4.0, 2.0
"""Weights the stated precision counts for beside those of all slots, and that of all slots beside those of one."""
LEAST_PRECISION, MOST_PRECISION = 0.5, 300.0
LEAST_NOISE = 0.05
"""Noise by which exploration takes itself to be unsure, at least: whoever was always right has not seen it all."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class BayesianLinear:
    """A Gaussian posterior with full covariance for each arm, by recursive least squares on rewards.

    The mean of a reward is an offset plus `w·x`. The offset is the stated prior, scaled by what arms on average
    brought over what their priors promised (each smoothed by `starting_evidence` rewards), so that nobody's guess has
    to be right. An arm nobody has seen starts from its relatives: from what is known of its action, its group, all
    actions. Among arms that are known nothing is shared: what is chosen in a situation is what does well in it, and
    would be a flattering prior for all else.

    Several experts run side by side and are weighed by their discounted predictive likelihood (dynamic model
    averaging, Raftery, Kárný and Ettler 2010): one that forgets nothing, one for each of the `half_lives` (in
    observations of the arm), so that a stream that moves is followed and one that stands still loses nothing; and,
    for up to 64 slots, one with `expansion` waves, for curves (`models.expansion`). `memory`: discount of the
    likelihood. `patience`: log odds against all but the first; those that forget faster than answers come have
    no say, nor have waves while most rewards are provisional.

    `rule`: `thompson` exports standard deviations times `exploration`; `ucb` adds them to the mean instead and
    exports none (LinUCB, Li et al. 2010). `precision`, `intercept_precision`: of the priors of weights, in units of
    the noise, which is estimated. With `relevance`, `precision` is what is expected: how much each slot matters, and
    how much waves do, is learned from the weights of all arms, for the experts that forget nothing (automatic
    relevance determination: MacKay 1992, "Bayesian interpolation"; Tipping 2001). `max_arms`: arms, actions and
    groups kept.
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
        rule: Rule = "thompson",
        exploration: float = 0.25,
        half_lives: Sequence[float] = (34,),
        expansion: int = 64,
        precision: float = 4.0,
        intercept_precision: float = 4.0,
        starting_evidence: float = 1.0,
        memory: float = 0.995,
        patience: float = 3.0,
        relevance: bool = True,
        max_arms: int = 2000,
    ) -> None:
        if rule not in get_args(Rule) or min(half_lives, default=1) < 1 or not 0 < memory <= 1:
            raise ValueError(
                f"rule {rule!r} must be one of {get_args(Rule)}, half_lives {half_lives} 1 or more,"
                f" memory {memory} in (0, 1]"
            )
        if min(precision, intercept_precision, starting_evidence) <= 0:
            raise ValueError(
                f"precision {precision}, intercept_precision {intercept_precision} and starting_evidence"
                f" {starting_evidence} must be above 0"
            )
        self._slots, self._action_slots = tuple(slots), tuple(action_slots)
        self._rule, self._exploration, self._memory = rule, exploration, memory
        self._tree, self._scaling = Tree(max_arms), Scaling(len(slots) + len(action_slots))
        straight = np.full(1 + len(slots) + len(action_slots), precision)
        straight[0] = intercept_precision
        decays = [1.0, *(0.5 ** (1 / each) for each in half_lives)]
        self._stacks = [Stack(straight, decay) for decay in decays]
        self._seed, self._expansion = seed, expansion if 0 < len(slots) <= WIDEST else 0
        self._waves = draw(len(slots), self._expansion, seed) if self._expansion else None
        if self._waves is not None:
            self._stacks.append(Stack(np.append(straight, np.full(expansion, precision)), 1.0))
        self._relatives = Stack(straight, 1.0)
        against = [0.0, *([-patience] * (len(self._stacks) - 1))]
        self._bias, self._log_weights = np.array(against), np.array(against)
        self._precision, self._relevance = precision, relevance
        self._evidence, self._kept, self._ratios = starting_evidence, dict[Arm, tuple[float, float]](), 0.0
        self._observations, self._open, self._estimate_at = 0, 0, FIRST
        self._times: dict[Arm, list[int]] = {}
        self._spans = np.array([np.inf, *half_lives, *([np.inf] * (self._waves is not None))])
        self._lag = np.inf

    # --- Learning ---

    def learn(self, seen: Observation) -> None:
        """Learn from one observation."""
        raw = np.concatenate([seen.x, seen.action_x])
        self._scaling.observe(raw)
        features = self._features(raw)
        offset, row = self._offset(seen.prior), self._settle(seen.arm, seen.prior)
        log_likelihoods = []
        for stack, x in zip(self._stacks, features, strict=True):
            mean, share = stack.look(row, x, offset)
            log_likelihoods.append(stack.surprise(seen.reward - mean, share))
            stack.learn(np.array([row]), x, seen.reward)
        self._relatives.learn(self._above(seen.arm), features[0], seen.reward)
        self._log_weights = self._memory * self._log_weights + (1.0 - self._memory) * self._bias + log_likelihoods
        self._log_weights -= self._log_weights.max()
        if not seen.provisional:
            self._note_lag(0)
        self._keep(seen.arm, seen.reward, seen.prior)
        times = self._times.setdefault(seen.arm, [])
        times.insert(bisect_right(times, seen.at_ms), seen.at_ms)
        del times[:-RECENT]
        self._observations += 1
        self._open += seen.provisional
        if self._relevance and self._observations >= self._estimate_at:
            self._estimate_at = int(self._observations * GROWTH) + 1
            self._estimate_precisions()

    def correct(self, seen: Observation, before: float) -> None:
        """Replace the reward `before`, learned with an otherwise equal observation, by `seen.reward`.

        Exact for what does not forget; what does, has forgotten the observation as far as its time says.
        """
        self._open -= seen.provisional
        row = self._tree.rows.get(seen.arm)
        if row is None:
            return
        features, change = self._features(np.concatenate([seen.x, seen.action_x])), seen.reward - before
        offset, times = self._offset(seen.prior), self._times.get(seen.arm, [])
        since = len(times) - bisect_right(times, seen.at_ms)
        self._note_lag(since)
        for place, (stack, x) in enumerate(zip(self._stacks, features, strict=True)):
            mean, share = stack.look_without(row, x, offset, before)
            errors = (seen.reward - mean) ** 2 - (before - mean) ** 2
            self._log_weights[place] -= 0.5 * errors / (stack.noise * (1.0 + share))
            stack.error = max(stack.error + errors / (1.0 + share), 0.0)
            stack.pull[row] += stack.decay**since * change * x
        self._log_weights -= self._log_weights.max()
        self._relatives.pull[self._above(seen.arm)] += change * features[0]
        self._keep(seen.arm, change, 0.0)

    def _keep(self, arm: Arm, earned: float, promised: float) -> None:
        """What an arm brought and what its priors had promised."""
        before = self._kept.get(arm)
        now = self._kept[arm] = (earned + before[0], promised + before[1]) if before else (earned, promised)
        self._ratios += self._ratio_of(now) - (self._ratio_of(before) if before else 0.0)

    def _ratio_of(self, kept: tuple[float, float]) -> float:
        return (self._evidence + kept[0]) / (self._evidence + kept[1])

    def _estimate_precisions(self) -> None:
        """From how large weights turned out: for all slots, then for each, towards that of all; for all waves."""
        leaves = self._leaves()
        rows = np.array([self._tree.rows[each] for each in leaves], dtype=np.intp)
        promised = np.array([self._kept[each][1] for each in leaves]) / self._stacks[0].sums[rows, 0]
        offsets = np.minimum(promised * self._ratio(), 1.0)
        straight = len(self._relatives.precision)
        for stack in self._stacks:
            if stack.decay < 1.0:
                continue
            settled, squares = stack.relevance(rows, offsets)
            precision = stack.precision.copy()
            for first, end in ((1, straight), (straight, len(precision))):
                of = slice(first, end)
                usual = (settled[of].sum() + STATED) / (squares[of].sum() + STATED / self._precision)
                each = (settled[of] + ALIKE) / (squares[of] + ALIKE / usual)
                precision[of] = np.clip(each if first == 1 else usual, LEAST_PRECISION, MOST_PRECISION)
            stack.tighten(rows, precision)

    def _note_lag(self, since: int) -> None:
        """An answer came so many decisions of its arm later."""
        self._lag = since if self._lag == np.inf else self._lag + SETTLING * (since - self._lag)

    def _settle(self, arm: Arm, prior: float) -> int:
        """The arm's row; one that is not known starts from its closest relative."""
        if arm not in self._tree.rows:
            start = self._start(arm, prior)
            for place in self._tree.settle(arm):
                if place.node != arm:
                    self._relatives.reset(place.row, start)
                    continue
                self._times.pop(arm, None)
                for stack in self._stacks:
                    stack.reset(place.row, np.append(start, np.zeros(len(stack.precision) - len(start))))
            self._times = {each: times for each, times in self._times.items() if each in self._tree.rows}
            if len(self._kept) > len(self._times):
                self._kept = {each: kept for each, kept in self._kept.items() if each in self._times}
                self._ratios = sum(map(self._ratio_of, self._kept.values()))
        else:
            self._tree.settle(arm)
        return self._tree.rows[arm]

    def _start(self, arm: Arm, prior: float) -> Vector:
        """What is known of the closest relative."""
        nearest = self._tree.nearest(arm)
        if nearest is None:
            return np.zeros(len(self._relatives.precision))
        rows, offset, known = np.array([self._tree.rows[nearest]]), self._offset(prior), self._relatives
        pull, sums = (_along(known, rows, each)[0] for each in (known.pull, known.sums))
        weights: Vector = _trust(known, rows)[0] * (pull - offset * sums)
        return weights

    def _above(self, arm: Arm) -> Rows:
        """Rows of an arm's ancestors."""
        return np.array([self._tree.rows[each] for _, each in self._tree.ancestors(arm)], dtype=np.intp)

    def _features(self, raw: Vector) -> list[Vector]:
        """What each expert sees."""
        scaled = scale(raw, *self._scaling.in_force())
        straight = np.concatenate([[1.0], scaled])
        seen = [straight] * len(self._stacks)
        if self._waves is not None:
            seen[-1] = np.concatenate([straight, self._waves.expand(scaled[: len(self._slots)])])
        return seen

    def _ratio(self) -> float:
        """What arms on average bring over what their priors promise: however often each was chosen."""
        return self._ratios / len(self._kept) if self._kept else 1.0

    def _offset(self, prior: float) -> float:
        return min(prior * self._ratio(), 1.0)

    def _shares(self) -> Vector:
        """The experts' weights, without the negligible ones."""
        # Who forgets before answers come has only ever seen that nothing came.
        usable = self._spans >= PATIENT * self._lag
        if self._waves is not None and self._open > MOST_OPEN * self._observations:
            usable[-1] = False
        odds = np.where(usable, self._log_weights, -np.inf)
        shares: Vector = np.exp(odds - odds.max())
        shares[shares < NEGLIGIBLE * shares.sum()] = 0.0
        shares /= shares.sum()
        return shares

    def predict(self, seen: Observation) -> float:
        """Expected reward in [0, 1], whatever `seen.reward` says; pure, and works before anything was learned."""
        offset, row = self._offset(seen.prior), self._tree.rows.get(seen.arm)
        features = self._features(np.concatenate([seen.x, seen.action_x]))
        if row is None:
            mean = offset + float(self._start(seen.arm, seen.prior) @ features[0])
        else:
            looks = [stack.look(row, x, offset)[0] for stack, x in zip(self._stacks, features, strict=True)]
            mean = float(self._shares() @ looks)
        low, high = limits(np.array(offset))
        return min(max(mean, float(low)), float(high))

    # --- Keeping ---

    def _leaves(self) -> list[Arm]:
        return [each for each in self._tree.rows if each in self._times]

    def dump(self) -> bytes:
        """Everything it knows, for `load`."""
        leaves = self._leaves()
        others = [row for node, row in self._tree.rows.items() if node not in self._times]
        rows = [self._tree.rows[each] for each in leaves]
        return _encoder.encode(
            {
                "kind": self.kind,
                "slots": self._slots,
                "action_slots": self._action_slots,
                "seed": self._seed,
                "waved": self._waves is not None,
                "kept": [[list(each), *kept] for each, kept in self._kept.items()],
                "ratios": self._ratios,
                "observations": [self._observations, self._open, self._estimate_at],
                "log_weights": self._log_weights.tolist(),
                "lag": self._lag,
                "tree": self._tree.dump(),
                "times": [[list(each), self._times[each]] for each in leaves],
                "scaling": self._scaling.dump(),
                "stacks": [stack.dump(rows) for stack in self._stacks],
                "relatives": self._relatives.dump(others),
            }
        )

    def load(self, data: bytes) -> None:
        """Become what was dumped; see `learner.Learner`. Curves start anew when the customer's slots changed."""
        try:
            self._take(_decoder.decode(data))
        except (msgspec.MsgspecError, KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"not the dump of a {self.kind} learner with these parameters: {error!r}") from error

    def _take(self, told: dict[str, Any]) -> None:
        straight = len(self._stacks) - (self._waves is not None)
        if told["kind"] != self.kind or len(told["stacks"]) - told["waved"] != straight:
            raise ValueError(f"kind {told['kind']!r}, expected {self.kind!r} with as many half-lives")
        experts = list(range(straight))
        if self._waves is not None:
            experts.append(straight if told["waved"] else 0)
        then = [*told["slots"], *("\0" + each for each in told["action_slots"])]
        own = [*self._slots, *("\0" + each for each in self._action_slots)]
        kept = np.array([then.index(each) if each in then else -1 for each in own], dtype=np.intp)
        columns = np.concatenate([[0], np.where(kept >= 0, kept + 1, -1)])
        self._seed = told["seed"]
        self._waves = draw(len(self._slots), self._expansion, self._seed) if self._expansion else None
        self._tree.load(told["tree"])
        self._times = {Arm(*name): times for name, times in told["times"]}
        self._scaling.load(told["scaling"], kept)
        self._kept = {Arm(*name): (earned, promised) for name, earned, promised in told["kept"]}
        self._ratios = told["ratios"]
        self._observations, self._open, self._estimate_at = told["observations"]
        self._log_weights, self._lag = np.array(told["log_weights"])[experts], told["lag"]
        rows = [self._tree.rows[each] for each in self._leaves()]
        for stack, expert in zip(self._stacks, experts, strict=True):
            extra = len(stack.precision) - len(columns)
            same = tuple(told["slots"]) == self._slots
            waves = 1 + len(then) + np.arange(extra) if same else np.full(extra, -1)
            stack.load(told["stacks"][expert], rows, np.concatenate([columns, waves]))
        others = [row for node, row in self._tree.rows.items() if node not in self._times]
        self._relatives.load(told["relatives"], others, columns)

    # --- Serving ---

    def export(self) -> bytes:
        """The experts collapsed into one, for each arm; and what is known of its relatives."""
        leaves = self._leaves()
        rows = np.array([self._tree.rows[each] for each in leaves], dtype=np.intp)
        above = {node: row for node, row in self._tree.rows.items() if node not in self._times}
        waved = self._waves is not None and self._shares()[-1] > 0
        pulls, sums, covariances = self._collapsed(rows, waved=waved)
        others = np.array(list(above.values()), dtype=np.intp)
        trust = _trust(self._relatives, others)
        center, inverse = self._scaling.in_force()
        told = Exported(
            format=FORMAT,
            rule=self._rule,
            exploration=self._exploration,
            ratio=self._ratio(),
            slots=self._slots,
            action_slots=self._action_slots,
            center=center.tobytes(),
            inverse=inverse.tobytes(),
            frequencies=self._waves.frequencies.tobytes() if waved and self._waves else b"",
            phases=self._waves.phases.tobytes() if waved and self._waves else b"",
            arms=[(each.group, each.action, each.treatment) for each in leaves],
            pulls=pulls.tobytes(),
            sums=sums.tobytes(),
            covariances=pack(covariances).tobytes(),
            relatives=[(each.group, each.action, each.treatment) for each in above],
            relative_pulls=(trust * _along(self._relatives, others, self._relatives.pull)).tobytes(),
            relative_sums=(trust * _along(self._relatives, others, self._relatives.sums)).tobytes(),
            variances=(max(self._stacks[0].noise, LEAST_NOISE) / self._stacks[0].precision).tobytes(),
        )
        return encode(told)

    def _collapsed(self, rows: Rows, *, waved: bool) -> tuple[Matrix, Matrix, Matrix]:
        """By arm: P(Σ r·x), P(Σ x) and the covariance of straight lines, as all experts together have them.

        What waves are unsure of is taken from the straight expert that does not forget: the same at a fraction of
        the cost of serving it.
        """
        shares, d = self._shares(), len(self._stacks[0].precision)
        pulls = np.zeros((len(rows), len(self._stacks[-1].precision) if waved else d))
        sums, covariances = np.zeros_like(pulls), np.zeros((len(rows), d, d))
        for place, stack in enumerate(self._stacks):
            if shares[place] == 0.0:
                continue
            width = len(stack.precision)
            pulls[:, :width] += shares[place] * _along(stack, rows, stack.pull)
            sums[:, :width] += shares[place] * _along(stack, rows, stack.sums)
            unsure = stack if width == d else self._stacks[0]
            covariances += shares[place] * max(stack.noise, LEAST_NOISE) * unsure.cov[rows]
        return pulls, sums, covariances

    @classmethod
    def posterior(
        cls, exported: bytes, slots: Sequence[str], arms: Sequence[Arm], action_x: Matrix, priors: Vector
    ) -> Posterior:
        """Bind what was exported to candidates; see `learner.Learner`."""
        return Bound(exported, slots, arms, action_x, priors)


def _trust(relatives: Stack, rows: Rows) -> Matrix:
    """How far a stranger is taken to be like its relatives: the further, the more of them was seen (rows by 1)."""
    seen = relatives.sums[rows][:, :1]
    trust: Matrix = seen / (seen + STRANGERS)
    return trust


def _along(stack: Stack, rows: Rows, vectors: Matrix) -> Matrix:
    product: Matrix = np.einsum("nij,nj->ni", stack.cov[rows], vectors[rows])
    return product
