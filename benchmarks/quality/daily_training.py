"""Training on from yesterday's model, beside training anew each day: ten days of short videos, judged on the next day.

Run:    python benchmarks/quality/daily_training.py [--days 10] [--seed 0] [--expire-days 7]
World:  InstaTok, in which every day new users and new videos come, some users take other interests, and videos are come
        across by chance, the newer and the more appealing ones more often. What would tell a new video apart, its
        category and creator, is no feature: that has to be learned of each id.
Models: the same config, trained on everything until the end of day d (`anew`), or on from the model of day d - 1, as
        `--from CURRENT` does (`on`). `frozen` has the weights of day 0, and knows what users did until day d. All
        begin as one model, trained on 12 days. `on, replay` takes .3 of what it draws from before the day. With
        --expire-days, `on, expiry` is `on, replay` where ids without a like for so long lose their rows; the result
        is another file.
Judged: prequentially (Dawid 1984, doi:10.2307/2981683): every model on what known users liked on day d + 1, over all
        videos somebody had liked until then, without those the user had. Ratios are of means over users and days, with
        intervals by the delta method, clustered by user. Seconds are of processor time of one thread, of all that
        `tandem train` does once it has read the data; so they do not depend on what else the machine does.
Expect: about six minutes of one core; `on` within 2% of `anew`, at a small part of the seconds.
Writes: benchmarks/results/daily_training.json; with --expire-days daily_training_expiry.json
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import quality_result, write_result

from rec.config import DataConfig, IncrementalConfig, TrainConfig
from rec.data.assembly import content_sha256
from rec.data.dataset import Dataset, Interactions
from rec.evaluation import EvaluationPeriod, evaluate, lists_of
from rec.metrics import format_estimate
from rec.models.growth import grown_weights
from rec.pipeline import assemble, train, two_tower_source
from rec.preparation import prepare_new, snapshot_at
from rec.recommender import Recommender
from rec.schema import FeatureSchema
from rec.training import Fitted, Progress
from rl.config import InstaTokConfig
from rl.instatok import ACTIONS, CATEGORIES, InstaTok, Sessions
from rl.instatok.log import MS_PER_DAY, viewing_ms
from rl.instatok.world import N_INTERESTS, SCHEMA, mean_watch_probability, offsets

WITHHELD: Final = ("category", "creator", "duration_s")
FEATURES: Final = FeatureSchema(features=tuple(each for each in SCHEMA.features if each.name not in WITHHELD))
METRICS: Final = ("ndcg@10", "recall@10")
STAGES: Final = ("two_stage", "retriever")
WARM_UP: Final = 12
LEAST_RATIO: Final = 0.98
CONFIG: Final = {
    "data": {"name": "instatok", "positive_actions": ["watched", "liked"]},
    "split": {"kind": "none"},
    "retriever": {
        "output_dim": 32,
        "user_tower": {"embedding_dim": 32, "hidden": [64]},
        "item_tower": {"embedding_dim": 32, "hidden": [64]},
        "queries": {"snapshots": 40, "horizon_days": 2, "half_life_days": 20, "epoch_share": 0.5, "min_batches": 20},
    },
    "training": {"workers": 0, "epochs": 5},
    "ranker": {"n_candidates": 100, "min_positives": 1, "queries_per_period": 2000},
}

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pace:
    """How large the world is, and how it changes from day to day.

    Attributes:
        users, videos: there are on the first day.
        sessions: a day.
        new_users, new_videos: come every day.
        drift: share of users who take other interests every day.
        fading_days: after which a video is come across exp(-1) times as often.
    """

    users: int = 2000
    videos: int = 500
    sessions: int = 1400
    new_users: int = 40
    new_videos: int = 25
    drift: float = 0.02
    fading_days: float = 7.0

    def n_users(self, day: int) -> int:
        """How many users there are on a day."""
        return self.users + self.new_users * day

    def n_videos(self, day: int) -> int:
        """How many videos there are on a day."""
        return self.videos + self.new_videos * day


def daily(pace: Pace, days: int, seed: int, *, first: int) -> Iterator[Dataset]:
    """All that happened until the end of each day from `first`, with the users and videos there are then."""
    world = InstaTok(InstaTokConfig(n_users=pace.n_users(days), n_videos=pace.n_videos(days), seed=seed))
    rng = np.random.default_rng([seed, 1])
    appeal = rng.lognormal(sigma=1.0, size=world.n_items)
    came = np.append(rng.integers(-30, 1, pace.videos), 1 + np.arange(pace.new_videos * days) // pace.new_videos)
    user_ids, item_ids = world.user_ids, world.item_ids
    users_frame, items_frame = world.users_frame(), world.items_frame().drop(columns=["title", *WITHHELD])
    parts: list[tuple[NDArray[Any], ...]] = []
    for day in range(days):
        n_users, n_items = pace.n_users(day), pace.n_videos(day)
        _drift(world, rng.random(world.n_users) < pace.drift, rng)
        weight = appeal[:n_items] * np.exp(-(day - came[:n_items]) / pace.fading_days)
        parts.append(_day(world, day, rng.integers(0, n_users, pace.sessions), weight / weight.sum(), rng))
        if day < first:
            continue
        user, item, timestamp, action = (np.concatenate(column) for column in zip(*parts, strict=True))
        log = Interactions(
            user_ids[:n_users], item_ids[:n_items], user, item, timestamp, action=action, actions=ACTIONS
        )
        yield _dataset(log, users_frame.iloc[:n_users], items_frame.iloc[:n_items])


def _drift(world: InstaTok, moved: NDArray[np.bool_], rng: np.random.Generator) -> None:
    world.interests[moved] = rng.random((int(moved.sum()), len(CATEGORIES))).argsort(axis=1)[:, :N_INTERESTS]
    world.watch_p = mean_watch_probability(*offsets(world.interests, world.region))


def _day(
    world: InstaTok, day: int, users: NDArray[np.integer], weight: Values, rng: np.random.Generator
) -> tuple[NDArray[Any], ...]:
    """Users, items, times and actions of the sessions of one day, by time."""
    sessions = Sessions(world, users)
    clock = world.config.start_ms + ((day + rng.random(len(users)) * 0.98) * MS_PER_DAY).astype(np.int64)
    rows: list[tuple[NDArray[Any], ...]] = []
    while not sessions.done.all():
        items = rng.choice(len(weight), len(users), p=weight)
        action = sessions.view(items, rng).action
        clock += viewing_ms(action, rng)
        seen = np.flatnonzero(action >= 0)
        rows.append((users[seen], items[seen], clock[seen], action[seen]))
    user, item, timestamp, action = (np.concatenate(column) for column in zip(*rows, strict=True))
    order = np.argsort(timestamp, kind="stable")
    return user[order].astype(np.int32), item[order].astype(np.int32), timestamp[order], action[order].astype(np.int16)


def _dataset(log: Interactions, users: pd.DataFrame, items: pd.DataFrame) -> Dataset:
    return Dataset("instatok", log, users, items, FEATURES, content_sha256(log, users, items, FEATURES))


def liked_on(dataset: Dataset, day: int, known: Interactions) -> Interactions:
    """What was liked on a day, without users and items there were not the day before."""
    start_ms = InstaTokConfig().start_ms + day * MS_PER_DAY
    liked = positives(dataset).between(start_ms, start_ms + MS_PER_DAY)
    kept = (liked.user < known.n_users) & (liked.item < known.n_items)
    return replace(liked.take(kept), user_ids=known.user_ids, item_ids=known.item_ids)


def positives(dataset: Dataset) -> Interactions:
    """What was liked."""
    data = DataConfig.model_validate(CONFIG["data"])
    return dataset.interactions.positives(min_rating=data.min_rating, positive_actions=data.positive_actions)


def judged(
    recommender: Recommender, known: Dataset, liked: Interactions
) -> tuple[NDArray[np.int32], dict[str, Values]]:
    """The users judged, and metrics of each by stage and name."""
    states = recommender.snapshot.user_states
    period = EvaluationPeriod.build(positives(known), liked, at_ms=recommender.snapshot.at_ms, states=states)
    models = {STAGES[0]: recommender.top_k, STAGES[1]: lists_of(recommender.source)}
    values = evaluate(models, period, metrics=METRICS).values
    return period.states.user, {f"{stage} {name}": values[stage][name] for stage in STAGES for name in METRICS}


def frozen(first: Recommender, dataset: Dataset, config: TrainConfig) -> Recommender:
    """The first model as it is, with what has become known since."""
    before = first.snapshot.encoders
    ready = prepare_new(dataset, config, first.snapshot)
    weights = grown_weights(first.two_tower.model, before, config.retriever, ready.encoders, seed=0)
    snapshot = snapshot_at(ready, config, ready.period_starts[-1])
    source = two_tower_source(snapshot, Fitted(weights, Progress()), config)
    return assemble(ready, config, snapshot, source, first.ranker.model)


def ratio(ours: Values, theirs: Values, user: NDArray[np.integer]) -> dict[str, float]:
    """Mean of ours over that of theirs, (n,) both, with a 95% interval clustered by user."""
    value = float(ours.mean() / theirs.mean())
    error = clustered_error((ours - value * theirs) / theirs.mean(), user)
    n_users = len(np.unique(user))
    half = float(stats.t.ppf(0.975, n_users - 1)) * error
    return {"ratio": value, "low": value - half, "high": value + half, "n_users": n_users}


def clustered_error(residuals: Values, user: NDArray[np.integer]) -> float:
    """Standard error of a mean whose residuals (n,) are independent between users, and not within."""
    _, cluster = np.unique(user, return_inverse=True)
    sums = np.bincount(cluster, weights=residuals)
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(residuals))


@dataclass
class Days:
    """What came of the days so far: rows of the table, and metrics of the users judged each day, by model."""

    rows: list[dict[str, Any]]
    users: list[NDArray[np.int32]]
    values: dict[str, list[dict[str, Values]]]

    def joined(self, model: str, metric: str) -> Values:
        """A metric of a model for all users of all days, (n,)."""
        return np.concatenate([day[metric] for day in self.values[model]])

    def ratios(self, model: str, other: str) -> dict[str, dict[str, float]]:
        """Of the means of two models, by metric."""
        user = np.concatenate(self.users)
        names = self.values[model][0]
        return {name: ratio(self.joined(model, name), self.joined(other, name), user) for name in names}

    def seconds(self, model: str) -> float:
        """Of training, all days together."""
        return sum(row["metrics"]["seconds"] for row in self.rows if row["model"] == model)


def measure(
    pace: Pace, config: TrainConfig, ways: Mapping[str, TrainConfig], *, warm_up: int, days: int, seed: int
) -> Days:
    """Trains in some ways on each day after the warm-up, and judges what came of it on the next.

    Args: config: of the first model. ways: configs by name; those that name a parent go on from their own.
    """
    worlds = daily(pace, warm_up + days + 1, seed, first=warm_up - 1)
    known = next(worlds)
    found = Days([], [], {name: [] for name in (*ways, "frozen")})
    with tempfile.TemporaryDirectory() as folder:
        train(known, config, f"{folder}/first")
        first = Recommender.load(f"{folder}/first")
        for name in ways:
            shutil.copytree(f"{folder}/first/models", f"{folder}/{name}/models")
        known = next(worlds)
        for day in range(days):
            models, seconds = {}, {}
            for name, way in ways.items():
                started = time.process_time()
                train(known, way, f"{folder}/{name}")
                seconds[name] = time.process_time() - started
                models[name] = Recommender.load(f"{folder}/{name}")
            models["frozen"] = frozen(first, known, config)
            following = next(worlds)
            liked = liked_on(following, warm_up + day + 1, known.interactions)
            for name, recommender in models.items():
                users, metrics = judged(recommender, known, liked)
                found.values[name].append(metrics)
                means = {metric: float(each.mean()) for metric, each in metrics.items()}
                spent = {"seconds": seconds[name]} if name in seconds else {}
                found.rows.append({"model": name, "seed": seed, "log": day + 1, "metrics": means | spent})
                told = "  ".join(f"{metric} {value:.4f}" for metric, value in (means | spent).items())
                print(f"day {day + 1:<3} {len(users)} users  {name:<10} {told}", flush=True)
            found.users.append(users)
            known = following
    return found


def summarised(found: Days) -> tuple[list[dict[str, Any]], dict[str, dict[str, dict[str, float]]]]:
    """Means over users and days with errors clustered by user, and ratios to training anew; the goal is 2% at most."""
    user = np.concatenate(found.users)
    ratios = {f"{model} / anew": found.ratios(model, "anew") for model in found.values if model != "anew"}
    summary = []
    for model, days in found.values.items():
        for metric in days[0]:
            values = found.joined(model, metric)
            goal = LEAST_RATIO * float(found.joined("anew", metric).mean()) if model == "on" else None
            mean = float(values.mean())
            error = clustered_error(values - mean, user)
            row = {"model": model, "metric": metric, "mean": mean, "std_error": error, "n": len(values)}
            reached = None if goal is None else mean >= goal
            summary.append({**row, "published": None, "goal": goal, "reached": reached})
    return summary, ratios


def incrementals(expire_days: float | None) -> dict[str, IncrementalConfig]:
    """The ways of training that are compared."""
    ways = {
        "anew": IncrementalConfig(),
        "on": IncrementalConfig(parent="CURRENT"),
        "on, replay": IncrementalConfig(parent="CURRENT", replay=0.3),
    }
    if expire_days is not None:
        ways["on, expiry"] = IncrementalConfig(parent="CURRENT", replay=0.3, expire_days=expire_days)
    return ways


def main() -> None:
    """Simulates, trains both ways each day, and prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--expire-days", type=float)
    options = parser.parse_args()
    pace = Pace()
    config = TrainConfig.model_validate({**CONFIG, "seed": options.seed})
    ways = {
        name: config.model_copy(update={"incremental": incremental})
        for name, incremental in incrementals(options.expire_days).items()
    }
    # Threads that wait for each other spend processor time, too.
    with threadpool_limits(1):
        found = measure(pace, config, ways, warm_up=WARM_UP, days=options.days, seed=options.seed)
    summary, ratios = summarised(found)
    seconds = {name: found.seconds(name) for name in ways}
    protocol = {
        "world": asdict(pace),
        "warm_up_days": WARM_UP,
        "days": options.days,
        "config": CONFIG,
        "incremental": {name: way.incremental.model_dump() for name, way in ways.items()},
        "ratios": ratios,
        "processor_seconds": seconds,
    }
    name = "daily_training" if options.expire_days is None else "daily_training_expiry"
    write_result(quality_result(name, protocol=protocol, rows=found.rows, summary=summary))
    for row in summary:
        told = format_estimate({"value": row["mean"], "std_error": row["std_error"]})
        print(f"{row['model']:<10} {row['metric']:<20} {told}")
    for pair, metrics in ratios.items():
        for metric, each in metrics.items():
            print(f"{pair:<17} {metric:<20} {each['ratio']:.3f} [{each['low']:.3f}, {each['high']:.3f}]")
    for name, spent in seconds.items():
        print(f"{name:<14} processor seconds {spent:.1f}, {spent / seconds['anew']:.3f} of training anew")


if __name__ == "__main__":
    main()
