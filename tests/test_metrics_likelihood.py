"""Metrics of likelihood, held to the linear-Gaussian model, whose log p(x) is exact."""

import math

import pytest
import torch
from models import tiny
from torch import nn
from zuko_flows import needs_zuko

import vaekit as vk
from vaekit.distributions.flows import import_zuko
from vaekit.metrics import likelihood as metrics

DIM, SIZE, SIGMA = 2, 5, 0.7


class Linear:
    """x = W z + b + noise with its exact evidence; the encoder is not the exact posterior."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        latent = vk.GaussianLatent(DIM)
        to_x, to_z = nn.Linear(DIM, SIZE), nn.Linear(SIZE, latent.num_params)
        likelihood = vk.likelihoods.Gaussian(SIZE, sigma=SIGMA)
        self.model = vk.VAE(vk.Encoder(to_z, latent), vk.Decoder(to_x, likelihood)).double()
        w, b = to_x.weight.detach(), to_x.bias.detach()
        self.evidence = torch.distributions.MultivariateNormal(
            b, w @ w.T + SIGMA**2 * torch.eye(SIZE, dtype=torch.double)
        )

    def data(self, n: int) -> torch.Tensor:
        return self.evidence.sample((n,))


@pytest.fixture
def linear() -> Linear:
    return Linear()


def test_importance_sampling_reaches_the_exact_value_from_above(linear: Linear) -> None:
    x = linear.data(20)
    exact = -linear.evidence.log_prob(x)
    one = metrics.negative_log_likelihood(linear.model, x, samples=1)
    many = metrics.negative_log_likelihood(linear.model, x, samples=20_000, chunk=3000)
    assert one.nats.mean > exact.mean() + 0.05
    # The delta method: the logarithm of a mean of K weights, of which `effective` are worth one.
    error = (1 / many.effective_samples).sqrt()
    z = (many.by_element - exact) / error
    assert z.abs().max() < 5
    assert abs(many.nats.mean - exact.mean().item()) < 5 * error.square().sum().sqrt() / len(x)
    assert many.nats.standard_error == pytest.approx(many.by_element.std().item() / 20**0.5)


def test_the_exact_posterior_needs_one_draw(linear: Linear) -> None:
    class Exact(nn.Module):
        def forward(self, x):
            w, b = linear.model.decoder.net.weight, linear.model.decoder.net.bias
            precision = w.T @ w / SIGMA**2 + torch.eye(DIM, dtype=torch.double)
            mean = torch.linalg.solve(precision, ((x - b) @ w / SIGMA**2).T).T
            return torch.distributions.MultivariateNormal(mean, precision_matrix=precision)

    class Encoder(vk.Encoder):
        def forward(self, x, context=None):
            return Exact()(x)

    model = vk.VAE(Encoder(nn.Identity(), vk.GaussianLatent(DIM)), linear.model.decoder)
    x = linear.data(7)
    found = metrics.negative_log_likelihood(model.double(), x, samples=3)
    torch.testing.assert_close(found.by_element, -linear.evidence.log_prob(x))
    torch.testing.assert_close(found.effective_samples, torch.full((7,), 3.0).double())


def test_chunks_change_nothing_but_memory(linear: Linear) -> None:
    x = linear.data(6)
    one = metrics.negative_log_likelihood(linear.model, x, samples=4001, chunk=4001)
    parts = metrics.negative_log_likelihood(linear.model, x, samples=4001, chunk=250)
    error = (1 / one.effective_samples + 1 / parts.effective_samples).sqrt()
    assert ((one.by_element - parts.by_element) / error).abs().max() < 5
    again = metrics.negative_log_likelihood(linear.model, x, samples=4001, chunk=250)
    assert torch.equal(parts.by_element, again.by_element)  # seeded


def test_the_elbo_is_the_sum_of_its_parts_and_below_the_evidence(linear: Linear) -> None:
    x = linear.data(50)
    found = metrics.elbo(linear.model, x, samples=200)
    assert found.elbo.mean == pytest.approx(-found.reconstruction.mean - found.kl.mean)
    q = linear.model.encode(x)
    assert found.kl.mean == pytest.approx(vk.kl_divergence(q).mean().item())
    assert found.elbo.mean < linear.evidence.log_prob(x).mean()


def test_annealing_is_unbiased_and_does_not_ask_the_encoder(linear: Linear) -> None:
    x = linear.data(1).expand(400, -1)  # one x four hundred times: independent runs
    exact = linear.evidence.log_prob(x[0]).item()
    linear.model.encoder = None
    found = metrics.annealed_importance_sampling(
        linear.model, x, chains=1, steps=40, leapfrog=4, batch_size=400
    )
    weights = (-found.by_element - exact).exp()  # of expectation 1
    z = (weights.mean() - 1) / (weights.std() / 400**0.5)
    assert weights.std() > 1e-3
    assert abs(z) < 4


def test_bounds_enclose_and_close_with_more_steps(linear: Linear) -> None:
    gaps = []
    for steps in (5, 80):
        found = metrics.bidirectional_monte_carlo(
            linear.model, 200, chains=2, steps=steps, leapfrog=4, batch_size=200
        )
        assert found.gap.mean == pytest.approx(found.upper.mean - found.lower.mean)
        gaps.append(found.gap)
    assert gaps[0].mean > 5 * gaps[0].standard_error
    assert gaps[1].mean < gaps[0].mean / 5
    assert gaps[1].mean > -4 * gaps[1].standard_error
    # The mean log-likelihood of a model's own data is its negative entropy, exactly.
    entropy = linear.evidence.entropy().item()
    assert abs(found.lower.mean + entropy) < 5 * found.lower.standard_error
    assert abs(found.upper.mean + entropy) < 5 * found.upper.standard_error


def test_bits_only_where_the_data_are_discrete(linear: Linear) -> None:
    x = torch.rand(10, 1, 8, 8).round()
    found = metrics.negative_log_likelihood(tiny(), x, samples=5)
    assert found.bits_per_dimension is not None
    assert found.bits_per_dimension.mean == pytest.approx(found.nats.mean / 64 / math.log(2))
    of_reals = metrics.negative_log_likelihood(linear.model, linear.data(5), samples=5)
    assert of_reals.bits_per_dimension is None


def test_the_curve_runs_by_rising_beta() -> None:
    x = torch.rand(10, 1, 8, 8).round()
    points = metrics.rate_distortion({4.0: tiny(), 0.5: tiny()}, x)
    assert [point.beta for point in points] == [0.5, 4.0]
    found = metrics.elbo(tiny(), x)
    assert points[0].rate == points[1].rate == found.kl
    assert points[0].distortion == found.reconstruction


def test_the_generators_and_the_mode_are_left_as_they_were() -> None:
    model = tiny().train()
    before = torch.get_rng_state()
    metrics.negative_log_likelihood(model, torch.zeros(3, 1, 8, 8), samples=2)
    metrics.annealed_importance_sampling(model, torch.zeros(3, 1, 8, 8), chains=1, steps=2)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_context_goes_to_every_part() -> None:
    likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
    model, _ = vk.recipes.cvae(likelihood, latent_dim=2, classes=3)
    data = vk.datasets.from_tensors(torch.rand(9, 1, 8, 8).round(), torch.arange(9) % 3)
    metrics.negative_log_likelihood(model, data, samples=3)
    metrics.annealed_importance_sampling(model, data, chains=2, steps=3)
    metrics.bidirectional_monte_carlo(model, 9, chains=2, steps=3, context=torch.arange(9) % 3)
    with pytest.raises(ValueError, match="data: expected batches"):
        metrics.elbo(model, torch.rand(9, 1, 8, 8).round())


@pytest.mark.parametrize("recipe", ["vamp", pytest.param("flow", marks=needs_zuko), "ladder"])
def test_priors_of_every_kind_of_real_numbers_are_annealed(recipe: str) -> None:
    likelihood, x = vk.likelihoods.Bernoulli((1, 8, 8)), torch.rand(4, 1, 8, 8).round()
    model, _ = {
        "vamp": lambda: vk.recipes.vamp_vae(likelihood, 2, x),
        "flow": lambda: vk.recipes.flow_prior_vae(likelihood, 2, import_zuko().flows.MAF(2)),
        "ladder": lambda: vk.recipes.ladder_vae(likelihood, (3, 2), hidden=(9, 8)),
    }[recipe]()
    found = metrics.annealed_importance_sampling(model, x, chains=2, steps=3)
    assert found.by_element.isfinite().all()
    bounds = metrics.bidirectional_monte_carlo(model, 4, chains=2, steps=3)
    assert math.isfinite(bounds.gap.mean)


def test_bad_arguments_are_named() -> None:
    x = torch.zeros(3, 1, 8, 8)
    for argument, call in {
        "samples": lambda: metrics.negative_log_likelihood(tiny(), x, samples=0),
        "chunk": lambda: metrics.negative_log_likelihood(tiny(), x, chunk=0),
        "chains": lambda: metrics.annealed_importance_sampling(tiny(), x, chains=0),
        "steps": lambda: metrics.annealed_importance_sampling(tiny(), x, steps=0),
        "leapfrog": lambda: metrics.annealed_importance_sampling(tiny(), x, leapfrog=-1),
        "n": lambda: metrics.bidirectional_monte_carlo(tiny(), 0),
        "models": lambda: metrics.rate_distortion({}, x),
    }.items():
        with pytest.raises(ValueError, match=f"^{argument}: expected"):
            call()
    model, _ = vk.recipes.categorical_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 2, 3)
    with pytest.raises(
        TypeError, match=r"^model: expected a model whose latents are any real numbers"
    ):
        metrics.annealed_importance_sampling(model, x)
