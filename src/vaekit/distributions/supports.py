"""What reparameterised distributions share: draws, checks of their support, and pairs refused."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from vaekit import _checks
from vaekit.distributions.events import Checked, check_value
from vaekit.distributions.gaussians import DiagonalGaussian

__all__ = ["Reparameterized", "check_comparable", "check_inside", "refuse_gaussian"]


class Reparameterized(Checked):
    """A distribution that draws with a gradient, and without one in the same way."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __repr__(self) -> str:
        shapes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        return f"{type(self).__name__}({shapes}{', hard=True' * getattr(self, 'hard', False)})"

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw as `rsample` does, without a gradient."""
        return self.rsample(torch.Size(sample_shape)).detach()  # a point is drawn as it is


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
    """Say so where two densities are with respect to different measures, so not to be compared."""
    if _checks.eager() and _measure(posterior) != _measure(prior):
        what = "a density of the same kind as the posterior's"
        hint = "The latent's default_prior() is one that fits."
        raise TypeError(_checks.expected("prior", what, f"{prior!r} for {posterior!r}", hint))


def _measure(distribution: Distribution) -> tuple[str, ...]:
    try:
        support: Any = distribution.support
    except NotImplementedError:  # one that does not say
        support = constraints.real
    return _measures(support, distribution.event_shape.numel())


def _measures(support: Any, size: int) -> tuple[str, ...]:
    """Tell for each dimension what a density is with respect to."""
    while hasattr(support, "base_constraint"):  # of an Independent, or a mixture
        support = support.base_constraint
    if hasattr(support, "parts"):  # of a Joint
        pairs = zip(support.parts, support.sizes, strict=True)
        return tuple(each for part, part_size in pairs for each in _measures(part, part_size))
    if support is constraints.simplex:
        return ("simplices",) * size
    return (getattr(support, "measure", "counts" if support.is_discrete else "reals"),) * size


def refuse_gaussian(kind: type[Distribution], what: str) -> None:
    """Refuse a divergence from a Gaussian, which shares no base measure with this kind."""

    def refuse(q: Distribution, p: Distribution) -> Tensor:
        hint = "The latent's default_prior() is one that fits."
        raise TypeError(_checks.expected("prior", what, repr(p), hint))

    register_kl(kind, DiagonalGaussian)(refuse)
