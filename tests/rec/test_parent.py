"""What a model that training goes on from must have in common with the run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rec.config import IncrementalConfig, TrainConfig
from rec.data.dataset import Dataset
from rec.errors import BundleError, ConfigError
from rec.features.encoders import Encoders
from rec.parent import Parent, with_version
from rec.runs import Runs
from rec.schema import FeatureSchema
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return InstaTok(InstaTokConfig(n_users=20, n_videos=30)).dataset()


@pytest.fixture(scope="module")
def parent(dataset: Dataset) -> Parent:
    encoders = Encoders.fit(dataset, dataset.interactions)
    anything: Any = SimpleNamespace(version="v1", config=TrainConfig(), snapshot=SimpleNamespace(encoders=encoders))
    return Parent(anything)


@pytest.mark.parametrize(
    ("field", "values", "theirs", "ours"),
    [
        ("retriever.output_dim", {"retriever": {"output_dim": 8}}, "64", "8"),
        ("retriever.item_tower.hidden", {"retriever": {"item_tower": {"hidden": [4]}}}, "(128,)", "(4,)"),
        ("retriever.user_tower.history_windows", {"retriever": {"user_tower": {"history_windows": [5]}}}, "50", "5"),
        ("encoders", {"encoders": {"hash_slots": 7}}, "hash_slots=32", "hash_slots=7"),
        ("ranker.kind", {"ranker": {"kind": "mmoe"}}, "'lambdamart'", "'mmoe'"),
    ],
)
def test_other_shapes_are_refused_by_field_and_both_values(parent, field, values, theirs, ours):
    with pytest.raises(ConfigError) as raised:
        parent.require_shapes(TrainConfig.model_validate(values))
    assert raised.value.field == field
    assert theirs in raised.value.message and ours in raised.value.message and "v1" in raised.value.message


def test_another_way_of_learning_is_not_refused(parent):
    retriever = {"objective": "logq", "softmax_temperature": 0.1, "queries": {"snapshots": 3}}
    parent.require_shapes(TrainConfig.model_validate({"retriever": retriever, "training": {"epochs": 1}, "seed": 4}))


def test_other_features_are_refused_by_name_and_both_kinds(parent, dataset):
    parent.require_features(dataset)
    features = dataset.schema.features
    other = features[0].model_copy(update={"kind": "categorical"})
    for changed, name, words in (
        ((other, *features[1:]), "age", ("'numeric'", "'categorical'")),
        (features[:-1], features[-1].name, ("found None",)),
        ((*features, other.model_copy(update={"name": "more"})), "more", ("expected None",)),
    ):
        data: Any = SimpleNamespace(schema=FeatureSchema(features=changed))
        with pytest.raises(ConfigError) as raised:
            parent.require_features(data)
        assert raised.value.field == name and all(word in raised.value.message for word in words)


def test_a_parent_that_is_not_there_is_named(tmp_path: Path, dataset: Dataset) -> None:
    home = Home(str(tmp_path))
    config = TrainConfig(incremental=IncrementalConfig(parent="CURRENT"))
    with pytest.raises(BundleError, match="no model was promoted yet"):
        with_version(config, home, None)
    version = "20260101T120000Z-1a2b3c4d"
    named = TrainConfig(incremental=IncrementalConfig(parent=version))
    assert with_version(named, home, None) is named
    with pytest.raises(BundleError) as raised:
        Parent.open(home, named, dataset)
    assert version in str(raised.value.file)


def test_a_resumed_run_goes_on_from_the_parent_it_began_with(tmp_path: Path) -> None:
    home = Home(str(tmp_path))
    anything: Any = SimpleNamespace(name="instatok", sha256="0" * 64)
    began = TrainConfig(incremental=IncrementalConfig(parent="20260101T120000Z-1a2b3c4d"))
    run = Runs.begin(home, began, anything)
    current = TrainConfig(incremental=IncrementalConfig(parent="CURRENT"))
    assert with_version(current, home, run.folder.name) == began


def test_a_catalogue_is_of_training_anew() -> None:
    assert IncrementalConfig(catalogue="CURRENT").parent is None
    with pytest.raises(ValueError, match="a parent is given, whose catalogue is taken over"):
        IncrementalConfig(parent="a", catalogue="b")
