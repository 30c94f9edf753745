"""Copies of distributions with other tensors in them: detached, or moved."""

import copy
import weakref
from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import Transform

__all__ = ["detached", "mapped"]

_D = TypeVar("_D", bound=Distribution)


def detached(distribution: _D) -> _D:
    r"""Copy a distribution, holding its parameters fixed.

    The density of the copy at z has a gradient to z and to nothing else:

    .. math:: \nabla_\phi \log q_{\bar\phi}(z_\phi)
              = \frac{\partial \log q}{\partial z} \, \frac{\partial z_\phi}{\partial \phi}

    Tensors are detached wherever they lie: in distributions and transforms inside this one, in
    lists and dictionaries, and in the modules and functions that these call. The values are shared,
    not copied. What objects of other kinds hold is out of reach.

    Args:
        distribution: Any distribution.

    Example:
        >>> mu = torch.zeros(3, requires_grad=True)
        >>> q = vk.distributions.DiagonalGaussian(mu, torch.zeros(3))
        >>> q.log_prob(torch.ones(3)).requires_grad, detached(q).log_prob(torch.ones(3))
        (True, tensor(-4.2568))
    """
    return mapped(distribution, Tensor.detach)


def mapped(distribution: _D, function: Callable[[Tensor], Tensor]) -> _D:
    """Copy a distribution, with a function applied to every tensor, wherever it lies.

    Args:
        distribution: Any distribution.
        function: What is done to each tensor.

    Example:
        >>> q = mapped(vk.distributions.StandardGaussian(torch.zeros(3)), torch.Tensor.double)
        >>> q.sample().dtype
        torch.float64
    """
    copied: _D = _mapped(distribution, function, {})
    return copied


def _mapped(value: Any, fn: Callable[[Tensor], Tensor], seen: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return fn(value)
    if id(value) in seen:  # a transform and its inverse lead to each other
        return seen[id(value)]
    if isinstance(value, Distribution | Transform | nn.Module):
        other: Any = copy.copy(value)
        seen[id(value)] = other
        items = {key: _mapped(item, fn, seen) for key, item in value.__dict__.items()}
        other.__dict__.update(items)
        return other
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, fn, seen) for item in value)
    if isinstance(value, dict):
        entries = copy.copy(value)
        entries.update({key: _mapped(item, fn, seen) for key, item in value.items()})
        return entries
    if isinstance(value, partial):
        function, *args = (_mapped(item, fn, seen) for item in (value.func, *value.args))
        return partial(function, *args, **_mapped(value.keywords, fn, seen))
    if isinstance(value, MethodType):
        return MethodType(value.__func__, _mapped(value.__self__, fn, seen))
    if isinstance(value, FunctionType) and (value.__defaults__ or value.__closure__):
        cells = tuple(CellType() for _ in value.__closure__ or ())
        name, defaults = value.__name__, _mapped(value.__defaults__, fn, seen)
        same = FunctionType(value.__code__, value.__globals__, name, defaults, cells)
        same.__kwdefaults__ = value.__kwdefaults__
        seen[id(value)] = same
        for cell, held in zip(cells, value.__closure__ or (), strict=True):
            cell.cell_contents = _mapped(held.cell_contents, fn, seen)
        return same
    if isinstance(value, weakref.ref):  # as from a transform to its inverse
        target = _mapped(value(), fn, seen)
        return lambda: target
    return value
