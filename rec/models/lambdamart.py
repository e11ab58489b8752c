"""LambdaMART: boosted trees whose gradients are pairs weighted by the NDCG they would gain."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import lightgbm
import numpy as np
from numpy.typing import NDArray

from rec.config import LambdaMARTConfig
from rec.errors import BundleError
from rec.ranking.data import FeatureLayout, RankingData


@dataclass(frozen=True, slots=True)
class LambdaMART:
    """Trees grown by LightGBM's lambdarank.

    Source: Burges (2010), From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82.
    """

    booster: lightgbm.Booster
    filename: ClassVar[str] = "ranker.lgb.txt"

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores (R,) of feature rows (R, F)."""
        return np.asarray(self.booster.predict(matrix, num_threads=1), np.float64)

    def save(self, folder: Path) -> None:
        """Writes the trees as LightGBM's text."""
        self.booster.save_model(folder / self.filename)

    @classmethod
    def load(cls, folder: Path, layout: FeatureLayout) -> Self:
        """Reads the trees; refuses those grown on other features."""
        file = folder / cls.filename
        try:
            booster = lightgbm.Booster(model_file=file)
        except lightgbm.basic.LightGBMError as error:
            raise BundleError(f"LightGBM cannot read it: {error}", file=str(file)) from error
        if tuple(booster.feature_name()) != layout.names:
            raise BundleError("was trained on other features than this bundle's encoders make", file=str(file))
        return cls(booster)

    def importance(self) -> dict[str, float]:
        """Total gain of the splits on each feature, largest first."""
        gains = self.booster.feature_importance("gain")
        return dict(sorted(zip(self.booster.feature_name(), gains.tolist(), strict=True), key=lambda pair: -pair[1]))


@dataclass(frozen=True, slots=True)
class LambdaMARTFit:
    """What came of growing trees: the model, how many trees, and their mean NDCG@10 on the validation queries."""

    model: LambdaMART
    trees: int
    valid_ndcg: float | None


def fit_lambdamart(
    data: RankingData,
    config: LambdaMARTConfig,
    *,
    seed: int,
    valid: RankingData | None = None,
    trees: int | None = None,
    network: dict[str, Any] | None = None,
) -> LambdaMARTFit:
    """Grows trees on the first task's labels.

    With `valid`, if that holds a query, it stops once the validation NDCG has not risen for `config.patience` trees, or
    for `config.min_trees` where that is more, and keeps the best number of them, `config.min_trees` at least; without,
    it grows `trees`, or config.trees.

    Args:
        data: this worker's queries.
        config: size and shape of the trees.
        seed: of feature and row sampling.
        valid: queries that decide when to stop, the same on every worker.
        trees: how many to grow when nothing decides.
        network: LightGBM's parameters of a group of workers, empty for one.
    Assumes: data that `require_something_to_learn` accepts.
    """
    parameters = {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [10],
        "lambdarank_truncation_level": config.truncation_level,
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "min_data_in_leaf": config.min_data_in_leaf,
        "feature_fraction": config.feature_fraction,
        "bagging_fraction": config.bagging_fraction,
        "bagging_freq": 1,
        "lambda_l2": config.l2,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
        **(network or {}),
    }
    if network:
        parameters["tree_learner"] = "data_parallel"
    train_set = _lightgbm_dataset(data)
    if valid is not None and len(valid.groups) == 0:
        valid = None
    curve: dict[str, dict[str, list[float]]] = {}
    watching = [
        lightgbm.early_stopping(max(config.patience, config.min_trees), verbose=False),
        lightgbm.record_evaluation(curve),
    ]
    booster = lightgbm.train(
        parameters,
        train_set,
        num_boost_round=trees or config.trees,
        valid_sets=None if valid is None else [_lightgbm_dataset(valid, reference=train_set)],
        valid_names=None if valid is None else ["valid"],
        callbacks=None if valid is None else watching,
        # Else LightGBM drops the trees after the best, of which some may be kept.
        keep_training_booster=True,
    )
    grown, ndcg = booster.current_iteration(), None
    if valid is not None:
        grown = max(booster.best_iteration, min(config.min_trees, grown))
        ndcg = float(curve["valid"]["ndcg@10"][grown - 1])
    kept = lightgbm.Booster(model_str=booster.model_to_string(num_iteration=grown))
    return LambdaMARTFit(LambdaMART(kept), grown, ndcg)


def refit_lambdamart(model: LambdaMART, data: RankingData, *, decay: float) -> LambdaMART:
    """The same trees with the outputs of their leaves moved towards what other queries make of them.

    A leaf's output becomes decay times its own plus (1 - decay) times that of a Newton step on the data, tree by tree.

    Args: data: of the same features. decay: in [0, 1]; at 1 nothing changes.
    Assumes: data that `require_something_to_learn` accepts.
    """
    refitted = model.booster.refit(
        data.matrix,
        data.labels[:, 0],
        decay_rate=decay,
        group=data.groups,
        feature_name=list(data.layout.names),
    )
    return LambdaMART(lightgbm.Booster(model_str=refitted.model_to_string()))


def _lightgbm_dataset(data: RankingData, reference: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
    return lightgbm.Dataset(
        data.matrix,
        label=data.labels[:, 0],
        group=data.groups,
        feature_name=list(data.layout.names),
        categorical_feature=list(data.layout.categorical),
        reference=reference,
        free_raw_data=False,
    )
