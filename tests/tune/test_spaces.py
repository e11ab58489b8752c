"""Spaces name fields that there are, and everything that can be drawn makes a config."""

import optuna
import pytest
from pydantic import ValidationError

from rec.config import Config, OffPolicyConfig, TrainConfig
from rec.config.off_policy import OBJECTIVES_OF
from rec.errors import ConfigError
from tune.config import ParameterConfig, TuneConfig
from tune.spaces import CONFIGS, SPACES, Space


def base_of(space: Space) -> Config:
    """A config of a space's learner, of an objective that reads what it searches."""
    if space.learner == "train":
        return TrainConfig.model_validate({"retriever": {"objective": "two_stage_ips"}})
    return CONFIGS[space.learner]()


@pytest.mark.parametrize("name", SPACES)
def test_all_that_a_space_can_draw_is_a_config(name):
    space = SPACES[name]
    base = base_of(space)
    space.refuse_impossible(base)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        values = space.decoded(study.ask(space.distributions()).params)
        config = space.configured(base, values)
        assert space.base_values(config) == values
        assert not space.outside(values)


@pytest.mark.parametrize("name", SPACES)
def test_bases_are_tried_first(name):
    space = SPACES[name]
    base = base_of(space)
    own = space.base_values(base)
    assert space.starts(base, []) == [own]
    assert space.decoded(space.encoded(own)) == own


def test_every_setting_of_the_weights_and_slates_that_is_a_number_can_be_searched():
    searched = {field for space in SPACES.values() for field in space.parameters}
    numbers = {name for name in OBJECTIVES_OF if type(OffPolicyConfig.model_fields[name].default) in (int, float)}
    assert numbers - {"sampled_items", "ranker_temperature"} == {
        name.removeprefix("off_policy.") for name in searched if name.startswith("off_policy.")
    }


def test_a_field_that_is_none_is_named():
    config = TuneConfig(parameters={"retriever.tower.dim": ParameterConfig(choices=(1, 2))})
    with pytest.raises(ConfigError, match=r"no field retriever\.tower\.dim"):
        Space.of(config).refuse_impossible(TrainConfig())


@pytest.mark.parametrize(
    "name", ["data.positive_actions", "split.kind", "seed", "training.workers", "ranker.period_fractions"]
)
def test_what_has_to_be_alike_in_all_trials_is_refused(name):
    config = TuneConfig(parameters={name: ParameterConfig(choices=(1, 2))})
    with pytest.raises(ConfigError, match=r"cannot be searched.*set it in the base"):
        Space.of(config).refuse_impossible(TrainConfig())


def test_ends_of_a_whole_number_have_to_be_whole():
    for low, high, log in ((8.0, 64.0, False), (128.0, 1024.0, True)):
        space = Space("train", {"training.batch_size": ParameterConfig(low=low, high=high, log=log)})
        with pytest.raises(ConfigError, match=r"training\.batch_size .* cannot be searched"):
            space.refuse_impossible(TrainConfig())
    Space("train", {"training.batch_size": ParameterConfig(low=8, high=64)}).refuse_impossible(TrainConfig())


def test_what_the_objective_does_not_read_is_refused_before_any_trial():
    space = Space.of(TuneConfig(spaces=("capping", "alpha")))
    ips = TrainConfig.model_validate({"retriever": {"objective": "ips"}})
    with pytest.raises(ConfigError, match=r"off_policy\.alpha .* cannot be searched from this base.*two_stage_ips"):
        space.refuse_impossible(ips)


def test_own_parameters_replace_those_of_a_space():
    wider = ParameterConfig(low=1e-6, high=10.0, log=True)
    space = Space.of(TuneConfig(spaces=("capping", "alpha"), parameters={"off_policy.alpha": wider}))
    assert space.parameters["off_policy.alpha"] == wider
    assert list(space.parameters) == ["off_policy.max_weight", "off_policy.min_weight", "off_policy.alpha"]


def test_starts_are_filled_up_from_the_base_and_checked():
    space, base = SPACES["capping"], base_of(SPACES["capping"])
    assert space.starts(base, [{"off_policy.max_weight": 100.0}]) == [
        {"off_policy.max_weight": 10.0, "off_policy.min_weight": 0.01},
        {"off_policy.max_weight": 100.0, "off_policy.min_weight": 0.01},
    ]
    with pytest.raises(ConfigError, match=r"must lie in the space; found off_policy\.max_weight 5000"):
        space.starts(base, [{"off_policy.max_weight": 5000.0}])
    with pytest.raises(ConfigError, match=r"off_policy\.alpha is not searched"):
        space.starts(base, [{"off_policy.alpha": 0.1}])


def test_a_base_that_cannot_be_drawn_is_not_tried():
    space = Space("train", {"retriever.output_dim": ParameterConfig(choices=(8, 16))})
    assert space.starts(TrainConfig(), []) == []


def test_learners_are_not_mixed():
    with pytest.raises(ConfigError, match="of one learner"):
        Space.of(TuneConfig(spaces=("alpha", "dqn")))
    with pytest.raises(ConfigError, match="say what to search: some of capping"):
        Space.of(TuneConfig())


@pytest.mark.parametrize(
    "wrong",
    [{}, {"low": 1.0}, {"low": 2.0, "high": 1.0}, {"low": 0.0, "high": 1.0, "log": True}, {"choices": [1], "low": 1}],
)
def test_parameters_that_cannot_be_drawn_are_refused(wrong):
    with pytest.raises(ValidationError):
        ParameterConfig.model_validate(wrong)
