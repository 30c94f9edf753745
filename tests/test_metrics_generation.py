"""Metrics of generated data, on sets whose answers are known."""

import math

import pytest
import torch

from vaekit import losses
from vaekit.metrics import generation as metrics
from vaekit.metrics.means import mean_of


def brute_force(x: torch.Tensor, y: torch.Tensor, k: int) -> tuple[list[int], list[bool]]:
    """In how many balls of x each y lies, and which balls hold any, one by one."""
    radius = [
        sorted(math.dist(a, b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)
    ]
    reached = [[math.dist(a, b) <= r for b in y] for a, r in zip(x, radius, strict=True)]
    return [sum(column) for column in zip(*reached, strict=True)], [any(row) for row in reached]


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_memberships_are_those_of_the_definition(k: int, chunk: int) -> None:
    x, y = torch.randn(40, 3).double(), 1.5 * torch.randn(30, 3).double() + 0.5
    inside, covered = brute_force(x.tolist(), y.tolist(), k)
    others, _ = brute_force(y.tolist(), x.tolist(), k)
    precision, recall = metrics.precision_recall(x, y, k, chunk=chunk)
    density, coverage = metrics.density_coverage(x, y, k, chunk=chunk)
    assert 0 < precision.mean < 1
    assert precision.mean == pytest.approx(sum(n > 0 for n in inside) / 30)
    assert recall.mean == pytest.approx(sum(n > 0 for n in others) / 40)
    assert density.mean == pytest.approx(sum(inside) / k / 30)
    assert coverage.mean == pytest.approx(sum(covered) / 40)


def test_one_mode_missing_costs_recall_and_noise_costs_precision() -> None:
    left, right = torch.randn(200, 2), torch.randn(200, 2) + 100
    both = torch.cat([left, right])
    again = torch.randn(200, 2)
    half = metrics.precision_recall(both, again)
    assert half.recall.mean <= 0.5
    assert half.precision.mean > 0.9
    far = metrics.precision_recall(left, torch.cat([again, right]))
    assert far.precision.mean <= 0.5
    assert metrics.density_coverage(both, again).coverage.mean <= 0.5


def test_density_and_coverage_of_one_distribution_are_what_theory_says() -> None:
    n, k, repetitions = 100, 3, 200
    found = [
        metrics.density_coverage(torch.randn(n, 2), torch.randn(n, 2), k)
        for _ in range(repetitions)
    ]
    # A y is as likely as any other x to be among the k nearest of the n: density 1 exactly.
    # Coverage, by Naeem et al., lemma 2: none of the y is nearer than the k-th of the x.
    coverage = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    for values, expected in (
        ([each.density.mean for each in found], 1.0),
        ([each.coverage.mean for each in found], coverage),
    ):
        mean, error = mean_of(torch.tensor(values))
        assert abs(mean - expected) < 4 * error


def test_frechet_distance_of_known_gaussians() -> None:
    """Sets whose moments are exact: the distance is that of the formula with commuting factors."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    x = corners * torch.tensor([1.0, 2.0])
    y = corners * torch.tensor([3.0, 0.5]) + torch.tensor([1.0, 0.0])
    scale = 4 / 3  # the unbiased covariance of the corners
    expected = 1 + scale * ((1 - 3) ** 2 + (2 - 0.5) ** 2)
    assert metrics.frechet_distance(x, y) == pytest.approx(expected)
    turn = torch.linalg.qr(torch.randn(2, 2).double()).Q
    assert metrics.frechet_distance(x @ turn, y @ turn) == pytest.approx(expected)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    import scipy.linalg

    x, y = torch.randn(50, 4).double(), torch.randn(60, 4).double() @ torch.randn(4, 4).double()
    a, b = x.T.cov().numpy(), y.T.cov().numpy()
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + (a + b - 2 * root).trace()
    assert metrics.frechet_distance(x, y) == pytest.approx(expected)


def test_frechet_distance_of_fewer_elements_than_features() -> None:
    x = torch.randn(5, 20)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_the_mean_of_unbiased_blocks() -> None:
    x, y = torch.randn(130, 3).double(), torch.randn(130, 3).double() + 0.5
    kernel = losses.RBF(1.0)
    found = metrics.kernel_distance(x, y, kernel, block=60)
    one, other = (losses.mmd(x[i : i + 60], y[i : i + 60], kernel).item() for i in (0, 60))
    assert found.mean == pytest.approx((one + other) / 2)
    assert found.standard_error == pytest.approx(abs(one - other) / 2)
    null = metrics.kernel_distance(torch.randn(4000, 3), torch.randn(4000, 3), block=100)
    assert abs(null.mean) < 4 * null.standard_error


def test_features_are_asked_in_chunks() -> None:
    x, y = torch.rand(25, 1, 4, 4), torch.rand(25, 1, 4, 4)
    sizes: list[int] = []

    def features(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return batch.mean((2, 3))

    found = metrics.frechet_distance(x, y, features=features, chunk=10)
    assert sizes == [10, 10, 5] * 2
    assert found == pytest.approx(metrics.frechet_distance(x.mean((2, 3)), y.mean((2, 3))))


def test_bad_arguments_are_named(refuses) -> None:
    x = torch.randn(5, 2)
    refuses(
        ValueError, lambda: metrics.precision_recall(x, x[:3]), "generated: expected more than 3"
    )
    refuses(ValueError, lambda: metrics.precision_recall(x, x, 0), "k: expected")
    refuses(
        ValueError, lambda: metrics.density_coverage(x, x[:, :1], 2), "generated: expected 2 feat"
    )
    refuses(ValueError, lambda: metrics.frechet_distance(x / 0, x), "real: expected", "infinite")
    refuses(ValueError, lambda: metrics.frechet_distance(x, x, chunk=0), "chunk: expected")
    refuses(ValueError, lambda: metrics.kernel_distance(x[:1], x), "block: expected at least 2")
