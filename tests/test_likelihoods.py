"""Each likelihood is a probability, has gradients, and says what it refuses."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.distributions as td
from gaussians import z_score
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from vaekit import likelihoods as lk
from vaekit.distributions import DiagonalGaussian

f64 = torch.float64
seeds = st.integers(0, 2**31 - 1)
spreads = st.floats(0.1, 4.0)

Make = Callable[[int | tuple[int, ...]], lk.Likelihood]

REAL: dict[str, Make] = {
    "Gaussian": lambda shape: lk.Gaussian(shape, 0.5),
    "Gaussian, learned": lambda shape: lk.Gaussian(shape, 0.5, learn_sigma=True),
    "Gaussian, per pixel": lambda shape: lk.Gaussian(shape, "per_pixel"),
    "Gaussian, optimal": lambda shape: lk.Gaussian(shape, "optimal").eval(),
    "Laplace": lk.Laplace,
    "Laplace, learned": lambda shape: lk.Laplace(shape, 0.5, learn_sigma=True),
    "Laplace, per pixel": lambda shape: lk.Laplace(shape, "per_pixel"),
    "StudentT": lambda shape: lk.StudentT(shape, 3.0, 2.0),
    "StudentT, learned": lambda shape: lk.StudentT(shape, 2.5, learn_sigma=True),
    "StudentT, per pixel": lambda shape: lk.StudentT(shape, 5.0, "per_pixel"),
    "ContinuousBernoulli": lk.ContinuousBernoulli,
}
#: With the values of each, all of them or so many that the rest has no weight in these tests.
DISCRETE: dict[str, tuple[Make, Tensor]] = {
    "Bernoulli": (lk.Bernoulli, torch.arange(2)),
    "DiscretizedLogistic": (lk.DiscretizedLogistic, torch.arange(256, dtype=f64) / 255),
    "DiscretizedLogistic, two": (lambda shape: lk.DiscretizedLogistic(shape, 2), torch.arange(2)),
    "DiscretizedLogistic, mixed": (
        lambda shape: lk.DiscretizedLogistic(shape, 16, components=3),
        torch.arange(16, dtype=f64) / 15,
    ),
    "Categorical": (lambda shape: lk.Categorical(shape, 7), torch.arange(7)),
    "Poisson": (lk.Poisson, torch.arange(250)),
    "NegativeBinomial": (lk.NegativeBinomial, torch.arange(250)),
}
MAKERS: dict[str, Make] = REAL | {name: make for name, (make, _) in DISCRETE.items()}


def of(cases: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", list(cases.values()), ids=list(cases))


def mixed() -> lk.Mixed:
    """Columns out of order, of four kinds."""
    return lk.Mixed(
        [
            ([4, 0], lk.Gaussian(2, 0.5)),
            ([1], lk.Bernoulli(1)),
            ([3], lk.Categorical(1, 3)),
            ([2, 5], lk.Poisson(2)),
        ]
    )


def draw(likelihood: lk.Likelihood, seed: int, spread: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    params = spread * torch.randn(likelihood.num_params, generator=generator, dtype=f64)
    if isinstance(likelihood, lk.Poisson | lk.NegativeBinomial):
        params = params.clamp(-1.5, 1.5)  # so that the counts we list have all the weight
    return params.abs() if isinstance(likelihood, lk.NegativeBinomial) else params


@of(DISCRETE)
@given(seed=seeds, spread=spreads)
def test_a_discrete_likelihood_sums_to_one(case, seed: int, spread: float) -> None:
    make, values = case
    p = make(1)(draw(make(1), seed, spread))
    assert abs(p.log_prob(values[:, None]).exp().sum().item() - 1) < 1e-10


@of(DISCRETE)
@given(seed=seeds, spread=spreads)
@settings(max_examples=5)
def test_a_discrete_likelihood_of_two_values_sums_to_one(case, seed: int, spread: float) -> None:
    make, values = case
    p = make(2)(draw(make(2), seed, spread))
    assert abs(p.log_prob(torch.cartesian_prod(values, values)).exp().sum().item() - 1) < 1e-10


def nodes(number: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    at, weight = np.polynomial.legendre.leggauss(number)
    return torch.tensor(at + 1) / 2, torch.tensor(weight) / 2


@of(REAL)
def test_a_density_integrates_to_one_in_one_and_two_dimensions(case) -> None:
    one, two = case(1).double(), case(2).double()
    at, weight = nodes(150)
    bounded = isinstance(one, lk.ContinuousBernoulli)
    if not bounded:
        # The whole line by x = tan, in halves that meet where a density may have an edge.
        angle = torch.cat([at - 1, at]) * math.pi / 2
        at, weight = angle.tan(), torch.cat([weight, weight]) * math.pi / 2 / angle.cos() ** 2
    for _ in range(3):
        params = torch.randn(2, one.num_params, dtype=f64)  # each dimension has its own
        x = [at if bounded else at + one(row).mean for row in params]
        with torch.no_grad():
            line = one(params[0]).log_prob(x[0][:, None]).exp() @ weight
            plane = two(params.T.flatten()).log_prob(torch.cartesian_prod(*x)).exp()
        assert abs(line.item() - 1) < 1e-9
        assert abs((weight @ plane.view(len(at), -1) @ weight).item() - 1) < 1e-9


@of(MAKERS)
def test_gradients_reach_every_parameter(case) -> None:
    likelihood = case((2, 3)).double()
    params = torch.randn(4, likelihood.num_params, dtype=f64, requires_grad=True)
    x = likelihood(params).sample()

    def log_prob(params: Tensor, *others: Tensor) -> Tensor:
        return likelihood(params).log_prob(x)

    assert gradcheck(log_prob, (params, *likelihood.parameters()))
    gradients = torch.autograd.grad(log_prob(params).sum(), (params, *likelihood.parameters()))
    assert all((gradient != 0).all() for gradient in gradients)


@of(MAKERS)
def test_the_mean_is_the_mean_of_draws(case) -> None:
    likelihood = case((2, 2)).double()
    p = likelihood(torch.randn(3, likelihood.num_params, dtype=f64))
    assert p.mean.shape == (3, 2, 2)
    with torch.no_grad():
        assert z_score(p.sample((20_000,)), p.mean).abs().max() < 5


@of(MAKERS)
def test_draws_follow_the_density(case) -> None:
    likelihood = case((1,)).double()
    p, other = (likelihood(0.2 * torch.randn(likelihood.num_params, dtype=f64)) for _ in range(2))
    x = p.sample((20_000,))
    with torch.no_grad():  # the expectation of this ratio is one
        assert z_score((other.log_prob(x) - p.log_prob(x)).exp(), 1.0).abs() < 5


@of(MAKERS)
@pytest.mark.parametrize("value", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_extreme_parameters_are_finite_and_lead_back(case, value: float) -> None:
    likelihood = case(3)
    n = likelihood.num_params // 3
    # Every pattern of extremes among the parameters of a value, up to four of them.
    extremes = torch.tensor([-1e4, 0.5, 1e4])
    patterns = torch.cartesian_prod(*[extremes] * min(n, 4)).reshape(-1, min(n, 4))
    patterns = torch.cat([patterns, patterns.new_full((len(patterns), n - min(n, 4)), value)], 1)
    params = patterns[:, :, None].expand(-1, -1, 3).flatten(1).requires_grad_()
    x = likelihood(torch.randn(1, likelihood.num_params)).sample()
    log_prob = likelihood(params).log_prob(x)
    assert log_prob.isfinite().all()
    assert likelihood(params).mean.isfinite().all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), params)
    assert gradient.isfinite().all()
    # Where a probability is one there is nothing to gain; elsewhere there is a way.
    assert (gradient != 0).any(1)[log_prob != 0].all()


def test_they_agree_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    loc, log_scale, x = torch.randn(3, 50, 1, dtype=f64)
    scale, counts = log_scale.exp(), (3 * x).exp().round()
    both = torch.cat([loc, log_scale], dim=1)
    twice = torch.cat([loc, 2 * log_scale], dim=1)
    levels = ((x + 2) / 4).clamp(0, 1).mul(255).round()
    k = levels.numpy()
    upper, lower = (
        np.where(end, outside, (k + half) / 255 - loc.numpy()) / scale.numpy()
        for half, end, outside in ((0.5, k == 255, np.inf), (-0.5, k == 0, -np.inf))
    )
    # The difference of the tails that are short.
    bin_ = stats.logistic.cdf(np.where(lower > 0, -lower, upper)) - stats.logistic.cdf(
        np.where(lower > 0, -upper, lower)
    )
    cases: list[tuple[lk.Likelihood, Tensor, Tensor, np.ndarray]] = [
        (lk.Gaussian(1, "per_pixel"), twice, x, stats.norm.logpdf(x, loc, scale)),
        (lk.Laplace(1, "per_pixel"), twice, x, stats.laplace.logpdf(x, loc, scale / 2**0.5)),
        (lk.StudentT(1, 3.5, "per_pixel"), twice, x, stats.t.logpdf(x, 3.5, loc, scale)),
        (lk.Poisson(1), log_scale, counts, stats.poisson.logpmf(counts, scale)),
        (lk.DiscretizedLogistic(1), both, levels / 255, np.log(bin_)),
        (
            lk.NegativeBinomial(1),
            both,
            counts,
            stats.nbinom.logpmf(counts, scale, scale / (scale + loc.exp())),
        ),
    ]
    for likelihood, params, value, exact in cases:
        mine = likelihood(params).log_prob(value)
        torch.testing.assert_close(mine, torch.as_tensor(exact)[:, 0], rtol=1e-9, atol=1e-9)


def test_a_categorical_is_torchs_and_its_mean_that_of_the_number() -> None:
    likelihood = lk.Categorical((2, 3), classes=4)
    params, x = torch.randn(5, 8, 3, dtype=f64), torch.randint(4, (5, 2, 3))
    # As a convolution returns them: the first class of both channels, the second of both, ...
    logits = params.view(5, 4, 2, 3).permute(0, 2, 3, 1)
    theirs = td.Independent(td.Categorical(logits=logits), 2)
    p = likelihood(params)
    torch.testing.assert_close(p.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(p.mean, (logits.softmax(-1) * torch.arange(4)).sum(-1))
    assert torch.equal(p.mode, logits.argmax(-1))


@of(MAKERS)
def test_flat_or_shaped_the_parameters_mean_the_same(case) -> None:
    likelihood = case((2, 3, 3))
    params = torch.randn(4, likelihood.num_params)
    x = likelihood(params).sample()
    shaped = params.view(4, -1, 3, 3)
    torch.testing.assert_close(likelihood(shaped).log_prob(x), likelihood(params).log_prob(x))


class TestOptimalSigma:
    def test_it_is_the_best_for_the_batch(self) -> None:
        likelihood = lk.Gaussian(3, "optimal").double()
        mu, x = torch.randn(2, 6, 3, dtype=f64)
        p = likelihood(mu)
        best = p.log_prob(x).sum()
        sigma = (x - mu).square().mean().sqrt()
        torch.testing.assert_close(p.stddev, sigma.expand(6, 3))
        others = [
            DiagonalGaussian(mu, 2 * (factor * sigma).log()).log_prob(x).sum()
            for factor in (1.0, 0.99, 1.01)
        ]
        torch.testing.assert_close(others[0], best)
        assert max(others[1:]) < best

    def test_the_gradient_is_that_through_sigma(self) -> None:
        mu = torch.randn(6, 3, dtype=f64, requires_grad=True)
        x = torch.randn(6, 3, dtype=f64)
        (mine,) = torch.autograd.grad(lk.Gaussian(3, "optimal").double()(mu).log_prob(x).sum(), mu)
        through = DiagonalGaussian(mu, (x - mu).square().mean().log()).log_prob(x).sum()
        torch.testing.assert_close(mine, torch.autograd.grad(through, mu)[0])

    def test_draws_share_it(self) -> None:
        mu, x = torch.randn(4, 6, 3, dtype=f64), torch.randn(6, 3, dtype=f64)
        p = lk.Gaussian(3, "optimal").double()(mu)
        assert p.log_prob(x).shape == (4, 6)
        torch.testing.assert_close(p.variance[0, 0, 0], (x - mu).square().mean())

    def test_in_evaluation_it_is_remembered_and_the_density_is_one(self) -> None:
        likelihood = lk.Gaussian(3, "optimal").double()
        x, logvar = torch.randn(6, 3, dtype=f64), 0.0
        for error in (0.5, 0.25):
            likelihood(x + error).log_prob(x)
            logvar += 0.1 * (2 * math.log(error) - logvar)
        assert math.isclose(likelihood.sigma, math.exp(logvar / 2))
        likelihood.eval()
        p = likelihood(torch.zeros(6, 3, dtype=f64))
        fixed = lk.Gaussian(3, likelihood.sigma)(torch.zeros(6, 3, dtype=f64))
        torch.testing.assert_close(p.log_prob(x), fixed.log_prob(x))
        assert math.isclose(likelihood.sigma, math.exp(logvar / 2))  # and nothing moved it
        other = lk.Gaussian(3, "optimal")
        other.load_state_dict(likelihood.state_dict())
        assert math.isclose(other.sigma, likelihood.sigma, rel_tol=1e-6)

    def test_perfect_reconstruction_is_finite(self) -> None:
        mu = torch.randn(6, 3)
        assert lk.Gaussian(3, "optimal")(mu).log_prob(mu).isfinite().all()

    def test_bad_values_do_not_reach_the_memory(self, refuses) -> None:
        likelihood = lk.Gaussian(3, "optimal")
        p = likelihood(torch.zeros(6, 3))
        refuses(ValueError, lambda: p.log_prob(torch.full((6, 3), math.nan)), "x", "NaN")
        assert likelihood.sigma == 1


class TestMixed:
    def test_its_moments_and_mode_are_those_of_its_columns(self) -> None:
        counts = lk.Mixed(
            [
                ([4, 0], lk.Gaussian(2, "per_pixel")),
                ([1], lk.Bernoulli(1)),
                ([5], lk.Categorical(1, 4)),
                ([2], lk.Poisson(1)),
                ([3], lk.NegativeBinomial(1)),
            ]
        )
        params = torch.randn(3, counts.num_params)
        p = counts(params)
        pieces = params.split([part.num_params for part in counts.parts], -1)
        for columns, part, piece in zip(counts.columns, counts.parts, pieces, strict=True):
            for name in ("mean", "mode", "variance"):
                expected = getattr(part(piece), name)
                assert torch.equal(getattr(p, name)[:, columns], expected), name
        draws = p.sample((20_000,))
        torch.testing.assert_close(draws.mean(0), p.mean, rtol=0.1, atol=0.1)
        assert p.support.check(draws).all()
        assert not p.support.check(draws[..., [1, 0, 2, 3, 4, 5]]).any()

    def test_it_is_the_sum_of_its_parts(self) -> None:
        likelihood = mixed()
        params = torch.randn(5, likelihood.num_params, dtype=f64)
        p = likelihood(params)
        x = p.sample()
        assert likelihood.num_params == 8
        parts = (
            lk.Gaussian(2, 0.5)(params[:, :2]).log_prob(x[:, [4, 0]]),
            lk.Bernoulli(1)(params[:, 2:3]).log_prob(x[:, [1]]),
            lk.Categorical(1, 3)(params[:, 3:6]).log_prob(x[:, [3]]),
            lk.Poisson(2)(params[:, 6:]).log_prob(x[:, [2, 5]]),
        )
        torch.testing.assert_close(p.log_prob(x), sum(parts))
        torch.testing.assert_close(p.mean[:, [4, 0]], params[:, :2])
        torch.testing.assert_close(p.mean[:, [2, 5]], params[:, 6:].exp())
        assert z_score(p.sample((20_000,)), p.mean).abs().max() < 5

    def test_it_sums_to_one_where_its_parts_do(self) -> None:
        likelihood = lk.Mixed([([1], lk.Bernoulli(1)), ([0], lk.Categorical(1, 3))])
        assert likelihood.discrete
        x = torch.cartesian_prod(torch.arange(3), torch.arange(2))
        p = likelihood(torch.randn(4, dtype=f64))
        assert abs(p.log_prob(x).exp().sum().item() - 1) < 1e-10

    def test_what_it_refuses(self, refuses) -> None:
        one, two = lk.Gaussian(1), lk.Gaussian(2)
        refuses(ValueError, lambda: lk.Mixed([]), "parts", "[]")
        refuses(ValueError, lambda: lk.Mixed([([0, 1], two), ([1], one)]), "parts", "[0, 1, 1]")
        refuses(ValueError, lambda: lk.Mixed([([0], one), ([2], one)]), "parts", "[0, 2]")
        refuses(ValueError, lambda: lk.Mixed([([0, 1], one)]), "parts", "(2,)", "Gaussian")
        p = mixed()(torch.zeros(2, 8))
        refuses(ValueError, lambda: mixed()(torch.zeros(2, 7)), "params", "(..., 8)", "(2, 7)")
        refuses(ValueError, lambda: p.log_prob(torch.zeros(2, 5)), "x", "(..., 6)", "(2, 5)")
        x = torch.zeros(2, 6)
        x[1, 3] = 3
        refuses(ValueError, lambda: p.log_prob(x), "x", "from 0 to 2", "to 3", "columns [3]")


def test_bits_per_dimension(refuses) -> None:
    # A fair coin takes one bit, a die of four sides two, whatever the shape.
    for likelihood, bits in (
        (lk.Bernoulli((2, 3)), 1.0),
        (lk.Categorical((2, 3), 4), 2.0),
        (lk.Mixed([([0], lk.Bernoulli(1)), ([1], lk.Categorical(1, 4))]), 1.5),
    ):
        p = likelihood(torch.zeros(5, likelihood.num_params, dtype=f64))
        value = likelihood.bits_per_dimension(-p.log_prob(p.sample()))
        torch.testing.assert_close(value, torch.full((5,), bits, dtype=f64))
    for continuous in (*(make(3) for make in REAL.values()), lk.Bernoulli(3, grey_levels=True)):
        refuses(
            TypeError,
            lambda continuous=continuous: continuous.bits_per_dimension(torch.ones(1)),
            "bits_per_dimension",
            "discrete",
            repr(continuous),
        )
    refuses(
        TypeError,
        lambda: mixed().bits_per_dimension(torch.ones(1)),
        "bits_per_dimension",
        "discrete",
        "Mixed",
    )


@pytest.mark.parametrize(
    ("make", "bad", "words"),
    [
        (lk.Gaussian, math.inf, ["finite values", "the first at (1, 2)"]),
        (lk.Laplace, math.inf, ["finite values", "to inf that"]),
        (lambda shape: lk.StudentT(shape, 3), -math.inf, ["finite values", "from -inf"]),
        (lk.ContinuousBernoulli, 1.25, ["[0, 1]", "from 0 to 1.25"]),
        (lk.DiscretizedLogistic, 0.5, ["multiples of 1/255", "to 0.5 that"]),
        (lk.DiscretizedLogistic, 255.0, ["from 0 to 1", "to 255 that"]),
        (lambda shape: lk.Categorical(shape, 3), 3.0, ["whole numbers from 0 to 2", "to 3 that"]),
        (lambda shape: lk.Categorical(shape, 3), 0.999, ["whole numbers", "to 0.999 that"]),
        (lk.Poisson, -1.0, ["whole numbers from 0", "from -1 to 0"]),
        (lk.NegativeBinomial, 1.5, ["whole numbers from 0", "to 1.5 that"]),
    ],
)
def test_what_data_they_refuse(make: Make, bad: float, words: list[str], refuses) -> None:
    likelihood = make(3)
    p = likelihood(torch.zeros(2, likelihood.num_params))
    x = torch.zeros(2, 3)
    assert p.log_prob(x).isfinite().all()
    x[1, 2] = bad
    refuses(ValueError, lambda: p.log_prob(x), "x: expected", *words)
    x[1, 2] = math.nan
    refuses(ValueError, lambda: p.log_prob(x), "x: expected no NaN", "1 NaN among 6")
    refuses(ValueError, lambda: p.log_prob(torch.zeros(2, 4)), "x", "(..., 3)", "(2, 4)")
    refuses(ValueError, lambda: p.log_prob(torch.zeros(5, 3)), "x", "batch", "(5,)")


@of(MAKERS)
def test_what_parameters_they_refuse(case, refuses) -> None:
    likelihood = case((2, 3))
    n = likelihood.num_params
    refuses(ValueError, lambda: likelihood(torch.zeros(4, n + 1)), "params", f"(..., {n})")
    params = torch.zeros(4, n)
    params[1, 1] = math.nan
    x = likelihood(torch.zeros(4, n)).sample()
    names = {lk.Gaussian: "mu", lk.Bernoulli: "logits"}
    name = names.get(type(likelihood), "params")
    refuses(ValueError, lambda: likelihood(params).log_prob(x), name, "NaN")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lk.Gaussian(3, 0.0), ["sigma", "above 0"]),
        (lambda: lk.Gaussian(3, "per-pixel"), ["sigma", "'per_pixel'", "'optimal'", "'per-pixel'"]),
        (lambda: lk.Laplace(3, "optimal"), ["sigma", "'per_pixel'", "'optimal'"]),
        (lambda: lk.Gaussian(3, "optimal", learn_sigma=True), ["learn_sigma", "'optimal'"]),
        (lambda: lk.Laplace(3, -1.0), ["sigma", "-1"]),
        (lambda: lk.StudentT(3, 0), ["df", "above 1", "0"]),
        (lambda: lk.StudentT(3, 1), ["df", "above 1"]),
        (lambda: lk.StudentT(3, math.nan), ["df", "nan"]),
        (lambda: lk.StudentT(3, 1e7), ["df", "up to 1e6", "Gaussian"]),
        (lambda: lk.DiscretizedLogistic(3, 1), ["levels", "above 1"]),
        (lambda: lk.DiscretizedLogistic(3, 2.5), ["levels", "2.5"]),
        (lambda: lk.DiscretizedLogistic(3, components=0), ["components", "above 0"]),
        (lambda: lk.Categorical(3, 1), ["classes", "above 1"]),
        (lambda: lk.Poisson(0), ["shape", "above 0"]),
    ],
)
def test_bad_settings(make: Callable[[], lk.Likelihood], words: list[str], refuses) -> None:
    refuses(ValueError, make, *words)


def test_there_is_no_one_sigma_per_pixel(refuses) -> None:
    refuses(TypeError, lambda: lk.Gaussian(3, "per_pixel").sigma, "sigma", "per_pixel")


@of(MAKERS | {"Mixed": lambda shape: mixed()})
def test_expand(case) -> None:
    likelihood = case(6).double()
    p = likelihood(torch.randn(1, likelihood.num_params, dtype=f64))
    x = p.sample((4,))[:, 0]
    torch.testing.assert_close(p.expand((4,)).log_prob(x), p.log_prob(x))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_are_data_too(dtype: torch.dtype) -> None:
    x = torch.tensor([[0, 1, 1]])
    for likelihood in (lk.Categorical(3, 2), lk.Poisson(3), lk.DiscretizedLogistic(3)):
        p = likelihood(torch.randn(1, likelihood.num_params))
        torch.testing.assert_close(p.log_prob(x.to(dtype)), p.log_prob(x.float()))


@of({name: make for name, make in MAKERS.items() if "Gaussian" not in name})
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, f64], ids=str)
def test_a_density_asks_for_no_mean(case, dtype: torch.dtype, monkeypatch) -> None:
    """A discretised logistic's is a sum over its levels, the base's dtype known without it."""
    likelihood = case(3)
    params = torch.randn(5, likelihood.num_params).to(dtype)
    p = likelihood(params)
    x, base = p.sample(), getattr(p, "base_dist", p)
    if base is not p:
        assert p._wide == base.mean.dtype  # what the values are cast to is what it computes in
    expected = p.log_prob(x), p.expand((5,)).log_prob(x)
    for kind in {type(p), type(base), type(getattr(base, "component_distribution", base))}:
        monkeypatch.setattr(kind, "mean", property(lambda _: pytest.fail("asked for a mean")))
    assert torch.equal(p.log_prob(x), expected[0])
    assert torch.equal(p.expand((5,)).log_prob(x), expected[1])


def test_large_counts_keep_their_digits() -> None:
    x = torch.full((1, 1), 1e5)
    exact = torch.distributions.Poisson(x.double()).log_prob(x.double()).sum(-1)
    found = lk.Poisson(1)(x.log()).log_prob(x)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=0)


def test_a_fixed_sigma_is_exact_under_autocast() -> None:
    mu = torch.zeros(3, 784)
    likelihood = lk.Gaussian(784, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        found = likelihood(mu.bfloat16()).log_prob(mu)
    torch.testing.assert_close(found, likelihood(mu).log_prob(mu), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["Categorical", "Poisson", "NegativeBinomial"])
def test_variance_and_mode_are_those_of_the_probabilities(name: str) -> None:
    make, values = DISCRETE[name]
    likelihood = make(1).double()
    params = torch.randn(20, likelihood.num_params, dtype=f64)
    p, x = likelihood(params), values.to(f64)[:, None, None]
    probabilities = p.log_prob(x).exp()
    mean = (probabilities * x[..., 0]).sum(0)
    variance = (probabilities * (x[..., 0] - mean).square()).sum(0)
    torch.testing.assert_close(p.variance[:, 0], variance, rtol=1e-6, atol=1e-8)
    assert torch.equal(p.mode[:, 0], values.to(f64)[probabilities.argmax(0)])


@pytest.mark.parametrize("shape", [(1, 8), (1, 1, 8), (8,), (2, 4)])
def test_a_batch_of_one_element_is_a_batch(shape) -> None:
    likelihood = lk.Bernoulli(shape)
    assert likelihood(torch.zeros(1, 8)).batch_shape == (1,)
    assert likelihood(torch.zeros(1, *shape)).batch_shape == (1,)
    if shape == (2, 4):  # what can only be one element without a batch is taken for that
        assert likelihood(torch.zeros(shape)).batch_shape == ()
