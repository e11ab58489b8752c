"""A night's table in the config of the next bundle: trained with, kept in it, and answered from without the table."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rec.batch import write_candidates
from rec.candidate_tables import read_candidates
from rec.config import BatchConfig, SourcesConfig
from rec.pipeline import train
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.log import log_sessions

QUOTA = 8


@pytest.mark.slow
def test_a_bundle_trained_with_a_table_answers_with_its_lists(home: str, asked: Any, tmp_path: Path):
    table, own = tmp_path / "table", str(tmp_path / "home")
    write_candidates(BatchConfig(workers=0, k=QUOTA, ranked=True), str(table), home=home)
    job = read_candidates(str(table)).job
    assert job is not None
    sources = SourcesConfig(quotas={"batch": QUOTA}, batch=str(table))
    config = asked.recommender.config.model_copy(update={"sources": sources, "seed": 1})
    version = train(log_sessions(InstaTok(InstaTokConfig(n_users=50, n_videos=120, seed=1))), config, own)["version"]
    assert Registry(Home(own)).show(version).tables["candidates"] == job.key
    shutil.rmtree(table)

    loaded = Recommender.load(own)
    for user_id, listed in asked.ranked(QUOTA).items():
        states = loaded.hydrate([user_id])
        found = loaded.retrieve(states)
        named = {
            str(loaded.item_ids[item])
            for column, item in enumerate(found.items[0])
            if item >= 0 and "batch" in found.sources_of(0, column)
        }
        # What the user has seen by now is no candidate any more.
        seen = set(loaded.item_ids[states.excluded].tolist())
        assert named >= set(listed) - seen and len(named) <= QUOTA
        assert np.isfinite(found.scores[0][found.items[0] >= 0]).all()
