"""One training run, from data to bundle."""

from typing import Annotated, Self

import tyro
from pydantic import PositiveInt, model_validator

from rec.config.base import Config, Seed
from rec.config.data import DataConfig, EncodersConfig, SplitConfig
from rec.config.incremental import IncrementalConfig
from rec.config.index import IndexConfig
from rec.config.off_policy import OffPolicyConfig
from rec.config.ranker import RankerConfig
from rec.config.retriever import RetrieverConfig
from rec.config.rules import RulesConfig
from rec.config.sources import SourcesConfig
from rec.config.training import TrainingConfig


class TrainConfig(Config):
    """One training run, from data to bundle.

    Users of whom nothing is known are answered by what was popular over the last `popularity_days`.
    """

    data: Annotated[DataConfig, tyro.conf.arg(name="")] = DataConfig()
    split: SplitConfig = SplitConfig()
    encoders: EncodersConfig = EncodersConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    off_policy: OffPolicyConfig = OffPolicyConfig()
    index: IndexConfig = IndexConfig()
    sources: SourcesConfig = SourcesConfig()
    ranker: RankerConfig = RankerConfig()
    rules: RulesConfig = RulesConfig()
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = TrainingConfig()
    incremental: IncrementalConfig = IncrementalConfig()
    popularity_days: PositiveInt = 30
    seed: Seed = 0

    @model_validator(mode="after")
    def _corrects_as_the_objective_does(self) -> Self:
        objective, settings = self.retriever.objective, self.off_policy
        settings.agree_with(objective)
        if objective == "two_stage_ips" and 0 < settings.sampled_items < settings.slate_size:
            raise ValueError(
                "off_policy.sampled_items must be at least off_policy.slate_size, for slates are drawn from them; "
                f"found {settings.sampled_items} and {settings.slate_size}"
            )
        return self

    @model_validator(mode="after")
    def _leaves_candidates_to_the_first_source(self) -> Self:
        taken, n_candidates = sum(self.sources.quotas.values()), self.ranker.n_candidates
        if taken >= n_candidates:
            raise ValueError(
                f"sources.quotas must leave some of ranker.n_candidates {n_candidates} to {self.sources.first}, the "
                f"first source; found {taken} in sum: lower a quota, or raise n_candidates"
            )
        return self
