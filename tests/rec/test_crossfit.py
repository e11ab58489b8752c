import subprocess
import sys

import numpy as np
import pytest

from rec.crossfit import cross_fitted, user_folds
from rec.errors import DataError

USERS = np.array([f"user-{number % 500}" for number in range(2000)])


def test_rows_of_a_user_share_a_fold_whatever_else_there_is():
    folds = user_folds(USERS, 5)
    assert all(len(set(folds[USERS == user].tolist())) == 1 for user in USERS[:20])
    shuffled = np.random.default_rng(0).permutation(len(USERS))[:100]
    np.testing.assert_array_equal(user_folds(USERS[shuffled], 5), folds[shuffled])


def test_folds_are_about_even_and_another_seed_gives_others():
    users = np.unique(USERS)
    folds = user_folds(users, 5)
    # Four standard deviations of a binomial count around 100.
    assert np.abs(np.bincount(folds, minlength=5) - 100).max() < 4 * np.sqrt(500 * 0.2 * 0.8)
    assert 0.1 < (folds == user_folds(users, 5, seed=1)).mean() < 0.3


def test_another_process_finds_the_same_folds():
    script = "from rec.crossfit import user_folds; print(user_folds(['a', 'b', 'ü', '1'], 1000).tolist())"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(user_folds(["a", "b", "ü", "1"], 1000).tolist())


def test_every_row_is_predicted_once_by_what_did_not_see_its_fold():
    folds = user_folds(USERS, 4)
    seen = []

    def fit_predict(fitted, predicted):
        seen.append(predicted)
        assert not set(folds[fitted].tolist()) & set(folds[predicted].tolist())
        assert len(fitted) + len(predicted) == len(folds)
        return np.stack([predicted, -predicted], axis=1)

    found = cross_fitted(folds, fit_predict)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(folds)))
    np.testing.assert_array_equal(found[:, 0], np.arange(len(folds)))


def test_one_fold_leaves_nothing_to_fit_on():
    with pytest.raises(DataError, match="two folds or more; all 3 rows"):
        cross_fitted(np.zeros(3, int), lambda fitted, predicted: predicted)
    with pytest.raises(ValueError, match="at least 2 folds"):
        user_folds(["a"], 1)
