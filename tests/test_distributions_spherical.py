import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gaussians import seeds, z_score
from hypothesis import given
from hypothesis import strategies as st

import vaekit as vk
from vaekit.distributions import DiagonalGaussian
from vaekit.distributions.spherical import PowerSpherical, UniformSphere

f64 = torch.float64
concentrations = st.floats(0.0, 1e4)


def spherical(seed: int, dim: int, concentration: float, batch: int = 1) -> PowerSpherical:
    generator = torch.Generator().manual_seed(seed)
    direction = F.normalize(torch.randn(batch, dim, generator=generator, dtype=f64), dim=-1)
    return PowerSpherical(direction, torch.full((batch,), concentration, dtype=f64))


@functools.cache  # they take seconds to find
def quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(1000))
    return nodes, weights


class TestPowerSpherical:
    @given(seed=seeds, concentration=st.floats(2, 500))
    def test_it_integrates_to_one_on_the_circle(self, seed: int, concentration: float) -> None:
        angle = torch.linspace(0, 2 * math.pi, 20_001, dtype=f64)
        x = torch.stack([angle.cos(), angle.sin()], -1)[:, None]
        density = spherical(seed, 2, concentration).log_prob(x).exp()[:, 0]
        assert abs(torch.trapezoid(density, angle) - 1) < 1e-10

    @given(dim=st.integers(2, 20), concentration=st.just(0.0) | st.floats(1, 1e4))
    def test_it_integrates_to_one_and_has_the_moments_on_any_sphere(
        self, dim: int, concentration: float
    ) -> None:
        # By the angle from the direction: the points at one angle make a sphere of one dimension
        # fewer, of the radius sin(angle). Gauss and Legendre, over where the mass is.
        q = spherical(0, dim, concentration)
        nodes, weights = quadrature()
        half = min(math.pi, 25 / (concentration + 1e-9) ** 0.5) / 2
        angle, weights = half * (nodes + 1), half * weights
        right = spherical(1, dim, 0.0).direction[0]
        right = F.normalize(right - (right @ q.direction[0]) * q.direction[0], dim=-1)
        x = angle.cos()[:, None] * q.direction + angle.sin()[:, None] * right
        n = dim - 1
        log_area = math.log(2) + n / 2 * math.log(math.pi) - math.lgamma(n / 2)
        log_p = q.log_prob(x)
        mass = weights * (log_p + log_area + (dim - 2) * angle.sin().log()).exp()
        for mine, exact in (
            (mass.sum(), torch.tensor(1.0, dtype=f64)),
            (mass @ angle.cos(), q.mean.norm()),
            (-mass @ log_p, q.entropy()[0]),
        ):
            torch.testing.assert_close(mine, exact, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("dim", [2, 3, 10])
    @pytest.mark.parametrize("concentration", [0.0, 1.0, 30.0, 1000.0])
    def test_draws_have_the_moments(self, dim: int, concentration: float) -> None:
        q = spherical(1, dim, concentration)
        z = q.sample((50_000,))
        one = torch.ones(50_000, 1, dtype=f64)
        torch.testing.assert_close(z.norm(dim=-1), one, rtol=0, atol=1e-10)
        cosine = (z * q.direction).sum(-1)
        assert z_score(cosine, concentration / (concentration + dim - 1)).abs() < 5
        assert z_score(z, q.mean).abs().max() < 5
        assert z_score((z - q.mean).square(), q.variance).abs().max() < 5

    @pytest.mark.parametrize("dim", [2, 3, 10])
    def test_reparameterised_gradients_are_those_of_the_moments(self, dim: int) -> None:
        at = spherical(2, dim, 3.0)
        n = 50_000
        raw = at.direction.expand(n, dim).clone().requires_grad_()
        concentration = at.concentration.expand(n).clone().requires_grad_()
        weight = torch.randn(dim, dtype=f64)
        draws = PowerSpherical(F.normalize(raw, dim=-1), concentration).rsample()
        each = torch.autograd.grad((draws @ weight).sum(), (raw, concentration))
        mean = (3.0 / (2.0 + dim)) * (at.direction[0] @ weight)
        exact = (
            (3.0 / (2.0 + dim)) * weight - mean * at.direction[0],
            (at.direction[0] @ weight) * (dim - 1) / (2.0 + dim) ** 2,
        )
        for gradient, should in zip(each, exact, strict=True):
            assert z_score(gradient, should).abs().max() < 5

    def test_the_direction_that_begins_the_axes_is_no_special_case(self) -> None:
        direction = torch.eye(4)[:2].requires_grad_()
        q = PowerSpherical(direction, torch.full((2,), 5.0))
        (gradient,) = torch.autograd.grad(q.rsample((100,)).square().sum(), direction)
        assert gradient.isfinite().all()

    @pytest.mark.parametrize("concentration", [0.0, 1e-6, 1e2, 1e4, 1e6])
    @pytest.mark.parametrize("dim", [2, 64])
    def test_float32_keeps_up(self, concentration: float, dim: int) -> None:
        exact = spherical(0, dim, concentration)
        kappa = exact.concentration.float().requires_grad_()
        q = PowerSpherical(exact.direction.float(), kappa)
        kl = vk.kl_divergence(q, UniformSphere(torch.zeros(dim)))
        reference = vk.kl_divergence(exact, UniformSphere(torch.zeros(dim, dtype=f64)))
        torch.testing.assert_close(kl.double(), reference, rtol=1e-5, atol=1e-5)
        z = q.rsample((1000,))
        total = q.log_prob(z).sum() + z.sum() + kl.sum()
        assert total.isfinite()
        assert torch.autograd.grad(total, kappa)[0].isfinite().all()

    @pytest.mark.parametrize("concentration", [1.0, 1e4, 1e5, 1e6])
    @pytest.mark.parametrize("dim", [2, 3, 64])
    def test_densities_of_draws_in_float32_keep_their_digits(
        self, dim: int, concentration: float
    ) -> None:
        mu = spherical(0, dim, concentration).direction.float()
        q = PowerSpherical(mu, torch.tensor([concentration]))
        z = q.sample((2000,))
        x, axis = (torch.nn.functional.normalize(v.double(), dim=-1) for v in (z, mu))
        # log(1 + cosine), by the formula in double precision; the constant is that of the mode.
        exact = concentration * (0.5 + 0.5 * (x * axis).sum(-1)).log()
        found = q.log_prob(z).double() - q.log_prob(mu).double()
        assert (found - exact).square().mean().sqrt() < 2e-5

    @given(dim=st.integers(2, 100), concentration=concentrations)
    def test_kl_from_the_uniform_is_zero_without_concentration_and_positive_with(
        self, dim: int, concentration: float
    ) -> None:
        p = UniformSphere(torch.zeros(dim, dtype=f64))
        kl = vk.kl_divergence(spherical(0, dim, concentration), p, method="analytic")
        assert kl > -1e-10
        assert (vk.kl_divergence(spherical(0, dim, 0.0), p).abs() < 1e-10).all()
        assert (vk.kl_divergence(spherical(0, dim, concentration + 1), p) > kl).all()

    @pytest.mark.parametrize("dim", [2, 5])
    def test_kl_agrees_with_draws(self, dim: int) -> None:
        q, p = spherical(0, dim, 4.0), UniformSphere(torch.zeros(dim, dtype=f64))
        z = q.sample((50_000,))
        estimate = q.log_prob(z) - p.log_prob(z)
        assert z_score(estimate, vk.kl_divergence(q, p)).abs().max() < 5
        other = spherical(1, dim, 2.0)
        assert vk.losses.kl_method(q, other) == "monte_carlo"
        assert z_score((other.log_prob(z) - q.log_prob(z)).exp(), 1.0).abs().max() < 5

    def test_expand(self) -> None:
        q = spherical(0, 3, 4.0)
        x = q.sample()
        torch.testing.assert_close(q.expand((5,)).log_prob(x), q.log_prob(x).expand(5))
        uniform = UniformSphere(torch.zeros(3)).expand((5,))
        assert isinstance(uniform, UniformSphere)
        assert uniform.sample().shape == (5, 3)

    def test_bad_values(self, refuses) -> None:
        axis, one = torch.eye(3)[:1], torch.ones(1)
        make = PowerSpherical
        refuses(ValueError, lambda: make(torch.ones(4, 1), torch.ones(4)), "direction", "2")
        refuses(ValueError, lambda: UniformSphere(torch.zeros(1)), "direction", "at least 2")
        refuses(ValueError, lambda: make(axis, torch.ones(2)), "concentration", "(1,)", "(2,)")
        refuses(ValueError, lambda: make(axis, -one), "concentration", "at least 0", "-1")
        refuses(ValueError, lambda: make(2 * axis, one), "direction", "length 1", "2")
        refuses(ValueError, lambda: make(axis + math.nan, one), "direction", "NaN")
        refuses(ValueError, lambda: make(axis, one + math.nan), "concentration", "NaN")
        q = make(axis, one)
        refuses(ValueError, lambda: q.log_prob(2 * axis), "x", "length 1", "2")
        refuses(ValueError, lambda: q.log_prob(axis + math.nan), "x", "NaN")
        refuses(ValueError, lambda: q.log_prob(axis[:, :2]), "x", "(..., 3)", "(1, 2)")
        gaussian = DiagonalGaussian(*torch.zeros(2, 3))
        refuses(TypeError, lambda: vk.kl_divergence(q, gaussian), "prior", "sphere")


def test_the_uniform_density_is_one_over_the_area() -> None:
    for dim, area in ((2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)):
        p = UniformSphere(torch.zeros(dim, dtype=f64))
        torch.testing.assert_close(p.entropy().item(), math.log(area), rtol=1e-12, atol=0)
        torch.testing.assert_close(-p.log_prob(p.sample()).item(), math.log(area))
        assert torch.equal(p.mean, torch.zeros(dim, dtype=f64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [2, 16, 128])
def test_half_precision_is_let_round(dtype: torch.dtype, dim: int) -> None:
    latent = vk.latents.PowerSphericalLatent(dim)
    q = latent(torch.randn(500, dim + 1).to(dtype))
    z = q.rsample((4,))
    assert z.dtype == dtype
    assert q.log_prob(z).isfinite().all()
    assert q.support.check(z).all()
    assert not q.support.check(1.05 * z).any()
