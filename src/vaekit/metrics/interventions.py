"""Scores of codes by data that are made to order: a factor is held, and the others are drawn.

What they have in common with the scores on labelled data, `vaekit.metrics.disentanglement` says.
"""

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vaekit import _checks
from vaekit.metrics.inputs import Array, as_points
from vaekit.metrics.means import Mean, described, mean_of
from vaekit.metrics.representation import scikit_learn

__all__ = [
    "BetaVAEScore",
    "FactorVAEScore",
    "GroundTruth",
    "beta_vae_score",
    "encode_factors",
    "factor_vae_score",
]


@runtime_checkable
class GroundTruth(Protocol):
    """Data that are made to order from factors.

    Where they have a length, one below the product of the sizes tells of a part of the whole, which
    the scores refuse: they draw any combination.

    Example:
        >>> class Dots:
        ...     factor_sizes = (8, 8)  # the column and the row of a dot
        ...
        ...     def images(self, indices):
        ...         pictures = torch.zeros(len(indices), 1, 8, 8)
        ...         pictures[torch.arange(len(indices)), 0, indices[:, 1], indices[:, 0]] = 1
        ...         return pictures
        >>> isinstance(Dots(), GroundTruth)
        True
    """

    @property
    def factor_sizes(self) -> Sequence[int]:
        """How many values each factor has."""

    def images(self, indices: Tensor, /) -> Tensor:
        """Make the data of factor indices ``(n, factors)``."""


Representation = Callable[[Tensor], Tensor]


class FactorVAEScore(NamedTuple):
    """The score of FactorVAE.

    Attributes:
        score: The share of the test votes that the majority vote got right, with its binomial
            standard error over them.
        votes: How often each code had the least variance while each factor was fixed, among the
            training votes, ``(dim, factors)``.
        active: Which codes had a vote, ``(dim,)``.
        classifier: What tells the factor: the majority vote of the training part.
    """

    score: Mean
    votes: Tensor
    active: Tensor
    classifier: str = "majority vote"

    def __repr__(self) -> str:
        return described(self)


class BetaVAEScore(NamedTuple):
    """The score of beta-VAE.

    Attributes:
        score: The share of the test votes that the classifier got right, with its binomial
            standard error over them.
        train_accuracy: The share of the training votes that it got right.
        classifier: Which classifier of scikit-learn's it was.
    """

    score: Mean
    train_accuracy: float
    classifier: str

    def __repr__(self) -> str:
        return described(self)


def factor_vae_score(
    data: GroundTruth,
    representation: Representation,
    *,
    train: int = 10_000,
    test: int = 5_000,
    batch: int = 64,
    variance_of: int = 10_000,
    least_deviation: float = 0.05,
    chunk: int = 4096,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> FactorVAEScore:
    r"""Measure whether fixing a factor fixes a code of its own.

    One vote: a batch of data of which one factor is the same and the others are drawn; the code
    whose variance over the batch, relative to that over all data, is least. The factor that most
    training votes of a code come from is what the code stands for; the score is how often that is
    right among the test votes. An unbiased estimate of the accuracy of that majority vote.

    A factor of one value is never the fixed one. If no code is active the score is 0, as the field
    has it.

    Args:
        data: What makes data from factors.
        representation: Makes codes ``(B, dim)`` of data, the posterior's mean by custom
            (``lambda x: model.encode(x).mean``). It should draw nothing, and see the model in
            evaluation mode.
        train: How many votes to train on.
        test: How many votes to test on.
        batch: How many elements make a vote.
        variance_of: How many elements the codes' variances are estimated from.
        least_deviation: A code whose standard deviation is less has no vote.
        chunk: About how many elements are made and encoded at once: memory for data and codes grows
            with this, and the draws do not depend on it.
        seed: Of the draws.
        device: Where the factor indices are handed to ``data.images``.

    Raises:
        TypeError: If ``data`` is no `GroundTruth`.
        ValueError: If the codes hold NaN or infinite values, there are fewer than two factors of
            more than one value, or a number does not fit.

    Example:
        >>> class Data:
        ...     factor_sizes = (4, 5)
        ...     def images(self, indices):
        ...         return indices.float()
        >>> factor_vae_score(Data(), lambda x: x, train=100, test=50, batch=8).score.mean
        1.0

    References:
        H. Kim and A. Mnih, *Disentangling by Factorising*, 2018, section 4.
    """
    sampler = _Sampler(data, representation, chunk, seed, device)
    sizes = [_at_least_two(name, n) for name, n in (("batch", batch), ("variance_of", variance_of))]
    _checks.number("least_deviation", least_deviation, low=0)
    _, everything = sampler.draw(sizes[1])
    variances = everything.var(0)
    active = (variances.sqrt() >= least_deviation) & (variances > 0)
    dim, factors = len(variances), len(sampler.sizes)
    counts = torch.zeros(dim, factors, dtype=torch.long)
    if not active.any():
        return FactorVAEScore(Mean(0.0, 0.0), counts, active)

    def votes(n: int) -> tuple[Tensor, Tensor]:
        fixed, found = [], []
        for factor, (codes,) in sampler.votes(n, sizes[0], sets=1):
            ratio = torch.where(active, codes.var(1) / variances, torch.inf)
            fixed.append(factor)
            found.append(ratio.argmin(1))
        return torch.cat(found), torch.cat(fixed)

    found, fixed = votes(_checks.positive_int("train", train))
    counts.index_put_((found, fixed), torch.ones_like(found), accumulate=True)
    stands_for = counts.argmax(1)
    found, fixed = votes(_at_least_two("test", test))
    return FactorVAEScore(mean_of(stands_for[found] == fixed), counts, active)


def beta_vae_score(
    data: GroundTruth,
    representation: Representation,
    *,
    train: int = 10_000,
    test: int = 5_000,
    batch: int = 64,
    chunk: int = 4096,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> BetaVAEScore:
    r"""Measure whether a linear classifier tells which factor a set of pairs has in common.

    .. math:: \frac{1}{L} \sum_{l=1}^{L} |z_l - z'_l|

    over L pairs of data that have one factor in common and are else independent; multinomial
    logistic regression (scikit-learn's ``LogisticRegression``, its L2 penalty ``C=1``) tells from
    this which factor it is. Its accuracy on the test part is the score: high for codes that are
    merely linear in the factors, so a weak criterion. A factor of one value is never the common
    one.

    Args:
        data: As for `factor_vae_score`.
        representation: As for `factor_vae_score`.
        train: How many sets of pairs to train on.
        test: How many sets of pairs to test on.
        batch: L, how many pairs make a set.
        chunk: As for `factor_vae_score`.
        seed: As for `factor_vae_score`.
        device: As for `factor_vae_score`.

    Raises:
        ImportError: If scikit-learn is missing.
        TypeError: If ``data`` is no `GroundTruth`.
        ValueError: If the codes hold NaN or infinite values, there are fewer than two factors of
            more than one value, or a number does not fit.

    Example:
        >>> class Data:
        ...     factor_sizes = (4, 5)
        ...     def images(self, indices):
        ...         return indices.float()
        >>> beta_vae_score(Data(), lambda x: x, train=100, test=50).score.mean
        1.0

    References:
        I. Higgins and others, *beta-VAE: Learning Basic Visual Concepts with a Constrained
        Variational Framework*, 2017, section 3.
    """
    regression = scikit_learn("linear_model").LogisticRegression(max_iter=10_000)
    sampler = _Sampler(data, representation, chunk, seed, device)
    pairs = _checks.positive_int("batch", batch)

    def votes(n: int) -> tuple[Array, Array]:
        common, differences = [], []
        for factor, (one, other) in sampler.votes(n, pairs, sets=2):
            common.append(factor)
            differences.append((one - other).abs().mean(1))
        return torch.cat(differences).numpy(), torch.cat(common).numpy()

    differences, common = votes(_at_least_two("train", train))
    if len(np.unique(common)) < 2:
        what = "enough sets that two factors are among them"
        raise ValueError(_checks.expected("train", what, train))
    regression.fit(differences, common)
    right = float(regression.score(differences, common))
    differences, common = votes(_at_least_two("test", test))
    accuracy = mean_of(torch.from_numpy(regression.predict(differences) == common))
    return BetaVAEScore(accuracy, right, repr(regression))


def encode_factors(
    data: GroundTruth,
    representation: Representation,
    n: int = 15_000,
    *,
    chunk: int = 4096,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, "n dim"], Int[Tensor, "n factors"]]:
    """Draw factors, make their data, and encode them: what the scores on codes and factors take.

    Args:
        data: As for `factor_vae_score`.
        representation: As for `factor_vae_score`.
        n: How many elements.
        chunk: As for `factor_vae_score`.
        seed: As for `factor_vae_score`.
        device: As for `factor_vae_score`.

    Shape:
        Returns codes ``(n, dim)`` in double precision, and ``(n, factors)`` indices of the factors
        of more than one value; others are left out. The names of those that are kept:
        ``[name for name, size in zip(data.factor_names, data.factor_sizes) if size > 1]``.

    Raises:
        TypeError: If ``data`` is no `GroundTruth`.
        ValueError: If the codes hold NaN or infinite values, there are fewer than two factors of
            more than one value, or a number does not fit.

    Example:
        >>> class Data:
        ...     factor_sizes = (1, 4, 5)
        ...     def images(self, indices):
        ...         return indices.float()
        >>> codes, factors = encode_factors(Data(), lambda x: x, n=1000)
        >>> codes.shape, factors.shape
        (torch.Size([1000, 3]), torch.Size([1000, 2]))
    """
    sampler = _Sampler(data, representation, chunk, seed, device)
    factors, codes = sampler.draw(_checks.positive_int("n", n))
    return codes, factors[:, sampler.open]


class _Sampler:
    """Draws factors and encodes the data that are made from them, a chunk at a time."""

    def __init__(
        self,
        data: GroundTruth,
        representation: Representation,
        chunk: int,
        seed: int,
        device: torch.device | str,
    ) -> None:
        if not isinstance(data, GroundTruth):
            what = "data with factor_sizes and images(indices)"
            raise TypeError(_checks.expected("data", what, type(data).__name__))
        self.data, self.representation, self.device = data, representation, device
        self.chunk = _checks.positive_int("chunk", chunk)
        self.generator = torch.Generator().manual_seed(seed)
        self.sizes = [_checks.positive_int("factor_sizes", size) for size in data.factor_sizes]
        self.open = torch.tensor([i for i, size in enumerate(self.sizes) if size > 1])
        if len(self.open) < 2:
            what = "at least two factors of more than one value"
            raise ValueError(_checks.expected("data", what, f"factor_sizes {tuple(self.sizes)}"))
        every = math.prod(self.sizes)
        count = len(data) if isinstance(data, Sized) else every
        if count < every:  # part of a product, whose images are those of the whole
            what = "every combination of the factors, which this draws from"
            hint = "Of a split, encode the images, and score codes and factors."
            raise ValueError(_checks.expected("data", what, f"{count:,} of {every:,}", hint))

    def factors(self, n: int) -> Tensor:
        draws = [torch.randint(size, (n,), generator=self.generator) for size in self.sizes]
        return torch.stack(draws, 1)

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw factors ``(n, factors)`` and encode their data to ``(n, dim)``."""
        factors = self.factors(n)
        return factors, torch.cat([self.encode(part) for part in factors.split(self.chunk)])

    def votes(self, n: int, batch: int, sets: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield a factor for each vote, ``(m,)``, and sets of codes ``(m, batch, dim)``.

        Of one set, all elements of a vote have that factor in common; of two, each pair has.
        """
        choice = self.open[torch.randint(len(self.open), (n,), generator=self.generator)]
        drawn = self.factors(n * batch * sets).unflatten(0, (sets, n, batch))
        index = choice[:, None, None].expand(n, batch, 1)
        common = drawn[0].gather(2, index)
        if sets == 1:
            common = common[:, :1].expand_as(common)
        made = drawn.scatter(3, index.expand(sets, -1, -1, -1), common.expand(sets, -1, -1, -1))
        many = max(1, self.chunk // batch)
        for factor, part in zip(choice.split(many), made.split(many, 1), strict=True):
            shape = part.shape[1:3]
            yield factor, [self.encode(one.flatten(0, 1)).unflatten(0, shape) for one in part]

    @torch.no_grad()
    def encode(self, factors: Tensor) -> Tensor:
        codes = self.representation(self.data.images(factors.to(self.device)))
        if not isinstance(codes, Tensor) or codes.ndim != 2 or len(codes) != len(factors):
            got = tuple(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__
            what = f"codes of shape ({len(factors)}, dim)"
            raise ValueError(_checks.expected("representation", what, got))
        return torch.from_numpy(as_points("representation", codes))


def _at_least_two(argument: str, value: int) -> int:
    if _checks.positive_int(argument, value) < 2:
        raise ValueError(_checks.expected(argument, "at least 2", value))
    return value
