"""One page about a model: what it is, its measures, and its pictures."""

import base64
import html
import io
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit import _checks, datasets, metrics
from vaekit.plots import charts, latents, pictures, walks
from vaekit.plots._shared import codes, first, loadable, one_label_each
from vaekit.training import History, measuring
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["report"]

# What says that a measure or a picture does not apply, or that a package is missing.
_DOES_NOT_APPLY = (TypeError, ValueError, NotImplementedError, ImportError)


class _Picture(NamedTuple):
    title: str
    look: str  # what to look at
    draw: Callable[[], "Axes"]


class _Row(NamedTuple):
    name: str
    value: str
    meaning: str


def report(
    model: VAE,
    data: Any,
    path: str | Path,
    *,
    history: History | None = None,
    samples: int = 100,
    title: str = "Report of a model",
    seed: int = 0,
) -> Path:
    """Write one self-contained HTML page with all measures and pictures that apply to a model.

    The page needs no network and no other file. What does not apply (pictures of data that are no
    images, a likelihood bound of an autoencoder) is listed at its end with the reason. Model, data
    and random state are left as they were.

    Args:
        model: The model, looked at in evaluation mode.
        data: What to measure it on, test data best: a batch or a data set, as for `vaekit.fit`.
            With labels, classes are shown too.
        path: Where the page goes; its folder is made where it is missing.
        history: What `vaekit.fit` returned, for the curves of training.
        samples: How many draws each element has in the estimate of the likelihood.
        title: The page's heading.
        seed: Of all draws: the same model, data and seed give the same page.

    Returns:
        The path.

    Raises:
        ImportError: If matplotlib is missing.
        IsADirectoryError: If ``path`` is a folder.
        TypeError: If ``model`` is no `VAE`, or ``data`` cannot be gone through several times.
        ValueError: If a number is not above 0.

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
    if path.is_dir():
        raise IsADirectoryError(_checks.expected("path", "a file", f"the folder {path}"))
    _checks.positive_int("samples", samples)
    shown = loadable(data)
    datasets.loader(shown, 1)  # says here what is wrong with it
    path.parent.mkdir(parents=True, exist_ok=True)

    left_out: list[tuple[str, str]] = []
    rows: list[_Row] = []
    for name, measure in _measures(model, shown, samples, seed):
        try:
            rows += measure()
        except _DOES_NOT_APPLY as error:
            left_out.append((name, str(error)))
    words = ""
    try:
        words = str(metrics.posterior_collapse(model, shown, draws=500, seed=seed))
    except _DOES_NOT_APPLY as error:
        left_out.append(("Use of the latent space", str(error)))
    figures = []
    for picture in _drawings(model, data, history, seed):
        try:
            figures.append((picture, _png(picture.draw)))
        except _DOES_NOT_APPLY as error:
            left_out.append((picture.title, str(error)))
    path.write_text(
        _page(title, _about(model, data), rows, words, figures, left_out), encoding="utf-8"
    )
    return path


def _about(model: VAE, data: Any) -> list[tuple[str, str]]:
    """Say what the model and the data are."""
    decoder = model.decoder
    return [
        ("latent", repr(model.encoder.latent)),
        ("likelihood", repr(getattr(decoder, "likelihood", decoder))),
        ("prior", repr(model.prior)),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("data", _said(data)),
        ("vaekit", version("vaekit")),
        ("PyTorch", torch.__version__),
    ]


def _said(data: Any) -> str:
    """Say what the data are, without their values."""
    if isinstance(data, Tensor | np.ndarray):
        return f"values of shape {tuple(data.shape)}"
    if isinstance(data, datasets.ArrayDataset):
        return repr(data)
    return type(data).__name__


def _measures(
    model: VAE, data: Any, samples: int, seed: int
) -> list[tuple[str, Callable[[], list[_Row]]]]:
    def bound() -> list[_Row]:
        found = metrics.elbo(model, data, seed=seed)
        return [
            _Row("ELBO", f"{found.elbo} nats", "at most the log-likelihood; higher is better"),
            _Row("reconstruction", f"{found.reconstruction} nats", "how badly z explains the data"),
            _Row("KL", f"{found.kl} nats", "how far posteriors lie from the prior"),
        ]

    def likelihood() -> list[_Row]:
        found = metrics.negative_log_likelihood(model, data, samples, seed=seed)
        worth = found.effective_samples.median()
        meaning = f"by {samples} draws each, worth {worth:.0f} in the middle; lower is better"
        rows = [_Row("negative log-likelihood", f"{found.nats} nats", meaning)]
        if found.bits_per_dimension is not None:
            rows.append(_Row("bits per dimension", f"{found.bits_per_dimension}", "the same"))
        return rows

    def units() -> list[_Row]:
        found = metrics.active_units(model, data)
        meaning = "dimensions whose posterior means vary with the data"
        return [_Row("active units", f"{found.number} of {model.latent_dim}", meaning)]

    def neighbours() -> list[_Row]:
        with measuring(model, seed) as device, torch.no_grad():
            shown = first(model, data, device, None)
            labels = np.unique(one_label_each(shown.labels), return_inverse=True)[1]
            z = codes(model, shown).cpu()
        found = metrics.nearest_neighbours(z, torch.from_numpy(labels), seed=seed)
        meaning = f"of labels by 5 neighbours' codes; by chance {found.chance:.2f}"
        return [_Row("k-NN accuracy", f"{found.accuracy}", meaning)]

    return [
        ("The ELBO", bound),
        ("The likelihood", likelihood),
        ("Active units", units),
        ("k-NN accuracy", neighbours),
    ]


def _drawings(model: VAE, data: Any, history: History | None, seed: int) -> list[_Picture]:
    example = data if model.takes_context else None  # whose context goes along
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    if model.latent_dim > 2:
        scatters = [
            _Picture(
                "Latent space, by principal components",
                "Posterior means; the directions of largest variance.",
                lambda: latents.latent_scatter(model, data),
            ),
            _Picture(
                "Latent space, by t-SNE",
                "Neighbours are kept together; distances between groups mean little.",
                lambda: latents.latent_scatter(model, data, method="tsne", seed=seed),
            ),
        ]
    else:
        scatters = [
            _Picture(
                "Latent space", "Posterior means.", lambda: latents.latent_scatter(model, data)
            )
        ]
    drawn = [
        _Picture(
            "Reconstructions",
            "The same element below; blurred is usual, another one is not.",
            lambda: pictures.reconstructions(model, data),
        ),
        _Picture(
            "Errors",
            "Where the reconstruction misses: at edges is usual, at whole parts is not.",
            lambda: pictures.error_map(model, data),
        ),
        _Picture(
            "Samples",
            "What draws from the prior decode to: as the data are, and as different.",
            lambda: pictures.samples(model, generator=generator),
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
            "The two latent dimensions decoded, even in the prior's probability.",
            lambda: walks.manifold(model),
        ),
        _Picture(
            "Aggregated posterior and prior",
            "Where they part, samples come from where no data were, or data are never generated.",
            lambda: latents.aggregated_posterior(model, data, seed=seed),
        ),
        *scatters,
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


def _png(draw: Callable[[], "Axes"]) -> bytes:
    from matplotlib import pyplot

    before = set(pyplot.get_fignums())
    try:
        file = io.BytesIO()
        figure: Any = draw().figure
        figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
        return file.getvalue()
    finally:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)


def _page(
    title: str,
    about: list[tuple[str, str]],
    rows: list[_Row],
    words: str,
    figures: list[tuple[_Picture, bytes]],
    left_out: list[tuple[str, str]],
) -> str:
    def table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
        cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
        lines = [f"<tr>{cells}</tr>"] if head else []
        for name, *rest in body:
            values = "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
            lines.append(f'<tr><th scope="row">{html.escape(name)}</th>{values}</tr>')
        return "<table>" + "\n".join(lines) + "</table>"

    parts = [f"<h1>{html.escape(title)}</h1>", table((), [(n, v) for n, v in about])]
    if rows:
        parts += [
            "<h2>Measures</h2>",
            table(("", "value", "what it says"), [tuple(r) for r in rows]),
        ]
        parts.append("<p>After +-: the standard error over the elements.</p>")
    if words:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in words.splitlines())
        parts.append(f"<h2>Use of the latent space</h2><ul>{lines}</ul>")
    for picture, png in figures:
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        name, look = html.escape(picture.title), html.escape(picture.look)
        parts.append(
            f'<h2>{name}</h2><figure><img src="{source}" alt="{name}">'
            f"<figcaption>{look}</figcaption></figure>"
        )
    if left_out:
        parts += ["<h2>Left out</h2>", table(("", "why"), [(n, why) for n, why in left_out])]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; text-align: left;
        vertical-align: top; border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; } td { white-space: pre-wrap; }
figure { margin: 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; }
"""
