"""Discrete variables whose draws let a gradient through."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints, register_kl

from vaekit import _checks
from vaekit.distributions.bernoulli import IndependentBernoulli
from vaekit.distributions.events import divided
from vaekit.distributions.gaussians import refuse_gaussian
from vaekit.distributions.supports import Drawn, Reparameterized, check_inside, single

__all__ = ["RelaxedBernoulli", "RelaxedCategorical"]


def _gumbel(like: Tensor, sample_shape: Sequence[int]) -> Tensor:
    exponential = like.new_empty(torch.Size(sample_shape) + like.shape).exponential_()
    return -exponential.clamp_min(torch.finfo(like.dtype).tiny).log()


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    return hard + (soft - soft.detach())  # the bracket is exactly 0, but has a gradient


def _log_odds(logits: Tensor, temperature: float, sample_shape: Sequence[int]) -> Tensor:
    # In one draw: of two alike, aot_eager of torch 2.11 makes one, so that nothing is random.
    one, other = _gumbel(logits, (2, *sample_shape))
    drawn: Tensor = (logits + one - other) / temperature
    return drawn


def _log_odds_density(logits: Tensor, temperature: float, at: Tensor) -> Tensor:
    score = logits - temperature * at
    return math.log(temperature) + score - 2 * F.softplus(score)


def _log_ratios(logits: Tensor, temperature: float, sample_shape: Sequence[int]) -> Tensor:
    """Draw the logarithms of a point of the simplex, up to a constant for each variable."""
    return (logits + _gumbel(logits, sample_shape)) / temperature


def _log_ratios_density(logits: Tensor, temperature: float, at: Tensor) -> Tensor:
    """Return the density of the differences from the last, for each variable."""
    classes = logits.shape[-1]
    constant = math.lgamma(classes) + (classes - 1) * math.log(temperature)
    score = logits - temperature * at
    by_variable: Tensor = score.sum(-1) - classes * score.logsumexp(-1) + constant
    return by_variable


class _LogOdds(Reparameterized):
    """Log-odds whose sigmoids are relaxed binary variables: logistic ones, over ``(dim,)``."""

    def __init__(self, logits: Tensor, temperature: float) -> None:
        self.logits, self.temperature = logits, temperature
        super().__init__(*divided(logits.shape, 1), validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return _log_odds(self.logits, self.temperature, sample_shape)

    def log_prob_by_dimension(self, value: Tensor) -> Tensor:
        return _log_odds_density(self.logits, self.temperature, value)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_prob_by_dimension(value).sum(-1)


class _LogRatios(Reparameterized):
    """Vectors whose softmaxes are relaxed one-hot vectors, over ``(variables * classes,)``."""

    def __init__(self, logits: Tensor, temperature: float) -> None:
        self.logits, self.temperature = logits, temperature
        event = torch.Size([logits.shape[-2] * logits.shape[-1]])
        super().__init__(logits.shape[:-2], event, validate_args=False)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return _log_ratios(self.logits, self.temperature, sample_shape).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        each = value.unflatten(-1, self.logits.shape[-2:])
        return _log_ratios_density(self.logits, self.temperature, each).sum(-1)


class _Relaxed(Reparameterized):
    """Draws that are relaxed or hard; the latest relaxed one keeps the logits it was made of."""

    _flags = ("hard",)
    _drawn: Drawn | None = None

    @abstractmethod
    def _of_logits(self) -> Reparameterized:
        """Return the distribution of the logits that relaxed draws are made of."""

    @abstractmethod
    def _draw(self, sample_shape: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Draw; where that is relaxed, return the logits too."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw ``(*sample_shape, *batch, *event)``, with a gradient to the logits."""
        value, logits = self._draw(sample_shape)
        if logits is not None:
            self._drawn = Drawn(value, [logits])
        return value

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw as `rsample` does, without a gradient."""
        return self._draw(sample_shape)[0]


class _OneHots(constraints.Constraint):
    """One-hot vectors side by side, or points of the simplices whose corners they are."""

    event_dim = 1

    def __init__(self, classes: int, hard: bool) -> None:
        self.classes, self.is_discrete = classes, hard
        self.measure = "counts" if hard else "simplices"
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        each: Tensor = value.unflatten(-1, (-1, self.classes))
        error = max(1e-4, self.classes * torch.finfo(value.dtype).eps)  # of half precision's parts
        inside = (each >= 0).all(-1) & ((single(each).sum(-1) - 1).abs() < error)
        if self.is_discrete:
            inside = inside & (each.amax(-1) == 1)
        return inside.all(-1)


class RelaxedCategorical(_Relaxed):
    r"""Independent categorical variables as one-hot vectors side by side, relaxed or hard.

    .. math:: y = \operatorname{softmax}\!\big( (\log \pi + g) / \tau \big),
              \qquad g_k \sim \operatorname{Gumbel}(0, 1)

    Relaxed, a draw is y, a point of the simplex, and the density is the Concrete one:

    .. math:: p(y) = (K - 1)!\, \tau^{K-1} \prod_k
              \frac{\pi_k\, y_k^{-\tau-1}}{\sum_i \pi_i\, y_i^{-\tau}}

    Hard, a draw is the one-hot vector of y's largest entry, which follows the categorical exactly,
    and ``log_prob`` is the categorical's; the gradient is that of y (straight-through), so biased.

    Mean, mode and variance are the categorical's, relaxed or not. So is the divergence between two
    of these, in closed form. It is *not* the divergence between Concrete densities, which the Monte
    Carlo estimate of `vaekit.kl_divergence` gives where both are relaxed. A relaxed value that
    rounding has put onto the simplex's edge has the density of the nearest number above 0, so that
    differences of log-densities of such values are biased: the losses take those of the latest draw
    of ``rsample`` by the logits that it was made of, which are kept.

    Args:
        logits: The log-odds of the classes, up to a constant for each variable.
        temperature: :math:`\tau`, above 0; towards 0 relaxed draws become one-hot.
        hard: Whether draws are one-hot.
        validate_args: Whether values are checked; they are if ``None``.

    Shape:
        ``logits: (*batch, variables, classes)``; the event is ``(variables * classes,)``.

    Raises:
        ValueError: If there are fewer than 2 classes, the temperature is not above 0, or ``logits``
            are not finite (-1e4 does for a class that is not to be drawn); from ``log_prob``, if a
            value lies outside the support.

    Example:
        >>> q = RelaxedCategorical(torch.zeros(8, 3, 4), hard=True)
        >>> q
        RelaxedCategorical(batch_shape=(8,), event_shape=(12,), hard=True)
        >>> q.log_prob(q.sample())[0]  # three fair dice of four faces
        tensor(-4.1589)

    References:
        C. J. Maddison, A. Mnih and Y. W. Teh, *The Concrete Distribution*, 2017, definition 1;
        E. Jang, S. Gu and B. Poole, *Categorical Reparameterization with Gumbel-Softmax*, 2017,
        sections 2.1 and 2.2.
    """

    def __init__(
        self,
        logits: Float[Tensor, "*batch variables classes"],
        temperature: float = 0.5,
        hard: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        if logits.ndim < 2 or logits.shape[-1] < 2:
            what = "shape (..., variables, classes) with at least 2 classes"
            raise ValueError(_checks.expected("logits", what, tuple(logits.shape)))
        self.temperature = _checks.number("temperature", temperature, above=0)
        self.logits, self.hard = logits, hard
        event_shape = torch.Size([logits.shape[-2] * logits.shape[-1]])
        super().__init__(logits.shape[:-2], event_shape, validate_args=validate_args)
        if self._validate_args and _checks.eager() and not math.isfinite(logits.detach().sum()):
            _checks.finite("logits", logits)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """One-hot vectors side by side; relaxed, points of the simplex."""
        return _OneHots(self.logits.shape[-1], self.hard)

    @property
    def log_probs(self) -> Tensor:
        """The log-probabilities of the classes, ``(*batch, variables, classes)``."""
        return self.logits.log_softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The probabilities of the classes, ``(*batch, variables * classes)``."""
        return self.logits.softmax(-1).flatten(-2)

    @property
    def mode(self) -> Tensor:
        """The likeliest class of each variable, one-hot."""
        return _one_hot(self.logits).flatten(-2)

    @property
    def variance(self) -> Tensor:
        """The variances of the one-hot vectors' entries."""
        return self.mean * (1 - self.mean)

    def _of_logits(self) -> _LogRatios:
        return _LogRatios(self.logits, self.temperature)

    def _draw(self, sample_shape: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        logits = _log_ratios(self.logits, self.temperature, sample_shape)
        y = logits.softmax(-1)
        if self.hard:
            return _straight_through(_one_hot(y), y).flatten(-2), None
        return y.flatten(-2), logits.flatten(-2)

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability, or the logarithm of the Concrete density, in nats.

        Shape:
            ``value: (..., variables * classes)``, returns ``(*batch,)`` broadcast with its front.

        Raises:
            ValueError: If the shape does not fit, or a value lies outside the support.
        """
        points = "one-hot vectors" if self.hard else "points of the simplex"
        check_inside(self, value, f"{points} side by side, one for each variable")
        each: Tensor = value.unflatten(-1, self.logits.shape[-2:])
        if self.hard:
            return (each * self.log_probs).sum((-2, -1))
        log_y = each.clamp_min(torch.finfo(each.dtype).tiny).log()
        of_ratios = _log_ratios_density(self.logits, self.temperature, log_y)
        return (of_ratios - log_y.sum(-1)).sum(-1)

    def entropy(self) -> Float[Tensor, "..."]:
        """Entropy of the hard variables in nats, ``(*batch,)``; the relaxed ones' has no form."""
        _check_hard(self)
        return -(self.logits.softmax(-1) * self.log_probs).sum((-2, -1))


class RelaxedBernoulli(_Relaxed, IndependentBernoulli):
    r"""Independent binary variables, relaxed or hard, in the manner of `RelaxedCategorical`.

    .. math:: y = \operatorname{sigmoid}\!\big( (\text{logit}\, \pi + l) / \tau \big),
              \qquad l \sim \operatorname{Logistic}(0, 1)

    Relaxed, a draw is y, between 0 and 1, and the density is the binary Concrete one; hard, a draw
    is 0 or 1, as y lies below or above a half, with the gradient of y (straight-through, biased),
    and ``log_prob`` is the Bernoulli's. Mean, mode and variance are the Bernoulli's, relaxed or
    not, and the divergence between two of these is that between the Bernoullis. A relaxed value
    within rounding of 0 or 1 has the density of that distance. Below 1 that is often too large, in
    single precision from a logit of about 8 at the temperature 0.5, so that differences of
    log-densities of such values are biased: the losses take those of the latest draw of ``rsample``
    by the logits that it was made of, which are kept.

    Args:
        logits: The log-odds of a one.
        temperature: :math:`\tau`, above 0; towards 0 relaxed draws become 0 or 1.
        hard: Whether draws are 0 or 1.
        validate_args: Whether values are checked; they are if ``None``.

    Shape:
        ``logits: (*batch, dim)``.

    Raises:
        ValueError: If the temperature is not above 0, or ``logits`` are not finite; from
            ``log_prob``, if a value lies outside the support.

    Example:
        >>> q = RelaxedBernoulli(torch.zeros(8, 3), hard=True)
        >>> q.log_prob(q.sample())[0]  # three fair coins
        tensor(-2.0794)

    References:
        C. J. Maddison, A. Mnih and Y. W. Teh, *The Concrete Distribution*, 2017, appendix B.
    """

    def __init__(
        self,
        logits: Float[Tensor, "*batch dim"],
        temperature: float = 0.5,
        hard: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(logits, validate_args=validate_args)
        self.temperature = _checks.number("temperature", temperature, above=0)
        self.hard = hard
        if self._validate_args and _checks.eager() and not math.isfinite(logits.detach().sum()):
            _checks.finite("logits", logits)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """Zeros and ones; relaxed, all that lies between them."""
        values = constraints.boolean if self.hard else constraints.unit_interval
        return constraints.independent(values, 1)

    def _of_logits(self) -> _LogOdds:
        return _LogOdds(self.logits, self.temperature)

    def _draw(self, sample_shape: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        logits = _log_odds(self.logits, self.temperature, sample_shape)
        y = logits.sigmoid()
        if self.hard:
            return _straight_through((y > 0.5).to(y.dtype), y), None
        return y, logits

    def log_prob_by_dimension(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability or log-density of each dimension by itself, in nats; see `log_prob`."""
        check_inside(self, value, "zeros and ones" if self.hard else "values in [0, 1]")
        if self.hard:
            return value * self.logits - F.softplus(self.logits)
        numbers = torch.finfo(value.dtype)
        y = value.clamp(numbers.tiny, 1 - numbers.eps)
        log_one, log_zero = y.log(), (-y).log1p()
        of_logit = _log_odds_density(self.logits, self.temperature, log_one - log_zero)
        return of_logit - log_one - log_zero

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability, or the logarithm of the binary Concrete density, in nats.

        Shape:
            ``value: (..., dim)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or a value lies outside the support.
        """
        return self.log_prob_by_dimension(value).sum(-1)

    def entropy(self) -> Float[Tensor, "..."]:
        """Entropy of the hard variables in nats, ``(*batch,)``; the relaxed ones' has no form."""
        _check_hard(self)
        return super().entropy()


def _one_hot(y: Tensor) -> Tensor:
    return torch.zeros_like(y).scatter_(-1, y.argmax(-1, keepdim=True), 1.0)


def _check_hard(q: RelaxedCategorical | RelaxedBernoulli) -> None:
    if not q.hard:
        raise NotImplementedError(f"No closed-form entropy of {q!r}; -log_prob(z) estimates it.")


def _kl_categorical_categorical(q: RelaxedCategorical, p: RelaxedCategorical) -> Tensor:
    one, other = tuple(q.logits.shape[-2:]), tuple(p.logits.shape[-2:])
    _checks.require(one == other, "prior", f"(variables, classes) as the posterior's {one}", other)
    return (q.logits.softmax(-1) * (q.log_probs - p.log_probs)).sum((-2, -1))


register_kl(RelaxedCategorical, RelaxedCategorical)(_kl_categorical_categorical)
refuse_gaussian(RelaxedCategorical, "one of categorical variables")
refuse_gaussian(RelaxedBernoulli, "one of binary variables")
