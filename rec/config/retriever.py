"""The two-tower retriever, its towers, and the moments it learns from."""

from typing import Annotated

import tyro
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from rec.config.base import Config
from rec.config.objectives import Objective


class BranchConfig(Config):
    """A group of features with layers of its own; without any, the features go on as they are."""

    features: tuple[str, ...]
    hidden: tuple[PositiveInt, ...] = ()


class TowerConfig(Config):
    """What one side is embedded from, and how.

    Without `branches` there is one, of all the side's features. `without` names features of the side that are not
    read. Embeddings of ids have `embedding_dim` numbers, those of other features fewer.
    """

    embedding_dim: PositiveInt = 64
    branches: tuple[BranchConfig, ...] = ()
    without: tuple[str, ...] = ()
    hidden: tuple[PositiveInt, ...] = (128,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class UserTowerConfig(TowerConfig):
    """A tower that may also read the history, as the mean embedding of the last n items for each n.

    A branch reads it under the name `history`. `history_dropout` is the share of history items left out at random in
    training.
    """

    without: tuple[str, ...] = ("user_id",)
    history_windows: tuple[PositiveInt, ...] = (50, 10)
    history_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


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
    queries: QueriesConfig = QueriesConfig()
