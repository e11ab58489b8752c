"""A field that a config does not have is answered with those that it has."""

from pathlib import Path

import pytest

from rec.config import TrainConfig, load_config, parse_config
from rec.errors import ConfigError
from rl.config import InstaTokConfig


def test_a_misspelt_field_of_a_world_is_told_the_fields_there_are(tmp_path: Path):
    file = tmp_path / "world.yaml"
    file.write_text("n_user: 500\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no such field; there are .*n_users, n_videos, ") as caught:
        load_config(InstaTokConfig, file)
    assert caught.value.field == "n_user" and caught.value.file == str(file)


@pytest.mark.parametrize(
    ("values", "field", "known", "foreign"),
    [
        ({"training": {"epoch": 2}}, "training.epoch", "epochs", "retriever"),
        ({"retriever": {"queries": {"min_batch": 2}}}, "retriever.queries.min_batch", "min_batches", "output_dim"),
        (
            {"ranker": {"tasks": [{"name": "watched", "action": ["watched"]}]}},
            "ranker.tasks.0.action",
            "actions",
            "n_candidates",
        ),
    ],
)
def test_of_a_config_within_another_its_own_fields_are_told(values: dict, field: str, known: str, foreign: str):
    with pytest.raises(ConfigError) as caught:
        parse_config(TrainConfig, values)
    names = caught.value.message.split("there are ")[1].split("; check")[0].split(", ")
    assert caught.value.field == field and known in names and foreign not in names
