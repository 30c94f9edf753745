"""How generated data compare with real ones, in the space of any features.

Distances are taken where the features of the real ones are, in double precision.
"""

import math
from collections.abc import Callable, Iterator
from os import PathLike, fspath
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from vaekit import _checks, losses
from vaekit.losses.matching import InverseMultiquadric, Kernel
from vaekit.metrics.inputs import Values, as_tensor, check_size
from vaekit.metrics.means import Mean, described, mean_of

__all__ = [
    "DensityCoverage",
    "FrechetDistance",
    "PrecisionRecall",
    "density_coverage",
    "frechet_distance",
    "inception_features",
    "kernel_distance",
    "precision_recall",
]

Features = Callable[[Tensor], Tensor]


class PrecisionRecall(NamedTuple):
    """How much of what is generated is real, and how much of what is real is generated.

    Attributes:
        precision: The share of generated elements that lie among the real ones; low where samples
            look like nothing that there is.
        recall: The share of real elements that lie among the generated ones; low where kinds of
            data are never generated.
    """

    precision: Mean
    recall: Mean

    def __repr__(self) -> str:
        return described(self)


class DensityCoverage(NamedTuple):
    """Precision and recall made robust against outliers.

    Attributes:
        density: In how many neighbourhoods of real elements a generated one lies, over the number
            expected; 1 for data of one distribution, and above 1 where samples crowd.
        coverage: The share of real elements whose neighbourhood holds a generated one.
    """

    density: Mean
    coverage: Mean

    def __repr__(self) -> str:
        return described(self)


class FrechetDistance(NamedTuple):
    """How far apart the Gaussians fitted to two sets are, and by what.

    Attributes:
        distance: The squared distance: the sum of the two parts, in the squared unit of the
            features. For finite sets too high.
        mean: The part of the means: their squared distance.
        covariance: The part of the covariances: the trace.
        standard_error: How far the distance of two other sets of as many elements would lie from
            this one. It holds nothing of the bias, and is NaN where it was not asked for, or there
            are too few elements.
        real: How many real elements there are.
        generated: How many generated ones.
    """

    distance: float
    mean: float
    covariance: float
    standard_error: float
    real: int
    generated: int

    def __repr__(self) -> str:
        return described(self)


@torch.no_grad()
def precision_recall(
    real: Shaped[Values, "n *event"],
    generated: Shaped[Values, "m *event"],
    k: int = 3,
    *,
    features: Features | None = None,
    chunk: int = 1024,
) -> PrecisionRecall:
    r"""Measure precision and recall by balls that reach to each element's k-th neighbour.

    .. math:: \text{precision} = \frac{1}{M} \sum_j \mathbb{1}\!\left[ \exists i:
              \|y_j - x_i\| \le r_k(x_i) \right]

    and recall the same with the two sets exchanged. The standard errors are those over the elements
    judged, the balls being given: for precision the spread over other generated sets beside these
    real elements, for recall that over other real sets beside these generated ones. The elements
    judged share the balls, so where both sets are others the values differ by more, as a rule.

    Args:
        real: Real data.
        generated: What a model generated, as many as there are real ones, best.
        k: Which neighbour's distance within its own set is the radius of an element's ball.
        features: A function of a batch of data to be compared by; their values if None. What is
            usual for photographs are the activations of a classifier.
        chunk: How many elements are held against all others at once: memory grows with this.

    Shape:
        ``real: (N, *event)``, ``generated: (M, *event)``.

    Raises:
        ValueError: If there are no more than ``k`` of either, the features differ in number, are
            not those of each element, or hold NaN or infinite values.

    Example:
        >>> real = torch.randn(100, 2)
        >>> found = precision_recall(real, real)
        >>> found.precision.mean, found.recall.mean
        (1.0, 1.0)

    References:
        T. Kynkäänniemi et al., *Improved Precision and Recall Metric for Assessing Generative
        Models*, 2019, equations 1 and 2.
    """
    x, y = _featured(real, generated, features, chunk, more_than=_checks.positive_int("k", k))
    inside_x, *_ = _memberships(x, y, k, chunk)
    inside_y, *_ = _memberships(y, x, k, chunk)
    return PrecisionRecall(mean_of(inside_x > 0), mean_of(inside_y > 0))


@torch.no_grad()
def density_coverage(
    real: Shaped[Values, "n *event"],
    generated: Shaped[Values, "m *event"],
    k: int = 5,
    *,
    features: Features | None = None,
    chunk: int = 1024,
) -> DensityCoverage:
    r"""Measure density and coverage by balls about the real elements alone.

    .. math:: \text{density} = \frac{1}{k M} \sum_{i, j} \mathbb{1}[\|y_j - x_i\| \le r_k(x_i)],
              \qquad \text{coverage} = \frac{1}{N} \sum_i \mathbb{1}\!\left[ \exists j:
              \|y_j - x_i\| \le r_k(x_i) \right]

    For N = M elements of one distribution, the expected coverage is close to :math:`1 - 2^{-k}`.

    The standard errors are conditional on the real set: the spread over other generated sets, the
    balls being given. That of density is the error of a mean over the generated elements. Coverage
    is no such mean, for one generated element covers many balls at once: its error is the
    jackknife's, which leaves out each generated element in turn. It is conservative: its square, in
    expectation, is no lower than the variance for M - 1 elements. Generated elements share the
    balls, so another real set adds a spread of its own to both, which may be the larger one.

    Args:
        real: Real data.
        generated: What a model generated.
        k: Which neighbour's distance is the radius of an element's ball.
        features: A function of a batch of data to be compared by; their values if None.
        chunk: How many elements are held against all others at once.

    Shape:
        ``real: (N, *event)``, ``generated: (M, *event)``.

    Raises:
        ValueError: If there are no more than ``k`` of either, the features differ in number, are
            not those of each element, or hold NaN or infinite values.

    Example:
        >>> real = torch.randn(100, 2)
        >>> density_coverage(real, real).coverage.mean
        1.0

    References:
        M. Naeem et al., *Reliable Fidelity and Diversity Metrics for Generative Models*, 2020,
        section 3.2; on the jackknife, B. Efron and C. Stein, *The Jackknife Estimate of Variance*,
        1981.
    """
    x, y = _featured(real, generated, features, chunk, more_than=_checks.positive_int("k", k))
    inside, covered, alone = _memberships(x, y, k, chunk)
    coverage = Mean(mean_of(covered).mean, _jackknife(alone / len(x)))
    return DensityCoverage(mean_of(inside / k), coverage)


@torch.no_grad()
def frechet_distance(
    real: Shaped[Values, "n *event"],
    generated: Shaped[Values, "m *event"],
    *,
    features: Features | None = None,
    chunk: int = 1024,
    blocks: int = 10,
    seed: int = 0,
) -> FrechetDistance:
    r"""Squared Fréchet distance of the Gaussians fitted to two sets.

    .. math:: \|\mu_x - \mu_y\|^2 + \operatorname{tr}\!\left( \Sigma_x + \Sigma_y
              - 2\, (\Sigma_x^{1/2} \Sigma_y \Sigma_x^{1/2})^{1/2} \right)

    Over the activations of Inception it is the FID. It depends on the number of elements: the
    estimate lies too high, by an amount of order 1/N + 1/M that grows with the dimensions and
    differs between models, so only compare values of equal N and M. `kernel_distance` is unbiased.

    The standard error is a jackknife's: both sets are shuffled and cut into blocks, and the
    distance is taken without each pair of blocks in turn. It shows the spread and hides the bias,
    as a rule the larger of the two where features are many. Close to a distance of zero it errs
    upwards. It takes a decomposition more for each block. Computed in double precision.

    Args:
        real: Real data.
        generated: What a model generated.
        features: A function of a batch of data to be compared by; their values if None.
        chunk: How many elements go through ``features`` at once.
        blocks: Into how many blocks the sets are cut for the standard error, fewer where elements
            are; 1 leaves it out.
        seed: What the shuffling is drawn by. torch's own generator stays as it is.

    Shape:
        ``real: (N, *event)``, ``generated: (M, *event)``.

    Returns:
        The distance, in the squared unit of the features, its two parts, its standard error, N
        and M.

    Raises:
        ValueError: If there are fewer than two of either, the features differ in number, are not
            those of each element, or hold NaN or infinite values, or ``blocks`` is not above 0.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> found = frechet_distance(x, x + 3)  # equal covariances
        >>> [f"{each:.3f}" for each in (found.distance, found.mean, found.covariance)]
        ['9.000', '9.000', '0.000']

    References:
        M. Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, 2017, equation 6; on the
        bias, M. Chong and D. Forsyth, *Effectively Unbiased FID and Inception Score*, 2020; on the
        error, J. Shao and C. Wu, *A General Theory for Jackknife Variance Estimation*, 1989.
    """
    _checks.positive_int("blocks", blocks)
    x, y = _featured(real, generated, features, chunk, more_than=1)
    moments = [(each.mean(0), each.T.cov().reshape(each.shape[1], -1)) for each in (x, y)]
    mean, covariance = _frechet_parts(*moments)
    x, y = _shuffled(x, y, seed)
    blocks = min(blocks, len(x), len(y))
    error = math.nan
    if all(len(each) - math.ceil(len(each) / blocks) > 1 for each in (x, y)):
        without = zip(_leaving_out(x, blocks), _leaving_out(y, blocks), strict=True)
        error = _jackknife(torch.tensor([sum(_frechet_parts(*pair)) for pair in without]))
    return FrechetDistance(mean + covariance, mean, covariance, error, len(x), len(y))


@torch.no_grad()
def kernel_distance(
    real: Shaped[Values, "n *event"],
    generated: Shaped[Values, "m *event"],
    kernel: Kernel | Literal["polynomial"] | None = None,
    *,
    features: Features | None = None,
    block: int | None = None,
    chunk: int = 1024,
    seed: int = 0,
) -> Mean:
    r"""Squared maximum mean discrepancy of two sets, block by block.

    Both sets are shuffled and cut into blocks, so that each block of data sorted by class is one of
    all classes. Each block's estimate is unbiased whatever its size (see `vaekit.losses.mmd`), and
    so is their mean (of data in an order of their own: over the seeds); it may fall below 0. Unlike
    the Fréchet distance it can be compared between sets of any size. The standard error is that
    over the blocks; NaN of a single one. The larger the blocks, the lower it is and the less well
    known.

    Unbiased it is for a kernel that does not depend on the data. The default one has the scale of
    the pooled features, the median heuristic, with the multiples of the Wasserstein autoencoder:

    .. math:: k(x, y) = \sum_s \frac{s\, m}{s\, m + \|x - y\|^2}, \qquad
              s \in \{0.1, 0.2, 0.5, 1, 2, 5, 10\}

    with m the square of the median distance of elements that differ, among at most 500 of each set.
    It differs from one pair of sets to another: to compare models, hold them to one kernel.
    ``"polynomial"`` is that of the KID, over the activations of Inception, for d features:

    .. math:: k(x, y) = (x^\top y / d + 1)^3

    Args:
        real: Real data.
        generated: What a model generated.
        kernel: What says how alike two elements are, as for `vaekit.losses.mmd`, or
            ``"polynomial"``; the inverse multiquadric above if None.
        features: A function of a batch of data to be compared by; their values if None.
        block: How many elements of each are compared at once; those left over are left out. If
            None, a tenth of the smaller set, at least 2 and at most 1,000: ten blocks or more, from
            20 elements on.
        chunk: How many elements go through ``features`` at once.
        seed: What the shuffling is drawn by. torch's own generator stays as it is.

    Shape:
        ``real: (N, *event)``, ``generated: (M, *event)``.

    Raises:
        ValueError: If there are fewer than two of either, the features differ in number, are not
            those of each element, or hold NaN or infinite values, ``block`` is below 2, or there is
            no kernel of this name.

    Example:
        >>> x = torch.randn(200, 2)
        >>> kernel_distance(x[:100], x[100:]).mean < 0.5
        True

    References:
        M. Binkowski et al., *Demystifying MMD GANs*, 2018, section 4; A. Gretton et al., *A Kernel
        Two-Sample Test*, 2012, lemma 6 and, on the median, section 8.
    """
    if isinstance(kernel, str):
        _checks.one_of("kernel", kernel, ("polynomial",))
    if block is not None:
        _checks.positive_int("block", block, above=1)
    x, y = _shuffled(*_featured(real, generated, features, chunk, more_than=1), seed)
    least = min(len(x), len(y))
    size = max(2, min(least // 10, 1000)) if block is None else min(block, least)
    count = least // size
    pairs = zip(x[: count * size].split(size), y[: count * size].split(size), strict=True)
    if isinstance(kernel, str):
        found = [_polynomial_mmd(*pair, chunk) for pair in pairs]
    else:
        kernel = kernel or _at_scale_of(x, y)
        found = [losses.mmd(*pair, kernel) for pair in pairs]
    return mean_of(torch.stack(found))


def inception_features(
    dim: int = 2048,
    *,
    weights: str | PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 50,
) -> Features:
    """Make the features that the FID is measured by: activations of Inception.

    The network is torch-fidelity's, whose weights and whose resizing to 299x299 are those of the
    FID's first implementation, so that ``frechet_distance(real, generated,
    features=inception_features()).distance`` is to be set beside published FIDs; that it equals one
    was not tried, for want of the weights. torchmetrics wraps the same network, but by default
    resizes otherwise, so its values differ. Grey pictures are repeated for the three colours.
    Values are rounded to 256 levels, as those of image files are.

    Args:
        dim: The layer, by how many features it has: 64, 192, 768, or the 2048 of the FID.
        weights: A file that holds torch-fidelity's weights; it downloads them if None.
        device: Where the network is to run.
        batch_size: How many pictures go through it at once.

    Returns:
        A function of pictures, for the ``features`` of the metrics here.

    Shape:
        The function takes ``(N, 1, H, W)`` or ``(N, 3, H, W)``, numbers in [0, 1] or bytes, and
        returns ``(N, dim)``.

    Raises:
        ImportError: If torch-fidelity is missing.
        ValueError: If there is no such layer, or ``batch_size`` is not above 0; from the function,
            if the pictures have another shape or values.

    Example:
        >>> features = inception_features()  # doctest: +SKIP
        >>> frechet_distance(real, generated, features=features)  # doctest: +SKIP

    References:
        M. Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, 2017, section 3; C.
        Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*, 2016.
    """
    _checks.one_of("dim", str(dim), ("64", "192", "768", "2048"))
    batch_size = _checks.positive_int("batch_size", batch_size)
    needs = "inception_features", "torch-fidelity", "torch-fidelity"
    networks = _checks.module("torch_fidelity.feature_extractor_inceptionv3", *needs)
    path = None if weights is None else fspath(weights)
    network = networks.FeatureExtractorInceptionV3("inception", [str(dim)], path).to(device).eval()

    @torch.no_grad()
    def features(
        images: Shaped[Tensor, "n channels height width"],
    ) -> Float[Tensor, "n dim"]:
        pictures = _bytes(images).split(batch_size)
        return torch.cat([network(each.to(device))[0].cpu() for each in pictures])

    return features


def _bytes(images: Tensor) -> Tensor:
    """Return pictures of three colours and 256 levels."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        what = "pictures of shape (N, 1, H, W) or (N, 3, H, W)"
        raise ValueError(_checks.expected("images", what, tuple(images.shape)))
    if images.dtype != torch.uint8:
        images = images.float()
        _checks.finite("images", images)
        low, high = images.min().item(), images.max().item()
        if low < 0 or high > 1:
            hint = "What lies outside, clamp(0, 1) brings in."
            got = f"{low:g} to {high:g}"
            raise ValueError(_checks.expected("images", "values in [0, 1], or bytes", got, hint))
        images = (255 * images).round().to(torch.uint8)
    return images.expand(-1, 3, -1, -1)


def _featured(
    real: Values, generated: Values, features: Features | None, chunk: int, more_than: int
) -> tuple[Tensor, Tensor]:
    """Return the features of both, flat and in double precision, once they are known to fit."""
    _checks.positive_int("chunk", chunk)
    found = []
    for argument, given in (("real", real), ("generated", generated)):
        data = as_tensor(argument, given)
        if len(data) <= more_than:
            raise ValueError(
                _checks.expected(argument, f"more than {more_than} elements", len(data))
            )
        pieces = (data,) if features is None else data.split(chunk)
        parts = [_flat(part if features is None else features(part), len(part)) for part in pieces]
        flat = torch.cat(parts)
        _checks.finite(argument, flat)
        if flat.numel():
            check_size(argument, float(flat.min()), float(flat.max()))
        found.append(flat)
    x, y = found[0], found[1].to(found[0].device)
    if x.shape[1] != y.shape[1]:
        what = f"{x.shape[1]} features for each element, as real has"
        raise ValueError(_checks.expected("generated", what, y.shape[1]))
    return x, y


def _flat(features: Tensor, count: int) -> Tensor:
    """Return the features of each element as a vector of its own, in double precision."""
    if features.shape[:1] != (count,):
        what = f"a function that returns features for each of {count} elements"
        raise ValueError(_checks.expected("features", what, f"shape {tuple(features.shape)}"))
    flat = features.detach().reshape(count, -1)
    return (flat.cpu() if flat.device.type == "mps" else flat).double()  # which that device lacks


def _memberships(x: Tensor, y: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count the balls of x in which each y lies, tell which hold any, count where y is alone."""
    inside = torch.zeros(len(y), dtype=torch.long, device=x.device)
    alone = torch.zeros_like(inside)
    covered = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for rows in torch.arange(len(x), device=x.device).split(chunk):
        own = torch.cdist(x[rows], x, compute_mode=_EXACT)
        own[rows - rows[0], rows] = torch.inf  # itself is no neighbour
        radius = own.kthvalue(k, dim=1).values
        reached = torch.cdist(x[rows], y, compute_mode=_EXACT) <= radius[:, None]
        held = reached.sum(1)
        inside += reached.sum(0)
        alone += (reached & (held == 1)[:, None]).sum(0)
        covered[rows] = held > 0
    return inside, covered, alone


_EXACT = "donot_use_mm_for_euclid_dist"  # by differences: an element is at distance 0 of itself


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _frechet_parts(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the parts of the squared distance of two Gaussians, given their moments."""
    (mean_x, cov_x), (mean_y, cov_y) = x, y
    root = _square_root(cov_x)
    shared = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    trace = float(cov_x.trace() + cov_y.trace() - 2 * shared)
    return float((mean_x - mean_y).square().sum()), max(0.0, trace)


def _leaving_out(x: Tensor, blocks: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the mean and the covariance of what is left without each block."""
    middle = x.mean(0)
    centred = x - middle
    scatter = centred.T @ centred
    for block in centred.tensor_split(blocks):
        left = len(x) - len(block)
        shift = -block.sum(0) / left
        rest = scatter - block.T @ block - left * shift.outer(shift)
        yield middle + shift, rest / (left - 1)


def _jackknife(without: Tensor) -> float:
    """Return the standard error of a statistic, given its values, or shifts, without each part."""
    return math.sqrt((len(without) - 1) * float(without.double().var(correction=0)))


def _shuffled(x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Put each set into a random order of its own, the same on all devices."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randperm(len(each), generator=generator) for each in (x, y))
    return x[first.to(x.device)], y[second.to(y.device)]


def _at_scale_of(x: Tensor, y: Tensor) -> InverseMultiquadric:
    """Return the default kernel, with a median distance in place of a standard normal's."""
    apart = F.pdist(torch.cat([x[:500], y[:500]]))
    apart = apart[apart > 0]
    median = apart.median().item() if len(apart) else 1.0
    bandwidths = InverseMultiquadric.of_dim(1).bandwidths  # at a squared distance of 2
    return InverseMultiquadric(*(median * h / math.sqrt(2) for h in bandwidths))


def _polynomial_mmd(x: Tensor, y: Tensor, chunk: int) -> Tensor:
    """Return the unbiased estimate by the kernel of the KID."""

    def kernel(products: Tensor) -> Tensor:
        return (products / x.shape[1] + 1) ** 3

    def mean_of_pairs(one: Tensor, other: Tensor) -> Tensor:
        sums = torch.stack([kernel(rows @ other.T).sum() for rows in one.split(chunk)])
        same = one is other
        own = kernel(one.square().sum(1)).sum() if same else 0
        return (sums.sum() - own) / (len(one) * (len(other) - same))

    return mean_of_pairs(x, x) + mean_of_pairs(y, y) - 2 * mean_of_pairs(x, y)
