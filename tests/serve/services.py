"""A gateway with a log, for tests of what is answered, acknowledged and logged over HTTP."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from rec.data.events import EventTables, open_events
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from serve.arms import Arms
from serve.claims import Claims
from serve.committer import Committer
from serve.config import LogConfig, PolicyConfig, ServeConfig
from serve.event_log import EventLog
from serve.gateway import Gateway
from serve.request_log import RequestLog
from serve.stages import Stages

REWARDS = {"watched": 1.0, "skipped": -2.0, "liked": 2.0}
Request = Callable[..., httpx.Response]


class Service:
    """A gateway with a log of its own, and the tables of that."""

    def __init__(self, recommender: Recommender, home: str, folder: Path, **options: Any) -> None:
        log = LogConfig(**options)
        self.config = ServeConfig(home=home, policy=PolicyConfig(epsilon=0.2, temperature=0.3), seed=0, log=log)
        self.recommender, self.home, self.folder = recommender, home, folder
        self.events: EventTables = open_events(str(folder))
        self.gateway = self.another()

    def another(self) -> Gateway:
        """Another process as it were, on the same spool."""
        max_bytes = self.config.log.max_spool_bytes
        log = EventLog(self.folder / "spool", self.events, sync_s=self.config.log.sync_s, max_bytes=max_bytes)
        claims = Claims(self.folder / "spool", self.config.log.idempotency_s)
        kept = RequestLog(log, claims, self.config, REWARDS)
        version = self.recommender.version
        arms = Arms.of_config(self.config, version, {version: Stages.here(self.recommender, self.config)})
        return Gateway(arms, Registry(Home(self.home)), kept)

    def committed(self, table: Any) -> list[dict[str, Any]]:
        committer = Committer(self.folder / "spool", self.events)
        committer.commit()
        committer.close()
        return self.events.read(table).to_pylist()


def problem(response: httpx.Response) -> tuple[int, str | None]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["field"]


def shown(request_to: Request, user_id: str = "a", **body: Any) -> dict[str, Any]:
    return request_to("POST", "/v1/recommend", json={"user_id": user_id, "n": 3, **body}).json()
