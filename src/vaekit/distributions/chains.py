"""Vectors drawn block by block, each given the blocks before: the distributions of hierarchies."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from vaekit import _checks
from vaekit.distributions.events import check_value
from vaekit.distributions.supports import Reparameterized

__all__ = ["Chain", "tempered"]


class Chain(Reparameterized):
    r"""Blocks of a vector, each drawn given the one before it.

    .. math:: p(z) = p(z_{1})\, p(z_{2} \mid z_{1}) \cdots p(z_{L} \mid z_{L-1})

    Args:
        first: The distribution of the block that is drawn first.
        conditionals: For each further block a function of the block drawn before it, which returns
            the distribution of the next; each over as many dimensions as ``sizes`` says.
        sizes: The number of dimensions of each block, in the order in which they are drawn.
        reverse: Whether the vector holds the block drawn first at its end. A hierarchy is inferred
            from the bottom up and generated from the top down, and both are to agree on the vector.

    Shape:
        ``first`` of batch ``(*batch,)``; the chain is one of batch ``(*batch,)`` over
        ``(sum(sizes),)``.

    Raises:
        ValueError: If there is not one size for each block, or a block has another.

    Example:
        >>> first = vk.distributions.StandardGaussian(torch.zeros(2))
        >>> walk = lambda z: vk.distributions.DiagonalGaussian(z, torch.zeros_like(z))
        >>> Chain(first, [walk], sizes=[2, 2]).rsample((8,)).shape
        torch.Size([8, 4])
    """

    def __init__(
        self,
        first: Distribution,
        conditionals: Sequence[Callable[[Tensor], Distribution]],
        sizes: Sequence[int],
        *,
        reverse: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        what = f"one for each of the {len(conditionals) + 1} blocks"
        _checks.require(len(sizes) == len(conditionals) + 1, "sizes", what, list(sizes))
        self.first, self.conditionals = first, tuple(conditionals)
        self.sizes, self.reverse = tuple(sizes), reverse
        event = torch.Size((sum(self.sizes),))
        super().__init__(first.batch_shape, event, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> NoReturn:
        """Refuse, for what the conditionals depend on is not known here."""
        raise NotImplementedError("A Chain cannot be expanded; expand what it is made of.")

    def __repr__(self) -> str:
        return f"Chain(sizes={list(self.sizes)}, batch_shape={tuple(self.batch_shape)})"

    @property
    def mean(self) -> Tensor:
        """The mean of each block given the mean of the one before, ``(*batch, dim)``.

        That is a typical point, and the mean itself where the conditional means are linear.
        """
        return self._follow(self.first.mean, lambda distribution: distribution.mean)

    def tempered(self, temperature: float) -> "Chain":
        """Return the chain with the standard deviation of every block times ``temperature``.

        Raises:
            TypeError: If a block cannot be tempered; at once for the first, at a draw for others.
        """
        conditionals = [partial(_tempered, each, temperature) for each in self.conditionals]
        first = tempered(self.first, temperature)
        return Chain(first, conditionals, self.sizes, reverse=self.reverse)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw the blocks one after another, with a gradient to all parameters.

        Shape:
            Returns ``(*sample_shape, *batch, dim)``.
        """
        drawn = self.first.rsample(torch.Size(sample_shape))
        return self._follow(drawn, lambda distribution: distribution.rsample())

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats.

        Shape:
            ``value: (..., dim)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or if ``value`` holds NaN.
        """
        check_value(self, value)
        blocks = zip(self.given(value), value.split(self.layout, dim=-1), strict=True)
        first, *rest = (distribution.log_prob(block) for distribution, block in blocks)
        return sum(rest, first)

    @property
    def layout(self) -> list[int]:
        """The number of dimensions of each block, in the order in which the vector holds them."""
        return list(self.sizes[::-1] if self.reverse else self.sizes)

    def given(self, value: Float[Tensor, "..."]) -> list[Distribution]:
        """Return the distribution of each block, given what ``value`` holds of the one before.

        They are in the order in which the vector holds them.
        """
        blocks = value.split(self.layout, dim=-1)
        before = blocks[:0:-1] if self.reverse else blocks[:-1]
        pairs = zip(self.conditionals, before, strict=True)
        found = [self.first, *(conditional(block) for conditional, block in pairs)]
        return found[::-1] if self.reverse else found

    def _follow(self, first: Tensor, take: Callable[[Distribution], Tensor]) -> Tensor:
        """Take a value of each further block given the one before, and join them."""
        blocks = [first]
        for conditional in self.conditionals:
            blocks.append(take(conditional(blocks[-1])))
        for block, size in zip(blocks, self.sizes, strict=True):
            if block.shape[-1] != size:
                what = f"{list(self.sizes)} dimensions, as the blocks have"
                raise ValueError(_checks.expected("sizes", what, [b.shape[-1] for b in blocks]))
        return torch.cat(blocks[::-1] if self.reverse else blocks, dim=-1)


def _tempered(
    conditional: Callable[[Tensor], Distribution], temperature: float, z: Tensor
) -> Distribution:
    return tempered(conditional(z), temperature)


def tempered(distribution: Any, temperature: float) -> Distribution:
    """Return a distribution with its standard deviations multiplied, where that is a Gaussian's.

    Args:
        distribution: One that has a method of this name, or torch's normal ones.
        temperature: What they are multiplied by.

    Raises:
        TypeError: If it is another.

    Example:
        >>> tempered(Normal(0.0, 4.0), 0.5)
        Normal(loc: 0.0, scale: 2.0)
    """
    if isinstance(distribution, Independent):
        base = tempered(distribution.base_dist, temperature)
        return Independent(base, distribution.reinterpreted_batch_ndims, validate_args=False)
    if isinstance(distribution, Normal):
        return Normal(distribution.loc, temperature * distribution.scale, validate_args=False)
    if isinstance(distribution, MultivariateNormal):
        scale_tril = temperature * distribution.scale_tril
        return MultivariateNormal(distribution.loc, scale_tril=scale_tril, validate_args=False)
    if not hasattr(distribution, "tempered"):
        what = f"1, since the standard deviation of {distribution!r} cannot be multiplied"
        raise TypeError(_checks.expected("temperature", what, temperature))
    cooler: Distribution = distribution.tempered(temperature)
    return cooler
