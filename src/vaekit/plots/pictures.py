"""Images as they are, as a model gives them back, generates them, and finds them alike."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Shaped
from torch import Generator, Tensor

from vaekit import _checks
from vaekit.plots._shared import (
    check_images,
    codes,
    draw_grid,
    elements,
    first,
    label_grid,
    label_width,
)
from vaekit.training.measures import measuring
from vaekit.vae import VAE, evaluating

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["error_map", "images", "nearest_neighbours", "reconstructions", "samples"]

_TITLE = (0.0, 0.3)  # what one takes of a figure, in inches


def images(
    pictures: Shaped[Tensor, "n *event"],
    *,
    columns: int | None = None,
    rows: Sequence[str] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw pictures in a grid, row by row.

    Args:
        pictures: Grey or coloured, channels first, in [0, 1]; values outside are cut.
        columns: How many stand in a row; if None, as many as make the rows that are named, or else
            a square.
        rows: What stands to the left of each row; nothing if None.
        ax: Where to draw; a new figure if None.

    Shape:
        ``pictures: (n, 1, H, W)``, ``(n, 3, H, W)`` or ``(n, H, W)``.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no picture, the shape is another one, there is NaN, or there are
            more or fewer names than rows.

    Example:
        >>> images(torch.rand(5, 1, 8, 8), columns=3).get_images()[0].get_size()
        (17, 26)
        >>> ax = images(torch.rand(6, 1, 8, 8), rows=["before", "after"])
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['before', 'after']
    """
    shape = tuple(pictures.shape)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] not in (1, 3)) or not shape[0]:
        what = "shape (n, 1, H, W), (n, 3, H, W) or (n, H, W), n at least 1"
        raise ValueError(_checks.expected("pictures", what, shape))
    n = len(pictures)
    if columns is None:
        columns = math.ceil(n / len(rows)) if rows else math.isqrt(n - 1) + 1
    count = math.ceil(n / _checks.positive_int("columns", columns))
    if rows is None:
        return draw_grid(pictures, columns, ax).ax
    if len(rows) != count:
        raise ValueError(_checks.expected("rows", f"{count} names, one for each row", len(rows)))
    grid = draw_grid(pictures, columns, ax, margins=(label_width(rows), 0))
    label_grid(grid, rows)
    return grid.ax


def reconstructions(model: VAE, data: Any, *, n: int = 10, ax: "Axes | None" = None) -> "Axes":
    """Draw originals, and what the model makes of them below.

    Args:
        model: A model of images.
        data: A batch or a data set; its first ``n`` images are drawn.
        n: How many.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes.

    Raises:
        ValueError: If the data are no images.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> reconstructions(model, test, n=4).get_title()
        'Above: the original. Below: its reconstruction.'
    """
    with torch.no_grad(), measuring(model, 0) as device:
        shown = first(model, data, device, n)
        check_images("data", shown.x)
        x_hat = model.reconstruct(shown.x, shown.context)
    check_images("model", x_hat)
    ax = draw_grid(
        torch.cat([shown.x, x_hat]), len(shown.x), ax, margins=_TITLE, least_width=4.2
    ).ax
    ax.set_title("Above: the original. Below: its reconstruction.", fontsize="medium")
    return ax


def samples(
    model: VAE,
    n: int = 64,
    *,
    temperature: float = 1.0,
    generator: Generator | None = None,
    context: Shaped[Tensor, "n ..."] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw images that the model generates.

    Args:
        model: A model of images.
        n: How many.
        temperature: As for `VAE.sample`.
        generator: As for `VAE.sample`.
        context: As for `VAE.sample`.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes.

    Raises:
        ValueError: If the model generates no images.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> samples(model, 9).get_title()
        'Decoded from draws of the prior'
    """
    with evaluating(model):
        pictures = model.sample(n, temperature, generator, context)
    check_images("model", pictures)
    ax = draw_grid(pictures, math.isqrt(n - 1) + 1, ax, margins=_TITLE, least_width=3).ax
    ax.set_title("Decoded from draws of the prior", fontsize="medium")
    return ax


def error_map(model: VAE, data: Any, *, n: int = 8, ax: "Axes | None" = None) -> "Axes":
    r"""Draw originals, reconstructions, and below where these are wrong, and by how much.

    .. math:: |x - \hat{x}|

    for each pixel, the mean over the channels, in the data's unit. One scale holds for all: from 0
    to the largest error drawn.

    Args:
        model: A model of images.
        data: A batch or a data set; its first ``n`` images are drawn. Where what is to be
            reconstructed differs from what goes in, the former is the original.
        n: How many.
        ax: Where to draw; a new figure if None. A colour bar takes a part of its room.

    Returns:
        The axes, which hold the pictures as their first image and the errors as their second.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the data are no images, or there is NaN.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> [label.get_text() for label in error_map(model, test, n=4).get_yticklabels()]
        ['original', 'reconstruction', 'error']
    """
    with torch.no_grad(), measuring(model, 0) as device:
        shown = first(model, data, device, n)
        check_images("data", shown.target)
        x_hat = model.reconstruct(shown.x, shown.context)
    check_images("model", x_hat)
    x = shown.target.float()
    error = (x - x_hat.float()).abs().cpu()
    error = error.mean(1) if error.ndim == 4 else error
    _checks.finite("data", x)
    _checks.finite("model", error)
    # The third row is held free for the errors.
    pictures = torch.cat([x, x_hat.float(), torch.ones_like(x)])
    rows = ["original", "reconstruction", "error"]
    grid = draw_grid(pictures, len(x), ax, margins=(label_width(rows) + 0.9, 0.1))
    label_grid(grid, rows)
    height, width = error.shape[1:]
    canvas = torch.full(grid.ax.get_images()[0].get_size(), torch.nan)  # NaN is left transparent
    for column, each in zip(grid.columns, error, strict=True):
        top, left = (round(grid.rows[2] - (height - 1) / 2), round(column - (width - 1) / 2))
        canvas[top : top + height, left : left + width] = each
    drawn = grid.ax.imshow(
        canvas.numpy(), cmap="magma", vmin=0, vmax=float(error.max()) or 1, interpolation="nearest"
    )
    figure: Any = grid.ax.figure
    figure.colorbar(drawn, ax=grid.ax, label="absolute error", aspect=15)
    return grid.ax


def nearest_neighbours(
    model: VAE, data: Any, queries: Any, *, k: int = 8, n: int = 8, ax: "Axes | None" = None
) -> "Axes":
    """Draw images, and to the right of each the data that lie nearest in the latent space.

    Nearest by the Euclidean distance of the posterior means; of equally near ones the earlier. An
    image that is itself among the data is its own nearest neighbour.

    Args:
        model: A model of images.
        data: Where neighbours are looked for: a batch or a data set, the whole of it.
        queries: Whose neighbours are looked for: the first ``n`` of a batch or a data set.
        k: How many neighbours of each.
        n: How many queries.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes: a row for each query.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If data or queries are no images, or there are fewer than ``k`` data.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> train, test = vk.datasets.digits(binarize="threshold")
        >>> ax = nearest_neighbours(model, train, test, k=3, n=4)
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['query', '1', '2', '3']
    """
    _checks.positive_int("k", k)
    with torch.no_grad(), measuring(model, 0) as device:
        asked = first(model, queries, device, n, "queries")
        check_images("queries", asked.x)
        at = codes(model, asked).float()
        distances = at.new_empty(len(at), 0)
        found = asked.x.new_empty(len(at), 0, *asked.x.shape[1:])
        count = 0
        for part in elements(model, data, device):
            check_images("data", part.x)
            if part.x.shape[1:] != asked.x.shape[1:]:
                what = f"images of shape {tuple(part.x.shape[1:])}, as the data"
                got = f"shape {tuple(asked.x.shape[1:])}"
                raise ValueError(_checks.expected("queries", what, got))
            count += len(part.x)
            # By differences, so that an element is at distance 0 of itself.
            exact = "donot_use_mm_for_euclid_dist"
            near = torch.cdist(at, codes(model, part).float(), compute_mode=exact)
            near, index = (each[:, :k] for each in near.sort(dim=1, stable=True))
            distances, order = torch.cat([distances, near], 1).sort(dim=1, stable=True)
            candidates = torch.cat([found, part.x[index]], 1)
            found = candidates[torch.arange(len(at), device=at.device)[:, None], order[:, :k]]
            distances = distances[:, :k]
    if count < k:
        raise ValueError(_checks.expected("k", f"at most the {count} elements of the data", k))
    pictures = torch.cat([asked.x[:, None], found], 1).flatten(0, 1)
    grid = draw_grid(pictures, k + 1, ax, margins=(0, 0.4), least_width=4)
    label_grid(grid, columns=["query", *map(str, range(1, k + 1))])
    grid.ax.axvline((grid.columns[0] + grid.columns[1]) / 2, color="tab:red", linewidth=2)
    grid.ax.set_xlabel("neighbours in the latent space, the nearest first")
    return grid.ax
