"""Pictures: what is drawn, where, and what is refused."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import vaekit as vk
from vaekit import plots
from vaekit.training import History

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402

Refuses = Callable[..., Exception]


def _model(dim: int = 2, event: tuple[int, ...] = (1, 4, 6)) -> vk.VAE:
    latent = vk.GaussianLatent(dim)
    values = int(np.prod(event))
    encoder = vk.Encoder(vk.networks.mlp(values, [], latent.num_params), latent)
    decoder = vk.Decoder(vk.networks.mlp(dim, [], values), vk.likelihoods.Bernoulli(event))
    return vk.VAE(encoder, decoder).eval()


def _data(n: int = 12, event: tuple[int, ...] = (1, 4, 6)) -> vk.datasets.ArrayDataset:
    return vk.datasets.from_tensors(torch.rand(n, *event), [i % 3 for i in range(n)])


def _drawn(ax: Axes) -> np.ndarray:
    (image,) = ax.get_images()
    return np.asarray(image.get_array())


def _history(validation: bool = True) -> History:
    history = History()
    for epoch, loss in enumerate([9.0, 5.0, 4.0], start=1):
        train = {"loss": loss, "kl": loss / 2}
        measured = {name: value + 1 for name, value in train.items()} if validation else None
        history.add(step=10 * epoch, epoch=epoch, seconds=1, train=train, validation=measured)
    return history


def _point(beta: float) -> vk.metrics.RateDistortion:
    return vk.metrics.RateDistortion(beta, vk.metrics.Mean(9 / beta, 1), vk.metrics.Mean(beta, 1))


OF_MODELS: dict[str, Callable[..., Axes]] = {
    "reconstructions": lambda model, data, **ax: plots.reconstructions(model, data, n=5, **ax),
    "samples": lambda model, _, **ax: plots.samples(model, 9, **ax),
    "error_map": plots.error_map,
    "nearest_neighbours": lambda m, d, **ax: plots.nearest_neighbours(m, d, d, k=3, n=2, **ax),
    "manifold": lambda model, _, **ax: plots.manifold(model, side=3, **ax),
    "traversals": lambda model, data, **ax: plots.traversals(model, data, data=data, **ax),
    "interpolation": lambda model, data, **ax: plots.interpolation(model, data, data, **ax),
    "class_centres": plots.class_centres,
    "class_interpolation": plots.class_interpolation,
    "latent_scatter": plots.latent_scatter,
    "kl_bars": plots.kl_bars,
    "aggregated_posterior": plots.aggregated_posterior,
}
OF_NUMBERS: dict[str, Callable[..., Axes]] = {
    "images": lambda **ax: plots.images(torch.rand(5, 1, 4, 6), **ax),
    "mutual_information": lambda **ax: plots.mutual_information(torch.rand(3, 2), **ax),
    "curves": lambda **ax: plots.curves(_history(), **ax),
    "rate_distortion": lambda **ax: plots.rate_distortion([_point(1), _point(4)], **ax),
    "roc": lambda **ax: plots.roc(torch.rand(4), torch.arange(4) % 2, **ax),
}
CALLS = OF_NUMBERS | {
    name: lambda call=call, **ax: call(_model(), _data(), **ax) for name, call in OF_MODELS.items()
}


def test_every_picture_is_tested_here() -> None:
    assert {*CALLS, "interpolate", "report"} == set(plots.__all__)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_it_draws_on_the_axes_it_is_given_or_on_new_ones(call: Callable[..., Axes]) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    assert call(ax=right) is right
    assert right.has_data()
    assert not left.has_data()
    assert plt.get_fignums() == [figure.number]
    new = call()
    assert new.figure is not figure
    assert new.has_data()
    assert len(plt.get_fignums()) == 2
    new.figure.canvas.draw()


@pytest.mark.parametrize("call", OF_MODELS.values(), ids=OF_MODELS)
def test_a_model_is_left_as_it_was(call: Callable[..., Axes], device: torch.device) -> None:
    """A dropout would show training mode, and the data draw from the global generator."""
    model = _model(event=(1, 4, 6)).to(device)
    model.decoder.net = nn.Sequential(model.decoder.net, nn.Dropout(0.999))
    data = vk.datasets.from_tensors(torch.rand(12, 1, 4, 6), torch.arange(12) % 3)
    data.binarize = "dynamic"
    pictures = []
    for training in (True, False):
        model.train(training)
        state = torch.random.get_rng_state()
        generator = torch.Generator(device).manual_seed(0)
        drawn = {"generator": generator} if call is OF_MODELS["samples"] else {}
        ax = plots.samples(model, 9, **drawn) if drawn else call(model, data)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert model.training is model.decoder.training is training
        ax.figure.canvas.draw()
        pictures.append(np.asarray(ax.figure.canvas.buffer_rgba()))
    assert np.array_equal(*pictures)
    assert all(parameter.grad is None for parameter in model.parameters())


# Grids


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_the_pictures_row_by_row(channels: int) -> None:
    pictures = torch.rand(5, channels, 4, 6)
    grid = _drawn(plots.images(pictures, columns=3))
    grid = grid.reshape(*grid.shape[:2], channels)
    assert grid.shape == (2 * 4 + 1, 3 * 6 + 2, channels)  # one pixel between neighbours
    seen = np.zeros(grid.shape[:2], bool)
    for index, picture in enumerate(pictures):
        rows, columns = (
            slice(at * (size + 1), at * (size + 1) + size)
            for at, size in ((index // 3, 4), (index % 3, 6))
        )
        assert np.array_equal(grid[rows, columns], picture.permute(1, 2, 0).numpy())
        seen[rows, columns] = True
    assert (grid[~seen] == 1).all()


@pytest.mark.parametrize(
    ("n", "columns", "shape"),
    [(1, None, (1, 1)), (4, None, (2, 2)), (5, None, (2, 3)), (7, 7, (1, 7)), (3, 1, (3, 1))],
)
def test_a_grid_is_as_square_as_it_can_be(
    n: int, columns: int | None, shape: tuple[int, int]
) -> None:
    grid = _drawn(plots.images(torch.zeros(n, 3, 5), columns=columns))
    assert grid.shape == (shape[0] * 4 - 1, shape[1] * 6 - 1)


@pytest.mark.parametrize("columns", [3, None])
def test_rows_are_named_at_their_left(columns: int | None, refuses: Refuses) -> None:
    pictures = torch.rand(6, 1, 4, 5)
    ax = plots.images(pictures, columns=columns, rows=["before", "after"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["before", "after"]
    assert list(ax.get_yticks()) == [1.5, 6.5]  # the middles of rows of 4, 1 apart
    assert not len(ax.get_xticks())
    assert np.array_equal(_drawn(ax), _drawn(plots.images(pictures, columns=3)))
    plt.close("all")
    words = ("rows: expected 3 names, one for each row", "got 2")
    refuses(ValueError, lambda: plots.images(pictures, columns=2, rows=["a", "b"]), *words)
    words = ("rows: expected 2 names", "got 0")
    refuses(ValueError, lambda: plots.images(pictures, rows=[]), *words)
    assert not plt.get_fignums()


def test_values_outside_are_cut_and_grey_is_not_stretched() -> None:
    ax = plots.images(torch.tensor([[[-1.0, 0.25, 2.0]]]))
    assert _drawn(ax).tolist() == [[0, 0.25, 1]]
    dull = plots.images(torch.tensor([[[0.25, 0.5]]]))
    assert dull.get_images()[0].get_clim() == (0, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.bool])
def test_pictures_of_every_dtype(dtype: torch.dtype, device: torch.device) -> None:
    pictures = torch.eye(3, device=device).to(dtype)[None].requires_grad_(dtype.is_floating_point)
    assert np.array_equal(_drawn(plots.images(pictures)), np.eye(3))


@pytest.mark.parametrize(
    ("pictures", "columns", "words"),
    [
        (torch.zeros(2, 2, 4, 4), None, ("pictures: expected", "(n, 1, H, W)", "(2, 2, 4, 4)")),
        (torch.zeros(4, 4), None, ("pictures: expected", "(4, 4)")),
        (torch.zeros(1, 1, 1, 4, 4), None, ("pictures: expected", "(1, 1, 1, 4, 4)")),
        (torch.zeros(0, 1, 4, 4), None, ("pictures: expected", "at least 1", "(0, 1, 4, 4)")),
        (torch.zeros(2, 1, 4, 4), 0, ("columns: expected", "above 0", "got 0")),
        (torch.zeros(2, 1, 4, 4), 1.5, ("columns: expected", "got 1.5")),
        (torch.full((1, 2, 2), torch.nan), None, ("pictures: expected no NaN", "4 NaN")),
    ],
)
def test_no_such_grid(
    pictures: Tensor, columns: Any, words: tuple[str, ...], refuses: Refuses
) -> None:
    refuses(ValueError, lambda: plots.images(pictures, columns=columns), *words)
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    "data",
    [
        lambda data: data,
        lambda data: data[:][0],
        lambda data: data[:],
        lambda data: {"x": data[:][0]},
        lambda data: DataLoader(data, 4),
        lambda data: [data[:4], data[4:]],
    ],
    ids=["data set", "tensor", "pair", "mapping", "loader", "list of batches"],
)
def test_reconstructions_stand_below_their_originals(data: Callable[..., Any]) -> None:
    model, held = _model(), _data()
    grid = _drawn(plots.reconstructions(model, data(held), n=7))
    x = held[:7][0]
    with torch.no_grad():
        x_hat = model.reconstruct(x)
    assert np.array_equal(grid, _drawn(plots.images(torch.cat([x, x_hat]), columns=7)))


def test_reconstructions_of_fewer_than_asked_for() -> None:
    assert _drawn(plots.reconstructions(_model(), _data(3), n=10)).shape == (2 * 5 - 1, 3 * 7 - 1)


def test_samples_of_a_conditional_model_have_its_context() -> None:
    model = vk.recipes.cvae(vk.likelihoods.Bernoulli((1, 4, 4)), latent_dim=2, classes=3).model
    model.eval()
    y = torch.tensor([2, 0, 1, 1])

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    expected = model.sample(4, generator=generator(), context=y)
    drawn = _drawn(plots.samples(model, 4, generator=generator(), context=y))
    assert np.array_equal(drawn, _drawn(plots.images(expected)))


def test_letters_of_a_large_grid_are_not_shrunk_with_the_page() -> None:
    figure = plots.manifold(_model(), side=20).figure
    assert figure.get_size_inches().max() < 10


def test_samples_are_those_of_the_model() -> None:
    model = _model()

    def drawn(temperature: float = 1.0) -> np.ndarray:
        generator = torch.Generator().manual_seed(1)
        return _drawn(plots.samples(model, 9, temperature=temperature, generator=generator))

    expected = model.sample(9, 0.5, torch.Generator().manual_seed(1))
    assert np.array_equal(drawn(0.5), _drawn(plots.images(expected)))
    assert not np.array_equal(drawn(0.5), drawn(1.0))


# Errors


def _painting(dim: int = 4) -> vk.VAE:
    """A code is a picture of one line: x = 0.5 + z / 10, and z is known exactly."""
    latent = vk.GaussianLatent(dim)
    into, out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
    with torch.no_grad():
        into.weight.copy_(torch.cat([10 * torch.eye(dim), torch.zeros(dim, dim)]))
        into.bias.copy_(torch.cat([-5 * torch.ones(dim), -torch.ones(dim)]))
        out.weight.copy_(torch.eye(dim) / 10)
        out.bias.fill_(0.5)
    encoder = vk.Encoder(nn.Sequential(nn.Flatten(), into), latent)
    return vk.VAE(encoder, vk.Decoder(out, vk.likelihoods.Gaussian((1, 1, dim))))


def test_errors_stand_below_what_they_are_of() -> None:
    model, held = _model(), _data()
    ax = plots.error_map(model, held, n=3)
    pictures, errors = (np.asarray(image.get_array()) for image in ax.get_images())
    x = held[:3][0]
    with torch.no_grad():
        x_hat = model.reconstruct(x)
    expected = plots.images(torch.cat([x, x_hat, torch.ones_like(x)]), columns=3)
    assert np.array_equal(pictures, _drawn(expected))
    error = (x - x_hat).abs()[:, 0].numpy()
    drawn = np.stack([errors[10:14, 7 * column : 7 * column + 6] for column in range(3)])
    assert np.array_equal(drawn, error)
    assert np.isfinite(errors).sum() == error.size
    assert ax.get_images()[1].get_clim() == (0, pytest.approx(float(error.max())))
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert dict(zip(names, ax.get_yticks(), strict=True)) == {
        "original": 1.5,
        "reconstruction": 6.5,
        "error": 11.5,
    }
    assert ax.figure.axes[1].get_ylabel() == "absolute error"


def test_the_error_of_a_colour_is_the_mean_of_its_channels() -> None:
    model, x = _model(event=(3, 4, 6)), torch.rand(1, 3, 4, 6)
    errors = np.asarray(plots.error_map(model, x).get_images()[1].get_array())
    with torch.no_grad():
        expected = (x - model.reconstruct(x)).abs().mean(1)[0].numpy()
    np.testing.assert_allclose(errors[10:], expected, rtol=1e-6)


def test_an_error_is_that_of_the_target() -> None:
    x, target = torch.zeros(2, 1, 1, 4), torch.full((2, 1, 1, 4), 0.25)
    data = vk.datasets.from_tensors(x, target=target)
    pictures, errors = plots.error_map(_painting(), data).get_images()
    assert np.array_equal(np.asarray(pictures.get_array())[0, :4], np.full(4, 0.25))
    np.testing.assert_allclose(np.asarray(errors.get_array())[4, :4], 0.25, atol=1e-6)


def test_a_perfect_reconstruction_has_an_error_of_nought() -> None:
    errors = plots.error_map(_painting(), torch.full((1, 1, 1, 4), 0.5)).get_images()[1]
    assert np.array_equal(np.asarray(errors.get_array())[4], np.zeros(4))
    assert errors.get_clim() == (0, 1)


# Neighbours


@pytest.mark.parametrize("batch_size", [3, 50])
def test_neighbours_are_the_nearest_codes(batch_size: int) -> None:
    model, x, queries = _painting(), torch.rand(50, 1, 1, 4), torch.rand(3, 1, 1, 4)
    ax = plots.nearest_neighbours(model, DataLoader(x, batch_size), queries, k=4, n=2)
    order = (queries[:2, None] - x).flatten(2).norm(dim=2).argsort(1)[:, :4]
    rows = torch.cat([queries[:2, None], x[order]], 1).flatten(0, 1)
    assert np.array_equal(_drawn(ax), _drawn(plots.images(rows, columns=5)))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["query", *"1234"]
    assert list(ax.get_xticks()) == [1.5, 6.5, 11.5, 16.5, 21.5]
    assert ax.lines[0].get_xdata()[0] == 4  # in the gap


def test_an_image_is_its_own_neighbour_and_equals_come_in_their_order() -> None:
    x = torch.rand(6, 1, 1, 4)
    grid = _drawn(plots.nearest_neighbours(_painting(), x, x[2:3], k=1))
    assert np.array_equal(grid[:, :4], grid[:, 5:])
    constant = _painting()
    with torch.no_grad():
        constant.encoder.net[1].weight.zero_()
    grid = _drawn(plots.nearest_neighbours(constant, DataLoader(x, 2), x[5:], k=3))
    assert np.array_equal(grid, _drawn(plots.images(x[[5, 0, 1, 2]], columns=4)))


def test_neighbours_that_there_are_not(refuses: Refuses) -> None:
    model, x = _painting(), torch.rand(6, 1, 1, 4)
    near = plots.nearest_neighbours
    words = ("k: expected at most the 6 elements", "got 7")
    refuses(ValueError, lambda: near(model, x, x, k=7), *words)
    refuses(ValueError, lambda: near(model, x, x, k=0), "k: expected", "got 0")
    words = ("queries: expected images of shape (1, 1, 4)", "got shape (1, 2, 2)")
    refuses(ValueError, lambda: near(model, x, x.reshape(6, 1, 2, 2)), *words)
    refuses(ValueError, lambda: near(model, x, x / 0), "x: expected finite values")
    assert not plt.get_fignums()


def test_data_that_are_cut_off_are_warned_of() -> None:
    x = 2 * torch.rand(6, 1, 4, 6) - 1
    x[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    words = "data: values from -1 to 1 are drawn as if they ended at 0 and 1"
    for draw in (plots.reconstructions, plots.error_map):
        with pytest.warns(UserWarning, match=words):
            draw(_model(), x)
    with pytest.warns(UserWarning, match="queries: values from -1 to 1"):
        plots.nearest_neighbours(_model(), x.clamp(0, 1), x, k=1)


# The manifold


class _Shows(nn.Module):
    """Colours a picture by z: z_1 in red, z_2 in green."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        self.sides = (height, width)

    def forward(self, z: Tensor) -> Tensor:
        colours = torch.cat([0.5 + z / 10, torch.zeros(len(z), 1)], 1)
        return colours[:, :, None, None].expand(-1, -1, *self.sides)


def _showing(height: int, width: int) -> vk.VAE:
    likelihood = vk.likelihoods.Gaussian((3, height, width))
    return vk.VAE(_model().encoder, vk.Decoder(_Shows(height, width), likelihood))


def _shown(pixels: np.ndarray) -> np.ndarray:
    return 10 * (pixels[..., :2].astype(float) - 0.5)


@pytest.mark.parametrize("sides", [(2, 2), (5, 3), (13, 26)])
@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_the_manifold_agrees_with_its_ticks(sides: tuple[int, int], side: int) -> None:
    ax = plots.manifold(_showing(*sides), side=side)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")
    assert ax.yaxis_inverted()  # row 0 of the image is at the top
    pixels = _drawn(ax)
    z_1, z_2 = (
        [float(label.get_text()) for label in axis.get_ticklabels()]
        for axis in (ax.xaxis, ax.yaxis)
    )
    assert z_1 == z_2 == sorted(set(z_1))
    assert len(z_1) == min(side, 5 if side % 2 else 6)
    assert z_1 == [-z for z in reversed(z_1)]
    at = [(round(row), round(column)) for row in ax.get_yticks() for column in ax.get_xticks()]
    rows, columns = np.transpose(at)
    named = [(one, two) for two in z_2 for one in z_1]
    # Labels have one decimal.
    np.testing.assert_allclose(_shown(pixels[rows, columns]), named, rtol=0, atol=0.05 + 1e-5)


def test_the_manifold_is_even_in_probability() -> None:
    shown = _shown(_drawn(plots.manifold(_showing(1, 1), side=4)))[::2, ::2]
    quantiles = torch.distributions.Normal(0, 1).cdf(torch.from_numpy(shown)).numpy()
    middles = np.array([0.125, 0.375, 0.625, 0.875])
    z_1, z_2 = np.meshgrid(middles, middles[::-1])  # to the right, and upwards
    np.testing.assert_allclose(quantiles, np.stack([z_1, z_2], -1), rtol=1e-5)


def test_the_manifold_goes_along_the_quantiles_of_another_prior(refuses) -> None:
    """Of two narrow parts, half the columns lie in one and half in the other."""
    model = _showing(1, 1)
    model.prior = vk.priors.MixtureOfGaussians(2, 2)
    with torch.no_grad():
        for name, value in (("means", [[-4.0, 1.0], [4.0, 1.0]]), ("logvars", [[-9.0] * 2] * 2)):
            getattr(model.prior, name).copy_(torch.tensor(value))
    ax = plots.manifold(model, side=4)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["-4.0", "-4.0", "4.0", "4.0"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1.0"] * 4
    sphere, _ = vk.recipes.hyperspherical_vae(vk.likelihoods.Bernoulli((1, 4, 6)), 2)
    refuses(TypeError, lambda: plots.manifold(sphere), "model: ", "any real numbers")


def test_the_manifold_follows_the_dtype_of_the_model(device: torch.device) -> None:
    assert plots.manifold(_model().double().to(device), side=2).has_data()


def test_what_is_no_image_is_named_by_where_it_comes_from(refuses: Refuses) -> None:
    table, rows = _model(event=(6,)), _data(event=(6,))
    words = ("expected images", "shape (6,)")
    refuses(ValueError, lambda: plots.reconstructions(table, rows), "data: ", *words)
    refuses(ValueError, lambda: plots.samples(table, 4), "model: ", *words)
    refuses(ValueError, lambda: plots.manifold(table, side=2), "model: ", *words)
    refuses(ValueError, lambda: plots.error_map(table, rows), "data: ", *words)
    refuses(ValueError, lambda: plots.traversals(table), "model: ", *words)
    refuses(ValueError, lambda: plots.interpolation(table, rows, rows), "model: ", *words)
    refuses(ValueError, lambda: plots.class_centres(table, rows), "model: ", *words)
    refuses(ValueError, lambda: plots.class_interpolation(table, rows), "model: ", *words)
    near = plots.nearest_neighbours
    refuses(ValueError, lambda: near(table, rows, rows), "queries: ", *words)
    assert not plt.get_fignums()


@pytest.mark.parametrize("dim", [1, 3])
def test_a_manifold_has_two_dimensions(dim: int, refuses: Refuses) -> None:
    words = ("model: expected 2 latent dimensions", f"got {dim}", "latent_scatter")
    refuses(ValueError, lambda: plots.manifold(_model(dim)), *words)


@pytest.mark.parametrize("side", [0, 2.5])
def test_a_manifold_has_a_side(side: Any, refuses: Refuses) -> None:
    words = ("side: expected", f"got {side}")
    refuses(ValueError, lambda: plots.manifold(_model(), side=side), *words)


# Scatters


def _points(ax: Axes) -> np.ndarray:
    return np.concatenate([np.asarray(group.get_offsets()) for group in ax.collections])


def test_two_dimensions_are_scattered_as_they_are() -> None:
    model, data = _model(), _data()
    ax = plots.latent_scatter(model, data)
    x, y = data[:]
    mean = model.encode(x).mean.detach()
    assert [group.get_label() for group in ax.collections] == ["0", "1", "2"]
    for label, group in enumerate(ax.collections):
        assert np.array_equal(np.asarray(group.get_offsets()), mean[y == label].numpy())
    assert len({to_hex(group.get_facecolor()[0]) for group in ax.collections}) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "1", "2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")


def test_one_dimension_is_scattered_on_a_line() -> None:
    model, x = _model(1), torch.rand(6, 1, 4, 6)
    points = _points(plots.latent_scatter(model, x))
    assert np.array_equal(points[:, :1], model.encode(x).mean.detach().numpy())
    assert (points[:, 1] == 0).all()


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """On a busy machine the threads of t-SNE wait for each other for minutes."""
    with pytest.importorskip("threadpoolctl").threadpool_limits(1):
        yield


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_more_dimensions_are_embedded(method: Any) -> None:
    pytest.importorskip("sklearn")
    model, data = _model(5), _data(30)
    ax = plots.latent_scatter(model, data, method=method, n=25)
    points = _points(ax)
    assert points.shape == (25, 2)
    assert np.isfinite(points).all()
    name = {"pca": "principal component", "tsne": "t-SNE"}[method]
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"{name} 1", f"{name} 2")
    again = _points(plots.latent_scatter(model, data, method=method, n=25))
    assert np.array_equal(points, again)
    if method == "pca":
        mean = model.encode(data[:25][0]).mean.detach().double()
        largest = torch.linalg.eigvalsh(mean.T.cov(correction=0)).flip(0)[:2]
        np.testing.assert_allclose(points.var(0), largest.numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (torch.tensor([2, 0, 2, 1]), ["0", "1", "2"]),
        (np.array([2, 0, 2, 1]), ["0", "1", "2"]),
        (["two", "nil", "two", "one"], ["nil", "one", "two"]),
        (torch.arange(4) * 10, ["0", "10", "20", "30"]),
    ],
)
def test_labels_of_every_kind(y: Any, labels: list[str]) -> None:
    batch = (torch.rand(4, 1, 4, 6), y)
    for data in (batch, [batch, batch]):
        ax = plots.latent_scatter(_model(), data)
        assert [group.get_label() for group in ax.collections] == labels
    assert plots.reconstructions(_model(), batch).has_data()


def test_without_labels_there_is_no_legend() -> None:
    ax = plots.latent_scatter(_model(), torch.rand(4, 1, 4, 6))
    assert ax.get_legend() is None
    assert len(_points(ax)) == 4


def test_elements_of_several_labels_are_coloured_by_the_one_that_is_named() -> None:
    x = torch.rand(6, 1, 4, 6)
    data = vk.datasets.FactorDataset(x, {"colour": [0.0, 0.5], "size": [3, 4, 5]})
    plain = plots.latent_scatter(_model(), data)
    assert plain.get_legend() is None
    assert len(plain.collections) == 1
    for factor in (1, "size"):
        ax = plots.latent_scatter(_model(), data, factor=factor)
        assert [group.get_label() for group in ax.collections] == ["3", "4", "5"]
        assert ax.get_legend().get_title().get_text() == "size"
    batch = (x, data.labels)
    assert plots.latent_scatter(_model(), batch, factor=0).get_legend() is not None
    by_column = plots.latent_scatter(_model(), batch, factor=1)
    assert [group.get_label() for group in by_column.collections] == ["0", "1", "2"]


def test_many_numbers_are_a_scale_of_colours_and_many_names_a_legend_of_columns() -> None:
    x = torch.rand(42, 1, 4, 6)
    ax = plots.latent_scatter(_model(), (x, torch.arange(42) % 21))
    (points,) = ax.collections
    assert points.get_array().tolist() == [i % 21 for i in range(42)]
    assert ax.get_legend() is None
    assert ax.figure.axes[1].get_ylabel() == "label"
    names = [f"kind {i % 21}" for i in range(42)]
    assert plots.latent_scatter(_model(), (x, names)).get_legend()._ncols == 2


def test_directions_of_one_unit_are_drawn_alike() -> None:
    for ax in (
        plots.latent_scatter(_model(), _data()),
        plots.aggregated_posterior(_model(), _data()),
    ):
        ax.figure.canvas.draw()
        assert ax.get_aspect() == 1
        box = ax.get_window_extent()
        across, down = np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())
        assert box.width / across == pytest.approx(box.height / down, rel=1e-6)


def test_a_scatter_that_does_not_fit(refuses: Refuses) -> None:
    model, data = _model(), _data()
    words = ("method: expected one of", "'pca'", "'tsne'", "'umap'")
    refuses(ValueError, lambda: plots.latent_scatter(model, data, method="lle"), *words)
    refuses(ValueError, lambda: plots.latent_scatter(model, data, n=0), "n: expected", "got 0")
    many = (torch.rand(4, 1, 4, 6), torch.zeros(4, 2))
    words = ("factor: expected one of the labels 0, 1", "got 2")
    refuses(ValueError, lambda: plots.latent_scatter(model, many, factor=2), *words)
    refuses(ValueError, lambda: plots.latent_scatter(model, many, factor="size"), "got 'size'")
    words = ("factor: expected data of several labels each", "got 0")
    refuses(ValueError, lambda: plots.latent_scatter(model, data, factor=0), *words)
    refuses(TypeError, lambda: plots.latent_scatter(model, None), "data: expected", "NoneType")
    assert not plt.get_fignums()


@pytest.mark.parametrize(("method", "least"), [("pca", 2), ("tsne", 4), ("umap", 4)])
def test_an_embedding_takes_several_elements(method: Any, least: int, refuses: Refuses) -> None:
    few, words = _data()[: least - 1], (f"data: expected at least {least}", f"got {least - 1}")
    refuses(ValueError, lambda: plots.latent_scatter(_model(3), few, method=method), *words)


def test_codes_that_are_all_the_same_are_one_point() -> None:
    pytest.importorskip("sklearn")
    ax = plots.latent_scatter(_model(3), torch.ones(6, 1, 4, 6))
    assert np.array_equal(_points(ax), np.zeros((6, 2)))


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_codes_that_are_all_the_same_have_no_neighbours(method: Any, refuses: Refuses) -> None:
    x = torch.ones(6, 1, 4, 6)
    words = ("data: expected elements of different codes", method, "one code for all", "'pca'")
    refuses(ValueError, lambda: plots.latent_scatter(_model(3), x, method=method), *words)


# Curves


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("term", ["loss", "kl"])
def test_curves_are_those_of_the_history(term: str, validation: bool) -> None:
    history = _history(validation)
    ax = plots.curves(history, term)
    expected = {"training": history.train[term]}
    expected |= {"validation": history.validation[term]} if validation else {}
    drawn = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert drawn == expected
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in ax.lines)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", f"{term} (nats)")


def test_curves_are_of_a_history(refuses: Refuses) -> None:
    found: Any = _history().to_dict()
    words = "history: expected a History, got dict", "History(**found)"
    refuses(TypeError, lambda: plots.curves(found), *words)
    assert plots.curves(vk.training.History(**found)).lines


def test_no_such_curve(refuses: Refuses) -> None:
    words = ("term: expected one of", "'loss', 'kl'", "'tc'")
    refuses(KeyError, lambda: plots.curves(_history(), "tc"), *words)
    assert not plt.get_fignums()


def test_pictures_of_a_training() -> None:
    model, (train, test) = _model(event=(1, 8, 8)), vk.datasets.digits(binarize="threshold")
    history = vk.fit(
        model, vk.Reconstruction() + vk.KL(), train, steps=2, validation=test, progress=False
    )
    assert len(plots.curves(history, "kl").lines) == 2
    assert plots.reconstructions(model, test).has_data()


# Without the extra


@pytest.mark.parametrize("name", CALLS)
def test_without_matplotlib_the_extra_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, refuses: Refuses
) -> None:
    for module in [module for module in sys.modules if module.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    refuses(ImportError, CALLS[name], "needs matplotlib", 'pip install "vaekit[plots]"')


def test_without_umap_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch, refuses: Refuses
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    words = ("needs umap-learn", "pip install umap-learn")
    refuses(ImportError, lambda: plots.latent_scatter(_model(3), _data(), method="umap"), *words)


def test_umap_is_asked_as_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in, which keeps the first two dimensions."""
    asked: dict[str, Any] = {}

    class Keeps:
        def __init__(self, **kwargs: Any) -> None:
            asked.update(kwargs)

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            return points[:, :2]

    stand_in: Any = ModuleType("umap")
    stand_in.UMAP = Keeps
    monkeypatch.setitem(sys.modules, "umap", stand_in)
    model, x = _model(3), torch.rand(12, 1, 4, 6)
    ax = plots.latent_scatter(model, x, method="umap", seed=7)
    assert asked == {"n_neighbors": 11, "random_state": 7, "n_jobs": 1}
    assert np.array_equal(_points(ax), model.encode(x).mean.detach()[:, :2].numpy())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP 1", "UMAP 2")


def test_the_umap_that_is_installed_keeps_groups_apart() -> None:
    pytest.importorskip("umap")
    x = torch.rand(40, 1, 4, 6) / 10
    x[20:] += 0.9
    model = _model(3)
    points = _points(plots.latent_scatter(model, x, method="umap", seed=1))
    one, other = points[:20], points[20:]
    apart = np.linalg.norm(one.mean(0) - other.mean(0))
    assert apart > 2 * max(np.ptp(one, axis=0).max(), np.ptp(other, axis=0).max())
    again = _points(plots.latent_scatter(model, x, method="umap", seed=1))
    assert np.array_equal(again, points)
    assert len(_points(plots.latent_scatter(model, x[:4], method="umap"))) == 4  # the fewest


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_without_scikit_learn_the_extra_is_named(
    method: Any, monkeypatch: pytest.MonkeyPatch, refuses: Refuses
) -> None:
    for module in ("sklearn", "sklearn.decomposition", "sklearn.manifold"):
        monkeypatch.setitem(sys.modules, module, None)
    words = ("needs sklearn", 'pip install "vaekit[plots]"')
    refuses(ImportError, lambda: plots.latent_scatter(_model(3), _data(), method=method), *words)
