"""The four models of the experiment; all share one way to embed users and one to embed items."""

from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from two_stage.movielens import USER_FEATURES, MovieLens

ID_DIM: Final = 10
FEATURE_DIM: Final = 5
USER_DIM: Final = ID_DIM + FEATURE_DIM * len(USER_FEATURES)
ITEM_DIM: Final = ID_DIM + 2 * FEATURE_DIM
HIDDEN: Final = (100, 50)

# What the released state dicts call our modules. Their tables of ids have an unused first row.
RELEASED: Final = {
    "user_rep.user_embedding": "users.tables.user_id",
    "user_rep.gender_embedding": "users.tables.gender",
    "user_rep.age_embedding": "users.tables.age",
    "user_rep.occup_embedding": "users.tables.occupation",
    "user_rep.zip_embedding": "users.tables.zip",
    "item_rep.item_embedding": "items.item_id",
    "item_rep.year_embedding": "items.year",
    "item_rep.genre_linear": "items.genre",
    "linear": "linear",
}
RELEASED_ID_TABLES: Final = ("users.tables.user_id", "items.item_id")


class Users(nn.Module):
    """Embeddings of a user's id and features, side by side: (B,) to (B, 30)."""

    def __init__(self, data: MovieLens) -> None:
        super().__init__()
        self.register_buffer("codes", torch.from_numpy(data.user_codes), persistent=False)
        sizes = data.user_codes.max(axis=0) + 1
        features = {name: nn.Embedding(int(n), FEATURE_DIM) for name, n in zip(USER_FEATURES, sizes, strict=True)}
        self.tables = nn.ModuleDict({"user_id": nn.Embedding(data.n_users, ID_DIM), **features})

    def forward(self, user: Tensor) -> Tensor:
        """Embeddings of users by row."""
        codes = torch.cat([user[:, None], self.codes[user]], dim=1)
        return torch.cat([table(codes[:, place]) for place, table in enumerate(self.tables.values())], dim=1)


class Items(nn.Module):
    """Embeddings of an item's id, year and genres, side by side: (N, 20) for the catalogue, or (B, 20)."""

    def __init__(self, data: MovieLens) -> None:
        super().__init__()
        self.register_buffer("year_code", torch.from_numpy(data.year_code), persistent=False)
        self.register_buffer("genres", torch.from_numpy(data.genres), persistent=False)
        self.item_id = nn.Embedding(data.n_items, ID_DIM)
        self.year = nn.Embedding(int(data.year_code.max()) + 1, FEATURE_DIM)
        self.genre = nn.Linear(data.genres.shape[1], FEATURE_DIM)

    def forward(self, item: Tensor | None = None) -> Tensor:
        """Embeddings of items by row, or of all."""
        if item is None:
            return torch.cat([self.item_id.weight, self.year(self.year_code), self.genre(self.genres)], dim=1)
        return torch.cat([self.item_id(item), self.year(self.year_code[item]), self.genre(self.genres[item])], dim=1)


class Generator(nn.Module):
    """Candidate generator and logging policy: linear(relu(user)) . item."""

    def __init__(self, data: MovieLens) -> None:
        super().__init__()
        self.users, self.items = Users(data), Items(data)
        self.linear = nn.Linear(USER_DIM, ITEM_DIM)

    def queries(self, user: Tensor) -> Tensor:
        """(B,) to (B, 20)."""
        return self.linear(functional.relu(self.users(user)))

    def forward(self, user: Tensor) -> Tensor:
        """Logits over the catalogue, (B, N)."""
        return self.queries(user) @ self.items().T

    def pairs(self, user: Tensor, item: Tensor) -> Tensor:
        """Logits of pairs, (B,)."""
        return (self.queries(user) * self.items(item)).sum(dim=1)


class Ranker(nn.Module):
    """linear(user, time) . item."""

    def __init__(self, data: MovieLens) -> None:
        super().__init__()
        self.users, self.items = Users(data), Items(data)
        self.linear = nn.Linear(USER_DIM + 1, ITEM_DIM)

    def queries(self, user: Tensor, time: Tensor) -> Tensor:
        """(B,), (B,) to (B, 20)."""
        return self.linear(torch.cat([self.users(user), time[:, None]], dim=1))

    def forward(self, user: Tensor, time: Tensor) -> Tensor:
        """Logits over the catalogue, (B, N)."""
        return self.queries(user, time) @ self.items().T

    def pairs(self, user: Tensor, item: Tensor, time: Tensor) -> Tensor:
        """Logits of pairs, (B,)."""
        return (self.queries(user, time) * self.items(item)).sum(dim=1)


class Simulator(nn.Module):
    """Who likes what, when: a perceptron 51-100-50-1 on user, item and time."""

    def __init__(self, data: MovieLens) -> None:
        super().__init__()
        self.users, self.items = Users(data), Items(data)
        sizes = (USER_DIM + ITEM_DIM + 1, *HIDDEN, 1)
        layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.linear = nn.Sequential(*layers[:-1])

    def pairs(self, user: Tensor, item: Tensor, time: Tensor) -> Tensor:
        """Logits of pairs, (B,)."""
        return self.linear(torch.cat([self.users(user), self.items(item), time[:, None]], dim=1)).squeeze(1)

    def forward(self, user: Tensor, time: Tensor) -> Tensor:
        """Logits of users and the whole catalogue, (B, N).

        The first layer is linear in user, item and time, so that each pair only adds what these contribute.

        Args: user: (B,). time: (B, N), or (B, 1) for one time a user.
        """
        first, rest = self.linear[0], self.linear[1:]
        by_user, by_item, by_time = first.weight.split([USER_DIM, ITEM_DIM, 1], dim=1)
        hidden = functional.linear(self.users(user), by_user, first.bias)[:, None]
        hidden = hidden + functional.linear(self.items(), by_item)[None]
        return rest(hidden + time[..., None] * by_time[:, 0]).squeeze(2)


def load_released(model: nn.Module, path: Path) -> None:
    """Fills a model from a state dict the authors released."""
    weights = {}
    for name, value in torch.load(path, weights_only=True).items():
        theirs = next(prefix for prefix in RELEASED if name.startswith(prefix + "."))
        ours = RELEASED[theirs]
        weights[ours + name.removeprefix(theirs)] = value[1:] if ours in RELEASED_ID_TABLES else value
    model.load_state_dict(weights)
    model.eval()
