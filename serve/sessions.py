"""What users have done since the model was trained, kept for a while: in a process of the cluster, or in Redis.

A store keeps of each user the latest time of each (item, action), so that feedback may come twice, and in any order,
and the session is the same. Nothing here is the record of what happened: that is the log.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, final

from redis.asyncio import Redis

from rec.errors import ConfigError
from serve.config import SessionsConfig

# How long after its end a session may still be in memory.
FORGET_S: Final = 1.0
# No user has this id: requests demand at least one character.
NOBODY: Final = ""
# Neither ids nor actions hold this character, see serve.schemas.
_SEPARATOR: Final = "\0"
_KEY: Final = "tandem:session:"
_LOG: Final = logging.getLogger(__name__)


class Act(NamedTuple):
    """What a user did with an item, and when, in UTC milliseconds."""

    item_id: str
    action: str
    timestamp: int


UserAct = tuple[str, Act]


@final
class Session(NamedTuple):
    """The latest act on each item, oldest first."""

    acts: tuple[Act, ...] = ()

    @classmethod
    def of(cls, acts: Iterable[Act]) -> "Session":
        """The session in which these were the acts, in any order; of several on one item the latest counts."""
        latest = {act.item_id: act for act in sorted(acts, key=_order)}
        return cls(tuple(sorted(latest.values(), key=_order)))

    @property
    def item_ids(self) -> list[str]:
        """The items, oldest first."""
        return [act.item_id for act in self.acts]

    def taken(self, positive: Collection[str]) -> list[str]:
        """The items whose act is one of these, oldest first."""
        return [act.item_id for act in self.acts if act.action in positive]

    @property
    def counts(self) -> dict[str, int]:
        """How many items there are of each action."""
        return dict(Counter(act.action for act in self.acts))


class SessionStore(Protocol):
    """Keeps the latest acts of each user for a time."""

    async def session(self, user_id: str) -> Session:
        """What a user did; the empty session where nothing is known."""
        ...

    async def add(self, user_id: str, acts: Sequence[Act]) -> None:
        """Adds acts; the next `session` of the user, of whichever process, has them."""
        ...


@final
class MemorySessions:
    """Sessions in the memory of one process, which go with it; those idle longest are let go first."""

    def __init__(self, config: SessionsConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Knows nobody yet."""
        self._config = config
        self._clock = clock
        self._users: OrderedDict[str, tuple[float, dict[tuple[str, str], int]]] = OrderedDict()

    async def session(self, user_id: str) -> Session:
        """See `SessionStore`."""
        self._expire()
        _, latest = self._users.get(user_id, (0.0, {}))
        return Session.of(Act(*key, timestamp) for key, timestamp in latest.items())

    async def add(self, user_id: str, acts: Sequence[Act]) -> None:
        """See `SessionStore`."""
        self._expire()
        _, latest = self._users.pop(user_id, (0.0, {}))
        for item_id, action, timestamp in acts:
            key = item_id, action
            latest[key] = max(timestamp, latest.get(key, timestamp))
        kept = sorted((Act(*key, timestamp) for key, timestamp in latest.items()), key=_order)
        kept = kept[-self._config.max_acts :]
        self._users[user_id] = self._clock(), {(act.item_id, act.action): act.timestamp for act in kept}
        if len(self._users) > self._config.max_users:
            self._users.popitem(last=False)

    async def follow(self) -> None:
        """Lets sessions go at their end, though nobody asks, until cancelled."""
        while True:
            await asyncio.sleep(FORGET_S)
            self._expire()

    def _expire(self) -> None:
        while self._users:
            user_id, (added_at, _) = next(iter(self._users.items()))
            if self._clock() - added_at < self._config.expire_s:
                return
            del self._users[user_id]


@final
class RedisSessions:
    """Sessions in Redis: of each user a sorted set of (item, action) by time."""

    def __init__(self, config: SessionsConfig) -> None:
        """Connects when first asked.

        Raises: ConfigError: for a URL that is none of Redis.
        """
        assert config.url is not None
        try:
            self._redis: Any = Redis.from_url(config.url, decode_responses=True)
        except ValueError as error:
            raise ConfigError(f"redis://HOST:PORT/NUMBER is required: {error}", field="sessions.url") from error
        self._config = config

    async def session(self, user_id: str) -> Session:
        """See `SessionStore`."""
        members = await self._redis.zrange(_KEY + user_id, 0, -1, withscores=True)
        pairs = [(member.partition(_SEPARATOR), int(timestamp)) for member, timestamp in members]
        return Session.of(Act(item_id, action, timestamp) for (item_id, _, action), timestamp in pairs)

    async def add(self, user_id: str, acts: Sequence[Act]) -> None:
        """See `SessionStore`."""
        key, latest = _KEY + user_id, {}
        for item_id, action, timestamp in acts:
            member = f"{item_id}{_SEPARATOR}{action}"
            latest[member] = max(timestamp, latest.get(member, timestamp))
        async with self._redis.pipeline(transaction=True) as commands:
            commands.zadd(key, latest, gt=True)
            commands.zremrangebyrank(key, 0, -self._config.max_acts - 1)
            commands.expire(key, self._config.expire_s)
            await commands.execute()


@final
class Sessions:
    """A store that may fail or be slow, for requests that must neither: they then go on without a session."""

    def __init__(self, store: SessionStore, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s

    async def session(self, user_id: str) -> Session:
        """What a user did; the empty session where the store does not say in time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._store.session(user_id)
        except Exception as error:
            _LOG.warning("a request is answered without the session of its user: %r", error)
            return Session()

    async def check(self) -> bool:
        """Whether the store says in time what a user did."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._store.session(NOBODY)
        except Exception:
            return False
        return True

    async def add(self, acts: Iterable[UserAct]) -> None:
        """Adds acts of users, who are then known to have done so, or else not until they do something else."""
        by_user: dict[str, list[Act]] = {}
        for user_id, act in acts:
            by_user.setdefault(user_id, []).append(act)
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.gather(*(self._store.add(user_id, theirs) for user_id, theirs in by_user.items()))
        except Exception as error:
            _LOG.warning("sessions of %d users lack feedback that the log has: %r", len(by_user), error)


def _order(act: Act) -> tuple[int, str]:
    return act.timestamp, f"{act.item_id}{_SEPARATOR}{act.action}"
