"""A model of what people did before a service logged goes on from there by the log of that service."""

import json
from pathlib import Path
from typing import Any

import numpy as np

import rec
from rec.data.events import FOLDER, open_events
from rec.data.tabular import write_parquet
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.slate_log import by_category, log_slates

DAY_MS = 86_400_000


def test_a_model_of_imported_data_goes_on_by_the_log(tandem: Any, small_config: Path, tmp_path: Path) -> None:
    home = str(tmp_path)
    config = InstaTokConfig(n_users=60, n_videos=100, days=5.0)
    before = InstaTok(config.model_copy(update={"start_ms": config.start_ms - 30 * DAY_MS})).dataset(n_sessions=200)
    write_parquet(before, tmp_path / FOLDER)
    common = ("--home", home, "--config", str(small_config), "--split.kind", "none", "--json")
    done = tandem("train", "--data", "parquet", "--path", str(tmp_path / FOLDER), *common)
    assert done.returncode == 0, done.stderr
    first = rec.load(home).snapshot

    world, rng = InstaTok(config), np.random.default_rng(0)
    policy = by_category(np.zeros(8), 30)
    log = log_slates(world, policy, n_sessions=80, k=4, epsilon=0.1, temperature=1.0, rng=rng)
    log.append_to(open_events(home))
    going_on = ("train", "--data", "events", "--path", home, "--from", "CURRENT", *common)
    done = tandem(*going_on)
    assert done.returncode == 0, done.stderr
    second = rec.load(home).snapshot
    assert second.at_ms > first.at_ms and len(second.seen) > len(first.seen)
    for user in range(10):
        known, known_before = (set(each.seen[slice(*each.seen_indptr[user : user + 2])]) for each in (second, first))
        assert known >= known_before, "what somebody liked before the service logged is not shown again"

    (tmp_path / FOLDER / "interactions.parquet").unlink()
    refused = tandem(*going_on[:5], "--from", json.loads(done.stdout)["parent"]["version"], *common)
    assert refused.returncode == 2 and "nothing from before" in json.loads(refused.stdout)["error"]["message"]
