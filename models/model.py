"""A model: a champion learner that is served and its challengers, trained and judged on the same examples.

`exposed`: every learner predicts, which is kept until the decision is closed; a corrigible one then learns that
nothing has come yet. `answered`: a corrigible one replaces what it learned. `closed`: the others learn, and all are
judged by what they had predicted. A late answer corrects what was learned and is not judged.

An answer to a decision that was never told of as shown is not learned from: which of those decisions are heard of
at all depends on their outcome, so learning from them would overrate everything. (It happens when examples were lost
to the retention of the topic, or to a learner that began only after the decision.)

The breaker: a champion found wanting (`health.fault`) is not served, unless the priors would do worse still; a
replacement by the same rule begins from nothing on the same examples, and the better of the two is served as soon as
it beats the base rate (`health.has_recovered`). A challenger that wins the contest (`models.promotion`) ends it too.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from engine.features import FeatureSchema
from engine.learning import Example
from engine.repertoire import LearnerRule, ModelRule
from models import health, registry
from models.health import Drifted, Health, Recovered, Tripped, Window
from models.judging import Judging, JudgingState, judge
from models.learner import Arm, Learner, Observation
from models.memory import SEEN, Awaited, Recent, Shown, hashed
from models.promotion import Bet, Contest, Promotion
from models.snapshot import Snapshot, Status
from models.trainee import Record, Trainee

STATE = 1
"""Version of the stored state."""
LEAST_PRIOR = 1e-6
EVENTS = 100
"""Events kept for whoever does not ask for them in time."""
New = Callable[[str, Sequence[str], Sequence[str], int, Mapping[str, Any]], Learner]


class Untrained(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What was stored of a learner could not be used, so that it begins from nothing."""

    model: str
    learner: str
    why: str

    def __str__(self) -> str:
        return f"model {self.model}: {self.learner} starts untrained: {self.why}"


Event = Drifted | Tripped | Recovered | Promotion | Untrained


class _State(msgspec.Struct, kw_only=True):
    state: int
    model: str
    configured: str
    champion: str
    status: Status
    examples: int
    latest_ms: int
    history: bytes
    numbers: int
    seen: bytes
    shown: tuple[bytes, bytes, int]
    judging: JudgingState
    bets: dict[str, Bet]
    trainees: list[Record]
    replacement: Record | None


_states = msgspec.msgpack.Decoder(_State)


class Model:
    """Learns from examples, publishes snapshots, and watches over its learners.

    Everything is a function of the rule, the schemas, the seed and the examples in their order; times come from the
    examples. Memory is bounded by slots and arms.
    """

    def __init__(
        self,
        rule: ModelRule,
        features: FeatureSchema,
        action_features: FeatureSchema,
        seed: int = 0,
        new: New = registry.new,
    ) -> None:
        """`new`: makes learners. ValueError when the champion is none of the learners, or a learner cannot be made."""
        if rule.champion not in rule.learners:
            raise ValueError(f"model {rule.id}: champion {rule.champion} is none of {', '.join(rule.learners)}")
        self.rule = rule
        self.champion = rule.champion
        self.status: Status = "serving"
        self.changed = True
        self._features, self._action_features = features, action_features
        self._seed, self._new = seed, new
        self._examples, self._numbers, self._latest_ms = 0, 0, -1
        self._history = b""
        self._seen, self._shown, self._judging = Recent(SEEN), Shown(), Judging()
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._trainees = {name: self._trainee(name) for name in rule.learners}
        self._replacement: Trainee | None = None
        self._contest = Contest(self._challengers())

    @property
    def pickled(self) -> bool:
        """Whether `dump` holds pickles, so that `load` may only be given what was signed."""
        return any(each.learner.pickled for each in self._everyone())

    @property
    def health(self) -> Health:
        """How the champion does."""
        return Health(
            model=self.rule.id,
            champion=self.champion,
            status=self.status,
            numbers=self._serving.window.numbers(),
            drift=self._judging.drifts,
            unevaluated=self._judging.unevaluated,
            e_values={name: bet.e_value for name, bet in self._contest.bets.items()},
        )

    def events(self) -> list[Event]:
        """What happened since it was last asked, the oldest first; `str` of each is a sentence for the log."""
        events = list(self._events)
        self._events.clear()
        return events

    # --- Learning ---

    def learn(self, example: Example) -> str:
        """Learn from an example, once: "learned", "repeated", "other-schema" or "malformed"."""
        if (example.schema, example.action_schema) != (self._features.version, self._action_features.version):
            return "other-schema"
        name = hashed(example.example_id)
        if name in self._seen:
            return "repeated"
        seen = self._observation(example)
        if seen is None:
            return "malformed"
        self._seen.add(name)
        self._history = hashlib.blake2b(self._history + example.example_id.encode(), digest_size=16).digest()
        self._examples += 1
        self._take(example, seen)
        self._latest_ms = max(self._latest_ms, example.at_ms)
        return "learned"

    def _observation(self, example: Example) -> Observation | None:
        rates = (example.reward, example.previous or 0.0, example.prior, example.propensity)
        if example.model != self.rule.id or not all(0.0 <= each <= 1.0 for each in rates):
            return None
        try:
            x = self._features.vector(example.features)
            action_x = self._action_features.vector(example.action_features)
        except ValueError:
            return None
        if not math.isfinite(float(x.sum() + action_x.sum())):
            return None
        arm = Arm(example.group, example.action, example.treatment)
        prior = min(max(example.prior, LEAST_PRIOR), 1.0 - LEAST_PRIOR)
        return Observation(x, arm, action_x, prior, example.reward, example.decided_ms)

    def _take(self, example: Example, seen: Observation) -> None:
        decision = hashed(example.decision_id)
        if example.stage == "exposed":
            self._shown.add(decision, example.at_ms)
            predicted = {each.number: each.predict(seen) for each in self._everyone()}
            self._judging.expect(decision, example, predicted, self._scored_by(example.version))
        # Of what was not told of as shown there is nothing to replace.
        told = self._shown.may_include(decision, example.decided_ms)
        serving, pupils = self._serving, [each for each in self._everyone() if told or not each.learner.corrigible]
        learned = [each for each in pupils if each.learn(example, seen)]
        self.changed = self.changed or serving in learned
        if example.stage == "closed":
            self._close(example, decision)

    def _scored_by(self, version: str | None) -> Trainee | None:
        """The learner a decision was scored with; None when it was a prior, or one that is gone."""
        name, _, tail = (version or "").rpartition(".")
        name, _, examples = name.rpartition(".")
        trainee = self._trainees.get(name)
        if not tail or trainee is None or not examples.isdecimal() or int(examples) < trainee.serves_from:
            return None
        return trainee

    # --- Judging ---

    def _close(self, example: Example, decision: int) -> None:
        """Judge what was predicted of a decision by its reward, and draw the consequences."""
        awaited = self._judging.close(decision, example.reward)
        if awaited is None:
            return
        serving, replacement = self._serving, self._replacement
        # The champion and its replacement are compared, so they must have predicted the same decisions.
        paired = replacement is None or replacement.number in awaited.predicted
        judge((each for each in self._everyone() if paired or each is not serving), awaited, example.reward)
        if replacement is None and self._judging.watch(serving, awaited, example.reward):
            numbers = serving.window.numbers()
            self._tell(Drifted(model=self.rule.id, learner=self.champion, numbers=numbers, at_ms=example.at_ms))
        self._compare(awaited, example.reward)
        if self._judging.judged % health.CHECK_EVERY == 0:
            self._check(example.at_ms)
        self._promote(example.at_ms)

    def _compare(self, awaited: Awaited, reward: float) -> None:
        """The contest goes by what all of them predicted at the same moment: what was served is a little older."""
        said = {
            name: awaited.predicted[each.number]
            for name, each in self._trainees.items()
            if each.number in awaited.predicted
        }
        champion = said.pop(self.champion, None)
        if champion is not None:
            self._contest.add(champion, said, awaited.base, reward)

    def _check(self, at_ms: int) -> None:
        if self._replacement is not None:
            self._recover(self._replacement, at_ms)
            return
        # With long windows the first decisions are judged late, and by then say nothing of what is known.
        numbers = self._serving.window.numbers(min(self._judging.seasoned, health.WINDOW))
        why = health.fault(numbers, drifted=self._judging.drifted) if self._judging.seasoned else None
        if why is None:
            return
        self.status = "tripped" if health.is_behind_prior(numbers) else "serving"
        self.changed = True
        self._replacement = self._trainee(self.champion)
        self._serving.window = Window()
        self._tell(
            Tripped(
                model=self.rule.id, learner=self.champion, why=why, status=self.status, numbers=numbers, at_ms=at_ms
            )
        )

    def _recover(self, replacement: Trainee, at_ms: int) -> None:
        """Serve the better of the champion and its replacement once it beats the base rate."""
        tried = [(each.window.numbers(health.RECENT), each) for each in (self._serving, replacement)]
        fit = [each for each in tried if health.has_recovered(each[0])]
        if not fit:
            return
        numbers, best = min(fit, key=lambda each: each[0].logloss or 0.0)
        replaced = best is replacement
        self._tell(
            Recovered(model=self.rule.id, learner=self.champion, replacement=replaced, numbers=numbers, at_ms=at_ms)
        )
        best.window.keep(health.RECENT)
        self._crown(best)

    def _promote(self, at_ms: int) -> None:
        winner = self._contest.winner()
        if winner is None:
            return
        bet = self._contest.bets[winner]
        self._tell(
            Promotion(
                model=self.rule.id,
                from_learner=self.champion,
                to_learner=winner,
                examples=bet.examples,
                mean_difference=bet.difference,
                e_value=bet.e_value,
                alpha=self._contest.alpha,
                at_ms=at_ms,
            )
        )
        self._crown(self._trainees[winner])

    def _crown(self, trainee: Trainee) -> None:
        """Serve a learner from here on; what was found out about the one before counts no more."""
        self.champion = trainee.name
        self._trainees[trainee.name] = trainee
        trainee.serves_from = self._examples
        self.status, self.changed = "serving", True
        self._replacement = None
        self._judging.settle()
        self._contest = Contest(self._challengers())

    # --- Its learners ---

    @property
    def _serving(self) -> Trainee:
        return self._trainees[self.champion]

    def _everyone(self) -> Iterator[Trainee]:
        yield from self._trainees.values()
        if self._replacement is not None:
            yield self._replacement

    def _challengers(self) -> list[str]:
        return [name for name in self._trainees if name != self.champion]

    def _trainee(self, name: str, number: int | None = None) -> Trainee:
        """A learner that has learned nothing, with a seed of its own; with the next number unless it had one."""
        rule: LearnerRule = self.rule.learners[name]
        if number is None:
            number = self._numbers = self._numbers + 1
        seed = hashed(f"{self._seed}\0{self.rule.id}\0{name}\0{number}") >> 33
        slots, action_slots = self._features.slots, self._action_features.slots
        learner = self._new(rule.kind, slots, action_slots, seed, rule.parameters)
        return Trainee(name, rule, learner, number, self._latest_ms, self._examples)

    def _tell(self, event: Event) -> None:
        self._events.append(event)

    # --- Serving and storing ---

    def snapshot(self, now_ms: int) -> Snapshot:
        """What workers score by: the champion as it is. Clears `changed`."""
        self.changed = False
        serving = self._serving
        maturity = serving.matured(now_ms)
        content = msgspec.msgpack.encode([self._history, serving.rule, serving.number, list(maturity.items())])
        digest = hashlib.blake2b(content, digest_size=4).hexdigest()
        version = f"{self.champion}.{self._examples}.{digest}"
        return Snapshot(
            model=self.rule.id,
            version=f"tripped.{version}" if self.status == "tripped" else version,
            learner=serving.learner.kind,
            slots=self._features.slots,
            schema=self._features.version,
            action_slots=self._action_features.slots,
            action_schema=self._action_features.version,
            exported=serving.learner.export(),
            pickled=serving.learner.pickled,
            status=self.status,
            evidence=dict(serving.evidence),
            maturity=maturity,
            examples=self._examples,
            at_ms=now_ms,
        )

    def dump(self) -> bytes:
        """Everything learned, for `load`; signed by whoever stores it when `pickled` (`snapshot.seal`)."""
        return msgspec.msgpack.encode(
            _State(
                state=STATE,
                model=self.rule.id,
                configured=self.rule.champion,
                champion=self.champion,
                status=self.status,
                examples=self._examples,
                latest_ms=self._latest_ms,
                history=self._history,
                numbers=self._numbers,
                seen=self._seen.dump(),
                shown=self._shown.dump(),
                judging=self._judging.dump(),
                bets=self._contest.bets,
                trainees=[each.dump() for each in self._trainees.values()],
                replacement=None if self._replacement is None else self._replacement.dump(),
            )
        )

    def load(self, data: bytes) -> None:
        """Become what was dumped by a model of the same id.

        A learner whose kind or parameters changed, or that is not among what was stored, starts untrained; so does
        one whose state cannot be used. A promoted champion stays unless the configuration names another one than it
        did. ValueError, and nothing done, when this is no state of the model.
        """
        state = self._decoded(data)
        self._examples, self._numbers, self._latest_ms = state.examples, state.numbers, state.latest_ms
        self._history = state.history
        self._seen, self._shown = Recent.load(SEEN, state.seen), Shown(*state.shown)
        self._judging = Judging(state.judging)
        stays = state.configured == self.rule.champion and state.champion in self.rule.learners
        self.champion = state.champion if stays else self.rule.champion
        records = {each.name: each for each in state.trainees}
        kept = {name for name in self._trainees if self._restore(name, records.get(name))}
        self._resume(state, kept)
        self.changed = True

    def _decoded(self, data: bytes) -> _State:
        try:
            state = _states.decode(data)
        except msgspec.DecodeError as fault:
            raise ValueError(f"not the state of a model: {fault}") from fault
        if (state.state, state.model) != (STATE, self.rule.id):
            found = f"state {state.state} of model {state.model}"
            raise ValueError(f"{found}, expected state {STATE} of model {self.rule.id}: train it afresh")
        return state

    def _restore(self, name: str, record: Record | None) -> bool:
        """Whether a learner goes on from what was stored; else it begins."""
        restored = self._restored(name, record)
        self._trainees[name] = restored or self._trainee(name)
        return restored is not None

    def _restored(self, name: str, record: Record | None) -> Trainee | None:
        if record is None:
            return None
        trainee = self._trainee(name, record.number)
        try:
            trainee.load(record)
        except ValueError as fault:
            self._tell(Untrained(model=self.rule.id, learner=name, why=str(fault)))
            return None
        return trainee

    def _resume(self, state: _State, kept: set[str]) -> None:
        """Go on judging where it was left, as far as it is about learners that go on."""
        same = self.champion == state.champion and self.champion in kept
        bets = {name: bet for name, bet in state.bets.items() if same and name in kept}
        self._contest = Contest(self._challengers(), bets)
        if not same:
            self._judging.settle()
        self._replacement, self.status = None, "serving"
        if same and state.replacement is not None:
            self.status = state.status
            self._replacement = self._restored(self.champion, state.replacement) or self._trainee(self.champion)
