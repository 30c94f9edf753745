"""How generated data compare with real ones, in the space of any features.

Distances are taken where the features of the real ones are, in double precision.
"""

from collections.abc import Callable
from os import PathLike, fspath
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vaekit import _checks, losses
from vaekit.losses.matching import Kernel
from vaekit.metrics.means import Mean, mean_of

__all__ = [
    "DensityCoverage",
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


class DensityCoverage(NamedTuple):
    """Precision and recall made robust against outliers.

    Attributes:
        density: In how many neighbourhoods of real elements a generated one lies, over the number
            expected; 1 for data of one distribution, and above 1 where samples crowd.
        coverage: The share of real elements whose neighbourhood holds a generated one.
    """

    density: Mean
    coverage: Mean


@torch.no_grad()
def precision_recall(
    real: Shaped[Tensor, "n *event"],
    generated: Shaped[Tensor, "m *event"],
    k: int = 3,
    *,
    features: Features | None = None,
    chunk: int = 1024,
) -> PrecisionRecall:
    r"""Measure precision and recall by balls that reach to each element's k-th neighbour.

    .. math:: \text{precision} = \frac{1}{M} \sum_j \mathbb{1}\!\left[ \exists i:
              \|y_j - x_i\| \le r_k(x_i) \right]

    and recall the same with the two sets exchanged. The standard errors are those over the elements
    judged, the balls being given.

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
    inside_x, _ = _memberships(x, y, k, chunk)
    inside_y, _ = _memberships(y, x, k, chunk)
    return PrecisionRecall(mean_of(inside_x > 0), mean_of(inside_y > 0))


@torch.no_grad()
def density_coverage(
    real: Shaped[Tensor, "n *event"],
    generated: Shaped[Tensor, "m *event"],
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
        section 3.2.
    """
    x, y = _featured(real, generated, features, chunk, more_than=_checks.positive_int("k", k))
    inside, covered = _memberships(x, y, k, chunk)
    return DensityCoverage(mean_of(inside / k), mean_of(covered))


@torch.no_grad()
def frechet_distance(
    real: Shaped[Tensor, "n *event"],
    generated: Shaped[Tensor, "m *event"],
    *,
    features: Features | None = None,
    chunk: int = 1024,
) -> float:
    r"""Squared Fréchet distance of the Gaussians fitted to two sets.

    .. math:: \|\mu_x - \mu_y\|^2 + \operatorname{tr}\!\left( \Sigma_x + \Sigma_y
              - 2\, (\Sigma_x^{1/2} \Sigma_y \Sigma_x^{1/2})^{1/2} \right)

    Over the activations of Inception it is the FID. It depends on the number of elements: the
    estimate lies too high, by an amount of order 1/N that differs between models, so only compare
    values of equal N and M. It comes without a standard error, which of one pair of sets would
    show the spread and hide that bias, as a rule the larger of the two: for the spread, generate
    several sets. `kernel_distance` is unbiased and has an error. Computed in double precision.

    Args:
        real: Real data.
        generated: What a model generated.
        features: A function of a batch of data to be compared by; their values if None.
        chunk: How many elements go through ``features`` at once.

    Shape:
        ``real: (N, *event)``, ``generated: (M, *event)``.

    Returns:
        The distance, in the squared unit of the features.

    Raises:
        ValueError: If there are fewer than two of either, the features differ in number, are not
            those of each element, or hold NaN or infinite values.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(x, x + 3)  # equal covariances: the squared distance of the means
        9.0

    References:
        M. Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, 2017, equation 6; on the
        bias, M. Chong and D. Forsyth, *Effectively Unbiased FID and Inception Score*, 2020.
    """
    x, y = _featured(real, generated, features, chunk, more_than=1)
    moments = [(each.mean(0), each.T.cov().reshape(each.shape[1], -1)) for each in (x, y)]
    (mean_x, cov_x), (mean_y, cov_y) = moments
    root = _square_root(cov_x)
    shared = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    distance = (mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * shared
    return max(0.0, float(distance))


@torch.no_grad()
def kernel_distance(
    real: Shaped[Tensor, "n *event"],
    generated: Shaped[Tensor, "m *event"],
    kernel: Kernel | None = None,
    *,
    features: Features | None = None,
    block: int = 1000,
) -> Mean:
    """Squared maximum mean discrepancy of two sets, block by block.

    Each block's estimate is unbiased whatever its size (see `vaekit.losses.mmd`), and so is their
    mean; it may fall below 0. Unlike the Fréchet distance it can be compared between sets of any
    size. The standard error is that over the blocks.

    Args:
        real: Real data.
        generated: What a model generated.
        kernel: As for `vaekit.losses.mmd`.
        features: A function of a batch of data to be compared by; their values if None.
        block: How many elements of each are compared at once; those left over are left out.

    Shape:
        ``real: (N, *event)``, ``generated: (M, *event)``.

    Raises:
        ValueError: If there are fewer than two of either, the features differ in number, are not
            those of each element, or hold NaN or infinite values.

    Example:
        >>> x = torch.randn(200, 2)
        >>> kernel_distance(x[:100], x[100:], block=50).mean < 0.5
        True

    References:
        M. Binkowski et al., *Demystifying MMD GANs*, 2018, section 4; A. Gretton et al., *A Kernel
        Two-Sample Test*, 2012, lemma 6.
    """
    block = min(_checks.positive_int("block", block), len(real), len(generated))
    if block < 2:
        raise ValueError(_checks.expected("block", "at least 2 elements of each", block))
    x, y = _featured(real, generated, features, block, more_than=1)
    count = min(len(x), len(y)) // block
    pairs = zip(x[: count * block].split(block), y[: count * block].split(block), strict=True)
    return mean_of(torch.stack([losses.mmd(one, other, kernel) for one, other in pairs]))


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
    features=inception_features())`` is the FID that is published. torchmetrics wraps the same
    network, but by default resizes otherwise, so its values differ. Grey pictures are repeated for
    the three colours. Values are rounded to 256 levels, as those of image files are.

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
    _checks.positive_int("batch_size", batch_size)
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
    real: Tensor, generated: Tensor, features: Features | None, chunk: int, more_than: int
) -> tuple[Tensor, Tensor]:
    """Return the features of both, flat and in double precision, once they are known to fit."""
    _checks.positive_int("chunk", chunk)
    found = []
    for argument, data in (("real", real), ("generated", generated)):
        if len(data) <= more_than:
            raise ValueError(
                _checks.expected(argument, f"more than {more_than} elements", len(data))
            )
        pieces = (data,) if features is None else data.split(chunk)
        parts = [_flat(part if features is None else features(part), len(part)) for part in pieces]
        flat = torch.cat(parts)
        _checks.finite(argument, flat)
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


def _memberships(x: Tensor, y: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Count the balls of x in which each y lies, and tell which balls hold any."""
    inside = torch.zeros(len(y), dtype=torch.long, device=x.device)
    covered = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for rows in torch.arange(len(x), device=x.device).split(chunk):
        own = torch.cdist(x[rows], x, compute_mode=_EXACT)
        own[rows - rows[0], rows] = torch.inf  # itself is no neighbour
        radius = own.kthvalue(k, dim=1).values
        reached = torch.cdist(x[rows], y, compute_mode=_EXACT) <= radius[:, None]
        inside += reached.sum(0)
        covered[rows] = reached.any(1)
    return inside, covered


_EXACT = "donot_use_mm_for_euclid_dist"  # by differences: an element is at distance 0 of itself


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
