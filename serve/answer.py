"""What a request is answered with."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rec.state import Candidates
from serve.ids import new_id
from serve.schemas import CandidateShown, ItemShown, RecommendResponse, SessionReport, StageReport
from serve.slates import Asked, Drawn
from serve.stages import STAGES, Stages


async def answer_to(asked: Asked, drawn: Drawn) -> RecommendResponse:
    """The answer to a request, of the slate that was drawn for it, explained where that is asked for."""
    selection = drawn.selection
    return RecommendResponse(
        request_id=new_id(),
        policy_version=selection.version,
        degraded=drawn.degraded,
        user_known=drawn.user_known,
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
        **await _explanation(asked, drawn) if asked.request.explain else {},
    )


async def _explanation(asked: Asked, drawn: Drawn) -> dict[str, Any]:
    session = asked.session
    return {
        "stages": _reports(drawn),
        "sources": {item.item_id: list(item.sources) for item in drawn.selection.items},
        "candidates": await _considered(asked.arm.stages, drawn.candidates, drawn.scores),
        "session": SessionReport(recent=session.item_ids, counts=session.counts),
    }


async def _considered(stages: Stages, candidates: Candidates, scores: NDArray[np.float64]) -> list[CandidateShown]:
    (columns,) = np.nonzero(candidates.items[0] >= 0)
    columns = columns[np.argsort(-scores[columns], kind="stable")]
    names = await stages.names(candidates.items[0, columns])
    return [
        CandidateShown(
            item_id=item_id,
            title=title,
            retrieval_score=float(candidates.scores[0, column]),
            score=float(scores[column]),
            sources=list(candidates.sources_of(0, column)),
        )
        for column, (item_id, title) in zip(columns.tolist(), names, strict=True)
    ]


def _reports(drawn: Drawn) -> list[StageReport]:
    selection = drawn.selection
    n_retrieved = int((drawn.retrieved.items >= 0).sum())
    n_candidates = int((drawn.candidates.items >= 0).sum())
    sizes = (
        (1, 1),
        (selection.n_eligible, n_retrieved),
        (n_retrieved, n_candidates),
        (n_candidates, n_candidates),
        (n_candidates, len(selection.items)),
    )
    return [
        StageReport(name=name, ms=seconds * 1000, n_in=n_in, n_out=n_out)
        for name, (n_in, n_out), seconds in zip(STAGES, sizes, drawn.seconds, strict=True)
    ]
