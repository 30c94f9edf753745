"""Faults that published implementations have, each written out, caught, and shown not to be ours.

Each test makes one check, asserts that the faulty form fails it and that ours passes.
"""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from gaussians import draw, z_score
from models import tiny
from test_linear_gaussian import linear_gaussian
from torch import Tensor
from torch.autograd import grad

import vaekit as vk
from vaekit import losses
from vaekit.distributions import DiagonalGaussian
from vaekit.losses import elbo as elbo_losses
from vaekit.losses import variational_bound
from vaekit.losses.elbo import _aggregate_log_densities

f64 = torch.float64


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def test_b1_stratified_weights_lie_on_the_diagonal() -> None:
    # Over all batches of 3 out of 5, the mean of the estimated density is the density: exactly.
    size, batch = 5, 3
    everything, z = draw(0, size, 2), draw(1, size, 2).mu
    exact = everything.log_prob(z[:, None]).exp().mean(1)

    def unbiased(estimate) -> bool:
        found: list[list[Tensor]] = [[] for _ in range(size)]
        for rows in permutations(range(size), batch):
            q = DiagonalGaussian(everything.mu[list(rows)], everything.logvar[list(rows)])
            for row, value in zip(rows, estimate(q, z[list(rows)]), strict=True):
                found[row].append(value.exp())
        return close(torch.stack([torch.stack(values).mean() for values in found]), exact)

    def ours(q: DiagonalGaussian, z: Tensor) -> Tensor:
        return _aggregate_log_densities(q, z, "stratified", size, None)[0]

    def weighed(weights: Tensor):
        return lambda q, z: (weights.log() + q.log_prob(z[:, None])).logsumexp(1)

    own, others = 1 / size, (size - 1) / (size * (batch - 1))
    on_the_diagonal = torch.full((batch, batch), others, dtype=f64).fill_diagonal_(own)
    in_a_column = torch.full((batch, batch), 1 / (batch - 1), dtype=f64)
    in_a_column[:, 0] = 1 / size
    in_a_column[:, 1] = (size - batch + 1) / (size * (batch - 1))

    assert unbiased(ours)
    assert unbiased(weighed(on_the_diagonal))
    assert not unbiased(weighed(in_a_column))


def test_b2_the_weight_counts_once_in_the_joint_density() -> None:
    # Every element has one posterior, so q(z) is known: its density, and a correlation of 0.
    q = DiagonalGaussian(torch.zeros(16, 10, dtype=f64), torch.zeros(16, 10, dtype=f64))
    z = q.rsample()

    def right(joint: Tensor, by_dimension: Tensor) -> bool:
        return close(joint, q.log_prob(z)) and close(joint, by_dimension.sum(-1))

    joint, by_dimension = _aggregate_log_densities(q, z, "stratified", 10_000, None)
    assert right(joint, by_dimension)
    weights = elbo_losses.stratified_log_weights(16, 10_000)[..., None]
    components = q.log_prob_by_dimension(z[:, None])
    for_each_dimension = (weights + components).sum(-1).logsumexp(1)
    assert not right(for_each_dimension, by_dimension)
    # And without the constant log(N B), weighted sampling gives a density 160,000 times too high.
    joint, by_dimension = _aggregate_log_densities(q, z, "weighted", 10_000, None)
    exact = q.log_prob(z) - math.log(10_000)
    assert close(joint, exact)
    assert not close(components.sum(-1).logsumexp(1), exact)


def test_b3_the_better_draw_weighs_more() -> None:
    values = torch.tensor([[0.1], [5.0]], dtype=f64)  # the losses of two draws
    normalised = (-values).softmax(0)

    def right(objective) -> bool:
        losses = values.clone().requires_grad_()
        (weights,) = grad(objective(losses).sum(), losses)
        return close(weights, normalised)

    def of_the_loss(losses: Tensor) -> Tensor:
        return (losses.softmax(0) * losses).sum(0)

    def not_detached(losses: Tensor) -> Tensor:
        return ((-losses).softmax(0) * losses).sum(0)

    assert right(lambda losses: -variational_bound(-losses))
    assert not right(of_the_loss)
    assert not right(not_detached)


def test_b4_the_bound_is_the_mean_of_the_weights_and_over_draws() -> None:
    log_weights = torch.randn(6, 4, dtype=f64)

    def right(bound) -> bool:
        whole = bound(log_weights)
        apart = torch.cat([bound(log_weights[:, [column]]) for column in range(4)])
        return close(whole.exp(), log_weights.exp().mean(0)) and close(whole, apart)

    def weighted_sum(log_weights: Tensor) -> Tensor:
        return (log_weights.softmax(0) * log_weights).sum(0)

    assert right(variational_bound)
    assert not right(weighted_sum)

    def grouped(bound) -> bool:
        exact = (log_weights[:3].exp().mean(0).log() + log_weights[3:].exp().mean(0).log()) / 2
        return close(bound(log_weights), exact)

    def over_the_wrong_axis(log_weights: Tensor) -> Tensor:
        return (log_weights.unflatten(0, (2, 3)).logsumexp(0) - math.log(2)).mean(0)

    assert grouped(lambda log_weights: variational_bound(log_weights, groups=2))
    assert not grouped(over_the_wrong_axis)


@pytest.mark.parametrize(
    "term",
    [
        vk.Reconstruction(),
        vk.KL(),
        vk.objectives.Capacity(3.0),
        vk.objectives.FreeBits(0.5),
        vk.objectives.BalancedKL([1, 1]),
        vk.objectives.LatentL2(),
        vk.objectives.ImportanceWeighted(),
        vk.objectives.AdversarialPrior(torch.nn.Linear(2, 1)),
        vk.objectives.AdversarialTotalCorrelation(torch.nn.Linear(2, 1)),
    ],
    ids=lambda term: term.name,
)
def test_b6_a_batch_repeated_has_the_same_loss(term: vk.objectives.Term) -> None:
    model, x = tiny().double(), torch.rand(4, 1, 8, 8, dtype=f64).round()
    q = model.encode(x)
    z = q.sample((3,))

    def at(repeats: int) -> vk.vae.VAEOutput:
        mu, logvar = (value.repeat(repeats, 1) for value in q)
        again = z.repeat(1, repeats, 1)
        return vk.vae.VAEOutput(
            DiagonalGaussian(mu, logvar), again, model.decoder(again), model.prior()
        )

    def right(objective) -> bool:
        return close(objective(at(1), x), objective(at(8), x.repeat(8, 1, 1, 1)))

    both = vk.Reconstruction("other") + term.double()
    assert right(lambda out, x: both(out, x).total)

    def summed(out: vk.vae.VAEOutput, x: Tensor) -> Tensor:
        return vk.Reconstruction()(out, x).mean() + vk.KL()(out, x).sum()

    assert not right(summed)


def test_b7_the_kl_has_a_gradient_as_it_stands() -> None:
    x = torch.rand(4, 1, 8, 8, dtype=f64).round()

    def right(term) -> bool:
        model = tiny().double()
        gradients = grad((100 * term(model(x), x)).mean(), model.encoder.parameters())
        return all(gradient.abs().sum() > 0 for gradient in gradients)

    def clamped(out: vk.vae.VAEOutput, x: Tensor) -> Tensor:
        return vk.KL()(out, x).clamp(0, 0)

    for term in (vk.KL(), vk.objectives.Capacity(0.0), vk.objectives.FreeBits(1e-6)):
        assert right(term)
    assert not right(clamped)


@pytest.mark.parametrize(
    "kind", [vk.objectives.AdversarialTotalCorrelation, vk.objectives.AdversarialPrior]
)
def test_b8_the_discriminators_gradient_stays_its_own(kind) -> None:
    x = torch.rand(8, 1, 8, 8).round()

    def right(term, inner_loss) -> bool:
        model = tiny()
        out = model(x)
        term.zero_grad()
        inner_loss(out).backward(retain_graph=True)
        leaked = any(p.grad is not None for p in model.parameters())
        own = all(p.grad is not None for p in term.parameters())
        term.zero_grad()
        term(out, x).mean().backward()
        reached = all(p.grad is not None for p in model.encoder.parameters())
        return own and reached and not leaked and all(p.grad is None for p in term.parameters())

    term = kind(vk.networks.mlp(2, [8], 1))
    assert right(term, lambda out: term.inner_loss(out, x))

    def leaking(out: vk.vae.VAEOutput) -> Tensor:
        logits = term.discriminator(out.z).flatten()
        others = term.discriminator(losses.permute_dimensions(out.z)).flatten()
        return losses.discrimination(logits, others)

    assert not right(term, leaking)


def test_b9_covariances_are_of_the_batch_and_divided_by_it() -> None:
    q = draw(0, 512, 4)

    def right(off_identity) -> bool:
        covariance = torch.as_tensor(np.cov(q.mu.numpy(), rowvar=False))
        exact = (covariance - torch.eye(4, dtype=f64)).square().sum()
        return close(off_identity(q.mu), exact)

    def undivided(mu: Tensor) -> Tensor:
        centred = mu - mu.mean(0)
        return (centred.T @ centred - torch.eye(4, dtype=f64)).square().sum()

    def over_the_wrong_axis(mu: Tensor) -> Tensor:
        centred = mu - mu.mean(1, keepdim=True)
        return (centred.T @ centred / 511 - torch.eye(4, dtype=f64)).square().sum()

    assert right(lambda mu: losses.dip(DiagonalGaussian(mu, q.logvar)))
    assert not right(undivided)
    assert not right(over_the_wrong_axis)


def test_b9_the_discrepancy_leaves_out_pairs_of_a_point_with_itself() -> None:
    def unbiased(estimate) -> bool:
        draws = torch.stack([estimate(*torch.randn(2, 8, 2, dtype=f64)) for _ in range(200)])
        return abs(z_score(draws, 0.0)) < 5

    kernel = losses.RBF(1.0)

    def of_all_pairs(z: Tensor, reference: Tensor) -> Tensor:
        def mean(one: Tensor, other: Tensor) -> Tensor:
            return kernel((one[:, None] - other).square().sum(-1)).mean()

        return mean(z, z) + mean(reference, reference) - 2 * mean(z, reference)

    assert unbiased(lambda z, reference: losses.mmd(z, reference, kernel))
    assert not unbiased(of_all_pairs)


def test_b9_draws_have_the_variance_that_the_divergence_takes() -> None:
    logvar = torch.tensor([-6.0, 0.0, 5.0], dtype=f64)
    kl = 0.5 * (logvar.exp() - 1 - logvar)

    def right(sample) -> bool:
        # The mean of log q - log p over draws is the KL only if they come from that very q.
        q = DiagonalGaussian(torch.zeros(3, dtype=f64), logvar)
        z = sample(q, 50_000)
        p = DiagonalGaussian(torch.zeros(3, dtype=f64), torch.zeros(3, dtype=f64))
        estimates = q.log_prob_by_dimension(z) - p.log_prob_by_dimension(z)
        return bool((z_score(estimates[:, ::2], kl[::2]).abs() < 5).all())

    def squashed(q: DiagonalGaussian, n: int) -> Tensor:
        return q.mu + (0.5 * q.logvar.tanh()).exp() * torch.randn(n, 3, dtype=f64)

    assert right(lambda q, n: q.sample((n,)))
    assert not right(squashed)


class TestB5:
    """The likelihood's estimate draws what it was asked to, and has its sign.

    On the linear-Gaussian model with the exact posterior every weight is p(x) itself, so that the
    estimate has to be -log p(x) whatever the number of draws.
    """

    @pytest.fixture(scope="class")
    def known(self) -> tuple[vk.VAE, Tensor, Tensor]:
        model, marginal = linear_gaussian(0)
        x = marginal.sample((6,))
        return model, x, -marginal.log_prob(x)

    @staticmethod
    def ours(model: vk.VAE, x: Tensor, samples: int) -> Tensor:
        return vk.metrics.negative_log_likelihood(model, x, samples=samples).by_element

    @staticmethod
    def faulty(model: vk.VAE, x: Tensor, samples: int) -> Tensor:
        """The number asked for is read and thrown away; what comes back is log p(x)."""
        out = model(x, 100)
        log_weights = losses.importance_log_weights(
            out.likelihood, out.posterior, out.prior, x, out.z
        )
        return log_weights.logsumexp(0) - math.log(100)

    def test_b5_as_many_draws_are_decoded_as_were_asked_for(self, known) -> None:
        model, x, _ = known

        def right(estimate) -> bool:
            return all(draws_of(model, x, estimate, asked) == asked for asked in (1, 7, 60, 130))

        assert right(self.ours)
        assert not right(self.faulty)

    def test_b5_the_sign_is_that_of_a_negative_log_likelihood(self, known) -> None:
        model, x, exact = known

        def right(estimate) -> bool:
            return close(estimate(model, x, 100), exact)

        assert (exact > 0).any()  # else the sign would say nothing
        assert right(self.ours)
        assert not right(self.faulty)
        assert right(lambda *args: -self.faulty(*args))  # the sign is what it failed by


def draws_of(model: vk.VAE, x: Tensor, estimate, asked: int) -> int:
    """Count the draws of each element that go through the decoder."""
    drawn: list[int] = []
    count = model.decoder.register_forward_pre_hook(
        lambda _, args: drawn.append(args[0].numel() // (len(x) * args[0].shape[-1]))
    )
    try:
        estimate(model, x, asked)
    finally:
        count.remove()
    return sum(drawn)


def test_b10_beyond_its_range_a_log_variance_has_a_gradient_that_leads_back() -> None:
    def leads_back(tamed) -> bool:
        extreme = torch.tensor([-1e4, -50.0, 50.0, 1e4], requires_grad=True)
        loss = 0.5 * (tamed(extreme).expm1() - tamed(extreme)).sum()
        (gradient,) = grad(loss, extreme)
        finite = bool(loss.isfinite() and gradient.isfinite().all())
        return finite and torch.equal(gradient.sign(), extreme.detach().sign())

    def ours(logvar: Tensor) -> Tensor:
        return DiagonalGaussian(torch.zeros_like(logvar), logvar)._log_variance

    assert leads_back(ours)
    assert not leads_back(lambda logvar: logvar.clamp(-30, 20))
    # And so it does through the divergence itself.
    logvar = torch.tensor([[-1e4, -50.0, 50.0, 1e4]], requires_grad=True)
    (gradient,) = grad(vk.kl_divergence(torch.zeros_like(logvar), logvar).sum(), logvar)
    assert torch.equal(gradient.sign(), logvar.detach().sign())


@pytest.mark.parametrize("event", [(5,), (4, 5), (3, 4, 5)], ids=["1-D", "2-D", "3-D"])
def test_b10_the_divergence_is_a_number_for_each_element_whatever_the_latents_shape(event) -> None:
    mu, logvar = torch.randn(2, 2, *event, dtype=f64)
    exact = 0.5 * (logvar.exp() - 1 - logvar + mu.square()).flatten(1).sum(1)

    def right(divergence) -> bool:
        try:
            kl = divergence(mu, logvar)
        except (IndexError, ValueError):
            return False
        return kl.shape == exact.shape and close(kl, exact)

    def ours(mu: Tensor, logvar: Tensor) -> Tensor:
        return vk.kl_divergence(DiagonalGaussian(mu, logvar, event_ndims=len(event)))

    def of_pictures(mu: Tensor, logvar: Tensor) -> Tensor:  # the dimensions are written into it
        return 0.5 * (logvar.exp() - 1 - logvar + mu.square()).sum(dim=[1, 2, 3])

    def of_vectors(mu: Tensor, logvar: Tensor) -> Tensor:
        return 0.5 * (logvar.exp() - 1 - logvar + mu.square()).sum(dim=-1)

    assert right(ours)
    assert right(of_pictures) == (len(event) == 3)
    assert right(of_vectors) == (len(event) == 1)


def test_b11_the_average_is_over_the_draws_there_are() -> None:
    # Seven draws in chunks of three are 3 + 3 + 1. Drawn in whole chunks, they would be nine.
    asked, chunk = 7, 3
    model, marginal = linear_gaussian(0)  # every weight is p(x), so that only the divisor counts
    x = marginal.sample((6,))
    exact = -marginal.log_prob(x)

    def ours(model: vk.VAE, x: Tensor, samples: int) -> Tensor:
        found = vk.metrics.negative_log_likelihood(model, x, samples=samples, chunk=chunk)
        return found.by_element

    def faulty(model: vk.VAE, x: Tensor, samples: int) -> Tensor:  # nine drawn, divided by seven
        total = torch.full((len(x),), -math.inf, dtype=f64)
        for _ in range(math.ceil(samples / chunk)):
            out = model(x, chunk)
            log_weights = losses.importance_log_weights(
                out.likelihood, out.posterior, out.prior, x, out.z
            )
            total = torch.logaddexp(total, log_weights.logsumexp(0))
        return math.log(samples) - total

    def right(estimate) -> bool:
        return close(estimate(model, x, asked), exact)

    assert draws_of(model, x, ours, asked) == 7
    assert draws_of(model, x, faulty, asked) == 9
    assert right(ours)
    assert not right(faulty)
    assert close(exact - faulty(model, x, asked), torch.full_like(exact, math.log(9 / 7)))
    # The bound, of which the metric is not made, divides by what it is given too.
    log_weights = torch.randn(8, 5, dtype=f64)
    assert close(variational_bound(log_weights), log_weights.exp().mean(0).log())
    with pytest.raises(ValueError, match="log_weights"):
        variational_bound(log_weights[:0])
