import numpy as np
from numpy.testing import assert_allclose

from rec.config import WeightedScoreConfig
from rec.i2i import weighted_score

SIMILARITY = np.array([[0.5, 0.0], [1.0, -0.5]])
VIEWS = np.array([0, 99])
INTEREST = np.array([[True, False], [False, True]])


def test_the_three_parts_are_weighted_and_summed():
    config = WeightedScoreConfig(similarity_weight=2, views_weight=0.1, interest_weight=3, log_views=False)
    found = weighted_score(SIMILARITY, VIEWS, INTEREST, config)
    assert_allclose(found, [[2 * 0.5 + 3, 9.9], [2, -1 + 9.9 + 3]])


def test_logarithmic_views_are_of_one_more_so_that_none_count_0():
    config = WeightedScoreConfig(similarity_weight=0, views_weight=1, interest_weight=0)
    assert_allclose(weighted_score(SIMILARITY, VIEWS, INTEREST, config), [[0, np.log(100)]] * 2)
