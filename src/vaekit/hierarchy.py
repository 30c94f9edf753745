"""Hierarchies of latents: several layers, of which the vector z holds the lowest first.

The posterior is a latent, the prior a prior, each over all layers at once, so that the model, the
objectives and the metrics need not know of the layers. The decoder reads the lowest alone, by
`vaekit.networks.FirstOf`.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vaekit import _checks
from vaekit.distributions import DiagonalGaussian, StandardGaussian
from vaekit.distributions.chains import Chain

__all__ = ["BottomUp", "Ladder", "TopDown"]


class _Layers(nn.Module):
    """Networks from each layer to the next, whose outputs are the halves of Gaussians.

    They are checked, where they tell their sizes, against the layers in drawing order.
    """

    def __init__(self, sizes: Sequence[int], nets: Iterable[nn.Module], *, down: bool) -> None:
        super().__init__()
        self.sizes = _checks.positive_ints("sizes", sizes)
        self.nets = nn.ModuleList(nets)
        what = "one network between each two layers, of which there are two at least"
        got = f"{len(self.nets)} for {len(self.sizes)} layers"
        _checks.require(len(self.sizes) == len(self.nets) + 1 > 1, "nets", what, got)
        order = self.sizes[::-1] if down else self.sizes
        for net, (size_in, size_out) in zip(self.nets, pairwise(order), strict=True):
            shapes = [getattr(net, name, None) for name in ("in_shape", "out_shape")]
            wanted = (size_in, 2 * size_out)
            if None not in shapes and tuple(shape.numel() for shape in shapes) != wanted:  # type: ignore[union-attr]
                what = f"a network of {size_in} values to {2 * size_out}"
                got = f"{shapes[0]} to {shapes[1]}"
                raise ValueError(_checks.expected("nets", what, got))
        self.dim = sum(self.sizes)

    def extra_repr(self) -> str:
        """Show the number of dimensions of each layer."""
        return f"sizes={self.sizes}"


class TopDown(_Layers):
    r"""The prior of a hierarchy: the highest layer is standard normal, each lower one given by it.

    .. math:: p(z) = \mathcal{N}(z_L; 0, I) \prod_{l < L} p(z_l \mid z_{l+1})

    Args:
        sizes: The number of dimensions of each layer, the lowest first.
        nets: Networks ``(B, size of a layer) -> (B, 2 * size of the layer below)``, whose halves
            are the mean and the log-variance; the highest first.

    Attributes:
        dim: The number of dimensions of all layers together.

    Raises:
        ValueError: If the networks do not fit the sizes.

    Example:
        >>> prior = TopDown([100, 50], [vk.networks.mlp(50, [100], 200)])
        >>> prior().sample((8,)).shape
        torch.Size([8, 150])

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        equation 1.
    """

    _zeros: Tensor

    def __init__(self, sizes: Sequence[int], nets: Iterable[nn.Module]) -> None:
        super().__init__(sizes, nets, down=True)
        self.register_buffer("_zeros", torch.zeros(self.sizes[-1]), persistent=False)

    def conditional(self, layer: int, above: Float[Tensor, "*batch above"]) -> DiagonalGaussian:
        r"""Return :math:`p(z_l \mid z_{l+1})`, the lowest layer being 0."""
        return _given(self.nets[len(self.sizes) - 2 - layer], above)

    def forward(self) -> Chain:
        """Return the distribution, over ``(dim,)``."""
        below = range(len(self.sizes) - 2, -1, -1)
        conditionals = [partial(self.conditional, layer) for layer in below]
        first = StandardGaussian(self._zeros)
        return Chain(first, conditionals, self.sizes[::-1], reverse=True)


class BottomUp(_Layers):
    r"""A posterior inferred from the bottom up: each layer from the one below.

    .. math:: q(z \mid x) = q(z_1 \mid x) \prod_{l > 1} q(z_l \mid z_{l-1})

    Args:
        sizes: The number of dimensions of each layer, the lowest first.
        nets: Networks ``(B, size of a layer) -> (B, 2 * size of the layer above)``, the lowest
            first.

    Attributes:
        dim: The number of dimensions of all layers together.
        num_params: What the encoder's network returns: twice the size of the lowest layer.

    Raises:
        ValueError: If the networks do not fit the sizes.

    Example:
        >>> latent = BottomUp([100, 50], [vk.networks.mlp(100, [100], 100)])
        >>> latent(torch.zeros(8, 200)).rsample().shape
        torch.Size([8, 150])

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        equation 2.
    """

    def __init__(self, sizes: Sequence[int], nets: Iterable[nn.Module]) -> None:
        super().__init__(sizes, nets, down=False)
        self.num_params = 2 * self.sizes[0]

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> Chain:
        """Return the posterior, over ``(dim,)``."""
        _checks.trailing_shape("params", params, (self.num_params,))
        conditionals = [partial(_given, net) for net in self.nets]
        return Chain(DiagonalGaussian.of_halves(params), conditionals, self.sizes)


class Ladder(nn.Module):
    r"""A posterior inferred from the top down: what the data say, merged with the prior's layers.

    The highest layer is :math:`q(z_L \mid x)`; in each lower one the Gaussian that the encoder
    returns and the prior's :math:`p(z_l \mid z_{l+1})` are multiplied, weighing each by its
    precision.

    .. math:: \sigma_q^2 = \frac{1}{\hat\sigma^{-2} + \sigma_p^{-2}}, \qquad
              \mu_q = \sigma_q^2 \left( \hat\mu \hat\sigma^{-2} + \mu_p \sigma_p^{-2} \right)

    Args:
        prior: The model's own prior, whose networks it shares. Both hold them, so that the
            posterior keeps them where the model is given another prior after training.

    Attributes:
        dim: The number of dimensions of all layers together.
        num_params: What the encoder's network returns: the halves of each layer, one layer after
            another, the lowest first. A network may return a tuple of them.

    Example:
        >>> prior = TopDown([8, 4], [vk.networks.mlp(4, [16], 16)])
        >>> latent = Ladder(prior)
        >>> latent(torch.zeros(8, latent.num_params)).rsample().shape
        torch.Size([8, 12])

    References:
        C. K. Sonderby et al., *Ladder Variational Autoencoders*, 2016, equations 18 and 19.
    """

    def __init__(self, prior: TopDown) -> None:
        super().__init__()
        if not isinstance(prior, TopDown):
            raise TypeError(_checks.expected("prior", "a TopDown prior", type(prior).__name__))
        self.prior = prior
        self.sizes, self.dim = prior.sizes, prior.dim
        self.num_params = 2 * prior.dim

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> Chain:
        """Return the posterior, over ``(dim,)``."""
        _checks.trailing_shape("params", params, (self.num_params,))
        *lower, top = params.split([2 * size for size in self.sizes], dim=-1)
        said = [DiagonalGaussian.of_halves(layer) for layer in lower]
        below = range(len(lower) - 1, -1, -1)
        conditionals = [partial(self._merged, said[layer], layer) for layer in below]
        first = DiagonalGaussian.of_halves(top)
        return Chain(first, conditionals, self.sizes[::-1], reverse=True)

    def _merged(self, said: DiagonalGaussian, layer: int, above: Tensor) -> DiagonalGaussian:
        """Multiply what the data say and the prior's layer, each weighed by its precision."""
        mu, logvar = said
        prior_mu, prior_logvar = self.prior.conditional(layer, above)
        merged = -torch.logaddexp(-logvar, -prior_logvar)
        weight = (merged - logvar).exp()  # of the first; the other's is what is left
        return DiagonalGaussian(weight * mu + (1 - weight) * prior_mu, merged)

    def extra_repr(self) -> str:
        """Show the number of dimensions of each layer."""
        return f"sizes={self.sizes}"


def _given(net: nn.Module, z: Tensor) -> DiagonalGaussian:
    """Return the Gaussian that a network makes of each vector, however they are arranged."""
    params: Tensor = net(z.reshape(-1, z.shape[-1]))  # else (B, 1, size) were one event of a batch
    return DiagonalGaussian.of_halves(params.reshape(*z.shape[:-1], -1))
