"""Small models that several tests build."""

import torch

import vaekit as vk


def tiny(
    shape: tuple[int, ...] = (1, 8, 8),
    dim: int = 2,
    likelihood: vk.likelihoods.Likelihood | None = None,
    width: int = 16,
) -> vk.VAE:
    """A VAE of perceptrons, the same at every call."""
    torch.manual_seed(0)
    latent = vk.GaussianLatent(dim)
    likelihood = likelihood or vk.likelihoods.Bernoulli(shape)
    size = torch.Size(shape).numel()
    return vk.VAE(
        vk.Encoder(vk.networks.mlp(size, [width], latent.num_params), latent),
        vk.Decoder(vk.networks.mlp(dim, [width], size), likelihood),
    )


def elbo() -> vk.objectives.Objective:
    return vk.Reconstruction() + vk.KL()
