"""Logs of others as rows for the estimators: a table with named columns, or Open Bandit Pipeline's dict."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from rec.config import OpeColumns
from rec.data.columns import RawTable
from rec.errors import DataError
from rec.ope.estimate import Floats
from rec.ope.logged import LoggedActions, is_real, real_numbers
from rec.ope.support import support_share
from rec.ope.table_file import from_table


def from_frame(frame: pd.DataFrame, columns: OpeColumns | None = None) -> LoggedActions:
    """Rounds of a DataFrame, one row each, counted from 0; as `rec.ope.table_file.from_file` reads those of a file."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"a DataFrame is required; found {type(frame).__name__}")
    arrays = [_arrow(frame.iloc[:, place]) for place in range(frame.shape[1])]
    table = pa.Table.from_arrays(arrays, names=[str(name) for name in frame.columns])
    return from_table(RawTable("the DataFrame", table, int), columns or OpeColumns())


def from_obp(
    bandit_feedback: Mapping[str, Any],
    action_dist: ArrayLike,
    *,
    q_hat: ArrayLike | None = None,
    clusters: NDArray[Any] | None = None,
) -> LoggedActions:
    """Rounds of an Open Bandit Pipeline feedback dict, and a policy's action distribution.

    Args:
        bandit_feedback: with `n_rounds`, `action`, `reward` and `pscore` (n,), `position` (n,) or None, and perhaps
            `pi_b` (n, n_actions, len_list), the logging policy's distribution, from which support is told exactly.
        action_dist: of the policy under evaluation, (n, n_actions, len_list); each position's probabilities sum to 1.
        q_hat: predicted rewards, (n, n_actions) or (n, n_actions, len_list), or None.
        clusters: users, (n,); None: every round is its own.

    Raises: DataError: naming key and row, also where `pscore` is not what `pi_b` says of the action. SupportError: for
        a pscore that is no probability or missing, or too large a share of the target's choices that `pi_b` never
        makes.
    """
    if not isinstance(bandit_feedback, Mapping):
        raise DataError(f"a dict is required; found {type(bandit_feedback).__name__}", column="bandit_feedback")
    n = _n_rounds(bandit_feedback)
    action = _whole(_per_round(bandit_feedback, "action", n), "action")
    reward = _per_round(bandit_feedback, "reward", n)
    if bandit_feedback.get("pscore") is None:
        raise DataError(
            "the log has no propensities; rec.propensity estimates those of a policy that is not known", column="pscore"
        )
    propensity = _per_round(bandit_feedback, "pscore", n)
    given = bandit_feedback.get("position")
    position = (
        np.zeros(n, np.int64) if given is None else _whole(_per_round(bandit_feedback, "position", n), "position")
    )

    target = _distribution(action_dist, n, "action_dist")
    _refuse_outside(action, target.shape[1], "action")
    _refuse_outside(position, target.shape[2], "position")
    rows = np.arange(n)
    at_position = target[rows, :, position]
    _refuse_improper(at_position, "action_dist")
    support = None
    if bandit_feedback.get("pi_b") is not None:
        logging = _distribution(bandit_feedback["pi_b"], n, "pi_b")
        if logging.shape != target.shape:
            raise DataError(f"expected the shape of action_dist, {target.shape}; found {logging.shape}", column="pi_b")
        logging = logging[rows, :, position]
        _refuse_improper(logging, "pi_b")
        _refuse_contradiction(propensity, logging[rows, action])
        support = support_share(at_position, logging)
    q_logged = q_target = None
    if q_hat is not None:
        predicted = _distribution(q_hat, n, "q_hat")
        if predicted.shape[2] not in (1, target.shape[2]):
            raise DataError(
                f"expected predictions for each of {target.shape[2]} positions, or for none; found "
                f"{predicted.shape[2]}",
                column="q_hat",
            )
        predicted = predicted[rows, :, position if predicted.shape[2] > 1 else 0]
        if predicted.shape != at_position.shape:
            raise DataError(
                f"expected a prediction for each of {target.shape[1]} actions; found {predicted.shape[1]}",
                column="q_hat",
            )
        q_logged, q_target = predicted[rows, action], (at_position * predicted).sum(axis=1)
    return LoggedActions(
        rewards=reward,
        propensities=propensity,
        target_p=at_position[rows, action],
        clusters=clusters,
        q_logged=q_logged,
        q_target=q_target,
        support=support,
    )


def _arrow(values: pd.Series) -> pa.Array:
    """A column; one that Arrow has no type for as text, whose values are refused by row where they are no numbers."""
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        texts = [None if gone else str(value) for value, gone in zip(values, values.isna(), strict=True)]
    for row, text in enumerate(texts):
        if text is not None and text != text.encode(errors="ignore").decode():
            raise DataError(
                f"text that UTF-8 can hold is required; found {text!r}",
                file="the DataFrame",
                row=row,
                column=str(values.name),
            )
    return pa.array(texts, pa.string())


def _key(feedback: Mapping[str, Any], name: str) -> Any:
    if feedback.get(name) is None:
        raise DataError(f"bandit_feedback needs the key {name!r}; it has {', '.join(map(str, feedback))}", column=name)
    return feedback[name]


def _n_rounds(feedback: Mapping[str, Any]) -> int:
    given = _key(feedback, "n_rounds")
    if not is_real(given):
        raise DataError(f"one whole number is required; found {given!r}", column="n_rounds")
    return int(_whole(np.array([given], np.float64), "n_rounds")[0])


def _per_round(feedback: Mapping[str, Any], name: str, n: int) -> Floats:
    values = real_numbers(_key(feedback, name), name)
    if values.shape != (n,):
        raise DataError(f"expected one number per round, ({n},); found shape {values.shape}", column=name)
    return values


def _whole(values: Floats, name: str) -> NDArray[np.int64]:
    """Numbers of actions, positions or rounds, which are not to be cut off to whole ones."""
    wrong = ~(np.isfinite(values) & (values == np.round(values)))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"whole numbers are required, which count from 0; found {values[row]:.12g} ({wrong.sum()} of {len(values)} "
            "are none): give each its number",
            row=row,
            column=name,
        )
    return values.astype(np.int64)


def _distribution(values: ArrayLike, n: int, name: str) -> Floats:
    array = real_numbers(values, name)
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or len(array) != n:
        raise DataError(f"expected ({n}, n_actions, len_list); found {array.shape}", column=name)
    return array


def _refuse_improper(policy: Floats, name: str) -> None:
    """Refuses rows (n, A) that are no distributions."""
    wrong = ~(np.isclose(policy.sum(axis=1), 1.0, atol=1e-6) & (policy >= 0).all(axis=1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"a policy's probabilities must be >= 0 and sum to 1; {wrong.sum()} of {len(wrong)} rows do not: "
            f"first sum {policy[row].sum():.12g}",
            row=row,
            column=name,
        )


def _refuse_contradiction(pscore: Floats, of_action: Floats) -> None:
    """Refuses propensities that are not, up to float32 or five decimals, those of the logging policy's distribution."""
    wrong = ~np.isclose(pscore, of_action, rtol=1e-4, atol=1e-5)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"pscore and pi_b contradict each other: {wrong.sum()} of {len(wrong)} rows, the first with a pscore of "
            f"{pscore[row]:.6g} where pi_b gives its action {of_action[row]:.6g}. Correct one, or leave pi_b out",
            row=row,
            column="pscore",
        )


def _refuse_outside(values: NDArray[np.int64], size: int, name: str) -> None:
    wrong = (values < 0) | (values >= size)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"expected 0..{size - 1}, as action_dist has; found {values[row]}", row=row, column=name)
