"""What a KL is held to: a capacity, a floor, a balance between groups of latents."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torch.distributions import kl_divergence as _closed_form_kl

from vaekit import _checks
from vaekit.distributions import (
    Chain,
    DiagonalGaussian,
    IndependentBernoulli,
    Joint,
    StandardGaussian,
    log_prob_by_dimension,
)
from vaekit.distributions.gaussians import of_normal
from vaekit.distributions.supports import check_comparable
from vaekit.distributions.unrounded import unrounded
from vaekit.losses.elbo import KLMethod, _posterior_and_prior, kl_divergence, over_draws

__all__ = ["balanced_kl", "capacity", "free_bits", "kl_by_dimension", "kl_by_group"]


def kl_by_dimension(
    posterior: Distribution, prior: Distribution | None = None, *, z: Tensor | None = None
) -> Float[Tensor, "*batch dim"]:
    r"""Kullback-Leibler divergence of each latent dimension by itself.

    .. math:: \operatorname{KL}\left( q(z_j \mid x) \,\|\, p(z_j) \right)

    The closed form where torch's registry has one, and then exact; elsewhere the unbiased mean over
    the draws ``z``. Of a `vaekit.distributions.Joint` each part has its own. The sum over the
    dimensions is `kl_divergence`, unless that is estimated for a product that has a relaxed part:
    it takes all parts by their densities then, and here only those are without a closed form.

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

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, appendix B, whose sum
        over j it is before the sum is taken.
    """
    return _by_dimension(*_posterior_and_prior(posterior, prior), z)


def kl_by_group(
    posterior: Distribution,
    prior: Distribution | None,
    groups: Sequence[int],
    *,
    z: Tensor | None = None,
) -> Float[Tensor, "*batch groups"]:
    r"""Kullback-Leibler divergence of each group of latents, which add up to the whole.

    .. math:: \operatorname{KL}_g = \mathbb{E}_{q(z \mid x)} \left[
              \log q(z_g \mid z_{\text{before}}, x) - \log p(z_g \mid z_{\text{before}}) \right]

    Of independent groups it is :math:`\operatorname{KL}(q(z_g \mid x) \| p(z_g))`; of the layers of
    a hierarchy, the divergence of each given the draws it depends on. A single group is the whole
    KL, of any posterior and prior. The closed form is used where torch's registry has one: exact,
    or of a layer exact given the draws before it, and so unbiased. Elsewhere, and between
    hierarchies inferred one way and generated the other, it is the unbiased mean of differences of
    log-densities at the draws ``z``; each may fall below 0.

    Args:
        posterior: :math:`q(z \mid x)`: a `vaekit.distributions.Joint`, a
            `vaekit.distributions.Chain`, or one whose dimensions are independent.
        prior: :math:`p(z)`, likewise, divided as the posterior is; the standard normal if None.
        groups: How many dimensions each group has, in order: one or several parts or layers, or a
            piece of one whose dimensions are independent.
        z: Draws from the posterior, where they are needed; one is drawn if None.

    Shape:
        Posterior of batch ``(B,)``, ``z: (B, dim)`` or ``(K, B, dim)``; returns ``(B, G)``. In
        nats.

    Raises:
        TypeError: If posterior or prior cannot be divided into these groups.
        ValueError: If a group has no dimension, or the groups do not add up to ``dim``.

    Example:
        >>> mu = torch.tensor([[0.0, 2.0, 1.0]])
        >>> q = vk.distributions.DiagonalGaussian(mu, torch.zeros(1, 3))
        >>> kl_by_group(q, None, groups=[2, 1])
        tensor([[2.0000, 0.5000]])

    References:
        D. P. Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*,
        2016, equation 15; A. Vahdat and J. Kautz, *NVAE: A Deep Hierarchical Variational
        Autoencoder*, 2020, section 3.
    """
    q, p = _posterior_and_prior(posterior, prior)
    return _by_group(q, p, _group_sizes(groups, q.event_shape.numel()), z, None)


def capacity(
    kl: Float[Tensor, "..."], target: float | Float[Tensor, "*groups"]
) -> Float[Tensor, "*batch"]:
    r"""How far a KL lies from the capacity that it is to have.

    .. math:: \left| \operatorname{KL}(q(z \mid x) \| p(z)) - C \right|
              \qquad \text{or} \qquad \sum_g \left| \operatorname{KL}_g - C_g \right|

    Taken for each element, as the formula is written; where the absolute value is taken of the
    batch's mean instead, elements above C make up for others below it.

    Args:
        kl: The KL of each element; or of each of its groups, as `kl_by_group` returns it.
        target: C, in nats; or that of each group.

    Shape:
        ``kl: (B,)`` and a number or a scalar, or ``kl: (B, G)`` and ``target: (G,)``; returns
        ``(B,)``. In nats.

    Raises:
        ValueError: If ``target`` is a negative number, which no KL can have.

    Example:
        >>> capacity(torch.tensor([1.0, 5.0]), 4.0)
        tensor([3., 1.])

    References:
        C. P. Burgess et al., *Understanding Disentangling in beta-VAE*, 2018, equation 8; E.
        Dupont, *Learning Disentangled Joint Continuous and Discrete Representations*, 2018,
        section 3, for a capacity of each group.
    """
    if not isinstance(target, Tensor):
        target = _checks.number("target", target, low=0)
    elif target.ndim:
        return (kl - target).abs().sum(-1)
    return (kl - target).abs()


def free_bits(
    kl: Float[Tensor, "batch columns"], floor: float, groups: Sequence[int] | None = None
) -> Float[Tensor, ""]:
    r"""The KL of which each group of latents has some nats for nothing.

    .. math:: \sum_g \max\Big( \lambda,\, \frac{1}{B} \sum_b
              \operatorname{KL}(q(z_g \mid x_b) \| p(z_g)) \Big)

    A statistic of the batch: a scalar. Groups whose mean KL lies below the floor have no gradient.

    Args:
        kl: The KL of each dimension, as `kl_by_dimension` returns it, or of each group, as
            `kl_by_group` does.
        floor: :math:`\lambda`, in nats for each group.
        groups: How many columns of ``kl`` each group has, in order; each is one by itself if None.

    Shape:
        ``kl: (B, dim)`` or ``(B, G)``, returns a scalar. In nats.

    Raises:
        ValueError: If ``floor`` is negative, a group has no column, or the groups do not add up
            to as many as there are.

    Example:
        >>> free_bits(torch.tensor([[0.1, 3.0], [0.3, 1.0]]), floor=0.5)
        tensor(2.5000)

    References:
        D. P. Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*,
        2016, equation 15.
    """
    return _grouped(kl, groups).mean(0).clamp_min(_checks.number("floor", floor, low=0)).sum()


def balanced_kl(
    kl: Float[Tensor, "batch columns"], groups: Sequence[int] | None = None
) -> Float[Tensor, " batch"]:
    r"""The KL whose groups of latents weigh the more the more they carry.

    .. math:: \sum_g \gamma_g \operatorname{KL}(q(z_g \mid x) \| p(z_g)), \qquad
              \gamma_g \propto \frac{1}{B} \sum_b \operatorname{KL}_g(b) + 0.01, \qquad
              \operatorname{mean}_g \gamma_g = 1

    The weights are without a gradient. A group that carries nothing is so hardly pushed to carry
    less, which keeps all groups in use while the KL is warmed up. The value is no bound: go over to
    the plain KL afterwards.

    Args:
        kl: As for `free_bits`.
        groups: As for `free_bits`.

    Shape:
        ``kl: (B, dim)`` or ``(B, G)``, returns ``(B,)``; the weights are statistics of the batch.
        In nats.

    Raises:
        ValueError: If a group has no column, or the groups do not add up to as many as there are.

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


def _by_dimension(
    q: Distribution, p: Distribution, z: Tensor | None, method: KLMethod | None = None
) -> Tensor:
    if isinstance(q, Joint) and method is None:
        parts = _alike(q, p)
        if parts is not None:
            pieces = [None] * len(parts) if z is None else q.split(z)
            each = [_by_dimension(*three) for three in zip(q.parts, parts, pieces, strict=True)]
            return q._joined(each)
    one, other = _univariate(q), _univariate(p)
    if one is not None and other is not None and method is None:
        with suppress(NotImplementedError):
            return _closed_form_kl(one, other)
    check_comparable(q, p)
    if z is None:
        z = q.rsample()
    z, (q, p) = unrounded(z, q, p)
    difference = log_prob_by_dimension(q, z, "posterior") - log_prob_by_dimension(p, z, "prior")
    return over_draws(difference, len(q.batch_shape) + 1)


def _by_group(
    q: Distribution,
    p: Distribution,
    sizes: Sequence[int],
    z: Tensor | None,
    method: KLMethod | None,
) -> Tensor:
    if len(sizes) == 1:
        return kl_divergence(q, p, z=z, method=method)[..., None]
    chains = [distribution for distribution in (q, p) if isinstance(distribution, Chain)]
    if chains and z is None:
        z = q.rsample()
    if len({chain.reverse for chain in chains}) > 1:  # then no layer's KL is one given the others
        method = "monte_carlo"
    parts = _parts(q, p, z)
    if parts is None:
        return _grouped(_by_dimension(q, p, z, method), sizes)
    by_part, ends, start = [], [0], 0
    for part, prior, piece in parts:
        stop = start + part.event_shape.numel()
        edges = [start, *(end for end in accumulate(sizes) if start < end < stop), stop]
        within = _by_group(part, prior, [b - a for a, b in pairwise(edges)], piece, method)
        by_part.append(over_draws(within, len(q.batch_shape) + 1))
        ends, start = ends + edges[1:], stop
    counts = [sum(a < end <= b for end in ends) for a, b in pairwise([0, *accumulate(sizes)])]
    return _grouped(torch.cat(by_part, -1), counts)


def _parts(
    q: Distribution, p: Distribution, z: Tensor | None
) -> list[tuple[Distribution, Distribution, Tensor | None]] | None:
    """Divide posterior, prior and draws where one of the two consists of parts."""
    whole = next((each for each in (q, p) if isinstance(each, Joint | Chain)), None)
    if whole is None or whole.layout is None:
        return None
    sizes = whole.layout
    one, other = _divided(q, sizes, z), _divided(p, sizes, z)
    if one is None or other is None:
        return None
    pieces = [None] * len(sizes) if z is None else z.split(sizes, -1)
    return list(zip(one, other, pieces, strict=True))


def _divided(
    distribution: Distribution, sizes: list[int], z: Tensor | None
) -> list[Distribution] | None:
    """Return the distribution of each part, given what z holds of others; None if unknown."""
    if isinstance(distribution, Chain):
        return distribution.given(z) if z is not None and distribution.layout == sizes else None
    if isinstance(distribution, Joint):
        return distribution.parts if distribution.layout == sizes else None
    one = _univariate(distribution)
    if isinstance(one, StandardGaussian):
        return [StandardGaussian(zeros) for zeros in one.mu.split(sizes, -1)]
    if isinstance(one, DiagonalGaussian):
        mus, logvars = one.mu.split(sizes, -1), one.logvar.expand_as(one.mu).split(sizes, -1)
        pairs = zip(mus, logvars, strict=True)
        return [DiagonalGaussian(mu, logvar, validate_args=False) for mu, logvar in pairs]
    return None


def _alike(q: Joint, p: Distribution) -> list[Distribution] | None:
    """Divide a prior as a joint posterior is, in columns too; None if unknown."""
    if isinstance(p, Joint):
        return p.parts if (p._sizes, p.columns) == (q._sizes, q.columns) else None
    one = _univariate(p)
    if not isinstance(one, DiagonalGaussian):
        return None
    pairs = zip(q.split(one.mu), q.split(one.logvar.expand_as(one.mu)), strict=True)
    return [DiagonalGaussian(mu, logvar, validate_args=False) for mu, logvar in pairs]


def _univariate(distribution: Distribution) -> Distribution | None:
    """Return the distribution of each dimension, its dimensions those of a batch."""
    if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims == 1:
        base: Distribution = distribution.base_dist
        if isinstance(base, Normal):
            return of_normal(base, 0)
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


def _group_sizes(groups: Sequence[int], total: int) -> list[int]:
    sizes = _checks.positive_ints("groups", groups)
    _checks.require(sum(sizes) == total, "groups", f"sizes that add up to {total}", sizes)
    return sizes


def _grouped(kl: Tensor, groups: Sequence[int] | None) -> Tensor:
    if groups is None:
        return kl
    sizes = _group_sizes(groups, kl.shape[-1])
    return torch.stack([part.sum(-1) for part in kl.split(sizes, -1)], -1)
