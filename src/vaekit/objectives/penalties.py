"""Penalties on codes, on their moments, and on how a decoder bends."""

from typing import ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor

from vaekit import _checks, losses
from vaekit.objectives.base import Term
from vaekit.vae import VAEOutput

__all__ = ["DIP", "Commitment", "GradientPenalty", "LatentL2"]


class DIP(Term):
    """`vaekit.losses.dip` as a term, which stands beside the KL; a statistic of the batch.

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

    compares = True

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
        return losses.dip(
            out.posterior,
            off_diagonal=self.off_diagonal,
            diagonal=self.diagonal,
            within=self.within,
        )

    def _options(self) -> dict[str, object]:
        within = self.within or None
        return {"off_diagonal": self.off_diagonal, "diagonal": self.diagonal, "within": within}


class LatentL2(Term):
    """`vaekit.losses.latent_l2` of the draws as a term: what keeps a plain autoencoder's codes in.

    Args:
        name: What the term is called.

    Example:
        >>> vk.Reconstruction() + 1e-4 * LatentL2() + 1e-6 * GradientPenalty()
        Reconstruction() + 0.0001 * LatentL2() + 1e-06 * GradientPenalty()
    """

    def __init__(self, name: str = "latent_l2") -> None:
        super().__init__(name)

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return half the squared length of each element's code, ``(B,)``."""
        value = losses.latent_l2(out.z)
        return value.mean(0) if value.ndim > 1 else value


class GradientPenalty(Term):
    """`vaekit.losses.gradient_penalty` on the decoder's mean, as a term.

    Args:
        name: What the term is called.

    Example:
        >>> vk.Reconstruction() + 1e-4 * LatentL2() + 1e-6 * GradientPenalty()
        Reconstruction() + 0.0001 * LatentL2() + 1e-06 * GradientPenalty()
    """

    needs_graph: ClassVar[bool] = True

    def __init__(self, name: str = "gradient_penalty") -> None:
        super().__init__(name)

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the estimate for each element, ``(B,)``."""
        value = losses.gradient_penalty(out.x_hat, out.z)
        return value.mean(0) if value.ndim > 1 else value


class Commitment(Term):
    """`vaekit.losses.commitment` of a vector-quantised posterior, as a term.

    Args:
        name: What the term is called.

    Raises:
        TypeError: When called, if the posterior has none.

    Example:
        >>> vk.Reconstruction() + 0.25 * Commitment()
        Reconstruction() + 0.25 * Commitment()
    """

    def __init__(self, name: str = "commitment") -> None:
        super().__init__(name)

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the distance of each element's code from the codebook's, ``(B,)``."""
        return losses.commitment(out.posterior)
