"""Judging lists: the metrics of the paper, one-stage and two-stage, on validation or test users."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rec.metrics import METRICS, parse_metric

METRIC_NAMES: Final = ("precision@5", "precision@10", "recall@5", "recall@10", "ndcg@5", "ndcg@10")
N_CANDIDATES: Final = 30
LIST_LENGTH: Final = 10


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges lists of some users; the items they clicked in the log are left out of every list.

    Attributes:
        users: those judged, with a relevant item each, (B,).
        relevant: (B, N).
        clicked: clicked in the log, (B, N).
        ranker_logits: (B, N).
        metrics: what lists are judged by.
    """

    users: Tensor
    relevant: Tensor
    clicked: Tensor
    ranker_logits: Tensor
    metrics: tuple[str, ...] = METRIC_NAMES

    def one_stage(self, scores: Tensor) -> dict[str, float]:
        """The items of the highest scores, (B, N)."""
        return self.judge(self._unclicked(scores).topk(LIST_LENGTH, dim=1).indices)

    def two_stage(self, scores: Tensor) -> dict[str, float]:
        """The N_CANDIDATES items of the highest scores, in the ranker's order."""
        return self.reranked(self._unclicked(scores).topk(N_CANDIDATES, dim=1).indices)

    def reranked(self, candidates: Tensor) -> dict[str, float]:
        """Candidates (B, M) in the ranker's order."""
        order = self.ranker_logits.gather(1, candidates).topk(LIST_LENGTH, dim=1).indices
        return self.judge(candidates.gather(1, order))

    def judge(self, lists: Tensor) -> dict[str, float]:
        """Mean of each metric over the users; lists (B, LIST_LENGTH)."""
        hit = self.relevant.gather(1, lists).numpy()
        n_relevant = self.relevant.sum(dim=1).numpy()
        names = {name: parse_metric(name) for name in self.metrics}
        return {name: float(METRICS[kind](hit, n_relevant, k).mean()) for name, (kind, k) in names.items()}

    def unclicked_of(self, lists: Tensor, length: int) -> Tensor:
        """The first items of long lists (B, M) that were not clicked, (B, length)."""
        clicked = self.clicked.gather(1, lists)
        order = clicked.to(torch.int8).argsort(dim=1, stable=True)[:, :length]
        return lists.gather(1, order)

    def _unclicked(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(self.clicked, -torch.inf)


def judge_of(
    users: NDArray[np.int64], relevant: NDArray[np.bool_], clicked: NDArray[np.bool_], ranker_logits: Tensor
) -> Judge:
    """A judge of those users that have a relevant item; all arguments but `users` cover all users."""
    users = users[relevant[users].any(axis=1)]
    rows = torch.from_numpy(users)
    return Judge(rows, torch.from_numpy(relevant[users]), torch.from_numpy(clicked[users]), ranker_logits[rows])
