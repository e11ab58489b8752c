"""Fitting retrievers on what is before a time: from what was liked, or from what was shown and what it earned."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, get_args

import numpy as np
from torch import Tensor

from rec.config import LikesObjective, TrainConfig
from rec.errors import ConfigError, TrainingError
from rec.models.two_tower import TwoTower, user_vectors
from rec.models.weights import put_weights
from rec.ope.support import MIN_ESS
from rec.preparation import Prepared, expires_before, history_length, snapshot_at
from rec.recommender import Recommender
from rec.retriever.data import NewPeriod, build_retrieval_data, build_validation
from rec.retriever.logged_data import N_FOLDS, LoggedData, build_logged_data
from rec.retriever.off_policy_task import ESS, OffPolicyTask, RewardModel
from rec.retriever.ranker_scores import RankersAtHand, RankerTables
from rec.retriever.task import RetrieverTask
from rec.runs import Runs, say
from rec.training import Fitted, Progress, TrainingTask

LIKES: Final = get_args(LikesObjective)
NEW_FIT: Final = "retriever-new"
SAY_EVERY_S: Final = 15.0


def fit_retriever(runs: Runs, ready: Prepared, period: int, *, epochs: int | None = None) -> Fitted:
    """Fits the two-tower model on what is before the beginning of a period.

    Stops early by what happened in that period; where `epochs` is given, it trains that long without looking. For
    two_stage_ips it is the first of two fits, by ips: a ranker has to be known before the second.
    """
    config = runs.config
    judged = epochs is None
    training = config.training if epochs is None else config.training.model_copy(update={"epochs": epochs})
    name = f"retriever-{period}"
    if config.retriever.objective in LIKES:
        task: TrainingTask = likes_task(ready, config, period, judged=judged)
    else:
        task = _logged_task(ready, config, period, judged=judged)
        if config.retriever.objective == "two_stage_ips":
            task = replace(task, config=config.retriever.model_copy(update={"objective": "ips"}))
        if config.retriever.objective == "dr":
            task = replace(task, reward_model=_fit_reward_model(runs, task, name))
    return runs.fit(task, training, name)


def fit_new(runs: Runs, ready: Prepared, weights: Mapping[str, Tensor], before: Recommender) -> Fitted:
    """Trains a two-tower model on from given weights, on what is new in the training period.

    Args: weights: under the encoders of `ready`. before: what answered until then, with these weights; its ranker is
        that of two_stage_ips.
    """
    config = runs.config
    settings = config.incremental
    queries = config.retriever.queries.model_copy(
        update={"epoch_share": settings.epoch_share, "min_batches": settings.min_batches}
    )
    config = config.model_copy(update={"retriever": config.retriever.model_copy(update={"queries": queries})})
    training = config.training.model_copy(update={"epochs": settings.epochs})
    period = len(ready.period_starts) - 1
    start_ms, end_ms = ready.period_starts[-2:]
    new = NewPeriod(start_ms, settings.replay, expires_before(config, end_ms))
    task: TrainingTask
    if config.retriever.objective in LIKES:
        task = likes_task(ready, config, period, judged=False, new=new)
    else:
        task = _logged_task(ready, config, period, judged=False, new=new)
        if config.retriever.objective == "two_stage_ips":
            task = _through_ranker(task, config, [before], NEW_FIT)
        if config.retriever.objective == "dr":
            task = replace(task, reward_model=_fit_reward_model(runs, task, NEW_FIT))
    return runs.fit(task, training, NEW_FIT, init_from=weights)


def fit_through_ranker(
    runs: Runs, ready: Prepared, period: int, first: Fitted, earlier: Sequence[Recommender]
) -> Fitted:
    """Fits the two-tower model again by two_stage_ips, beginning with the weights of the first fit.

    It learns from the rounds of the periods before the one given. What the ranker makes of a candidate is as of the
    beginning of the round's own period, when the answer to the round was not known.

    Args: first: the fit by ips. earlier: what was known at the beginning of each period before, with the ranker.
    """
    name = f"retriever-{period}-through-ranker"
    task = _through_ranker(_logged_task(ready, runs.config, period, judged=False), runs.config, earlier, name)
    return runs.fit(task, runs.config.training, name, init_from=first.weights)


def _through_ranker(
    task: OffPolicyTask, config: TrainConfig, earlier: Sequence[Recommender], name: str
) -> OffPolicyTask:
    """The task of learning from the rounds since the first of some recommenders, through their rankers."""
    data = task.data.since(earlier[0].snapshot.at_ms)
    if not len(data.train):
        raise TrainingError(
            "two_stage_ips has nothing to learn from: no reward after the ranker's first period began is final yet; "
            "give more data, or begin earlier with ranker.period_fractions"
        )
    ranker = RankersAtHand(tuple(earlier)) if config.off_policy.sampled_items else _ranker_tables(earlier, name)
    return replace(task, data=data, ranker=ranker)


def _ranker_tables(earlier: Sequence[Recommender], name: str) -> RankerTables:
    """Scores all items for all users, as of each period, and says how far it has come."""
    total, done, told = sum(len(each.snapshot.user_ids) for each in earlier), 0, time.monotonic()
    say(f"{name}: the ranker scores {earlier[0].n_items:,} items for each user of {len(earlier)} periods")

    def tell(n_users: int) -> None:
        nonlocal done, told
        done += n_users
        if done == total or time.monotonic() - told >= SAY_EVERY_S:
            told = time.monotonic()
            say(f"{name}: {done:,} of {total:,} users scored")

    return RankerTables.build(earlier, tell)


def thin_overlap(progress: Progress) -> str | None:
    """What makes the choice of the epoch doubtful: that the policy chosen shows hardly what the log showed."""
    ess = progress.best.get(ESS)
    if ess is None or ess >= MIN_ESS:
        return None
    return (
        f"epoch {progress.best_epoch} was chosen by an effective sample of {ess:.1f} later rounds (below {MIN_ESS:g}): "
        "the log can hardly tell what its policy earns, or whether another epoch's earns more; give a longer log, or "
        "one of a policy that explores more"
    )


def likes_task(
    ready: Prepared, config: TrainConfig, period: int, *, judged: bool, new: NewPeriod | None = None
) -> RetrieverTask:
    """What is learned from the likes before the beginning of a period; `judged` by those in it, if asked for.

    Args: new: of a model that goes on from another.
    """
    train, end_ms = ready.split.train, ready.period_starts[period]
    valid = None
    if judged:
        liked = train.between(end_ms, ready.period_starts[period + 1])
        valid = build_validation(snapshot_at(ready, config, end_ms), liked, history_length=history_length(config))
    data = build_retrieval_data(
        ready.dataset, ready.encoders, train, train, config.retriever.queries, end_ms=end_ms, valid=valid, new=new
    )
    return RetrieverTask(data, config.retriever, config.training.batch_size, config.seed, index=config.index)


def _logged_task(
    ready: Prepared, config: TrainConfig, period: int, *, judged: bool, new: NewPeriod | None = None
) -> OffPolicyTask:
    if ready.split.cut_ms is None:
        raise ConfigError(
            f"off-policy objectives need a split in time, which {config.split.kind} is not: its held-out rows lie "
            "among the rounds learned from; take global_temporal",
            field="split.kind",
        )
    data = build_logged_data(
        ready.dataset,
        ready.encoders,
        ready.split.train,
        config.retriever.queries,
        end_ms=ready.period_starts[period],
        valid_until_ms=ready.period_starts[period + 1] if judged else None,
        new=new,
    )
    _refuse_rewards(data, config)
    n_items = data.tables.n_items
    if config.off_policy.sampled_items >= n_items:
        raise ConfigError(
            f"sampled_items must be below the size of the catalogue, {n_items}; found "
            f"{config.off_policy.sampled_items}: set 0, which scores all of it",
            field="off_policy.sampled_items",
        )
    return OffPolicyTask(
        data, config.retriever, config.off_policy, config.training.batch_size, config.seed, index=config.index
    )


def _refuse_rewards(data: LoggedData, config: TrainConfig) -> None:
    """Rewards that an objective cannot learn from, before any training."""
    objective, rewards = config.retriever.objective, data.reward[data.train]
    lowest = float(rewards.min())
    if lowest == rewards.max():
        raise ConfigError(
            f"all {len(rewards)} rounds to learn from earned {lowest:g}, which teaches nothing; say with --rewards "
            "what each action is worth",
            field="data.rewards",
        )
    if lowest >= 0 or objective in ("regression", "dr"):
        return
    if objective == "weighted_log_likelihood":
        raise ConfigError(
            f"weighted_log_likelihood needs rewards of at least 0, found {lowest:g}; take ips or dr",
            field="data.rewards",
        )
    if config.off_policy.min_weight > 0:
        raise ConfigError(
            f"rewards below 0 (found {lowest:g}) diverge with a floor under weights; set off_policy.min_weight to 0",
            field="off_policy.min_weight",
        )


def _fit_reward_model(runs: Runs, task: OffPolicyTask, name: str) -> RewardModel:
    """Regressions of the reward, each on the users of the other folds."""
    data, config = task.data, runs.config
    if len(np.unique(data.fold[data.train])) < N_FOLDS:
        raise TrainingError(
            "dr predicts the rewards of some users by a model of the others, and these are too few users for it; "
            "give a longer log, or take ips"
        )
    regressing = config.retriever.model_copy(update={"objective": "regression"})
    users = np.empty((len(data.item), regressing.output_dim), np.float32)
    weights = []
    for fold in range(N_FOLDS):
        part = replace(task, data=data.without_fold(fold), config=regressing)
        fitted = runs.fit(part, config.training, f"{name}-rewards-{fold}")
        model = TwoTower(regressing, data.tables.specs)
        put_weights(model, fitted.weights)
        rows = np.flatnonzero(data.fold == fold)
        user = data.moments.user[rows]
        features = {key: values[user] for key, values in data.tables.users.items()}
        features |= {key: values[rows] for key, values in data.moments.features.items()}
        users[rows] = user_vectors(model, features, task.inputs.history(rows))
        weights.append(fitted.weights)
    return RewardModel(users, tuple(weights))
