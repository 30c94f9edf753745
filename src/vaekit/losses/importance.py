"""Bounds on log p(x) from several weighted draws."""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution

from vaekit import _checks
from vaekit.distributions.detach import detached
from vaekit.distributions.supports import check_comparable
from vaekit.distributions.unrounded import unrounded
from vaekit.losses.elbo import reconstruction
from vaekit.losses.penalties import check_traced

__all__ = ["Gradient", "importance_log_weights", "importance_weighted", "variational_bound"]

#: How the gradient to the encoder is estimated; see `importance_weighted`.
Gradient = Literal["standard", "stl", "dreg"]


def importance_log_weights(
    likelihood: Distribution,
    posterior: Distribution,
    prior: Distribution,
    x: Shaped[Tensor, "..."],
    z: Float[Tensor, "samples batch *event"],
) -> Float[Tensor, "samples batch"]:
    r"""Logarithms of the weights that make draws from the posterior stand for the prior's.

    .. math:: \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x)

    The mean of the weights is an unbiased estimate of :math:`p(x)`.

    Args:
        likelihood: :math:`p(x \mid z)` of every draw.
        posterior: :math:`q(z \mid x)`.
        prior: :math:`p(z)`.
        x: The data to be explained.
        z: The draws from the posterior.

    Shape:
        ``x: (B, *event)``, ``z: (K, B, dim)``, likelihood of batch ``(K, B)``; returns ``(K, B)``.
        In nats.

    Raises:
        ValueError: If ``z`` has no dimension of draws.

    Example:
        >>> q = p = vk.distributions.StandardGaussian(torch.zeros(4, 2))
        >>> likelihood = vk.likelihoods.Bernoulli(3)(torch.zeros(5, 4, 3))
        >>> importance_log_weights(likelihood, q, p, torch.ones(4, 3), q.rsample((5,))).shape
        torch.Size([5, 4])

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        section 3.
    """
    return _log_ratio(posterior, prior, z) - reconstruction(likelihood, x)


def variational_bound(
    log_weights: Float[Tensor, "samples *batch"], *, alpha: float = 0.0, groups: int = 1
) -> Float[Tensor, "*batch"]:
    r"""A bound on the log-likelihood, from the weights of K draws.

    .. math:: \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}

    ``alpha=0`` is the importance-weighted bound, whose expectation rises to :math:`\log p(x)` with
    K; ``alpha=1``, as the limit, the mean of the log-weights, which is the ELBO; between them lie
    the Rényi bounds, which fall as ``alpha`` rises. Below 0 the value may lie above
    :math:`\log p(x)`. With one draw all are the ELBO. It is to be maximised.

    Args:
        log_weights: As `importance_log_weights` returns them.
        alpha: The order, a finite number.
        groups: M, into how many groups of K / M draws they are divided; the bound is the mean over
            the groups, as the MIWAE has it.

    Shape:
        ``log_weights: (K, B)``, returns ``(B,)``. In nats.

    Raises:
        ValueError: If there are no draws, ``alpha`` is not finite, or ``groups`` does not divide K.

    Example:
        >>> log_weights = torch.tensor([[0.2], [0.6]]).log()
        >>> [round(variational_bound(log_weights, alpha=a).exp().item(), 3) for a in (0, 0.5, 1)]
        [0.4, 0.373, 0.346]

    References:
        Y. Burda et al., *Importance Weighted Autoencoders*, 2016, equation 8; Y. Li and R. E.
        Turner, *Rényi Divergence Variational Inference*, 2016, section 4; T. Rainforth et al.,
        *Tighter Variational Bounds are Not Necessarily Better*, 2018, section 5 (MIWAE).
    """
    order = 1 - _checks.number("alpha", alpha)
    samples, groups = len(log_weights), _checks.positive_int("groups", groups)
    what = f"a number of draws above 0 that {groups} groups share evenly"
    _checks.require(samples > 0 and samples % groups == 0, "log_weights", what, samples)
    by_group: Tensor = log_weights.unflatten(0, (groups, samples // groups))
    if order == 0:
        return by_group.mean((0, 1))
    if order == 1:
        bounds = by_group.logsumexp(1) - math.log(samples // groups)
    else:  # next to alpha=1 a logsumexp of the draws has no digits left once it is divided
        fixed = by_group.detach()
        ref = fixed.amax(1) if order > 0 else fixed.amin(1)
        ref = ref.where(ref.isfinite(), 0.0)  # the gradient by it would be 0
        powers = (order * (by_group - ref[:, None])).expm1()
        bounds = ref + powers.mean(1).log1p() / order
    return bounds.mean(0)


def importance_weighted(
    likelihood: Distribution,
    posterior: Distribution,
    prior: Distribution,
    x: Shaped[Tensor, "..."],
    z: Float[Tensor, "samples batch *event"],
    *,
    alpha: float = 0.0,
    groups: int = 1,
    gradient: Gradient = "standard",
) -> Float[Tensor, " batch"]:
    r"""The negative of `variational_bound`, with a choice of gradient for the encoder.

    .. math:: -\log \frac{1}{K} \sum_k \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}

    The value, and the gradient to decoder and prior, are the same for all three; the encoder's is,
    with :math:`\tilde w_k = w_k / \sum_l w_l`,

    ``"standard"``
        that of the formula. Unbiased, but its signal fades before its noise as K grows.
    ``"stl"``
        :math:`\sum_k \tilde w_k \frac{\partial \log w_k}{\partial z_k}
        \frac{\partial z_k}{\partial \phi}`: *sticking the landing*, without the score. Without
        noise where the posterior is exact; unbiased for one draw alone (and for ``alpha=1``).
    ``"dreg"``
        :math:`\sum_k \tilde w_k^2 \frac{\partial \log w_k}{\partial z_k}
        \frac{\partial z_k}{\partial \phi}`: doubly reparameterised. Unbiased, and its signal rises
        above its noise as K grows. Takes another backward pass through the decoder, to z alone,
        which ``torch.compile`` takes rightly in one graph (``fullgraph=True``) alone.

    Args:
        likelihood: As for `importance_log_weights`.
        posterior: As for `importance_log_weights`, reparameterised.
        prior: As for `importance_log_weights`.
        x: As for `importance_log_weights`.
        z: As for `importance_log_weights`, with a gradient to the posterior's parameters.
        alpha: As for `variational_bound`; 0 for ``"dreg"``.
        groups: As for `variational_bound`.
        gradient: ``"standard"``, ``"stl"`` or ``"dreg"``.

    Shape:
        As for `importance_log_weights`; returns ``(B,)``. In nats.

    Raises:
        TypeError: If the posterior's parameters cannot be held fixed, as ``"stl"`` and ``"dreg"``
            need.
        ValueError: If ``z`` has no dimension of draws, or an option does not fit; for ``"dreg"``,
            if the likelihood was not decoded from ``z``, or under ``torch.compile`` without the
            option ``torch._dynamo.config.trace_autograd_ops``, which `vaekit.fit` sets.

    Example:
        >>> q = p = vk.distributions.StandardGaussian(torch.zeros(4, 2))
        >>> likelihood = vk.likelihoods.Bernoulli(3)(torch.zeros(5, 4, 3))
        >>> importance_weighted(likelihood, q, p, torch.ones(4, 3), q.rsample((5,)))
        tensor([2.0794, 2.0794, 2.0794, 2.0794])

    References:
        Y. Burda et al., *Importance Weighted Autoencoders*, 2016, equations 8 and 14; G. Roeder,
        Y. Wu and D. Duvenaud, *Sticking the Landing*, 2017, section 3; G. Tucker et al., *Doubly
        Reparameterized Gradient Estimators for Monte Carlo Objectives*, 2019, equation 8.
    """
    check_gradient(gradient, alpha)
    at, (posterior, prior) = unrounded(z, posterior, prior)
    if gradient != "standard":
        posterior = detached(posterior)
    log_ratio = _log_ratio(posterior, prior, at)
    if gradient != "standard" and posterior.log_prob(at[0].detach()).requires_grad:
        what = "'standard', since the posterior's parameters cannot be held fixed"
        raise TypeError(_checks.expected("gradient", what, repr(gradient)))
    cost = reconstruction(likelihood, x)
    log_weights = log_ratio - cost
    loss = -variational_bound(log_weights, alpha=alpha, groups=groups)
    if gradient == "dreg" and loss.requires_grad and z.requires_grad:
        check_traced("gradient", "'standard' or 'stl' under torch.compile", "'dreg'")
        # The gradient that reaches z is w~ dlog w/dz, and is to be w~^2 dlog w/dz. A hook on z
        # would change other terms' gradients too; this adds what lacks, and 0 to the value.
        weights = log_weights.detach().unflatten(0, (groups, -1)).softmax(1).flatten(0, 1)
        lacking = weights * (1 - weights) / groups
        slope = _slope(lacking * log_ratio, at)
        of_cost = _slope(lacking * cost, z, "likelihood")
        surrogate = (slope * at - of_cost * z).flatten(2).sum((0, 2))
        loss = loss + (surrogate - surrogate.detach())
    return loss


def check_gradient(gradient: str, alpha: float) -> None:
    """Say so when a gradient estimator is unknown, or not made for a bound of this order."""
    _checks.one_of("gradient", gradient, get_args(Gradient))
    _checks.require(gradient != "dreg" or alpha == 0, "alpha", "0 for gradient='dreg'", alpha)


def _log_ratio(posterior: Distribution, prior: Distribution, z: Tensor) -> Tensor:
    shape = (*posterior.batch_shape, *posterior.event_shape)
    what = f"(K, {', '.join(map(str, shape))}), a dimension of K draws first"
    hint = "model(x, samples=K) draws them."
    _checks.require(z.ndim == len(shape) + 1, "z", what, tuple(z.shape), hint)
    check_comparable(posterior, prior)
    z, (posterior, prior) = unrounded(z, posterior, prior)
    return prior.log_prob(z) - posterior.log_prob(z)


def _slope(value: Tensor, z: Tensor, argument: str | None = None) -> Tensor:
    """Return the gradient of a sum to z; where an argument is named, there has to be one."""
    slope = None
    if value.requires_grad:
        (slope,) = torch.autograd.grad(value.sum(), z, retain_graph=True, allow_unused=True)
    if slope is None and argument is not None:
        what = "one decoded from z, in one graph with it, for gradient='dreg'"
        raise ValueError(_checks.expected(argument, what, "one without a gradient to z"))
    return torch.zeros_like(z) if slope is None else slope
