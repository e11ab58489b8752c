"""Rankers that are mixtures of experts: one network that predicts several things, and a formula that scores them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from rec.config import MMoEConfig, PLEConfig, TaskConfig
from rec.errors import BundleError
from rec.models.mmoe import MMoE
from rec.models.multi_task import TaskOutputs, combine, formula_exponents
from rec.models.ple import PLE
from rec.models.row_inputs import RowInputs
from rec.models.row_task import predict_rows
from rec.models.weights import put_weights, read_description, read_weights, save_described
from rec.ranking.data import FeatureLayout, RankingData

ExpertKind = Literal["mmoe", "ple"]


class _Kind(NamedTuple):
    config: type[MMoEConfig] | type[PLEConfig]
    network: Callable[..., nn.Module]


KINDS: Final[dict[ExpertKind, _Kind]] = {"mmoe": _Kind(MMoEConfig, MMoE), "ple": _Kind(PLEConfig, PLE)}


@dataclass(frozen=True)
class ExpertDesign:
    """What a mixture of experts is built from; a `rec.models.row_task.RowDesign`.

    Attributes:
        kind: of the mixture.
        layout: the features of a row.
        cardinalities: number of codes of each feature, 0 for a number.
        tasks: what is predicted.
        config: sizes and formula.
        n_positions: positions whose effect is learned, 0 for none.
    """

    kind: ExpertKind
    layout: FeatureLayout
    cardinalities: tuple[int, ...]
    tasks: tuple[TaskConfig, ...]
    config: MMoEConfig | PLEConfig
    n_positions: int = 0

    def rows(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """The feature rows as they are."""
        return matrix

    def network(self) -> "ExpertNetwork":
        """The network with random weights."""
        return ExpertNetwork(self)

    def prepare(self, network: nn.Module, train: RankingData) -> None:
        """Standardises by the training rows."""
        assert isinstance(network, ExpertNetwork)
        network.inputs.standardise_by(train)

    def to_json(self) -> dict[str, Any]:
        """The design as `from_json` reads it."""
        return {
            "kind": self.kind,
            "names": self.layout.names,
            "categorical": self.layout.categorical,
            "cardinalities": self.cardinalities,
            "tasks": [task.model_dump(mode="json") for task in self.tasks],
            "config": self.config.model_dump(mode="json"),
            "n_positions": self.n_positions,
        }

    @classmethod
    def from_json(cls, parts: Mapping[str, Any]) -> Self:
        """The design that `to_json` wrote; KeyError, TypeError or ValueError of anything else."""
        return cls(
            parts["kind"],
            FeatureLayout(tuple(parts["names"]), tuple(parts["categorical"])),
            tuple(int(n_codes) for n_codes in parts["cardinalities"]),
            tuple(TaskConfig.model_validate(task) for task in parts["tasks"]),
            KINDS[parts["kind"]].config.model_validate(parts["config"]),
            int(parts["n_positions"]),
        )


class ExpertNetwork(nn.Module):
    """Feature rows to one output a task: inputs, the mixture, and what the position adds."""

    def __init__(self, design: ExpertDesign) -> None:
        super().__init__()
        self.inputs = RowInputs(design.cardinalities)
        self.mixture = KINDS[design.kind].network(self.inputs.size, len(design.tasks), design.config)
        self.outputs = TaskOutputs(design.tasks, design.n_positions)

    def forward(self, matrix: Tensor, positions: Tensor | None = None) -> Tensor:
        """Feature rows (B, F) shown at positions (B,), at the top without, to outputs (B, T)."""
        return self.outputs.shifted(self.mixture(self.inputs(matrix)), positions)


@dataclass(frozen=True, slots=True)
class ExpertRanker:
    """A fitted mixture of experts with its formula; a `rec.ranking.rankers.RankingModel`."""

    design: ExpertDesign
    network: ExpertNetwork
    filename: ClassVar[str] = "ranker.safetensors"

    @classmethod
    def of(cls, design: ExpertDesign, weights: Mapping[str, Tensor]) -> Self:
        """The ranker of a design and fitted weights."""
        network = design.network()
        put_weights(network, weights)
        return cls(design, network.eval())

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores (R,) of feature rows (R, F): the logarithm of the formula, on the scale of a retriever's logit."""
        predictions = predict_rows(self.network, matrix)
        return np.log(combine(predictions, formula_exponents(self.design.config.formula, self.design.tasks)))

    def probabilities(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of the first task's success at the top of the list, (R, F) to (R,)."""
        return predict_rows(self.network, matrix)[:, 0].astype(np.float64)

    def save(self, folder: Path) -> None:
        """Writes the weights, with what the network is built from beside them in the same file."""
        save_described(self.network.state_dict(), self.design.to_json(), folder / self.filename)

    @classmethod
    def load(cls, folder: Path, layout: FeatureLayout) -> Self:
        """Reads what `save` wrote.

        Raises: BundleError: when the file is damaged, or the model was trained on other features than `layout` names.
        """
        file = folder / cls.filename
        try:
            design = ExpertDesign.from_json(read_description(file))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"not a mixture of experts: {error!r}; train again", file=str(file)) from error
        if design.layout != layout:
            raise BundleError("was trained on other features than this bundle's encoders make", file=str(file))
        network = design.network()
        put_weights(network, read_weights(file), file=str(file))
        return cls(design, network.eval())
