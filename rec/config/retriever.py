"""The two-tower retriever, its towers, and the moments it learns from."""

from typing import Annotated, Literal, Self, get_args

import tyro
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rec.config.base import Config
from rec.config.objectives import LikesObjective, Objective


def _refuse_without_effect(config: Config, names: tuple[str, ...], effective: bool, remedy: str) -> None:
    """Refuses settings that were changed where they have no effect.

    Raises: ValueError: naming the first of them.
    """
    for name in names:
        value = getattr(config, name)
        if not effective and value != type(config).model_fields[name].default:
            raise ValueError(f"{name} has no effect here, found {value}: {remedy}, or leave it out")


class BranchConfig(Config):
    """A group of features with layers of its own; without any, the features go on as they are."""

    features: tuple[str, ...]
    hidden: tuple[PositiveInt, ...] = ()


class TowerConfig(Config):
    """What one side is embedded from, and how.

    Without `branches` there is one, of all the side's features. `without` names features of the side that are not
    read. Embeddings of ids have `embedding_dim` numbers, those of other features fewer. `id_dropout` is the share of
    rows that training shows as if they were new, so that features alone answer for what training never saw: a user
    with the id of nobody known, an item without events as well. With it, items that nobody has taken are candidates.
    """

    embedding_dim: PositiveInt = 64
    branches: tuple[BranchConfig, ...] = ()
    without: tuple[str, ...] = ()
    hidden: tuple[PositiveInt, ...] = (128,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class UserTowerConfig(TowerConfig):
    """A tower that may also read the history, as the mean embedding of the last n items for each n.

    A branch reads it under the name `history`. `history_dropout` is the share of history items left out at random in
    training.
    """

    without: tuple[str, ...] = ("user_id",)
    history_windows: tuple[PositiveInt, ...] = (50, 10)
    history_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        _refuse_without_effect(self, ("id_dropout",), "user_id" not in self.without, "read user_id (without: [])")
        return self


class QueriesConfig(Config):
    """The moments of the past that the retriever learns from: a user, a time, and what the user liked afterwards.

    A moment is either that of an interaction, or one of `snapshots` times at equal distances over the last
    `lookback_days` (or over all the time there is); `snapshot_share` of the moments are of the second kind. What the
    user liked within `horizon_days` is to be found; without a horizon it is the very interaction, and no moments are of
    the second kind. A moment `half_life_days` older than another counts half as often. Popularity and age of items are
    those of the latest snapshot, for interactions between snapshots too. An epoch draws `epoch_share` times as many
    positives as there are liked interactions, and at least `min_batches` batches, without which little data would be
    over before anything is learned.
    """

    snapshots: PositiveInt = 200
    snapshot_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    lookback_days: PositiveFloat | None = None
    horizon_days: PositiveFloat | None = 60.0
    half_life_days: PositiveFloat | None = 200.0
    epoch_share: PositiveFloat = 0.2
    min_batches: PositiveInt = 100


class FrequenciesConfig(Config):
    """How it is known how often an item is drawn into a batch, for the logQ correction.

    `counted` computes it from all the moments learned from. `streaming` estimates it from the batches as they come, by
    `n_hashes` hash functions into arrays of `size` each, as an endless log asks for: gaps between batches that hold an
    item are averaged, later by the learning rate `alpha`. Take a `size` of several times the number of items.
    """

    kind: Literal["counted", "streaming"] = "counted"
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.01
    n_hashes: Annotated[int, Field(ge=1, le=16)] = 2
    size: Annotated[int, Field(ge=1, lt=2**32)] = 2**17

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        _refuse_without_effect(self, ("alpha", "n_hashes", "size"), self.kind == "streaming", "set kind to streaming")
        return self


class HardNegativesConfig(Config):
    """Negatives mined with the model itself, beside those of the batch: `per_query` for each moment, none by default.

    They are drawn from the `pool` items that the last epoch's model ranks highest for the moment, without anything the
    user liked in training. The first epoch has none.
    """

    per_query: NonNegativeInt = 0
    pool: PositiveInt = 64

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        _refuse_without_effect(self, ("pool",), self.per_query > 0, "set per_query")
        return self


class RetrieverConfig(Config):
    """The two-tower retriever and its loss.

    The first three objectives learn from what was liked, the others from what was shown with which probability
    (`off_policy`).
    `positives_per_query` positives are drawn for each moment learned from; `mixed_negatives` items are drawn uniformly
    beside each batch, for objective `mixed_negative`. `mask_known` takes no training item of a user as a negative.
    """

    objective: Annotated[Objective, tyro.conf.arg(prefix_name=False)] = "mixed_negative"
    user_tower: UserTowerConfig = UserTowerConfig()
    item_tower: TowerConfig = TowerConfig()
    output_dim: PositiveInt = 64
    softmax_temperature: PositiveFloat = 0.07
    mixed_negatives: NonNegativeInt = 256
    positives_per_query: PositiveInt = 4
    mask_known: bool = True
    sparse_embeddings: bool = False
    frequencies: FrequenciesConfig = FrequenciesConfig()
    hard_negatives: HardNegativesConfig = HardNegativesConfig()
    queries: QueriesConfig = QueriesConfig()

    @model_validator(mode="after")
    def _samples_negatives(self) -> Self:
        sampled = self.objective in get_args(LikesObjective) and self.objective != "cross_entropy"
        for name, found in (
            ("frequencies.kind", self.frequencies.kind if self.frequencies.kind != "counted" else None),
            ("hard_negatives.per_query", self.hard_negatives.per_query or None),
        ):
            if found is not None and not sampled:
                raise ValueError(
                    f"{name} is of objectives that sample negatives from likes, logq and mixed_negative; found {found} "
                    f"with objective {self.objective}: leave it out"
                )
        return self
