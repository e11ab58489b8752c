"""What `serve.py` is measured beside, on uvicorn: the same stages on the bundle that TANDEM_HOME names."""

import uuid

import numpy as np
from fastapi import FastAPI

import rec
from rec.registry import Registry
from rec.storage import Home
from serve.api import Api
from serve.arms import Arms
from serve.config import LogConfig, PolicyConfig, ServeConfig
from serve.gateway import Gateway
from serve.hydrate import HydrateStage
from serve.ranker import RankerStage
from serve.retriever import RetrieverStage, without_excluded
from serve.schemas import ItemShown, RecommendRequest, RecommendResponse
from serve.select import SelectStage
from serve.sessions import Session
from serve.stages import Stages


def plain_fastapi() -> FastAPI:
    """The stages called one after the other in an ordinary route."""
    recommender = rec.load(ServeConfig().home)
    hydrate, retrieve, rank = HydrateStage(recommender), RetrieverStage(recommender), RankerStage(recommender)
    select = SelectStage(recommender, np.random.SeedSequence())
    app = FastAPI()

    @app.post("/v1/recommend")
    async def recommend(request: RecommendRequest) -> RecommendResponse:
        states = hydrate([request.user_id], [request.exclude], [Session()], [request.user_features])
        candidates = without_excluded(retrieve(states, request.n), states)
        (selection,) = select(states, candidates, rank(states, candidates), request.n, PolicyConfig())
        return RecommendResponse(
            request_id=uuid.uuid4().hex,
            policy_version=selection.version,
            degraded=False,
            user_known=bool(states.user[0] >= 0),
            short=selection.short,
            items=[
                ItemShown(
                    item_id=item.item_id,
                    position=item.position,
                    score=item.score,
                    propensity=item.propensity,
                    source=item.source,
                    title=item.title,
                )
                for item in selection.items
            ],
        )

    @app.get("/health/ready")
    async def ready() -> str:
        return "ready"

    return app


def our_asgi() -> Api:
    """The application that runs inside our replicas."""
    config = ServeConfig(log=LogConfig(enabled=False))
    recommender = rec.load(config.home)
    arms = Arms.of_config(config, recommender.version, {recommender.version: Stages.here(recommender, config)})
    gateway = Gateway(arms, Registry(Home(config.home)))
    return Api(gateway, config)
