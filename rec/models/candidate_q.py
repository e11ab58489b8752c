"""The value of showing each candidate next: one network for all of them, whatever their number and order."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from rec.config import AgentField, AgentInputs, CandidateQConfig
from rec.errors import ConfigError


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
    Q_j = V(s) + A(x_j) - mean_i A(x_i) (dueling), or A(x_j). What a candidate is includes `matches` with its session.

    Source: Wang et al. (2016), arXiv:1511.06581, equation 9; Zaheer et al. (2017), arXiv:1703.06114, for the mean.
    """

    def __init__(self, inputs: AgentInputs, config: CandidateQConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.inputs = inputs
        self.of_session = FieldEncoder(inputs.session, config.embedding_dim)
        self.of_candidate = FieldEncoder(inputs.candidate, config.embedding_dim)
        self.matches = [_pair(inputs, names) for names in config.matches]
        n_matches = sum(ours.width * theirs.width for ours, theirs in self.matches)
        self.candidate = nn.Linear(self.of_candidate.width + n_matches, hidden)
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
        columns = [self.of_candidate(seen, torch.Size((rows, n_candidates)))]
        for ours, theirs in self.matches:
            wanted = seen[ours.name].reshape(rows, 1, ours.width, 1)
            same = wanted == seen[theirs.name].reshape(rows, n_candidates, 1, theirs.width)
            columns.append(same.flatten(2).float())
        candidates = torch.relu(self.candidate(torch.cat(columns, dim=2)))
        of_session = self.of_session(seen, torch.Size((rows,)))
        session = torch.relu(self.session(torch.cat([of_session, candidates.mean(dim=1)], dim=1)))
        both = torch.relu(self.from_candidate(candidates) + self.from_session(session)[:, None])
        advantage = self.advantage(both).squeeze(2)
        if self.value is None:
            return advantage
        return self.value(session) + advantage - advantage.mean(dim=1, keepdim=True)


def _pair(inputs: AgentInputs, names: tuple[str, str]) -> tuple[AgentField, AgentField]:
    """The fields of a session and of its candidates that are compared.

    Raises: ConfigError: for a name that is none of categories.
    """
    found: list[AgentField] = []
    for name, fields in zip(names, (inputs.session, inputs.candidate), strict=True):
        known = {field.name: field for field in fields if field.categories}
        if name not in known:
            raise ConfigError(
                f"{name} is no field of categories; there are {', '.join(known) or 'none'}", field="network.matches"
            )
        found.append(known[name])
    return found[0], found[1]
