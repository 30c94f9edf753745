"""Priors: modules whose call returns p(z)."""

import torch
from torch import Tensor, nn

from vaekit import _checks
from vaekit.distributions import StandardGaussian

__all__ = ["StandardNormal"]


class StandardNormal(nn.Module):
    r"""The prior :math:`p(z) = \mathcal{N}(0, I)`.

    Args:
        dim: The number of latent dimensions.

    Example:
        >>> prior = StandardNormal(20)
        >>> prior().sample((8,)).shape
        torch.Size([8, 20])
    """

    _zeros: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = _checks.positive_int("dim", dim)
        # It holds nothing but the dtype and the device, which follow those of the model.
        self.register_buffer("_zeros", torch.zeros(self.dim), persistent=False)

    def forward(self) -> StandardGaussian:
        """Return the distribution, over ``(dim,)``."""
        return StandardGaussian(self._zeros)

    def extra_repr(self) -> str:
        """Show the number of dimensions."""
        return f"dim={self.dim}"
