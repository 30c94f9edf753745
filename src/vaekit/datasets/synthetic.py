"""Small families of points whose distribution is known, for tests and teaching."""

import math

import torch

from vaekit import _checks
from vaekit.datasets.arrays import ArrayDataset

__all__ = ["correlated_gaussian", "two_moons"]


def correlated_gaussian(
    n: int, correlation: float = 0.8, dim: int = 2, seed: int = 0
) -> ArrayDataset:
    r"""Draw from a Gaussian whose dimensions all correlate alike.

    .. math:: x \sim \mathcal{N}(0, \Sigma), \qquad \Sigma = (1 - \rho) I + \rho\, 1 1^\top

    Means are 0, variances 1, and every correlation is :math:`\rho`; the total correlation of the
    dimensions is :math:`-\frac{1}{2} \log \det \Sigma`, with
    :math:`\det \Sigma = (1 - \rho)^{d - 1} (1 + (d - 1) \rho)`.

    Args:
        n: How many points.
        correlation: The correlation of any two dimensions, between -1 / (dim - 1) and 1.
        dim: How many dimensions, at least 2.
        seed: Of the draws.

    Shape:
        Points ``(n, dim)``, no labels.

    Raises:
        ValueError: If there is no such Gaussian.

    Example:
        >>> correlated_gaussian(1000, correlation=0.5, dim=3)
        ArrayDataset(1000 x (3,) float32, binarize='none')
    """
    _checks.positive_int("n", n)
    if _checks.positive_int("dim", dim) < 2:
        raise ValueError(_checks.expected("dim", "at least 2", dim))
    least = -1 / (dim - 1)
    if not least < _checks.number("correlation", correlation) < 1:
        what = f"a number between {least:.4g} and 1, both excluded, in {dim} dimensions"
        raise ValueError(_checks.expected("correlation", what, correlation))
    covariance = torch.full((dim, dim), correlation, dtype=torch.double).fill_diagonal_(1)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, dim, generator=generator, dtype=torch.double)
    x = noise @ torch.linalg.cholesky(covariance).T
    return ArrayDataset(x.to(torch.get_default_dtype()))


def two_moons(n: int, noise: float = 0.1, seed: int = 0) -> ArrayDataset:
    r"""Draw from two half-circles that reach into each other, with Gaussian noise.

    .. math:: x = \begin{cases}
                  (\cos t, \sin t) + \sigma \varepsilon & \text{labelled } 0 \\
                  (1 - \cos t, \tfrac{1}{2} - \sin t) + \sigma \varepsilon & \text{labelled } 1
              \end{cases}
              \qquad t \sim \mathcal{U}(0, \pi), \quad \varepsilon \sim \mathcal{N}(0, I)

    The means are :math:`(0, 2/\pi)` and :math:`(1, 1/2 - 2/\pi)`; the variances of both moons are
    :math:`1/2 + \sigma^2` and :math:`1/2 - 4/\pi^2 + \sigma^2`, without correlation.

    Args:
        n: How many points; the labels alternate.
        noise: The noise's standard deviation.
        seed: Of the draws.

    Shape:
        Points ``(n, 2)``, labels ``(n,)``.

    Raises:
        ValueError: If there are no points, or the noise is negative.

    Example:
        >>> two_moons(500)
        ArrayDataset(500 x (2,) float32, labels, binarize='none')
    """
    _checks.positive_int("n", n)
    _checks.number("noise", noise, low=0)
    generator = torch.Generator().manual_seed(seed)
    t = math.pi * torch.rand(n, generator=generator, dtype=torch.double)
    error = noise * torch.randn(n, 2, generator=generator, dtype=torch.double)
    labels = torch.arange(n) % 2
    upper = torch.stack([t.cos(), t.sin()], 1)
    lower = torch.tensor([1, 0.5]) - upper
    x = torch.where(labels[:, None] == 0, upper, lower) + error
    return ArrayDataset(x.to(torch.get_default_dtype()), labels, classes=("upper", "lower"))
