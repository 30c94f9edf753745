import copy
import math
import pickle

import pytest
import torch
from gaussians import z_score
from torch import Tensor, nn

import vaekit as vk
from vaekit.distributions import DiagonalGaussian, StandardGaussian
from vaekit.distributions.chains import Chain
from vaekit.hierarchy import BottomUp, Ladder, TopDown
from vaekit.networks import FirstOf, mlp

f64 = torch.float64


def _linear(seed: int, size_in: int, size_out: int) -> vk.networks.Network:
    """A linear map to means, with log-variances that do not depend on the input."""
    torch.manual_seed(seed)
    net = mlp(size_in, [], 2 * size_out).double()
    with torch.no_grad():
        net.layers[0].weight[size_out:] = 0
    return net


def _exact(net: nn.Module, mean: Tensor, covariance: Tensor) -> torch.distributions.Distribution:
    """The joint of a Gaussian and of what a linear network makes of it, which stands first."""
    half = net.layers[0].weight.shape[0] // 2
    weight, bias = net.layers[0].weight[:half], net.layers[0].bias[:half]
    noise = net.layers[0].bias[half:].exp().diag()
    cross = weight @ covariance
    joint = torch.cat(
        [
            torch.cat([cross @ weight.T + noise, cross], dim=1),
            torch.cat([cross.T, covariance], dim=1),
        ]
    )
    means = torch.cat([weight @ mean + bias, mean])
    return torch.distributions.MultivariateNormal(means, joint)


class TestChain:
    def test_a_linear_one_is_a_joint_gaussian(self) -> None:
        net = _linear(0, 2, 3)
        prior = TopDown([3, 2], [net]).double()
        exact = _exact(net, torch.zeros(2, dtype=f64), torch.eye(2, dtype=f64))
        z = torch.randn(7, 5, dtype=f64)
        torch.testing.assert_close(prior().log_prob(z), exact.log_prob(z), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(prior().mean, exact.mean)

    def test_draws_follow_the_density(self) -> None:
        net = _linear(1, 2, 3)
        prior = TopDown([3, 2], [net]).double()
        exact = _exact(net, torch.zeros(2, dtype=f64), torch.eye(2, dtype=f64))
        torch.manual_seed(0)
        z = prior().sample((20_000,))
        assert z.shape == (20_000, 5)
        assert z_score(z, exact.mean).abs().max() < 4
        centred = (z - exact.mean)[:, :, None] * (z - exact.mean)[:, None, :]
        for i in range(5):
            for j in range(i + 1):
                assert abs(z_score(centred[:, i, j], exact.covariance_matrix[i, j])) < 4.5

    def test_three_layers_and_draws_of_a_batch(self) -> None:
        latent = BottomUp([4, 3, 2], [mlp(4, [5], 6), mlp(3, [5], 4)]).double()
        q = latent(torch.randn(6, 8, dtype=f64))
        z = q.rsample((3,))
        assert z.shape == (3, 6, 9)
        assert q.log_prob(z).shape == (3, 6)
        one, two, three = z.split([4, 3, 2], dim=-1)
        parts = (
            q.first.log_prob(one)
            + DiagonalGaussian.of_halves(latent.nets[0](one)).log_prob(two)
            + DiagonalGaussian.of_halves(latent.nets[1](two)).log_prob(three)
        )
        torch.testing.assert_close(q.log_prob(z), parts)
        z.square().sum().backward()
        assert all(parameter.grad is not None for parameter in latent.parameters())

    def test_cooler_draws_lie_nearer_the_mean(self) -> None:
        prior = TopDown([3, 2], [_linear(2, 2, 3)]).double()
        torch.manual_seed(0)
        spread = (prior().tempered(1e-6).sample((100,)) - prior().mean).abs().max()
        assert spread < 1e-4

    def test_bad_chains_are_refused(self, refuses) -> None:
        first = StandardGaussian(torch.zeros(2))

        def same(z: Tensor) -> DiagonalGaussian:
            return DiagonalGaussian(z, torch.zeros_like(z))

        refuses(ValueError, lambda: Chain(first, [same], [2]), "sizes", "2 blocks")
        refuses(ValueError, lambda: Chain(first, [same], [2, 3]).sample(), "sizes", "[2, 3]")
        chain = Chain(first, [same], [2, 2])
        refuses(ValueError, lambda: chain.log_prob(torch.zeros(3)), "x", "(..., 4)", "(3,)")
        refuses(ValueError, lambda: chain.log_prob(torch.full((4,), math.nan)), "mu", "NaN")


def _model(kind: str) -> vk.VAE:
    torch.manual_seed(0)
    sizes = [4, 2]
    prior = TopDown(sizes, [mlp(2, [8], 8)])
    if kind == "bottom-up":
        latent: nn.Module = BottomUp(sizes, [mlp(4, [8], 4)])
    else:
        latent = Ladder(prior)
    encoder = vk.Encoder(mlp(9, [16], latent.num_params), latent)
    decoder = vk.Decoder(FirstOf(mlp(4, [16], 9), 6), vk.likelihoods.Bernoulli(9))
    return vk.VAE(encoder, decoder, prior).double()


class TestModel:
    @pytest.mark.parametrize("kind", ["bottom-up", "ladder"])
    def test_every_method_and_the_objective_are_those_of_any_vae(self, kind: str) -> None:
        model, x = _model(kind), torch.rand(5, 9, dtype=f64).round()
        out = model(x, samples=3)
        assert out.z.shape == (3, 5, 6)
        loss = (vk.Reconstruction() + vk.KL())(out, x)
        assert set(loss.terms) == {"reconstruction", "kl"}
        loss.total.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        assert model.sample(7, temperature=0.5).shape == (7, 9)
        assert model.reconstruct(x).shape == x.shape
        history = vk.fit(model, vk.Reconstruction() + vk.KL(), x, steps=3, progress=False)
        assert math.isfinite(history["loss"][-1])

    def test_the_ladder_shares_the_priors_networks(self) -> None:
        again = copy.deepcopy(_model("ladder"))
        assert again.encoder.latent.prior is again.prior
        assert len({id(p) for p in again.parameters()}) == len(list(again.parameters()))

    def test_the_ladder_keeps_the_networks_when_the_model_is_given_another_prior(self) -> None:
        model, other, x = _model("ladder"), _model("ladder"), torch.rand(5, 9, dtype=f64).round()
        for one in (model, other):
            one.prior = vk.priors.StandardNormal(6)
            one.double()
        for parameter in other.parameters():
            nn.init.constant_(parameter, 0.1)
        other.load_state_dict(model.state_dict())
        z = torch.randn(5, 6, dtype=f64)
        torch.testing.assert_close(other.encode(x).log_prob(z), model.encode(x).log_prob(z))
        optimised = {name for name, _ in model.named_parameters()}
        assert "encoder.latent.prior.nets.0.layers.0.weight" in optimised

    def test_merging_multiplies_densities(self) -> None:
        prior = TopDown([1, 1], [_linear(3, 1, 1)]).double()
        q = Ladder(prior)(torch.tensor([[0.3, -0.5, 0.1, 0.2]], dtype=f64))
        above = torch.tensor([[0.7]], dtype=f64)
        said = torch.distributions.Normal(*torch.tensor([0.3, math.exp(-0.25)], dtype=f64))
        p = prior.conditional(0, above)
        grid = torch.linspace(-9, 9, 20_001, dtype=f64)
        product = (said.log_prob(grid) + p.log_prob(grid[:, None, None])[:, 0]).exp()
        product = product / (product.sum() * (grid[1] - grid[0]))
        merged = q.conditionals[0](above).log_prob(grid[:, None, None])[:, 0].exp()
        torch.testing.assert_close(merged, product, rtol=1e-8, atol=1e-12)

    def test_sizes_that_do_not_fit_are_refused(self, refuses) -> None:
        refuses(ValueError, lambda: TopDown([4], []), "nets", "two at least")
        refuses(ValueError, lambda: TopDown([4, 2], [mlp(2, [], 4)]), "nets", "2 values to 8")
        refuses(ValueError, lambda: BottomUp([4, 2], [mlp(2, [], 4)]), "nets", "4 values to 4")
        refuses(ValueError, lambda: BottomUp([4, 0], [mlp(4, [], 4)]), "sizes", "0")
        refuses(TypeError, lambda: Ladder(nn.Identity()), "prior", "TopDown", "Identity")


def test_chains_can_be_pickled() -> None:
    torch.manual_seed(0)
    prior = TopDown([3, 2], [mlp(2, [5], 6)])
    params = torch.randn(7, 10)
    chains = [prior(), Ladder(prior)(params), BottomUp([3, 2], [mlp(3, [5], 4)])(params[:, :6])]
    for chain in [*chains, *(each.tempered(0.5) for each in chains)]:
        again = pickle.loads(pickle.dumps(chain))
        z = chain.sample()
        assert torch.equal(again.log_prob(z), chain.log_prob(z))
