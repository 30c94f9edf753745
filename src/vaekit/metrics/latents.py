"""How much of the latent space a model uses."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit import _checks, losses
from vaekit.distributions import DiagonalGaussian, log_prob_by_dimension
from vaekit.distributions.supports import check_comparable
from vaekit.distributions.unrounded import by_logits
from vaekit.metrics.likelihood import batches_of, wide
from vaekit.metrics.means import Mean, described, mean_of
from vaekit.networks import takes_context, with_context
from vaekit.training.measures import measuring
from vaekit.vae import VAE, draw_from

__all__ = [
    "ActiveUnits",
    "KLByDimension",
    "MutualInformation",
    "PosteriorCollapse",
    "RateParts",
    "active_units",
    "aggregated_posterior_gap",
    "decompose_rate",
    "kl_by_dimension",
    "mutual_information",
    "posterior_collapse",
]


class ActiveUnits(NamedTuple):
    """Which latent dimensions answer to the data.

    Attributes:
        number: How many do.
        active: Which do, ``(dim,)``.
        variance: Of each dimension's posterior mean over the data, ``(dim,)``.
        standard_error: Of each variance over the elements, ``(dim,)``, by the delta method. A
            dimension whose variance is within a few of these of the threshold is undecided.
    """

    number: int
    active: Tensor
    variance: Tensor
    standard_error: Tensor

    def __repr__(self) -> str:
        return described(self)


class KLByDimension(NamedTuple):
    """How many nats each latent dimension carries.

    Attributes:
        total: Their sum, with its standard error over the elements.
        mean: Of each dimension over the data, ``(dim,)``, in nats.
        standard_error: Of each mean, over the elements, ``(dim,)``.
        order: The dimensions, the one that carries most first, ``(dim,)``.
    """

    total: Mean
    mean: Tensor
    standard_error: Tensor
    order: Tensor

    def __repr__(self) -> str:
        return described(self)


class MutualInformation(NamedTuple):
    """How many nats the codes tell about which element of the data they are of.

    Attributes:
        nats: The estimate, with its standard error over the draws.
        cap: The logarithm of the number of elements, which it cannot exceed.
    """

    nats: Mean
    cap: float

    def __repr__(self) -> str:
        return described(self)


class RateParts(NamedTuple):
    """The rate and its parts, in nats, each with its standard error over the draws.

    ``rate = mutual_information + aggregated_gap``, and, where all four are there,
    ``aggregated_gap = total_correlation + dimension_wise_kl``.

    Attributes:
        rate: The mean divergence of the posterior from the prior, estimated by the draws.
        mutual_information: What the codes tell about the element that they are of.
        aggregated_gap: The divergence of the aggregated posterior from the prior.
        total_correlation: How far the dimensions of the aggregated posterior are from being
            independent; None where the posterior has no densities by dimension.
        dimension_wise_kl: The divergences of its dimensions from the prior's, summed; None where
            posterior or prior has no densities by dimension.
        cap: The logarithm of the number of elements, which mutual information cannot exceed.
    """

    rate: Mean
    mutual_information: Mean
    aggregated_gap: Mean
    total_correlation: Mean | None
    dimension_wise_kl: Mean | None
    cap: float

    def __repr__(self) -> str:
        return described(self)


class PosteriorCollapse(NamedTuple):
    """Which dimensions say nothing about the data, and whether the decoder listens to the rest.

    ``print`` shows it in words.

    Attributes:
        collapsed: Which dimensions are not in use, ``(dim,)``: those whose posterior means do not
            vary, and those whose divergence from the prior is nothing.
        units: The dimensions by the variance of their posterior means.
        kl: The mean divergence of the posterior from the prior, in nats.
        by_dimension: The same for each dimension; None where posterior or prior has no densities
            by dimension.
        mutual_information: What the codes tell about the element that they are of.
        shuffling: By how many nats reconstruction gets worse where each element is decoded from
            another's code. Each element is in two of these differences, by itself and by its code;
            the standard error is that of the mean of such.
        threshold: Of the variance.
        kl_threshold: Of the divergence, in nats.
    """

    collapsed: Tensor
    units: ActiveUnits
    kl: Mean
    by_dimension: KLByDimension | None
    mutual_information: MutualInformation
    shuffling: Mean
    threshold: float
    kl_threshold: float

    @property
    def verdict(self) -> str:
        """``"none"``, ``"partly"`` or ``"wholly"`` collapsed."""
        if self.collapsed.all():
            return "wholly"
        return "partly" if self.collapsed.any() else "none"

    @property
    def decoder_uses_codes(self) -> bool:
        """Whether shuffled codes cost more than three standard errors."""
        return self.shuffling.mean > 3 * self.shuffling.standard_error

    def __str__(self) -> str:
        """Say it in words."""
        dim, unused = len(self.collapsed), self.collapsed.nonzero().flatten().tolist()
        used = f"{dim - len(unused)} of {dim} dimensions in use"
        verdict = {
            "none": f"Not collapsed: {used}.",
            "partly": f"Partly collapsed: {used}; not in use: {_listed(unused)}.",
            "wholly": f"Wholly collapsed: {used}.",
        }[self.verdict]
        counts = f"{self.units.number} by the variance of their means (above {self.threshold:g})"
        nats = f"{self.kl} nats"
        if self.by_dimension is not None:
            mean, order = self.by_dimension.mean, self.by_dimension.order.tolist()
            by_kl = int((mean > self.kl_threshold).sum())
            counts += f", {by_kl} by their KL (above {self.kl_threshold:g} nats)"
            nats += f"; by dimension {_listed([f'{j}: {mean[j]:.3g}' for j in order])}"
        information = self.mutual_information
        shuffled = f"with shuffled codes reconstruction is worse by {self.shuffling} nats"
        listens = (
            "uses the codes" if self.decoder_uses_codes else "does not noticeably use the codes"
        )
        lines = [
            verdict,
            f"Active dimensions: {counts}.",
            f"Divergence from the prior: {nats}.",
            f"Mutual information of data and codes: {information.nats} nats, "
            f"of at most {information.cap:.4g}.",
            f"The decoder {listens}: {shuffled}.",
        ]
        if self.verdict == "partly":
            lines.append(
                "Some dimensions out of use are common, and harmless where reconstruction is good."
            )
        if self.verdict != "none" or not self.decoder_uses_codes:
            lines.append(_HELP)
        return "\n".join(lines)


_HELP = (
    "What usually helps: a lower weight of the KL, 0.5 * KL(); one that warms up, "
    "schedules.Linear(0, 1, steps) * KL(); free bits, objectives.FreeBits(0.1) in place of the KL; "
    "a decoder that can do less by itself."
)


@torch.no_grad()
def active_units(
    model: VAE, data: Any, *, threshold: float = 0.01, batch_size: int = 512
) -> ActiveUnits:
    r"""Count the latent dimensions whose posterior means vary with the data.

    .. math:: \operatorname{Var}_x \, \mathbb{E}_{q(z_j \mid x)}[z_j] > \delta

    The variance is the unbiased one over the data.

    Args:
        model: The model, measured in evaluation mode.
        data: As for `vaekit.fit`.
        threshold: :math:`\delta`, above 0.
        batch_size: How many elements are gone through at once, where the data come unbatched.

    Raises:
        TypeError: If the data are none that can be gone through, or the posterior has no mean.
        ValueError: If there are fewer than two elements, a mean is not finite, or ``threshold`` is
            not above 0.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> active_units(model, test).variance.shape
        torch.Size([2])

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        section 5.2.
    """
    _checks.number("threshold", threshold, above=0)
    means = []
    with measuring(model, 0) as device:
        for x, _, context in batches_of(model, data, batch_size, device):
            means.append(_mean(model.encode(x, context)).cpu())
    return _active(means, threshold)


@torch.no_grad()
def kl_by_dimension(
    model: VAE, data: Any, *, batch_size: int = 512, seed: int = 0
) -> KLByDimension:
    r"""Measure the divergence of each latent dimension from the prior's.

    .. math:: \frac{1}{N} \sum_n \operatorname{KL}(q(z_j \mid x_n) \,\|\, p(z_j))

    By the closed form where there is one; elsewhere from one draw for each element, unbiased.

    Args:
        model: The model, measured in evaluation mode, whose posterior and prior have independent
            dimensions.
        data: As for `vaekit.fit`.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        seed: Of the draws, where there are any.

    Raises:
        TypeError: If the data are none that can be gone through, or posterior or prior has no
            densities by dimension.
        ValueError: If there are none.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> found = kl_by_dimension(model, test)
        >>> bool(found.mean[found.order[0]] >= found.mean[found.order[1]])
        True
    """
    parts = []
    with measuring(model, seed) as device:
        for x, _, context in batches_of(model, data, batch_size, device):
            out = model(x, context=context)
            parts.append(losses.kl_by_dimension(out.posterior, out.prior, z=out.z).cpu())
    return _by_dimension(parts)


@torch.no_grad()
def mutual_information(
    model: VAE,
    data: Any,
    *,
    draws: int = 2000,
    batch_size: int = 512,
    chunk: int = 128,
    seed: int = 0,
) -> MutualInformation:
    r"""Estimate the mutual information of data and codes, over the elements of a data set.

    .. math:: I_q(x; z) = \mathbb{E}_{q(x, z)} \left[ \log q(z \mid x) - \log q(z) \right],
              \qquad q(x_n, z) = \frac{1}{N} q(z \mid x_n), \quad
              q(z) = \frac{1}{N} \sum_n q(z \mid x_n)

    Each draw is of an element chosen at random, with replacement, and its posterior; the mixture
    is the exact one over all N elements. For this data set the estimate is so unbiased, whatever
    the number of draws, and no draw lies above :math:`\log N`. As an estimate for the population
    that the data were drawn from it lies too low: it has the same cap, which it reaches wherever
    the posteriors do not overlap, so compare values of equal N.

    It takes ``draws * N`` densities, and memory for the N posteriors and for
    ``chunk * batch_size * dim`` values.

    Args:
        model: The model, measured in evaluation mode, whose posterior has a density. The prior and
            the decoder are not asked.
        data: As for `vaekit.fit`.
        draws: How many codes are drawn.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        chunk: How many draws are held against a batch of posteriors at once.
        seed: Of the draws.

    Returns:
        The estimate and its cap, in nats.

    Raises:
        TypeError: If the data are none that can be gone through, or the posterior has no density.
        ValueError: If there are none, a code is not finite, or a number is not above 0.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> found = mutual_information(model, test, draws=100)
        >>> found.nats.mean < found.cap
        True

    References:
        M. D. Hoffman and M. J. Johnson, *ELBO Surgery: Yet Another Way to Carve Up the Variational
        Evidence Lower Bound*, 2016.
    """
    with measuring(model, seed) as device:
        posteriors = _posteriors(model, data, batch_size, device)
        return _information(_drawn(by_logits(*posteriors), draws, chunk))


def aggregated_posterior_gap(
    model: VAE,
    data: Any,
    *,
    draws: int = 2000,
    batch_size: int = 512,
    chunk: int = 128,
    seed: int = 0,
) -> Mean:
    r"""Estimate how far all posteriors together are from the prior.

    .. math:: \operatorname{KL}(q(z) \,\|\, p(z)), \qquad
              q(z) = \frac{1}{N} \sum_n q(z \mid x_n)

    What sampling from the prior suffers from: codes that the decoder was never trained on. By the
    draws of `mutual_information`, and as unbiased. It falls short of the rate by the mutual
    information; that of few elements lies too high for the population that they were drawn from.

    Args:
        model: The model, measured in evaluation mode, whose prior is one for all elements.
        data: As for `vaekit.fit`.
        draws: How many codes are drawn.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        chunk: How many draws are held against a batch of posteriors at once.
        seed: Of the draws.

    Returns:
        The estimate, in nats.

    Raises:
        TypeError: As for `decompose_rate`.
        ValueError: As for `decompose_rate`.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> found = aggregated_posterior_gap(model, test, draws=100)
        >>> abs(found.mean - decompose_rate(model, test, draws=100).aggregated_gap.mean) < 1e-4
        True

    References:
        M. D. Hoffman and M. J. Johnson, *ELBO Surgery: Yet Another Way to Carve Up the Variational
        Evidence Lower Bound*, 2016.
    """
    return _rate(model, data, draws, batch_size, chunk, seed, parts=False).aggregated_gap


def decompose_rate(
    model: VAE,
    data: Any,
    *,
    draws: int = 2000,
    batch_size: int = 512,
    chunk: int = 128,
    seed: int = 0,
) -> RateParts:
    r"""Split the rate into mutual information and the aggregated posterior's distance to the prior.

    .. math:: \frac{1}{N} \sum_n \operatorname{KL}(q(z \mid x_n) \,\|\, p(z)) = I_q(x; z)
              + \underbrace{\operatorname{KL}\Big( q(z) \,\Big\|\, \prod_j q(z_j) \Big)
              + \sum_j \operatorname{KL}(q(z_j) \,\|\, p(z_j))}_{\operatorname{KL}(q(z) \| p(z))}

    By the draws of `mutual_information`, with the exact mixture, and so each part unbiased for this
    data set; on the same draws they add up. The rate is the Monte Carlo one, by densities: for
    relaxed discrete codes that is not the closed form of the classes, which `elbo` reports.
    The parts by dimension take several times as long as the rest, which `mutual_information` and
    `aggregated_posterior_gap` do without.

    Args:
        model: The model, measured in evaluation mode, whose prior is one for all elements.
        data: As for `vaekit.fit`.
        draws: How many codes are drawn.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        chunk: How many draws are held against a batch of posteriors at once.
        seed: Of the draws.

    Returns:
        The rate and its parts, in nats.

    Raises:
        TypeError: If the data are none that can be gone through, the posterior has no density, or
            the prior's is of another kind.
        ValueError: If there are none, a code is not finite, a number is not above 0, or the prior
            takes a context.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> found = decompose_rate(model, test, draws=100)
        >>> rest = found.mutual_information.mean + found.aggregated_gap.mean
        >>> abs(found.rate.mean - rest) < 1e-10
        True

    References:
        M. D. Hoffman and M. J. Johnson, *ELBO Surgery: Yet Another Way to Carve Up the Variational
        Evidence Lower Bound*, 2016; R. T. Q. Chen et al., *Isolating Sources of Disentanglement in
        Variational Autoencoders*, 2018, equation 2.
    """
    return _rate(model, data, draws, batch_size, chunk, seed, parts=True)


@torch.no_grad()
def posterior_collapse(
    model: VAE,
    data: Any,
    *,
    threshold: float = 0.01,
    kl_threshold: float = 0.01,
    draws: int = 2000,
    batch_size: int = 512,
    chunk: int = 128,
    seed: int = 0,
) -> PosteriorCollapse:
    r"""Say whether the posterior has collapsed onto the prior, and whether the decoder uses z.

    .. math:: \operatorname{Var}_x \, \mathbb{E}_{q(z_j \mid x)}[z_j] \leq \delta
              \qquad \text{or} \qquad
              \frac{1}{N} \sum_n \operatorname{KL}(q(z_j \mid x_n) \,\|\, p(z_j)) \leq \epsilon

    calls a dimension collapsed; where posterior or prior has no densities by dimension, the first
    alone. A dimension that tells of x by its variance alone is missed. Whether the decoder listens
    is measured by

    .. math:: \frac{1}{N} \sum_n \log p(x_n \mid z_n) - \log p(x_n \mid z_{\pi(n)}),
              \qquad z_n \sim q(z \mid x_n),

    where :math:`\pi` gives each element another one's code: 0 in expectation for a decoder that
    does not. The values are those of `active_units`, `kl_by_dimension` and `mutual_information`.

    Args:
        model: The model, measured in evaluation mode.
        data: As for `vaekit.fit`; they are gone through twice.
        threshold: :math:`\delta`, above 0.
        kl_threshold: :math:`\epsilon` in nats, above 0.
        draws: How many codes are drawn for the mutual information.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        chunk: How many draws are held against a batch of posteriors at once.
        seed: Of all draws and of the shuffling.

    Returns:
        What was found; its ``str`` is a report in words.

    Raises:
        TypeError: If the data are none that can be gone through, or the posterior has no density,
            no mean or no ``rsample``.
        ValueError: If there are fewer than two elements, the data are an iterator, a mean is not
            finite, or a number is not above 0.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> found = posterior_collapse(model, test, draws=100)  # of a model that is not trained
        >>> str(found).splitlines()[0]
        'Wholly collapsed: 0 of 2 dimensions in use.'

    References:
        J. Lucas, G. Tucker, R. Grosse and M. Norouzi, *Don't Blame the ELBO! A Linear VAE
        Perspective on Posterior Collapse*, 2019; Y. Burda, R. Grosse and R. Salakhutdinov,
        *Importance Weighted Autoencoders*, 2016, section 5.2.
    """
    _checks.number("threshold", threshold, above=0)
    _checks.number("kl_threshold", kl_threshold, above=0)
    if isinstance(data, Iterator):
        what = "data that can be gone through twice"
        raise ValueError(_checks.expected("data", what, f"a {type(data).__name__}"))
    posteriors: list[Distribution] = []
    means, drawn, totals, parts, worse = [], [], [], [], []
    with measuring(model, seed) as device:
        for x, _, context in batches_of(model, data, batch_size, device):
            posterior, prior = model.encode(x, context), with_context(model.prior, context)
            z = draw_from(posterior)
            total, by_dimension = _divergences(posterior, prior, z)
            posteriors.append(posterior)
            means.append(_mean(posterior).cpu())
            drawn.append(z)
            totals.append(total.cpu())
            if by_dimension is not None:
                parts.append(by_dimension.cpu())
        units = _active(means, threshold)
        information = _information(_drawn(by_logits(*posteriors), draws, chunk))
        codes, start = torch.cat(drawn), 0
        another = _another(len(codes))
        others = codes[another]
        for x, target, context in batches_of(model, data, batch_size, device):
            own, other = draw_from(model.encode(x, context)), others[start : start + len(x)]
            right, wrong = (
                losses.reconstruction(with_context(model.decoder, context, z), target)
                for z in (own, other)
            )
            worse.append((wide(wrong) - wide(right)).cpu())
            start += len(x)
    collapsed, found = ~units.active, _by_dimension(parts) if parts else None
    if found is not None:
        collapsed = collapsed | (found.mean <= kl_threshold)
    return PosteriorCollapse(
        collapsed,
        units,
        mean_of(torch.cat(totals)),
        found,
        information,
        _mean_along(torch.cat(worse), another),
        threshold,
        kl_threshold,
    )


class _Codes(NamedTuple):
    """Codes drawn from all posteriors together, and their log-densities in double precision."""

    z: Tensor
    given: Tensor  # log q(z | x), of the element that each was drawn of
    aggregated: Tensor  # log q(z)
    by_dimension: Tensor | None  # log q(z_j)
    elements: int


@torch.no_grad()
def _rate(
    model: VAE, data: Any, draws: int, batch_size: int, chunk: int, seed: int, *, parts: bool
) -> RateParts:
    with measuring(model, seed) as device:
        if takes_context(model.prior):
            what = "a model whose prior is one for all elements"
            raise ValueError(_checks.expected("model", what, "one whose prior takes a context"))
        posteriors = _posteriors(model, data, batch_size, device)
        prior = with_context(model.prior, None)
        check_comparable(posteriors[0], prior)
        *posteriors, prior = by_logits(*posteriors, prior)
        codes = _drawn(posteriors, draws, chunk, parts=parts)
        pieces = codes.z.split(chunk)
        log_prior = torch.cat([wide(prior.log_prob(z)).cpu() for z in pieces])
        correlation = divergences = None
        if codes.by_dimension is not None:
            correlation = mean_of(codes.aggregated - codes.by_dimension.sum(-1))
            if _has_dimensions(prior, codes.z[:1]):
                by_dimension = [wide(log_prob_by_dimension(prior, z)).cpu() for z in pieces]
                divergences = mean_of((codes.by_dimension - torch.cat(by_dimension)).sum(-1))
    information = _information(codes)
    return RateParts(
        mean_of(codes.given - log_prior),
        information.nats,
        mean_of(codes.aggregated - log_prior),
        correlation,
        divergences,
        information.cap,
    )


def _posteriors(model: VAE, data: Any, batch_size: int, device: torch.device) -> list[Distribution]:
    """Infer all posteriors once: data that are drawn anew would give others the second time."""
    batches = batches_of(model, data, batch_size, device)
    return [model.encode(x, context) for x, _, context in batches]


def _drawn(
    posteriors: Sequence[Distribution], draws: int, chunk: int, *, parts: bool = False
) -> _Codes:
    """Draw codes, and take their densities in every posterior, a batch of these at a time."""
    _checks.positive_int("draws", draws)
    _checks.positive_int("chunk", chunk)
    sizes = [posterior.batch_shape[0] for posterior in posteriors]
    elements = sum(sizes)
    z, owners = _draw(posteriors, sizes, draws)
    _checks.finite("data: codes", z)
    parts = parts and _has_dimensions(posteriors[0], z[:1])
    found = []
    for values, mine in zip(z.split(chunk), owners.split(chunk), strict=True):
        given = torch.full((len(values),), -math.inf, dtype=torch.double)
        aggregated, start = given.clone(), 0
        by_dimension = given[:, None].repeat(1, z.shape[-1] if parts else 0)
        for posterior, size in zip(posteriors, sizes, strict=True):
            if parts:
                split = log_prob_by_dimension(posterior, values[:, None])
                by_dimension = torch.logaddexp(by_dimension, wide(split.logsumexp(1)).cpu())
                each = wide(split.sum(-1))
            else:
                each = wide(_under_each(posterior, values))
            aggregated = torch.logaddexp(aggregated, each.logsumexp(1).cpu())
            here = ((mine >= start) & (mine < start + size)).nonzero().squeeze(1)
            given[here] = each[here, mine[here] - start].double().cpu()
            start += size
        found.append((given, aggregated, by_dimension))
    given, aggregated, by_dimension = map(torch.cat, zip(*found, strict=True))
    log_n = math.log(elements)
    return _Codes(z, given, aggregated - log_n, by_dimension - log_n if parts else None, elements)


def _draw(
    posteriors: Sequence[Distribution], sizes: Sequence[int], draws: int
) -> tuple[Tensor, Tensor]:
    """Choose elements with replacement, and draw a code of each; return which elements, rising."""
    owners = torch.randint(sum(sizes), (draws,)).sort().values
    parts, start = [], 0
    for posterior, size in zip(posteriors, sizes, strict=True):
        rows = owners[(owners >= start) & (owners < start + size)] - start
        if len(rows):
            times = rows.bincount()
            turn = torch.arange(len(rows)) - (times.cumsum(0) - times)[rows]
            parts.append(posterior.sample(torch.Size([int(times.max())]))[turn, rows])
        start += size
    return torch.cat(parts), owners


def _under_each(posterior: Distribution, z: Tensor) -> Tensor:
    """Take the log-density of each draw under each posterior of a batch, ``(draws, batch)``."""
    if isinstance(posterior, DiagonalGaussian):
        return posterior.log_prob_under_each(z)
    log_prob: Tensor = posterior.log_prob(z[:, None].expand(-1, *posterior.batch_shape, -1))
    return log_prob


def _information(codes: _Codes) -> MutualInformation:
    return MutualInformation(mean_of(codes.given - codes.aggregated), math.log(codes.elements))


def _has_dimensions(distribution: Distribution, z: Tensor) -> bool:
    """Tell whether a distribution has densities by dimension."""
    try:
        log_prob_by_dimension(distribution, z)
    except TypeError:
        return False
    return True


def _divergences(
    posterior: Distribution, prior: Distribution, z: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the KL of each element, and by dimension where there is such."""
    try:
        by_dimension = losses.kl_by_dimension(posterior, prior, z=z)
    except TypeError:
        return losses.kl_divergence(posterior, prior, z=z), None
    return by_dimension.sum(-1), by_dimension


def _mean(posterior: Distribution) -> Tensor:
    try:
        return posterior.mean
    except NotImplementedError:
        what = "one whose posterior has a mean"
        raise TypeError(_checks.expected("model", what, repr(posterior))) from None


def _active(means: Sequence[Tensor], threshold: float) -> ActiveUnits:
    mean = torch.cat(list(means)).double()
    _checks.finite("data: posterior means", mean)
    if len(mean) < 2:
        raise ValueError(_checks.expected("data", "at least two elements", len(mean)))
    variance = mean.var(0)
    active = variance > threshold
    error = (mean - mean.mean(0)).square().std(0) / len(mean) ** 0.5
    return ActiveUnits(int(active.sum()), active, variance, error)


def _by_dimension(parts: Sequence[Tensor]) -> KLByDimension:
    kl = torch.cat(list(parts)).double()
    mean = kl.mean(0)
    error = kl.std(0) / len(kl) ** 0.5 if len(kl) > 1 else torch.full_like(mean, torch.nan)
    return KLByDimension(mean_of(kl.sum(1)), mean, error, mean.argsort(descending=True))


def _another(n: int) -> Tensor:
    """Give each of n elements another one at random: the next along a ring of all."""
    ring = torch.randperm(n)
    return torch.empty_like(ring).scatter_(0, ring, ring.roll(1))


def _mean_along(values: Tensor, another: Tensor) -> Mean:
    """Take the mean of values each of an element and another one, by which it is tied to that's.

    The terms are dependent on the next along the ring, and on no other: the variance of the mean is
    :math:`(g_0 + 2 g_1) / N`, of the variance of a term and its covariance with the next. That is
    not let count below 0, as it may be estimated where the elements are few.
    """
    values = values.double()
    mean, error = mean_of(values)
    centred = values - values.mean()
    covariance = (centred * centred[another]).mean().clamp_min(0).item()
    return Mean(mean, math.sqrt(error**2 + 2 * covariance / len(values)))


def _listed(items: Sequence[object], at_most: int = 10) -> str:
    text = ", ".join(map(str, items[:at_most]))
    return text + (f" and {len(items) - at_most} more" if len(items) > at_most else "")
