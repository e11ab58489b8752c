"""What is searched: fields of configs by their dotted names, and the values they are drawn from."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rec.config import Config, TrainConfig, parse_config
from rec.errors import ConfigError
from rl.cli import TrainDQNOptions
from rl.rating_cli import TrainDRROptions
from tune.config import ParameterConfig, SpaceName, TuneConfig

Learner = Literal["train", "dqn", "drr"]
Values = dict[str, Any]
"""Values of fields by dotted name."""

CONFIGS: Final[dict[Learner, type[Config]]] = {"train": TrainConfig, "dqn": TrainDQNOptions, "drr": TrainDRROptions}
# What of a config says where a run goes, rather than what is run.
PLACES: Final = frozenset({"home", "resume", "export"})
# What trials learn from and are judged by, and what they reserve: alike for all of a search. Each with all its fields.
ALIKE: Final = (
    *PLACES,
    "data",
    "split",
    "seed",
    "incremental",
    "training.workers",
    "training.use_gpu",
    "sources.tasks",
    "ranker.period_fractions",
    "env",
    "env_runners",
    "ratings",
)


@dataclass(frozen=True, slots=True)
class Space:
    """Fields of a learner's config, and what they are drawn from."""

    learner: Learner
    parameters: Mapping[str, ParameterConfig]

    @classmethod
    def of(cls, config: TuneConfig) -> Self:
        """What a search names, its own parameters in place of those of the spaces.

        Raises: ConfigError: when it names nothing, or spaces of different learners.
        """
        if not config.spaces and not config.parameters:
            raise ConfigError(f"say what to search: some of {', '.join(SPACES)}", field="spaces")
        learners: list[Learner] = sorted({SPACES[name].learner for name in config.spaces}) or ["train"]
        if len(learners) > 1:
            raise ConfigError(
                f"spaces must be of one learner; {', '.join(config.spaces)} are of {' and '.join(learners)}",
                field="spaces",
            )
        found: dict[str, ParameterConfig] = {}
        for name in config.spaces:
            found |= SPACES[name].parameters
        return cls(learners[0], found | config.parameters)

    def distributions(self) -> dict[str, BaseDistribution]:
        """As Optuna knows them. Choices may be lists, which it does not take: it is given their JSON."""
        return {name: _distribution(parameter) for name, parameter in self.parameters.items()}

    def encoded(self, values: Values) -> Values:
        """Values as Optuna knows them."""
        return {
            name: _text(values[name]) if parameter.choices else values[name]
            for name, parameter in self.parameters.items()
        }

    def decoded(self, drawn: Values) -> Values:
        """What Optuna drew."""
        return {name: json.loads(value) if self.parameters[name].choices else value for name, value in drawn.items()}

    def outside(self, values: Values) -> list[str]:
        """Names whose values cannot be drawn."""
        return [name for name, parameter in self.parameters.items() if not _can_be(parameter, values[name])]

    def configured(self, base: Config, values: Values) -> Config:
        """A config with some fields set, checked as a whole.

        Raises: ConfigError: naming the field, where there is none of a name, or they do not go together.
        """
        plain = base.model_dump(mode="json", exclude=set(PLACES))
        for name, value in values.items():
            _put(plain, name, value)
        return parse_config(CONFIGS[self.learner], plain)

    def base_values(self, base: Config) -> Values:
        """What the fields are in a config."""
        plain = base.model_dump(mode="json")
        return {name: _get(plain, name) for name in self.parameters}

    def starts(self, base: Config, given: Sequence[Values]) -> list[Values]:
        """What is tried first: the base's own values where they can be drawn, then those given, filled up from it.

        Raises: ConfigError: for a start of other fields, or one that cannot be drawn.
        """
        own = self.base_values(base)
        found = [] if self.outside(own) else [own]
        for start in given:
            if unknown := sorted(start.keys() - self.parameters.keys()):
                raise ConfigError(
                    f"{unknown[0]} is not searched; there are {', '.join(self.parameters)}", field="starts"
                )
            filled = own | start
            if wrong := self.outside(filled):
                raise ConfigError(
                    f"a start must lie in the space; found {wrong[0]} {filled[wrong[0]]!r}: name another value, or "
                    "widen the parameter",
                    field="starts",
                )
            if filled not in found:
                found.append(filled)
        return found

    def refuse_impossible(self, base: Config) -> None:
        """Tries every end and choice of each field, the others as in the base, so that no trial fails for it.

        Between the ends it tries a number, too: a whole one where both ends are.

        Raises: ConfigError: naming the field and value; also for a field that has to be alike in all trials.
        """
        for name, parameter in self.parameters.items():
            if any(name == each or name.startswith(f"{each}.") for each in ALIKE):
                raise ConfigError(
                    f"{name} cannot be searched: trials that learn from other data, or take more of the machine, do "
                    "not compare; set it in the base",
                    field=name,
                )
            for value in parameter.choices or (parameter.low, _between(parameter), parameter.high):
                try:
                    self.configured(base, {name: value})
                except ConfigError as error:
                    raise ConfigError(
                        f"{name} {value!r} cannot be searched from this base: {error.message}",
                        field=error.field or name,
                    ) from error


def _log(low: float, high: float) -> ParameterConfig:
    return ParameterConfig(low=low, high=high, log=True)


def _one_of(*choices: Any) -> ParameterConfig:
    return ParameterConfig(choices=choices)


SPACES: Final[dict[SpaceName, Space]] = {
    "capping": Space("train", {"off_policy.max_weight": _log(1.0, 1000.0), "off_policy.min_weight": _log(1e-4, 1.0)}),
    "alpha": Space("train", {"off_policy.alpha": _log(1e-5, 1.0)}),
    "temperature": Space("train", {"retriever.softmax_temperature": _log(0.02, 1.0)}),
    "slates": Space(
        "train",
        {
            "off_policy.slate_temperature": _log(0.5, 10.0),
            "off_policy.slate_size": _log(5, 100),
            "off_policy.n_slates": _log(10, 300),
        },
    ),
    "towers": Space(
        "train",
        {
            "retriever.output_dim": _one_of(32, 64, 128),
            "retriever.user_tower.embedding_dim": _one_of(16, 32, 64, 128),
            "retriever.user_tower.hidden": _one_of([], [128], [256], [256, 128]),
            "retriever.item_tower.embedding_dim": _one_of(16, 32, 64, 128),
            "retriever.item_tower.hidden": _one_of([], [128], [256], [256, 128]),
        },
    ),
    "learning": Space(
        "train",
        {
            "training.learning_rate": _log(2e-4, 2e-2),
            "training.weight_decay": _log(1e-7, 1e-2),
            "training.batch_size": _one_of(256, 512, 1024, 2048),
        },
    ),
    "dqn": Space(
        "dqn",
        {
            "learning_rate": _log(1e-4, 1e-2),
            "tau": _log(0.003, 0.3),
            "training_intensity": _log(2.0, 32.0),
            "final_epsilon": ParameterConfig(low=0.0, high=0.3),
            "network.hidden": _one_of(16, 32, 64, 128),
            "network.embedding_dim": _one_of(4, 8, 16),
        },
    ),
    "drr": Space(
        "drr",
        {
            "actor_learning_rate": _log(1e-5, 1e-2),
            "critic_learning_rate": _log(1e-4, 1e-2),
            "tau": _log(1e-3, 0.1),
            "discount": ParameterConfig(low=0.0, high=0.99),
            "network.state": _one_of("p", "u", "ave"),
            "network.hidden": _one_of(64, 128, 256),
        },
    ),
}


def _distribution(parameter: ParameterConfig) -> BaseDistribution:
    low, high = parameter.low, parameter.high
    if parameter.choices:
        return CategoricalDistribution([_text(choice) for choice in parameter.choices])
    assert low is not None and high is not None
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=parameter.log)
    return FloatDistribution(low, high, log=parameter.log)


def _can_be(parameter: ParameterConfig, value: Any) -> bool:
    if parameter.choices:
        return _text(value) in map(_text, parameter.choices)
    low, high = parameter.low, parameter.high
    assert low is not None and high is not None
    kind = int if isinstance(low, int) and isinstance(high, int) else (int, float)
    return isinstance(value, kind) and low <= value <= high


def _between(parameter: ParameterConfig) -> int | float:
    low, high = parameter.low, parameter.high
    assert low is not None and high is not None
    if isinstance(low, int) and isinstance(high, int):
        return (low + high) // 2
    return low + (high - low) / math.e


def _text(value: Any) -> str:
    return json.dumps(value)


def _get(plain: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(plain, dict) or part not in plain:
            raise ConfigError(f"the config has no field {name}; name it as in retriever.output_dim", field=name)
        plain = plain[part]
    return plain


def _put(plain: dict[str, Any], name: str, value: Any) -> None:
    _get(plain, name)
    *parents, last = name.split(".")
    for part in parents:
        plain = plain[part]
    plain[last] = value
