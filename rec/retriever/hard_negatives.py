"""Items that a model in training ranks high for users who did not like them: the negatives it still gets wrong."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rec.config import IndexConfig
from rec.models.two_tower import TwoTower
from rec.retrieval.index import ItemIndex
from rec.retriever.data import RetrievalData
from rec.retriever.drawn_items import BLOCK, as_when_answering, embed_items
from rec.retriever.tower_inputs import TowerInputs
from rec.sampling import runs
from rec.training import Worker


@dataclass(frozen=True, slots=True)
class HardNegatives:
    """The pools of queries that hard negatives are drawn from.

    Attributes:
        queries: ascending positions, each once, (Q,).
        items: the items ranked highest for each, best first, without what its user liked at any time of training,
            -1 where there are fewer, int32, (Q, M).
    """

    queries: NDArray[np.int64]
    items: NDArray[np.int32]

    @classmethod
    def mine(
        cls,
        model: TwoTower,
        data: RetrievalData,
        inputs: TowerInputs,
        queries: NDArray[np.int64],
        size: int,
        index: IndexConfig,
        worker: Worker,
    ) -> "HardNegatives":
        """The pools of queries by an index over the catalogue, embedded as of the latest snapshot.

        Workers embed and search a part each, and all get all pools.
        """
        queries = np.unique(queries)
        n_items, latest = data.tables.n_items, len(data.log_q) - 1
        items, asking = (
            np.resize(np.arange(n_items), -(-n_items // worker.world) * worker.world),
            np.resize(queries, -(-len(queries) // worker.world) * worker.world),
        )
        with as_when_answering(model):
            vectors = embed_items(model, inputs, items[worker.even_part(n_items)], latest, worker.device)
            found = ItemIndex.build(worker.gather(vectors)[:n_items].cpu().numpy(), index)
            own = asking[worker.even_part(len(queries))]
            pools = [
                _search(found, model, data, inputs, own[start : start + BLOCK], size, worker.device)
                for start in range(0, len(own), BLOCK)
            ]
            gathered = worker.gather(torch.from_numpy(np.concatenate(pools)).to(worker.device))
        return cls(queries, gathered[: len(queries)].cpu().numpy())

    def of(self, queries: NDArray[np.int64]) -> NDArray[np.int32]:
        """Pools of some of the queries, (B, M)."""
        return self.items[np.searchsorted(self.queries, queries)]


def draw_hard(pools: NDArray[np.int32], n: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """N items of each pool (B, M), uniformly and with replacement, -1 from an empty one, (B, n)."""
    sizes = (pools >= 0).sum(axis=1)
    place = (rng.random((len(pools), n)) * sizes[:, None]).astype(np.int64)
    return np.take_along_axis(pools, place, axis=1)


def _search(
    index: ItemIndex,
    model: TwoTower,
    data: RetrievalData,
    inputs: TowerInputs,
    queries: NDArray[np.int64],
    size: int,
    device: torch.device,
) -> NDArray[np.int32]:
    users = model.embed_users(inputs.users(queries, device)).float().cpu().numpy()
    user = data.queries.moments.user[queries]
    start, end = data.liked_start[user], data.liked_start[user + 1]
    _, place = runs(start, end)
    eligible = np.zeros(data.tables.n_items, np.bool_)
    eligible[data.catalogue] = True
    items, _ = index.search(
        users,
        size,
        excluded_indptr=np.append(0, np.cumsum(end - start)),
        excluded=data.liked[place],
        eligible=eligible,
    )
    return items
