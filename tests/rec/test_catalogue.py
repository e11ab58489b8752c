"""A catalogue changes without training: what did not change stays as it was, and what did is answered for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rec.bundle import UPDATE_OF, BundleDetails
from rec.bundle_evaluation import evaluate_bundle, what_differs
from rec.catalogue import CatalogueChange, update_bundle, with_catalogue
from rec.config import (
    EvaluationConfig,
    LambdaMARTConfig,
    RankerConfig,
    RetrieverConfig,
    RulesConfig,
    SourcesConfig,
    TowerConfig,
    TrainConfig,
)
from rec.data.dataset import Dataset
from rec.eligibility import Eligible
from rec.errors import BundleError, ConfigError, DataError
from rec.models.lambdamart import fit_lambdamart
from rec.models.two_tower import TwoTower
from rec.pipeline import assemble
from rec.policy import position_probabilities, sample_slate, slate_propensities
from rec.preparation import prepare, snapshot_at
from rec.ranking.fits import RankingPeriods
from rec.recommender import Recommender
from rec.registry import Registry
from rec.retrieval.blend import Blend
from rec.retrieval.two_tower import TwoTowerSource
from rec.source_fits import as_retriever, fit_sources
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

N_ITEMS, AT_MS = 60, 10**13
CONFIG = TrainConfig(
    retriever=RetrieverConfig(item_tower=TowerConfig(id_dropout=0.2), output_dim=16),
    sources=SourcesConfig(
        quotas={
            "ease": 3, "item_knn": 2, "swing": 2, "cosine": 2, "popularity": 1, "recent_popularity": 2, "fresh": 2,
            "business": 1,
        },
        business=("video-3",),
    ),
    rules=RulesConfig(cap_column="creator", boost_column="category", boosts={"news": 0.5}),
    ranker=RankerConfig(
        n_candidates=30, min_positives=1, queries_per_period=60, lambdamart=LambdaMARTConfig(min_data_in_leaf=5)
    ),
)  # fmt: skip
NEW = pd.DataFrame(
    {"item_id": ["new-a", "new-b"], "title": ["A", None], "category": ["news", "never seen"], "duration_s": [6.0, 9.0]}
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return InstaTok(InstaTokConfig(n_users=40, n_videos=N_ITEMS, sessions_per_user=8)).dataset()


@pytest.fixture(scope="module")
def home(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle of all sources whose two-tower model learned nothing: what is tested does not depend on it."""
    ready = prepare(dataset, CONFIG)
    torch.manual_seed(0)
    model = TwoTower(CONFIG.retriever, ready.encoders.specs)
    snapshots = [snapshot_at(ready, CONFIG, at_ms) for at_ms in ready.period_starts]
    sources = [
        as_retriever(
            TwoTowerSource.build(model, snapshot),
            fit_sources(ready.split.train, snapshot, CONFIG, log=ready.log),
            CONFIG,
        )
        for snapshot in snapshots
    ]
    periods = RankingPeriods(ready, CONFIG, snapshots, sources)
    ranker = fit_lambdamart(periods.last(), CONFIG.ranker.lambdamart, seed=0, trees=5).model
    recommender = assemble(ready, CONFIG, snapshots[-1], sources[-1], ranker)
    folder = str(tmp_path_factory.mktemp("catalogue") / "home")
    registry = Registry(Home(folder))
    details = BundleDetails(
        config=CONFIG.model_dump(mode="json"),
        seed=0,
        schema_sha256=dataset.schema.sha256,
        tables={dataset.name: dataset.sha256},
        metrics={"ndcg@10": 0.5},
    )
    registry.promote(registry.publish(recommender.save, details))
    return folder


@pytest.fixture(scope="module")
def base(home: str) -> Recommender:
    registry = Registry(Home(home))
    return Recommender.load(home, registry.versions()[0])


def _changed(base: Recommender, items: pd.DataFrame | None = None, withdrawn: tuple[str, ...] = ()) -> Recommender:
    items = pd.DataFrame({"item_id": []}) if items is None else items
    return with_catalogue(base, CatalogueChange(items, withdrawn), at_ms=AT_MS)


def _everybody(recommender: Recommender):
    return recommender.snapshot.user_states(np.arange(len(recommender.snapshot.user_ids)))


def test_what_does_not_change_is_scored_and_found_bit_for_bit_as_before(base: Recommender) -> None:
    """New items stand behind the others in every source but the freshest; among the others the order stays."""
    changed = _changed(base, NEW)
    assert changed.item_ids.tolist() == [*base.item_ids, "new-a", "new-b"]
    known = base.item_ids.tolist()
    for user_id in base.snapshot.user_ids[:10]:
        np.testing.assert_array_equal(changed.score(user_id, known), base.score(user_id, known))
    assert isinstance(base.source, Blend) and isinstance(changed.source, Blend)
    for source, extended in zip(base.source.sources, changed.source.sources, strict=True):
        found = extended.candidates(_everybody(changed), N_ITEMS + 2).items
        expected = source.candidates(_everybody(base), N_ITEMS).items
        kept = [[item for item in row if 0 <= item < N_ITEMS] for row in found]
        assert kept == [[item for item in row if item >= 0] for row in expected], source.name


def test_a_new_item_is_found_by_its_features_and_as_what_is_fresh(base: Recommender) -> None:
    changed = _changed(base, NEW)
    states = _everybody(changed)
    assert (changed.two_tower.candidates(states, N_ITEMS + 2).items >= N_ITEMS).sum() == 2 * len(states)
    assert isinstance(changed.source, Blend)
    (fresh,) = (source for source in changed.source.sources if source.name == "fresh")
    assert set(fresh.candidates(states, 2).items[0].tolist()) == {N_ITEMS, N_ITEMS + 1}
    shown = changed.item("new-a")
    assert (shown["title"], shown["category"], shown["creator"], shown["duration_s"]) == ("A", "news", None, 6.0)
    assert changed.item("new-b")["title"] is None
    assert changed.recommend(str(base.snapshot.user_ids[0]), 100).items
    # Without a cap in the way all of the new ones are there to be had.
    assert np.isfinite(changed.score(str(base.snapshot.user_ids[0]), ["new-a", "new-b"])).all()


def test_an_item_of_new_features_is_embedded_as_one_that_always_had_them(base: Recommender) -> None:
    """Features alone tell the two apart: with those of another day it is the item it was before."""
    item = base.item("video-7")
    other = pd.DataFrame({"item_id": ["video-7"], "category": ["food"], "initial_views": [1.0]})
    changed = _changed(base, other)
    assert (changed.item("video-7")["category"], changed.item("video-7")["creator"]) == ("food", item["creator"])
    before, after = base.two_tower.index.embeddings, changed.two_tower.index.embeddings
    assert not np.allclose(after[7], before[7], atol=1e-4)
    np.testing.assert_array_equal(np.delete(after, 7, axis=0), np.delete(before, 7, axis=0))
    back = pd.DataFrame({name: [item[name]] for name in ("item_id", "category", "initial_views")})
    again = _changed(changed, back)
    np.testing.assert_allclose(again.two_tower.index.embeddings, before, atol=1e-6)
    pd.testing.assert_frame_equal(again.snapshot.item_table, base.snapshot.item_table)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_what_is_withdrawn_is_neither_found_nor_drawn_nor_eligible(base: Recommender, epsilon: float) -> None:
    gone = ("video-3", "video-8", "new-a")
    changed = _changed(_changed(base, NEW), withdrawn=gone)
    positions = changed.snapshot.item_positions(gone)
    user_ids = [*base.snapshot.user_ids[:5], "nobody"]
    for user_id in user_ids:
        states = changed.hydrate([user_id])
        for source in (changed.popularity, *changed.source.sources):  # pyright: ignore[reportAttributeAccessIssue]
            assert not np.isin(source.candidates(states, N_ITEMS + 2).items, positions).any(), source.name
        candidates = changed.retrieve(states)
        slate = sample_slate(
            changed.rank(states, candidates),
            candidates.items,
            Eligible(changed.n_items, states.excluded_indptr, states.excluded),
            N_ITEMS + 2,
            epsilon=epsilon,
            temperature=0.5,
            rng=np.random.default_rng(0),
        )
        assert not np.isin(slate.item_ids, positions).any()
        seen = base.hydrate([user_id]).excluded
        assert slate.n_eligible[0, 0] == N_ITEMS + 2 - len(np.union1d(seen, positions))
    for item_id in gone:
        with pytest.raises(DataError, match="not in the catalogue"):
            changed.item(item_id)
    assert not set(gone) & {item.item_id for item in changed.similar_items("video-1", N_ITEMS)}


def test_propensities_under_a_cap_boosts_and_withdrawals_are_those_of_the_definition(base: Recommender) -> None:
    epsilon, temperature = 0.3, 0.5
    changed = _changed(_changed(base, NEW), withdrawn=("video-3", "video-8"))
    rules, table = changed.config.rules, changed.snapshot.item_table
    creator, category = table["creator"].where(table["creator"].notna(), None).tolist(), table["category"].tolist()
    withdrawn = set(changed.snapshot.item_positions(["video-3", "video-8"]).tolist())
    plain = replace(changed, config=changed.config.model_copy(update={"rules": RulesConfig()}))
    boosted = of_nobody = 0
    for user_id in [*base.snapshot.user_ids[:4], "nobody"]:
        states = changed.hydrate([user_id])
        candidates = changed.retrieve(states)
        drawn = sample_slate(
            changed.rank(states, candidates),
            candidates.items,
            Eligible(changed.n_items, states.excluded_indptr, states.excluded, changed.cap),
            12,
            epsilon=epsilon,
            temperature=temperature,
            rng=np.random.default_rng(0),
        )
        score = {
            int(item): value + rules.boosts.get(category[item], 0.0)
            for item, value in zip(candidates.items[0], plain.rank(states, candidates)[0], strict=True)
            if item >= 0
        }
        gone = withdrawn | set(base.hydrate([user_id]).excluded.tolist())
        above: list[int] = []
        for position, item in enumerate(drawn.item_ids[0][drawn.item_ids[0] >= 0].tolist()):
            eligible = [
                other
                for other in range(changed.n_items)
                if other not in gone
                and other not in above
                and (creator[other] is None or sum(creator[a] == creator[other] for a in above) < rules.cap_limit)
            ]
            weights = {other: np.exp(score[other] / temperature) for other in eligible if other in score}
            share = weights.get(item, 0.0) / sum(weights.values())
            assert drawn.n_eligible[0, position] == len(eligible) and item in eligible
            expected = epsilon / len(eligible) + (1 - epsilon) * share
            np.testing.assert_allclose(drawn.propensity[0, position], expected, rtol=1e-9)
            above.append(item)
            boosted += category[item] in rules.boosts
            of_nobody += creator[item] is None
    assert boosted and of_nobody, "items boosted and items without a creator have to be among those drawn"


def test_a_withdrawn_item_stays_in_the_history_and_comes_back_as_it_was(base: Recommender) -> None:
    states = _everybody(base)
    taken = str(base.item_ids[states.history[0][states.history[0] >= 0][-1]])
    gone = _changed(base, withdrawn=(taken,))
    np.testing.assert_array_equal(_everybody(gone).history, states.history)
    back = _changed(gone, pd.DataFrame({"item_id": [taken]}))
    np.testing.assert_array_equal(back.top_k(_everybody(back), 10), base.top_k(states, 10))


def test_a_version_of_another_catalogue_is_published_and_loaded_as_it_was_made(
    home: str, base: Recommender, dataset: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "items.csv"
    file.write_text("item_id,category,duration_s,title\nnew-a,news,6,A\nvideo-1,food,,\n", encoding="utf-8")
    answer = update_bundle(home, items=file, withdraw=["video-2"], version=base.version)
    counts = {name: answer[name] for name in ("added", "changed", "withdrawn", "returned", "n_items", "promoted")}
    assert counts == {"added": 1, "changed": 1, "withdrawn": 1, "returned": 0, "n_items": N_ITEMS, "promoted": True}
    assert answer["warnings"] == []
    manifest = Registry(Home(home)).show(answer["version"])
    assert manifest.tables[UPDATE_OF] == base.version and manifest.metrics == {"ndcg@10": 0.5}
    loaded = Recommender.load(home)
    assert loaded.version == answer["version"]
    given = pd.DataFrame({"item_id": ["new-a", "video-1"], "category": ["news", "food"], "duration_s": [6.0, np.nan],
                          "title": ["A", None]})  # fmt: skip
    made = _changed(base, given, withdrawn=("video-2",))
    for recommender in (made, loaded):
        assert recommender.position_of("video-2") == -1
    states = _everybody(made)
    one, other = made.retrieve(states), loaded.retrieve(_everybody(loaded))
    np.testing.assert_array_equal(one.items, other.items)
    np.testing.assert_array_equal(made.rank(states, one), loaded.rank(_everybody(loaded), other))

    waiting = update_bundle(home, items=pd.DataFrame({"item_id": ["video-2"]}), promote=False)
    assert (waiting["returned"], waiting["update_of"]) == (1, answer["version"])
    assert Registry(Home(home)).current() == answer["version"]
    with pytest.raises(DataError, match=f"update of {base.version}"):
        evaluate_bundle(dataset, EvaluationConfig(), home)


def test_an_evaluation_says_what_two_stages_and_baselines_do_not_share(base: Recommender) -> None:
    rules, blend = what_differs(base)
    assert "at most 2 items of one creator, which may end early; scores with boosts" in rules
    assert (
        "retriever is the blend in the order in which its lists are interleaved (two_tower, business, cosine" in blend
    )
    plain = replace(base, source=base.two_tower, config=base.config.model_copy(update={"rules": RulesConfig()}))
    assert what_differs(plain) == []


def test_of_two_updates_at_once_the_later_one_undoes_nothing(
    home: str, base: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other withdraws an item after this one has read the catalogue: it has to begin again."""
    registry = Registry(Home(home))
    registry.promote(base.version)
    other: list[str] = []

    def meanwhile(*arguments: Any, **more: Any) -> Recommender:
        if not other:
            other.append("")
            other[0] = update_bundle(home, withdraw=["video-9"])["version"]
        return with_catalogue(*arguments, **more)

    monkeypatch.setattr("rec.catalogue.with_catalogue", meanwhile)
    with pytest.raises(BundleError, match=f"instead of {base.version}, and 2.* does by now"):
        update_bundle(home, withdraw=["video-2"])
    assert registry.current() == other[0]
    update_bundle(home, withdraw=["video-2"])
    loaded = Recommender.load(home)
    assert (loaded.position_of("video-2"), loaded.position_of("video-9")) == (-1, -1)


def test_the_fresh_boost_acts_before_the_draw_so_that_propensities_are_those_of_the_boosted_scores(
    base: Recommender,
) -> None:
    """Odds of a new item against an old one grow by exp(boost / temperature); what is logged is what is drawn."""
    boost, temperature = 0.7, 0.5
    rules = RulesConfig(fresh_boost=boost, fresh_half_life_days=1e-3)
    plain, fresh = (
        replace(_changed(base, NEW), config=base.config.model_copy(update={"rules": chosen}))
        for chosen in (RulesConfig(), rules)
    )
    states = plain.hydrate([str(base.snapshot.user_ids[0])])
    candidates = plain.retrieve(states, 20)
    assert (candidates.items >= 0).all()
    is_new = candidates.items[0] >= N_ITEMS
    assert 0 < is_new.sum() < is_new.size
    before, after = plain.rank(states, candidates), fresh.rank(states, candidates)
    eligible = Eligible(plain.n_items, states.excluded_indptr, states.excluded)
    np.testing.assert_allclose(after - before, boost * is_new[None], atol=1e-6)

    odds = []
    for scores in (before, after):
        p, _ = position_probabilities(
            scores, candidates.items >= 0, np.array([plain.n_items]), epsilon=0.0, temperature=temperature
        )
        odds.append(p[0, is_new].sum() / p[0, ~is_new].sum())
    assert odds[1] / odds[0] == pytest.approx(np.exp(boost / temperature), rel=1e-4)
    slate = sample_slate(
        after, candidates.items, eligible, 5, epsilon=0.1, temperature=temperature, rng=np.random.default_rng(0)
    )
    expected = slate_propensities(
        after, candidates.items, slate.item_ids, slate.n_eligible, epsilon=0.1, temperature=temperature
    )
    np.testing.assert_allclose(slate.propensity, expected, rtol=1e-12)


def test_items_added_later_are_fresher(base: Recommender) -> None:
    first = _changed(base, NEW.iloc[:1])
    day_later = CatalogueChange(NEW.iloc[1:])
    second = with_catalogue(first, day_later, at_ms=AT_MS + 86_400_000)
    age = second.snapshot.item_age_days
    assert age[N_ITEMS + 1] == 0 and age[N_ITEMS] == pytest.approx(1) and (age[:N_ITEMS] > 1).all()


def test_somebody_new_is_answered_by_features_and_history(base: Recommender) -> None:
    """Not by what is popular, and not with what was just taken; of nobody at all there is only what is popular."""
    young, old = (base.recommend_new({"age": age, "region": "west"}, n=5) for age in (18.0, 29.0))
    assert not young.user_known and {item.source for item in young.items} != {"recent_popularity"}
    assert [item.score for item in young.items] != [item.score for item in old.items]
    taken = base.recommend_new(history=["video-1", "video-2"], n=N_ITEMS)
    assert not {"video-1", "video-2"} & {item.item_id for item in taken.items}
    assert base.recommend_new(n=5).items == base.recommend("nobody", 5).items
    with pytest.raises(DataError, match="no feature of the users"):
        base.recommend_new({"shoe_size": 43})


def _items(**columns: list) -> CatalogueChange:
    return CatalogueChange(pd.DataFrame(columns))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_items(item_id=["a"], price=[1.0]), "no feature of the items; there are title, category.*'price'"),
        (_items(category=["news"]), "needs an id"),
        (_items(item_id=["a", None]), "needs an id"),
        (_items(item_id=["a", ""]), "needs an id"),
        (CatalogueChange(pd.DataFrame([["a", "x", "y"]], columns=["item_id", "category", "category"])), "occur once"),
        (_items(item_id=["a", "b", "a"]), r"'a' is there twice.*row 2"),
        (_items(item_id=["a"], duration_s=["long"]), "has to hold numbers.*duration_s"),
        (_items(item_id=["a", "b"], duration_s=[1.0, np.inf]), r"finite.*row 1.*duration_s"),
        (CatalogueChange(pd.DataFrame({"item_id": []}), ("video-1", "vidoe-2")), "1 of 2 items.*'vidoe-2'"),
        (CatalogueChange(pd.DataFrame({"item_id": ["video-1"]}), ("video-1",)), "to be withdrawn and to be changed"),
        (CatalogueChange(pd.DataFrame({"item_id": []}), tuple(f"video-{i}" for i in range(N_ITEMS))), "at least one"),
    ],
)
def test_a_change_that_cannot_be_is_named(base: Recommender, change: CatalogueChange, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_catalogue(base, change, at_ms=AT_MS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("item_id,categroy\na,news\n", r"no feature of the items.*column 'categroy'"),
        ("item_id,duration_s\na,6\nb,long\n", r"a number is required.*row 3, column 'duration_s'"),
        ("item_id,duration_s\na,6\na,7\n", r"may occur once.*row 3"),
        ("category\nnews\n", "no such column.*'item_id'"),
        ("item_id\n", "no rows"),
    ],
)
def test_a_file_that_cannot_be_is_named_and_publishes_nothing(
    home: str, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "items.csv"
    file.write_text(content, encoding="utf-8")
    before = Registry(Home(home)).versions()
    with pytest.raises(DataError, match=message) as caught:
        update_bundle(home, items=file)
    assert caught.value.file == str(file)
    with pytest.raises(ConfigError, match="nothing to do"):
        update_bundle(home)
    with pytest.raises(DataError, match=r"\.csv or a \.parquet"):
        update_bundle(home, items=tmp_path / "items.json")
    assert Registry(Home(home)).versions() == before
