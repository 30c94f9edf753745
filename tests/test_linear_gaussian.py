"""The linear-Gaussian VAE, probabilistic PCA, whose every quantity is known in closed form.

M. E. Tipping and C. M. Bishop, "Probabilistic Principal Component Analysis", 1999: the marginal
likelihood is equation 4 (section 3.2), the posterior equation 6, the maximum equations 7 and 8.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import vaekit as vk

f64 = torch.float64
D, LATENT = 5, 2


class Exact(nn.Module):
    """An encoder that returns the true posterior of a linear decoder, made worse by a shift."""

    def __init__(self, weight: Tensor, bias: Tensor, sigma: float, shift: float = 0.0) -> None:
        super().__init__()
        self.latent = vk.GaussianLatent(weight.shape[1])
        precision = torch.eye(weight.shape[1], dtype=f64) + weight.T @ weight / sigma**2
        self.covariance = torch.linalg.inv(precision)
        self.gain = self.covariance @ weight.T / sigma**2
        self.bias, self.shift = bias, shift

    def forward(self, x: Tensor) -> MultivariateNormal:
        mean = (x - self.bias) @ self.gain.T + self.shift
        return MultivariateNormal(mean, (1 + self.shift) * self.covariance)


def _model(seed: int, sigma: float = 0.5, shift: float = 0.0) -> tuple[vk.VAE, MultivariateNormal]:
    torch.manual_seed(seed)
    net = vk.networks.mlp(LATENT, [], D).double()
    weight, bias = (p.detach() for p in net.parameters())
    decoder = vk.Decoder(net, vk.likelihoods.Gaussian(D, sigma))
    marginal = MultivariateNormal(bias, weight @ weight.T + sigma**2 * torch.eye(D, dtype=f64))
    return vk.VAE(Exact(weight, bias, sigma, shift), decoder).double(), marginal


@pytest.mark.parametrize("seed", range(5))
def test_with_the_exact_posterior_the_elbo_is_the_likelihood(seed: int) -> None:
    model, marginal = _model(seed)
    x = torch.randn(20, D, dtype=f64) * 3
    exact = marginal.log_prob(x)
    for samples in (1, 7):  # each weight is p(x) itself, so no draw has any error
        out = model(x, samples=samples)
        elbo = -vk.losses.importance_weighted(
            out.likelihood, out.posterior, out.prior, x, out.z, alpha=1
        )
        bound = -vk.losses.importance_weighted(out.likelihood, out.posterior, out.prior, x, out.z)
        torch.testing.assert_close(elbo, exact, rtol=0, atol=1e-8)
        torch.testing.assert_close(bound, exact, rtol=0, atol=1e-8)


def test_more_samples_raise_the_bound_to_the_likelihood() -> None:
    model, marginal = _model(0, shift=0.5)
    x = marginal.sample((1,))
    exact = float(marginal.log_prob(x))
    torch.manual_seed(0)
    means, errors = [], []
    for k, repeats in ((1, 20_000), (10, 20_000), (100, 5_000), (1_000, 1_000)):
        out = model(x.expand(repeats, D), samples=k)
        bounds = -vk.losses.importance_weighted(
            out.likelihood, out.posterior, out.prior, x.expand(repeats, D), out.z
        ).detach()
        means.append(float(bounds.mean()))
        errors.append(float(bounds.std()) / math.sqrt(repeats))
    for lower, higher, one, other in zip(means, means[1:], errors, errors[1:], strict=False):
        assert lower < higher + 3 * math.hypot(one, other)
    for mean, error in zip(means, errors, strict=True):
        assert mean < exact + 3 * error
    assert means[0] < exact - 0.05  # with one sample the bound is loose
    # The bias of the bound falls as half the variance of the mean weight, 1 / k (Burda et al.).
    assert abs(means[-1] - exact) < 4 * errors[-1] + (exact - means[1]) / 50


def test_trained_it_reaches_the_maximum_of_the_likelihood() -> None:
    torch.manual_seed(0)
    mixing = torch.tensor([[2.0, 0, 0, 1, 0], [0, 1.5, 0, 0, 1]], dtype=f64)
    x = torch.randn(300, LATENT, dtype=f64) @ mixing + 0.4 * torch.randn(300, D, dtype=f64) + 1
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    noise = values[: D - LATENT].mean()
    best = vectors[:, D - LATENT :]
    model_covariance = best @ (values[D - LATENT :] - noise).diag() @ best.T + noise * torch.eye(
        D, dtype=f64
    )
    exact = MultivariateNormal(x.mean(0), model_covariance).log_prob(x).mean()

    torch.manual_seed(1)
    latent = vk.GaussianLatent(LATENT)
    encoder = vk.Encoder(vk.networks.mlp(D, [], latent.num_params), latent)
    likelihood = vk.likelihoods.Gaussian(D, 1.0, learn_sigma=True)
    model = vk.VAE(encoder, vk.Decoder(vk.networks.mlp(LATENT, [], D), likelihood)).double()
    vk.fit(
        model,
        vk.Reconstruction() + vk.KL(),
        x,
        steps=4_000,
        batch_size=300,
        learning_rate=2e-2,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4_000),
        seed=0,
        progress=False,
    )
    weight, bias = (p.detach() for p in model.decoder.net.parameters())
    learned = weight @ weight.T + likelihood.sigma**2 * torch.eye(D, dtype=f64)
    reached = MultivariateNormal(bias, learned).log_prob(x).mean()
    assert exact - 0.01 < reached < exact + 1e-6
    inside = torch.linalg.qr(weight).Q  # cosines of the angles between the two subspaces
    assert torch.linalg.svdvals(inside.T @ best).min() > 0.999
