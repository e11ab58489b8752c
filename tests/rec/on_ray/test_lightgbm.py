import numpy as np
import pytest

from rec.config import LambdaMARTConfig
from rec.errors import TrainingError
from rec.on_ray.lightgbm import fit_lambdamart_on_ray
from rec.ranking.data import FeatureLayout, RankingData

CONFIG = LambdaMARTConfig(trees=5, min_data_in_leaf=3, rows_per_worker=1)
LAYOUT = FeatureLayout(("signal", "noise"), ())


def _queries(n: int) -> RankingData:
    """Of ten items each, of which the two with the strongest signal are liked."""
    matrix = np.random.default_rng(0).random((n * 10, 2)).astype(np.float32)
    rank = np.argsort(np.argsort(-matrix[:, 0].reshape(n, 10), axis=1), axis=1)
    return RankingData(LAYOUT, matrix, (rank.reshape(-1, 1) < 2).astype(np.float32), np.full(n, 10), ("like",))


def test_without_a_query_no_worker_is_started(tmp_path):
    with pytest.raises(TrainingError, match="no query to learn from"):
        fit_lambdamart_on_ray(_queries(0), CONFIG, seed=0, workers=2, run_name="none", folder=tmp_path, max_failures=0)
    assert not list(tmp_path.iterdir())


def test_few_rows_are_learned_from_without_starting_a_worker(tmp_path):
    data, config = _queries(60), CONFIG.model_copy(update={"rows_per_worker": 601})
    fit = fit_lambdamart_on_ray(
        data, config, seed=0, workers=2, run_name="few", folder=tmp_path, max_failures=0, valid=data
    )
    assert 0 < fit.trees <= 5
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_workers_grow_trees_that_find_what_is_liked(ray_session, tmp_path):
    data = _queries(60)
    fit = fit_lambdamart_on_ray(
        data, CONFIG, seed=0, workers=2, run_name="two", folder=tmp_path, max_failures=0, valid=data
    )
    assert 0 < fit.trees <= 5
    assert fit.valid_ndcg is not None and fit.valid_ndcg > 0.9
    assert np.isfinite(fit.model.predict(data.matrix)).all()


@pytest.mark.slow
def test_what_fails_in_a_worker_is_a_training_error(ray_session, tmp_path):
    config = CONFIG.model_copy(update={"num_leaves": 1})
    with pytest.raises(TrainingError, match="num_leaves"):
        fit_lambdamart_on_ray(_queries(60), config, seed=0, workers=2, run_name="bad", folder=tmp_path, max_failures=0)
