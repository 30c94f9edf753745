"""How much of the latent space a model uses, where that is known."""

import math

import pytest
import torch
from models import tiny
from torch import nn

import vaekit as vk
from vaekit.metrics import latents as metrics


def model(dim: int = 3) -> vk.VAE:
    """mu = (x, 0.05 x, 0), logvar = (-2, 0, 0): one dimension in use, one hardly, one not."""
    latent = vk.GaussianLatent(dim)
    net = nn.Linear(1, latent.num_params)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0], [0.05], [0.0], [0.0], [0.0], [0.0]]))
        net.bias.copy_(torch.tensor([0.0, 1.0, 2.0, -2.0, 0.0, 0.0]))
    decoder = vk.Decoder(nn.Linear(dim, 1), vk.likelihoods.Gaussian(1))
    return vk.VAE(vk.Encoder(net, latent), decoder)


X = torch.linspace(-2, 2, 101)[:, None]


def test_active_units_are_counted_by_their_variance() -> None:
    found = metrics.active_units(model(), X, batch_size=10)
    variance = X.double().var().item()
    expected = torch.tensor([variance, 0.05**2 * variance, 0.0]).double()
    torch.testing.assert_close(found.variance, expected, rtol=1e-5, atol=1e-7)
    assert found.active.tolist() == [True, False, False]
    assert found.number == 1
    assert metrics.active_units(model(), X, threshold=1e-3).number == 2


def test_the_kl_of_each_dimension_is_the_closed_one() -> None:
    found = metrics.kl_by_dimension(model(), X, batch_size=10)
    squares = X.double().square()
    first = 0.5 * (squares + math.exp(-2) + 2 - 1)
    assert found.mean[0].item() == pytest.approx(first.mean().item(), rel=1e-6)
    assert found.standard_error[0].item() == pytest.approx(first.std().item() / 101**0.5, rel=1e-5)
    assert found.mean[2].item() == pytest.approx(2.0)  # of a mean of 2 for every x
    assert found.standard_error[2].item() == pytest.approx(0, abs=1e-7)
    assert found.order.tolist() == [2, 0, 1]
    assert found.total.mean == pytest.approx(found.mean.sum().item())
    posterior = model().encode(X)
    assert found.total.mean == pytest.approx(vk.kl_divergence(posterior).mean().item(), rel=1e-6)


def test_a_mixture_prior_has_its_kl_by_draws_that_are_seeded() -> None:
    likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
    laplace = vk.VAE(
        vk.Encoder(vk.networks.mlp(64, [], 4), vk.latents.LaplaceLatent(2)),
        vk.Decoder(vk.networks.mlp(2, [], 64), likelihood),
        vk.priors.StandardNormal(2),
    )
    x = torch.rand(20, 1, 8, 8).round()
    one, other = (metrics.kl_by_dimension(laplace, x, seed=3) for _ in range(2))
    assert torch.equal(one.mean, other.mean)


def test_bad_arguments_are_named(refuses) -> None:
    x = torch.zeros(3, 1, 8, 8)
    refuses(ValueError, lambda: metrics.active_units(tiny(), x, threshold=0), "threshold: expected")
    refuses(ValueError, lambda: metrics.active_units(tiny(), x[:1]), "data: expected at least two")
    refuses(TypeError, lambda: metrics.kl_by_dimension(nn.Identity(), x), "model: expected a VAE")
    full = vk.VAE(
        vk.Encoder(vk.networks.mlp(64, [], 5), vk.latents.FullGaussianLatent(2)), tiny().decoder
    )
    refuses(TypeError, lambda: metrics.kl_by_dimension(full, x), "independent")
