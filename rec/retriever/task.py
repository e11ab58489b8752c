"""Training the two-tower model: which batches, what loss, how it is validated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.config import IndexConfig, RetrieverConfig
from rec.losses import cross_entropy, logq_softmax, mixed_log_q, pooled_log_q
from rec.metrics import per_user
from rec.models.two_tower import TwoTower, item_vectors, user_vectors
from rec.retrieval.top_k import top_k
from rec.retriever.data import RetrievalData
from rec.retriever.hard_negatives import HardNegatives, draw_hard
from rec.retriever.tower_inputs import TowerInputs
from rec.sampling import Groups, QueryBatch, draw_within, grouped_batches, runs
from rec.streaming_frequency import StreamingFrequency
from rec.tensors import on_device
from rec.training import Worker

VALID_METRIC = "ndcg@10"
# Targets are drawn by the seed of the run and the epoch itself.
_HARD_STREAM = 1


@dataclass(frozen=True)
class RetrieverTask:
    """What the two-tower model learns; a `rec.training.LearningTask`.

    Queries of a batch share a snapshot, so that one item has one embedding in it.

    Attributes: index: how hard negatives are found.
    """

    data: RetrievalData
    config: RetrieverConfig
    batch_size: int
    seed: int
    index: IndexConfig = field(default_factory=IndexConfig)
    _learned: "_Learned" = field(default_factory=lambda: _Learned(), init=False, repr=False, compare=False)

    @property
    def metric(self) -> str:
        """The validation metric that decides."""
        return VALID_METRIC

    def build_model(self) -> TwoTower:
        """The model before training."""
        return TwoTower(self.config, self.data.tables.specs)

    def begin_epoch(self, model: TwoTower, epoch: int, worker: Worker) -> None:
        """Mines the hard negatives of the epoch; before the first there is no model to mine with."""
        self._learned.hard = None
        settings = self.config.hard_negatives
        if settings.per_query and epoch:
            queries = np.concatenate([batch.queries for batch in self._drawn(epoch)])
            self._learned.hard = HardNegatives.mine(
                model, self.data, self.inputs, queries, settings.pool, self.index, worker
            )

    def plan(self, epoch: int) -> Sequence[QueryBatch]:
        """Global batches of an epoch."""
        batches = self._drawn(epoch)
        if (hard := self._learned.hard) is not None:
            rng = np.random.default_rng([self.seed, epoch, _HARD_STREAM])
            n = self.config.hard_negatives.per_query
            pools = [hard.of(batch.queries) for batch in batches]
            batches = [
                replace(batch, pools=pool, own=draw_hard(pool, n, rng))
                for batch, pool in zip(batches, pools, strict=True)
            ]
        if self.config.frequencies.kind == "streaming":
            frequency = self._frequency(epoch).copy()
            n_draws = max(batch.targets.size for batch in batches)
            batches = [self._in_stream(batch, frequency, n_draws) for batch in batches]
            self._learned.frequencies = {epoch: self._frequency(epoch), epoch + 1: frequency}
        return batches

    def state(self, epoch: int) -> dict[str, NDArray[Any]]:
        """Frequencies in the batches of the epochs before one, where they are estimated from the stream."""
        return self._frequency(epoch).state() if self.config.frequencies.kind == "streaming" else {}

    def restore(self, epoch: int, state: dict[str, NDArray[Any]]) -> None:
        """Goes on with what `state` gave."""
        self._learned.frequencies = {epoch: StreamingFrequency.from_state(self.config.frequencies.alpha, state)}

    def loss(self, model: Callable[..., Any], batch: QueryBatch, worker: Worker) -> Tensor:
        """This worker's part of a batch's loss: its queries against the candidates of all workers."""
        part = worker.part(len(batch.queries))
        queries = batch.queries[part]
        items = self._candidates(batch)
        column = np.full(self.data.tables.n_items, -1, np.int64)
        column[items] = np.arange(len(items))
        filled = np.resize(items, -(-len(items) // worker.world) * worker.world)
        users, vectors = model(
            self.inputs.users(queries, worker.device),
            self.inputs.items(filled[worker.even_part(len(items))], batch.group, worker.device),
        )
        vectors = worker.gather(vectors)[: len(items)]
        masked = on_device(self._known(queries, column, len(items)), worker.device) if self.config.mask_known else None
        losses = self._losses(users, vectors, batch, part, items, column, masked)
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

    def _drawn(self, epoch: int) -> list[QueryBatch]:
        """Global batches of an epoch, without what depends on what was learned until then."""
        rng = np.random.default_rng([self.seed, epoch])
        queries, n_targets = self.data.queries, self.config.positives_per_query
        size = max(1, self.batch_size // n_targets)
        share = round(self.config.queries.epoch_share * self.data.n_likes / n_targets)
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

    def _in_stream(self, batch: QueryBatch, frequency: StreamingFrequency, n_draws: int) -> QueryBatch:
        """The batch with its items' frequencies as they are known once it has been counted; n_draws: of a whole one."""
        keys = self.data.item_keys
        frequency.update(keys[np.unique(batch.targets)])
        return replace(batch, log_q=frequency.log_q(keys[batch.items()], n_draws).astype(np.float32))

    def _frequency(self, epoch: int) -> StreamingFrequency:
        """Frequencies in the batches of the epochs before one: the order of the batches is the stream."""
        known = self._learned.frequencies
        if epoch not in known:
            settings = self.config.frequencies
            if epoch == 0:
                frequency = StreamingFrequency.empty(
                    alpha=settings.alpha, n_hashes=settings.n_hashes, size=settings.size
                )
            else:
                frequency = self._frequency(epoch - 1).copy()
                for batch in self._drawn(epoch - 1):
                    frequency.update(self.data.item_keys[np.unique(batch.targets)])
            known[epoch] = frequency
        return known[epoch]

    def _candidates(self, batch: QueryBatch) -> NDArray[np.int64]:
        """The items of a batch, each once."""
        if self.config.objective == "cross_entropy":
            return self.data.catalogue.astype(np.int64)
        return batch.items()

    def _losses(
        self,
        users: Tensor,
        vectors: Tensor,
        batch: QueryBatch,
        part: slice,
        items: NDArray[np.int64],
        column: NDArray[np.int64],
        masked: Tensor | None,
    ) -> Tensor:
        """Losses of this worker's part of the queries, (B, P). column: of each item of the catalogue, -1 for none."""
        temperature, device = self.config.softmax_temperature, users.device
        positives = on_device(column[batch.targets[part]], device)
        if self.config.objective == "cross_entropy":
            logits = users.float() @ vectors.float().T / temperature
            return cross_entropy(logits, positives, excluded=masked, reduction="none")
        common = np.append(batch.targets.ravel(), batch.uniform)
        draws = on_device(np.bincount(column[common], minlength=len(items)), device)
        log_q = mixed_log_q(
            on_device(self.data.log_q[batch.group, items] if batch.log_q is None else batch.log_q, device),
            n_batch=batch.targets.size,
            n_uniform=len(batch.uniform),
            n_items=len(self.data.catalogue),
        )
        if batch.pools is not None and batch.own is not None:
            pools, own = batch.pools[part], batch.own[part]
            in_pool = _count(column, pools, len(items)) > 0
            log_q = pooled_log_q(
                log_q,
                on_device(in_pool, device),
                on_device((pools >= 0).sum(axis=1), device),
                n_common=len(common),
                n_own=on_device((own >= 0).sum(axis=1), device),
            )
            draws = draws + on_device(_count(column, own, len(items)), device)
        return logq_softmax(
            users,
            vectors,
            on_device(items, device),
            log_q,
            temperature=temperature,
            positives=positives,
            excluded=masked,
            draws=draws,
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


@dataclass
class _Learned:
    """What a task keeps from epoch to epoch.

    Attributes: hard: pools mined for the epoch. frequencies: in the batches before an epoch.
    """

    hard: HardNegatives | None = None
    frequencies: dict[int, StreamingFrequency] = field(default_factory=dict)


def _count(column: NDArray[np.int64], items: NDArray[np.int32], n_columns: int) -> NDArray[np.int64]:
    """How often each row's items (B, H), of which -1 is none, are each column, (B, C)."""
    columns = np.where(items >= 0, column[items], -1)
    row, place = np.nonzero(columns >= 0)
    flat = np.bincount(row * n_columns + columns[row, place], minlength=len(items) * n_columns)
    return flat.reshape(len(items), n_columns)
