"""The two-tower model as a source of candidates: a user's embedding asks an index of item embeddings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from rec.config import IndexConfig, TrainConfig
from rec.errors import BundleError
from rec.features.snapshot import Snapshot
from rec.models.two_tower import TwoTower, item_vectors
from rec.models.user_queries import UserQueries
from rec.models.weights import load_weights, save_weights
from rec.retrieval.index import INDEX_FILE, ItemIndex
from rec.state import Candidates, UserStates

WEIGHTS_FILE: Final = "retriever.safetensors"


@final
@dataclass(frozen=True, slots=True)
class TwoTowerSource:
    """Finds the items whose embeddings are nearest to the user's; scores are cosines.

    Unless the item tower learned to do without ids (`id_dropout`), an item that nobody has taken yet is no candidate:
    the embedding of its id is untrained. It is shown by exploration, until it has an event. Items
    withdrawn are never found.

    Attributes:
        model: embeds users.
        snapshot: what was known when training ended.
        index: embeddings of all items as of the snapshot.
        eligible: items that may be candidates, bool, (N,).
    """

    model: TwoTower
    snapshot: Snapshot
    index: ItemIndex
    eligible: NDArray[np.bool_]
    _embed_users: UserQueries = field(init=False, repr=False)
    name: ClassVar[str] = "two_tower"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_embed_users", UserQueries(self.model))

    @classmethod
    def build(cls, model: TwoTower, snapshot: Snapshot, config: IndexConfig | None = None) -> Self:
        """Embeds the items of a snapshot with a trained model.

        Raises: ScoreError: when an embedding is not finite.
        """
        return cls(
            model, snapshot, ItemIndex.build(item_vectors(model, snapshot.items), config), _offered(model, snapshot)
        )

    def over(self, snapshot: Snapshot, changed: NDArray[np.integer]) -> Self:
        """The same model over a changed catalogue: items added at its end, others with other features.

        Args: snapshot: with the new catalogue. changed: positions that are embedded anew, those of all that were added
            among them; all others keep their embeddings bit for bit.
        """
        index = self.index
        if len(changed):
            embeddings = np.zeros((len(snapshot.item_ids), index.embeddings.shape[1]), np.float32)
            embeddings[: len(index)] = index.embeddings
            rows = {name: values[changed] for name, values in snapshot.items.items()}
            embeddings[changed] = item_vectors(self.model, rows)
            index = ItemIndex.build(embeddings, index.config)
        return type(self)(self.model, snapshot, index, _offered(self.model, snapshot))

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The k nearest items of each user that are not excluded."""
        # What nobody may be shown is left out by `eligible`: an approximate index fetches more for each one excluded.
        kept = self.eligible[states.excluded]
        items, scores = self.index.search(
            self._queries(states),
            k,
            excluded_indptr=np.append(0, np.cumsum(kept))[states.excluded_indptr],
            excluded=states.excluded[kept],
            eligible=self.eligible,
        )
        return Candidates(items, scores, self.name)

    def scores(self, states: UserStates, items: NDArray[np.integer]) -> NDArray[np.float64]:
        """Scores of given items, catalogue positions (B, M), as `candidates` would score them; -inf where -1."""
        return self.index.scores(self._queries(states), items)

    def similar(self, item: int, n: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The n items nearest to an item, without itself, and their cosines; fewer where there are fewer."""
        items, scores = self.index.search(
            self.index.embeddings[item : item + 1],
            n,
            excluded_indptr=np.array([0, 1]),
            excluded=np.array([item]),
            eligible=self.eligible,
        )
        found = items[0] >= 0
        return items[0, found], scores[0, found]

    def save(self, folder: Path) -> list[str]:
        """Writes retriever.safetensors and index.faiss."""
        save_weights(self.model, folder / WEIGHTS_FILE)
        self.index.save(folder / INDEX_FILE)
        return [WEIGHTS_FILE, INDEX_FILE]

    @classmethod
    def load(cls, folder: Path, config: TrainConfig, snapshot: Snapshot) -> Self:
        """Reads what `save` wrote; item embeddings are those of the index, not computed again.

        Raises: BundleError: naming the file that is damaged, of another model, or of another catalogue.
        """
        model = TwoTower(config.retriever, snapshot.encoders.specs)
        load_weights(model, folder / WEIGHTS_FILE)
        index = ItemIndex.load(folder / INDEX_FILE, config.index)
        expected = (len(snapshot.item_ids), config.retriever.output_dim)
        if index.embeddings.shape != expected:
            raise BundleError(
                f"must hold {expected[0]} items of {expected[1]} numbers, found {index.embeddings.shape}; train again",
                file=str(folder / INDEX_FILE),
            )
        return cls(model.eval(), snapshot, index, _offered(model, snapshot))

    def _queries(self, states: UserStates) -> NDArray[np.float32]:
        return self._embed_users(states.features, self.snapshot.history_slots(states.history))


def _offered(model: TwoTower, snapshot: Snapshot) -> NDArray[np.bool_]:
    """Items that somebody has taken and whose ids have a row of their own, or all where ids are done without, (N,).

    None of them was withdrawn.
    """
    own = snapshot.item_slots < snapshot.encoders.first_unknown("item_id")
    return ((own & (snapshot.item_counts > 0)) | (model.item_tower.id_dropout > 0)) & ~snapshot.withdrawn
