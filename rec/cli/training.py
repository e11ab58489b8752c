"""`tandem train`: one training run, published as a bundle."""

import time
from pathlib import Path
from typing import Any

from rec.cli.command import Answer
from rec.cli.data import read
from rec.config import HomePath, TrainConfig


class TrainOptions(TrainConfig):
    """Everything about one training run; `home` is where models, logs and runs go: a folder or an object-store URL.

    `resume` names a run of that home that was cut off; give it the same config. With `no_promote` the new model is
    published and does not serve yet.
    """

    home: HomePath
    resume: str | None = None
    no_promote: bool = False


def run_train(options: TrainOptions) -> Answer:
    """Trains, or goes on with a run that was cut off. Without anything new to learn from nothing changes."""
    from rec.parent import with_version
    from rec.pipeline import train
    from rec.preparation import NothingNewError
    from rec.runs import recorded_config, say
    from rec.storage import Home

    config = TrainConfig.model_validate(options.model_dump(exclude={"home", "resume", "no_promote"}))
    begun = recorded_config(Home(options.home), options.resume).data.now_ms if options.resume is not None else None
    config = settled(config, begun)
    try:
        return train(read(config.data), config, options.home, resume=options.resume, promote=not options.no_promote)
    except NothingNewError as nothing:
        say(nothing.message)
        version = with_version(config, Home(options.home), options.resume).incremental.parent
        return {"version": version, "trained": False, "reason": nothing.message, "warnings": []}


def settled(config: TrainConfig, now_ms: int | None = None) -> TrainConfig:
    """A config that says where data are, and as of when, so that it means the same from any folder, at any time.

    Args: now_ms: as of when a run began that is gone on with.
    Raises: ConfigError: for a URL with credentials, which would be kept for all to read.
    """
    from rec.runs import require_publishable

    require_publishable(config)
    data = config.data
    meant: dict[str, Any] = {}
    if data.path is not None and "://" not in data.path:
        meant["path"] = str(Path(data.path).resolve())
    if data.name == "events" and data.now_ms is None:
        meant["now_ms"] = int(time.time() * 1000) if now_ms is None else now_ms
    return config.model_copy(update={"data": data.model_copy(update=meant)})
