"""Training the two-tower model: which batches, what loss, how it is validated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.config import RetrieverConfig
from rec.losses import cross_entropy, logq_softmax, mixed_negative
from rec.metrics import per_user
from rec.models.two_tower import TwoTower, item_vectors, user_vectors
from rec.retrieval.top_k import top_k
from rec.retrieval_data import RetrievalData
from rec.sampling import Groups, QueryBatch, draw_within, grouped_batches, runs
from rec.tensors import on_device
from rec.tower_inputs import TowerInputs
from rec.training import Worker

VALID_METRIC = "ndcg@10"


@dataclass(frozen=True)
class RetrieverTask:
    """What the two-tower model learns; a `rec.training.TrainingTask`.

    Queries of a batch share a snapshot, so that one item has one embedding in it.
    """

    data: RetrievalData
    config: RetrieverConfig
    batch_size: int
    seed: int

    @property
    def metric(self) -> str:
        """The validation metric that decides."""
        return VALID_METRIC

    def build_model(self) -> TwoTower:
        """The model before training."""
        return TwoTower(self.config, self.data.tables.specs)

    def plan(self, epoch: int) -> Sequence[QueryBatch]:
        """Global batches of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        queries, n_targets = self.data.queries, self.config.positives_per_query
        size = max(1, self.batch_size // n_targets)
        share = round(self.config.queries.epoch_share * len(self.data.liked) / n_targets)
        n = max(share, self.config.queries.min_batches * size)
        batches = []
        for chosen in grouped_batches(self._groups, queries.weight, n, size, rng):
            targets = draw_within(queries.target_start[chosen], queries.target_end[chosen], n_targets, rng)
            n_uniform = self.config.mixed_negatives if self.config.objective == "mixed_negative" else 0
            uniform = rng.choice(self.data.catalogue, n_uniform)
            batches.append(
                QueryBatch(int(queries.moments.snapshot[chosen[0]]), chosen, self.data.liked[targets], uniform)
            )
        return batches

    def loss(self, model: Callable[..., Any], batch: QueryBatch, worker: Worker) -> Tensor:
        """This worker's part of a batch's loss: its queries against the candidates of all workers."""
        queries = batch.queries[worker.part(len(batch.queries))]
        targets = batch.targets[worker.part(len(batch.queries))]
        items, draws = self._candidates(batch)
        column = np.full(self.data.tables.n_items, -1, np.int64)
        column[items] = np.arange(len(items))
        filled = np.resize(items, -(-len(items) // worker.world) * worker.world)
        users, vectors = model(
            self.inputs.users(queries, worker.device),
            self.inputs.items(filled[worker.even_part(len(items))], batch.group, worker.device),
        )
        vectors = worker.gather(vectors)[: len(items)]
        masked = on_device(self._known(queries, column, len(items)), worker.device) if self.config.mask_known else None
        losses = self._losses(users, vectors, batch, items, draws, on_device(column[targets], worker.device), masked)
        return losses.sum() * (worker.world / batch.targets.size)

    def validate(self, model: TwoTower, device: torch.device) -> dict[str, float]:
        """Full-catalogue metrics of the validation users."""
        valid = self.data.valid
        if valid is None:
            return {}
        scores = user_vectors(model, valid.features, valid.history) @ item_vectors(model, valid.items).T
        owner = np.repeat(np.arange(len(scores)), np.diff(valid.excluded_indptr))
        scores[owner, valid.excluded] = -np.inf
        scores[:, ~valid.eligible] = -np.inf
        lists, _ = top_k(scores, 100)
        names = [VALID_METRIC, "recall@100"]
        values = per_user(lists, valid.relevant_indptr, valid.relevant, names)
        return {name: float(values[name].mean()) for name in names}

    def _candidates(self, batch: QueryBatch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The items of a batch, each once, and how often each was drawn."""
        if self.config.objective == "cross_entropy":
            return self.data.catalogue.astype(np.int64), np.ones(len(self.data.catalogue), np.int64)
        items, draws = np.unique(np.append(batch.targets.ravel(), batch.uniform), return_counts=True)
        return items.astype(np.int64), draws

    def _losses(
        self,
        users: Tensor,
        vectors: Tensor,
        batch: QueryBatch,
        items: NDArray[np.int64],
        draws: NDArray[np.int64],
        positives: Tensor,
        masked: Tensor | None,
    ) -> Tensor:
        temperature = self.config.softmax_temperature
        if self.config.objective == "cross_entropy":
            logits = users.float() @ vectors.float().T / temperature
            return cross_entropy(logits, positives, excluded=masked, reduction="none")
        common = (
            users,
            vectors,
            on_device(items, users.device),
            on_device(self.data.log_q[batch.group, items], users.device),
        )
        counted = on_device(draws, users.device)
        if self.config.objective == "logq":
            return logq_softmax(
                *common, temperature=temperature, positives=positives, excluded=masked, draws=counted, reduction="none"
            )
        return mixed_negative(
            *common,
            n_batch=batch.targets.size,
            n_items=len(self.data.catalogue),
            temperature=temperature,
            positives=positives,
            excluded=masked,
            draws=counted,
            reduction="none",
        )

    def _known(self, queries: NDArray[np.int64], column: NDArray[np.int64], n_columns: int) -> NDArray[np.bool_]:
        """Which candidates each query's user liked at any time of training, (B, C)."""
        user = self.data.queries.moments.user[queries]
        owner, place = runs(self.data.liked_start[user], self.data.liked_start[user + 1])
        known = column[self.data.liked[place]]
        masked = np.zeros((len(queries), n_columns), np.bool_)
        masked[owner[known >= 0], known[known >= 0]] = True
        return masked

    @cached_property
    def inputs(self) -> TowerInputs:
        """What the towers read."""
        return TowerInputs(self.data.tables, self.data.queries.moments, self.config)

    @cached_property
    def _groups(self) -> Groups:
        return Groups.of(self.data.queries.moments.snapshot, self.data.queries.weight)
