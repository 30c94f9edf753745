import copy
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.distributions as td
from gaussians import dims, draw, seeds, z_score
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko_flows import maf, needs_zuko

import vaekit as vk
from vaekit.distributions import DiagonalGaussian, log_prob_by_dimension
from vaekit.distributions.flows import FlowDistribution, layers
from vaekit.distributions.mixtures import Mixture
from vaekit.distributions.supports import check_comparable
from vaekit.priors import (
    ConditionalPrior,
    Fixed,
    FlowPrior,
    MixtureOfGaussians,
    StandardNormal,
    VampPrior,
    fit_flow,
    fit_gaussian_mixture,
)

f64 = torch.float64


def linear(features: int, dim: int) -> vk.Encoder:
    """An encoder whose parameters are linear in the data, zero where those are."""
    latent = vk.GaussianLatent(dim)
    net = nn.Linear(features, latent.num_params, bias=False)
    return vk.Encoder(net, latent).double()


def correlated(dim: int) -> Distribution:
    scale_tril = (0.3 * torch.randn(dim, dim, dtype=f64)).tril(-1) + torch.eye(dim, dtype=f64)
    return td.MultivariateNormal(torch.randn(dim, dtype=f64), scale_tril=scale_tril)


def spread_out(prior: MixtureOfGaussians) -> MixtureOfGaussians:
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.7)
    return prior.double()


CASES: dict[str, Callable[[int], nn.Module]] = {
    "StandardNormal": lambda dim: StandardNormal(dim).double(),
    "Fixed": lambda dim: Fixed(correlated(dim)),
    "MixtureOfGaussians": lambda dim: spread_out(MixtureOfGaussians(dim, 4)),
    "MixtureOfGaussians, one": lambda dim: spread_out(MixtureOfGaussians(dim, 1)),
    "VampPrior": lambda dim: VampPrior(linear(5, dim), torch.rand(4, 5, dtype=f64)),
    "VampPrior, one": lambda dim: VampPrior(linear(5, dim), torch.rand(1, 5, dtype=f64)),
    "FlowPrior": lambda dim: FlowPrior(maf(dim)),
}
priors = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, marks=needs_zuko if "Flow" in name else (), id=name)
        for name, make in CASES.items()
    ],
)


def quadrature(p: Distribution) -> tuple[Tensor, Tensor]:
    """A grid that holds all but nothing of the mass, and the mass of each of its cells."""
    (dim,) = p.event_shape
    points = torch.linspace(-14, 14, 6001 if dim == 1 else 401, dtype=f64)
    grid = torch.cartesian_prod(*[points] * dim).reshape(-1, dim)
    with torch.no_grad():
        return grid, p.log_prob(grid).exp() * (points[1] - points[0]) ** dim


@priors
@pytest.mark.parametrize("dim", [1, 2])
class TestEveryPrior:
    def test_its_density_integrates_to_one(self, make, dim) -> None:
        _, mass = quadrature(make(dim)())
        assert abs(mass.sum() - 1) < 1e-8

    def test_its_draws_have_the_moments_of_its_density(self, make, dim) -> None:
        p = make(dim)()
        grid, mass = quadrature(p)
        z = p.sample((20_000,)).detach()

        def moments(z: Tensor) -> Tensor:
            return torch.cat([z, (z[..., None] * z[..., None, :]).flatten(-2)], -1)

        exact = (mass[:, None] * moments(grid)).sum(0)
        assert z_score(moments(z), exact).abs().max() < 5

    def test_its_mean_and_variance_are_those_of_its_density(self, make, dim) -> None:
        p = make(dim)()
        grid, mass = quadrature(p)
        try:
            mean, variance = p.mean, p.variance
        except NotImplementedError:  # a flow has no variance, and says so
            assert type(p) is vk.distributions.FlowDistribution
            return
        exact = (mass[:, None] * grid).sum(0)
        torch.testing.assert_close(mean, exact, rtol=1e-8, atol=1e-8)
        spread = (mass[:, None] * (grid - exact).square()).sum(0)
        torch.testing.assert_close(variance, spread, rtol=1e-8, atol=1e-8)

    def test_a_gradient_reaches_every_parameter(self, make, dim) -> None:
        prior = make(dim)
        learned = [p for p in prior.parameters() if p.requires_grad]
        if not learned:
            assert not prior.state_dict()
            return
        prior().log_prob(torch.randn(7, dim, dtype=f64)).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
        assert any(p.grad.any() for p in learned)

    def test_its_state_comes_back(self, make, dim) -> None:
        prior, z = make(dim), torch.randn(7, dim, dtype=f64)
        other = copy.deepcopy(prior)
        for parameter in other.parameters():
            nn.init.normal_(parameter)
        assert torch.equal(prior().log_prob(z), copy.deepcopy(prior)().log_prob(z))
        if list(prior.parameters()):
            assert not torch.equal(prior().log_prob(z), other().log_prob(z))
        other.load_state_dict(prior.state_dict(), strict=True)
        assert torch.equal(prior().log_prob(z), other().log_prob(z))

    def test_shapes(self, make, dim) -> None:
        prior = make(dim)
        p = prior()
        assert (prior.dim, p.batch_shape, p.event_shape) == (dim, (), (dim,))
        assert p.sample().shape == (dim,)
        assert p.sample((3, 2)).shape == (3, 2, dim)
        assert p.log_prob(p.sample((3, 2))).shape == (3, 2)
        assert f"dim={dim}" in repr(prior) or type(prior) in (Fixed, FlowPrior)


class TestFixed:
    def test_it_follows_the_model(self) -> None:
        scale = torch.ones(3, requires_grad=True)
        log_normal = td.Independent(td.LogNormal(torch.zeros(3), scale), 1)
        prior = Fixed(log_normal)
        model = nn.ModuleList([prior]).double()
        assert prior().rsample((2,)).dtype == f64
        assert not prior().rsample((2,)).requires_grad
        assert log_normal.rsample((2,)).dtype == torch.float32  # the one given is left alone
        assert log_normal.rsample((2,)).requires_grad
        assert not model.state_dict()
        assert copy.deepcopy(model)[0]().sample().dtype == f64

    def test_it_follows_to_another_device(self) -> None:
        prior = Fixed(td.MultivariateNormal(torch.zeros(3), torch.eye(3))).to("meta")
        assert prior().mean.device.type == "meta"

    def test_divergences_from_it_stay_exact(self) -> None:
        q, p = draw(0, 4, 3), draw(1, 1, 3).expand((1,))
        gaussian = td.Independent(td.Normal(p.mu[0], p.stddev[0]), 1)
        torch.testing.assert_close(
            vk.kl_divergence(q, Fixed(gaussian)(), method="analytic"), td.kl_divergence(q, gaussian)
        )

    def test_densities_by_dimension_where_they_are_independent(self, refuses) -> None:
        z = torch.randn(4, 3, dtype=f64)
        laplace = td.Laplace(torch.zeros(3, dtype=f64), torch.ones(3, dtype=f64))
        by_dimension = log_prob_by_dimension(Fixed(td.Independent(laplace, 1))(), z)
        assert torch.equal(by_dimension, laplace.log_prob(z))
        for prior in (Fixed(correlated(3)), MixtureOfGaussians(3, 2).double()):
            refuses(
                TypeError,
                lambda p=prior: log_prob_by_dimension(p(), z),
                "distribution",
                "independent",
            )

    @pytest.mark.parametrize(
        "distribution",
        [
            td.Normal(0.0, 1.0),
            td.Normal(torch.zeros(3), torch.ones(3)),
            td.Independent(td.Normal(torch.zeros(4, 3), 1.0), 1),
        ],
    )
    def test_another_shape_is_refused(self, distribution, refuses) -> None:
        refuses(ValueError, lambda: Fixed(distribution), "distribution", "(dim,)", "Independent")


class TestMixtureOfGaussians:
    @given(seed=seeds, dim=dims, components=st.integers(2, 5))
    def test_it_is_the_weighted_sum_of_densities(self, seed, dim, components) -> None:
        torch.manual_seed(seed)
        prior = spread_out(MixtureOfGaussians(dim, components))
        z = torch.randn(6, dim, dtype=f64)
        density = sum(
            weight * td.Independent(td.Normal(mu, (0.5 * logvar).exp()), 1).log_prob(z).exp()
            for weight, mu, logvar in zip(
                prior.logits.softmax(0), prior.means, prior.logvars, strict=True
            )
        )
        torch.testing.assert_close(prior().log_prob(z), density.log(), rtol=1e-10, atol=1e-10)

    @given(seed=seeds, dim=dims)
    def test_one_alone_starts_as_the_standard_normal(self, seed, dim) -> None:
        torch.manual_seed(seed)
        q, p = draw(seed, 3, dim), MixtureOfGaussians(dim, 1).double()()
        standard = StandardNormal(dim).double()()
        close = {"rtol": 1e-10, "atol": 1e-10}
        assert vk.losses.kl_method(q, p) == "analytic"
        torch.testing.assert_close(vk.kl_divergence(q, p), vk.kl_divergence(q, standard), **close)
        z = q.rsample()
        torch.testing.assert_close(p.log_prob(z), standard.log_prob(z), **close)

    @given(seed=seeds, dim=dims, components=st.integers(2, 5))
    def test_alike_components_are_one(self, seed, dim, components) -> None:
        one = draw(seed, 1, dim)
        p = Mixture(torch.randn(components, dtype=f64), one.expand((components,)))
        z = torch.randn(6, dim, dtype=f64)
        torch.testing.assert_close(p.log_prob(z), one.log_prob(z), rtol=1e-10, atol=1e-10)

    def test_several_start_apart(self) -> None:
        means = MixtureOfGaussians(3, 5).means
        assert torch.cdist(means, means).fill_diagonal_(1).min() > 0.1

    def test_the_divergence_is_estimated_from_the_draws(self) -> None:
        q, p = draw(0, 4, 3), spread_out(MixtureOfGaussians(3, 4))()
        assert vk.losses.kl_method(q, p) == "monte_carlo"
        z = q.rsample()
        expected = q.log_prob(z) - p.log_prob(z)
        assert torch.equal(vk.kl_divergence(q, p, z=z), expected)

    @pytest.mark.parametrize("logvar", [0.0, -14.0, -60.0])  # sigma 1, 1e-3 and 1e-13
    @pytest.mark.parametrize("scale", [1.0, 1e3])
    def test_single_precision_loses_nothing(self, logvar: float, scale: float) -> None:
        torch.manual_seed(0)
        mu, z = scale * torch.randn(7, 5), scale * torch.randn(3, 4, 5)
        z[0, 0] = mu[3]  # where squares cancel
        logvars = logvar + 0.1 * torch.randn(7, 5)

        def density(dtype: torch.dtype) -> list[Tensor]:
            leaves = [t.to(dtype, copy=True).requires_grad_() for t in (z, mu, logvars)]
            weights = torch.zeros(7, dtype=dtype)
            p = Mixture(weights, vk.distributions.DiagonalGaussian(*leaves[1:]))
            log_prob = p.log_prob(leaves[0])
            return [log_prob, *torch.autograd.grad(log_prob.sum(), leaves)]

        for single, double in zip(density(torch.float32), density(f64), strict=True):
            torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=2e-5)

    def test_a_large_one_needs_no_memory_for_every_dimension_of_every_pair(self) -> None:
        z, kept = torch.randn(64, 32), []
        p = MixtureOfGaussians(32, 128)()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            p.log_prob(z.requires_grad_())
        assert 0 < max(kept) <= 64 * 128

    def test_a_mixture_says_that_it_has_no_rsample(self, refuses) -> None:
        p = MixtureOfGaussians(3, 2)()
        assert not p.has_rsample
        refuses(NotImplementedError, p.rsample, "rsample: a mixture draws", "sample()")

    def test_a_mixture_over_a_batch(self) -> None:
        torch.manual_seed(0)
        components, logits = draw(0, 10, 3).expand((4, 10)), torch.randn(10, dtype=f64)
        p = Mixture(logits, components)
        z = p.sample((5,))
        assert (p.batch_shape, z.shape, p.log_prob(z).shape) == ((4,), (5, 4, 3), (5, 4))
        larger = Mixture(logits, draw(0, 10, 3)).expand((4,))
        assert torch.equal(larger.log_prob(z), p.log_prob(z))
        assert "components=10" in repr(larger)

    def test_what_does_not_fit_is_refused(self, refuses) -> None:
        for components in (0, -1, 2.5, True):
            refuses(ValueError, lambda c=components: MixtureOfGaussians(3, c), "components")
        refuses(ValueError, lambda: MixtureOfGaussians(0, 3), "dim")
        refuses(ValueError, lambda: MixtureOfGaussians(3, 2)().log_prob(torch.zeros(2)), "(..., 3)")
        refuses(ValueError, lambda: Mixture(torch.zeros(3), draw(0, 2, 2)), "logits", "weight")


class TestVampPrior:
    def model(self, pseudo_inputs: Tensor | None = None) -> vk.VAE:
        torch.manual_seed(0)
        latent = vk.GaussianLatent(2)
        encoder = vk.Encoder(vk.networks.mlp(8, [6], latent.num_params), latent)
        decoder = vk.Decoder(vk.networks.mlp(2, [6], 8), vk.likelihoods.Bernoulli((2, 4)))
        pseudo_inputs = torch.rand(3, 2, 4) if pseudo_inputs is None else pseudo_inputs
        return vk.VAE(encoder, decoder, VampPrior(encoder, pseudo_inputs))

    def test_it_is_the_mean_of_the_posteriors(self) -> None:
        model = self.model()
        z, u = torch.randn(5, 2), model.prior.pseudo_inputs
        each = torch.stack([model.encode(u[k : k + 1]).log_prob(z) for k in range(3)])
        expected = each.exp().mean(0).log()
        torch.testing.assert_close(model.prior().log_prob(z), expected)

    @needs_zuko
    def test_it_is_the_mean_of_posteriors_of_any_family(self) -> None:
        class Correlated(nn.Linear):
            def forward(self, x: Tensor) -> Distribution:
                return td.MultivariateNormal(super().forward(x), torch.eye(2, dtype=f64))

        class Flow(nn.Linear):
            def forward(self, x: Tensor) -> Distribution:
                params = super().forward(x).repeat(1, 2)
                return FlowDistribution(
                    layers(self.flow, params), DiagonalGaussian.of_halves(params)
                )

        z, u = torch.randn(6, 2, dtype=f64), torch.rand(3, 5, dtype=f64)
        for encoder in (Correlated(5, 2).double(), Flow(5, 2).double()):
            encoder.flow = maf(2, 4)
            for count in (1, 3):
                prior = VampPrior(encoder, u[:count])
                each = encoder(prior.pseudo_inputs).log_prob(z[:, None])
                expected = each.exp().mean(1).log()
                torch.testing.assert_close(prior().log_prob(z), expected, rtol=1e-10, atol=1e-10)
                assert prior().sample((4,)).shape == (4, 2)

    def test_the_state_is_the_pseudo_inputs_alone(self) -> None:
        model = self.model()
        assert list(model.prior.state_dict()) == ["raw"]
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        assert [name for name in names if name.startswith("prior.")] == ["prior.raw"]
        assert len(names) == len(set(names)) == len(list(model.parameters()))

    def test_a_copy_of_the_model_shares_the_copied_encoder(self) -> None:
        model = self.model()
        other = copy.deepcopy(model)
        assert other.prior.encoder is other.encoder
        assert other.encoder is not model.encoder
        with torch.no_grad():
            other.encoder.net.layers[0].weight.add_(1)
        z = torch.randn(5, 2)
        assert not torch.equal(other.prior().log_prob(z), model.prior().log_prob(z))
        other.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(other.prior().log_prob(z), model.prior().log_prob(z))

    def test_it_moves_with_the_model(self) -> None:
        assert self.model().double().prior().sample().dtype == f64

    def test_training_moves_pseudo_inputs_within_the_range(self) -> None:
        model = self.model()
        x, before = torch.rand(16, 2, 4).round(), model.prior.pseudo_inputs.detach().clone()
        optimizer = torch.optim.Adam(model.prior.parameters(), lr=0.3)
        for _ in range(30):
            optimizer.zero_grad()
            loss = (vk.Reconstruction() + vk.KL())(model(x), x).total
            loss.backward()
            assert (model.prior.raw.grad != 0).any(dim=(1, 2)).all()
            optimizer.step()
        after = model.prior.pseudo_inputs
        assert 0 <= after.min() <= after.max() <= 1
        assert not torch.allclose(after, before, atol=0.1)

    @pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), None])
    def test_it_starts_where_it_is_told(self, bounds) -> None:
        low, high = bounds or (-3.0, 3.0)
        start = torch.linspace(low, high, 15, dtype=f64).reshape(3, 5)
        prior = VampPrior(linear(5, 2), start, bounds)
        margin = 0.0 if bounds is None else 0.01 * (high - low)
        expected = start.clamp(low + margin, high - margin)
        torch.testing.assert_close(prior.pseudo_inputs, expected, rtol=1e-12, atol=1e-12)

    def test_one_with_the_priors_moments_is_the_standard_normal(self) -> None:
        """A linear encoder infers N(0, I) of zeros, and something else of the data."""
        encoder = linear(8, 2)
        decoder = vk.Decoder(nn.Linear(2, 8), vk.likelihoods.Bernoulli((8,))).double()
        x, zeros = torch.rand(6, 8, dtype=f64).round(), torch.zeros(1, 8, dtype=f64)
        losses = []
        for prior in (StandardNormal(2).double(), VampPrior(encoder, zeros, bounds=None)):
            torch.manual_seed(1)
            model = vk.VAE(encoder, decoder, prior)
            loss = vk.Reconstruction() + vk.KL()
            losses.append(loss(model(x), x).total)
        torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)
        assert vk.kl_divergence(encoder(x)).min() > 1e-3  # so there was something to compare

    def test_what_does_not_fit_is_refused(self, refuses) -> None:
        encoder, fit = linear(5, 2), torch.rand(3, 5, dtype=f64)
        for pseudo_inputs, word in (
            (torch.rand(3, 4, dtype=f64), "the encoder takes"),
            (torch.rand(5, dtype=f64), "K at least 1"),
            (fit[:0], "K at least 1"),
            (fit + 1, "bounds="),
            (fit * torch.nan, "NaN"),
        ):
            refuses(
                ValueError, lambda u=pseudo_inputs: VampPrior(encoder, u), "pseudo_inputs", word
            )
        refuses(ValueError, lambda: VampPrior(encoder, fit, bounds=(1.0, 0.0)), "bounds", "above 0")

    def test_an_encoder_without_densities_is_refused(self, refuses) -> None:
        class Point(Distribution):
            arg_constraints: ClassVar[dict] = {}

            def sample(self, sample_shape=()) -> Tensor:
                return torch.zeros(*sample_shape, 3, 2)

        class Plain(nn.Module):
            def forward(self, x: Tensor) -> Distribution:
                return Point(torch.Size([3]), torch.Size([2]))

        refuses(TypeError, lambda: VampPrior(Plain(), torch.rand(3, 5)), "encoder", "density")

        class Merging(Plain):
            def forward(self, x: Tensor) -> Distribution:
                return DiagonalGaussian(torch.zeros(1, 2), torch.zeros(1, 2))

        refuses(ValueError, lambda: VampPrior(Merging(), torch.rand(3, 5)), "encoder", "each")


@needs_zuko
class TestFlowPrior:
    def test_a_flow_with_context_is_refused(self, refuses) -> None:
        refuses(ValueError, lambda: FlowPrior(maf(2, 3)), "flow", "without context", "MAF")
        refuses(ValueError, lambda: FlowPrior(nn.Linear(2, 2)), "flow", "Linear")

    def test_any_module_that_returns_a_distribution_does(self) -> None:
        assert FlowPrior(StandardNormal(3)).dim == 3

    def test_draws_have_a_gradient(self) -> None:
        prior = FlowPrior(maf(2))
        prior().rsample((5,)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in prior.parameters())

    def test_the_elbo_trains_it(self) -> None:
        model = TestVampPrior().model().double()
        model.prior = FlowPrior(maf(2))
        x = torch.rand(6, 2, 4, dtype=f64).round()
        (vk.Reconstruction() + vk.KL())(model(x), x).total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class TestConditionalPrior:
    def test_each_context_has_its_own(self) -> None:
        net = vk.networks.mlp(4, [6], 6)
        prior, context = ConditionalPrior(net, 3), torch.eye(4)
        p = prior(context)
        assert prior.takes_context
        assert (p.batch_shape, p.event_shape) == ((4,), (3,))
        assert torch.equal(torch.cat(tuple(p), -1), net(context))
        vk.kl_divergence(DiagonalGaussian(*torch.randn(2, 4, 3)), p).sum().backward()
        assert all(p.grad is not None for p in prior.parameters())

    def test_labels_are_what_they_are_to_conditioned_networks(self, refuses) -> None:
        prior, labels = ConditionalPrior(vk.networks.mlp(4, [6], 6).double(), 3), [3, 0, 3]
        expected = prior(torch.eye(4, dtype=f64)[labels]).mean
        for context in (labels, np.array(labels), torch.tensor(labels)):
            assert torch.equal(prior(context).mean, expected)
        refuses(ValueError, lambda: prior(torch.tensor([0, 4])), "context", "0 to 3", "0 to 4")
        refuses(TypeError, lambda: prior({"y": 3}), "context: expected", "{'y': 3}")
        # A network of one's own is given them as they are.
        own = ConditionalPrior(nn.Embedding(4, 6), 3)
        assert own(labels).batch_shape == (3,)

    @pytest.mark.parametrize("dim", [1, 2])
    def test_its_density_integrates_to_one(self, dim) -> None:
        p = ConditionalPrior(nn.Linear(4, 2 * dim).double(), dim)(torch.randn(1, 4, dtype=f64))
        _, mass = quadrature(p)
        assert abs(mass.sum() - 1) < 1e-8

    def test_what_does_not_fit_is_refused(self, refuses) -> None:
        refuses(ValueError, lambda: ConditionalPrior(vk.networks.mlp(4, [6], 3), 3), "net", "6 out")
        late = ConditionalPrior(nn.Linear(4, 3), 3)
        refuses(ValueError, lambda: late(torch.eye(4)), "net", "6 outputs")
        refuses(ValueError, lambda: ConditionalPrior(nn.Linear(4, 3), 0), "dim")


class TestFitGaussianMixture:
    def test_it_finds_a_known_mixture(self) -> None:
        n, means = 20_000, torch.tensor([[-20.0, 0.0], [0.0, 20.0], [20.0, 0.0]], dtype=f64)
        stddev = torch.tensor([[1.0, 2.0], [0.5, 1.0], [1.5, 0.7]], dtype=f64)
        weights = torch.tensor([0.2, 0.3, 0.5], dtype=f64)
        z = Mixture(weights.log(), DiagonalGaussian(means, 2 * stddev.log())).sample((n,))
        pytest.importorskip("sklearn")
        prior = fit_gaussian_mixture(z, 3, seed=0)
        order = prior.means[:, 0].argsort()
        each = (n * weights)[:, None]
        found = prior.logits.softmax(0)[order]
        assert ((found - weights) / (weights * (1 - weights) / n).sqrt()).abs().max() < 5
        assert ((prior.means[order] - means) / (stddev / each.sqrt())).abs().max() < 5
        log_ratio = prior.logvars[order] - 2 * stddev.log()
        assert (log_ratio / (2 / each).sqrt()).abs().max() < 5
        assert prior.means.dtype == f64

    def test_the_seed_decides(self) -> None:
        pytest.importorskip("sklearn")
        z = torch.randn(200, 2)
        one, same = (fit_gaussian_mixture(z, 3, seed=0).state_dict() for _ in range(2))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert one["means"].dtype == torch.float32

    def test_what_does_not_fit_is_refused(self, refuses) -> None:
        z = torch.randn(4, 2)
        refuses(ValueError, lambda: fit_gaussian_mixture(z, 0), "components")
        refuses(ValueError, lambda: fit_gaussian_mixture(z, 5), "z", "N at least 5")
        refuses(ValueError, lambda: fit_gaussian_mixture(z[0], 1), "z", "(N, dim)")
        refuses(ValueError, lambda: fit_gaussian_mixture(z / 0, 1), "z", "infinite")


@needs_zuko
class TestFitFlow:
    def test_it_reaches_the_maximum_of_the_likelihood(self) -> None:
        """In one dimension the affine flow is a Gaussian, whose optimum is the sample's moments."""
        z = 0.7 + 0.4 * torch.randn(1000, 1, dtype=f64)
        best = td.Normal(z.mean(), z.std(correction=0)).log_prob(z).mean()
        prior = fit_flow(z, maf(1), steps=300, batch_size=1000, learning_rate=0.02, seed=0)
        reached = prior().log_prob(z).mean()
        assert 0 <= best - reached < 0.01

    def test_the_seed_decides(self) -> None:
        z, flow = torch.randn(50, 2, dtype=f64), maf(2)
        one, same, other = (fit_flow(z, copy.deepcopy(flow), 3, seed=seed) for seed in (0, 0, 1))
        at = torch.zeros(2, dtype=f64)
        assert torch.equal(one().log_prob(at), same().log_prob(at))
        assert not torch.equal(one().log_prob(at), other().log_prob(at))

    def test_what_does_not_fit_is_refused(self, refuses) -> None:
        z = torch.randn(50, 2, dtype=f64)
        refuses(ValueError, lambda: fit_flow(z, maf(2), 0), "steps")
        refuses(ValueError, lambda: fit_flow(z, maf(2), 1, batch_size=0), "batch_size")
        refuses(ValueError, lambda: fit_flow(z, maf(2), 1, learning_rate=0), "learning_rate")
        refuses(ValueError, lambda: fit_flow(z, maf(3), 1), "z", "(..., 3)")
        refuses(ValueError, lambda: fit_flow(z / 0, maf(2), 1), "z", "infinite")
        refuses(ArithmeticError, lambda: fit_flow(1e200 * z, maf(2), 1), "no longer finite")


def _over(base: type[Distribution], *params: float) -> Distribution:
    """Three of a kind, one event."""
    return td.Independent(base(*(torch.full((3,), param) for param in params)), 1)


NARROW: dict[str, Callable[[], Distribution]] = {
    "Gamma": lambda: _over(td.Gamma, 2.0, 1.0),
    "Exponential": lambda: _over(td.Exponential, 1.0),
    "HalfNormal": lambda: _over(td.HalfNormal, 1.0),
    "LogNormal": lambda: _over(td.LogNormal, 0.0, 1.0),
    "Pareto": lambda: _over(td.Pareto, 0.1, 1.0),
    "Uniform": lambda: _over(td.Uniform, -9.0, 9.0),
    "Beta": lambda: _over(td.Beta, 2.0, 2.0),
    "tanh of a normal": lambda: td.Independent(
        td.TransformedDistribution(td.Normal(torch.zeros(3), 1.0), td.TanhTransform()), 1
    ),
    "mixture of uniform ones": lambda: td.MixtureSameFamily(
        td.Categorical(torch.ones(2)),
        td.Independent(td.Uniform(torch.zeros(2, 3), torch.tensor([[1.0], [2.0]])), 1),
    ),
    "Joint": lambda: vk.distributions.Joint(
        [
            vk.distributions.StandardGaussian(torch.zeros(2)),
            td.Independent(td.Gamma(torch.ones(1), 1.0), 1),
        ]
    ),
}
narrow = pytest.mark.parametrize("make", NARROW.values(), ids=NARROW)
gaussian = vk.distributions.DiagonalGaussian(torch.zeros(4, 3), torch.zeros(4, 3))


@narrow
def test_a_prior_that_lacks_part_of_the_posterior_is_refused_by_name(make, refuses) -> None:
    prior, words = make(), ("prior: expected", "density wherever", "DiagonalGaussian")
    latent = vk.GaussianLatent(3)
    model = vk.VAE(
        vk.Encoder(nn.Linear(5, 6), latent),
        vk.Decoder(nn.Linear(3, 5), vk.likelihoods.Bernoulli(5)),
        Fixed(prior),
    )
    x = torch.rand(8, 5).round()

    def fit(term: vk.objectives.Term) -> None:
        vk.fit(model, vk.Reconstruction() + term, x, steps=1, progress=False)

    refuses(TypeError, lambda: fit(vk.KL()), *words)
    for method in (None, "monte_carlo"):
        refuses(TypeError, lambda m=method: vk.kl_divergence(gaussian, prior, method=m), *words)
    if prior.has_rsample:
        fit(vk.objectives.MMD())  # compares draws, and needs no density


#: Priors over whole numbers, which have no density with respect to a Gaussian's measure.
COUNTS = (
    td.Poisson(torch.ones(4, 3)),
    td.Bernoulli(torch.full((4, 3), 0.5)),
    td.Categorical(torch.ones(4, 3, 5)),
    td.Geometric(torch.full((4, 3), 0.5)),
)


@pytest.mark.parametrize("counts", COUNTS, ids=lambda counts: type(counts).__name__)
@pytest.mark.parametrize("divergence", [td.kl_divergence, vk.kl_divergence, vk.losses.kl_method])
def test_a_gaussian_is_not_compared_with_a_prior_over_counts(counts, divergence, refuses) -> None:
    prior = td.Independent(counts, 1)
    words = "prior: expected a density of the same kind", type(counts).__name__
    refuses(TypeError, lambda: divergence(gaussian, prior), *words)


#: Posteriors within narrow priors: binary variables that are relaxed lie between 0 and 1.
relaxed = vk.distributions.RelaxedBernoulli(torch.zeros(4, 3))


@pytest.mark.parametrize("name", [name for name in NARROW if name not in ("Pareto", "Joint")])
def test_a_posterior_within_a_narrow_prior_is_not(name: str) -> None:
    prior = NARROW[name]()
    z = relaxed.sample((200,)).clamp(0.01, 0.99)
    expected = (relaxed.log_prob(z) - prior.log_prob(z)).mean(0)
    torch.testing.assert_close(vk.kl_divergence(relaxed, prior, z=z), expected)


def test_the_bounds_of_each_dimension_and_element_count() -> None:
    low = torch.tensor([[0.0, -5.0], [1.0, 2.0]])
    each = td.Independent(td.Uniform(low, low + 1), 1)
    within = td.Independent(td.Uniform(low - 0.5, low + 2), 1)
    check_comparable(each, within)
    check_comparable(each, td.Independent(td.Uniform(low.amin(0), low.amax(0) + 1), 1))
    for inner, outer in ((within, each), (each, td.Independent(td.Uniform(low[0], low[0] + 1), 1))):
        with pytest.raises(TypeError, match="prior: expected"):
            check_comparable(inner, outer)


def test_what_does_not_tell_its_support_is_let_pass() -> None:
    class Silent(td.Normal):
        @property
        def support(self):
            raise NotImplementedError

    silent = td.Independent(Silent(torch.zeros(3), 1.0), 1)
    check_comparable(silent, NARROW["Gamma"]())
    check_comparable(gaussian, silent)
    # An affine transform can return all numbers, but not of a base between 0 and 1.
    moved = td.TransformedDistribution(td.Uniform(torch.zeros(3), 1.0), td.AffineTransform(1, 2))
    check_comparable(td.Independent(moved, 1), NARROW["Gamma"]())


@needs_zuko
def test_a_flow_lies_where_its_last_transform_leads() -> None:
    import zuko

    base, unit = gaussian, NARROW["Beta"]()
    inside = FlowDistribution([zuko.transforms.SigmoidTransform()], base)
    assert vk.kl_divergence(inside, unit).isfinite().all()
    with pytest.raises(TypeError, match="prior: expected"):
        vk.kl_divergence(FlowDistribution([maf(3).float().transform()], base), unit)
