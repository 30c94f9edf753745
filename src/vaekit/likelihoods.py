"""Likelihoods: what turns the numbers a decoder's network returns into a distribution over x."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit import _checks
from vaekit.distributions import DiagonalGaussian, IndependentBernoulli

__all__ = ["Bernoulli", "Gaussian", "Likelihood"]


class Likelihood(nn.Module, ABC):
    """What every likelihood is: parameters in, a distribution over the data's shape out.

    Args:
        shape: The shape of one element of the data, without the batch: ``(1, 28, 28)``, or ``784``.
        params_per_value: How many parameters each value of an element takes.

    Attributes:
        shape: The shape of one element.
        num_params: How many numbers the decoder's network returns for each element.
    """

    def __init__(self, shape: int | Sequence[int], params_per_value: int = 1) -> None:
        super().__init__()
        self.shape = _checks.event_shape("shape", shape)
        self.num_params = params_per_value * math.prod(self.shape)

    @abstractmethod
    def forward(self, params: Float[Tensor, "..."]) -> Distribution:
        """Return the distribution that the parameters stand for."""

    def _shaped(self, params: Tensor) -> Tensor:
        """Give the parameters the data's shape, flat or shaped as they may come."""
        n = len(self.shape)
        if params.ndim >= n and params.shape[params.ndim - n :] == self.shape:
            return params
        if params.shape[-1:] == (self.num_params,):
            return params.reshape(*params.shape[:-1], *self.shape)
        what = f"shape (..., {self.num_params}) or {('...', *self.shape)}".replace("'", "")
        raise ValueError(_checks.expected("params", what, tuple(params.shape)))

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
        ValueError: If the parameters have another shape or hold NaN; and from the distribution's
            ``log_prob``, if the data lie outside its support.

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
        self.grey_levels = grey_levels

    def forward(self, params: Float[Tensor, "..."]) -> IndependentBernoulli:
        """Return the distribution whose logits are the parameters."""
        return IndependentBernoulli(self._shaped(params), len(self.shape), self.grey_levels)

    def extra_repr(self) -> str:
        """Show the shape, and whether grey levels are let in."""
        return super().extra_repr() + ", grey_levels=True" * self.grey_levels


class Gaussian(Likelihood):
    r"""Continuous data with one standard deviation for all values, fixed or learned.

    .. math:: \log p(x \mid z) = -\tfrac{1}{2} \sum_j \left[ \frac{(x_j - \mu_j)^2}{\sigma^2}
              + \log \sigma^2 + \log 2\pi \right]

    The squared error is this with a fixed sigma, but for a factor and a constant; sigma weighs the
    reconstruction against the KL, so learn it unless you know it. Under Adam a learned sigma
    changes by about half the learning rate, relative to itself, at each step: start it near the
    error you expect (0.1, say, for images in [0, 1]).

    Args:
        shape: The shape of one element of the data.
        sigma: The standard deviation, or the one that learning starts from; from 1e-8 to 1e8.
        learn_sigma: Whether sigma is a parameter of the model.

    Shape:
        ``params: (*batch, num_params)`` or ``(*batch, *shape)``, the means; returns a distribution
        over ``shape``.

    Raises:
        ValueError: If ``sigma`` is out of range, or the parameters have another shape or hold NaN.

    Example:
        >>> Gaussian(10, sigma=0.1, learn_sigma=True)
        Gaussian(shape=(10,), sigma=0.1, learn_sigma=True)

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, appendix C.2;
        the shared, learned sigma: O. Rybkin, K. Daniilidis and S. Levine, *Simple and Effective VAE
        Training with Calibrated Decoders*, 2021.
    """

    def __init__(
        self, shape: int | Sequence[int], sigma: float = 1.0, *, learn_sigma: bool = False
    ) -> None:
        super().__init__(shape)
        # A fixed sigma stays a Python number, exact in whatever dtype the model is used.
        self._fixed = _checks.number("sigma", sigma, above=0)
        if not 1e-8 <= self._fixed <= 1e8:
            raise ValueError(_checks.expected("sigma", "a number from 1e-8 to 1e8", sigma))
        start = torch.tensor(2 * math.log(self._fixed))
        self.logvar = nn.Parameter(start) if learn_sigma else None

    @property
    def sigma(self) -> float:
        """The standard deviation as it is now."""
        return self._fixed if self.logvar is None else math.exp(0.5 * float(self.logvar.detach()))

    def forward(self, params: Float[Tensor, "..."]) -> DiagonalGaussian:
        """Return the distribution whose means are the parameters."""
        logvar: Tensor
        if self.logvar is None:
            logvar = params.new_full((), 2 * math.log(self._fixed))
        else:
            logvar = self.logvar
        return DiagonalGaussian(self._shaped(params), logvar, len(self.shape))

    def extra_repr(self) -> str:
        """Show the shape, sigma, and whether it is learned."""
        learned = ", learn_sigma=True" * (self.logvar is not None)
        return f"{super().extra_repr()}, sigma={self.sigma:.4g}{learned}"
