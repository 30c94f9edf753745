"""One list a room: whatever stands in it keeps the room's contract."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import vaekit as vk

f64 = torch.float64

LATENTS: dict[str, Callable[[], nn.Module]] = {"GaussianLatent": lambda: vk.GaussianLatent(3)}

LIKELIHOODS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "Bernoulli": (lambda: vk.likelihoods.Bernoulli((2, 4)), torch.round),
    "Bernoulli, grey": (lambda: vk.likelihoods.Bernoulli((2, 4), grey_levels=True), lambda x: x),
    "Gaussian": (lambda: vk.likelihoods.Gaussian((2, 4), 0.5), lambda x: x),
    "Gaussian, learned": (
        lambda: vk.likelihoods.Gaussian((2, 4), learn_sigma=True),
        lambda x: x,
    ),
}

PRIORS: dict[str, Callable[[], nn.Module]] = {"StandardNormal": lambda: vk.priors.StandardNormal(3)}

TERMS: dict[str, Callable[[], vk.objectives.Term]] = {
    "Reconstruction": vk.Reconstruction,
    "KL": vk.KL,
    "KL, estimated": lambda: vk.KL(method="monte_carlo"),
    "TotalCorrelation": lambda: vk.TotalCorrelation(dataset_size=50),
    "TotalCorrelation, weighted": lambda: vk.TotalCorrelation("weighted", dataset_size=50),
    "DecomposedKL": lambda: vk.DecomposedKL(dataset_size=50),
}

DISTRIBUTIONS: dict[str, Callable[[], Distribution]] = {
    "DiagonalGaussian": lambda: vk.distributions.DiagonalGaussian(*torch.randn(2, 5, 3)),
    "StandardGaussian": lambda: vk.distributions.StandardGaussian(torch.zeros(5, 3)),
    "IndependentBernoulli": lambda: vk.distributions.IndependentBernoulli(torch.randn(5, 3)),
}


def of(cases: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", list(cases.values()), ids=list(cases))


@pytest.mark.parametrize(
    ("module", "cases", "others"),
    [
        (vk.latents, LATENTS, set()),
        (vk.likelihoods, LIKELIHOODS, {"Likelihood"}),
        (vk.priors, PRIORS, set()),
        (vk.objectives, TERMS, {"Loss", "Objective", "Term"}),
        (vk.distributions, DISTRIBUTIONS, {"log_prob_by_dimension"}),
    ],
    ids=["latents", "likelihoods", "priors", "objectives", "distributions"],
)
def test_every_public_name_is_on_its_list(module, cases, others) -> None:
    assert {name.split(",")[0] for name in cases} | others == set(module.__all__)


def build(
    latent: nn.Module | None = None,
    likelihood: nn.Module | None = None,
    prior: nn.Module | None = None,
) -> vk.VAE:
    torch.manual_seed(0)
    latent = latent or vk.GaussianLatent(3)
    likelihood = likelihood or vk.likelihoods.Bernoulli((2, 4))
    return vk.VAE(
        vk.Encoder(vk.networks.mlp(8, [16], latent.num_params), latent),
        vk.Decoder(vk.networks.mlp(3, [16], likelihood.num_params), likelihood),
        prior,
    )


def check(model: vk.VAE, objective: vk.objectives.Objective, x: Tensor) -> None:
    """Gradients to every parameter; the same after a copy, a round trip, a longer batch."""

    def loss(model: vk.VAE) -> Tensor:
        torch.manual_seed(1)
        return objective(model(x), x).total

    value = loss(model)
    assert value.isfinite()
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(loss(copy.deepcopy(model)), value)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(model.state_dict())
    assert torch.equal(loss(other), value)
    assert repr(model)
    assert repr(objective)


@of(LATENTS)
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_latents(case, dtype, device) -> None:
    latent = case().to(device)
    q = latent(torch.randn(5, 7, latent.num_params, dtype=dtype, device=device))
    assert (q.batch_shape, q.event_shape) == ((5, 7), (latent.dim,))
    z = q.rsample((2,))
    assert (z.shape, z.dtype, z.device.type) == ((2, 5, 7, latent.dim), dtype, device.type)
    assert q.log_prob(z).shape == (2, 5, 7)
    check(build(latent.cpu()), vk.Reconstruction() + vk.KL(), torch.rand(6, 2, 4).round())


@of(LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_likelihoods(case, dtype, device) -> None:
    make, to_support = case
    likelihood = make().to(device, dtype)
    x = to_support(torch.rand(7, 2, 4, dtype=dtype, device=device))
    params = torch.randn(5, 7, likelihood.num_params, dtype=dtype, device=device)
    p = likelihood(params)
    assert (p.batch_shape, p.event_shape) == ((5, 7), (2, 4))
    assert (p.mean.shape, p.mean.dtype) == ((5, 7, 2, 4), dtype)
    assert (p.log_prob(x).shape, p.log_prob(x).dtype) == ((5, 7), dtype)
    assert p.sample((3,)).shape == (3, 5, 7, 2, 4)
    # Flat or shaped, the parameters mean the same.
    assert torch.equal(likelihood(params.unflatten(-1, (2, 4))).mean, p.mean)
    model = build(likelihood=likelihood.cpu().float())
    check(model, vk.Reconstruction() + vk.KL(), x.cpu().float())


@of(PRIORS)
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_priors(case, dtype, device) -> None:
    prior = case().to(device, dtype)
    p = prior()
    assert (p.batch_shape, p.event_shape) == ((), (prior.dim,))
    z = p.sample((6,))
    assert (z.shape, z.dtype, z.device.type) == ((6, prior.dim), dtype, device.type)
    assert p.log_prob(z).shape == (6,)
    model = build(prior=prior.cpu().float())
    check(model, vk.Reconstruction() + vk.KL(), torch.rand(6, 2, 4).round())


@of(PRIORS)
def test_a_prior_integrates_to_one(case) -> None:
    prior = case().double()()
    prior = prior.expand(()) if prior.batch_shape else prior
    # By importance sampling from something wider, with its standard error.
    wide = vk.distributions.DiagonalGaussian(
        torch.zeros(3, dtype=f64), torch.full((3,), math.log(4.0), dtype=f64)
    )
    z = wide.sample((100_000,))
    ratio = (prior.log_prob(z) - wide.log_prob(z)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 100_000**0.5


@of(TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_terms(case, dtype, device) -> None:
    term, model = case(), build().to(device, dtype)
    x = torch.rand(6, 2, 4, dtype=dtype, device=device).round()
    value = term(model(x), x)
    assert value.shape in ((6,), ())
    assert value.dtype == dtype
    assert set(term.values(model(x), x)) == set(term.names) == set(term.weights(0))
    check(build(), vk.Reconstruction("other") + 0.5 * term, torch.rand(6, 2, 4).round())


@of(DISTRIBUTIONS)
def test_distributions(case) -> None:
    torch.manual_seed(0)
    p = case()
    x = p.sample((4,))
    assert x.shape == (4, 5, 3)
    assert p.support.check(x).all()
    assert p.log_prob(x).shape == (4, 5)
    assert p.entropy().shape == (5,)
    assert p.mean.shape == p.variance.shape == p.mode.shape == (5, 3)
    assert p.expand((2, 5)).log_prob(x[0]).shape == (2, 5)
    assert type(p).__name__ in repr(p)
    torch.testing.assert_close(
        torch.distributions.kl_divergence(p, p), torch.zeros(5), rtol=0, atol=1e-6
    )
    # The entropy is the expected negative log-density.
    draws = -p.log_prob(p.sample((20_000,)))
    spread = draws.std(0) / 20_000**0.5
    assert ((draws.mean(0) - p.entropy()).abs() < 5 * spread).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_autocast_stays_finite(dtype, device) -> None:
    model = build().to(device)
    x = torch.rand(6, 2, 4, device=device).round()
    with torch.autocast(device.type, dtype):
        total = (vk.Reconstruction() + vk.KL() + vk.TotalCorrelation(dataset_size=50))(
            model(x), x
        ).total
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
