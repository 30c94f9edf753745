"""How likely a model holds data to be: by importance sampling, by annealing, and in parts."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints

from vaekit import _checks, datasets, losses
from vaekit.distributions.supports import innermost
from vaekit.metrics.means import Collected, Mean, described, mean_of
from vaekit.networks import with_context
from vaekit.training.measures import measuring
from vaekit.vae import VAE, dtype_of

__all__ = [
    "ELBO",
    "BoundedLikelihood",
    "NegativeLogLikelihood",
    "RateDistortion",
    "annealed_importance_sampling",
    "bidirectional_monte_carlo",
    "elbo",
    "negative_log_likelihood",
    "rate_distortion",
]


class NegativeLogLikelihood(NamedTuple):
    """An estimate of the negative log-likelihood of data.

    Attributes:
        nats: The mean over the elements, in nats.
        bits_per_dimension: The same in bits for each value of an element; None where the data are
            not discrete.
        by_element: The estimate of each element, ``(N,)``, in nats, in the order of the data.
        effective_samples: How many equally weighted draws those of each element are worth,
            ``(N,)``. Where that is near 1, the estimate rests on a single draw, and lies too high.
        monte_carlo_error: The standard error of the mean over the same elements, in nats: how far
            it would lie from this one with other draws, by the delta method. That of ``nats`` is
            over other elements, and has this one in it. NaN for a single draw; far too small where
            a few draws carry all the weight.
    """

    nats: Mean
    bits_per_dimension: Mean | None
    by_element: Tensor
    effective_samples: Tensor
    monte_carlo_error: float

    def __repr__(self) -> str:
        return described(self)


class BoundedLikelihood(NamedTuple):
    """Bounds on the log-likelihood of data that a model itself has drawn, in nats.

    Attributes:
        lower: The mean of the forward runs; in expectation at most the log-likelihood.
        upper: The mean of the reverse runs; in expectation at least the log-likelihood.
        gap: How far apart they are, element by element: what the forward estimate lacks at most.
    """

    lower: Mean
    upper: Mean
    gap: Mean

    def __repr__(self) -> str:
        return described(self)


class ELBO(NamedTuple):
    """The evidence lower bound and its parts, in nats: ``elbo = -(reconstruction + kl)``.

    Attributes:
        elbo: The bound; at most the log-likelihood, but of relaxed draws of discrete latents and of
            grey levels under `vaekit.likelihoods.Bernoulli`.
        reconstruction: The expected negative log-likelihood of the data given z: the distortion.
        kl: The divergence of the posterior from the prior: the rate.
    """

    elbo: Mean
    reconstruction: Mean
    kl: Mean

    def __repr__(self) -> str:
        return described(self)


class RateDistortion(NamedTuple):
    """One point of a rate-distortion curve, in nats.

    Attributes:
        beta: What the model is called by, the weight of the KL it was trained with.
        rate: The mean divergence of the posterior from the prior.
        distortion: The mean reconstruction loss.
    """

    beta: float
    rate: Mean
    distortion: Mean

    def __repr__(self) -> str:
        return described(self)


def negative_log_likelihood(
    model: VAE,
    data: Any,
    samples: int = 5000,
    *,
    batch_size: int = 100,
    chunk: int = 20,
    seed: int = 0,
) -> NegativeLogLikelihood:
    r"""Estimate the negative log-likelihood by importance sampling from the posterior.

    .. math:: -\log \frac{1}{K} \sum_k \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)},
              \qquad z_k \sim q(z \mid x)

    The mean inside is unbiased; its logarithm therefore lies too low, and the estimate in
    expectation too high, the less so the more draws there are.

    Of grey levels under `vaekit.likelihoods.Bernoulli` it is no likelihood, but what the
    cross-entropy stands for in its place: it compares with other such numbers alone. See there.

    Args:
        model: The model, measured in evaluation mode.
        data: As for `vaekit.fit`.
        samples: K, how many draws each element has. The field's custom for MNIST is 5,000.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        chunk: How many draws of each are held at once. Memory is for a few tensors of
            ``chunk * batch_size`` times the size of an element or of the decoder's widest layer,
            and does not grow with ``samples``.
        seed: Of the draws.

    Returns:
        The estimate, its standard error and its parts.

    Raises:
        TypeError: If the data are none that can be gone through.
        ValueError: If there are none, data or what the model makes of them hold NaN, or a number is
            not above 0.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> found = negative_log_likelihood(model, test, samples=10)
        >>> len(found.by_element) == len(test)
        True

    References:
        Y. Burda, R. Grosse and R. Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        section 3.
    """
    _checks.positive_int("samples", samples)
    _checks.positive_int("chunk", chunk)
    found, effective = Collected(), Collected()
    with measuring(model, seed) as device:
        for x, target, context in batches_of(model, data, batch_size, device):
            value, worth = importance_sampled(model, x, target, context, samples, chunk)
            found.add(value)
            effective.add(worth)
    return _negative(model, found.tensor(), effective.tensor(), samples)


@torch.no_grad()
def importance_sampled(
    model: VAE, x: Tensor, target: Tensor, context: Tensor | None, samples: int, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return the estimate of each element of a batch, and how many draws its own are worth."""
    first = second = torch.full((len(x),), -math.inf, dtype=torch.double)
    posterior, prior = model.encode(x, context), with_context(model.prior, context)

    def weigh(count: int) -> Tensor:  # what a chunk held is gone when the next is drawn
        z = posterior.rsample((count,))
        likelihood = with_context(model.decoder, context, z)
        return losses.importance_log_weights(likelihood, posterior, prior, target, z)

    for count in _chunks(samples, chunk):
        log_weights = wide(weigh(count)).cpu()
        first = torch.logaddexp(first, log_weights.logsumexp(0))
        second = torch.logaddexp(second, (2 * log_weights).logsumexp(0))
    return math.log(samples) - first, (2 * first - second).exp()


def elbo(
    model: VAE,
    data: Any,
    samples: int = 1,
    *,
    batch_size: int = 100,
    chunk: int = 20,
    seed: int = 0,
) -> ELBO:
    r"""Estimate the evidence lower bound and its two parts.

    .. math:: \mathbb{E}_{q(z \mid x)} [\log p(x \mid z)]
              - \operatorname{KL}(q(z \mid x) \,\|\, p(z))

    Unbiased: the mean over ``samples`` draws; the KL by its closed form where there is one.

    Of relaxed draws of discrete latents (``hard=False``) it is no bound: the expectation is of the
    relaxed draws, and the KL of the discrete ones, as in training. With ``hard=True`` it is. Of
    grey levels under `vaekit.likelihoods.Bernoulli` it bounds no density of them; see there.

    Args:
        model: The model, measured in evaluation mode.
        data: As for `vaekit.fit`.
        samples: How many draws each element has.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        chunk: How many draws of each are held at once: memory grows with this, not with
            ``samples``.
        seed: Of the draws.

    Returns:
        The bound and its parts, with standard errors over the elements.

    Raises:
        TypeError: If the data are none that can be gone through.
        ValueError: If there are none, data or what the model makes of them hold NaN, or a number is
            not above 0.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> bound, distortion, rate = elbo(model, test)
        >>> abs(bound.mean + distortion.mean + rate.mean) < 1e-9
        True

    References:
        D. P. Kingma and M. Welling, *Auto-Encoding Variational Bayes*, 2014, equation 3.
    """
    _checks.positive_int("samples", samples)
    _checks.positive_int("chunk", chunk)
    distortions, rates = Collected(), Collected()
    with measuring(model, seed) as device:
        for x, target, context in batches_of(model, data, batch_size, device):
            distortion, rate = bound_parts(model, x, target, context, samples, chunk)
            distortions.add(distortion)
            rates.add(rate)
    distortion, rate = distortions.tensor(), rates.tensor()
    return ELBO(mean_of(-(distortion + rate)), mean_of(distortion), mean_of(rate))


@torch.no_grad()
def bound_parts(
    model: VAE, x: Tensor, target: Tensor, context: Tensor | None, samples: int, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return distortion and rate of each element of a batch, in double precision."""

    def parts(count: int) -> Tensor:  # what a chunk held is gone when the next is drawn
        out = model(x, count, context)
        distortion = losses.reconstruction(out.likelihood, target).mean(0)
        rate = losses.kl_divergence(out.posterior, out.prior, z=out.z)
        return torch.stack([wide(distortion).cpu(), wide(rate).cpu()]).double()

    chunks = [parts(count) * (count / samples) for count in _chunks(samples, chunk)]
    distortion, rate = torch.stack(chunks).sum(0)
    return distortion, rate


def rate_distortion(
    models: Mapping[float, VAE],
    data: Any,
    samples: int = 1,
    *,
    batch_size: int = 100,
    chunk: int = 20,
    seed: int = 0,
) -> list[RateDistortion]:
    """Measure rate and distortion of models trained under several weights of the KL.

    Args:
        models: Each model by its beta.
        data: As for `vaekit.fit`.
        samples: How many draws each element has.
        batch_size: How many elements are gone through at once, where the data come unbatched.
        chunk: As for `elbo`.
        seed: Of the draws.

    Returns:
        A point for each model, by rising beta.

    Raises:
        TypeError: If the data are none that can be gone through again.
        ValueError: If there are no models or no data, a beta is no number, or as for `elbo`.

    Example:
        >>> likelihood = vk.likelihoods.Bernoulli((1, 8, 8))
        >>> models = {beta: vk.recipes.vae(likelihood, latent_dim=2).model for beta in (1.0, 4.0)}
        >>> _, test = vk.datasets.digits(binarize="threshold")
        >>> [point.beta for point in rate_distortion(models, test)]
        [1.0, 4.0]

    References:
        A. Alemi and others, *Fixing a Broken ELBO*, 2018, section 2.
    """
    if not models:
        raise ValueError(_checks.expected("models", "at least one model by its beta", "none"))
    for beta in models:
        _checks.number("models", beta)
    if isinstance(data, Iterator) and len(models) > 1:
        what = "data that can be gone through again, for each of the models"
        raise TypeError(_checks.expected("data", what, type(data).__name__))
    points = []
    for beta in sorted(models):
        found = elbo(models[beta], data, samples, batch_size=batch_size, chunk=chunk, seed=seed)
        points.append(RateDistortion(beta, found.kl, found.reconstruction))
    return points


def annealed_importance_sampling(
    model: VAE,
    data: Any,
    *,
    chains: int = 16,
    steps: int = 500,
    leapfrog: int = 10,
    batch_size: int = 100,
    seed: int = 0,
) -> NegativeLogLikelihood:
    r"""Estimate the negative log-likelihood by annealing from the prior to the posterior.

    .. math:: \log w = \sum_t (\beta_t - \beta_{t-1}) \log p(x \mid z_{t-1}), \qquad
              z_t \sim T_t(\cdot \mid z_{t-1}),

    where :math:`T_t` leaves :math:`p(z)\, p(x \mid z)^{\beta_t}` as it is: a Hamiltonian step of
    ``leapfrog`` moves. It does not use the encoder, and so measures the decoder alone. The mean of
    the weights over the chains is unbiased; its logarithm lies too low, the estimate in expectation
    too high. The step sizes are found beforehand by chains of their own, so that the weights stay
    unbiased.

    Args:
        model: The model, whose z are any real numbers.
        data: As for `vaekit.fit`.
        chains: How many chains each element has.
        steps: How many distributions lie between prior and posterior, along a sigmoid.
        leapfrog: How many moves a Hamiltonian step has.
        batch_size: How many elements are gone through at once, where the data come unbatched:
            memory is for ``chains`` of each.
        seed: Of the draws.

    Returns:
        The estimate, its standard errors and its parts; the draws are the chains.

    Raises:
        TypeError: If the data are none that can be gone through, or z is on a sphere, a simplex,
            or discrete.
        ValueError: If there are none, data or what the model makes of them hold NaN, or a number is
            not above 0.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> test = vk.datasets.digits(binarize="threshold")[1].subset(range(10))
        >>> found = annealed_importance_sampling(model, test, chains=2, steps=10)
        >>> found.by_element.shape
        torch.Size([10])

    References:
        Y. Wu, Y. Burda, R. Salakhutdinov and R. Grosse, *On the Quantitative Analysis of
        Decoder-Based Generative Models*, 2017, section 3. R. M. Neal, *Annealed Importance
        Sampling*, 2001.
    """
    _checks.positive_int("chains", chains)
    found, effective = Collected(), Collected()
    with measuring(model, seed) as device:
        for _, target, context in batches_of(model, data, batch_size, device):
            run = _Annealing(model, target, context, chains, steps, leapfrog)
            log_weights = run.forward()
            found.add(math.log(chains) - log_weights.logsumexp(0))
            ratio = 2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)
            effective.add(ratio.exp())
    return _negative(model, found.tensor(), effective.tensor(), chains)


def bidirectional_monte_carlo(
    model: VAE,
    n: int = 100,
    *,
    chains: int = 16,
    steps: int = 500,
    leapfrog: int = 10,
    batch_size: int = 100,
    seed: int = 0,
    context: Tensor | None = None,
) -> BoundedLikelihood:
    r"""Bound the log-likelihood of data that the model draws, from below and from above.

    For a pair :math:`z \sim p(z),\, x \sim p(x \mid z)`, z is an exact draw from the posterior of
    x. From it a chain runs back to the prior, and the negative logarithm of its mean weight is in
    expectation at least :math:`\log p(x)`; a chain run forward, as `annealed_importance_sampling`
    runs them, gives one that is at most that. How far apart they are tells how good the annealing
    is, on data of the model's own kind.

    Args:
        model: The model, whose z are any real numbers.
        n: How many elements to draw.
        chains: How many chains each element has; the reverse ones all start at its one z.
        steps: How many distributions lie between prior and posterior, along a sigmoid.
        leapfrog: How many moves a Hamiltonian step has.
        batch_size: How many elements are gone through at once.
        seed: Of the draws.
        context: What the model is conditioned on, if on anything: one for each element.

    Raises:
        TypeError: If z is on a sphere, a simplex, or discrete.
        ValueError: If a number is not above 0, or the context is not one for each element.

    Example:
        >>> model, _ = vk.recipes.vae(vk.likelihoods.Bernoulli((1, 8, 8)), latent_dim=2)
        >>> found = bidirectional_monte_carlo(model, 8, chains=2, steps=10)
        >>> abs(found.gap.mean - (found.upper.mean - found.lower.mean)) < 1e-6
        True

    References:
        Y. Wu, Y. Burda, R. Salakhutdinov and R. Grosse, *On the Quantitative Analysis of
        Decoder-Based Generative Models*, 2017, section 4. R. Grosse, Z. Ghahramani and R. Adams,
        *Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo*, 2015.
    """
    _checks.positive_int("n", n)
    _checks.positive_int("chains", chains)
    if context is not None and len(context) != n:
        raise ValueError(_checks.expected("context", f"{n}, one for each element", len(context)))
    lower, upper = Collected(), Collected()
    with measuring(model, seed) as device:
        for rows in torch.arange(n).split(_checks.positive_int("batch_size", batch_size)):
            given = None if context is None else context[rows].to(device)
            with torch.no_grad():
                prior = with_context(model.prior, given)
                z = prior.sample(() if prior.batch_shape else (len(rows),))
                x = with_context(model.decoder, given, z).sample()
            run = _Annealing(model, x, given, chains, steps, leapfrog)
            lower.add(run.forward().logsumexp(0) - math.log(chains))
            upper.add(math.log(chains) - run.reverse(z).logsumexp(0))
    below, above = lower.tensor(), upper.tensor()
    return BoundedLikelihood(mean_of(below), mean_of(above), mean_of(above - below))


class _Annealing:
    """Chains between the prior and the posterior of each element of one batch."""

    def __init__(
        self,
        model: VAE,
        x: Tensor,
        context: Tensor | None,
        chains: int,
        steps: int,
        leapfrog: int,
    ) -> None:
        self.model, self.x, self.context, self.chains = model, x, context, chains
        self.leapfrog = _checks.positive_int("leapfrog", leapfrog)
        with torch.no_grad():
            self.prior: Distribution = with_context(model.prior, context)
        if innermost(self.prior.support) is not constraints.real:
            what = "a model whose latents are any real numbers"
            raise TypeError(_checks.expected("model", what, f"draws of {self.prior!r}"))
        grid = torch.linspace(-4, 4, _checks.positive_int("steps", steps) + 1).double().sigmoid()
        self.betas = ((grid - grid[0]) / (grid[-1] - grid[0])).tolist()
        self.sizes = self._find_sizes()

    def forward(self) -> Float[Tensor, "chains batch"]:
        """Go from the prior to the posterior; return the log-weights, in double precision."""
        return self._run(self._draw(self.chains), range(1, len(self.betas)))

    def reverse(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "chains batch"]:
        """Go from draws of the posterior to the prior; return the log-weights."""
        log_weights = torch.zeros(self.chains, len(z), dtype=torch.double)
        z = z.expand(self.chains, *z.shape)
        for t in range(len(self.betas) - 1, 0, -1):
            z, _ = self._move(z, self.betas[t], self.sizes[t])
            log_weights -= (self.betas[t] - self.betas[t - 1]) * self._log_likelihood(z)
        return log_weights

    def _run(self, z: Tensor, stages: range) -> Tensor:
        log_weights = torch.zeros(z.shape[:2], dtype=torch.double)
        for t in stages:
            log_weights += (self.betas[t] - self.betas[t - 1]) * self._log_likelihood(z)
            z, _ = self._move(z, self.betas[t], self.sizes[t])
        return log_weights

    def _find_sizes(self) -> list[Tensor]:
        """Find a step size for each stage and element that accepts some 65 % of the moves."""
        z = self._draw(4)
        size = torch.full(z.shape[1:2], 0.1, dtype=z.dtype, device=z.device)
        sizes = [size]
        for beta in self.betas[1:]:
            z, accepted = self._move(z, beta, size)
            size = (size * (0.1 * (accepted.mean(0) - 0.65)).exp()).clamp(1e-4, 2.0)
            sizes.append(size)
        return sizes

    def _move(self, z: Tensor, beta: float, size: Tensor) -> tuple[Tensor, Tensor]:
        """Take one Hamiltonian step; return where it ended and which chains moved."""
        size = size[:, None]
        momentum = torch.randn_like(z)
        before, slope = self._energy(z, beta)
        before = before + wide(momentum).square().sum(-1) / 2
        new, p = z, momentum - 0.5 * size * slope
        for move in range(self.leapfrog):
            new = new + size * p
            after, slope = self._energy(new, beta)
            p = p - (size if move < self.leapfrog - 1 else 0.5 * size) * slope
        after = after + wide(p).square().sum(-1) / 2
        uniform = torch.rand(before.shape, dtype=before.dtype, device=z.device)
        accepted = uniform.log() < before - after  # never, where the energy is NaN
        return torch.where(accepted[..., None], new, z), accepted.to(z.dtype)

    def _energy(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """Return the energy in double precision, and its slope."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            energy: Tensor = -self.prior.log_prob(z) - beta * self._log_prob(z)
            (slope,) = torch.autograd.grad(energy.sum(), z)
        return wide(energy.detach()), slope.nan_to_num()

    @torch.no_grad()
    def _log_likelihood(self, z: Tensor) -> Tensor:
        return wide(self._log_prob(z)).cpu()

    def _log_prob(self, z: Tensor) -> Tensor:
        likelihood: Distribution = with_context(self.model.decoder, self.context, z)
        return -losses.reconstruction(likelihood, self.x)

    @torch.no_grad()
    def _draw(self, chains: int) -> Tensor:
        whole = self.prior.batch_shape
        return self.prior.sample((chains,) if whole else (chains, len(self.x)))


def wide(values: Tensor) -> Tensor:
    """Widen to double precision, where the device has it."""
    return values if values.device.type == "mps" else values.double()


def _chunks(total: int, chunk: int) -> Iterator[int]:
    yield from [chunk] * (total // chunk)
    if total % chunk:
        yield total % chunk


def batches_of(
    model: VAE, data: Any, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield data, what is to be explained, and the context where the model takes one."""
    conditional = model.takes_context
    for batch in datasets.batches(data, batch_size, dtype=dtype_of(model)):
        if conditional and batch.y is None:
            what = "batches (x, y), whose y is the context that the model takes"
            raise ValueError(_checks.expected("data", what, "batches without y"))
        context = torch.as_tensor(batch.y).to(device) if conditional else None
        yield batch.x.to(device), batch.target.to(device), context


def _negative(model: VAE, values: Tensor, effective: Tensor, samples: int) -> NegativeLogLikelihood:
    likelihood = getattr(model.decoder, "likelihood", None)
    bits = None
    if getattr(likelihood, "discrete", False):
        bits = mean_of(likelihood.bits_per_dimension(values))  # type: ignore[union-attr]
    # Of the mean weight, relative to it: that of the logarithm, to the first order. The variance of
    # the weights is the unbiased one.
    error = math.nan
    if samples > 1:
        variances = (1 / effective - 1 / samples).clamp(min=0) * (samples / (samples - 1))
        error = math.sqrt(variances.sum().item()) / len(values)
    return NegativeLogLikelihood(mean_of(values), bits, values, effective, error)
