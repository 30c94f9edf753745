"""How strange single elements are to a model: what tells anomalies from the data it learned."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution

from vaekit import _checks, losses
from vaekit.distributions import DiagonalGaussian, PointMass
from vaekit.metrics.inputs import Values, as_tensor
from vaekit.metrics.likelihood import batches_of, bound_parts, importance_sampled
from vaekit.metrics.means import Collected, Mean, described, mean_of, share_below
from vaekit.networks import with_context
from vaekit.training.measures import measuring
from vaekit.vae import VAE

__all__ = ["AnomalyScores", "anomaly_scores", "auroc", "likelihood_regret"]


class AnomalyScores(NamedTuple):
    """How strange each element is to a model, ``(N,)`` each, in nats; higher is stranger.

    They are in double precision. Of grey levels under `vaekit.likelihoods.Bernoulli` the nats are
    those of a cross-entropy, and no likelihood.

    Attributes:
        reconstruction: The expected negative log-likelihood of the element given its codes.
        negative_elbo: The same, and the divergence of the posterior from the prior.
        negative_log_likelihood: By importance sampling, as
            `vaekit.metrics.negative_log_likelihood` estimates it.
        likelihood_regret: As `likelihood_regret` measures it by its defaults; None where it was
            not asked for, or the posterior is no diagonal Gaussian.
    """

    reconstruction: Tensor
    negative_elbo: Tensor
    negative_log_likelihood: Tensor
    likelihood_regret: Tensor | None

    def __repr__(self) -> str:
        return described(self)


def auroc(scores: Shaped[Values, " n"], labels: Shaped[Values, " n"]) -> Mean:
    """Measure how well a score tells ones from zeros: anomalies from what is normal.

    The area under the receiver operating characteristic: the share of pairs, one of each kind, that
    the score puts in the right order, ties counting half. 1/2 is guessing. Unbiased.

    Args:
        scores: The higher, the more an element is taken for a 1.
        labels: What each element is, 0 or 1.

    Shape:
        ``scores: (N,)``, ``labels: (N,)``.

    Returns:
        The area, and its standard error over the elements of both kinds (DeLong); NaN where there
        is but one element of a kind.

    Raises:
        ValueError: If sizes do not fit, scores are NaN or infinite, or the labels are not 0 and 1,
            both of them.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])).mean
        0.75

    References:
        E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, *Comparing the Areas under Two or More
        Correlated Receiver Operating Characteristic Curves*, 1988, equations 5 and 6.
    """
    scores, labels = as_tensor("scores", scores), as_tensor("labels", labels)
    shape, kinds = tuple(scores.shape), labels.detach().cpu()
    _checks.require(len(shape) == 1, "scores", "shape (N,)", shape)
    _checks.require(kinds.shape == shape, "labels", f"shape {shape}", tuple(kinds.shape))
    found = kinds.unique().tolist()
    _checks.require(found == [0, 1], "labels", "values 0 and 1, both of them", found[:5])
    _checks.finite("scores", scores)
    values = scores.detach().cpu().double()
    high, low = values[kinds == 1], values[kinds == 0]
    # Of each 1 the share of zeros below it, and of each 0 that of ones above it.
    below, above = share_below(high, low), 1 - share_below(low, high)
    first, second = mean_of(below), mean_of(above)  # of the same mean
    return Mean(first.mean, math.hypot(first.standard_error, second.standard_error))


def anomaly_scores(
    model: VAE,
    data: Any,
    samples: int = 50,
    *,
    importance_samples: int = 200,
    regret: bool = True,
    batch_size: int = 500,
    chunk: int = 20,
    seed: int = 0,
) -> AnomalyScores:
    r"""Score every element four ways by how strange a model finds it.

    Which serves best depends on the data and on the decoder. A model may find simple data of
    another kind likelier than its own; the regret is made for that case.

    Args:
        model: The model, measured in evaluation mode.
        data: As for `vaekit.fit`.
        samples: How many draws the expectation in reconstruction and ELBO is the mean of.
        importance_samples: How many the likelihood is estimated from.
        regret: Whether to fit a posterior to each element for its regret, which takes by far the
            longest; by the defaults of `likelihood_regret`.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        chunk: How many draws of each are held at once: memory grows with this, not with the
            numbers of draws.
        seed: Of the draws.

    Shape:
        Returns ``(N,)`` each, in the order of the data. In nats.

    Raises:
        TypeError: If the data are none that can be gone through, or the model is an autoencoder,
            whose posterior has no density: `vaekit.losses.reconstruction` scores its elements.
        ValueError: If there are none, data or what the model makes of them hold NaN, or a number is
            not above 0.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> test = vk.datasets.digits(binarize="threshold")[1].subset(range(10))
        >>> scores = anomaly_scores(model, test, samples=5, importance_samples=5)
        >>> scores.negative_elbo.shape
        torch.Size([10])

    References:
        J. An and S. Cho, *Variational Autoencoder based Anomaly Detection using Reconstruction
        Probability*, 2015, section 3; Z. Xiao, Q. Yan and Y. Amit, *Likelihood Regret: An
        Out-of-Distribution Detection Score For Variational Auto-encoder*, 2020.
    """
    _checks.positive_int("samples", samples)
    _checks.positive_int("importance_samples", importance_samples)
    _checks.positive_int("chunk", chunk)
    first, second, third, last = Collected(), Collected(), Collected(), Collected()
    with measuring(model, seed) as device:
        for x, target, context in batches_of(model, data, batch_size, device):
            with torch.no_grad():
                posterior = model.encode(x, context)
            if isinstance(posterior, PointMass):
                what, got = "one whose posterior has a density", f"one of {posterior!r}"
                hint = "vaekit.losses.reconstruction(model(x).likelihood, x) scores each element."
                raise TypeError(_checks.expected("model", what, got, hint))
            distortion, rate = bound_parts(model, x, target, context, samples, chunk)
            nll, _ = importance_sampled(model, x, target, context, importance_samples, chunk)
            first.add(distortion)
            second.add(distortion + rate)
            third.add(nll)
            if regret and isinstance(posterior, DiagonalGaussian):
                last.add(_regret(model, posterior, target, context, 40, 0.05, 8))
    gained = last.tensor()
    scores = first.tensor(), second.tensor(), third.tensor()
    return AnomalyScores(*scores, gained if len(gained) else None)


def likelihood_regret(
    model: VAE,
    data: Any,
    *,
    steps: int = 40,
    learning_rate: float = 0.05,
    samples: int = 8,
    batch_size: int = 500,
    seed: int = 0,
) -> Float[Tensor, " n"]:
    r"""Measure how many nats the ELBO of each element gains from a posterior of its own.

    .. math:: \max_{\mu, \sigma} \operatorname{ELBO}(x; \mu, \sigma)
              - \operatorname{ELBO}(x; \mu_\phi(x), \sigma_\phi(x))

    An encoder may be bad at data that it has never seen, and what the model was trained on gains
    little. Only the Gaussian posterior of the element is fitted, by Adam and from the encoder's
    on; the decoder is held fixed. As the maximum is sought in few steps, the result in expectation
    lies below the regret.

    Args:
        model: The model, measured in evaluation mode, whose posterior is a diagonal Gaussian.
        data: As for `vaekit.fit`.
        steps: For how many steps the posterior is fitted.
        learning_rate: Of these steps.
        samples: How many draws each step has, which are held at once; both ELBOs are estimated from
            ten times as many, a part after the other.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        seed: Of the draws.

    Shape:
        Returns ``(N,)``, in the order of the data, in double precision. In nats.

    Raises:
        TypeError: If the posterior is no diagonal Gaussian, or the data are none that can be gone
            through.
        ValueError: If there are none, data or what the model makes of them hold NaN, or a number is
            not above 0.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> test = vk.datasets.digits(binarize="threshold")[1].subset(range(10))
        >>> likelihood_regret(model, test, steps=5).shape
        torch.Size([10])

    References:
        Z. Xiao, Q. Yan and Y. Amit, *Likelihood Regret: An Out-of-Distribution Detection Score For
        Variational Auto-encoder*, 2020, section 3.
    """
    _checks.positive_int("steps", steps)
    _checks.positive_int("samples", samples)
    _checks.number("learning_rate", learning_rate, above=0)
    found = Collected()
    with measuring(model, seed) as device:
        for x, target, context in batches_of(model, data, batch_size, device):
            with torch.no_grad():
                posterior = model.encode(x, context)
            if not isinstance(posterior, DiagonalGaussian):
                what = "a model whose posterior is a diagonal Gaussian"
                raise TypeError(_checks.expected("model", what, type(posterior).__name__))
            found.add(_regret(model, posterior, target, context, steps, learning_rate, samples))
    return found.tensor()


def _regret(
    model: VAE,
    posterior: DiagonalGaussian,
    target: Tensor,
    context: Tensor | None,
    steps: int,
    learning_rate: float,
    samples: int,
) -> Tensor:
    """Fit the posterior of every element of a batch, and return what each gained."""
    mu, logvar = (parameter.detach().clone().requires_grad_() for parameter in posterior)
    with torch.no_grad():
        prior: Distribution = with_context(model.prior, context)

    def loss() -> Tensor:
        own = DiagonalGaussian(mu, logvar)
        z = own.rsample((samples,))
        distortion = losses.reconstruction(with_context(model.decoder, context, z), target).mean(0)
        return distortion + losses.kl_divergence(own, prior, z=z)

    @torch.no_grad()
    def negative_elbo() -> Tensor:
        return torch.stack([loss().cpu().double() for _ in range(10)]).mean(0)

    optimizer = torch.optim.Adam([mu, logvar], learning_rate)
    before = negative_elbo()
    for _ in range(steps):
        with torch.enable_grad():
            mu.grad, logvar.grad = torch.autograd.grad(loss().sum(), (mu, logvar))
        optimizer.step()
    return before - negative_elbo()
