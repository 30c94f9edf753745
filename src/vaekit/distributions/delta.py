"""A point that has all the mass: what an autoencoder without noise infers."""

from collections.abc import Iterator, Sequence
from typing import NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from vaekit import _checks
from vaekit.distributions.supports import Reparameterized

__all__ = ["PointMass"]


class PointMass(Reparameterized):
    r"""All the mass on one point; every draw is the point, with a gradient to it.

    .. math:: q(z) = \delta(z - \text{point})

    It has no density, and so no divergence from a prior: both are refused by name. It unpacks into
    its parameters: ``(point,) = distribution``, and of a quantised latent
    ``point, commitment, indices = distribution``.

    Args:
        point: Where the mass is.
        commitment: What a quantised latent adds to the objective for each element, if it is one.
        indices: The codes that a quantised latent chose, if it is one.

    Shape:
        ``point: (*batch, dim)``, ``commitment: (*batch,)``, ``indices: (*batch, variables)``.

    Raises:
        ValueError: If ``point`` holds NaN.
        TypeError: From ``log_prob`` and from `vaekit.kl_divergence`.

    Example:
        >>> PointMass(torch.ones(8, 2)).rsample((3,)).shape
        torch.Size([3, 8, 2])
    """

    support = constraints.real_vector

    def __init__(
        self,
        point: Float[Tensor, "*batch dim"],
        commitment: Float[Tensor, "*batch"] | None = None,
        indices: Int[Tensor, "*batch variables"] | None = None,
    ) -> None:
        if _checks.eager():
            _checks.no_nan("point", point)
        self.point, self.commitment, self.indices = point, commitment, indices
        super().__init__(point.shape[:-1], point.shape[-1:])

    def __iter__(self) -> Iterator[Tensor]:
        parts = (self.point, self.commitment, self.indices)
        return iter(part for part in parts if part is not None)

    @property
    def mean(self) -> Tensor:
        """The point."""
        return self.point

    @property
    def mode(self) -> Tensor:
        """The point."""
        return self.point

    @property
    def variance(self) -> Tensor:
        """Zeros."""
        return torch.zeros_like(self.point)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Return the point, ``(*sample_shape, *batch, dim)``."""
        return self.point.expand(torch.Size(sample_shape) + self.point.shape)

    def log_prob(self, value: Tensor) -> NoReturn:
        """Refuse: a point has no density."""
        _refuse(self, self)


def _refuse(q: Distribution, p: Distribution) -> NoReturn:
    hint = "An autoencoder without noise has no KL and no likelihood bound: leave that term out."
    raise TypeError(_checks.expected("posterior", "one that has a density", repr(q), hint))


register_kl(PointMass, Distribution)(_refuse)
