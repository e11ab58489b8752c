"""What a user types, what comes back, and with which exit code."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rec
from rec.bundle import write_manifest
from rec.errors import BundleError, ConfigError, DataError
from rec.registry import Registry
from rec.storage import Home

HEADER = "user_id,item_id,timestamp,rating\n"


def test_train_says_what_the_contract_says(trained: tuple[str, dict[str, Any]]) -> None:
    answer = trained[1]
    assert list(answer) == (
        "command ok version run_dir bundle objective seed workers data epochs best_epoch seconds valid warnings".split()
    )
    assert list(answer["data"]) == "name sha256 n_users n_items n_train n_valid n_test dropped".split()
    assert answer["command"] == "train" and answer["ok"] is True
    assert {"ndcg@10", "retriever_ndcg@10"} <= set(answer["valid"])
    assert 1 <= answer["best_epoch"] <= answer["epochs"] <= 2


def test_run_folder_records_config_seed_versions_and_data(trained: tuple[str, dict[str, Any]]) -> None:
    run = Path(trained[1]["run_dir"])
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["sha256"] == trained[1]["data"]["sha256"]
    assert record["config"]["retriever"]["output_dim"] == 16
    assert {"python", "torch", "numpy", "ray"} <= set(record["versions"])
    assert list(run.glob("retriever-0/events.out.tfevents.*")), "no TensorBoard file"


def test_resuming_a_finished_run_trains_nothing_again(
    tandem: Any, small_config: Path, trained: tuple[str, dict[str, Any]]
) -> None:
    home, answer = trained
    run = Path(answer["run_dir"])
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    fits = ("retriever-0", "retriever-1", "retriever-2", "ranker-chosen", "ranker")
    assert {run / fit for fit in fits} <= {parent for file in before for parent in file.parents}
    world = str(Path(home).parent / "world.yaml")
    again = tandem(
        "train", "--config", str(small_config), "--path", world, "--home", home, "--resume", run.name, "--json"
    )
    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()} == before
    assert "trees" not in again.stderr
    assert json.loads(again.stdout)["valid"] == answer["valid"]
    assert tandem("models", "rollback", "--home", home).returncode == 0

    other = tandem("train", "--config", str(small_config), "--path", world, "--home", home, "--resume", run.name,
                   "--seed", "5")  # fmt: skip
    assert other.returncode == 2 and "another config" in other.stderr


def test_evaluate_stands_beside_baselines(tandem: Any, trained: tuple[str, dict[str, Any]]) -> None:
    done = tandem("evaluate", "--home", trained[0], "--baselines.names", "popularity", "ease", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer["models"]) == ["two_stage", "retriever", "popularity", "ease"]
    assert set(answer["models"]["two_stage"]["ndcg@10"]) == {"value", "std_error", "low", "high", "n"}
    assert set(answer["split"]) == {"kind", "period", "cut_ms", "n_users", "n_rows"}
    assert set(answer["paired"][0]) == {"a", "b", "metric", "difference", "low", "high", "p_value"}


@pytest.mark.slow
def test_a_blend_is_trained_and_evaluated_by_source(
    tandem: Any, small_config: Path, trained: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    world, home = str(Path(trained[0]).parent / "world.yaml"), str(tmp_path / "home")
    blend = ("--sources.quotas", "ease", "15", "popularity", "5", "business", "2", "--sources.business", "video-3")
    rules = ("--rules.cap-column", "creator", "--rules.cap-limit", "1")
    common = ("--config", str(small_config), "--path", world, "--home", home)
    done = tandem("train", *common, *blend, *rules, "--json")
    assert done.returncode == 0, done.stderr
    done = tandem("evaluate", "--home", home, "--baselines.names", "popularity", "--sources", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    sources = {source["name"]: source for source in answer["sources"]["sources"]}
    assert {name: source["quota"] for name, source in sources.items()} == {
        "two_tower": 38, "business": 2, "ease": 15, "popularity": 5
    }  # fmt: skip
    assert sum(source["hits_first"] for source in sources.values()) == pytest.approx(1.0)
    recalls = [source["recall"]["value"] for source in sources.values()]
    assert max(recalls) <= answer["sources"]["recall"]["value"] <= sum(recalls) + recalls[0]
    assert answer["exposure"]["column"] == "creator"
    shares = answer["exposure"]["models"]["two_stage"]
    assert 0 <= shares["gini"] < 1 and shares["top_share"] == max(shares["largest"].values())
    # Ten items of ten creators a list: nobody has more than a tenth.
    assert shares["top_share"] <= 0.1 + 1e-9 < answer["exposure"]["models"]["retriever"]["top_share"]


def test_defaults_learn_a_small_noisy_checkerboard(tandem: Any, tmp_path: Path) -> None:
    """3,000 rows: each of 150 people likes every second of 100 items, and one row in ten is noise.

    Popularity knows nothing here; EASE comes close to all there is to know. The defaults must not fail on little data.
    """
    rng = np.random.default_rng(0)
    rows = []
    for user in range(150):
        own, other = (np.arange(first, 100, 2) for first in (user % 2, 1 - user % 2))
        items = np.append(rng.choice(own, 18, replace=False), rng.choice(other, 2, replace=False))
        rows += [f"u{user},i{item},{rng.integers(1_600_000_000, 1_620_000_000)},4\n" for item in items]
    file, home = tmp_path / "interactions.csv", str(tmp_path / "home")
    file.write_text(HEADER + "".join(rows), encoding="utf-8")
    columns = ("--columns.rating", "rating")
    done = tandem("train", "--data", "csv", "--path", str(file), *columns, "--home", home, "--workers", "0")
    assert done.returncode == 0, done.stderr
    judged = json.loads(tandem("evaluate", "--home", home, "--baselines.names", "popularity", "ease", "--json").stdout)[
        "models"
    ]
    ndcg = {name: metrics["ndcg@10"]["value"] for name, metrics in judged.items()}
    assert ndcg["retriever"] > 0.85 * ndcg["ease"] > 1.5 * ndcg["popularity"], ndcg
    assert ndcg["two_stage"] > 0.85 * ndcg["ease"], ndcg


def test_a_log_trains_both_stages_off_policy(tandem: Any, small_config: Path, tmp_path: Path) -> None:
    from rec.data.events import open_events

    home = str(tmp_path / "home")
    world = ("--kind", "events", "--n-users", "40", "--n-videos", "100", "--n-sessions", "300")
    assert tandem("data", "generate", "--out", home, *world).returncode == 0
    again = tandem("data", "generate", "--out", home, *world, "--json")
    assert again.returncode == 2 and "requests" in json.loads(again.stdout)["error"]["file"]
    events = open_events(home)
    logged = ("--data", "events", "--path", home, "--home", home, "--config", str(small_config))
    done = tandem("train", *logged, "--objective", "two_stage_ips", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["objective"] == "two_stage_ips"
    shown = json.loads(tandem("models", "show", "--home", home, "--json").stdout)["model"]
    assert {table: int(shown["tables"][f"events/{table}"]) for table in events.versions()} == events.versions()
    assert len(json.loads(tandem("recommend", "--user-id", "user-3", "--home", home, "--json").stdout)["items"]) == 10

    # What is logged later changes nothing for what was trained before: the time of the run is recorded.
    record = json.loads((Path(answer["run_dir"]) / "run.json").read_text(encoding="utf-8"))
    assert record["config"]["data"]["now_ms"] == shown["config"]["data"]["now_ms"] > 0
    later = {"timestamp": int(time.time() * 1000) + 1, "request_id": "later"}
    asked, seen = (events.read(table).to_pylist()[0] for table in ("requests", "impressions"))
    events.append("requests", [asked | later])
    events.append("impressions", [seen | {"request_id": "later"}])
    judged = tandem("evaluate", "--home", home, "--metrics", "ndcg@10", "--json")
    assert judged.returncode == 0, judged.stderr

    worth = ("--rewards", "watched", "1", "skipped", "-2", "liked", "2", "other", "-0.5")
    refused = tandem("train", *logged, "--objective", "ips", *worth, "--json")
    assert refused.returncode == 2 and json.loads(refused.stdout)["error"]["field"] == "off_policy.min_weight"


def test_recommend_leaves_out_what_was_seen_and_marks_strangers(
    tandem: Any, trained: tuple[str, dict[str, Any]]
) -> None:
    home = trained[0]
    recommender = rec.load(home)
    row = int(np.flatnonzero(np.diff(recommender.snapshot.seen_indptr) > 0)[0])
    user_id = str(recommender.snapshot.user_ids[row])
    seen = recommender.snapshot.seen[recommender.snapshot.seen_indptr[row] : recommender.snapshot.seen_indptr[row + 1]]
    answer = recommender.recommend(user_id, 300)
    assert not {str(recommender.item_ids[item]) for item in seen} & {item.item_id for item in answer.items}
    assert answer.user_known and answer.short

    done = tandem("recommend", "--user-id", "nobody", "--n", "3", "--home", home, "--json")
    stranger = json.loads(done.stdout)
    assert done.returncode == 0 and not stranger["user_known"] and len(stranger["items"]) == 3
    assert all(item["source"] == "recent_popularity" for item in stranger["items"])


def test_python_scores_rank_as_recommend_does(trained: tuple[str, dict[str, Any]]) -> None:
    recommender = rec.load(trained[0])
    user_id = str(recommender.snapshot.user_ids[3])
    assert recommender.similar_items("video-0", 5)[0].item_id != "video-0"
    assert np.isfinite(recommender.score(user_id, ["video-0", "video-1"])).all()
    with pytest.raises(DataError, match="'video-none' is not in the catalogue"):
        recommender.score(user_id, ["video-none"])
    with pytest.raises(DataError, match=r"ids are strings; found 42: write '42'"):
        recommender.recommend(42)  # pyright: ignore[reportArgumentType]


def test_python_refuses_what_it_would_else_misread(trained: tuple[str, dict[str, Any]]) -> None:
    recommender: Any = rec.load(trained[0])
    user_id = str(recommender.snapshot.user_ids[3])
    for exclude in ([42], "video-0", [b"video-0"]):
        with pytest.raises(DataError) as refused:
            recommender.recommend(user_id, exclude=exclude)
        assert refused.value.field == "exclude"
    with pytest.raises(DataError, match="must be a list of ids"):
        recommender.score(user_id, "video-0")
    for n in (0, 2.5, "3"):
        with pytest.raises(ConfigError, match="at least 1"):
            recommender.recommend(user_id, n)
        with pytest.raises(ConfigError, match="at least 1"):
            recommender.similar_items("video-0", n)
    everything = recommender.recommend(user_id, 10**12)
    assert everything.short and 0 < len(everything.items) < recommender.n_items


def test_a_file_that_the_manifest_does_not_list_is_not_read(
    trained: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained[0], home)
    bundle = Registry(Home(str(home))).open()
    unlisted = next(name for name in bundle.manifest.files if name.startswith("ranker"))
    manifest = bundle.manifest.model_copy(
        update={"files": {name: file for name, file in bundle.manifest.files.items() if name != unlisted}}
    )
    write_manifest(bundle.folder, manifest)
    with pytest.raises(BundleError, match="no such file"):
        rec.load(str(home))


def test_a_model_of_everything_serves_but_is_not_evaluated(
    tandem: Any, trained: tuple[str, dict[str, Any]], small_config: Path, tmp_path: Path
) -> None:
    home, world = str(tmp_path / "home"), str(Path(trained[0]).parent / "world.yaml")
    options = ("--config", str(small_config), "--path", world, "--home", home, "--workers", "0", "--split.kind", "none")
    said = json.loads(tandem("train", *options, "--json").stdout)
    assert said["data"]["n_test"] == 0
    before, after = rec.load(trained[0]).snapshot, rec.load(home).snapshot
    assert after.at_ms > before.at_ms and len(after.seen) > len(before.seen)
    refused = tandem("evaluate", "--home", home, "--path", world)
    assert refused.returncode == 2 and "split.kind" in refused.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEADER + "a,x,1,4\na,y,two,5\n", ["row 3", "timestamp"]),
        (HEADER.replace("rating", "ratng") + "a,x,1,4\n", ["ratng"]),
        (HEADER + "a,x,1,4\nb,x,1,3\na,x,1,4\n", ["row 4"]),
        ("", ["empty"]),
        (HEADER + "a,caf\udce9,1,4\n", ["row 2"]),
    ],
    ids=["broken row", "unknown column", "duplicate", "empty", "encoding"],
)
def test_bad_data_are_refused_naming_where(tandem: Any, tmp_path: Path, content: str, said: list[str]) -> None:
    file = tmp_path / "ratings.csv"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    done = tandem("data", "validate", "--data", "csv", "--path", str(file), "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "DataError" and error["file"] == str(file)
    assert all(words in done.stderr for words in said), done.stderr


def test_misspelt_options_name_themselves(tandem: Any, tmp_path: Path) -> None:
    done = tandem("train", "--epochz", "3", "--json")
    assert done.returncode == 2
    assert "--epochz" in json.loads(done.stdout)["error"]["message"] and "--epochs" in done.stderr
    config = tmp_path / "config.yaml"
    config.write_text("retriever: {output_dmi: 3}\n")
    done = tandem("train", "--config", str(config), "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2 and error["field"] == "retriever.output_dmi" and error["file"] == str(config)


def test_a_flipped_byte_is_refused_by_name(trained: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    import shutil

    home = tmp_path / "home"
    shutil.copytree(trained[0], home)
    version = (home / "models" / "CURRENT").read_text().strip()
    file = home / "models" / version / "retriever.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"retriever\.safetensors"):
        rec.load(str(home))


def test_models_lists_what_was_published(tandem: Any, trained: tuple[str, dict[str, Any]]) -> None:
    listed = json.loads(tandem("models", "list", "--home", trained[0], "--json").stdout)
    assert trained[1]["version"] in [model["version"] for model in listed["models"]]
    shown = json.loads(tandem("models", "show", trained[1]["version"], "--home", trained[0], "--json").stdout)
    assert {"retriever.safetensors", "ranker.lgb.txt", "encoders.json", "items.parquet", "users.parquet"} <= set(
        shown["model"]["files"]
    )
    missing = tandem("models", "promote", "20200101T000000Z-00000000", "--home", trained[0])
    assert missing.returncode == 2


def test_report_is_one_file_that_needs_no_network(tandem: Any, trained: tuple[str, dict[str, Any]]) -> None:
    done = tandem("report", trained[1]["run_dir"], "--json")
    page = Path(json.loads(done.stdout)["report"]).read_text()
    assert "Learning curves" in page
    assert 'src="http' not in page and "<link" not in page


@pytest.mark.parametrize("format", ["parquet", "recbole"])
def test_imported_data_are_the_same_data(tandem: Any, tmp_path: Path, format: str) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text(HEADER + "a,x,1,4\na,y,2,5\nb,x,3,1\n")
    out = tmp_path / "out"
    done = tandem("data", "import", "--data", "csv", "--path", str(file), "--out", str(out), "--format", format)
    assert done.returncode == 0, done.stderr
    first, second = (
        json.loads(tandem("data", "validate", "--data", kind, "--path", str(path), "--json").stdout)
        for kind, path in (("csv", file), (format, out))
    )
    assert first["n_rows"] == second["n_rows"] == 3
    assert first["sha256"] == second["sha256"]
