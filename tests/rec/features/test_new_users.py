import numpy as np
import pandas as pd
import pytest

from rec.errors import DataError
from rec.features.columns import normalise
from rec.features.new_users import described_states
from rec.features.recent import recent_states
from rec.schema import Feature, FeatureSchema
from rec.state import DESCRIBED, NEVER_SEEN


def test_a_new_user_of_known_features_and_history_is_encoded_as_known_users_are(snapshot):
    """All but the id and the times of the history, of which nothing is known but that it is recent."""
    user = 4
    known = snapshot.user_states([user])
    history = snapshot.item_ids[snapshot.seen[snapshot.seen_indptr[user] : snapshot.seen_indptr[user + 1]]].tolist()
    features = snapshot.user_table.iloc[user].drop("user_id").to_dict()
    taken_just_now = recent_states(snapshot, np.array([-1], np.int32), [history], [()])
    states = described_states(snapshot, taken_just_now, ["new"], [features])
    for name in ("age", "country"):
        np.testing.assert_array_equal(states.features[name], known.features[name])
    first_unknown = snapshot.encoders.first_unknown("user_id")
    assert first_unknown <= states.features["user_id"][0] < snapshot.encoders.cardinality("user_id")
    np.testing.assert_array_equal(states.excluded, known.excluded)
    taken = states.history[0][states.history[0] >= 0]
    assert snapshot.item_ids[taken].tolist() == history[-12:]
    counts = snapshot.encoders.standardise({"user_count_all": np.log1p(np.array([len(history)]))})
    np.testing.assert_allclose(states.features["user_count_all"], counts["user_count_all"], rtol=1e-6)
    assert states.user[0] == DESCRIBED


def test_only_who_says_something_and_has_no_row_is_described(snapshot):
    """A feature that is left out is missing: what a user has of whom nothing is known."""
    before = snapshot.user_states([-1, 2, -1])
    told = {"age": 31.0}
    states = described_states(snapshot, before, ["a", "b", "c"], [told, told, {}])
    assert states.user.tolist() == [DESCRIBED, 2, NEVER_SEEN]
    for name, values in before.features.items():
        np.testing.assert_array_equal(states.features[name][1:], values[1:])
        if name not in ("age", "user_id"):
            np.testing.assert_array_equal(states.features[name][0], values[0])
    assert states.features["age"][0] != before.features["age"][0]


def test_what_users_do_not_have_is_refused(snapshot):
    nobody = snapshot.user_states([-1])
    with pytest.raises(DataError, match=r"there are age, country.*'height'"):
        described_states(snapshot, nobody, ["a"], [{"height": 1.8}])
    with pytest.raises(DataError, match=r"has to hold numbers.*'age'"):
        described_states(snapshot, nobody, ["a"], [{"age": "old"}])


@pytest.mark.parametrize("age", [1e300, 10**400, float("inf"), "old", [1, 2], {"years": 3}])
def test_numbers_that_are_none_or_too_large_are_refused_by_name(snapshot, age):
    with pytest.raises(DataError) as raised:
        described_states(snapshot, snapshot.user_states([-1]), ["a"], [{"age": age}])
    assert raised.value.column == "age"


@pytest.mark.parametrize("cover", [["a"], [[1.0], [1.0, 2.0]], [[1.0, 2.0]], [10**400]])
def test_vectors_that_hold_no_numbers_are_refused_by_name(cover):
    schema = FeatureSchema(features=(Feature(name="cover", kind="vector", side="user"),))
    table = pd.DataFrame({"user_id": ["a"], "cover": pd.Series([cover], dtype=object)})
    with pytest.raises(DataError) as raised:
        normalise(schema, "user", table)
    assert raised.value.column == "cover"
