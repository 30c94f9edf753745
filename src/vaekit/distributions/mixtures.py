"""Mixtures of one family."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily

from vaekit import _checks
from vaekit.distributions.events import check_value
from vaekit.distributions.gaussians import DiagonalGaussian

__all__ = ["Mixture", "mixture"]


class Mixture(MixtureSameFamily):
    r"""A mixture of K distributions of one family.

    .. math:: p(x) = \sum_k w_k\, p_k(x), \qquad w = \operatorname{softmax}(\text{logits})

    It draws with ``sample``. It has no ``rsample``: which component a draw comes from is a choice,
    through which no gradient leads back.

    Args:
        logits: The log-weights, up to a constant.
        components: The K distributions, along the last dimension of its batch.

    Shape:
        ``logits: (K,)`` or ``(*batch, K)``; components of batch ``(*batch, K)``.

    Raises:
        ValueError: If there are not as many weights as components; from ``log_prob``, if the shape
            of its argument does not fit.

    Example:
        >>> components = DiagonalGaussian(torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1))
        >>> p = Mixture(torch.zeros(2), components)
        >>> p
        Mixture(components=2, batch_shape=(), event_shape=(1,))
        >>> p.log_prob(torch.zeros(1))  # as if both were one
        tensor(-1.4189)
        >>> p.mean, p.variance
        (tensor([0.]), tensor([2.]))
    """

    def __init__(self, logits: Float[Tensor, "*batch k"], components: Distribution) -> None:
        batch, got = components.batch_shape, f"shape {tuple(logits.shape)}"
        what = f"a weight for each component of a batch {tuple(batch)}"
        _checks.require(logits.shape[-1:] == batch[-1:], "logits", what, got)
        # The components look at the values; torch's own look would break a traced graph.
        weights = Categorical(logits=logits.expand(components.batch_shape), validate_args=False)
        super().__init__(weights, components, validate_args=False)

    def __repr__(self) -> str:
        shapes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        return f"Mixture(components={self._num_component}, {shapes})"

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Mixture":
        """Return the same mixture over a larger batch."""
        logits = self.mixture_distribution.logits
        components = self.component_distribution.expand((*batch_shape, *logits.shape[-1:]))
        return Mixture(logits, components)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Say that there is none."""
        raise NotImplementedError(
            "rsample: a mixture draws without a gradient; sample() draws, log_prob() has gradients."
        )

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats.

        Shape:
            ``value: (..., *event)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or ``value`` holds NaN.
        """
        check_value(self, value)
        components = self.component_distribution
        if isinstance(components, DiagonalGaussian) and components.mu.ndim == 2:
            each = components.log_prob_under_each(value)
            return (each + self.mixture_distribution.logits).logsumexp(-1)
        log_prob: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return log_prob


def mixture(logits: Float[Tensor, " k"], components: Distribution) -> Distribution:
    """Make a mixture, or, of one Gaussian, that Gaussian: its divergences have closed forms.

    Shape:
        ``logits: (K,)``, components of batch ``(K,)``; returns a distribution without a batch.
    """
    if isinstance(components, DiagonalGaussian) and components.batch_shape == (1,):
        mu, logvar = components
        return DiagonalGaussian(mu[0], logvar[0])
    return Mixture(logits, components)
