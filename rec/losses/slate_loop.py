"""The slates of a two-stage loss drawn and credited one after the other, in a compiled loop over a row's slates.

Everything that a row needs stays in a core's first cache, where whole-tensor operations pass each draw through memory a
dozen times: benchmarks/speed/two_stage_loss.py shows both.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray
from torch import Tensor

# Rows that a thread takes at once, and comes back for more: others may be kept busy by something else.
_ROWS_AT_ONCE: Final = 8

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    """As many threads, kept from step to step."""
    return ThreadPoolExecutor(n, thread_name_prefix="slates")


# A forked process has the pool, but none of its threads.
os.register_at_fork(after_in_child=_threads.cache_clear)


class SlateObjective(torch.autograd.Function):
    """`rec.losses.slates.slate_objective` on a CPU: `forward` finds its gradient at once, for log_p alone has one."""

    @staticmethod
    def forward(
        ctx: Any,
        log_p: Tensor,
        weights: Tensor,
        odds: Tensor,
        actions: Tensor,
        uniforms: Tensor,
        alpha: float,
        first: Tensor | None,
    ) -> Tensor:
        """One objective per row, (B,).

        Args: log_p, actions, uniforms, alpha, first: as there. weights: by which columns are drawn, (B, C). odds: of
            the ranker for each column against the action, (B, C).
        """
        objective, credit = log_p.new_zeros(len(log_p)), torch.zeros_like(log_p)
        own = first is not None and len(first) == 1 and bool((first[0] == torch.arange(first.shape[1])).all())
        twins = torch.empty((1, 0), dtype=torch.int32) if first is None or own else first.int()
        tensors = (log_p.detach(), weights, odds, actions, uniforms, twins)
        arrays = [tensor.contiguous().numpy() for tensor in tensors]
        starts = iter(range(0, len(log_p), _ROWS_AT_ONCE))

        def credit_rows() -> None:
            for start in starts:
                stop = min(start + _ROWS_AT_ONCE, len(log_p))
                _credit_slates(*arrays, first is not None, alpha, objective.numpy(), credit.numpy(), start, stop)  # pyright: ignore

        n_others = torch.get_num_threads() - 1
        others = [_threads(n_others).submit(credit_rows) for _ in range(n_others)]
        credit_rows()
        for other in others:
            other.result()
        ctx.save_for_backward(credit)
        return objective

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The credit of each column, times the row's gradient."""
        (credit,) = ctx.saved_tensors
        return credit * gradients[0].unsqueeze(1), None, None, None, None, None, None


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _credit_slates(
    log_p: Floats,
    weights: Floats,
    odds: Floats,
    actions: Integers,
    uniforms: Floats,
    twins: Integers,
    distinct: bool,
    alpha: float,
    objective: Floats,
    credit: Floats,
    start: int,
    stop: int,
) -> None:
    """Adds the objectives of the rows start:stop to `objective`, and what each column contributes to `credit`.

    Columns are unsigned numbers, whose use as an index costs no test for a negative one.

    Args: twins: `first`, or no column where each is its own. distinct: whether a slate holds an item once.
    """
    n_columns = weights.shape[1]
    _, n_slates, n_draws = uniforms.shape
    cumulated, guide = np.empty(n_columns, weights.dtype), np.empty(n_columns + 1, np.uint32)
    cells, held_by = np.empty(n_columns, np.uint32), np.empty(n_columns, np.int32)
    points, slate = np.empty(n_draws, np.float64), np.empty(n_draws, np.uint32)
    for row in range(start, stop):
        total = _cumulate(weights[row], cumulated)
        if not 0 < total < np.inf:
            objective[row] = np.nan
            continue
        _fill_guide(cumulated, n_columns / total, cells, guide)
        held_by[:] = -1
        action = np.uint32(actions[row])
        twin = twins[row % len(twins)]
        its_twin = np.uint32(twin[action]) if len(twin) else action
        own, row_odds, row_credit = 0.0, odds[row], credit[row]
        for place in range(n_slates):
            _draw(uniforms[row, place], cumulated, n_columns / total, guide, points, slate)
            for draw in range(n_draws if len(twin) else 0):
                slate[draw] = twin[slate[draw]]
            size, rivals = np.uint32(0), 0.0
            held_by[its_twin] = place if distinct else -1
            for draw in range(n_draws):
                column = slate[draw]
                # What is held already is passed over by adding nothing, and overwritten by what comes next.
                new = held_by[column] != place
                slate[size] = column
                size += np.uint32(new)
                rivals += row_odds[column] if new else 0.0
                if distinct:
                    held_by[column] = place
            share = 1 / (1 + rivals) / n_slates
            own += share
            beside = credit.dtype.type(share * alpha)
            for draw in range(size):
                row_credit[slate[draw]] += beside
        row_credit[action] += own
        objective[row] = _credited(row_credit, log_p[row])


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _cumulate(weights: Floats, cumulated: Floats) -> float:
    """Fills `cumulated`; returns the sum of all weights."""
    total = 0.0
    for column in range(len(weights)):
        total += weights[column]
        cumulated[column] = total
    return total


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _fill_guide(cumulated: Floats, per_cell: float, cells: Integers, guide: Integers) -> None:
    """A guide table: at entry g, the number of columns whose cumulated weight is below the g-th C-th of the whole.

    Source: Chen and Asau (1974), doi:10.1080/05695557408974949.
    """
    last = np.uint32(len(cumulated) - 1)
    # Enlarged by more than rounding, so that no draw begins behind its column.
    enlarged = per_cell * (1 + 1e-6)
    for column in range(len(cumulated)):
        cells[column] = min(np.uint32(np.int32(cumulated[column] * enlarged)), last)
    guide[:] = 0
    for column in range(len(cumulated)):
        guide[cells[column] + np.uint32(1)] += np.uint32(1)
    below = np.uint32(0)
    for cell in range(len(guide)):
        below += guide[cell]
        guide[cell] = below


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def _draw(
    uniforms: Floats, cumulated: Floats, per_cell: float, guide: Integers, points: Floats, slate: Integers
) -> None:
    """Fills a slate: searches the cumulated weights from where the guide says, so that a step or two are left."""
    last, whole = np.uint32(len(cumulated) - 1), np.float64(cumulated[-1])
    for draw in range(len(uniforms)):
        points[draw] = (1 - uniforms[draw]) * whole
        slate[draw] = min(np.uint32(np.int32(points[draw] * per_cell)), last)
    for draw in range(len(uniforms)):
        point, column = points[draw], guide[slate[draw]]
        # Half of all draws take this step: adding is cheaper than a branch that is guessed wrong as often.
        column += np.uint32(cumulated[column] < point)
        while cumulated[column] < point:
            column += np.uint32(1)
        slate[draw] = column


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})  # pyright: ignore
def _credited(credit: Floats, log_p: Floats) -> np.floating[Any]:
    """Sum of credit times log_p over the columns that have any; the order of the sum is free."""
    total = credit.dtype.type(0)
    for column in range(len(credit)):
        total += credit[column] * log_p[column] if credit[column] != 0 else credit.dtype.type(0)
    return total
