import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rec.config import EncodersConfig
from rec.data.dataset import Dataset, Interactions
from rec.errors import BundleError, ConfigError, DataError
from rec.features.as_of import DAY_MS, EventIndex, as_of_features
from rec.features.columns import normalise
from rec.features.encoders import Encoders
from rec.schema import Feature, FeatureSchema

CUT_MS = 100 * DAY_MS
SCHEMA = FeatureSchema(
    features=(
        Feature(name="age", kind="numeric", side="user"),
        Feature(name="country", kind="categorical", side="user"),
        Feature(name="genres", kind="multi_hot", side="item"),
        Feature(name="year", kind="numeric", side="item"),
        Feature(name="plot", kind="text", side="item"),
        Feature(name="cover", kind="vector", side="item"),
    )
)


@pytest.fixture
def dataset() -> Dataset:
    """Users u0..u3 and items i0..i3; u3 and i3 have events only after CUT_MS."""
    interactions = Interactions(
        user_ids=np.array(["u0", "u1", "u2", "u3"], dtype=object),
        item_ids=np.array(["i0", "i1", "i2", "i3"], dtype=object),
        user=np.array([0, 0, 1, 2, 2, 3], dtype=np.int32),
        item=np.array([0, 1, 1, 2, 3, 3], dtype=np.int32),
        timestamp=np.array([1, 2, 3, 4, 150, 160]) * DAY_MS,
    )
    users = pd.DataFrame(
        {
            "user_id": ["u0", "u1", "u2", "u3"],
            "age": [20.0, 30.0, np.nan, 900.0],
            "country": ["de", None, "fr", "jp"],
        }
    )
    items = pd.DataFrame(
        {
            "item_id": ["i0", "i1", "i2", "i3"],
            "genres": [["drama"], ["war", "drama", "war"], [], ["anime", "drama"]],
            "year": [1990, 1995, 2000, 2020],
            "plot": ["Good morning", "good night moon", None, "secret word"],
            "cover": [[1.0, 2.0], [3.0, 4.0], None, [5.0, 6.0]],
        }
    )
    return Dataset("test", interactions, users, items, SCHEMA, sha256="")


@pytest.fixture
def encoders(dataset: Dataset) -> Encoders:
    return Encoders.fit(dataset, dataset.interactions.before(CUT_MS), EncodersConfig(hash_slots=4))


def test_vocabularies_hold_the_training_period_alone(encoders):
    assert encoders.vocabularies["user_id"] == ["u0", "u1", "u2"]
    assert encoders.vocabularies["item_id"] == ["i0", "i1", "i2"]
    assert encoders.vocabularies["country"] == ["de", "fr"]
    assert encoders.vocabularies["genres"] == ["drama", "war"]
    assert encoders.moments["age"] == (25.0, 5.0)
    assert "900" not in json.dumps(encoders.to_json()) and "anime" not in json.dumps(encoders.to_json())


def test_another_future_gives_the_same_encoders(dataset, encoders):
    log = dataset.interactions
    later = log.timestamp >= CUT_MS
    altered = replace(log, item=np.where(later, 0, log.item).astype(np.int32), user=np.where(later, 1, log.user))
    users, items = dataset.users.copy(), dataset.items.copy()
    users.loc[3, ["age", "country"]] = [1.0, "it"]
    items.loc[3, ["year", "plot"]] = [1900, "a much longer plot than any other has"]
    other = replace(dataset, interactions=altered, users=users, items=items)
    refitted = Encoders.fit(other, altered.before(CUT_MS), EncodersConfig(hash_slots=4))
    assert refitted.to_json() == encoders.to_json()


def test_slots(encoders, dataset):
    users, items = encoders.encode("user", dataset.users), encoders.encode("item", dataset.items)
    assert_array_equal(users["user_id"][:3], [1, 2, 3])
    assert_array_equal(users["country"][:3], [1, 0, 2])  # missing is slot 0
    assert 3 <= users["country"][3] < encoders.specs["country"].cardinality == 1 + 2 + 4  # unseen is hashed
    assert_array_equal(items["genres"][:3], [[1, 0], [2, 1], [0, 0]])  # distinct, padded on the right
    assert items["genres"][3, 0] > 2 and items["genres"][3, 1] == 1
    assert_array_equal(items["cover"], np.array([[1, 2], [3, 4], [0, 0], [5, 6]], dtype=np.float32))
    assert_allclose(users["age"][:3], [-1.0, 1.0, 0.0])  # missing is the mean
    assert {name: values.dtype for name, values in items.items()} == {
        "item_id": np.int32,
        "genres": np.int32,
        "year": np.float32,
        "plot": np.int32,
        "cover": np.float32,
    }


def test_text_is_a_bag_of_words_and_pairs(encoders, dataset):
    plots = encoders.encode("item", dataset.items)["plot"]
    bags = [set(row[row > 0]) for row in plots]
    assert [len(bag) for bag in bags] == [3, 5, 0, 3]
    assert len(bags[0] & bags[1]) == 1  # good
    assert plots.max() < encoders.specs["plot"].cardinality


def test_shapes_are_those_of_the_specs(encoders, dataset):
    for side, frame in (("user", dataset.users), ("item", dataset.items)):
        for name, values in encoders.encode(side, frame).items():
            spec = encoders.specs[name]
            assert spec.side == side
            assert values.shape == ((4, spec.dim) if spec.kind in ("multi_hot", "text", "vector") else (4,))
            if spec.cardinality:
                assert values.min() >= 0 and values.max() < spec.cardinality


def test_as_of_features_have_mean_0_and_deviation_1_over_the_training_rows(encoders, dataset):
    train = dataset.interactions.before(CUT_MS)
    index = EventIndex(train)
    for name, values in encoders.as_of(index, "user", train.user, train.timestamp).items():
        raw = as_of_features(index, "user", train.user, train.timestamp)[name]
        known = ~np.isnan(raw)
        assert_allclose(values[known].mean(), 0, atol=1e-6)
        assert_array_equal(values[~known], 0)


def test_json_keeps_every_digit(encoders, dataset):
    restored = Encoders.from_json(json.loads(json.dumps(encoders.to_json())))
    assert restored == encoders
    for name, values in restored.encode("item", dataset.items).items():
        assert_array_equal(values, encoders.encode("item", dataset.items)[name])


@pytest.mark.parametrize("part", ["schema", "moments"])
def test_json_that_lacks_a_part_is_refused(encoders, part):
    values = encoders.to_json()
    values[part] = None if part == "schema" else {}
    with pytest.raises(BundleError, match="train again"):
        Encoders.from_json(values)


def test_normalising_twice_changes_nothing(dataset):
    once = normalise(SCHEMA, "item", dataset.items)
    twice = normalise(SCHEMA, "item", once)
    for name in once.columns:
        for a, b in zip(once[name], twice[name], strict=True):
            assert_array_equal(a, b)


def test_whole_numbers_are_one_category_with_and_without_a_point(encoders):
    frames = [
        pd.DataFrame({"user_id": ["a", "b"], "age": 1.0, "country": values})
        for values in ([7, 8], [7.0, 8.0], ["7", "8"], np.array([7, 8], dtype=object))
    ]
    first, *others = [encoders.encode("user", frame)["country"] for frame in frames]
    for other in others:
        assert_array_equal(first, other)


def test_errors_name_the_column_and_the_row(dataset, encoders):
    with pytest.raises(DataError, match="column 'age'"):
        encoders.encode("user", dataset.users.drop(columns="age"))
    with pytest.raises(DataError, match="row 1, column 'genres'"):
        encoders.encode("item", dataset.items.assign(genres=[["a"], "drama|war", [], []]))
    with pytest.raises(DataError, match="row 0, column 'cover'"):
        encoders.encode("item", dataset.items.assign(cover=[[1.0], None, None, None]))
    with pytest.raises(DataError, match="column 'year'"):
        encoders.encode("item", dataset.items.assign(year="unknown"))
    with pytest.raises(DataError, match="training interactions"):
        Encoders.fit(dataset, dataset.interactions.before(0))
    hour = FeatureSchema(features=(Feature(name="hour", kind="numeric", side="context"),))
    with pytest.raises(ConfigError, match="hour"):
        Encoders.fit(replace(dataset, schema=hour), dataset.interactions)
