"""One list a room: whatever stands in it keeps the room's contract."""

import copy
import importlib
import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Laplace

import vaekit as vk
import vaekit.sklearn

f64 = torch.float64

LATENTS: dict[str, Callable[[], nn.Module]] = {
    "GaussianLatent": lambda: vk.GaussianLatent(3),
    "FullGaussianLatent": lambda: vk.latents.FullGaussianLatent(3),
    "LaplaceLatent": lambda: vk.latents.LaplaceLatent(3),
    "CategoricalLatent": lambda: vk.latents.CategoricalLatent(2, 3),
    "CategoricalLatent, hard": lambda: vk.latents.CategoricalLatent(2, 3, hard=True),
    "BernoulliLatent": lambda: vk.latents.BernoulliLatent(3),
    "BernoulliLatent, hard": lambda: vk.latents.BernoulliLatent(3, hard=True),
    "PowerSphericalLatent": lambda: vk.latents.PowerSphericalLatent(3),
    "ProductLatent": lambda: vk.latents.ProductLatent(
        vk.GaussianLatent(2), vk.latents.CategoricalLatent(1, 3, hard=True)
    ),
    "FlowLatent": lambda: vk.latents.FlowLatent(3, 4),
}

#: Those whose posterior is a point: no density, and so no KL.
POINTS: dict[str, Callable[[], nn.Module]] = {
    "DeterministicLatent": lambda: vk.latents.DeterministicLatent(3),
    "VectorQuantizedLatent": lambda: vk.latents.VectorQuantizedLatent(4, 8, variables=2),
}

LIKELIHOODS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "Bernoulli": (lambda: vk.likelihoods.Bernoulli((2, 4)), torch.round),
    "Bernoulli, grey": (lambda: vk.likelihoods.Bernoulli((2, 4), grey_levels=True), lambda x: x),
    "Gaussian": (lambda: vk.likelihoods.Gaussian((2, 4), 0.5), lambda x: x),
    "Gaussian, learned": (
        lambda: vk.likelihoods.Gaussian((2, 4), learn_sigma=True),
        lambda x: x,
    ),
    "Gaussian, per pixel": (lambda: vk.likelihoods.Gaussian((2, 4), "per_pixel"), lambda x: x),
    "Gaussian, optimal": (lambda: vk.likelihoods.Gaussian((2, 4), "optimal"), lambda x: x),
    "Laplace": (lambda: vk.likelihoods.Laplace((2, 4), learn_sigma=True), lambda x: x),
    "StudentT": (lambda: vk.likelihoods.StudentT((2, 4), df=3), lambda x: x),
    "ContinuousBernoulli": (lambda: vk.likelihoods.ContinuousBernoulli((2, 4)), lambda x: x),
    "DiscretizedLogistic": (
        lambda: vk.likelihoods.DiscretizedLogistic((2, 4)),
        lambda x: (x * 255).round() / 255,
    ),
    "DiscretizedLogistic, mixed": (
        lambda: vk.likelihoods.DiscretizedLogistic((2, 4), components=3),
        lambda x: (x * 255).round() / 255,
    ),
    "Categorical": (
        lambda: vk.likelihoods.Categorical((2, 4), 3),
        lambda x: (2 * x).round(),
    ),
    "Poisson": (lambda: vk.likelihoods.Poisson((2, 4)), lambda x: (5 * x).round()),
    "NegativeBinomial": (
        lambda: vk.likelihoods.NegativeBinomial((2, 4)),
        lambda x: (5 * x).round(),
    ),
    "Mixed": (
        lambda: vk.likelihoods.Mixed(
            [
                ([3, 0, 4], vk.likelihoods.Gaussian(3, learn_sigma=True)),
                ([1, 2], vk.likelihoods.Bernoulli(2)),
                ([5], vk.likelihoods.Categorical(1, 3)),
                ([6, 7], vk.likelihoods.Poisson(2)),
            ]
        ),
        torch.round,
    ),
}

PRIORS: dict[str, Callable[[], nn.Module]] = {
    "StandardNormal": lambda: vk.priors.StandardNormal(3),
    "Fixed": lambda: vk.priors.Fixed(
        Independent(Laplace(torch.zeros(3), torch.ones(3)), 1),
    ),
    "MixtureOfGaussians": lambda: vk.priors.MixtureOfGaussians(3, 4),
    "FlowPrior": lambda: vk.priors.FlowPrior(
        vk.distributions.import_zuko().flows.NSF(3, transforms=2)
    ),
}

TERMS: dict[str, Callable[[], vk.objectives.Term]] = {
    "Reconstruction": vk.Reconstruction,
    "KL": vk.KL,
    "KL, estimated": lambda: vk.KL(method="monte_carlo"),
    "TotalCorrelation": lambda: vk.TotalCorrelation(dataset_size=50),
    "TotalCorrelation, weighted": lambda: vk.TotalCorrelation("weighted", dataset_size=50),
    "DecomposedKL": lambda: vk.DecomposedKL(dataset_size=50),
    "AdversarialPrior": lambda: vk.objectives.AdversarialPrior(vk.networks.mlp(3, [8], 1)),
    "AdversarialTotalCorrelation": lambda: vk.objectives.AdversarialTotalCorrelation(
        vk.networks.mlp(3, [8], 1)
    ),
    "BalancedKL": lambda: vk.objectives.BalancedKL([1, 2]),
    "Capacity": lambda: vk.objectives.Capacity(vk.schedules.Linear(0, 5, steps=10)),
    "DIP": vk.objectives.DIP,
    "DIP, within": lambda: vk.objectives.DIP(within=True),
    "FreeBits": lambda: vk.objectives.FreeBits(0.1),
    "GradientPenalty": vk.objectives.GradientPenalty,
    "ImportanceWeighted": vk.objectives.ImportanceWeighted,
    "ImportanceWeighted, Renyi": lambda: vk.objectives.ImportanceWeighted(0.5, groups=3),
    "ImportanceWeighted, STL": lambda: vk.objectives.ImportanceWeighted(gradient="stl"),
    "ImportanceWeighted, DReG": lambda: vk.objectives.ImportanceWeighted(gradient="dreg"),
    "LatentL2": vk.objectives.LatentL2,
    "MMD": vk.objectives.MMD,
    "MMD, RBF": lambda: vk.objectives.MMD(vk.losses.RBF(1.0)),
}

DISTRIBUTIONS: dict[str, Callable[[], Distribution]] = {
    "DiagonalGaussian": lambda: vk.distributions.DiagonalGaussian(*torch.randn(2, 5, 3)),
    "StandardGaussian": lambda: vk.distributions.StandardGaussian(torch.zeros(5, 3)),
    "IndependentBernoulli": lambda: vk.distributions.IndependentBernoulli(torch.randn(5, 3)),
    "RelaxedCategorical": lambda: vk.distributions.RelaxedCategorical(
        torch.randn(5, 1, 3), hard=True
    ),
    "RelaxedBernoulli": lambda: vk.distributions.RelaxedBernoulli(torch.randn(5, 3), hard=True),
    "UniformSphere": lambda: vk.distributions.UniformSphere(torch.zeros(5, 3)),
    "Joint": lambda: vk.distributions.Joint(
        [
            vk.distributions.StandardGaussian(torch.zeros(5, 1)),
            vk.distributions.RelaxedBernoulli(torch.randn(5, 2), hard=True),
        ]
    ),
}

#: Those that lack part of the contract, tested in files of their own.
PARTIAL = {"Chain", "FlowDistribution", "Mixture", "PointMass", "PowerSpherical"}
FUNCTIONS = {"detached", "import_zuko", "log_prob_by_dimension"}


def of(cases: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", list(cases.values()), ids=list(cases))


@pytest.mark.parametrize(
    ("module", "cases", "others"),
    [
        (vk.latents, LATENTS | POINTS, {"Latent"}),
        (vk.likelihoods, LIKELIHOODS, {"Likelihood"}),
        # The first two need a model, and are tested with one in test_priors.py.
        (
            vk.priors,
            PRIORS,
            {"VampPrior", "ConditionalPrior", "fit_flow", "fit_gaussian_mixture"},
        ),
        # A commitment is that of a quantised latent, and is tested with one elsewhere.
        (vk.objectives, TERMS, {"Commitment", "Loss", "Objective", "Term"}),
        (vk.distributions, DISTRIBUTIONS, PARTIAL | FUNCTIONS),
    ],
    ids=["latents", "likelihoods", "priors", "objectives", "distributions"],
)
def test_every_public_name_is_on_its_list(module, cases, others) -> None:
    assert {name.split(",")[0] for name in cases} | others == set(module.__all__)


def _documented() -> list[str]:
    """The public functions, and the classes that are built, subclassed or caught."""
    found = {}
    for room in (vk, *(getattr(vk, name) for name in vk.__all__), vaekit.sklearn):
        for name in room.__all__ if inspect.ismodule(room) else ():
            given = getattr(room, name)
            result = isinstance(given, type) and issubclass(given, tuple)  # what a function returns
            if callable(given) and getattr(given, "__doc__", None) and not result:
                found[f"{room.__name__}.{name}"] = given
    bases = {"vaekit.pretrained.Pretrained", "vaekit.sklearn.VAEEstimator"}
    kept = {name: each for name, each in found.items() if name not in bases}
    return [name for name, each in kept.items() if str(each.__module__).startswith("vaekit.")]


@pytest.mark.parametrize("name", _documented())
def test_every_public_name_has_an_example(name: str) -> None:
    room, _, own = name.rpartition(".")
    assert "Example:" in inspect.getdoc(getattr(importlib.import_module(room), own))


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
        vk.Decoder(vk.networks.mlp(latent.dim, [16], likelihood.num_params), likelihood),
        prior,
    )


def check(
    model: vk.VAE, objective: vk.objectives.Objective, x: Tensor, samples: int | None = None
) -> None:
    """Gradients to every parameter; the same after a copy, a round trip, a longer batch."""

    def loss(model: vk.VAE) -> Tensor:
        torch.manual_seed(1)
        return objective(model(x, samples), x).total

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
    latent = case().to(device, dtype)
    q = latent(torch.randn(5, 7, latent.num_params, dtype=dtype, device=device))
    assert (q.batch_shape, q.event_shape) == ((5, 7), (latent.dim,))
    z = q.rsample((2,))
    assert (z.shape, z.dtype, z.device.type) == ((2, 5, 7, latent.dim), dtype, device.type)
    assert q.log_prob(z).shape == (2, 5, 7)
    check(build(latent.cpu().float()), vk.Reconstruction() + vk.KL(), torch.rand(6, 2, 4).round())


@of(POINTS)
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_points(case, dtype, device, refuses) -> None:
    latent = case().to(device, dtype).eval()
    params = torch.randn(5, latent.num_params, dtype=dtype, device=device, requires_grad=True)
    q = latent(params)
    assert (q.batch_shape, q.event_shape) == ((5,), (latent.dim,))
    z = q.rsample((2,))
    assert (z.shape, z.dtype, z.device.type) == ((2, 5, latent.dim), dtype, device.type)
    assert torch.equal(z[0], z[1])
    z.sum().backward()
    assert params.grad is not None
    refuses(TypeError, lambda: q.log_prob(z), "posterior", "density")
    model = build(latent.cpu().float())
    check(model.eval(), 1 * vk.Reconstruction(), torch.rand(6, 2, 4).round())


@of(LIKELIHOODS)
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_likelihoods(case, dtype, device) -> None:
    make, to_support = case
    likelihood = make().to(device, dtype)
    shape = tuple(likelihood.shape)
    x = to_support(torch.rand(7, *shape, dtype=dtype, device=device))
    params = torch.randn(5, 7, likelihood.num_params, dtype=dtype, device=device)
    p = likelihood(params)
    assert (p.batch_shape, p.event_shape) == ((5, 7), shape)
    assert (p.mean.shape, p.mean.dtype) == ((5, 7, *shape), dtype)
    assert (p.log_prob(x).shape, p.log_prob(x).dtype) == ((5, 7), dtype)
    assert p.sample((3,)).shape == (3, 5, 7, *shape)
    # Flat or shaped, the parameters mean the same.
    assert torch.equal(likelihood(params.unflatten(-1, (-1, *shape[1:]))).mean, p.mean)
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
    term, model = case().to(device, dtype), build().to(device, dtype)
    samples = 6 if term.needs_draws else None
    x = torch.rand(6, 2, 4, dtype=dtype, device=device).round()
    value = term(model(x, samples), x)
    assert value.shape in ((6,), ())
    assert value.dtype == dtype
    assert set(term.values(model(x, samples), x)) == set(term.names) == set(term.weights(0))
    objective = vk.Reconstruction("other") + 0.5 * term.cpu().float()
    check(build(), objective, torch.rand(6, 2, 4).round(), samples)


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
    assert ((draws.mean(0) - p.entropy()).abs() < 5 * spread + 1e-5).all()  # rounding, of constants


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_half_precision_takes_its_own_pictures(dtype, device) -> None:
    model = build().to(device, dtype)
    x = torch.rand(6, 2, 4, device=device).round().to(dtype)
    pictures = [model.reconstruct(x), model(x).x_hat, model.decode(model.encode_to_latent(x, 3))]
    pictures += [model.sample(6), model.sample(6, draw=True)]
    for each in pictures:
        assert each.dtype == dtype
        assert model.encode(each.reshape(-1, 2, 4)).mean.isfinite().all()
    with torch.autocast(device.type, torch.bfloat16):  # which keeps single what it can
        assert build().to(device).reconstruct(x.float()).dtype == torch.float32


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
