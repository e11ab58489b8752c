"""The OpenAPI document, kept: requests made from it, right and wrong, meet no failure and no undocumented answer."""

from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rec.data.events import open_events
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.api import Api
from serve.arms import Arms
from serve.claims import Claims
from serve.config import ServeConfig
from serve.event_log import EventLog
from serve.gateway import Gateway
from serve.guard import Guard
from serve.keys import KeyStore
from serve.request_log import RequestLog
from serve.stages import Stages

WITHOUT_PARAMETERS = ("GET /v1/models", "GET /metrics", "GET /health/live", "GET /health/ready")
OPERATIONS = ("POST /v1/recommend", "POST /v1/feedback", "GET /v1/items/{item_id}", *WITHOUT_PARAMETERS)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openapi")


@pytest.fixture(scope="module")
def api(recommender: Recommender, home: str, folder: Path) -> Api:
    """A service with all there is, its log included, which needs a key."""
    config = ServeConfig(home=home, keys="required")
    arms = Arms.of_config(config, recommender.version, {recommender.version: Stages.here(recommender, config)})
    events = open_events(str(folder))
    spool = folder / "spool"
    log = RequestLog(EventLog(spool, events, sync_s=60, max_bytes=2**30), Claims(spool, 60), config)
    gateway = Gateway(arms, Registry(Home(home)), log)
    guard = Guard(config.model_copy(update={"home": str(folder)}))
    return Api(
        gateway,
        ServeConfig(home=".", hosts=("testserver",), max_body_bytes=100_000, body_timeout_s=30, deadline_s=60),
        guard,
    )


@pytest.fixture(scope="module")
def admin(folder: Path, api: Api) -> dict[str, str]:
    _, text = KeyStore(Home(folder)).create("test", ("admin",), now_ms=1)
    guard = api._admission.guard
    assert guard is not None
    guard.refresh()
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture(scope="module")
def operations(api: Api) -> dict[str, schemathesis.APIOperation]:
    found = [result.ok() for result in schemathesis.openapi.from_asgi("/openapi.json", api).get_all_operations()]
    return {operation.label: operation for operation in found}


def test_the_document_names_these_operations(operations: dict[str, schemathesis.APIOperation]):
    assert set(operations) == set(OPERATIONS)


@pytest.mark.parametrize("n_examples", [5, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("label", "mode"),
    [
        *((label, GenerationMode.POSITIVE) for label in OPERATIONS),
        *((label, GenerationMode.NEGATIVE) for label in OPERATIONS if label not in WITHOUT_PARAMETERS),
    ],
)
def test_no_request_meets_a_failure_or_an_undocumented_answer(
    operations: dict[str, schemathesis.APIOperation],
    label: str,
    mode: GenerationMode,
    n_examples: int,
    admin: dict[str, str],
):
    """As the document has them, and otherwise; a request of either kind is sent without a key, too."""

    @given(case=operations[label].as_strategy(generation_mode=mode))
    @settings(
        max_examples=n_examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    def sent(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=admin, checks=CHECKS)
        case.call_and_validate(headers={"Authorization": "Bearer nothing"}, checks=CHECKS)

    sent()
