"""What a KL is held to: a capacity, a floor, a balance between groups of latents."""

from collections.abc import Sequence
from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torch.distributions import kl_divergence as _closed_form_kl

from vaekit import _checks
from vaekit.distributions import (
    DiagonalGaussian,
    IndependentBernoulli,
    StandardGaussian,
    log_prob_by_dimension,
)
from vaekit.distributions.supports import check_comparable
from vaekit.losses.elbo import _posterior_and_prior

__all__ = ["balanced_kl", "capacity", "free_bits", "kl_by_dimension"]


def kl_by_dimension(
    posterior: Distribution, prior: Distribution | None = None, *, z: Tensor | None = None
) -> Float[Tensor, "*batch dim"]:
    r"""Kullback-Leibler divergence of each latent dimension by itself.

    .. math:: \operatorname{KL}\left( q(z_j \mid x) \,\|\, p(z_j) \right)

    The closed form where torch's registry has one, and then exact; elsewhere the unbiased mean over
    the draws ``z``. The sum over the dimensions is `kl_divergence`.

    Args:
        posterior: :math:`q(z \mid x)`, whose dimensions are independent.
        prior: :math:`p(z)`, whose dimensions are independent; the standard normal if None.
        z: Draws from the posterior for the Monte Carlo estimate; one is drawn if None.

    Shape:
        Posterior of batch ``(B,)``, ``z: (B, dim)`` or ``(K, B, dim)``; returns ``(B, dim)``. In
        nats.

    Raises:
        TypeError: If posterior or prior has no densities by dimension.

    Example:
        >>> q = vk.distributions.DiagonalGaussian(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
        >>> kl_by_dimension(q)
        tensor([[0., 2.]])
    """
    q, p = _posterior_and_prior(posterior, prior)
    one, other = _univariate(q), _univariate(p)
    if one is not None and other is not None:
        with suppress(NotImplementedError):
            return _closed_form_kl(one, other)
    check_comparable(q, p)
    if z is None:
        z = q.rsample()
    difference = log_prob_by_dimension(q, z) - log_prob_by_dimension(p, z)
    return difference.mean(0) if difference.ndim > len(q.batch_shape) + 1 else difference


def capacity(
    kl: Float[Tensor, "*batch"], target: float | Float[Tensor, ""]
) -> Float[Tensor, "*batch"]:
    r"""How far a KL lies from the capacity that it is to have.

    .. math:: \left| \operatorname{KL}(q(z \mid x) \| p(z)) - C \right|

    Taken for each element, as the formula is written; where the absolute value is taken of the
    batch's mean instead, elements above C make up for others below it.

    Args:
        kl: The KL of each element.
        target: C, in nats.

    Shape:
        ``kl: (B,)``, returns ``(B,)``. In nats.

    Raises:
        ValueError: If ``target`` is a negative number, which no KL can have.

    Example:
        >>> capacity(torch.tensor([1.0, 5.0]), 4.0)
        tensor([3., 1.])

    References:
        C. P. Burgess et al., *Understanding Disentangling in beta-VAE*, 2018, equation 8.
    """
    if not isinstance(target, Tensor):
        target = _checks.number("target", target, low=0)
    return (kl - target).abs()


def free_bits(
    kl: Float[Tensor, "batch dim"], floor: float, groups: Sequence[int] | None = None
) -> Float[Tensor, ""]:
    r"""The KL of which each group of latents has some nats for nothing.

    .. math:: \sum_g \max\Big( \lambda,\, \frac{1}{B} \sum_b
              \operatorname{KL}(q(z_g \mid x_b) \| p(z_g)) \Big)

    A statistic of the batch: a scalar. Groups whose mean KL lies below the floor have no gradient.

    Args:
        kl: The KL of each dimension, as `kl_by_dimension` returns it.
        floor: :math:`\lambda`, in nats for each group.
        groups: How many dimensions each group has, in order; every dimension by itself if None.

    Shape:
        ``kl: (B, dim)``, returns a scalar. In nats.

    Raises:
        ValueError: If ``floor`` is negative, a group has no dimension, or the groups do not add up
            to ``dim``.

    Example:
        >>> free_bits(torch.tensor([[0.1, 3.0], [0.3, 1.0]]), floor=0.5)
        tensor(2.5000)

    References:
        D. P. Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*,
        2016, equation 15.
    """
    return _grouped(kl, groups).mean(0).clamp_min(_checks.number("floor", floor, low=0)).sum()


def balanced_kl(kl: Float[Tensor, "batch dim"], groups: Sequence[int]) -> Float[Tensor, " batch"]:
    r"""The KL whose groups of latents weigh the more the more they carry.

    .. math:: \sum_g \gamma_g \operatorname{KL}(q(z_g \mid x) \| p(z_g)), \qquad
              \gamma_g \propto \frac{1}{B} \sum_b \operatorname{KL}_g(b) + 0.01, \qquad
              \operatorname{mean}_g \gamma_g = 1

    The weights are without a gradient. A group that carries nothing is so hardly pushed to carry
    less, which keeps all groups in use while the KL is warmed up. The value is no bound: go over to
    the plain KL afterwards.

    Args:
        kl: The KL of each dimension, as `kl_by_dimension` returns it.
        groups: How many dimensions each group has, in order.

    Shape:
        ``kl: (B, dim)``, returns ``(B,)``; the weights are statistics of the batch. In nats.

    Raises:
        ValueError: If a group has no dimension, or the groups do not add up to ``dim``.

    Example:
        >>> balanced_kl(torch.tensor([[0.99, 2.99]]), groups=[1, 1])
        tensor([4.9800])

    References:
        A. Vahdat and J. Kautz, *NVAE: A Deep Hierarchical Variational Autoencoder*, 2020, appendix
        A; the 0.01 is that of its published code, with its groups of equal size.
    """
    by_group = _grouped(kl, groups)
    share = by_group.detach().mean(0).abs() + 0.01
    return (share / share.mean() * by_group).sum(-1)


def _univariate(distribution: Distribution) -> Distribution | None:
    """Return the distribution of each dimension, its dimensions those of a batch."""
    if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims == 1:
        base: Distribution = distribution.base_dist
        if isinstance(base, Normal):
            return DiagonalGaussian(base.loc, 2 * base.scale.log(), 0, validate_args=False)
        return base
    if len(distribution.event_shape) != 1:
        return None
    if isinstance(distribution, IndependentBernoulli):  # relaxed ones are taken for hard ones
        return IndependentBernoulli(distribution.logits, 0)
    if isinstance(distribution, StandardGaussian):
        return StandardGaussian(distribution.mu, 0)
    if isinstance(distribution, DiagonalGaussian):
        return DiagonalGaussian(distribution.mu, distribution.logvar, 0, validate_args=False)
    return None


def _grouped(kl: Tensor, groups: Sequence[int] | None) -> Tensor:
    if groups is None:
        return kl
    sizes = [_checks.positive_int("groups", size) for size in groups]
    if sum(sizes) != kl.shape[-1]:
        what = f"sizes that add up to {kl.shape[-1]} dimensions"
        raise ValueError(_checks.expected("groups", what, sizes))
    return torch.stack([part.sum(-1) for part in kl.split(sizes, -1)], -1)
