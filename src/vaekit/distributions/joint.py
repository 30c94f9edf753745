"""Independent distributions side by side."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl

from vaekit import _checks
from vaekit.distributions.events import Checked, check_value, log_prob_by_dimension
from vaekit.distributions.gaussians import DiagonalGaussian

__all__ = ["Joint"]


class Joint(Checked):
    r"""Independent distributions over vectors, whose vectors are put end to end.

    .. math:: \log p(z) = \sum_i \log p_i(z_i), \qquad z = (z_1, z_2, \ldots)

    The divergence between two that are divided alike is the sum of the parts', and so is that from
    a `DiagonalGaussian`.

    Args:
        parts: The distributions, each over one dimension, all of one batch shape.

    Raises:
        TypeError: From ``log_prob_by_dimension``, if a part has none.
        ValueError: If there is no part, or if their shapes do not fit.

    Example:
        >>> normal = vk.distributions.StandardGaussian(torch.zeros(8, 2))
        >>> joint = Joint([normal, torch.distributions.Dirichlet(torch.ones(8, 3))])
        >>> joint
        Joint(StandardGaussian(batch_shape=(8,), event_shape=(2,)), Dirichlet(concentration: ...
        >>> joint.rsample().shape
        torch.Size([8, 5])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = list(parts)
        shapes = [(*part.batch_shape, "|", *part.event_shape) for part in self.parts]
        alike = {part.batch_shape for part in self.parts}
        if len(alike) != 1 or any(len(part.event_shape) != 1 for part in self.parts):
            what = "distributions over one dimension, of one batch shape"
            raise ValueError(_checks.expected("parts", what, shapes))
        self._sizes = [part.event_shape[0] for part in self.parts]
        self.has_rsample = all(part.has_rsample for part in self.parts)
        super().__init__(alike.pop(), torch.Size([sum(self._sizes)]), validate_args=False)

    def __repr__(self) -> str:
        return f"Joint({', '.join(map(repr, self.parts))})"

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """What the parts' supports allow, end to end."""
        return _EndToEnd([part.support for part in self.parts], self._sizes)

    @property
    def mean(self) -> Tensor:
        """The parts' means, ``(*batch, dim)``."""
        return torch.cat([part.mean for part in self.parts], -1)

    @property
    def mode(self) -> Tensor:
        """The parts' modes, ``(*batch, dim)``."""
        return torch.cat([part.mode for part in self.parts], -1)

    @property
    def variance(self) -> Tensor:
        """The parts' variances, ``(*batch, dim)``."""
        return torch.cat([part.variance for part in self.parts], -1)

    def split(self, value: Float[Tensor, "..."]) -> tuple[Tensor, ...]:
        """Divide the last dimension among the parts."""
        _checks.trailing_shape("x", value, self.event_shape)
        pieces: tuple[Tensor, ...] = value.split(self._sizes, -1)
        return pieces

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Joint":
        """Return the same distribution over a larger batch."""
        return Joint([part.expand(torch.Size(batch_shape)) for part in self.parts])

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw ``(*sample_shape, *batch, dim)``, with the gradients of the parts."""
        shape = torch.Size(sample_shape)
        return torch.cat([part.rsample(shape) for part in self.parts], -1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw ``(*sample_shape, *batch, dim)``, without a gradient."""
        shape = torch.Size(sample_shape)
        return torch.cat([part.sample(shape) for part in self.parts], -1)

    def log_prob_by_dimension(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density of each dimension by itself, in nats, where each part has them."""
        pairs = zip(self.parts, self.split(value), strict=True)
        return torch.cat([log_prob_by_dimension(part, piece) for part, piece in pairs], -1)

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats.

        Shape:
            ``value: (..., dim)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or a part refuses its piece.
        """
        check_value(self, value)
        pairs = zip(self.parts, self.split(value), strict=True)
        return _total([part.log_prob(piece) for part, piece in pairs])

    def entropy(self) -> Float[Tensor, "..."]:
        """Entropy in nats, the sum of the parts', ``(*batch,)``."""
        return _total([part.entropy() for part in self.parts])


class _EndToEnd(constraints.Constraint):
    event_dim = 1

    def __init__(self, parts: Sequence[Any], sizes: list[int]) -> None:
        self.parts, self.sizes = parts, sizes
        self.is_discrete = any(part.is_discrete for part in parts)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        pairs = zip(self.parts, value.split(self.sizes, -1), strict=True)
        return torch.stack([part.check(piece) for part, piece in pairs]).all(0)


def _total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0)


def _kl_joint_joint(q: Joint, p: Joint) -> Tensor:
    if q._sizes != p._sizes:
        raise NotImplementedError(f"No closed-form KL between {q!r} and {p!r}, divided otherwise.")
    return _total([kl_divergence(*pair) for pair in zip(q.parts, p.parts, strict=True)])


def _kl_joint_gaussian(q: Joint, p: DiagonalGaussian) -> Tensor:
    pieces = zip(q.split(p.mu), q.split(p.logvar.expand_as(p.mu)), strict=True)
    return kl_divergence(q, Joint([DiagonalGaussian(mu, logvar) for mu, logvar in pieces]))


register_kl(Joint, Joint)(_kl_joint_joint)
register_kl(Joint, DiagonalGaussian)(_kl_joint_gaussian)
