"""How a network is fitted."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rec.config.base import Config


class TrainingConfig(Config):
    """How a model is fitted, on how many workers.

    `workers` 0 trains in this process, without Ray. `batch_size` counts positives over all workers. `patience` counts
    epochs without a better validation metric; `max_failures` how often lost workers are replaced. `use_gpu` asks for a
    GPU for every worker, which brings machines that have one where a cluster grows, or for none; by default they get
    one each where the cluster has so many already. `precision` auto is bfloat16 autocast on devices that compute in it
    natively, float32 elsewhere; products of embeddings and losses are float32 always. The learning rate rises over the
    first `warmup` of the steps, then stays or falls to zero along a cosine.
    """

    workers: NonNegativeInt = 2
    epochs: PositiveInt = 5
    batch_size: PositiveInt = 1024
    learning_rate: PositiveFloat = 2e-3
    weight_decay: NonNegativeFloat = 1e-5
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: PositiveInt = 3
    max_failures: NonNegativeInt = 2
    use_gpu: bool | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
