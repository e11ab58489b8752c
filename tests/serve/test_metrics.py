"""Metrics: the text is what Prometheus reads, processes add up, and the numbers are those of the answers."""

import json
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from rec.recommender import Recommender
from serve.api import Api
from serve.config import ServeConfig
from serve.gateway import Gateway
from serve.json_log import REQUEST_ID, JsonFormatter
from serve.metrics import FAMILIES, STALE_S, Metrics, SharedMetrics, exposition
from serve.stages import STAGES

DOCS = Path(__file__).parents[2] / "docs"
Request = Callable[..., httpx.Response]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Every sample by name and labels but the process, which must be told once only."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "process"}
            found[sample.name, frozenset(labels.items())] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_what_is_counted_and_observed_is_read_back():
    metrics = Metrics()
    metrics.add("tandem_requests_total", "/x", "200")
    metrics.add("tandem_requests_total", "/x", "200", amount=2)
    metrics.set("tandem_spool_bytes", value=7)
    metrics.observe("tandem_propensity", "champion", values=[0.0001, 0.00011, 0.5, 1.0])
    metrics.observe("tandem_score", 'a\\ "quoted"\nline', values=[-2.0, 0.5])
    found = samples(exposition({"p": metrics.to_json()}))
    assert value(found, "tandem_requests_total", route="/x", status="200") == 3
    assert value(found, "tandem_spool_bytes") == 7
    for bound, count in ((1e-5, 0), (1e-4, 1), (1e-3, 2), (0.3, 2), (0.99, 3)):
        assert value(found, "tandem_propensity_bucket", arm="champion", le=str(bound)) == count
    assert value(found, "tandem_propensity_bucket", arm="champion", le="+Inf") == 4
    assert value(found, "tandem_propensity_count", arm="champion") == 4
    assert value(found, "tandem_propensity_sum", arm="champion") == pytest.approx(1.50021)
    assert value(found, "tandem_score_sum", arm='a\\ "quoted"\nline') == -1.5
    assert value(found, "tandem_score_count", arm='a\\ "quoted"\nline') == 2


def test_every_family_is_told_once_and_as_what_it_is():
    metrics = Metrics()
    lines = exposition({"p": metrics.to_json(), "q": metrics.to_json()}).splitlines()
    assert [line for line in lines if line.startswith("# TYPE")] == [
        f"# TYPE {name} {family.kind}" for name, family in FAMILIES.items()
    ]
    assert all(name.startswith("tandem_") for name in FAMILIES)
    assert all(name.endswith("_total") == (family.kind == "counter") for name, family in FAMILIES.items())


def test_labels_that_a_metric_does_not_have_are_refused():
    with pytest.raises(ValueError, match="takes the labels"):
        Metrics().add("tandem_requests_total", "/x")


def test_any_process_gives_out_all_of_those_that_live(tmp_path: Path):
    now = [1_000.0]

    def process(name: str) -> SharedMetrics:
        shared = SharedMetrics(tmp_path, clock=lambda: now[0])
        shared._process = name
        return shared

    one, two, gone = process("one"), process("two"), process("gone")
    for number, shared in enumerate((one, two, gone), 1):
        shared.own.add("tandem_unlogged_total", amount=number)
    gone.write(gone.own.to_json())
    now[0] += STALE_S + 1
    one.write(one.own.to_json())
    one.own.add("tandem_unlogged_total", amount=10)
    (tmp_path / "metrics" / "torn.json").write_text("{")
    text = one.read(one.own.to_json()), two.read(two.own.to_json())
    assert 'tandem_unlogged_total{process="one"} 11.0' in text[0], "its own are of now"
    assert 'tandem_unlogged_total{process="one"} 1.0' in text[1]
    assert 'tandem_unlogged_total{process="two"} 2.0' in text[1] and "gone" not in text[0] + text[1]
    assert not (tmp_path / "metrics" / "gone.json").exists()


def test_the_numbers_are_those_of_the_answers(gateway: Gateway, ask: Request, recommender: Recommender, user_id: str):
    shared = SharedMetrics(None)
    gateway = Gateway(gateway._arms, gateway._registry, metrics=shared.own)
    asked = partial(ask, Api(gateway, ServeConfig(home="."), metrics=shared))
    answers = [
        asked("POST", "/v1/recommend", json={"user_id": name, "n": 7}).json() for name in (user_id, "nobody", user_id)
    ]
    asked("POST", "/v1/recommend", json={})
    asked("GET", "/no/such/path")
    asked("GET", "/v1/items/nothing")
    response = asked("GET", "/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(response.text)
    items = [item for answer in answers for item in answer["items"]]
    for status, count in (("200", 3), ("422", 1)):
        assert value(found, "tandem_requests_total", route="/v1/recommend", status=status) == count
    assert value(found, "tandem_requests_total", route="other", status="404") == 1
    assert value(found, "tandem_requests_total", route="/v1/items/{item_id:path}", status="404") == 1
    assert value(found, "tandem_request_seconds_count", route="/v1/recommend") == 4
    assert value(found, "tandem_recommendations_total", arm="champion") == 3
    assert value(found, "tandem_unknown_users_total", arm="champion") == 1
    assert value(found, "tandem_degraded_total", arm="champion") == 0
    for stage in STAGES:
        assert value(found, "tandem_stage_seconds_count", stage=stage) == 3
    assert value(found, "tandem_propensity_count", arm="champion") == len(items) == 21
    assert value(found, "tandem_propensity_sum", arm="champion") == pytest.approx(sum(i["propensity"] for i in items))
    scores = [item["score"] for item in items if item["score"] is not None]
    assert value(found, "tandem_score_sum", arm="champion") == pytest.approx(sum(scores))
    assert value(found, "tandem_score_squares_sum", arm="champion") == pytest.approx(sum(s * s for s in scores))
    for source in {item["source"] for item in items}:
        count = sum(item["source"] == source for item in items)
        assert value(found, "tandem_items_total", arm="champion", source=source) == count
    assert value(found, "tandem_distinct_items", arm="champion") == len({item["item_id"] for item in items})
    assert value(found, "tandem_eligible_items", arm="champion") == recommender.n_items
    assert value(found, "tandem_model_info", arm="champion", version=recommender.version) == 1
    assert value(found, "tandem_model_refused") == 0


@pytest.mark.parametrize(("given", "kept"), [("abc-1.2_3", True), ("", False), ("a b", False), ("x" * 129, False)])
def test_a_request_has_an_id_and_the_log_tells_it(
    gateway: Gateway, ask: Request, given: str, kept: bool, caplog: pytest.LogCaptureFixture
):
    api = Api(gateway, ServeConfig(home=".", max_body_bytes=10_000))
    with caplog.at_level(logging.INFO, logger="serve.api"):
        response = ask(api, "POST", "/v1/recommend", json={"user_id": "a"}, headers={"X-Request-Id": given})
    request_id = response.headers["x-request-id"]
    assert (request_id == given) is kept and request_id
    (record,) = [record for record in caplog.records if record.message == "answered"]
    fields: Any = record.__dict__["fields"]
    assert (fields["method"], fields["route"], fields["status"]) == ("POST", "/v1/recommend", 200)


def test_a_record_is_one_line_of_json():
    formatter = JsonFormatter()
    record = logging.LogRecord("serve.api", logging.ERROR, "f.py", 1, "broken: %s", ("a\nb\u2028",), None)
    record.__dict__["fields"] = {"status": 500}
    token = REQUEST_ID.set("r1")
    line = formatter.format(record)
    REQUEST_ID.reset(token)
    told = json.loads(line)
    assert "\n" not in line and told["message"] == "broken: a\nb\u2028"
    assert (told["level"], told["logger"], told["http_request_id"], told["status"]) == (
        "error", "serve.api", "r1", 500
    )  # fmt: skip
    try:
        raise RuntimeError("inside")
    except RuntimeError as error:
        record = logging.LogRecord(
            "rec", logging.ERROR, "f.py", 1, "failed", (), (RuntimeError, error, error.__traceback__)
        )
    assert "RuntimeError: inside" in json.loads(formatter.format(record))["exception"]


RECORDS = {
    "tandem:propensity:median": {"arm"},
    "tandem:score:mean": {"arm"},
    "tandem:score:deviation": {"arm"},
}


def families_in(expr: str, legend: str = "") -> set[str]:
    """The metrics of an expression, all of whose labels they or the recorded series in it have."""
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"tandem_[a-z_]+", expr)}
    records = set(re.findall(r"tandem:[a-z:]+", expr))
    assert families <= set(FAMILIES) and records <= set(RECORDS) and families | records, expr
    labels = {label for name in families for label in FAMILIES[name].labels} | (
        {"le", "process"} if families else set()
    )
    labels |= {label for name in records for label in RECORDS[name]}
    used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*[\"']", expr))
    used |= set(re.findall(r"\{\{(?:\$labels\.)?(\w+)\}\}", legend))
    grouped = re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", expr)
    used |= {name.strip() for group in grouped for name in group.split(",") if name.strip()}
    assert used <= labels, (expr, legend)
    # Scores may be negative: where their sum falls, rate and increase would see a process that started anew.
    assert not re.search(r"(rate|increase)\(tandem_score_sum", expr)
    return families


def test_the_dashboard_shows_metrics_and_labels_that_there_are():
    board = json.loads((DOCS / "grafana.json").read_text())
    shown: set[str] = set()
    for panel in board["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            shown |= families_in(target["expr"], target["legendFormat"])
    assert shown == set(FAMILIES)


@pytest.mark.parametrize(
    "expr",
    [
        "tandem_no_such",
        "tandem:no:such",
        'tandem_score_sum{shard="1"}',
        'tandem_score_sum{shard!="1"}',
        "sum by (route) (tandem_score_count)",
        "sum by(arm, route)(tandem_score_count)",
        "sum without (route) (tandem_score_count)",
        "tandem:score:mean / on (arm, le) tandem:score:deviation",
        "rate(tandem_score_sum[1h])",
    ],
)
def test_an_expression_of_what_there_is_not_is_found(expr: str):
    with pytest.raises(AssertionError):
        families_in(expr)


def test_the_dashboard_shows_what_drifts_lags_or_is_slow():
    board = json.loads((DOCS / "grafana.json").read_text())
    exprs = {panel["title"]: " ".join(target["expr"] for target in panel["targets"]) for panel in board["panels"]}
    for name, *parts in (
        ("Propensity drift", "tandem_propensity_bucket[1h])", "tandem_propensity_bucket[1h] offset 1w)"),
        ("Score drift", "tandem_score_sum[1h])", "tandem_score_sum[1h] offset 1w)", "tandem_score_squares_sum"),
        ("Coverage", "tandem_distinct_items / tandem_eligible_items"),
        ("Log lag", "time() - max(tandem_log_commit_timestamp_seconds > 0)"),
        ("Latency by stage", "by (le, stage) (rate(tandem_stage_seconds_bucket"),
    ):
        (expr,) = [expr for title, expr in exprs.items() if title.startswith(name)]
        assert all(part in expr for part in parts), name
        assert expr.count("(") == expr.count(")"), name
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_rules_to_be_warned_by_read_metrics_that_there_are_and_each_other():
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(groups:.*?)```", page, re.DOTALL)
    (group,) = yaml.safe_load(block)["groups"]
    recorded = [rule["record"] for rule in group["rules"] if "record" in rule]
    assert sorted(recorded) == sorted(RECORDS)
    for rule in group["rules"]:
        families_in(rule["expr"], " ".join(rule.get("annotations", {}).values()))
        if "record" in rule:
            assert set(re.findall(r"by \(([^)]*)\)", rule["expr"])) <= {"arm", "arm, le"}, rule


def test_the_slowest_answers_in_time_are_told_from_those_that_are_late():
    """A quantile beyond the last bound of a histogram reads as that bound."""
    deadline_s = ServeConfig(home=".").deadline_s
    assert sum(bound > deadline_s for bound in FAMILIES["tandem_request_seconds"].buckets) >= 2
