"""Lines of numbers: of training, of rate and distortion, and of detectors."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Shaped

from vaekit import _checks, metrics
from vaekit.metrics.inputs import Values, as_tensor, as_whole_numbers
from vaekit.plots._shared import import_, new_axes
from vaekit.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curves", "rate_distortion", "roc"]


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
        TypeError: If it is no ``History``.

    Example:
        >>> model, objective = vk.recipes.vae(vk.likelihoods.Gaussian(3), latent_dim=2)
        >>> history = vk.fit(model, objective, torch.randn(64, 3), epochs=2, progress=False)
        >>> curves(history, "kl").get_ylabel()
        'kl (nats)'
    """
    if not isinstance(history, History):
        hint = "History(**found) makes one of what to_dict gave."
        raise TypeError(_checks.expected("history", "a History", type(history).__name__, hint))
    training = history[term]
    ax = new_axes(ax, (6, 4))
    marker = "o" if len(history) == 1 else ""  # one point makes no line
    ax.plot(history.epoch, training, marker=marker, label="training")
    if term in history.validation:
        ax.plot(history.epoch, history.validation[term], marker=marker, label="validation")
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"{term.replace('_', ' ')} (nats)")
    ax.legend(frameon=False)
    return ax


def rate_distortion(
    points: Sequence[metrics.RateDistortion], *, ax: "Axes | None" = None
) -> "Axes":
    """Draw the distortion over the rate of models trained under several weights of the KL.

    Each point bears its beta and the standard errors over the elements; the line joins them by
    rising beta. The negative ELBO, rate + distortion, is the same along every line of slope -1.

    Args:
        points: What `vaekit.metrics.rate_distortion` returned.
        ax: Where to draw; a new figure if None.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no point, or a rate or distortion is not finite.

    Example:
        >>> likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
        >>> models = {beta: vk.recipes.vae(likelihood, latent_dim=2).model for beta in (1.0, 4.0)}
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> ax = rate_distortion(vk.metrics.rate_distortion(models, test))
        >>> [text.get_text() for text in ax.texts]
        ['β = 1', 'β = 4']

    References:
        A. Alemi and others, *Fixing a Broken ELBO*, 2018, section 2.
    """
    if not points:
        raise ValueError(_checks.expected("points", "at least one", "none"))
    points = sorted(points, key=lambda point: point.beta)
    rate, distortion = (
        torch.tensor([list(each) for each in column], dtype=torch.double)
        for column in ([p.rate for p in points], [p.distortion for p in points])
    )
    _checks.finite("points", torch.stack([rate[:, 0], distortion[:, 0]]))
    x_error, y_error = (each[:, 1].nan_to_num(0).numpy() for each in (rate, distortion))
    ax = new_axes(ax, (6, 4))
    at = rate[:, 0].numpy(), distortion[:, 0].numpy()
    ax.errorbar(*at, xerr=x_error, yerr=y_error, marker="o", markersize=4, capsize=2)
    spans = [max(float(np.ptp(each)), 1e-12) for each in at]
    before, above = None, True
    for point, *place in zip(points, *at, strict=True):
        here = np.array(place) / spans
        # Of two points that lie together, one bears its beta above, the other below.
        above = not above if before is not None and np.abs(here - before).max() < 0.08 else True
        ax.annotate(
            f"β = {point.beta:g}",
            tuple(place),
            xytext=(6, 4) if above else (-6, -4),
            textcoords="offset points",
            ha="left" if above else "right",
            va="baseline" if above else "top",
            fontsize=9,
        )
        before = here
    ax.margins(0.16, 0.12)
    ax.set_xlabel("rate (nats)")
    ax.set_ylabel("distortion (nats)")
    return ax


def roc(
    scores: Float[Values, " n"] | Mapping[str, Float[Values, " n"]],
    labels: Shaped[Values, " n"],
    *,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw how many of one kind scores find, over how many of the other they take for it.

    The receiver operating characteristic, by scikit-learn's ``roc_curve``; the area under it is the
    share of pairs, one of each kind, that the score puts in the right order, ties counting half. A
    score that tells nothing lies on the dashed line.

    Args:
        scores: The higher, the more an element is taken for a 1; several by their names.
        labels: What each element is, 0 or 1: out of the distribution, say.
        ax: Where to draw; a new figure if None.

    Shape:
        Scores and labels are ``(N,)``.

    Returns:
        The axes, with each area in the legend, as `vaekit.metrics.auroc` measures it.

    Raises:
        ImportError: If matplotlib or scikit-learn is missing.
        ValueError: If there are no scores, there is NaN or an infinite value, sizes do not fit, or
            the labels are not 0 and 1, both of them.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> ax = roc({"nats": torch.tensor([0.1, 0.4, 0.35, 0.8])}, labels)
        >>> ax.get_legend().get_texts()[0].get_text()
        'nats: AUROC 0.750 ± 0.354'

    References:
        T. Fawcett, *An Introduction to ROC Analysis*, 2006.
    """
    sklearn = import_("sklearn.metrics")
    named = dict(scores) if isinstance(scores, Mapping) else {"": scores}
    if not named:
        raise ValueError(_checks.expected("scores", "at least one", "none"))
    kinds = as_whole_numbers("labels", labels)
    found = np.unique(kinds).tolist()
    if kinds.ndim != 1 or found != [0, 1]:
        what = "shape (N,), of 0 and of 1, both of them"
        got = f"shape {kinds.shape} of values " + ", ".join(map(str, found[:5]))
        raise ValueError(_checks.expected("labels", what, got))
    lines = {}
    for name, given in named.items():
        argument = f"scores[{name!r}]" if name else "scores"
        score = as_tensor(argument, given)
        if score.shape != kinds.shape:
            what = f"shape {kinds.shape}, as labels have"
            raise ValueError(_checks.expected(argument, what, tuple(score.shape)))
        _checks.finite(argument, score)
        values = score.detach().cpu().double().numpy()
        false, true, _ = sklearn.roc_curve(kinds, values)
        area = metrics.auroc(score, torch.from_numpy(kinds))
        said = f"AUROC {area.mean:.3f}"
        if math.isfinite(area.standard_error):
            said += f" ± {area.standard_error:.3f}"
        lines[f"{name}: {said}" if name else said] = false, true
    ax = new_axes(ax, (5, 5))
    for label, (false, true) in lines.items():
        ax.plot(false, true, label=label)
    ax.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    ax.set_aspect("equal")
    ax.set_xlabel("false positive rate")
    ax.set_ylabel("true positive rate")
    ax.legend(frameon=False, loc="lower right")
    return ax
