"""What session agents see, and how large their networks are."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from rec.config.base import Config


class AgentField(Config):
    """One thing that an agent sees: so many numbers, or columns of categories with so many each."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    numbers: NonNegativeInt = 0
    categories: tuple[PositiveInt, ...] = ()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if bool(self.numbers) == bool(self.categories):
            raise ValueError(f"{self.name} must be numbers or categories, and one of them")
        return self

    @property
    def width(self) -> int:
        """How many columns it has."""
        return self.numbers or len(self.categories)


class AgentInputs(Config):
    """What an agent sees of a session, and of each candidate."""

    session: tuple[AgentField, ...]
    candidate: tuple[AgentField, ...]


class CandidateQConfig(Config):
    """The network that values candidates.

    Attributes:
        embedding_dim: of each column of categories.
        hidden: width of its layers.
        dueling: whether the value of the session and the advantage of each candidate are computed apart.
        matches: pairs of a session's and a candidate's field of the same categories: of each candidate the network also
            sees in which columns of the session it occurs, which from embeddings it would have to learn.
    """

    embedding_dim: PositiveInt = 8
    hidden: PositiveInt = 32
    dueling: bool = True
    matches: tuple[tuple[str, str], ...] = ()
