"""How much of the latent space a model uses."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit import _checks, losses
from vaekit.metrics.likelihood import batches_of
from vaekit.metrics.means import Mean, mean_of
from vaekit.training import measuring
from vaekit.vae import VAE

__all__ = ["ActiveUnits", "KLByDimension", "active_units", "kl_by_dimension"]


class ActiveUnits(NamedTuple):
    """Which latent dimensions answer to the data.

    Attributes:
        number: How many do.
        active: Which do, ``(dim,)``.
        variance: Of each dimension's posterior mean over the data, ``(dim,)``.
    """

    number: int
    active: Tensor
    variance: Tensor


class KLByDimension(NamedTuple):
    """How many nats each latent dimension carries.

    Attributes:
        total: Their sum, with its standard error over the elements.
        mean: Of each dimension over the data, ``(dim,)``, in nats.
        standard_error: Of each mean, over the elements, ``(dim,)``.
        order: The dimensions, the one that carries most first, ``(dim,)``.
    """

    total: Mean
    mean: Tensor
    standard_error: Tensor
    order: Tensor


@torch.no_grad()
def active_units(
    model: VAE, data: Any, *, threshold: float = 0.01, batch_size: int = 512
) -> ActiveUnits:
    r"""Count the latent dimensions whose posterior means vary with the data.

    .. math:: \operatorname{Var}_x \, \mathbb{E}_{q(z_j \mid x)}[z_j] > \delta

    The variance is the unbiased one over the data.

    Args:
        model: The model, measured in evaluation mode.
        data: As for `vaekit.fit`.
        threshold: :math:`\delta`, above 0.
        batch_size: How many elements are gone through at once, where the data come unbatched.

    Raises:
        TypeError: If the data are none that can be gone through.
        ValueError: If there are fewer than two elements, or ``threshold`` is not above 0.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> active_units(model, test).variance.shape
        torch.Size([2])

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        section 5.2.
    """
    _checks.number("threshold", threshold, above=0)
    means = []
    with measuring(model, 0) as device:
        for x, _, context in batches_of(model, data, batch_size, device):
            means.append(model.encode(x, context).mean.cpu())
    mean = torch.cat(means).double()
    if len(mean) < 2:
        raise ValueError(_checks.expected("data", "at least two elements", len(mean)))
    variance = mean.var(0)
    active = variance > threshold
    return ActiveUnits(int(active.sum()), active, variance)


@torch.no_grad()
def kl_by_dimension(
    model: VAE, data: Any, *, batch_size: int = 512, seed: int = 0
) -> KLByDimension:
    r"""Measure the divergence of each latent dimension from the prior's.

    .. math:: \frac{1}{N} \sum_n \operatorname{KL}(q(z_j \mid x_n) \,\|\, p(z_j))

    By the closed form where there is one; elsewhere from one draw for each element, unbiased.

    Args:
        model: The model, measured in evaluation mode, whose posterior and prior have independent
            dimensions.
        data: As for `vaekit.fit`.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        seed: Of the draws, where there are any.

    Raises:
        TypeError: If the data are none that can be gone through, or posterior or prior has no
            densities by dimension.
        ValueError: If there are none.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> found = kl_by_dimension(model, test)
        >>> bool(found.mean[found.order[0]] >= found.mean[found.order[1]])
        True
    """
    parts = []
    with measuring(model, seed) as device:
        for x, _, context in batches_of(model, data, batch_size, device):
            out = model(x, context=context)
            parts.append(losses.kl_by_dimension(out.posterior, out.prior, z=out.z).cpu())
    kl = torch.cat(parts).double()
    mean = kl.mean(0)
    error = kl.std(0) / len(kl) ** 0.5 if len(kl) > 1 else torch.full_like(mean, torch.nan)
    return KLByDimension(mean_of(kl.sum(1)), mean, error, mean.argsort(descending=True))
