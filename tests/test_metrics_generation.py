"""Metrics of generated data, on sets whose answers are known."""

import math
import sys
from types import ModuleType

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


def test_sets_are_compared_where_the_real_ones_are(device: torch.device) -> None:
    x, y = torch.randn(40, 3), 1.5 * torch.randn(30, 3) + 0.5
    for metric in METRICS:
        here, there = metric(x, y), metric(x.to(device), y)
        torch.testing.assert_close(torch.tensor(there), torch.tensor(here), equal_nan=True)


def test_distances_are_taken_on_the_features_own_device() -> None:
    """On tensors without values, which any copy to the processor would be refused for."""
    flat = metrics._flat(torch.empty(5, 2, 3, device="meta"), 5)
    assert (flat.device.type, flat.dtype, flat.shape) == ("meta", torch.double, (5, 6))


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


@pytest.mark.parametrize("flat", [(6,), (6, 1), (6, 1, 1, 1)])
def test_constant_data_of_one_feature_have_defined_values(flat: tuple[int, ...]) -> None:
    x = torch.ones(flat)
    assert metrics.frechet_distance(x, x) == 0
    assert metrics.frechet_distance(x, x + 2) == 4
    assert metrics.precision_recall(x, x) == ((1.0, 0.0), (1.0, 0.0))
    assert metrics.precision_recall(x, x + 2) == ((0.0, 0.0), (0.0, 0.0))
    assert metrics.density_coverage(x, x).coverage == (1.0, 0.0)
    mean, error = metrics.kernel_distance(x, x)
    assert mean == 0
    assert math.isnan(error)  # of a single block


METRICS = (
    metrics.precision_recall,
    metrics.density_coverage,
    metrics.frechet_distance,
    metrics.kernel_distance,
)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_degenerate_sets_are_one_clear_error(metric, refuses) -> None:
    x, bad = torch.randn(8, 2), torch.full((8, 2), math.nan)
    refuses(ValueError, lambda: metric(bad, x), "real: expected no NaN")
    refuses(ValueError, lambda: metric(x, bad), "generated: expected no NaN")
    refuses(ValueError, lambda: metric(x / 0, x), "real: expected", "infinite")
    refuses(ValueError, lambda: metric(x, x[:1]), "expected", "1")
    refuses(ValueError, lambda: metric(x[:0], x), "expected", "0")
    refuses(ValueError, lambda: metric(x, x[:, :1]), "generated: expected 2 features")
    pooled = "features: expected a function that returns features for each of 8"
    refuses(ValueError, lambda: metric(x, x, features=lambda part: part.mean(0)), pooled)
    refuses(ValueError, lambda: metric(x, x, features=lambda part: part.mean()), pooled)


class Network(torch.nn.Module):
    """What torch-fidelity's network is called with, and a stand-in for what it returns."""

    def __init__(self, name: str, features_list: list[str], weights: str | None = None) -> None:
        super().__init__()
        self.features_list, self.weights, self.seen = features_list, weights, []
        Network.latest = self

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert not self.training
        self.seen.append(x)
        return (x.float().mean((2, 3)),)


@pytest.fixture
def torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Network
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("torch_fidelity")
def test_inception_is_given_bytes_of_three_colours(tmp_path) -> None:
    features = metrics.inception_features(64, weights=tmp_path / "weights.pth", batch_size=4)
    network = Network.latest
    assert network.features_list == ["64"]
    assert network.weights == str(tmp_path / "weights.pth")
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    grey = torch.cat([levels / 255] * 6)  # in single precision, 255 * x is not whole everywhere
    found = features(grey)
    assert [len(each) for each in network.seen] == [4, 2]
    assert network.seen[0].dtype == torch.uint8
    assert torch.equal(network.seen[0], levels.expand(4, 3, 16, 16).to(torch.uint8))
    assert torch.equal(found, torch.full((6, 3), 127.5))
    assert torch.equal(features(levels.to(torch.uint8)), found[:1])
    colours = torch.rand(5, 3, 4, 4)
    assert torch.equal(features(colours), (255 * colours).round().mean((2, 3)))
    assert metrics.inception_features() is not features
    assert Network.latest.features_list == ["2048"]
    assert Network.latest.weights is None


@pytest.mark.usefixtures("torch_fidelity")
def test_inception_measures_the_distance() -> None:
    x, y = torch.rand(9, 3, 4, 4), torch.rand(9, 3, 4, 4)
    means = [(255 * each).round().mean((2, 3)) for each in (x, y)]
    found = metrics.frechet_distance(x, y, features=metrics.inception_features())
    assert found == pytest.approx(metrics.frechet_distance(*means))


@pytest.mark.usefixtures("torch_fidelity")
def test_inception_refuses_what_are_no_pictures(refuses) -> None:
    features = metrics.inception_features()
    refuses(ValueError, lambda: features(torch.rand(5, 16)), "images: expected pictures", "(5, 16)")
    refuses(ValueError, lambda: features(torch.rand(5, 2, 4, 4)), "images: expected pictures")
    high = torch.rand(5, 1, 4, 4) + 0.5
    refuses(ValueError, lambda: features(high), "images: expected values in [0, 1]", "clamp")
    refuses(ValueError, lambda: features(high * math.nan), "images: expected no NaN")
    refuses(ValueError, lambda: metrics.inception_features(1000), "dim: expected one of '64'")
    refuses(ValueError, lambda: metrics.inception_features(batch_size=0), "batch_size: expected")


def test_without_torch_fidelity_the_package_is_named(
    refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    refuses(ImportError, metrics.inception_features, "pip install torch-fidelity")
