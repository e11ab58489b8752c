"""Days of a service, as it logs them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from rec.data.events import open_events
from rec.recommender import Recommender
from rl.config import InstaTokConfig
from rl.instatok import InstaTok, Sessions
from rl.instatok.slate_log import Candidates, log_slates

DAY_MS = 86_400_000


def log_day(
    home: str, config: InstaTokConfig, number: int, recommender: Recommender | None, *, n_requests: int, drawn: Any
) -> None:
    """What people did in a day of slates, drawn from what a bundle ranks, or uniformly."""
    world = InstaTok(config.model_copy(update={"start_ms": config.start_ms + number * DAY_MS}))
    rng = np.random.default_rng(number)

    def candidates(sessions: Sessions, rng: np.random.Generator) -> Candidates:
        if recommender is None:
            return Candidates(np.full((len(sessions), 1), -1), np.zeros((len(sessions), 1)))
        states = recommender.hydrate([str(user) for user in world.user_ids])
        found = recommender.retrieve(states)
        scores = recommender.rank(states, found)
        place = {item: position for position, item in enumerate(world.item_ids)}
        ids = np.array([place[item] for item in recommender.item_ids])[found.items]
        ids = np.where(found.items >= 0, ids, -1)
        return Candidates(ids[sessions.users], np.where(ids >= 0, scores, 0.0)[sessions.users])

    version = "uniform" if recommender is None else recommender.version
    log = log_slates(world, candidates, n_sessions=n_requests, rng=rng, policy_version=version, **drawn)
    # The service draws from what it ranks whatever people saw earlier in the day, and says so.
    place = log.requests.schema.get_field_index("history")
    nothing = pa.array([[]] * len(log.requests), log.requests.schema.field(place).type)
    requests = log.requests.set_column(place, log.requests.schema.field(place), nothing)
    replace(log, requests=requests).append_to(open_events(home))
