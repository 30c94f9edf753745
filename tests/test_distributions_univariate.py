"""The distributions of one value, where others lose their digits."""

import math

import pytest
import torch
import torch.distributions as td
from hypothesis import given
from hypothesis import strategies as st

from vaekit.distributions.univariate import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    NegativeBinomial,
    bounded,
)

f64 = torch.float64


class TestBounded:
    @given(st.floats(-40, 40))
    def test_inside_it_is_the_identity(self, value: float) -> None:
        x = torch.tensor(value, dtype=f64, requires_grad=True)
        assert bounded(x) == x
        assert torch.autograd.grad(bounded(x), x)[0] == 1

    @given(st.floats(40, 1e4), st.booleans())
    def test_outside_it_is_bounded_smooth_and_never_flat(self, value: float, below: bool) -> None:
        x = torch.tensor(-value if below else value, requires_grad=True)
        y = bounded(x)
        excess = x.detach().abs() - 40
        assert 40 <= y.abs() <= 41
        (gradient,) = torch.autograd.grad(y, x)
        torch.testing.assert_close(gradient, 1 / (1 + excess) ** 2, rtol=1e-6, atol=0)


class TestContinuousBernoulli:
    @pytest.mark.parametrize("eta", [-10.0, -2.0, -0.3, -0.21, 0.21, 3.0, 10.0])
    def test_it_is_torchs_where_torchs_is_well(self, eta: float) -> None:
        x = torch.linspace(0, 1, 11, dtype=f64)
        mine = ContinuousBernoulli(torch.tensor(eta, dtype=f64))
        theirs = td.ContinuousBernoulli(logits=torch.tensor(eta, dtype=f64))
        torch.testing.assert_close(mine.log_prob(x), theirs.log_prob(x), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(mine.mean, theirs.mean, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    def test_the_series_meets_the_formula(self, sign: float) -> None:
        eta = sign * torch.tensor([0.2 - 1e-13, 0.2], dtype=f64)
        p = ContinuousBernoulli(eta)
        assert p._small.tolist() == [True, False]
        for value in (p.mean, p.log_prob(torch.tensor(0.9, dtype=f64))):
            assert abs(value[0] - value[1]) < 1e-12

    def test_at_zero_it_is_uniform_and_knows_where_to_go(self) -> None:
        eta = torch.zeros(3, requires_grad=True)
        log_prob = ContinuousBernoulli(eta).log_prob(torch.tensor([0.0, 0.5, 1.0]))
        assert torch.equal(log_prob, torch.zeros(3))
        (gradient,) = torch.autograd.grad(log_prob.sum(), eta)
        torch.testing.assert_close(gradient, torch.tensor([-0.5, 0.0, 0.5]))

    @pytest.mark.parametrize("eta", [-1e4, -50.0, 50.0, 1e4])
    def test_beyond_torchs_clamp_it_stays_normalised(self, eta: float) -> None:
        # The density at its higher end is |eta| there, to all digits.
        end = torch.tensor(float(eta > 0))
        mine = ContinuousBernoulli(torch.tensor(eta)).log_prob(end).item()
        assert math.isclose(mine, math.log(abs(eta)), rel_tol=1e-6)


class TestDiscretizedLogistic:
    @pytest.mark.parametrize("log_scale", [-8.0, -5.0, 0.0, 40.0])
    @pytest.mark.parametrize("mu", [-1e4, -0.01, 0.3, 1.0, 1e4])
    def test_it_sums_to_one_in_float32(self, mu: float, log_scale: float) -> None:
        p = DiscretizedLogistic(torch.tensor(mu), torch.tensor(log_scale))
        total = p.log_prob(torch.arange(256) / 255).exp().sum()
        torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=2e-6)

    def test_the_mean_is_exact(self) -> None:
        p = DiscretizedLogistic(torch.randn(9, dtype=f64), torch.randn(9, dtype=f64) - 3)
        x = torch.arange(256, dtype=f64)[:, None] / 255
        exact = (x * p.log_prob(x).exp()).sum(0)
        torch.testing.assert_close(p.mean, exact, rtol=0, atol=1e-12)


class TestNegativeBinomial:
    @given(log_mean=st.floats(-5, 8), log_r=st.floats(-5, 8), x=st.integers(0, 10_000))
    def test_it_is_torchs_in_double_precision(self, log_mean: float, log_r: float, x: int) -> None:
        mean, r, value = (torch.tensor(v, dtype=f64) for v in (log_mean, log_r, x))
        theirs = td.NegativeBinomial(r.exp(), logits=mean - r).log_prob(value)
        mine = NegativeBinomial(mean, r).log_prob(value)
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("log_r", [25.0, 30.0, 41.0])
    def test_when_r_is_large_it_is_poissons(self, log_r: float) -> None:
        x = torch.tensor([0.0, 1.0, 7.0, 100.0], dtype=f64)
        mean, r = torch.tensor([2.0, log_r], dtype=f64)
        poisson = td.Poisson(mean.exp()).log_prob(x)
        mine = NegativeBinomial(mean, r).log_prob(x)
        # They differ by ((x - mean)^2 - x) / 2 r, to first order.
        first = ((x - mean.exp()) ** 2 - x) / 2 * (-r).exp()
        torch.testing.assert_close(mine, poisson + first, rtol=1e-13, atol=1e-13)

    def test_it_has_the_moments(self) -> None:
        mean, r = torch.tensor([1.0, 0.5], dtype=f64)
        x = torch.arange(2000, dtype=f64)
        weight = NegativeBinomial(mean, r).log_prob(x).exp()
        torch.testing.assert_close((weight * x).sum(), mean.exp())
        variance = (weight * (x - mean.exp()) ** 2).sum()
        torch.testing.assert_close(variance, mean.exp() + (2 * mean - r).exp())
