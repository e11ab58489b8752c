"""Items drawn for logged rounds near their users, by an index over the embeddings of the model in training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.config import IndexConfig, OffPolicyConfig, RetrieverConfig
from rec.models.two_tower import TwoTower
from rec.proposals import Proposal
from rec.retrieval.index import ItemIndex
from rec.retriever.logged_data import LoggedData
from rec.retriever.tower_inputs import TowerInputs
from rec.sampling import LoggedBatch, row_uniforms, runs
from rec.tensors import on_device
from rec.training import Worker

BLOCK = 8192
# Slates of the same rounds are drawn by the batch's seed itself.
_STREAM = 1


@dataclass(frozen=True, slots=True)
class DrawnItems:
    """Items drawn for B rounds with replacement.

    Attributes:
        items: catalogue positions, (B, S).
        log_q: natural log of their probability per draw, float64, (B, S).
        excluded: those that could not be shown, bool, (B, S).
    """

    items: Tensor
    log_q: Tensor
    excluded: Tensor


@final
@dataclass
class ItemSampler:
    """Draws items for rounds: neighbours of the user, mixed with uniform draws from the catalogue.

    The index over the embeddings is built again at every `rebuild_steps`-th step of an epoch, so that an epoch done
    again draws the same. Whatever it finds in between, the probability of a draw is exact. Workers embed a part of the
    catalogue each and build the index from the same numbers; one of them draws what one worker would.
    """

    data: LoggedData
    inputs: TowerInputs
    config: RetrieverConfig
    off_policy: OffPolicyConfig
    index_config: IndexConfig
    _index: ItemIndex | None = field(default=None, init=False)

    def of(self, model: TwoTower, users: Mapping[str, Tensor], batch: LoggedBatch, worker: Worker) -> DrawnItems:
        """Items for this worker's rounds of a batch; `users` is what the user tower reads of them."""
        part = worker.part(len(batch.rows))
        rows, n_items = batch.rows[part], self.data.tables.n_items
        with as_when_answering(model):
            neighbors, scores = self._neighbors(model, users, batch, worker, len(rows))
        neighbors = np.where(self._could_not_be_shown(rows, neighbors), -1, neighbors)
        proposal = Proposal.of(
            torch.from_numpy(neighbors),
            torch.from_numpy(scores),
            n_items=n_items,
            uniform_share=self.off_policy.uniform_share,
            temperature=self.config.softmax_temperature,
        )
        uniforms = row_uniforms((*batch.seed, _STREAM), part, self.off_policy.sampled_items, np.float64)
        items, log_q = proposal.draw(torch.from_numpy(uniforms))
        excluded = self._could_not_be_shown(rows, items.numpy())
        return DrawnItems(items.to(worker.device), log_q.to(worker.device), on_device(excluded, worker.device))

    def _neighbors(
        self, model: TwoTower, users: Mapping[str, Tensor], batch: LoggedBatch, worker: Worker, n_rows: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The nearest items of each round's user, -1 for none, and their cosines, (B, M)."""
        if self.off_policy.uniform_share == 1:
            return np.empty((n_rows, 0), np.int32), np.empty((n_rows, 0))
        if self._index is None or batch.seed[-1] % self.off_policy.rebuild_steps == 0:
            n_items = self.data.tables.n_items
            items = np.resize(np.arange(n_items), -(-n_items // worker.world) * worker.world)
            own = embed_items(model, self.inputs, items[worker.even_part(n_items)], batch.snapshot, worker.device)
            vectors = worker.gather(own)[:n_items].cpu().numpy()
            self._index = ItemIndex.build(vectors, self.index_config)
        return self._index.search(model.embed_users(users).float().cpu().numpy(), self.off_policy.neighbors)

    def _could_not_be_shown(self, rows: NDArray[np.int64], items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which items (B, C) could not be shown in their round."""
        n_items = self.data.tables.n_items
        owner, place = runs(self.data.banned_start[rows], self.data.banned_start[rows + 1])
        keys = np.arange(len(rows))[:, None] * n_items + items
        return np.isin(keys, owner * n_items + self.data.banned[place]) & (items >= 0)


def embed_items(
    model: TwoTower, inputs: TowerInputs, items: NDArray[np.int64], snapshot: int, device: torch.device
) -> Tensor:
    """Embeddings of items as of a snapshot, block by block, float32, (C, D)."""
    blocks = [items[start : start + BLOCK] for start in range(0, len(items), BLOCK)]
    return torch.cat([model.embed_items(inputs.items(block, snapshot, device)).float() for block in blocks])


@contextmanager
def as_when_answering(model: TwoTower) -> Iterator[None]:
    """Without gradients and without dropout, which are back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
