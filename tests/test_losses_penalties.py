"""Penalties and rates: DIP, codes, Jacobians, capacity, free bits, balance."""

from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.distributions as td
from gaussians import as_torch, draw, seeds, z_score
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vaekit as vk
from vaekit import losses
from vaekit.distributions import DiagonalGaussian, Joint, RelaxedBernoulli, StandardGaussian

f64 = torch.float64


class TestDIP:
    @given(seed=seeds, batch=st.integers(2, 9), dim=st.integers(1, 4))
    def test_against_numpy(self, seed: int, batch: int, dim: int) -> None:
        q = draw(seed, batch, dim)
        covariance = np.cov(q.mu.numpy(), rowvar=False).reshape(dim, dim)
        for within in (False, True):
            full = covariance + within * np.diag(q.variance.mean(0).numpy())
            others = (full**2).sum() - (np.diag(full) ** 2).sum()
            exact = 3 * others + 0.5 * ((np.diag(full) - 1) ** 2).sum()
            for posterior in (q, as_torch(q)):
                value = losses.dip(posterior, off_diagonal=3, diagonal=0.5, within=within)
                np.testing.assert_allclose(value.item(), exact, rtol=1e-10, atol=1e-10)

    def test_a_full_covariance_within(self) -> None:
        mu = torch.randn(5, 3, dtype=f64)
        root = torch.randn(5, 3, 3, dtype=f64)
        full = root @ root.mT + torch.eye(3, dtype=f64)
        posterior = td.MultivariateNormal(mu, covariance_matrix=full)
        covariance = torch.cov(mu.T) + full.mean(0)
        exact = (covariance - torch.eye(3, dtype=f64)).square().sum()
        value = losses.dip(posterior, within=True)
        torch.testing.assert_close(value, exact, rtol=1e-10, atol=1e-10)

    def test_bad_input(self, refuses) -> None:
        q = draw(0, 4, 3)
        refuses(ValueError, lambda: losses.dip(q, diagonal=-1), "diagonal", "at least 0", "-1")
        refuses(ValueError, lambda: losses.dip(draw(0, 1, 3)), "posterior", "at least 2", "(1, 3)")

        class Opaque(td.Distribution):
            arg_constraints: ClassVar = {}
            mean = q.mu

            def __repr__(self) -> str:
                return "Opaque"

        opaque = Opaque(q.batch_shape, q.event_shape, validate_args=False)
        words = ("posterior", "independent", "Opaque")
        refuses(TypeError, lambda: losses.dip(opaque, within=True), *words)


class TestCodes:
    def test_latent_l2_is_the_standard_normals_up_to_a_constant(self) -> None:
        z = torch.randn(7, 3, dtype=f64)
        p = StandardGaussian(torch.zeros(3, dtype=f64))
        constant = p.log_prob(torch.zeros(3, dtype=f64))
        torch.testing.assert_close(losses.latent_l2(z), constant - p.log_prob(z))

    def test_the_gradient_penalty_is_unbiased(self) -> None:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 5))
        net.double()
        z = torch.randn(3, 2, dtype=f64)
        jacobians = torch.func.vmap(torch.func.jacrev(net))(z)
        exact = jacobians.square().sum((1, 2))
        many = z.repeat(4_000, 1, 1).requires_grad_()
        draws = losses.gradient_penalty(net(many), many)
        assert z_score(draws, exact).abs().max() < 5
        # It reaches the decoder's weights.
        (gradient,) = torch.autograd.grad(draws.sum(), net[0].weight)
        assert gradient.abs().sum() > 0

    def test_exact_for_a_single_output(self) -> None:
        z = torch.randn(3, 2, dtype=f64).requires_grad_()
        value = losses.gradient_penalty(z.pow(3).sum(-1, keepdim=True), z)
        torch.testing.assert_close(value, (3 * z.square()).square().sum(-1))

    def test_without_a_graph_it_says_so(self, refuses) -> None:
        z = torch.randn(3, 2)
        refuses(ValueError, lambda: losses.gradient_penalty(2 * z, z), "z", "enable_grad")
        with torch.no_grad():
            z = torch.randn(3, 2).requires_grad_()
            refuses(ValueError, lambda: losses.gradient_penalty(2 * z, z), "z", "gradients")

    def test_commitment_is_the_posteriors(self, refuses) -> None:
        q = draw(0, 4, 3)
        refuses(
            TypeError, lambda: losses.commitment(q), "posterior", "commitment", "DiagonalGaussian"
        )
        q.commitment = torch.arange(4.0)
        assert torch.equal(losses.commitment(q), torch.arange(4.0))


class TestKLByDimension:
    @given(seed=seeds, batch=st.integers(1, 5), dim=st.integers(1, 4))
    def test_it_adds_up_to_the_kl(self, seed: int, batch: int, dim: int) -> None:
        q, p = draw(seed, batch, dim), draw(seed + 1, 1, dim)
        p = DiagonalGaussian(p.mu[0], p.logvar[0])
        standard = StandardGaussian(torch.zeros(dim, dtype=f64))
        for posterior in (q, as_torch(q)):
            for prior in (None, standard, p, as_torch(p)):
                whole = vk.kl_divergence(posterior, prior)
                parts = losses.kl_by_dimension(posterior, prior)
                assert parts.shape == (batch, dim)
                torch.testing.assert_close(parts.sum(-1), whole, rtol=1e-10, atol=1e-10)

    def test_estimated_where_there_is_no_closed_form(self, refuses) -> None:
        q = draw(0, 4, 3)
        laplace = td.Independent(td.Laplace(torch.zeros(3, dtype=f64), 1.0), 1)
        z = q.rsample((6,))
        by_hand = q.log_prob_by_dimension(z) - laplace.base_dist.log_prob(z)
        torch.testing.assert_close(losses.kl_by_dimension(q, laplace, z=z), by_hand.mean(0))
        torch.testing.assert_close(losses.kl_by_dimension(q, laplace, z=z[0]), by_hand[0])
        full = td.MultivariateNormal(torch.zeros(3, dtype=f64), torch.eye(3, dtype=f64))
        refuses(TypeError, lambda: losses.kl_by_dimension(q, full), "prior", "independent")

    @pytest.mark.parametrize("columns", [None, [[3, 0], [1, 4, 2]]])
    @pytest.mark.parametrize("gaussian", [False, True])
    def test_of_a_product_each_part_has_its_closed_form(self, columns, gaussian) -> None:
        """That of each binary variable is a sum over 0 and 1, that of each Gaussian known."""
        mu, eta = (torch.randn(4, n, dtype=f64) for n in (2, 3))
        q = Joint([DiagonalGaussian(mu, mu), RelaxedBernoulli(eta)], columns)
        fair = StandardGaussian(torch.zeros(2).double()), RelaxedBernoulli(torch.zeros(3).double())
        p: td.Distribution = Joint(fair, columns)
        pi = torch.stack([eta.sigmoid(), (-eta).sigmoid()])
        second = (pi * (2 * pi).log()).sum(0)
        if gaussian:  # against a prior that is no product
            q, p = Joint([DiagonalGaussian(mu, mu), DiagonalGaussian(eta, 0 * eta)], columns), None
            second = eta.square() / 2
        first = (mu.exp() + mu.square() - mu - 1) / 2
        exact = torch.empty(4, 5, dtype=f64)
        for places, part in zip(columns or [[0, 1], [2, 3, 4]], (first, second), strict=True):
            exact[:, places] = part
        for z in (None, q.rsample(), q.rsample((3,))):
            found = losses.kl_by_dimension(q, p, z=z)
            torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
        total = vk.kl_divergence(q, p)
        torch.testing.assert_close(found.sum(-1), total, rtol=1e-10, atol=1e-10)


def _chains(kind: str) -> tuple[td.Distribution, td.Distribution]:
    """Posterior and prior of a hierarchy of layers of 3, 2 and 1 dimensions, over 5 elements."""
    torch.manual_seed(0)
    sizes = [3, 2, 1]
    down = [vk.networks.mlp(1, [8], 4), vk.networks.mlp(2, [8], 6)]
    prior = vk.hierarchy.TopDown(sizes, down).double()
    if kind == "ladder":
        return vk.hierarchy.Ladder(prior)(torch.randn(5, 12, dtype=f64)), prior()
    if kind == "factorised":
        return draw(0, 5, 6), prior()
    up = [vk.networks.mlp(3, [8], 4), vk.networks.mlp(2, [8], 2)]
    q = vk.hierarchy.BottomUp(sizes, up).double()(torch.randn(5, 6, dtype=f64))
    return q, prior() if kind == "bottom-up" else StandardGaussian(torch.zeros(6, dtype=f64))


class TestKLByGroup:
    """Held to the whole KL, to the parts' own, and to layers taken one by one."""

    @given(seed=seeds)
    def test_independent_dimensions(self, seed: int) -> None:
        q, p = draw(seed, 5, 4), draw(seed + 1, 5, 4)
        for posterior in (q, as_torch(q)):
            parts = losses.kl_by_group(posterior, p, [1, 3])
            by_dimension = losses.kl_by_dimension(q, p)
            exact = torch.stack([by_dimension[:, 0], by_dimension[:, 1:].sum(1)], 1)
            torch.testing.assert_close(parts, exact, rtol=1e-10, atol=1e-10)

    def test_one_group_is_any_kl(self) -> None:
        z = draw(0, 5, 2).mu
        q = td.MultivariateNormal(z, torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=f64))
        whole = losses.kl_by_group(q, None, [2])
        torch.testing.assert_close(whole[:, 0], vk.kl_divergence(q))
        laplace = td.Independent(td.Laplace(torch.zeros(2, dtype=f64), 1.0), 1)
        draws = q.rsample((3,))
        estimate = losses.kl_by_group(q, laplace, [2], z=draws)
        torch.testing.assert_close(estimate[:, 0], vk.kl_divergence(q, laplace, z=draws))

    def test_products_are_exact_part_by_part(self) -> None:
        torch.manual_seed(0)
        latent = vk.latents.ProductLatent(
            vk.GaussianLatent(4),
            vk.latents.CategoricalLatent(1, 3),
            vk.latents.FullGaussianLatent(2),
        ).double()
        q = latent(torch.randn(5, latent.num_params, dtype=f64))
        p = latent.default_prior()
        pairs = zip(q.parts, p.parts, strict=True)
        own = torch.stack([vk.kl_divergence(*pair) for pair in pairs], 1)
        first = losses.kl_by_dimension(q.parts[0], p.parts[0])
        halves = first.unflatten(1, (2, 2)).sum(2)
        for groups, exact in (
            ([4, 3, 2], own),
            ([7, 2], torch.stack([own[:, 0] + own[:, 1], own[:, 2]], 1)),
            ([9], own.sum(1, keepdim=True)),
            ([2, 2, 3, 2], torch.cat([halves, own[:, 1:]], 1)),
            ([2, 7], torch.stack([halves[:, 0], halves[:, 1] + own[:, 1] + own[:, 2]], 1)),
        ):
            found = losses.kl_by_group(q, p, groups)
            torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
        whole = vk.kl_divergence(q, p, method="analytic")
        torch.testing.assert_close(own.sum(1), whole, rtol=1e-10, atol=1e-10)

    def test_parts_in_columns_are_taken_by_dimension(self) -> None:
        first, second = draw(0, 5, 2), draw(1, 5, 2)
        q = vk.distributions.Joint([first, second], columns=[[0, 3], [1, 2]])
        p = StandardGaussian(torch.zeros(4, dtype=f64))
        z = q.rsample((3,))
        found = losses.kl_by_group(q, p, [2, 2], z=z)
        exact = losses.kl_by_dimension(q, p, z=z).unflatten(1, (2, 2)).sum(2)
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("samples", [(), (4,)])
    def test_a_hierarchy_inferred_upwards_adds_up_to_the_estimate(self, samples) -> None:
        q, p = _chains("bottom-up")
        z = q.rsample(samples)
        layers = losses.kl_by_group(q, p, [3, 2, 1], z=z)
        whole = vk.kl_divergence(q, p, z=z)
        torch.testing.assert_close(layers.sum(1), whole, rtol=1e-10, atol=1e-10)
        low, middle, high = z.split([3, 2, 1], -1)
        exact = q.first.log_prob(low) - p.conditionals[1](middle).log_prob(low)
        torch.testing.assert_close(layers[:, 0], exact.mean(0) if samples else exact)
        exact = q.conditionals[1](middle).log_prob(high) - p.first.log_prob(high)
        torch.testing.assert_close(layers[:, 2], exact.mean(0) if samples else exact)
        merged = losses.kl_by_group(q, p, [5, 1], z=z)
        torch.testing.assert_close(merged[:, 0], layers[:, :2].sum(1))
        cut = losses.kl_by_group(q, p, [1, 2, 2, 1], z=z)  # within a layer of independent ones
        torch.testing.assert_close(cut[:, :2].sum(1), layers[:, 0])

    @pytest.mark.parametrize("samples", [(), (4,)])
    def test_a_ladders_layers_are_exact_given_those_above(self, samples) -> None:
        q, p = _chains("ladder")
        z = q.rsample(samples)
        _, middle, high = z.split([3, 2, 1], -1)
        layers = losses.kl_by_group(q, p, [3, 2, 1], z=z)
        for column, exact in (
            (2, vk.kl_divergence(q.first, p.first)),
            (1, vk.kl_divergence(q.conditionals[0](high), p.conditionals[0](high))),
            (0, vk.kl_divergence(q.conditionals[1](middle), p.conditionals[1](middle))),
        ):
            mean = exact.mean(0) if exact.ndim > 1 else exact
            torch.testing.assert_close(layers[:, column], mean, rtol=1e-10, atol=1e-10)
            assert (mean >= 0).all()

    @pytest.mark.parametrize("kind", ["ladder", "factorised", "upwards, alone"])
    def test_layers_add_up_to_the_whole_on_average(self, kind: str) -> None:
        q, p = _chains(kind)
        z = q.sample((20_000,))
        estimates = q.log_prob(z) - p.log_prob(z)
        layers = torch.stack([losses.kl_by_group(q, p, [3, 2, 1], z=part) for part in z[:400]])
        error = (estimates.var(0) / 20_000 + layers.sum(2).var(0) / 400).sqrt()
        score = (layers.sum(2).mean(0) - estimates.mean(0)) / error
        assert score.abs().max() < 5
        assert (layers.sum(2).var(0) < estimates.var(0)).all()  # and with less noise

    def test_without_draws_one_is_drawn(self) -> None:
        for kind in ("ladder", "bottom-up"):
            torch.manual_seed(1)
            found = losses.kl_by_group(*_chains(kind), [3, 3])
            assert found.shape == (5, 2)
            assert found.isfinite().all()

    def test_bad_input(self, refuses) -> None:
        q, p = _chains("ladder")
        call = losses.kl_by_group
        refuses(ValueError, lambda: call(q, p, [3, 2]), "groups", "add up to 6", "[3, 2]")
        refuses(ValueError, lambda: call(q, p, [6, 0]), "groups", "above 0", "0")
        full = td.MultivariateNormal(torch.zeros(6, dtype=f64), torch.eye(6, dtype=f64))
        refuses(TypeError, lambda: call(q, full, [3, 3]), "posterior", "independent")
        refuses(TypeError, lambda: call(full, full, [3, 3]), "posterior", "independent")
        refuses(TypeError, lambda: losses.kl_by_dimension(q, p), "posterior", "Chain")


class TestRates:
    @given(seed=seeds, target=st.floats(0, 10))
    def test_capacity(self, seed: int, target: float) -> None:
        kl = vk.kl_divergence(draw(seed, 5, 3))
        exact = torch.as_tensor(np.abs(kl.numpy() - target))
        torch.testing.assert_close(losses.capacity(kl, target), exact, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(losses.capacity(kl, 0.0), kl, rtol=1e-12, atol=1e-12)
        by_group = losses.kl_by_group(draw(seed, 5, 3), None, [1, 2])
        targets = torch.tensor([target, 1.0], dtype=f64)
        by_hand = (by_group[:, 0] - target).abs() + (by_group[:, 1] - 1).abs()
        torch.testing.assert_close(losses.capacity(by_group, targets), by_hand)

    @given(seed=seeds, floor=st.floats(0.01, 5))
    def test_free_bits(self, seed: int, floor: float) -> None:
        kl = losses.kl_by_dimension(draw(seed, 5, 4)).requires_grad_()
        exact = np.maximum(kl.detach().numpy().mean(0), floor).sum()
        value = losses.free_bits(kl, floor)
        np.testing.assert_allclose(value.item(), exact, rtol=1e-12)
        (gradient,) = torch.autograd.grad(value, kl)
        above = kl.mean(0) > floor  # those below the floor are free
        assert torch.equal(gradient, above / torch.full((5, 4), 5.0, dtype=f64))
        pairs = np.maximum(kl.detach().numpy().mean(0).reshape(2, 2).sum(1), floor).sum()
        np.testing.assert_allclose(losses.free_bits(kl, floor, [2, 2]).item(), pairs, rtol=1e-12)

    @given(seed=seeds)
    def test_no_floor_is_the_kl(self, seed: int) -> None:
        kl = losses.kl_by_dimension(draw(seed, 5, 4))
        for groups in (None, [1, 3], [4]):
            value = losses.free_bits(kl, 0.0, groups)
            torch.testing.assert_close(value, kl.sum(-1).mean(), rtol=1e-10, atol=1e-10)

    @given(seed=seeds)
    def test_balance(self, seed: int) -> None:
        kl = losses.kl_by_dimension(draw(seed, 5, 4)).requires_grad_()
        value = losses.balanced_kl(kl, [1, 3])
        by_group = torch.stack([kl[:, 0], kl[:, 1:].sum(1)], 1)
        share = by_group.mean(0) + 0.01
        weights = 2 * share / share.sum()
        torch.testing.assert_close(value, by_group @ weights, rtol=1e-10, atol=1e-10)
        (gradient,) = torch.autograd.grad(value.sum(), kl)  # of the KL alone, not of the weights
        torch.testing.assert_close(gradient[0], weights.detach()[[0, 1, 1, 1]])
        # One group, or groups that carry the same, are the plain KL.
        one = losses.balanced_kl(kl, [4])
        torch.testing.assert_close(one, kl.sum(-1), rtol=1e-10, atol=1e-10)

    def test_bad_input(self, refuses) -> None:
        kl = torch.ones(4, 3)
        refuses(ValueError, lambda: losses.free_bits(kl, -1.0), "floor", "at least 0", "-1")
        refuses(ValueError, lambda: losses.free_bits(kl, 1.0, [2, 2]), "groups", "3", "[2, 2]")
        refuses(ValueError, lambda: losses.free_bits(kl, 1.0, [4, -1]), "groups", "above 0", "-1")
        refuses(ValueError, lambda: losses.balanced_kl(kl, [5]), "groups", "3", "[5]")
        refuses(ValueError, lambda: losses.capacity(kl, -1.0), "target", "at least 0", "-1")
        refuses(ValueError, lambda: vk.objectives.FreeBits(0.5, [0, 4]), "groups", "above 0", "0")


@given(seed=seeds)
@pytest.mark.parametrize(
    "loss",
    [lambda q, z: losses.latent_l2(z), lambda q, z: losses.capacity(vk.kl_divergence(q), 1.0)],
    ids=["latent_l2", "capacity"],
)
def test_an_element_does_not_depend_on_its_batch(loss, seed: int) -> None:
    q = draw(seed, 6, 3)
    z = q.sample()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))

    def part(rows: Tensor) -> Tensor:
        return loss(DiagonalGaussian(q.mu[rows], q.logvar[rows]), z[rows])

    whole = loss(q, z)
    for rows in (order, order[:2]):
        torch.testing.assert_close(part(rows), whole[rows], rtol=1e-12, atol=1e-12)
