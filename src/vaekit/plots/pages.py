"""One page about a model: what it is, its measures, and its pictures."""

import base64
import contextlib
import functools
import html
import io
import platform
import struct
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit import _checks, datasets, metrics
from vaekit._version import __version__
from vaekit.plots import charts, latents, pictures, walks
from vaekit.plots._measures import (
    Chosen,
    Encoded,
    Row,
    encoded,
    factors_of,
    measures,
    plus_minus,
)
from vaekit.plots._shared import first
from vaekit.training import History
from vaekit.training.measures import measuring
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["report"]

# What says that a measure or a picture does not apply, or that a package is missing.
_DOES_NOT_APPLY = (TypeError, ValueError, NotImplementedError, ImportError)

_EMBEDDED = 1000  # elements, in the pictures that take longest
_DPI = 144  # of the pictures; those of screens count 96 to an inch


class _Picture(NamedTuple):
    title: str
    look: str  # what to look at
    draw: Callable[[], "Axes"]


def report(
    model: VAE,
    data: Any,
    path: str | Path,
    *,
    history: History | None = None,
    at_most: int = 2000,
    samples: int = 100,
    title: str = "Report of a model",
    seed: int = 0,
) -> Path:
    """Write one self-contained HTML page with all measures and pictures that apply to a model.

    The page needs no network and no other file. What does not apply (pictures of data that are no
    images, a likelihood bound of an autoencoder) is listed at its end with the reason. Model, data
    and random state are left as they were.

    Of large data sets a part is measured and drawn, drawn at random where the data can be read in
    any order, and the first elements elsewhere; the page says how many. What takes long is measured
    on fewer, and says so. Elements go through the model a batch at a time.

    Args:
        model: The model, looked at in evaluation mode.
        data: What to measure it on, test data best: a batch or a data set, as for `vaekit.fit`.
            With labels, classes are shown too; with several for each element, ``(N, factors)``,
            as those of a `vaekit.datasets.FactorDataset`, scores of disentanglement; the scores of
            FactorVAE and BetaVAE need the whole of it.
        path: Where the page goes; its folder is made where it is missing.
        history: What `vaekit.fit` returned, for the curves of training.
        at_most: How many elements are measured and drawn.
        samples: How many draws each element has in the estimate of the likelihood.
        title: The page's heading.
        seed: Of all draws: the same model, data and seed give the same page.

    Returns:
        The path.

    Raises:
        ImportError: If matplotlib is missing.
        IsADirectoryError: If ``path`` is a folder.
        TypeError: If ``model`` is no `VAE`, or ``data`` cannot be gone through several times.
        ValueError: If a number is not above 0, or a parameter of the model is not finite.
        Exception: Whatever the model itself raises for some of the data.

    Example:
        >>> import tempfile
        >>> model, objective = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     page = report(model, test[:50], f"{folder}/report.html", samples=10)
        ...     page.read_text()[:15]
        '<!DOCTYPE html>'
    """
    path = Path(path)
    if not isinstance(model, VAE):
        raise TypeError(_checks.expected("model", "a VAE", type(model).__name__))
    if isinstance(data, Iterator):
        what = "data that can be gone through several times"
        raise TypeError(_checks.expected("data", what, type(data).__name__))
    if not isinstance(history, History | None):
        raise TypeError(_checks.expected("history", "a History", type(history).__name__))
    if path.is_dir():
        raise IsADirectoryError(_checks.expected("path", "a file", f"the folder {path}"))
    _checks.positive_int("samples", samples)
    chosen = Chosen(data, _checks.positive_int("at_most", at_most), seed)
    _try(model, chosen.data, seed)
    path.parent.mkdir(parents=True, exist_ok=True)

    @functools.cache
    def read() -> Encoded:
        return encoded(model, chosen.data, seed)

    left_out: list[tuple[str, str]] = []
    rows: list[tuple[str, list[Row]]] = []
    for group in measures(model, chosen, read, samples, seed):
        found: list[Row] = []
        for name, take in group.take:
            try:
                found += take()
            except _DOES_NOT_APPLY as error:
                left_out.append((name, str(error)))
        if found:
            rows.append((group.title, found))
    words = ""
    try:
        words = str(metrics.posterior_collapse(model, chosen.data, draws=500, seed=seed))
    except _DOES_NOT_APPLY as error:
        left_out.append(("Use of the latent space", str(error)))
    figures = []
    for picture in _drawings(model, chosen, read, history, seed):
        try:
            figures.append((picture, _png(picture.draw)))
        except _DOES_NOT_APPLY as error:
            left_out.append((picture.title, str(error)))
    about = [*_about(model, data), ("measured on", chosen.said)]
    page = _page(title, about, rows, plus_minus(words), figures, left_out)
    path.write_text(page, encoding="utf-8")
    return path


def _try(model: VAE, data: Any, seed: int) -> None:
    """Run the model, so that whatever is wrong with it is not taken for what does not apply."""
    for name, parameter in model.named_parameters():
        _checks.finite(name, parameter)
    with torch.no_grad(), measuring(model, seed) as device:
        some = first(model, data, device, 8)
        model(some.x, context=some.context)


def _about(model: VAE, data: Any) -> list[tuple[str, str]]:
    """Say what the model and the data are."""
    decoder = model.decoder
    return [
        ("latent", repr(model.encoder.latent)),
        ("likelihood", repr(getattr(decoder, "likelihood", decoder))),
        ("prior", repr(model.prior)),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("data", _said(data)),
        ("versions", ", ".join(_versions())),
    ]


def _versions() -> Iterator[str]:
    """Yield the versions of what the numbers come from."""
    yield f"vaekit {__version__}"
    yield f"PyTorch {torch.__version__}"
    yield f"NumPy {np.__version__}"
    with contextlib.suppress(PackageNotFoundError):
        yield f"scikit-learn {version('scikit-learn')}"
    yield f"Python {platform.python_version()}"


def _said(data: Any) -> str:
    """Say what the data are, without their values."""
    if isinstance(data, Tensor | np.ndarray):
        return f"values of shape {tuple(data.shape)}"
    if isinstance(data, datasets.ArrayDataset):
        return repr(data)
    return type(data).__name__


def _drawings(
    model: VAE,
    chosen: Chosen,
    read: Callable[[], Encoded],
    history: History | None,
    seed: int,
) -> list[_Picture]:
    data, mixed = chosen.data, chosen.some()
    example = mixed if model.takes_context else None  # whose context goes along
    drawn = [
        _Picture(
            "Reconstructions",
            "The same element below; blurred is usual, another one is not.",
            lambda: pictures.reconstructions(model, mixed),
        ),
        _Picture(
            "Errors",
            "Where the reconstruction misses: at edges is usual, at whole parts is not.",
            lambda: pictures.error_map(model, mixed),
        ),
        _Picture(
            "Samples",
            "What draws from the prior decode to: as the data are, and as different.",
            lambda: _samples(model, read, seed),
        ),
        _Picture(
            "Divergence by dimension",
            "Dimensions near zero carry nothing.",
            lambda: latents.kl_bars(model, data, seed=seed),
        ),
        _Picture(
            "Traversals",
            "What each dimension changes while the others stay, from one quantile of the prior to "
            "another.",
            lambda: walks.traversals(model, example, data=data, seed=seed),
        ),
        _Picture(
            "The manifold",
            "The two latent dimensions decoded, along even quantiles of the prior's.",
            lambda: walks.manifold(model, seed=seed),
        ),
        _Picture(
            "Between two elements",
            "The reconstructions of two at the ends, and what lies between their codes: likely "
            "elements, and no blend of both, where the latent space has no holes.",
            lambda: _interpolation(model, chosen),
        ),
        _Picture(
            "Nearest neighbours",
            "Elements whose codes are near should be alike in what matters.",
            lambda: _neighbours(model, chosen),
        ),
        _Picture(
            "Aggregated posterior and prior",
            "Where they part, samples come from where no data were, or data are never generated.",
            lambda: latents.aggregated_posterior(model, data, seed=seed),
        ),
        *_scatters(model, chosen, read, seed),
        _Picture(
            "The centre of each class",
            "The mean code of each class, decoded.",
            lambda: walks.class_centres(model, data),
        ),
        _Picture(
            "Between classes",
            "A good latent space passes through likely elements.",
            lambda: walks.class_interpolation(model, data),
        ),
        _Picture(
            "Information of codes about factors",
            "Disentangled codes have one large number in each column, and in each row at most one. "
            "A factor of many values has a little of every code by chance.",
            lambda: _information(data, read),
        ),
    ]
    if history is not None:
        drawn.insert(
            0,
            _Picture(
                "Training",
                "Validation that turns upwards is overfitting.",
                lambda: charts.curves(history),
            ),
        )
    return drawn


def _scatters(
    model: VAE, chosen: Chosen, read: Callable[[], Encoded], seed: int
) -> Iterator[_Picture]:
    """Yield the pictures of where the codes lie, coloured by label or by the first factor."""

    def draw(method: latents.Embedding) -> "Axes":
        labels = read().labels
        several = labels is not None and labels.ndim == 2
        factor: str | int | None = None
        if several:
            names = factors_of(chosen.data, read())[2]
            factor = names[0] if hasattr(chosen.data, "factor_names") else int(names[0])
        n = _EMBEDDED if method != "pca" else chosen.count
        part = chosen.some(0, n)
        ax = latents.latent_scatter(model, part, method=method, n=n, factor=factor, seed=seed)
        if several:
            ax.set_title(f"coloured by the factor {names[0]}", fontsize="medium")
        return ax

    if model.latent_dim <= 2:
        yield _Picture("Latent space", "Posterior means.", lambda: draw("pca"))
        return
    kept = "Neighbours are kept together; distances between groups mean little."
    if chosen.count > _EMBEDDED:
        kept += f" Of {_EMBEDDED:,} elements."
    for name, look, method in (
        ("principal components", "Posterior means; the directions of largest variance.", "pca"),
        ("t-SNE", kept, "tsne"),
        ("UMAP", kept, "umap"),
    ):
        yield _Picture(f"Latent space, by {name}", look, functools.partial(draw, method))  # type: ignore[arg-type]


def _samples(model: VAE, read: Callable[[], Encoded], seed: int) -> "Axes":
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    context = read().context if model.takes_context else None
    n = 64 if context is None else min(64, len(context))
    context = None if context is None else context[:n]
    return pictures.samples(model, n, generator=generator, context=context)


def _interpolation(model: VAE, chosen: Chosen) -> "Axes":
    n = min(5, chosen.count // 2)
    return walks.interpolation(model, chosen.some(0, n), chosen.some(n, 2 * n))


def _neighbours(model: VAE, chosen: Chosen) -> "Axes":
    """Draw some elements' neighbours among the others."""
    n = min(8, chosen.count // 2)
    k = min(8, chosen.count - n)
    return pictures.nearest_neighbours(model, chosen.some(n), chosen.some(0, n), k=k, n=n)


def _information(data: Any, read: Callable[[], Encoded]) -> "Axes":
    z, values, names = factors_of(data, read())
    return latents.mutual_information(metrics.mig(z, values), names)


def _png(draw: Callable[[], "Axes"]) -> bytes:
    from matplotlib import pyplot

    before = set(pyplot.get_fignums())
    try:
        file = io.BytesIO()
        figure: Any = draw().figure
        figure.savefig(file, format="png", dpi=_DPI, bbox_inches="tight")
        return file.getvalue()
    finally:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)


def _page(
    title: str,
    about: list[tuple[str, str]],
    rows: list[tuple[str, list[Row]]],
    words: str,
    figures: list[tuple[_Picture, bytes]],
    left_out: list[tuple[str, str]],
) -> str:
    parts: list[tuple[str, str]] = []  # heading and what stands below
    if rows:
        lines = [_line(("measure", "value", "what it says"), heads=3)]
        for name, group in rows:
            lines.append(f'<tr class="group"><th colspan="3">{html.escape(name)}</th></tr>')
            lines += [_line(row) for row in group]
        note = "<p>After ±: the standard error over the elements, or over the draws or votes.</p>"
        parts.append(("Measures", _table(lines, "measures") + note))
    if words:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in words.splitlines())
        parts.append(("Use of the latent space", f"<ul>{items}</ul>"))
    for picture, png in figures:
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        name, look = html.escape(picture.title), html.escape(picture.look)
        width = round(_width(png) / _DPI * 96)
        parts.append(
            (
                picture.title,
                f'<figure><img src="{source}" alt="{name}" width="{width}">'
                f"<figcaption>{look}</figcaption></figure>",
            )
        )
    if left_out:
        reasons: dict[str, list[str]] = {}
        for name, why in left_out:
            reasons.setdefault(why, []).append(name)
        lines = [_line(("what", "why"), heads=2)]
        lines += [_line(("; ".join(names), why)) for why, names in reasons.items()]
        parts.append(("Left out", _table(lines)))
    links = [f'<li><a href="#s{i}">{html.escape(n)}</a></li>' for i, (n, _) in enumerate(parts)]
    sections = [
        f'<section id="s{i}"><h2>{html.escape(name)}</h2>\n{inner}</section>'
        for i, (name, inner) in enumerate(parts)
    ]
    body = "\n".join(
        [
            f"<h1>{html.escape(title)}</h1>",
            _table([_line(row) for row in about]),
            f"<nav><ul>{''.join(links)}</ul></nav>",
            *sections,
        ]
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _line(cells: Sequence[str], heads: int = 1) -> str:
    """Write a row of a table; of a whole row of heads, each is of a column."""
    scope = "row" if heads == 1 else "col"
    written = [
        f'<th scope="{scope}">{html.escape(cell)}</th>'
        if index < heads
        else f"<td>{html.escape(cell)}</td>"
        for index, cell in enumerate(cells)
    ]
    return f"<tr>{''.join(written)}</tr>"


def _table(lines: Sequence[str], kind: str = "facts") -> str:
    return f'<table class="{kind}">' + "\n".join(lines) + "</table>"


def _width(png: bytes) -> int:
    """Read how many pixels wide a PNG is."""
    width: int = struct.unpack(">I", png[16:20])[0]
    return width


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; text-align: left;
        vertical-align: top; border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
th { font-weight: 600; } td { white-space: pre-wrap; }
.measures th, .measures td:nth-child(2) { white-space: nowrap; }
.facts th { min-width: 8rem; max-width: 26rem; }
.group th { padding-top: 1rem; color: #555; }
nav ul { columns: 16rem; margin: 1.5rem 0; padding-left: 1.2rem; } nav a { color: #0550ae; }
figure { margin: 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; }
"""
