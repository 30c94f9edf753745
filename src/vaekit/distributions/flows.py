"""Normalising flows of zuko, in either direction."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.transforms import _InverseTransform

from vaekit import _checks
from vaekit.distributions.events import check_value
from vaekit.distributions.supports import Reparameterized

__all__ = ["FlowDistribution", "import_zuko", "layers"]

_PAIRS = 64


class FlowDistribution(Reparameterized):
    r"""What noise becomes under invertible transforms.

    .. math:: x = f(\epsilon), \qquad \log p(x) = \log p(\epsilon)
              - \log \left| \det \frac{\partial f(\epsilon)}{\partial \epsilon} \right|

    The latest draw of `rsample` keeps its density, which comes with it at next to no cost. That of
    any other value takes the inverse. An autoregressive transform takes one pass one way and one
    for each dimension the other; a flow's ``transform`` is quick from left to right.

    Args:
        transforms: Of zuko; from noise to value one after the other, together :math:`f`.
        base: The distribution of the noise, over ``(dim,)``.

    Raises:
        ValueError: From ``log_prob``, if the shape of its argument does not fit.

    Example:
        >>> noise = vk.distributions.DiagonalGaussian(*torch.zeros(2, 8, 3))
        >>> q = FlowDistribution([import_zuko().flows.MAF(3).transform()], noise)
        >>> q
        FlowDistribution(batch_shape=(8,), event_shape=(3,))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([8])

    References:
        D. J. Rezende and S. Mohamed, *Variational Inference with Normalizing Flows*, 2015,
        section 3.
    """

    def __init__(self, transforms: Sequence[Transform], base: Distribution) -> None:
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.transforms, self.base = list(transforms), base
        self._drawn: tuple[Tensor, Tensor, bool] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # torch drops what an inverse is the inverse of, so that goes in its place.
        turned = ((one, isinstance(one, _InverseTransform)) for one in self.transforms)
        kept = [(one.inv if back else one, back) for one, back in turned]
        # Not by a union, on which the tracer of torch 2.15 fails.
        return {**vars(self), "transforms": kept, "_drawn": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.transforms = [one.inv if back else one for one, back in state["transforms"]]

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """All that the last transform can return, which is all real numbers for most flows."""
        image = self.transforms[-1].codomain if self.transforms else constraints.real
        return constraints.independent(image, len(self.event_shape) - image.event_dim)

    @property
    def mean(self) -> Tensor:
        """The mean over 64 fixed pairs of opposite noise, of shape ``(*batch, *event)``.

        There is no closed form. The estimate is the same at every call, and exact where the
        transforms are linear.
        """
        # Numpy's noise is a constant to torch.export, which forgets the seed of torch's.
        half = torch.tensor(np.random.default_rng(0).standard_normal((_PAIRS, *self.event_shape)))
        half = half.to(self.base.mean).reshape(-1, *[1] * len(self.batch_shape), *self.event_shape)
        moved = torch.cat([half, -half]) * self.base.stddev
        return _through(self.base.mean + moved, self.transforms)[0].mean(0)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "FlowDistribution":
        """Return the same distribution over a larger batch."""
        return FlowDistribution(self.transforms, self.base.expand(torch.Size(batch_shape)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw noise and transform it, with a gradient to the parameters of both.

        Shape:
            Returns ``(*sample_shape, *batch, *event)``.
        """
        noise = self.base.rsample(torch.Size(sample_shape))
        value, log_volume = _through(noise, self.transforms)
        density = self.base.log_prob(noise) - log_volume
        self._drawn = (value, density, torch.is_grad_enabled())
        return value

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw as `rsample` does, without a gradient and without keeping the density."""
        return _through(self.base.rsample(torch.Size(sample_shape)), self.transforms)[0]

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats: at once for the latest draw of `rsample`, else by inversion.

        Shape:
            ``value: (..., *event)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit.
        """
        if self._drawn is not None and value is self._drawn[0]:
            _, density, with_gradients = self._drawn
            if with_gradients or not torch.is_grad_enabled():
                return density
        check_value(self, value)
        noise, log_volume = _through(value, [one.inv for one in reversed(self.transforms)])
        return self.base.log_prob(noise) + log_volume


def layers(flow: nn.Module, context: Tensor | None = None) -> list[Transform]:
    """Return the transforms of a flow of zuko, from value to noise, given a context."""
    whole: Any = flow.transform
    return [layer(context) for layer in getattr(whole, "transforms", [whole])]


def _through(value: Tensor, transforms: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Put a value through transforms; with the logarithm of how they change volumes."""
    log_volume = value.new_zeros(())
    for transform in transforms:
        value, change = transform.call_and_ladj(value)
        log_volume = log_volume + (change if transform.domain.event_dim else change.sum(-1))
    return value, log_volume


def import_zuko() -> ModuleType:
    """Import zuko, and undo what that does to torch's distributions.

    On import zuko switches off, for every distribution of the process, the checks of arguments that
    torch has on by default. Here they are left as they were; zuko's own classes go without. Where
    zuko was imported before, nothing is changed.

    Raises:
        ImportError: If zuko is missing.

    Example:
        >>> flow = import_zuko().flows.NSF(2, transforms=2)
    """
    first = "zuko" not in sys.modules
    default = Distribution._validate_args, Distribution.__dict__["arg_constraints"]
    zuko = _checks.module("zuko", "This flow", "zuko", '"vaekit[flows]"')
    if first:
        Distribution._validate_args, Distribution.arg_constraints = default  # type: ignore[method-assign]
        for own in vars(zuko.distributions).values():
            if isinstance(own, type) and own.__module__ == zuko.distributions.__name__:
                own._validate_args = False  # type: ignore[attr-defined]
                if "arg_constraints" not in vars(own):
                    own.arg_constraints = {}  # type: ignore[attr-defined]
    return zuko
