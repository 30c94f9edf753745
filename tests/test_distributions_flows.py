import copy
import pickle
import subprocess
import sys

import pytest
import torch
import torch.distributions as td
from gaussians import dims, draw, seeds, z_score
from hypothesis import given
from torch import Tensor
from zuko_flows import maf, needs_zuko

import vaekit as vk
from vaekit.distributions import StandardGaussian
from vaekit.distributions.flows import FlowDistribution

f64 = torch.float64
pytestmark = needs_zuko


def carried(batch: int, dim: int, seed: int = 0) -> FlowDistribution:
    """A batch of Gaussians under one transform, which a gradient reaches."""
    torch.manual_seed(seed)
    base = draw(seed, batch, dim)
    base.mu.requires_grad_()
    return FlowDistribution([maf(dim).transform()], base)


@given(seed=seeds, dim=dims)
def test_the_density_of_its_own_draw_is_that_by_inversion(seed: int, dim: int) -> None:
    q = carried(3, dim, seed)
    z = q.rsample((2,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=0, atol=1e-6)


def test_their_gradients_are_the_same() -> None:
    q = carried(4, 3)
    z = q.rsample()
    own, inverted = (
        torch.autograd.grad(q.log_prob(value).sum(), q.base.mu, retain_graph=True)[0]
        for value in (z, z.clone())
    )
    torch.testing.assert_close(own, inverted, rtol=1e-8, atol=1e-8)


def test_a_draw_without_gradient_has_a_density_with_one() -> None:
    q = carried(4, 3)
    with torch.no_grad():
        z = q.rsample()
    assert not z.requires_grad
    for value in (z, q.sample()):
        (gradient,) = torch.autograd.grad(q.log_prob(value).sum(), q.base.mu)
        assert gradient.any()


def test_only_the_latest_draw_is_kept() -> None:
    q = carried(4, 3)
    first, second = q.rsample(), q.rsample()
    expected = carried(4, 3)
    for z in (first, second):
        torch.testing.assert_close(q.log_prob(z), expected.log_prob(z), rtol=0, atol=1e-9)


@given(seed=seeds, dim=dims)
def test_of_an_exponential_it_is_the_log_normal(seed: int, dim: int) -> None:
    base = draw(seed, 3, dim)
    q = FlowDistribution([td.ExpTransform()], base)  # works on each dimension by itself
    p = td.Independent(td.LogNormal(base.mu, base.stddev), 1)
    torch.manual_seed(seed)
    z = q.rsample((2,))
    for value in (z, z.clone()):
        torch.testing.assert_close(q.log_prob(value), p.log_prob(value), rtol=1e-10, atol=1e-10)


def test_its_draws_have_the_moments_of_its_density() -> None:
    q = carried(1, 2)
    points = torch.linspace(-14, 14, 401, dtype=f64)
    grid = torch.cartesian_prod(points, points)
    with torch.no_grad():
        mass = q.log_prob(grid).exp() * (points[1] - points[0]) ** 2
        z = q.sample((20_000,))[:, 0]
    assert abs(mass.sum() - 1) < 1e-8
    for moment in (lambda z: z, Tensor.square):
        exact = (mass[:, None] * moment(grid)).sum(0)
        assert z_score(moment(z), exact).abs().max() < 5


class TestMean:
    def test_it_is_exact_where_the_transform_is_linear(self) -> None:
        base = draw(0, 4, 3)
        q = FlowDistribution([td.AffineTransform(2.0, -3.0)], base)
        torch.testing.assert_close(q.mean, 2 - 3 * base.mu, rtol=1e-10, atol=1e-10)

    def test_it_is_an_estimate_elsewhere_and_the_same_at_every_call(self) -> None:
        q = carried(4, 3)
        z = q.sample((20_000,))
        error = q.mean - z.mean(0)
        assert (error.abs() < 5 * z.std(0) / 128**0.5).all()
        assert torch.equal(q.mean, q.mean)
        assert q.mean.shape == (4, 3)


def test_it_expands() -> None:
    q, z = carried(1, 3), torch.randn(4, 3, dtype=f64)
    larger = q.expand((4,))
    assert (larger.batch_shape, larger.rsample((2,)).shape) == ((4,), (2, 4, 3))
    assert torch.equal(larger.log_prob(z), q.log_prob(z))


def test_another_shape_is_refused(refuses) -> None:
    q = carried(4, 3)
    refuses(ValueError, lambda: q.log_prob(torch.zeros(4, 2, dtype=f64)), "x", "(..., 3)")
    refuses(ValueError, lambda: q.log_prob(torch.zeros(5, 3, dtype=f64)), "x", "batch")


def test_by_dimension_it_has_no_densities(refuses) -> None:
    q = carried(4, 3)
    z = torch.zeros(4, 3, dtype=f64)
    refuses(
        TypeError,
        lambda: vk.distributions.log_prob_by_dimension(q, z),
        "distribution",
        "independent",
    )


def test_importing_zuko_leaves_torchs_checks_on() -> None:
    program = """
import torch
from torch.distributions import Distribution, Normal
before = Distribution._validate_args, Distribution.arg_constraints
from vaekit.distributions.flows import import_zuko
zuko = import_zuko()
assert (Distribution._validate_args, Distribution.arg_constraints) == before
try:
    Normal(0.0, -1.0)
except ValueError:
    zuko.flows.NSF(2)().log_prob(torch.zeros(2))
    import_zuko()
    assert Distribution._validate_args
    print("on")
"""
    command = [sys.executable, "-W", "error::UserWarning:torch", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "on\n", done.stderr
    assert "arg_constraints" not in done.stderr


def test_without_zuko_an_error_says_what_to_install(monkeypatch, refuses) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    refuses(ImportError, lambda: vk.distributions.flows.import_zuko(), "vaekit[flows]")


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_keep_their_transforms_and_their_directions(copied, inverted: bool) -> None:
    affine = td.AffineTransform(torch.arange(3.0, dtype=f64), torch.tensor(2.0, dtype=f64))
    transforms = [maf(3).transform(), affine.inv if inverted else affine]
    z, q = torch.randn(4, 3, dtype=f64), FlowDistribution(transforms, draw(0, 4, 3))
    q.rsample()  # which is remembered, and not to be copied
    before, twin = q.log_prob(z), copied(q)
    torch.testing.assert_close(twin.log_prob(z), before)
    twin.base.mu.add_(1.0)
    torch.testing.assert_close(q.log_prob(z), before)
    assert not torch.allclose(twin.log_prob(z), before)
    prior = vk.priors.Fixed(FlowDistribution(q.transforms, StandardGaussian(z.new_zeros(3))))
    torch.testing.assert_close(copied(prior)().log_prob(z), prior().log_prob(z))
