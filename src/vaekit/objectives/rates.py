"""Terms that hold the KL to a capacity, to a floor, or in balance."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vaekit import _checks, losses
from vaekit.objectives.base import Schedule, Term, Weight, _at
from vaekit.schedules import Cyclical, Linear, Sigmoid
from vaekit.vae import VAEOutput

__all__ = ["BalancedKL", "Capacity", "FreeBits"]


class Capacity(Term):
    r"""`vaekit.losses.capacity` as a term: the KL's distance from a capacity that grows.

    .. math:: \left| \operatorname{KL}(q(z \mid x) \| p(z)) - C \right|
              \qquad \text{or} \qquad \sum_g \left| \operatorname{KL}_g - C_g \right|

    Its weight, :math:`\gamma`, is usually large; the value depends on the step, which the objective
    tells it.

    Args:
        capacity: C in nats, a number or a function of the step that never falls; with ``groups``, a
            sequence of them.
        name: What the term is called.
        groups: How many dimensions each group has that has a capacity of its own, as for
            `FreeBits`.

    Raises:
        ValueError: If a capacity is negative, or falls: at once for a schedule of
            `vaekit.schedules`, else at the step where it does; if there is not one for each group.

    Example:
        >>> vk.Reconstruction() + 1000 * Capacity(vk.schedules.Linear(0, 25, steps=100_000))
        Reconstruction() + 1000 * Capacity(capacity=Linear(start=0, end=25, steps=100000))
        >>> Capacity([vk.schedules.Linear(0, 5, steps=25_000), 2.3], groups=[10, 10])
        Capacity(capacity=[Linear(start=0, end=5, steps=25000), 2.3], groups=[10, 10])

    References:
        C. P. Burgess et al., *Understanding Disentangling in beta-VAE*, 2018, equation 8; E.
        Dupont, *Learning Disentangled Joint Continuous and Discrete Representations*, 2018,
        section 3, for groups.
    """

    _usual: ClassVar[dict[str, object]] = {"capacity": None, "groups": None}
    _target: Tensor

    def __init__(
        self,
        capacity: float | Schedule | Sequence[float | Schedule],
        name: str = "capacity",
        *,
        groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__(name)
        self.groups = None if groups is None else _checks.positive_ints("groups", groups)
        several = isinstance(capacity, Sequence)
        self._each = list(capacity) if isinstance(capacity, Sequence) else [capacity]
        fits = several == (self.groups is not None) and len(self._each) == len(self.groups or [0])
        what = f"one for each of the groups {self.groups}" if self.groups else "one for the KL"
        _checks.require(fits, "capacity", what, capacity, "groups= divides it.")
        for each in self._each:
            _check_rising(each)
        self.capacity = capacity
        # A tensor, so that a compiled graph is not made anew at every step.
        shape = () if self.groups is None else (len(self.groups),)
        self.register_buffer("_target", torch.zeros(shape), persistent=False)
        self.set_step(0)

    def set_step(self, step: int) -> None:
        """Set the capacity to that of a step.

        Raises:
            ValueError: If it is lower than at the step before.
        """
        for capacity, target in zip(self._each, self._target.view(-1), strict=True):
            value = _at(capacity, step, self)
            if step > 0 and value < _at(capacity, step - 1, self):
                raise ValueError(_falling(f"{capacity!r} at step {step}"))
            target.fill_(value)

    def schedules(self) -> dict[str, Weight]:
        """Return the capacity, or that of each group."""
        if self.groups is None:
            return {"capacity": self._each[0]}
        return {f"capacity {index}": each for index, each in enumerate(self._each, 1)}

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the distance of each element's KL from the capacity, ``(B,)``."""
        return losses.capacity(_kl(out, self.groups, losses.kl_divergence), self._target)


class FreeBits(Term):
    r"""`vaekit.losses.free_bits` as a term; a statistic of the batch. It stands in place of the KL.

    .. math:: \sum_g \max\Big( \lambda,\, \frac{1}{B} \sum_b \operatorname{KL}_g(b) \Big)

    Args:
        floor: Nats that each group has for nothing, above 0.
        groups: How many dimensions each group has, as `vaekit.losses.kl_by_group` takes them: the
            layers of a hierarchy, the parts of a product, all dimensions in one group, or any sizes
            where they are independent. Every dimension by itself if None, for independent ones.
        name: What the term is called.

    Raises:
        ValueError: If ``floor`` or the size of a group is not above 0; when called, if the groups
            do not add up to the latent's dimensions.
        TypeError: When called, if posterior or prior cannot be divided so.

    Example:
        >>> vk.Reconstruction() + FreeBits(0.5)
        Reconstruction() + FreeBits(floor=0.5)
        >>> model, _ = vk.recipes.ladder_vae(vk.likelihoods.Bernoulli(64), (8, 4), hidden=(32, 16))
        >>> vk.Reconstruction() + FreeBits(0.5, groups=model.encoder.latent.sizes)
        Reconstruction() + FreeBits(floor=0.5, groups=[8, 4])

    References:
        D. P. Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*,
        2016, equation 15.
    """

    statistic = True
    _usual: ClassVar[dict[str, object]] = {"floor": None, "groups": None}

    def __init__(
        self, floor: float, groups: Sequence[int] | None = None, name: str = "free_bits"
    ) -> None:
        super().__init__(name)
        self.floor = _checks.number("floor", floor, above=0)
        self.groups = None if groups is None else _checks.positive_ints("groups", groups)

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the KL with its free nats, a scalar."""
        return losses.free_bits(_kl(out, self.groups, losses.kl_by_dimension), self.floor)


class BalancedKL(Term):
    r"""`vaekit.losses.balanced_kl` as a term, for a warm-up. It stands in place of the KL.

    .. math:: \sum_g \gamma_g \operatorname{KL}_g, \qquad
              \gamma_g \propto \frac{1}{B} \sum_b \operatorname{KL}_g(b) + 0.01

    Args:
        groups: How many dimensions each group of latents has, as for `FreeBits`.
        name: What the term is called.

    Raises:
        ValueError: If the size of a group is not above 0; when called, as for `FreeBits`.
        TypeError: When called, as for `FreeBits`.

    Example:
        >>> vk.Reconstruction() + vk.schedules.Linear(0, 1, steps=1000) * BalancedKL([4, 16])
        Reconstruction() + Linear(start=0, end=1, steps=1000) * BalancedKL(groups=[4, 16])

    References:
        A. Vahdat and J. Kautz, *NVAE: A Deep Hierarchical Variational Autoencoder*, 2020, appendix
        A.
    """

    statistic = True
    _usual: ClassVar[dict[str, object]] = {"groups": None}

    def __init__(self, groups: Sequence[int], name: str = "balanced_kl") -> None:
        super().__init__(name)
        self.groups = _checks.positive_ints("groups", groups)

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the balanced KL of each element, ``(B,)``."""
        return losses.balanced_kl(_kl(out, self.groups, losses.kl_by_dimension))


def _kl(out: VAEOutput, groups: Sequence[int] | None, whole: Callable[..., Tensor]) -> Tensor:
    """Return the KL of each group, or as a function has it where there are no groups."""
    if groups is None:
        return whole(out.posterior, out.prior, z=out.z)
    return losses.kl_by_group(out.posterior, out.prior, groups, z=out.z)


def _check_rising(capacity: float | Schedule) -> None:
    """Say so where a capacity is no number of nats, or a schedule that is known to fall."""
    if not callable(capacity):
        _checks.number("capacity", capacity, low=0)
    elif isinstance(capacity, Linear | Sigmoid | Cyclical):
        falls = capacity.end < capacity.start
        if falls or (isinstance(capacity, Cyclical) and capacity.end != capacity.start):
            raise ValueError(_falling(capacity))


def _falling(got: object) -> str:
    return _checks.expected("capacity", "one that never falls", got)
