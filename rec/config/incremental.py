"""Training that goes on from a published model."""

from typing import Annotated, Self

import tyro
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from rec.config.base import Config


class IncrementalConfig(Config):
    """Training that goes on from a published model instead of beginning anew: from version `parent`, or CURRENT.

    It learns from what followed the end of the parent's training, in `epochs` of `epoch_share` times as many positives
    as there are new likes (of off-policy objectives: in epochs of as many rounds as are new), `min_batches` batches at
    least. A share `replay` of what is drawn is from before. An id without a like for `expire_days` loses its row of the
    embedding table; without that none does. `refit_decay` is what the leaves of LambdaMART keep of their old value.
    Training that begins anew can take over what the `catalogue` of a version, or of CURRENT, was told: what is
    withdrawn from it, and since when it has had its items; training that goes on takes over its parent's.
    """

    parent: Annotated[str | None, tyro.conf.arg(name="from", prefix_name=False)] = None
    epochs: PositiveInt = 2
    epoch_share: PositiveFloat = 1.0
    min_batches: PositiveInt = 10
    replay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    expire_days: PositiveFloat | None = None
    refit_decay: Annotated[float, Field(ge=0, le=1)] = 0.9
    catalogue: str | None = None

    @model_validator(mode="after")
    def _has_one_catalogue(self) -> Self:
        if self.parent is not None and self.catalogue is not None:
            raise ValueError("catalogue is of training anew, and a parent is given, whose catalogue is taken over")
        return self
