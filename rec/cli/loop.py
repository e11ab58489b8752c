"""Days of a service that learns from its own log: people of a generated world use it, and a cycle follows each day.

A day is as long as its visits take, and is one to the cycle: what was asked in it is held out, what was known before it
is learned from. What people want is known of a generated world, so every estimate stands beside the truth.
"""

import asyncio
import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, final

import numpy as np

from rec.cli.simulate import FEEDBACK, RECOMMEND, HttpService
from rec.config import CycleConfig, GateConfig, TrainConfig
from rec.cycle.run import reasons, run_cycle
from rec.cycle.steps import STEPS
from rec.data.dataset import Dataset
from rec.data.event_rows import TableName
from rec.data.events import FOLDER, open_events
from rec.data.source import read_dataset
from rec.data.tabular import write_side_tables
from rec.eligibility import Eligible
from rec.errors import TandemError
from rec.features.as_of import DAY_MS
from rec.metrics import format_difference, format_estimate
from rec.pipeline import train
from rec.policy import sample_slate
from rec.recommender import Recommender
from rec.registry import Registry
from rec.schema import Feature, FeatureSchema
from rec.storage import Home
from rl.instatok.people import People, Visit, mean_reward
from rl.instatok.sessions import Sessions
from rl.instatok.slate_log import REWARD_OF, Candidates, log_slates
from rl.instatok.values import slate_value
from rl.instatok.world import ACTIONS, CATEGORIES, InstaTok
from serve.app import Server
from serve.config import PolicyConfig, ServeConfig, SessionsConfig
from serve.load import Reply

CLIENTS: Final = 16
SLATE: Final = 2
# The random slates come within these days, and the first model has learned from this share of them.
FIRST_DAYS: Final = 0.5
FIRST_SHARE: Final = 0.05
# Slates of everybody that a true value is the mean of.
DRAWS: Final = 40
WAIT_S: Final = 120.0
WATCHED: Final = "watched"
# Of compressed days: to see a slate takes less, and the next day begins later.
ATTRIBUTION_S: Final = 15
REWARDS: Final[dict[str, float]] = {str(action): value for action, value in REWARD_OF.items()}
POLICY: Final = PolicyConfig(epsilon=0.1, temperature=0.35)
# All videos are candidates, so that the log has what any ranker would show; rankers predict who watches what.
TRAIN: Final[dict[str, dict[str, Any]]] = {
    "data": {"name": "events", "positive_actions": [WATCHED], "rewards": REWARDS, "attribution_s": ATTRIBUTION_S},
    "split": {"kind": "none"},
    "retriever": {"output_dim": 16, "queries": {"min_batches": 3}},
    "training": {"workers": 0, "epochs": 1},
    "ranker": {
        "kind": "logistic",
        "learn_from": "answers",
        "min_positives": 1,
        "retrieval_weight": 0.0,
        "period_fractions": [0.1, 0.55],
        "logistic": {
            "bins": 2,
            "crosses": [["category", "interest_0"], ["category", "interest_1"], ["category", "region"]],
            "cross_categorical": False,
            "judged_by": "log_likelihood",
        },
        "logistic_training": {
            "epochs": 4,
            "batch_size": 1024,
            "learning_rate": 0.03,
            "weight_decay": 0.0,
        },
        "tasks": [{"name": WATCHED, "actions": [WATCHED]}],
    },
}
# Of the few thousand requests of a compressed day, the effective sample of another policy is about a third.
GATE: Final = GateConfig(min_ess=500)
CYCLE: Final = CycleConfig(rewards=REWARDS, attribution_s=ATTRIBUTION_S, anew=True, gate=GATE)


def serve_config(home: str) -> ServeConfig:
    """How the service runs: on a free port, and without memory of sessions, so that visits do not depend on others."""
    sessions = SessionsConfig(enabled=False)
    return ServeConfig(home=home, port=0, policy=POLICY, sessions=sessions, rewards=REWARDS, watch_s=0.5)


def begin(world: InstaTok, home: str, *, n_visits: int, rng: np.random.Generator) -> str:
    """A day of random slates before today, and a first model that knows little of it; returns its version."""
    start_ms = now_ms() - DAY_MS
    yesterday = InstaTok(world.config.model_copy(update={"start_ms": start_ms, "days": FIRST_DAYS}))

    def nothing(sessions: Sessions, rng: np.random.Generator) -> Candidates:
        return Candidates(np.full((len(sessions), 1), -1), np.zeros((len(sessions), 1)))

    drawn = {"k": SLATE, "epsilon": POLICY.epsilon, "temperature": POLICY.temperature, "max_requests": 1}
    log = log_slates(yesterday, nothing, n_sessions=n_visits, rng=rng, policy_version="random", **drawn)
    write_side_tables(_described(world), home, below=f"{FOLDER}/")
    log.append_to(open_events(home))
    config = {
        **TRAIN,
        "data": {**TRAIN["data"], "path": home, "now_ms": start_ms + int(FIRST_SHARE * FIRST_DAYS * DAY_MS)},
        "ranker": {**TRAIN["ranker"], "n_candidates": world.n_items},
    }
    return _trained(config, home, promote=True)


def _described(world: InstaTok) -> Dataset:
    """A world whose people have said what interests them, which InstaTok hides, and whose videos have a category."""
    dataset = world.dataset(n_sessions=1)
    stated = {
        f"interest_{place}": np.array(CATEGORIES, dtype=object)[named] for place, named in enumerate(world.interests.T)
    }
    features = [feature for feature in dataset.schema.features if feature.side == "user" or feature.name == "category"]
    features += [Feature(name=name, kind="categorical", side="user") for name in stated]
    return replace(
        dataset,
        users=dataset.users.assign(**stated),
        items=dataset.items[["item_id", "title", "category"]],
        schema=FeatureSchema(features=tuple(features)),
    )


def poisoned(home: str, *, until_ms: int) -> str:
    """As the model that serves, trained on what was known until then, but on answers turned into their opposite.

    Returns: its version, which does not serve.
    """
    config: dict[str, Any] = dict(Registry(Home(home)).open().manifest.config)
    opposite = [action for action in ACTIONS if action != WATCHED]
    return _trained(
        {
            **config,
            "data": {**config["data"], "path": home, "now_ms": until_ms, "positive_actions": opposite},
            "ranker": {**config["ranker"], "tasks": [{"name": WATCHED, "actions": opposite}]},
            "incremental": {},
        },
        home,
        promote=False,
    )


def served_value(recommender: Recommender, world: InstaTok, rng: np.random.Generator) -> float:
    """What a slate earns on average over everybody as this model serves it: exact, but for the draws of slates."""
    users = np.arange(world.n_users)
    known = np.array([recommender.user_known(str(user_id)) for user_id in world.user_ids])
    place = {item_id: position for position, item_id in enumerate(world.item_ids)}
    videos = np.array([place[item_id] for item_id in recommender.item_ids])
    total = 0.0
    for group in (users[known], users[~known]):
        if not len(group):
            continue
        states = recommender.hydrate([str(user_id) for user_id in world.user_ids[group]])
        candidates = recommender.retrieve(states)
        scores = recommender.rank(states, candidates)
        eligible = Eligible(recommender.n_items, states.excluded_indptr, states.excluded, recommender.cap)
        for _ in range(DRAWS):
            drawn = sample_slate(
                scores,
                candidates.items,
                eligible,
                SLATE,
                epsilon=POLICY.epsilon,
                temperature=POLICY.temperature,
                rng=rng,
            ).item_ids
            total += float(slate_value(world, group, np.where(drawn >= 0, videos[drawn], -1)).sum())
    return total / DRAWS / len(users)


@final
class Loop:
    """A service that runs, the people who use it, and the cycle after each of their days."""

    def __init__(self, server: Server, home: str, *, n_visits: int, seed: int) -> None:
        """Args: n_visits: a day, each of one slate."""
        self._server = server
        self._home = home
        self._n_visits = n_visits
        self._seed = seed
        self._number = 0
        self._closed_ms = 0

    def day(self, world: InstaTok, *, gate: GateConfig = GATE, poison: bool = False) -> dict[str, Any]:
        """A day of visits by people of a world, and what follows it.

        Args: poison: whether a poisoned challenger is judged by this day, before the one of the cycle.
        Returns: which version served, what its visits earned and are worth, and what came of each cycle.
        """
        self._number += 1
        time.sleep(max(0.0, self._closed_ms - now_ms()) / 1000)
        version = Registry(Home(self._home)).current()
        self._until(lambda: self._serving() == version, f"the service to take {version}")
        since = now_ms()
        visits, versions = self._visits(world)
        until = now_ms()
        self._closed_ms = until + ATTRIBUTION_S * 1000 + 2
        whole = [visit for visit in visits if not visit.cut_off]
        self._await_log(since, sum(versions.values()), sum(visit.n_items for visit in whole))
        given = [poisoned(self._home, until_ms=since - 1)] if poison else []
        config = CYCLE.model_copy(update={**_judging(since, until), "gate": gate})
        judged = [config.model_copy(update={"challenger": challenger}) for challenger in (*given, None)]
        return {
            "day": self._number,
            "version": version,
            "versions": versions,
            "reward": mean_reward(visits),
            "cut_off": len(visits) - len(whole),
            "true_value": self._truth(version, world),
            "cycles": [self._cycle(world, each) | {"poisoned": each.challenger is not None} for each in judged],
        }

    def _visits(self, world: InstaTok) -> tuple[list[Visit], dict[str, int]]:
        """What became of each visit of the day, and how many slates each version gave."""
        people = People(world, self._seed + self._number)
        replies: dict[str, list[Reply | None]] = {RECOMMEND: [], FEEDBACK: []}
        services = [HttpService(self._server.address, replies) for _ in range(CLIENTS)]

        async def visit_all() -> list[Visit]:
            try:
                return await people.visit_all(services, self._n_visits, SLATE)
            finally:
                for service in services:
                    service.close()

        visits = asyncio.run(visit_all())
        return visits, dict(sum((service.versions for service in services), Counter[str]()))

    def _serving(self) -> str:
        with urllib.request.urlopen(f"{self._server.address}/health/ready", timeout=WAIT_S) as answer:
            return json.load(answer)["version"]

    def _await_log(self, since_ms: int, n_requests: int, n_events: int) -> None:
        """Returns when the tables hold what was answered since a time."""
        events = open_events(self._home)
        wanted: dict[TableName, int] = {"requests": n_requests, "feedback": n_events}

        def complete() -> bool:
            columns = ["request_id"]
            return all(len(events.read(name, since_ms=since_ms, columns=columns)) >= n for name, n in wanted.items())

        self._until(complete, f"{n_requests} requests and {n_events} answers to be in the log")

    @staticmethod
    def _until(holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not holds():
            if time.monotonic() > deadline:
                raise TandemError(f"waited {WAIT_S:.0f} s for {what}")
            time.sleep(0.1)

    def _cycle(self, world: InstaTok, config: CycleConfig) -> dict[str, Any]:
        """What a cycle found, and what is true of its challenger."""
        journal = run_cycle(self._home, config, STEPS)
        found = journal.steps.get("estimate", {})
        trained = journal.steps.get("train", {}).get("challenger")
        return {
            "status": journal.status,
            "challenger": trained,
            "reasons": reasons(journal),
            "comparison": found.get("comparison"),
            "gain": _gain(found["comparison"]["difference"]) if "comparison" in found else None,
            "reproduced": found.get("reproduced"),
            "true_value": None if trained is None else self._truth(trained, world),
            "seconds": sum(step["seconds"] for step in journal.steps.values()),
        }

    def _truth(self, version: str | None, world: InstaTok) -> float:
        rng = np.random.default_rng(self._seed)
        return served_value(Recommender.load(self._home, version), world, rng)


def _judging(since_ms: int, until_ms: int) -> dict[str, Any]:
    """Of a cycle: when all that was asked in this time has been answered, and that it is what judges."""
    return {"now_ms": until_ms + ATTRIBUTION_S * 1000, "held_out_days": (until_ms - since_ms) / DAY_MS}


def _trained(config: Mapping[str, Any], home: str, *, promote: bool) -> str:
    checked = TrainConfig.model_validate(config)
    return train(read_dataset(checked.data), checked, home, promote=promote)["version"]


def now_ms() -> int:
    """UTC milliseconds, as the service stamps what it logs."""
    return time.time_ns() // 1_000_000


def _gain(difference: Mapping[str, Any]) -> dict[str, Any]:
    """An estimated gain as `format_difference` takes it."""
    around = difference["interval"] or {"low": None, "high": None}
    return {"difference": difference["value"], "low": around["low"], "high": around["high"]}


def told(day: Mapping[str, Any]) -> str:
    """A day in a few lines."""
    reward = format_estimate(day["reward"])
    lines = [f"day {day['day']}: {day['version']} served; a visit earned {reward}, in truth {day['true_value']:.4f}"]
    for cycle in day["cycles"]:
        told = f"{'poisoned ' if cycle['poisoned'] else ''}challenger {cycle['status']}"
        if cycle["gain"] is not None:
            gain = cycle["true_value"] - day["true_value"]
            told += f", estimated gain {format_difference(cycle['gain'])}, true {gain:+.4f}"
        lines.append("; ".join([f"  {told}", *cycle["reasons"]]))
    return "\n".join(lines)
