"""The weighted bounds, held to a linear Gaussian model in which everything is known."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.distributions as td
from gaussians import seeds, z_score
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import grad
from zuko_flows import maf, needs_zuko

import vaekit as vk
from vaekit.distributions import DiagonalGaussian, StandardGaussian
from vaekit.distributions.detach import detached
from vaekit.distributions.flows import FlowDistribution, layers
from vaekit.losses import importance_log_weights, importance_weighted, variational_bound

f64 = torch.float64
GRADIENTS = ("standard", "stl", "dreg")
X, W, NOISE = 1.3, 0.8, 0.5  # one observation, x = W z + noise of this deviation


def prior() -> StandardGaussian:
    return StandardGaussian(torch.zeros(1, dtype=f64))


def decode(z: Tensor, weight: Tensor | float = W) -> DiagonalGaussian:
    return DiagonalGaussian(weight * z, torch.tensor(2 * math.log(NOISE), dtype=f64))


def copies(n: int, mu: float = 0.2, logvar: float = -0.5) -> tuple[Tensor, Tensor, Tensor]:
    """One posterior n times over, so that each draw has a gradient of its own; and the data."""
    made = [torch.full((n, 1), value, dtype=f64).requires_grad_() for value in (mu, logvar)]
    return *made, torch.full((n, 1), X, dtype=f64)


def gradients(n: int, samples: int, gradient: str) -> Tensor:
    """n estimates of the gradient by mu and logvar, (n, 2)."""
    mu, logvar, x = copies(n)
    q = DiagonalGaussian(mu, logvar)
    z = q.rsample((samples,))
    loss = importance_weighted(decode(z), q, prior(), x, z, gradient=gradient)
    return torch.cat(grad(loss.sum(), (mu, logvar)), 1)


def exact_gradient(samples: int) -> Tensor:
    """The gradient of the expected loss by Gauss-Hermite quadrature over all draws."""
    nodes, weights = map(torch.as_tensor, np.polynomial.hermite_e.hermegauss(40))
    noise = torch.cartesian_prod(*[nodes] * samples).reshape(-1, samples).T[..., None]
    mass = torch.cartesian_prod(*[weights] * samples).reshape(-1, samples).prod(1)
    mu, logvar, x = copies(1)
    z = mu + (0.5 * logvar).exp() * noise
    q = DiagonalGaussian(mu, logvar)
    log_weights = importance_log_weights(decode(z), q, prior(), x.expand(z.shape[1:]), z)
    loss = -(mass / mass.sum() * variational_bound(log_weights)).sum()
    return torch.cat(grad(loss, (mu, logvar)), 1)[0]


def _marginal(x: Tensor) -> Tensor:
    """Log p(x), exactly."""
    zero = torch.zeros((), dtype=f64)
    return td.Normal(zero, (zero + W**2 + NOISE**2).sqrt()).log_prob(x)


class TestBounds:
    @given(seed=seeds, samples=st.integers(1, 6), alpha=st.floats(-5, 5))
    def test_one_draw_is_the_elbo(self, seed: int, samples: int, alpha: float) -> None:
        log_weights = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed), dtype=f64)
        bound = variational_bound(log_weights, alpha=alpha)
        torch.testing.assert_close(bound, log_weights[0], rtol=1e-10, atol=1e-10)
        many = log_weights.expand(samples, 4)  # draws that weigh the same
        bound = variational_bound(many, alpha=alpha)
        torch.testing.assert_close(bound, log_weights[0], rtol=1e-10, atol=1e-10)

    @given(seed=seeds, samples=st.integers(2, 6))
    def test_more_draws_raise_the_mean_over_subsets(self, seed: int, samples: int) -> None:
        log_weights = 3 * torch.randn(
            samples, 4, generator=torch.Generator().manual_seed(seed), dtype=f64
        )

        def mean_over_subsets(size: int) -> Tensor:
            subsets = [list(rows) for rows in combinations(range(samples), size)]
            return torch.stack([variational_bound(log_weights[rows]) for rows in subsets]).mean(0)

        means = torch.stack([mean_over_subsets(size) for size in range(1, samples + 1)])
        assert (means.diff(dim=0) >= -1e-12).all()
        torch.testing.assert_close(means[0], variational_bound(log_weights, alpha=1.0))

    @given(seed=seeds, low=st.floats(-4, 4), step=st.floats(0, 4))
    def test_ordered_in_alpha(self, seed: int, low: float, step: float) -> None:
        log_weights = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=f64)
        # The quotient by 1 - alpha loses digits next to 1, where the limit stands by itself.
        low, high = (1.0 if abs(a - 1) < 1e-4 else a for a in (low, low + step))
        above = variational_bound(log_weights, alpha=low)
        below = variational_bound(log_weights, alpha=high)
        assert (above >= below - 1e-9).all()

    def test_alpha_1_is_the_limit(self) -> None:
        log_weights = torch.randn(5, 4, dtype=f64)
        # By l'Hopital the slope at 1 is minus half the variance, so the difference is first order.
        for step in (1e-4, -1e-4):
            near = variational_bound(log_weights, alpha=1 + step)
            slope = -0.5 * log_weights.var(0, correction=0)
            exact = log_weights.mean(0) + slope * step
            torch.testing.assert_close(near, exact, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("alpha", [-5, -1, 0, 0.5, 0.999, 1 - 1e-4, 1, 1 + 1e-4, 1.5, 3])
    @pytest.mark.parametrize("shift", [0.0, 1e-7, -1e-7, 1e-12])
    def test_single_precision_is_enough_for_every_order(self, alpha: float, shift: float) -> None:
        wide = (3 * torch.randn(50, 20, dtype=f64) - 100).float().double()
        found = []
        for dtype in (torch.float32, f64):
            log_weights = wide.to(dtype).requires_grad_()
            bound = variational_bound(log_weights, alpha=alpha + shift)
            found += [bound, *grad(bound.sum(), log_weights)]
        torch.testing.assert_close(found[0].double(), found[2], rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(found[1].double(), found[3], rtol=1e-4, atol=1e-6)
        order = 1 - alpha - shift
        if abs(order) > 0.1:  # where the formula as it is written has its digits
            by_hand = ((order * wide).logsumexp(0) - math.log(50)) / order
            torch.testing.assert_close(found[2], by_hand)

    def test_weights_of_nothing(self) -> None:
        log_weights = torch.tensor([[-math.inf, -math.inf], [-math.inf, 0.0]], dtype=f64)
        for alpha, exact in ((0.0, 0.5), (0.5, 0.25), (2.0, 0.0)):
            bound = variational_bound(log_weights, alpha=alpha).exp()
            torch.testing.assert_close(bound, torch.tensor([0.0, exact], dtype=f64))

    @given(seed=seeds)
    def test_groups_are_averaged(self, seed: int) -> None:
        log_weights = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=f64)
        by_hand = (variational_bound(log_weights[:3]) + variational_bound(log_weights[3:])) / 2
        both = variational_bound(log_weights, groups=2)
        torch.testing.assert_close(both, by_hand, rtol=1e-10, atol=1e-10)
        alone = variational_bound(log_weights, groups=6)  # one draw a group: the ELBO
        torch.testing.assert_close(alone, log_weights.mean(0), rtol=1e-10, atol=1e-10)

    def test_with_the_exact_posterior_every_draw_gives_log_p(self) -> None:
        precision = 1 + (W / NOISE) ** 2
        mean, variance = W * X / NOISE**2 / precision, 1 / precision
        mu, logvar, x = copies(8, mean, math.log(variance))
        q = DiagonalGaussian(mu, logvar)
        z = q.rsample((5,))
        exact = _marginal(x[:, 0])
        for gradient in GRADIENTS:
            for alpha in (0.0,) if gradient == "dreg" else (-1.0, 0.0, 0.5, 1.0, 3.0):
                loss = importance_weighted(
                    decode(z), q, prior(), x, z, alpha=alpha, gradient=gradient
                )
                torch.testing.assert_close(-loss, exact, rtol=1e-10, atol=1e-10)
            # And without the score the gradient has no noise either: it is 0 for every draw.
            if gradient != "standard":
                found = grad(loss.sum(), (mu, logvar), retain_graph=True)
                assert max(part.abs().max() for part in found) < 1e-10

    def test_it_rises_to_log_p(self) -> None:
        exact = _marginal(torch.tensor(X, dtype=f64))
        means, errors = [], []
        for samples in (1, 10, 100):
            mu, logvar, x = copies(4_000)
            q = DiagonalGaussian(mu, logvar)
            z = q.sample((samples,))
            bound = -importance_weighted(decode(z), q, prior(), x, z).detach()
            means.append(bound.mean())
            errors.append(bound.std() / len(bound) ** 0.5)
        for low, high in ((0, 1), (1, 2)):
            assert means[high] - means[low] > 5 * math.hypot(errors[low], errors[high])
        assert means[2] < exact + 5 * errors[2]


class TestGradients:
    @pytest.mark.parametrize(
        ("gradient", "samples", "unbiased"),
        [
            ("standard", 1, True),
            ("standard", 3, True),
            ("stl", 1, True),
            ("stl", 3, False),  # as documented
            ("dreg", 1, True),
            ("dreg", 3, True),
        ],
    )
    def test_against_the_exact_gradient(self, gradient, samples: int, unbiased: bool) -> None:
        score = z_score(gradients(100_000, samples, gradient), exact_gradient(samples))
        assert (score.abs().max() < 5) == unbiased

    def test_the_exact_gradient_at_one_draw_is_the_elbos(self) -> None:
        mu, logvar, x = copies(1)
        squares = (x - W * mu).square() + W**2 * logvar.exp()
        loss = 0.5 * squares / NOISE**2 + vk.kl_divergence(mu, logvar)[:, None]
        closed = torch.cat(grad(loss.sum(), (mu, logvar)), 1)[0]
        torch.testing.assert_close(exact_gradient(1), closed, rtol=1e-10, atol=1e-10)

    def test_dregs_variance_falls_with_k_and_the_signal_of_iwae_fades(self) -> None:
        n = 20_000
        few, many = ({g: gradients(n, k, g) for g in ("standard", "dreg")} for k in (4, 64))
        # Log-variances of n draws have a standard error from the fourth moment.
        difference = few["dreg"].var(0).log() - many["dreg"].var(0).log()
        error = sum(_log_variance_error(draws).square() for draws in (few["dreg"], many["dreg"]))
        assert (difference > 5 * error.sqrt()).all()
        for gradient, rises in (("standard", False), ("dreg", True)):
            signal = [
                draws[gradient].mean(0).abs() / draws[gradient].std(0) for draws in (few, many)
            ]
            error = ((2 + signal[0] ** 2 + signal[1] ** 2) / n).sqrt()
            change = (signal[1] - signal[0]) / error
            assert (change > 5).all() if rises else (change < -5).all()

    @pytest.mark.parametrize("groups", [1, 2])
    def test_value_and_decoders_gradient_are_the_same_for_all(self, groups: int) -> None:
        mu, logvar, x = copies(5)
        weight = torch.tensor(W, dtype=f64, requires_grad=True)
        shift = torch.zeros(1, dtype=f64, requires_grad=True)  # a prior that learns
        q = DiagonalGaussian(mu, logvar)
        z = q.rsample((4,))
        p = DiagonalGaussian(shift, torch.zeros(1, dtype=f64))
        found = []
        for gradient in GRADIENTS:
            loss = importance_weighted(
                decode(z, weight), q, p, x, z, groups=groups, gradient=gradient
            )
            found.append((loss, *grad(loss.sum(), (weight, shift))))
        for other in found[1:]:
            for one, same in zip(found[0], other, strict=True):
                torch.testing.assert_close(one, same, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("groups", [1, 2])
    def test_dreg_is_its_formula(self, groups: int) -> None:
        mu, logvar, x = copies(5)
        q = DiagonalGaussian(mu, logvar)
        z = q.rsample((4,))
        loss = importance_weighted(decode(z), q, prior(), x, z, groups=groups, gradient="dreg")
        found = grad(loss.sum(), (mu, logvar), retain_graph=True)
        log_weights = importance_log_weights(decode(z), detached(q), prior(), x, z)
        by_group = log_weights.detach().unflatten(0, (groups, -1)).softmax(1).flatten(0, 1)
        surrogate = -(by_group.square() * log_weights).sum(0) / groups
        for one, other in zip(found, grad(surrogate.sum(), (mu, logvar)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)

    def test_dreg_leaves_other_terms_their_gradient(self) -> None:
        mu, logvar, x = copies(5)
        q = DiagonalGaussian(mu, logvar)
        z = q.rsample((4,))
        loss = importance_weighted(decode(z), q, prior(), x, z, gradient="dreg").sum()
        other = z.square().sum()
        (both,) = grad(3 * loss + other, mu, retain_graph=True)
        (first,) = grad(loss, mu, retain_graph=True)
        (second,) = grad(other, mu)
        torch.testing.assert_close(both, 3 * first + second, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("gradient", GRADIENTS)
    def test_an_element_does_not_depend_on_its_batch(self, gradient) -> None:
        mu, logvar = torch.randn(2, 5, 1, dtype=f64).requires_grad_()
        x, noise = torch.randn(5, 1, dtype=f64), torch.randn(4, 5, 1, dtype=f64)

        def run(rows: Tensor) -> tuple[Tensor, Tensor]:
            q = DiagonalGaussian(mu[rows], logvar[rows])
            z = q.mu + q.stddev * noise[:, rows]
            loss = importance_weighted(decode(z), q, prior(), x[rows], z, gradient=gradient)
            return loss, grad(loss.sum(), mu)[0][rows]

        order = torch.tensor([3, 0, 4, 1, 2])
        for rows in (order, order[:2]):
            for whole, part in zip(run(torch.arange(5)), run(rows), strict=True):
                torch.testing.assert_close(whole[rows], part, rtol=1e-10, atol=1e-10)

    def test_without_gradients_there_is_the_value(self) -> None:
        mu, logvar, x = copies(5)
        with torch.no_grad():
            q = DiagonalGaussian(mu, logvar)
            z = q.rsample((4,))
            values = [
                importance_weighted(decode(z), q, prior(), x, z, gradient=gradient)
                for gradient in GRADIENTS
            ]
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])


def _log_variance_error(draws: Tensor) -> Tensor:
    """The standard error of the logarithm of the variance of these draws."""
    squares = (draws - draws.mean(0)).square()
    return squares.std(0) / squares.mean(0) / len(draws) ** 0.5


class TestDetached:
    @pytest.mark.parametrize(
        "make",
        [
            lambda a, b: DiagonalGaussian(a, b),
            lambda a, b: td.Independent(td.Normal(a, b.exp()), 1),
            lambda a, b: td.MultivariateNormal(a, scale_tril=b.exp().diag_embed()),
            lambda a, b: td.Independent(td.Laplace(a, b.exp()), 1),
            lambda a, b: td.TransformedDistribution(
                td.Independent(td.Normal(a, 1.0), 1),
                [td.AffineTransform(b, b.exp(), event_dim=1), td.TanhTransform(cache_size=1)],
            ),
            lambda a, b: td.TransformedDistribution(
                td.Independent(td.Normal(a, 1.0), 1),
                td.ComposeTransform([td.AffineTransform(b, b.exp(), event_dim=1).inv]),
            ),
            lambda a, b: td.MixtureSameFamily(
                td.Categorical(logits=a), td.Independent(td.Normal(b[..., None], 1.0), 1)
            ),
        ],
        ids=["diagonal", "normal", "full", "laplace", "transformed", "inverse", "mixture"],
    )
    def test_same_density_gradient_to_the_value_alone(self, make) -> None:
        a, b = torch.randn(2, 4, 3, dtype=f64).requires_grad_()
        q = make(a, b)
        value = q.sample().clone().requires_grad_()
        q.log_prob(value)  # fills what a transform keeps of its inverse
        copy = detached(q)
        assert type(copy) is type(q)
        torch.testing.assert_close(copy.log_prob(value), q.log_prob(value), rtol=1e-12, atol=1e-12)
        (by_value,) = grad(q.log_prob(value).sum(), value)
        (same,) = grad(copy.log_prob(value).sum(), value)
        torch.testing.assert_close(by_value, same, rtol=1e-12, atol=1e-12)
        assert not copy.log_prob(value.detach()).requires_grad
        assert q.log_prob(value.detach()).requires_grad  # the original is as it was

    def test_networks_that_a_posterior_calls_are_held_too(self) -> None:
        nets = [vk.networks.mlp(2, [8], 6).double()]
        params = torch.randn(4, 4, dtype=f64).requires_grad_()
        bottom_up = vk.hierarchy.BottomUp([2, 3], nets)
        prior = vk.hierarchy.TopDown([2, 3], [vk.networks.mlp(3, [8], 4)]).double()
        ladder = vk.hierarchy.Ladder(prior)
        for q in (bottom_up(params), ladder(torch.randn(4, 10, dtype=f64).requires_grad_())):
            value = q.rsample((2,)).detach().requires_grad_()
            copy = detached(q)
            torch.testing.assert_close(copy.log_prob(value), q.log_prob(value))
            (by_value,) = grad(q.log_prob(value).sum(), value)
            (same,) = grad(copy.log_prob(value).sum(), value)
            torch.testing.assert_close(by_value, same, rtol=1e-10, atol=1e-10)
            assert not copy.log_prob(value.detach()).requires_grad
            assert q.log_prob(value.detach()).requires_grad

    @needs_zuko
    def test_flows_are_held_too(self) -> None:
        flow = maf(3, 2)
        context = torch.randn(4, 2, dtype=f64).requires_grad_()
        mu, logvar = torch.randn(2, 4, 3, dtype=f64).requires_grad_()
        q = FlowDistribution(layers(flow, context), DiagonalGaussian(mu, logvar))
        z = q.rsample((2,))
        copy = detached(q)
        torch.testing.assert_close(copy.log_prob(z), q.log_prob(z), rtol=1e-8, atol=1e-8)
        assert not copy.log_prob(z.detach()).requires_grad
        assert q.log_prob(z.detach()).requires_grad
        (gradient,) = grad(copy.log_prob(z).sum(), z, retain_graph=True)
        value = z.detach().clone().requires_grad_()
        (same,) = grad(q.log_prob(value).sum(), value)
        torch.testing.assert_close(gradient, same, rtol=1e-8, atol=1e-8)


class TestBadInput:
    def test_bounds(self, refuses) -> None:
        log_weights = torch.zeros(4, 2)
        call = variational_bound
        refuses(ValueError, lambda: call(log_weights, alpha=math.inf), "alpha", "finite", "inf")
        refuses(ValueError, lambda: call(log_weights, groups=0), "groups", "above 0", "0")
        refuses(ValueError, lambda: call(log_weights, groups=3), "log_weights", "3 groups", "4")
        refuses(ValueError, lambda: call(log_weights[:0]), "log_weights", "above 0", "0")

    def test_weights(self, refuses) -> None:
        mu, logvar, x = copies(5)
        q = DiagonalGaussian(mu, logvar)
        z = q.rsample()
        words = ("z", "(K, 5, 1)", "(5, 1)", "samples=K")
        refuses(ValueError, lambda: importance_weighted(decode(z), q, prior(), x, z), *words)

    def test_gradient(self, refuses) -> None:
        mu, logvar, x = copies(5)
        q = DiagonalGaussian(mu, logvar)
        z = q.rsample((2,))

        def call(posterior: td.Distribution = q, **options):
            return importance_weighted(decode(z), posterior, prior(), x, z, **options)

        refuses(ValueError, lambda: call(gradient="best"), "gradient", "'dreg'", "'best'")
        refuses(ValueError, lambda: call(gradient="dreg", alpha=0.5), "alpha", "0", "0.5")

        cut = decode(z.detach(), torch.tensor(W, dtype=f64, requires_grad=True))
        refuses(
            ValueError,
            lambda: importance_weighted(cut, q, prior(), x, z, gradient="dreg"),
            "likelihood",
            "decoded from z",
            "without a gradient",
        )

        class Hidden(DiagonalGaussian):
            def log_prob(self, value: Tensor) -> Tensor:  # by what no copy gets hold of
                return q.log_prob(value)

        hidden = Hidden(mu, logvar)
        for gradient in ("stl", "dreg"):
            refuses(
                TypeError, lambda g=gradient: call(hidden, gradient=g), "gradient", "'standard'"
            )
