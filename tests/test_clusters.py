"""What starts clusters is what Ray's launcher takes, agrees with itself, and leaves nothing open."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rec import __version__
from serve.config import ServeConfig
from serve.hosts import Hosts

ROOT = Path(__file__).parents[1]
RAY = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
assert RAY is not None
SERVE_VARIABLES = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.ids:around_serve",
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
}
MANIFESTS = ("raycluster.yaml", "rayservice.yaml")
BASE = f"rayproject/ray:{RAY[1]}-py311"


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((ROOT / name).read_text(encoding="utf-8")))


def cluster_of(name: str) -> dict[str, Any]:
    """The cluster that a manifest of KubeRay describes."""
    spec = documents(name)[0]["spec"]
    return spec.get("rayClusterConfig", spec)


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.fixture(scope="module")
def launched() -> dict[str, Any]:
    """What Ray's launcher makes of cluster.yaml, after its own validation."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(documents("cluster.yaml")[0])
    validate_config(config)
    return config


def test_rays_validator_refuses_what_it_does_not_know(launched: dict[str, Any]) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config({**launched, "idle_timeout": 10})


def test_the_launcher_has_cpu_and_gpu_workers_and_such_as_may_be_taken_away(launched: dict[str, Any]) -> None:
    types = launched["available_node_types"]
    assert launched["head_node_type"] == "head" and types["head"]["resources"]["CPU"] == 0
    workers = {name: each for name, each in types.items() if name != "head"}
    assert all(each["min_workers"] == 0 and each["resources"]["CPU"] > 0 for each in workers.values())
    assert sum(each["resources"].get("GPU", 0) > 0 for each in workers.values()) == 1
    spot = [each for each in workers.values() if "InstanceMarketOptions" in each["node_config"]]
    assert [each["node_config"]["InstanceMarketOptions"]["MarketType"] for each in spot] == ["spot"]


def test_the_launcher_leaves_nothing_open(launched: dict[str, Any]) -> None:
    assert "IpPermissions" not in launched["provider"]["security_group"]
    starts = [line for kind in ("head", "worker") for line in launched[f"{kind}_start_ray_commands"] if "start" in line]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert launched["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    for each in launched["available_node_types"].values():
        assert each["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(device["Ebs"]["Encrypted"] for device in each["node_config"]["BlockDeviceMappings"])


def test_all_run_the_ray_that_is_tested(launched: dict[str, Any]) -> None:
    images = [launched["docker"]["image"]]
    images += [each["docker"]["worker_image"] for each in launched["available_node_types"].values() if "docker" in each]
    assert images == [f"{BASE}-cpu", f"{BASE}-gpu"]
    assert f"FROM {BASE}-${{VARIANT}}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for name in MANIFESTS:
        cluster = cluster_of(name)
        assert cluster["rayVersion"] == RAY[1]
        for group in groups(cluster):
            (container,) = group["template"]["spec"]["containers"]
            gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert container["image"] == f"tandem:{__version__}" + ("-gpu" if gpu else "")


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_ask_for_the_token_and_may_do_little(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    for group in groups(cluster):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["capabilities"]["drop"] == [
            "ALL"
        ]
        assert {each["name"]: each["value"] for each in container["env"]} == SERVE_VARIABLES
        assert container["resources"]["limits"] == container["resources"]["requests"]


@pytest.mark.parametrize(
    ("name", "public"), [("raycluster.yaml", []), ("rayservice.yaml", [{"ports": [{"port": 8000}]}])]
)
def test_only_the_cluster_and_its_operator_reach_its_ports(name: str, public: list[Any]) -> None:
    (policy,) = [each for each in documents(name) if each["kind"] == "NetworkPolicy"]
    own = policy["spec"]["podSelector"]["matchLabels"]
    for group in groups(cluster_of(name)):
        assert group["template"]["metadata"]["labels"] == own
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    inside, *others = policy["spec"]["ingress"]
    assert [each["podSelector"]["matchLabels"] for each in inside["from"]] == [
        own,
        {"app.kubernetes.io/name": "kuberay-operator"},
    ]
    assert others == public


def test_the_service_has_a_config_that_the_service_takes() -> None:
    service, claim, _ = documents("rayservice.yaml")
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = serve["applications"]
    assert application["import_path"] == "serve.app:build"
    config = ServeConfig.model_validate(application["args"])
    assert config.keys == "required" and config.replicas > 1 and config.sessions.url is not None
    assert config.host == serve["http_options"]["host"]
    Hosts(config).check("shop.example")
    Hosts(config).check("tandem-serve-svc:8000")
    mounts = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    assert mounts["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert mounts["containers"][0]["volumeMounts"][0]["mountPath"] == config.log.spool
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_image_holds_what_the_dockerfile_copies() -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()}
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[2:-1]}
    assert copied <= kept and all((ROOT / name).exists() for name in copied)
