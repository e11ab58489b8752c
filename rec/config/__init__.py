"""The configuration of everything in `rec`: typed, frozen, and strict about names.

Nothing here imports torch or Ray, so that the command line starts fast.
"""

from rec.config.agents import AgentField, AgentInputs, CandidateQConfig
from rec.config.base import Config, Fraction, Seed
from rec.config.batch import BatchConfig, TableFormat
from rec.config.cycle import CycleConfig
from rec.config.data import ColumnsConfig, DataConfig, DataName, EncodersConfig, SplitConfig
from rec.config.evaluation import BaselineName, BaselinesConfig, EvaluationConfig
from rec.config.gate import GateConfig
from rec.config.home import DEFAULT_HOME, HOME_VARIABLE, HomePath, default_home
from rec.config.i2i import CosineConfig, SwingConfig, WeightedScoreConfig
from rec.config.incremental import IncrementalConfig
from rec.config.index import IndexConfig
from rec.config.loading import ConfigT, config_error, load_config, parse_config
from rec.config.objectives import SAMPLED_OBJECTIVES, LikesObjective, LoggedObjective, Objective
from rec.config.off_policy import OffPolicyConfig
from rec.config.ope import LOGGED_POLICY, OpeColumns, OpeConfig
from rec.config.ranker import (
    LambdaMARTConfig,
    LogisticConfig,
    MMoEConfig,
    PLEConfig,
    PointwiseConfig,
    RankerConfig,
    RankerKind,
    TaskConfig,
)
from rec.config.retriever import (
    BranchConfig,
    FrequenciesConfig,
    HardNegativesConfig,
    QueriesConfig,
    RetrieverConfig,
    TowerConfig,
    UserTowerConfig,
)
from rec.config.rules import RulesConfig
from rec.config.sources import FirstSource, OtherSource, SourcesConfig
from rec.config.train import TrainConfig
from rec.config.training import TrainingConfig

__all__ = [
    "DEFAULT_HOME",
    "HOME_VARIABLE",
    "LOGGED_POLICY",
    "SAMPLED_OBJECTIVES",
    "AgentField",
    "AgentInputs",
    "BaselineName",
    "BaselinesConfig",
    "BatchConfig",
    "BranchConfig",
    "CandidateQConfig",
    "ColumnsConfig",
    "Config",
    "ConfigT",
    "CosineConfig",
    "CycleConfig",
    "DataConfig",
    "DataName",
    "EncodersConfig",
    "EvaluationConfig",
    "FirstSource",
    "Fraction",
    "FrequenciesConfig",
    "GateConfig",
    "HardNegativesConfig",
    "HomePath",
    "IncrementalConfig",
    "IndexConfig",
    "LambdaMARTConfig",
    "LikesObjective",
    "LoggedObjective",
    "LogisticConfig",
    "MMoEConfig",
    "Objective",
    "OffPolicyConfig",
    "OpeColumns",
    "OpeConfig",
    "OtherSource",
    "PLEConfig",
    "PointwiseConfig",
    "QueriesConfig",
    "RankerConfig",
    "RankerKind",
    "RetrieverConfig",
    "RulesConfig",
    "Seed",
    "SourcesConfig",
    "SplitConfig",
    "SwingConfig",
    "TableFormat",
    "TaskConfig",
    "TowerConfig",
    "TrainConfig",
    "TrainingConfig",
    "UserTowerConfig",
    "WeightedScoreConfig",
    "config_error",
    "default_home",
    "load_config",
    "parse_config",
]
