"""Metrics of generated data, on sets whose answers are known."""

import inspect
import math
import sys
from importlib import import_module
from statistics import variance
from types import ModuleType

import pytest
import torch

from vaekit import losses
from vaekit.datasets import from_tensors
from vaekit.metrics import generation as metrics
from vaekit.metrics.means import mean_of


def brute_force(x: list[list[float]], y: list[list[float]], k: int) -> tuple[list[int], list[bool]]:
    """In how many balls of x each y lies, and which balls hold any, one by one."""
    reached = balls(x, y, k)
    return [sum(column) for column in zip(*reached, strict=True)], [any(row) for row in reached]


def balls(x: list[list[float]], y: list[list[float]], k: int) -> list[list[bool]]:
    """Which balls of x hold which y."""
    radius = [
        sorted(math.dist(a, b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)
    ]
    return [[math.dist(a, b) <= r for b in y] for a, r in zip(x, radius, strict=True)]


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
    reached = balls(x.tolist(), y.tolist(), k)
    without = [sum(any(row[:j] + row[j + 1 :]) for row in reached) / 40 for j in range(30)]
    assert coverage.standard_error**2 == pytest.approx(29**2 / 30 * variance(without))


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


def spread_over_said(draw: str, name: str, repetitions: int) -> float:
    """The variance over other draws of a set, or of both, over that which the errors say."""
    x, y = torch.randn(200, 3), 1.2 * torch.randn(200, 3) + 0.3
    found = []
    for _ in range(repetitions):
        real = torch.randn(200, 3) if draw == "real" else x
        generated = 1.2 * torch.randn(200, 3) + 0.3 if draw == "generated" else y
        metric = metrics.precision_recall if name in PR else metrics.density_coverage
        found.append(getattr(metric(real, generated), name))
    return (
        variance([each.mean for each in found])
        / mean_of(torch.tensor([each.standard_error**2 for each in found])).mean
    )


PR = metrics.PrecisionRecall._fields
# A variance of R normal values has itself times the root of 2 / (R - 1) for its error.
REPETITIONS = 150
TOLERANCE = 4 * (2 / (REPETITIONS - 1)) ** 0.5


@pytest.mark.parametrize(
    ("draw", "name"), [("generated", "precision"), ("generated", "density"), ("real", "recall")]
)
def test_standard_errors_are_the_spread_over_other_sets_in_the_same_balls(
    draw: str, name: str
) -> None:
    assert abs(spread_over_said(draw, name, REPETITIONS) - 1) < TOLERANCE


def test_the_standard_error_of_coverage_is_no_lower_than_the_spread() -> None:
    """The error of a mean over the balls, as if each were covered by itself, is lower."""
    assert spread_over_said("generated", "coverage", REPETITIONS) < 1


def test_frechet_distance_of_known_gaussians() -> None:
    """Sets whose moments are exact: the distance is that of the formula with commuting factors."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    x = corners * torch.tensor([1.0, 2.0])
    y = corners * torch.tensor([3.0, 0.5]) + torch.tensor([1.0, 0.0])
    scale = 4 / 3  # the unbiased covariance of the corners
    expected = 1 + scale * ((1 - 3) ** 2 + (2 - 0.5) ** 2)
    found = metrics.frechet_distance(x, y)
    assert found.distance == pytest.approx(expected)
    assert (found.mean, found.covariance) == pytest.approx((1, expected - 1))
    assert (found.real, found.generated) == (4, 4)
    turn = torch.linalg.qr(torch.randn(2, 2).double()).Q
    assert metrics.frechet_distance(x @ turn, y @ turn).distance == pytest.approx(expected)
    assert metrics.frechet_distance(x, x).distance == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    import scipy.linalg

    x, y = torch.randn(50, 4).double(), torch.randn(60, 4).double() @ torch.randn(4, 4).double()
    a, b = x.T.cov().numpy(), y.T.cov().numpy()
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum().item() + (a + b - 2 * root).trace()
    assert metrics.frechet_distance(x, y).distance == pytest.approx(expected)


def test_frechet_distance_of_fewer_elements_than_features() -> None:
    x = torch.randn(5, 20)
    assert metrics.frechet_distance(x, x).distance == pytest.approx(0, abs=1e-6)


def orders(*sizes: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(size, generator=generator) for size in sizes]


@pytest.mark.parametrize("blocks", [3, 10])
def test_the_error_of_the_frechet_distance_is_the_jackknife_over_blocks(blocks: int) -> None:
    x, y = torch.randn(41, 3).double() + 5, 2 * torch.randn(52, 3).double()
    found = metrics.frechet_distance(x, y, blocks=blocks, seed=7)
    first, second = (each.tensor_split(blocks) for each in orders(41, 52, seed=7))
    without = []
    for i in range(blocks):
        kept = [torch.cat(each[:i] + each[i + 1 :]) for each in (first, second)]
        without.append(metrics.frechet_distance(x[kept[0]], y[kept[1]], blocks=1).distance)
    expected = (blocks - 1) ** 2 / blocks * variance(without)
    assert found.standard_error**2 == pytest.approx(expected)


def test_the_error_of_the_frechet_distance_is_the_spread_over_other_sets() -> None:
    found = [
        metrics.frechet_distance(torch.randn(300, 2), 1.5 * torch.randn(300, 2) + 0.7)
        for _ in range(REPETITIONS)
    ]
    said = mean_of(torch.tensor([each.standard_error**2 for each in found])).mean
    # Those of ten blocks are themselves less certain, by the root of 2 / 9 for each.
    tolerance = 4 * (2 / (REPETITIONS - 1) + 2 / 9 / REPETITIONS) ** 0.5
    assert abs(variance([each.distance for each in found]) / said - 1) < tolerance


@pytest.mark.parametrize(("n", "m", "finite"), [(2, 9, False), (9, 2, False), (3, 3, True)])
def test_the_error_of_the_frechet_distance_needs_three_of_each(
    n: int, m: int, finite: bool
) -> None:
    x, y = torch.randn(n, 2), torch.randn(m, 2)
    assert math.isfinite(metrics.frechet_distance(x, y).standard_error) == finite
    assert math.isnan(metrics.frechet_distance(x, y, blocks=1).standard_error)


def test_kernel_distance_is_the_mean_of_unbiased_blocks() -> None:
    x, y = torch.randn(130, 3).double(), torch.randn(140, 3).double() + 0.5
    kernel = losses.RBF(1.0)
    found = metrics.kernel_distance(x, y, kernel, block=60, seed=3)
    first, second = orders(130, 140, seed=3)
    one, other = (
        losses.mmd(x[first[i : i + 60]], y[second[i : i + 60]], kernel).item() for i in (0, 60)
    )
    assert found.mean == pytest.approx((one + other) / 2)
    assert found.standard_error == pytest.approx(abs(one - other) / 2)


def by_class(n: int) -> torch.Tensor:
    """A mixture of four classes far apart, sorted by them."""
    return 3 * torch.randint(4, (n, 1)).sort(0).values + torch.randn(n, 2)


@pytest.mark.parametrize("kernel", [None, "polynomial"])
@pytest.mark.parametrize("sorted_too", [True, False])
def test_sorted_data_are_compared_as_shuffled_ones_are(kernel, sorted_too: bool) -> None:
    found = []
    for seed in range(REPETITIONS):
        x, y = by_class(120), by_class(120)
        y = y if sorted_too else y[torch.randperm(120)]
        found.append(metrics.kernel_distance(x, y, kernel, block=30, seed=seed))
    mean, error = mean_of(torch.tensor([each.mean for each in found]))
    assert abs(mean) < 4 * error
    said = mean_of(torch.tensor([each.standard_error**2 for each in found]))
    tolerance = 4 * (2 / (REPETITIONS - 1) + (said.standard_error / said.mean) ** 2) ** 0.5
    assert abs(REPETITIONS * error**2 / said.mean - 1) < tolerance


@pytest.mark.parametrize("metric", [metrics.kernel_distance, metrics.frechet_distance])
def test_shuffling_is_by_a_seed_and_leaves_the_global_state(metric) -> None:
    x, y = torch.randn(50, 2), torch.randn(50, 2)
    before = torch.get_rng_state()
    first = metric(x, y)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert metric(x, y, seed=0) == first
    assert metric(x, y, seed=1).standard_error != first.standard_error


@pytest.mark.parametrize(
    ("n", "m", "sizes"),
    [
        (3, 50, [2]),
        (11, 11, [2] * 5),
        (25, 90, [2] * 12),
        (1999, 1999, [199] * 10),
        (12_300, 12_000, [1000] * 12),
    ],
)
def test_blocks_are_ten_or_more_where_the_data_allow(
    n: int, m: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def mmd(x: torch.Tensor, y: torch.Tensor, kernel: losses.Kernel) -> torch.Tensor:
        seen.append((len(x), len(y)))
        return x.mean() - y.mean()

    monkeypatch.setattr(losses, "mmd", mmd)
    found = metrics.kernel_distance(torch.randn(n, 1), torch.randn(m, 1), losses.RBF(1.0))
    assert seen == [(size, size) for size in sizes]
    assert math.isfinite(found.standard_error) == (len(sizes) > 1)


def test_the_default_kernel_has_the_scale_of_the_features() -> None:
    x, y = torch.randn(30, 3).double(), torch.randn(40, 3).double() + 1
    x[:20] = x[0]  # whose distances of 0 say nothing of the scale
    pooled = torch.cat([x, y]).tolist()
    apart = [math.dist(a, b) for i, a in enumerate(pooled) for b in pooled[:i] if a != b]
    median = sorted(apart)[(len(apart) - 1) // 2]
    multiples = (0.1, 0.2, 0.5, 1, 2, 5, 10)
    kernel = losses.InverseMultiquadric(*(median * s**0.5 for s in multiples))
    assert metrics.kernel_distance(x, y) == pytest.approx(metrics.kernel_distance(x, y, kernel))
    x, y = torch.randn(900, 3).double(), torch.randn(700, 3).double() + 1  # more than are looked at
    found = metrics.kernel_distance(x, y)
    for scale in (1e-6, 1e6):
        assert metrics.kernel_distance(scale * x, scale * y) == pytest.approx(found)


@pytest.mark.parametrize("chunk", [7, 1000])
def test_the_polynomial_kernel_is_that_of_the_kid(chunk: int) -> None:
    n, m, d = 15, 15, 3
    x, y = torch.randn(n, d).double(), torch.randn(m, d).double() + 0.5

    def kernel(a: list[float], b: list[float]) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / d + 1) ** 3

    one, other = x.tolist(), y.tolist()
    own = sum(kernel(a, b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j)
    others = sum(kernel(a, b) for i, a in enumerate(other) for j, b in enumerate(other) if i != j)
    between = sum(kernel(a, b) for a in one for b in other)
    expected = own / (n * (n - 1)) + others / (m * (m - 1)) - 2 * between / (n * m)
    found = metrics.kernel_distance(x, y, "polynomial", block=15, chunk=chunk)
    assert found.mean == pytest.approx(expected, rel=1e-12)


def test_features_are_asked_in_chunks() -> None:
    x, y = torch.rand(25, 1, 4, 4), torch.rand(25, 1, 4, 4)
    sizes: list[int] = []

    def features(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return batch.mean((2, 3))

    for metric in METRICS:
        sizes.clear()
        found = metric(x, y, features=features, chunk=10)
        assert sizes == [10, 10, 5] * 2
        plain = metric(x.mean((2, 3)), y.mean((2, 3)))
        torch.testing.assert_close(torch.tensor(found), torch.tensor(plain))


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
    refuses(ValueError, lambda: metrics.frechet_distance(x, x, blocks=0), "blocks: expected")
    refuses(
        ValueError, lambda: metrics.kernel_distance(x, x, block=1), "block: expected", "above 1"
    )
    refuses(ValueError, lambda: metrics.kernel_distance(x, x, chunk=0), "chunk: expected")
    named = "kernel: expected one of 'polynomial', got 'cubic'"
    refuses(ValueError, lambda: metrics.kernel_distance(x, x, "cubic"), named)


@pytest.mark.parametrize("flat", [(6,), (6, 1), (6, 1, 1, 1)])
def test_constant_data_of_one_feature_have_defined_values(flat: tuple[int, ...]) -> None:
    x = torch.ones(flat)
    assert metrics.frechet_distance(x, x) == (0, 0, 0, 0, 6, 6)
    assert metrics.frechet_distance(x, x + 2) == (4, 4, 0, 0, 6, 6)
    assert metrics.precision_recall(x, x) == ((1.0, 0.0), (1.0, 0.0))
    assert metrics.precision_recall(x, x + 2) == ((0.0, 0.0), (0.0, 0.0))
    assert metrics.density_coverage(x, x).coverage == (1.0, 0.0)
    for kernel in (None, "polynomial"):
        assert metrics.kernel_distance(x, x, kernel) == (0, 0)
        mean, error = metrics.kernel_distance(x, x, kernel, block=6)
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
    with torch.no_grad():
        assert str(metric(x.numpy(), x.numpy() + 1)) == str(metric(x, x + 1))
    data = from_tensors(x)
    words = "real: expected a tensor or an array of numbers, got ArrayDataset", "data[:]"
    refuses(TypeError, lambda: metric(data, x), *words)
    words = "generated: expected values of at most 1e+18 in size"
    refuses(ValueError, lambda: metric(x, x.double() * 1e19), words)
    refuses(ValueError, lambda: metric(x, x[:1]), "generated", "1")
    refuses(ValueError, lambda: metric(x[:0], x), "real", "0")
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
    assert found.distance == pytest.approx(metrics.frechet_distance(*means).distance)


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


def test_inception_calls_the_constructor_that_torch_fidelity_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = import_module("torch_fidelity.feature_extractor_inceptionv3")
    made = module.FeatureExtractorInceptionV3
    signature, layers = inspect.signature(made), made.get_provided_features_list()
    calls = []

    def call(*args: object, **kwargs: object) -> Network:
        calls.append(signature.bind(*args, **kwargs).arguments)
        return Network(*args, **kwargs)

    monkeypatch.setattr(module, "FeatureExtractorInceptionV3", call)
    for dim in ("64", "192", "768", "2048"):
        metrics.inception_features(int(dim), weights="weights.pth")
        assert calls.pop() == {
            "name": "inception",
            "features_list": [dim],
            "feature_extractor_weights_path": "weights.pth",
        }
        assert dim in layers


def test_without_torch_fidelity_the_package_is_named(
    refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch_fidelity", "torch_fidelity.feature_extractor_inceptionv3"):
        monkeypatch.setitem(sys.modules, name, None)
    refuses(ImportError, metrics.inception_features, "pip install torch-fidelity")
