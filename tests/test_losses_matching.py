import math

import pytest
import torch
import torch.nn.functional as F
from gaussians import seeds, z_score
from hypothesis import given
from torch import Tensor

import vaekit as vk
from vaekit.losses import RBF, InverseMultiquadric, discrimination, mmd, permute_dimensions

f64 = torch.float64
KERNELS = [RBF(0.5, 2.0), InverseMultiquadric(0.5, 2.0), None]


def by_hand(z: Tensor, reference: Tensor, kernel) -> Tensor:
    """The U-statistic, pair by pair."""

    def mean(one: Tensor, other: Tensor, same: bool) -> Tensor:
        values = [
            kernel((a - b).square().sum())
            for i, a in enumerate(one)
            for j, b in enumerate(other)
            if not (same and i == j)
        ]
        return torch.stack(values).mean()

    return mean(z, z, True) + mean(reference, reference, True) - 2 * mean(z, reference, False)


def gaussian_mmd(mean: Tensor, h: float) -> float:
    """The exact squared discrepancy of N(mean, I) and N(0, I) under one Gaussian kernel."""
    dim = len(mean)
    scale = (h**2 / (h**2 + 2)) ** (dim / 2)
    return 2 * scale * (1 - math.exp(-mean.square().sum().item() / (2 * (h**2 + 2))))


class TestMMD:
    @given(seed=seeds)
    def test_it_is_the_u_statistic(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        z, reference = torch.randn(2, 4, 3, generator=generator, dtype=f64)
        for kernel in KERNELS:
            exact = by_hand(z, reference[:3], kernel or InverseMultiquadric.of_dim(3))
            value = mmd(z, reference[:3], kernel)
            torch.testing.assert_close(value, exact, rtol=1e-10, atol=1e-10)

    def test_unbiased_against_the_closed_form(self) -> None:
        mean = torch.tensor([0.7, -0.2], dtype=f64)
        draws = torch.stack(
            [
                mmd(mean + torch.randn(8, 2, dtype=f64), torch.randn(6, 2, dtype=f64), RBF(1.5))
                for _ in range(3_000)
            ]
        )
        assert abs(z_score(draws, gaussian_mmd(mean, 1.5))) < 5
        assert z_score(draws, 0.0) > 5  # so that the test above says something

    @pytest.mark.parametrize("kernel", KERNELS, ids=repr)
    def test_zero_in_expectation_at_equality(self, kernel) -> None:
        draws = torch.stack([mmd(*torch.randn(2, 6, 3, dtype=f64), kernel) for _ in range(3_000)])
        assert abs(z_score(draws, 0.0)) < 5
        assert (draws < 0).any()

    @given(seed=seeds)
    def test_order_does_not_matter_nor_who_is_first(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        z, reference = torch.randn(2, 5, 3, generator=generator, dtype=f64)
        order = torch.randperm(5, generator=generator)
        value = mmd(z, reference)
        for same in (mmd(z[order], reference), mmd(reference, z)):
            torch.testing.assert_close(value, same, rtol=1e-10, atol=1e-10)

    def test_a_gradient_leads_towards_the_reference(self) -> None:
        z = torch.full((16, 2), 2.0, dtype=f64).requires_grad_()  # all points alike: no NaN either
        (gradient,) = torch.autograd.grad(mmd(z, torch.randn(64, 2, dtype=f64)), z)
        assert (gradient > 0).all()

    def test_bad_input(self, refuses) -> None:
        refuses(ValueError, lambda: RBF(0.0), "bandwidths", "above 0", "0")
        refuses(ValueError, lambda: InverseMultiquadric(1.0, -1.0), "bandwidths", "-1")
        refuses(ValueError, lambda: RBF(), "bandwidths", "at least one", "none")
        one, many = torch.zeros(1, 2), torch.zeros(5, 2)
        refuses(ValueError, lambda: mmd(one, many), "z", "at least 2", "1 and 5")
        wide = torch.zeros(5, 4)
        refuses(ValueError, lambda: mmd(many, wide), "reference", f"{many.shape[1]} dim", "got 4")
        refuses(ValueError, lambda: mmd(many, one), "z", "at least 2", "5 and 1")


class TestDiscrimination:
    @given(seed=seeds)
    def test_it_is_the_cross_entropy(self, seed: int) -> None:
        ours, others = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed), dtype=f64)
        labels = torch.cat([torch.ones_like(ours), torch.zeros_like(others)])
        exact = F.binary_cross_entropy_with_logits(torch.cat([ours, others]), labels)
        value = discrimination(ours, others)
        torch.testing.assert_close(value, exact, rtol=1e-10, atol=1e-10)

    def test_its_optimum_is_the_log_ratio_of_the_densities(self) -> None:
        # At D = log q - log p the expected loss has no slope in any direction f(z).
        q = torch.distributions.Normal(torch.tensor(1.0, dtype=f64), 0.7)
        p = torch.distributions.Normal(torch.tensor(0.0, dtype=f64), 1.0)
        for direction in (torch.ones_like, torch.sin, torch.square):
            slopes = 0
            for draws, sign in ((q.sample((50_000,)), -1), (p.sample((50_000,)), 1)):
                optimum = q.log_prob(draws) - p.log_prob(draws)
                slopes = slopes + 0.5 * sign * (sign * optimum).sigmoid() * direction(draws)
            assert abs(z_score(slopes, 0.0)) < 5

    @given(seed=seeds)
    def test_each_dimension_is_permuted_by_itself(self, seed: int) -> None:
        torch.manual_seed(seed)
        z = torch.randn(50, 1, dtype=f64).expand(50, 4)
        permuted = permute_dimensions(z)
        assert torch.equal(permuted.sort(0).values, z.sort(0).values)
        assert not torch.equal(permuted[:, 0], permuted[:, 1])

    def test_permuted_dimensions_are_uncorrelated(self) -> None:
        z = torch.linspace(-1, 1, 6, dtype=f64)[:, None].expand(6, 2)
        products = torch.stack([permute_dimensions(z).prod(1).mean() for _ in range(5_000)])
        assert abs(z_score(products, 0.0)) < 5


def test_repr() -> None:
    assert repr(vk.losses.RBF(0.5, 2)) == "RBF(0.5, 2)"


@pytest.mark.parametrize("kind", [RBF, InverseMultiquadric])
@pytest.mark.parametrize("dim", [2, 10, 32])
def test_kernels_a_hundred_times_narrower_than_a_set_in_single_precision(kind, dim: int) -> None:
    wide = torch.rand(300, dim, dtype=f64)
    near = wide + torch.randn_like(wide) / 100  # such as the kernel tells apart
    z, reference, kernel = torch.cat([wide, near]), torch.rand_like(wide), kind(0.01)
    exact = mmd(z, reference, kernel)
    single = mmd(z.float(), reference.float(), kernel)
    torch.testing.assert_close(single.double(), exact, rtol=1e-2, atol=0)
