"""Comparing two sets of draws: by kernels, and by what a discriminator makes of them."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vaekit import _checks
from vaekit.losses.rows import by_rows

__all__ = ["RBF", "InverseMultiquadric", "Kernel", "discrimination", "mmd", "permute_dimensions"]


class Kernel(ABC):
    """A sum of one kernel over several bandwidths, as a function of the squared distance.

    Args:
        bandwidths: The lengths h over which points are alike, each above 0.

    Raises:
        ValueError: If there is no bandwidth, or one is not above 0.

    Example:
        >>> class Laplacian(Kernel):
        ...     def profile(self, ratio):
        ...         return (-ratio.sqrt()).exp()
        >>> Laplacian(1.0, 2.0)(torch.tensor([0.0, 4.0]))
        tensor([2.0000, 0.5032])
    """

    def __init__(self, *bandwidths: float) -> None:
        _checks.require(len(bandwidths) > 0, "bandwidths", "at least one number", "none")
        self.bandwidths = tuple(_checks.number("bandwidths", h, above=0) for h in bandwidths)

    @abstractmethod
    def profile(self, ratio: Tensor) -> Tensor:
        """Return the kernel at a squared distance over a squared bandwidth."""

    def __call__(self, squared_distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return the kernel at squared distances."""
        first, *rest = (self.profile(squared_distance / h**2) for h in self.bandwidths)
        return sum(rest, first)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{h:g}' for h in self.bandwidths)})"


class RBF(Kernel):
    r"""The Gaussian kernel, :math:`\sum_h \exp(-d^2 / 2 h^2)`.

    Args:
        bandwidths: The lengths h, each above 0.

    Example:
        >>> RBF(1.0, 2.0)(torch.tensor(4.0))
        tensor(0.7419)
    """

    def profile(self, ratio: Tensor) -> Tensor:
        """Return the kernel at a squared distance over a squared bandwidth."""
        return (-0.5 * ratio).exp()


class InverseMultiquadric(Kernel):
    r"""The inverse multiquadric kernel, :math:`\sum_h h^2 / (h^2 + d^2)`.

    Its tails are heavy, so that it draws in outliers from afar.

    Args:
        bandwidths: The lengths h, each above 0.

    Example:
        >>> InverseMultiquadric(1.0, 2.0)(torch.tensor(4.0))
        tensor(0.7000)
    """

    def profile(self, ratio: Tensor) -> Tensor:
        """Return the kernel at a squared distance over a squared bandwidth."""
        return 1 / (1 + ratio)

    @classmethod
    def of_dim(cls, dim: int) -> "InverseMultiquadric":
        r"""Make the kernel of the Wasserstein autoencoder for draws of this many dimensions.

        .. math:: h^2 = 2 s \cdot \text{dim}, \qquad s \in \{0.1, 0.2, 0.5, 1, 2, 5, 10\}

        About a standard normal, :math:`2 \cdot \text{dim}` is the expected squared distance of two
        draws.
        """
        return cls(*(math.sqrt(2 * dim * s) for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)))


def mmd(
    z: Float[Tensor, "batch dim"],
    reference: Float[Tensor, "others dim"],
    kernel: Kernel | None = None,
) -> Float[Tensor, ""]:
    r"""Squared maximum mean discrepancy of two sets of draws.

    .. math:: \operatorname{MMD}^2 = \mathbb{E}\, k(z, z') - 2\, \mathbb{E}\, k(z, p)
              + \mathbb{E}\, k(p, p')

    A statistic of the batch: a scalar without a unit. The U-statistic: pairs of a draw with itself
    are left out, so the estimate is unbiased, zero in expectation for draws of one distribution,
    and may fall below 0. Distances are differences of squares, so that in single precision a kernel
    that is a thousand times narrower than a set is wide is off by hundredths, the more the more
    dimensions there are: give such sets in double precision.

    Args:
        z: Draws from one distribution: the aggregated posterior, one for each element.
        reference: Draws from the other: the prior.
        kernel: What says how alike two points are; `InverseMultiquadric.of_dim` if None.

    Shape:
        ``z: (B, dim)``, ``reference: (M, dim)``; returns a scalar. Pairs are compared a few rows
        at a time: memory grows with ``(B + M) * dim``, not with the number of pairs.

    Raises:
        ValueError: If there are fewer than two draws of either, or they differ in dimensions.

    Example:
        >>> z = torch.tensor([[0.0], [1.0]])
        >>> mmd(z, z + 100.0, RBF(1.0))
        tensor(1.2131)

    References:
        A. Gretton et al., *A Kernel Two-Sample Test*, 2012, equation 3 (lemma 6); S. Zhao, J. Song
        and S. Ermon, *InfoVAE*, 2019, section 3.2; I. Tolstikhin et al., *Wasserstein
        Auto-Encoders*, 2018, algorithm 2.
    """
    least, got = min(len(z), len(reference)), f"{len(z)} and {len(reference)}"
    _checks.require(least > 1, "z", "at least 2 draws of each", got)
    one, other = z.shape[-1], reference.shape[-1]
    _checks.require(one == other, "reference", f"{one} dimensions, as z has", other)
    kernel = kernel or InverseMultiquadric.of_dim(z.shape[-1])
    own, others = _mean_of_pairs(kernel, z, z), _mean_of_pairs(kernel, reference, reference)
    return own + others - 2 * _mean_of_pairs(kernel, z, reference)


def permute_dimensions(z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    r"""Put the values of each dimension into an order of their own.

    From draws of :math:`q(z)` it makes draws of :math:`\prod_j q(z_j)`, nearly: the larger the
    batch, the better.

    Shape:
        ``z: (B, dim)``, returns the same.

    Example:
        >>> z = torch.arange(6.0).reshape(3, 2)
        >>> torch.equal(permute_dimensions(z).sort(0).values, z)
        True

    References:
        H. Kim and A. Mnih, *Disentangling by Factorising*, 2018, algorithm 1.
    """
    return z.gather(0, torch.rand_like(z).argsort(0))


def discrimination(
    logits: Float[Tensor, "*batch"], reference_logits: Float[Tensor, "*others"]
) -> Float[Tensor, ""]:
    r"""What a discriminator minimises: its cross-entropy between two sets of draws, half each.

    .. math:: -\tfrac{1}{2} \mathbb{E} \log \operatorname{sigmoid} D(z)
              - \tfrac{1}{2} \mathbb{E} \log \left( 1 - \operatorname{sigmoid} D(z_\text{ref})
              \right)

    Its optimum is :math:`D = \log q(z) - \log q_\text{ref}(z)`, the log-ratio of the densities.

    Args:
        logits: D at draws of the one.
        reference_logits: D at draws of the other.

    Shape:
        Any; returns a scalar, a statistic of the batch. In nats: log 2 where it cannot tell.

    Example:
        >>> discrimination(torch.zeros(5), torch.zeros(5))
        tensor(0.6931)

    References:
        H. Kim and A. Mnih, *Disentangling by Factorising*, 2018, algorithm 2; A. Makhzani et al.,
        *Adversarial Autoencoders*, 2015, section 2.
    """
    return 0.5 * (F.softplus(-logits).mean() + F.softplus(reference_logits).mean())


def _squared_distance(one: Tensor, other: Tensor) -> Tensor:
    middle = other.detach().mean(0)  # far from 0, the squares would have no digits left
    one, other = one - middle, other - middle
    squares = one.square().sum(-1)[:, None] + other.square().sum(-1)
    return (squares - 2 * one @ other.T).clamp_min(0)


def _mean_of_pairs(kernel: Kernel, one: Tensor, other: Tensor) -> Tensor:
    """Return the mean of the kernel over all pairs, without those of a draw with itself."""
    same = one is other

    def sums(rows: Tensor, numbers: Tensor, others: Tensor) -> tuple[Tensor]:
        alike = kernel(_squared_distance(rows, others))
        if same:
            alike = alike.scatter(1, numbers[:, None], 0.0)
        return (alike.sum(1),)

    each = len(other) * len(kernel.bandwidths)
    numbers = torch.arange(len(one), device=one.device)
    (by_row,) = by_rows(sums, one, numbers, others=other, each=each)
    return by_row.sum() / (len(one) * (len(other) - same))
