"""Penalties on codes, on their moments, and on how a decoder bends."""

from typing import ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor

from vaekit import _checks, losses
from vaekit.losses.elbo import over_draws
from vaekit.objectives.base import Term
from vaekit.vae import VAEOutput

__all__ = ["DIP", "Commitment", "GradientPenalty", "LatentL2"]


class DIP(Term):
    r"""`vaekit.losses.dip` as a term, which stands beside the KL; a statistic of the batch.

    .. math:: \lambda_{od} \sum_{i \neq j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2

    Args:
        off_diagonal: What the covariances between latents weigh.
        diagonal: What the distance of their variances from 1 weighs.
        within: Whether the covariance within the posteriors is added: DIP-VAE-II.
        name: What the term is called.

    Raises:
        ValueError: If a weight is negative.

    Example:
        >>> vk.Reconstruction() + vk.KL() + DIP(off_diagonal=10, diagonal=100)
        Reconstruction() + KL() + DIP(off_diagonal=10, diagonal=100)
    """

    compares = statistic = True
    _usual: ClassVar[dict[str, object]] = {"off_diagonal": None, "diagonal": None, "within": False}

    def __init__(
        self,
        off_diagonal: float = 1.0,
        diagonal: float = 1.0,
        within: bool = False,
        name: str = "dip",
    ) -> None:
        super().__init__(name)
        _checks.number("off_diagonal", off_diagonal, low=0)
        _checks.number("diagonal", diagonal, low=0)
        self.off_diagonal, self.diagonal, self.within = off_diagonal, diagonal, within

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the penalty, a scalar."""
        return losses.dip(out.posterior, **self._options())


class LatentL2(Term):
    r"""`vaekit.losses.latent_l2` of the draws as a term: what keeps a plain autoencoder's codes in.

    .. math:: \tfrac{1}{2} \lVert z \rVert^2

    Args:
        name: What the term is called.

    Example:
        >>> vk.Reconstruction() + 1e-4 * LatentL2() + 1e-6 * GradientPenalty()
        Reconstruction() + 0.0001 * LatentL2() + 1e-06 * GradientPenalty()
    """

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return half the squared length of each element's code, ``(B,)``."""
        return over_draws(losses.latent_l2(out.z))


class GradientPenalty(Term):
    r"""`vaekit.losses.gradient_penalty` on the decoder's mean, as a term.

    .. math:: \lVert \nabla_z \hat{x}(z) \rVert_F^2

    Args:
        name: What the term is called.

    Raises:
        ValueError: When called, if no gradient from the decoder's mean to z is recorded.

    Example:
        >>> vk.Reconstruction() + 1e-4 * LatentL2() + 1e-6 * GradientPenalty()
        Reconstruction() + 0.0001 * LatentL2() + 1e-06 * GradientPenalty()
    """

    needs_graph: ClassVar[bool] = True
    differentiates = True

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the estimate for each element, ``(B,)``."""
        return over_draws(losses.gradient_penalty(out.x_hat, out.z))


class Commitment(Term):
    r"""`vaekit.losses.commitment` of a vector-quantised posterior, as a term.

    .. math:: \lVert z_e(x) - \operatorname{sg}[e] \rVert^2

    Args:
        name: What the term is called.

    Raises:
        TypeError: When called, if the posterior has none.

    Example:
        >>> vk.Reconstruction() + 0.25 * Commitment()
        Reconstruction() + 0.25 * Commitment()
    """

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the distance of each element's code from the codebook's, ``(B,)``."""
        return losses.commitment(out.posterior)
