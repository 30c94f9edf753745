"""Factors, and what is counted of codes by hand."""

from typing import Any

import torch
from torch import Tensor

ROTATION = torch.tensor([[1.0, 1.0], [1.0, -1.0]])


def grid(*sizes: int, times: int = 1) -> Tensor:
    """All combinations of factors, so that they are exactly independent."""
    return torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes)).repeat(times, 1)


def columns(table: Tensor) -> list[list[Any]]:
    return table.T.tolist()


def variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
