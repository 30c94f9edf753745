"""Gaussians given by means and log-variances, and their closed-form divergences."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Generator, Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    kl_divergence,
    register_kl,
)

from vaekit import _checks
from vaekit.distributions.events import check_value, divided, sum_event
from vaekit.distributions.supports import Reparameterized, check_comparable, refuse

__all__ = ["DiagonalGaussian", "StandardGaussian", "of_normal", "refuse_gaussian"]

_LOG_2PI = math.log(2 * math.pi)
_LOGVAR_BOUND = 40.0

_Independent: TypeAlias = "Independent[Distribution]"


def tame(logvar: Tensor) -> Tensor:
    # The identity up to +-40 (a sigma from 2e-9 to 5e8); beyond, it grows with the logarithm of the
    # excess, so that exp() of it grows in a straight line: no overflow, and never a zero gradient.
    beyond = logvar.sign() * _LOGVAR_BOUND + F.softshrink(logvar, _LOGVAR_BOUND).asinh()
    return torch.where(logvar.abs() <= _LOGVAR_BOUND, logvar, beyond)


def _of_log_variance(mu: Tensor, log_variance: Tensor, event_ndims: int) -> "DiagonalGaussian":
    """Return the Gaussian that has just this log-variance, which `tame` is not to change."""
    size = log_variance.abs()
    beyond = log_variance.sign() * (_LOGVAR_BOUND + (size - _LOGVAR_BOUND).clamp(0, 80).sinh())
    logvar = torch.where(size <= _LOGVAR_BOUND, log_variance, beyond)  # which comes to it, tamed
    gaussian = DiagonalGaussian(mu, logvar, event_ndims, validate_args=False)
    gaussian._log_variance = log_variance
    return gaussian


class DiagonalGaussian(Reparameterized):
    r"""Independent Gaussians given by their means and log-variances.

    .. math:: \log p(x) = -\tfrac{1}{2} \sum_j \left[ \frac{(x_j - \mu_j)^2}{\sigma_j^2}
              + \log \sigma_j^2 + \log 2\pi \right]

    It unpacks into its parameters: ``mu, logvar = distribution``. The variance is
    ``exp(logvar)`` for every log-variance up to 40 either way; beyond, the variance (below -40, its
    inverse) grows in proportion to the excess, for sampling, density and divergence alike, so that
    in float32 any parameters from -1e4 to 1e4 have a finite divergence from the standard normal,
    and a gradient that is not zero and leads back.

    Args:
        mu: The means.
        logvar: The log-variances; anything that broadcasts to the shape of ``mu``.
        event_ndims: How many of the last dimensions make one event.
        validate_args: Whether values are checked; they are if ``None``.

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
        super().__init__(*divided(mu.shape, event_ndims), validate_args=validate_args)
        look = self._validate_args and _checks.eager()
        usual = look and _checks.within(_LOGVAR_BOUND, logvar)
        self.mu, self.logvar = mu, logvar
        self._log_variance = logvar if usual else tame(logvar)
        if look:
            _checks.no_nan("mu", mu)
            if not usual:
                _checks.no_nan("logvar", logvar)

    @classmethod
    def of_halves(cls, params: Float[Tensor, "*batch params"]) -> "DiagonalGaussian":
        """Make one of parameters whose first half is the means, the second the log-variances.

        Shape:
            ``params: (*batch, 2 * dim)``; returns a distribution of batch ``(*batch,)`` over
            ``(dim,)``.

        Raises:
            ValueError: If ``params`` holds NaN, naming the half.
        """
        params = _checks.widened(params)
        mu, logvar = params.chunk(2, dim=-1)
        if not (_checks.eager() and _checks.within(_LOGVAR_BOUND, params)):
            return cls(mu, logvar)
        self = cls.__new__(cls)  # one look at all the values has told all there is to check
        Distribution.__init__(self, mu.shape[:-1], mu.shape[-1:])
        self.mu, self.logvar, self._log_variance = mu, logvar, logvar
        return self

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.mu, self.logvar))

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
        return _of_log_variance(self.mu, self._log_variance + shift, len(self.event_shape))

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
            check_value(self, value)
            if _checks.eager() and not math.isfinite(value.detach().sum().item()):
                _checks.finite("x", value)
        squared = (value - self.mu).square() * (-self._log_variance).exp()
        return -0.5 * (squared + (self._log_variance + _LOG_2PI))

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats.

        Shape:
            ``value: (..., *event)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or if ``value`` holds NaN or infinite values.
        """
        return sum_event(self, self.log_prob_by_dimension(value))

    def log_prob_under_each(self, value: Float[Tensor, "... dim"]) -> Float[Tensor, "... k"]:
        """Log-density of each value under each of K Gaussians, in nats.

        In single precision by two matrix products in double, which need no memory for
        ``(..., K, dim)``, and whose error, since squares cancel in them, stays below a millionth;
        where it would not, and in double precision, by the differences themselves.

        Shape:
            ``value: (..., dim)``, the batch ``(K,)``; returns ``(..., K)``.
        """
        if not self._products_do(value):
            return self.log_prob(value.unsqueeze(-2))
        wide, mu = value.double(), self.mu.double()
        log_variance = self._log_variance.double().expand_as(mu)
        precision = (-log_variance).exp()
        squared = torch.addmm(
            (mu.square() * precision + log_variance + _LOG_2PI).sum(-1),
            torch.cat([wide.square(), wide], -1).flatten(0, -2),
            torch.cat([precision, -2 * mu * precision], -1).mT,
        )
        return (-0.5 * squared).to(value.dtype).reshape(*value.shape[:-1], -1)

    def _products_do(self, value: Tensor) -> bool:
        """Tell whether squares that cancel leave enough digits of a density."""
        if not _checks.eager() or value.device.type == "mps":
            return False  # a compiled graph makes one kernel; the other has no double precision
        if value.dtype != torch.float32 or value.ndim < 2 or not value.numel():
            return False
        size = torch.maximum(value.detach().abs().max(), self.mu.detach().abs().max()).double()
        precision = (-self._log_variance.detach().double()).exp().max()
        error = size.square() * precision * value.shape[-1] * torch.finfo(torch.double).eps
        return bool(error < 1e-6)  # and of NaN it is False

    def entropy(self) -> Float[Tensor, "..."]:
        """Differential entropy in nats, of shape ``(*batch,)``."""
        by_dimension = 0.5 * (self._log_variance + 1 + _LOG_2PI)
        return sum_event(self, by_dimension.expand_as(self.mu))


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
        self.zeros = self.mu = self.logvar = self._log_variance = zeros
        self.event_ndims = event_ndims
        Distribution.__init__(self, *divided(zeros.shape, event_ndims), validate_args=False)


# --- Closed-form divergences, in nats and summed over the event --------------------------------


def _kl_gaussian_gaussian(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    difference = q._log_variance - p._log_variance
    moved = (q.mu - p.mu).square() * (-p._log_variance).exp()
    return 0.5 * sum_event(q, difference.expm1() - difference + moved)


def _kl_gaussian_standard(q: DiagonalGaussian, p: StandardGaussian) -> Tensor:
    return 0.5 * sum_event(q, q._log_variance.expm1() - q._log_variance + q.mu.square())


def _kl_gaussian_independent(q: DiagonalGaussian, p: _Independent) -> Tensor:
    if isinstance(p.base_dist, Normal):
        return kl_divergence(q, of_normal(p.base_dist, p.reinterpreted_batch_ndims))
    check_comparable(q, p)  # of what lies in a part of the reals, torch's is infinite
    return kl_divergence(_as_independent(q), p)  # torch knows others, Laplace's say


def _kl_independent_gaussian(q: _Independent, p: DiagonalGaussian) -> Tensor:
    if isinstance(q.base_dist, Normal):
        return kl_divergence(of_normal(q.base_dist, q.reinterpreted_batch_ndims), p)
    return kl_divergence(q, _as_independent(p))


def _kl_gaussian_multivariate(q: DiagonalGaussian, p: MultivariateNormal) -> Tensor:
    scale_tril = torch.diag_embed(q.stddev)
    return kl_divergence(MultivariateNormal(q.mu, scale_tril=scale_tril, validate_args=False), p)


def _kl_multivariate_gaussian(q: MultivariateNormal, p: DiagonalGaussian) -> Tensor:
    # torch's own, of two multivariate normals, breaks a compiled graph, and solves for a diagonal.
    log_diagonal = q.scale_tril.diagonal(dim1=-2, dim2=-1).log()
    squared = q.scale_tril.square().sum(-1) + (q.loc - p.mu).square()
    log_ratio = p._log_variance - 2 * log_diagonal
    return 0.5 * (log_ratio + squared * (-p._log_variance).exp() - 1).sum(-1)


def of_normal(normal: Normal, event_ndims: int) -> DiagonalGaussian:
    """Return torch's normal variables as one Gaussian, with just their variances.

    Example:
        >>> of_normal(Normal(torch.zeros(8, 2), 1.0), 1)
        DiagonalGaussian(batch_shape=(8,), event_shape=(2,))
    """
    return _of_log_variance(normal.loc, 2 * normal.scale.log(), event_ndims)


def _as_independent(distribution: DiagonalGaussian) -> _Independent:
    normal = Normal(distribution.mu, distribution.stddev, validate_args=False)
    return Independent(normal, len(distribution.event_shape), validate_args=False)


def refuse_gaussian(kind: type[Distribution], what: str) -> None:
    """Refuse a divergence from a Gaussian, which shares no base measure with this kind."""
    register_kl(kind, DiagonalGaussian)(partial(refuse, what=what))


register_kl(DiagonalGaussian, DiagonalGaussian)(_kl_gaussian_gaussian)
register_kl(DiagonalGaussian, StandardGaussian)(_kl_gaussian_standard)
register_kl(DiagonalGaussian, Independent)(_kl_gaussian_independent)
register_kl(Independent, DiagonalGaussian)(_kl_independent_gaussian)
register_kl(DiagonalGaussian, MultivariateNormal)(_kl_gaussian_multivariate)
register_kl(MultivariateNormal, DiagonalGaussian)(_kl_multivariate_gaussian)
