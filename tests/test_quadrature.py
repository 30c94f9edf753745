"""Densities integrate to one, and draws have the distribution that the density says.

By quadrature in one and two dimensions; what integrates elsewhere (flows, priors, likelihoods,
spheres, simplices) does so in the tests of its own room. Two moments say little of a distribution,
so draws are held to the density by their counts in the cells of a grid, and by importance ratios.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from gaussians import z_score
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal
from zuko_flows import needs_zuko

import vaekit as vk
from vaekit.distributions import DiagonalGaussian
from vaekit.distributions.flows import FlowDistribution, import_zuko
from vaekit.hierarchy import BottomUp, Ladder, TopDown
from vaekit.latents import FlowLatent, FullGaussianLatent, LaplaceLatent
from vaekit.networks import mlp

f64 = torch.float64
HALF, PANELS = 14.0, 56  # standard deviations on either side, and the cells that they make


def made(latent: nn.Module) -> Distribution:
    """A posterior that is neither centred, nor round, nor wider than the grid."""
    torch.manual_seed(3)
    return latent.double()(0.5 * torch.randn(latent.num_params, dtype=f64))


def smooth(size_in: int, size_out: int) -> nn.Module:
    """A network that is far from linear, and whose outputs are not large."""
    net = mlp(size_in, [8], size_out, activation=nn.Tanh)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def top_down() -> TopDown:
    torch.manual_seed(1)
    return TopDown([1, 1], [smooth(1, 2)])


def bottom_up() -> BottomUp:
    torch.manual_seed(2)
    return BottomUp([1, 1], [smooth(1, 2)])


def spline(dim: int, context: int = 0) -> nn.Module:
    """A flow that is far from linear, so that what it makes of a Gaussian is none."""
    flow = import_zuko().flows.NSF(dim, context, transforms=2, hidden_features=(8,))
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    return flow.double()


def flow_prior(dim: int) -> Distribution:
    torch.manual_seed(4)
    return vk.priors.FlowPrior(spline(dim))()


def flow_latent(dim: int) -> Distribution:
    torch.manual_seed(5)
    return made(FlowLatent(dim, 2, spline(dim, 2)))


DENSITIES = {
    "FullGaussian, 1-D": lambda: made(FullGaussianLatent(1)),
    "FullGaussian, 2-D": lambda: made(FullGaussianLatent(2)),
    "Laplace, 1-D": lambda: made(LaplaceLatent(1)),
    "Laplace, 2-D": lambda: made(LaplaceLatent(2)),
    "Gaussian, 1-D": lambda: made(vk.GaussianLatent(1)),
    "Gaussian, 2-D": lambda: made(vk.GaussianLatent(2)),
    "TopDown": lambda: top_down().double()(),
    "BottomUp": lambda: made(bottom_up()),
    "Ladder": lambda: made(Ladder(top_down())),
}
FLOWS = {
    "FlowLatent, 1-D": lambda: flow_latent(1),
    "FlowLatent, 2-D": lambda: flow_latent(2),
    "FlowPrior, 1-D": lambda: flow_prior(1),
    "FlowPrior, 2-D": lambda: flow_prior(2),
}
#: Whose variance is known by a formula.
KNOWN = (DiagonalGaussian, MultivariateNormal, Independent)

of_densities = pytest.mark.parametrize("make", DENSITIES.values(), ids=DENSITIES)
of_flows = pytest.mark.parametrize(
    "make", [pytest.param(make, marks=needs_zuko) for make in FLOWS.values()], ids=FLOWS
)
of_all = pytest.mark.parametrize(
    "make",
    [*DENSITIES.values(), *(pytest.param(make, marks=needs_zuko) for make in FLOWS.values())],
    ids=[*DENSITIES, *FLOWS],
)


@dataclass(frozen=True)
class Cells:
    """A grid of cells around a density, and how much of it lies in each."""

    corner: Tensor  # (dim,)
    sides: Tensor  # (dim,), of each cell
    mass: Tensor  # (PANELS,) * dim

    def counts(self, z: Tensor) -> Tensor:
        """Count how many draws lie in each cell; those beyond the grid in its outermost ones."""
        index = ((z - self.corner) / self.sides).long().clamp(0, PANELS - 1)
        weights = PANELS ** torch.arange(z.shape[-1] - 1, -1, -1)
        return (index * weights).sum(-1).bincount(minlength=self.mass.numel())

    def z_score(self, z: Tensor) -> float:
        """Pearson's statistic of the counts, in standard deviations from its mean."""
        expected, counts = self.mass.flatten() * len(z), self.counts(z)
        rare = expected < 10  # are put together
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
        statistic = ((counts - expected).square() / expected).sum()
        free = len(expected) - 1
        return float((statistic - free) / (2 * free) ** 0.5)


def cells(p: Distribution, order: int) -> Cells:
    """By Gauss and Legendre in each of many cells; an edge goes through the mean, for kinks."""
    (dim,) = p.event_shape
    mean = p.mean.detach()
    spread = p.stddev if isinstance(p, KNOWN) else torch.ones_like(mean)
    sides = spread * (2 * HALF / PANELS)
    corner = mean - PANELS / 2 * sides
    at, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(order))
    panels = torch.arange(PANELS, dtype=f64)[:, None]
    along = (panels + (at + 1) / 2).flatten()
    grid = corner + sides * torch.cartesian_prod(*[along] * dim).reshape(-1, dim)
    with torch.no_grad():
        density = p.log_prob(grid).exp().reshape((PANELS, order) * dim)
    for number in range(dim):  # a panel's nodes come after it, and go as they are summed
        density = (density.movedim(number + 1, -1) * weights / 2).sum(-1) * sides[number]
    return Cells(corner, sides, density)


@of_densities
def test_it_integrates_to_one(make) -> None:
    assert abs(cells(make(), 8).mass.sum() - 1) < 1e-7


@of_all
def test_draws_have_the_distribution_of_the_density(make) -> None:
    p = make()
    found = cells(p, 5)
    torch.manual_seed(0)
    z = p.sample((20_000,))
    assert found.z_score(z) < 5
    # It finds a spread that is a tenth too large, and a mean a tenth off.
    assert found.z_score(1.1 * (z - p.mean) + p.mean) > 5
    assert found.z_score(z + 0.1 * z.std(0)) > 5
    if isinstance(p, FlowDistribution):  # and a distribution that has the same two moments
        covariance = z.T.cov().reshape(z.shape[1], -1)
        others = MultivariateNormal(z.mean(0), covariance).sample((20_000,))
        assert found.z_score(others) > 10


@of_flows
def test_a_flows_density_is_the_weight_of_its_draws(make) -> None:
    # The mean of p / q over draws of q is 1 for every density p that lies within q: for Gaussians
    # here and there, which look at the density in places that moments do not single out.
    q = make()
    z = q.sample((20_000,))
    centres = z[:10]
    around = DiagonalGaussian(centres, torch.full_like(centres, math.log(0.1)))
    with torch.no_grad():
        ratios = (around.log_prob(z[:, None]) - q.log_prob(z)[:, None]).exp()
    assert (z_score(ratios, 1.0).abs() < 5).all()
    assert z_score(1.2 * ratios.mean(1), 1.0).abs() > 5


@of_flows
def test_a_flows_draw_brings_the_density_that_inversion_finds(make) -> None:
    q = make()
    z = q.rsample((500,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-6, atol=1e-6)
