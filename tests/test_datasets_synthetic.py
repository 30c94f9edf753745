"""The families of points, held to their moments by z-score."""

import math
from collections.abc import Callable

import pytest
import torch
from gaussians import z_score

from vaekit.datasets import ArrayDataset
from vaekit.datasets.synthetic import correlated_gaussian, two_moons

Refuses = Callable[..., Exception]
N = 20_000


@pytest.mark.parametrize(
    ("correlation", "dim"), [(0.8, 2), (0.0, 2), (-0.9, 2), (-0.3, 4), (0.5, 5)]
)
def test_the_gaussian_has_its_moments(correlation: float, dim: int) -> None:
    x = correlated_gaussian(N, correlation, dim)[:].double()
    assert x.shape == (N, dim)
    assert (z_score(x, 0.0).abs() < 4).all()
    covariance = torch.full((dim, dim), correlation, dtype=torch.double).fill_diagonal_(1)
    products = x[:, :, None] * x[:, None, :]
    assert (z_score(products, covariance).abs() < 4).all()
    # Its squared Mahalanobis distance is chi-squared, of mean dim and variance 2 dim.
    distance = (x @ torch.linalg.inv(covariance) * x).sum(1)
    assert z_score(distance, dim).abs() < 4
    assert z_score((distance - dim).square(), 2 * dim).abs() < 4


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_the_moons_have_their_moments(noise: float) -> None:
    x, labels = two_moons(N, noise)[:]
    assert torch.equal(labels, torch.arange(N) % 2)
    means = torch.tensor([[0, 2 / math.pi], [1, 0.5 - 2 / math.pi]], dtype=torch.double)
    variances = torch.tensor([0.5, 0.5 - 4 / math.pi**2], dtype=torch.double) + noise**2
    for label, mean in enumerate(means):
        moon = x[labels == label].double()
        assert (z_score(moon, mean).abs() < 4).all()
        centred = moon - mean
        assert (z_score(centred.square(), variances).abs() < 4).all()
        assert z_score(centred.prod(1), 0.0).abs() < 4


def test_without_noise_the_moons_are_half_circles() -> None:
    x, labels = two_moons(1000, noise=0)[:]
    lower = labels[:, None].bool()
    circle = torch.where(lower, torch.tensor([1, 0.5]) - x, x)
    torch.testing.assert_close(circle.norm(dim=1), torch.ones(1000))
    assert (circle[:, 1] >= -1e-6).all()


@pytest.mark.parametrize("make", [correlated_gaussian, two_moons])
def test_draws_follow_their_seed_and_no_other(make: Callable[..., ArrayDataset]) -> None:
    first, other = make(50, seed=1)._x, make(50, seed=2)._x
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(first, make(50, seed=1)._x)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_they_are_array_data_sets(device: torch.device) -> None:
    moons = two_moons(7).to(device)
    assert moons.classes == ("upper", "lower")
    assert moons[0][0].device.type == device.type
    torch.set_default_dtype(torch.float64)
    try:
        assert two_moons(3)[:][0].dtype == correlated_gaussian(3)[:].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_does_not_fit_is_refused(refuses: Refuses) -> None:
    for correlation, dim in ((1, 2), (-1, 2), (-0.5, 3), (math.nan, 2)):
        call = lambda c=correlation, d=dim: correlated_gaussian(10, c, d)  # noqa: E731
        refuses(ValueError, call, "correlation")
    refuses(ValueError, lambda: correlated_gaussian(10, -0.5, 3), "between -0.5 and 1")
    refuses(ValueError, lambda: correlated_gaussian(10, dim=1), "dim: expected at least 2")
    refuses(ValueError, lambda: correlated_gaussian(0), "n: expected")
    refuses(ValueError, lambda: two_moons(0), "n: expected")
    refuses(ValueError, lambda: two_moons(10, noise=-1), "noise")
