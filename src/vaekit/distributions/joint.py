"""Independent distributions side by side."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl

from vaekit import _checks
from vaekit.distributions.events import Checked, check_value, log_prob_by_dimension
from vaekit.distributions.gaussians import DiagonalGaussian
from vaekit.distributions.supports import Drawn

__all__ = ["Joint"]

_T = TypeVar("_T")


class Joint(Checked):
    r"""Independent distributions over vectors, whose vectors are put end to end, or in columns.

    .. math:: \log p(z) = \sum_i \log p_i(z_i), \qquad z = (z_1, z_2, \ldots)

    The divergence between two that are divided alike is the sum of the parts', and so is that from
    a `DiagonalGaussian`.

    Args:
        parts: The distributions, each over one dimension, all of one batch shape.
        columns: For each part the places that its values have in the vector, together each place
            once; those after the part's before it if None.

    Raises:
        TypeError: From ``log_prob_by_dimension``, if a part has none.
        ValueError: If there is no part, if their shapes do not fit, or the columns do not; from
            ``log_prob``, if the shape does not fit or a part refuses its values.

    Example:
        >>> normal = vk.distributions.StandardGaussian(torch.zeros(8, 2))
        >>> joint = Joint([normal, torch.distributions.Dirichlet(torch.ones(8, 3))])
        >>> joint
        Joint(StandardGaussian(batch_shape=(8,), event_shape=(2,)), Dirichlet(concentration: ...
        >>> joint.rsample().shape
        torch.Size([8, 5])
        >>> Joint([normal, normal], columns=[[0, 3], [1, 2]]).sample().shape
        torch.Size([8, 4])
    """

    def __init__(
        self, parts: Sequence[Distribution], columns: Sequence[Sequence[int]] | None = None
    ) -> None:
        self.parts = list(parts)
        shapes = [(*part.batch_shape, "|", *part.event_shape) for part in self.parts]
        alike = [(part.batch_shape, len(part.event_shape)) for part in self.parts]
        what = "distributions over one dimension, of one batch shape"
        _checks.require(0 < len(alike) == alike.count((alike[0][0], 1)), "parts", what, shapes)
        self._sizes = [part.event_shape[0] for part in self.parts]
        self.columns = None if columns is None else [list(places) for places in columns]
        self._order = None if self.columns is None else _order(self.columns, self._sizes)
        self.layout = self._sizes if self.columns is None else None  # as of a Chain
        self.has_rsample = all(part.has_rsample for part in self.parts)
        event = torch.Size([sum(self._sizes)])
        self._drawn: Drawn | None = None
        super().__init__(self.parts[0].batch_shape, event, validate_args=False)

    def __repr__(self) -> str:
        columns = "" if self.columns is None else f", columns={self.columns}"
        return f"Joint({', '.join(map(repr, self.parts))}{columns})"

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """What the parts' supports allow, each in its place."""
        return _EndToEnd(self)

    @property
    def mean(self) -> Tensor:
        """The parts' means, ``(*batch, dim)``."""
        return self._joined([part.mean for part in self.parts])

    @property
    def mode(self) -> Tensor:
        """The parts' modes, ``(*batch, dim)``."""
        return self._joined([part.mode for part in self.parts])

    @property
    def variance(self) -> Tensor:
        """The parts' variances, ``(*batch, dim)``."""
        return self._joined([part.variance for part in self.parts])

    def split(self, value: Shaped[Tensor, "..."]) -> tuple[Tensor, ...]:
        """Divide the last dimension among the parts."""
        _checks.trailing_shape("x", value, self.event_shape)
        if self.columns is not None:
            return tuple(value[..., places] for places in self.columns)
        pieces: tuple[Tensor, ...] = value.split(self._sizes, -1)
        return pieces

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Joint":
        """Return the same distribution over a larger batch."""
        return Joint([part.expand(torch.Size(batch_shape)) for part in self.parts], self.columns)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw ``(*sample_shape, *batch, dim)``, with the gradients of the parts."""
        pieces = [part.rsample(torch.Size(sample_shape)) for part in self.parts]
        value = self._joined(pieces)
        self._drawn = Drawn(value, pieces)
        return value

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw ``(*sample_shape, *batch, dim)``, without a gradient."""
        return self._joined([part.sample(torch.Size(sample_shape)) for part in self.parts])

    def log_prob_by_dimension(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density of each dimension by itself, in nats, where each part has them."""
        pairs = zip(self.parts, self.split(value), strict=True)
        return self._joined([log_prob_by_dimension(part, piece) for part, piece in pairs])

    def log_prob(self, value: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats.

        Shape:
            ``value: (..., dim)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or a part refuses its piece.
        """
        check_value(self, value)
        each = []
        for number, piece in enumerate(self.split(value)):
            try:
                each.append(self.parts[number].log_prob(piece))
            except ValueError as error:
                if self.columns is None:
                    raise
                raise ValueError(f"{error} In the columns {self.columns[number]} of x.") from None
        return _total(each)

    def entropy(self) -> Float[Tensor, "..."]:
        """Entropy in nats, the sum of the parts', ``(*batch,)``."""
        return _total([part.entropy() for part in self.parts])

    def _joined(self, pieces: list[Tensor]) -> Tensor:
        """Put the parts' values into their places."""
        whole = torch.cat(pieces, -1)
        return whole if self._order is None else whole[..., self._order]

    def _in_place(self, pieces: Sequence[Sequence[_T]]) -> list[_T]:
        """Put what each part has for each of its dimensions into their places."""
        whole = [each for piece in pieces for each in piece]
        return whole if self._order is None else [whole[place] for place in self._order]


class _EndToEnd(constraints.Constraint):
    """What the supports of a joint's parts allow, each in its place."""

    event_dim = 1

    def __init__(self, joint: Joint) -> None:
        self.parts: list[Any] = [part.support for part in joint.parts]
        self.sizes, self.order, self._split = joint._sizes, joint._order, joint.split
        self.is_discrete = any(part.is_discrete for part in self.parts)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        pairs = zip(self.parts, self._split(value), strict=True)
        return torch.stack([part.check(piece) for part, piece in pairs]).all(0)


def _order(columns: list[list[int]], sizes: list[int]) -> list[int]:
    """Tell for each place where its value lies when the parts are put end to end."""
    laid = [place for places in columns for place in places]
    once = [len(each) for each in columns] == sizes and sorted(laid) == list(range(len(laid)))
    what = f"the places from 0 to {sum(sizes) - 1} once each, {sizes} for the parts"
    _checks.require(once, "columns", what, columns)
    return sorted(range(len(laid)), key=laid.__getitem__)


def _total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum(0)


def _kl_joint_joint(q: Joint, p: Joint) -> Tensor:
    if (q._sizes, q.columns) != (p._sizes, p.columns):
        raise NotImplementedError(f"No closed-form KL between {q!r} and {p!r}, divided otherwise.")
    return _total([kl_divergence(*pair) for pair in zip(q.parts, p.parts, strict=True)])


def _kl_joint_gaussian(q: Joint, p: DiagonalGaussian) -> Tensor:
    pieces = zip(q.split(p.mu), q.split(p.logvar.expand_as(p.mu)), strict=True)
    parts = [DiagonalGaussian(mu, logvar) for mu, logvar in pieces]
    return kl_divergence(q, Joint(parts, q.columns))


register_kl(Joint, Joint)(_kl_joint_joint)
register_kl(Joint, DiagonalGaussian)(_kl_joint_gaussian)
