"""Pictures of models, latent spaces and training, as functions that take and return axes.

They need matplotlib, and some of them scikit-learn: ``pip install "vaekit[plots]"``.
"""

import math
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Shaped
from torch import Generator, Tensor

from vaekit import _checks, datasets
from vaekit.training import History
from vaekit.vae import VAE, evaluating

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curves", "images", "latent_scatter", "manifold", "reconstructions", "samples"]

Embedding = Literal["pca", "tsne"]


def images(
    pictures: Shaped[Tensor, "n *event"], *, columns: int | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Draw pictures in a grid, row by row.

    Args:
        pictures: Grey or coloured, channels first, in [0, 1]; values outside are cut.
        columns: How many stand in a row; as many as make a square if None.
        ax: Where to draw; a new figure if None.

    Shape:
        ``pictures: (n, 1, H, W)``, ``(n, 3, H, W)`` or ``(n, H, W)``.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no picture, or the shape is another one.
    """
    pictures = pictures[:, None] if pictures.ndim == 3 else pictures
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or not len(pictures):
        what = "shape (n, 1, H, W), (n, 3, H, W) or (n, H, W), n at least 1"
        raise ValueError(_checks.expected("pictures", what, tuple(pictures.shape)))
    pictures = pictures.detach().float().cpu()
    n, channels, height, width = pictures.shape
    columns = math.isqrt(n - 1) + 1 if columns is None else _checks.positive_int("columns", columns)
    rows = math.ceil(n / columns)
    # A gap between neighbours, as wide as a twelfth of a picture, white like the page.
    gap = max(1, min(height, width) // 12)
    grid = torch.ones(rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    for index, picture in enumerate(pictures.clamp(0, 1)):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        grid[top : top + height, left : left + width] = picture.permute(1, 2, 0)
    ax = _axes(ax, (min(12.0, 0.8 * columns), min(12.0, 0.8 * rows * height / width)))
    ax.imshow(grid.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.axis("off")
    return ax


def _check_images(argument: str, pictures: Tensor) -> None:
    """Name what the pictures come from, where they are none."""
    if pictures.ndim not in (3, 4) or (pictures.ndim == 4 and pictures.shape[1] not in (1, 3)):
        what = "images, of shape (1, H, W), (3, H, W) or (H, W)"
        got = f"elements of shape {tuple(pictures.shape[1:])}"
        raise ValueError(_checks.expected(argument, what, got))


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
    """
    x = _first(data, n).to(next(model.parameters()).device)
    _check_images("data", x)
    with torch.no_grad(), evaluating(model):
        x_hat = model.reconstruct(x)
    ax = images(torch.cat([x, x_hat]), columns=len(x), ax=ax)
    ax.set_title("Above: the original. Below: its reconstruction.")
    return ax


def samples(
    model: VAE,
    n: int = 64,
    *,
    temperature: float = 1.0,
    generator: Generator | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw images that the model generates.

    Args:
        model: A model of images.
        n: How many.
        temperature: As for `VAE.sample`.
        generator: As for `VAE.sample`.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes.

    Raises:
        ValueError: If the model generates no images.
    """
    with evaluating(model):
        pictures = model.sample(n, temperature, generator)
    _check_images("model", pictures)
    ax = images(pictures, ax=ax)
    ax.set_title("Decoded from draws of the prior")
    return ax


def manifold(model: VAE, *, side: int = 20, ax: "Axes | None" = None) -> "Axes":
    """Decode a grid over a two-dimensional latent space, even in the prior's probability.

    Args:
        model: A model of images with two latent dimensions and a standard normal prior.
        side: How many images the square has on a side.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes, whose ticks are latent coordinates.

    Raises:
        ValueError: If the latent space has another number of dimensions, or the model generates no
            images.

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, figure 4.
    """
    dim = model.encoder.latent.dim
    if dim != 2:
        hint = "Of other sizes, latent_scatter gives a picture."
        raise ValueError(_checks.expected("model", "2 latent dimensions", dim, hint))
    quantiles = (torch.arange(_checks.positive_int("side", side)) + 0.5) / side
    at = torch.special.ndtri(quantiles)
    z = torch.cartesian_prod(at.flip(0), at).flip(1)  # row by row from the top, (z_1, z_2)
    with torch.no_grad(), evaluating(model):
        pictures = model.decode(z.to(next(model.parameters())))
    _check_images("model", pictures)
    ax = images(pictures, columns=side, ax=ax)
    ax.axis("on")
    height, width = ax.get_images()[0].get_size()
    shown = sorted({0, side // 4, side // 2, (3 * side) // 4, side - 1})
    middles = np.asarray(shown) + 0.5
    labels = [f"{at[index]:.1f}" for index in shown]
    ax.set_xticks(middles / side * width - 0.5, labels)
    ax.set_yticks((1 - middles / side) * height - 0.5, labels)
    ax.set_xlabel("$z_1$")
    ax.set_ylabel("$z_2$")
    return ax


def latent_scatter(
    model: VAE,
    data: Any,
    *,
    method: Embedding = "pca",
    n: int = 2000,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    """Scatter the posterior means in two dimensions, coloured by label.

    A latent space of two dimensions is drawn as it is.

    Args:
        model: The model.
        data: A batch or a data set, with labels where colours are wanted.
        method: ``"pca"``: the two directions of largest variance; ``"tsne"``: t-SNE, which keeps
            neighbours together, and whose distances between groups mean little.
        n: How many elements are drawn at most, the first ones.
        seed: Of t-SNE.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib or scikit-learn is missing.
        ValueError: If ``method`` is unknown.

    References:
        L. van der Maaten and G. Hinton, *Visualizing Data using t-SNE*, 2008.
    """
    _checks.one_of("method", method, ("pca", "tsne"))
    x, y = _first_with_labels(data, n)
    if y is not None and y.ndim != 1:
        what = "one label for each element, to colour by"
        raise ValueError(_checks.expected("data", what, f"labels of shape {y.shape}"))
    with torch.no_grad(), evaluating(model):
        mean = model.encode(x.to(next(model.parameters()).device)).mean.float().cpu().numpy()
    if mean.shape[1] > 2:
        if method == "pca":
            points = _import("sklearn.decomposition").PCA(2).fit_transform(mean)
        else:
            perplexity = min(30.0, (len(mean) - 1) / 3)
            tsne = _import("sklearn.manifold").TSNE(2, perplexity=perplexity, random_state=seed)
            points = tsne.fit_transform(mean)
        names = [f"{ {'pca': 'principal component', 'tsne': 't-SNE'}[method] } {i}" for i in (1, 2)]
    else:
        points = np.pad(mean, ((0, 0), (0, 2 - mean.shape[1])))
        names = ["$z_1$", "$z_2$"]
    ax = _axes(ax, (7, 6))
    if y is None:
        ax.scatter(points[:, 0], points[:, 1], s=6)
    else:
        classes = getattr(data, "classes", ())
        palette = _import("matplotlib").colormaps["tab10" if len(np.unique(y)) <= 10 else "tab20"]
        for index, label in enumerate(np.unique(y)):
            chosen = points[y == label]
            colour = palette(index % palette.N)
            name = classes[int(label)] if classes else label
            ax.scatter(chosen[:, 0], chosen[:, 1], s=6, color=colour, label=str(name))
        ax.legend(markerscale=3, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    return ax


def curves(history: History, term: str = "loss", *, ax: "Axes | None" = None) -> "Axes":
    """Draw a term over the epochs, in training and validation.

    Args:
        history: What `vaekit.fit` returned.
        term: ``"loss"``, or the name of a term.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes.

    Raises:
        KeyError: If there is no such term.
    """
    training = history[term]
    ax = _axes(ax, (6, 4))
    marker = "o" if len(history) == 1 else ""  # one point makes no line
    ax.plot(history.epoch, training, marker=marker, label="training")
    if term in history.validation:
        ax.plot(history.epoch, history.validation[term], marker=marker, label="validation")
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"{term.replace('_', ' ')} (nats)")
    ax.legend(frameon=False)
    return ax


def _first_with_labels(data: Any, n: int) -> tuple[Tensor, npt.NDArray[Any] | None]:
    _checks.positive_int("n", n)
    whole = datasets.is_batch(data) and not isinstance(data, Tensor | np.ndarray)
    xs: list[Tensor] = []
    ys: list[Any] = []
    for batch in [datasets.unpack(data)] if whole else datasets.batches(data, min(n, 512)):
        xs.append(batch.x)
        ys.append(batch.y)
        if sum(map(len, xs)) >= n:
            break
    x = torch.cat(xs)[:n]
    if any(y is None for y in ys):
        return x, None
    labels = [np.asarray(y.cpu() if isinstance(y, Tensor) else y) for y in ys]  # or names
    return x, np.concatenate(labels)[:n]


def _first(data: Any, n: int) -> Tensor:
    return _first_with_labels(data, n)[0]


def _axes(ax: "Axes | None", size: tuple[float, float]) -> "Axes":
    if ax is not None:
        return ax
    new: Axes = _import("matplotlib.pyplot").subplots(figsize=size, layout="constrained")[1]
    return new


def _import(name: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f'This picture needs {name.split(".")[0]}: pip install "vaekit[plots]" ({error}).'
        ) from error
