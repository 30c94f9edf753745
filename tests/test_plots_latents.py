"""Pictures of the latent space and charts: the numbers that they draw."""

import io
import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny
from torch import Tensor, nn

import vaekit as vk
from vaekit import plots
from vaekit.metrics import MIG, Mean, RateDistortion

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

Refuses = Callable[..., Exception]


def _model(means: list[float], logvars: list[float]) -> vk.VAE:
    """The posterior of x is N(means * x, exp(logvars)), whatever is decoded."""
    dim = len(means)
    latent = vk.GaussianLatent(dim)
    net = nn.Linear(1, 2 * dim)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([means + [0.0] * dim]).T)
        net.bias.copy_(torch.tensor([0.0] * dim + logvars))
    decoder = vk.Decoder(nn.Linear(dim, 1), vk.likelihoods.Gaussian(1))
    return vk.VAE(vk.Encoder(net, latent), decoder)


X = torch.linspace(-2, 2, 101)[:, None]


def _ticks(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


# Nats by dimension


def test_bars_are_the_nats_with_their_errors_the_longest_first() -> None:
    model = _model([0.0, 2.0, 1.0], [0.0, 0.0, -2.0])
    ax = plots.kl_bars(model, X)
    found = vk.metrics.kl_by_dimension(model, X)
    order = [1, 2, 0]
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_array_equal(heights, found.mean[order].numpy())
    assert heights[0] > heights[1] > heights[2] == 0
    (container,) = [each for each in ax.containers if hasattr(each, "errorbar")]
    (lines,) = container.errorbar.lines[2]
    ends = np.array([segment[:, 1] for segment in lines.get_segments()])
    error = found.standard_error[order].numpy()
    np.testing.assert_allclose(ends.mean(1), heights, atol=1e-12)
    np.testing.assert_allclose((ends[:, 1] - ends[:, 0]) / 2, error, atol=1e-12)
    assert _ticks(ax.xaxis) == ["1", "2", "0"]
    total = f"{found.total.mean:.2f} ± {found.total.standard_error:.2f} nats in all"
    assert ax.get_title() == total
    assert ax.get_ylabel() == "KL (nats)"


def test_bars_of_a_batch_with_labels() -> None:
    model = _model([1.0], [-1.0])
    bars = [plots.kl_bars(model, data).patches for data in (X, (X, X[:, 0]), {"x": X})]
    assert bars[0][0].get_height() == bars[1][0].get_height() == bars[2][0].get_height()


def test_names_of_classes_are_no_formulas() -> None:
    data = vk.datasets.from_tensors(X, torch.arange(101) % 2, classes=("$a_$", "US$"))
    ax = plots.latent_scatter(_model([1.0, 2.0], [-1.0, -1.0]), data)
    ax.figure.savefig(io.BytesIO())  # where matplotlib reads them
    assert [each.get_text() for each in ax.get_legend().get_texts()] == [r"\$a_\$", r"US\$"]


def test_a_single_element_has_no_standard_error() -> None:
    ax = plots.kl_bars(_model([1.0, 2.0], [0.0, 0.0]), X[:1])
    assert [bar.get_height() for bar in ax.patches] == [8, 2]
    assert ax.get_title() == "10.00 nats in all"


@pytest.mark.parametrize(("dim", "every"), [(1, 1), (30, 1), (31, 2), (100, 4)])
def test_of_many_dimensions_some_are_left_unnamed(dim: int, every: int) -> None:
    means = [1.0 + place for place in reversed(range(dim))]
    ax = plots.kl_bars(_model(means, [0.0] * dim), X)
    assert _ticks(ax.xaxis) == [str(place) for place in range(0, dim, every)]
    assert list(ax.get_xticks()) == list(range(0, dim, every))
    assert len(ax.patches) == dim


def test_bars_that_there_are_not(refuses: Refuses) -> None:
    model = _model([1.0, 1.0], [0.0, 0.0])
    refuses(TypeError, lambda: plots.kl_bars(model, None), "data: expected", "NoneType")
    huge = torch.full((3, 1), 1e30)
    refuses(ValueError, lambda: plots.kl_bars(model, huge), "model: its KL", "2 infinite")
    assert not plt.get_fignums()


# The aggregated posterior


def _draws(model: vk.VAE, x: Tensor, seed: int = 0) -> np.ndarray:
    """The draws of one batch, as the picture makes them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn: Tensor = model(x).z
    return drawn.detach().numpy()


def test_two_dimensions_are_scattered_within_contours_of_the_prior() -> None:
    model = _model([1.0, 0.0, 2.0], [0.0, -1.0, -2.0])
    ax = plots.aggregated_posterior(model, X, dims=(2, 0), seed=3)
    scatter, contours = ax.collections
    drawn = _draws(model, X, seed=3)
    np.testing.assert_array_equal(np.asarray(scatter.get_offsets()), drawn[:, [2, 0]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent dimension 2", "latent dimension 0")
    paths = [path.vertices for path in contours.get_paths()]
    assert len(paths) == 3
    low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
    step = np.linalg.norm((high - low) / 120)  # of the grid, whose next ring a level may choose
    for path, share in zip(paths, (0.99, 0.9, 0.5), strict=True):
        radius = math.sqrt(-2 * math.log(1 - share))
        inside = np.abs(path) < 0.9 * np.minimum(-low, high)  # the rim of the picture cuts some
        found = np.linalg.norm(path[inside.all(1)], axis=1)
        assert len(found) > 10
        assert np.abs(found - radius).max() < step
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["aggregated posterior", "prior: 50, 90 and 99 %"]


def test_one_dimension_is_a_histogram_under_the_density_of_the_prior() -> None:
    model = _model([1.0, 0.0], [0.0, -1.0])
    ax = plots.aggregated_posterior(model, X, dims=[1])
    (line,) = ax.lines
    normal = torch.distributions.Normal(0, 1)
    at = torch.from_numpy(np.asarray(line.get_xdata()))
    np.testing.assert_allclose(line.get_ydata(), normal.log_prob(at).exp(), rtol=1e-5)
    left = np.array([bar.get_x() for bar in ax.patches])
    width = ax.patches[0].get_width()
    edges = np.append(left, left[-1] + width)
    expected, _ = np.histogram(_draws(model, X)[:, 1], edges, density=True)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], expected, atol=1e-6)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent dimension 1", "density")


def test_the_dimensions_of_most_nats_are_chosen() -> None:
    ax = plots.aggregated_posterior(_model([0.0, 3.0, 1.0, 2.0], [0.0] * 4), X)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent dimension 1", "latent dimension 3")
    ax = plots.aggregated_posterior(_model([1.0], [0.0]), X, n=5)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent dimension 0", "density")


def test_a_mixture_is_drawn_by_its_draws_and_in_all_its_dimensions_by_its_density() -> None:
    model = _model([0.0, 3.0, 1.0], [0.0] * 3)
    model.prior = vk.priors.MixtureOfGaussians(3, 4)
    ax = plots.aggregated_posterior(model, X)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("latent dimension 1", "latent dimension 2")
    prior, posterior = ax.collections
    assert [each.get_label() for each in ax.collections] == ["prior", "aggregated posterior"]
    assert (len(prior.get_offsets()), len(posterior.get_offsets())) == (1000, 101)
    ax = plots.aggregated_posterior(model, X, dims=[2])
    assert [text.get_text() for text in ax.get_legend().get_texts()][1] == "prior"
    assert not ax.lines
    model = _model([2.0], [0.0])
    model.prior = vk.priors.MixtureOfGaussians(1, 4)
    (line,) = plots.aggregated_posterior(model, X).lines
    at = torch.from_numpy(np.asarray(line.get_xdata())).float()[:, None]
    expected = model.prior().log_prob(at).exp().detach()
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-4)


def test_dimensions_in_any_order_have_the_density_of_the_whole() -> None:
    """A prior that is narrow in its first dimension is so under dims=(1, 0) too."""
    model = _model([0.1, 0.1], [0.0, 0.0])
    scale = torch.tensor([0.1, 2.0])
    normal = torch.distributions.Laplace(torch.zeros(2), scale)
    model.prior = vk.priors.Fixed(torch.distributions.Independent(normal, 1))
    for dims in ((0, 1), (1, 0)):
        ax = plots.aggregated_posterior(model, X, dims=dims)
        widths = np.ptp(ax.collections[1].get_paths()[2].vertices, axis=0)
        assert widths[dims.index(0)] < widths[dims.index(1)] / 2


@pytest.mark.parametrize(
    "model",
    [
        vk.recipes.cvae(vk.likelihoods.Bernoulli((1, 2, 2)), latent_dim=3, classes=3).model,
        vk.recipes.hyperspherical_vae(vk.likelihoods.Bernoulli((1, 2, 2)), 3).model,
        vk.recipes.categorical_vae(vk.likelihoods.Bernoulli((1, 2, 2)), 2, 3).model,
        vk.recipes.autoencoder(vk.likelihoods.Bernoulli((1, 2, 2)), 3).model,
    ],
    ids=["conditional", "sphere", "categories", "autoencoder"],
)
def test_models_of_every_kind_have_an_aggregated_posterior(model: vk.VAE) -> None:
    data = (torch.rand(9, 1, 2, 2).round(), torch.arange(9) % 3)
    for dims in (None, [1], [1, 0]):
        ax = plots.aggregated_posterior(model, data, dims=dims)
        ax.figure.canvas.draw()
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert "aggregated posterior" in names
        assert any(name.startswith("prior") for name in names)


def test_a_posterior_of_one_point_is_drawn() -> None:
    ax = plots.aggregated_posterior(_model([0.0, 0.0], [-40.0, -40.0]), X)
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_offsets()), 0, atol=1e-6)
    ax.figure.canvas.draw()


@pytest.mark.parametrize("dims", [(), (0, 0), (0, 1, 2), (3,), (-1,), (0.5,)])
def test_no_such_dimensions(dims: Any, refuses: Refuses) -> None:
    model = _model([1.0] * 3, [0.0] * 3)
    words = ("dims: expected one or two different whole numbers from 0 to 2", f"got {dims}")
    refuses(ValueError, lambda: plots.aggregated_posterior(model, X, dims=dims), *words)
    assert not plt.get_fignums()


# Information


@pytest.mark.parametrize("kind", ["record", "modularity", "tensor"])
def test_the_table_of_information(kind: str) -> None:
    values = torch.tensor([[0.5, 0.0], [0.123, 1.0], [-1e-17, 0.25]]).double()
    nothing = torch.zeros(2).double()
    table: Any = {
        "record": MIG(0.25, nothing, values, nothing),
        "modularity": vk.metrics.Modularity(0.25, nothing, values),
        "tensor": values,
    }[kind]
    ax = plots.mutual_information(table, ["shape", "size"])
    (image,) = ax.get_images()
    np.testing.assert_array_equal(np.asarray(image.get_array()), values.clamp(min=0).numpy())
    assert image.get_clim() == (0, 1)
    numbers = {text.get_position(): text.get_text() for text in ax.texts}
    assert numbers == {
        (0, 0): "0.50",
        (1, 0): "0.00",
        (0, 1): "0.12",
        (1, 1): "1.00",
        (0, 2): "0.00",
        (1, 2): "0.25",
    }
    assert (_ticks(ax.xaxis), _ticks(ax.yaxis)) == (["shape", "size"], ["0", "1", "2"])
    assert ax.get_title() == ("MIG 0.250" if kind == "record" else "")
    assert ax.figure.axes[1].get_ylabel() == "mutual information (nats)"


def test_a_table_of_nothing_and_of_one() -> None:
    ax = plots.mutual_information(torch.zeros(1, 1))
    assert [text.get_text() for text in ax.texts] == ["0.00"]
    assert _ticks(ax.xaxis) == _ticks(ax.yaxis) == ["0"]
    assert ax.get_images()[0].get_clim() == (0, 1)


def test_tables_that_there_are_not(refuses: Refuses) -> None:
    draw = plots.mutual_information
    words = ("table: expected shape (dim, factors)", "got (3,)")
    refuses(ValueError, lambda: draw(torch.zeros(3)), *words)
    refuses(ValueError, lambda: draw(torch.zeros(0, 2)), "table: expected", "(0, 2)")
    refuses(ValueError, lambda: draw(torch.zeros(2, 2) / 0), "table: expected no NaN", "4 NaN")
    words = ("factor_names: expected 2, one for each factor", "got 1")
    refuses(ValueError, lambda: draw(torch.zeros(3, 2), ["size"]), *words)
    assert not plt.get_fignums()


# Rate and distortion


def _point(beta: float, rate: float, distortion: float, error: float = 0.5) -> RateDistortion:
    return RateDistortion(beta, Mean(rate, error), Mean(distortion, 2 * error))


def test_points_of_rate_and_distortion_bear_their_beta() -> None:
    ax = plots.rate_distortion([_point(4, 1, 30), _point(0.5, 9, 10), _point(1, 5, 20)])
    (container,) = ax.containers
    line, _, (across, along) = container.lines
    np.testing.assert_array_equal(line.get_xydata(), [[9, 10], [5, 20], [1, 30]])
    assert np.ptp([segment[:, 0] for segment in across.get_segments()], axis=1).tolist() == [1] * 3
    assert np.ptp([segment[:, 1] for segment in along.get_segments()], axis=1).tolist() == [2] * 3
    named = {text.get_text(): text.xy for text in ax.texts}
    assert named == {"β = 0.5": (9, 10), "β = 1": (5, 20), "β = 4": (1, 30)}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rate (nats)", "distortion (nats)")


def test_names_of_points_that_lie_together_do_not_overlap() -> None:
    ax = plots.rate_distortion([_point(1, 5, 20), _point(1.1, 4.9, 20.1), _point(4, 1, 30)])
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_the_scale_of_a_small_table_is_named_in_full() -> None:
    figure = plots.mutual_information(torch.rand(2, 1)).figure
    figure.canvas.draw()
    label = figure.axes[1].yaxis.label.get_window_extent()
    assert label.y0 >= 0
    assert label.y1 <= figure.bbox.height


def test_rate_and_distortion_as_they_are_measured() -> None:
    data = torch.rand(20, 1, 8, 8).round()
    points = vk.metrics.rate_distortion({2.0: tiny(), 1.0: tiny()}, data)
    ax = plots.rate_distortion(points)
    expected = [[point.rate.mean, point.distortion.mean] for point in points]
    np.testing.assert_array_equal(ax.containers[0].lines[0].get_xydata(), expected)


def test_a_point_without_an_error() -> None:
    ax = plots.rate_distortion([_point(1, 5, 20, math.nan)])
    assert ax.containers[0].lines[0].get_xydata().tolist() == [[5, 20]]
    ax.figure.canvas.draw()


def test_no_such_points(refuses: Refuses) -> None:
    refuses(ValueError, lambda: plots.rate_distortion([]), "points: expected at least one")
    words = ("points: expected no NaN", "1 NaN among 2")
    refuses(ValueError, lambda: plots.rate_distortion([_point(1, math.nan, 2)]), *words)
    assert not plt.get_fignums()


# Detectors


def _lines(ax: Axes) -> dict[str, list[list[float]]]:
    return {str(line.get_label()): line.get_xydata().tolist() for line in ax.lines[:-1]}


def test_curves_of_detectors_and_their_areas() -> None:
    """By hand: a perfect score, a reversed one, one that tells nothing, and one between."""
    pytest.importorskip("sklearn")
    labels = torch.tensor([0, 0, 1, 1])
    scores = {
        "perfect": torch.tensor([0.0, 1.0, 2.0, 3.0]),
        "reversed": torch.tensor([3.0, 2.0, 1.0, 0.0]),
        "constant": torch.ones(4),
        "between": torch.tensor([0.1, 0.4, 0.35, 0.8]),
    }
    ax = plots.roc(scores, labels)
    assert _lines(ax) == {
        "perfect: AUROC 1.000 ± 0.000": [[0, 0], [0, 0.5], [0, 1], [1, 1]],
        "reversed: AUROC 0.000 ± 0.000": [[0, 0], [0.5, 0], [1, 0], [1, 1]],
        "constant: AUROC 0.500 ± 0.000": [[0, 0], [1, 1]],
        "between: AUROC 0.750 ± 0.354": [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]],
    }
    assert ax.lines[-1].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(_lines(ax))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("false positive rate", "true positive rate")


def test_one_score_needs_no_name_and_labels_may_be_a_mask() -> None:
    pytest.importorskip("sklearn")
    ax = plots.roc(torch.tensor([1.0, 2.0]), torch.tensor([False, True]))
    assert list(_lines(ax)) == ["AUROC 1.000"]


def test_detectors_that_there_are_not(refuses: Refuses) -> None:
    pytest.importorskip("sklearn")
    score, labels = torch.arange(4.0), torch.tensor([0, 0, 1, 1])
    refuses(ValueError, lambda: plots.roc({}, labels), "scores: expected at least one")
    words = ("labels: expected shape (N,), of 0 and of 1, both of them", "of values 0")
    refuses(ValueError, lambda: plots.roc(score, 0 * labels), *words)
    refuses(ValueError, lambda: plots.roc(score, 2 * labels), "labels: expected", "values 0, 2")
    refuses(ValueError, lambda: plots.roc(score, labels[:, None]), "labels: ", "shape (4, 1)")
    words = ("scores['nats']: expected shape (4,), as labels have", "got (3,)")
    refuses(ValueError, lambda: plots.roc({"nats": score[:3]}, labels), *words)
    refuses(ValueError, lambda: plots.roc(score / 0, labels), "scores: expected no NaN")
    assert not plt.get_fignums()
