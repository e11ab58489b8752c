"""`tandem simulate`: people against a service that runs, over HTTP. The command line imports it late."""

import asyncio
import json
import os
import secrets
import sys
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final, final

import numpy as np
import plotly.graph_objects as go
from pydantic import PositiveFloat, PositiveInt

from rec.cli.command import Answer
from rec.config import Config, Seed
from rec.errors import ConfigError, TandemError
from rec.storage import replace_file
from rl.config import InstaTokConfig
from rl.instatok.people import People, Unserved, Visit, mean_reward, reward_curve
from rl.instatok.world import InstaTok
from serve.arrivals import Arrivals
from serve.load import Client, Reply, post_request

# What services are asked with where they want a key.
API_KEY: Final = "TANDEM_API_KEY"
RECOMMEND: Final = "/v1/recommend"
FEEDBACK: Final = "/v1/feedback"
READY_TIMEOUT_S: Final = 10.0
# Nobody is let in without another key, so the first such answer ends it all.
REFUSED: Final = (401, 403)
PERCENTILES: Final = (50, 90, 99)


class SimulateOptions(Config):
    """People of a world of short videos who use the service at `url`, as many at once as there are `clients`.

    Everybody comes in turn, asks for slates of `n` videos and says what they did with each, until they have had enough.
    With a `rate` they do not wait for each other: so many visits begin a second, at random times by the seed, while
    there are clients for them, and how long a visit's first request takes is counted from when it was due. The world
    has to be that of the data the model was trained on. A request that fails is sent once more, under the same
    idempotency key. `points` of the reward curve are printed, and drawn as HTML where `plot` names a file.
    """

    url: str = "http://127.0.0.1:8000"
    visits: PositiveInt = 1_000
    clients: PositiveInt = 32
    rate: PositiveFloat | None = None
    n: PositiveInt = 5
    points: PositiveInt = 10
    plot: Path | None = None
    world: InstaTokConfig = InstaTokConfig()
    seed: Seed = 0


@final
class HttpService:
    """A service over one connection, and what became of the requests to it."""

    def __init__(self, url: str, replies: Mapping[str, list[Reply | None]]) -> None:
        """Args: replies: by path, to which every reply is added, None where there was none."""
        self._url = url
        self._client = Client(url, retry_errors=True)
        self._replies = replies
        key = os.environ.get(API_KEY)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.versions: Counter[str] = Counter()
        # Of the next request, where that was due before it could be sent; in seconds of `perf_counter`.
        self.due: float | None = None

    async def recommend(self, user_id: str, n: int) -> tuple[str, Sequence[str]]:
        """See `rl.instatok.people.Service`."""
        answer = await self._post(RECOMMEND, {"user_id": user_id, "n": n}, {"Idempotency-Key": secrets.token_hex(16)})
        self.versions[answer["policy_version"]] += 1
        return answer["request_id"], [item["item_id"] for item in answer["items"]]

    async def feedback(self, request_id: str, acts: Sequence[tuple[str, str]]) -> None:
        """See `rl.instatok.people.Service`."""
        events = [
            {"request_id": request_id, "item_id": item_id, "action": action, "event_id": f"simulated-{place}"}
            for place, (item_id, action) in enumerate(acts)
        ]
        await self._post(FEEDBACK, events, {})

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    async def _post(self, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        request = post_request(self._url, path, json.dumps(body).encode(), {**self._headers, **headers})
        due, self.due = self.due, None
        try:
            reply = await self._client.send(request)
        except OSError as error:
            self._replies[path].append(None)
            raise Unserved(path) from error
        self._replies[path].append(reply if due is None else replace(reply, started=due))
        if reply.status in REFUSED:
            said = reply.body[:300].decode(errors="replace")
            raise ConfigError(
                f"{self._url}{path} answered {reply.status}: {said}; set {API_KEY} in the environment to a key of this "
                "service that opens recommendations and feedback, as `tandem keys create --name NAME` makes one"
            )
        if reply.status >= 300:
            raise Unserved(path)
        return json.loads(reply.body)


def run_simulate(options: SimulateOptions) -> Answer:
    """Prints the reward curve and what became of the requests, and returns both.

    Where the service ended every visit, there is an `error` and `ok` is false.

    Raises: ConfigError: when nothing answers at the URL, or it wants another key.
        DataError: when the service shows what is not in the world.
    """
    _require_ready(options.url)
    people = People(InstaTok(options.world), options.seed)
    replies: dict[str, list[Reply | None]] = {RECOMMEND: [], FEEDBACK: []}
    services = [HttpService(options.url, replies) for _ in range(min(options.clients, options.visits))]

    rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(2,)))
    arrivals = None if options.rate is None else Arrivals(options.rate, options.visits, rng)

    async def arrive(service: HttpService, number: int) -> None:
        service.due = None if arrivals is None else await arrivals.wait(number)

    async def visit_all() -> list[Visit]:
        try:
            return await people.visit_all(services, options.visits, options.n, arrive)
        finally:
            for service in services:
                service.close()

    started = perf_counter()
    visits = asyncio.run(visit_all())
    seconds = perf_counter() - started
    curve = reward_curve(visits, options.points)
    cut_off = sum(visit.cut_off for visit in visits)
    answer = {
        "url": options.url,
        "visits": len(visits),
        "cut_off": cut_off,
        "reward": mean_reward(visits),
        "curve": curve,
        "policy_versions": dict(sum((service.versions for service in services), Counter[str]())),
        "requests": {path: _told(theirs) for path, theirs in replies.items()},
        "requests_per_s": sum(map(len, replies.values())) / seconds,
        "seconds": seconds,
        "rate": None if arrivals is None else _rate(arrivals, cut_off),
    }
    _print(answer)
    if options.plot is not None:
        replace_file(options.plot.resolve(), curve_figure(curve).to_html(include_plotlyjs=True).encode())
        print(f"wrote {options.plot}")
    if cut_off == len(visits):
        failure = TandemError(
            f"the service ended each of the {cut_off:,} visits: see which requests failed, and its log"
        )
        print(f"tandem simulate: {failure}", file=sys.stderr)
        return {**answer, "ok": False, "error": failure.to_json()}
    return answer


def curve_figure(curve: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Mean reward by visit, with twice its standard error."""
    shown = [point for point in curve if point["n"]]
    figure = go.Figure(
        go.Scatter(
            x=[point["last"] + 1 for point in shown],
            y=[point["value"] for point in shown],
            error_y={"type": "data", "array": [2 * (point["std_error"] or 0) for point in shown]},
            mode="lines+markers",
        )
    )
    return figure.update_layout(
        title="What people got out of a visit",
        xaxis={"title": "visits so far"},
        yaxis={"title": "mean reward of a visit, two standard errors"},
    )


def _rate(arrivals: Arrivals, cut_off: int) -> dict[str, Any]:
    """What became of the rate: who was turned away took no time of the service, so they keep no rate either."""
    told = arrivals.to_json()
    return {**told, "kept": told["kept"] and not cut_off}


def _told(replies: Sequence[Reply | None]) -> dict[str, Any]:
    """How many requests there were, which failed for good or at first, and how long the others took."""
    answered = [reply for reply in replies if reply is not None]
    failed = Counter(str(reply.status) for reply in answered if reply.status >= 300)
    failed += Counter({"no answer": len(replies) - len(answered)})
    took = [(reply.ended - reply.started) * 1000 for reply in answered if reply.status < 300]
    quantiles = np.percentile(took, PERCENTILES).tolist() if took else [None] * len(PERCENTILES)
    return {
        "n": len(replies),
        "failed": dict(failed),
        "sent_twice": sum(reply is None or reply.attempts > 1 for reply in replies),
        **{f"p{percentile}_ms": value for percentile, value in zip(PERCENTILES, quantiles, strict=True)},
    }


def _print(answer: Mapping[str, Any]) -> None:
    print(f"{'visits':>15}  {'reward':>8}  {'std error':>9}  {'items':>6}")
    whole = {"first": 0, "last": answer["visits"] - 1, **answer["reward"]}
    for point in [*answer["curve"], whole]:
        visits = f"{point['first'] + 1} to {point['last'] + 1}"
        told = [
            "" if value is None else f"{value:.3f}" for value in (point["value"], point["std_error"], point["items"])
        ]
        print(f"{visits:>15}  {told[0]:>8}  {told[1]:>9}  {told[2]:>6}")
    if answer["cut_off"]:
        print(f"the service ended {answer['cut_off']:,} of {answer['visits']:,} visits; rewards are of the others")
    for path, theirs in answer["requests"].items():
        failed = ", ".join(f"{count} {why}" for why, count in theirs["failed"].items()) or "none"
        took = "" if theirs["p50_ms"] is None else f", median {theirs['p50_ms']:.1f} ms, 99% {theirs['p99_ms']:.1f} ms"
        print(f"{path}: {theirs['n']:,} requests, failed: {failed}, sent twice: {theirs['sent_twice']}{took}")
    print(f"{answer['requests_per_s']:,.0f} requests a second for {answer['seconds']:.1f} s")
    rate = answer["rate"]
    if rate is not None and rate["kept"]:
        print(f"{rate['asked_per_s']:g} visits a second, as asked")
    elif rate is not None and not rate["late"]:
        print(
            f"the rate of {rate['asked_per_s']:g} visits a second was not kept: all began in time, but the service "
            f"ended {answer['cut_off']:,} of {answer['visits']:,}"
        )
    elif rate is not None:
        print(
            f"the rate of {rate['asked_per_s']:g} visits a second was not kept: {rate['late']:,} of "
            f"{answer['visits']:,} began late, up to {rate['latest_s']:.2f} s; that counts in how long requests took. "
            "Take more --clients; where that changes nothing, it is more than the service or this process can do"
        )


def _require_ready(url: str) -> None:
    try:
        Client(url).close()
    except ValueError as error:
        raise ConfigError(f"{error}; name the service itself, without the proxy in front", field="url") from error
    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=READY_TIMEOUT_S):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"nothing is ready to answer at {url}: {error}; start `tandem serve`, or name its URL, port included",
            field="url",
        ) from error
