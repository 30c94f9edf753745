"""The distributions that vaekit needs and `torch.distributions` lacks.

Both are ordinary `torch.distributions.Distribution` objects, and their closed-form divergences are
registered with torch's own ``register_kl``, so `torch.distributions.kl_divergence` knows them too.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Generator, Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    constraints,
    kl_divergence,
    register_kl,
)

from vaekit import _checks

__all__ = ["DiagonalGaussian", "IndependentBernoulli", "StandardGaussian", "log_prob_by_dimension"]

_LOG_2PI = math.log(2 * math.pi)
_LOGVAR_BOUND = 40.0

_Independent: TypeAlias = "Independent[Distribution]"


def _tame(logvar: Tensor, look: bool) -> Tensor:
    # The identity up to +-40 (a sigma from 2e-9 to 5e8); beyond, it grows with the logarithm of the
    # excess, so that exp() of it grows in a straight line: no overflow, and never a zero gradient.
    if look and logvar.numel() and float(logvar.detach().abs().amax()) <= _LOGVAR_BOUND:
        return logvar
    beyond = logvar.sign() * _LOGVAR_BOUND + F.softshrink(logvar, _LOGVAR_BOUND).asinh()
    return torch.where(logvar.abs() <= _LOGVAR_BOUND, logvar, beyond)


class DiagonalGaussian(Distribution):
    r"""Independent Gaussians given by their means and log-variances.

    .. math:: \log p(x) = -\tfrac{1}{2} \sum_j \left[ \frac{(x_j - \mu_j)^2}{\sigma_j^2}
              + \log \sigma_j^2 + \log 2\pi \right]

    It unpacks into its parameters: ``mu, logvar = distribution``. The variance is
    ``exp(logvar)`` for every log-variance up to 40 either way; beyond, the exponential goes on as a
    straight line, for sampling, density and divergence alike, so that in float32 any parameters
    from -1e4 to 1e4 have a finite divergence from the standard normal, and a gradient that is not
    zero and leads back.

    Args:
        mu: The means.
        logvar: The log-variances; anything that broadcasts to the shape of ``mu``.
        event_ndims: How many of the last dimensions make one event.
        validate_args: Whether values are checked; ``None`` follows torch's default (they are).

    Shape:
        ``mu: (*batch, *event)``.

    Raises:
        ValueError: If the shapes do not fit, or if ``mu`` or ``logvar`` holds NaN.

    Example:
        >>> q = DiagonalGaussian(torch.zeros(8, 2), torch.zeros(8, 2))
        >>> q
        DiagonalGaussian(batch_shape=(8,), event_shape=(2,))
        >>> mu, logvar = q
        >>> q.log_prob(q.rsample()).shape
        torch.Size([8])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(
        self,
        mu: Float[Tensor, "*shape"],
        logvar: Float[Tensor, "..."],
        event_ndims: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        if _checks.broadcast(logvar.shape, mu.shape) != mu.shape:
            what = f"a shape that broadcasts to mu's, {tuple(mu.shape)}"
            raise ValueError(_checks.expected("logvar", what, tuple(logvar.shape)))
        if mu.ndim < event_ndims:
            what = f"at least {event_ndims} dimensions"
            raise ValueError(_checks.expected("mu", what, f"shape {tuple(mu.shape)}"))
        self.mu, self.logvar = mu, logvar
        batch_ndims = mu.ndim - event_ndims
        shapes = mu.shape[:batch_ndims], mu.shape[batch_ndims:]
        super().__init__(*shapes, validate_args=validate_args)
        look = self._validate_args and _checks.eager()
        self._log_variance = _tame(logvar, look)
        if look:
            _checks.no_nan("mu", mu)
            if self._log_variance is not logvar:  # what _tame lets through untouched has no NaN
                _checks.no_nan("logvar", logvar)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.mu, self.logvar))

    def __repr__(self) -> str:
        shapes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        return f"{type(self).__name__}({shapes})"

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """All real numbers, over the event's dimensions."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The means, of shape ``(*batch, *event)``."""
        return self.mu

    @property
    def mode(self) -> Tensor:
        """The means, which are the modes too."""
        return self.mu

    @property
    def variance(self) -> Tensor:
        """The variances, of shape ``(*batch, *event)``."""
        return self._log_variance.exp().expand_as(self.mu)

    @property
    def stddev(self) -> Tensor:
        """The standard deviations, of shape ``(*batch, *event)``."""
        return (0.5 * self._log_variance).exp().expand_as(self.mu)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "DiagonalGaussian":
        """Return the same distribution over a larger batch."""
        shape = torch.Size(batch_shape) + self.event_shape
        mu, logvar = self.mu.expand(shape), self.logvar.expand(shape)
        return DiagonalGaussian(mu, logvar, len(self.event_shape), validate_args=False)

    def tempered(self, temperature: float) -> "DiagonalGaussian":
        """Return the distribution with every standard deviation times ``temperature``.

        Args:
            temperature: Above 0; below 1 draws nearer the mean, above 1 farther from it.
        """
        shift = 2 * math.log(_checks.number("temperature", temperature, above=0))
        logvar = self._log_variance + shift
        return DiagonalGaussian(self.mu, logvar, len(self.event_shape), validate_args=False)

    def rsample(
        self, sample_shape: Sequence[int] = (), generator: Generator | None = None
    ) -> Float[Tensor, "..."]:
        r"""Draw by the reparameterisation trick, :math:`\mu + \sigma \epsilon`.

        Args:
            sample_shape: The shape of the draws, in front of the batch.
            generator: Where the noise comes from; torch's global one if None.

        Shape:
            Returns ``(*sample_shape, *batch, *event)``.
        """
        mu = self.mu.expand(torch.Size(sample_shape) + self.mu.shape) if sample_shape else self.mu
        if generator is None:  # torch.compile traces no generator, not even None
            noise = torch.randn_like(mu)
        else:
            noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return torch.addcmul(mu, (0.5 * self._log_variance).exp(), noise)

    @torch.no_grad()
    def sample(
        self, sample_shape: Sequence[int] = (), generator: Generator | None = None
    ) -> Float[Tensor, "..."]:
        """Draw as `rsample` does, without a gradient."""
        return self.rsample(sample_shape, generator)

    def log_prob_by_dimension(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density of each dimension by itself, in nats.

        Shape:
            ``value: (..., *event)``, which broadcasts against ``(*batch, *event)``; returns the
            shape of both.
        """
        if self._validate_args:
            _check_value(self, value)
            if _checks.eager():
                _checks.no_nan("x", value)
        squared = (value - self.mu).square() * (-self._log_variance).exp()
        return -0.5 * (squared + (self._log_variance + _LOG_2PI))

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats.

        Shape:
            ``value: (..., *event)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or if ``value`` holds NaN.
        """
        return _sum_event(self, self.log_prob_by_dimension(value))

    def entropy(self) -> Float[Tensor, "..."]:
        """Differential entropy in nats, of shape ``(*batch,)``."""
        by_dimension = 0.5 * (self._log_variance + 1 + _LOG_2PI)
        return _sum_event(self, by_dimension.expand_as(self.mu))


class StandardGaussian(DiagonalGaussian):
    """The Gaussian of zero means and unit variances, against which divergences are simplest.

    Args:
        zeros: The means: zeros of the wanted shape, dtype and device.
        event_ndims: How many of the last dimensions make one event.

    Example:
        >>> StandardGaussian(torch.zeros(3))
        StandardGaussian(batch_shape=(), event_shape=(3,))
    """

    def __init__(self, zeros: Float[Tensor, "*shape"], event_ndims: int = 1) -> None:
        self.mu = self.logvar = self._log_variance = zeros
        batch_ndims = zeros.ndim - event_ndims
        shapes = zeros.shape[:batch_ndims], zeros.shape[batch_ndims:]
        Distribution.__init__(self, *shapes, validate_args=False)


class IndependentBernoulli(Distribution):
    r"""Independent Bernoulli variables given by their logits.

    .. math:: \log p(x) = \sum_j x_j \log \pi_j + (1 - x_j) \log (1 - \pi_j),
              \qquad \pi = \operatorname{sigmoid}(\text{logits})

    With ``grey_levels`` the same formula is taken for any value in [0, 1]. That is the negative
    cross-entropy, which trains well and is widely used, but sums to no probability: never set it
    beside a log-likelihood.

    Args:
        logits: The log-odds of a one.
        event_ndims: How many of the last dimensions make one event.
        grey_levels: Whether values between 0 and 1 are let in.
        validate_args: Whether values are checked; ``None`` follows torch's default (they are).

    Shape:
        ``logits: (*batch, *event)``.

    Raises:
        ValueError: From ``log_prob``, if ``logits`` holds NaN.

    Example:
        >>> p = IndependentBernoulli(torch.zeros(8, 1, 4, 4), event_ndims=3)
        >>> p
        IndependentBernoulli(batch_shape=(8,), event_shape=(1, 4, 4))
        >>> p.log_prob(torch.ones(8, 1, 4, 4))[0]  # 16 fair coins
        tensor(-11.0904)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        logits: Float[Tensor, "*shape"],
        event_ndims: int = 1,
        grey_levels: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.grey_levels = logits, grey_levels
        batch_ndims = logits.ndim - event_ndims
        shapes = logits.shape[:batch_ndims], logits.shape[batch_ndims:]
        super().__init__(*shapes, validate_args=validate_args)

    def __repr__(self) -> str:
        shapes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        return f"IndependentBernoulli({shapes}{', grey_levels=True' * self.grey_levels})"

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> constraints.Constraint:
        """Zeros and ones; with grey levels, all that lies between them."""
        values = constraints.unit_interval if self.grey_levels else constraints.boolean
        return constraints.independent(values, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The probabilities of a one, of shape ``(*batch, *event)``."""
        return self.logits.sigmoid()

    @property
    def mode(self) -> Tensor:
        """The likelier value of each variable."""
        return (self.logits > 0).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        """The variances, of shape ``(*batch, *event)``."""
        return self.mean * (-self.logits).sigmoid()

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "IndependentBernoulli":
        """Return the same distribution over a larger batch."""
        logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        return IndependentBernoulli(logits, len(self.event_shape), self.grey_levels, False)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw zeros and ones, of shape ``(*sample_shape, *batch, *event)``."""
        return self.mean.expand(torch.Size(sample_shape) + self.logits.shape).bernoulli()

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability in nats; with grey levels, the negative cross-entropy in nats.

        Shape:
            ``value: (..., *event)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or a value lies outside the support.
        """
        if self._validate_args:
            _check_value(self, value)
            if _checks.eager():
                self._check_support(value)
        value = value.to(self.logits.dtype)
        if value.shape == self.logits.shape:
            cross_entropy = F.binary_cross_entropy_with_logits(self.logits, value, reduction="none")
        else:
            cross_entropy = F.softplus(self.logits) - value * self.logits
        result = _sum_event(self, cross_entropy)
        if self._validate_args and _checks.eager() and math.isnan(result.detach().sum()):
            _checks.no_nan("logits", self.logits)  # the sums are fewer to look through
        return -result

    def entropy(self) -> Float[Tensor, "..."]:
        """Entropy in nats, of shape ``(*batch,)``."""
        return _sum_event(self, F.softplus(self.logits) - self.mean * self.logits)

    def _check_support(self, value: Tensor) -> None:
        if value.dtype == torch.bool or not value.numel():
            return
        low, high = (float(end) for end in value.detach().aminmax())
        _checks.no_nan("x", value, known=math.isnan(low))
        inside = low >= 0 and high <= 1
        if inside and (self.grey_levels or torch.equal(value * value, value)):
            return
        got = f"values from {low:g} to {high:g}"
        if self.grey_levels:
            raise ValueError(_checks.expected("x", "values in [0, 1]", got))
        hint = "Grey levels: binarise them, or choose likelihoods.Bernoulli(..., grey_levels=True)."
        raise ValueError(_checks.expected("x", "only zeros and ones", got, hint if inside else ""))


def log_prob_by_dimension(
    distribution: Distribution, value: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Log-density of each latent dimension by itself, in nats.

    Args:
        distribution: One whose dimensions are independent: a `DiagonalGaussian`, or torch's
            ``Independent`` of a univariate distribution.
        value: Where to take it.

    Shape:
        ``value: (..., dim)``, returns its shape broadcast with ``(*batch, dim)``.

    Raises:
        TypeError: If the distribution has no densities by dimension.
    """
    if isinstance(distribution, DiagonalGaussian) and len(distribution.event_shape) == 1:
        return distribution.log_prob_by_dimension(value)
    if isinstance(distribution, Independent) and distribution.reinterpreted_batch_ndims == 1:
        log_prob: Tensor = distribution.base_dist.log_prob(value)
        return log_prob
    what = "a distribution over one dimension of independent ones (a diagonal Gaussian, say)"
    raise TypeError(_checks.expected("distribution", what, repr(distribution)))


def _sum_event(distribution: Distribution, value: Tensor) -> Tensor:
    ndims = len(distribution.event_shape)
    return value.sum(dim=tuple(range(-ndims, 0))) if ndims else value


def _check_value(distribution: Distribution, value: Tensor) -> None:
    _checks.trailing_shape("x", value, distribution.event_shape)
    front = value.shape[: value.ndim - len(distribution.event_shape)]
    batch = distribution.batch_shape
    if _checks.broadcast(front, batch) is None:
        what = f"a batch that fits the distribution's, {tuple(batch)}"
        raise ValueError(_checks.expected("x", what, f"batch {tuple(front)}"))


# --- Closed-form divergences, in nats and summed over the event --------------------------------


def _kl_gaussian_gaussian(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    difference = q._log_variance - p._log_variance
    moved = (q.mu - p.mu).square() * (-p._log_variance).exp()
    return 0.5 * _sum_event(q, difference.expm1() - difference + moved)


def _kl_gaussian_standard(q: DiagonalGaussian, p: StandardGaussian) -> Tensor:
    return 0.5 * _sum_event(q, q._log_variance.expm1() - q._log_variance + q.mu.square())


def _kl_gaussian_independent(q: DiagonalGaussian, p: _Independent) -> Tensor:
    return kl_divergence(q, _as_gaussian(p))


def _kl_independent_gaussian(q: _Independent, p: DiagonalGaussian) -> Tensor:
    return kl_divergence(_as_gaussian(q), p)


def _kl_gaussian_multivariate(q: DiagonalGaussian, p: MultivariateNormal) -> Tensor:
    return kl_divergence(_as_multivariate(q), p)


def _kl_multivariate_gaussian(q: MultivariateNormal, p: DiagonalGaussian) -> Tensor:
    return kl_divergence(q, _as_multivariate(p))


def _kl_bernoulli_bernoulli(q: IndependentBernoulli, p: IndependentBernoulli) -> Tensor:
    cross = F.softplus(p.logits) - q.mean * p.logits
    own = F.softplus(q.logits) - q.mean * q.logits
    return _sum_event(q, cross - own)


def _as_gaussian(distribution: _Independent) -> DiagonalGaussian:
    base = distribution.base_dist
    if not isinstance(base, Normal):
        raise NotImplementedError(
            f"No closed-form KL divergence between a diagonal Gaussian and {distribution!r}; "
            "ask for the Monte Carlo estimate."
        )
    ndims = distribution.reinterpreted_batch_ndims
    return DiagonalGaussian(base.loc, 2 * base.scale.log(), ndims, validate_args=False)


def _as_multivariate(distribution: DiagonalGaussian) -> MultivariateNormal:
    scale_tril = torch.diag_embed(distribution.stddev)
    return MultivariateNormal(distribution.mu, scale_tril=scale_tril, validate_args=False)


for _q, _p, _kl in (
    (DiagonalGaussian, DiagonalGaussian, _kl_gaussian_gaussian),
    (DiagonalGaussian, StandardGaussian, _kl_gaussian_standard),
    (DiagonalGaussian, Independent, _kl_gaussian_independent),
    (Independent, DiagonalGaussian, _kl_independent_gaussian),
    (DiagonalGaussian, MultivariateNormal, _kl_gaussian_multivariate),
    (MultivariateNormal, DiagonalGaussian, _kl_multivariate_gaussian),
    (IndependentBernoulli, IndependentBernoulli, _kl_bernoulli_bernoulli),
):
    register_kl(_q, _p)(_kl)
