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
from vaekit.distributions import DiagonalGaussian, StandardGaussian

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
        words = ("distribution", "independent", "Opaque")
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
        refuses(TypeError, lambda: losses.commitment(q), "posterior", "commitment", "Gaussian")
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
        refuses(TypeError, lambda: losses.kl_by_dimension(q, full), "independent")


class TestRates:
    @given(seed=seeds, target=st.floats(0, 10))
    def test_capacity(self, seed: int, target: float) -> None:
        kl = vk.kl_divergence(draw(seed, 5, 3))
        exact = torch.as_tensor(np.abs(kl.numpy() - target))
        torch.testing.assert_close(losses.capacity(kl, target), exact, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(losses.capacity(kl, 0.0), kl, rtol=1e-12, atol=1e-12)

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
