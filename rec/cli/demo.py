"""The whole of it on a generated world: train, evaluate, publish, serve, sessions over HTTP, the loop, and a report."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rec.bundle_evaluation import TWO_STAGE, evaluate_bundle
from rec.cli.loop import SLATE as VISIT
from rec.cli.loop import Loop, begin, serve_config, told
from rec.config import BaselinesConfig, DataConfig, EvaluationConfig, TrainConfig
from rec.metrics import format_estimate
from rec.pipeline import train
from rec.report import EVALUATION_FILE, LOOP_FILE, SESSIONS_FILE, write_report
from rl.config import InstaTokConfig
from rl.instatok import InstaTok, Sessions, play, true_value, uniform
from serve.app import Server, prepare_environment, start
from serve.config import ServeConfig
from serve.load import post_all

SLATE: Final = 10
CLIENTS: Final = 16
DAYS: Final = 2
FIRST_VISITS: Final = 20_000


def run_demo(home: str, *, n_sessions: int, n_visits: int, workers: int, seed: int) -> dict[str, Any]:
    """Runs everything and returns what the report shows, in short."""
    started = perf_counter()
    # Training starts the Ray that serves later, and Serve's variables are read when Ray starts.
    prepare_environment()
    world = InstaTok(InstaTokConfig(n_users=1000, n_videos=2000, sessions_per_user=50.0, seed=seed))
    dataset = world.dataset()
    print(
        f"1. A world of {world.n_users} people and {world.n_items} short videos; {len(dataset.interactions):,} views."
    )

    # In this world a like comes from those who did not watch to the end: only watching says what people want.
    data = DataConfig(name="instatok", positive_actions=("watched",))
    config = _config(data, workers, seed)
    trained = train(dataset, config, home)
    print(f"2. Trained both stages, the retriever on {workers} workers; published {trained['version']}.")

    run = Path(trained["run_dir"])
    baselines = BaselinesConfig(names=("popularity", "recent_popularity", "item_knn", "ease"))
    evaluation = evaluate_bundle(dataset, EvaluationConfig(baselines=baselines), home)
    _write(run / EVALUATION_FILE, evaluation)
    print("3. Offline, on the days held out (NDCG@10, users' mean):")
    for model, metrics in evaluation["models"].items():
        print(f"     {model:<18} {format_estimate(metrics['ndcg@10'])}")
    for row in evaluation["paired"]:
        if row["a"] == TWO_STAGE and row["metric"] == "ndcg@10":
            print(f"     {TWO_STAGE} - {row['b']}: {row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]")

    with start(ServeConfig(home=home, port=0)) as server:
        print(f"4. Served at {server.address}.")
        sessions = _sessions(server, world, n_sessions, seed)
    _write(run / SESSIONS_FILE, sessions)
    print(f"5. {n_sessions} sessions over HTTP; reward of a session:")
    for row in sessions["rewards"]:
        error = "" if row["std_error"] is None else f" ± {row['std_error']:.2f}"
        print(f"     {row['policy']:<18} {row['mean']:.2f}{error}")
    first = sessions["slate"]["items"][0]
    print(
        f"   {sessions['slate']['user_id']} was shown first: {first['title']} "
        f"(propensity {first['propensity']:.3f}, from {first['source']})."
    )
    print(f"6. {DAYS} days of a service that knows little; after each, a cycle trains a challenger and judges it:")
    days = _days(f"{home}/loop-{trained['version']}", n_visits, seed)
    _write(run / LOOP_FILE, {"days": days})
    report = write_report(run)
    print(f"7. Report: {report}")
    print(f"   Ask it yourself: tandem recommend --home {home} --user-id {sessions['slate']['user_id']}")
    return {
        "version": trained["version"],
        "report": str(report),
        "evaluation": {name: metrics["ndcg@10"]["value"] for name, metrics in evaluation["models"].items()},
        "rewards": sessions["rewards"],
        "days": days,
        "seconds": round(perf_counter() - started, 1),
    }


def _config(data: DataConfig, workers: int, seed: int) -> TrainConfig:
    # People in this world want kinds of videos, not single ones: what they skipped teaches as much as what they saw.
    ranker = {
        "n_candidates": 200,
        "learn_from": "answers",
        "min_positives": 1,
        "retrieval_weight": 0.0,
        "queries_per_period": 2000,
        "tasks": [{"name": "watched", "actions": ["watched"]}],
    }
    training = {"workers": workers, "epochs": 2}
    return TrainConfig.model_validate({"data": data, "seed": seed, "training": training, "ranker": ranker})


def _sessions(server: Server, world: InstaTok, n_sessions: int, seed: int) -> dict[str, Any]:
    """Sessions of random people who are served slate after slate until they leave, beside random videos."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, world.n_users, n_sessions)
    served = Sessions(world, users)
    shown: list[list[str]] = [[] for _ in users]
    example: dict[str, Any] | None = None
    while not served.done.all():
        rows = np.flatnonzero(~served.done)
        answers = _ask(server, world, users, rows, shown)
        example = example or {"user_id": str(world.user_ids[users[rows[0]]]), "items": answers[0]["items"]}
        slates = np.full((n_sessions, SLATE), -1, np.int64)
        for row, answer in zip(rows, answers, strict=True):
            ids = [item["item_id"] for item in answer["items"]]
            slates[row, : len(ids)] = _positions(world, ids)
            shown[row] += ids
        served.view_slates(slates, rng)
    ceiling = true_value(world).reward.max(axis=1)[users]
    return {
        "rewards": [
            _row("random videos", play(world, users, uniform, rng).total_reward),
            _row("served", served.total_reward),
            {"policy": "ceiling (exact)", "mean": float(ceiling.mean()), "std_error": None, "n": n_sessions},
        ],
        "slate": example,
    }


def _days(home: str, n_visits: int, seed: int) -> list[dict[str, Any]]:
    """A few compressed days of a service of its own; on the last of them a poisoned challenger comes, too."""
    world = InstaTok(InstaTokConfig(n_users=800, n_videos=100, max_steps=VISIT, seed=seed))
    begin(world, home, n_visits=FIRST_VISITS, rng=np.random.default_rng(seed))
    days = []
    with start(serve_config(home)) as server:
        loop = Loop(server, home, n_visits=n_visits, seed=seed)
        for number in range(1, DAYS + 1):
            days.append(loop.day(world, poison=number == DAYS))
            print("   " + told(days[-1]).replace("\n", "\n   "))
    return days


def _ask(
    server: Server, world: InstaTok, users: NDArray[np.int64], rows: NDArray[np.int64], shown: Sequence[list[str]]
) -> list[dict[str, Any]]:
    bodies = [
        json.dumps({"user_id": str(world.user_ids[users[row]]), "n": SLATE, "exclude": shown[row]}).encode()
        for row in rows
    ]
    replies = asyncio.run(post_all(f"{server.address}/v1/recommend", bodies, clients=CLIENTS))
    for reply in replies:
        if reply.status != 200:
            raise RuntimeError(f"the service answered {reply.status}: {reply.body[:200]!r}")
    return [json.loads(reply.body) for reply in replies]


def _positions(world: InstaTok, item_ids: Sequence[str]) -> NDArray[np.int64]:
    known = {item_id: position for position, item_id in enumerate(world.item_ids)}
    return np.array([known[item_id] for item_id in item_ids], np.int64)


def _row(policy: str, rewards: NDArray[np.float64]) -> dict[str, Any]:
    error = float(rewards.std(ddof=1) / len(rewards) ** 0.5) if len(rewards) > 1 else None
    return {"policy": policy, "mean": float(rewards.mean()), "std_error": error, "n": len(rewards)}


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
