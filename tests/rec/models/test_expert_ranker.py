from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rec.config import MMoEConfig, PLEConfig, TaskConfig
from rec.errors import BundleError
from rec.models.expert_ranker import ExpertDesign, ExpertRanker
from rec.models.row_inputs import cardinalities_of
from rec.ranking.data import FeatureLayout, RankingData

Rows = Callable[..., RankingData]


@pytest.fixture(params=["mmoe", "ple"])
def ranker(request: pytest.FixtureRequest, three_tasks: Rows, tasks: tuple[TaskConfig, ...]) -> ExpertRanker:
    config = {"mmoe": MMoEConfig(formula={"share": 0.0}), "ple": PLEConfig(formula={"share": 0.0})}[request.param]
    train = three_tasks()
    design = ExpertDesign(request.param, train.layout, cardinalities_of(train), tasks, config, n_positions=4)
    return ExpertRanker.of(design, design.network().state_dict())


def test_saved_and_loaded_it_is_the_same(ranker: ExpertRanker, three_tasks: Rows, tmp_path: Path) -> None:
    ranker.save(tmp_path)
    loaded = ExpertRanker.load(tmp_path, ranker.design.layout)
    matrix = three_tasks(5, seed=3).matrix
    np.testing.assert_array_equal(loaded.predict(matrix), ranker.predict(matrix))
    assert loaded.design == ranker.design


def test_other_features_and_damaged_files_are_refused(ranker: ExpertRanker, tmp_path: Path) -> None:
    ranker.save(tmp_path)
    with pytest.raises(BundleError, match="trained on other features"):
        ExpertRanker.load(tmp_path, FeatureLayout(("a", "b", "size"), ()))
    (tmp_path / ExpertRanker.filename).write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"ranker\.safetensors"):
        ExpertRanker.load(tmp_path, ranker.design.layout)


def test_unknown_codes_and_missing_numbers_have_scores_too(ranker: ExpertRanker) -> None:
    matrix = np.array([[np.nan, np.nan, np.nan], [1, 1, 99], [1, 1, -1]], np.float32)
    scores = ranker.predict(matrix)
    assert np.isfinite(scores).all()
    assert scores[1] == scores[2]
