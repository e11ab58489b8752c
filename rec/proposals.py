"""Drawing items without looking at all of them, with a probability that is known exactly."""

import math
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class Proposal:
    """For each of B users a mixture: with `uniform_share` any of the N items, otherwise one of the user's neighbours.

    Source: Sakhi et al. (2023), arXiv:2208.05327.

    Attributes:
        neighbors: items in ascending order, (B, M).
        cumulated: probabilities of the neighbours among themselves, added up, float64, (B, M).
        uniform_share: 1 for users without neighbours, float64, (B,).
        n_items: N, the size of the catalogue.
    """

    neighbors: Tensor
    cumulated: Tensor
    uniform_share: Tensor
    n_items: int

    @classmethod
    def of(
        cls,
        neighbors: Tensor,
        scores: Tensor | None = None,
        *,
        n_items: int,
        uniform_share: float,
        temperature: float = 1,
    ) -> Self:
        """A proposal from what an index found, as `rec.retrieval.index.ItemIndex.search` returns it.

        Neighbours may be those of an older model: what is drawn changes, its probability is exact all the same.

        Args: neighbors: distinct items, -1 for none, (B, M). scores: a softmax of them weighs the neighbours, (B, M);
            all alike by default. n_items: size of the catalogue. uniform_share: in (0, 1], so that no item is out of
            reach. temperature: of the softmax.
        Raises: ValueError: for a share, a temperature or items out of range, a neighbour that repeats, or a score that
            is not finite.
        """
        if not 0 < uniform_share <= 1:
            raise ValueError(f"uniform_share must be in (0, 1], or some items are never drawn; found {uniform_share}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0; found {temperature}")
        if scores is not None and not scores[neighbors >= 0].isfinite().all():
            raise ValueError("scores of neighbors must be finite")
        ordered, order = neighbors.long().sort(dim=1)
        known = ordered >= 0
        if ordered.numel() and not (ordered >= -1).all() & (ordered < n_items).all():
            raise ValueError(f"neighbors must be items from 0 to {n_items - 1}, or -1; found {ordered.max()}")
        if (known[:, 1:] & (ordered[:, 1:] == ordered[:, :-1])).any():
            raise ValueError("neighbors must be distinct; an item repeats in a row")
        weights = torch.zeros_like(ordered, dtype=torch.float64)
        if scores is not None:
            weights = scores.double().gather(1, order) / temperature
        some = known.any(dim=1)
        # Rows without neighbours draw from the catalogue alone, whatever stands here.
        weights = weights.masked_fill(~known & some.unsqueeze(1), -math.inf).softmax(dim=1)
        share = torch.where(some, uniform_share, 1.0).double()
        return cls(ordered, weights.cumsum(dim=1), share, n_items)

    def draw(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Items, one per uniform number, with the natural log of the probability per draw.

        The draws of a row are stratified: the s-th of S falls into the s-th S-th of the distribution. Sums weighted by
        1 / (S q) have the same expectation as with independent draws, and vary less.

        Args: uniforms: in [0, 1), float64 where the catalogue is large, (B, S).
        Returns: items (B, S), log q (B, S), float64.
        """
        strata = torch.arange(uniforms.shape[1], device=uniforms.device)
        # Adding may round up to 1, which lies behind the last part.
        points = ((strata + uniforms.double()) / uniforms.shape[1]).clamp(max=1 - 2**-53)
        share = self.uniform_share.unsqueeze(1)
        anywhere = (points / share * self.n_items).long().clamp(max=self.n_items - 1)
        if not self.neighbors.shape[1]:
            return anywhere, self.log_probability(anywhere)
        # Points of the uniform part, below the share, are replaced below; they only have to stay within the row.
        rest = ((points - share) / (1 - share)).clamp(0, 1).nan_to_num() * self.cumulated[:, -1:]
        places = torch.searchsorted(self.cumulated, rest, right=True).clamp(max=self.neighbors.shape[1] - 1)
        items = torch.where(points < share, anywhere, self.neighbors.gather(1, places))
        return items, self.log_probability(items)

    def log_probability(self, items: Tensor) -> Tensor:
        """Natural log of the probability that a draw is the item: items (B, S), result (B, S), float64."""
        probability = (self.uniform_share / self.n_items).unsqueeze(1).expand(items.shape)
        if self.neighbors.shape[1]:
            places = torch.searchsorted(self.neighbors, items).clamp(max=self.neighbors.shape[1] - 1)
            among = self.cumulated.diff(dim=1, prepend=torch.zeros_like(self.cumulated[:, :1])).gather(1, places)
            found = self.neighbors.gather(1, places) == items
            probability = probability + torch.where(found, (1 - self.uniform_share).unsqueeze(1) * among, 0.0)
        return probability.log()
