"""What a cycle trains."""

import pytest
from pydantic import ValidationError

from rec.cli.cycle import CycleOptions
from rec.config import CycleConfig, IncrementalConfig, TrainConfig
from rec.cycle.steps import challenger_config

CHAMPION = TrainConfig.model_validate(
    {"seed": 7, "split": {"kind": "none"}, "training": {"workers": 0, "epochs": 3}, "ranker": {"kind": "logistic"}}
)
REWARDS = {"watched": 1.0, "skipped": -2.0}


def challenger(**options: object) -> TrainConfig:
    config = CycleConfig.model_validate({"rewards": REWARDS, "attribution_s": 60, **options})
    return challenger_config(CHAMPION, config, path="home", parent="version", since_ms=1000)


def test_a_challenger_goes_on_from_the_champion_and_knows_what_was_before_the_held_out_days() -> None:
    found = challenger(incremental=IncrementalConfig(replay=0.3))
    assert found.incremental == IncrementalConfig(parent="version", replay=0.3)
    assert (found.data.name, found.data.path, found.data.now_ms) == ("events", "home", 999)
    assert (found.data.rewards, found.data.attribution_s) == (REWARDS, 60)
    assert (found.ranker, found.training, found.seed) == (CHAMPION.ranker, CHAMPION.training, CHAMPION.seed)


def test_a_challenger_that_is_trained_anew_has_the_champion_for_its_catalogue_in_place_of_its_parent() -> None:
    anew = IncrementalConfig(catalogue="version")
    assert challenger(anew=True) == challenger().model_copy(update={"incremental": anew})


@pytest.mark.parametrize("field", ["parent", "catalogue"])
def test_what_a_challenger_goes_on_from_cannot_be_chosen(field: str) -> None:
    with pytest.raises(ValidationError, match="goes on from CURRENT"):
        CycleOptions.model_validate({"rewards": REWARDS, "incremental": {field: "other"}})


def test_a_cycle_may_have_other_workers_than_the_champion_had() -> None:
    assert challenger(workers=4).training == CHAMPION.training.model_copy(update={"workers": 4})
