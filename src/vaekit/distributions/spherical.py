"""Distributions on the unit sphere."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Dirichlet, constraints, register_kl

from vaekit import _checks
from vaekit.distributions.gaussians import refuse_gaussian
from vaekit.distributions.supports import Reparameterized, check_inside, single

__all__ = ["PowerSpherical", "UniformSphere"]


class _Sphere(constraints.Constraint):
    """Vectors of length 1."""

    event_dim, measure = 1, "sphere"

    def check(self, value: Tensor) -> Tensor:
        error = max(1e-3, 4 * torch.finfo(value.dtype).eps)  # of half precision's coordinates
        return (single(value).square().sum(-1) - 1).abs() < error


class PowerSpherical(Reparameterized):
    r"""A bell on the unit sphere of ``dim`` dimensions, around a direction.

    .. math:: p(x) = \frac{\Gamma(\alpha + \beta)}{2^{\alpha+\beta}\, \pi^{\beta}\, \Gamma(\alpha)}
              \left( 1 + \mu^\top x \right)^{\kappa},
              \qquad \alpha = \beta + \kappa, \quad \beta = \tfrac{1}{2} (\text{dim} - 1)

    With no concentration it is uniform. A draw is :math:`t \mu + \sqrt{1 - t^2}\, v`, where
    :math:`(1 + t) / 2` follows :math:`\operatorname{Beta}(\alpha, \beta)` and v is uniform among
    the unit vectors at a right angle to :math:`\mu`; it is reparameterised, without rejection. The
    density needs no Bessel function, as von Mises' and Fisher's does, its log-gammas are taken in
    float64, and :math:`1 + \mu^\top x` as :math:`2 - |x - \mu|^2 / 2`, so that concentrations of
    1e6 do no harm in float32.

    Args:
        direction: :math:`\mu`, of length 1.
        concentration: :math:`\kappa`, at least 0.
        validate_args: Whether values are checked; they are if ``None``.

    Shape:
        ``direction: (*batch, dim)`` with ``dim`` at least 2, ``concentration: (*batch,)``.

    Raises:
        ValueError: If the shapes do not fit, or an argument holds NaN; if a concentration is below
            0 or a direction is not of length 1; from ``log_prob``, if a value is not of length 1.

    Example:
        >>> q = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(50.0))
        >>> q.mean
        tensor([0.0000, 0.0000, 0.9615])
        >>> q.rsample((8,)).norm(dim=-1).allclose(torch.ones(8))
        True

    References:
        N. De Cao and W. Aziz, *The Power Spherical distribution*, 2020 (the density, the sampler,
        where a projection stands for its reflection, the moments and the entropy).
    """

    support = _Sphere()

    def __init__(
        self,
        direction: Float[Tensor, "*batch dim"],
        concentration: Float[Tensor, "*batch"],
        validate_args: bool | None = None,
    ) -> None:
        what, shape = "shape (..., dim) with dim at least 2", tuple(direction.shape)
        _checks.require(len(shape) > 0 and shape[-1] > 1, "direction", what, shape)
        what, batch = f"the direction's batch shape, {shape[:-1]}", tuple(concentration.shape)
        _checks.require(batch == shape[:-1], "concentration", what, batch)
        self.direction, self.concentration = direction, concentration
        self._beta = 0.5 * (direction.shape[-1] - 1)
        shapes = direction.shape[:-1], direction.shape[-1:]
        super().__init__(*shapes, validate_args=validate_args)
        if self._validate_args and _checks.eager():
            _checks.no_nan("direction", direction)
            _checks.no_nan("concentration", concentration)
            if (concentration < 0).any():
                what, got = "at least 0", f"{concentration.min().item():g}"
                raise ValueError(_checks.expected("concentration", what, got))
            if not self.support.check(direction).all():
                lengths = direction.norm(dim=-1)
                got = f"lengths from {lengths.min().item():g} to {lengths.max().item():g}"
                raise ValueError(_checks.expected("direction", "vectors of length 1", got))

    @property
    def _mean_cosine(self) -> Tensor:
        return self.concentration / (self.concentration + 2 * self._beta)

    @property
    def mean(self) -> Tensor:
        """The mean, which lies inside the sphere, on the direction."""
        return self._mean_cosine[..., None] * self.direction

    @property
    def mode(self) -> Tensor:
        """The direction."""
        return self.direction

    @property
    def variance(self) -> Tensor:
        """The variances of the coordinates, ``(*batch, dim)``."""
        alpha, beta = self._beta + self.concentration, self._beta
        off = 4 * alpha * beta / ((alpha + beta) * (alpha + beta + 1))  # E[1 - t^2]
        squared = self.direction.square()
        along = (1 - off - self._mean_cosine.square())[..., None] * squared
        return along + (off / (2 * beta))[..., None] * (1 - squared)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Draw ``(*sample_shape, *batch, dim)``, with a gradient to direction and concentration."""
        beta = torch.full_like(self.concentration, self._beta)
        both = torch.stack([beta + self.concentration, beta], -1)
        halves = Dirichlet(single(both), validate_args=False).rsample(torch.Size(sample_shape))
        near, far = halves.to(both.dtype).unbind(-1)
        tiny = torch.finfo(near.dtype).tiny
        side = 2 * (near.clamp_min(tiny) * far.clamp_min(tiny)).sqrt()  # sqrt(1 - t^2)
        noise = torch.randn(near.shape + self.event_shape, dtype=near.dtype, device=near.device)
        along = (noise * self.direction).sum(-1, keepdim=True)
        right = F.normalize(noise - along * self.direction, dim=-1)
        drawn = (near - far)[..., None] * self.direction + side[..., None] * right
        return F.normalize(drawn, dim=-1)  # what rounding has moved goes back

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log-density in nats, with respect to the sphere's surface.

        Shape:
            ``value: (..., dim)``, returns ``(*batch,)`` broadcast with the front of ``value``.

        Raises:
            ValueError: If the shape does not fit, or a value is not of length 1.
        """
        check_inside(self, value, "vectors of length 1")
        # (1 + cosine) / 2 by the distance: of a cosine near 1 single precision keeps no angle.
        quarter = 0.25 * (value - self.direction).square().sum(-1)
        edge = 1 - 0.5 * torch.finfo(quarter.dtype).eps
        log_half = (-quarter.clamp_max(edge)).log1p()
        return self.concentration * log_half - self._log_norm()

    def _log_norm(self) -> Tensor:
        """Logarithm of the integral of ((1 + cosine) / 2) ** concentration over the sphere."""
        beta, concentration = self._beta, self.concentration.double()
        log_gammas = (beta + concentration).lgamma() - (2 * beta + concentration).lgamma()
        log_norm = 2 * beta * math.log(2) + beta * math.log(math.pi) + log_gammas
        return log_norm.to(self.concentration.dtype)

    def entropy(self) -> Float[Tensor, "..."]:
        """Differential entropy in nats, with respect to the sphere's surface, ``(*batch,)``."""
        beta, concentration = self._beta, self.concentration.double()
        digammas = (beta + concentration).digamma() - (2 * beta + concentration).digamma()
        return self._log_norm() - (concentration * digammas).to(self.concentration.dtype)


class UniformSphere(PowerSpherical):
    """The uniform distribution on the unit sphere, from which divergences have a closed form.

    Args:
        zeros: Zeros of the wanted shape, dtype and device.

    Shape:
        ``zeros: (*batch, dim)`` with ``dim`` at least 2.

    Raises:
        ValueError: If ``dim`` is below 2.

    Example:
        >>> UniformSphere(torch.zeros(3)).log_prob(torch.tensor([0.0, 1.0, 0.0])).exp()  # 1 / 4 pi
        tensor(0.0796)
    """

    def __init__(self, zeros: Float[Tensor, "*batch dim"]) -> None:
        direction = F.pad(zeros[..., 1:], (1, 0), value=1.0)
        super().__init__(direction, zeros[..., 0])
        self.zeros = zeros


def _kl_spherical_uniform(q: PowerSpherical, p: UniformSphere) -> Tensor:
    return p._log_norm() - q.entropy()


register_kl(PowerSpherical, UniformSphere)(_kl_spherical_uniform)
refuse_gaussian(PowerSpherical, "one on the unit sphere")
