"""How much of the latent space a model uses, where that is known."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.distributions as td
from models import tiny
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from zuko_flows import needs_zuko

import vaekit as vk
from vaekit.metrics import latents as metrics
from vaekit.training.measures import measuring

f64 = torch.float64


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


def test_the_error_of_a_units_variance_is_its_spread_over_other_data() -> None:
    n, repetitions = 300, 200
    found = [metrics.active_units(model(), torch.randn(n, 1)) for _ in range(repetitions)]
    variances, errors = (torch.stack(each) for each in list(zip(*found, strict=True))[2:])
    said, spread = errors.square().mean(0), variances.var(0)
    ratio = (spread / said)[:2]  # the third is constant
    assert ((ratio - 1).abs() < 4 * (2 / (repetitions - 1)) ** 0.5).all()
    closed = 2 / (n - 1)  # of the variance of normal values of variance 1
    assert abs(spread[0].item() / closed - 1) < 4 * (2 / (repetitions - 1)) ** 0.5
    assert errors[:, 2].max().item() == pytest.approx(0, abs=1e-7)


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
    refuses(TypeError, lambda: metrics.kl_by_dimension(full, x), "posterior", "independent")


def encoding(mu: list[float], sigma: list[float], spread: float = 1.0) -> vk.VAE:
    """A model of one latent whose posterior at x = n is N(spread * mu[n], sigma[n] ** 2)."""

    class Looked(nn.Module):
        latent = vk.GaussianLatent(1)

        def forward(self, x: Tensor) -> Distribution:
            row = x[:, 0].long()
            means, sigmas = torch.tensor(mu, dtype=f64), torch.tensor(sigma, dtype=f64)
            mean, logvar = spread * means[row, None], 2 * sigmas[row, None].log()
            return vk.distributions.DiagonalGaussian(mean, logvar)

    decoder = vk.Decoder(vk.networks.mlp(1, [], 1), vk.likelihoods.Gaussian(1))
    return vk.VAE(Looked(), decoder).double()


def rows(n: int) -> Tensor:
    return torch.arange(n, dtype=f64)[:, None]


MU, SIGMA = [-1.5, -1.2, 0.0, 0.4, 2.0], [0.3, 0.5, 0.2, 0.6, 0.4]


def quadrature() -> dict[str, tuple[float, float]]:
    """Mean and standard deviation, over q(x, z), of the three log-ratios, on a fine grid."""
    z = torch.linspace(-8, 8, 160_001, dtype=f64)
    mu, sigma = torch.tensor([MU, SIGMA], dtype=f64)[..., None]
    given = Normal(mu, sigma).log_prob(z)
    weights = given.exp() / len(MU) * (z[1] - z[0])
    mixture = given.logsumexp(0) - math.log(len(MU))
    prior = Normal(0.0, 1.0).log_prob(z)
    ratios = {"information": given - mixture, "gap": mixture - prior, "rate": given - prior}
    found = {}
    for name, ratio in ratios.items():
        mean = (weights * ratio).sum()
        found[name] = (float(mean), float((weights * (ratio - mean).square()).sum().sqrt()))
    return found


def test_information_and_gap_are_those_of_quadrature() -> None:
    exact, draws = quadrature(), 40_000
    model, data = encoding(MU, SIGMA), rows(5)
    information = metrics.mutual_information(model, data, draws=draws, batch_size=2, chunk=5000)
    parts = metrics.decompose_rate(model, data, draws=draws, chunk=5000, seed=1)
    assert information.cap == parts.cap == math.log(5)
    closed = vk.kl_divergence(model.encode(data)).mean().item()
    assert exact["rate"][0] == pytest.approx(closed, abs=1e-9)  # of the quadrature itself
    for found, name in (
        (information.nats, "information"),
        (parts.mutual_information, "information"),
        (parts.aggregated_gap, "gap"),
        (parts.rate, "rate"),
    ):
        mean, deviation = exact[name]
        assert abs(found.mean - mean) < 4 * found.standard_error
        assert found.standard_error == pytest.approx(deviation / draws**0.5, rel=0.03)


def test_a_posterior_that_ignores_x_tells_nothing_and_a_sharp_one_all() -> None:
    data = rows(5)
    constant = metrics.mutual_information(encoding([0.7] * 5, [0.5] * 5), data)
    assert constant.nats.mean == pytest.approx(0, abs=1e-12)
    gap = metrics.aggregated_posterior_gap(encoding([0.0] * 5, [1.0] * 5), data)
    assert gap.mean == pytest.approx(0, abs=1e-12)
    sharp = metrics.mutual_information(encoding(MU, SIGMA, spread=1e3), data)
    assert sharp.nats.mean == pytest.approx(math.log(5), abs=1e-12)
    assert sharp.nats.standard_error == pytest.approx(0, abs=1e-12)


def brute_force(model: vk.VAE, x: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
    """The log-densities of the draws, one draw and one element at a time."""
    with measuring(model, seed), torch.no_grad():
        posterior = model.encode(x)
        z, owners = metrics._draw([posterior], [len(x)], draws)
    mu, logvar = posterior
    each = Normal(mu, (0.5 * logvar).exp())  # (N, D)
    given, joint, single = [], [], []
    for value, owner in zip(z, owners.tolist(), strict=True):
        log_prob = each.log_prob(value)
        given.append(log_prob[owner].sum())
        joint.append(log_prob.sum(1).exp().mean().log())
        single.append(log_prob.exp().mean(0).log())
    prior = Normal(0.0, 1.0).log_prob(z)
    return {
        "given": torch.stack(given),
        "joint": torch.stack(joint),
        "single": torch.stack(single),
        "prior": prior,
    }


@pytest.mark.parametrize("chunk", [3, 1000])
def test_the_parts_of_the_rate_are_those_of_plain_loops(chunk: int) -> None:
    torch.manual_seed(3)
    latent = vk.GaussianLatent(2)
    encoder = vk.Encoder(vk.networks.mlp(4, [8], latent.num_params), latent)
    likelihood = vk.likelihoods.Gaussian(4)
    model = vk.VAE(encoder, vk.Decoder(vk.networks.mlp(2, [], 4), likelihood)).double()
    x, options = 3 * torch.randn(30, 4, dtype=f64), {"draws": 50, "chunk": chunk, "seed": 7}
    plain = brute_force(model, x, 50, 7)
    given, joint, single, prior = plain["given"], plain["joint"], plain["single"], plain["prior"]
    found = metrics.decompose_rate(model, x, **options)
    expected = {
        "rate": given - prior.sum(1),
        "mutual_information": given - joint,
        "aggregated_gap": joint - prior.sum(1),
        "total_correlation": joint - single.sum(1),
        "dimension_wise_kl": (single - prior).sum(1),
    }
    for name, values in expected.items():
        mean, error = getattr(found, name)
        assert mean == pytest.approx(values.mean().item(), abs=1e-10), name
        assert error == pytest.approx(values.std().item() / 50**0.5, abs=1e-10), name
    for batch_size in (7, 30):  # no other draws than those of one batch, where a batch is one
        again = metrics.mutual_information(model, x, batch_size=batch_size, **options)
        if batch_size == 30:
            assert again.nats.mean == pytest.approx(found.mutual_information.mean, abs=1e-10)
        assert again == metrics.mutual_information(model, x, batch_size=batch_size, **options)
    gap = metrics.aggregated_posterior_gap(model, x, **options)
    assert gap.mean == pytest.approx(found.aggregated_gap.mean, abs=1e-10)


def test_batches_of_posteriors_add_up_to_the_mixture_of_all() -> None:
    torch.manual_seed(0)
    every = vk.distributions.DiagonalGaussian(*torch.randn(2, 20, 3, dtype=f64))
    mu, logvar = every
    z, owners = metrics._draw([every], [20], 40)
    halves = [vk.distributions.DiagonalGaussian(mu[s], logvar[s]) for s in (slice(7), slice(7, 20))]
    parts, turns = zip(*(metrics._draw([q], [len(q.mu)], 500) for q in halves), strict=True)
    assert all(
        (part - q.mu[turn]).div(q.stddev[turn]).square().mean().sub(1).abs() < 4 * (2 / 1500) ** 0.5
        for part, turn, q in zip(parts, turns, halves, strict=True)
    )  # each draw is of the posterior of the element it is said to be of
    original = metrics._draw
    try:
        metrics._draw = lambda *_: (z, owners)
        one, two = (metrics._drawn(q, 40, 9, parts=True) for q in ([every], halves))
    finally:
        metrics._draw = original
    torch.testing.assert_close(
        one.given, every.expand((20,)).log_prob(z[:, None])[range(40), owners]
    )
    for left, right in zip(one[1:4], two[1:4], strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


def of(latent: nn.Module, prior: Callable[..., Distribution] | None = None) -> vk.VAE:
    encoder = vk.Encoder(vk.networks.mlp(4, [8], latent.num_params), latent)
    decoder = vk.Decoder(vk.networks.mlp(latent.dim, [], 4), vk.likelihoods.Gaussian(4))
    return vk.VAE(encoder, decoder, prior)


MODELS: dict[str, Callable[[], vk.VAE]] = {
    "Gaussian": lambda: of(vk.GaussianLatent(3)),
    "one latent": lambda: of(vk.GaussianLatent(1)),
    "full Gaussian": lambda: of(vk.latents.FullGaussianLatent(3)),
    "Laplace": lambda: of(vk.latents.LaplaceLatent(3), vk.priors.StandardNormal(3)),
    "relaxed categorical": lambda: of(vk.latents.CategoricalLatent(2, 3)),
    "hard categorical": lambda: of(vk.latents.CategoricalLatent(2, 3, hard=True)),
    "hard Bernoulli": lambda: of(vk.latents.BernoulliLatent(3, hard=True)),
    "sphere": lambda: of(vk.latents.PowerSphericalLatent(3)),
    "product": lambda: of(
        vk.latents.ProductLatent(vk.GaussianLatent(2), vk.latents.BernoulliLatent(2, hard=True))
    ),
    "mixture prior": lambda: of(
        vk.GaussianLatent(3), vk.priors.MixtureOfGaussians(3, components=4)
    ),
    "ladder": lambda: (
        vk.recipes.ladder_vae(vk.likelihoods.Gaussian(4), latent_dims=(3, 2), hidden=(8, 8)).model
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_rate_is_information_and_gap_whatever_the_latent(name: str, device: torch.device) -> None:
    torch.manual_seed(0)
    model, x = MODELS[name]().to(device), torch.randn(20, 4)
    found = metrics.decompose_rate(model, x, draws=60, batch_size=8, chunk=25)
    rest = found.mutual_information.mean + found.aggregated_gap.mean
    assert found.rate.mean == pytest.approx(rest, abs=1e-10)
    assert found.mutual_information.mean < found.cap == math.log(20)
    both = (found.total_correlation, found.dimension_wise_kl)
    if None not in both:
        assert sum(each.mean for each in both) == pytest.approx(found.aggregated_gap.mean, abs=1e-4)
    if name == "one latent":
        assert found.total_correlation.mean == pytest.approx(0, abs=1e-5)
    if name == "mixture prior":
        assert found.total_correlation is not None
        assert found.dimension_wise_kl is None
    if name == "full Gaussian":
        assert both == (None, None)
    said = metrics.posterior_collapse(model, x, draws=60, batch_size=8)
    assert said.kl.mean == pytest.approx(
        metrics.posterior_collapse(model, x, draws=60, batch_size=8).kl.mean
    )
    assert len(said.collapsed) == model.latent_dim


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_rate_of_likely_relaxed_codes_is_that_of_quadrature(
    temperature: float, dtype: torch.dtype
) -> None:
    """Draws that rounding has put onto 1 say how far from it they were by their logits."""
    x = torch.tensor([[8.0], [4.0]]).repeat(1, 4)
    latent = vk.latents.BernoulliLatent(4, temperature)
    model = vk.VAE(
        vk.Encoder(nn.Identity(), latent),
        vk.Decoder(vk.networks.mlp(4, [], 4), vk.likelihoods.Gaussian(4)),
    ).to(dtype)
    found = metrics.decompose_rate(model, x.to(dtype), draws=4000)
    s = torch.linspace(-60, 60, 240_001, dtype=torch.double)
    log_q, log_p = (a - s - 2 * nn.functional.softplus(a - s) for a in (x[:, :1].double(), 0))
    rate = 4 * torch.trapezoid(log_q.exp() * (log_q - log_p), s).mean()
    assert abs(found.rate.mean - rate) < 5 * found.rate.standard_error
    rest = found.mutual_information.mean + found.aggregated_gap.mean
    assert found.rate.mean == pytest.approx(rest, abs=1e-10)
    assert metrics.mutual_information(model, x.to(dtype), draws=4000).nats == (
        found.mutual_information
    )


@needs_zuko
def test_a_flow_posterior_has_its_parts() -> None:
    model = vk.recipes.flow_posterior_vae(vk.likelihoods.Gaussian(4), latent_dim=2).model
    found = metrics.decompose_rate(model, torch.randn(10, 4), draws=30, batch_size=4, chunk=7)
    rest = found.mutual_information.mean + found.aggregated_gap.mean
    assert found.rate.mean == pytest.approx(rest, abs=1e-10)
    assert found.mutual_information.mean < math.log(10)


def test_a_conditional_model_has_information_and_with_one_prior_a_gap() -> None:
    x = vk.datasets.from_tensors(torch.rand(12, 4), torch.arange(12) % 3)
    model = vk.recipes.cvae(vk.likelihoods.Gaussian(4), latent_dim=2, classes=3).model
    assert metrics.mutual_information(model, x, draws=50).nats.mean < math.log(12)
    assert metrics.posterior_collapse(model, x, draws=50).mutual_information.cap == math.log(12)


class Fixed(nn.Module):
    """mu = (x, 0, 0) and sigma = (0.1, 1, 1), each shifted: which dimensions say what is known."""

    latent = vk.GaussianLatent(3)

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Distribution:
        nothing = torch.zeros_like(x)
        mu = torch.cat([self.gain * x, nothing, nothing + 2], 1)
        narrow = torch.full_like(x, 2 * math.log(0.1) if self.gain else 0.0)
        logvar = torch.cat([narrow, nothing, nothing], 1)
        return vk.distributions.DiagonalGaussian(mu, logvar)


def listening(gain: float = 1.0, weight: float = 1.0) -> vk.VAE:
    """The decoder says weight * z_0, with a sigma of 1."""
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[weight, 0.0, 0.0]]))
    decoder = vk.Decoder(net, vk.likelihoods.Gaussian(1, sigma=1.0))
    return vk.VAE(Fixed(gain), decoder).double()


WIDE = torch.linspace(-2, 2, 200, dtype=f64)[:, None]


def test_partial_collapse_is_said_in_words() -> None:
    found = metrics.posterior_collapse(listening(), WIDE, batch_size=64)
    assert found.collapsed.tolist() == [False, True, True]
    assert found.verdict == "partly"
    assert found.units.number == 1
    assert found.by_dimension.mean[2].item() == pytest.approx(2.0)
    assert found.kl == found.by_dimension.total
    assert found.decoder_uses_codes
    text = str(found)
    assert text.startswith("Partly collapsed: 1 of 3 dimensions in use; not in use: 1, 2.")
    assert "1 by the variance of their means (above 0.01), 2 by their KL (above 0.01 nats)" in text
    assert f"{found.mutual_information.nats} nats, of at most 5.298" in text
    assert f"Divergence from the prior: {found.kl} nats; by dimension 0: 2.48, 2: 2, 1: 0." in text
    assert "The decoder uses the codes" in text
    assert "objectives.FreeBits" in text
    for name in ("Linear", "FreeBits", "KL"):  # what the advice names is there
        assert any(hasattr(room, name) for room in (vk.schedules, vk.objectives))
    again = metrics.posterior_collapse(listening(), WIDE, batch_size=64)
    assert str(again) == text
    assert str(metrics.posterior_collapse(listening(), WIDE, batch_size=64, seed=1)) != text


def test_what_shuffling_costs_is_what_it_costs() -> None:
    # E (x - z')^2 / 2 - E (x - z)^2 / 2, z = x + noise and x' another element: the variance of x.
    found = metrics.posterior_collapse(listening(), WIDE).shuffling
    assert abs(found.mean - WIDE.var().item()) < 4 * found.standard_error


def test_the_error_of_what_shuffling_costs_is_that_of_other_data() -> None:
    """Every element is in two terms: by itself, and as the one whose code another one got."""
    n = 20_000
    x = torch.randn(n, 1, dtype=f64, generator=torch.Generator().manual_seed(0))
    found = metrics.posterior_collapse(listening(), x, draws=10).shuffling
    # Of w^2 / 2 - e^2 / 2, where w = x - x' - e' has a variance of 2.01 and e one of 0.01; the next
    # w is x' - x'' - e'', and Cov(w^2, w'^2) = 2 Cov(w, w')^2 = 2.
    variance, covariance = (2 * 2.01**2 + 2 * 0.01**2) / 4, 2 / 4
    exact = math.sqrt((variance + 2 * covariance) / n)
    assert found.standard_error == pytest.approx(exact, rel=0.05)
    assert abs(found.mean - 1) < 4 * exact


def test_whole_collapse_and_none_are_told_apart() -> None:
    whole = metrics.posterior_collapse(listening(gain=0.0, weight=0.0), WIDE)
    assert whole.verdict == "wholly"
    assert whole.mutual_information.nats.mean == pytest.approx(0, abs=1e-12)
    assert whole.shuffling.mean == 0
    assert not whole.decoder_uses_codes
    assert str(whole).startswith("Wholly collapsed: 0 of 3 dimensions in use.")
    none = metrics.posterior_collapse(encoding(MU, SIGMA), rows(5).repeat(20, 1))
    assert none.verdict == "none"
    assert str(none).startswith("Not collapsed: 1 of 1 dimensions in use.")


def test_a_decoder_that_ignores_the_codes_is_told_from_a_collapsed_posterior() -> None:
    found = metrics.posterior_collapse(listening(weight=0.0), WIDE)
    assert found.verdict == "partly"
    assert "The decoder does not noticeably use the codes" in str(found)


def test_shuffling_gives_everyone_another_one() -> None:
    for n in (2, 3, 50):
        other = metrics._another(n)
        assert sorted(other.tolist()) == list(range(n))
        assert (other != torch.arange(n)).all()


def test_long_lists_are_cut_short() -> None:
    model = of(vk.GaussianLatent(30))
    for parameter in model.encoder.parameters():
        nn.init.zeros_(parameter)
    text = str(metrics.posterior_collapse(model, torch.randn(10, 4), draws=20))
    assert [line.count("and 20 more") for line in text.splitlines()][:4] == [0, 0, 1, 0]


def test_a_single_element_tells_nothing_and_has_no_variance(refuses) -> None:
    x = torch.zeros(1, 1, 8, 8)
    found = metrics.decompose_rate(tiny(), x, draws=20)
    assert found.cap == 0
    assert found.mutual_information == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
    assert found.rate == found.aggregated_gap
    assert math.isnan(metrics.mutual_information(tiny(), x, draws=1).nats.standard_error)
    assert math.isnan(metrics.kl_by_dimension(tiny(), x).total.standard_error)
    refuses(
        ValueError,
        lambda: metrics.posterior_collapse(tiny(), x),
        "data: expected at least two elements, got 1",
    )


MEASURES = (
    metrics.active_units,
    metrics.kl_by_dimension,
    metrics.mutual_information,
    metrics.aggregated_posterior_gap,
    metrics.decompose_rate,
    metrics.posterior_collapse,
)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)
def test_degenerate_data_are_one_clear_error(measure, refuses) -> None:
    x = torch.zeros(4, 1, 8, 8)
    refuses(ValueError, lambda: measure(tiny(), x.fill_(torch.nan)), "data", "NaN")
    refuses(ValueError, lambda: measure(tiny(), x[:0]), "expected at least one element")
    refuses(TypeError, lambda: measure(nn.Identity(), x), "model: expected a VAE")


@pytest.mark.parametrize("measure", MEASURES[2:], ids=lambda measure: measure.__name__)
def test_what_cannot_be_measured_is_named(measure, refuses) -> None:
    x = torch.zeros(4, 1, 8, 8)
    refuses(ValueError, lambda: measure(tiny(), x, draws=0), "draws: expected")
    refuses(ValueError, lambda: measure(tiny(), x, chunk=0), "chunk: expected")
    point = of(vk.latents.DeterministicLatent(3))
    refuses(TypeError, lambda: measure(point, torch.zeros(4, 4)), "one that has a density")
    infinite = encoding([math.inf] * 4, [1.0] * 4)
    refuses(ValueError, lambda: measure(infinite, rows(4)), "data: ", "finite")


class Torchs(nn.Module):
    """A posterior of torch's own, which lacks something."""

    latent = vk.GaussianLatent(2)

    def __init__(self, make: Callable[[Tensor], Distribution]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Distribution:
        return self.make(x)


def test_what_a_posterior_lacks_is_named(refuses) -> None:
    def without_mean(x: Tensor) -> Distribution:
        return td.TransformedDistribution(td.Independent(td.Normal(x, 1.0), 1), td.TanhTransform())

    def without_rsample(x: Tensor) -> Distribution:
        return td.Independent(td.Poisson(x.exp()), 1)

    decoder = vk.Decoder(vk.networks.mlp(2, [], 2), vk.likelihoods.Gaussian(2))
    x = torch.randn(6, 2)
    for measure in (metrics.active_units, metrics.posterior_collapse):
        model = vk.VAE(Torchs(without_mean), decoder)
        refuses(
            TypeError,
            lambda m=model, f=measure: f(m, x),
            "model",
            "has a mean",
            "TransformedDistribution",
        )
    model = vk.VAE(Torchs(without_rsample), decoder)
    words = "encoder", "has_rsample", "Poisson"
    refuses(TypeError, lambda: metrics.posterior_collapse(model, x), *words)
    assert metrics.active_units(model, x).variance.shape == (2,)


def test_what_has_no_one_prior_or_comes_once_is_refused(refuses) -> None:
    latent = vk.GaussianLatent(2)
    encoder = vk.Encoder(vk.networks.mlp(4, [], 4), latent)
    decoder = vk.Decoder(vk.networks.mlp(2, [], 4), vk.likelihoods.Gaussian(4))
    prior = vk.priors.ConditionalPrior(vk.networks.mlp(3, [], 4), 2)
    conditional = vk.VAE(encoder, decoder, prior)
    data = vk.datasets.from_tensors(torch.rand(6, 4), torch.rand(6, 3))
    words = "model: expected", "one for all"
    refuses(ValueError, lambda: metrics.aggregated_posterior_gap(conditional, data), *words)
    refuses(ValueError, lambda: metrics.decompose_rate(conditional, data), *words)
    assert metrics.mutual_information(conditional, data, draws=20).nats.mean < math.log(6)
    once = iter([torch.zeros(4, 1, 8, 8)])
    refuses(ValueError, lambda: metrics.posterior_collapse(tiny(), once), "data: ", "twice")
    x = torch.zeros(4, 1, 8, 8)
    collapse = metrics.posterior_collapse
    refuses(ValueError, lambda: collapse(tiny(), x, threshold=0), "threshold: expected")
    refuses(ValueError, lambda: collapse(tiny(), x, kl_threshold=0), "kl_threshold: expected")


def test_measuring_leaves_mode_and_random_state_as_they_were() -> None:
    model, x = tiny().train(), torch.rand(6, 1, 8, 8).round()
    before = torch.get_rng_state()
    for measure in MEASURES:
        measure(model, x)
        assert model.training
        assert torch.equal(torch.get_rng_state(), before)
