"""The slates of a two-stage loss drawn and credited one after the other, in a compiled loop over a row's slates.

Everything that a row needs stays in a core's first cache, where whole-tensor operations pass each draw through memory a
dozen times: benchmarks/speed/two_stage_loss.py shows both.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray
from torch import Tensor

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
        twins = torch.empty((1, 0), dtype=torch.int32) if first is None else first.int()
        tensors = (log_p.detach(), weights, odds, actions, uniforms, twins)
        arrays = [tensor.contiguous().numpy() for tensor in tensors]

        def credit_rows(start: int, stop: int) -> None:
            _credit_slates(*arrays, alpha, objective.numpy(), credit.numpy(), start, stop)  # pyright: ignore

        n_threads = torch.get_num_threads()
        bounds = np.linspace(0, len(log_p), n_threads + 1).astype(int).tolist()
        list(_threads(n_threads).map(credit_rows, bounds[:-1], bounds[1:]))
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
    first: Integers,
    alpha: float,
    objective: Floats,
    credit: Floats,
    start: int,
    stop: int,
) -> None:
    """Adds the objectives of the rows start:stop to `objective`, and what each column contributes to `credit`.

    Draws search the cumulated weights from where a guide table says: at entry g, the number of columns whose cumulated
    weight is below the g-th C-th of the whole, so that a step or two are left. Source: Chen and Asau (1974),
    doi:10.1080/05695557408974949.
    """
    n_columns = weights.shape[1]
    _, n_slates, n_draws = uniforms.shape
    cumulated = np.empty(n_columns, weights.dtype)
    guide = np.empty(n_columns + 1, np.int32)
    held_by = np.empty(n_columns, np.int32)
    slate = np.empty(n_draws, np.int32)
    for row in range(start, stop):
        total = 0.0
        for column in range(n_columns):
            total += weights[row, column]
            cumulated[column] = total
        if not 0 < total < np.inf:
            objective[row] = np.nan
            continue
        per_cell = n_columns / total
        guide[:] = 0
        for column in range(n_columns):
            # Enlarged by more than rounding, so that no draw begins behind its column.
            guide[min(int(cumulated[column] * per_cell * (1 + 1e-6)), n_columns - 1) + 1] += 1
        for cell in range(n_columns):
            guide[cell + 1] += guide[cell]
        action = actions[row]
        twins = first[row % len(first)]
        held_by[:] = -1
        for place in range(n_slates):
            for draw in range(n_draws):
                point = (1 - uniforms[row, place, draw]) * cumulated[-1]
                column = guide[min(int(point * per_cell), n_columns - 1)]
                # Half of all draws take this step: adding is cheaper than a branch that is guessed wrong as often.
                column += cumulated[column] < point
                while cumulated[column] < point:
                    column += 1
                slate[draw] = column
            size = n_draws
            if len(twins):
                size = 0
                held_by[twins[action]] = place
                for draw in range(n_draws):
                    column = twins[slate[draw]]
                    slate[size] = column
                    size += held_by[column] != place
                    held_by[column] = place
            rivals = 0.0
            for column in slate[:size]:
                rivals += odds[row, column]
            share = 1 / (1 + rivals) / n_slates
            beside = 0.0
            for column in slate[:size]:
                beside += log_p[row, column]
                credit[row, column] += share * alpha
            credit[row, action] += share
            objective[row] += share * (log_p[row, action] + alpha * beside)
