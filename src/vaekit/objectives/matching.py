"""Terms that compare the aggregated posterior with something: by a kernel, or by an adversary."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from vaekit import _checks, losses, networks
from vaekit.distributions import Joint
from vaekit.distributions.supports import innermost
from vaekit.losses.elbo import over_draws
from vaekit.objectives.base import Term
from vaekit.vae import VAEOutput

__all__ = ["MMD", "AdversarialPrior", "AdversarialTotalCorrelation"]


class MMD(Term):
    r"""`vaekit.losses.mmd` of the aggregated posterior and the prior, as a term.

    .. math:: \mathbb{E}\, k(z, z') - 2\, \mathbb{E}\, k(z, p) + \mathbb{E}\, k(p, p')

    A statistic of the batch. Alone beside the reconstruction it makes a Wasserstein autoencoder;
    the InfoVAE is
    ``Reconstruction() + (1 - alpha) * KL() + (alpha + lambda_ - 1) * MMD()``.

    Args:
        kernel: `vaekit.losses.RBF` or `vaekit.losses.InverseMultiquadric`; the latter with the
            Wasserstein autoencoder's bandwidths for z's dimension if None.
        name: What the term is called.

    Raises:
        TypeError: If the kernel is none; when called, if no draw from the prior can be
            reparameterised.

    Example:
        >>> vk.Reconstruction() + 10 * MMD(vk.losses.RBF(1.0))
        Reconstruction() + 10 * MMD(kernel=RBF(1))

    References:
        S. Zhao, J. Song and S. Ermon, *InfoVAE*, 2019, section 3; I. Tolstikhin et al.,
        *Wasserstein Auto-Encoders*, 2018, algorithm 2.
    """

    compares = statistic = True
    _usual: ClassVar[dict[str, object]] = {"kernel": None}

    def __init__(self, kernel: losses.Kernel | None = None, name: str = "mmd") -> None:
        super().__init__(name)
        if kernel is not None and not isinstance(kernel, losses.Kernel):
            what = "a kernel, like vk.losses.RBF(1.0), or None"
            raise TypeError(_checks.expected("kernel", what, repr(kernel)))
        self.kernel = kernel

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the squared discrepancy, a scalar, the mean over draws where there are several."""
        if not out.prior.has_rsample:
            what = "one that draws with a gradient (has_rsample)"
            raise TypeError(_checks.expected("prior", what, repr(out.prior)))
        draws = out.z if out.z.ndim == 3 else out.z[None]
        reference = out.prior.rsample(_draw_shape(out.prior, draws.shape[1]))
        return torch.stack([losses.mmd(z, reference, self.kernel) for z in draws]).mean()


class _Adversarial(Term):
    """What the terms share that own a discriminator, and give the encoder what it knows."""

    _usual: ClassVar[dict[str, object]] = {"discriminator": None}

    def __init__(
        self,
        discriminator: nn.Module | int,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self._size = discriminator if isinstance(discriminator, int) else None
        if not isinstance(discriminator, nn.Module):
            leaky = partial(nn.LeakyReLU, 0.2)
            discriminator = networks.mlp(discriminator, [1000] * 6, 1, activation=leaky)
        self.discriminator = discriminator
        self._make = optimizer or partial(Adam, lr=1e-4, betas=(0.5, 0.9))

    def inner_loss(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, ""]:
        """Return the discriminator's own loss, on fresh draws that lead to no encoder."""
        with torch.no_grad():
            z, reference = self._draws(out)
        return losses.discrimination(self._logits(z), self._logits(reference))

    def inner_optimizer(self) -> Optimizer:
        """Make the discriminator's optimiser."""
        return self._make(self.parameters())

    @abstractmethod
    def _draws(self, out: VAEOutput) -> tuple[Tensor, Tensor]:
        """Draw from the aggregated posterior, and from what it is set against."""

    def _logits(self, z: Tensor, *, held: bool = False) -> Tensor:
        flat = z.reshape(-1, z.shape[-1])
        if held:
            fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
            logits: Tensor = functional_call(self.discriminator, fixed, (flat,))
        else:
            logits = self.discriminator(flat)
        what, got = "one logit for each element", tuple(logits.shape)
        _checks.require(logits.numel() == len(flat), "discriminator", what, got)
        return logits.reshape(z.shape[:-1])

    def _options(self) -> dict[str, object]:
        return {"discriminator": self._size}


class AdversarialTotalCorrelation(_Adversarial):
    r"""The total correlation as a discriminator estimates it: the FactorVAE's.

    .. math:: \operatorname{TC} \approx \mathbb{E}_{q(z)} \left[ D(z) \right], \qquad
              D(z) \approx \log \frac{q(z)}{\prod_j q(z_j)}

    The encoder's gradient goes through z alone: the discriminator is held fixed. Its own loss,
    `Term.inner_loss`, tells draws of the posterior from others whose dimensions are permuted,
    without a gradient to the encoder. As good as the discriminator, and 0 while that knows nothing.

    Args:
        discriminator: A module ``(N, dim) -> (N,)`` or ``(N, 1)``; or the number of latent
            dimensions, for the paper's: six layers of 1,000 leaky ReLU.
        optimizer: Makes the discriminator's optimiser; Adam of 1e-4 and betas .5, .9 if None.
        name: What the term is called.

    Raises:
        TypeError: When called, if the posterior's dimensions cannot take their values each by
            itself: those of a one-hot vector, say, whose permutations are told by shape alone.
        ValueError: When called, if the discriminator does not return one logit for each element.

    Example:
        >>> vk.Reconstruction() + vk.KL() + 35 * AdversarialTotalCorrelation(10)
        Reconstruction() + KL() + 35 * AdversarialTotalCorrelation(discriminator=10)

    References:
        H. Kim and A. Mnih, *Disentangling by Factorising*, 2018, equation 3 and algorithm 2.
    """

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return the log-ratio of the densities at each element's draw, ``(B,)``."""
        _check_permutable(out.posterior)
        return over_draws(self._logits(out.z, held=True))

    def _draws(self, out: VAEOutput) -> tuple[Tensor, Tensor]:
        _check_permutable(out.posterior)
        z, other = out.posterior.sample((2,))
        return z, losses.permute_dimensions(other)


class AdversarialPrior(_Adversarial):
    r"""An adversary that tells the aggregated posterior from the prior: the adversarial AE's.

    .. math:: -\mathbb{E}_{q(z)} \log \operatorname{sigmoid}(-D(z)), \qquad
              D(z) \approx \log \frac{q(z)}{p(z)}

    It stands in place of the KL. What the encoder minimises is that its draws are taken for the
    prior's; log 2 where the adversary cannot tell. The encoder's gradient goes through z alone.

    Args:
        discriminator: As for `AdversarialTotalCorrelation`.
        optimizer: As for `AdversarialTotalCorrelation`.
        name: What the term is called.

    Raises:
        ValueError: When called, if the discriminator does not return one logit for each element.

    Example:
        >>> vk.Reconstruction() + AdversarialPrior(vk.networks.mlp(8, [64], 1))
        Reconstruction() + AdversarialPrior()

    References:
        A. Makhzani et al., *Adversarial Autoencoders*, 2015, section 2.
    """

    def forward(self, out: VAEOutput, x: Shaped[Tensor, "..."]) -> Float[Tensor, " batch"]:
        """Return how surely each element's draw is told from the prior's, ``(B,)``."""
        return over_draws(F.softplus(self._logits(out.z, held=True)))

    def _draws(self, out: VAEOutput) -> tuple[Tensor, Tensor]:
        z = out.posterior.sample()
        return z, out.prior.sample(_draw_shape(out.prior, len(z)))


def _check_permutable(posterior: Distribution) -> None:
    """Say so where the values of some dimensions bind those of others."""
    if _checks.eager() and not _by_dimension(posterior):
        what = "one whose dimensions take their values each by itself, as permuting them asks for"
        raise TypeError(_checks.expected("posterior", what, repr(posterior)))


def _by_dimension(posterior: Distribution) -> bool:
    """Tell whether the support is that of each dimension by itself."""
    if isinstance(posterior, Joint):
        return all(map(_by_dimension, posterior.parts))
    try:
        return bool(innermost(posterior.support).event_dim == 0)
    except NotImplementedError:  # one that does not say
        return True


def _draw_shape(prior: Distribution, batch: int) -> torch.Size:
    """Return the sample shape for one draw an element, also where each has a prior of its own."""
    return torch.Size() if prior.batch_shape == (batch,) else torch.Size([batch])
