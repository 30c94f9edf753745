import math

import pytest
import torch
import torch.distributions as td
from gaussians import as_torch, batches, dims, draw, seeds, z_score
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

import vaekit as vk
from vaekit.distributions import (
    DiagonalGaussian,
    IndependentBernoulli,
    StandardGaussian,
    bernoulli,
    log_prob_by_dimension,
)
from vaekit.distributions.chains import tempered

f64 = torch.float64


class TestDiagonalGaussian:
    @given(seed=seeds, batch=batches, dim=dims)
    def test_it_is_torchs_normal(self, seed: int, batch: int, dim: int) -> None:
        q = draw(seed, batch, dim, spread=3.0)
        p = as_torch(q)
        x = torch.randn(batch, dim, dtype=f64)
        for mine, theirs in (
            (q.log_prob(x), p.log_prob(x)),
            (q.entropy(), p.entropy()),
            (q.mean, p.mean),
            (q.mode, p.mode),
            (q.variance, p.variance),
            (q.stddev, p.stddev),
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("logvar", [-10.0, -5.0, 0.0, 5.0, 10.0])
    def test_in_the_usual_range_float32_equals_normal_to_rounding(self, logvar: float) -> None:
        mu, x = torch.randn(2, 64, 3)
        q = DiagonalGaussian(mu, torch.full_like(mu, logvar))
        p = td.Independent(td.Normal(mu, math.exp(0.5 * logvar)), 1)
        torch.testing.assert_close(q.log_prob(x), p.log_prob(x), rtol=2e-6, atol=1e-5)
        standard = td.Independent(td.Normal(torch.zeros(3), 1.0), 1)
        kl = td.kl_divergence(p, standard)
        torch.testing.assert_close(vk.kl_divergence(q), kl, rtol=2e-6, atol=1e-5)

    @given(seed=seeds, batch=batches, dim=dims, spread=st.sampled_from([0.1, 1.0, 10.0]))
    def test_in_the_usual_range_float32_is_normal_in_float64_to_rounding(
        self, seed: int, batch: int, dim: int, spread: float
    ) -> None:
        """Values and gradients, each to a few roundings of what adds up in it."""
        generator = torch.Generator().manual_seed(seed)
        mu, x = spread * torch.randn(2, batch, dim, generator=generator)
        logvar = 20 * torch.rand(batch, dim, generator=generator) - 10

        def of(q: td.Distribution, p: td.Distribution, *params: torch.Tensor) -> list[torch.Tensor]:
            values = [q.log_prob(x.to(params[0].dtype)), q.entropy(), td.kl_divergence(q, p)]
            slopes = [
                torch.autograd.grad(value.sum(), params, retain_graph=True, materialize_grads=True)
                for value in values
            ]
            return values + [slope for both in slopes for slope in both]

        single = [each.clone().requires_grad_() for each in (mu, logvar)]
        mine = of(DiagonalGaussian(*single), StandardGaussian(torch.zeros(dim)), *single)
        double = [each.double().requires_grad_() for each in (mu, logvar)]
        q = td.Independent(td.Normal(double[0], (0.5 * double[1]).exp()), 1)
        p = td.Independent(td.Normal(torch.zeros(dim, dtype=f64), 1.0), 1)
        theirs = of(q, p, *double)
        off, variance, size = (x - mu).abs(), logvar.exp(), logvar.abs()
        scales = [
            (off.square() / variance + size + 2).sum(-1),
            (size + 3).sum(-1),
            (mu.square() + variance + 1 + size).sum(-1),
            off / variance,
            off.square() / variance + 1,
            torch.zeros_like(mu),
            torch.ones_like(mu),
            mu.abs(),
            variance + 1,
        ]
        for one, other, scale in zip(mine, theirs, scales, strict=True):
            assert ((one - other).abs() <= 8 * torch.finfo(torch.float32).eps * scale).all()

    def test_the_same_noise_gives_the_same_draw_as_normal(self) -> None:
        q = draw(0, 5, 3)
        torch.manual_seed(1)
        mine = q.rsample((7,))
        torch.manual_seed(1)
        theirs = q.mu + q.stddev * torch.randn(7, 5, 3, dtype=f64)
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)

    def test_a_generator_decides_the_draw(self) -> None:
        q = draw(0, 5, 3)
        one, same, other = (
            q.sample((2,), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_draws_have_the_moments(self) -> None:
        q = draw(3, 2, 3)
        z = q.sample((100_000,))
        assert z_score(z, q.mean).abs().max() < 5
        assert z_score((z - q.mean).square(), q.variance).abs().max() < 5

    def test_it_unpacks_into_what_it_was_given(self) -> None:
        mu, logvar = torch.randn(2, 4, 2) * 100
        given_back = tuple(DiagonalGaussian(mu, logvar))
        assert given_back[0] is mu
        assert given_back[1] is logvar

    @pytest.mark.parametrize("event_ndims", [1, 2, 3])
    def test_event_dimensions_are_summed(self, event_ndims: int) -> None:
        mu, logvar, x = torch.randn(3, 2, 3, 4, 5, dtype=f64)
        q = DiagonalGaussian(mu, logvar, event_ndims)
        p = td.Independent(td.Normal(mu, (0.5 * logvar).exp()), event_ndims)
        assert q.batch_shape == p.batch_shape
        assert q.event_shape == p.event_shape
        torch.testing.assert_close(q.log_prob(x), p.log_prob(x))
        standard = StandardGaussian(torch.zeros_like(mu), event_ndims)
        reference = td.Independent(td.Normal(torch.zeros_like(mu), 1.0), event_ndims)
        torch.testing.assert_close(td.kl_divergence(q, standard), td.kl_divergence(p, reference))

    def test_one_log_variance_may_serve_all_dimensions(self) -> None:
        mu, x = torch.randn(2, 4, 3, dtype=f64)
        one = DiagonalGaussian(mu, torch.tensor(0.7, dtype=f64))
        each = DiagonalGaussian(mu, torch.full((4, 3), 0.7, dtype=f64))
        p = StandardGaussian(torch.zeros(3, dtype=f64))
        torch.testing.assert_close(one.log_prob(x), each.log_prob(x))
        torch.testing.assert_close(one.entropy(), each.entropy())
        torch.testing.assert_close(td.kl_divergence(one, p), td.kl_divergence(each, p))
        torch.testing.assert_close(td.kl_divergence(p, one), td.kl_divergence(p, each))

    def test_expand_and_tempered(self) -> None:
        q = draw(0, 1, 3)
        assert q.expand((5,)).batch_shape == (5,)
        torch.testing.assert_close(q.expand((5,)).log_prob(q.mu), q.log_prob(q.mu).expand(5))
        torch.testing.assert_close(q.tempered(0.5).stddev, 0.5 * q.stddev)

    @pytest.mark.parametrize("logvar", [-1e4, -60.0, -40.5, -39.5, 3.0, 39.5, 41.0, 60.0, 1e4])
    @pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 3.0])
    def test_tempered_beyond_the_bound_too(self, logvar: float, temperature: float) -> None:
        q = DiagonalGaussian(*torch.tensor([[0.0], [logvar]], dtype=f64))
        cooler = q.tempered(temperature)
        for each in (cooler, cooler.expand((4,)), cooler.tempered(1.0)):
            exact = (temperature * q.stddev).expand_as(each.stddev)
            torch.testing.assert_close(each.stddev, exact, rtol=1e-9, atol=0)

    @pytest.mark.parametrize("quantity", ["rsample", "log_prob", "kl", "entropy"])
    def test_gradcheck(self, quantity: str) -> None:
        mu = torch.randn(3, 2, dtype=f64, requires_grad=True)
        # Far inside the bound, and so far beyond it that gradients are still numbers of our size.
        logvar = torch.tensor([[-43.0, 0.1], [0.5, 3.0], [1.0, -2.0]], dtype=f64)
        logvar = logvar[1:] if quantity == "log_prob" else logvar

        def function(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
            q = DiagonalGaussian(mu[: len(logvar)], logvar)
            torch.manual_seed(1)
            if quantity == "rsample":
                return q.rsample()
            if quantity == "log_prob":
                return q.log_prob(torch.ones(2, 2, dtype=f64))
            return vk.kl_divergence(q) if quantity == "kl" else q.entropy() + 0 * mu.sum()

        assert gradcheck(function, (mu, logvar.requires_grad_()))

    @pytest.mark.parametrize("value", [-1e4, -1e3, -50.0, 50.0, 1e3, 1e4])
    def test_beyond_the_bound_everything_is_finite_and_gradients_lead_back(
        self, value: float
    ) -> None:
        mu = torch.tensor([[1.5]])
        logvar = torch.tensor([[value]], requires_grad=True)
        q = DiagonalGaussian(mu, logvar)
        kl = vk.kl_divergence(q).sum()
        (gradient,) = torch.autograd.grad(kl, logvar)
        assert kl.isfinite()
        assert gradient.isfinite().all()
        assert gradient.sign() == math.copysign(1, value)  # descent leads back to 0
        z = q.rsample()
        assert z.isfinite().all()
        assert q.log_prob(z).isfinite().all()
        assert q.entropy().isfinite().all()
        # One and the same variance is behind density, draws and divergence.
        torch.testing.assert_close(q.stddev.square(), q.variance)
        expected = -0.5 * (((z - mu) ** 2) / q.variance + q.variance.log() + math.log(2 * math.pi))
        torch.testing.assert_close(q.log_prob(z), expected.sum(-1), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, f64])
    def test_the_bound_is_exact_far_out(self, dtype: torch.dtype) -> None:
        # Written as a small difference of large numbers, it once returned 0 at 1e10.
        values = [-1e10, -1e4, -41.0, -40.0, 0.0, 40.0, 41.0, 1e4, 1e10]
        logvar = torch.tensor(values, dtype=dtype, requires_grad=True)
        q = DiagonalGaussian(torch.zeros_like(logvar), logvar)
        excess = torch.tensor([max(abs(v) - 40, 0.0) for v in values], dtype=f64)
        inside = torch.tensor(values, dtype=f64).clamp(-40, 40)
        exact = inside + inside.sign() * excess.asinh()
        torch.testing.assert_close(q._log_variance.double(), exact, rtol=1e-2, atol=1e-2)
        (gradient,) = torch.autograd.grad(q._log_variance.sum(), logvar)
        assert (gradient > 0).all()
        assert (gradient[3:6] == 1).all()

    def test_looking_at_values_or_not_gives_the_same(self) -> None:
        mu, logvar = torch.randn(2, 50, 4)
        logvar = logvar * 30
        looked = DiagonalGaussian(mu, logvar, validate_args=True)
        blind = DiagonalGaussian(mu, logvar, validate_args=False)
        assert torch.equal(looked.variance, blind.variance)

    def test_bad_parameters(self, refuses) -> None:
        good, bad = torch.zeros(4, 2), torch.zeros(4, 2)
        bad[1, 1] = math.nan
        refuses(ValueError, lambda: DiagonalGaussian(bad, good), "mu", "NaN", "1")
        refuses(ValueError, lambda: DiagonalGaussian(good, bad), "logvar", "NaN", "1")
        refuses(ValueError, lambda: DiagonalGaussian(good, torch.zeros(4, 3)), "logvar", "(4, 3)")
        refuses(ValueError, lambda: DiagonalGaussian(torch.zeros(2), good), "logvar", "(4, 2)")
        refuses(ValueError, lambda: DiagonalGaussian(good, good, 3), "mu", "3 dimensions")
        q = DiagonalGaussian(good, good)
        refuses(ValueError, lambda: q.log_prob(bad), "x", "NaN")
        refuses(ValueError, lambda: q.log_prob(torch.zeros(4, 3)), "x", "(..., 2)", "(4, 3)")
        refuses(ValueError, lambda: q.log_prob(torch.zeros(3, 2)), "x", "(4,)", "(3,)")
        refuses(ValueError, lambda: q.tempered(0), "temperature", "above 0", "0")


def test_torchs_normals_are_tempered_too(refuses) -> None:
    mu, sigma = torch.randn(4, 2, dtype=f64), torch.rand(4, 2, dtype=f64) + 0.1
    root = torch.linalg.cholesky(torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=f64))
    full = td.MultivariateNormal(mu, scale_tril=root)
    for p in (td.Normal(mu, sigma), td.Independent(td.Normal(mu, sigma), 1), full):
        cooler = tempered(p, 0.5)
        assert (cooler.batch_shape, cooler.event_shape) == (p.batch_shape, p.event_shape)
        torch.testing.assert_close(cooler.mean, p.mean, rtol=0, atol=0)
        torch.testing.assert_close(cooler.stddev, 0.5 * p.stddev, rtol=1e-12, atol=0)
        # At half the distance from the mean a density is as high, but for the volume's 2 ** 2.
        x = torch.randn(4, 2, dtype=f64)
        found = cooler.log_prob(mu + x) - math.log(2) * (2 if p.event_shape else 1)
        torch.testing.assert_close(found, p.log_prob(mu + 2 * x), rtol=1e-10, atol=1e-10)
    covariance = tempered(full, 0.5).covariance_matrix
    torch.testing.assert_close(covariance, full.covariance_matrix / 4, rtol=1e-12, atol=0)
    laplace = td.Independent(td.Laplace(mu, sigma), 1)
    refuses(TypeError, lambda: tempered(laplace, 0.5), "temperature", "Laplace", "0.5")


class TestKullbackLeibler:
    @given(seed=seeds, batch=batches, dim=dims)
    def test_between_all_gaussian_classes_it_is_torchs(
        self, seed: int, batch: int, dim: int
    ) -> None:
        q, p = draw(seed, batch, dim), draw(seed + 1, batch, dim)
        exact = td.kl_divergence(as_torch(q), as_torch(p))
        multivariate = td.MultivariateNormal(p.mu, torch.diag_embed(p.variance))
        for pair in ((q, p), (q, as_torch(p)), (as_torch(q), p), (q, multivariate)):
            torch.testing.assert_close(td.kl_divergence(*pair), exact, rtol=1e-9, atol=1e-9)
        multivariate = td.MultivariateNormal(q.mu, torch.diag_embed(q.variance))
        torch.testing.assert_close(td.kl_divergence(multivariate, p), exact, rtol=1e-9, atol=1e-9)

    @given(seed=seeds, batch=batches, dim=dims)
    def test_of_bernoullis_it_is_torchs(self, seed: int, batch: int, dim: int) -> None:
        a, b = torch.randn(2, batch, dim, generator=torch.Generator().manual_seed(seed), dtype=f64)
        mine = td.kl_divergence(IndependentBernoulli(a), IndependentBernoulli(b))
        theirs = td.kl_divergence(td.Bernoulli(logits=a), td.Bernoulli(logits=b)).sum(-1)
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("sigma", [1e-16, 1e-12, 1e-8, 1.0, 1e8, 1e12])
    def test_of_torchs_normals_it_is_torchs_whatever_their_scale(self, sigma: float) -> None:
        mu = torch.tensor([[0.5, -2.0]], dtype=f64)
        q, p = td.Independent(td.Normal(mu, sigma), 1), td.Independent(td.Normal(0 * mu, 1.0), 1)
        standard = StandardGaussian(torch.zeros(2, dtype=f64))
        exact = td.kl_divergence(q, p)
        torch.testing.assert_close(td.kl_divergence(q, standard), exact, rtol=1e-10, atol=0)
        by_dimension = vk.losses.kl_by_dimension(q, standard)
        torch.testing.assert_close(by_dimension.sum(-1), exact, rtol=1e-10, atol=0)
        back = td.kl_divergence(DiagonalGaussian(mu, 0 * mu), q)
        exact = td.kl_divergence(td.Independent(td.Normal(mu, 1.0), 1), q)
        torch.testing.assert_close(back, exact, rtol=1e-10, atol=0)

    def test_of_bernoullis_in_float32_it_is_the_sum_over_both_values(self) -> None:
        ends = torch.tensor([-1e4, -40.0, -20.0, -15.0, -3.0, 0.0, 0.5, 8.0, 15.0, 20.0, 40.0, 1e4])
        a, b = torch.cartesian_prod(ends, ends)[..., None].unbind(1)
        q, p = IndependentBernoulli(a), IndependentBernoulli(b)
        sides = torch.tensor([1.0, -1.0], dtype=f64)  # log P(x) is that of a logit or its opposite
        log_q, log_p = (torch.nn.functional.logsigmoid(side * sides) for side in (a, b))
        exact = (log_q.exp() * (log_q - log_p)).sum(-1)
        found = td.kl_divergence(q, p).double()
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-12)

    def test_where_there_is_no_closed_form_torch_hears_of_it(self) -> None:
        student = td.Independent(td.StudentT(torch.full((2,), 4.0)), 1)
        with pytest.raises(NotImplementedError):
            td.kl_divergence(DiagonalGaussian(torch.zeros(2), torch.zeros(2)), student)


class TestIndependentBernoulli:
    @given(seed=seeds, batch=batches, dim=dims)
    def test_it_is_torchs_bernoulli(self, seed: int, batch: int, dim: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(batch, dim, generator=generator, dtype=f64)
        q, p = IndependentBernoulli(logits), td.Independent(td.Bernoulli(logits=logits), 1)
        x = torch.randn(batch, dim, generator=generator).gt(0).double()
        for mine, theirs in (
            (q.log_prob(x), p.log_prob(x)),
            (q.log_prob(x[None].expand(3, -1, -1)), p.log_prob(x).expand(3, -1)),
            (q.mean, p.mean),
            (q.variance, p.variance),
            (q.entropy(), p.entropy()),
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
        assert torch.equal(q.mode, (q.mean > 0.5).double())

    def test_it_sums_to_one(self) -> None:
        logits = torch.randn(5, 4, dtype=f64)
        every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=f64)] * 4)[:, None]
        total = IndependentBernoulli(logits).log_prob(every).logsumexp(0)
        torch.testing.assert_close(total, torch.zeros(5, dtype=f64), rtol=0, atol=1e-10)

    def test_draws_have_the_mean(self) -> None:
        q = IndependentBernoulli(torch.randn(3, 4))
        draws = q.sample((50_000,))
        assert set(draws.unique().tolist()) == {0.0, 1.0}
        assert z_score(draws, q.mean).abs().max() < 5

    @pytest.mark.parametrize("value", [-1e4, 1e4])
    def test_extreme_logits_are_finite(self, value: float) -> None:
        q = IndependentBernoulli(torch.full((1, 3), value))
        assert q.log_prob(torch.tensor([[0.0, 1.0, 1.0]])).isfinite().all()
        assert q.entropy().isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, f64])
    @pytest.mark.parametrize("scale", [1, 10, 100])
    def test_many_draws_without_a_graph_are_as_with_one(
        self, dtype: torch.dtype, scale: float
    ) -> None:
        # Scaled by 100, the logarithm of 1 + exp(y) is infinite for some, and is not used.
        logits = scale * torch.randn(50, 4, 784, dtype=dtype)
        x = torch.rand(4, 784).round()
        one = logits[0].clone()
        exact = td.Bernoulli(logits=logits.double()).log_prob(x.double()).sum(-1)
        rounded = {torch.float32: 6e-8, f64: math.exp(-20)}[dtype]  # softplus is y above 20
        bound = 784 * rounded + 10 * torch.finfo(dtype).eps * exact.abs().max()
        for draws in (logits, logits.clone().requires_grad_()):
            mine = IndependentBernoulli(draws).log_prob(x)
            assert (mine - exact).abs().max() < bound
        assert torch.equal(one, logits[0])

    @pytest.mark.parametrize(
        ("logits", "values", "pieces"),
        [
            ((7, 4, 5), (4, 5), 7),
            ((7, 4, 5), (7, 1, 5), 7),
            ((7, 4, 5), (1, 4, 5), 7),
            ((1, 4, 5), (7, 4, 5), 7),
            ((4, 5), (7, 4, 5), 7),
            ((4, 1, 5), (4, 5), 4),
            ((1, 4, 5), (0, 4, 5), 0),
        ],
    )
    def test_many_draws_a_piece_at_a_time(
        self,
        logits: tuple[int, ...],
        values: tuple[int, ...],
        pieces: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def noting(*args) -> torch.Tensor:
            taken.append(args)
            return product(*args)

        taken, product = [], bernoulli._product_of_right
        held, x = IndependentBernoulli(torch.randn(logits)), torch.rand(values).round()
        monkeypatch.setattr(bernoulli, "_AT_ONCE", 1)
        monkeypatch.setattr(bernoulli, "_product_of_right", noting)
        whole = held.log_prob(x)
        assert len(taken) == pieces
        exact = td.Bernoulli(logits=held.logits).log_prob(x).sum(-1)
        torch.testing.assert_close(whole, exact)

    def test_many_draws_are_looked_through(self, refuses) -> None:
        held = IndependentBernoulli(torch.full((3, 2, 4), math.nan))
        refuses(ValueError, lambda: held.log_prob(torch.ones(2, 4)), "logits", "NaN")
        held = IndependentBernoulli(torch.zeros(3, 2, 4))
        refuses(ValueError, lambda: held.log_prob(torch.full((2, 4), 0.5)), "x", "zeros and ones")

    @pytest.mark.parametrize("value", [-1e4, 1e4])
    def test_many_extreme_logits_are_finite(self, value: float) -> None:
        q = IndependentBernoulli(torch.full((5, 1, 3), value))
        found = q.log_prob(torch.tensor([[0.0, 1.0, 1.0]]))
        assert torch.equal(found, torch.full((5, 1), -1e4 * (1 if value > 0 else 2)))

    def test_grey_levels_are_an_explicit_choice(self, refuses) -> None:
        logits, grey = torch.randn(2, 3), torch.rand(2, 3)
        binary = IndependentBernoulli(logits)
        refuses(ValueError, lambda: binary.log_prob(grey), "x", "zeros and ones", "grey_levels")
        cross_entropy = -(grey * logits.sigmoid().log() + (1 - grey) * (-logits).sigmoid().log())
        value = IndependentBernoulli(logits, grey_levels=True).log_prob(grey)
        torch.testing.assert_close(value, -cross_entropy.sum(-1))

    def test_bad_values(self, refuses) -> None:
        q = IndependentBernoulli(torch.zeros(2, 3), grey_levels=True)
        refuses(ValueError, lambda: q.log_prob(torch.full((2, 3), 1.5)), "x", "[0, 1]", "1.5")
        refuses(ValueError, lambda: q.log_prob(torch.full((2, 3), -0.5)), "x", "[0, 1]", "-0.5")
        refuses(ValueError, lambda: q.log_prob(torch.full((2, 3), math.nan)), "x", "NaN")
        refuses(ValueError, lambda: q.log_prob(torch.zeros(2, 4)), "x", "(..., 3)", "(2, 4)")
        held = IndependentBernoulli(torch.full((2, 3), math.nan))
        refuses(ValueError, lambda: held.log_prob(torch.zeros(2, 3)), "logits", "NaN")

    @given(st.sampled_from([torch.bool, torch.uint8, torch.int64]))
    def test_whole_numbers_are_values_too(self, dtype: torch.dtype) -> None:
        q = IndependentBernoulli(torch.zeros(2, 3))
        x = torch.tensor([[0, 1, 1], [1, 0, 0]])
        torch.testing.assert_close(q.log_prob(x.to(dtype)), q.log_prob(x.float()))


def test_log_prob_by_dimension_adds_up_and_says_when_it_cannot(refuses) -> None:
    q = draw(0, 5, 3)
    z = torch.randn(5, 3, dtype=f64)
    by_dimension = log_prob_by_dimension(q, z)
    assert by_dimension.shape == (5, 3)
    torch.testing.assert_close(by_dimension.sum(-1), q.log_prob(z))
    torch.testing.assert_close(log_prob_by_dimension(as_torch(q), z), by_dimension)
    full = td.MultivariateNormal(torch.zeros(3), torch.eye(3))
    refuses(TypeError, lambda: log_prob_by_dimension(full, z), "distribution", "independent")


def test_what_switches_torchs_checks_off_leaves_ours_on(refuses) -> None:
    # torch.compile does so for the whole process, and so does importing zuko.
    default = td.Distribution._validate_args
    td.Distribution.set_default_validate_args(False)
    try:
        nan, x = torch.full((4, 2), math.nan), torch.full((4, 2), 0.5)
        refuses(ValueError, lambda: DiagonalGaussian(nan, torch.zeros(4, 2)), "mu", "NaN")
        bernoulli = IndependentBernoulli(torch.zeros(4, 2))
        refuses(ValueError, lambda: bernoulli.log_prob(x), "x", "zeros and ones")
        poisson = vk.likelihoods.Poisson(2)(torch.zeros(4, 2))
        refuses(ValueError, lambda: poisson.log_prob(x), "x", "whole")
    finally:
        td.Distribution.set_default_validate_args(default)
