"""Means over elements, with their standard errors."""

import math
from array import array
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Collected", "Mean", "described", "mean_of", "share_below"]

_FEW = 10  # numbers that are shown one by one


class Mean(NamedTuple):
    """A mean over the elements of a data set.

    Attributes:
        mean: The mean.
        standard_error: Its standard error over the elements: how far another sample of as many
            elements would lie from this one. NaN for a single element.
    """

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} +- {self.standard_error:.2g}"


def described(record: Any) -> str:
    """Show a record, but of its tensors no more than fits a line."""
    fields = [f"{name}={_shown(value)}" for name, value in record._asdict().items()]
    return f"{type(record).__name__}({', '.join(fields)})"


def _shown(value: Any) -> str:
    if isinstance(value, Mean):
        return str(value)
    if not isinstance(value, Tensor):
        return repr(value)
    if value.ndim == 1 and len(value) <= _FEW:
        return f"[{', '.join(f'{number:.4g}' for number in value.tolist())}]"
    return f"tensor of shape {tuple(value.shape)}"


class Collected:
    """Numbers of elements, a batch after the other, in double precision.

    They are kept in one array: small tensors that were left behind by every batch would lie between
    its large ones, and keep the C library from using the memory of these again.
    """

    def __init__(self) -> None:
        self._held = array("d")

    def add(self, values: Tensor) -> None:
        """Add those of a batch, ``(B,)``."""
        self._held.extend(values.tolist())

    def tensor(self) -> Tensor:
        """Return all, ``(N,)``."""
        return torch.tensor(self._held, dtype=torch.double)


def mean_of(values: Tensor) -> Mean:
    """Take the mean over elements, and its standard error, in double precision.

    Shape:
        ``values: (N,)``.

    Example:
        >>> import torch
        >>> mean_of(torch.tensor([1.0, 2.0, 3.0]))
        Mean(mean=2.0, standard_error=0.5773502691896258)
    """
    values = values.double()
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.nan
    return Mean(float(values.mean()), error)


def share_below(values: Tensor, among: Tensor) -> Tensor:
    """Return the share of some numbers that lie below each value, ties counting half.

    Shape:
        ``values: (N,)``, ``among: (M,)``; returns ``(N,)``, in double precision.
    """
    ordered = among.sort().values
    left, right = (torch.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (left + right).double() / (2 * len(ordered))
