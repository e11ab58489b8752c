"""Logs of InstaTok as data sets, the same as read from files."""

import numpy as np
from numpy.typing import NDArray

from rec.config import DataConfig, load_config
from rec.data.assembly import content_sha256
from rec.data.dataset import Dataset, Interactions
from rec.errors import ConfigError
from rl.config import InstaTokConfig
from rl.instatok.policies import SessionPolicy, uniform
from rl.instatok.sessions import Sessions, viewing_seconds
from rl.instatok.world import ACTIONS, SCHEMA, VIDEO_SECONDS, InstaTok

MS_PER_DAY = 86_400_000


def generate_dataset(config: DataConfig) -> Dataset:
    """The embedded data set `instatok`: sessions filled with random videos.

    The world is the default one, or that of the YAML file at the config's path, with the fields of `InstaTokConfig`.
    """
    world = InstaTokConfig() if config.path is None else load_config(InstaTokConfig, config.path)
    return log_sessions(InstaTok(world))


def log_sessions(
    world: InstaTok,
    n_sessions: int | None = None,
    policy: SessionPolicy | None = None,
    rng: np.random.Generator | None = None,
) -> Dataset:
    """A log of sessions in which a policy chose the videos; the hidden interests are not in it.

    Every user has one session or more, spread evenly over the days of the config and never two at a time. A video
    watched or liked takes six seconds, another one to five.

    Args:
        world: whose users and videos.
        n_sessions: of all users together; None: `sessions_per_user` of the config.
        policy: chooses the videos; None: `uniform`.
        rng: None: follows from the world's seed.
    """
    rng = rng or np.random.default_rng(np.random.SeedSequence(world.config.seed, spawn_key=(1,)))
    policy = policy or uniform
    n_sessions = n_sessions or round(world.config.sessions_per_user * world.n_users)
    if n_sessions < 1:
        raise ConfigError("a log needs a session; make n_users or sessions_per_user larger", field="sessions_per_user")
    users, start_ms = session_starts(world, n_sessions, rng)
    sessions = Sessions(world, users)
    clock_ms = start_ms.copy()
    rows: list[tuple[NDArray, ...]] = []
    while not sessions.done.all():
        items = policy(sessions, rng)
        action = sessions.view(items, rng).action
        clock_ms += viewing_ms(action, rng)
        seen = np.flatnonzero(action >= 0)
        rows.append((users[seen], items[seen], clock_ms[seen], action[seen]))
    user, item, timestamp, action = (np.concatenate(column) for column in zip(*rows, strict=True))
    in_time = np.lexsort((user, timestamp))
    interactions = Interactions(
        user_ids=world.user_ids,
        item_ids=world.item_ids,
        user=user[in_time].astype(np.int32),
        item=item[in_time].astype(np.int32),
        timestamp=timestamp[in_time],
        action=action[in_time].astype(np.int16),
        actions=ACTIONS,
    )
    users_frame, items_frame = world.users_frame(), world.items_frame()
    sha256 = content_sha256(interactions, users_frame, items_frame, SCHEMA)
    return Dataset("instatok", interactions, users_frame, items_frame, SCHEMA, sha256)


def session_starts(world: InstaTok, n_sessions: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Whose sessions there are, ascending, and when they start: one user's further apart than a session lasts."""
    first_of_each = np.arange(min(world.n_users, n_sessions))
    more = rng.integers(0, world.n_users, n_sessions - len(first_of_each))
    users = np.sort(np.concatenate([first_of_each, more]))
    offset = rng.uniform(0, world.config.days * MS_PER_DAY, n_sessions).astype(np.int64)
    offset = offset[np.lexsort((offset, users))]
    longest_ms = int(world.config.max_steps * VIDEO_SECONDS * 1000) + 1
    nth_of_user = np.arange(n_sessions) - np.searchsorted(users, users)
    return users, world.config.start_ms + offset + nth_of_user * longest_ms


def viewing_ms(action: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.int64]:
    """How long users looked, see `viewing_seconds`; any shape."""
    return (viewing_seconds(action, rng.random(action.shape)) * 1000).astype(np.int64)
