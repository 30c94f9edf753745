import copy

import pytest
import torch
from gaussians import seeds
from hypothesis import given
from torch import nn
from zuko_flows import maf, needs_zuko

import vaekit as vk
from vaekit.distributions.flows import FlowDistribution, import_zuko
from vaekit.latents import FlowLatent

f64 = torch.float64
pytestmark = needs_zuko


class Identity(nn.Module):
    """A flow that does nothing."""

    def transform(self, context: torch.Tensor | None) -> torch.distributions.Transform:
        return import_zuko().transforms.IdentityTransform()


def build(latent: nn.Module) -> vk.VAE:
    torch.manual_seed(0)
    return vk.VAE(
        vk.Encoder(vk.networks.mlp(8, [16], latent.num_params), latent),
        vk.Decoder(vk.networks.mlp(3, [16], 8), vk.likelihoods.Bernoulli((2, 4))),
    ).double()


def data() -> torch.Tensor:
    return torch.rand(6, 2, 4, dtype=f64).round()


@pytest.mark.parametrize("context", [0, 5])
def test_shapes(context: int) -> None:
    latent = FlowLatent(3, context)
    assert (latent.dim, latent.num_params) == (3, 6 + context)
    q = latent(torch.randn(2, 4, latent.num_params))
    assert (q.batch_shape, q.event_shape, q.mean.shape) == ((2, 4), (3,), (2, 4, 3))
    z = q.rsample((7,))
    assert (z.shape, q.log_prob(z).shape) == ((7, 2, 4, 3), (7, 2, 4))
    assert "dim=3" in repr(latent)


@given(seed=seeds)
def test_with_the_identity_it_is_the_gaussian(seed: int) -> None:
    torch.manual_seed(seed)
    params = torch.randn(4, 6, dtype=f64)
    q, p = FlowLatent(3, flow=Identity())(params), vk.GaussianLatent(3)(params)
    torch.manual_seed(1)
    z = q.rsample()
    torch.manual_seed(1)
    torch.testing.assert_close(z, p.rsample(), rtol=1e-10, atol=1e-10)
    for value in (z, z.clone()):
        torch.testing.assert_close(q.log_prob(value), p.log_prob(value), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(q.mean, p.mean, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dim", [1, 2])
def test_its_density_integrates_to_one(dim: int) -> None:
    q = FlowLatent(dim, 4, maf(dim, 4))(0.5 * torch.randn(2 * dim + 4, dtype=f64))
    points = torch.linspace(-14, 14, 6001 if dim == 1 else 801, dtype=f64)
    grid = torch.cartesian_prod(*[points] * dim).reshape(-1, dim)
    with torch.no_grad():
        mass = q.log_prob(grid).exp().sum() * (points[1] - points[0]) ** dim
    assert abs(mass - 1) < 1e-8


def test_the_context_matters() -> None:
    latent = FlowLatent(2, 4, maf(2, 4))
    params = torch.randn(8, dtype=f64)
    other, z = params.clone(), torch.zeros(2, dtype=f64)
    other[-4:] += 1
    assert not torch.equal(latent(params).log_prob(z), latent(other).log_prob(z))


def test_a_draw_and_its_density_take_one_pass_through_each_layer() -> None:
    latent = FlowLatent(5)
    layers = [layer.hyper for layer in latent.flow.transform.transforms]
    passes = []
    for layer in layers:
        layer.register_forward_hook(lambda *_: passes.append(1))
    q = latent(torch.randn(4, 10))
    z = q.rsample()
    q.log_prob(z)
    assert len(passes) == len(layers)
    q.log_prob(z.clone())
    assert len(passes) > 5 * len(layers)


def test_the_divergence_uses_the_draw() -> None:
    model, x = build(FlowLatent(3, 4)), data()
    out = model(x, samples=2)
    assert isinstance(out.posterior, FlowDistribution)
    assert vk.losses.kl_method(out.posterior, out.prior) == "monte_carlo"
    kl = vk.kl_divergence(out.posterior, out.prior, z=out.z)
    z = out.z.detach().clone()
    exact = (out.posterior.log_prob(z) - out.prior.log_prob(z)).mean(0)
    torch.testing.assert_close(kl, exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", ["MAF", "NSF", "NICE"])
def test_a_gradient_reaches_every_parameter(family: str) -> None:
    flow = getattr(import_zuko().flows, family)(3, 4, transforms=2)
    model, x = build(FlowLatent(3, 4, flow)), data()
    (vk.Reconstruction() + vk.KL())(model(x), x).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad.any() for p in model.encoder.latent.parameters())


def test_its_state_comes_back() -> None:
    model, x = build(FlowLatent(3, 4)), data()
    assert any(name.startswith("encoder.latent.flow") for name in model.state_dict())
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(model.reconstruct(x), other.reconstruct(x))
    assert torch.equal(model.reconstruct(x), copy.deepcopy(model).reconstruct(x))


def test_what_does_not_fit_is_refused(refuses) -> None:
    refuses(ValueError, lambda: FlowLatent(0), "dim")
    refuses(ValueError, lambda: FlowLatent(3, -1), "context")
    for flow in (maf(4), maf(3, 2), nn.Linear(3, 3)):
        refuses(ValueError, lambda f=flow: FlowLatent(3, 0, f), "flow", "3 features", "0 of con")
    latent = FlowLatent(3, 4)
    refuses(ValueError, lambda: latent(torch.zeros(2, 6)), "params", "(..., 10)")
    nan = torch.zeros(2, 10)
    nan[0, 9] = torch.nan
    refuses(ValueError, lambda: latent(nan), "params", "NaN")


def test_without_gradients_a_draw_still_knows_its_density() -> None:
    latent = FlowLatent(3, 2).double()
    params = torch.randn(5, latent.num_params, dtype=f64)
    q = latent(params)
    with torch.no_grad():
        z = q.rsample((4,))
        at_once = q.log_prob(z)
        torch.testing.assert_close(at_once, q.log_prob(z.clone()), rtol=1e-6, atol=1e-6)
        assert at_once is q.log_prob(z)  # what was kept, not an inversion
    assert q.log_prob(z).requires_grad  # gradients asked for later are there
