"""Several sources, caps and boosts, from the bundle to the answer."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

import rec
from rec.bundle import BundleDetails
from rec.config import CosineConfig, OtherSource, RulesConfig, SourcesConfig
from rec.data.dataset import Dataset
from rec.errors import BundleError, ConfigError
from rec.i2i import INSTATOK_SCORES
from rec.preparation import prepare
from rec.recommender import Recommender
from rec.registry import Registry
from rec.source_fits import as_retriever, fit_sources
from rec.storage import Home
from serve.api import Api
from serve.arms import Arms
from serve.config import PolicyConfig, ServeConfig
from serve.gateway import Gateway
from serve.select import EXPLORE, Selection, SelectStage
from serve.stages import Stages

QUOTAS: dict[OtherSource, int] = {
    "ease": 12,
    "popularity": 6,
    "fresh": 4,
    "swing": 6,
    "weighted_score": 6,
    "business": 2,
}
EPSILON, TEMPERATURE = 0.2, 0.5


def _rules(recommender: Recommender) -> RulesConfig:
    first, second = sorted(set(recommender.snapshot.item_table["category"]))[:2]
    return RulesConfig(cap_column="creator", cap_limit=1, boost_column="category", boosts={first: 0.5, second: -0.25})


@pytest.fixture(scope="module")
def blended(recommender: Recommender, dataset: Dataset) -> Recommender:
    """The trained bundle with more sources, as it would have been trained with them, and with rules."""
    listed = tuple(recommender.item_ids[[7, 3]])
    cosine = CosineConfig(scores=dict(INSTATOK_SCORES))
    sources = SourcesConfig(quotas=QUOTAS, business=listed, interest_column="category", cosine=cosine)
    config = recommender.config.model_copy(update={"sources": sources, "rules": _rules(recommender)})
    ready = prepare(dataset, config)
    counted = fit_sources(ready.split.train, recommender.snapshot, config, log=ready.log)
    return replace(recommender, config=config, source=as_retriever(recommender.two_tower, counted, config))


@pytest.fixture(scope="module")
def published(blended: Recommender, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home whose CURRENT bundle is the blended one."""
    home = str(tmp_path_factory.mktemp("blend") / "home")
    registry = Registry(Home(home))
    details = BundleDetails(config=blended.config.model_dump(mode="json"), seed=0, schema_sha256="0" * 64)
    registry.promote(registry.publish(blended.save, details))
    return home


@pytest.fixture
def ask_blended(blended: Recommender, published: str, ask: Callable[..., httpx.Response]):
    config = ServeConfig(home=published, seed=0, policy=PolicyConfig(epsilon=0.3, temperature=TEMPERATURE))
    arms = Arms.of_config(config, "v", {"v": Stages.here(blended, config)})
    gateway = Gateway(arms, Registry(Home(published)))
    return partial(ask, Api(gateway, ServeConfig(home=".", max_body_bytes=10_000)), "POST", "/v1/recommend")


def select(recommender: Recommender, user_id: str, n: int, seed: int) -> Selection:
    policy = PolicyConfig(epsilon=EPSILON, temperature=TEMPERATURE)
    states = recommender.hydrate([user_id])
    candidates = recommender.retrieve(states)
    stage = SelectStage(recommender, np.random.SeedSequence(seed))
    return stage(states, candidates, recommender.rank(states, candidates), n, policy)[0]


def test_answers_name_the_sources_that_found_each_item(ask_blended, blended: Recommender, user_id: str):
    candidates = blended.retrieve(blended.hydrate([user_id]), 100)
    sources = {
        str(blended.item_ids[item]): candidates.sources_of(0, column)
        for column, item in enumerate(candidates.items[0])
        if item >= 0
    }
    assert {name for found in sources.values() for name in found} == {"two_tower", *QUOTAS}
    answer = ask_blended(json={"user_id": user_id, "n": 100, "explain": True}).json()
    shown = {item["item_id"]: item["source"] for item in answer["items"]}
    assert EXPLORE in shown.values() and len(set(shown.values())) > 3
    assert shown == {item_id: sources.get(item_id, (EXPLORE,))[0] for item_id in shown}
    assert answer["sources"] == {item_id: list(sources.get(item_id, (EXPLORE,))) for item_id in shown}
    plain = ask_blended(json={"user_id": user_id, "n": 5}).json()
    assert "sources" not in plain and all(item["source"] for item in plain["items"])


def test_every_candidate_has_the_two_tower_score_that_the_ranker_reads(blended: Recommender, user_id: str):
    states = blended.hydrate([user_id])
    found = blended.retrieve(states)
    assert found.provenance is not None and (found.items >= 0).all()
    np.testing.assert_array_equal(found.scores, blended.two_tower.scores(states, found.items))


def test_a_published_blend_finds_and_ranks_as_before(blended: Recommender, published: str, user_id: str):
    loaded = rec.load(published)
    for user in (user_id, "nobody has this id"):
        assert loaded.recommend(user, 20).items == blended.recommend(user, 20).items
    states = blended.hydrate([user_id])
    before, after = blended.retrieve(states), loaded.retrieve(states)
    assert before.provenance is not None and after.provenance is not None
    np.testing.assert_array_equal(after.items, before.items)
    np.testing.assert_array_equal(after.provenance.found_by, before.provenance.found_by)


def test_a_source_without_its_file_is_refused_by_name(blended: Recommender, tmp_path: Path):
    registry = Registry(Home(str(tmp_path)))
    details = BundleDetails(config=blended.config.model_dump(mode="json"), seed=0, schema_sha256="0" * 64)

    def without_ease(folder: Path) -> None:
        blended.save(folder)
        (folder / "ease.safetensors").unlink()

    registry.promote(registry.publish(without_ease, details))
    with pytest.raises(BundleError, match=r"ease\.safetensors"):
        rec.load(str(tmp_path))


def test_propensities_under_a_cap_are_those_of_the_definition(blended: Recommender, user_id: str):
    states = blended.hydrate([user_id])
    candidates = blended.retrieve(states)
    score = dict(zip(candidates.items[0].tolist(), blended.rank(states, candidates)[0].tolist(), strict=True))
    creator = blended.snapshot.item_table["creator"].tolist()
    allowed = set(range(blended.n_items)) - set(states.excluded.tolist())
    for seed in range(20):
        shown = select(blended, user_id, 8, seed).items
        above: list[int] = []
        for item in shown:
            position = blended.position_of(item.item_id)
            used = {creator[other] for other in above}
            eligible = {other for other in allowed if other not in above and creator[other] not in used}
            weights = {other: np.exp(value / TEMPERATURE) for other, value in score.items() if other in eligible}
            share = weights.get(position, 0.0) / sum(weights.values())
            assert item.n_eligible == len(eligible) and position in eligible
            assert item.propensity == pytest.approx(EPSILON / len(eligible) + (1 - EPSILON) * share, rel=1e-9)
            above.append(position)


def test_recommended_lists_keep_the_cap_and_take_the_best_that_it_lets(blended: Recommender, user_id: str):
    states = blended.hydrate([user_id])
    candidates = blended.retrieve(states)
    scores = blended.rank(states, candidates)[0]
    creator = blended.snapshot.item_table["creator"].tolist()
    expected: list[int] = []
    for column in np.lexsort((candidates.items[0], -scores)):
        item = int(candidates.items[0, column])
        if creator[item] not in {creator[other] for other in expected}:
            expected.append(item)
    found = blended.top_k(states, 30)[0]
    assert len(expected) < 30, "the cap has to make the list short"
    assert found.tolist() == expected + [-1] * (30 - len(expected))
    answer = blended.recommend(user_id, 30)
    assert answer.short and [blended.position_of(item.item_id) for item in answer.items] == expected
    assert max(Counter(creator[item] for item in expected).values()) == 1


def test_boosts_are_added_to_the_score_and_multiply_the_odds(blended: Recommender, user_id: str):
    plain = replace(blended, config=blended.config.model_copy(update={"rules": RulesConfig()}))
    states = blended.hydrate([user_id])
    candidates = blended.retrieve(states)
    boosts = blended.config.rules.boosts
    added = [boosts.get(blended.snapshot.item_table["category"][item], 0.0) for item in candidates.items[0]]
    assert len(set(added)) == 3
    boosted, before = blended.rank(states, candidates), plain.rank(states, candidates)
    np.testing.assert_array_equal(boosted[0], before[0] + added)
    np.testing.assert_array_equal(blended.unranked(candidates)[0], candidates.scores[0] + added)


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        (RulesConfig(cap_column="author"), "rules.cap_column"),
        (RulesConfig(boost_column="author", boosts={"a": 1.0}), "rules.boost_column"),
        (RulesConfig(boost_column="category", boosts={"no such": 1.0}), "rules.boosts"),
    ],
)
def test_rules_that_no_item_follows_are_refused_before_training(
    dataset: Dataset, recommender: Recommender, rules: RulesConfig, field: str, tmp_path: Path
):
    from rec.pipeline import train

    with pytest.raises(ConfigError) as raised:
        train(dataset, recommender.config.model_copy(update={"rules": rules}), str(tmp_path))
    assert raised.value.field == field
    assert not list(tmp_path.glob("runs/*"))
