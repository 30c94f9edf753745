"""The linear-Gaussian VAE, probabilistic PCA, whose every quantity is known in closed form.

M. E. Tipping and C. M. Bishop, "Probabilistic Principal Component Analysis", 1999: the marginal
likelihood is equation 4 (section 3.2), the posterior equation 6, the maximum equations 7 and 8.
"""

from itertools import pairwise

import pytest
import torch
from gaussians import z_score
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


def linear_gaussian(
    seed: int, sigma: float = 0.5, shift: float = 0.0
) -> tuple[vk.VAE, MultivariateNormal]:
    """The model and the p(x) that it has."""
    torch.manual_seed(seed)
    net = vk.networks.mlp(LATENT, [], D).double()
    weight, bias = (p.detach() for p in net.parameters())
    decoder = vk.Decoder(net, vk.likelihoods.Gaussian(D, sigma))
    marginal = MultivariateNormal(bias, weight @ weight.T + sigma**2 * torch.eye(D, dtype=f64))
    return vk.VAE(Exact(weight, bias, sigma, shift), decoder).double(), marginal


@pytest.mark.parametrize("seed", range(5))
def test_with_the_exact_posterior_the_elbo_is_the_likelihood(seed: int) -> None:
    model, marginal = linear_gaussian(seed)
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
    # A thousand draws as 1,000 groups of one, 100 of ten, 10 of a hundred, one of them all: each
    # bound is the mean of the former's groups inside the logarithm, so that the order is exact.
    model, marginal = linear_gaussian(0, shift=0.5)
    x = marginal.sample((4,))
    exact, repeats = marginal.log_prob(x), 100
    torch.manual_seed(0)
    bounds: dict[int, Tensor] = {}
    with torch.no_grad():
        out = model(x.repeat(repeats, 1), samples=1_000)
        for k in (1, 10, 100, 1_000):
            loss = vk.losses.importance_weighted(
                out.likelihood,
                out.posterior,
                out.prior,
                x.repeat(repeats, 1),
                out.z,
                groups=1_000 // k,
            )
            bounds[k] = -loss.unflatten(0, (repeats, 4))
    for lower, higher in pairwise(bounds.values()):
        assert (lower < higher).all()
    # None is above the likelihood in expectation, and the last is at it but for a bias of about
    # Var(w) / 2 k p(x)^2, a hundredth of what it is with ten draws.
    for bound in bounds.values():
        assert (z_score(bound, exact) < 5).all()
    assert (z_score(bounds[1], exact) < -20).all()  # with one sample the bound is loose
    assert (z_score(bounds[10], exact) < -5).all()
    gap = {k: exact - bound.mean(0) for k, bound in bounds.items()}
    assert (z_score(bounds[1_000] + gap[10] / 100, exact).abs() < 5).all()
    weights = vk.losses.importance_log_weights(
        out.likelihood, out.posterior, out.prior, x.repeat(repeats, 1), out.z
    )
    ratio = (weights.unflatten(1, (repeats, 4)) - exact).exp().flatten(0, 1)
    assert (z_score(ratio, 1.0).abs() < 5).all()  # the mean weight is p(x), whatever k


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
