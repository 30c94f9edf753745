"""What a term is, and what an objective: a weighted sum of them."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from inspect import signature
from numbers import Real
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.optim import Optimizer

from vaekit import _checks
from vaekit.vae import VAEOutput

__all__ = ["Loss", "Objective", "Schedule", "Term", "Weight"]

Schedule = Callable[[int], float]
Weight = float | Schedule


class Loss(NamedTuple):
    """The value of an objective.

    Attributes:
        total: What is minimised, a scalar in nats.
        terms: Each named term, a scalar in nats, **without** its weight.

    Example:
        >>> model, objective = vk.recipes.beta_vae(vk.likelihoods.Bernoulli((1, 8, 8)), 2, beta=4)
        >>> x = torch.zeros(5, 1, 8, 8)
        >>> total, terms = objective(model(x), x, step=0)
        >>> torch.allclose(total, terms["reconstruction"] + 4 * terms["kl"])
        True
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    r"""A weighted sum of terms, each the mean over the batch.

    .. math:: \mathcal{L}(\text{step}) = \sum_t w_t(\text{step}) \cdot \frac{1}{B} \sum_b \ell_t(b)

    Made by ``+`` and ``*`` rather than by hand.

    Args:
        terms: Pairs of a term and its weight: a number, or a function of the step.

    Attributes:
        pairs: The terms with their weights.

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
        hint = "Add their weights, or give one a name of its own: KL(name='other')."
        _checks.require(not twice, "terms", "one term of each name", twice, hint)
        for term, weight in terms:
            if not callable(weight):
                _checks.number(f"weight of {term!r}", weight, low=0)
        self.terms = nn.ModuleList(term for term, _ in terms)
        self.pairs = list(terms)
        self._stepping = [term for term, _ in terms if type(term).set_step is not Term.set_step]
        plain = all(type(term).weights is Term.weights for term, _ in terms)
        self._constant: dict[str, float] | None = None
        if plain and not any(callable(weight) for _, weight in terms):
            self._constant = self.weights()

    def weights(self, step: int = 0) -> dict[str, float]:
        """Return the weight of each named term at a step.

        Raises:
            ValueError: If a schedule returns a negative number, or one that is not finite.
        """
        if self._constant is not None:
            return dict(self._constant)
        found = {}
        for term, weight in self.pairs:
            outer = _at(weight, step, term)
            for name, inner in term.weights(step).items():
                found[name] = outer * inner
        return found

    def schedules(self) -> dict[str, Schedule]:
        """Return every function of the step, by which term's it is and what there."""
        found: dict[str, Weight] = {}
        for number, (term, weight) in enumerate(self.pairs, 1):
            factors = weight.factors if isinstance(weight, _Product) else (weight,)
            for index, factor in enumerate(factors, 1):
                found[f"term {number}: weight {index}"] = factor
            for name, inner in term.schedules().items():
                found[f"term {number}: {name}"] = inner
        return {name: each for name, each in found.items() if callable(each)}

    def set_step(self, step: int) -> None:
        """Tell the terms which step it is; whoever calls `values` by itself does so first."""
        for term in self._stepping:
            term.set_step(step)

    def values(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> dict[str, Tensor]:
        """Return each named term without its weight, the mean over the batch, in nats."""
        return {
            name: value.mean() if value.ndim else value
            for term, _ in self.pairs
            for name, value in by_element(term, out, x).items()
        }

    def total(self, values: Mapping[str, Tensor], step: int = 0) -> Float[Tensor, ""]:
        """Weigh the named terms and add them up."""
        weighed = [
            values[name] if weight == 1 else weight * values[name]
            for name, weight in self.weights(step).items()
        ]
        return sum(weighed[1:], weighed[0])

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."], step: int = 0) -> Loss:
        """Return the total and every named term.

        Args:
            out: What the model inferred.
            x: The data to be explained, ``(B, *event)``.
            step: The training step, for the schedules.
        """
        self.set_step(step)
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

    A term that has parameters of its own, a discriminator's, holds them apart from the model's:
    ``forward`` gives them no gradient, and they are what `inner_loss` trains.

    Args:
        name: What the term is called in results, in a history and in error messages; as its class
            is, ``"total_correlation"`` for ``TotalCorrelation``, if None.

    Attributes:
        needs_draws: Whether it takes z of ``(K, B, dim)``, as ``model(x, samples=K)`` draws it.
        needs_graph: Whether it takes gradients, also where nothing is trained.
        differentiates: Whether its value is made of gradients, which ``torch.compile`` traces only
            when told to, as `vaekit.fit` does.
        compares: Whether it compares the elements of a batch, of which it then needs two.
        statistic: Whether a value depends on the batch as a whole, as every scalar does. Where a
            batch comes in pieces, to several processes or one after the other, the term is given
            the posterior and the draws of the whole one, and no likelihood.

    Example:
        >>> class Sparsity(Term):
        ...     def forward(self, out, x):
        ...         return out.z.abs().sum(-1)
        >>> vk.Reconstruction() + vk.KL() + 0.1 * Sparsity()
        Reconstruction() + KL() + 0.1 * Sparsity()
    """

    compares: bool = False
    statistic: bool = False
    differentiates: bool = False
    needs_draws: ClassVar[bool] = False
    needs_graph: ClassVar[bool] = False
    _usual: ClassVar[dict[str, object]] = {}  # its options, and the value that repr need not tell

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        usual = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        name = usual if name is None else name
        _checks.require(name != "loss", "name", "another than the total's", repr(name))
        self.name = name
        asked = signature(type(self)).parameters.get("name")
        self._named = asked is not None and name not in (asked.default, usual)

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

    def schedules(self) -> Mapping[str, Weight]:
        """Return what inside the term is a number or a function of the step, by its name.

        Losses before and after it changes are not to be compared, as of a weight; and what of it
        has a ``state_dict`` goes into checkpoints.
        """
        return {}

    def set_step(self, step: int) -> None:
        """Take note of the step, where the value itself depends on it."""

    def inner_loss(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Tensor | None:
        """Return what the term's own parameters minimise, a scalar; None where it has none.

        Where a batch comes in pieces, ``out`` has no likelihood, as for a statistic.
        """
        return None

    def inner_optimizer(self) -> Optimizer | None:
        """Make the optimiser that minimises `inner_loss`; None where there is nothing to train."""
        return None

    def __add__(self, other: "Objective | Term") -> Objective:
        return Objective((self, 1)) + other

    def __radd__(self, other: object) -> Objective:
        return other + Objective((self, 1))

    def __mul__(self, weight: Weight) -> Objective:
        _check_weight(weight)
        return Objective((self, weight))

    __rmul__ = __mul__

    def _options(self) -> dict[str, Any]:
        """Return the options, which are those of the function that the term calls."""
        return {option: getattr(self, option) for option in self._usual}

    def __repr__(self) -> str:
        options = self._options().items()
        shown = [f"{key}={value!r}" for key, value in options if value != self._usual[key]]
        shown += [f"name={self.name!r}"] * self._named
        return f"{type(self).__name__}({', '.join(shown)})"


def by_element(term: Term, out: VAEOutput, x: Tensor) -> dict[str, Tensor]:
    """Return every named value of a term as ``(B,)`` or a scalar: the mean over several draws.

    Raises:
        TypeError: If a value is no tensor.
        ValueError: If one is of another shape, whose mean would be no sum over an event.
    """
    found = term.values(out, x)
    batch, several = out.z.shape[-2], out.z.ndim == 3
    for name, value in found.items():
        shape = getattr(value, "shape", None)
        if shape is None:
            what = "a tensor of a value for each element, or a scalar one"
            raise TypeError(_checks.expected(name, what, f"a {type(value).__name__}"))
        if several and shape == out.z.shape[:-1]:
            found[name] = value.mean(0)
        elif len(shape) and shape != (batch,):
            what = f"a value for each of the {batch} elements, of shape ({batch},), or a scalar"
            hint = "Sum over what belongs to one element."
            raise ValueError(_checks.expected(name, what, f"shape {tuple(shape)}", hint))
    return found


def _pairs(objective: Objective | Term) -> "list[tuple[Term, Weight]]":
    return objective.pairs if isinstance(objective, Objective) else [(objective, 1)]


def _check_weight(weight: object) -> None:
    if isinstance(weight, nn.Module | Tensor) or not (callable(weight) or isinstance(weight, Real)):
        what = "a number or a function of the step"
        raise TypeError(_checks.expected("weight", what, repr(weight)))


def _at(weight: Weight, step: int, term: Term) -> float:
    if not callable(weight):  # looked at when the term was weighed
        return weight
    value = weight(step)
    if isinstance(value, float) and 0 <= value < math.inf:  # a name is made where one is needed
        return value
    return _checks.number(f"weight of {term!r} at step {step}", value, low=0)


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
