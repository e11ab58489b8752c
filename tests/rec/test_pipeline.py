"""The pipeline as it is put together: nothing of the future is in what is learned, judged or published."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rec.config import CosineConfig, LambdaMARTConfig, RankerConfig, SourcesConfig, TrainConfig
from rec.data.dataset import Dataset, Interactions
from rec.models.lambdamart import fit_lambdamart
from rec.pipeline import assemble
from rec.preparation import Prepared, prepare
from rec.ranking.data import RankingData
from rec.ranking.fits import RankingPeriods
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

CONFIG = TrainConfig(
    ranker=RankerConfig(
        n_candidates=20,
        min_positives=1,
        negatives_per_query=5,
        queries_per_period=60,
        lambdamart=LambdaMARTConfig(min_data_in_leaf=5),
    )
)
SOURCES = {
    "two_tower": SourcesConfig(),
    "blend": SourcesConfig(
        quotas={"ease": 3, "item_knn": 2, "swing": 2, "cosine": 2, "popularity": 1, "recent_popularity": 2, "fresh": 2},
        cosine=CosineConfig(scores={"watched": 1, "skipped": -2, "liked": 2, "other": -0.5}),
    ),
}
Periods = Callable[[Prepared, TrainConfig], RankingPeriods]


@pytest.fixture(scope="module", params=SOURCES)
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return CONFIG.model_copy(update={"sources": SOURCES[request.param]})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return InstaTok(InstaTokConfig(n_users=40, n_videos=60, sessions_per_user=8)).dataset()


@pytest.fixture(scope="module")
def ready(dataset: Dataset) -> Prepared:
    return prepare(dataset, CONFIG)


def _with_other_future(dataset: Dataset, from_ms: int, *, other_users: bool = True) -> Dataset:
    """The same until from_ms; from then on other items were shown, to other users if asked for.

    When somebody did something, and what, stays, and with it the times that divide the data.
    """
    log = dataset.interactions
    future = np.flatnonzero(log.timestamp >= from_ms)
    rng = np.random.default_rng(9)
    item, user = log.item.copy(), log.user.copy()
    item[future] = rng.permutation(log.n_items)[item[future]]
    if other_users:
        user[future] = rng.permutation(user[future])
    return replace(dataset, interactions=replace(log, item=item, user=user))


def _bundle(periods: RankingPeriods, place: int, learned: RankingData, folder: Path) -> dict[str, bytes]:
    """The files of the bundle as of the beginning of a period."""
    grown = fit_lambdamart(learned, CONFIG.ranker.lambdamart, seed=0, trees=5)
    recommender = assemble(periods.ready, periods.config, periods.snapshots[place], periods.sources[place], grown.model)
    folder.mkdir()
    recommender.save(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def _assert_equal_rows(found: Interactions, expected: Interactions) -> None:
    for column in ("user", "item", "timestamp", "action"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column), err_msg=column)


def _assert_equal_queries(found: RankingData, expected: RankingData) -> None:
    assert len(expected.groups) and expected.labels.max() == 1
    for array in ("groups", "labels", "matrix"):
        np.testing.assert_array_equal(getattr(found, array), getattr(expected, array), err_msg=array)


def test_what_follows_the_cut_changes_nothing_that_is_learned_or_published(
    dataset: Dataset, ready: Prepared, config: TrainConfig, untrained_periods: Periods, tmp_path: Path
) -> None:
    cut_ms = ready.split.cut_ms
    assert cut_ms is not None
    other = prepare(_with_other_future(dataset, cut_ms), CONFIG)
    assert not np.array_equal(other.split.test.item, ready.split.test.item), "the future has to differ"

    assert other.period_starts == ready.period_starts and other.split.cut_ms == cut_ms
    assert other.encoders.to_json() == ready.encoders.to_json()
    _assert_equal_rows(other.split.train, ready.split.train)
    _assert_equal_rows(other.log, ready.log)
    found, expected = untrained_periods(other, config), untrained_periods(ready, config)
    last, expected_last = found.last(), expected.last()
    learned, expected_learned = found.all(last), expected.all(expected_last)
    _assert_equal_queries(last, expected_last)
    _assert_equal_queries(found.earlier(), expected.earlier())
    _assert_equal_queries(learned, expected_learned)
    files = _bundle(found, -1, learned, tmp_path / "found")
    for name, content in _bundle(expected, -1, expected_learned, tmp_path / "expected").items():
        assert files[name] == content, f"{name} depends on what follows the cut"


def test_what_follows_the_last_period_s_beginning_changes_nothing_known_or_answered_before(
    dataset: Dataset, ready: Prepared, config: TrainConfig, untrained_periods: Periods, tmp_path: Path
) -> None:
    until_ms = ready.period_starts[-2]
    # The encoders are those of the whole training period: their vocabulary is no answer.
    other = replace(prepare(_with_other_future(dataset, until_ms), CONFIG), encoders=ready.encoders)
    found, expected = untrained_periods(other, config), untrained_periods(ready, config)
    assert not np.array_equal(found.last().matrix, expected.last().matrix), "the future has to differ"

    earlier, expected_earlier = found.earlier(), expected.earlier()
    _assert_equal_queries(earlier, expected_earlier)
    # What is judged on the last period is a recommender as of its beginning.
    files = _bundle(found, -2, earlier, tmp_path / "found")
    for name, content in _bundle(expected, -2, expected_earlier, tmp_path / "expected").items():
        assert files[name] == content, f"{name} depends on what follows the last period's beginning"


def test_what_happens_in_a_period_changes_no_feature_at_its_beginning(
    dataset: Dataset, ready: Prepared, untrained_periods: Periods
) -> None:
    # Every candidate of every user is a row, whatever the answers, so that the rows can be compared.
    ranker = CONFIG.ranker.model_copy(update={"session_share": 0.0, "min_positives": 0, "negatives_per_query": 1000})
    config = CONFIG.model_copy(update={"ranker": ranker})
    changed = _with_other_future(dataset, ready.period_starts[0], other_users=False)
    other = replace(prepare(changed, config), encoders=ready.encoders)
    found, expected = untrained_periods(other, config).earlier(), untrained_periods(ready, config).earlier()
    assert not np.array_equal(found.labels, expected.labels), "the answers have to differ"
    np.testing.assert_array_equal(found.groups, expected.groups)
    np.testing.assert_array_equal(found.matrix, expected.matrix)
