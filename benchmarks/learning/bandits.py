"""Bandits: the engine beside its peers on every stream, ten seeds, paired differences with intervals."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.learning.contestant import Batuta
from benchmarks.learning.peers import FORGETTING_PEERS, PEERS
from benchmarks.learning.play import play
from benchmarks.learning.simulator import DRIFTS, drifting, regret
from benchmarks.learning.statistics import Interval, clustered_interval, t_interval
from benchmarks.learning.streams import DAY_MS, MEAN_DELAY_MS, STREAMS, WINDOW_MS, Stream, Trial, read_csv, trial
from benchmarks.results import Row, cores, figure, meets

ENGINE, HINDSIGHT = "batuta", "best-fixed"
"""`HINDSIGHT` is shown beside the peers and is not one: nobody can play it."""
Kind = Literal["instant", "delayed", "drifting"]
Mean = Mapping[str, list[float]]


class Task(NamedTuple):
    """One trial for everybody. `name`: of a stream, of a kind of drift, or the path of a CSV file."""

    kind: Kind
    name: str
    seed: int
    cap: int


class Played(NamedTuple):
    """What one trial brought. `scores`: by policy, rewards step by step, or the cumulative regret alone.

    `trips`: how often the engine's breaker tripped.
    """

    task: Task
    rows: npt.NDArray[np.intp]
    scores: Mapping[str, npt.NDArray[np.float64]]
    trips: int = 0


Given = TypeVar("Given")
Result = TypeVar("Result")


def spread(work: Callable[[Given], Result], tasks: Sequence[Given]) -> Iterator[Result]:
    """Results of the tasks in their order, one process per core, each with one thread for its algebra."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the processes started below read it
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, tasks)


def play_task(task: Task) -> Played:
    """Let everybody play one trial."""
    set_up = make_trial(task)
    engine, entrants = Batuta(set_up), FORGETTING_PEERS if task.kind == "drifting" else PEERS
    chosen = {ENGINE: play(lambda _: engine, set_up), **{name: play(each, set_up) for name, each in entrants.items()}}
    scores = {name: _score(task, set_up, arms) for name, arms in chosen.items()}
    return Played(task, set_up.rows, scores, engine.trips)


def make_trial(task: Task) -> Trial:
    """The trial of a task."""
    if task.kind == "drifting":
        return drifting(DRIFTS[task.name], task.seed, task.cap)
    return trial(_stream(task.name), task.seed, task.cap, delayed=task.kind == "delayed")


@lru_cache(maxsize=1)
def _stream(name: str) -> Stream:
    return STREAMS[name]() if name in STREAMS else read_csv(Path(name))


def _score(task: Task, set_up: Trial, chosen: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    if task.kind == "drifting":
        return np.array([regret(set_up, chosen)])
    rewards: npt.NDArray[np.float64] = set_up.rewards[np.arange(len(chosen)), chosen]
    return rewards


# --- What it amounts to ---


def stream_rows(played: Sequence[Played]) -> list[Row]:
    """Rows of one stream: the engine's mean reward, then what it has over everybody else, the best of them first."""
    task = played[0].task
    prefix, means = f"{task.kind}.{task.name}", _means(played)
    peers = sorted((each for each in means if each != ENGINE), key=lambda each: -_mean(means[each]))
    best_peer = next(each for each in peers if each != HINDSIGHT)
    setting = f"{len(played)} seeds of {len(played[0].rows)} rows, mean reward, 95 % t interval over seeds{_late(task)}"
    rows = [_row(f"{prefix}.{ENGINE}", t_interval(means[ENGINE]), "reward", detail=setting + _trips(played))]
    for peer in peers:
        gap = t_interval(np.array(means[ENGINE]) - np.array(means[peer]))
        best = peer == best_peer
        detail = f"over the best peer, {_clustered(played, peer)}; the target is for the lower bound" if best else ""
        rows.append(_row(f"{prefix}.over-{peer}", gap, "reward", detail=detail, target="> -0.01" if best else ""))
    return rows


def lead_rows(kind: Kind, rows: Sequence[Row]) -> list[Row]:
    """On what share of the streams the engine is ahead of the best peer, from the rows of `stream_rows`."""
    leads = [each for each in rows if each.metric.startswith(f"{kind}.") and each.target]
    ahead = sum(each.value > 0 for each in leads) / len(leads)
    detail = f"share of {len(leads)} streams with a paired difference to the best peer above 0"
    return [_row(f"{kind}.ahead", Interval(ahead, ahead, ahead), "share", detail=detail, target="> 0.5")]


def drift_rows(played: Sequence[Played]) -> list[Row]:
    """Rows of one kind of drift: regret over that of the best peer, then of each peer."""
    task, regrets = played[0].task, _means(played)
    peers = sorted((each for each in regrets if each != ENGINE), key=lambda each: _mean(regrets[each]))
    best_peer = next(each for each in peers if each != HINDSIGHT)
    prefix, own = f"{task.kind}.{task.name}", np.array(regrets[ENGINE])
    detail = (
        f"{len(played)} seeds of {task.cap} steps; cumulative regret against the oracle, 95 % t interval over seeds"
    )
    rows = [_row(f"{prefix}.{ENGINE}", t_interval(own), "reward", detail=detail + _trips(played))]
    for peer in peers:
        ratio, best = t_interval(own / np.array(regrets[peer])), peer == best_peer
        detail = (
            f"cumulative regret over that of the best peer, {peer} ({figure(_mean(regrets[peer]))})" if best else ""
        )
        rows.append(_row(f"{prefix}.over-{peer}", ratio, "ratio", detail=detail, target="<= 0.7" if best else ""))
    return rows


def _late(task: Task) -> str:
    if task.kind != "delayed":
        return ""
    days, window = MEAN_DELAY_MS // DAY_MS, WINDOW_MS // DAY_MS
    return f"; a row each hour, rewards late: exponential with mean {days} days, none after {window} days"


def _trips(played: Sequence[Played]) -> str:
    tripped = sum(each.trips > 0 for each in played)
    return f"; the model's breaker tripped in {tripped} of {len(played)} plays" if tripped else ""


def _means(played: Sequence[Played]) -> Mean:
    return {name: [float(each.scores[name].mean()) for each in played] for name in played[0].scores}


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def _clustered(played: Sequence[Played], peer: str) -> str:
    """The same difference with rows as clusters: a row is played in every seed, in another order."""
    gaps = np.concatenate([each.scores[ENGINE] - each.scores[peer] for each in played])
    _, low, high = clustered_interval(gaps, np.concatenate([each.rows for each in played]))
    return f"95 % interval clustered by row {low:+.4f} to {high:+.4f}"


def _row(metric: str, interval: Interval, unit: str, *, detail: str, target: str = "") -> Row:
    """A mean with its interval; a target from below is asked of the lower bound, one from above of the mean."""
    asked = interval.low if target == "> -0.01" else interval.mean
    return Row(
        metric=metric,
        value=interval.mean,
        low=interval.low,
        high=interval.high,
        unit=unit,
        target=target,
        met=meets(asked, target),
        detail=detail,
    )
