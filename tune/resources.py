"""How many trials run side by side."""

from rec.config import Config, TrainConfig
from rec.errors import ConfigError
from rl.config import DQNTrainConfig


def workers_of(config: Config) -> int:
    """Processes that a trial starts beside its own."""
    if isinstance(config, TrainConfig):
        return config.training.workers
    return config.env_runners if isinstance(config, DQNTrainConfig) else 0


def concurrent_trials(cpus: float, workers: int, asked: int | None) -> int:
    """The most trials whose own processes and workers have a CPU each, and no more than asked for.

    A trial holds its CPU while it waits for its workers'. Of more trials each might wait for CPUs that the others hold.

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
