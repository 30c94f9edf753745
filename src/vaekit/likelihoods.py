"""Likelihoods: what turns the numbers a decoder's network returns into a distribution over x."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import Distribution

from vaekit import _checks
from vaekit.distributions import DiagonalGaussian, IndependentBernoulli, Joint, univariate
from vaekit.distributions.observed import CalibratedGaussian, Observed, Values
from vaekit.distributions.univariate import bounded

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "Mixed",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
]

_REAL = Values("finite values")
_UNIT = Values("values in [0, 1]", low=0, high=1)
_COUNTS = Values("whole numbers from 0", low=0, steps=1)


class Likelihood(nn.Module, ABC):
    """What every likelihood is: parameters in, a distribution over the data's shape out.

    Args:
        shape: The shape of one element of the data, without the batch: ``(1, 28, 28)``, or ``784``.
        params_per_value: How many parameters each value of an element takes. Where there are
            several, they come one after the other: the first of all values, the second of all. So
            a convolution returns them as so many times the channels.

    Attributes:
        shape: The shape of one element.
        num_params: How many numbers the decoder's network returns for each element.
        discrete: Whether the data are discrete, so that what is computed is a probability.

    Example:
        One of one's own: intervals of time, whose logarithm of the rate is decoded.

        >>> class Exponential(Likelihood):
        ...     def forward(self, params):
        ...         rate = torch.distributions.Exponential(self._shaped(params).exp())
        ...         return torch.distributions.Independent(rate, len(self.shape))
        >>> vk.reconstruction(Exponential(3)(torch.zeros(5, 3)), torch.ones(5, 3))
        tensor([3., 3., 3., 3., 3.])
    """

    discrete: bool = False

    def __init__(self, shape: int | Sequence[int], params_per_value: int = 1) -> None:
        super().__init__()
        self.shape = _checks.event_shape("shape", shape)
        self.params_per_value = params_per_value
        self.num_params = params_per_value * math.prod(self.shape)
        self._stacked = torch.Size((params_per_value * self.shape[0], *self.shape[1:]))

    @abstractmethod
    def forward(self, params: Float[Tensor, "..."]) -> Distribution:
        """Return the distribution that the parameters stand for."""

    def bits_per_dimension(self, nats: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        r"""Turn nats for an element into bits for each of its values.

        .. math:: \frac{\text{nats}}{M \log 2}, \qquad M = \text{the number of values}

        Of a negative log-likelihood, or a bound on it, it is what a lossless code would take.

        Shape:
            ``nats: (*batch,)``, returns the same.

        Raises:
            TypeError: If the data are not discrete: the density of real values depends on their
                unit, and is no number of bits.

        Example:
            >>> Bernoulli(784).bits_per_dimension(torch.tensor([86.76]))
            tensor([0.1597])
        """
        if not self.discrete:
            what = "a likelihood of discrete data"
            raise TypeError(_checks.expected("bits_per_dimension", what, repr(self)))
        return nats / (math.log(2) * math.prod(self.shape))

    def _shaped(self, params: Tensor) -> Tensor:
        """Give the parameters the data's shape, flat or shaped as they may come."""
        n, shape, flat = len(self.shape), self._stacked, params.shape[-1:] == (self.num_params,)
        if params.dtype.itemsize < 4:  # half precision, under autocast
            params = params.float()
        if not (flat and params.ndim <= n) and params.shape[-n:] == shape:
            return params
        if flat:
            return params.reshape(*params.shape[:-1], *shape)
        what = f"shape (..., {self.num_params}) or {('...', *shape)}".replace("'", "")
        raise ValueError(_checks.expected("params", what, tuple(params.shape)))

    def _stack(self, params: Tensor) -> Tensor:
        """Part the parameters of each value, as ``(*batch, *shape, params_per_value)``."""
        n = len(self.shape)
        stack: Tensor = self._shaped(params).unflatten(-n, (-1, self.shape[0]))
        return stack.movedim(-n - 1, -1)

    def _observed(
        self,
        base: Distribution,
        values: Values,
        *params: Tensor,
        dtype: torch.dtype | None = None,
    ) -> Observed:
        return Observed(base, len(self.shape), values, *params, dtype=dtype)

    def extra_repr(self) -> str:
        """Show the shape of one element."""
        return f"shape={tuple(self.shape)}"


class Bernoulli(Likelihood):
    r"""Binary data, given by logits.

    .. math:: \log p(x \mid z) = \sum_j x_j \log \pi_j + (1 - x_j) \log (1 - \pi_j),
              \qquad \pi = \operatorname{sigmoid}(\text{params})

    The mean is the sigmoid of the parameters, a picture in [0, 1].

    Args:
        shape: The shape of one element of the data.
        grey_levels: Whether values between 0 and 1 are let in. The loss is then the cross-entropy,
            which is what most people train grey pictures on, but is not a likelihood: its value
            cannot be set beside one.

    Shape:
        ``params: (*batch, num_params)`` or ``(*batch, *shape)``; returns a distribution over
        ``shape``.

    Raises:
        ValueError: If the parameters have another shape; and from the distribution's ``log_prob``,
            if the data lie outside its support, or if the parameters hold NaN and no gradient is
            asked for (in training it is the loss that is NaN then, as `vaekit.fit` says).

    Example:
        >>> likelihood = Bernoulli((1, 28, 28))
        >>> likelihood(torch.zeros(8, 784)).mean.shape
        torch.Size([8, 1, 28, 28])

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, appendix C.1,
        equation 11.
    """

    def __init__(self, shape: int | Sequence[int], *, grey_levels: bool = False) -> None:
        super().__init__(shape)
        self.grey_levels, self.discrete = grey_levels, not grey_levels

    def forward(self, params: Float[Tensor, "..."]) -> IndependentBernoulli:
        """Return the distribution whose logits are the parameters."""
        return IndependentBernoulli(self._shaped(params), len(self.shape), self.grey_levels)

    def extra_repr(self) -> str:
        """Show the shape, and whether grey levels are let in."""
        return super().extra_repr() + ", grey_levels=True" * self.grey_levels


class _LocationScale(Likelihood):
    """A location from the network, and a scale that is fixed, learned, or from the network too."""

    _options: ClassVar[tuple[str, ...]] = ("per_pixel",)
    logvar: Tensor | None

    def __init__(
        self, shape: int | Sequence[int], sigma: float | str = 1.0, *, learn_sigma: bool = False
    ) -> None:
        # A fixed sigma stays a Python number, exact in whatever dtype the model is used.
        self._sigma = sigma
        super().__init__(shape, 2 if sigma == "per_pixel" else 1)
        start = 1.0
        if isinstance(sigma, str):
            _checks.one_of("sigma", sigma, self._options)
            what = f"False where sigma is {sigma!r}"
            _checks.require(not learn_sigma, "learn_sigma", what, learn_sigma)
        else:
            self._sigma = start = _checks.number("sigma", sigma, above=0)
            _checks.require(1e-8 <= start <= 1e8, "sigma", "a number from 1e-8 to 1e8", sigma)
        logvar = torch.tensor(2 * math.log(start))
        if sigma == "optimal":
            self.register_buffer("logvar", logvar)
        else:
            self.logvar = nn.Parameter(logvar) if learn_sigma else None

    @property
    def sigma(self) -> float:
        """The scale as it is now, where there is one for all values."""
        if self.logvar is not None:
            return math.exp(0.5 * float(self.logvar.detach()))
        if isinstance(self._sigma, str):
            what = "a likelihood with one sigma for all values"
            raise TypeError(_checks.expected("sigma", what, repr(self)))
        return self._sigma

    def forward(self, params: Float[Tensor, "..."]) -> Distribution:
        """Return the distribution whose locations are the parameters, or the first half of them."""
        if self._sigma == "per_pixel":
            return self._around(*self._stack(params).unbind(-1))
        mu, logvar = self._shaped(params), self.logvar
        if logvar is None:
            dtype = torch.promote_types(mu.dtype, torch.float32)  # half precision would round it
            logvar = mu.new_full((), 2 * math.log(self.sigma), dtype=dtype)
        return self._around(mu, logvar)

    @abstractmethod
    def _around(self, mu: Tensor, logvar: Tensor) -> Distribution:
        """Return the distribution of these locations and logarithms of the scales' squares."""

    def init_args(self) -> dict[str, Any]:
        """Return what it was made with."""
        learned = isinstance(self.logvar, nn.Parameter)
        return {"shape": self.shape, "sigma": self._sigma, "learn_sigma": learned}

    def extra_repr(self) -> str:
        """Show the shape, sigma, and whether it is learned."""
        sigma = self._sigma if isinstance(self._sigma, str) else f"{self.sigma:.4g}"
        learned = ", learn_sigma=True" * isinstance(self.logvar, nn.Parameter)
        return f"{super().extra_repr()}, sigma={sigma}{learned}"


class Gaussian(_LocationScale):
    r"""Continuous data, with a standard deviation that is fixed, learned, inferred or computed.

    .. math:: \log p(x \mid z) = -\tfrac{1}{2} \sum_j \left[ \frac{(x_j - \mu_j)^2}{\sigma^2}
              + \log \sigma^2 + \log 2\pi \right]

    The squared error is this with a fixed sigma, but for a factor and a constant; sigma weighs the
    reconstruction against the KL, so learn it unless you know it. Under Adam a learned sigma
    changes by about half the learning rate, relative to itself, at each step: start it near the
    error you expect (0.1, say, for images in [0, 1]). Of the two other choices,

    - ``sigma="per_pixel"`` has the network return means, then log-variances, of every value;
    - ``sigma="optimal"`` takes the mean squared error of the batch for :math:`\sigma^2`, the best
      there is for these means. The loss of an element then depends on its batch, and is a bound on
      no log-density. That is for training: in ``eval()`` sigma is the one remembered, a running
      mean over training of :math:`\log \sigma^2`, each new batch weighing a tenth, and the
      density is one. Nothing flows back through sigma; the mean loss has the same gradient as if
      it did.

    Args:
        shape: The shape of one element of the data.
        sigma: The standard deviation, or the one that learning starts from, from 1e-8 to 1e8; or
            ``"per_pixel"``, or ``"optimal"``.
        learn_sigma: Whether sigma is a parameter of the model.

    Shape:
        ``params: (*batch, num_params)`` or ``(*batch, *shape)``, the means, with
        ``"per_pixel"`` twice as many; returns a distribution over ``shape``.

    Raises:
        ValueError: If ``sigma`` is out of range, or the parameters have another shape or hold NaN.

    Example:
        >>> Gaussian(10, sigma=0.1, learn_sigma=True)
        Gaussian(shape=(10,), sigma=0.1, learn_sigma=True)
        >>> Gaussian((3, 8, 8), sigma="per_pixel")(torch.zeros(4, 6, 8, 8)).stddev.shape
        torch.Size([4, 3, 8, 8])

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, appendix C.2;
        the shared sigma, learned or optimal: O. Rybkin, K. Daniilidis and S. Levine, *Simple and
        Effective VAE Training with Calibrated Decoders*, 2021.
    """

    _options = ("per_pixel", "optimal")

    def _around(self, mu: Tensor, logvar: Tensor) -> DiagonalGaussian:
        if self._sigma == "optimal" and self.training:
            return CalibratedGaussian(mu, logvar, len(self.shape))
        return DiagonalGaussian(mu, logvar, len(self.shape))


class Laplace(_LocationScale):
    r"""Continuous data whose errors are sparse: most small, some large. The absolute error.

    .. math:: \log p(x \mid z) = -\sum_j \left[ \frac{|x_j - \mu_j|}{b} + \log 2 b \right],
              \qquad b = \sigma / \sqrt{2}

    Sigma is the standard deviation, as of `Gaussian`, so that one can stand for the other.

    Args:
        shape: The shape of one element of the data.
        sigma: As of `Gaussian`, but for ``"optimal"``.
        learn_sigma: Whether sigma is a parameter of the model.

    Shape:
        As of `Gaussian`.

    Raises:
        ValueError: As of `Gaussian`.

    Example:
        >>> Laplace(3, sigma=2**0.5)(torch.zeros(1, 3)).log_prob(torch.ones(1, 3))
        tensor([-5.0794])

    References:
        N. L. Johnson, S. Kotz and N. Balakrishnan, *Continuous Univariate Distributions*, volume 2,
        1995, chapter 24.
    """

    def _around(self, mu: Tensor, logvar: Tensor) -> Observed:
        scale = bounded(0.5 * logvar, -20, 20).exp() / math.sqrt(2)
        return self._observed(td.Laplace(mu, scale, validate_args=False), _REAL, mu, logvar)


class StudentT(_LocationScale):
    r"""Continuous data with outliers: for large errors the loss grows but by their logarithm.

    .. math:: p(x_j \mid z) = \frac{\Gamma((\nu + 1) / 2)}{\Gamma(\nu / 2) \sqrt{\pi \nu}\, \sigma}
              \left( 1 + \frac{(x_j - \mu_j)^2}{\nu \sigma^2} \right)^{-(\nu + 1) / 2}

    Computed in double precision.

    Args:
        shape: The shape of one element of the data.
        df: The degrees of freedom :math:`\nu`, above 1 (at 1 and below there is no mean) and up to
            1e6 (where it is a Gaussian). The fewer, the heavier the tails.
        sigma: The scale, which above 2 degrees of freedom is the standard deviation times
            :math:`\sqrt{(\nu - 2) / \nu}`; else as of `Gaussian`, but for ``"optimal"``.
        learn_sigma: Whether sigma is a parameter of the model.

    Shape:
        As of `Gaussian`.

    Raises:
        ValueError: If ``df`` is out of range; else as of `Gaussian`.

    Example:
        >>> StudentT(3, df=4)(torch.zeros(1, 3)).log_prob(torch.full((1, 3), 100.0))
        tensor([-61.6258])

    References:
        H. Takahashi, T. Iwata, Y. Yamanaka, M. Yamada and S. Yagi, *Student-t Variational
        Autoencoder for Robust Density Estimation*, 2018.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        df: float,
        sigma: float | str = 1.0,
        *,
        learn_sigma: bool = False,
    ) -> None:
        super().__init__(shape, sigma, learn_sigma=learn_sigma)
        self.df = _checks.number("df", df, above=1)
        _checks.require(self.df <= 1e6, "df", "a number up to 1e6", df, "Use a Gaussian.")

    def init_args(self) -> dict[str, Any]:
        """Return what it was made with."""
        return super().init_args() | {"df": self.df}

    def _around(self, mu: Tensor, logvar: Tensor) -> Observed:
        wide = _wide(mu)
        df = torch.full_like(wide, self.df)
        scale = bounded(0.5 * _wide(logvar), -20, 20).exp()
        base = td.StudentT(df, wide, scale, validate_args=False)
        return self._observed(base, _REAL, mu, logvar, dtype=wide.dtype)

    def extra_repr(self) -> str:
        """Show the shape, the degrees of freedom, sigma, and whether it is learned."""
        return f"{super().extra_repr()}, df={self.df:g}"


class ContinuousBernoulli(Likelihood):
    r"""Grey levels in [0, 1] taken for real numbers: the cross-entropy made a density.

    .. math:: \log p(x \mid z) = \sum_j \left[ \eta_j x_j - \log \frac{e^{\eta_j} - 1}{\eta_j}
              \right], \qquad \eta = \text{params}

    That is the loss of `Bernoulli` with ``grey_levels=True`` and the normaliser it lacks. Data on
    256 grey levels are better served by `DiscretizedLogistic`, whose probabilities can be compared.

    Args:
        shape: The shape of one element of the data.

    Shape:
        ``params: (*batch, num_params)`` or ``(*batch, *shape)``; returns a distribution over
        ``shape``.

    Raises:
        ValueError: If the parameters have another shape or hold NaN; and from the distribution's
            ``log_prob``, if the data lie outside [0, 1].

    Example:
        >>> ContinuousBernoulli(3)(torch.zeros(1, 3)).log_prob(torch.rand(1, 3))
        tensor([0.])

    References:
        G. Loaiza-Ganem and J. P. Cunningham, *The continuous Bernoulli: fixing a pervasive error in
        variational autoencoders*, 2019.
    """

    def forward(self, params: Float[Tensor, "..."]) -> Observed:
        """Return the distribution whose natural parameters these are."""
        eta = self._shaped(params)
        return self._observed(univariate.ContinuousBernoulli(eta), _UNIT, params)


class DiscretizedLogistic(Likelihood):
    r"""Grey levels 0, 1/255, ..., 1: the bins of a logistic distribution, or of a mixture of them.

    .. math:: P(x_j \mid z) = \sum_k \pi_{jk} \left[
              \operatorname{sigmoid} \frac{x_j + \delta / 2 - \mu_{jk}}{s_{jk}}
              - \operatorname{sigmoid} \frac{x_j - \delta / 2 - \mu_{jk}}{s_{jk}} \right],
              \qquad \delta = \frac{1}{255}

    The end bins take the tails, so that the levels' probabilities sum to one. The network returns,
    for every value, ``components`` means, in the unit of the data, then as many log-scales, then,
    if there are several components, as many logits of :math:`\pi`. Scales do not fall below a
    twentieth of a bin. Channels are independent given z, which in PixelCNN++ they are not.

    Args:
        shape: The shape of one element of the data.
        levels: How many grey levels there are; at least 2.
        components: How many logistic distributions are mixed.

    Shape:
        ``params: (*batch, num_params)``, or as ``(*batch, n * shape[0], *shape[1:])`` with ``n``
        parameters a value: 2, or 3 for each component; returns a distribution over ``shape``.

    Raises:
        ValueError: If the parameters have another shape or hold NaN; and from the distribution's
            ``log_prob``, if the data are no such grey levels.

    Example:
        >>> likelihood = DiscretizedLogistic((3, 8, 8), components=5)
        >>> p = likelihood(torch.zeros(2, 45, 8, 8))
        >>> likelihood.bits_per_dimension(-p.log_prob(torch.full((2, 3, 8, 8), 51 / 255)))
        tensor([10.0088, 10.0088])

    References:
        T. Salimans, A. Karpathy, X. Chen and D. P. Kingma, *PixelCNN++: Improving the PixelCNN with
        Discretized Logistic Mixture Likelihood and Other Modifications*, 2017, equation 2.
    """

    discrete = True

    def __init__(
        self, shape: int | Sequence[int], levels: int = 256, *, components: int = 1
    ) -> None:
        self.levels = _checks.positive_int("levels", levels, above=1)
        self.components = _checks.positive_int("components", components)
        super().__init__(shape, 3 * self.components if self.components > 1 else 2)
        steps = self.levels - 1
        words = f"multiples of 1/{steps} from 0 to 1"
        self._values = Values(words, low=0, high=1, steps=steps)

    def forward(self, params: Float[Tensor, "..."]) -> Observed:
        """Return the distribution that the means, log-scales and logits stand for."""
        mu, log_scale, *logits = self._stack(params).split(self.components, dim=-1)
        log_scale = bounded(log_scale, low=-math.log(self.levels - 1) - 2)
        if not logits:
            mu, log_scale = mu.squeeze(-1), log_scale.squeeze(-1)
        base: Distribution = univariate.DiscretizedLogistic(mu, log_scale, self.levels)
        if logits:
            weights = td.Categorical(logits=logits[0], validate_args=False)
            base = td.MixtureSameFamily(weights, base, validate_args=False)
        return self._observed(base, self._values, params)

    def extra_repr(self) -> str:
        """Show the shape, the number of levels and of components."""
        return f"{super().extra_repr()}, levels={self.levels}, components={self.components}"


class Categorical(Likelihood):
    r"""One of several classes for each value, given by logits.

    .. math:: \log P(x \mid z) = \sum_j \left[ \eta_{j x_j} - \log \sum_k e^{\eta_{jk}} \right]

    The data are the numbers of the classes, from 0. The mean is the mean of that number: a picture
    where classes are grey levels; where they have no order, look at the distribution's ``mode``.
    They may come as floats or whole numbers; bytes take ``scale=1``, as counts do (see `Poisson`).

    Args:
        shape: The shape of one element of the data.
        classes: How many classes there are; at least 2.

    Shape:
        ``params: (*batch, num_params)`` or ``(*batch, classes * shape[0], *shape[1:])``; returns a
        distribution over ``shape``.

    Raises:
        ValueError: If the parameters have another shape or hold NaN; and from the distribution's
            ``log_prob``, if the data are no numbers of classes.

    Example:
        >>> p = Categorical((1, 8, 8), classes=4)(torch.zeros(2, 4, 8, 8))
        >>> p.log_prob(torch.randint(4, (2, 1, 8, 8)))  # 64 dice of four sides
        tensor([-88.7228, -88.7228])

    References:
        A. van den Oord, N. Kalchbrenner and K. Kavukcuoglu, *Pixel Recurrent Neural Networks*,
        2016, section 2.2, for grey levels as classes; A. Nazábal, P. M. Olmos, Z. Ghahramani and I.
        Valera, *Handling Incomplete Heterogeneous Data using VAEs*, 2020, for tables.
    """

    discrete = True

    def __init__(self, shape: int | Sequence[int], classes: int) -> None:
        self.classes = _checks.positive_int("classes", classes, above=1)
        super().__init__(shape, self.classes)
        words = f"whole numbers from 0 to {classes - 1}"
        self._values = Values(words, low=0, high=classes - 1, steps=1)

    def forward(self, params: Float[Tensor, "..."]) -> Observed:
        """Return the distribution whose logits are the parameters."""
        base = univariate.Categorical(logits=self._stack(params), validate_args=False)
        return self._observed(base, self._values, params)

    def extra_repr(self) -> str:
        """Show the shape and the number of classes."""
        return f"{super().extra_repr()}, classes={self.classes}"


class Poisson(Likelihood):
    r"""Counts, given by the logarithms of their means.

    .. math:: \log P(x \mid z) = \sum_j \left[ x_j \log \lambda_j - \lambda_j - \log x_j! \right],
              \qquad \log \lambda = \text{params}

    Computed in double precision, and exactly so up to a rate of :math:`e^{40}` either way.

    Counts may come as floats or as whole numbers. Bytes (uint8) alone are taken for grey
    levels by data sets, which divide them by 255: ``vk.datasets.from_tensors(x, scale=1)`` does
    not.

    Args:
        shape: The shape of one element of the data.

    Shape:
        ``params: (*batch, num_params)`` or ``(*batch, *shape)``; returns a distribution over
        ``shape``.

    Raises:
        ValueError: If the parameters have another shape or hold NaN; and from the distribution's
            ``log_prob``, if the data are no counts.

    Example:
        >>> Poisson(3)(torch.zeros(1, 3)).log_prob(torch.tensor([[0, 1, 2]]))
        tensor([-3.6931])

    References:
        A. Nazábal, P. M. Olmos, Z. Ghahramani and I. Valera, *Handling Incomplete Heterogeneous
        Data using VAEs*, 2020, for counts.
    """

    discrete = True

    def forward(self, params: Float[Tensor, "..."]) -> Observed:
        """Return the distribution whose rates have the parameters as their logarithms."""
        rate = bounded(_wide(self._shaped(params))).exp()
        base = td.Poisson(rate, validate_args=False)
        return self._observed(base, _COUNTS, params, dtype=rate.dtype)


class NegativeBinomial(Likelihood):
    r"""Counts that spread more than Poisson's, as those of genes do.

    .. math:: P(x_j \mid z) = \frac{\Gamma(x_j + r_j)}{\Gamma(r_j)\, x_j!}
              \left( \frac{r_j}{r_j + \mu_j} \right)^{r_j}
              \left( \frac{\mu_j}{r_j + \mu_j} \right)^{x_j}

    The network returns, for every value, :math:`\log \mu`, then :math:`\log r`, the logarithm of
    the inverse dispersion: the variance is :math:`\mu + \mu^2 / r`. Computed in double precision.
    Counts may come in the forms that `Poisson` names.

    Args:
        shape: The shape of one element of the data.

    Shape:
        ``params: (*batch, num_params)`` or ``(*batch, 2 * shape[0], *shape[1:])``; returns a
        distribution over ``shape``.

    Raises:
        ValueError: As of `Poisson`.

    Example:
        >>> NegativeBinomial(3)(torch.zeros(1, 6)).log_prob(torch.tensor([[0, 1, 2]]))
        tensor([-4.1589])

    References:
        R. Lopez, J. Regier, M. B. Cole, M. I. Jordan and N. Yosef, *Deep generative modeling for
        single-cell transcriptomics*, 2018.
    """

    discrete = True

    def __init__(self, shape: int | Sequence[int]) -> None:
        super().__init__(shape, 2)

    def forward(self, params: Float[Tensor, "..."]) -> Observed:
        """Return the distribution of these means and inverse dispersions."""
        log_mean, log_r = (bounded(_wide(part)) for part in self._stack(params).unbind(-1))
        base = univariate.NegativeBinomial(log_mean, log_r)
        return self._observed(base, _COUNTS, params, dtype=log_mean.dtype)


class Mixed(Likelihood):
    r"""The columns of a table, each kind with a likelihood of its own.

    .. math:: \log p(x \mid z) = \sum_{\text{parts}} \log p_{\text{part}}(x_{\text{columns}} \mid z)

    Mind that a density of numbers and a probability of classes are weighed as they are: the
    narrower the density (the smaller sigma), the more its columns count.

    Args:
        parts: Pairs of columns and their likelihood, whose shape is the number of these columns.
            Together they are all the columns of the table, each once.

    Shape:
        ``params: (*batch, num_params)``, those of the parts one after the other; returns a
        distribution over ``(columns,)``.

    Raises:
        ValueError: If there are no parts, columns overlap or lack, or their number is another than
            their likelihood's; and from the distribution's ``log_prob``, if the data lie outside
            their column's support.

    Example:
        >>> likelihood = Mixed(
        ...     [
        ...         ([0, 3], Gaussian(2)),
        ...         ([1], Bernoulli(1)),
        ...         ([2], Categorical(1, classes=5)),
        ...     ]
        ... )
        >>> likelihood.num_params
        8
        >>> row = torch.tensor([[1.7, 1.0, 4.0, -0.2]])
        >>> likelihood(torch.zeros(1, 8)).log_prob(row)
        tensor([-5.6055])

    References:
        A. Nazábal, P. M. Olmos, Z. Ghahramani and I. Valera, *Handling Incomplete Heterogeneous
        Data using VAEs*, 2020.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], Likelihood]]) -> None:
        columns = [column for of_part, _ in parts for column in of_part]
        once = len(columns) > 0 and sorted(columns) == list(range(len(columns)))
        what = "pairs of columns and likelihood that name the columns from 0 once each"
        _checks.require(once, "parts", what, f"columns {columns}")
        for of_part, likelihood in parts:
            what = f"a likelihood of shape ({len(of_part)},) for the columns {list(of_part)}"
            _checks.require(likelihood.shape == (len(of_part),), "parts", what, likelihood)
        super().__init__(len(columns))
        self.columns = [list(of_part) for of_part, _ in parts]
        self.parts = nn.ModuleList(likelihood for _, likelihood in parts)
        self._sizes = [likelihood.num_params for _, likelihood in parts]
        self.num_params = sum(self._sizes)
        self.discrete = all(likelihood.discrete for _, likelihood in parts)

    def forward(self, params: Float[Tensor, "..."]) -> Joint:
        """Return the distribution of a row."""
        _checks.trailing_shape("params", params, (self.num_params,))
        each = zip(self.parts, params.split(self._sizes, dim=-1), strict=True)
        return Joint([likelihood(part) for likelihood, part in each], self.columns)

    def init_args(self) -> dict[str, Any]:
        """Return what it was made with."""
        return {"parts": list(zip(self.columns, self.parts, strict=True))}

    def extra_repr(self) -> str:
        """Show the columns of each part."""
        return f"columns={self.columns}"


def _wide(value: Tensor) -> Tensor:
    """Return it in double precision, on the devices that have one."""
    return value if value.device.type == "mps" else value.double()
