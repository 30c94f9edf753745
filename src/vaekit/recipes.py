r"""Published variants, each a few lines of composition.

Every recipe returns a `Recipe`: the model, and the objective that trains it. What it is made of can
be read off its few lines, changed, and combined with others: that is their purpose.

All take the likelihood of the data and the number of latent dimensions; ``nets`` says which
networks to build, perceptrons of one hidden layer of 400 if nothing is said.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit import _checks, latents, networks, objectives, priors, schedules
from vaekit.hierarchy import BottomUp, Ladder, TopDown
from vaekit.latents import GaussianLatent
from vaekit.likelihoods import Gaussian, Likelihood
from vaekit.objectives import KL, Objective, Reconstruction, Term
from vaekit.vae import VAE, Decoder, Encoder

__all__ = [
    "Nets",
    "Recipe",
    "aae",
    "annealed_vae",
    "autoencoder",
    "beta_tcvae",
    "beta_vae",
    "capacity_vae",
    "categorical_vae",
    "ciwae",
    "convolutions",
    "cvae",
    "denoising_autoencoder",
    "dip_vae_i",
    "dip_vae_ii",
    "dreg",
    "factor_vae",
    "flow_posterior_vae",
    "flow_prior_vae",
    "hyperspherical_vae",
    "info_vae",
    "iwae",
    "joint_vae",
    "ladder_vae",
    "miwae",
    "perceptrons",
    "rae",
    "renyi_vae",
    "sigma_vae",
    "stl",
    "two_layer_vae",
    "vae",
    "vamp_vae",
    "vq_vae",
    "wae",
]


class Recipe(NamedTuple):
    """What a recipe makes.

    Attributes:
        model: The model.
        objective: What trains it: ``vaekit.fit(*recipe, data, epochs=10)``.

    Example:
        >>> recipe = vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> recipe.objective
        Reconstruction() + KL()
    """

    model: VAE
    objective: Objective


class Nets(NamedTuple):
    """How networks are built.

    Attributes:
        encoder: Takes the shape of an element of the data and a number of outputs.
        decoder: Takes a number of inputs and the shape that comes out.

    Example:
        >>> nets = Nets(
        ...     lambda shape, out: networks.mlp(shape.numel(), [100], out),
        ...     lambda size, shape: networks.mlp(size, [50, 50], shape.numel()),
        ... )
        >>> model, _ = vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2, nets=nets)
    """

    encoder: Callable[[torch.Size, int], networks.Network]
    decoder: Callable[[int, torch.Size], networks.Network]


def perceptrons(
    hidden: Sequence[int] = (400,), activation: Callable[[], nn.Module] = nn.ReLU
) -> Nets:
    """Build perceptrons of these hidden widths, the decoder's mirroring the encoder's.

    Example:
        >>> nets = perceptrons((200, 200), nn.Tanh)
        >>> model, _ = vae(vk.likelihoods.Bernoulli((1, 28, 28)), latent_dim=50, nets=nets)
    """
    return Nets(
        lambda shape, out: networks.mlp(shape.numel(), hidden, out, activation=activation),
        lambda size, shape: networks.mlp(size, hidden[::-1], shape.numel(), activation=activation),
    )


def convolutions(channels: Sequence[int] = (32, 64), hidden: Sequence[int] = (256,)) -> Nets:
    """Build strided convolutions of these channels, the decoder's mirroring the encoder's.

    Example:
        >>> nets = convolutions((32, 32, 64, 64))
        >>> model, _ = vae(vk.likelihoods.Bernoulli((1, 64, 64)), latent_dim=10, nets=nets)
    """
    return Nets(
        lambda shape, out: networks.conv(shape, channels, out, hidden=hidden),
        lambda size, shape: networks.conv_transpose(
            size, channels[::-1], shape, hidden=hidden[::-1]
        ),
    )


_MLP = perceptrons()


def _shape(likelihood: Likelihood) -> torch.Size:
    """Return the shape of an element of the data, or say that there is no likelihood of them."""
    if not isinstance(likelihood, Likelihood):
        what = "a likelihood, like vk.likelihoods.Bernoulli((1, 8, 8))"
        raise TypeError(_checks.expected("likelihood", what, repr(likelihood)))
    return likelihood.shape


def _recipe(
    likelihood: Likelihood,
    latent: Any,
    nets: Nets,
    objective: "Objective | Term",
    prior: Callable[[], Distribution] | None = None,
) -> Recipe:
    encoder = Encoder(nets.encoder(_shape(likelihood), latent.num_params), latent)
    decoder = Decoder(_decoding(likelihood, latent.dim, nets), likelihood)
    return Recipe(VAE(encoder, decoder, prior), Objective() + objective)


def _decoding(likelihood: Likelihood, size: int, nets: Nets) -> networks.Network:
    first, *sides = likelihood.shape
    blocks, rest = divmod(likelihood.num_params, likelihood.shape.numel())
    shape = (likelihood.num_params,) if rest else (blocks * first, *sides)  # blocks of channels
    return nets.decoder(size, torch.Size(shape))


def _encoding(shape: torch.Size, context: int, out: int, nets: Nets) -> networks.Network:
    """Build an encoder's network with room for a context: among channels, or among values."""
    first, *sides = shape
    net = nets.encoder(torch.Size((first + context, *sides)), out)
    if len(net.in_shape) == len(shape):
        return net
    return nets.encoder(torch.Size((shape.numel() + context,)), out)


def _gaussian(
    likelihood: Likelihood, latent_dim: int, nets: Nets, objective: "Objective | Term"
) -> Recipe:
    """Make a VAE of a diagonal Gaussian and a standard normal, trained by any objective."""
    return _recipe(likelihood, GaussianLatent(latent_dim), nets, objective)


def autoencoder(likelihood: Likelihood, latent_dim: int, *, nets: Nets = _MLP) -> Recipe:
    r"""Plain autoencoder: a point for each element, and no prior to generate from.

    .. math:: -\log p(x \mid z(x))

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        nets: The networks to build.

    Example:
        >>> model, objective = autoencoder(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10)
        >>> model.encoder.latent
        DeterministicLatent(dim=10)

    References:
        G. E. Hinton and R. R. Salakhutdinov, *Reducing the Dimensionality of Data with Neural
        Networks*, 2006.
    """
    return _recipe(likelihood, latents.DeterministicLatent(latent_dim), nets, Reconstruction())


def denoising_autoencoder(likelihood: Likelihood, latent_dim: int, *, nets: Nets = _MLP) -> Recipe:
    r"""Denoising autoencoder: train it with ``fit(..., corruption=...)``.

    .. math:: -\log p(x \mid z(\tilde{x})), \qquad \tilde{x} \text{ a corrupted } x

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        nets: The networks to build.

    Example:
        >>> model, objective = denoising_autoencoder(vk.likelihoods.Bernoulli((1, 8, 8)), 10)
        >>> objective
        Reconstruction()

    References:
        P. Vincent et al., *Extracting and Composing Robust Features with Denoising Autoencoders*,
        2008, section 2.3.
    """
    return autoencoder(likelihood, latent_dim, nets=nets)


def rae(
    likelihood: Likelihood,
    latent_dim: int,
    *,
    latent_weight: float = 1e-4,
    penalty_weight: float = 1e-6,
    nets: Nets = _MLP,
) -> Recipe:
    r"""Regularised autoencoder, with the gradient penalty on the decoder.

    To generate, give it a prior afterwards: `vaekit.priors.fit_gaussian_mixture`. The RAE-L2
    regularises the decoder's weights in place of its gradient; that is weight decay for them alone,
    which the optimiser does: ``penalty_weight=0`` and the last lines of the example.

    .. math:: -\log p(x \mid z) + \alpha\, \tfrac{1}{2} \lVert z \rVert^2
              + \beta\, \lVert \nabla_z \hat{x}(z) \rVert_F^2

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        latent_weight: The weight of half the squared norm of the latents.
        penalty_weight: The weight of the decoder's gradient penalty.
        nets: The networks to build.

    Raises:
        ValueError: If a weight is negative.

    Example:
        >>> model, objective = rae(vk.likelihoods.Gaussian((1, 8, 8)), latent_dim=10)
        >>> objective
        Reconstruction() + 0.0001 * LatentL2() + 1e-06 * GradientPenalty()
        >>> decayed = {"params": model.decoder.parameters(), "weight_decay": 1e-6}
        >>> groups = [{"params": model.encoder.parameters()}, decayed]
        >>> optimizer = torch.optim.Adam(groups, lr=1e-3)  # for vaekit.fit(..., optimizer=)

    References:
        P. Ghosh et al., *From Variational to Deterministic Autoencoders*, 2020, section 3.
    """
    model, objective = autoencoder(likelihood, latent_dim, nets=nets)
    penalty = penalty_weight * objectives.GradientPenalty()
    return Recipe(model, objective + latent_weight * objectives.LatentL2() + penalty)


def vae(likelihood: Likelihood, latent_dim: int, *, nets: Nets = _MLP) -> Recipe:
    r"""Variational autoencoder.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \operatorname{KL}(q(z \mid x) \| p(z))

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        nets: The networks to build.

    Example:
        >>> model, objective = vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10)
        >>> objective
        Reconstruction() + KL()

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, equation 10.
    """
    return _gaussian(likelihood, latent_dim, nets, Reconstruction() + KL())


def beta_vae(
    likelihood: Likelihood, latent_dim: int, *, beta: float = 4.0, nets: Nets = _MLP
) -> Recipe:
    r"""beta-VAE.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \beta \operatorname{KL}(q(z \mid x) \| p(z))

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        beta: The weight of the KL.
        nets: The networks to build.

    Raises:
        ValueError: If ``beta`` is negative.

    Example:
        >>> model, objective = beta_vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10, beta=4)
        >>> objective
        Reconstruction() + 4 * KL()

    References:
        I. Higgins et al., *beta-VAE*, 2017, equation 4.
    """
    return _gaussian(likelihood, latent_dim, nets, Reconstruction() + beta * KL())


def annealed_vae(
    likelihood: Likelihood, latent_dim: int, *, steps: int = 10_000, nets: Nets = _MLP
) -> Recipe:
    r"""VAE whose KL is warmed up.

    .. math:: -\mathbb{E}_q \log p(x \mid z)
              + \min(1, \text{step} / \text{steps}) \operatorname{KL}(q(z \mid x) \| p(z))

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        steps: After how many steps the KL has its full weight.
        nets: The networks to build.

    Raises:
        ValueError: If ``steps`` is not above 0.

    Example:
        >>> model, objective = annealed_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 10, steps=5000)
        >>> objective
        Reconstruction() + Linear(start=0, end=1, steps=5000) * KL()

    References:
        S. R. Bowman et al., *Generating Sentences from a Continuous Space*, 2016, section 3.1.
    """
    rising = schedules.Linear(0, 1, steps)
    return _gaussian(likelihood, latent_dim, nets, Reconstruction() + rising * KL())


def capacity_vae(
    likelihood: Likelihood,
    latent_dim: int,
    *,
    gamma: float = 1000.0,
    capacity: float = 25.0,
    steps: int = 100_000,
    nets: Nets = _MLP,
) -> Recipe:
    r"""beta-VAE whose KL follows a capacity that rises.

    .. math:: -\mathbb{E}_q \log p(x \mid z)
              + \gamma \left| \operatorname{KL}(q(z \mid x) \| p(z)) - C \right|

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        gamma: The weight of the distance from the capacity.
        capacity: Where the capacity ends, in nats.
        steps: After how many steps.
        nets: The networks to build.

    Raises:
        ValueError: If ``gamma`` or ``capacity`` is negative, or ``steps`` is not above 0.

    Example:
        >>> model, objective = capacity_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 10, capacity=20)
        >>> objective
        Reconstruction() + 1000 * Capacity(capacity=Linear(start=0, end=20, steps=100000))

    References:
        C. P. Burgess et al., *Understanding disentangling in beta-VAE*, 2018, equation 8.
    """
    held = objectives.Capacity(schedules.Linear(0, capacity, steps))
    return _gaussian(likelihood, latent_dim, nets, Reconstruction() + gamma * held)


def beta_tcvae(
    likelihood: Likelihood, latent_dim: int, *, beta: float = 6.0, nets: Nets = _MLP
) -> Recipe:
    r"""beta-TCVAE.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + I_q(x; z)
              + \beta \operatorname{KL}\big( q(z) \big\| {\textstyle\prod_j} q(z_j) \big)
              + {\textstyle\sum_j} \operatorname{KL}(q(z_j) \| p(z_j))

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        beta: The weight of the total correlation.
        nets: The networks to build.

    Raises:
        ValueError: If ``beta`` is negative.

    Example:
        >>> model, objective = beta_tcvae(vk.likelihoods.Bernoulli((1, 8, 8)), 10, beta=6)
        >>> objective
        Reconstruction() + DecomposedKL(total_correlation=6)

    References:
        R. T. Q. Chen et al., *Isolating Sources of Disentanglement in Variational Autoencoders*,
        2018, equation 4.
    """
    kl = objectives.DecomposedKL(total_correlation=beta)
    return _gaussian(likelihood, latent_dim, nets, Reconstruction() + kl)


def factor_vae(
    likelihood: Likelihood, latent_dim: int, *, gamma: float = 10.0, nets: Nets = _MLP
) -> Recipe:
    r"""FactorVAE, whose discriminator belongs to its term.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \operatorname{KL}(q(z \mid x) \| p(z))
              + \gamma \operatorname{KL}\big( q(z) \big\| {\textstyle\prod_j} q(z_j) \big)

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        gamma: The weight of the total correlation, added to that in the KL.
        nets: The networks to build.

    Raises:
        ValueError: If ``gamma`` is negative.

    Example:
        >>> model, objective = factor_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 10, gamma=35)
        >>> objective
        Reconstruction() + KL() + 35 * AdversarialTotalCorrelation(discriminator=10)

    References:
        H. Kim and A. Mnih, *Disentangling by Factorising*, 2018, equation 2 and algorithm 2.
    """
    model, objective = vae(likelihood, latent_dim, nets=nets)
    return Recipe(model, objective + gamma * objectives.AdversarialTotalCorrelation(latent_dim))


def dip_vae_i(
    likelihood: Likelihood,
    latent_dim: int,
    *,
    off_diagonal: float = 10.0,
    diagonal: float = 100.0,
    nets: Nets = _MLP,
) -> Recipe:
    r"""DIP-VAE I: the covariance of the means over the batch is drawn to the identity.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \operatorname{KL}(q(z \mid x) \| p(z))
              + \lambda_{od} \sum_{i \neq j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        off_diagonal: The weight of squared covariances.
        diagonal: The weight of the variances' squared distances from 1.
        nets: The networks to build.

    Raises:
        ValueError: If a weight is negative.

    Example:
        >>> model, objective = dip_vae_i(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10)
        >>> objective
        Reconstruction() + KL() + DIP(off_diagonal=10.0, diagonal=100.0)

    References:
        A. Kumar, P. Sattigeri and A. Balakrishnan, *Variational Inference of Disentangled Latent
        Concepts from Unlabeled Observations*, 2018, equation 6.
    """
    model, objective = vae(likelihood, latent_dim, nets=nets)
    return Recipe(model, objective + objectives.DIP(off_diagonal, diagonal))


def dip_vae_ii(
    likelihood: Likelihood,
    latent_dim: int,
    *,
    off_diagonal: float = 10.0,
    diagonal: float = 10.0,
    nets: Nets = _MLP,
) -> Recipe:
    r"""DIP-VAE II: the covariance of the draws over the batch is drawn to the identity.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \operatorname{KL}(q(z \mid x) \| p(z))
              + \lambda_{od} \sum_{i \neq j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        off_diagonal: The weight of squared covariances.
        diagonal: The weight of the variances' squared distances from 1.
        nets: The networks to build.

    Raises:
        ValueError: If a weight is negative.

    Example:
        >>> model, objective = dip_vae_ii(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10)
        >>> objective
        Reconstruction() + KL() + DIP(off_diagonal=10.0, diagonal=10.0, within=True)

    References:
        A. Kumar, P. Sattigeri and A. Balakrishnan, *Variational Inference of Disentangled Latent
        Concepts from Unlabeled Observations*, 2018, equation 7.
    """
    model, objective = vae(likelihood, latent_dim, nets=nets)
    return Recipe(model, objective + objectives.DIP(off_diagonal, diagonal, within=True))


def info_vae(
    likelihood: Likelihood,
    latent_dim: int,
    *,
    alpha: float = 0.0,
    scale: float = 1000.0,
    nets: Nets = _MLP,
) -> Recipe:
    r"""InfoVAE with the MMD; ``alpha`` 0 and ``scale`` 1 give the weights 1 and 0 of a VAE.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + (1 - \alpha) \operatorname{KL}(q(z \mid x) \| p(z))
              + (\alpha + \lambda - 1) \operatorname{MMD}^2(q(z), p(z))

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        alpha: The weight of the mutual information, at most 1.
        scale: :math:`\lambda`; the MMD is weighed by :math:`\alpha + \lambda - 1`.
        nets: The networks to build.

    Raises:
        ValueError: If ``alpha`` gives one of the terms a negative weight.

    Example:
        >>> model, objective = info_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 10, scale=500)
        >>> objective
        Reconstruction() + KL() + 499 * MMD()

    References:
        S. Zhao, J. Song and S. Ermon, *InfoVAE*, 2019, section 4.
    """
    what, got = "at most 1, and at least 1 - scale", f"{alpha} with scale={scale}"
    _checks.require(1 - scale <= alpha <= 1, "alpha", what, got)
    divergences = (1 - alpha) * KL() + (alpha + scale - 1) * objectives.MMD()
    return _gaussian(likelihood, latent_dim, nets, Reconstruction() + divergences)


def wae(
    likelihood: Likelihood, latent_dim: int, *, scale: float = 10.0, nets: Nets = _MLP
) -> Recipe:
    r"""Wasserstein autoencoder with the MMD.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \lambda \operatorname{MMD}^2(q(z), p(z))

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        scale: The weight of the MMD.
        nets: The networks to build.

    Raises:
        ValueError: If ``scale`` is negative.

    Example:
        >>> model, objective = wae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10)
        >>> objective
        Reconstruction() + 10 * MMD()

    References:
        I. Tolstikhin et al., *Wasserstein Auto-Encoders*, 2018, algorithm 2.
    """
    model, objective = autoencoder(likelihood, latent_dim, nets=nets)
    return Recipe(model, objective + scale * objectives.MMD())


def aae(
    likelihood: Likelihood, latent_dim: int, *, scale: float = 1.0, nets: Nets = _MLP
) -> Recipe:
    r"""Adversarial autoencoder, whose discriminator belongs to its term.

    .. math:: -\mathbb{E}_q \log p(x \mid z)
              - \lambda\, \mathbb{E}_q \log \operatorname{sigmoid}(-D(z))

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        scale: The weight of the adversarial term.
        nets: The networks to build.

    Raises:
        ValueError: If ``scale`` is negative.

    Example:
        >>> model, objective = aae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10)
        >>> objective
        Reconstruction() + AdversarialPrior(discriminator=10)

    References:
        A. Makhzani et al., *Adversarial Autoencoders*, 2015, section 2.
    """
    model, objective = autoencoder(likelihood, latent_dim, nets=nets)
    return Recipe(model, objective + scale * objectives.AdversarialPrior(latent_dim))


def iwae(likelihood: Likelihood, latent_dim: int, *, nets: Nets = _MLP) -> Recipe:
    r"""Importance-weighted autoencoder: train it with ``fit(..., samples=50)``.

    .. math:: -\mathbb{E} \log \frac{1}{K} \sum_k w_k, \qquad
              w_k = \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        nets: The networks to build.

    Example:
        >>> model, objective = iwae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10)
        >>> objective
        ImportanceWeighted()

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        equation 8.
    """
    return _gaussian(likelihood, latent_dim, nets, objectives.ImportanceWeighted())


def miwae(likelihood: Likelihood, latent_dim: int, *, groups: int = 8, nets: Nets = _MLP) -> Recipe:
    r"""Mean of several importance-weighted bounds: ``samples`` is a multiple of ``groups``.

    .. math:: -\mathbb{E} \frac{1}{M} \sum_m \log \frac{M}{K} \sum_k w_{m,k}

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        groups: Over how many groups of draws bounds are averaged.
        nets: The networks to build.

    Raises:
        ValueError: If ``groups`` is not above 0.

    Example:
        >>> model, objective = miwae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10, groups=5)
        >>> objective
        ImportanceWeighted(groups=5)

    References:
        T. Rainforth et al., *Tighter Variational Bounds are Not Necessarily Better*, 2018,
        section 5.
    """
    return _gaussian(likelihood, latent_dim, nets, objectives.ImportanceWeighted(groups=groups))


def ciwae(
    likelihood: Likelihood, latent_dim: int, *, beta: float = 0.5, nets: Nets = _MLP
) -> Recipe:
    r"""Convex combination of the ELBO and the importance-weighted bound.

    .. math:: \beta \left( -\mathbb{E}_q \log p(x \mid z)
              + \operatorname{KL}(q(z \mid x) \| p(z)) \right)
              - (1 - \beta)\, \mathbb{E} \log \frac{1}{K} \sum_k w_k

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        beta: The weight of the ELBO, from 0 to 1.
        nets: The networks to build.

    Raises:
        ValueError: If ``beta`` is not from 0 to 1.

    Example:
        >>> model, objective = ciwae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10, beta=0.5)
        >>> objective
        0.5 * Reconstruction() + 0.5 * KL(method='monte_carlo') + 0.5 * ImportanceWeighted()

    References:
        T. Rainforth et al., *Tighter Variational Bounds are Not Necessarily Better*, 2018,
        section 5.
    """
    _checks.require(0 <= beta <= 1, "beta", "a number from 0 to 1", beta)
    elbo, bound = Reconstruction() + KL("monte_carlo"), objectives.ImportanceWeighted()
    return _gaussian(likelihood, latent_dim, nets, beta * elbo + (1 - beta) * bound)


def stl(likelihood: Likelihood, latent_dim: int, *, nets: Nets = _MLP) -> Recipe:
    r"""Importance-weighted autoencoder with the path derivative ("sticking the landing").

    .. math:: \nabla_\phi = -\sum_k \tilde{w}_k \frac{\partial \log w_k}{\partial z_k}
              \frac{\partial z_k}{\partial \phi}, \qquad \tilde{w}_k = w_k / {\textstyle\sum_l} w_l

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        nets: The networks to build.

    Example:
        >>> model, objective = stl(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10)
        >>> objective
        ImportanceWeighted(gradient='stl')

    References:
        G. Roeder, Y. Wu and D. Duvenaud, *Sticking the Landing*, 2017, section 3.
    """
    return _gaussian(likelihood, latent_dim, nets, objectives.ImportanceWeighted(gradient="stl"))


def dreg(likelihood: Likelihood, latent_dim: int, *, nets: Nets = _MLP) -> Recipe:
    r"""Importance-weighted autoencoder with the doubly reparameterised gradient.

    .. math:: \nabla_\phi = -\sum_k \tilde{w}_k^2 \frac{\partial \log w_k}{\partial z_k}
              \frac{\partial z_k}{\partial \phi}, \qquad \tilde{w}_k = w_k / {\textstyle\sum_l} w_l

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        nets: The networks to build.

    Example:
        >>> model, objective = dreg(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=10)
        >>> objective
        ImportanceWeighted(gradient='dreg')

    References:
        G. Tucker et al., *Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives*,
        2019, equation 8.
    """
    return _gaussian(likelihood, latent_dim, nets, objectives.ImportanceWeighted(gradient="dreg"))


def renyi_vae(
    likelihood: Likelihood, latent_dim: int, *, alpha: float = 0.5, nets: Nets = _MLP
) -> Recipe:
    r"""Rényi VAE of order ``alpha``: 0 is the IWAE, 1 the VAE.

    .. math:: -\frac{1}{1 - \alpha} \mathbb{E} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        alpha: The order of the divergence.
        nets: The networks to build.

    Raises:
        ValueError: If ``alpha`` is not finite.

    Example:
        >>> model, objective = renyi_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 10, alpha=0.5)
        >>> objective
        ImportanceWeighted(alpha=0.5)

    References:
        Y. Li and R. E. Turner, *Rényi Divergence Variational Inference*, 2016, section 4.
    """
    return _gaussian(likelihood, latent_dim, nets, objectives.ImportanceWeighted(alpha))


def sigma_vae(shape: Sequence[int], latent_dim: int, *, nets: Nets = _MLP) -> Recipe:
    r"""sigma-VAE: a Gaussian likelihood whose sigma is the optimal one.

    .. math:: \mathbb{E}_q\, \tfrac{n}{2} \log \operatorname{MSE}(x, \hat{x}(z))
              + \operatorname{KL}(q(z \mid x) \| p(z)) + \text{const}

    Args:
        shape: The shape of one element of the data.
        latent_dim: The number of latent dimensions.
        nets: The networks to build.

    Example:
        >>> model, objective = sigma_vae((1, 8, 8), latent_dim=10)
        >>> model.decoder.likelihood
        Gaussian(shape=(1, 8, 8), sigma=optimal)

    References:
        O. Rybkin, K. Daniilidis and S. Levine, *Simple and Effective VAE Training with Calibrated
        Decoders*, 2021, section 3.
    """
    return vae(Gaussian(shape, sigma="optimal"), latent_dim, nets=nets)


def vamp_vae(
    likelihood: Likelihood, latent_dim: int, pseudo_inputs: Tensor, *, nets: Nets = _MLP
) -> Recipe:
    r"""VAE with the VampPrior.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \operatorname{KL}(q(z \mid x) \| p(z)), \qquad
              p(z) = \frac{1}{K} \sum_k q(z \mid u_k)

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        pseudo_inputs: Where they start, ``(K, *shape)``: elements of the training data, say.
        nets: The networks to build.

    Raises:
        ValueError: If the shape of ``pseudo_inputs`` does not fit.

    Example:
        >>> likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
        >>> model, objective = vamp_vae(likelihood, 10, torch.rand(50, 1, 8, 8))
        >>> model.prior
        VampPrior(dim=10, pseudo_inputs=(50, 1, 8, 8))

    References:
        J. M. Tomczak and M. Welling, *VAE with a VampPrior*, 2018, section 3.
    """
    model, objective = vae(likelihood, latent_dim, nets=nets)
    model.prior = priors.VampPrior(model.encoder, pseudo_inputs)
    return Recipe(model, objective)


def flow_posterior_vae(
    likelihood: Likelihood, latent_dim: int, *, context: int = 32, nets: Nets = _MLP
) -> Recipe:
    r"""VAE with an inverse autoregressive flow for its posterior.

    .. math:: -\mathbb{E}_q \log p(x \mid z)
              + \mathbb{E}_q \left[ \log q(z \mid x) - \log p(z) \right]

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        context: How many numbers the encoder hands to the flow's layers.
        nets: The networks to build.

    Raises:
        ImportError: If zuko is missing.

    Example:
        >>> model, objective = flow_posterior_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 10)
        >>> objective
        Reconstruction() + KL()

    References:
        D. P. Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*,
        2016, algorithm 1.
    """
    latent = latents.FlowLatent(latent_dim, context)
    return _recipe(likelihood, latent, nets, Reconstruction() + KL())


def flow_prior_vae(
    likelihood: Likelihood, latent_dim: int, flow: nn.Module, *, nets: Nets = _MLP
) -> Recipe:
    r"""VAE with a flow for its prior: ``flow=zuko.flows.NSF(latent_dim)``, say.

    .. math:: -\mathbb{E}_q \log p(x \mid z)
              + \mathbb{E}_q \left[ \log q(z \mid x) - \log p(z) \right]

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        flow: A flow of zuko over ``latent_dim`` features.
        nets: The networks to build.

    Example:
        >>> import zuko
        >>> likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
        >>> model, objective = flow_prior_vae(likelihood, 10, zuko.flows.NSF(10))
        >>> model.sample(3).shape
        torch.Size([3, 1, 8, 8])

    References:
        X. Chen et al., *Variational Lossy Autoencoder*, 2017, section 3.2.
    """
    latent, prior = GaussianLatent(latent_dim), priors.FlowPrior(flow)
    return _recipe(likelihood, latent, nets, Reconstruction() + KL(), prior)


def categorical_vae(
    likelihood: Likelihood,
    variables: int,
    classes: int,
    *,
    temperature: float = 0.5,
    hard: bool = False,
    nets: Nets = _MLP,
) -> Recipe:
    r"""VAE of categorical latents, relaxed by the Gumbel-softmax.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \operatorname{KL}(q(z \mid x) \| p(z))

    Args:
        likelihood: The likelihood of the data.
        variables: How many variables there are.
        classes: How many classes each has.
        temperature: Of the relaxation, above 0.
        hard: Whether draws are one-hot (straight-through).
        nets: The networks to build.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:
        >>> likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
        >>> model, objective = categorical_vae(likelihood, variables=10, classes=5)
        >>> model.encoder.latent
        CategoricalLatent(variables=10, classes=5, temperature=0.5)

    References:
        E. Jang, S. Gu and B. Poole, *Categorical Reparameterization with Gumbel-Softmax*, 2017,
        section 2.
    """
    latent = latents.CategoricalLatent(variables, classes, temperature, hard)
    return _recipe(likelihood, latent, nets, Reconstruction() + KL())


def joint_vae(
    likelihood: Likelihood,
    latent_dim: int,
    classes: int,
    *,
    gamma: float = 30.0,
    capacities: tuple[float, float] = (5.0, 5.0),
    steps: int = 25_000,
    temperature: float = 0.67,
    nets: Nets = _MLP,
) -> Recipe:
    r"""VAE of continuous latents and a discrete one, side by side.

    .. math:: -\mathbb{E}_q \log p(x \mid z, c)
              + \gamma \left| \operatorname{KL}(q(z \mid x) \| p(z)) - C_z \right|
              + \gamma \left| \operatorname{KL}(q(c \mid x) \| p(c)) - C_c \right|

    Both capacities rise from 0, that of the discrete latent to the logarithm of ``classes`` at
    most, more than which it cannot tell. The defaults are those of the published program on MNIST;
    it takes the absolute value of the batch's mean KL, here it is taken of each element's.

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of continuous latent dimensions.
        classes: How many classes the discrete latent has.
        gamma: :math:`\gamma`, the weight of the distances from the capacities.
        capacities: Where those of the continuous and of the discrete latents end, in nats.
        steps: After how many steps.
        temperature: Of its relaxation, above 0.
        nets: The networks to build.

    Raises:
        ValueError: If ``gamma`` or a capacity is negative, ``steps`` or the temperature is not
            above 0, or ``capacities`` are not two.

    Example:
        >>> likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
        >>> model, objective = joint_vae(likelihood, 6, classes=4, capacities=(3, 1))
        >>> model.latent_dim
        10
        >>> [capacity.end for capacity in objective.terms[1].capacity]
        [3, 1]

    References:
        E. Dupont, *Learning Disentangled Joint Continuous and Discrete Representations*, 2018,
        section 3.
    """
    discrete = latents.CategoricalLatent(1, classes, temperature)
    latent = latents.ProductLatent(GaussianLatent(latent_dim), discrete)
    _checks.require(len(capacities) == 2, "capacities", "two numbers", capacities)
    continuous, other = capacities
    ends = continuous, min(other, math.log(classes))
    rising = [schedules.Linear(0, end, steps) for end in ends]
    held = objectives.Capacity(rising, groups=[latent_dim, classes])
    return _recipe(likelihood, latent, nets, Reconstruction() + gamma * held)


def hyperspherical_vae(likelihood: Likelihood, latent_dim: int, *, nets: Nets = _MLP) -> Recipe:
    r"""VAE whose latents lie on a sphere, with the power spherical posterior.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \operatorname{KL}(q(z \mid x) \| p(z)), \qquad
              p(z) = \mathcal{U}(S^{d - 1})

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of dimensions in which the sphere lies.
        nets: The networks to build.

    Example:
        >>> model, objective = hyperspherical_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 10)
        >>> model.encoder.latent
        PowerSphericalLatent(dim=10)

    References:
        T. R. Davidson et al., *Hyperspherical Variational Auto-Encoders*, 2018; N. De Cao and
        W. Aziz, *The Power Spherical distribution*, 2020, section 3.
    """
    latent = latents.PowerSphericalLatent(latent_dim)
    return _recipe(likelihood, latent, nets, Reconstruction() + KL())


def vq_vae(
    likelihood: Likelihood,
    latent_dim: int,
    *,
    codes: int = 512,
    variables: int = 1,
    commitment: float = 0.25,
    nets: Nets = _MLP,
) -> Recipe:
    r"""VQ-VAE, whose codebook follows the encoder by moving averages.

    .. math:: -\log p(x \mid z) + \beta \lVert z_e(x) - \operatorname{sg}[e] \rVert^2

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        codes: The size of the codebook.
        variables: How many codes make one z.
        commitment: The weight of the commitment.
        nets: The networks to build.

    Raises:
        ImportError: If vector-quantize-pytorch is missing.
        ValueError: If ``variables`` do not divide ``latent_dim``, or ``commitment`` is negative.

    Example:
        >>> model, objective = vq_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 16, variables=4)
        >>> objective
        Reconstruction() + 0.25 * Commitment()

    References:
        A. van den Oord, O. Vinyals and K. Kavukcuoglu, *Neural Discrete Representation Learning*,
        2017, equation 3 and appendix A.1.
    """
    latent = latents.VectorQuantizedLatent(latent_dim, codes, variables)
    objective = Reconstruction() + commitment * objectives.Commitment()
    return _recipe(likelihood, latent, nets, objective)


def cvae(
    likelihood: Likelihood,
    latent_dim: int,
    classes: int,
    *,
    prior: Callable[..., Distribution] | None = None,
    nets: Nets = _MLP,
) -> Recipe:
    r"""Conditional VAE: train it on batches ``(x, y)``, and sample with ``context=``.

    .. math:: -\mathbb{E}_q \log p(x \mid z, c)
              + \operatorname{KL}(q(z \mid x, c) \| p(z \mid c))

    Args:
        likelihood: The likelihood of the data.
        latent_dim: The number of latent dimensions.
        classes: The number of classes, or of attributes.
        prior: :math:`p(z \mid c)`, learned in the paper: a `vaekit.priors.ConditionalPrior`. The
            standard normal for every class if None.
        nets: The networks to build.

    Example:
        >>> likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
        >>> model, objective = cvae(likelihood, latent_dim=6, classes=10)
        >>> prior = vk.priors.ConditionalPrior(vk.networks.mlp(10, [32], 2 * 6), 6)
        >>> papers, objective = cvae(likelihood, latent_dim=6, classes=10, prior=prior)
        >>> model.takes_context, papers.takes_context
        (True, True)

    References:
        K. Sohn, H. Lee and X. Yan, *Learning Structured Output Representation using Deep
        Conditional Generative Models*, 2015, section 4.
    """
    latent = GaussianLatent(latent_dim)
    encoding = _encoding(_shape(likelihood), classes, latent.num_params, nets)
    reading = networks.Conditioned(encoding, classes)
    decoding = networks.Conditioned(_decoding(likelihood, latent_dim + classes, nets), classes)
    model = VAE(Encoder(reading, latent), Decoder(decoding, likelihood), prior)
    return Recipe(model, Reconstruction() + KL())


def two_layer_vae(
    likelihood: Likelihood,
    latent_dims: tuple[int, int] = (100, 50),
    *,
    hidden: tuple[int, int] = (200, 100),
    activation: Callable[[], nn.Module] = nn.Tanh,
) -> Recipe:
    r"""Two stochastic layers, inferred from the bottom up: the IWAE paper's larger model.

    .. math:: -\mathbb{E}_q \log p(x \mid z_1)
              + \mathbb{E}_q \left[ \log q(z_1 \mid x)\, q(z_2 \mid z_1)
              - \log p(z_1 \mid z_2)\, p(z_2) \right]

    Args:
        likelihood: The likelihood of the data.
        latent_dims: Of the lower layer and of the upper.
        hidden: The widths of the two hidden layers next to each.
        activation: Makes the non-linearities.

    Raises:
        ValueError: If ``latent_dims`` or ``hidden`` are not two whole numbers above 0.

    Example:
        >>> model, objective = two_layer_vae(vk.likelihoods.Bernoulli((1, 8, 8)), (20, 10))
        >>> model.prior.sizes
        [20, 10]

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        section 5.
    """
    _checks.require(len(latent_dims) == 2, "latent_dims", "two numbers", latent_dims)
    _checks.require(len(hidden) == 2, "hidden", "two numbers", hidden)
    (low, high), (first, second) = latent_dims, hidden
    wide, narrow = [first] * 2, [second] * 2
    prior = TopDown([low, high], [networks.mlp(high, narrow, 2 * low, activation=activation)])
    latent = BottomUp([low, high], [networks.mlp(low, narrow, 2 * high, activation=activation)])
    encoder = networks.mlp(_shape(likelihood).numel(), wide, 2 * low, activation=activation)
    decoder = networks.mlp(low, wide, likelihood.num_params, activation=activation)
    reading = Decoder(networks.FirstOf(decoder, low + high), likelihood)
    return Recipe(VAE(Encoder(encoder, latent), reading, prior), Reconstruction() + KL())


def ladder_vae(
    likelihood: Likelihood,
    latent_dims: Sequence[int] = (64, 32, 16),
    *,
    hidden: Sequence[int] = (512, 256, 128),
) -> Recipe:
    r"""Ladder VAE: layers inferred from the top down, merged with the prior's.

    .. math:: -\mathbb{E}_q \log p(x \mid z_1) + \sum_l \mathbb{E}_q
              \operatorname{KL}(q(z_l \mid z_{l+1}, x) \| p(z_l \mid z_{l+1}))

    Args:
        likelihood: The likelihood of the data.
        latent_dims: Of each layer, the lowest first.
        hidden: The width of the hidden layer below each.

    Raises:
        ValueError: If there is not one width for each layer.

    Example:
        >>> model, objective = ladder_vae(vk.likelihoods.Bernoulli((1, 8, 8)))
        >>> model.encoder.latent.sizes
        [64, 32, 16]

    References:
        C. K. Sonderby et al., *Ladder Variational Autoencoders*, 2016, section 2.
    """
    what = f"a width for each of the {len(latent_dims)} layers"
    _checks.require(len(hidden) == len(latent_dims), "hidden", what, tuple(hidden))
    pairs = zip(latent_dims[:0:-1], latent_dims[-2::-1], hidden[-2::-1], strict=True)
    nets = [networks.mlp(above, [width], 2 * below) for above, below, width in pairs]
    prior = TopDown(latent_dims, nets)
    encoder = networks.Rungs(_shape(likelihood).numel(), hidden, [2 * size for size in latent_dims])
    decoder = networks.mlp(latent_dims[0], hidden[:1], likelihood.num_params)
    reading = Decoder(networks.FirstOf(decoder, sum(latent_dims)), likelihood)
    return Recipe(VAE(Encoder(encoder, Ladder(prior)), reading, prior), Reconstruction() + KL())
