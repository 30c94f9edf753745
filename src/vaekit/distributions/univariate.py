"""Distributions of one value that `torch.distributions` lacks, or has only in part."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from torch import distributions as td

from vaekit.distributions.events import Checked

__all__ = [
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "NegativeBinomial",
    "bounded",
]


def bounded(
    value: Float[Tensor, "*shape"], low: float = -40.0, high: float = 40.0
) -> Float[Tensor, "*shape"]:
    r"""Keep logarithms where their exponential is a number, without ever a zero gradient.

    From ``low`` to ``high`` a value is itself. By an excess of :math:`e` beyond, it is
    :math:`e / (1 + e)` beyond, so never more than 1.

    Example:
        >>> bounded(torch.tensor([-1e4, 0.5, 41.0]))
        tensor([-40.9999,   0.5000,  40.5000])
    """
    over, under = F.relu(value - high), F.relu(low - value)
    inside = torch.where(under > 0, low - 1 + 1 / (1 + under), value)
    return torch.where(over > 0, high + 1 - 1 / (1 + over), inside)


class _Univariate(Checked):
    def __init__(self, *params: Tensor) -> None:
        self._params = torch.broadcast_tensors(*params)
        super().__init__(self._params[0].shape, validate_args=False)

    def _uniform(self, sample_shape: Sequence[int]) -> Tensor:
        like = self._params[0].expand(torch.Size(sample_shape) + self.batch_shape)
        return torch.rand_like(like, memory_format=torch.contiguous_format)


class Categorical(td.Categorical):
    """Torch's, with a mean and a variance: those of the number of the class.

    Example:
        >>> Categorical(logits=torch.zeros(8, 5)).mean[0]
        tensor(2.)
    """

    @property
    def mean(self) -> Tensor:
        """The means of the class's number, of shape ``batch_shape``."""
        return (self.probs * self._numbers).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The variances of the class's number, of shape ``batch_shape``."""
        return (self.probs * (self._numbers - self.mean[..., None]).square()).sum(-1)

    @property
    def _numbers(self) -> Tensor:
        return torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)


class ContinuousBernoulli(_Univariate):
    """Values between 0 and 1, with a density that is exponential in them.

    Torch's own clamps the probability that the normaliser is computed from (an open fault,
    pytorch issue 72525): in float32 a density beyond a natural parameter of 16 integrates to
    something else than one. This one holds for all.

    Args:
        eta: The natural parameter, which is the logit of torch's ``probs``.

    Example:
        >>> ContinuousBernoulli(torch.tensor([0.0, 100.0])).log_prob(torch.tensor(1.0))
        tensor([0.0000, 4.6052])
    """

    def __init__(self, eta: Float[Tensor, "*shape"]) -> None:
        super().__init__(eta)
        self.eta = eta
        # Where eta is small, sums of large terms are replaced by series in it.
        self._small = eta.abs() < 0.2
        self._large = torch.where(self._small, 1.0, eta)

    @property
    def mean(self) -> Tensor:
        r"""The means, :math:`1 / (1 - e^{-\eta}) - 1 / \eta`."""
        square = self.eta.square()
        series = 1 / 720 - square * (1 / 30240 - square / 1209600)
        series = 0.5 + self.eta * (1 / 12 - square * series)
        size = self._large.abs()
        above = -1 / torch.expm1(-size) - 1 / size
        return torch.where(self._small, series, torch.where(self.eta > 0, above, 1 - above))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw, by the inverse of the distribution function."""
        size = self.eta.abs().clamp_min(1e-12)
        falling = -torch.log1p(self._uniform(sample_shape) * torch.expm1(-size)) / size
        return torch.where(self.eta > 0, 1 - falling, falling)

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats, of the shape that ``value`` and ``eta`` broadcast to."""
        square = self.eta.square()
        series = square * (1 / 24 - square * (1 / 2880 - square / 181440))
        near = (value - 0.5) * self.eta - series
        size = self._large.abs()
        distance = torch.where(self.eta > 0, 1 - value, value)
        far = torch.log(-size / torch.expm1(-size)) - distance * size
        return torch.where(self._small, near, far)


class DiscretizedLogistic(_Univariate):
    r"""Grey levels in [0, 1], each the bin around it of a logistic distribution.

    The difference of the distribution function at a bin's edges is computed as a product, so that
    nothing is lost to cancellation, however narrow or far away the bin:

    .. math:: \operatorname{sigmoid}(u) - \operatorname{sigmoid}(l)
              = \operatorname{sigmoid}(u) \operatorname{sigmoid}(-l)
              \left( 1 - e^{l - u} \right)

    Args:
        mu: The means of the logistic distributions.
        log_scale: The logarithms of their scales.
        levels: How many grey levels there are.

    Example:
        >>> p = DiscretizedLogistic(torch.tensor(0.5), torch.tensor(-4.0))
        >>> p.log_prob(torch.arange(256) / 255).exp().sum()
        tensor(1.0000)
    """

    def __init__(
        self,
        mu: Float[Tensor, "*shape"],
        log_scale: Float[Tensor, "*shape"],
        levels: int = 256,
    ) -> None:
        super().__init__(mu, log_scale)
        self.mu, self.scale, self.levels = mu, log_scale.exp(), levels

    @property
    def mean(self) -> Tensor:
        """The means of the grey levels, exact: a sum over the levels."""
        steps = self.levels - 1
        total = torch.zeros_like(self.mu)
        for step in range(steps):
            total = total + torch.sigmoid((self.mu - (step + 0.5) / steps) / self.scale)
        return total / steps

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw grey levels."""
        value = self.mu + self.scale * self._uniform(sample_shape).logit()
        steps = self.levels - 1
        return (value.clamp(0, 1) * steps).round() / steps

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability in nats, of the shape that ``value`` and ``mu`` broadcast to."""
        half = 0.5 / (self.levels - 1)
        from_mean = value - self.mu
        below_top, above_bottom = value < 1 - half, value > half
        below = torch.where(below_top, F.logsigmoid((from_mean + half) / self.scale), 0.0)
        above = torch.where(above_bottom, F.logsigmoid((half - from_mean) / self.scale), 0.0)
        width = torch.log(-torch.expm1(-2 * half / self.scale))
        return below + above + torch.where(below_top & above_bottom, width, 0.0)


class NegativeBinomial(_Univariate):
    r"""Counts that spread more than Poisson's: of variance :math:`\mu + \mu^2 / r`.

    The ratio of gamma functions is computed from Stirling's formula and its remainder, which
    leaves only differences of logarithms that are small when r is large; torch's own loses all
    digits there, where the distribution becomes Poisson's.

    Args:
        log_mean: The logarithm of the mean :math:`\mu`.
        log_r: The logarithm of the inverse dispersion :math:`r`.

    Example:
        >>> p = NegativeBinomial(torch.tensor(0.0), torch.tensor([0.0, 30.0]))
        >>> p.log_prob(torch.tensor(0.0))
        tensor([-0.6931, -1.0000])

    References:
        Stirling's series: NIST Digital Library of Mathematical Functions, 5.11.1.
    """

    def __init__(self, log_mean: Float[Tensor, "*shape"], log_r: Float[Tensor, "*shape"]) -> None:
        super().__init__(log_mean, log_r)
        self.log_mean, self.log_r = log_mean, log_r

    @property
    def mean(self) -> Tensor:
        r"""The means :math:`\mu`."""
        return self.log_mean.exp()

    @property
    def mode(self) -> Tensor:
        r"""The likeliest counts, :math:`\lfloor \mu (1 - 1 / r) \rfloor`; 0 where r is below 1."""
        return (self.mean * (1 - (-self.log_r).exp())).clamp_min(0).floor()

    @property
    def variance(self) -> Tensor:
        r"""The variances, :math:`\mu + \mu^2 / r`."""
        return self.mean + (2 * self.log_mean - self.log_r).exp()

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw counts."""
        logits = self.log_mean - self.log_r
        p = td.NegativeBinomial(self.log_r.exp(), logits=logits, validate_args=False)
        counts: Tensor = p.sample(torch.Size(sample_shape))
        return counts

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability in nats, of the shape that ``value`` and the parameters broadcast to."""
        r = self.log_r.exp()
        log1p = torch.log1p(value / r)  # log (r + x) - log r
        poisson = value * self.log_mean - value - torch.lgamma(value + 1)
        spread = (r + value) * (log1p - torch.log1p(self.log_mean.exp() / r)) - 0.5 * log1p
        return poisson + spread + _stirling_remainder(value + r) - _stirling_remainder(r)


def _stirling_remainder(z: Tensor) -> Tensor:
    """What Stirling's formula lacks of log Gamma: its series, where z is large enough for it."""
    small, large = z.clamp_max(10.0), z.clamp_min(10.0)
    formula = (small - 0.5) * small.log() - small + 0.5 * math.log(2 * math.pi)
    inverse = large.square().reciprocal()
    series = 1 / 1260 - inverse * (1 / 1680 - inverse / 1188)
    series = (1 / 12 - inverse * (1 / 360 - inverse * series)) / large
    return torch.where(z < 10, torch.lgamma(small) - formula, series)
