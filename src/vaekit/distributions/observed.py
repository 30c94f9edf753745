"""What the distributions of data share: values told apart from others, and errors in our words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from vaekit import _checks
from vaekit.distributions.events import check_value, sum_event
from vaekit.distributions.gaussians import DiagonalGaussian
from vaekit.distributions.supports import check_inside

__all__ = ["CalibratedGaussian", "Observed", "Values"]


@dataclass(eq=False)
class Values(constraints.Constraint):
    """The values that data may have, and the words for them.

    Args:
        words: What an error says was expected.
        low: The lowest value.
        high: The highest value.
        steps: How many steps lie between 0 and 1, for data that come in steps; None for real data.

    Example:
        >>> Values("grey levels", low=0, high=1, steps=255).check(torch.tensor([0.2, 0.201, 1.2]))
        tensor([ True, False, False])
    """

    words: str
    low: float = -torch.inf
    high: float = torch.inf
    steps: int | None = None

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        """Whether the values come in steps."""
        return self.steps is not None

    def hint(self, value: Shaped[Tensor, "*shape"]) -> str:
        """Guess why values are none of these, and say how to mend it."""
        level = value * 255
        if self.steps == 1 and self.high > 1 and _near_whole(level).all() and (level <= 255).all():
            return (
                "They look like bytes divided by 255: where the bytes are counts or classes, "
                "vaekit.datasets.from_tensors(x, scale=1) takes them as they are."
            )
        return ""

    def check(self, value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Tell for each value whether it is one of these."""
        inside = value.isfinite() & (value >= self.low) & (value <= self.high)
        if self.steps is not None:
            # Steps of 1/255 are no floating-point numbers; whole numbers are.
            inside &= _near_whole(value * self.steps, 0.0 if self.steps == 1 else 0.01)
        return inside


def _near_whole(value: Tensor, error: float = 0.01) -> Tensor:
    return (value - value.round()).abs() <= error


class Observed(Independent[Distribution]):
    """Torch's ``Independent``, whose errors name the argument, what was expected and what came.

    It answers in the dtype of the parameters, whatever its base computes in; in single precision
    where that is half.

    Args:
        base: A distribution of each value by itself.
        event_ndims: How many of the last dimensions make one event.
        values: The values that data may have.
        params: The parameters as they came, which are looked through for NaN.
        dtype: What the base computes in; that of the parameters, or single precision where that is
            half, if None.

    Raises:
        ValueError: If a parameter is NaN; from ``log_prob``, if the shape does not fit or a value
            is none of ``values``.

    Example:
        >>> rate = torch.full((8, 3), 2.0)
        >>> counts = Values("whole numbers from 0", low=0, steps=1)
        >>> p = Observed(torch.distributions.Poisson(rate), 1, counts, rate)
        >>> p.log_prob(torch.zeros(8, 3)).shape
        torch.Size([8])
    """

    _validate_args = True  # as of `Checked`

    def __init__(
        self,
        base: Distribution,
        event_ndims: int,
        values: Values,
        *params: Float[Tensor, "..."],
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(base, event_ndims)
        self.values, self._params = values, params
        # Half precision tells no grey level from the next, and no loss of 500 nats from 501.
        self._dtype = torch.promote_types(params[0].dtype, torch.float32)
        self._wide = self._dtype if dtype is None else dtype
        if self._validate_args and _checks.eager():
            for param in params:
                _checks.no_nan("params", param)

    @property
    def support(self) -> constraints.Constraint:
        """The values that data may have, over the event's dimensions."""
        return constraints.independent(self.values, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The means, of shape ``(*batch, *event)``."""
        return self._cast(super().mean)

    @property
    def mode(self) -> Tensor:
        """The likeliest values, of shape ``(*batch, *event)``."""
        return self._cast(super().mode)

    @property
    def variance(self) -> Tensor:
        """The variances, of shape ``(*batch, *event)``."""
        return self._cast(super().variance)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Observed":
        """Return the same distribution over a larger batch."""
        base = self.base_dist.expand(torch.Size(batch_shape) + self.event_shape)
        ndims = len(self.event_shape)
        return Observed(base, ndims, self.values, *self._params, dtype=self._wide)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw, without a gradient, of shape ``(*sample_shape, *batch, *event)``."""
        return self._cast(self.base_dist.sample(torch.Size(sample_shape)))

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability, or log-density, in nats.

        Shape:
            ``value: (..., *event)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or a value lies outside the support.
        """
        if not value.is_floating_point():
            value = value.to(self._wide)
        check_inside(self, value, self.values.words, self.values.hint)
        return sum_event(self, self._cast(self.base_dist.log_prob(value.to(self._wide))))

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self._dtype)


class CalibratedGaussian(DiagonalGaussian):
    r"""Gaussians of one variance, which is the mean squared error of the values they explain.

    .. math:: \sigma_\ast^2 = \operatorname{mean}\, (x - \mu)^2

    over all dimensions, all of the batch and all draws: the variance under which these values are
    likeliest. It is taken as a constant by the gradient, which loses nothing: at its best, the
    derivative of the batch's likelihood with respect to the variance is zero. What ``log_prob``
    returns is thus no log-density, since the variance depends on the values: it is at least as
    great as that of any Gaussian of one variance.

    Args:
        mu: The means.
        running: The log-variance before values are seen. It is moved a tenth of the way to
            :math:`\log \sigma_\ast^2` when the first are.
        event_ndims: How many of the last dimensions make one event.

    Example:
        >>> running = torch.zeros(())
        >>> p = CalibratedGaussian(torch.zeros(8, 3), running)
        >>> p.log_prob(torch.full((8, 3), 0.5)).shape
        torch.Size([8])
        >>> p.stddev[0], running
        (tensor([0.5000, 0.5000, 0.5000]), tensor(-0.1386))
    """

    def __init__(
        self, mu: Float[Tensor, "*shape"], running: Float[Tensor, ""], event_ndims: int = 1
    ) -> None:
        super().__init__(mu, running.clone(), event_ndims)
        self._running, self._moved = running, False

    def log_prob_by_dimension(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density of each dimension by itself, under the variance of all these values.

        Shape:
            ``value: (..., *event)``; returns the shape of both.
        """
        if self._validate_args:
            check_value(self, value)
        error = (value - self.mu.detach()).square().mean().clamp_min(1e-16)
        self.logvar = self._log_variance = error.log().to(self._running.dtype)
        result = super().log_prob_by_dimension(value)
        if not self._moved:  # once for a batch, however often its density is asked for
            with torch.no_grad():
                self._running.lerp_(self.logvar, 0.1)
            self._moved = True
        return result
