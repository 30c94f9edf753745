"""Objectives: terms, and sums of terms, over what one forward pass inferred.

``Reconstruction() + 4 * KL()`` is an objective. A term is a module; one that has parameters of its
own holds them apart from the model's.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from numbers import Real
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vaekit import _checks, losses
from vaekit.distributions import DiagonalGaussian
from vaekit.vae import VAEOutput

__all__ = ["KL", "DecomposedKL", "Loss", "Objective", "Reconstruction", "Term", "TotalCorrelation"]

Schedule = Callable[[int], float]
Weight = float | Schedule


class Loss(NamedTuple):
    """The value of an objective.

    Attributes:
        total: What is minimised, a scalar in nats.
        terms: Each named term, a scalar in nats, **without** its weight.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    r"""A weighted sum of terms, each the mean over the batch.

    .. math:: \mathcal{L}(\text{step}) = \sum_t w_t(\text{step}) \cdot \frac{1}{B} \sum_b \ell_t(b)

    Made by ``+`` and ``*`` rather than by hand.

    Args:
        terms: Pairs of a term and its weight: a number, or a function of the step.

    Raises:
        ValueError: If two terms have one name, or a weight is negative or not finite.

    Example:
        >>> objective = vk.Reconstruction() + vk.schedules.Linear(0, 4, steps=1000) * vk.KL()
        >>> objective
        Reconstruction() + Linear(start=0, end=4, steps=1000) * KL()
        >>> objective.weights(step=500)
        {'reconstruction': 1.0, 'kl': 2.0}
    """

    def __init__(self, *terms: "tuple[Term, Weight]") -> None:
        super().__init__()
        names = [name for term, _ in terms for name in term.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            hint = "Add their weights, or give one a name of its own: KL(name='other')."
            raise ValueError(_checks.expected("terms", "one term of each name", twice, hint))
        for term, weight in terms:
            if not callable(weight):
                _checks.number(f"weight of {term!r}", weight, low=0)
        self.terms = nn.ModuleList(term for term, _ in terms)
        self._pairs = list(terms)

    @property
    def pairs(self) -> "list[tuple[Term, Weight]]":
        """The terms with their weights."""
        return self._pairs

    def weights(self, step: int = 0) -> dict[str, float]:
        """Return the weight of each named term at a step.

        Raises:
            ValueError: If a schedule returns a negative number, or one that is not finite.
        """
        found = {}
        for term, weight in self._pairs:
            outer = _at(weight, step, term)
            for name, inner in term.weights(step).items():
                found[name] = outer * inner
        return found

    def values(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> dict[str, Tensor]:
        """Return each named term without its weight, the mean over the batch, in nats."""
        return {
            name: value.mean() if value.ndim else value
            for term, _ in self.pairs
            for name, value in term.values(out, x).items()
        }

    def total(self, values: Mapping[str, Tensor], step: int = 0) -> Float[Tensor, ""]:
        """Weigh the named terms and add them up."""
        weighed = [
            values[name] if weight == 1 else weight * values[name]
            for name, weight in self.weights(step).items()
        ]
        total: Tensor = sum(weighed[1:], weighed[0])
        return total

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."], step: int = 0) -> Loss:
        """Return the total and every named term.

        Args:
            out: What the model inferred.
            x: The data to be explained, ``(B, *event)``.
            step: The training step, for the schedules.
        """
        values = self.values(out, x)
        return Loss(self.total(values, step), values)

    def __add__(self, other: "Objective | Term") -> "Objective":
        if isinstance(other, Objective | Term):
            return Objective(*self.pairs, *_pairs(other))
        return NotImplemented

    def __radd__(self, other: object) -> "Objective":
        if other == 0:  # where sum() starts
            return self
        return NotImplemented

    def __mul__(self, factor: Weight) -> "Objective":
        _check_weight(factor)
        return Objective(*((term, _product(factor, weight)) for term, weight in self.pairs))

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return " + ".join(
            repr(term) if weight == 1 else f"{_describe(weight)} * {term!r}"
            for term, weight in self.pairs
        )


class Term(nn.Module, ABC):
    """One quantity that an objective adds up.

    To add one: write the function in `vaekit.losses`, then a term that calls it in ``forward``.

    Args:
        name: What the term is called in results, in a history and in error messages.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name == "loss":
            raise ValueError(_checks.expected("name", "another than the total's", repr(name)))
        self.name = name

    @abstractmethod
    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Tensor:
        """Return ``(B,)`` values in nats, or a scalar where the term is a batch's statistic."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what the term adds."""
        return (self.name,)

    def values(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> dict[str, Tensor]:
        """Return every named value of the term, without weights."""
        return {self.name: self(out, x)}

    def weights(self, step: int) -> dict[str, float]:
        """Return the weight of every named value inside the term."""
        return dict.fromkeys(self.names, 1.0)

    def __add__(self, other: "Objective | Term") -> Objective:
        return Objective((self, 1)) + other

    def __radd__(self, other: object) -> Objective:
        return other + Objective((self, 1))

    def __mul__(self, weight: Weight) -> Objective:
        _check_weight(weight)
        return Objective((self, weight))

    __rmul__ = __mul__

    def _options(self) -> dict[str, object]:
        """Return what ``repr`` shows where it is not None."""
        return {}

    def __repr__(self) -> str:
        shown = {key: value for key, value in self._options().items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


class Reconstruction(Term):
    """`vaekit.losses.reconstruction` as a term, the mean over draws where there are several.

    Args:
        name: What the term is called.

    Example:
        >>> 2 * Reconstruction()
        2 * Reconstruction()
    """

    def __init__(self, name: str = "reconstruction") -> None:
        super().__init__(name)

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the negative log-likelihood of each element, ``(B,)``."""
        value = losses.reconstruction(out.likelihood, x)
        return value.mean(0) if value.ndim > 1 else value


class KL(Term):
    """`vaekit.losses.kl_divergence` of posterior from prior, as a term.

    Args:
        method: ``"analytic"``, ``"monte_carlo"``, or None for the analytic one where there is one.
        name: What the term is called.

    Example:
        >>> Reconstruction() + 4 * KL()
        Reconstruction() + 4 * KL()
    """

    def __init__(self, method: losses.KLMethod | None = None, name: str = "kl") -> None:
        super().__init__(name)
        if method is not None:
            _checks.one_of("method", method, ("analytic", "monte_carlo"))
        self.method = method

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the divergence of each element, ``(B,)``."""
        return losses.kl_divergence(out.posterior, out.prior, z=out.z, method=self.method)

    def _options(self) -> dict[str, object]:
        return {"method": self.method}


class _Aggregate(Term):
    """What the terms share that need an estimate of the aggregated posterior q(z)."""

    def __init__(
        self,
        estimator: losses.Estimator,
        dataset_size: int | None,
        dataset_posterior: DiagonalGaussian | None,
        name: str,
    ) -> None:
        super().__init__(name)
        _checks.one_of("estimator", estimator, ("stratified", "weighted", "exact"))
        if estimator == "exact" and dataset_posterior is None:
            what = "the posterior of the whole data set for estimator='exact'"
            raise ValueError(_checks.expected("dataset_posterior", what, None))
        if dataset_size is not None:
            _checks.positive_int("dataset_size", dataset_size)
        self.estimator = estimator
        self.dataset_size = dataset_size
        self.run_size: int | None = None  # what stands in for it while data are gone through
        self.dataset_posterior = dataset_posterior
        if dataset_posterior is not None:
            mu, logvar = dataset_posterior
            self.dataset_posterior = DiagonalGaussian(mu.detach(), logvar.detach())

    def _aggregate(self) -> dict[str, object]:
        return {
            "estimator": self.estimator,
            "dataset_size": self.run_size if self.dataset_size is None else self.dataset_size,
            "dataset_posterior": self.dataset_posterior,
        }

    def _options(self) -> dict[str, object]:
        estimator = None if self.estimator == "stratified" else self.estimator
        return {"estimator": estimator, "dataset_size": self.dataset_size}


class TotalCorrelation(_Aggregate):
    """`vaekit.losses.total_correlation` as a term; a statistic of the batch.

    Args:
        estimator: ``"stratified"``, ``"weighted"`` or ``"exact"``.
        dataset_size: The number of elements of the data set; if None, that of the data which
            `vaekit.fit` or `vaekit.training.evaluate` goes through.
        dataset_posterior: The posterior of the whole data set, for ``"exact"`` alone; a snapshot,
            without gradients, so for measuring rather than for training.
        name: What the term is called.

    Example:
        >>> Reconstruction() + KL() + 5 * TotalCorrelation(dataset_size=60_000)
        Reconstruction() + KL() + 5 * TotalCorrelation(dataset_size=60000)
    """

    def __init__(
        self,
        estimator: losses.Estimator = "stratified",
        dataset_size: int | None = None,
        dataset_posterior: DiagonalGaussian | None = None,
        name: str = "total_correlation",
    ) -> None:
        super().__init__(estimator, dataset_size, dataset_posterior, name)

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the total correlation, a scalar."""
        return losses.total_correlation(out.posterior, out.z, **self._aggregate())  # type: ignore[arg-type]


class DecomposedKL(_Aggregate):
    r"""The KL in its three parts, each with a weight: the beta-TCVAE's regulariser.

    .. math:: \alpha\, I_q(x; z) + \beta \operatorname{TC} + \gamma \sum_j
              \operatorname{KL}(q(z_j) \| p(z_j))

    Args:
        mutual_information: :math:`\alpha`, a number or a function of the step.
        total_correlation: :math:`\beta`, likewise.
        dimension_wise_kl: :math:`\gamma`, likewise.
        estimator: ``"stratified"``, ``"weighted"`` or ``"exact"``.
        dataset_size: The number of elements of the data set; if None, that of the data which
            `vaekit.fit` or `vaekit.training.evaluate` goes through.
        dataset_posterior: The posterior of the whole data set, for ``"exact"`` alone; a snapshot,
            without gradients, so for measuring rather than for training.

    Example:
        >>> Reconstruction() + DecomposedKL(total_correlation=6)
        Reconstruction() + DecomposedKL(total_correlation=6)

    References:
        R. T. Q. Chen et al., *Isolating Sources of Disentanglement in Variational Autoencoders*,
        2018, equation 4.
    """

    def __init__(
        self,
        mutual_information: Weight = 1.0,
        total_correlation: Weight = 1.0,
        dimension_wise_kl: Weight = 1.0,
        *,
        estimator: losses.Estimator = "stratified",
        dataset_size: int | None = None,
        dataset_posterior: DiagonalGaussian | None = None,
    ) -> None:
        super().__init__(estimator, dataset_size, dataset_posterior, "kl")
        weights = (mutual_information, total_correlation, dimension_wise_kl)
        self._weights = dict(zip(self.names, weights, strict=True))
        for name, weight in self._weights.items():
            if not callable(weight):
                _checks.number(name, weight, low=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the three parts."""
        return losses.KLParts._fields

    def weights(self, step: int) -> dict[str, float]:
        """Return the weights of the three parts at a step."""
        return {name: _at(weight, step, self) for name, weight in self._weights.items()}

    def values(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> dict[str, Tensor]:
        """Return the three parts, scalars in nats, without weights."""
        parts = losses.decompose_kl(out.posterior, out.prior, out.z, **self._aggregate())  # type: ignore[arg-type]
        return parts._asdict()

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the sum of the three, which is the Monte Carlo estimate of the KL, a scalar."""
        return torch.stack(list(self.values(out, x).values())).sum()

    def _options(self) -> dict[str, object]:
        shown = {name: weight for name, weight in self._weights.items() if weight != 1}
        return shown | super()._options()


def _pairs(objective: Objective | Term) -> "list[tuple[Term, Weight]]":
    return objective.pairs if isinstance(objective, Objective) else [(objective, 1)]


def _check_weight(weight: object) -> None:
    if isinstance(weight, nn.Module | Tensor) or not (callable(weight) or isinstance(weight, Real)):
        what = "a number or a function of the step"
        raise TypeError(_checks.expected("weight", what, repr(weight)))


def _at(weight: Weight, step: int, term: Term) -> float:
    if not callable(weight):  # looked at when the term was weighed
        return weight
    return _checks.number(f"weight of {term!r} at step {step}", weight(step), low=0)


def _product(factor: Weight, weight: Weight) -> Weight:
    if not callable(factor) and not callable(weight):
        return factor * weight
    return _Product((factor, weight))


class _Product:
    """A product of weights of which one at least is a schedule."""

    def __init__(self, factors: tuple[Weight, ...]) -> None:
        self.factors = factors

    def __call__(self, step: int) -> float:
        return math.prod(weight(step) if callable(weight) else weight for weight in self.factors)

    def __repr__(self) -> str:
        return " * ".join(map(_describe, self.factors))


def _describe(weight: Weight) -> str:
    return repr(weight) if not isinstance(weight, int | float) else f"{weight:g}"
