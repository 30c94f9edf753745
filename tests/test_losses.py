import math

import pytest
import torch
import torch.distributions as td
from gaussians import as_torch, batches, dims, draw, seeds, z_score
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vaekit as vk
from vaekit.distributions import DiagonalGaussian, StandardGaussian
from vaekit.losses import kl_method
from vaekit.losses.elbo import _aggregate_log_densities, stratified_log_weights

f64 = torch.float64


def standard(dim: int) -> StandardGaussian:
    return StandardGaussian(torch.zeros(dim, dtype=f64))


class TestReparameterisation:
    """The gradient of an expectation over the draw, against the analytic one, by z-score."""

    @pytest.mark.parametrize(
        ("function", "by_mu", "by_logvar"),
        [
            (lambda z: z, lambda m, v: torch.ones_like(m), lambda m, v: torch.zeros_like(m)),
            (lambda z: z.square(), lambda m, v: 2 * m, lambda m, v: v),
            (torch.exp, lambda m, v: (m + v / 2).exp(), lambda m, v: v / 2 * (m + v / 2).exp()),
        ],
        ids=["E[z]", "E[z^2]", "E[exp z]"],
    )
    def test_gradient_of_an_expectation(self, function, by_mu, by_logvar) -> None:
        mu = torch.tensor([-1.0, 0.0, 0.5], dtype=f64)
        logvar = torch.tensor([-2.0, 0.0, 0.4], dtype=f64)
        # One copy of the parameters for each draw, so that each has a gradient of its own.
        draws = 100_000
        mus = mu.repeat(draws, 1).requires_grad_()
        logvars = logvar.repeat(draws, 1).requires_grad_()
        z = vk.GaussianLatent.reparameterize(mus, logvars)
        of_mu, of_logvar = torch.autograd.grad(function(z).sum(), (mus, logvars))
        for gradients, exact in ((of_mu, by_mu), (of_logvar, by_logvar)):
            value = exact(mu, logvar.exp())
            # Where every draw has the same gradient there is nothing to estimate.
            fixed = gradients.std(0) < 1e-12
            torch.testing.assert_close(gradients.mean(0)[fixed], value[fixed])
            assert (z_score(gradients, value)[~fixed].abs() < 5).all()


class TestReconstruction:
    def test_it_is_the_negative_log_likelihood(self) -> None:
        likelihood = td.Independent(td.Normal(torch.zeros(4, 3), 1.0), 1)
        x = torch.randn(4, 3)
        assert torch.equal(vk.reconstruction(likelihood, x), -likelihood.log_prob(x))

    @pytest.mark.parametrize("samples", [(), (5,)])
    def test_one_value_for_each_element_and_draw(self, samples: tuple[int, ...]) -> None:
        likelihood = vk.likelihoods.Bernoulli((1, 4, 4))(torch.randn(*samples, 3, 16))
        assert vk.reconstruction(likelihood, torch.ones(3, 1, 4, 4)).shape == (*samples, 3)

    def test_values_outside_the_support_are_refused(self, refuses) -> None:
        likelihood = vk.likelihoods.Bernoulli(3)(torch.zeros(2, 3))
        x = torch.full((2, 3), 2.0)
        refuses(ValueError, lambda: vk.reconstruction(likelihood, x), "x", "zeros and ones", "2")


class TestKL:
    @given(seed=seeds, batch=batches, dim=dims)
    def test_it_is_never_negative_and_zero_at_equality(
        self, seed: int, batch: int, dim: int
    ) -> None:
        q, p = draw(seed, batch, dim), draw(seed + 1, batch, dim)
        assert (vk.kl_divergence(q, p) >= -1e-12).all()
        torch.testing.assert_close(
            vk.kl_divergence(q, DiagonalGaussian(q.mu.clone(), q.logvar.clone())),
            torch.zeros(batch, dtype=f64),
            rtol=0,
            atol=1e-10,
        )

    @given(seed=seeds, batch=batches, dim=dims)
    def test_two_distributions_or_mu_and_logvar(self, seed: int, batch: int, dim: int) -> None:
        q = draw(seed, batch, dim)
        exact = td.kl_divergence(as_torch(q), as_torch(DiagonalGaussian(q.mu * 0, q.mu * 0)))
        for value in (
            vk.kl_divergence(q.mu, q.logvar),
            vk.kl_divergence(q),
            vk.kl_divergence(q, standard(dim)),
            vk.kl_divergence(as_torch(q), standard(dim)),
        ):
            torch.testing.assert_close(value, exact, rtol=1e-10, atol=1e-10)

    @given(seed=seeds, dim=st.integers(2, 6))
    def test_it_adds_up_over_dimensions_in_any_order(self, seed: int, dim: int) -> None:
        q, p = draw(seed, 3, dim), draw(seed + 1, 3, dim)
        whole = vk.kl_divergence(q, p)

        def at(index: Tensor) -> Tensor:
            return vk.kl_divergence(
                DiagonalGaussian(q.mu[:, index], q.logvar[:, index]),
                DiagonalGaussian(p.mu[:, index], p.logvar[:, index]),
            )

        each = sum(at(torch.tensor([index])) for index in range(dim))
        torch.testing.assert_close(each, whole, rtol=1e-10, atol=1e-10)
        order = torch.randperm(dim, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(at(order), whole, rtol=1e-10, atol=1e-10)

    def test_nan_in_a_draw_is_called_by_its_name(self, refuses) -> None:
        q = vk.distributions.DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        p, z = vk.distributions.StandardGaussian(torch.zeros(2)), torch.full((4, 2), torch.nan)
        calls = [
            lambda: vk.kl_divergence(q, p, z=z, method="monte_carlo"),
            lambda: vk.total_correlation(q, z, dataset_size=100),
            lambda: vk.decompose_kl(q, p, z, dataset_size=100),
        ]
        for call in calls:
            refuses(ValueError, call, "z: expected no NaN", "(4, 2)")

    def test_the_monte_carlo_estimate_is_unbiased(self) -> None:
        q, p = draw(0, 4, 3), draw(1, 4, 3)
        exact = vk.kl_divergence(q, p)
        draws = torch.stack([vk.kl_divergence(q, p, method="monte_carlo") for _ in range(5_000)])
        assert z_score(draws, exact).abs().max() < 5

    def test_draws_given_are_the_draws_used(self) -> None:
        q, p = draw(0, 4, 3), draw(1, 4, 3)
        z = q.rsample((7,))
        by_draw = q.log_prob(z) - p.log_prob(z)
        value = vk.kl_divergence(q, p, z=z, method="monte_carlo")
        torch.testing.assert_close(value, by_draw.mean(0), rtol=1e-12, atol=1e-12)
        one = vk.kl_divergence(q, p, z=z[0], method="monte_carlo")
        torch.testing.assert_close(one, by_draw[0], rtol=1e-12, atol=1e-12)

    def test_without_a_closed_form_it_estimates_and_says_so(self, refuses) -> None:
        q = draw(0, 4, 3)
        laplace = td.Independent(td.Laplace(torch.zeros(3, dtype=f64), 1.0), 1)
        student = td.Independent(td.StudentT(torch.full((3,), 4.0, dtype=f64)), 1)
        assert kl_method(q, student) == "monte_carlo"
        assert kl_method(q, laplace) == kl_method(q, standard(3)) == "analytic"
        draws = q.rsample((20_000,)).split(100)
        draws = torch.stack(
            [vk.kl_divergence(q, laplace, z=z, method="monte_carlo") for z in draws]
        )
        # E|z| of a Gaussian is known, and with it the KL to a Laplace distribution.
        ratio = q.mu / q.stddev
        absolute = q.stddev * math.sqrt(2 / math.pi) * (-0.5 * ratio**2).exp() + q.mu * torch.erf(
            ratio / math.sqrt(2)
        )
        exact = -q.entropy() + (absolute + math.log(2)).sum(-1)
        assert z_score(draws, exact).abs().max() < 5
        torch.testing.assert_close(vk.kl_divergence(q, laplace), exact, rtol=1e-10, atol=1e-10)
        refuses(
            NotImplementedError,
            lambda: vk.kl_divergence(q, student, method="analytic"),
            "method",
            "monte_carlo",
        )

    def test_the_estimate_has_a_gradient(self) -> None:
        mu = torch.zeros(4, 3, requires_grad=True)
        q = DiagonalGaussian(mu, torch.zeros(4, 3))
        vk.kl_divergence(q, method="monte_carlo").sum().backward()
        assert mu.grad is not None
        assert mu.grad.abs().sum() > 0

    def test_bad_input(self, refuses) -> None:
        q = draw(0, 4, 3)
        mu, logvar = q
        refuses(TypeError, lambda: vk.kl_divergence(mu), "prior", "logvar", "NoneType")
        refuses(TypeError, lambda: vk.kl_divergence(q, mu), "prior", "distribution", "tensor")
        refuses(ValueError, lambda: vk.kl_divergence(mu, logvar[:2]), "logvar", "(4, 3)", "(2, 3)")
        refuses(ValueError, lambda: vk.kl_divergence(q, method="exact"), "method", "'analytic'")
        nan = torch.full_like(mu, math.nan)
        refuses(ValueError, lambda: vk.kl_divergence(nan, logvar), "mu", "NaN")
        refuses(ValueError, lambda: vk.kl_divergence(mu, nan), "logvar", "NaN")

    @pytest.mark.parametrize("mu", [-1e4, 0.0, 1e4])
    @pytest.mark.parametrize("logvar", [-1e4, 0.0, 1e4])
    def test_any_parameters_give_finite_losses_and_gradients_that_lead_back(
        self, mu: float, logvar: float
    ) -> None:
        torch.manual_seed(0)
        latent = vk.GaussianLatent(1)
        params = torch.tensor([[mu, logvar]], requires_grad=True)
        model = vk.VAE(
            vk.Encoder(torch.nn.Identity(), latent),
            vk.Decoder(vk.networks.mlp(1, [16], 4), vk.likelihoods.Bernoulli(4)),
        )
        out = model(params)
        kl = vk.kl_divergence(out.posterior, out.prior)
        loss = kl + vk.reconstruction(out.likelihood, torch.ones(1, 4))
        assert loss.isfinite().all()
        (whole,) = torch.autograd.grad(loss.sum(), params, retain_graph=True)
        assert whole.isfinite().all()
        (gradient,) = torch.autograd.grad(kl.sum(), params)
        assert torch.equal(gradient.sign(), params.sign())

    @given(
        data=st.data(),
        batch=st.integers(2, 6),
        dim=st.integers(1, 4),
        likelihood=st.sampled_from(["Bernoulli", "Gaussian"]),
        more=st.sampled_from(["KL", "TotalCorrelation", "DecomposedKL"]),
    )
    def test_whatever_comes_out_of_an_encoder_whole_objectives_are_finite(
        self, data: st.DataObject, batch: int, dim: int, likelihood: str, more: str
    ) -> None:
        torch.manual_seed(0)
        numbers = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
        drawn = data.draw(st.lists(numbers, min_size=2 * batch * dim, max_size=2 * batch * dim))
        params = torch.tensor(drawn).view(batch, 2 * dim).requires_grad_()
        model = vk.VAE(
            vk.Encoder(torch.nn.Identity(), vk.GaussianLatent(dim)),
            vk.Decoder(vk.networks.mlp(dim, [16], 4), getattr(vk.likelihoods, likelihood)(4)),
        )
        objective = {
            "KL": vk.Reconstruction() + vk.KL(),
            "TotalCorrelation": (
                vk.Reconstruction() + vk.KL() + 5 * vk.TotalCorrelation(dataset_size=100)
            ),
            "DecomposedKL": vk.Reconstruction() + vk.DecomposedKL(1, 6, 1, dataset_size=100),
        }[more]
        x = torch.ones(batch, 4)
        out = model(params)
        loss, _ = objective(out, x, 0)
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, params)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        # A draw of these variances may point anywhere through the decoder, but not the KL.
        kl = vk.kl_divergence(model.encode(params), out.prior)
        (back,) = torch.autograd.grad(kl.sum(), params)
        away = params.abs() > 1e-5
        assert torch.equal(back.sign()[away], params.sign()[away])


class TestTotalCorrelation:
    def test_zero_for_independent_latents(self) -> None:
        # One posterior for every element: q(z) is that posterior, whose dimensions are independent.
        q = DiagonalGaussian(torch.zeros(32, 3, dtype=f64), torch.zeros(32, 3, dtype=f64))
        for options in (
            {"dataset_size": 32},
            {"dataset_size": 1000},
            {"estimator": "exact", "dataset_posterior": q},
        ):
            value = vk.total_correlation(q, q.rsample(), **options)
            torch.testing.assert_close(value, torch.zeros((), dtype=f64), rtol=0, atol=1e-10)

    def test_zero_for_a_factorial_data_set(self) -> None:
        # Every combination of the means of one dimension with those of the other, once each: q(z)
        # is a product though no posterior is another's.
        one, other = torch.tensor([-3.0, 0.5, 2.0], dtype=f64), torch.tensor([-1.0, 4.0], dtype=f64)
        means = torch.cartesian_prod(one, other)
        q = DiagonalGaussian(means, torch.full_like(means, -1.0))
        for options in (
            {"dataset_size": len(means)},
            {"estimator": "exact", "dataset_posterior": q},
        ):
            value = vk.total_correlation(q, q.rsample(), **options)
            torch.testing.assert_close(value, torch.zeros((), dtype=f64), rtol=0, atol=1e-10)
        apart = DiagonalGaussian(means.sort(0).values, q.logvar)  # the same values, tied together
        assert vk.total_correlation(apart, apart.mean, dataset_size=len(means)) > 0.1

    def test_exact_for_a_finite_data_set(self) -> None:
        # Two elements in two dimensions, against quadrature over a fine grid.
        means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=f64)
        q = DiagonalGaussian(means, torch.zeros_like(means))
        side = torch.linspace(-9, 9, 721, dtype=f64)
        grid = torch.cartesian_prod(side, side)
        log_joint = (q.log_prob(grid[:, None]) - math.log(2)).logsumexp(1)
        one = td.Normal(means, 1.0)
        log_each = (one.log_prob(grid[:, None]) - math.log(2)).logsumexp(1)
        cell = (side[1] - side[0]) ** 2
        many = DiagonalGaussian(q.mu.repeat(100, 1), q.logvar.repeat(100, 1))
        exact = (cell * log_joint.exp() * (log_joint - log_each.sum(-1))).sum()
        draws = torch.stack(
            [
                vk.total_correlation(many, many.rsample(), estimator="exact", dataset_posterior=q)
                for _ in range(500)
            ]
        )
        assert abs(z_score(draws, exact)) < 5
        # The whole data set in a batch: the stratified weights are the exact ones.
        z = q.rsample()
        torch.testing.assert_close(
            vk.total_correlation(q, z, dataset_size=2),
            vk.total_correlation(q, z, estimator="exact", dataset_posterior=q),
            rtol=1e-10,
            atol=1e-10,
        )

    def test_right_for_a_correlated_gaussian(self) -> None:
        # Means that fill a correlated Gaussian evenly, each blurred a little: q(z) is the Gaussian
        # of covariance S + s^2 I, whose total correlation is -1/2 log det of its correlations.
        covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=f64)
        uniform = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(4096, dtype=f64)
        means = torch.special.ndtri(uniform) @ torch.linalg.cholesky(covariance).T
        blur = 0.5
        q = DiagonalGaussian(means, torch.full_like(means, 2 * math.log(blur)))
        whole = covariance + blur**2 * torch.eye(2, dtype=f64)
        scale = whole.diagonal().rsqrt()
        exact = -0.5 * torch.logdet(scale[:, None] * whole * scale)
        draws = torch.stack(
            [
                vk.total_correlation(
                    DiagonalGaussian(q.mu[rows], q.logvar[rows]),
                    q.mu[rows] + blur * torch.randn(128, 2, dtype=f64),
                    estimator="exact",
                    dataset_posterior=q,
                )
                for rows in torch.randint(4096, (600, 128))
            ]
        )
        assert abs(z_score(draws, exact)) < 5
        assert draws.std() / 600**0.5 < 0.01 * exact  # so that the z-score says something

    @given(batch=st.integers(2, 40), more=st.integers(0, 1000))
    def test_stratified_rows_add_up_to_one(self, batch: int, more: int) -> None:
        weights = stratified_log_weights(batch, batch + more).exp()
        ones = torch.ones(batch, dtype=f64)
        torch.testing.assert_close(weights.sum(1), ones, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(weights.diagonal() * (batch + more), ones)

    @pytest.mark.parametrize(("estimator", "unbiased"), [("stratified", True), ("weighted", False)])
    def test_the_density_estimate_at_n_200_b_16_d_4(self, estimator, unbiased: bool) -> None:
        ratios = self.ratios(estimator)
        assert (abs(z_score(ratios, 1.0)) < 4) == unbiased
        if not unbiased:
            assert ratios.mean() < 0.2  # biased low, as documented

    @staticmethod
    def ratios(estimator) -> Tensor:
        """Estimated over exact density at draws, the mean of each of many batches."""
        size, batch, dim, repeats = 200, 16, 4, 4_000
        generator = torch.Generator().manual_seed(0)
        mu = torch.randn(size, dim, generator=generator, dtype=f64)
        logvar = torch.full_like(mu, -3.0)
        everything = DiagonalGaussian(mu, logvar)
        found = []
        for _ in range(repeats):
            rows = torch.randperm(size, generator=generator)[:batch]
            q = DiagonalGaussian(mu[rows], logvar[rows], validate_args=False)
            z = q.rsample(generator=generator)
            estimate, _ = _aggregate_log_densities(q, z, estimator, size, None)
            exact = (everything.log_prob(z[:, None]) - math.log(size)).logsumexp(1)
            found.append((estimate - exact).exp().mean())
        return torch.stack(found)

    @given(seed=seeds)
    def test_order_does_not_matter(self, seed: int) -> None:
        q = draw(seed, 8, 3)
        z = q.rsample()
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        shuffled = DiagonalGaussian(q.mu[order], q.logvar[order])
        torch.testing.assert_close(
            vk.total_correlation(q, z, dataset_size=100),
            vk.total_correlation(shuffled, z[order], dataset_size=100),
            rtol=1e-10,
            atol=1e-10,
        )

    def test_bad_input(self, refuses) -> None:
        q = draw(0, 4, 3)
        z = q.rsample()
        tc = vk.total_correlation
        refuses(ValueError, lambda: tc(q, z), "dataset_size", "at least 4", "None")
        refuses(ValueError, lambda: tc(q, z, dataset_size=3), "dataset_size", "at least 4", "3")
        refuses(ValueError, lambda: tc(q, z, estimator="mws"), "estimator", "'weighted'", "mws")
        refuses(ValueError, lambda: tc(q, z, estimator="exact"), "dataset_posterior", "None")
        refuses(ValueError, lambda: tc(q, z[:2], dataset_size=9), "z", "(4, 3)", "(2, 3)")
        refuses(ValueError, lambda: tc(q, z[None], dataset_size=9), "z", "(1, 4, 3)")
        one = draw(0, 1, 3)
        refuses(ValueError, lambda: tc(one, one.rsample(), dataset_size=9), "z", "at least 2", "1")
        full = td.MultivariateNormal(torch.zeros(4, 3), torch.eye(3))
        refuses(
            TypeError, lambda: tc(full, z.float(), dataset_size=9), "posterior: ", "independent"
        )


class TestDecomposition:
    @given(seed=seeds, batch=st.integers(2, 8), dim=dims, more=st.integers(0, 100))
    @pytest.mark.parametrize("estimator", ["stratified", "weighted", "exact"])
    def test_the_three_parts_add_up_to_the_kl(
        self, estimator, seed: int, batch: int, dim: int, more: int
    ) -> None:
        q, p = draw(seed, batch, dim), draw(seed + 1, 1, dim)
        z = q.rsample()
        parts = vk.decompose_kl(
            q, p, z, estimator=estimator, dataset_size=batch + more, dataset_posterior=q
        )
        kl = vk.kl_divergence(q, p, z=z, method="monte_carlo").mean()
        torch.testing.assert_close(sum(parts), kl, rtol=1e-10, atol=1e-10)

    def test_each_part_against_a_finite_data_set(self) -> None:
        means = torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.0, 2.0]], dtype=f64)
        q = DiagonalGaussian(means, torch.full_like(means, -1.0))
        p = standard(2)
        side = torch.linspace(-8, 8, 641, dtype=f64)
        grid, cell = torch.cartesian_prod(side, side), (side[1] - side[0]) ** 2
        log_each = td.Normal(means, math.exp(-0.5)).log_prob(grid[:, None]) - math.log(3)
        log_joint = (log_each.sum(-1) + math.log(3)).logsumexp(1)
        marginal = log_each.logsumexp(1)
        density = cell * log_joint.exp()
        exact_tc = (density * (log_joint - marginal.sum(-1))).sum()
        prior = td.Normal(torch.zeros((), dtype=f64), 1.0).log_prob(grid)
        exact_dimension_wise = (density * (marginal - prior).sum(-1)).sum()
        many = DiagonalGaussian(q.mu.repeat(100, 1), q.logvar.repeat(100, 1))
        exact_mi = vk.kl_divergence(q, p).mean() - exact_tc - exact_dimension_wise
        draws = torch.stack(
            [
                torch.stack(
                    vk.decompose_kl(many, p, many.rsample(), estimator="exact", dataset_posterior=q)
                )
                for _ in range(500)
            ]
        )
        exact = torch.stack([exact_mi, exact_tc, exact_dimension_wise])
        assert z_score(draws, exact).abs().max() < 5

    def test_a_prior_without_densities_by_dimension_is_refused(self, refuses) -> None:
        q = draw(0, 4, 3)
        full = td.MultivariateNormal(torch.zeros(3, dtype=f64), torch.eye(3, dtype=f64))
        refuses(
            TypeError,
            lambda: vk.decompose_kl(q, full, q.rsample(), dataset_size=9),
            "prior: ",
            "independent",
        )


@given(seed=seeds, batch=st.integers(2, 8))
def test_the_loss_of_an_element_does_not_depend_on_its_batch(seed: int, batch: int) -> None:
    q = draw(seed, batch, 3)
    x = torch.rand(batch, 5, generator=torch.Generator().manual_seed(seed), dtype=f64).round()
    likelihood = vk.likelihoods.Bernoulli(5)
    logits = torch.cat([q.mu, q.logvar], -1)[:, :5]
    together = vk.kl_divergence(q), vk.reconstruction(likelihood(logits), x)
    for row in range(batch):
        at = slice(row, row + 1)
        alone = (
            vk.kl_divergence(DiagonalGaussian(q.mu[at], q.logvar[at])),
            vk.reconstruction(likelihood(logits[at]), x[at]),
        )
        for whole, single in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[at], single, rtol=1e-12, atol=1e-12)


def test_shapes_that_differ_are_refused(refuses) -> None:
    q = draw(0, 4, 3)
    refuses(ValueError, lambda: vk.kl_divergence(q, standard(5)), "prior", "(3,)", "(5,)")
    z = torch.zeros(3, dtype=f64)
    refuses(
        ValueError,
        lambda: vk.kl_divergence(q, z=z, method="monte_carlo"),
        "z",
        "(..., 4, 3)",
        "(3,)",
    )


@pytest.mark.parametrize("event_ndims", [1, 2])
def test_the_default_prior_has_the_posteriors_shape(event_ndims: int) -> None:
    mu, logvar = torch.randn(2, 2, 4, 3, dtype=f64)
    q = DiagonalGaussian(mu, logvar, event_ndims)
    z = q.rsample((20_000,))
    draws = torch.stack(
        [vk.kl_divergence(q, z=part, method="monte_carlo") for part in z.split(200)]
    )
    assert z_score(draws, vk.kl_divergence(q, method="analytic")).abs().max() < 5


def test_a_likelihood_of_ones_own_is_asked_for_its_density() -> None:
    class Masked(vk.distributions.IndependentBernoulli):
        def log_prob(self, value):
            return super().log_prob(value) * 0 - 1

    likelihood, x = Masked(torch.zeros(5, 3), 1), torch.ones(5, 3)
    assert vk.reconstruction(likelihood, x).tolist() == [1] * 5
