"""What reparameterised distributions share: draws, and checks of their supports."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution, constraints
from torch.distributions.constraints import MixtureSameFamilyConstraint

from vaekit import _checks
from vaekit.distributions.events import Checked, check_value

__all__ = [
    "Drawn",
    "Reparameterized",
    "check_comparable",
    "check_inside",
    "innermost",
    "refuse",
    "single",
]


class Drawn(NamedTuple):
    """A draw, and what it was made of. No plain tuple, so that `mapped` leaves it as it is."""

    value: Tensor
    made_of: list[Tensor]

    def __reduce__(self) -> tuple[Any, ...]:
        """Stay behind where the distribution is copied or pickled: None comes in its place."""
        return type(None), ()


class Reparameterized(Checked):
    """A distribution that draws with a gradient, and without one in the same way.

    It is over all real numbers, unless it says otherwise.
    """

    has_rsample = True

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """All real numbers, over the event's dimensions."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw as `rsample` does, without a gradient."""
        return self.rsample(torch.Size(sample_shape)).detach()  # a point is drawn as it is


def single(value: Tensor) -> Tensor:
    """Widen half precision, in which sums lose digits and torch draws no Dirichlet variables."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def check_inside(
    distribution: Distribution,
    value: Tensor,
    what: str,
    hint: Callable[[Tensor], str] | None = None,
) -> None:
    """Say so when a value's shape does not fit, or when it lies outside the support.

    Args:
        distribution: What the value is given to.
        value: The value.
        what: The words for the support.
        hint: Returns how to mend values that lie outside.
    """
    if not distribution._validate_args:
        return
    check_value(distribution, value)
    if _checks.eager():
        _checks.no_nan("x", value)
        if not distribution.support.check(value).all():  # type: ignore[union-attr]
            low, high = value.detach().aminmax()
            got = f"values from {low:g} to {high:g} that are not"
            raise ValueError(_checks.expected("x", what, got, hint(value) if hint else ""))


def check_comparable(posterior: Distribution, prior: Distribution) -> None:
    """Say so where two densities are not to be compared, or would be so without end.

    They are to be with respect to one measure, and the prior is to have one wherever the posterior
    has: where the posterior reaches beyond the prior's support, the KL is infinite. Supports that
    are not known, or known to be part of what they say, are let pass.
    """
    if not _checks.eager():
        return
    found, allowed = _dimensions(posterior), _dimensions(prior)
    if [one.measure for one in found] != [one.measure for one in allowed]:
        refuse(posterior, prior, "a density of the same kind as the posterior's")
    # The image of a transform tells not which part of it a base of bounded values comes to.
    inner: Any = posterior
    while isinstance(inner, Independent):
        inner = inner.base_dist
    general: Any = TransformedDistribution.support
    if type(inner).support is general:
        return
    for one, other in zip(found, allowed, strict=True):
        beyond = (one.low < other.low) | (one.high > other.high)
        if beyond.any() if isinstance(beyond, Tensor) else beyond:
            refuse(posterior, prior, "one that has a density wherever the posterior has one")


def refuse(posterior: Distribution, prior: Distribution, what: str) -> NoReturn:
    """Say what prior was expected for a posterior."""
    hint = "The latent's default_prior() is one that fits."
    raise TypeError(_checks.expected("prior", what, f"{prior!r} for {posterior!r}", hint))


class _Dimension(NamedTuple):
    """What a density of one dimension is with respect to, and between which values it lies."""

    measure: str
    low: Any = math.nan  # a number, or a tensor over the batch; NaN, which nothing is below, where
    high: Any = math.nan  # it is not known


def _dimensions(distribution: Distribution) -> list[_Dimension]:
    size = distribution.event_shape.numel()
    try:
        return _of_support(distribution.support, size)
    except NotImplementedError:  # one that does not say
        return [_Dimension("reals")] * size


def innermost(support: Any) -> Any:
    """Return the constraint of a single value: that inside an Independent's, or a mixture's."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _of_support(support: Any, size: int) -> list[_Dimension]:
    mixed = isinstance(support, MixtureSameFamilyConstraint)
    support = innermost(support)
    if hasattr(support, "parts"):  # of a Joint
        pairs = zip(support.parts, support.sizes, strict=True)
        each = [one for part, part_size in pairs for one in _of_support(part, part_size)]
        return each if support.order is None else [each[place] for place in support.order]
    if support is constraints.simplex:
        return [_Dimension("simplices")] * size
    measure = getattr(support, "measure", "counts" if support.is_discrete else "reals")
    ends = _ends(support)
    tensors = [end for end in ends if isinstance(end, Tensor) and end.ndim]
    if not tensors:
        return [_Dimension(measure, *ends)] * size
    at = tensors[0].device
    low, high = torch.broadcast_tensors(*(torch.as_tensor(end, device=at) for end in ends))
    if mixed and low.ndim > 1:  # all that any component reaches
        low, high = low.amin(-2), high.amax(-2)
    if low.shape[-1] not in (1, size):
        return [_Dimension(measure)] * size
    lows, highs = (end.expand(*end.shape[:-1], size).unbind(-1) for end in (low, high))
    return [_Dimension(measure, *pair) for pair in zip(lows, highs, strict=True)]


def _ends(support: Any) -> tuple[Any, Any]:
    """Tell between which values a constraint's lie; NaN where that is not known."""
    if support is constraints.boolean:
        return 0.0, 1.0
    if support is constraints.real:
        return -math.inf, math.inf
    low, high = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    if low is None and high is None:
        return math.nan, math.nan
    return -math.inf if low is None else low, math.inf if high is None else high
