"""The evidence lower bound, and its KL in parts."""

import math
from numbers import Integral
from typing import Literal, NamedTuple, get_args, overload

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import kl_divergence as _closed_form_kl

from vaekit import _checks
from vaekit.distributions import (
    DiagonalGaussian,
    IndependentBernoulli,
    StandardGaussian,
    log_prob_by_dimension,
)
from vaekit.distributions.supports import check_comparable
from vaekit.distributions.unrounded import unrounded
from vaekit.losses.rows import by_rows

__all__ = [
    "Estimator",
    "KLMethod",
    "KLParts",
    "decompose_kl",
    "kl_divergence",
    "kl_method",
    "reconstruction",
    "total_correlation",
]

#: How a divergence is computed, by its closed form or as a mean over draws.
KLMethod = Literal["analytic", "monte_carlo"]
#: How the density of the aggregated posterior is estimated; see `total_correlation`.
Estimator = Literal["stratified", "weighted", "exact"]


def reconstruction(likelihood: Distribution, x: Shaped[Tensor, "..."]) -> Float[Tensor, "*batch"]:
    r"""Negative log-likelihood of the data.

    .. math:: -\log p(x \mid z)

    With z drawn from the posterior it is an unbiased, one-sample estimate of the expected negative
    log-likelihood. Under a Bernoulli likelihood it is the cross-entropy; under a Gaussian one of
    fixed sigma, the squared error over :math:`2 \sigma^2`, plus a constant.

    Args:
        likelihood: :math:`p(x \mid z)`, as ``model(x).likelihood`` is.
        x: The data to be explained.

    Shape:
        ``x: (B, *event)``; returns ``(B,)``, or ``(K, B)`` for a likelihood of K draws. In nats.

    Raises:
        ValueError: If the shape of ``x`` does not fit, or its values lie outside the support.

    Example:
        >>> likelihood = vk.likelihoods.Bernoulli((1, 8, 8))(torch.zeros(4, 64))
        >>> reconstruction(likelihood, torch.ones(4, 1, 8, 8))
        tensor([44.3614, 44.3614, 44.3614, 44.3614])

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, equation 3.
    """
    _check_paired(likelihood, x)
    own = type(likelihood).log_prob is not IndependentBernoulli.log_prob
    if isinstance(likelihood, IndependentBernoulli) and not own:
        return likelihood.cross_entropy(x)
    return -likelihood.log_prob(x)


def _check_paired(likelihood: Distribution, x: Tensor) -> None:
    """Say so where broadcasting would set elements beside the decoded ones of others."""
    batch, event = likelihood.batch_shape, likelihood.event_shape
    _checks.trailing_shape("x", x, event)
    front = x.shape[: x.ndim - len(event)]
    if front == batch[len(batch) - len(front) :] and (front or not batch):
        return
    shape = ", ".join(map(str, [*batch[-1:], *event]))
    hint = ""
    if front[:1] == batch[-1:]:
        own = tuple(x.shape[1:])
        hint = f"If these are the data meant, it is the likelihood's shape that is to be {own}."
    raise ValueError(_checks.expected("x", f"shape ({shape})", tuple(x.shape), hint))


@overload
def kl_divergence(
    posterior: Distribution,
    prior: Distribution | None = None,
    *,
    z: Tensor | None = None,
    method: KLMethod | None = None,
) -> Tensor: ...
@overload
def kl_divergence(
    posterior: Tensor, prior: Tensor, *, z: Tensor | None = None, method: KLMethod | None = None
) -> Tensor: ...
def kl_divergence(
    posterior: Distribution | Tensor,
    prior: Distribution | Tensor | None = None,
    *,
    z: Tensor | None = None,
    method: KLMethod | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Kullback-Leibler divergence of the posterior from the prior.

    .. math:: \operatorname{KL}\left( q(z \mid x) \,\|\, p(z) \right)
              = \mathbb{E}_{q(z \mid x)} \left[ \log q(z \mid x) - \log p(z) \right]

    Called with two distributions, or with ``mu, logvar`` against :math:`\mathcal{N}(0, I)`:

    .. math:: \tfrac{1}{2} \sum_j \left( \mu_j^2 + \sigma_j^2 - \log \sigma_j^2 - 1 \right)

    The closed form is used where torch's registry has it, and is exact; elsewhere the expectation
    is the mean over the draws ``z``, unbiased, and may fall below 0. Of relaxed discrete variables
    that is so where ``z`` is the posterior's latest draw, as of a forward pass, whose logits it
    keeps: rounding puts draws onto 1, or the simplex's edge, and what their densities were is lost
    to a copy or a piece of ``z``.

    Args:
        posterior: :math:`q(z \mid x)`; or ``mu``.
        prior: :math:`p(z)`, the standard normal if None; or ``logvar``.
        z: Draws from the posterior for the Monte Carlo estimate, with a gradient to its parameters;
            one is drawn if None.
        method: ``"analytic"`` or ``"monte_carlo"`` to have that one; None for the analytic one
            where there is one. `kl_method` tells which that is.

    Shape:
        Posterior of batch ``(B,)``, ``z: (B, dim)`` or ``(K, B, dim)``; returns ``(B,)``. In nats.

    Raises:
        NotImplementedError: If the analytic form is asked for and there is none.
        TypeError: If one argument is a tensor and the other is not.
        ValueError: If the method is unknown, or the shapes of posterior, prior and ``z`` differ.

    Example:
        >>> mu, logvar = torch.ones(4, 2), torch.zeros(4, 2)
        >>> kl_divergence(mu, logvar)
        tensor([1., 1., 1., 1.])
        >>> q = torch.distributions.Independent(torch.distributions.Normal(mu, 1.0), 1)
        >>> kl_divergence(q, vk.priors.StandardNormal(2)())
        tensor([1., 1., 1., 1.])

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, equation 10 and
        appendix B.
    """
    q, p = _posterior_and_prior(posterior, prior)
    if method is not None:
        _checks.one_of("method", method, get_args(KLMethod))
    if method != "monte_carlo":
        try:
            return _closed_form_kl(q, p)
        except NotImplementedError as error:
            if method == "analytic":
                raise NotImplementedError(
                    f"method: no closed form is registered for KL({q!r} || {p!r}); "
                    "method='monte_carlo' estimates it."
                ) from error
    check_comparable(q, p)
    if z is None:
        z = q.rsample()
    shape = (*q.batch_shape, *q.event_shape)
    _checks.trailing_shape("z", z, shape)
    what = f"shape {shape}, or that of K draws, {('K', *shape)}".replace("'", "")
    _checks.require(z.ndim <= 1 + len(shape), "z", what, tuple(z.shape))
    if _checks.eager():
        _checks.no_nan("z", z)
    z, (q, p) = unrounded(z, q, p)
    return over_draws(q.log_prob(z) - p.log_prob(z), len(q.batch_shape))


def over_draws(value: Tensor, ndim: int = 1) -> Tensor:
    """Take the mean over draws of what has ``ndim`` dimensions for each, where there are more."""
    return value.mean(0) if value.ndim > ndim else value


def kl_method(posterior: Distribution, prior: Distribution) -> KLMethod:
    """Tell how `kl_divergence` computes the divergence of these two when left to choose.

    Example:
        >>> normal, laplace = torch.distributions.Normal, torch.distributions.Laplace
        >>> kl_method(normal(0.0, 1.0), normal(1.0, 2.0))
        'analytic'
        >>> kl_method(normal(0.0, 1.0), torch.distributions.StudentT(3.0))
        'monte_carlo'
    """
    try:
        _closed_form_kl(posterior, prior)
    except NotImplementedError:
        return "monte_carlo"
    return "analytic"


def total_correlation(
    posterior: Distribution,
    z: Float[Tensor, "batch dim"],
    *,
    estimator: Estimator = "stratified",
    dataset_size: int | None = None,
    dataset_posterior: Distribution | None = None,
) -> Float[Tensor, ""]:
    r"""How far the latent dimensions are from being independent, over the whole data set.

    .. math:: \operatorname{TC} = \operatorname{KL}\Big( q(z) \,\Big\|\, \prod_j q(z_j) \Big),
              \qquad q(z) = \frac{1}{N} \sum_n q(z \mid x_n)

    A statistic of the batch: a scalar. The expectation is the mean over the draws ``z``; the
    densities :math:`q(z)` and :math:`q(z_j)` are estimated as ``estimator`` says.

    ``"stratified"``
        Each draw's own component weighs :math:`1/N`, each of the :math:`B-1` others
        :math:`(N-1)/(N(B-1))`. The weights add up to one and the estimate of each density is
        unbiased; its logarithm, and so the result, is not, but is consistent as B grows to N.
    ``"weighted"``
        Every component weighs :math:`1/(NB)`. The densities are biased low, and so are their
        logarithms; the gradient is useful, the value is not.
    ``"exact"``
        The mean over ``dataset_posterior``, the posterior of every element of the data set: the
        densities are exact, and the result is unbiased.

    Args:
        posterior: :math:`q(z \mid x)` of the batch, whose dimensions are independent.
        z: One draw from it for each element.
        estimator: ``"stratified"``, ``"weighted"`` or ``"exact"``.
        dataset_size: N; not needed for ``"exact"``.
        dataset_posterior: The posterior of the whole data set; for ``"exact"`` alone.

    Shape:
        Posterior of batch ``(B,)`` over ``(dim,)``, ``z: (B, dim)``; returns a scalar. In nats.
        All B draws are compared with B components (or N), a few at a time: memory grows with
        ``B * (B + dim)``, not with ``B * B * dim``.

    Raises:
        TypeError: If the posterior has no densities by dimension.
        ValueError: If the estimator is unknown, or lacks what it needs; if ``z`` does not fit; if
            the batch is larger than the data set, or is a single element of a larger one.

    Example:
        >>> q = vk.distributions.DiagonalGaussian(torch.randn(64, 3), torch.zeros(64, 3))
        >>> total_correlation(q, q.rsample(), dataset_size=1000).shape
        torch.Size([])

    References:
        R. T. Q. Chen et al., *Isolating Sources of Disentanglement in Variational Autoencoders*,
        2018, equation 2 and appendix C, whose weights single out one other component for what is
        left over; these are their symmetric form, in which all others share it. S. Watanabe,
        *Information Theoretical Analysis of Multivariate Correlation*, 1960.
    """
    z, dataset_posterior, (posterior,) = _unrounded(z, dataset_posterior, posterior)
    joint, by_dimension = _aggregate_log_densities(
        posterior, z, estimator, dataset_size, dataset_posterior
    )
    return (joint - by_dimension.sum(-1)).mean()


class KLParts(NamedTuple):
    r"""The three parts of the KL, scalars in nats; they add up to its Monte Carlo estimate.

    Attributes:
        mutual_information: :math:`I(x; z) = \mathbb{E} \log q(z \mid x) - \log q(z)`.
        total_correlation: :math:`\operatorname{KL}(q(z) \| \prod_j q(z_j))`.
        dimension_wise_kl: :math:`\sum_j \operatorname{KL}(q(z_j) \| p(z_j))`.
    """

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise_kl: Tensor


def decompose_kl(
    posterior: Distribution,
    prior: Distribution,
    z: Float[Tensor, "batch dim"],
    *,
    estimator: Estimator = "stratified",
    dataset_size: int | None = None,
    dataset_posterior: Distribution | None = None,
) -> KLParts:
    r"""Split the KL into mutual information, total correlation and dimension-wise KL.

    .. math:: \mathbb{E}_{p_\text{data}(x)} \operatorname{KL}(q(z \mid x) \| p(z)) =
              I_q(x; z) + \operatorname{KL}\Big( q(z) \Big\| \prod_j q(z_j) \Big)
              + \sum_j \operatorname{KL}(q(z_j) \| p(z_j))

    Whatever the estimator, the three add up to the Monte Carlo estimate of the KL at ``z``, which
    is unbiased; what bias the estimate of :math:`q(z)` has is shared out among them.

    Args:
        posterior: As for `total_correlation`.
        prior: A prior whose dimensions are independent.
        z: As for `total_correlation`.
        estimator: As for `total_correlation`.
        dataset_size: As for `total_correlation`.
        dataset_posterior: As for `total_correlation`.

    Shape:
        As for `total_correlation`; returns three scalars, statistics of the batch. In nats.

    Raises:
        TypeError: If posterior or prior has no densities by dimension.
        ValueError: As for `total_correlation`.

    Example:
        >>> q = vk.distributions.DiagonalGaussian(torch.randn(64, 3), torch.zeros(64, 3))
        >>> parts = decompose_kl(q, vk.priors.StandardNormal(3)(), q.rsample(), dataset_size=1000)
        >>> parts._fields
        ('mutual_information', 'total_correlation', 'dimension_wise_kl')

    References:
        R. T. Q. Chen et al., *Isolating Sources of Disentanglement in Variational Autoencoders*,
        2018, equation 2.
    """
    if not isinstance(prior, Distribution):
        raise TypeError(_checks.expected("prior", "a distribution", type(prior).__name__))
    check_comparable(posterior, prior)
    what, batch = "one for all elements, without a batch", prior.batch_shape
    _checks.require(batch.numel() == 1, "prior", what, f"batch {tuple(batch)}")
    z, dataset_posterior, (posterior, prior) = _unrounded(z, dataset_posterior, posterior, prior)
    joint, by_dimension = _aggregate_log_densities(
        posterior, z, estimator, dataset_size, dataset_posterior
    )
    prior_by_dimension = log_prob_by_dimension(prior, z, "prior")
    return KLParts(
        (posterior.log_prob(z) - joint).mean(),
        (joint - by_dimension.sum(-1)).mean(),
        (by_dimension - prior_by_dimension).sum(-1).mean(),
    )


def _posterior_and_prior(
    posterior: Distribution | Tensor, prior: Distribution | Tensor | None
) -> tuple[Distribution, Distribution]:
    if isinstance(posterior, Tensor):
        if not isinstance(prior, Tensor):
            what = "logvar, a tensor like mu"
            raise TypeError(_checks.expected("prior", what, type(prior).__name__))
        posterior, prior = DiagonalGaussian(posterior, prior), None
    if prior is None:
        zeros = posterior.mean.new_zeros(posterior.event_shape)
        return posterior, StandardGaussian(zeros, len(posterior.event_shape))
    if isinstance(prior, Tensor):
        raise TypeError(_checks.expected("prior", "a distribution, as posterior is", "a tensor"))
    if posterior.event_shape != prior.event_shape:
        what = f"the posterior's event shape, {tuple(posterior.event_shape)}"
        raise ValueError(_checks.expected("prior", what, tuple(prior.event_shape)))
    batch = posterior.batch_shape
    if _checks.broadcast(prior.batch_shape, batch) is None:
        what = f"a batch that fits the posterior's, {tuple(batch)}"
        raise ValueError(_checks.expected("prior", what, tuple(prior.batch_shape)))
    return posterior, prior


def check_estimator(estimator: Estimator, dataset_posterior: Distribution | None) -> None:
    """Say so when an estimator is unknown, or lacks the posterior that it is to be exact about."""
    _checks.one_of("estimator", estimator, get_args(Estimator))
    if estimator == "exact" and dataset_posterior is None:
        what = "the posterior of the whole data set for estimator='exact'"
        hint = "model.encode(data) infers it."
        raise ValueError(_checks.expected("dataset_posterior", what, None, hint))


def _unrounded(
    z: Tensor, dataset_posterior: Distribution | None, *compared: Distribution
) -> tuple[Tensor, Distribution | None, list[Distribution]]:
    """Take relaxed draws by their logits, the posterior of the data set among the others."""
    if dataset_posterior is None:
        z, moved = unrounded(z, *compared)
        return z, None, moved
    z, (*moved, dataset_posterior) = unrounded(z, *compared, dataset_posterior)
    return z, dataset_posterior, moved


def _aggregate_log_densities(
    posterior: Distribution,
    z: Tensor,
    estimator: Estimator,
    dataset_size: int | None,
    dataset_posterior: Distribution | None,
) -> tuple[Tensor, Tensor]:
    """Estimate log q(z), (B,), and log q(z_j), (B, dim), at each draw."""
    check_estimator(estimator, dataset_posterior)
    shape = (*posterior.batch_shape, *posterior.event_shape)
    if len(shape) != 2 or z.shape != shape:
        what = f"shape (batch, dim), as the posterior's {shape}: one draw for each element"
        raise ValueError(_checks.expected("z", what, tuple(z.shape)))
    if _checks.eager():
        _checks.no_nan("z", z)
    batch = len(z)
    if estimator == "exact" and dataset_posterior is not None:
        event = dataset_posterior.event_shape
        what = f"a posterior over {tuple(posterior.event_shape)}, as posterior is"
        _checks.require(event == posterior.event_shape, "dataset_posterior", what, tuple(event))
        posterior, size = dataset_posterior, dataset_posterior.batch_shape.numel()
        own = others = -math.log(size)
    else:
        whole = isinstance(dataset_size, Integral) and dataset_size >= batch
        if dataset_size is None or not whole:
            what = f"the number of elements of the data set, at least {batch}"
            raise ValueError(_checks.expected("dataset_size", what, repr(dataset_size)))
        size = batch
        own = others = -math.log(dataset_size * batch)
        if estimator == "stratified":
            own, others = _own_and_others(batch, dataset_size)

    def densities(z: Tensor, numbers: Tensor, q: Distribution) -> tuple[Tensor, Tensor]:
        components = log_prob_by_dimension(q, z[:, None], "posterior")  # (rows, size, dim)
        log_weights = z.new_full((len(z), size), others)
        if own != others:  # by a tensor: of a number torch.compile keeps single precision (#186481)
            log_weights = log_weights.scatter(1, numbers[:, None], z.new_full((len(z), 1), own))
        joint = (log_weights + components.sum(-1)).logsumexp(1)
        return joint, (log_weights[..., None] + components).logsumexp(1)

    numbers = torch.arange(batch, device=z.device)
    each = size * z.shape[1]
    joint, by_dimension = by_rows(densities, z, numbers, others=posterior, each=each)
    return joint, by_dimension


def stratified_log_weights(batch_size: int, dataset_size: int) -> Float[Tensor, "batch batch"]:
    r"""Log-weights with which a batch stands for the data set, each row that of one draw.

    .. math:: W_{ii} = \frac{1}{N}, \qquad W_{ij} = \frac{N - 1}{N (B - 1)} \quad (i \neq j)

    Each row adds up to one, and :math:`\mathbb{E} \sum_j W_{ij}\, q(z \mid x_j) = q(z)` when the
    rest of the batch is drawn from the rest of the data set.

    Args:
        batch_size: B.
        dataset_size: N.

    Raises:
        ValueError: If the batch is a single element of a larger data set, which says nothing of
            the rest.
    """
    own, others = _own_and_others(batch_size, dataset_size)
    weights = torch.full((batch_size, batch_size), others, dtype=torch.float64)
    return weights.fill_diagonal_(own)


def _own_and_others(batch_size: int, dataset_size: int) -> tuple[float, float]:
    """Return the log-weight of a draw's own component, and that of each other."""
    what = "a batch of at least 2 elements for estimator='stratified'"
    _checks.require(batch_size > 1 or dataset_size == 1, "z", what, 1)
    share = (1 - 1 / dataset_size) / max(batch_size - 1, 1)
    return -math.log(dataset_size), math.log(share) if share else -math.inf
