"""Binary variables, and grey levels taken for them."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import constraints, register_kl

from vaekit import _checks
from vaekit.distributions.events import Checked, check_value, divided, sum_event

__all__ = ["IndependentBernoulli"]

# With AVX-512, torch's log1p and expm1 read a constant for -0 under a mask that is hardly ever set.
# As long as its page of the library is not in memory, each such read is handled as a fault that is
# then ignored, and softplus, logsigmoid and the cross-entropy of floats take six times as long
# (benchmarks/log1p.py). A -0 sets the mask, and brings the page in.
torch.full((64,), -0.0, dtype=torch.float32, device="cpu").log1p_()

_FACTORS, _FAR_FROM_ZERO = 8, 1e-30  # what is multiplied at once; numbers there have all digits
_AT_ONCE = 2**18  # values for each thread, which lie near to a core with what is made of them


class IndependentBernoulli(Checked):
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
        validate_args: Whether values are checked; they are if ``None``.

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

    _flags = ("grey_levels",)

    def __init__(
        self,
        logits: Float[Tensor, "*shape"],
        event_ndims: int = 1,
        grey_levels: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.grey_levels = logits, grey_levels
        super().__init__(*divided(logits.shape, event_ndims), validate_args=validate_args)

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

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw zeros and ones, of shape ``(*sample_shape, *batch, *event)``."""
        mean = self.mean.expand(torch.Size(sample_shape) + self.logits.shape)
        uniform = torch.rand(mean.shape, device=mean.device)
        return uniform.lt_(mean).to(mean.dtype)  # four times as fast as bernoulli()

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-probability in nats; with grey levels, the negative cross-entropy in nats.

        Shape:
            ``value: (..., *event)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or a value lies outside the support.
        """
        return -self.cross_entropy(value)

    def cross_entropy(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Negative log-probability in nats: `log_prob` without its sign, which spares a loss two.

        Shape:
            As `log_prob`.

        Raises:
            ValueError: As `log_prob`.
        """
        logits, alike = self.logits, value.shape == self.logits.shape
        look = self._validate_args and _checks.eager()
        if self._validate_args and not alike:
            check_value(self, value)
        if look:
            self._check_support(value)
        value = value.to(logits.dtype)
        if alike:
            cross_entropy = F.binary_cross_entropy_with_logits(logits, value, reduction="none")
        else:  # by no more passes over memory than it takes, for draws may be many
            tracked = torch.is_grad_enabled() and (logits.requires_grad or value.requires_grad)
            precise = logits.dtype in (torch.float, torch.double)
            some = logits.numel() and value.numel()
            binary = self.event_shape and some and not self.grey_levels
            if look and precise and binary and not tracked:
                result = self._of_many(value)
                if result is not None:
                    return result
            logits = logits.expand(torch.broadcast_shapes(logits.shape, value.shape))
            cross_entropy = F.softplus(logits).addcmul_(value, logits, value=-1)
        result = sum_event(self, cross_entropy)
        # The sums are fewer to look through; in training it is `fit` that looks at the loss.
        if look and logits.grad_fn is None and math.isnan(result.detach().sum().item()):
            _checks.finite("logits", logits)
        return result

    def _of_many(self, value: Tensor) -> Tensor | None:
        """Return the cross-entropy of zeros and ones in half the time, or None where it would err.

        Probabilities are multiplied, eight at a time, before logarithms are taken: of the few
        products, which are the slowest part. In single precision each is wrong by a millionth of
        itself at most, so the sum of their logarithms is by less than a millionth for each value.
        """
        logits, signs = self.logits, 2 * value - 1
        pieces: Iterable[tuple[Tensor, Tensor]] = [(logits, signs)]
        shape = _checks.broadcast(logits.shape, value.shape)
        if logits.device.type == "cpu" and shape and len(shape) > len(self.event_shape):
            # A piece at a time, whose memory is used again for the next.
            few = max(1, _AT_ONCE * torch.get_num_threads() // math.prod(shape[1:]))
            pieces = zip(
                logits.expand(shape).split(few), signs.expand(shape).split(few), strict=True
            )
        products = [_product_of_right(*piece, len(self.event_shape)) for piece in pieces]
        product = products[0] if len(products) == 1 else torch.cat(products)
        if not product.amin().item() > _FAR_FROM_ZERO:  # nor of NaN
            return None
        cross_entropy: Tensor = -product.log_().sum(-1)
        return cross_entropy

    def entropy(self) -> Float[Tensor, "..."]:
        """Entropy in nats, of shape ``(*batch,)``."""
        return sum_event(self, F.softplus(self.logits) - self.mean * self.logits)

    def _check_support(self, value: Tensor) -> None:
        if value.dtype == torch.bool or not value.numel():
            return
        lowest, highest = value.detach().aminmax()
        low, high = lowest.item(), highest.item()
        _checks.no_nan("x", value, known=math.isnan(low))
        inside = low >= 0 and high <= 1
        if inside and (self.grey_levels or torch.equal(value * value, value)):
            return
        got = f"values from {low:g} to {high:g}"
        if self.grey_levels:
            raise ValueError(_checks.expected("x", "values in [0, 1]", got))
        hint = "Grey levels: binarise them, or choose likelihoods.Bernoulli(..., grey_levels=True)."
        raise ValueError(_checks.expected("x", "only zeros and ones", got, hint if inside else ""))


def _product_of_right(logits: Tensor, signs: Tensor, event_ndims: int) -> Tensor:
    """Return the probabilities of what was observed, each the product of a few values' own."""
    right = torch.mul(logits, signs).sigmoid_().flatten(-event_ndims)
    size = right.shape[-1]
    products = -(-size // _FACTORS)
    factors = size // products
    whole, rest = right.split([factors * products, size - factors * products], dim=-1)
    product: Tensor = whole.unflatten(-1, (factors, products)).prod(-2)
    product[..., : rest.shape[-1]].mul_(rest)
    return product


def _kl_bernoulli_bernoulli(q: IndependentBernoulli, p: IndependentBernoulli) -> Tensor:
    # By the logarithm of each probability and its ratio, of which each has all its digits.
    one = F.softplus(-p.logits) - F.softplus(-q.logits)
    zero = F.softplus(p.logits) - F.softplus(q.logits)
    return sum_event(q, q.mean * one + (-q.logits).sigmoid() * zero)


register_kl(IndependentBernoulli, IndependentBernoulli)(_kl_bernoulli_bernoulli)
