"""Terms that hold the KL to a capacity, to a floor, or in balance."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vaekit import _checks, losses
from vaekit.objectives.base import Schedule, Term, _at
from vaekit.schedules import Cyclical, Linear, Sigmoid
from vaekit.vae import VAEOutput

__all__ = ["BalancedKL", "Capacity", "FreeBits"]


class Capacity(Term):
    r"""`vaekit.losses.capacity` as a term: the KL's distance from a capacity that grows.

    Its weight, :math:`\gamma`, is usually large; the value depends on the step, which the objective
    tells it.

    Args:
        capacity: C in nats, a number or a function of the step that never falls.
        name: What the term is called.

    Raises:
        ValueError: If the capacity is negative, or falls: at once for a schedule of
            `vaekit.schedules`, else at the step where it does.

    Example:
        >>> vk.Reconstruction() + 1000 * Capacity(vk.schedules.Linear(0, 25, steps=100_000))
        Reconstruction() + 1000 * Capacity(capacity=Linear(start=0, end=25, steps=100000))

    References:
        C. P. Burgess et al., *Understanding Disentangling in beta-VAE*, 2018, equation 8.
    """

    _target: Tensor

    def __init__(self, capacity: float | Schedule, name: str = "capacity") -> None:
        super().__init__(name)
        if not callable(capacity):
            _checks.number("capacity", capacity, low=0)
        elif isinstance(capacity, Linear | Sigmoid | Cyclical):
            falls = capacity.end < capacity.start
            if falls or (isinstance(capacity, Cyclical) and capacity.end != capacity.start):
                raise ValueError(_falling(capacity))
        self.capacity = capacity
        # A tensor, so that a compiled graph is not made anew at every step.
        self.register_buffer("_target", torch.zeros(()), persistent=False)
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Set the capacity to that of a step.

        Raises:
            ValueError: If it is lower than at the step before.
        """
        target = _at(self.capacity, step, self)
        if step > 0 and target < _at(self.capacity, step - 1, self):
            raise ValueError(_falling(f"{self.capacity!r} at step {step}"))
        self._target.fill_(target)

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the distance of each element's KL from the capacity, ``(B,)``."""
        kl = losses.kl_divergence(out.posterior, out.prior, z=out.z)
        return losses.capacity(kl, self._target)

    def _options(self) -> dict[str, object]:
        return {"capacity": self.capacity}


class FreeBits(Term):
    """`vaekit.losses.free_bits` as a term; a statistic of the batch. It stands in place of the KL.

    Args:
        floor: Nats that each group has for nothing, above 0.
        groups: How many dimensions each group has; every dimension by itself if None.
        name: What the term is called.

    Raises:
        ValueError: If ``floor`` or the size of a group is not above 0.

    Example:
        >>> vk.Reconstruction() + FreeBits(0.5)
        Reconstruction() + FreeBits(floor=0.5)
    """

    def __init__(
        self, floor: float, groups: Sequence[int] | None = None, name: str = "free_bits"
    ) -> None:
        super().__init__(name)
        self.floor = _checks.number("floor", floor, above=0)
        if groups is not None:
            groups = [_checks.positive_int("groups", size) for size in groups]
        self.groups = groups

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the KL with its free nats, a scalar."""
        kl = losses.kl_by_dimension(out.posterior, out.prior, z=out.z)
        return losses.free_bits(kl, self.floor, self.groups)

    def _options(self) -> dict[str, object]:
        return {"floor": self.floor, "groups": self.groups}


class BalancedKL(Term):
    """`vaekit.losses.balanced_kl` as a term, for a warm-up. It stands in place of the KL.

    Args:
        groups: How many dimensions each group of latents has.
        name: What the term is called.

    Example:
        >>> vk.Reconstruction() + vk.schedules.Linear(0, 1, steps=1000) * BalancedKL([4, 16])
        Reconstruction() + Linear(start=0, end=1, steps=1000) * BalancedKL(groups=[4, 16])
    """

    def __init__(self, groups: Sequence[int], name: str = "balanced_kl") -> None:
        super().__init__(name)
        self.groups = [_checks.positive_int("groups", size) for size in groups]

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the balanced KL of each element, ``(B,)``."""
        kl = losses.kl_by_dimension(out.posterior, out.prior, z=out.z)
        return losses.balanced_kl(kl, self.groups)

    def _options(self) -> dict[str, object]:
        return {"groups": self.groups}


def _falling(got: object) -> str:
    return _checks.expected("capacity", "one that never falls", got)
