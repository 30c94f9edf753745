"""Distributions that several tests draw, and the z-score that estimators are held to."""

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Independent, Normal

from vaekit.distributions import DiagonalGaussian

seeds = st.integers(0, 2**31 - 1)
dims = st.integers(1, 6)
batches = st.integers(1, 8)


def draw(seed: int, batch: int, dim: int, spread: float = 1.0) -> DiagonalGaussian:
    """A random batch of diagonal Gaussians in float64."""
    generator = torch.Generator().manual_seed(seed)
    mu, logvar = spread * torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
    return DiagonalGaussian(mu, logvar)


def as_torch(gaussian: DiagonalGaussian) -> Independent:
    """The same distribution in torch's own classes."""
    return Independent(Normal(gaussian.mu, (0.5 * gaussian.logvar).exp()), 1)


def z_score(draws: Tensor, exact: Tensor | float) -> Tensor:
    """How many standard errors the mean over the first dimension lies from the exact value."""
    return (draws.mean(0) - exact) / (draws.std(0) / len(draws) ** 0.5)
