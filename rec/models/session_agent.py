"""Agents that choose the next item of a session, as files that hold no code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self, final

import numpy as np
import torch
from numpy.typing import NDArray

from rec.config import AgentField, AgentInputs, CandidateQConfig, parse_config
from rec.errors import BundleError, ScoreError
from rec.models.candidate_q import CandidateQ
from rec.models.drr_agent import DRRAgent
from rec.models.weights import put_weights, read_description, read_weights, save_described

AGENT_FILE: Final = "agent.safetensors"

Fields = Mapping[str, NDArray[Any]]


class SessionAgent(Protocol):
    """Values the candidates for the next item of sessions.

    Attributes: kind: what `load_agent` finds it by.
    """

    kind: ClassVar[str]

    def score(self, state: Fields, candidates: Fields) -> NDArray[np.float64]:
        """What showing each candidate next is worth, (M,), or of S sessions at once (S, M).

        Args: state: what is known of the session by name, (...) or (S, ...) each. candidates: of each candidate, (M,
            ...) or (S, M, ...) each.
        """
        ...

    def save(self, file: Path) -> None:
        """Writes weights, and what they are the weights of, to one safetensors file."""
        ...

    @classmethod
    def load(cls, file: Path, description: Mapping[str, Any]) -> Self:
        """Reads such a file, whose description has been read.

        Raises: BundleError: naming the file, when it is damaged or of another model.
        """
        ...


@final
class DQNAgent:
    """Values candidates with a Q-network.

    Attributes: inputs: what it sees. config: of its network.
    """

    kind: ClassVar[str] = "dqn"

    def __init__(self, inputs: AgentInputs, config: CandidateQConfig) -> None:
        self.inputs, self.config = inputs, config
        self.network = CandidateQ(inputs, config).eval()

    @torch.no_grad()
    def score(self, state: Fields, candidates: Fields) -> NDArray[np.float64]:
        """See SessionAgent.

        Raises: ScoreError: for a field that is missing, of another shape, or out of range, or a value that is not
            finite.
        """
        wanted = {field.name: state for field in self.inputs.session}
        wanted |= {field.name: candidates for field in self.inputs.candidate}
        missing = sorted(name for name, given in wanted.items() if name not in given)
        if missing:
            raise ScoreError(f"the agent was trained on {', '.join(wanted)}; {', '.join(missing)} is missing")
        seen = {name: np.asarray(given[name]) for name, given in wanted.items()}
        first = self.inputs.candidate[0]
        alone = seen[first.name].ndim <= 1 + (first.width > 1)
        leading = seen[first.name].shape[: 1 if alone else 2]
        for field in self.inputs.session:
            _refuse_other(field, seen[field.name], leading[:-1])
        for field in self.inputs.candidate:
            _refuse_other(field, seen[field.name], leading)
        values = self.network({name: torch.as_tensor(value[None] if alone else value) for name, value in seen.items()})
        scores = values.double().numpy()
        if not np.isfinite(scores).all():
            numbers = [field.name for field in (*self.inputs.session, *self.inputs.candidate) if field.numbers]
            named = ", ".join([*numbers, "or weights"]) if numbers else "weights"
            raise ScoreError(f"values are not finite: {named} are too large for the network")
        return scores[0] if alone else scores

    def save(self, file: Path) -> None:
        """See SessionAgent."""
        described = {
            "kind": self.kind,
            "inputs": self.inputs.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
        }
        save_described(self.network.state_dict(), described, file)

    @classmethod
    def load(cls, file: Path, description: Mapping[str, Any]) -> Self:
        """See SessionAgent."""
        agent = cls(
            parse_config(AgentInputs, description.get("inputs"), file=str(file)),
            parse_config(CandidateQConfig, description.get("config"), file=str(file)),
        )
        put_weights(agent.network, read_weights(file), file=str(file))
        return agent


def _refuse_other(field: AgentField, values: NDArray[Any], leading: tuple[int, ...]) -> None:
    """Refuses values that are not one of the field for each of the leading axes."""
    shape = (*leading, field.width)
    if values.shape != shape and not (field.width == 1 and values.shape == leading):
        raise ScoreError(f"{field.name} of shape {shape} is required; found {values.shape}")
    if not field.categories:
        # The network computes in float32, where 1e39 is infinite.
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32)).all()
        if not finite:
            raise ScoreError(f"{field.name} must hold numbers that are finite in float32")
        return
    if values.dtype.kind not in "iu":
        raise ScoreError(f"{field.name} must hold categories, which are whole numbers; found {values.dtype}")
    columns = values.reshape(-1, field.width)
    if ((columns < 0) | (columns >= np.array(field.categories))).any():
        sizes = ", ".join(map(str, field.categories))
        raise ScoreError(f"{field.name} must hold categories from 0 to below {sizes}; found others")


AGENTS: Final[dict[str, type[SessionAgent]]] = {DQNAgent.kind: DQNAgent, DRRAgent.kind: DRRAgent}


def load_agent(file: Path) -> SessionAgent:
    """An agent as it was saved.

    Raises: BundleError: naming the file, when it is a folder, damaged or of no kind there is.
    """
    if file.is_dir():
        raise BundleError(f"is a folder; name {AGENT_FILE} in it", file=str(file))
    description = read_description(file)
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in AGENTS:
        raise BundleError(f"holds an agent of kind {kind!r}; there are {', '.join(sorted(AGENTS))}", file=str(file))
    return AGENTS[kind].load(file, description)
