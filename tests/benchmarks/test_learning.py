from __future__ import annotations

import numpy as np
import pytest

from benchmarks.learning import bandits, cdnow, cost, peers, simulator, streams
from benchmarks.learning.__main__ import DONE, USAGE, WRONG, Sizes, main
from benchmarks.learning.bandits import ENGINE, Played, Task
from benchmarks.learning.contestant import Batuta
from benchmarks.learning.peers import PEERS, Peer
from benchmarks.learning.play import play
from benchmarks.learning.streams import DAY_MS, HOUR_MS, STREAMS, Stream

SIX = Stream(
    "six",
    ("a", "b"),
    [(float(n % 3), "even" if n % 2 == 0 else "odd") for n in range(120)],
    np.arange(120) % 2,
    ("0", "1"),
)
RIVALS = ("river-linucb", "river-logistic", "habit", "best-fixed", "random")
"""Those that need no package beside River."""


class Listener(Peer):
    """A policy that writes down what it hears."""

    def __init__(self, trial):
        super().__init__(trial)
        self.heard = []

    def choose(self, step):  # noqa: D102 - see Policy
        self.heard.append(("choose", step))
        return step % len(self.arms)

    def exposed(self, step, arm):  # noqa: D102, ARG002 - see Policy
        self.heard.append(("exposed", step))

    def answered(self, step, arm, reward, at_ms):  # noqa: D102, ARG002 - see Policy
        self.heard.append(("answered", step, reward, at_ms))

    def closed(self, step, arm, reward, at_ms):  # noqa: D102, ARG002 - see Policy
        self.heard.append(("closed", step, reward, at_ms))


def listen(trial):
    """What a listener hears of a trial, and what it chose."""
    made = []

    def entrant(trial):
        made.append(Listener(trial))
        return made[0]

    return made, play(entrant, trial)


# --- Streams ---


@pytest.mark.parametrize("name", ["phishing", "solar-flare", "yeast", "digits"])
def test_a_trial_is_a_function_of_its_seed(name):
    """The same seed gives the same rows, delays and vectors; another one another order."""
    stream = STREAMS[name]()
    one, two = (streams.trial(stream, 3, 40, delayed=True) for _ in range(2))
    assert np.array_equal(one.rows, two.rows)
    assert np.array_equal(one.delays_ms, two.delays_ms)
    assert np.array_equal(one.vectors, two.vectors)
    assert not np.array_equal(one.rows, streams.trial(stream, 4, 40).rows)
    assert (one.rewards.sum(axis=1) == 1).all()


def test_vectors_look_at_no_later_row():
    """What a row becomes does not depend on the rows after it; numbers are standardised, categories one-hot."""
    values = [(float(n) ** 2, "odd" if n % 2 else "even") for n in range(30)]
    whole, categorical = streams.encode(("a", "b"), values)
    part, _ = streams.encode(("a", "b"), values[:10])
    assert np.allclose(whole[:10], part)
    assert categorical == {"b"}
    numbers = np.array([each[0] for each in values])
    assert whole[-1, 0] == pytest.approx((numbers[-1] - numbers.mean()) / numbers.std())
    assert whole[3].tolist()[1:] == [0.0, 1.0, 1.0]


def test_a_csv_of_ones_own_becomes_a_stream(tmp_path):
    """The last column is the class; columns of numbers are numbers, others categories."""
    path = tmp_path / "own.csv"
    path.write_text("size,colour,kind\n1.5,red,a\n2,blue,b\n")
    stream = streams.read_csv(path)
    assert stream.rows == [(1.5, "red"), (2.0, "blue")]
    assert stream.arms == ("a", "b")
    path.write_text("size,colour,kind\n1.5,red\n")
    with pytest.raises(ValueError, match="as many columns"):
        streams.read_csv(path)


# --- Playing ---


def test_rewards_are_heard_at_their_time_and_never_before_the_choice():
    """At once: each step hears all of itself before the next choice. Later: when due, and no reward never comes."""
    [now], chosen = listen(streams.trial(SIX, 1, 20))
    for step in range(19):
        heard = [each[0] for each in now.heard if each[1] == step]
        assert heard == [
            "choose",
            "exposed",
            *(["answered"] if now.trial.rewards[step, chosen[step]] else []),
            "closed",
        ]
        assert now.heard.index(("choose", step + 1)) > max(n for n, each in enumerate(now.heard) if each[1] == step)
    [later], chosen = listen(streams.trial(SIX, 1, 120, delayed=True)._replace(window_ms=2 * DAY_MS))
    answered = [each for each in later.heard if each[0] == "answered"]
    assert answered
    for _, step, reward, at_ms in answered:
        assert reward == later.trial.rewards[step, chosen[step]] == 1
        assert at_ms == step * HOUR_MS + later.trial.delays_ms[step] <= step * HOUR_MS + 2 * DAY_MS
    closed = {each[1]: each[2] for each in later.heard if each[0] == "closed"}
    assert closed
    for step, reward in closed.items():
        came = later.trial.rewards[step, chosen[step]] and later.trial.delays_ms[step] <= 2 * DAY_MS
        assert reward == float(came)


@pytest.mark.parametrize("name", RIVALS)
def test_peers_play_the_same_twice(name):
    """Everybody's choices are a function of the trial."""
    trial = streams.trial(SIX, 2, 60, delayed=True)
    assert np.array_equal(play(PEERS[name], trial), play(PEERS[name], trial))


def test_peers_learn_what_can_be_learned():
    """The linear ones find a rule that a constant arm cannot follow; best-fixed brings the most frequent class."""
    trial = streams.trial(SIX, 2, 120)
    rewards = {name: trial.rewards[np.arange(120), play(PEERS[name], trial)].mean() for name in RIVALS}
    assert rewards["river-linucb"] > 0.85
    assert rewards["river-logistic"] > rewards["best-fixed"] == 0.5


def test_peers_of_other_packages_play():
    """MABWiser and Vowpal Wabbit learn too, and MABWiser is where its own `partial_fit` would have brought it."""
    mabwiser = pytest.importorskip("mabwiser.mab", reason="a development dependency")
    pytest.importorskip("vowpalwabbit", reason="a development dependency")
    trial = streams.trial(SIX, 2, 100)
    for name in set(PEERS) - set(RIVALS):
        rewards = trial.rewards[np.arange(100), play(PEERS[name], trial)]
        assert rewards[50:].mean() > 0.55, name
    fast = peers.MabWiser(trial, "LinUCB", 1.0)
    slow = mabwiser.MAB([0, 1], mabwiser.LearningPolicy.LinUCB(alpha=1.0), seed=trial.seed)
    slow.fit(np.array([0]), np.array([0.0]), np.zeros((1, trial.vectors.shape[1])))
    for step in range(50):
        x = trial.vectors[step : step + 1]
        assert fast.choose(step) == slow.predict(x)
        fast.learn(step, step % 2, float(step % 3 == 0))
        slow.partial_fit(np.array([step % 2]), np.array([float(step % 3 == 0)]), x)


def test_a_missing_peer_stops_the_comparison(monkeypatch, capsys):
    """It is named, with what to do; nothing goes on without it."""
    monkeypatch.setattr(peers.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    assert main(["instant"]) == WRONG
    said = capsys.readouterr().err
    assert "mabwiser" in said
    assert "make setup" in said


# --- The engine's side ---


@pytest.mark.parametrize("delayed", [False, True])
def test_the_engine_plays_and_learns(delayed):
    """Its choices are a function of the trial and better than chance, rewards at once or late."""
    trial = streams.trial(SIX, 2, 120, delayed=delayed)
    chosen = play(Batuta, trial)
    assert np.array_equal(chosen[:30], play(Batuta, trial)[:30])
    assert trial.rewards[np.arange(60, 120), chosen[60:]].mean() > 0.6


# --- Drift ---


def test_weights_jump_and_walk_as_declared():
    """Without drift the same context keeps its chances; after a jump it does not; a walk keeps their spread."""
    draw = np.random.default_rng(1)
    still = simulator._weights(simulator.Drift(), draw, 50)
    assert (still == still[0]).all()
    jumping = simulator._weights(simulator.Drift(every=20), draw, 50)
    assert [int((jumping[n] != jumping[n - 1]).all()) for n in (19, 20, 21, 40)] == [0, 1, 0, 1]
    walking = simulator._weights(simulator.Drift(pace=0.1), draw, 400)
    assert walking[200:].std() == pytest.approx(simulator.STEEPNESS, rel=0.15)


def test_the_oracle_has_no_regret():
    """Regret is 0 for the best arm at each step and the mean gap for any other."""
    trial = simulator.drifting(simulator.DRIFTS["jumps"], 1, 50)
    best = trial.expected.argmax(axis=1)
    assert simulator.regret(trial, best) == 0
    assert simulator.regret(trial, (best + 1) % simulator.ARMS) > 0


# --- Rows ---


def played(name, rewards):
    """Two seeds of a stream with these rewards of engine and peers."""
    return [
        Played(
            Task("instant", name, seed, 4), np.arange(4), {each: np.array(said[seed]) for each, said in rewards.items()}
        )
        for seed in range(2)
    ]


def test_the_target_is_asked_of_the_lower_bound_against_the_best_peer():
    """The best peer is the one with the highest mean; a lead that may be below -.01 is not met."""
    ahead = {ENGINE: ([1, 1, 1, 1], [1, 1, 1, 0]), "good": ([1, 1, 1, 0], [1, 1, 0, 0]), "bad": ([0, 0, 0, 0],) * 2}
    rows = bandits.stream_rows(played("s", ahead))
    assert [each.metric for each in rows] == ["instant.s.batuta", "instant.s.over-good", "instant.s.over-bad"]
    assert rows[1].value == rows[1].low == 0.25
    assert rows[1].met
    level = {**ahead, "good": ([1, 1, 1, 1], [0, 1, 1, 0])}
    [_, best, _] = bandits.stream_rows(played("s", level))
    assert best.value == 0.125 > best.low
    assert not best.met
    [share] = bandits.lead_rows("instant", [*rows, *bandits.stream_rows(played("t", {**level, ENGINE: level["good"]}))])
    assert (share.value, share.met) == (0.5, False)


def test_regret_is_put_over_that_of_the_best_peer():
    """The lowest regret is the best peer's, and the target is for the ratio."""
    regrets = {ENGINE: np.array([60.0]), "a": np.array([100.0]), "b": np.array([200.0])}
    rows = bandits.drift_rows([Played(Task("drifting", "jumps", seed, 9), np.arange(9), regrets) for seed in range(2)])
    assert [each.metric for each in rows[1:]] == ["drifting.jumps.over-a", "drifting.jumps.over-b"]
    assert [each.value for each in rows[1:]] == [0.6, 0.3]
    assert rows[1].met


def test_the_command_line_knows_its_sections(capsys):
    """A section nobody knows is a usage error that names those there are."""
    assert main(["bandit"]) == USAGE
    assert "instant" in capsys.readouterr().err
    assert main(["--own"]) == USAGE
    assert DONE == 0


def test_a_file_of_ones_own_is_played_by_everybody(tmp_path, monkeypatch, capsys):
    """All policies, in processes of their own, with the rows printed and nothing written."""
    pytest.importorskip("mabwiser", reason="a development dependency")
    monkeypatch.setattr("benchmarks.learning.__main__.FULL", Sizes(2, 30, 30, 1))
    monkeypatch.delenv("QUICK", raising=False)
    path = tmp_path / "own.csv"
    path.write_text("a,b,kind\n" + "0.0,even,no\n1.0,odd,yes\n" * 20)
    assert main(["--own", str(path)]) == DONE
    said = capsys.readouterr().out
    assert all(f"over-{name}" in said for name in PEERS)


# --- CDNOW ---

LINES = (
    "1 19970101 1 10.0",
    "1 19970101 2 5.0",
    "2 19970102 1 0.00",
    "1 19970121 1 8.0",
    "2 19970301 1 9.0",
    "1 19970401 1 9.0",
)


def test_purchases_of_one_day_are_one_and_questions_know_the_past_alone():
    """Labels are the next purchase within 30 days, features do not change with what comes later."""
    purchases = cdnow.merge(LINES)
    assert purchases[0] == (0, "1", 3, 15.0)
    asked = cdnow.cases(purchases)
    found = [(each.day, each.customer, each.returned_after) for each in asked]
    assert found == [(0, "1", 20), (1, "2", None), (20, "1", None), (59, "2", None)]
    assert asked[2].answers == 0
    assert asked[3].answers is None
    earlier = cdnow.cases([*purchases[:3], cdnow.Purchase(300, "9", 1, 1.0)])
    assert [each.values for each in earlier[:3]] == [each.values for each in asked[:3]]
    assert earlier[1].values[0] == 1.0


def test_everybody_forecasts_and_is_judged():
    """A small shop whose customers keep their rhythm: chances within [0, 1], rows with targets for the engine only."""
    days = [(name, day) for name in range(10) for day in range(0, 300, 7 + 9 * name)]
    frequent = [f"{name} 1997{1 + day // 28:02}{1 + day % 28:02} 1 5.0" for name, day in days]
    asked = cdnow.cases(cdnow.merge(frequent))
    chances = dict(cdnow.forecast((name, asked)) for name in cdnow.FORECASTERS)
    assert all(0 <= each <= 1 for said in chances.values() for each in said)
    rows = {each.metric: each for each in cdnow.rows(asked, chances)}
    assert rows["cdnow.batuta.auc"].target == ">= 0.715"
    assert rows["cdnow.rate-rule.auc"].target == ""
    assert rows["cdnow.batuta.auc"].value > 0.5


# --- Cost ---


def test_costs_come_out(monkeypatch):
    """Scoring with draws costs more than without; a snapshot has bytes."""
    monkeypatch.setattr(cost, "BATCH", 20)
    monkeypatch.setattr(cost, "BATCHES", 3)
    rows = {each.metric: each for each in cost.measure(100)}
    assert rows["scoring.mean-and-draws"].low > rows["scoring.mean-only"].low > 0
    assert rows["learning.snapshot"].value > 1_000
