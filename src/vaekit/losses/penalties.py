"""Penalties on codes, on their moments, and on how a decoder bends."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vaekit import _checks
from vaekit.distributions import log_prob_by_dimension

__all__ = ["commitment", "dip", "gradient_penalty", "latent_l2"]


def dip(
    posterior: Distribution,
    *,
    off_diagonal: float = 1.0,
    diagonal: float = 1.0,
    within: bool = False,
) -> Float[Tensor, ""]:
    r"""How far the covariance of the latents is from the identity.

    .. math:: \lambda_{od} \sum_{i \neq j} C_{ij}^2 + \lambda_d \sum_i (C_{ii} - 1)^2

    A statistic of the batch: a scalar without a unit. C is the covariance over the batch of the
    posterior's means (DIP-VAE-I), divided by B - 1; with ``within``, to which the mean of the
    posterior's covariances is added, that of z itself (DIP-VAE-II).

    Args:
        posterior: :math:`q(z \mid x)` of the batch.
        off_diagonal: :math:`\lambda_{od}`, at least 0.
        diagonal: :math:`\lambda_d`, at least 0.
        within: Whether the covariance within the posteriors is added.

    Shape:
        Posterior of batch ``(B,)`` over ``(dim,)``; returns a scalar.

    Raises:
        TypeError: If ``within`` and the posterior's dimensions are neither independent nor with a
            ``covariance_matrix``.
        ValueError: If the batch has fewer than two elements, or a weight is negative.

    Example:
        >>> mu = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
        >>> dip(vk.distributions.DiagonalGaussian(mu, torch.zeros(2, 2)))
        tensor(10.)

    References:
        A. Kumar, P. Sattigeri and A. Balakrishnan, *Variational Inference of Disentangled Latent
        Concepts from Unlabeled Observations*, 2018, equations 6 and 7.
    """
    _checks.number("off_diagonal", off_diagonal, low=0)
    _checks.number("diagonal", diagonal, low=0)
    mean = posterior.mean
    what, got = "a batch of at least 2 elements over (dim,)", f"mean of {tuple(mean.shape)}"
    _checks.require(mean.ndim == 2 and len(mean) > 1, "posterior", what, got)
    centred = mean - mean.mean(0)
    covariance = centred.T @ centred / (len(mean) - 1)
    if within:
        covariance = covariance + _covariance(posterior).mean(0)
    variances = covariance.diagonal()
    others = (covariance - variances.diag()).square().sum()
    return off_diagonal * others + diagonal * (variances - 1).square().sum()


def latent_l2(z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
    r"""Half the squared length of a code.

    .. math:: \tfrac{1}{2} \lVert z \rVert^2

    It is :math:`-\log \mathcal{N}(z; 0, I)` without its constant, in nats.

    Shape:
        ``z: (*batch, dim)``, returns ``(*batch,)``.

    Example:
        >>> latent_l2(torch.tensor([[3.0, 4.0]]))
        tensor([12.5000])

    References:
        P. Ghosh et al., *From Variational to Deterministic Autoencoders*, 2020, section 3.1.
    """
    return 0.5 * z.square().sum(-1)


def gradient_penalty(
    x_hat: Float[Tensor, "..."], z: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch"]:
    r"""How much a decoder's mean changes with z: its Jacobian's squared Frobenius norm.

    .. math:: \lVert \nabla_z \hat{x}(z) \rVert_F^2 = \mathbb{E}_v \lVert v^\top \nabla_z \hat{x}(z)
              \rVert^2, \qquad v_i = \pm 1

    Estimated with one random v for each element, which is unbiased and takes one backward pass,
    under ``torch.compile`` in one graph (``fullgraph=True``). The decoder is to treat each element
    by itself (no batch normalisation).

    Args:
        x_hat: What the decoder made of ``z``, in the same graph.
        z: The codes.

    Shape:
        ``x_hat: (*batch, *event)``, ``z: (*batch, dim)``; returns ``(*batch,)``. The unit is that
        of the data, squared.

    Raises:
        ValueError: If no gradient from ``x_hat`` to ``z`` is recorded, or under ``torch.compile``
            without the option ``torch._dynamo.config.trace_autograd_ops``, which `vaekit.fit` sets.

    Example:
        >>> z = torch.ones(4, 2, requires_grad=True)
        >>> gradient_penalty((3 * z).sum(-1, keepdim=True), z).tolist()
        [18.0, 18.0, 18.0, 18.0]

    References:
        P. Ghosh et al., *From Variational to Deterministic Autoencoders*, 2020, section 3.1; M. F.
        Hutchinson, *A Stochastic Estimator of the Trace of the Influence Matrix*, 1990.
    """
    gradient = None
    if torch.is_grad_enabled() and z.requires_grad and x_hat.requires_grad:
        check_traced("x_hat", "one whose gradient to z can be traced", "a compiled one")
        signs = torch.randint_like(x_hat, 2) * 2 - 1
        (gradient,) = torch.autograd.grad(x_hat, z, signs, create_graph=True, allow_unused=True)
    if gradient is None:
        what = "a code that x_hat was decoded from while gradients are recorded"
        hint = "Call the model and the term under torch.enable_grad()."
        raise ValueError(_checks.expected("z", what, "no gradient", hint))
    return gradient.square().sum(-1)


def commitment(posterior: Distribution) -> Float[Tensor, " batch"]:
    r"""How far the encoder's output lies from the entries of the codebook it was given.

    .. math:: \lVert z_e(x) - \operatorname{sg}[e] \rVert^2

    Args:
        posterior: One that quantises, and carries this as its ``commitment``.

    Shape:
        Returns ``(B,)``, summed over the latent's dimensions.

    Raises:
        TypeError: If the posterior has none.

    Example:
        >>> latent = vk.latents.VectorQuantizedLatent(4, codebook=8)
        >>> commitment(latent(torch.zeros(6, 4))).shape
        torch.Size([6])

    References:
        A. van den Oord, O. Vinyals and K. Kavukcuoglu, *Neural Discrete Representation Learning*,
        2017, equation 3.
    """
    value = getattr(posterior, "commitment", None)
    if not isinstance(value, Tensor):
        what = "one with a commitment, as a vector-quantised latent infers"
        raise TypeError(_checks.expected("posterior", what, repr(posterior)))
    return value


def check_traced(argument: str, what: str, got: str) -> None:
    """Say so where torch.compile would cut its graph at a gradient that a loss is made of.

    What comes before the cut would be missing from that gradient.
    """
    if not torch.compiler.is_compiling():
        return
    if not getattr(torch._dynamo.config, "trace_autograd_ops", False):  # not every torch has it
        how = "torch._dynamo.config.trace_autograd_ops = True and fullgraph=True"
        hint = f"{how} have it traced whole, as vk.fit does."
        message = _checks.expected(argument, what, got, hint)
        torch._dynamo.graph_break(msg=message)  # an error while tracing would only end the tracing
        raise ValueError(message)


def _covariance(posterior: Distribution) -> Tensor:
    full = getattr(posterior, "covariance_matrix", None)
    if isinstance(full, Tensor):
        return full
    # Says so if the dimensions hang together; rounded, for hard variables have no other density.
    log_prob_by_dimension(posterior, posterior.mean.round(), "posterior")
    return posterior.variance.diag_embed()
