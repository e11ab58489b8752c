"""Training the two-tower model off-policy: its softmax over the catalogue is the policy that is learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rec.config import IndexConfig, OffPolicyConfig, RetrieverConfig
from rec.losses import (
    dr,
    ips,
    regression,
    sampled_ips,
    sampled_two_stage_ips,
    top_k_reinforce,
    two_stage_ips,
    weighted_log_likelihood,
)
from rec.losses.logged import log_probability
from rec.losses.off_policy import ErrorName, reward_errors
from rec.models.two_tower import TwoTower
from rec.models.weights import put_weights
from rec.precision import bare
from rec.retriever.drawn_items import BLOCK, ItemSampler, embed_items
from rec.retriever.logged_data import LoggedData
from rec.retriever.policy_value import snips_with_bound
from rec.retriever.ranker_scores import RankerScores, RankerTables
from rec.retriever.tower_inputs import TowerInputs
from rec.sampling import Groups, LoggedBatch, grouped_batches, row_uniforms, runs
from rec.tensors import on_device
from rec.training import Worker
from rec.weights import Total, effective_sample_size, importance_weights

SNIPS = "snips"
SNIPS_ERROR = "snips_error"
SNIPS_LOW = "snips_low"
ESS = "ess"
EXPLAINED = "explained"
# Numbers in the largest array of validation, about.
VALID_NUMBERS = 2**24
# Far below every logit, and finite, because 0 * -inf is no number.
NEVER = -1e4


@dataclass(frozen=True, slots=True)
class RewardModel:
    """Predicted rewards of all items, for each round by a two-tower model that did not learn from its user.

    Attributes: users: embedded by that model, (R, D). weights: of the model of each fold.
    """

    users: NDArray[np.float32]
    weights: tuple[dict[str, Tensor], ...]


def explained(predicted: Tensor, rewards: Tensor, mean: float, error: ErrorName) -> float:
    """The share of a constant prediction's error that predictions do without: 1 where there is none, 0 if no better.

    Args: predicted: logits where the error is logistic, (B,). rewards: (B,). mean: what the constant predicts.
    """
    constant = torch.tensor(mean, dtype=predicted.dtype, device=predicted.device)
    constant = (constant.logit(1e-6) if error == "logistic" else constant).expand_as(predicted)
    least = float(reward_errors(constant, rewards, error).sum())
    return 1 - float(reward_errors(predicted, rewards, error).sum()) / least if least else 0.0


@dataclass(frozen=True)
class OffPolicyTask:
    """What the two-tower model learns from logged rounds; a `rec.training.TrainingTask`.

    Attributes:
        ranker: two_stage_ips needs it: tables, or with sampled items anything that scores some.
        reward_model: dr needs it.
        index: how the neighbours are found that items are sampled from.
    """

    data: LoggedData
    config: RetrieverConfig
    off_policy: OffPolicyConfig
    batch_size: int
    seed: int
    ranker: RankerScores | None = None
    reward_model: RewardModel | None = None
    index: IndexConfig = field(default_factory=IndexConfig)

    @property
    def metric(self) -> str:
        """The validation metric that decides, on later rounds.

        `snips_low`: lower bound of the self-normalised estimate of the policy's reward. A regression is no policy; what
        is shown by it is what it predicts highest, which the log seldom showed. It is judged by what it is fitted for,
        `explained`: the share of the error of a constant prediction, the mean reward learned from, that its own
        predictions do without.
        """
        return EXPLAINED if self.config.objective == "regression" else SNIPS_LOW

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
        total = worker.total if worker.world > 1 else None
        if self.off_policy.sampled_items:
            return self._sampled_loss(model, batch, part, worker, total)
        rows = batch.rows[part]
        n_items = self.data.tables.n_items
        items = np.resize(np.arange(n_items), -(-n_items // worker.world) * worker.world)
        users, vectors = model(
            self.inputs.users(rows, worker.device),
            self.inputs.items(items[worker.even_part(n_items)], batch.snapshot, worker.device),
        )
        logits = self._logits(users, worker.gather(vectors)[:n_items], rows)
        return self._objective(logits, rows, batch, part, total)

    def validate(self, model: TwoTower, device: torch.device) -> dict[str, float]:
        """The metric that decides; of a bound also the estimate, and how many rounds that rests on."""
        rows = self.data.valid
        if not len(rows):
            return {}
        snapshot = int(self.data.moments.snapshot[rows].max())
        if self.config.objective == "regression":
            predicted = self._shown_logits(model, rows, snapshot, device)
            rewards, mean = on_device(self.data.reward[rows], device), float(self.data.reward[self.data.train].mean())
            return {EXPLAINED: explained(predicted, rewards, mean, self._error)}
        weights = np.empty(len(rows))
        n_items = self.data.tables.n_items
        vectors = embed_items(model, self.inputs, np.arange(n_items), snapshot, device)
        size = max(VALID_NUMBERS // n_items, 1)
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            logits = self._logits(model.embed_users(self.inputs.users(block, device)), vectors, block)
            actions = on_device(self.data.item[block].astype(np.int64), device)
            target_p = log_probability(logits, actions).double().exp().cpu().numpy()
            weights[start : start + len(block)] = importance_weights(target_p, self.data.propensity[block])
        rewards = self.data.reward[rows].astype(np.float64)
        value, error, low = snips_with_bound(weights, rewards, self.data.moments.user[rows])
        return {SNIPS: value, SNIPS_ERROR: error, SNIPS_LOW: low, ESS: effective_sample_size(weights)}

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
        banned = on_device(self.data.banned[place].astype(np.int64), logits.device)
        return logits.index_put((on_device(owner, logits.device), banned), logits.new_tensor(NEVER))

    def _objective(
        self, logits: Tensor, rows: NDArray[np.int64], batch: LoggedBatch, part: slice, total: Total | None
    ) -> Tensor:
        device, settings = logits.device, self.off_policy
        actions, propensities, rewards = self._logged(rows, device)
        capped, clipped = self._capped_weights(total), self._clipped_weights(total)
        match self.config.objective:
            case "regression":
                return regression(logits, actions, rewards, error=self._error, total=total)
            case "ips":
                return ips(logits, actions, propensities, rewards=rewards, **clipped)
            case "dr":
                predicted = self._predicted(rows, batch.snapshot, device)
                return dr(logits, actions, propensities, rewards, predicted, **capped)
            case "weighted_log_likelihood":
                options = {
                    "n_eligible": (logits > NEVER).sum(dim=1),
                    "normalize_over": settings.normalize_over,
                    **capped,
                }
                return weighted_log_likelihood(logits, actions, propensities, rewards=rewards, **options)
            case "top_k_reinforce":
                size = settings.slate_size
                return top_k_reinforce(logits, actions, propensities, rewards=rewards, slate_size=size, **clipped)
            case "two_stage_ips":
                assert isinstance(self.ranker, RankerTables)
                scores = self.ranker.of(self.data.moments.user[rows], self.data.at_ms[rows])
                ranked, slates = self._ranker_logits(scores, device), self._slates(batch, part, device)
                return two_stage_ips(logits, actions, propensities, ranked, rewards=rewards, **slates, **clipped)
        raise AssertionError(f"{self.config.objective} learns from likes")

    def _sampled_loss(
        self, model: Callable[..., Any], batch: LoggedBatch, part: slice, worker: Worker, total: Total | None
    ) -> Tensor:
        """The loss from items drawn for each round, of which each is embedded once."""
        device, rows = worker.device, batch.rows[part]
        actions, propensities, rewards = self._logged(rows, device)
        asking = self.inputs.users(rows, device)
        tower = bare(model)
        assert isinstance(tower, TwoTower)
        drawn = self._sampler.of(tower, asking, batch, worker)
        items = torch.cat([actions[:, None], drawn.items], dim=1).unique()
        users, vectors = model(asking, self.inputs.items(items.cpu().numpy(), batch.snapshot, device))

        def embeddings(ids: Tensor) -> Tensor:
            return functional.embedding(torch.searchsorted(items, ids), vectors)

        given = (users, embeddings, actions, propensities, drawn.items, drawn.log_q)
        options: dict[str, Any] = {
            "temperature": self.config.softmax_temperature,
            "excluded": drawn.excluded,
            "rewards": rewards,
            **self._clipped_weights(total),
        }
        if self.config.objective == "ips":
            return sampled_ips(*given, **options)

        def ranker(ids: Tensor) -> Tensor:
            assert self.ranker is not None
            scores = np.zeros(ids.shape, np.float32)
            # Rounds that earned nothing have no slates.
            own = np.flatnonzero(self.data.reward[rows])
            asked = rows[own]
            user, at_ms = self.data.moments.user[asked], self.data.at_ms[asked]
            scores[own] = self.ranker.of_items(user, at_ms, ids.cpu().numpy()[own])
            return self._ranker_logits(scores, device)

        return sampled_two_stage_ips(*given, ranker, **self._slates(batch, part, device), **options)

    @cached_property
    def _sampler(self) -> ItemSampler:
        return ItemSampler(self.data, self.inputs, self.config, self.off_policy, self.index)

    def _logged(self, rows: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Items shown, their propensities, and what they earned, (B,) each."""
        return (
            on_device(self.data.item[rows].astype(np.int64), device),
            on_device(self.data.propensity[rows].astype(np.float32), device),
            on_device(self.data.reward[rows], device),
        )

    def _capped_weights(self, total: Total | None) -> dict[str, Any]:
        """Options of losses that keep importance weights below a cap."""
        settings = self.off_policy
        return {"max_weight": settings.max_weight, "self_normalize": settings.self_normalize, "total": total}

    def _clipped_weights(self, total: Total | None) -> dict[str, Any]:
        """Options of losses that keep importance weights within a range."""
        settings = self.off_policy
        floor = {"min_weight": settings.min_weight, "normalize_over": settings.normalize_over}
        return {**self._capped_weights(total), **floor}

    def _ranker_logits(self, scores: NDArray[np.float32], device: torch.device) -> Tensor:
        """Logits of the softmax by which the ranker draws from a slate: its scores over the temperature, same shape."""
        return on_device(scores, device) / self.off_policy.ranker_temperature

    def _slates(self, batch: LoggedBatch, part: slice, device: torch.device) -> dict[str, Any]:
        """What a two-stage loss draws slates by; for each row the same on any number of workers."""
        settings = self.off_policy
        shape = (settings.n_slates, settings.slate_size - 1)
        uniforms = row_uniforms(batch.seed, part, shape[0] * shape[1]).reshape(-1, *shape)
        return {
            "n_slates": settings.n_slates,
            "slate_size": settings.slate_size,
            "alpha": settings.alpha,
            "slate_temperature": settings.slate_temperature,
            "uniforms": on_device(uniforms, device),
        }

    def _shown_logits(self, model: TwoTower, rows: NDArray[np.int64], snapshot: int, device: torch.device) -> Tensor:
        """Logits of the items shown, (B,)."""
        items, place = np.unique(self.data.item[rows], return_inverse=True)
        vectors = embed_items(model, self.inputs, items.astype(np.int64), snapshot, device)
        found = []
        for start in range(0, len(rows), BLOCK):
            users = model.embed_users(self.inputs.users(rows[start : start + BLOCK], device)).float()
            found.append((users * vectors[on_device(place[start : start + BLOCK], device)]).sum(dim=1))
        return torch.cat(found) / self.config.softmax_temperature

    @property
    def _error(self) -> ErrorName:
        return "logistic" if self.data.unit_rewards else "squared"

    @torch.no_grad()
    def _predicted(self, rows: NDArray[np.int64], snapshot: int, device: torch.device) -> Tensor:
        """Predicted rewards of all items as they were known at a snapshot, (B, N)."""
        assert self.reward_model is not None
        users, fold = on_device(self.reward_model.users[rows], device), self.data.fold[rows]
        predicted = users.new_empty((len(rows), self.data.tables.n_items))
        items = self.inputs.items(np.arange(self.data.tables.n_items), snapshot, device)
        for place, model in enumerate(self._reward_models):
            own = on_device(np.flatnonzero(fold == place), device)
            predicted[own] = users[own] @ model.to(device).embed_items(items).T
        predicted /= self.config.softmax_temperature
        return predicted.sigmoid() if self._error == "logistic" else predicted
