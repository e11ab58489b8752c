import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from rec.data.dataset import Interactions
from rec.i2i import INSTATOK_SCORES, action_scores, interest_scores, is_interest, predicted_interests
from rl.config import InstaTokConfig
from rl.instatok import InstaTok


def test_a_users_surplus_over_all_is_shrunk():
    # Items 0 and 1 are of category 0 and 1, item 2 of none. Means: category 0 (4 + 0) / 2 = 2, category 1: 1.
    log = Interactions(
        user_ids=np.array(["u", "v", "w"], dtype=object),
        item_ids=np.array(["a", "b", "c"], dtype=object),
        user=np.array([0, 1, 0, 0], np.int32),
        item=np.array([0, 0, 1, 2], np.int32),
        timestamp=np.arange(4),
    )
    values = np.array([4.0, 0.0, 1.0, 100.0])
    scores = interest_scores(log, values, np.array([0, 1, -1]), n_categories=2, prior=3.0)
    assert_allclose(scores, [[2 / 4, 0], [-2 / 4, 0], [0, 0]])
    interests = predicted_interests(scores, 1)
    assert_array_equal(interests, [[True, False], [False, False], [False, False]])
    assert_array_equal(is_interest(interests, np.array([0, 1, -1]))[0], [True, False, False])


def test_interests_of_instatok_are_found_and_more_surely_from_more_sessions():
    def found(sessions_per_user):
        world = InstaTok(InstaTokConfig(n_users=500, sessions_per_user=sessions_per_user, seed=3))
        log = world.dataset().interactions
        scores = interest_scores(log, action_scores(log, INSTATOK_SCORES), world.category, n_categories=8)
        predicted = predicted_interests(scores, 2)
        return np.take_along_axis(predicted, world.interests, axis=1).mean(axis=1)

    few, many = found(5), found(100)
    # Two of eight drawn at random, as in the notebook, hit a quarter of the two, by the hypergeometric distribution.
    chance, error = 0.25, np.sqrt(2 * 0.25 * 0.75 * 6 / 7 / len(few)) / 2
    assert few.mean() > chance + 4 * error
    # All of them are to be found in the end: a hundred sessions are nearer to that than to chance.
    assert many.mean() > (chance + 1) / 2
