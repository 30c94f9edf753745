import copy
import itertools
import math
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.distributions as td
from gaussians import batches, seeds, z_score
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vaekit as vk
from vaekit.distributions import (
    DiagonalGaussian,
    IndependentBernoulli,
    Joint,
    Mixture,
    StandardGaussian,
)
from vaekit.distributions.discrete import RelaxedBernoulli, RelaxedCategorical

f64 = torch.float64
temperatures = st.floats(0.3, 3.0)


def logits(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=f64)


def one_hots(variables: int, classes: int) -> Tensor:
    """Every value of some categorical variables, side by side."""
    every = itertools.product(range(classes), repeat=variables)
    index = torch.tensor(list(every))
    return torch.nn.functional.one_hot(index, classes).to(f64).flatten(-2)


class TestRelaxedCategorical:
    @given(seed=seeds, batch=batches, variables=st.integers(1, 3), classes=st.integers(2, 4))
    def test_hard_it_is_torchs_one_hot_categorical_and_sums_to_one(
        self, seed: int, batch: int, variables: int, classes: int
    ) -> None:
        raw = logits(seed, batch, variables, classes)
        q = RelaxedCategorical(raw, hard=True)
        p = td.Independent(td.OneHotCategorical(logits=raw), 1)
        x = one_hots(variables, classes)[:, None]
        theirs = p.log_prob(x.unflatten(-1, (variables, classes)))
        torch.testing.assert_close(q.log_prob(x), theirs, rtol=1e-10, atol=1e-10)
        total = q.log_prob(x).logsumexp(0)
        torch.testing.assert_close(total, torch.zeros(batch, dtype=f64), rtol=0, atol=1e-10)
        for mine, other in (
            (q.entropy(), p.entropy()),
            (q.mean, p.mean.flatten(-2)),
            (q.mode, p.mode.flatten(-2)),
            (q.variance, p.variance.flatten(-2)),
        ):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)

    @given(seed=seeds, batch=batches, classes=st.integers(2, 4), temperature=temperatures)
    def test_relaxed_it_is_torchs_concrete_density(
        self, seed: int, batch: int, classes: int, temperature: float
    ) -> None:
        raw = logits(seed, batch, 2, classes)
        q = RelaxedCategorical(raw, temperature)
        tau = torch.tensor(temperature, dtype=f64)
        p = td.Independent(td.RelaxedOneHotCategorical(tau, logits=raw), 1)
        y = logits(seed + 1, batch, 2, classes).softmax(-1)
        torch.testing.assert_close(q.log_prob(y.flatten(-2)), p.log_prob(y), rtol=1e-10, atol=1e-10)

    def test_the_density_integrates_to_one_over_the_triangle(self) -> None:
        q = RelaxedCategorical(torch.tensor([[0.4, -0.3, 0.1]], dtype=f64), 0.9)
        # y = softmax of (a, b, 0), whose Jacobian is the product of the three.
        a = torch.linspace(-40, 40, 1601, dtype=f64)
        grid = torch.cartesian_prod(a, a)
        y = torch.cat([grid, torch.zeros_like(grid[:, :1])], 1).softmax(-1)
        integral = (q.log_prob(y) + y.log().sum(-1)).exp().sum() * (a[1] - a[0]) ** 2
        assert abs(integral - 1) < 1e-8

    def test_draws_follow_the_density_and_the_categorical(self) -> None:
        raw = logits(3, 2, 3)
        hard = RelaxedCategorical(raw, hard=True)
        assert z_score(hard.sample((50_000,)), hard.mean).abs().max() < 5
        # Two densities' ratio has mean 1 under the one drawn from.
        q, other = RelaxedCategorical(raw, 0.8), RelaxedCategorical(0.8 * raw, 0.8)
        y = q.sample((50_000,))
        assert abs(z_score((other.log_prob(y) - q.log_prob(y)).exp(), 1.0)) < 5

    def test_straight_through_is_one_hot_forward_and_relaxed_backward(self) -> None:
        raw = logits(0, 4, 2, 3).requires_grad_()
        weight = torch.randn(4, 6, dtype=f64)
        gradients, draws = [], []
        for hard in (True, False):
            torch.manual_seed(1)
            draws.append(RelaxedCategorical(raw, 0.7, hard).rsample())
            gradients.append(torch.autograd.grad((weight * draws[-1]).sum(), raw)[0])
        assert torch.equal(draws[0], draws[0].round())
        assert torch.equal(draws[0].unflatten(-1, (2, 3)).sum(-1), torch.ones(4, 2, dtype=f64))
        assert torch.equal(*(d.unflatten(-1, (2, 3)).argmax(-1) for d in draws))
        assert torch.equal(*gradients)
        assert gradients[0].abs().sum() > 0

    def test_the_relaxed_gradient_is_that_of_the_relaxed_mean(self) -> None:
        raw = torch.tensor([[0.4, -0.8]], dtype=f64, requires_grad=True)
        # With two classes the draw is a logistic variable's sigmoid: the mean by quadrature.
        u = (torch.arange(200_000, dtype=f64) + 0.5) / 200_000
        exact = (((raw[0, 0] - raw[0, 1]) + u.logit()) / 0.6).sigmoid().mean()
        (exact,) = torch.autograd.grad(exact, raw)
        many = raw.detach().expand(50_000, 1, 2).clone().requires_grad_()
        RelaxedCategorical(many, 0.6).rsample()[:, 0].sum().backward()
        assert z_score(many.grad, exact).abs().max() < 5

    def test_it_hardens_as_the_temperature_falls(self) -> None:
        raw = logits(0, 50, 2, 3)
        torch.manual_seed(1)
        hard = RelaxedCategorical(raw, hard=True).sample()
        gaps = []
        for temperature in (1.0, 0.1, 1e-3, 1e-6):
            torch.manual_seed(1)
            gaps.append((RelaxedCategorical(raw, temperature).sample() - hard).abs().sum())
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[-1] < 1e-10

    @given(seed=seeds, batch=batches)
    def test_kl_is_that_of_the_categoricals(self, seed: int, batch: int) -> None:
        a, b = logits(seed, batch, 2, 3), logits(seed + 1, 2, 3)
        exact = td.kl_divergence(td.Categorical(logits=a), td.Categorical(logits=b)).sum(-1)
        for hard in (True, False):
            q, p = RelaxedCategorical(a, hard=hard), RelaxedCategorical(b, hard=hard)
            kl = vk.kl_divergence(q, p, method="analytic")
            torch.testing.assert_close(kl, exact, rtol=1e-10, atol=1e-10)
            assert (vk.kl_divergence(q, q).abs() < 1e-12).all()

    def test_kl_agrees_with_draws(self) -> None:
        q = RelaxedCategorical(logits(0, 2, 3), hard=True)
        p = RelaxedCategorical(logits(1, 2, 3), hard=True)
        z = q.sample((50_000,))
        assert abs(z_score(q.log_prob(z) - p.log_prob(z), vk.kl_divergence(q, p))) < 5

    @pytest.mark.parametrize("value", [-1e4, 1e4])
    @pytest.mark.parametrize("temperature", [1e-3, 0.5])
    def test_extreme_logits_and_temperatures_are_finite(self, value, temperature) -> None:
        raw = torch.tensor([[value, 0.0, 1.0]], requires_grad=True)
        q, p = RelaxedCategorical(raw, temperature), RelaxedCategorical(torch.zeros(1, 3))
        z = q.rsample((2000,))
        total = z.sum() + q.log_prob(z).sum() + vk.kl_divergence(q, p)
        (gradient,) = torch.autograd.grad(total, raw)
        assert total.isfinite()
        assert gradient.isfinite().all()

    def test_expand(self) -> None:
        q = RelaxedCategorical(logits(0, 1, 2, 3), 0.7, hard=True)
        x = q.sample()
        wide = q.expand((4, 5))
        assert (wide.batch_shape, wide.hard, wide.temperature) == ((4, 5), True, 0.7)
        torch.testing.assert_close(wide.log_prob(x), q.log_prob(x).expand(4, 5))

    def test_bad_values(self, refuses) -> None:
        good = torch.zeros(4, 2, 3)
        make = RelaxedCategorical
        refuses(ValueError, lambda: make(torch.zeros(4, 2, 1)), "logits", "classes", "(4, 2, 1)")
        refuses(ValueError, lambda: make(good, 0.0), "temperature", "above 0", "0.0")
        refuses(ValueError, lambda: make(good + math.nan), "logits", "NaN")
        masked = good.index_fill(-1, torch.tensor([1]), -math.inf)  # its entropy would be NaN
        refuses(ValueError, lambda: make(masked), "logits", "finite", "8 infinite among 24")
        hard, relaxed = make(good, hard=True), make(good)
        x = torch.full((4, 6), 1 / 3)
        assert relaxed.log_prob(x).isfinite().all()
        refuses(ValueError, lambda: hard.log_prob(x), "x", "one-hot", "0.333")
        refuses(ValueError, lambda: relaxed.log_prob(torch.randn(4, 6)), "x", "simplex")
        refuses(ValueError, lambda: relaxed.log_prob(x + math.nan), "x", "NaN")
        refuses(ValueError, lambda: relaxed.log_prob(x[:, :3]), "x", "(..., 6)", "(4, 3)")
        refuses(
            NotImplementedError, relaxed.entropy, "No closed-form entropy of RelaxedCategorical"
        )
        other = make(torch.zeros(4, 3, 2))
        refuses(ValueError, lambda: vk.kl_divergence(hard, other), "prior", "(2, 3)", "(3, 2)")
        gaussian = DiagonalGaussian(*torch.zeros(2, 6))
        refuses(TypeError, lambda: vk.kl_divergence(hard, gaussian), "prior", "categorical")


def test_a_class_at_minus_ten_thousand_is_one_that_is_not_there() -> None:
    few, other = torch.randn(2, 5, 1, 2, dtype=f64)
    absent = torch.full((5, 1, 1), -1e4, dtype=f64)
    q, p = (RelaxedCategorical(torch.cat([raw, absent], -1), hard=True) for raw in (few, other))
    exact = [td.Categorical(logits=raw) for raw in (few, other)]
    torch.testing.assert_close(q.entropy(), exact[0].entropy().sum(-1), rtol=1e-10, atol=1e-10)
    kl = td.kl_divergence(*exact).sum(-1)
    torch.testing.assert_close(vk.kl_divergence(q, p), kl, rtol=1e-10, atol=1e-10)
    assert not q.sample((100,))[..., 2].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("classes", [2, 4, 50])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_relaxed_draws_of_any_precision_are_taken(
    dtype: torch.dtype, classes: int, temperature: float, refuses
) -> None:
    q = RelaxedCategorical(logits(0, 500, 3, classes).to(dtype), temperature)
    z = q.sample()
    assert q.log_prob(z).isfinite().all()
    refuses(ValueError, lambda: q.log_prob(z * 0.5), "x", "simplex")
    refuses(ValueError, lambda: q.log_prob(z - 0.1), "x", "simplex")


class TestRelaxedBernoulli:
    @given(seed=seeds, batch=batches, temperature=temperatures)
    def test_relaxed_it_is_torchs_binary_concrete_density(
        self, seed: int, batch: int, temperature: float
    ) -> None:
        raw = logits(seed, batch, 3)
        tau = torch.tensor(temperature, dtype=f64)
        p = td.Independent(td.RelaxedBernoulli(tau, logits=raw), 1)
        y = logits(seed + 1, batch, 3).sigmoid()
        q = RelaxedBernoulli(raw, temperature)
        torch.testing.assert_close(q.log_prob(y), p.log_prob(y), rtol=1e-9, atol=1e-9)
        by_dimension = vk.distributions.log_prob_by_dimension(q, y)
        torch.testing.assert_close(by_dimension.sum(-1), q.log_prob(y), rtol=1e-10, atol=1e-10)

    @given(seed=seeds, batch=batches)
    def test_hard_it_is_the_bernoulli_and_sums_to_one(self, seed: int, batch: int) -> None:
        raw = logits(seed, batch, 3)
        q, p = RelaxedBernoulli(raw, hard=True), IndependentBernoulli(raw)
        every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=f64)] * 3)[:, None]
        torch.testing.assert_close(q.log_prob(every), p.log_prob(every), rtol=1e-10, atol=1e-10)
        total = q.log_prob(every).logsumexp(0)
        torch.testing.assert_close(total, torch.zeros(batch, dtype=f64), rtol=0, atol=1e-10)
        assert torch.equal(q.entropy(), p.entropy())

    @pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
    def test_the_density_integrates_to_one(self, temperature: float) -> None:
        # From 0 to a half; the other half is the same for the opposite logit.
        raw = torch.tensor([[0.7], [-0.7]], dtype=f64)
        logit = torch.linspace(-100, 0, 100_001, dtype=f64)
        y = logit.sigmoid()
        density = RelaxedBernoulli(raw, temperature).log_prob(y[:, None, None]).exp().sum(-1)
        integral = torch.trapezoid(density * y * (1 - y), logit)
        assert abs(integral - 1) < 1e-7

    def test_draws_have_the_probabilities_and_gradients_pass(self) -> None:
        raw = torch.tensor([[0.5, -1.0]], dtype=f64).expand(50_000, 2).clone().requires_grad_()
        gradients, draws = [], []
        for hard in (True, False):
            torch.manual_seed(1)
            draws.append(RelaxedBernoulli(raw, 0.6, hard).rsample())
            gradients.append(torch.autograd.grad(draws[-1].sum(), raw)[0])
        assert set(draws[0].unique().tolist()) == {0.0, 1.0}
        assert z_score(draws[0], raw[0].sigmoid()).abs().max() < 5
        assert torch.equal(draws[0], draws[1].round())
        assert torch.equal(*gradients)
        # The mean of the relaxed variable, and its gradient, by quadrature.
        u = (torch.arange(200_000, dtype=f64) + 0.5)[:, None] / 200_000
        at = raw[0].detach().requires_grad_()
        mean = ((at + u.logit()) / 0.6).sigmoid().mean(0)
        (exact,) = torch.autograd.grad(mean.sum(), at)
        assert z_score(draws[1], mean).abs().max() < 5
        assert z_score(gradients[1], exact).abs().max() < 5

    def test_kl_is_that_of_the_bernoullis(self) -> None:
        a, b = logits(0, 5, 3), logits(1, 3)
        exact = vk.kl_divergence(IndependentBernoulli(a), IndependentBernoulli(b))
        for hard in (True, False):
            q, p = RelaxedBernoulli(a, hard=hard), RelaxedBernoulli(b, hard=hard)
            assert torch.equal(vk.kl_divergence(q, p, method="analytic"), exact)
        z = q.expand((5,)).rsample((50_000,))  # the Concrete densities' own, from draws
        assert z_score((p.log_prob(z) - q.log_prob(z)).exp(), 1.0).abs().max() < 5

    def test_expand(self) -> None:
        q = RelaxedBernoulli(logits(0, 1, 3), 0.7, hard=True)
        wide, x = q.expand((4,)), q.sample()
        assert (wide.batch_shape, wide.hard, wide.temperature) == ((4,), True, 0.7)
        torch.testing.assert_close(wide.log_prob(x), q.log_prob(x).expand(4))

    def test_bad_values(self, refuses) -> None:
        good = torch.zeros(4, 3)
        refuses(ValueError, lambda: RelaxedBernoulli(good, -1), "temperature", "above 0", "-1")
        refuses(ValueError, lambda: RelaxedBernoulli(good + math.nan), "logits", "NaN")
        refuses(ValueError, lambda: RelaxedBernoulli(good - math.inf), "logits", "12 infinite")
        hard, relaxed = RelaxedBernoulli(good, hard=True), RelaxedBernoulli(good)
        refuses(ValueError, lambda: hard.log_prob(good + 0.5), "x", "zeros and ones", "0.5")
        refuses(ValueError, lambda: relaxed.log_prob(good + 1.5), "x", "[0, 1]", "1.5")
        refuses(ValueError, lambda: relaxed.log_prob(good[:, :2]), "x", "(..., 3)", "(4, 2)")
        refuses(NotImplementedError, relaxed.entropy, "No closed-form entropy of RelaxedBernoulli")
        gaussian = DiagonalGaussian(*torch.zeros(2, 3))
        refuses(TypeError, lambda: vk.kl_divergence(relaxed, gaussian), "prior", "binary")


#: Temperatures and logits whose draws come to lie on 1 in single precision, often or always.
LIKELY = [(0.5, 8.0), (0.2, 4.0), (0.2, 8.0), (0.1, 2.0), (1.0, -3.0)]


def divergence(logit: float) -> tuple[Tensor, Tensor]:
    """KL of a relaxed binary variable from a fair one, and its slope, by quadrature.

    That of logistic variables, whatever the temperature, since it is the same for what is drawn
    and its logit.
    """
    at = torch.tensor(logit, dtype=f64, requires_grad=True)
    s = torch.linspace(-60, 60, 240_001, dtype=f64)
    log_q, log_p = (a - s - 2 * torch.nn.functional.softplus(a - s) for a in (at, 0 * at))
    kl = torch.trapezoid(log_q.exp() * (log_q - log_p), s)
    (slope,) = torch.autograd.grad(kl, at)
    return kl.detach(), slope


def binary(logits: Tensor, temperature: float) -> RelaxedBernoulli:
    return RelaxedBernoulli(logits, temperature)


def of_two_classes(logits: Tensor, temperature: float) -> RelaxedCategorical:
    both = torch.stack([logits, torch.zeros_like(logits)], -1)
    return RelaxedCategorical(both, temperature)


def in_columns(logits: Tensor, temperature: float) -> Joint:
    parts = [binary(logits, temperature), StandardGaussian(logits.detach().new_zeros(logits.shape))]
    return Joint(parts, [[1], [0]])


def of_a_mixture(logits: Tensor, temperature: float) -> td.Distribution:
    """Posteriors are as they are; a prior is a mixture of two alike."""
    if logits.ndim > 1:
        return binary(logits, temperature)
    components = binary(logits.detach().expand(2, 1), temperature)
    return Mixture(torch.zeros(2, dtype=logits.dtype), components)


@pytest.mark.parametrize("dtype", [torch.float32, f64], ids=str)
@pytest.mark.parametrize(("temperature", "logit"), LIKELY)
@pytest.mark.parametrize("make", [binary, of_two_classes, in_columns, of_a_mixture])
def test_likely_draws_have_their_divergence_and_its_slope(
    make: Callable[[Tensor, float], td.Distribution],
    temperature: float,
    logit: float,
    dtype: torch.dtype,
) -> None:
    exact, slope = divergence(logit)
    many = torch.full((50_000, 1), logit, dtype=dtype, requires_grad=True)
    q, p = make(many, temperature), make(torch.zeros(1, dtype=dtype), temperature)
    z = q.rsample((2,))
    kl = vk.kl_divergence(q, p, z=z, method="monte_carlo")
    (gradient,) = torch.autograd.grad(kl.sum(), many)
    assert abs(z_score(kl.detach().double(), exact)) < 5
    assert abs(z_score(gradient.double(), slope)) < 5


@pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
def test_likely_draws_have_the_weights_and_slopes_of_one_draw(gradient: str) -> None:
    exact, slope = divergence(8.0)
    many = torch.full((50_000, 1), 8.0, requires_grad=True)
    q, p = binary(many, 0.5), binary(torch.zeros(1), 0.5)
    z = q.rsample((1,))
    likelihood = vk.likelihoods.Bernoulli(1)(0 * z)  # a fair coin, whatever the code
    loss = vk.losses.importance_weighted(
        likelihood, q, p, torch.ones(50_000, 1), z, gradient=gradient
    )
    (found,) = torch.autograd.grad(loss.sum(), many)
    assert abs(z_score(loss.detach().double(), exact + math.log(2))) < 5
    assert abs(z_score(found.double(), slope)) < 5


def test_likely_draws_have_their_parts_of_the_divergence() -> None:
    """Of one posterior for all, the aggregated one is that too: the whole is the divergence."""
    exact, _ = divergence(8.0)
    q, p = binary(torch.full((2000, 1), 8.0), 0.5), binary(torch.zeros(1), 0.5)
    parts = vk.losses.decompose_kl(q, p, q.rsample(), dataset_size=2000)
    assert abs(parts.mutual_information) < 1e-4
    assert abs(parts.total_correlation) < 1e-4
    spread = vk.kl_divergence(q, p, method="monte_carlo").std() / 2000**0.5
    assert abs(parts.dimension_wise_kl - exact) < 5 * spread


@pytest.mark.parametrize("make", [binary, of_two_classes, in_columns])
def test_densities_of_draws_and_of_copies_differ_by_rounding_alone(make) -> None:
    q, p = make(logits(0, 5, 1), 1.0), make(logits(1, 5, 1), 1.0)
    z = q.rsample((3,))
    of_logits, of_values = (vk.kl_divergence(q, p, z=at, method="monte_carlo") for at in (z, +z))
    torch.testing.assert_close(of_logits, of_values, rtol=1e-8, atol=1e-8)
    q.rsample()  # another draw is the latest then
    of_values = vk.kl_divergence(q, p, z=z, method="monte_carlo")
    torch.testing.assert_close(of_logits, of_values, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("make", [binary, of_two_classes, in_columns])
def test_what_has_drawn_is_copied_expanded_and_pickled(make) -> None:
    q = make(logits(0, 1, 1), 0.5)
    getattr(q, "parts", [q])[0].logits.requires_grad_()
    z = q.rsample((3,))
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q)), q.expand((4,))):
        expected = q.log_prob(z).expand(other.log_prob(z).shape)
        torch.testing.assert_close(other.log_prob(z), expected)
