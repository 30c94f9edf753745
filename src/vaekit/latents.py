"""Latents: what turns the numbers an encoder's network returns into a distribution over z."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.distributions import Distribution, Independent, Laplace, MultivariateNormal

from vaekit import _checks
from vaekit.distributions import DiagonalGaussian, StandardGaussian
from vaekit.distributions.delta import PointMass
from vaekit.distributions.discrete import RelaxedBernoulli, RelaxedCategorical
from vaekit.distributions.flows import FlowDistribution, import_zuko, layers
from vaekit.distributions.gaussians import tame
from vaekit.distributions.joint import Joint
from vaekit.distributions.spherical import PowerSpherical, UniformSphere

__all__ = [
    "BernoulliLatent",
    "CategoricalLatent",
    "DeterministicLatent",
    "FlowLatent",
    "FullGaussianLatent",
    "GaussianLatent",
    "LaplaceLatent",
    "Latent",
    "PowerSphericalLatent",
    "ProductLatent",
    "VectorQuantizedLatent",
]


class Latent(nn.Module, ABC):
    """What every latent is: parameters in, a distribution over ``(dim,)`` out.

    Args:
        dim: The number of latent dimensions.
        num_params: How many numbers the encoder's network returns for each element.

    Attributes:
        dim: The number of latent dimensions.
        num_params: How many numbers the encoder's network returns for each element.

    Example:
        One of one's own: a Gaussian whose dimensions share a variance.

        >>> class RoundLatent(Latent):
        ...     def __init__(self, dim):
        ...         super().__init__(dim, num_params=dim + 1)
        ...
        ...     def forward(self, params):
        ...         mu, logvar = params.split([self.dim, 1], -1)
        ...         return vk.distributions.DiagonalGaussian(mu, logvar)
        >>> latent = RoundLatent(2)
        >>> encoder = vk.Encoder(vk.networks.mlp(64, [32], latent.num_params), latent)
        >>> encoder(torch.zeros(5, 64))
        DiagonalGaussian(batch_shape=(5,), event_shape=(2,))
    """

    def __init__(self, dim: int, num_params: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_params = num_params

    @abstractmethod
    def forward(self, params: Float[Tensor, "*batch num_params"]) -> Distribution:
        """Return the distribution that the parameters stand for."""

    def default_prior(self) -> Distribution:
        """Return the prior that goes with the latent where none is chosen: here, N(0, I)."""
        return StandardGaussian(torch.zeros(self.dim))

    def _read(self, params: Tensor) -> Tensor:
        """Check the parameters, and widen what autocast made of less than single precision."""
        _checks.trailing_shape("params", params, (self.num_params,))
        if _checks.eager():
            _checks.no_nan("params", params)
        return _checks.widened(params)

    def extra_repr(self) -> str:
        """Show the number of dimensions."""
        return f"dim={self.dim}"


class GaussianLatent(Latent):
    r"""A diagonal Gaussian posterior.

    .. math:: q(z \mid x) = \mathcal{N}\!\left(z;\, \mu,\, \operatorname{diag} \exp(\text{logvar})
              \right), \qquad (\mu, \text{logvar}) = \text{the two halves of the parameters}

    Args:
        dim: The number of latent dimensions.

    Attributes:
        dim: The number of latent dimensions.
        num_params: How many numbers the encoder's network returns for each element: ``2 * dim``.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        ValueError: If ``dim`` is no whole number above 0; from a call if the last dimension is not
            ``num_params``, or the parameters hold NaN.

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
        dim = _checks.positive_int("dim", dim)
        super().__init__(dim, 2 * dim)

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> DiagonalGaussian:
        """Split the parameters into means and log-variances.

        Shape:
            ``params: (*batch, 2 * dim)``; returns a distribution over ``(dim,)``.

        Raises:
            ValueError: If the last dimension is not ``2 * dim``, or the parameters hold NaN.
        """
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

        Raises:
            TypeError: If ``generator`` is none.
            ValueError: If the shapes do not fit, or ``mu`` or ``logvar`` holds NaN.

        References:
            D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, section 2.4.
        """
        _checks.generator(generator)
        return DiagonalGaussian(mu, logvar).rsample(torch.Size(), generator)


class FullGaussianLatent(Latent):
    r"""A Gaussian posterior whose dimensions are correlated.

    .. math:: q(z \mid x) = \mathcal{N}(z;\, \mu,\, L L^\top), \qquad
              L_{jj} = \exp(\tfrac{1}{2} \text{logvar}_j)

    The parameters are the means, the log-variances and the entries of L below its diagonal, row by
    row; where those are 0, it is the `GaussianLatent` of the rest. Log-variances beyond 40 are
    bounded as `vaekit.distributions.DiagonalGaussian` bounds them.

    Args:
        dim: The number of latent dimensions.

    Attributes:
        num_params: ``dim * (dim + 3) / 2``.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        ValueError: From a call, if the parameters have another shape or hold NaN.

    Example:
        >>> latent = FullGaussianLatent(3)
        >>> latent(torch.zeros(8, latent.num_params)).covariance_matrix.shape
        torch.Size([8, 3, 3])

    References:
        D. P. Kingma and M. Welling, *An Introduction to Variational Autoencoders*, 2019, section
        2.5.1.
    """

    _below: Tensor

    def __init__(self, dim: int) -> None:
        dim = _checks.positive_int("dim", dim)
        super().__init__(dim, dim * (dim + 3) // 2)
        rows, columns = torch.tril_indices(dim, dim, -1)
        self.register_buffer("_below", rows * dim + columns, persistent=False)

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> MultivariateNormal:
        """Return torch's multivariate normal, over ``(dim,)``."""
        params, dim = self._read(params), self.dim
        mu, logvar, below = params.split([dim, dim, self.num_params - 2 * dim], -1)
        flat = params.new_zeros(*params.shape[:-1], dim * dim).index_copy(-1, self._below, below)
        diagonal = torch.diag_embed((0.5 * tame(logvar)).exp())
        scale_tril = flat.unflatten(-1, (dim, dim)) + diagonal
        return MultivariateNormal(mu, scale_tril=scale_tril, validate_args=False)


class LaplaceLatent(Latent):
    r"""A posterior of independent Laplace variables, sharp in the middle and heavy in the tails.

    .. math:: q(z \mid x) = \prod_j \frac{1}{2 b_j} \exp\!\left( -\frac{|z_j - \mu_j|}{b_j} \right),
              \qquad (\mu, \log b) = \text{the two halves of the parameters}

    The prior that goes with it is Laplace(0, 1). Log-scales beyond 20 are bounded as
    `vaekit.distributions.DiagonalGaussian` bounds log-variances beyond 40.

    Args:
        dim: The number of latent dimensions.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        ValueError: From a call, if the parameters have another shape or hold NaN.

    Example:
        >>> latent = LaplaceLatent(2)
        >>> q = latent(torch.zeros(8, 4))
        >>> vk.kl_divergence(q, latent.default_prior())[0]
        tensor(0.)

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, section 2.4, which
        names Laplace among the families of location and scale that the trick serves.
    """

    def __init__(self, dim: int) -> None:
        dim = _checks.positive_int("dim", dim)
        super().__init__(dim, 2 * dim)

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> "Independent[Laplace]":
        """Return torch's independent Laplace distributions, over ``(dim,)``."""
        mu, log_scale = self._read(params).chunk(2, -1)
        scale = (0.5 * tame(2 * log_scale)).exp()
        return Independent(Laplace(mu, scale, validate_args=False), 1, validate_args=False)

    def default_prior(self) -> Distribution:
        """Return Laplace(0, 1) in each dimension."""
        return self(torch.zeros(self.num_params))  # type: ignore[no-any-return]


class DeterministicLatent(Latent):
    r"""A posterior without noise, whose mass lies on the parameters: for plain autoencoders.

    .. math:: q(z \mid x) = \delta(z - \text{params})

    It has no density: terms that need one, the KL above all, refuse it by name.

    Args:
        dim: The number of latent dimensions.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        ValueError: From a call, if the parameters have another shape or hold NaN.

    Example:
        >>> DeterministicLatent(2)(torch.ones(8, 2)).rsample().shape
        torch.Size([8, 2])

    References:
        G. E. Hinton and R. R. Salakhutdinov, *Reducing the Dimensionality of Data with Neural
        Networks*, 2006; as a VAE's posterior: P. Ghosh et al., *From Variational to Deterministic
        Autoencoders*, 2020, section 3.
    """

    def __init__(self, dim: int) -> None:
        dim = _checks.positive_int("dim", dim)
        super().__init__(dim, dim)

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> PointMass:
        """Return the point mass at the parameters."""
        return PointMass(self._read(params))


class _Relaxed(Latent):
    """A latent of discrete variables whose draws are relaxed, at a temperature."""

    def __init__(self, dim: int, temperature: float, hard: bool) -> None:
        super().__init__(dim, dim)
        self.temperature = _checks.number("temperature", temperature, above=0)
        self.hard = hard

    def default_prior(self) -> Distribution:
        """Return equal probabilities, relaxed or hard as the posterior's are now."""
        return self(torch.zeros(self.num_params))  # type: ignore[no-any-return]

    def get_extra_state(self) -> Tensor:
        """Return the temperature, which may have been annealed, for the ``state_dict``."""
        return torch.tensor(self.temperature, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the temperature of a ``state_dict``."""
        self.temperature = _checks.number("temperature", float(state), above=0)

    def _options(self) -> str:
        return f"temperature={self.temperature:g}{', hard=True' * self.hard}"


class CategoricalLatent(_Relaxed):
    r"""A posterior of independent categorical variables, as one-hot vectors side by side.

    .. math:: q(z \mid x) = \prod_v \operatorname{Categorical}(z_v;\,
              \operatorname{softmax}(\text{params}_v))

    Draws are relaxed (Gumbel-softmax), or one-hot with the relaxed ones' gradient
    (straight-through); see `vaekit.distributions.RelaxedCategorical` for density, divergence and
    bias. The prior that goes with it is uniform over the classes.

    Args:
        variables: The number of variables.
        classes: The number of classes of each.
        temperature: That of the relaxation, above 0. Assign ``latent.temperature`` to anneal it;
            the ``state_dict`` holds it. The prior that a model made of the latent keeps the first,
            until ``model.prior = vk.priors.Fixed(latent.default_prior())``.
        hard: Whether draws are one-hot.

    Attributes:
        dim: ``variables * classes``, as is ``num_params``.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        ValueError: If there are fewer than 2 classes or the temperature is not above 0; from a
            call, if the parameters have another shape or hold NaN.

    Example:
        >>> latent = CategoricalLatent(20, 10, hard=True)
        >>> q = latent(torch.zeros(8, latent.num_params))
        >>> vk.kl_divergence(q, latent.default_prior())[0]
        tensor(0.)

    References:
        E. Jang, S. Gu and B. Poole, *Categorical Reparameterization with Gumbel-Softmax*, 2017,
        sections 2.1 and 2.2.
    """

    def __init__(
        self, variables: int, classes: int, temperature: float = 0.5, hard: bool = False
    ) -> None:
        _checks.positive_int("classes", classes, above=1)
        dim = _checks.positive_int("variables", variables) * classes
        super().__init__(dim, temperature, hard)
        self.variables, self.classes = variables, classes

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> RelaxedCategorical:
        """Return the distribution whose logits are the parameters."""
        logits = self._read(params).unflatten(-1, (self.variables, self.classes))
        return RelaxedCategorical(logits, self.temperature, self.hard)

    def extra_repr(self) -> str:
        """Show variables, classes, temperature, and whether draws are one-hot."""
        return f"variables={self.variables}, classes={self.classes}, {self._options()}"


class BernoulliLatent(_Relaxed):
    r"""A posterior of independent binary variables.

    .. math:: q(z \mid x) = \prod_j \operatorname{Bernoulli}(z_j;\,
              \operatorname{sigmoid}(\text{params}_j))

    Draws are relaxed, or 0 and 1 with the relaxed ones' gradient (straight-through); see
    `vaekit.distributions.RelaxedBernoulli`. The prior that goes with it is a fair coin for each.

    Args:
        dim: The number of variables.
        temperature: That of the relaxation, above 0. Assign ``latent.temperature`` to anneal it;
            the ``state_dict`` holds it. The prior that a model made of the latent keeps the first,
            until ``model.prior = vk.priors.Fixed(latent.default_prior())``.
        hard: Whether draws are 0 and 1.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        ValueError: If the temperature is not above 0; from a call, if the parameters have another
            shape or hold NaN.

    Example:
        >>> latent = BernoulliLatent(200, hard=True)
        >>> latent(torch.zeros(8, 200)).rsample().unique()
        tensor([0., 1.])

    References:
        C. J. Maddison, A. Mnih and Y. W. Teh, *The Concrete Distribution*, 2017, appendix B.
    """

    def __init__(self, dim: int, temperature: float = 0.5, hard: bool = False) -> None:
        super().__init__(_checks.positive_int("dim", dim), temperature, hard)

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> RelaxedBernoulli:
        """Return the distribution whose logits are the parameters."""
        return RelaxedBernoulli(self._read(params), self.temperature, self.hard)

    def extra_repr(self) -> str:
        """Show dimensions, temperature, and whether draws are 0 and 1."""
        return f"dim={self.dim}, {self._options()}"


class PowerSphericalLatent(Latent):
    r"""A posterior on the unit sphere of ``dim`` dimensions.

    .. math:: q(z \mid x) \propto (1 + \mu^\top z)^{\kappa}, \qquad
              \mu = \frac{\text{params}_{1 \ldots \text{dim}}}{\| \cdot \|}, \quad
              \kappa = \operatorname{softplus}(\text{params}_{\text{dim} + 1})

    The prior that goes with it is uniform on the sphere, with a divergence in closed form. See
    `vaekit.distributions.PowerSpherical`.

    Args:
        dim: The number of latent dimensions, at least 2; the sphere has one fewer of its own.

    Attributes:
        num_params: ``dim + 1``.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        ValueError: If ``dim`` is below 2; from a call, if the parameters have another shape or hold
            NaN, or all those of a direction are 0.

    Example:
        >>> latent = PowerSphericalLatent(3)
        >>> latent(torch.randn(8, 4)).rsample().norm(dim=-1).allclose(torch.ones(8))
        True

    References:
        N. De Cao and W. Aziz, *The Power Spherical distribution*, 2020; the uniform prior: T. R.
        Davidson et al., *Hyperspherical Variational Auto-Encoders*, 2018, section 3.
    """

    def __init__(self, dim: int) -> None:
        _checks.positive_int("dim", dim, above=1)
        super().__init__(dim, dim + 1)

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> PowerSpherical:
        """Return the distribution around the direction that the parameters point to."""
        params = self._read(params)
        direction = F.normalize(params[..., :-1], dim=-1)
        return PowerSpherical(direction, F.softplus(params[..., -1]))

    def default_prior(self) -> Distribution:
        """Return the uniform distribution on the sphere."""
        return UniformSphere(torch.zeros(self.dim))


class VectorQuantizedLatent(Latent):
    r"""A posterior without noise, on the nearest of a number of learned codes.

    .. math:: z_v = e_{k(v)}, \qquad k(v) = \arg\min_k \| \text{params}_v - e_k \|

    Draws are the codes, with the gradient of the parameters (straight-through, biased). They lie as
    maps do, first the first value of every code: of maps ``(channels, *sides)`` each site is a
    variable, and its channels are the code. The posterior is a `vaekit.distributions.PointMass`,
    which carries the ``indices`` of the codes, ``(*batch, variables)``, and for each element the
    ``commitment``,

    .. math:: \sum_v \| \text{params}_v - \operatorname{stop}(e_{k(v)}) \|^2

    of shape ``(*batch,)``, without a weight. The codes are moving averages that follow the
    parameters at each call in training mode; the objective has no term for them. Against codes of
    equal probability the KL is the constant ``variables * log(codes)``, so it is left out. Draw new
    codes from a prior fitted after training: the default prior is a mere place-holder.

    Args:
        dim: The number of latent dimensions.
        codebook: The number of codes; or a quantiser of the library vector-quantize-pytorch (made
            for ``dim // variables`` dimensions), to choose more than that.
        variables: How many codes make one z; they share the codebook.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        ImportError: If the library is missing: ``pip install vaekit[vq]``.
        ValueError: If ``variables`` does not divide ``dim``, or ``codebook`` is not above 0; from a
            call, if the parameters have another shape or hold NaN.

    Example:
        >>> latent = VectorQuantizedLatent(64, codebook=512, variables=4)
        >>> q = latent(torch.randn(8, 64))
        >>> q.indices.shape, q.commitment.shape
        (torch.Size([8, 4]), torch.Size([8]))

    References:
        A. van den Oord, O. Vinyals and K. Kavukcuoglu, *Neural Discrete Representation Learning*,
        2017, equations 1 to 3 and appendix A.1 (the moving averages).
    """

    def __init__(self, dim: int, codebook: int | nn.Module, variables: int = 1) -> None:
        dim = _checks.positive_int("dim", dim)
        divides = dim % _checks.positive_int("variables", variables) == 0
        _checks.require(divides, "variables", f"a divisor of dim={dim}", variables)
        super().__init__(dim, dim)
        self.variables = variables
        self._codes = None if isinstance(codebook, nn.Module) else codebook
        if not isinstance(codebook, nn.Module):
            codebook = _vector_quantizer(dim // variables, codebook)
        self.quantizer = codebook

    def init_args(self) -> dict[str, Any]:
        """Return what it was made with."""
        codebook = self.quantizer if self._codes is None else self._codes
        return {"dim": self.dim, "codebook": codebook, "variables": self.variables}

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> PointMass:
        """Return the point mass at the nearest codes."""
        params = self._read(params)
        points = params.reshape(-1, self.dim // self.variables, self.variables).mT
        codes, indices, *_ = self.quantizer(points)
        if not codes.requires_grad:  # as in evaluation mode
            codes = points + (codes - points).detach()
        commitment = (points - codes.detach()).square().sum((-2, -1))
        batch = params.shape[:-1]
        return PointMass(
            codes.mT.reshape(params.shape).to(params.dtype),
            commitment.reshape(batch),
            indices.reshape(*batch, -1),
        )


def _vector_quantizer(dim: int, codes: int) -> nn.Module:
    _checks.positive_int("codebook", codes)
    needs = "VectorQuantizedLatent", "vector-quantize-pytorch", '"vaekit[vq]"'
    library = _checks.module("vector_quantize_pytorch", *needs)
    quantizer: nn.Module = library.VectorQuantize(
        dim=dim, codebook_size=codes, decay=0.99, rotation_trick=False
    )
    return quantizer


class ProductLatent(Latent):
    r"""Several independent latents side by side: discrete factors beside continuous ones, say.

    .. math:: q(z \mid x) = \prod_i q_i(z_i \mid x), \qquad z = (z_1, z_2, \ldots)

    The parameters are divided among them in order, and z is their draws put end to end. The prior
    that goes with it is the product of theirs, against which the divergence is the sum.

    Args:
        latents: At least one latent.

    Attributes:
        dim: The sum of theirs, as is ``num_params``.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        TypeError: If an argument is no latent.
        ValueError: If there is none; from a call, if the parameters have another shape or hold NaN.

    Example:
        >>> latent = ProductLatent(vk.GaussianLatent(4), CategoricalLatent(1, 10))
        >>> latent.dim, latent.num_params
        (14, 18)
        >>> q = latent(torch.zeros(8, 18))
        >>> vk.kl_divergence(q, latent.default_prior())[0]
        tensor(0.)

    References:
        E. Dupont, *Learning Disentangled Joint Continuous and Discrete Representations*, 2018,
        section 3.
    """

    def __init__(self, *latents: Latent) -> None:
        _checks.require(len(latents) > 0, "latents", "at least one", "none")
        for latent in latents:
            if not isinstance(latent, Latent):
                raise TypeError(_checks.expected("latents", "latents", repr(latent)))
        super().__init__(sum(each.dim for each in latents), sum(x.num_params for x in latents))
        self.latents = nn.ModuleList(latents)
        self._sizes = [latent.num_params for latent in latents]

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> Joint:
        """Return the product of the latents' distributions."""
        _checks.trailing_shape("params", params, (self.num_params,))
        pieces = params.split(self._sizes, -1)
        return Joint([latent(piece) for latent, piece in zip(self.latents, pieces, strict=True)])

    def default_prior(self) -> Distribution:
        """Return the product of the latents' default priors."""
        return Joint([latent.default_prior() for latent in self.latents])  # type: ignore[operator]


class FlowLatent(Latent):
    r"""A diagonal Gaussian carried through a normalising flow, as an inverse autoregressive one.

    .. math:: \epsilon \sim \mathcal{N}(\mu, \operatorname{diag} \sigma^2), \qquad
              z = f(\epsilon;\, h), \qquad (\mu, \log \sigma^2, h) = \text{the parameters}

    .. math:: \log q(z \mid x) = \log \mathcal{N}(\epsilon;\, \mu, \sigma^2)
              - \log \left| \det \frac{\partial f}{\partial \epsilon} \right|

    The flow's transform is applied to the noise, the opposite of zuko's own use for densities. So a
    draw and its density take one pass through each layer of a masked autoregressive flow, and
    the density of any other value takes one for each dimension. With :math:`f` the identity it is a
    `GaussianLatent`. The divergence from any prior is estimated from the draws.

    Args:
        dim: The number of latent dimensions.
        context: How many further numbers the encoder's network hands to every layer of the flow;
            0 for none.
        flow: A flow of zuko over ``dim`` features with as many of context, whose transform goes
            both ways; ``zuko.flows.MAF(dim, context)`` if None, which is the paper's flow.

    Attributes:
        dim: The number of latent dimensions.
        num_params: How many numbers the encoder's network returns for each element:
            ``2 * dim + context``.

    Shape:
        ``params: (*batch, num_params)``; returns a distribution of batch ``(*batch,)`` over
        ``(dim,)``.

    Raises:
        ImportError: If no flow is given and zuko is missing.
        ValueError: If the flow does not take ``dim`` features and ``context`` of context.

    Example:
        >>> latent = FlowLatent(3, context=8)
        >>> latent.num_params
        14
        >>> q = latent(torch.zeros(5, 14))
        >>> z = q.rsample((10,))
        >>> q.log_prob(z).shape
        torch.Size([10, 5])

    References:
        D. P. Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*,
        2016, algorithm 1.
    """

    def __init__(self, dim: int, context: int = 0, flow: nn.Module | None = None) -> None:
        self.context = context if context == 0 else _checks.positive_int("context", context)
        super().__init__(_checks.positive_int("dim", dim), 2 * dim + self.context)
        self.flow = import_zuko().flows.MAF(self.dim, self.context) if flow is None else flow
        self._own_flow = flow is None
        weight = next(self.flow.parameters(), torch.empty(0))
        try:
            with torch.no_grad():
                self(weight.new_zeros(2, self.num_params)).rsample()
        except (RuntimeError, IndexError, AttributeError, TypeError) as error:
            what = f"a zuko flow over {self.dim} features with {self.context} of context"
            got = f"{type(self.flow).__name__}, which fails there"
            raise ValueError(_checks.expected("flow", what, got, str(error))) from error

    def init_args(self) -> dict[str, Any]:
        """Return what it was made with."""
        sizes = {"dim": self.dim, "context": self.context}
        return sizes if self._own_flow else sizes | {"flow": self.flow}

    def forward(self, params: Float[Tensor, "*batch num_params"]) -> FlowDistribution:
        """Read means, log-variances and the flow's context.

        Shape:
            ``params: (*batch, 2 * dim + context)``; returns a distribution over ``(dim,)``.

        Raises:
            ValueError: If the last dimension is another, or the parameters hold NaN.
        """
        _checks.trailing_shape("params", params, (self.num_params,))
        if self.context and _checks.eager():
            _checks.no_nan("params", params)
        context = params[..., 2 * self.dim :] if self.context else None
        base = DiagonalGaussian.of_halves(params[..., : 2 * self.dim])
        return FlowDistribution(layers(self.flow, context), base)

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"dim={self.dim}, context={self.context}"
