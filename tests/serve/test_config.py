from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from serve.app import build
from serve.config import ServeConfig

EXAMPLE = Path(__file__).parents[2] / "serve" / "serve.yaml"


def test_the_service_is_local_unless_told_otherwise():
    assert ServeConfig().host == "127.0.0.1"


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TANDEM_HOME", "/somewhere")
    assert ServeConfig().home == "/somewhere"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"layouts": "single"}, "layouts"),
        ({"layout": "one"}, "layout"),
        ({"replicas": 0}, "replicas"),
        ({"port": 70_000}, "port"),
        ({"host": "::1"}, "host must be a name, or an address of IPv4"),
        ({"policy": {"epsilon": 1.5}}, "epsilon"),
        ({"policy": {"temperature": -1}}, "temperature"),
    ],
)
def test_a_wrong_value_is_named(values: dict, field: str):
    with pytest.raises(ValidationError, match=field):
        ServeConfig(**values)


@pytest.mark.parametrize("values", [{"replicas": 2}, {"layout": "distributed", "stage_replicas": 2}])
def test_a_seed_is_refused_where_several_processes_would_draw_the_same(values: dict):
    with pytest.raises(ValidationError, match="seed needs a single replica"):
        ServeConfig(seed=1, **values)


def test_the_example_names_a_builder_and_fields_that_exist():
    from ray.serve.schema import ServeDeploySchema

    example = ServeDeploySchema.model_validate(yaml.safe_load(EXAMPLE.read_text()))
    (application,) = example.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    config = ServeConfig.model_validate(application.args)
    assert config.layout == "single"
    assert "host" in config.model_fields_set and config.host == example.http_options.host
