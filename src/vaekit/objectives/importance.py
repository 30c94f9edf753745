"""The importance-weighted bounds."""

from typing import ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor

from vaekit import _checks, losses
from vaekit.losses.importance import check_gradient
from vaekit.objectives.base import Term
from vaekit.vae import VAEOutput

__all__ = ["ImportanceWeighted"]


class ImportanceWeighted(Term):
    r"""`vaekit.losses.importance_weighted` as a term: reconstruction and KL in one.

    .. math:: -\frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k
              \left( \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)} \right)^{1 - \alpha}

    By itself it is the objective of the IWAE; with ``groups`` that of the MIWAE, with ``alpha`` of
    the Rényi VAE, with a ``gradient`` STL or DReG. Weighed against an ELBO it is the CIWAE's:
    ``beta * (Reconstruction() + KL()) + (1 - beta) * ImportanceWeighted()``.

    Args:
        alpha: The order of the Rényi bound: 0 for the IWAE's, 1 for the ELBO.
        groups: Into how many groups the draws are divided, whose bounds are averaged.
        gradient: ``"standard"``, ``"stl"`` or ``"dreg"``.
        name: What the term is called.

    Raises:
        ValueError: If an option does not fit; when called, if the model drew but once.

    Example:
        >>> ImportanceWeighted(gradient="dreg")
        ImportanceWeighted(gradient='dreg')
    """

    needs_draws: ClassVar[bool] = True
    _usual: ClassVar[dict[str, object]] = {"alpha": 0, "groups": 1, "gradient": "standard"}

    def __init__(
        self,
        alpha: float = 0.0,
        groups: int = 1,
        gradient: losses.Gradient = "standard",
        name: str = "importance_weighted",
    ) -> None:
        super().__init__(name)
        self.alpha = _checks.number("alpha", alpha)
        self.groups = _checks.positive_int("groups", groups)
        check_gradient(gradient, alpha)
        self.gradient: losses.Gradient = gradient
        self.differentiates = gradient == "dreg"

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the negative bound of each element, ``(B,)``."""
        drawn = out.likelihood, out.posterior, out.prior, x, out.z
        return losses.importance_weighted(*drawn, **self._options())
