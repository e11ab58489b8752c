from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rec.config import EncodersConfig
from rec.data.dataset import Dataset, Interactions
from rec.features.as_of import DAY_MS
from rec.features.encoders import Encoders
from rec.features.growth import Growth, grown, growth
from rec.schema import Feature, FeatureSchema

SCHEMA = FeatureSchema(
    features=(
        Feature(name="country", kind="categorical", side="user"),
        Feature(name="genres", kind="multi_hot", side="item"),
        Feature(name="year", kind="numeric", side="item"),
        Feature(name="plot", kind="text", side="item"),
    )
)
CUT_MS = 10 * DAY_MS


@pytest.fixture
def dataset() -> Dataset:
    """One like a day: u0..u2 and i0..i2 before the cut; u3 and i3, and i0 again, after it."""
    log = Interactions(
        user_ids=np.array(["u0", "u1", "u2", "u3"], dtype=object),
        item_ids=np.array(["i3", "i0", "i1", "i2"], dtype=object),
        user=np.array([0, 1, 2, 3, 0], dtype=np.int32),
        item=np.array([1, 2, 3, 0, 1], dtype=np.int32),
        timestamp=np.array([1, 2, 9, 11, 12]) * DAY_MS,
    )
    users = pd.DataFrame({"user_id": log.user_ids, "country": ["de", "fr", "de", "at"]})
    items = pd.DataFrame(
        {
            "item_id": log.item_ids,
            "genres": [["anime", "war", "art"], ["war"], ["drama"], ["drama", "war"]],
            "year": [2020.0, 1990.0, 1995.0, 2000.0],
            "plot": ["a much longer plot", "a plot", "", "none"],
        }
    )
    return Dataset("test", log, users, items, SCHEMA, sha256="")


@pytest.fixture
def before(dataset: Dataset) -> Encoders:
    return Encoders.fit(dataset, dataset.interactions.before(CUT_MS), EncodersConfig(hash_slots=4))


def test_without_anything_new_encoders_stay_as_they_are(dataset, before):
    assert grown(before, dataset, dataset.interactions.before(CUT_MS)) == before


def test_what_is_new_follows_what_was_known_and_numbers_keep_their_scale(dataset, before):
    after = grown(before, dataset, dataset.interactions)
    assert after.vocabularies == {
        "user_id": ["u0", "u1", "u2", "u3"],
        "country": ["de", "fr", "at"],
        "item_id": ["i0", "i1", "i2", "i3"],
        "genres": ["drama", "war", "anime", "art"],
    }
    assert after.moments == before.moments
    assert after.widths["genres"] == 3 and after.widths["plot"] > before.widths["plot"]
    for name in before.vocabularies:
        known = before.vocabularies[name]
        np.testing.assert_array_equal(after.slots(name, known), before.slots(name, known))
    assert growth(before, after) == {"user_id": Growth(3, 1, 0), "item_id": Growth(3, 1, 0)}


def test_ids_not_seen_for_long_go_and_values_of_features_stay(dataset, before):
    after = grown(before, dataset, dataset.interactions, expire_before_ms=9 * DAY_MS)
    # i1 and u1 were last seen on day 2; i0 was on day 1, but again on day 12.
    assert after.vocabularies["item_id"] == ["i0", "i2", "i3"]
    assert after.vocabularies["user_id"] == ["u0", "u2", "u3"]
    assert after.vocabularies["country"][:2] == before.vocabularies["country"]
    assert not after.knows("item_id", ["i1"])[0]
    assert growth(before, after) == {"user_id": Growth(2, 1, 1), "item_id": Growth(2, 1, 1)}


def test_an_id_that_comes_back_is_new_and_one_no_longer_in_the_data_expires(dataset, before):
    gone = grown(before, dataset, dataset.interactions, expire_before_ms=9 * DAY_MS)
    log = dataset.interactions
    back = replace(
        log,
        user=np.append(log.user, np.int32(1)),
        item=np.append(log.item, np.int32(2)),
        timestamp=np.append(log.timestamp, 20 * DAY_MS),
    )
    again = grown(gone, replace(dataset, interactions=back), back, expire_before_ms=9 * DAY_MS)
    assert again.vocabularies["item_id"] == ["i0", "i2", "i3", "i1"]

    stranger = replace(before, vocabularies={**before.vocabularies, "item_id": ["deleted", "i0", "i1", "i2"]})
    assert "deleted" in grown(stranger, dataset, log).vocabularies["item_id"]
    assert "deleted" not in grown(stranger, dataset, log, expire_before_ms=0).vocabularies["item_id"]
