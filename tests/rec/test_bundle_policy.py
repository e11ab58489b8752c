"""A bundle beside the log of another: what either catalogue lacks."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rec.bundle import BundleDetails
from rec.bundle_policy import bundle_policy, logged_cap, warn_of_other_catalogue
from rec.config import RulesConfig, TrainConfig
from rec.data.rounds import join_rounds
from rec.errors import ConfigError
from rec.item_groups import ItemCap
from rec.ope import OverlapWarning
from rec.ope.slate_log import SlateLog, slate_log
from rec.recommender import ITEMS_FILE
from rec.registry import Registry
from rec.schema import Feature, FeatureSchema
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.slate_log import REWARD_OF, by_category, log_slates


@pytest.fixture(scope="module")
def world() -> InstaTok:
    return InstaTok(InstaTokConfig(n_users=30, n_videos=50, seed=2))


@pytest.fixture(scope="module")
def log(world: InstaTok) -> SlateLog:
    policy, rng = by_category(world.watch_p, 10), np.random.default_rng(0)
    found = log_slates(world, policy, n_sessions=90, k=3, epsilon=0.3, temperature=0.5, rng=rng, max_requests=1)
    rewards: Any = REWARD_OF
    return slate_log(join_rounds(found.requests, found.impressions, found.feedback, rewards=rewards, now_ms=2**50))


def bundle(item_ids: list[str], withdrawn: Collection[str] = ()) -> Any:
    place = {item: at for at, item in enumerate(item_ids)}
    snapshot = SimpleNamespace(
        item_positions=lambda ids: np.array([place.get(item, -1) for item in ids]),
        withdrawn=np.array([item in withdrawn for item in item_ids]),
    )
    return SimpleNamespace(version="v", snapshot=snapshot)


RULES = RulesConfig(cap_column="creator", cap_limit=1)


def items_of(world: InstaTok, creators: int = 7) -> pd.DataFrame:
    ids = np.asarray(world.item_ids, object)
    return pd.DataFrame({"item_id": ids, "creator": [f"c{place % creators}" for place in range(len(ids))]})


def capped_log(world: InstaTok) -> SlateLog:
    cap = ItemCap.of(RULES, items_of(world))
    assert cap is not None
    found = log_slates(
        world,
        by_category(world.watch_p, 10),
        n_sessions=90,
        k=3,
        epsilon=0.3,
        temperature=0.5,
        rng=np.random.default_rng(0),
        max_requests=1,
        cap=cap.of_items(np.asarray(world.item_ids, object)),
    )
    rewards: Any = REWARD_OF
    rounds = join_rounds(found.requests, found.impressions, found.feedback, rewards=rewards, now_ms=2**50)
    return slate_log(rounds, cap=cap)


def ranking(world: InstaTok, rules: RulesConfig, items: pd.DataFrame) -> Any:
    recommender = Ranking(list(world.item_ids), list(world.user_ids))
    recommender.config.rules, recommender.snapshot.item_table = rules, items
    return recommender


def test_a_bundle_is_judged_under_the_cap_of_the_log(world: InstaTok) -> None:
    log = capped_log(world)
    epsilon, temperature = log.logging.epsilon, log.logging.temperature
    policy = bundle_policy(ranking(world, RULES, items_of(world)), log, epsilon=epsilon, temperature=temperature)
    assert policy.cap is not None and policy.cap.limit == 1
    creator_of = dict(zip(*(items_of(world)[name] for name in ("item_id", "creator")), strict=True))
    by_code = [creator_of[str(item)] for item in log.item_ids]
    groups = policy.cap.groups[: len(by_code)]
    assert all((groups[a] == groups[b]) == (by_code[a] == by_code[b]) for a in range(20) for b in range(20))


@pytest.mark.parametrize("capped", ["bundle", "log", "both"])
def test_a_bundle_of_another_rule_than_the_logs_is_refused(world: InstaTok, log: SlateLog, capped: str) -> None:
    judged = log if capped == "bundle" else capped_log(world)
    rules = {"bundle": RULES, "log": RulesConfig(), "both": RULES.model_copy(update={"cap_limit": 2})}[capped]
    told = {"bundle": "bundle v caps creator at 1 a slate", "log": "the log caps creator", "both": "caps differ"}
    with pytest.raises(ConfigError, match=told[capped]) as raised:
        epsilon, temperature = judged.logging.epsilon, judged.logging.temperature
        bundle_policy(ranking(world, rules, items_of(world)), judged, epsilon=epsilon, temperature=temperature)
    assert raised.value.field == "rules.cap_column"


def published(home: Home, rules: RulesConfig, items: pd.DataFrame) -> str:
    details = BundleDetails(config=TrainConfig(rules=rules).model_dump(mode="json"), seed=0, schema_sha256="0" * 64)
    return Registry(home).publish(lambda folder: items.to_parquet(folder / ITEMS_FILE, index=False), details)


def test_the_cap_of_a_log_is_that_of_the_bundles_that_drew_it(world: InstaTok, tmp_path: Path) -> None:
    home, items = Home(str(tmp_path)), items_of(world)
    first, second = (published(home, RULES, part) for part in (items[:30], items[20:]))
    free, moved = published(home, RulesConfig(), items), published(home, RULES, items_of(world, 5))
    cap = logged_cap(home, [first, second, first, "gone"])
    assert cap == ItemCap.of(RULES, items)
    assert logged_cap(home, [free]) is None and logged_cap(home, ["gone"]) is None
    with pytest.raises(ConfigError, match=f"bundle {free} drew slates of the log without a cap"):
        logged_cap(home, [first, free])
    with pytest.raises(ConfigError, match="creator of item"):
        logged_cap(home, [first, moved])


def test_of_the_same_catalogue_nothing_is_said(
    world: InstaTok, log: SlateLog, recwarn: pytest.WarningsRecorder
) -> None:
    none = {"n_unknown_items": 0, "n_withdrawn_items": 0}
    assert warn_of_other_catalogue(bundle(list(world.item_ids)), log) == none
    # Items that the log never had, and nobody can be shown, are no larger catalogue.
    gone = [f"gone-{n}" for n in range(60)]
    assert warn_of_other_catalogue(bundle([*world.item_ids, *gone], gone), log) == none
    assert not recwarn.list


def test_impressions_of_unknown_items_are_counted(world: InstaTok, log: SlateLog) -> None:
    unknown = str(log.item_ids[log.slate[0, 0]])
    expected = int((log.item_ids[log.slate] == unknown).sum())
    with pytest.warns(
        OverlapWarning, match=f"{expected} of {log.slate.size} logged impressions.*{unknown!r} in request"
    ):
        found = warn_of_other_catalogue(bundle([item for item in world.item_ids if item != unknown]), log)
    assert found == {"n_unknown_items": expected, "n_withdrawn_items": 0}
    with pytest.warns(OverlapWarning, match=f"{expected} of .*withdrawn from bundle v.*{unknown!r}"):
        found = warn_of_other_catalogue(bundle(list(world.item_ids), [unknown]), log)
    assert found == {"n_unknown_items": 0, "n_withdrawn_items": expected}


def test_a_larger_catalogue_than_the_log_ever_had_is_said(world: InstaTok, log: SlateLog) -> None:
    most = world.n_items + max(len(items) for items in log.history)
    grown = bundle([*world.item_ids, *(f"new-{n}" for n in range(60))])
    with pytest.warns(OverlapWarning, match=f"has 110 items, of which at most {most} were"):
        warn_of_other_catalogue(grown, log)


class Ranking:
    """Retrieves whatever a user has not had, as far as the request says, and ranks it by its place; knows half of all
    users."""

    def __init__(self, item_ids: list[str], users: list[str]) -> None:
        self.item_ids, self.known = np.array(item_ids, dtype=object), set(users[::2])
        self.version = "v"
        place = {item: at for at, item in enumerate(item_ids)}
        self.snapshot = SimpleNamespace(
            item_table=None,
            item_positions=lambda ids: np.array([place.get(item, -1) for item in ids]),
            encoders=SimpleNamespace(
                schema=FeatureSchema(features=(Feature(name="age", kind="numeric", side="user"),))
            ),
        )
        self.features: dict[str, list[dict[str, Any]]] = {}
        self.recent: dict[str, list[list[str]]] = {}
        self.config = SimpleNamespace(ranker=SimpleNamespace(n_candidates=len(item_ids)), rules=RulesConfig())

    def user_known(self, user_id: str) -> bool:
        return user_id in self.known

    def hydrate(
        self,
        user_ids: list[str],
        *,
        exclude: list[list[str]],
        recent: list[list[str]],
        features: list[dict[str, Any]],
    ) -> list[list[str]]:
        asked = list(zip(user_ids, recent, features, strict=True))
        known = {self.user_known(user_id) or bool(taken) or bool(told) for user_id, taken, told in asked}
        assert len(known) == 1, "states are of those of whom something is known, or of others"
        for user_id, taken, told in asked:
            self.recent.setdefault(user_id, []).append(taken)
            self.features.setdefault(user_id, []).append(told)
        return exclude

    def retrieve(self, states: list[list[str]]) -> Any:
        items = np.full((len(states), len(self.item_ids)), -1)
        for row, excluded in enumerate(states):
            left = [place for place, item in enumerate(self.item_ids) if item not in excluded]
            items[row, : len(left)] = left
        return SimpleNamespace(items=items)

    def rank(self, states: list[list[str]], candidates: Any) -> np.ndarray:
        return candidates.items.astype(float)


def test_a_bundle_ranks_everything_but_the_history_and_exclusions_of_each_request(
    world: InstaTok, log: SlateLog
) -> None:
    """That of the request, and not of another of its user's: they are told apart, and some are empty."""
    histories = [
        np.array(world.item_ids[[row % 50, (row + 7) % 50]] if row % 3 else [], object) for row in range(len(log))
    ]
    excluded = [np.array(world.item_ids[[(row + 3) % 50]] if row % 2 else [], object) for row in range(len(log))]
    away = [{*past, *items} for past, items in zip(histories, excluded, strict=True)]
    recommender: Any = Ranking(list(world.item_ids), list(world.user_ids))
    epsilon, temperature = np.linspace(0.1, 0.3, len(log)), np.full(len(log), 0.5)
    told = [{"age": float(row), "of another model": "x"} if row % 5 == 0 else {} for row in range(len(log))]
    policy = bundle_policy(
        recommender,
        replace(log, history=histories, excluded=excluded, user_features=told),
        epsilon=epsilon,
        temperature=temperature,
    )
    for user_id, found in recommender.features.items():
        of_user = [float(row) for row in np.flatnonzero(log.user_id == user_id) if row % 5 == 0]
        assert [each for each in found if each] == [{"age": age} for age in of_user]
    everything = log.codes([list(world.item_ids)])[0]
    code_of = dict(zip(world.item_ids, everything.tolist(), strict=True))
    for row, items in enumerate(away):
        listed = policy.candidates[row] >= 0
        expected = [code_of[item] for item in world.item_ids if item not in items]
        assert policy.candidates[row][listed].tolist() == expected
        assert policy.scores[row][listed].tolist() == [
            float(place) for place, item in enumerate(world.item_ids) if item not in items
        ]
    assert policy.epsilon.tolist() == epsilon.tolist() and policy.temperature.tolist() == temperature.tolist()
    taken: dict[str, list[list[str]]] = {}
    for user_id, past in zip(log.user_id, histories, strict=True):
        taken.setdefault(str(user_id), []).append(past.tolist())
    assert {user: sorted(lists) for user, lists in recommender.recent.items()} == {
        user: sorted(lists) for user, lists in taken.items()
    }
