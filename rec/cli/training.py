"""`tandem train`: one training run, published as a bundle."""

import time
from pathlib import Path
from typing import Any

from rec.cli.command import Answer
from rec.cli.data import read
from rec.config import HomePath, TrainConfig


class TrainOptions(TrainConfig):
    """Everything about one training run; `home` is where models, logs and runs go: a folder or an object-store URL.

    `resume` names a run of that home that was cut off; give it the same config.
    """

    home: HomePath
    resume: str | None = None


def run_train(options: TrainOptions) -> Answer:
    """Trains, or goes on with a run that was cut off."""
    from rec.pipeline import train
    from rec.runs import recorded_config
    from rec.storage import Home

    config = TrainConfig.model_validate(options.model_dump(exclude={"home", "resume"}))
    # The bundle remembers where its data were, and as of when: that has to mean the same from any folder, at any time.
    meant: dict[str, Any] = {}
    if config.data.path is not None:
        meant["path"] = str(Path(config.data.path).resolve())
    if config.data.name == "events" and config.data.now_ms is None:
        begun = recorded_config(Home(options.home), options.resume).data.now_ms if options.resume is not None else None
        meant["now_ms"] = int(time.time() * 1000) if begun is None else begun
    config = config.model_copy(update={"data": config.data.model_copy(update=meant)})
    return train(read(config.data), config, options.home, resume=options.resume)
