import numpy as np
import pytest

from rec.config import LambdaMARTConfig
from rec.models.lambdamart import fit_lambdamart, refit_lambdamart
from rec.ranking.data import FeatureLayout, RankingData

LAYOUT = FeatureLayout(("signal", "noise"), ())


def _queries(seed: int, *, noise: bool = False) -> RankingData:
    """Forty queries of ten items; the two with the strongest signal are liked, or with `noise` any two."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((400, 2)).astype(np.float32)
    decides = rng.random(400) if noise else matrix[:, 0]
    rank = np.argsort(np.argsort(-decides.reshape(40, 10), axis=1), axis=1)
    return RankingData(LAYOUT, matrix, (rank.reshape(-1, 1) < 2).astype(np.float32), np.full(40, 10), ("like",))


def _config(min_trees: int) -> LambdaMARTConfig:
    return LambdaMARTConfig(trees=40, min_trees=min_trees, patience=3, min_data_in_leaf=3)


@pytest.mark.parametrize(("min_trees", "kept"), [(1, range(1, 15)), (25, range(25, 26)), (90, range(40, 41))])
def test_noise_stops_early_but_not_below_the_least_number_of_trees(min_trees, kept, tmp_path):
    fit = fit_lambdamart(_queries(0, noise=True), _config(min_trees), seed=0, valid=_queries(1, noise=True))
    assert fit.trees in kept
    fit.model.save(tmp_path)
    again = fit.model.load(tmp_path, LAYOUT)
    matrix = _queries(2).matrix
    np.testing.assert_array_equal(fit.model.predict(matrix), again.predict(matrix))


def test_the_reported_validation_ndcg_is_that_of_the_trees_kept():
    valid = _queries(1)
    fit = fit_lambdamart(_queries(0), _config(10), seed=0, valid=valid)
    scores = fit.model.predict(valid.matrix).reshape(40, 10)
    labels = valid.labels.reshape(40, 10)
    in_order = np.take_along_axis(labels, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    discount = 1 / np.log2(np.arange(2, 12))
    ndcg = (in_order * discount).sum(axis=1) / discount[:2].sum()
    assert fit.valid_ndcg == pytest.approx(ndcg.mean(), abs=1e-6)


def _ndcg(model, data: RankingData) -> float:
    scores = model.predict(data.matrix).reshape(40, 10)
    in_order = np.take_along_axis(data.labels.reshape(40, 10), np.argsort(-scores, axis=1, kind="stable"), axis=1)
    discount = 1 / np.log2(np.arange(2, 12))
    return float(((in_order * discount).sum(axis=1) / discount[:2].sum()).mean())


def test_refitted_trees_keep_their_splits_and_follow_what_is_liked_now(tmp_path):
    model = fit_lambdamart(_queries(0), _config(10), seed=0).model
    turned = _queries(1)
    turned = RankingData(LAYOUT, 1 - turned.matrix, turned.labels, turned.groups, turned.tasks)
    same = refit_lambdamart(model, turned, decay=1.0)
    np.testing.assert_array_equal(same.predict(turned.matrix), model.predict(turned.matrix))
    quality = [_ndcg(refit_lambdamart(model, turned, decay=decay), turned) for decay in (1.0, 0.5, 0.0)]
    assert quality[0] < quality[1] < quality[2]
    refitted = refit_lambdamart(model, turned, decay=0.5)
    trees = [each.booster.trees_to_dataframe().query("split_feature.notna()") for each in (model, refitted)]
    columns = ["node_index", "split_feature", "threshold"]
    assert trees[0][columns].equals(trees[1][columns])
    refitted.save(tmp_path)
    loaded = refitted.load(tmp_path, LAYOUT)
    np.testing.assert_array_equal(loaded.predict(turned.matrix), refitted.predict(turned.matrix))
