import pytest

from rec.config import EvaluationConfig, OffPolicyConfig, TrainConfig, load_config, parse_config
from rec.errors import ConfigError
from serve.config import PolicyConfig


def _parse(objective: str, **off_policy) -> TrainConfig:
    return parse_config(TrainConfig, {"retriever": {"objective": objective}, "off_policy": off_policy})


def test_items_are_sampled_for_the_objectives_that_can():
    for objective in ("ips", "two_stage_ips"):
        config = _parse(objective, sampled_items=64, neighbors=8, uniform_share=0.5, rebuild_steps=1)
        assert parse_config(TrainConfig, config.model_dump()) == config


def test_the_ranker_is_taken_to_draw_as_serving_does():
    assert OffPolicyConfig().ranker_temperature == PolicyConfig().temperature


@pytest.mark.parametrize("objective", ["mixed_negative", "regression", "dr", "top_k_reinforce"])
def test_other_objectives_refuse_sampled_items(objective):
    with pytest.raises(ConfigError, match=f"is for ips and two_stage_ips; found 64 with objective {objective}: set 0"):
        _parse(objective, sampled_items=64)


@pytest.mark.parametrize("setting", [{"neighbors": 8}, {"uniform_share": 0.5}, {"rebuild_steps": 10}])
def test_settings_of_sampled_items_are_refused_without_any(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))} .* set sampled_items"):
        _parse("ips", **setting)


def test_neighbours_are_refused_where_all_draws_are_uniform():
    _parse("ips", sampled_items=64, uniform_share=1.0)
    with pytest.raises(ConfigError, match="neighbors is of items drawn near the user"):
        _parse("ips", sampled_items=64, uniform_share=1.0, neighbors=8)


# Values other than the default, for every setting that an objective may not read.
CHANGED = {
    "max_weight": 3.0,
    "min_weight": 0.5,
    "self_normalize": False,
    "normalize_over": "all",
    "slate_size": 10,
    "n_slates": 7,
    "alpha": 0.5,
    "slate_temperature": 1.0,
    "ranker_temperature": 1.0,
    "sampled_items": 64,
}


@pytest.mark.parametrize(
    ("objective", "without_effect"),
    [
        ("logq", set(CHANGED)),
        ("regression", set(CHANGED)),
        ("dr", set(CHANGED) - {"max_weight", "self_normalize"}),
        ("weighted_log_likelihood", set(CHANGED) - {"max_weight", "self_normalize", "normalize_over"}),
        (
            "ips",
            {"slate_size", "n_slates", "alpha", "slate_temperature", "ranker_temperature"},
        ),
        ("top_k_reinforce", {"n_slates", "alpha", "slate_temperature", "ranker_temperature", "sampled_items"}),
        ("two_stage_ips", set()),
    ],
)
def test_settings_that_the_objective_does_not_read_are_refused(objective, without_effect):
    for name, value in CHANGED.items():
        if name in without_effect:
            with pytest.raises(ConfigError, match=rf"off_policy\.{name} is for .*found .* objective {objective}"):
                _parse(objective, **{name: value})
        else:
            assert getattr(_parse(objective, **{name: value}).off_policy, name) == value
    # A config that was saved with all its defaults still loads.
    assert _parse(objective, **OffPolicyConfig().model_dump()) == _parse(objective)


def test_every_off_policy_setting_has_a_rule():
    from rec.config.off_policy import OBJECTIVES_OF

    assert set(CHANGED) == set(OBJECTIVES_OF)
    assert set(OffPolicyConfig.model_fields) - set(OBJECTIVES_OF) == {"neighbors", "uniform_share", "rebuild_steps"}


def test_a_cap_below_the_floor_is_refused_only_where_there_is_a_floor():
    assert _parse("dr", max_weight=0.001).off_policy.max_weight == 0.001
    with pytest.raises(ConfigError, match=r"min_weight must not exceed off_policy\.max_weight"):
        _parse("ips", max_weight=0.001)


def test_what_is_averaged_over_needs_weights_that_are_self_normalised():
    with pytest.raises(ConfigError, match="normalize_over is of self-normalised weights: set self_normalize"):
        _parse("ips", self_normalize=False, normalize_over="all")


def test_slates_need_as_many_sampled_items_as_they_hold():
    with pytest.raises(ConfigError, match=r"at least off_policy\.slate_size.* found 29 and 30"):
        _parse("two_stage_ips", sampled_items=29)
    _parse("ips", sampled_items=29)


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_of_uniform_draws_is_needed(share):
    with pytest.raises(ConfigError) as raised:
        _parse("ips", sampled_items=64, uniform_share=share)
    assert raised.value.field == "off_policy.uniform_share"


def test_a_complaint_of_the_whole_config_does_not_repeat_it():
    with pytest.raises(ConfigError) as raised:
        _parse("logq", sampled_items=64)
    assert len(str(raised.value)) < 120
    # A value of a field is named.
    with pytest.raises(ConfigError, match="found 'often'"):
        _parse("ips", rebuild_steps="often")


@pytest.mark.parametrize("name", ["ndcg@²", "ndgc@10"])
def test_a_metric_that_is_none_is_refused_before_anything_is_fitted(name):
    with pytest.raises(ConfigError, match=f"no metric '{name}'") as raised:
        parse_config(EvaluationConfig, {"metrics": ["ndcg@10", name]})
    assert raised.value.field == "metrics"


@pytest.mark.parametrize("content", ["[]", "0", "false", '""', "[" * 5000, "seed: 2020-13-01", "a: ["])
def test_a_file_that_is_no_mapping_is_refused_by_its_name(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as raised:
        load_config(TrainConfig, path)
    assert raised.value.file == str(path)


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "{}"])
def test_a_file_without_content_gives_nothing(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    assert load_config(TrainConfig, path) == TrainConfig()
