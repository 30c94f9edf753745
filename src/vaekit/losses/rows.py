"""Comparing all with all a few rows at a time, in bounded memory."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution

from vaekit.distributions.detach import mapped

__all__ = ["by_rows"]

_FITS = 2**22  # values that are held whole: some megabytes for each step of the computation
_PIECE = 2**20  # values of one piece, where they are not

# Of one piece of each tensor of rows, and of what all rows are compared with.
Comparison = Callable[..., tuple[Tensor, ...]]


def by_rows(
    function: Comparison, *rows: Tensor, others: Distribution | Tensor, each: int
) -> tuple[Tensor, ...]:
    """Compare rows with others, a few at a time where they are many, and join the results.

    What a piece computes on the way is forgotten, and computed again in the backward pass: memory
    grows with the rows, not with what each is compared with. That takes half as long again as the
    arithmetic alone, and less than moving all of it through memory.

    Args:
        function: Of as many tensors as ``rows`` and of ``others``; returns tensors of one value,
            or one row, for each row.
        rows: Tensors of one length.
        others: What every row is compared with.
        each: How many values a row makes on the way.
    """
    if each * len(rows[0]) <= _FITS:
        return function(*rows, others)
    held: list[Tensor] = []
    _with(others, lambda tensor: held.append(tensor) or tensor)  # type: ignore[func-returns-value]
    count = max(_PIECE // each, 1)
    made: tuple[Tensor, ...] = _ByRows.apply(function, others, count, len(rows), *rows, *held)
    return made


def _with(
    others: Distribution | Tensor, function: Callable[[Tensor], Tensor]
) -> Distribution | Tensor:
    return function(others) if isinstance(others, Tensor) else mapped(others, function)


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Comparison, others: Any, count: int, lead: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.function, ctx.others, ctx.count, ctx.lead = function, others, count, lead
        ctx.save_for_backward(*tensors)
        rows = tensors[:lead]
        made: list[Tensor] = []
        for first in range(0, len(rows[0]), count):
            part = slice(first, first + count)
            found = function(*(row[part] for row in rows), others)
            made = made or [value.new_empty(len(rows[0]), *value.shape[1:]) for value in found]
            for whole, value in zip(made, found, strict=True):
                whole[part] = value
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[4:]
        leaves = [
            tensor.detach().requires_grad_(need)
            for tensor, need in zip(ctx.saved_tensors, needed, strict=True)
        ]
        rows, held = leaves[: ctx.lead], iter(leaves[ctx.lead :])
        others = _with(ctx.others, lambda _: next(held))
        total = [torch.zeros_like(leaf) if leaf.requires_grad else None for leaf in leaves]
        for first in range(0, len(rows[0]), ctx.count):
            part = slice(first, first + ctx.count)
            with torch.enable_grad():
                found = ctx.function(*(row[part] for row in rows), others)
            _add_slopes(leaves, total, found, [slope[part] for slope in slopes])
        return None, None, None, None, *total


def _add_slopes(
    leaves: Sequence[Tensor],
    total: Sequence[Tensor | None],
    found: Sequence[Tensor],
    slopes: Sequence[Tensor],
) -> None:
    """Add the gradient of one piece to what there is."""
    wanted = [(leaf, into) for leaf, into in zip(leaves, total, strict=True) if into is not None]
    grads = torch.autograd.grad(found, [leaf for leaf, _ in wanted], slopes, allow_unused=True)
    for grad, (_, into) in zip(grads, wanted, strict=True):
        if grad is not None:
            into += grad
