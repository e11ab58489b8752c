"""LambdaMART through Ray Train: whole queries on one worker, trees grown together."""

import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.lightgbm import LightGBMTrainer, get_network_params

from rec.config import LambdaMARTConfig
from rec.models.lambdamart import LambdaMART, LambdaMARTFit, fit_lambdamart
from rec.on_ray.trainer import fit_trainer, kept_in
from rec.ranking.data import RankingData
from rec.storage import Place


def fit_lambdamart_on_ray(
    data: RankingData,
    config: LambdaMARTConfig,
    *,
    seed: int,
    workers: int,
    run_name: str,
    folder: Path,
    max_failures: int,
    place: Place | None = None,
    valid: RankingData | None = None,
    trees: int | None = None,
) -> LambdaMARTFit:
    """Grows the trees of `fit_lambdamart` on up to `workers` Ray Train workers, or in this process.

    Each gets `config.rows_per_worker` at least; in this process it is done for 0 workers, and for fewer rows than that.

    Args: folder: for checkpoints, on storage that all workers share, unless a place is given for them.
    Raises: TrainingError: when there is no query to learn from, or workers keep dying. KeyboardInterrupt: after
        Ctrl-C, when the workers are gone.
    """
    data.require_something_to_learn()
    # A worker has a query at least.
    workers = min(workers, len(data.groups), len(data.matrix) // config.rows_per_worker)
    if workers == 0:
        return fit_lambdamart(data, config, seed=seed, valid=valid, trees=trees)
    trainer = LightGBMTrainer(
        _train_loop,
        train_loop_config={
            "data": ray.put(data),
            "valid": ray.put(valid),
            "config": config.model_dump(),
            "seed": seed,
            "trees": trees,
        },
        scaling_config=ray.train.ScalingConfig(num_workers=workers),
        run_config=ray.train.RunConfig(
            name=run_name,
            **kept_in(folder, place),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
        ),
    )
    checkpoint, metrics = fit_trainer(trainer)
    with checkpoint.as_directory() as saved:
        model = LambdaMART.load(Path(saved), data.layout)
    return LambdaMARTFit(model, metrics["trees"], metrics["valid_ndcg"])


def _train_loop(loop: dict[str, Any]) -> None:
    context = ray.train.get_context()
    data: RankingData = ray.get(loop["data"])
    fit = fit_lambdamart(
        data.shard(context.get_world_rank(), context.get_world_size()),
        LambdaMARTConfig.model_validate(loop["config"]),
        seed=loop["seed"],
        valid=ray.get(loop["valid"]),
        trees=loop["trees"],
        network=get_network_params() if context.get_world_size() > 1 else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if context.get_world_rank() == 0:
            fit.model.save(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"trees": fit.trees, "valid_ndcg": fit.valid_ndcg}, checkpoint=checkpoint)
