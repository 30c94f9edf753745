"""What metrics are given: tensors or arrays, looked at once, as they come."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vaekit import _checks
from vaekit.datasets import ArrayDataset, arrays

__all__ = ["Array", "Values", "as_points", "as_tensor", "as_whole_numbers", "check_size"]

Array = npt.NDArray[Any]
Values = Tensor | np.ndarray

#: Metrics take sixth powers, for kernels, and squares of those; trees compare in single precision.
_LARGEST = 1e18


def as_tensor(argument: str, values: Any) -> Tensor:
    """Return a tensor as it is, and an array of numbers as one."""
    if isinstance(values, Tensor):
        return values
    what = "a tensor or an array of numbers"
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biufc":
        of = f" of {values.dtype}" if isinstance(values, np.ndarray) else ""
        hint = ""
        if hasattr(values, "to_numpy"):  # pandas
            hint = "Give its to_numpy()."
        elif isinstance(values, ArrayDataset):
            hint = "Give its elements: data[:], or of data with labels data[:][0]."
        elif of:
            hint = "Names become numbers by numpy.unique(names, return_inverse=True)[1]."
        raise TypeError(_checks.expected(argument, what, f"{type(values).__name__}{of}", hint))
    return arrays.as_tensor(argument, values, what)


def as_points(argument: str, values: Any) -> Array:
    """Return finite points ``(N, dim)``, N and dim at least 1, in double precision."""
    values = as_tensor(argument, values)
    if values.ndim != 2 or not values.numel():
        what = "shape (N, dim), neither of them 0"
        raise ValueError(_checks.expected(argument, what, tuple(values.shape)))
    _checks.finite(argument, values)
    points: Array = values.detach().cpu().double().numpy()
    check_size(argument, points.min(), points.max())
    return points


def as_whole_numbers(argument: str, values: Any) -> Array:
    """Return whole numbers, given as such or as floats."""
    values = as_tensor(argument, values)
    _checks.finite(argument, values)
    numbers = values.detach().cpu()
    if numbers.is_complex() or (numbers.is_floating_point() and (numbers != numbers.round()).any()):
        raise ValueError(_checks.expected(argument, "whole numbers", f"{values.dtype} of others"))
    whole: Array = numbers.long().numpy()
    return whole


def check_size(argument: str, least: float, greatest: float) -> None:
    """Refuse values that a metric would overflow by."""
    size = float(max(-least, greatest))
    what = f"values of at most {_LARGEST:g} in size"
    _checks.require(size <= _LARGEST, argument, what, f"one of {size:.3g}")
