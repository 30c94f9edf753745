"""Priors: modules whose call returns p(z)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit import _checks
from vaekit.architecture import bare
from vaekit.distributions import DiagonalGaussian, StandardGaussian
from vaekit.distributions.detach import mapped
from vaekit.distributions.flows import FlowDistribution, layers
from vaekit.distributions.mixtures import mixture
from vaekit.networks import Context, as_context, one_hot, takes_context

__all__ = [
    "ConditionalPrior",
    "Fixed",
    "FlowPrior",
    "MixtureOfGaussians",
    "StandardNormal",
    "VampPrior",
    "fit_flow",
    "fit_gaussian_mixture",
]

_MARGIN = 0.01


class StandardNormal(nn.Module):
    r"""The standard normal prior, which does not learn.

    .. math:: p(z) = \mathcal{N}(z;\, 0, I)

    Args:
        dim: The number of latent dimensions.

    Raises:
        ValueError: If ``dim`` is no whole number above 0.

    Example:
        >>> prior = StandardNormal(20)
        >>> prior().sample((8,)).shape
        torch.Size([8, 20])

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, section 3.
    """

    takes_context = False
    _zeros: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = _checks.positive_int("dim", dim)
        # It holds nothing but the dtype and the device, which follow those of the model.
        self.register_buffer("_zeros", torch.zeros(self.dim), persistent=False)

    def forward(self) -> StandardGaussian:
        """Return the distribution, over ``(dim,)``."""
        return StandardGaussian(self._zeros)

    def extra_repr(self) -> str:
        """Show the number of dimensions."""
        return f"dim={self.dim}"


class Fixed(nn.Module):
    r"""Any distribution as a prior that does not learn.

    .. math:: p_\theta(z) = p(z), \quad \text{the distribution given, whatever } \theta

    It holds a copy of the distribution, without gradients. Its tensors follow the module to another
    device or dtype (``model.to(...)``), and are not part of the ``state_dict``: who makes the model
    states the prior.

    Args:
        distribution: A distribution over ``(dim,)`` without a batch, of `torch.distributions` or
            `vaekit.distributions`.

    Raises:
        ValueError: If its event has not one dimension, or it has a batch.

    Example:
        >>> laplace = torch.distributions.Laplace(torch.zeros(20), torch.ones(20))
        >>> prior = Fixed(torch.distributions.Independent(laplace, 1))
        >>> prior.double()().sample((8,)).dtype
        torch.float64

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, section 2.1, where the
        prior is any.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.dim = _dim("distribution", distribution)
        self.distribution: Distribution = mapped(
            distribution, lambda tensor: tensor.detach().clone()
        )

    def forward(self) -> Distribution:
        """Return the distribution, over ``(dim,)``."""
        return self.distribution

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Fixed":
        self.distribution = mapped(self.distribution, fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """Show the distribution."""
        return repr(bare(self.distribution))


class MixtureOfGaussians(nn.Module):
    r"""A mixture of K diagonal Gaussians, all of whose parameters are learned.

    .. math:: p(z) = \sum_k w_k\, \mathcal{N}(z;\, \mu_k, \operatorname{diag} \sigma_k^2),
              \qquad w = \operatorname{softmax}(\text{logits})

    At first the weights and the variances are equal and the means are standard normal draws, less
    their mean; so one component starts as the standard normal. With one component the distribution
    is a `DiagonalGaussian`, and its divergence exact; with more it is estimated from draws.

    Args:
        dim: The number of latent dimensions.
        components: K.

    Raises:
        ValueError: If a number is not a whole one above 0.

    Example:
        >>> prior = MixtureOfGaussians(20, components=10)
        >>> prior()
        Mixture(components=10, batch_shape=(), event_shape=(20,))
        >>> list(prior.state_dict())
        ['means', 'logvars', 'logits']

    References:
        J. M. Tomczak and M. Welling, *VAE with a VampPrior*, 2018, section 3, where the
        weights are equal.
    """

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        self.dim = _checks.positive_int("dim", dim)
        self.components = _checks.positive_int("components", components)
        means = torch.randn(self.components, self.dim)
        self.means = nn.Parameter(means - means.mean(0))
        self.logvars = nn.Parameter(torch.zeros_like(means))
        # The weight of a single component is no parameter: it is one.
        self.logits = nn.Parameter(torch.zeros(self.components), requires_grad=self.components > 1)

    def forward(self) -> Distribution:
        """Return the distribution, over ``(dim,)``."""
        return mixture(self.logits, DiagonalGaussian(self.means, self.logvars))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"dim={self.dim}, components={self.components}"


class VampPrior(nn.Module):
    r"""The mixture of the encoder's posteriors at K learned pseudo-inputs.

    .. math:: p(z) = \frac{1}{K} \sum_k q(z \mid u_k), \qquad
              u_k = \text{low} + (\text{high} - \text{low}) \operatorname{sigmoid}(v_k)

    The pseudo-inputs stay within the data's range, and what is learned is :math:`v`, ``raw``. The
    ``state_dict`` holds ``raw`` and nothing else. The encoder is the model's: the prior refers to
    it, so its parameters are neither listed, saved nor moved a second time, a deep copy of the VAE
    holds a prior that refers to the copied encoder, and one that is given another encoder
    (``model.encoder = ...``) has its prior refer to that. It is run on the pseudo-inputs, in
    whatever mode it is in, at every call.

    Args:
        encoder: The encoder of the VAE that this is the prior of.
        pseudo_inputs: Where the pseudo-inputs start; elements of the training data do well.
        bounds: The lowest and the highest value of the data; None for data without bounds, whose
            pseudo-inputs are ``raw`` itself. The starting values are moved to no less than a
            hundredth of the range from either bound, where the sigmoid's gradient is not lost.

    Shape:
        ``pseudo_inputs: (K, *event)``, as the encoder takes them.

    Raises:
        TypeError: If the encoder's posterior has no density, or the encoder takes a context.
        ValueError: If the pseudo-inputs are not what the encoder takes, or lie outside the bounds.

    Example:
        >>> latent = vk.GaussianLatent(2)
        >>> encoder = vk.Encoder(vk.networks.mlp(64, [32], latent.num_params), latent)
        >>> prior = VampPrior(encoder, torch.rand(50, 1, 8, 8))
        >>> prior()
        Mixture(components=50, batch_shape=(), event_shape=(2,))
        >>> list(prior.state_dict())
        ['raw']

    References:
        J. M. Tomczak and M. Welling, *VAE with a VampPrior*, 2018, section 3.
    """

    def __init__(
        self,
        encoder: nn.Module,
        pseudo_inputs: Float[Tensor, "k *event"],
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__()
        what, shape = "shape (K, *event), K at least 1", tuple(pseudo_inputs.shape)
        _checks.require(len(shape) > 1 and shape[0] > 0, "pseudo_inputs", what, shape)
        _checks.finite("pseudo_inputs", pseudo_inputs)
        raw = pseudo_inputs.detach().clone()
        if bounds is not None:
            low, high = bounds
            width = _checks.number("bounds: high - low", high - low, above=0)
            what, (least, most) = f"values in [{low:g}, {high:g}]", (raw.min(), raw.max())
            hint = "bounds= says what the data's range is, None that they have none."
            within = bool(least >= low and most <= high)
            _checks.require(within, "pseudo_inputs", what, f"{least:g} to {most:g}", hint)
            raw = ((raw - low) / width).clamp(_MARGIN, 1 - _MARGIN).logit()
        if takes_context(encoder):
            what = "one that takes no context, since the pseudo-inputs come with none"
            hint = "ConditionalPrior is a prior that takes one; any other goes without."
            got = f"{type(encoder).__name__} that takes one"
            raise TypeError(_checks.expected("encoder", what, got, hint))
        self.refer_to(encoder)
        self.bounds = bounds
        self.raw = nn.Parameter(raw)
        self.dim = self._check()

    @property
    def encoder(self) -> nn.Module:
        """The encoder referred to."""
        return self._encoder[0]

    def refer_to(self, encoder: nn.Module) -> None:
        """Mix the posteriors of another encoder, as a model does that is given one."""
        self._encoder = (encoder,)  # in a tuple a module is referred to, not registered

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs as they now are, ``(K, *event)``, in the data's range."""
        if self.bounds is None:
            return self.raw
        low, high = self.bounds
        return low + (high - low) * self.raw.sigmoid()

    def forward(self) -> Distribution:
        """Return the distribution, over ``(dim,)``."""
        return mixture(self.raw.new_zeros(len(self.raw)), self.encoder(self.pseudo_inputs))

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"dim={self.dim}, pseudo_inputs={tuple(self.raw.shape)}"

    def _check(self) -> int:
        """Return the number of latent dimensions, or say what does not fit."""
        try:
            with torch.no_grad():
                posterior = self.encoder(self.pseudo_inputs)
        except (RuntimeError, ValueError) as error:
            what, got = "elements as the encoder takes them", f"shape {tuple(self.raw.shape)}"
            raise ValueError(_checks.expected("pseudo_inputs", what, got, str(error))) from error
        what = f"a posterior for each of the {len(self.raw)} pseudo-inputs"
        batch = tuple(posterior.batch_shape)
        _checks.require(batch == (len(self.raw),), "encoder", what, f"a batch {batch}")
        try:
            posterior.log_prob(posterior.sample())
        except (NotImplementedError, AttributeError, TypeError) as error:
            what = "one whose posterior has a density, since the prior is a mixture of them"
            raise TypeError(_checks.expected("encoder", what, repr(posterior))) from error
        return _dim("encoder", posterior, batch_ndims=1)


class FlowPrior(nn.Module):
    r"""A normalising flow as a learned prior.

    .. math:: \log p(z) = \log \mathcal{N}(f(z);\, 0, I)
              + \log \left| \det \frac{\partial f(z)}{\partial z} \right|

    Any flow of zuko does, and any other module whose call returns a distribution. An autoregressive
    one has its density in one pass and draws in one for each dimension, which suits a prior. The
    divergence of the posterior from it is estimated from draws.

    Args:
        flow: The flow, over the latent dimensions and without context:
            ``zuko.flows.NSF(dim, transforms=3)``. Making it with
            `vaekit.distributions.flows.import_zuko` leaves torch's checks of arguments switched on.

    Raises:
        ValueError: If the flow needs a context, or its event has not one dimension.

    Example:
        >>> from vaekit.distributions.flows import import_zuko
        >>> prior = FlowPrior(import_zuko().flows.NSF(20, transforms=2))
        >>> prior.dim
        20
        >>> prior().log_prob(torch.zeros(8, 20)).shape
        torch.Size([8])

    References:
        X. Chen et al., *Variational Lossy Autoencoder*, 2017, section 3.2.
    """

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow
        try:
            with torch.no_grad():
                distribution = self()
                distribution.log_prob(distribution.sample())
        except (RuntimeError, TypeError, AttributeError) as error:
            what, got = "a flow without context", f"{type(flow).__name__}, which fails"
            raise ValueError(_checks.expected("flow", what, got, str(error))) from error
        self.dim = _dim("flow", distribution)

    def forward(self) -> Distribution:
        """Return the distribution, over ``(dim,)``."""
        if not hasattr(self.flow, "transform"):
            distribution: Distribution = self.flow()
            return distribution
        from_noise = [layer.inv for layer in reversed(layers(self.flow))]
        return FlowDistribution(from_noise, self.flow.base())  # type: ignore[operator]


class ConditionalPrior(nn.Module):
    r"""A diagonal Gaussian whose parameters a network makes of a context (labels, attributes).

    .. math:: p(z \mid c) = \mathcal{N}\!\left(z;\, \mu(c), \operatorname{diag} \sigma^2(c)\right)

    Args:
        net: Takes the context and returns ``2 * dim`` numbers for each element: the means, then the
            log-variances. Any module does. One of `vaekit.networks` that takes values of one
            dimension is given labels as rows of zeros with a single one.
        dim: The number of latent dimensions.

    Attributes:
        takes_context: True: the VAE hands the context on.

    Raises:
        TypeError: From a call, if the context is no tensor, array or sequence of numbers.
        ValueError: If the network returns another number of values: at once where it is one of
            `vaekit.networks`, else at the first call; from a call, if a label is out of range.

    Example:
        >>> prior = ConditionalPrior(vk.networks.mlp(10, [64], 40), 20)
        >>> prior(torch.eye(10))
        DiagonalGaussian(batch_shape=(10,), event_shape=(20,))
        >>> prior([7, 7, 4])
        DiagonalGaussian(batch_shape=(3,), event_shape=(20,))

    References:
        K. Sohn, H. Lee and X. Yan, *Learning Structured Output Representation using Deep
        Conditional Generative Models*, 2015, section 4.
    """

    takes_context = True

    def __init__(self, net: nn.Module, dim: int) -> None:
        super().__init__()
        self.dim = _checks.positive_int("dim", dim)
        shape = getattr(net, "out_shape", None)
        if shape is not None:
            self._check(torch.Size(shape).numel())
        self.net = net

    def forward(self, context: Context) -> DiagonalGaussian:
        """Return the distribution of each element's latents.

        Shape:
            ``context: (B, ...)`` as the network takes it, or ``(B,)`` labels; returns a
            distribution of batch ``(B,)`` over ``(dim,)``.
        """
        context = as_context(context, next(self.parameters(), torch.empty(0)).device)
        size: Sequence[int] = getattr(self.net, "in_shape", ())
        if len(size) == 1 and context.ndim == 1 and not context.is_floating_point():
            context = one_hot(context, size[0])
        params = self.net(context)
        self._check(params.shape[-1])
        return DiagonalGaussian.of_halves(params)

    def _check(self, outputs: int) -> None:
        what = f"{2 * self.dim} outputs for each element, for {self.dim} latent dimensions"
        _checks.require(outputs == 2 * self.dim, "net", what, outputs)


def fit_gaussian_mixture(
    z: Float[Tensor, "n dim"], components: int, seed: int | None = None
) -> MixtureOfGaussians:
    r"""Fit a mixture of Gaussians to the latents of a trained model, by EM.

    .. math:: \max_p \frac{1}{N} \sum_n \log p(z_n)

    Pictures decoded from it are often better than those from the prior the model was trained with,
    for the aggregated posterior seldom is that prior.

    Args:
        z: Latents of the training data, as ``model.encode_to_latent(data)`` draws them.
        components: K.
        seed: Decides the start of scikit-learn's ``GaussianMixture``, which does the work.

    Returns:
        The prior, of the dtype and on the device of ``z``, to be set as ``model.prior``.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If there are fewer latents than components, or they are not finite.

    Example:
        >>> fit_gaussian_mixture(torch.randn(100, 2), components=3, seed=0)
        MixtureOfGaussians(dim=2, components=3)

    References:
        P. Ghosh et al., *From Variational to Deterministic Autoencoders*, 2020, section 4.
    """
    _checks.positive_int("components", components)
    _check_latents(z, components)
    needs = "This fit", "scikit-learn", '"vaekit[plots]"'
    mixtures = _checks.module("sklearn.mixture", *needs)
    found = mixtures.GaussianMixture(components, covariance_type="diag", random_state=seed)
    found.fit(z.detach().double().cpu().numpy())
    prior = MixtureOfGaussians(z.shape[1], components).to(z)
    with torch.no_grad():
        prior.means.copy_(torch.from_numpy(found.means_))
        prior.logvars.copy_(torch.from_numpy(found.covariances_).log())
        prior.logits.copy_(torch.from_numpy(found.weights_).log())
    return prior


def fit_flow(
    z: Float[Tensor, "n dim"],
    flow: nn.Module,
    steps: int,
    *,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    seed: int | None = None,
) -> FlowPrior:
    r"""Fit a flow to the latents of a trained model, by Adam on the likelihood.

    .. math:: \max_p \frac{1}{N} \sum_n \log p(z_n)

    Args:
        z: Latents of the training data, as ``model.encode_to_latent(data)`` draws them, of about
            unit scale (a spline flow of zuko is the identity beyond 5).
        flow: As for `FlowPrior`; it is trained in place.
        steps: How many steps to take.
        batch_size: How many latents, drawn with replacement, each step sees.
        learning_rate: Adam's.
        seed: Decides which latents each step sees; torch's global generator does if None.

    Returns:
        The prior, of the dtype and on the device of ``z``, to be set as ``model.prior``.

    Raises:
        ArithmeticError: If the likelihood stops being finite.
        ValueError: If a number is not above 0, the latents are not finite, or have not as many
            dimensions as the flow.

    Example:
        >>> from vaekit.distributions.flows import import_zuko
        >>> flow = import_zuko().flows.NSF(2, transforms=2)
        >>> prior = fit_flow(torch.randn(100, 2), flow, steps=5, seed=0)
        >>> prior.dim
        2

    References:
        B. Dai and D. Wipf, *Diagnosing and Enhancing VAE Models*, 2019, section 4, does the same
        with a second VAE.
    """
    _checks.positive_int("steps", steps)
    batch_size = _checks.positive_int("batch_size", batch_size)
    _checks.number("learning_rate", learning_rate, above=0)
    _check_latents(z, 1)
    prior = FlowPrior(flow).to(z)
    _checks.trailing_shape("z", z, (prior.dim,))
    z = z.detach()
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(prior.parameters(), lr=learning_rate)
    for step in range(steps):
        chosen = torch.randint(len(z), (batch_size,), generator=generator).to(z.device)
        loss = -prior().log_prob(z[chosen]).mean()
        if not loss.isfinite():
            raise ArithmeticError(f"The flow's likelihood was no longer finite at step {step}.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prior


def _dim(argument: str, distribution: Distribution, batch_ndims: int = 0) -> int:
    shapes = distribution.batch_shape, distribution.event_shape
    if len(shapes[0]) != batch_ndims or len(shapes[1]) != 1:
        what = "a distribution over (dim,), without a batch"
        got = f"batch {tuple(shapes[0])} over {tuple(shapes[1])}"
        hint = "torch.distributions.Independent(..., 1) makes a batch one event."
        raise ValueError(_checks.expected(argument, what, got, hint))
    return shapes[1][0]


def _check_latents(z: Tensor, least: int) -> None:
    what = f"shape (N, dim), N at least {least}"
    _checks.require(z.ndim == 2 and len(z) >= least, "z", what, tuple(z.shape))
    _checks.finite("z", z)
