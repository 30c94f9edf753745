"""Metrics of likelihood, held to the linear-Gaussian model, whose log p(x) is exact."""

import math
import statistics
import weakref
from collections.abc import Callable

import pytest
import torch
from gaussians import z_score
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

    def exact_posterior(self, x: torch.Tensor) -> torch.distributions.Distribution:
        w, b = self.model.decoder.net.weight.detach(), self.model.decoder.net.bias.detach()
        precision = w.T @ w / SIGMA**2 + torch.eye(DIM, dtype=torch.double)
        mean = torch.linalg.solve(precision, ((x - b) @ w / SIGMA**2).T).T
        return torch.distributions.MultivariateNormal(mean, precision_matrix=precision)


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
    assert abs(many.nats.mean - exact.mean().item()) < 4 * many.monte_carlo_error
    assert many.nats.standard_error == pytest.approx(many.by_element.std().item() / 20**0.5)


@pytest.mark.parametrize("annealed", [False, True])
def test_the_error_of_the_draws_is_their_spread(linear: Linear, annealed: bool) -> None:
    x = linear.data(4)

    def measured(seed: int) -> metrics.NegativeLogLikelihood:
        if annealed:
            options = {"chains": 32, "steps": 60, "leapfrog": 2}
            return metrics.annealed_importance_sampling(linear.model, x, seed=seed, **options)
        return metrics.negative_log_likelihood(linear.model, x, 400, chunk=400, seed=seed)

    found = [measured(seed) for seed in range(60)]
    spread = torch.tensor([each.nats.mean for each in found]).std().item()
    told = sum(each.monte_carlo_error for each in found) / len(found)
    assert told == pytest.approx(spread, rel=4 / (2 * 59) ** 0.5)  # of a standard deviation of 60
    assert told < found[0].nats.standard_error


def test_one_draw_tells_no_error(linear: Linear) -> None:
    found = metrics.negative_log_likelihood(linear.model, linear.data(3), 1)
    assert math.isnan(found.monte_carlo_error)


def test_the_exact_posterior_needs_one_draw(linear: Linear) -> None:
    class Encoder(vk.Encoder):
        def forward(self, x, context=None):
            return linear.exact_posterior(x)

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


def test_exactly_the_samples_asked_for_are_drawn_and_a_chunk_of_them_held(linear: Linear) -> None:
    chunks: list[int] = []
    held: list[weakref.ref[torch.Tensor]] = []

    def count(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        assert all(reference() is None for reference in held)  # those of the chunks before
        chunks.append(len(args[0]))
        held.append(weakref.ref(args[0]))

    def hold(_: nn.Module, __: object, likelihood: torch.distributions.Distribution) -> None:
        held.append(weakref.ref(likelihood.mean))

    linear.model.decoder.register_forward_pre_hook(count)
    linear.model.decoder.register_forward_hook(hold)
    metrics.negative_log_likelihood(linear.model, linear.data(5), 7, batch_size=2, chunk=3)
    assert chunks == [3, 3, 1] * 3
    for samples, chunk, wanted in ((6, 3, [3, 3]), (2, 50, [2]), (3, 1, [1, 1, 1])):
        chunks.clear()
        found = metrics.negative_log_likelihood(linear.model, linear.data(4), samples, chunk=chunk)
        assert chunks == wanted
        assert (found.effective_samples <= samples + 1e-9).all()


def test_the_elbo_holds_a_chunk_of_draws_too(linear: Linear) -> None:
    x, chunks = linear.data(30), []
    whole = metrics.elbo(linear.model, x, 4000, chunk=4000)
    linear.model.decoder.register_forward_pre_hook(lambda _, args: chunks.append(len(args[0])))
    parts = metrics.elbo(linear.model, x, 4000, chunk=1500)
    assert chunks == [1500, 1500, 1000]
    assert parts.kl == pytest.approx(whole.kl)
    error = vk.reconstruction(linear.model(x, 4000).likelihood, x).std(0).norm() / 4000**0.5 / 30
    assert abs(parts.reconstruction.mean - whole.reconstruction.mean) < 4 * 2**0.5 * error
    assert parts != whole  # other draws


def log_normal(value: float, mean: float, sigma: float) -> float:
    return -(((value - mean) / sigma) ** 2) / 2 - math.log(sigma * math.sqrt(2 * math.pi))


def test_the_estimates_equal_plain_sums_over_the_same_draws(linear: Linear) -> None:
    drawn: list[torch.Tensor] = []
    linear.model.decoder.register_forward_pre_hook(lambda _, args: drawn.append(args[0]))
    x = linear.data(3)
    found = metrics.negative_log_likelihood(linear.model, x, 8, chunk=3)
    bound = metrics.elbo(linear.model, x, 8)
    q = linear.model.encode(x)
    mu, sigma = q.mean.tolist(), q.stddev.tolist()

    def plain(draws: torch.Tensor, i: int) -> list[tuple[float, float]]:
        """The log-weight and the log-density of the element of each of its draws."""
        pairs = []
        means = linear.model.decoder.net(draws[:, i]).tolist()
        for z, mean in zip(draws[:, i].tolist(), means, strict=True):
            density = sum(log_normal(a, b, SIGMA) for a, b in zip(x[i].tolist(), mean, strict=True))
            prior = sum(log_normal(value, 0, 1) for value in z)
            own = sum(map(log_normal, z, mu[i], sigma[i]))
            pairs.append((density + prior - own, density))
        return pairs

    variances = []  # of each mean weight, relative to it
    for i in range(3):
        weights = [math.exp(log_weight) for log_weight, _ in plain(torch.cat(drawn[:3]), i)]
        assert len(weights) == 8
        assert found.by_element[i].item() == pytest.approx(-math.log(sum(weights) / 8), rel=1e-12)
        effective = sum(weights) ** 2 / sum(w * w for w in weights)
        assert found.effective_samples[i].item() == pytest.approx(effective, rel=1e-12)
        variances.append(statistics.variance(weights) / 8 / statistics.mean(weights) ** 2)
    assert found.monte_carlo_error == pytest.approx(sum(variances) ** 0.5 / 3, rel=1e-10)
    values = found.by_element.tolist()
    spread = (sum((v - sum(values) / 3) ** 2 for v in values) / 2 / 3) ** 0.5
    assert found.nats == pytest.approx((sum(values) / 3, spread))
    distortion = [-sum(density for _, density in plain(drawn[3], i)) / 8 for i in range(3)]
    rate = [
        sum((m * m + s * s - 1) / 2 - math.log(s) for m, s in zip(mu[i], sigma[i], strict=True))
        for i in range(3)
    ]
    assert bound.reconstruction.mean == pytest.approx(sum(distortion) / 3, rel=1e-12)
    assert bound.kl.mean == pytest.approx(sum(rate) / 3, rel=1e-12)
    assert bound.elbo.mean == pytest.approx(-sum(distortion + rate) / 3, rel=1e-12)


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


def both_ways(
    linear: Linear, chains: int, steps: int, times: int = 500
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-weights forward and in reverse, ``(chains, times, 5)``, and log p(x) of 5 elements."""
    each = linear.data(5)
    x = each.repeat(times, 1)  # independent runs of each
    run = metrics._Annealing(linear.model, x, None, chains, steps, 4)
    forward, reverse = run.forward(), run.reverse(linear.exact_posterior(x).sample())
    shape = chains, times, 5
    return forward.reshape(shape), reverse.reshape(shape), linear.evidence.log_prob(each)


@pytest.mark.parametrize("chains", [1, 3])
def test_forward_is_below_and_reverse_above_the_evidence_of_every_element(
    linear: Linear, chains: int
) -> None:
    forward, reverse, exact = both_ways(linear, chains, steps=12)
    below = z_score(forward.logsumexp(0) - math.log(chains), exact)
    above = z_score(math.log(chains) - reverse.logsumexp(0), exact)
    assert (below < 4).all()
    assert (above > -4).all()
    assert below.mean() < -4  # and not because they are equal
    assert above.mean() > 4


def test_the_weights_of_annealing_are_unbiased_for_every_element(linear: Linear) -> None:
    forward, reverse, exact = both_ways(linear, chains=1, steps=40)
    assert z_score((forward[0] - exact).exp(), 1.0).abs().max() < 4
    assert z_score((reverse[0] + exact).exp(), 1.0).abs().max() < 4


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


MEASURES: dict[str, Callable[[vk.VAE, object], object]] = {
    "nll": lambda model, data: metrics.negative_log_likelihood(model, data, 3),
    "elbo": metrics.elbo,
    "annealing": lambda model, x: metrics.annealed_importance_sampling(model, x, chains=2, steps=3),
    "curve": lambda model, data: metrics.rate_distortion({1.0: model}, data),
}


@pytest.mark.parametrize("name", MEASURES)
def test_nan_and_nothing_are_one_clear_error(name: str, refuses) -> None:
    measure, x = MEASURES[name], torch.zeros(5, 1, 8, 8)
    nan = x.clone()
    nan[1, 0, 2, 3] = math.nan
    for data in (nan, [nan], [x, nan]):
        refuses(ValueError, lambda d=data: measure(tiny(), d), "expected no NaN, got 1 NaN")
    refuses(ValueError, lambda: measure(tiny(), x[:0]), "expected at least one element")
    for nothing in ([], iter(())):
        refuses(ValueError, lambda n=nothing: measure(tiny(), n), "data: expected at least one")
    refuses(TypeError, lambda: measure(tiny(), 3), "data: expected", "int")
    refuses(TypeError, lambda: measure(nn.Identity(), x), "model: expected a VAE, got Identity")
    broken = tiny()
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter.fill_(math.nan)
    refuses(ValueError, lambda: measure(broken, x), "expected no NaN")


def test_a_broken_decoder_is_named(refuses) -> None:
    broken, x = tiny(), torch.zeros(5, 1, 8, 8)
    nn.init.constant_(next(broken.decoder.parameters()), math.nan)
    for measure in MEASURES.values():
        refuses(ValueError, lambda m=measure: m(broken, x), "logits: expected no NaN")
    simulate = metrics.bidirectional_monte_carlo
    call = lambda: simulate(broken, 3, chains=2, steps=3)  # noqa: E731
    refuses(ValueError, call, "logits: expected no NaN")


def test_one_element_has_values_and_no_error(linear: Linear) -> None:
    x = linear.data(1)
    for found in (
        metrics.negative_log_likelihood(linear.model, x, 3).nats,
        metrics.annealed_importance_sampling(linear.model, x, chains=2, steps=3).nats,
        *metrics.elbo(linear.model, x),
    ):
        assert math.isfinite(found.mean)
        assert math.isnan(found.standard_error)


def test_bad_arguments_are_named(refuses: Callable[..., Exception]) -> None:
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
    with pytest.raises(ValueError, match=r"^chunk: expected"):
        metrics.rate_distortion({1.0: tiny()}, x, chunk=0)
    for beta in (math.nan, "one"):
        words = f"models: expected a finite number, got {beta!r}"
        refuses(ValueError, lambda beta=beta: metrics.rate_distortion({beta: tiny()}, x), words)
    with pytest.raises(TypeError, match=r"^data: expected data that can be gone through again"):
        metrics.rate_distortion({1.0: tiny(), 2.0: tiny()}, iter([x]))
    model, _ = vk.recipes.categorical_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 2, 3)
    with pytest.raises(
        TypeError, match=r"^model: expected a model whose latents are any real numbers"
    ):
        metrics.annealed_importance_sampling(model, x)
