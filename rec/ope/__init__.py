"""Off-policy estimates: what a policy would earn, from the log of another."""

from rec.ope.differences import evaluate_difference, evaluate_over_logged, evaluate_slate_difference
from rec.ope.estimate import Estimate, Interval, Terms
from rec.ope.estimators import ESTIMATORS, SHRINKING_ESTIMATORS
from rec.ope.evaluation import evaluate, evaluate_slates, logged_value
from rec.ope.interval_settings import IntervalSettings
from rec.ope.logged import LoggedActions, LoggedSlates
from rec.ope.slates import SLATE_ESTIMATORS
from rec.ope.support import OverlapWarning

__all__ = [
    "ESTIMATORS",
    "SHRINKING_ESTIMATORS",
    "SLATE_ESTIMATORS",
    "Estimate",
    "Interval",
    "IntervalSettings",
    "LoggedActions",
    "LoggedSlates",
    "OverlapWarning",
    "Terms",
    "evaluate",
    "evaluate_difference",
    "evaluate_over_logged",
    "evaluate_slate_difference",
    "evaluate_slates",
    "logged_value",
]
