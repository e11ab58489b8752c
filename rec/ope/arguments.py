"""What an evaluation may be given: estimators, their parameters, the rows and the interval they take."""

from collections.abc import Collection, Mapping, Sequence

from rec.errors import ConfigError, DataError
from rec.ope.estimators import BOUNDED, SHRINKING_ESTIMATORS
from rec.ope.interval_settings import IntervalSettings
from rec.ope.logged import LoggedActions, LoggedSlates, is_real


def refuse_unknown(names: Sequence[str], known: Collection[str]) -> None:
    """Refuses estimators that there are not, that stand there twice, and none at all.

    Raises: ConfigError.
    """
    if isinstance(names, str):
        raise ConfigError(f"a list of estimators is required, such as [{names!r}]; found a string", field="estimators")
    if not isinstance(names, Sequence):
        raise ConfigError(f"a list of estimators is required; found {type(names).__name__}", field="estimators")
    there_are = f"there are {', '.join(known)}"
    if not names:
        raise ConfigError(f"name an estimator at least; {there_are}", field="estimators")
    for place, name in enumerate(names):
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"no estimator {name!r} here; {there_are}", field="estimators")
        if name in names[:place]:
            raise ConfigError(f"{name} is asked for twice: leave one out", field="estimators")


def refuse_wrong_parameters(parameters: Mapping[str, float], estimators: Sequence[str]) -> None:
    """Refuses parameters that are no numbers of 0 or more, or of estimators that have none or are not asked for."""
    if not isinstance(parameters, Mapping):
        raise ConfigError(f"a dict by estimator is required; found {parameters!r}", field="parameters")
    for name, value in parameters.items():
        if name not in SHRINKING_ESTIMATORS:
            raise ConfigError(
                f"{name} has no parameter; those that have one are {', '.join(SHRINKING_ESTIMATORS)}",
                field="parameters",
            )
        if name not in estimators:
            raise ConfigError(
                f"{name} is not among the estimators asked for ({', '.join(estimators)}): add it, or leave its "
                "parameter out",
                field="parameters",
            )
        if not (is_real(value) and value >= 0):
            raise ConfigError(
                f"the parameter of {name} is a number, 0 or more (inf shrinks nothing); found {value!r}",
                field="parameters",
            )


def refuse_other_rows(kind: type[LoggedActions | LoggedSlates], *given: object) -> None:
    """Refuses rounds where slates are required, and slates where rounds are."""
    for logged in given:
        if not isinstance(logged, kind):
            raise DataError(
                f"{kind.__name__} are required; found {type(logged).__name__}: evaluate and evaluate_difference take "
                "LoggedActions, evaluate_slates and evaluate_slate_difference LoggedSlates"
            )


def refuse_unbounded(estimators: Sequence[str], parameters: Mapping[str, float]) -> None:
    """Refuses estimators without an empirical Bernstein interval."""
    for name in estimators:
        if name not in BOUNDED and name not in parameters:
            tuned = name in SHRINKING_ESTIMATORS
            raise ConfigError(
                f"there is no empirical Bernstein interval for {name}"
                + (f" with a parameter chosen from the log: give parameters[{name!r}]" if tuned else "")
                + f"; {', '.join(BOUNDED)} have one",
                field="method",
            )


def refuse_bernstein(settings: IntervalSettings) -> None:
    """Refuses the empirical Bernstein interval, where there is none."""
    if settings.method == "empirical_bernstein":
        raise ConfigError(
            "slates and differences have no empirical Bernstein interval; take student_t or bootstrap", field="method"
        )
