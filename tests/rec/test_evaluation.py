import numpy as np
import pytest

from rec.config import BaselinesConfig, SplitConfig
from rec.data.dataset import Interactions
from rec.data.movielens import read_movielens_1m
from rec.data.splits import Split, split
from rec.errors import ConfigError, DataError, ScoreError
from rec.evaluation import DEFAULT_METRICS, EvaluationPeriod, choose, evaluate, lists_of, recommend
from rec.retrieval.baselines import fit_baselines
from rec.retrieval.ease import EASE
from rec.retrieval.item_neighbors import ItemKNN
from rec.retrieval.popularity import Popularity, RecentPopularity

DAY_MS = 86_400_000


def _interactions(rows: list[tuple[int, int, int]], n_users: int = 4, n_items: int = 6) -> Interactions:
    user, item, day = np.array(rows).T
    return Interactions(
        user_ids=np.array([f"u{i}" for i in range(n_users)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(n_items)], dtype=object),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp=day.astype(np.int64) * DAY_MS,
    )


@pytest.fixture
def period() -> EvaluationPeriod:
    # Users 0 and 2 are judged: user 1's only item was known before, user 3 did nothing later, user 4 was unknown.
    before = _interactions([(0, 0, 1), (0, 1, 3), (1, 2, 2), (2, 0, 1), (3, 5, 1), (3, 3, 2), (3, 4, 2)], n_users=5)
    later = _interactions([(0, 3, 5), (0, 0, 5), (0, 3, 6), (1, 2, 5), (2, 4, 6), (2, 1, 7), (4, 3, 6)], n_users=5)
    return EvaluationPeriod.build(before, later, at_ms=5 * DAY_MS, history_length=2)


def test_a_period_holds_who_is_judged_and_what_was_new_to_them(period):
    assert period.states.user.tolist() == [0, 2]
    assert period.states.history.tolist() == [[0, 1], [-1, 0]]
    assert (period.states.excluded_indptr.tolist(), period.states.excluded.tolist()) == ([0, 2, 3], [0, 1, 0])
    assert (period.indptr.tolist(), period.relevant.tolist()) == ([0, 1, 3], [3, 1, 4])
    assert period.item_users.tolist() == [2, 1, 1, 1, 1, 1]
    assert (period.n_users, period.n_rows) == (4, 7)


def test_a_period_of_nothing_new_is_refused():
    known = _interactions([(0, 0, 1)])
    for row in ((0, 0, 5), (1, 0, 5), (0, 1, 5)):  # nothing new, nobody known, nothing known
        with pytest.raises(DataError, match="nobody known before the period"):
            EvaluationPeriod.build(known, _interactions([row]), at_ms=5 * DAY_MS)


def test_the_report_is_the_json_of_the_command_line(period):
    # Both users get item 3 first: it is user 0's only item and none of user 2's.
    models = {
        "two_stage": lambda states, k: np.tile(np.array([3, 5], np.int32)[:k], (len(states), 1)),
        "ease": lambda states, k: np.tile(np.array([5, 3], np.int32)[:k], (len(states), 1)),
    }
    report = evaluate(
        models,
        period,
        metrics=["mrr@2", "coverage@2", "novelty@1"],
        pairs=[("two_stage", "ease")],
    ).to_json()
    assert list(report) == ["models", "paired"]
    assert set(report["models"]["two_stage"]["mrr@2"]) == {"value", "std_error", "low", "high", "n"}
    values = {name: {metric: row["value"] for metric, row in rows.items()} for name, rows in report["models"].items()}
    assert values["two_stage"] == {"mrr@2": 0.5, "coverage@2": 2 / 6, "novelty@1": 2.0}
    assert values["ease"]["mrr@2"] == 0.25
    (row,) = report["paired"]
    assert list(row) == ["a", "b", "metric", "difference", "low", "high", "p_value"]
    assert (row["a"], row["b"], row["metric"], row["difference"]) == ("two_stage", "ease", "mrr@2", 0.25)


def test_each_users_values_are_kept_in_the_order_of_the_states(period):
    report = evaluate({"m": lambda states, k: np.full((len(states), k), 3, np.int32)}, period, metrics=["recall@1"])
    assert report.values["m"]["recall@1"].tolist() == [1.0, 0.0]


def test_a_model_that_breaks_the_rules_is_named(period):
    def constant(rows):
        return {"cheat": lambda states, k: np.array(rows, np.int32)}

    for rows, message in (
        ([[0], [3]], "recommends items that the states exclude"),
        ([[6], [3]], "names an item outside the catalogue of 6"),
        ([[-2], [3]], "names an item outside the catalogue of 6"),
        ([[3, 4], [3, 4]], "has to give lists"),
    ):
        with pytest.raises(ScoreError, match=f"cheat {message}"):
            evaluate(constant(rows), period, metrics=["ndcg@1"])


def test_comparisons_that_cannot_be_made_are_refused(period):
    models = {"a": lambda states, k: pytest.fail("refused only after a model was asked")}
    with pytest.raises(ConfigError, match="cannot compare eese"):
        evaluate(models, period, metrics=["ndcg@1"], pairs=[("a", "eese")])


def test_models_are_compared_by_ndcg_or_by_the_first_metric_of_users(period):
    model = lists_of(Popularity(np.array([1.0, 5, 2, 4, 3, 0])))
    for metrics, tested in (
        (["recall@2", "ndcg@10"], ["ndcg@10"]),
        (["coverage@2", "recall@2", "mrr@2"], ["recall@2"]),
    ):
        report = evaluate({"a": model}, period, metrics=metrics, pairs=[("a", "a")])
        assert [row.metric for row in report.paired] == tested
    assert evaluate({"a": model}, period, metrics=["coverage@2"], pairs=[("a", "a")]).paired == ()


def test_lists_do_not_depend_on_how_users_are_blocked(period, monkeypatch):
    model = lists_of(Popularity(np.array([1.0, 5, 2, 4, 3, 0])))
    together = recommend(model, period, 3)
    monkeypatch.setattr("rec.evaluation.USERS_AT_ONCE", 1)
    np.testing.assert_array_equal(recommend(model, period, 3), together)


def test_a_choice_is_the_best_on_its_period_and_the_first_of_equals(period):
    counts = {"bad": [9.0, 0, 0, 0, 0, 8], "good": [0.0, 0, 0, 9, 8, 0], "equal": [0.0, 0, 0, 9, 8, 0]}
    choice = choose(list(counts), lambda name: Popularity(np.array(counts[name])), period)
    assert choice.option == "good"
    assert [name for name, _ in choice.scores] == ["bad", "good", "equal"]
    assert choice.scores[0][1] < choice.scores[1][1] == choice.scores[2][1]


def _log(seed: int = 0) -> Interactions:
    rng = np.random.default_rng(seed)
    rows = [(u, i, int(rng.integers(0, 100))) for u in range(30) for i in rng.permutation(40)[:25]]
    return _interactions(rows, 30, 40)


def test_baselines_are_chosen_before_the_test_and_fitted_on_everything_before_it():
    config = BaselinesConfig(ials_factors=4, ials_iterations=2, ease_regularization=(10.0, 100.0))
    log = _log()
    train = log.before(90 * DAY_MS)
    baselines = fit_baselines(train, valid_from_ms=75 * DAY_MS, at_ms=90 * DAY_MS, config=config)
    assert tuple(baselines) == config.names
    assert {name: len(baseline.scores) for name, baseline in baselines.items()} == {
        "popularity": 0,
        "recent_popularity": 6,
        "item_knn": 0,
        "ease": 2,
        "ials": 6,
    }
    window_ms = baselines["recent_popularity"].option * DAY_MS
    expected = RecentPopularity.fit(train, window_ms=window_ms, until_ms=90 * DAY_MS)
    np.testing.assert_array_equal(baselines["recent_popularity"].source.scores, expected.scores)
    period = EvaluationPeriod.build(train, log.between(90 * DAY_MS, 100 * DAY_MS), at_ms=90 * DAY_MS)
    report = evaluate({name: lists_of(baseline.source) for name, baseline in baselines.items()}, period)
    assert all(set(metrics) == set(DEFAULT_METRICS) for metrics in report.models.values())


def test_a_baseline_that_cannot_be_had_is_left_out_with_a_warning(monkeypatch):
    monkeypatch.setattr("rec.retrieval.baselines.MAX_ITEMS", 39)
    config = BaselinesConfig(names=("popularity", "ease"))
    with pytest.warns(UserWarning, match="leaving out the baseline ease: it takes at most 39 items"):
        baselines = fit_baselines(_log(), valid_from_ms=75 * DAY_MS, at_ms=100 * DAY_MS, config=config)
    assert list(baselines) == ["popularity"]


@pytest.fixture(scope="module")
def movielens(tandem_data) -> tuple[Split, EvaluationPeriod]:
    liked = read_movielens_1m(tandem_data / "ml-1m").interactions.positives(min_rating=3.0, positive_actions=())
    divided = split(liked, SplitConfig())
    assert divided.cut_ms is not None
    return divided, EvaluationPeriod.build(divided.train, divided.test, at_ms=divided.cut_ms)


def test_popularity_on_movielens_is_the_published_figure(movielens):
    divided, period = movielens
    assert (len(divided.train), len(divided.test), len(period)) == (669_181, 86_312, 1_137)
    last_week = RecentPopularity.fit(divided.train, window_ms=7 * DAY_MS, until_ms=divided.cut_ms)
    models = {"popularity": lists_of(Popularity.fit(divided.train)), "recent_popularity": lists_of(last_week)}
    found = evaluate(models, period).models
    assert abs(found["popularity"]["ndcg@10"].value - 0.244) <= 0.0005
    assert round(found["popularity"]["hit_rate@10"].value, 3) == 0.645
    assert round(found["recent_popularity"]["ndcg@10"].value, 3) == 0.254


@pytest.mark.slow
def test_linear_models_on_movielens_reach_the_figures_measured_for_them(movielens):
    divided, period = movielens
    models = {
        "ease": lists_of(EASE.fit(divided.train, regularization=1000.0)),
        "item_knn": lists_of(ItemKNN.fit(divided.train, n_neighbors=200)),
    }
    found = evaluate(models, period).models
    assert round(found["ease"]["ndcg@10"].value, 4) == 0.2525
    # 200 neighbours give .2435; 201 give the .2444 measured elsewhere.
    assert abs(found["item_knn"]["ndcg@10"].value - 0.2444) <= 0.001
