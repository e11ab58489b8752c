import numpy as np
import pandas as pd
import pytest

from rec.errors import DataError
from rec.features.new_users import new_user_states


def test_a_new_user_of_known_features_and_history_is_encoded_as_known_users_are(snapshot):
    """All but the id and the times of the history, of which nothing is known but that it is recent."""
    user = 4
    known = snapshot.user_states([user])
    history = snapshot.item_ids[snapshot.seen[snapshot.seen_indptr[user] : snapshot.seen_indptr[user + 1]]].tolist()
    table = snapshot.user_table.iloc[[user]].assign(user_id="new")
    states = new_user_states(snapshot, table, [history])
    for name in ("age", "country"):
        np.testing.assert_array_equal(states.features[name], known.features[name])
    first_unknown = snapshot.encoders.first_unknown("user_id")
    assert first_unknown <= states.features["user_id"][0] < snapshot.encoders.cardinality("user_id")
    np.testing.assert_array_equal(states.excluded, known.excluded)
    taken = states.history[0][states.history[0] >= 0]
    assert snapshot.item_ids[taken].tolist() == history[-12:]
    counts = snapshot.encoders.standardise({"user_count_all": np.log1p(np.array([len(history)]))})
    np.testing.assert_allclose(states.features["user_count_all"], counts["user_count_all"], rtol=1e-6)
    assert states.user[0] == len(snapshot.user_ids)


def test_one_of_whom_nothing_is_said_is_a_user_never_seen(snapshot):
    states = new_user_states(snapshot, pd.DataFrame({"user_id": ["a", "b", "c"]}), [[], ["no such item"], ["i3"]])
    never_seen = snapshot.user_states([-1])
    assert states.user.tolist() == [-1, -1, len(snapshot.user_ids)]
    for name, values in never_seen.features.items():
        if name != "user_id":
            np.testing.assert_array_equal(states.features[name][:2], np.repeat(values, 2, axis=0))
    assert states.excluded_indptr.tolist() == [0, 0, 0, 1]


def test_what_users_do_not_have_is_refused(snapshot):
    with pytest.raises(DataError, match=r"there are age, country.*'height'"):
        new_user_states(snapshot, pd.DataFrame({"user_id": ["a"], "height": [1.8]}), [[]])
    with pytest.raises(DataError, match=r"has to hold numbers.*'age'"):
        new_user_states(snapshot, pd.DataFrame({"user_id": ["a"], "age": ["old"]}), [[]])
