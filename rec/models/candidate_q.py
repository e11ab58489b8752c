"""The value of showing each candidate next: one network for all of them, whatever their number and order."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from rec.config import AgentField, AgentInputs, CandidateQConfig


@final
class FieldEncoder(nn.Module):
    """Numbers as they are beside an embedding of each column of categories.

    Attributes: width: of what it returns.
    """

    def __init__(self, fields: tuple[AgentField, ...], embedding_dim: int) -> None:
        super().__init__()
        self.fields = fields
        self.embeddings = nn.ModuleDict(
            {
                field.name: nn.ModuleList(nn.Embedding(n, embedding_dim) for n in field.categories)
                for field in fields
                if field.categories
            }
        )
        self.width = sum(field.numbers + embedding_dim * len(field.categories) for field in fields)

    def forward(self, seen: Mapping[str, Tensor], leading: torch.Size) -> Tensor:
        """Fields by name, each (*leading, its width), or (*leading) where that is 1, to (*leading, width)."""
        columns: list[Tensor] = []
        for field in self.fields:
            values = seen[field.name].reshape(*leading, field.width)
            if field.categories:
                tables = self.embeddings[field.name]
                assert isinstance(tables, nn.ModuleList)
                columns += [table(values[..., place].long()) for place, table in enumerate(tables)]
            else:
                columns.append(values.float())
        return torch.cat(columns, dim=-1)


@final
class CandidateQ(nn.Module):
    """Q(session, candidates)_j for every candidate j, equivariant to their order.

    With c_j a layer over what candidate j is, s one over the session and the mean of the c, and x_j one over c_j and s:
    Q_j = V(s) + A(x_j) - mean_i A(x_i) (dueling), or A(x_j).

    Source: Wang et al. (2016), arXiv:1511.06581, equation 9; Zaheer et al. (2017), arXiv:1703.06114, for the mean.
    """

    def __init__(self, inputs: AgentInputs, config: CandidateQConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.inputs = inputs
        self.of_session = FieldEncoder(inputs.session, config.embedding_dim)
        self.of_candidate = FieldEncoder(inputs.candidate, config.embedding_dim)
        self.candidate = nn.Linear(self.of_candidate.width, hidden)
        self.session = nn.Linear(self.of_session.width + hidden, hidden)
        self.from_candidate = nn.Linear(hidden, hidden)
        self.from_session = nn.Linear(hidden, hidden, bias=False)
        self.advantage = nn.Linear(hidden, 1)
        self.value = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)) if config.dueling else None
        )

    def forward(self, seen: Mapping[str, Tensor]) -> Tensor:
        """All fields by name: of sessions (B, ...), of candidates (B, M, ...); to values (B, M)."""
        of_candidates = seen[self.inputs.candidate[0].name]
        rows, n_candidates = of_candidates.shape[:2]
        candidates = torch.relu(self.candidate(self.of_candidate(seen, torch.Size((rows, n_candidates)))))
        of_session = self.of_session(seen, torch.Size((rows,)))
        session = torch.relu(self.session(torch.cat([of_session, candidates.mean(dim=1)], dim=1)))
        both = torch.relu(self.from_candidate(candidates) + self.from_session(session)[:, None])
        advantage = self.advantage(both).squeeze(2)
        if self.value is None:
            return advantage
        return self.value(session) + advantage - advantage.mean(dim=1, keepdim=True)
