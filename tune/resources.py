"""What trials reserve, and how many run side by side."""

from typing import Final

from rec.config import Config, TrainConfig
from rec.errors import ConfigError
from rl.config import DQNTrainConfig

# Of a CPU: what the process of a trial holds while its workers train, which it does nothing but wait for.
WAITING: Final = 0.01


def workers_of(config: Config) -> int:
    """Processes that a trial starts beside its own."""
    if isinstance(config, TrainConfig):
        return config.training.workers
    return config.env_runners if isinstance(config, DQNTrainConfig) else 0


def reserved(config: Config) -> list[dict[str, float]]:
    """What a trial holds from its beginning to its end, as bundles of a placement group of Ray's.

    Workers of Ray Train reserve their CPUs themselves, all of a fit's at once. A trial that held a CPU meanwhile would
    keep it from the workers of others; where machines were lost since trials began, each might so wait for the others
    for ever. The runners of RLlib take what the trial has reserved.
    """
    workers = workers_of(config)
    if not isinstance(config, TrainConfig):
        return [{"CPU": 1.0}] * (1 + workers)
    return [{"CPU": WAITING if workers else 1.0}]


def concurrent_trials(cpus: float, workers: int, asked: int | None) -> int:
    """The most trials whose own processes and workers have a CPU each, and no more than asked for.

    Of more trials, some would have begun and do nothing but wait for the workers of others to end.

    Raises: ConfigError: when not even one fits.
    """
    fit = int(cpus) // (1 + workers)
    if fit < 1:
        raise ConfigError(
            f"a trial takes {1 + workers} CPUs, for itself and its {workers} workers, and Ray has {cpus:g}: take fewer "
            "training.workers (0: in the trial's own process), or a larger cluster; of one that grows, say with cpus "
            "how many it may have",
            field="training.workers",
        )
    return fit if asked is None else min(fit, asked)
