"""Latents: what turns the numbers an encoder's network returns into a distribution over z."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from vaekit import _checks
from vaekit.distributions import DiagonalGaussian

__all__ = ["GaussianLatent"]


class GaussianLatent(nn.Module):
    r"""A diagonal Gaussian posterior.

    .. math:: q(z \mid x) = \mathcal{N}\!\left(z;\, \mu,\, \operatorname{diag} \exp(\text{logvar})
              \right), \qquad (\mu, \text{logvar}) = \text{the two halves of the parameters}

    Args:
        dim: The number of latent dimensions.

    Attributes:
        dim: The number of latent dimensions.
        num_params: How many numbers the encoder's network returns for each element: ``2 * dim``.

    Example:
        >>> latent = GaussianLatent(20)
        >>> latent.num_params
        40
        >>> mu, logvar = latent(torch.zeros(8, 40))
        >>> latent.reparameterize(mu, logvar).shape
        torch.Size([8, 20])

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, appendix C.2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = _checks.positive_int("dim", dim)
        self.num_params = 2 * self.dim

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> DiagonalGaussian:
        """Split the parameters into means and log-variances.

        Shape:
            ``params: (*batch, 2 * dim)``; returns a distribution over ``(dim,)``.

        Raises:
            ValueError: If the last dimension is not ``2 * dim``, or the parameters hold NaN.
        """
        if params.shape[-1:] != (self.num_params,):
            _checks.trailing_shape("params", params, (self.num_params,))
        return DiagonalGaussian.of_halves(params)

    @staticmethod
    def reparameterize(
        mu: Float[Tensor, "*batch dim"],
        logvar: Float[Tensor, "*batch dim"],
        generator: Generator | None = None,
    ) -> Float[Tensor, "*batch dim"]:
        r"""Draw :math:`z = \mu + \sigma \epsilon` with :math:`\epsilon \sim \mathcal{N}(0, I)`.

        The noise does not depend on the parameters, so the gradient of any function of z reaches
        them: an unbiased estimator of the gradient of its expectation.

        Args:
            mu: The means.
            logvar: The log-variances.
            generator: Where the noise comes from; torch's global one if None.

        Shape:
            ``mu, logvar: (*batch, dim)``, returns ``(*batch, dim)``.

        References:
            D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, section 2.4.
        """
        return DiagonalGaussian(mu, logvar).rsample(torch.Size(), generator)

    def extra_repr(self) -> str:
        """Show the number of dimensions."""
        return f"dim={self.dim}"
