"""Training the two-tower model off-policy: its softmax over the catalogue is the policy that is learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.config import OffPolicyConfig, RetrieverConfig
from rec.logged_data import LoggedData
from rec.losses import dr, ips, regression, top_k_reinforce, two_stage_ips, weighted_log_likelihood
from rec.models.two_tower import TwoTower
from rec.models.weights import put_weights
from rec.sampling import Groups, grouped_batches, row_uniforms, runs
from rec.tower_inputs import TowerInputs
from rec.training import Worker
from rec.weights import effective_sample_size, importance_weights, self_normalized

VALID_METRIC = "snips"
VALID_BLOCK = 4096
# Far below every logit, and finite, because 0 * -inf is no number.
NEVER = -1e4


@dataclass(frozen=True, slots=True)
class LoggedBatch:
    """One global batch: rounds that share a snapshot, and what seeds the draws for it."""

    snapshot: int
    rows: NDArray[np.int64]
    seed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RewardModel:
    """Predicted rewards of all items, for each round by a two-tower model that did not learn from its user.

    Attributes: users: embedded by that model, (R, D). weights: of the model of each fold.
    """

    users: NDArray[np.float32]
    weights: tuple[dict[str, Tensor], ...]


@dataclass(frozen=True, slots=True)
class RankerTables:
    """The ranker's scores of all items, as of the beginning of the period in which a round was.

    Attributes: logits: (P, U, N). starts: where the periods begin, ascending, (P,).
    """

    logits: NDArray[np.float32]
    starts: NDArray[np.int64]

    def of(self, users: NDArray[np.int32], at_ms: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores for users at times, none before the first period, (B, N)."""
        return self.logits[np.searchsorted(self.starts, at_ms, side="right") - 1, users]


@dataclass(frozen=True)
class OffPolicyTask:
    """What the two-tower model learns from logged rounds; a `rec.training.TrainingTask`.

    Attributes:
        ranker: two_stage_ips needs it.
        reward_model: dr needs it.
    """

    data: LoggedData
    config: RetrieverConfig
    off_policy: OffPolicyConfig
    batch_size: int
    seed: int
    ranker: RankerTables | None = None
    reward_model: RewardModel | None = None

    @property
    def metric(self) -> str:
        """The validation metric that decides: self-normalised estimate of the policy's reward on later rounds."""
        return VALID_METRIC

    def build_model(self) -> TwoTower:
        """The model before training."""
        return TwoTower(self.config, self.data.tables.specs)

    def plan(self, epoch: int) -> Sequence[LoggedBatch]:
        """Global batches of an epoch: as many rounds as there are, more where `min_batches` asks for it, all alike."""
        rng = np.random.default_rng([self.seed, epoch])
        rows = self.data.train
        n = max(len(rows), self.config.queries.min_batches * self.batch_size)
        drawn = grouped_batches(self._groups, np.ones(len(rows)), n, self.batch_size, rng)
        return [
            LoggedBatch(int(self.data.moments.snapshot[rows[chosen[0]]]), rows[chosen], (self.seed, epoch, step))
            for step, chosen in enumerate(drawn)
        ]

    def loss(self, model: Callable[..., Any], batch: LoggedBatch, worker: Worker) -> Tensor:
        """This worker's part of a batch's loss."""
        part = worker.part(len(batch.rows))
        rows = batch.rows[part]
        n_items = self.data.tables.n_items
        items = np.resize(np.arange(n_items), -(-n_items // worker.world) * worker.world)
        users, vectors = model(
            self.inputs.users(rows, worker.device),
            self.inputs.items(items[worker.even_part(n_items)], batch.snapshot, worker.device),
        )
        logits = self._logits(users, worker.gather(vectors)[:n_items], rows)
        total = worker.total if worker.world > 1 else None
        return self._objective(logits, rows, batch, part, total)

    def validate(self, model: TwoTower, device: torch.device) -> dict[str, float]:
        """Estimated reward of the policy on later rounds, and how many of them it rests on."""
        if not len(self.data.valid):
            return {}
        weights = np.empty(len(self.data.valid))
        snapshot = int(self.data.moments.snapshot[self.data.valid].max())
        vectors = model.embed_items(self.inputs.items(np.arange(self.data.tables.n_items), snapshot, device))
        for start in range(0, len(weights), VALID_BLOCK):
            rows = self.data.valid[start : start + VALID_BLOCK]
            logits = self._logits(model.embed_users(self.inputs.users(rows, device)), vectors, rows)
            log_p = logits.log_softmax(dim=1).gather(1, self._tensor(self.data.item[rows], device).long()[:, None])
            target_p = log_p[:, 0].double().exp().cpu().numpy()
            weights[start : start + len(rows)] = importance_weights(target_p, self.data.propensity[rows])
        value = float((self_normalized(weights) * self.data.reward[self.data.valid]).mean())
        return {VALID_METRIC: value, "ess": effective_sample_size(weights)}

    @cached_property
    def inputs(self) -> TowerInputs:
        """What the towers read."""
        return TowerInputs(self.data.tables, self.data.moments, self.config)

    @cached_property
    def _reward_models(self) -> list[TwoTower]:
        assert self.reward_model is not None
        models = []
        for weights in self.reward_model.weights:
            with torch.random.fork_rng(devices=[]):
                model = self.build_model()
            put_weights(model, weights)
            models.append(model.eval())
        return models

    @cached_property
    def _groups(self) -> Groups:
        return Groups.of(self.data.moments.snapshot[self.data.train], np.ones(len(self.data.train)))

    def _logits(self, users: Tensor, vectors: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Logits of the policy, without the items that could not be shown, (B, N)."""
        logits = users.float() @ vectors.float().T / self.config.softmax_temperature
        owner, place = runs(self.data.banned_start[rows], self.data.banned_start[rows + 1])
        banned = self._tensor(self.data.banned[place].astype(np.int64), logits.device)
        return logits.index_put((self._tensor(owner, logits.device), banned), logits.new_tensor(NEVER))

    def _objective(
        self, logits: Tensor, rows: NDArray[np.int64], batch: LoggedBatch, part: slice, total: Any
    ) -> Tensor:
        device, settings = logits.device, self.off_policy
        actions = self._tensor(self.data.item[rows].astype(np.int64), device)
        propensities = self._tensor(self.data.propensity[rows].astype(np.float32), device)
        rewards = self._tensor(self.data.reward[rows], device)
        weighting = {"max_weight": settings.max_weight, "self_normalize": settings.self_normalize, "total": total}
        clicked = {**weighting, "rewards": rewards, "normalize_over": settings.normalize_over}
        floored = {**clicked, "min_weight": settings.min_weight}
        match self.config.objective:
            case "regression":
                return regression(logits, actions, rewards, error=self._error, total=total)
            case "ips":
                return ips(logits, actions, propensities, **floored)
            case "dr":
                return dr(
                    logits, actions, propensities, rewards, self._predicted(rows, batch.snapshot, device), **weighting
                )
            case "weighted_log_likelihood":
                return weighted_log_likelihood(logits, actions, propensities, **clicked)
            case "top_k_reinforce":
                return top_k_reinforce(logits, actions, propensities, slate_size=settings.slate_size, **floored)
            case "two_stage_ips":
                assert self.ranker is not None
                ranked = self.ranker.of(self.data.moments.user[rows], self.data.at_ms[rows])
                shape = (settings.n_slates, settings.slate_size - 1)
                return two_stage_ips(
                    logits,
                    actions,
                    propensities,
                    self._tensor(ranked, device),
                    n_slates=settings.n_slates,
                    slate_size=settings.slate_size,
                    alpha=settings.alpha,
                    slate_temperature=settings.slate_temperature,
                    uniforms=self._tensor(
                        row_uniforms(batch.seed, part, shape[0] * shape[1]).reshape(-1, *shape), device
                    ),
                    **floored,
                )
        raise AssertionError(f"{self.config.objective} learns from likes")

    @cached_property
    def _error(self) -> Any:
        rewards = self.data.reward[self.data.train]
        within = (rewards >= 0) & (rewards <= 1)
        return "logistic" if within.all() else "squared"

    @torch.no_grad()
    def _predicted(self, rows: NDArray[np.int64], snapshot: int, device: torch.device) -> Tensor:
        """Predicted rewards of all items as they were known at a snapshot, (B, N)."""
        assert self.reward_model is not None
        users, fold = self._tensor(self.reward_model.users[rows], device), self.data.fold[rows]
        predicted = users.new_empty((len(rows), self.data.tables.n_items))
        items = self.inputs.items(np.arange(self.data.tables.n_items), snapshot, device)
        for place, model in enumerate(self._reward_models):
            own = self._tensor(np.flatnonzero(fold == place), device)
            predicted[own] = users[own] @ model.to(device).embed_items(items).T
        predicted /= self.config.softmax_temperature
        return predicted.sigmoid() if self._error == "logistic" else predicted

    @staticmethod
    def _tensor(values: NDArray[Any], device: torch.device) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)
