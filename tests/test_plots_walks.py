"""Paths through the latent space: where they lead, and what is decoded along them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vaekit as vk
from vaekit import plots
from vaekit.plots import interpolate

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

Refuses = Callable[..., Exception]
METHODS = ["linear", "spherical"]


def _model(dim: int = 4, logvar: list[float] | None = None) -> vk.VAE:
    """A code is a picture of one line: x = 0.5 + z / 10, and z is known exactly."""
    latent = vk.GaussianLatent(dim)
    into, out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
    with torch.no_grad():
        into.weight.copy_(torch.cat([10 * torch.eye(dim), torch.zeros(dim, dim)]))
        into.bias.copy_(torch.tensor([-5.0] * dim + (logvar or [-1.0] * dim)))
        out.weight.copy_(torch.eye(dim) / 10)
        out.bias.fill_(0.5)
    encoder = vk.Encoder(nn.Sequential(nn.Flatten(), into), latent)
    return vk.VAE(encoder, vk.Decoder(out, vk.likelihoods.Gaussian((1, 1, dim)))).double()


def _pictures(z: Tensor) -> Tensor:
    return 0.5 + z[:, None, None].double() / 10


def _codes(ax: Axes, dim: int = 4) -> np.ndarray:
    """Read the codes off the picture: (rows, columns, dim)."""
    (image,) = ax.get_images()
    lines = np.asarray(image.get_array())[::2]  # one pixel between neighbours
    lines = np.pad(lines, ((0, 0), (0, 1))).reshape(len(lines), -1, dim + 1)[..., :dim]
    return 10 * (lines.astype(float) - 0.5)


def _rows(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def _same(one: Any, other: Any) -> None:
    """As near as pictures in single precision tell codes."""
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=2e-5)


# Paths


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [2, 3, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_are_exact(method: Any, steps: int, dtype: torch.dtype, device: torch.device) -> None:
    a, b = torch.randn(2, 5, 3, 7, device=device, dtype=dtype)
    path = interpolate(a, b, steps, method)
    assert path.shape == (5, 3, steps, 7)
    assert (path.dtype, path.device) == (a.dtype, a.device)
    assert torch.equal(path[..., 0, :], a)
    assert torch.equal(path[..., -1, :], b)


def test_a_linear_path_is_straight() -> None:
    a, b = torch.randn(2, 6, 7).double()
    path = interpolate(a, b, 5)
    for step in range(5):
        torch.testing.assert_close(path[:, step], a + step / 4 * (b - a), rtol=0, atol=1e-12)


@pytest.mark.parametrize("degrees", [1e-4, 1, 60, 90, 150, 179.9])
def test_a_spherical_path_turns_at_constant_speed(degrees: float) -> None:
    """In a plane that lies askew; the norm changes evenly, and the path stays in the plane."""
    plane = torch.linalg.qr(torch.randn(7, 2).double()).Q.T
    angle = math.radians(degrees)
    a, b = 2 * plane[0], 5 * (math.cos(angle) * plane[0] + math.sin(angle) * plane[1])
    path = interpolate(a, b, 9, "spherical")
    t = torch.linspace(0, 1, 9).double()
    torch.testing.assert_close(path.norm(dim=1), 2 + 3 * t, rtol=0, atol=1e-12)
    at = path @ plane.T
    torch.testing.assert_close(torch.atan2(at[:, 1], at[:, 0]), t * angle, rtol=0, atol=1e-11)
    torch.testing.assert_close(at @ plane, path, rtol=0, atol=1e-12)


def test_between_equal_norms_it_is_the_formula_of_the_field() -> None:
    a, b = (nn.functional.normalize(z, dim=-1) for z in torch.randn(2, 6, 7).double())
    omega = (a * b).sum(-1).acos()[:, None]
    path = interpolate(a, b, 4, "spherical")
    for step, t in enumerate(torch.linspace(0, 1, 4, dtype=torch.double)):
        expected = (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / omega.sin()
        torch.testing.assert_close(path[:, step], expected, rtol=0, atol=1e-12)


def test_equal_codes_stay_and_those_of_one_direction_go_straight() -> None:
    a = torch.randn(6, 7).double()
    for method in METHODS:
        expected = a[:, None].expand(-1, 5, -1)
        torch.testing.assert_close(interpolate(a, a, 5, method), expected, rtol=0, atol=1e-14)
    paths = [interpolate(a, 3 * a, 5, method) for method in METHODS]
    torch.testing.assert_close(*paths, rtol=0, atol=1e-13)


def test_paths_that_there_are_not(refuses: Refuses) -> None:
    a, zero = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    cases: list[tuple[Callable[[], object], tuple[str, ...]]] = [
        (lambda: interpolate(zero, a, 5, "spherical"), ("z_a: expected no zero", "linear")),
        (lambda: interpolate(a, zero, 5, "spherical"), ("z_b: expected no zero", "linear")),
        (lambda: interpolate(a, -2 * a, 5, "spherical"), ("z_b: ", "opposite", "great circles")),
        (lambda: interpolate(a[:, :1], -a[:, :1], 5, "spherical"), ("z_b: ", "opposite")),
        (lambda: interpolate(a, a[:1]), ("z_b: expected shape (2, 2)", "got (1, 2)")),
        (lambda: interpolate(a, a / 0), ("z_b: expected finite values", "4 infinite")),
        (lambda: interpolate(zero / 0, a), ("z_a: expected no NaN",)),
        (lambda: interpolate(a, a, 1), ("steps: expected a whole number from 2 on", "got 1")),
        (lambda: interpolate(a, a, 2.5), ("steps: expected", "got 2.5")),  # type: ignore[arg-type]
        (lambda: interpolate(a, a, 5, "round"), ("method: expected one of", "'round'")),  # type: ignore[arg-type]
    ]
    for call, words in cases:
        refuses(ValueError, call, *words)
    assert torch.equal(interpolate(a, -a, 3)[:, 1], torch.zeros(2, 2))
    assert torch.equal(interpolate(a, zero, 3)[:, 1], (a + zero) / 2)


# Traversals


def test_traversals_are_sorted_by_nats_and_named() -> None:
    logvar = [0.0, -3.0, -1.0, -2.0]
    model, z = _model(logvar=logvar), torch.zeros(8, 4)
    ax = plots.traversals(model, _pictures(z[:1] + 1), data=_pictures(z), rows=3, columns=4)
    nats = [0.5 * (math.exp(each) - 1 - each) for each in logvar]  # the means are 0
    assert _rows(ax) == [f"dimension {dim}\n{nats[dim]:.2f} nats" for dim in (1, 3, 2)]
    quantiles = torch.tensor([0.05, 0.35, 0.65, 0.95]).double()
    expected = torch.ones(3, 4, 4).double()
    for row, dim in enumerate((1, 3, 2)):
        expected[row, :, dim] = torch.special.ndtri(quantiles)
    _same(_codes(ax), expected)
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["0.05", "0.35", "0.65", "0.95"]
    assert ax.get_xlabel() == "quantile of the prior"
    assert list(ax.get_yticks()) == [0, 2, 4]


def test_without_data_and_image_they_go_through_the_mean_of_the_prior() -> None:
    ax = plots.traversals(_model())
    assert _rows(ax) == [f"dimension {dim}" for dim in range(4)]
    codes = _codes(ax)
    assert codes.shape == (4, 11, 4)
    at = torch.special.ndtri(torch.linspace(0.05, 0.95, 11).double())
    _same(codes, torch.einsum("c,ij->icj", at, torch.eye(4).double()))


def test_they_go_from_any_quantile_to_any(refuses: Refuses) -> None:
    ax = plots.traversals(_model(), columns=5, quantiles=(0.001, 0.601))
    at = torch.special.ndtri(torch.linspace(0.001, 0.601, 5).double())
    _same(_codes(ax)[:, :, 0][0], at)
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["0.001", "0.151", "0.301", "0.451", "0.601"]
    words = "quantiles: expected two numbers between 0 and 1, the lower one first"
    for wrong in ((0.0, 0.9), (0.1, 1), (0.9, 0.1), (0.5, 0.5), (0.1, float("nan")), (0.1,), 0.1):
        got = f"got {wrong!r}"
        refuses(ValueError, lambda bad=wrong: plots.traversals(_model(), quantiles=bad), words, got)


@pytest.mark.parametrize(("columns", "every"), [(12, 1), (13, 2), (25, 3)])
def test_of_many_columns_some_are_left_unnamed(columns: int, every: int) -> None:
    ax = plots.traversals(_model(), rows=1, columns=columns)
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert len(names) == columns
    assert [bool(name) for name in names] == [i % every == 0 for i in range(columns)]


def test_one_latent_dimension_has_one_row() -> None:
    assert _codes(plots.traversals(_model(1)), 1).shape == (1, 11, 1)


def test_other_priors_are_sorted_from_draws() -> None:
    model = _model(2)
    laplace = torch.distributions.Laplace(torch.tensor([3.0, -1.0]), torch.tensor([0.5, 0.2]))
    model.prior = vk.priors.Fixed(torch.distributions.Independent(laplace, 1)).double()
    codes = _codes(plots.traversals(model, columns=7), 2)
    quantiles = torch.linspace(0.05, 0.95, 7)[:, None]
    exact = laplace.icdf(quantiles)
    error = (quantiles * (1 - quantiles) / 10_000).sqrt() / laplace.log_prob(exact).exp()
    found = torch.from_numpy(np.stack([codes[0, :, 0], codes[1, :, 1]], 1))
    assert ((found - exact).abs() < 4.5 * error).all()
    _same(codes[0, :, 1], np.full(7, -1.0))
    again = _codes(plots.traversals(model, columns=7), 2)
    assert np.array_equal(codes, again)
    assert not np.array_equal(codes, _codes(plots.traversals(model, columns=7, seed=1), 2))


def test_a_mixture_has_traversals_by_the_variance_of_the_means() -> None:
    model = _model(2)
    model.prior = vk.priors.MixtureOfGaussians(2, 3).double()
    assert _codes(plots.traversals(model), 2).shape == (2, 11, 2)
    z = torch.tensor([[0.0, 1.0], [0.0, 3.0], [1.0, -1.0]])
    ax = plots.traversals(model, data=_pictures(z))
    assert _rows(ax) == ["dimension 1\nvariance 4.00", "dimension 0\nvariance 0.33"]


def _conditional() -> vk.VAE:
    return vk.recipes.cvae(vk.likelihoods.Bernoulli((1, 2, 2)), latent_dim=2, classes=3).model


def test_a_conditional_model_is_decoded_in_its_context(refuses: Refuses) -> None:
    model, x = _conditional().eval(), torch.rand(6, 1, 2, 2).round()
    y = torch.tensor([2, 0, 1, 2, 0, 1])
    (image,) = plots.traversals(model, (x, y), columns=3).get_images()
    with torch.no_grad():
        z = model.encode(x[:1], y[:1]).mean[0].repeat(2, 3, 1)
        at = torch.special.ndtri(torch.tensor([0.05, 0.5, 0.95]).double()).float()
        z[0, :, 0] = z[1, :, 1] = at
        pictures = model.decode(z.flatten(0, 1), y[:1].expand(6))
    np.testing.assert_allclose(_array(image), _grid(pictures, 3), rtol=1e-6)
    refuses(ValueError, lambda: plots.traversals(model), "x: expected an image", "context")
    (image,) = plots.interpolation(model, (x[:2], y[:2]), (x[2:4], y[2:4]), 3).get_images()
    with torch.no_grad():
        start, end = (model.encode(x[at], y[at]).mean for at in (slice(2), slice(2, 4)))
        path = interpolate(start, end, 3).flatten(0, 1)
        pictures = model.decode(path, y[:2].repeat_interleave(3))
    np.testing.assert_allclose(_array(image), _grid(pictures, 3), rtol=1e-6)
    (image,) = plots.class_centres(model, (x, y)).get_images()
    with torch.no_grad():
        mean = model.encode(x, y).mean.double()
        centres = torch.stack([mean[y == label].mean(0) for label in range(3)]).float()
        pictures = model.decode(centres, torch.arange(3))
    np.testing.assert_allclose(_array(image), _grid(pictures, 3), rtol=1e-6)
    (image,) = plots.class_interpolation(model, (x, y), 2, pairs=[(2, 0)]).get_images()
    with torch.no_grad():
        pictures = model.decode(centres[[2, 0]], torch.tensor([2, 2]))
    np.testing.assert_allclose(_array(image), _grid(pictures, 2), rtol=1e-6)


def _array(image: Any) -> np.ndarray:
    return np.asarray(image.get_array())


def _grid(pictures: Tensor, columns: int) -> np.ndarray:
    return _array(plots.images(pictures, columns=columns).get_images()[0])


def test_traversals_that_there_are_not(refuses: Refuses) -> None:
    model = _model()
    refuses(ValueError, lambda: plots.traversals(model, rows=0), "rows: expected", "got 0")
    words = ("columns: expected a whole number from 2 on", "got 1")
    refuses(ValueError, lambda: plots.traversals(model, columns=1), *words)
    sphere = vk.recipes.hyperspherical_vae(vk.likelihoods.Bernoulli((1, 2, 2)), 3).model
    words = ("model: expected a model whose latents are any real numbers", "got draws of")
    refuses(TypeError, lambda: plots.traversals(sphere), *words)
    refuses(TypeError, lambda: plots.traversals(model, 7), "x: expected", "got int")
    assert not plt.get_fignums()


# Between images


@pytest.mark.parametrize("method", METHODS)
def test_rows_lead_from_image_to_image(method: Any) -> None:
    a, b = torch.randn(2, 3, 4).double()
    ax = plots.interpolation(_model(), _pictures(a), _pictures(b), 6, method, n=2)
    _same(_codes(ax), interpolate(a[:2], b[:2], 6, method))
    assert ax.get_title() == f"Decoded along {method} paths between codes"


def test_as_many_images_lead_to_as_many(refuses: Refuses) -> None:
    model, x = _model(), _pictures(torch.randn(3, 4))
    words = ("b: expected 3 images", "got 2")
    refuses(ValueError, lambda: plots.interpolation(model, x, x[:2]), *words)
    refuses(TypeError, lambda: plots.interpolation(model, x, None), "b: expected", "NoneType")
    words = ("z_b: ", "opposite")
    refuses(ValueError, lambda: plots.interpolation(model, x, 1 - x, 5, "spherical"), *words)
    assert not plt.get_fignums()


# Classes

Y = torch.tensor([5, 2, 2, 9, 5, 5])


def test_the_centre_of_a_class_is_the_mean_of_its_codes() -> None:
    z = torch.randn(6, 4).double()
    data = vk.datasets.from_tensors(_pictures(z), Y, dtype=torch.double)
    ax = plots.class_centres(_model(), data)
    means = torch.stack([z[label == Y].mean(0) for label in (2, 5, 9)])
    _same(_codes(ax)[0], means)
    assert [text.get_text() for text in ax.texts] == ["2", "5", "9"]
    assert [text.get_position()[0] for text in ax.texts] == [1.5, 6.5, 11.5]
    some = plots.class_centres(_model(), data, n=4)
    _same(_codes(some)[0], torch.stack([z[1:3].mean(0), z[0], z[3]]))


def test_many_classes_stand_in_rows_of_ten_under_their_names() -> None:
    names = [f"kind {index:02d}" for index in range(12)]
    data = vk.datasets.from_tensors(torch.rand(12, 1, 3, 4).double(), names, dtype=torch.double)
    latent = vk.GaussianLatent(2)
    encoder = vk.Encoder(vk.networks.mlp(12, [], 4), latent)
    decoder = vk.Decoder(vk.networks.mlp(2, [], 12), vk.likelihoods.Bernoulli((1, 3, 4)))
    ax = plots.class_centres(vk.VAE(encoder, decoder).double(), data)
    assert [text.get_text() for text in ax.texts] == names
    assert ax.get_images()[0].get_size() == (2 * 3 + 2, 10 * 5 - 1)  # two pixels for the names


def test_between_classes_lead_paths_from_each_to_the_next_or_as_told() -> None:
    z = torch.randn(6, 4).double()
    data = vk.datasets.from_tensors(
        _pictures(z), Y, classes=[f"the {i}" for i in range(10)], dtype=torch.double
    )
    two, five, nine = (z[label == Y].mean(0) for label in (2, 5, 9))
    ax = plots.class_interpolation(_model(), data, 5)
    assert _rows(ax) == ["the 2 to the 5", "the 5 to the 9"]
    _same(_codes(ax), torch.stack([interpolate(two, five, 5), interpolate(five, nine, 5)]))
    ax = plots.class_interpolation(_model(), data, 4, "spherical", pairs=[(9, 2)])
    assert _rows(ax) == ["the 9 to the 2"]
    _same(_codes(ax)[0], interpolate(nine, two, 4, "spherical"))


def test_classes_that_there_are_not(refuses: Refuses) -> None:
    model, x = _model(), _pictures(torch.randn(6, 4))
    for draw in (plots.class_centres, plots.class_interpolation):
        for data, got in ((x, "got none"), ((x, torch.zeros(6, 2)), "shape (n, 2)")):
            words = ("data: expected one label for each element", got)
            refuses(ValueError, lambda draw=draw, data=data: draw(model, data), *words)
    one = (x, torch.ones(6))
    assert [text.get_text() for text in plots.class_centres(model, one).texts] == ["1.0"]
    plt.close("all")
    walk = plots.class_interpolation
    refuses(ValueError, lambda: walk(model, one), "data: expected at least two classes", "got 1")
    words = ("pairs: expected at least one pair of the labels 2, 5, 9", "(2, 3)")
    refuses(ValueError, lambda: walk(model, (x, Y), pairs=[(2, 3)]), *words)
    refuses(ValueError, lambda: walk(model, (x, Y), pairs=[]), "pairs: expected", "got []")
    refuses(ValueError, lambda: walk(model, (x, Y), 1), "steps: expected", "got 1")
    assert not plt.get_fignums()
