"""Every part, small, and the rules that tell which of them go together.

The test of combinations holds the library to these rules in both directions: what they allow
trains, what they refuse raises an error that names the argument. The tables of the docs show what
was found by trying. Imports neither pytest nor hypothesis, so that the docs can.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

import vaekit as vk
from vaekit import latents, likelihoods, networks, objectives, priors
from vaekit.distributions.flows import import_zuko
from vaekit.hierarchy import BottomUp, Ladder, TopDown
from vaekit.networks import mlp

OWN = "the latent's own"  # prior
DIM, SIZES, N = 6, [4, 2], 12  # latent dimensions, those of a hierarchy, elements of data


@dataclass(frozen=True)
class Latent:
    """A latent, and what its posterior can do.

    The measure has a letter for each dimension, saying with respect to what there is a density:
    (r)eal numbers, the (u)nit interval, (b)inary values, (o)ne-hot vectors, a simple(x), a
    (s)phere. None where there is no density.
    """

    make: Callable[[nn.Module | None], Any]  # of the model's prior, where that comes first
    measure: str | None
    family: str  # what closed forms are known by
    by_dimension: bool = False
    covariance: bool = False  # independent dimensions, or a covariance matrix
    commitment: bool = False
    default: str = "StandardNormal"  # the family of its default prior
    needs: str | None = None


@dataclass(frozen=True)
class Prior:
    """A prior, and what it can do; ``make`` takes the encoder and some data."""

    make: Callable[[nn.Module, Tensor], Any]
    measure: str
    family: str
    by_dimension: bool = False
    rsample: bool = True
    needs: str | None = None


@dataclass(frozen=True)
class Term:
    """A term, and what it asks for."""

    make: Callable[[], Any]
    kl: str | None = None  # "any" way, by its closed form ("analytic"), or from "densities"
    posterior_by_dimension: bool = False
    prior_by_dimension: bool = False
    groups: bool = False  # whether it divides z as the hierarchies do
    permutes: bool = False  # whether it sets dimensions beside each other at random
    covariance: bool = False
    commitment: bool = False
    prior_rsample: bool = False
    draws: int | None = None  # what the number of draws is a multiple of; 0 for a single one
    batch: bool = False  # whether it compares the elements of a batch, so that one is too few


def top_down() -> TopDown:
    return TopDown(SIZES, [mlp(2, [5], 8)])


def _fixed(distribution: Any) -> Callable[..., Any]:
    return lambda encoder, x: priors.Fixed(distribution())


def _zeros() -> Tensor:
    return torch.zeros(DIM)


def _uniform(latent: Callable[[], Any]) -> Callable[..., Any]:
    return _fixed(lambda: latent().default_prior())


def _categorical(hard: bool = False) -> Any:
    return latents.CategoricalLatent(2, 3, hard=hard)


def _of(latent: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
    return lambda prior: latent(*args, **options)


def _beside(other: Callable[[], Any], size: int = 3) -> Callable[..., Any]:
    return lambda prior: latents.ProductLatent(vk.GaussianLatent(size), other())


LATENTS = {
    "GaussianLatent": Latent(_of(vk.GaussianLatent, DIM), "r" * DIM, "diagonal", True, True),
    "FullGaussianLatent": Latent(
        _of(latents.FullGaussianLatent, DIM), "r" * DIM, "full", covariance=True
    ),
    "LaplaceLatent": Latent(
        _of(latents.LaplaceLatent, DIM), "r" * DIM, "laplace", True, True, default="Fixed, Laplace"
    ),
    "FlowLatent": Latent(_of(latents.FlowLatent, DIM, 2), "r" * DIM, "flow", needs="zuko"),
    "PowerSphericalLatent": Latent(
        _of(latents.PowerSphericalLatent, DIM), "s" * DIM, "sphere", default="Fixed, on the sphere"
    ),
    "CategoricalLatent": Latent(
        lambda prior: _categorical(), "x" * DIM, "categorical", default="Fixed, categorical"
    ),
    "CategoricalLatent, hard": Latent(
        lambda prior: _categorical(True),
        "o" * DIM,
        "categorical",
        default="Fixed, categorical, hard",
    ),
    "BernoulliLatent": Latent(
        _of(latents.BernoulliLatent, DIM), "u" * DIM, "binary", True, True, default="Fixed, binary"
    ),
    "BernoulliLatent, hard": Latent(
        _of(latents.BernoulliLatent, DIM, hard=True),
        "b" * DIM,
        "binary",
        True,
        True,
        default="Fixed, binary, hard",
    ),
    "ProductLatent, of Gaussians": Latent(
        _beside(lambda: vk.GaussianLatent(2), 4), "r" * DIM, "joint", True, True, default=OWN
    ),
    "ProductLatent, with a full Gaussian": Latent(
        _beside(lambda: latents.FullGaussianLatent(3)),
        "r" * DIM,
        "joint",
        default=OWN,
    ),
    "ProductLatent, with a categorical": Latent(
        _beside(lambda: latents.CategoricalLatent(1, 3, hard=True)),
        "rrrooo",
        "joint",
        default=OWN,
    ),
    "ProductLatent, with a point": Latent(
        _beside(lambda: latents.DeterministicLatent(3)), None, "point", default=OWN
    ),
    "BottomUp": Latent(lambda prior: BottomUp(SIZES, [mlp(4, [5], 4)]), "r" * DIM, "chain"),
    "Ladder": Latent(
        lambda prior: Ladder(prior or top_down()), "r" * DIM, "chain", default="TopDown"
    ),
    "DeterministicLatent": Latent(_of(latents.DeterministicLatent, DIM), None, "point"),
    "VectorQuantizedLatent": Latent(
        _of(latents.VectorQuantizedLatent, DIM, 4, 2),
        None,
        "point",
        commitment=True,
        needs="vector_quantize_pytorch",
    ),
}

PRIORS = {
    "StandardNormal": Prior(
        lambda encoder, x: priors.StandardNormal(DIM), "r" * DIM, "diagonal", True
    ),
    "Fixed, normal": Prior(
        _fixed(lambda: Independent(Normal(_zeros(), 2.0 + _zeros()), 1)), "r" * DIM, "normal", True
    ),
    "Fixed, full normal": Prior(
        _fixed(lambda: MultivariateNormal(_zeros(), 2 * torch.eye(DIM))), "r" * DIM, "full"
    ),
    "Fixed, Laplace": Prior(
        _fixed(lambda: Independent(Laplace(_zeros(), 1.0 + _zeros()), 1)),
        "r" * DIM,
        "laplace",
        True,
    ),
    "MixtureOfGaussians, of one": Prior(
        lambda encoder, x: priors.MixtureOfGaussians(DIM, 1), "r" * DIM, "diagonal", True
    ),
    "MixtureOfGaussians": Prior(
        lambda encoder, x: priors.MixtureOfGaussians(DIM, 3), "r" * DIM, "mixture", rsample=False
    ),
    "VampPrior": Prior(
        lambda encoder, x: priors.VampPrior(encoder, x[:3], None), "", "mixture", rsample=False
    ),
    "FlowPrior": Prior(
        lambda encoder, x: priors.FlowPrior(
            import_zuko().flows.MAF(DIM, transforms=1, hidden_features=(5,))
        ),
        "r" * DIM,
        "flow",
        needs="zuko",
    ),
    "ConditionalPrior": Prior(
        lambda encoder, x: priors.ConditionalPrior(mlp(3, [5], 2 * DIM), DIM),
        "r" * DIM,
        "diagonal",
        True,
    ),
    "TopDown": Prior(lambda encoder, x: top_down(), "r" * DIM, "chain"),
    "Fixed, on the sphere": Prior(
        _uniform(lambda: latents.PowerSphericalLatent(DIM)), "s" * DIM, "sphere"
    ),
    "Fixed, categorical": Prior(_uniform(_categorical), "x" * DIM, "categorical"),
    "Fixed, categorical, hard": Prior(
        _uniform(lambda: _categorical(True)), "o" * DIM, "categorical"
    ),
    "Fixed, binary": Prior(
        _uniform(lambda: latents.BernoulliLatent(DIM)), "u" * DIM, "binary", True
    ),
    "Fixed, binary, hard": Prior(
        _uniform(lambda: latents.BernoulliLatent(DIM, hard=True)), "b" * DIM, "binary", True
    ),
    OWN: Prior(lambda encoder, x: None, "", "joint"),
}


def _critic() -> nn.Module:
    return mlp(DIM, [5], 1)


def _weighted(**options: Any) -> Callable[[], Any]:
    return lambda: objectives.ImportanceWeighted(**options)


TERMS = {
    "KL": Term(vk.KL, "any"),
    "KL, analytic": Term(lambda: vk.KL("analytic"), "analytic"),
    "KL, monte_carlo": Term(lambda: vk.KL("monte_carlo"), "densities"),
    "Capacity": Term(lambda: objectives.Capacity(vk.schedules.Linear(0, 5, 2)), "any"),
    "Capacity, groups": Term(
        lambda: objectives.Capacity([1.0, 2.0], groups=SIZES), "densities", groups=True
    ),
    "FreeBits": Term(lambda: objectives.FreeBits(0.1), "densities", True, True),
    "FreeBits, groups": Term(lambda: objectives.FreeBits(0.1, SIZES), "densities", groups=True),
    "BalancedKL": Term(lambda: objectives.BalancedKL(SIZES), "densities", groups=True),
    "DecomposedKL": Term(
        lambda: vk.DecomposedKL(total_correlation=3),
        "densities",
        True,
        True,
        draws=0,
        batch=True,
    ),
    "TotalCorrelation": Term(
        lambda: vk.TotalCorrelation(name="tc"),
        posterior_by_dimension=True,
        draws=0,
        batch=True,
    ),
    "AdversarialTotalCorrelation": Term(
        lambda: objectives.AdversarialTotalCorrelation(_critic(), name="adversarial_tc"),
        permutes=True,
    ),
    "MMD": Term(objectives.MMD, prior_rsample=True, batch=True),
    "AdversarialPrior": Term(lambda: objectives.AdversarialPrior(_critic())),
    "DIP": Term(objectives.DIP, batch=True),
    "DIP, within": Term(lambda: objectives.DIP(within=True), covariance=True, batch=True),
    "LatentL2": Term(objectives.LatentL2),
    "GradientPenalty": Term(objectives.GradientPenalty),
    "Commitment": Term(objectives.Commitment, commitment=True),
    "ImportanceWeighted": Term(_weighted(), "densities", draws=1),
    "ImportanceWeighted, alpha": Term(_weighted(alpha=0.5, groups=3), "densities", draws=3),
    "ImportanceWeighted, stl": Term(_weighted(gradient="stl"), "densities", draws=1),
    "ImportanceWeighted, dreg": Term(_weighted(gradient="dreg"), "densities", draws=1),
}

#: What makes each likelihood of a shape, and what turns uniform numbers into its data.
LIKELIHOODS: dict[str, tuple[Callable[..., Any], Callable[[Tensor], Tensor]]] = {
    "Bernoulli": (likelihoods.Bernoulli, torch.round),
    "Bernoulli, grey": (lambda shape: likelihoods.Bernoulli(shape, grey_levels=True), Tensor.clone),
    "ContinuousBernoulli": (likelihoods.ContinuousBernoulli, Tensor.clone),
    "Gaussian": (lambda shape: likelihoods.Gaussian(shape, 0.5), Tensor.clone),
    "Gaussian, learned": (
        lambda shape: likelihoods.Gaussian(shape, learn_sigma=True),
        Tensor.clone,
    ),
    "Gaussian, per_pixel": (lambda shape: likelihoods.Gaussian(shape, "per_pixel"), Tensor.clone),
    "Gaussian, optimal": (lambda shape: likelihoods.Gaussian(shape, "optimal"), Tensor.clone),
    "Laplace": (likelihoods.Laplace, lambda x: 3 * x),
    "StudentT": (lambda shape: likelihoods.StudentT(shape, 4), lambda x: 3 * x),
    "DiscretizedLogistic": (
        lambda shape: likelihoods.DiscretizedLogistic(shape, 5),
        lambda x: (4 * x).round() / 4,
    ),
    "DiscretizedLogistic, mixed": (
        lambda shape: likelihoods.DiscretizedLogistic(shape, 5, components=2),
        lambda x: (4 * x).round() / 4,
    ),
    "Categorical": (lambda shape: likelihoods.Categorical(shape, 4), lambda x: (3 * x).round()),
    "Poisson": (likelihoods.Poisson, lambda x: (5 * x).round()),
    "NegativeBinomial": (likelihoods.NegativeBinomial, lambda x: (5 * x).round()),
    "Mixed": (
        lambda shape: likelihoods.Mixed(
            [
                ([0, 5, 1], likelihoods.Gaussian(3, learn_sigma=True)),
                ([3], likelihoods.Bernoulli(1)),
                ([2, 4], likelihoods.Categorical(2, 2)),
            ]
        ),
        torch.round,
    ),
}
SHAPES = ((6,), (1, 8, 8))

_missing = {name for name in ("zuko", "vector_quantize_pytorch") if find_spec(name) is None}
LATENTS = {name: part for name, part in LATENTS.items() if part.needs not in _missing}
PRIORS = {name: part for name, part in PRIORS.items() if part.needs not in _missing}


@dataclass(frozen=True)
class Choice:
    """One combination, by the names above."""

    latent: str
    prior: str
    terms: tuple[str, ...]
    likelihood: str = "Bernoulli"
    shape: tuple[int, ...] = (6,)
    samples: int | None = None
    conditional: bool = False  # whether encoder and decoder take a context
    batch_size: int = 4


# --- The rules ----------------------------------------------------------------------------------
#
# 1. A mixture of posteriors (VampPrior) is one of posteriors with a density, and needs no context.
# 2. A Ladder shares the networks of the model's prior, which is a TopDown.
# 3. What compares the elements of a batch needs two of them in each; what estimates the aggregated
#    posterior takes one draw of each element; an importance-weighted bound takes a number that its
#    groups divide.
# 4. Densities by dimension are those of independent dimensions, of the posterior and, where the
#    term compares the two, of the prior.
#    What divides z into groups takes those, or two of DIVIDED; what permutes dimensions, any whose
#    values do not bind each other as those of one-hot vectors do.
# 5. A quantised posterior alone has a commitment; a mixture alone no reparameterised draws.
# 6. A divergence needs a posterior with a density.
# 7. Its closed form stands in CLOSED. Elsewhere it is a mean of differences of log-densities, and
#    both need to be with respect to one measure, and the posterior to lie within the prior. The
#    closed one of binary variables is that of the hard ones, so it is not mixed with a Gaussian.

#: Families of posterior and prior whose divergence has a closed form.
CLOSED = {
    *product(["diagonal"], ["diagonal", "normal", "full"]),
    *product(["full"], ["diagonal", "full"]),
    *product(["laplace"], ["diagonal", "normal", "laplace"]),
    *product(["joint"], ["diagonal", "joint"]),
    ("categorical", "categorical"),
    ("binary", "binary"),
    ("sphere", "sphere"),
}
#: Families that are divided as the hierarchies are.
DIVIDED = {"chain", "diagonal", "normal"}
#: Measures of posterior and prior, one of which lies within the other.
WITHIN = {("u", "r"), ("o", "b")}


def facts(choice: Choice) -> tuple[Latent, Prior]:
    """What is known of the latent and of the prior, where that depends on the latent."""
    latent, prior = LATENTS[choice.latent], PRIORS[choice.prior]
    if choice.prior == OWN and latent.default != OWN:
        prior = PRIORS[latent.default]
    elif choice.prior == OWN:
        prior = replace(prior, by_dimension=latent.by_dimension)
    return latent, replace(prior, measure=prior.measure or latent.measure or "")


def refusals(choice: Choice) -> set[str]:
    """The arguments that an error may name; empty where the combination is possible."""
    q, p = facts(choice)
    found = set()
    if choice.prior == "VampPrior" and q.measure is None:
        found.add("encoder")
    if choice.prior == "VampPrior" and choice.conditional:
        found.add("encoder")
    if choice.latent == "Ladder" and choice.prior not in (OWN, "TopDown"):
        found.add("prior")
    if found:  # there is no model to try the terms with
        return found
    for name in choice.terms:
        found |= _refused(TERMS[name], q, p)
        if TERMS[name].batch and N % choice.batch_size == 1:
            found |= {"batch_size", "posterior", "z"}
        draws, samples = TERMS[name].draws, choice.samples
        if draws and samples is None:
            found.add("samples")
        elif draws and samples % draws:
            found |= {"samples", "log_weights"}  # by fit at once, by the loss when called
        elif draws == 0 and samples is not None:
            found.add("z")
    return found


def _refused(term: Term, q: Latent, p: Prior) -> set[str]:
    found = set()
    if term.posterior_by_dimension > q.by_dimension:
        found.add("posterior")
    if term.prior_by_dimension > p.by_dimension:
        found.add("prior")
    divided = {q.family, p.family} <= DIVIDED | ({"joint"} if q.by_dimension else set())
    if term.groups and not (divided or (q.by_dimension and p.by_dimension)):
        found |= {"posterior"} if not q.by_dimension else {"prior"}
    if term.permutes and set(q.measure or "") & set("oxs"):
        found.add("posterior")
    if term.covariance > q.covariance:
        found.add("posterior")
    if term.commitment > q.commitment:
        found.add("posterior")
    if term.prior_rsample > p.rsample:
        found.add("prior")
    if term.kl is None:
        return found
    if q.measure is None:
        return (
            found | {"posterior", "method"} | (set() if set(p.measure) == {"r"} else {"prior", "x"})
        )
    closed = (q.family, p.family) in CLOSED and (q.family != "joint" or alike(q, p))
    if term.kl == "analytic" and not closed:
        found.add("method")
    if not (closed and term.kl != "densities") and not alike(q, p):
        found |= {"prior", "x"}
    if term.kl != "densities" and (q.family, p.family) == ("binary", "diagonal"):
        found.add("prior")
    return found


def alike(q: Latent, p: Prior) -> bool:
    """Whether posterior and prior have densities that can be compared."""
    pairs = zip(q.measure or "", p.measure, strict=False)
    return all(one == other or (one, other) in WITHIN for one, other in pairs)


# --- The models ---------------------------------------------------------------------------------


def data(choice: Choice) -> tuple[Tensor, Tensor]:
    """Data that the likelihood explains, and a context."""
    uniform = torch.rand(N, *choice.shape, generator=torch.Generator().manual_seed(0))
    return LIKELIHOODS[choice.likelihood][1](uniform), torch.eye(3)[torch.arange(N) % 3]


def build(choice: Choice, seed: int = 0) -> vk.VAE:
    torch.manual_seed(seed)
    x, _ = data(choice)
    likelihood = LIKELIHOODS[choice.likelihood][0](choice.shape)
    prior = top_down() if choice.prior == "TopDown" else None
    latent = LATENTS[choice.latent].make(prior)
    encoder = vk.Encoder(_encoding(choice, latent.num_params), latent)
    decoder = vk.Decoder(_decoding(choice, latent, likelihood), likelihood)
    return vk.VAE(encoder, decoder, prior or PRIORS[choice.prior].make(encoder, x))


def _encoding(choice: Choice, out: int) -> nn.Module:
    first, *sides = choice.shape
    shape = (first + 3 * choice.conditional, *sides)
    net = networks.conv(shape, [2], out) if sides else mlp(shape, [8], out)
    return networks.Conditioned(net, 3) if choice.conditional else net


def _decoding(choice: Choice, latent: nn.Module, likelihood: likelihoods.Likelihood) -> nn.Module:
    _, *sides = choice.shape
    if isinstance(latent, BottomUp | Ladder):
        return networks.FirstOf(mlp(SIZES[0], [8], likelihood.num_params), DIM)
    size = DIM + 3 * choice.conditional
    channels = likelihood.num_params // likelihood.shape[1:].numel()
    if sides:
        net = networks.conv_transpose(size, [2], (channels, *sides))
    else:
        net = mlp(size, [8], channels)
    return networks.Conditioned(net, 3) if choice.conditional else net


def objective(choice: Choice) -> vk.objectives.Objective:
    return sum((0.25 * TERMS[name].make() for name in choice.terms), 1 * vk.Reconstruction())


def run(choice: Choice, model: vk.VAE, batch: int = N) -> dict[str, Tensor]:
    """What each term is for a batch, without the mean over its elements."""
    x, context = (part[:batch] for part in data(choice))
    out = model(x, choice.samples, context if model.takes_context else None)
    values = {}
    for term in objective(choice).terms:
        if hasattr(term, "run_size"):
            term.run_size = N
        values |= term.values(out, x)
    return values
