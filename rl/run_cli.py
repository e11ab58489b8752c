"""What starting a training from the command line takes, whichever agent learns."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from pydantic import PositiveInt

from rec.config import Config, HomePath, Seed
from rec.errors import ConfigError

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rec.models.session_agent import SessionAgent
    from rec.storage import Home

TrainConfig = TypeVar("TrainConfig", bound=Config)

# What a run's record calls the digest of the data it learns from.
DIGEST: Final = "digest"


class RunOptions(Config):
    """Where a run goes, and what becomes of it; beside what is trained."""

    home: HomePath
    resume: str | None = None
    export: bool = False
    total_steps: PositiveInt
    seed: Seed

    def settings(self, kind: type[TrainConfig]) -> TrainConfig:
        """The part of the options that is a training config."""
        return kind(**{name: getattr(self, name) for name in kind.model_fields})


@final
@dataclass(frozen=True, slots=True)
class Learning:
    """What a run learns, once its data are read.

    Attributes: algorithm: makes what RLlib is told. agent_of: makes the agent of RLlib's module. digest: of the data,
        by which a resumption tells that they are the same; None where the options say everything.
    """

    algorithm: "Callable[[], AlgorithmConfig]"
    agent_of: "Callable[[Any], SessionAgent]"
    digest: str | None = None


def start_run(options: RunOptions, learning: Callable[[], Learning], *, processes: int = 1) -> Mapping[str, Any]:
    """Trains in HOME/runs/NAME, or goes on there, and tells what came of it.

    Args: options: of the run; all but where it goes has to be the same when it is resumed. learning: reads the data.
        processes: that Ray needs CPUs for.
    Raises: ConfigError: for a run that is not there, was asked for something else, or learnt from other data.
        BundleError: before it trains, where there is no bundle to publish the agent with.
    """
    from rec.models.session_agent import AGENT_FILE
    from rec.on_ray.cluster import ensure_ray
    from rec.registry import Registry
    from rec.runs import say
    from rec.storage import Home
    from rl.export import publish_with_agent
    from rl.training import CHECKPOINT, require_same, train_agent

    began = time.perf_counter()
    home = Home(options.home)
    folder = asked_folder(home, options.resume)
    if options.export:
        Registry(home).open()
    asked = options.model_dump(mode="json", exclude={"home", "resume", "export"})
    if options.resume is not None:
        require_same(folder, asked, unknown=(DIGEST,))
    say(f"run {folder}")
    try:
        learns = learning()
        if learns.digest is not None:
            asked |= {DIGEST: learns.digest}
        if options.resume is not None:
            require_same(folder, asked)
        ensure_ray(processes)
        trained = train_agent(
            learns.algorithm(),
            learns.agent_of,
            total_steps=options.total_steps,
            asked=asked,
            folder=folder,
            resume=options.resume is not None,
        )
    except KeyboardInterrupt:
        whole = (folder / CHECKPOINT).is_dir()
        say(f"go on with the same options and --resume {folder.name}" if whole else "stopped before the first report")
        raise
    version = None
    if options.export:
        say(f"agent {folder / AGENT_FILE}, to be published with what is CURRENT")
        version = publish_with_agent(Registry(home), trained.agent)
    print(f"trained for {trained.steps} steps in {trained.folder}" + (f"; published {version}" if version else ""))
    return {
        "run_dir": str(trained.folder),
        "agent": str(trained.folder / AGENT_FILE),
        "steps": trained.steps,
        "version": version,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - began, 1),
        "last": trained.curve[-1],
    }


def asked_folder(home: "Home", resume: str | None) -> Path:
    """Of a new run, or of one to go on with.

    Raises: ConfigError: for a run that is not there.
    """
    from rec.runs import new_run_name, run_folder

    folder = run_folder(home, new_run_name() if resume is None else resume)
    if resume is not None and not (resume and folder.is_dir()):
        raise ConfigError(f"there is no run {resume!r} to resume in {folder.parent}", field="resume")
    return folder
