"""What the distributions of this package share: events, and densities by dimension."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from vaekit import _checks
from vaekit.distributions.detach import mapped

__all__ = ["Checked", "check_value", "divided", "log_prob_by_dimension", "sum_event"]

_D = TypeVar("_D", bound=Distribution)


class Checked(Distribution):
    """A distribution that looks at its values unless it is itself told not to.

    torch's default for all distributions is not asked: ``torch.compile`` switches it off for the
    whole process, and so does importing zuko.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    _validate_args = True
    _flags: ClassVar[tuple[str, ...]] = ()  # what a kind shows beside its shapes, where it is True

    def __repr__(self) -> str:
        shapes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        flags = "".join(f", {flag}=True" for flag in self._flags if getattr(self, flag))
        return f"{type(self).__name__}({shapes}{flags})"

    def expand(self: _D, batch_shape: Sequence[int], _instance: Any = None) -> _D:
        """Return the same distribution over a larger batch, where all its tensors are of one."""
        batch, ndims = torch.Size(batch_shape), len(self.batch_shape)
        expanded = mapped(self, lambda tensor: tensor.expand(batch + tensor.shape[ndims:]))
        expanded._batch_shape, expanded._validate_args = batch, False
        return expanded


def log_prob_by_dimension(
    distribution: Distribution, value: Float[Tensor, "..."], argument: str = "distribution"
) -> Float[Tensor, "..."]:
    """Log-density of each latent dimension by itself, in nats.

    Args:
        distribution: One whose dimensions are independent: a `DiagonalGaussian`, another with a
            method of this name, or torch's ``Independent`` of a univariate distribution.
        value: Where to take it.
        argument: How errors name the distribution.

    Shape:
        ``value: (..., dim)``, returns its shape broadcast with ``(*batch, dim)``.

    Raises:
        TypeError: If the distribution has no densities by dimension.

    Example:
        >>> q = vk.distributions.DiagonalGaussian(torch.zeros(8, 2), torch.zeros(8, 2))
        >>> z = q.sample()
        >>> torch.allclose(log_prob_by_dimension(q, z).sum(-1), q.log_prob(z))
        True
    """
    own = getattr(distribution, "log_prob_by_dimension", None)
    if own is not None and len(distribution.event_shape) == 1:
        try:
            by_dimension: Tensor = own(value)
        except TypeError as error:  # of a part that has none
            raise TypeError(str(error).replace("distribution: ", f"{argument}: ", 1)) from error
        return by_dimension
    if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims == 1:
        log_prob: Tensor = distribution.base_dist.log_prob(value)
        return log_prob
    what = "a distribution over one dimension of independent ones (a diagonal Gaussian, say)"
    raise TypeError(_checks.expected(argument, what, repr(distribution)))


def divided(shape: torch.Size, event_ndims: int) -> tuple[torch.Size, torch.Size]:
    """Return the shapes of the batch and of the event that make up a shape."""
    batch_ndims = len(shape) - event_ndims
    return shape[:batch_ndims], shape[batch_ndims:]


def sum_event(distribution: Distribution, value: Tensor) -> Tensor:
    """Sum over the dimensions of one event."""
    ndims = len(distribution.event_shape)
    return value.sum(dim=tuple(range(-ndims, 0))) if ndims else value


def check_value(distribution: Distribution, value: Tensor) -> None:
    """Say so when a value's shape does not fit the distribution."""
    _checks.trailing_shape("x", value, distribution.event_shape)
    front = value.shape[: value.ndim - len(distribution.event_shape)]
    batch = distribution.batch_shape
    if _checks.broadcast(front, batch) is None:
        what = f"a batch that fits the distribution's, {tuple(batch)}"
        raise ValueError(_checks.expected("x", what, f"batch {tuple(front)}"))
