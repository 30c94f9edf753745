"""The latent space: where codes lie, what each dimension carries, and what it tells."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vaekit import _checks, datasets, metrics
from vaekit.distributions import DiagonalGaussian
from vaekit.plots._shared import (
    Elements,
    by_use,
    class_names,
    codes,
    elements,
    import_,
    is_real,
    loadable,
    new_axes,
)
from vaekit.training.measures import measuring
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["aggregated_posterior", "kl_bars", "latent_scatter", "mutual_information"]

Embedding = Literal["pca", "tsne", "umap"]

_AXIS = {"pca": "principal component", "tsne": "t-SNE", "umap": "UMAP"}
_LEAST = {"pca": 2, "tsne": 4, "umap": 4}  # elements that each takes
_SHARES = (0.99, 0.9, 0.5)  # of the prior, within its contours


def latent_scatter(
    model: VAE,
    data: Any,
    *,
    method: Embedding = "pca",
    n: int = 2000,
    factor: int | str | None = None,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    """Scatter the posterior means in two dimensions, coloured by label.

    A latent space of two dimensions is drawn as it is. Elements of several labels each are drawn in
    one colour, unless ``factor`` says which of them colours.

    Args:
        model: The model.
        data: A batch or a data set, with labels where colours are wanted.
        method: ``"pca"``: the two directions of largest variance; ``"tsne"``: t-SNE, which keeps
            neighbours together, and whose distances between groups mean little; ``"umap"``: UMAP,
            of which the same holds, and which needs the package umap-learn.
        n: How many elements are drawn at most, the first ones.
        factor: Which of its labels colours an element, where it has several, ``(N, factors)``: its
            column, or its name in a data set that has ``factor_names``.
        seed: Of t-SNE and of UMAP.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes. More than 20 numbers are shown by a scale of colours in place of a legend.

    Raises:
        ImportError: If matplotlib, scikit-learn or umap-learn is missing.
        ValueError: If ``method`` is unknown, there are too few elements for it, t-SNE or UMAP is
            asked of codes that are all the same, or the data have no such factor.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=5)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> latent_scatter(model, test).get_xlabel()
        'principal component 1'

    References:
        L. van der Maaten and G. Hinton, *Visualizing Data using t-SNE*, 2008. L. McInnes, J. Healy
        and J. Melville, *UMAP: Uniform Manifold Approximation and Projection for Dimension
        Reduction*, 2018.
    """
    _checks.one_of("method", method, get_args(Embedding))
    means, labels = [], []
    with torch.no_grad(), measuring(model, 0) as device:
        for part in elements(model, data, device, n):
            means.append(codes(model, part).float().cpu())
            labels.append(part.labels)
    known = [each for each in labels if each is not None]
    y = np.concatenate(known) if len(known) == len(labels) else None
    colours = _coloured(data, y, factor)
    points, names = _embedded(torch.cat(means).numpy(), method, seed)
    ax = new_axes(ax, (7, 6))
    if colours is None:
        ax.scatter(points[:, 0], points[:, 1], s=6)
    else:
        _scatter(ax, points, *colours)
    # Both directions are of one unit; what is over at the sides stays empty.
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])
    return ax


def kl_bars(model: VAE, data: Any, *, seed: int = 0, ax: "Axes | None" = None) -> "Axes":
    """Draw how many nats each latent dimension carries, the one that carries most first.

    By `vaekit.metrics.kl_by_dimension`, with its standard errors over the elements.

    Args:
        model: A model whose posterior and prior have independent dimensions.
        data: A batch or a data set.
        seed: Of the draws, where the divergence has no closed form.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes. The dimensions are counted from 0; of many, some are left unnamed.

    Raises:
        ImportError: If matplotlib is missing.
        TypeError: If posterior or prior has no densities by dimension.
        ValueError: If a divergence is not finite.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=5)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> len(kl_bars(model, test).patches)
        5
    """
    found = metrics.kl_by_dimension(model, loadable(data), seed=seed)
    _checks.finite("model: its KL by dimension", found.mean)
    order = found.order
    dim = len(order)
    error = found.standard_error[order].nan_to_num(0).numpy()  # NaN of a single element
    ax = new_axes(ax, (min(12.0, max(4.0, 1 + 0.3 * dim)), 3.5))
    ax.bar(np.arange(dim), found.mean[order].numpy(), yerr=error, color="tab:blue", capsize=2)
    shown = np.arange(0, dim, math.ceil(dim / 30))
    ax.set_xticks(shown, [str(int(order[place])) for place in shown])
    ax.set_xlim(-0.7, dim - 0.3)
    if found.mean.min() >= 0:  # as an estimate may not be
        ax.set_ylim(bottom=0)
    ax.set_xlabel("latent dimension")
    ax.set_ylabel("KL (nats)")
    total = f"{found.total.mean:.2f}"
    if math.isfinite(found.total.standard_error):
        total += f" ± {found.total.standard_error:.2f}"
    ax.set_title(f"{total} nats in all", fontsize="medium")
    return ax


def aggregated_posterior(
    model: VAE,
    data: Any,
    *,
    dims: Sequence[int] | None = None,
    n: int = 5000,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "Axes":
    r"""Draw the aggregated posterior against the prior, in one or two latent dimensions.

    .. math:: q(z) = \frac{1}{N} \sum_n q(z \mid x_n)

    One draw of each element's posterior: a histogram of one dimension, a scatter of two. Over it
    the prior: the density of its marginal, in two dimensions by contours about the densest 50, 90
    and 99 % of it, where that is known (of a Gaussian; and of every prior, in the dimensions that
    are all there are); draws elsewhere. Where the two differ, samples are decoded from places that
    the decoder has not learned, or leave out others that it has.

    Args:
        model: The model.
        data: A batch or a data set; its first ``n`` elements are drawn.
        dims: One or two dimensions, counted from 0. If None, the two that carry most nats; or,
            where posterior or prior has no densities by dimension, whose means vary most.
        n: How many elements.
        seed: Of the draws.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If ``dims`` are not one or two different dimensions of the model's.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=5)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> ax = aggregated_posterior(model, test, dims=(3, 1))
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('latent dimension 3', 'latent dimension 1')

    References:
        M. D. Hoffman and M. J. Johnson, *ELBO Surgery: Yet Another Way to Carve Up the Variational
        Evidence Lower Bound*, 2016.
    """
    chosen = None if dims is None else _checked(dims, model.latent_dim)
    with torch.no_grad(), measuring(model, seed) as device:
        shown = list(elements(model, data, device, n))
        if chosen is None:
            chosen = _most_used(model, shown, seed)
        zs, conditional = [], []
        for part in shown:
            out = model(part.x, context=part.context)
            zs.append(out.z)
            if out.prior.batch_shape:  # one for each element
                conditional.append(out.prior.sample())
        z = torch.cat(zs)
        _checks.finite("model: its draws", z)
        prior = out.prior
        drawn = torch.cat(conditional) if conditional else prior.sample((max(1000, len(z)),))
        points, draws = (each[:, chosen].cpu().double().numpy() for each in (z, drawn))
        both = np.concatenate([points, draws])
        middle, half = (both.max(0) + both.min(0)) / 2, np.ptp(both, 0).max() * 0.55 + 1e-3
        low, high = middle - half, middle + half  # a square, as a sphere is a circle in it
        axes = np.linspace(low, high, 400 if len(chosen) == 1 else 120).T
        density = _density(prior, chosen, axes, drawn)
    ax = new_axes(ax, (6, 4) if len(chosen) == 1 else (6, 6))
    names = [f"latent dimension {dim}" for dim in chosen]
    size = float(np.clip(8000 / len(points), 4, 30))  # so that few are seen as well
    ax.set_xlabel(names[0])
    if len(chosen) == 1:
        bins = np.linspace(low[0], high[0], 61).tolist()
        ax.hist(points[:, 0], bins, density=True, color="tab:blue", alpha=0.6, label=_AGGREGATED)
        if density is None:
            ax.hist(draws[:, 0], bins, density=True, histtype="step", color="black", label="prior")
        else:
            ax.plot(axes[0], density, color="black", label="prior")
        ax.set_ylabel("density")
    else:
        if density is None:
            ax.scatter(
                draws[:, 0],
                draws[:, 1],
                s=4,
                color="tab:orange",
                alpha=0.5,
                linewidths=0,
                label="prior",
            )
        x, y = points.T
        ax.scatter(x, y, s=size, color="tab:blue", alpha=0.5, linewidths=0, label=_AGGREGATED)
        if density is not None:
            levels = _levels(density)
            ax.contour(*axes, density.T, levels=levels, colors="black", linewidths=1)
            ax.plot([], [], color="black", linewidth=1, label="prior: 50, 90 and 99 %")
        ax.set_ylabel(names[1])
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
    scale, above = 6 / size**0.5, (0.5, 1)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=above, ncols=2, markerscale=scale)
    return ax


def mutual_information(
    table: metrics.MIG | metrics.Modularity | Float[Tensor, "dim factors"],
    factor_names: Sequence[str] | None = None,
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw what each code tells of each factor, as a table of colours and numbers.

    Args:
        table: What `vaekit.metrics.mig` or `vaekit.metrics.modularity` returned, or the information
            itself, in nats.
        factor_names: A name for each factor; their numbers if None.
        ax: Where to draw; a new figure if None. A colour bar takes a part of its room.

    Shape:
        A tensor is ``(dim, factors)``.

    Returns:
        The axes: a row for each code, a column for each factor, both counted from 0.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the table is empty or of another shape, holds NaN or infinite values, or
            there is not a name for each factor.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(2), torch.arange(2))
        >>> found = vk.metrics.mig(factors.float(), factors)
        >>> ax = mutual_information(found, ["shape", "size"])
        >>> ax.get_title(), [text.get_text() for text in ax.texts]
        ('MIG 1.000', ['0.69', '0.00', '0.00', '0.69'])
    """
    information = table if isinstance(table, Tensor) else table.mutual_information
    if information.ndim != 2 or not information.numel():
        what = "shape (dim, factors), neither of them 0"
        raise ValueError(_checks.expected("table", what, tuple(information.shape)))
    _checks.finite("table", information)
    dim, factors = information.shape
    names = [str(factor) for factor in range(factors)] if factor_names is None else factor_names
    if len(names) != factors:
        what = f"{factors}, one for each factor"
        raise ValueError(_checks.expected("factor_names", what, len(names)))
    values = information.detach().cpu().double().clamp(min=0).numpy()  # -0.00 is rounding
    most = float(values.max()) or 1.0
    size = (min(12.0, max(4.0, 1.8 + 0.75 * factors)), min(12.0, max(2.8, 1.2 + 0.32 * dim)))
    ax = new_axes(ax, size)
    drawn = ax.imshow(values, cmap="Blues", vmin=0, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 0.6 * most else "black"
        text = f"{value:.2f}"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    slant = 30 if max(map(len, names)) > 9 else 0
    side = "right" if slant else "center"
    ax.set_xticks(range(factors), list(names), rotation=slant, ha=side, rotation_mode="anchor")
    ax.set_yticks(range(dim), [str(code) for code in range(dim)])
    ax.tick_params(length=0)
    ax.set_xlabel("factor")
    ax.set_ylabel("code")
    figure: Any = ax.figure
    figure.colorbar(drawn, ax=ax, label="mutual information (nats)")
    if isinstance(table, metrics.MIG):
        ax.set_title(f"MIG {table.score:.3f}", fontsize="medium")
    return ax


_AGGREGATED = "aggregated posterior"
_COLOURS = 20  # that can be told from each other, and in a legend


def _coloured(
    data: Any, y: npt.NDArray[Any] | None, factor: int | str | None
) -> tuple[npt.NDArray[Any], list[str], str] | None:
    """Return what colours each element, the names of its values, and its own; None if nothing."""
    if factor is None:
        if y is None or y.ndim != 1:
            return None
        return y, class_names(data, np.unique(y)), ""
    columns = y.shape[1] if y is not None and y.ndim == 2 else 0
    known = list(getattr(data, "factor_names", map(str, range(columns))))
    if isinstance(factor, str) and factor in known:
        column = known.index(factor)
    elif isinstance(factor, int) and 0 <= factor < columns:
        column = factor
    else:
        column = columns
    if y is None or column >= columns:
        what = "one of the labels " + ", ".join(known) if columns else "data of several labels each"
        raise ValueError(_checks.expected("factor", what, repr(factor)))
    of, title = y[:, column], known[column]
    values = getattr(data, "factor_values", {}).get(title)
    shown = np.unique(of)
    names = [f"{float(values[int(v)]):.3g}" if values is not None else str(v) for v in shown]
    return of, names, title


def _scatter(
    ax: "Axes",
    points: npt.NDArray[Any],
    of: npt.NDArray[Any],
    names: Sequence[str],
    title: str,
) -> None:
    """Scatter points in the colours of their labels."""
    values = np.unique(of)
    maps = import_("matplotlib").colormaps
    if len(values) > _COLOURS and np.issubdtype(of.dtype, np.number):
        drawn = ax.scatter(points[:, 0], points[:, 1], s=6, c=of, cmap="viridis")
        figure: Any = ax.figure
        figure.colorbar(drawn, ax=ax, label=title or "label")
        return
    palette = maps["tab10" if len(values) <= 10 else "tab20"]
    for index, name in enumerate(names):
        chosen = points[of == values[index]]
        colour = palette(index % palette.N)
        ax.scatter(chosen[:, 0], chosen[:, 1], s=6, color=colour, label=name)
    ax.legend(
        title=title or None,
        markerscale=3,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        ncols=math.ceil(len(values) / _COLOURS),
    )


def _embedded(
    mean: npt.NDArray[Any], method: Embedding, seed: int
) -> tuple[npt.NDArray[Any], list[str]]:
    """Return points in two dimensions, and the names of those."""
    if mean.shape[1] <= 2:
        return np.pad(mean, ((0, 0), (0, 2 - mean.shape[1]))), ["$z_1$", "$z_2$"]
    if len(mean) < _LEAST[method]:
        what = f"at least {_LEAST[method]} elements where method={method!r}"
        raise ValueError(_checks.expected("data", what, len(mean)))
    constant = not np.ptp(mean, axis=0).any()
    if constant and method != "pca":
        hint = "method='pca' draws them as one point."
        what = f"elements of different codes where method={method!r}"
        raise ValueError(_checks.expected("data", what, "one code for all", hint))
    names = [f"{_AXIS[method]} {i}" for i in (1, 2)]
    if method == "pca":
        pca = import_("sklearn.decomposition").PCA(2)
        return (np.zeros_like(mean[:, :2]) if constant else pca.fit_transform(mean)), names
    if method == "tsne":
        perplexity = min(30.0, (len(mean) - 1) / 3)
        embed = import_("sklearn.manifold").TSNE(2, perplexity=perplexity, random_state=seed)
    else:
        umap = import_("umap", "umap-learn")
        # One thread, as a seed asks for.
        embed = umap.UMAP(n_neighbors=min(15, len(mean) - 1), random_state=seed, n_jobs=1)
    return embed.fit_transform(mean), names


def _checked(dims: Sequence[int], latent_dim: int) -> list[int]:
    chosen = list(dims)
    known = range(latent_dim)
    if len(chosen) not in (1, 2) or len(set(chosen)) < len(chosen) or set(chosen) - set(known):
        what = f"one or two different whole numbers from 0 to {latent_dim - 1}"
        raise ValueError(_checks.expected("dims", what, tuple(chosen)))
    return chosen


def _most_used(model: VAE, shown: Sequence[Elements], seed: int) -> list[int]:
    """Return the two dimensions, or the one there is, that carry most of what is shown."""
    batches = [datasets.Batch(part.x, part.target, part.context) for part in shown]
    if model.latent_dim <= 2:
        return list(range(model.latent_dim))
    return by_use(model, batches, seed)[0][:2]


def _density(
    prior: Distribution, dims: list[int], axes: npt.NDArray[Any], like: Tensor
) -> npt.NDArray[Any] | None:
    """Return the density of the prior's marginal on the grid of the axes, where it is known."""
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    points = torch.from_numpy(mesh.reshape(-1, len(dims))).to(like)
    if isinstance(prior, DiagonalGaussian) and not prior.batch_shape:
        log_density = DiagonalGaussian(prior.mu[dims], prior.logvar[dims]).log_prob(points)
    elif prior.batch_shape or prior.event_shape != (len(dims),) or not is_real(prior):
        return None
    else:
        try:
            log_density = prior.log_prob(points[:, np.argsort(dims)])
        except NotImplementedError:
            return None
    density: npt.NDArray[Any] = log_density.cpu().double().exp().numpy().reshape(mesh.shape[:-1])
    return density


def _levels(density: npt.NDArray[Any]) -> list[float]:
    """Return the densities about the densest shares of a grid."""
    ranked = np.sort(density, axis=None)[::-1]
    within = ranked.cumsum() / ranked.sum()
    places = np.searchsorted(within, _SHARES)
    return sorted(set(ranked[np.minimum(places, len(ranked) - 1)].tolist()))
