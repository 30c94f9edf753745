"""The encoder, the decoder, and the VAE that holds them and its prior together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from vaekit import _checks, datasets
from vaekit.datasets.batches import alike
from vaekit.distributions import StandardGaussian, detached
from vaekit.distributions.chains import tempered
from vaekit.latents import GaussianLatent
from vaekit.likelihoods import Likelihood
from vaekit.networks import Context, as_context, takes_context, with_context
from vaekit.pretrained import Pretrained
from vaekit.priors import Fixed, StandardNormal

__all__ = ["VAE", "Decoder", "Encoder", "VAEOutput"]


class Encoder(nn.Module):
    r"""The posterior :math:`q(z \mid x)`: a network and the latent that reads its output.

    Any module does as the network. Where that is not enough, subclass and override ``forward``; it
    returns a distribution, as ``self.latent(parameters)`` does.

    Args:
        net: Takes ``x`` and returns ``latent.num_params`` numbers for each element, or a tuple of
            tensors which hold them in parts (a head for the means, another for the log-variances).
        latent: Turns those numbers into a distribution, as a `GaussianLatent` does.

    Attributes:
        takes_context: Whether ``forward`` takes a context as its second argument; True where the
            network says so of itself, as `vaekit.networks.Conditioned` does.

    Shape:
        ``x: (B, *event)``; returns a distribution of batch ``(B,)`` over ``(latent.dim,)``.

    Raises:
        TypeError: If ``x`` is of whole numbers and the network takes none.
        ValueError: If the network returns another number of values than the latent takes: at once
            where it is one of `vaekit.networks`, else at the first call. Also if ``x`` holds NaN,
            or the network returns NaN for an ``x`` that holds none.

    Example:
        >>> latent = vk.GaussianLatent(20)
        >>> encoder = Encoder(vk.networks.mlp(784, [400], latent.num_params), latent)
        >>> mu, logvar = encoder(torch.rand(8, 1, 28, 28))
        >>> mu.shape
        torch.Size([8, 20])
    """

    takes_context: bool = False

    def __init__(self, net: nn.Module, latent: nn.Module) -> None:
        super().__init__()
        num_params = getattr(latent, "num_params", None)
        if not isinstance(num_params, int):
            raise TypeError(
                _checks.expected("latent", "a GaussianLatent or its like", repr(latent))
            )
        _check_outputs(net, latent, num_params)
        self.net = net
        self.latent = latent
        self.takes_context = self.takes_context or takes_context(net)

    def forward(
        self, x: Shaped[Tensor, "batch *event"], context: Context | None = None
    ) -> Distribution:
        """Infer the posterior of each element."""
        try:
            params = self.net(x) if context is None else self.net(x, context)
        except RuntimeError as error:
            if x.is_floating_point():
                raise
            hint = "x.float() makes floats of whole numbers; those of vaekit.networks do so."
            got = f"{x.dtype}, with which {type(self.net).__name__} fails"
            what = "values as the network takes them"
            raise TypeError(_checks.expected("x", what, got, hint)) from error
        if isinstance(params, tuple | list):
            params = torch.cat([part.flatten(1) for part in params], dim=-1)
        latent = self.latent
        shape = params.shape
        if len(shape) > 2:
            params = params.flatten(1)  # maps, of which the first half of the channels is the means
        if params.ndim != 2 or params.shape[1] != latent.num_params:
            what = f"(batch, {latent.num_params}) outputs, as {latent} takes"
            hint = "A single element makes a batch of one by x[None]." if params.ndim < 2 else ""
            raise ValueError(_checks.expected("net", what, tuple(shape), hint))
        try:
            posterior: Distribution = latent(params)
        except ValueError:
            _checks.finite("x", x)  # where the data are to blame, say so
            raise
        return posterior


class Decoder(nn.Module):
    r"""The likelihood :math:`p(x \mid z)`: a network and the likelihood that reads its output.

    Args:
        net: Takes ``z`` of shape ``(N, dim)`` and returns ``likelihood.num_params`` numbers for
            each element, flat or in the shape of the data. Any module does.
        likelihood: Turns those numbers into a distribution, as those of `vaekit.likelihoods` do.

    Attributes:
        takes_context: As of `Encoder`.

    Shape:
        ``z: (*batch, dim)``, returns a distribution of batch ``(*batch,)`` over the data's shape.

    Raises:
        ValueError: If the network returns another number of values than the likelihood takes: at
            once where it is one of `vaekit.networks`, else at the first call. Also if ``z`` holds
            NaN.

    Example:
        >>> likelihood = vk.likelihoods.Bernoulli((1, 28, 28))
        >>> decoder = Decoder(vk.networks.mlp(20, [400], 784), likelihood)
        >>> decoder(torch.randn(8, 20))
        IndependentBernoulli(batch_shape=(8,), event_shape=(1, 28, 28))
    """

    takes_context: bool = False

    def __init__(self, net: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        if not hasattr(likelihood, "num_params"):
            raise TypeError(_checks.expected("likelihood", "a Likelihood", repr(likelihood)))
        _check_outputs(net, likelihood, likelihood.num_params)
        self.net = net
        self.likelihood = likelihood
        self.takes_context = self.takes_context or takes_context(net)

    def forward(
        self, z: Float[Tensor, "*batch dim"], context: Context | None = None
    ) -> Distribution:
        """Return the distribution of the data that each latent stands for."""
        if not z.requires_grad and _checks.eager():  # the parameters of a draw were looked at
            _checks.no_nan("z", z)
        flat = z if z.ndim == 2 else z.reshape(-1, z.shape[-1])
        if context is None:
            params = self.net(flat)
        else:
            context = as_context(context, z.device)
            each = context.shape[1:]  # one for each element, and for each of its draws
            context = context.expand(*z.shape[:-1], *each).reshape(-1, *each)
            params = self.net(flat, context)
        if not isinstance(params, Tensor):
            raise TypeError(_checks.expected("net", "a tensor returned", type(params).__name__))
        if z.ndim != 2:
            params = params.reshape(*z.shape[:-1], *params.shape[1:])
        distribution: Distribution = self.likelihood(params)
        return distribution


@dataclass(frozen=True)
class VAEOutput:
    r"""Everything that one forward pass inferred.

    Attributes:
        posterior: :math:`q(z \mid x)`, of batch ``(B,)`` over ``(dim,)``.
        z: The draws from it, ``(B, dim)``, or ``(K, B, dim)`` where ``samples=K`` was asked.
        likelihood: :math:`p(x \mid z)`, of batch ``(B,)`` or ``(K, B)`` over the data's shape.
        prior: :math:`p(z)`, over ``(dim,)``; with a context, of batch ``(B,)``.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> out = model(torch.zeros(5, 1, 8, 8))
        >>> mu, logvar = out.posterior
        >>> out.z.shape, out.x_hat.shape
        (torch.Size([5, 2]), torch.Size([5, 1, 8, 8]))
        >>> (vk.reconstruction(out.likelihood, torch.zeros(5, 1, 8, 8)) > 0).all()
        tensor(True)
    """

    posterior: Distribution
    z: Tensor
    likelihood: Distribution
    prior: Distribution

    @property
    def x_hat(self) -> Tensor:
        """The reconstruction to look at, ``(B, *event)``, which is the likelihood's mean."""
        return _as_latents(self.likelihood.mean, self.z)


class VAE(Pretrained):
    r"""A variational autoencoder: an encoder, a decoder and a prior. It knows no loss.

    .. math:: q(z \mid x), \qquad p(x \mid z), \qquad p(z)

    Every method that takes ``x`` also takes a batch as data sets yield it: ``(x, y)``, or a mapping
    that holds ``x``. `encode`, `encode_to_latent` and `reconstruct` take a whole data set as well
    (a ``Dataset``, a ``DataLoader``, any iterable of batches), which they go through in batches,
    without gradients.

    Where a part takes a context (labels, attributes), the model is a conditional one: every method
    then needs ``context``, one for each element in a tensor, an array or a sequence, unless a batch
    ``(x, y)`` brings it as its ``y``. It is given to each part that takes one.

    Args:
        encoder: A module that returns :math:`q(z \mid x)`.
        decoder: A module that returns :math:`p(x \mid z)`.
        prior: A module that returns :math:`p(z)`; if None, the one that goes with the encoder's
            latent, which for a Gaussian is the standard normal.

    Attributes:
        latent_dim: The number of latent dimensions.

    Raises:
        ValueError: If encoder, decoder and prior do not agree on the number of latent dimensions.

    Example:
        >>> latent = vk.GaussianLatent(2)
        >>> encoder = vk.Encoder(vk.networks.mlp(64, [32], latent.num_params), latent)
        >>> decoder = vk.Decoder(vk.networks.mlp(2, [32], 64), vk.likelihoods.Bernoulli((1, 8, 8)))
        >>> model = VAE(encoder, decoder)
        >>> x = torch.zeros(16, 1, 8, 8)
        >>> mu, logvar = model.encode(x)
        >>> z = model.encode_to_latent(x)
        >>> model.decode(z).shape
        torch.Size([16, 1, 8, 8])
        >>> out = model(x)
        >>> loss = vk.reconstruction(out.likelihood, x) + vk.kl_divergence(out.posterior, out.prior)
        >>> loss.shape
        torch.Size([16])
    """

    _rooms = ("distributions", "networks", "latents", "likelihoods", "priors", "hierarchy", "vae")

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        prior: Callable[..., Distribution] | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(getattr(encoder, "latent", None), "dim"):
            what = "an Encoder, or a module with the latent it infers as its attribute `latent`"
            hint = "Encoder(net, GaussianLatent(dim)) makes one of a network."
            raise TypeError(_checks.expected("encoder", what, type(encoder).__name__, hint))
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim: int = encoder.latent.dim  # type: ignore[assignment]
        shared = getattr(encoder.latent, "prior", None)  # a ladder's
        prior = shared if prior is None else prior
        what = "the one that the latent was made of, whose networks it shares"
        _checks.require(shared is None or prior is shared, "prior", what, prior)
        self.prior = _default_prior(encoder.latent) if prior is None else prior
        for argument, part in (("decoder", decoder), ("prior", self.prior)):
            if not callable(part) or isinstance(part, type):
                raise TypeError(_checks.expected(argument, "a module", repr(part)))
        what = f"{self.latent_dim} latent dimensions, as the encoder has"
        for argument, got in (
            ("decoder", _size(getattr(decoder, "net", None), "in_shape")),
            ("prior", getattr(self.prior, "dim", None)),
        ):
            _checks.require(got in (None, self.latent_dim), argument, what, got)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a part, and keep a prior that refers to the encoder (a VampPrior) to the model's."""
        if name == "prior" and getattr(value, "encoder", self.encoder) is not self.encoder:
            what = "one of the model's own encoder, whose posteriors it mixes"
            raise ValueError(_checks.expected("prior", what, "one of another encoder"))
        super().__setattr__(name, value)
        prior: Any = getattr(self, "prior", None)
        if name == "encoder" and hasattr(prior, "refer_to"):
            prior.refer_to(value)

    @property
    def takes_context(self) -> bool:
        """Whether one of the parts takes a context."""
        parts = (self.encoder, self.decoder, self.prior)
        return any(map(takes_context, parts))

    def encode(self, x: Any, context: Context | None = None) -> Any:
        """Infer the posterior; a Gaussian unpacks: ``mu, logvar = model.encode(x)``.

        Args:
            x: The data. A data set is gone through in the mode the model is in; call ``eval()``
                first where dropout should rest.
            context: What the model is conditioned on, if on anything.

        Shape:
            ``x: (B, *event)``; returns a distribution of batch ``(B,)`` over ``(dim,)``.

        Raises:
            TypeError: If ``x`` is no data, a context is missing or one too many, the encoder
                returns no distribution, or the posteriors of a data set's batches cannot be put
                together: those that neither unpack into their parameters nor are what the encoder's
                latent returned.
            ValueError: If the shape of ``x`` does not fit, what the encoder makes of it holds NaN,
                or it returns other than one posterior for each element.
        """
        if isinstance(x, Tensor):  # the commonest first: this runs at every step
            posterior = self._ask(self.encoder, context, x)
            if not isinstance(posterior, Distribution):
                what = "a distribution returned by its forward, as self.latent(parameters) is"
                raise TypeError(_checks.expected("encoder", what, type(posterior).__name__))
            if posterior.batch_shape != x.shape[:1]:
                _refuse_batch("encoder", posterior, x.shape[:1])
            return posterior
        if datasets.is_batch(x):
            return self.encode(*self._unpacked(x, context))
        makes: Any = None

        def parameters(*batch: Any) -> tuple[Tensor, ...]:
            nonlocal makes
            with calls_of(self.encoder.latent) as calls:
                found = self.encode(*batch)
            makes, params = rebuilding(found, calls, self.encoder.latent)
            return params

        parts = self._over(x, parameters, context)
        return detached(makes(*parts))  # a hierarchy or a flow runs its networks when asked

    def reparameterize(
        self,
        mu: Float[Tensor, "*batch dim"],
        logvar: Float[Tensor, "*batch dim"],
        generator: Generator | None = None,
    ) -> Float[Tensor, "*batch dim"]:
        """Draw z from the Gaussian of these parameters, with a gradient to them.

        See `GaussianLatent.reparameterize`.
        """
        return GaussianLatent.reparameterize(mu, logvar, generator)

    def encode_to_latent(
        self, x: Any, samples: int | None = None, context: Context | None = None
    ) -> Float[Tensor, "..."]:
        """Draw z from the posterior, with a gradient to the encoder.

        Args:
            x: The data.
            samples: How many draws for each element; one, without a dimension for it, if None.
            context: What the model is conditioned on, if on anything.

        Shape:
            ``x: (B, *event)``, returns ``(B, dim)``, or ``(samples, B, dim)``.

        Raises:
            TypeError: As `encode`.
            ValueError: As `encode`, or if ``samples`` is no whole number above 0.
        """
        shape = () if samples is None else (_checks.positive_int("samples", samples),)
        if datasets.is_batch(x):
            return draw_from(self.encode(x, context), shape)

        def draw(*batch: Any) -> tuple[Tensor, ...]:
            return (draw_from(self.encode(*batch), shape),)

        (drawn,) = self._over(x, draw, context, len(shape))
        return drawn

    def decode(
        self, z: Float[Tensor, "*batch dim"], context: Context | None = None
    ) -> Float[Tensor, "..."]:
        """Return the mean of the likelihood: the picture to look at, in the data's range.

        Args:
            z: The latents.
            context: What the model is conditioned on, if on anything.

        Shape:
            ``z: (*batch, dim)``, returns ``(*batch, *event)``.

        Raises:
            TypeError: If ``z`` is no tensor.
            ValueError: If the last dimension of ``z`` is not the latent's, or it holds NaN.
        """
        if not isinstance(z, Tensor):
            raise TypeError(_checks.expected("z", "a tensor", type(z).__name__))
        if z.requires_grad and _checks.eager():  # others the decoder looks at
            _checks.no_nan("z", z)
        return _as_latents(self._decode(z, context).mean, z)

    def forward(
        self, x: Any, samples: int | None = None, context: Context | None = None
    ) -> VAEOutput:
        """Infer, draw and decode.

        Args:
            x: The data.
            samples: How many draws for each element; one, without a dimension for it, if None.
            context: What the model is conditioned on, if on anything.

        Shape:
            ``x: (B, *event)``; the record holds z of ``(B, dim)`` or ``(samples, B, dim)``.

        Raises:
            TypeError: If ``x`` is neither a tensor nor a batch, or as `encode`.
            ValueError: As `encode_to_latent`, or if the decoder returns other than one likelihood
                for each draw.
        """
        if not isinstance(x, Tensor):
            if not datasets.is_batch(x):
                what = "a tensor or a batch"
                hint = "Whole data sets go to encode, encode_to_latent, reconstruct and fit."
                raise TypeError(_checks.expected("x", what, type(x).__name__, hint))
            x, context = self._unpacked(x, context)
        shape = () if samples is None else (_checks.positive_int("samples", samples),)
        posterior = self.encode(x, context)
        z = draw_from(posterior, shape)
        likelihood = self._decode(z, context)
        return VAEOutput(posterior, z, likelihood, self._ask(self.prior, context))

    def reconstruct(self, x: Any, context: Context | None = None) -> Float[Tensor, "..."]:
        """Decode the posterior's mean: the same picture at every call.

        Args:
            x: The data.
            context: What the model is conditioned on, if on anything.

        Shape:
            ``x: (B, *event)``, returns the shape of the decoder's data, ``(B, *event)``.

        Raises:
            TypeError: As `encode`.
            ValueError: As `encode`.
        """
        if datasets.is_batch(x):
            x, context = self._unpacked(x, context)
            return self.decode(self.encode(x, context).mean, context)
        (x_hat,) = self._over(x, lambda *batch: (self.reconstruct(*batch),), context)
        return x_hat

    @torch.no_grad()
    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        generator: Generator | None = None,
        context: Context | None = None,
        *,
        draw: bool = False,
    ) -> Float[Tensor, "n *event"]:
        """Generate: draw z from the prior and return the mean of what it decodes to.

        A mean is the picture to look at. It lacks the noise of p(x|z), so that the means of a table
        vary less than its rows do, and those of black and white pictures are grey: ``draw=True``
        gives data.

        Args:
            n: How many.
            temperature: What the prior's standard deviation is multiplied by, above 0.
            generator: Where the randomness comes from; torch's global one if None. The same
                generator state gives the same pictures.
            context: What the model is conditioned on, if on anything: one for each picture.
            draw: Whether to draw from p(x|z), as data are, rather than to return its mean.

        Shape:
            Returns ``(n, *event)``.

        Raises:
            ValueError: If ``n`` or ``temperature`` is not above 0, or the context is not one for
                each picture.
            TypeError: If the prior cannot be tempered.
        """
        _checks.positive_int("n", n)
        context = None if context is None else self._as_context(context)
        if context is not None and len(context) != n:
            raise ValueError(_checks.expected("context", f"{n}, one for each", len(context)))
        prior = self._ask(self.prior, context)
        if _checks.number("temperature", temperature, above=0) != 1:
            prior = tempered(prior, temperature)
        with _drawing_from(generator):
            batch = tuple(prior.batch_shape)
            what = f"a distribution of batch {(n,)}, or without one"
            _checks.require(batch in ((), (1,), (n,)), "prior", what, f"batch {batch}")
            z = prior.sample(() if batch == (n,) else (n,)).reshape(n, -1)
            if generator is not None and generator.device.type != z.device.type:
                what, got = f"one of {z.device.type}, where the prior draws", generator.device.type
                raise ValueError(_checks.expected("generator", what, f"one of {got}"))
            given = self._decode(z, context)
            return _as_latents(given.sample() if draw else given.mean, z)

    def _as_context(self, context: Context) -> Tensor:
        """Make a tensor of it, on the model's device."""
        if isinstance(context, Tensor):
            return context
        return as_context(context, next(self.parameters(), torch.empty(0)).device)

    def _ask(self, part: Callable[..., Any], context: Context | None, *args: Tensor) -> Any:
        """Call a part, with the context where it takes one."""
        if context is None:  # the commonest first: this runs three times at every step
            if takes_context(part):
                what = f"one for each element, as {type(part).__name__} takes"
                raise TypeError(_checks.expected("context", what, None))
            return part(*args)
        context = self._as_context(context)
        if not self.takes_context:
            what = "none, since no part of this model takes one"
            hint = "vaekit.networks.Conditioned(net, size) makes a network that does."
            got = f"one of shape {tuple(context.shape)}"
            raise TypeError(_checks.expected("context", what, got, hint))
        return with_context(part, context, *args)

    def _decode(self, z: Tensor, context: Context | None = None) -> Distribution:
        _checks.trailing_shape("z", z, (self.latent_dim,))
        distribution: Distribution = self._ask(self.decoder, context, z)
        if distribution.batch_shape != z.shape[:-1]:
            _refuse_batch("decoder", distribution, z.shape[:-1])
        return distribution

    def _unpacked(self, batch: Any, context: Context | None) -> tuple[Tensor, Context | None]:
        """Return the data of a batch, and its labels where they are the context."""
        if isinstance(batch, list) and len(batch) > 1 and alike(batch[0], batch[1]):
            what = "a tuple (x, y), or an iterator over batches, iter(x)"
            got = "a list of tensors alike, which could be either"
            raise ValueError(_checks.expected("x", what, got))
        x, _, y = datasets.unpack(batch, dtype=dtype_of(self))
        if context is None and self.takes_context and y is not None:
            context = as_context(y).to(x.device)
        return x, context

    @torch.no_grad()
    def _over(
        self,
        data: Any,
        function: Callable[..., tuple[Tensor, ...]],
        context: Context | None,
        dim: int = 0,
    ) -> list[Tensor]:
        """Apply a function to the batches of a data set, and put the results together."""
        if context is not None:
            what = "none for a data set, whose labels are the context"
            raise TypeError(_checks.expected("context", what, f"a {type(context).__name__}"))
        at = next(self.parameters(), torch.empty(0)).device
        batches = datasets.batches(data, dtype=dtype_of(self))
        pairs = ((batch.x.to(at), batch.y) for batch in batches)
        parts = [function(*self._unpacked(pair, None)) for pair in pairs]
        return [torch.cat(tensors, dim) for tensors in zip(*parts, strict=True)]


def draw_from(posterior: Distribution, shape: Sequence[int] = ()) -> Tensor:
    """Draw with a gradient, or name the part whose posterior cannot."""
    if not posterior.has_rsample:
        what = "a posterior that draws with a gradient (has_rsample)"
        raise TypeError(_checks.expected("encoder", what, posterior))
    z: Tensor = posterior.rsample(torch.Size(shape))
    return z


def _refuse_batch(argument: str, distribution: Distribution, batch: torch.Size) -> NoReturn:
    """Say that a part returned anything but one distribution for each element."""
    has, event = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    beyond = len(has) - len(batch)
    hint = ""
    if beyond > 0 and has[: len(batch)] == batch:
        hint = f"torch's Independent(..., {beyond}) makes one event of the last dimensions."
    what = f"a distribution of batch {tuple(batch)}, one for each element"
    got = f"{type(distribution).__name__} of batch {has} over {event}"
    raise ValueError(_checks.expected(argument, what, got, hint))


def _as_latents(x: Tensor, z: Tensor) -> Tensor:
    """Return data in the half precision of a model that has it, as its encoder takes them."""
    half = z.dtype.itemsize < 4 and not torch.is_autocast_enabled(z.device.type)
    return x.to(z.dtype) if half else x


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of a model's floats, torch's default one where it has none."""
    floats = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floats, torch.get_default_dtype())


def rebuilding(posterior: Any, calls: Any, latent: Any) -> tuple[Any, tuple[Tensor, ...]]:
    """Tell what makes a posterior, and of which tensors, by the calls of its latent."""
    if isinstance(posterior, Iterable):  # into what a latent has looked up already, say
        return type(posterior), tuple(posterior)
    given = [params for params, result in calls if result is posterior]
    if not given:
        what = "a posterior that unpacks into its parameters, or that the latent itself returned"
        raise TypeError(_checks.expected("encoder", what, f"one inferring {posterior!r}"))
    return latent, given[0]


@contextmanager
def calls_of(module: Any) -> Iterator[list[tuple[tuple[Any, ...], Any]]]:
    """Take down what a module is called with, and what it returns."""
    calls: list[tuple[tuple[Any, ...], Any]] = []
    if not isinstance(module, nn.Module):
        yield calls
        return
    hook = module.register_forward_hook(lambda _, given, result: calls.append((given, result)))
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def _drawing_from(generator: Generator | None) -> Iterator[None]:
    """Let torch's global generator stand in for another, which then goes on from where it came."""
    _checks.generator(generator)
    if generator is None:
        yield
        return
    kind = generator.device.type
    module: Any = torch.random if kind == "cpu" else torch.get_device_module(generator.device)
    where = () if kind in ("cpu", "mps") else (generator.device,)  # mps has one, and takes none
    with torch.random.fork_rng([]):  # of the processor
        before = module.get_rng_state(*where)
        try:
            module.set_rng_state(generator.get_state(), *where)
            yield
            generator.set_state(module.get_rng_state(*where))
        finally:
            module.set_rng_state(before, *where)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its parts back into the mode it was in."""
    modes = [(part, part.training) for part in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _default_prior(latent: Any) -> nn.Module:
    default = getattr(latent, "default_prior", None)
    distribution = None if default is None else default()
    if distribution is None or isinstance(distribution, StandardGaussian):
        return StandardNormal(latent.dim)
    return Fixed(distribution)


def _size(net: object, name: str) -> int | None:
    shape = getattr(net, name, None)
    return shape.numel() if isinstance(shape, torch.Size) else None


def _check_outputs(net: nn.Module, reader: nn.Module, num_params: int) -> None:
    if not callable(net):
        raise TypeError(_checks.expected("net", "a module", repr(net)))
    got = _size(net, "out_shape")
    what = f"{num_params} outputs for each element, as {reader} takes"
    _checks.require(got in (None, num_params), "net", what, got)
