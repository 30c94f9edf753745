"""What is decoded along paths through the latent space."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vaekit import _checks
from vaekit.distributions import StandardGaussian
from vaekit.plots._shared import (
    by_use,
    check_images,
    class_names,
    codes,
    decode_rows,
    draw_grid,
    elements,
    first,
    is_real,
    label_grid,
    label_width,
    loadable,
    one_label_each,
    whole_number_from,
)
from vaekit.training.measures import measuring
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "class_centres",
    "class_interpolation",
    "interpolate",
    "interpolation",
    "manifold",
    "traversals",
]

Path = Literal["linear", "spherical"]

_DRAWS = 10_000  # of a prior whose quantiles have no closed form
_ALMOST = 1e-6  # how near to opposite two directions are taken for opposite


def manifold(model: VAE, *, side: int = 20, seed: int = 0, ax: "Axes | None" = None) -> "Axes":
    """Decode a grid over a two-dimensional latent space, along quantiles of the prior.

    Rows and columns go evenly through the prior's marginal of a dimension, by exact quantiles of a
    standard normal prior and those of 10,000 draws of any other: where the dimensions are
    independent, all images stand for as much of the prior.

    Args:
        model: A model of images with two latent dimensions, which are any real numbers.
        side: How many images the square has on a side.
        seed: Of the draws of a prior that is not standard normal.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes, whose ticks are latent coordinates.

    Raises:
        TypeError: If the latents are not any real numbers.
        ValueError: If the latent space has another number of dimensions, or the model generates no
            images, or takes a context.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> [label.get_text() for label in manifold(model, side=3).get_xticklabels()]
        ['-1.0', '0.0', '1.0']

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, figure 4.
    """
    dim = model.encoder.latent.dim
    if dim != 2:
        hint = "Of other sizes, latent_scatter gives a picture."
        raise ValueError(_checks.expected("model", "2 latent dimensions", dim, hint))
    if model.takes_context:
        what = "one that takes no context, which these images do not bring"
        raise ValueError(_checks.expected("model", what, "one that takes it"))
    quantiles = (torch.arange(_checks.positive_int("side", side), dtype=torch.double) + 0.5) / side
    with torch.no_grad(), measuring(model, seed):
        at = _quantiles(_real(model.prior()), quantiles)[0]
        # Row by row from the top, (z_1, z_2).
        z = torch.cartesian_prod(at[:, 1].flip(0), at[:, 0]).flip(1)
        pictures = model.decode(z.to(next(model.parameters())))
    check_images("model", pictures)
    ax = draw_grid(pictures, side, ax, margins=(0.5, 0.5)).ax
    ax.axis("on")
    height, width = ax.get_images()[0].get_size()
    # As many on either side of the middle, which an odd number has.
    count = min(side, 5 + (side + 1) % 2)
    lower = [int(i * (side - 1) / (count - 1) + 0.5) for i in range(count // 2)]
    middle = [side // 2] * (count % 2)
    shown = [*lower, *middle, *(side - 1 - index for index in reversed(lower))]
    middles = np.asarray(shown) + 0.5
    across, up = ([f"{column[index]:.1f}" for index in shown] for column in at.T)
    ax.set_xticks(middles / side * width - 0.5, across)
    ax.set_yticks((1 - middles / side) * height - 0.5, up)
    ax.set_xlabel("$z_1$")
    ax.set_ylabel("$z_2$")
    return ax


def traversals(
    model: VAE,
    x: Any = None,
    *,
    data: Any = None,
    rows: int = 10,
    columns: int = 11,
    quantiles: tuple[float, float] = (0.05, 0.95),
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    """Decode along one latent dimension after the other, the rest of the code staying as it is.

    A row goes evenly through quantiles of the prior's marginal in its dimension: exact ones of a
    standard normal prior, those of 10,000 draws of any other.

    Args:
        model: A model of images whose latents are any real numbers.
        x: A batch or a data set, the posterior mean of whose first image the paths go through;
            the prior's mean if None.
        data: What the nats of each dimension are measured on, as `vaekit.metrics.kl_by_dimension`
            does: the dimensions that carry most come first. Where posterior or prior has no
            densities by dimension, those come first whose posterior means vary most. If None, they
            come in their order, without numbers.
        rows: How many dimensions are drawn at most.
        columns: How many images are drawn of each.
        quantiles: From which quantile to which.
        seed: Of the draws of the prior, and of the data's, where there are any.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes: a row for each dimension, named by its number, counted from 0, and its nats, or
        the variance of its means.

    Raises:
        ImportError: If matplotlib is missing.
        TypeError: If the latents are not any real numbers.
        ValueError: If the model generates no images, or takes a context and there is no ``x`` to
            bring it; or if the quantiles are not two numbers between 0 and 1, the lower one first.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=4)
        >>> ax = traversals(model, rows=2, columns=4)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['dimension 0', 'dimension 1']
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['0.05', '0.35', '0.65', '0.95']

    References:
        I. Higgins et al., *beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
        Framework*, 2017.
    """
    _checks.positive_int("rows", rows)
    whole_number_from(2, "columns", columns)
    low, high = _between_0_and_1("quantiles", quantiles)
    at_quantiles = torch.linspace(low, high, columns, dtype=torch.double)
    with torch.no_grad(), measuring(model, seed) as device:
        context = None
        if x is not None:
            one = first(model, x, device, 1, "x")
            out = model(one.x, context=one.context)
            prior, centre, context = out.prior, out.posterior.mean[0], one.context
        elif model.takes_context:
            what = "an image that brings its context, since the model takes one"
            raise ValueError(_checks.expected("x", what, None))
        else:
            prior, centre = model.prior(), None
        at, mean = _quantiles(_real(prior), at_quantiles)
        centre = mean if centre is None else centre
        dims = list(range(model.latent_dim))
        names = [f"dimension {dim}" for dim in dims]
        if data is not None:
            dims, said = by_use(model, loadable(data), seed)
            names = [f"dimension {dim}\n{said[dim]}" for dim in dims]
        dims, names = dims[:rows], names[:rows]
        z = centre.repeat(len(dims), columns, 1)
        for row, dim in enumerate(dims):
            z[row, :, dim] = at[:, dim].to(z)
        if context is not None:
            context = context.repeat_interleave(len(dims), 0)
        pictures = decode_rows(model, z, context)
    grid = draw_grid(pictures, columns, ax, margins=(label_width(names), 0.5))
    every = math.ceil(columns / 12)  # more labels would run into each other
    digits = max(2, math.ceil(-math.log10(min(low, 1 - high))))  # as many as tell it from 0 and 1
    label_grid(
        grid,
        names,
        [f"{float(q):.{digits}f}" if i % every == 0 else "" for i, q in enumerate(at_quantiles)],
    )
    grid.ax.set_xlabel("quantile of the prior")
    return grid.ax


def interpolate(
    z_a: Float[Tensor, "*batch dim"],
    z_b: Float[Tensor, "*batch dim"],
    steps: int = 10,
    method: Path = "linear",
) -> Float[Tensor, "*batch steps dim"]:
    r"""Go from one code to another.

    With t from 0 to 1 in equal steps, the linear path is :math:`(1 - t) a + t b`, and the spherical
    one

    .. math:: \bigl((1 - t) \|a\| + t \|b\|\bigr)
              \left( \frac{\sin((1 - t)\,\omega)}{\sin \omega} \frac{a}{\|a\|}
              + \frac{\sin(t\,\omega)}{\sin \omega} \frac{b}{\|b\|} \right),

    where :math:`\omega` is the angle between a and b: the direction turns at constant speed along
    the great circle and the norm changes evenly, so that between codes of one norm the path stays
    on their sphere. In many dimensions the linear path leads through a middle of smaller norm than
    a standard normal prior's draws have. Codes of one direction have the linear path.

    Args:
        z_a: Where the paths start.
        z_b: Where they end.
        steps: How many codes a path has, both ends among them, which are exact.
        method: ``"linear"`` or ``"spherical"``.

    Shape:
        ``z_a, z_b: (*batch, dim)``, returns ``(*batch, steps, dim)``.

    Raises:
        ValueError: If the shapes differ, there is NaN or an infinite value, ``steps`` is below 2,
            ``method`` is unknown; or, for the spherical path, if a code is zero or two are
            opposite, between which there is no one great circle.

    Example:
        >>> a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
        >>> interpolate(a, b, steps=3)
        tensor([[2., 0.],
                [1., 1.],
                [0., 2.]])
        >>> around = interpolate(a, b, steps=3, method="spherical")
        >>> torch.allclose(around.norm(dim=1), torch.tensor(2.0))
        True

    References:
        K. Shoemake, *Animating Rotation with Quaternion Curves*, 1985; T. White, *Sampling
        Generative Networks*, 2016, for latent spaces.
    """
    _checks.one_of("method", method, get_args(Path))
    whole_number_from(2, "steps", steps)
    if z_b.shape != z_a.shape:
        what = f"shape {tuple(z_a.shape)}, as z_a has"
        raise ValueError(_checks.expected("z_b", what, tuple(z_b.shape)))
    _checks.finite("z_a", z_a)
    _checks.finite("z_b", z_b)
    a, b = z_a.cpu().double()[..., None, :], z_b.cpu().double()[..., None, :]
    t = torch.linspace(0, 1, steps, dtype=torch.double)[1:-1, None]
    between = (1 - t) * a + t * b if method == "linear" else _on_the_sphere(a, b, t)
    return torch.cat([a, between, b], -2).to(z_a)


def interpolation(
    model: VAE,
    a: Any,
    b: Any,
    steps: int = 10,
    method: Path = "linear",
    *,
    n: int = 10,
    ax: "Axes | None" = None,
) -> "Axes":
    """Decode what lies between the posterior means of images.

    A conditional model decodes a row in the context of the image it starts from.

    Args:
        model: A model of images.
        a: The images that the rows start from: a batch or a data set.
        b: Those that they lead to, as many.
        steps: As for `interpolate`.
        method: As for `interpolate`.
        n: How many pairs are drawn at most, the first ones.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes: a row for each pair, whose ends are the reconstructions.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: As for `interpolate`, or if there are not as many images in ``a`` as in ``b``,
            or the model generates no images.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> x, _ = vk.datasets.digits(binarize="threshold")[1][:4]
        >>> interpolation(model, x[:2], x[2:], steps=5).get_images()[0].get_size()
        (17, 44)
    """
    with torch.no_grad(), measuring(model, 0) as device:
        start, end = first(model, a, device, n, "a"), first(model, b, device, n, "b")
        if len(start.x) != len(end.x):
            what = f"{len(start.x)} images, one for each of a"
            raise ValueError(_checks.expected("b", what, len(end.x)))
        path = interpolate(codes(model, start), codes(model, end), steps, method)
        pictures = decode_rows(model, path, start.context)
    ax = draw_grid(pictures, steps, ax, margins=(0, 0.3), least_width=3.8).ax
    ax.set_title(f"Decoded along {method} paths between codes", fontsize="medium")
    return ax


def class_centres(
    model: VAE, data: Any, *, n: int | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Decode the mean code of each class.

    A conditional model decodes it in the context of that class.

    Args:
        model: A model of images.
        data: A batch or a data set, with one label for each element.
        n: How many elements the means are taken over at most, the first ones; all if None.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes, with each class's name above its picture, ten in a row at most.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there are no labels, more than one for each element, or the model generates
            no images.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> train, _ = vk.datasets.digits(binarize="threshold")
        >>> [text.get_text() for text in class_centres(model, train).texts]
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
    """
    with torch.no_grad(), measuring(model, 0) as device:
        values, centres = _centres(model, data, device, n)
        context = torch.as_tensor(values, device=device) if model.takes_context else None
        pictures = decode_rows(model, centres[:, None], context)
    grid = draw_grid(pictures, min(10, len(values)), ax, captions=class_names(data, values))
    return grid.ax


def class_interpolation(
    model: VAE,
    data: Any,
    steps: int = 10,
    method: Path = "linear",
    *,
    pairs: Sequence[tuple[Any, Any]] | None = None,
    n: int | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Decode what lies between the mean codes of classes.

    A conditional model decodes a row in the context of the class it starts from.

    Args:
        model: A model of images.
        data: A batch or a data set, with one label for each element.
        steps: As for `interpolate`.
        method: As for `interpolate`.
        pairs: Labels to go from and to, a row for each pair; if None, from each class to the next.
        n: How many elements the means are taken over at most, the first ones; all if None.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes, each row named by its two classes.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: As for `interpolate` and `class_centres`, or if there is but one class, or a
            label that is not among the data's.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> train, _ = vk.datasets.digits(binarize="threshold")
        >>> ax = class_interpolation(model, train, pairs=[(3, 8), (1, 7)])
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['3 to 8', '1 to 7']
    """
    with torch.no_grad(), measuring(model, 0) as device:
        values, centres = _centres(model, data, device, n)
        known = values.tolist()
        if len(known) < 2:
            raise ValueError(_checks.expected("data", "at least two classes", len(known)))
        chosen = list(pairwise(known)) if pairs is None else list(pairs)
        if not chosen or any(label not in known for pair in chosen for label in pair):
            what = "at least one pair of the labels " + ", ".join(map(str, known))
            raise ValueError(_checks.expected("pairs", what, pairs))
        ends = torch.tensor([[known.index(label) for label in pair] for pair in chosen])
        path = interpolate(centres[ends[:, 0]], centres[ends[:, 1]], steps, method)
        context = None
        if model.takes_context:
            context = torch.as_tensor(values[ends[:, 0].numpy()], device=device)
        pictures = decode_rows(model, path, context)
    names = class_names(data, values)
    rows = [f"{names[start]} to {names[end]}" for start, end in ends.tolist()]
    grid = draw_grid(pictures, steps, ax, margins=(label_width(rows), 0))
    label_grid(grid, rows)
    return grid.ax


def _centres(
    model: VAE, data: Any, device: torch.device, n: int | None
) -> tuple[npt.NDArray[Any], Tensor]:
    """Return the labels there are and the mean code of each, ``(labels, dim)``."""
    found, labels = [], []
    for part in elements(model, data, device, n):
        labels.append(one_label_each(part.labels))
        found.append(codes(model, part))
    z = torch.cat(found)
    values, which = np.unique(np.concatenate(labels), return_inverse=True)
    index = torch.from_numpy(which)
    wide = z.cpu().double()
    means = torch.stack([wide[index == place].mean(0) for place in range(len(values))])
    return values, means.to(z)


def _between_0_and_1(argument: str, values: Any) -> tuple[float, float]:
    """Return two numbers between 0 and 1, the lower one first, or say that they are not."""
    try:
        low, high = map(float, values)
    except (TypeError, ValueError):
        low = high = 0.0
    what = "two numbers between 0 and 1, the lower one first"
    _checks.require(0 < low < high < 1, argument, what, repr(values))
    return low, high


def _real(prior: Distribution) -> Distribution:
    """Return a prior, or say that its draws are not any real numbers."""
    if not is_real(prior):
        what = "a model whose latents are any real numbers"
        raise TypeError(_checks.expected("model", what, f"draws of {prior!r}"))
    return prior


def _quantiles(prior: Distribution, quantiles: Tensor) -> tuple[Tensor, Tensor]:
    """Return each marginal's quantiles, ``(quantiles, dim)``, and the mean, ``(dim,)``."""
    dim = prior.event_shape.numel()
    if isinstance(prior, StandardGaussian):
        return torch.special.ndtri(quantiles)[:, None].expand(-1, dim), prior.mean.reshape(dim)
    draws = prior.sample((_DRAWS,)).reshape(_DRAWS, dim)
    try:
        mean = prior.mean.reshape(dim)
    except NotImplementedError:  # a flow's
        mean = draws.mean(0)
    return draws.cpu().double().quantile(quantiles, dim=0), mean


def _on_the_sphere(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Turn from a to b, both ``(..., 1, dim)``, as far as t says."""
    norm_a, norm_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    hint = 'method="linear" has a path.'
    for argument, norm in (("z_a", norm_a), ("z_b", norm_b)):
        if not norm.all():
            what = "no zero, which has no direction to turn from or to"
            raise ValueError(_checks.expected(argument, what, "a zero vector", hint))
    u, v = a / norm_a, b / norm_b
    apart, together = ((u - v).norm(dim=-1, keepdim=True), (u + v).norm(dim=-1, keepdim=True))
    if (together < _ALMOST).any():
        what = "codes that are not opposite to those of z_a"
        got = "opposite ones, between which many great circles lead"
        raise ValueError(_checks.expected("z_b", what, got, hint))
    angle = 2 * torch.atan2(apart, together)  # exact to the last digits at every angle
    # Along u and the unit vector at right angles to it: the formula without division by a sine.
    w = torch.nn.functional.normalize(v - (u * v).sum(-1, keepdim=True) * u, dim=-1)
    norm = (1 - t) * norm_a + t * norm_b
    path: Tensor = norm * ((t * angle).cos() * u + (t * angle).sin() * w)
    return path
