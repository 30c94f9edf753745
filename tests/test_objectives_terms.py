"""The terms of the family: what they are made of, what they collapse to, what they refuse."""

import copy
import math

import pytest
import torch
import torch.distributions as td
from gaussians import z_score
from models import tiny
from torch import Tensor, nn
from torch.autograd import grad
from zuko_flows import needs_zuko

import vaekit as vk
from vaekit import losses
from vaekit.distributions.flows import import_zuko
from vaekit.objectives import (
    DIP,
    MMD,
    AdversarialPrior,
    AdversarialTotalCorrelation,
    BalancedKL,
    Capacity,
    Commitment,
    FreeBits,
    GradientPenalty,
    ImportanceWeighted,
    LatentL2,
    Objective,
)
from vaekit.schedules import Constant, Cyclical, Linear, Sigmoid

f64 = torch.float64
x = torch.rand(8, 1, 8, 8, dtype=f64, generator=torch.Generator().manual_seed(0)).round()


def discriminator() -> nn.Module:
    return vk.networks.mlp(2, [8], 1)


class TestCollapse:
    """Each variant at its neutral setting is the VAE, on the same noise."""

    elbo = vk.Reconstruction() + vk.KL()
    estimated = vk.Reconstruction() + vk.KL(method="monte_carlo")

    def same(self, variant: Objective, elbo: Objective, samples: int | None = None) -> None:
        model = tiny().double()
        out = model(x, samples=samples)
        found, exact = (objective.double()(out, x).total for objective in (variant, elbo))
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
        gradients = [grad(v, [*model.parameters()], retain_graph=True) for v in (found, exact)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)

    def test_factor_vae_at_0(self) -> None:
        self.same(self.elbo + 0 * AdversarialTotalCorrelation(discriminator()), self.elbo)

    def test_info_vae_at_0_and_1(self) -> None:
        alpha, weight = 0, 1
        variant = vk.Reconstruction() + (1 - alpha) * vk.KL() + (alpha + weight - 1) * MMD()
        self.same(variant, self.elbo)

    def test_beta_tcvae_at_1(self) -> None:
        variant = vk.Reconstruction() + vk.DecomposedKL(1, 1, 1, dataset_size=100)
        self.same(variant, self.estimated)

    @pytest.mark.parametrize("alpha", [-2.0, 0.0, 0.5, 1.0, 2.0])
    def test_iwae_and_renyi_at_one_draw(self, alpha: float) -> None:
        self.same(1 * ImportanceWeighted(alpha), self.estimated, samples=1)

    def test_renyi_at_1(self) -> None:
        self.same(1 * ImportanceWeighted(1.0), self.estimated, samples=5)

    def test_miwae_with_a_group_for_each_draw(self) -> None:
        self.same(1 * ImportanceWeighted(groups=5), self.estimated, samples=5)

    def test_ciwae_at_1(self) -> None:
        beta = 1
        variant = beta * self.estimated + (1 - beta) * ImportanceWeighted()
        self.same(variant, self.estimated, samples=5)

    def test_no_capacity_and_hardly_a_bit_free(self) -> None:
        self.same(vk.Reconstruction() + Capacity(0.0), self.elbo)
        self.same(vk.Reconstruction() + FreeBits(1e-9), self.elbo)

    def test_balance_of_one_group(self) -> None:
        self.same(vk.Reconstruction() + BalancedKL([2]), self.elbo)

    def test_dip_that_weighs_nothing(self) -> None:
        self.same(self.elbo + DIP(0, 0, within=True), self.elbo)


class TestCapacity:
    def test_it_follows_the_step(self) -> None:
        out = tiny().double()(x)
        kl = vk.KL()(out, x)
        objective = 3 * Capacity(Linear(0, 8, steps=4)).double()
        for step, target in ((0, 0), (2, 4), (4, 8), (99, 8), (1, 2)):
            total, terms = objective(out, x, step)
            torch.testing.assert_close(terms["capacity"], (kl - target).abs().mean())
            torch.testing.assert_close(total, 3 * (kl - target).abs().mean())

    def test_whoever_calls_values_sets_the_step(self) -> None:
        out = tiny().double()(x)
        objective = vk.Reconstruction() + Capacity(Linear(0, 8, steps=4)).double()
        objective.set_step(4)
        values = objective.values(out, x)
        assert torch.equal(values["capacity"], objective(out, x, 4).terms["capacity"])

    def test_one_that_falls_is_refused(self, refuses) -> None:
        falls = "capacity", "never falls"
        refuses(ValueError, lambda: Capacity(Linear(5, 1, steps=10)), *falls, "Linear(start=5")
        refuses(ValueError, lambda: Capacity(Sigmoid(5, 1, steps=10)), *falls)
        refuses(ValueError, lambda: Capacity(Cyclical(0, 1, period=10)), *falls)
        refuses(ValueError, lambda: Capacity(-1.0), "capacity", "at least 0", "-1")
        refuses(ValueError, lambda: Capacity(math.nan), "capacity", "finite", "nan")
        for fine in (5.0, Constant(5), Linear(0, 5, 10), Sigmoid(0, 5, 10), Cyclical(1, 1, 5)):
            Capacity(fine).set_step(7)
        mine = Capacity(lambda step: abs(step - 5.0))
        refuses(ValueError, lambda: mine.set_step(3), *falls, "at step 3")
        mine.set_step(6)


class TestGroups:
    """Floors, balances and capacities of layers and of parts, which they were published for."""

    @pytest.mark.parametrize("upwards", [False, True])
    def test_layers_of_a_hierarchy(self, upwards: bool) -> None:
        make = vk.recipes.two_layer_vae if upwards else vk.recipes.ladder_vae
        model, _ = make(vk.likelihoods.Bernoulli((1, 8, 8)), (4, 2), hidden=(8, 6))
        out = model.double()(x, 3)
        kl = losses.kl_by_group(out.posterior, out.prior, [4, 2], z=out.z)
        floors = FreeBits(0.5, [4, 2])(out, x)
        torch.testing.assert_close(floors, kl.mean(0).clamp_min(0.5).sum())
        share = kl.mean(0).abs() + 0.01
        balanced = BalancedKL([4, 2])(out, x)
        torch.testing.assert_close(balanced, kl @ (share / share.mean()))
        held = Capacity([1.0, 2.0], groups=[4, 2]).double()(out, x)
        torch.testing.assert_close(held, (kl[:, 0] - 1).abs() + (kl[:, 1] - 2).abs())
        (floors + balanced.sum() + held.sum()).backward()
        assert all(p.grad is not None for p in model.encoder.parameters())

    @needs_zuko
    def test_a_floor_for_all_dimensions_under_a_flow(self) -> None:
        flow = import_zuko().flows.MAF(2, transforms=1, hidden_features=(5,))
        model = tiny()
        model = vk.VAE(model.encoder, model.decoder, vk.priors.FlowPrior(flow)).double()
        out = model(x)
        kl = vk.kl_divergence(out.posterior, out.prior, z=out.z)
        torch.testing.assert_close(FreeBits(0.01, [2])(out, x), kl.mean().clamp_min(0.01))
        torch.testing.assert_close(BalancedKL([2])(out, x), kl)

    def test_capacities_follow_the_step(self) -> None:
        out = tiny().double()(x)
        kl = losses.kl_by_dimension(out.posterior, out.prior)
        term = Capacity([Linear(0, 8, steps=4), 1.0], groups=[1, 1]).double()
        for step, target in ((0, 0), (2, 4), (4, 8)):
            term.set_step(step)
            exact = (kl[:, 0] - target).abs() + (kl[:, 1] - 1).abs()
            torch.testing.assert_close(term(out, x), exact)
        shown = "Capacity(capacity=[Linear(start=0, end=8, steps=4), 1.0], groups=[1, 1])"
        assert repr(term) == shown

    def test_bad_input(self, refuses) -> None:
        one = "capacity", "each of the groups [4, 2]"
        refuses(ValueError, lambda: Capacity(1.0, groups=[4, 2]), *one, "1.0")
        refuses(ValueError, lambda: Capacity([1.0], groups=[4, 2]), *one, "[1.0]")
        refuses(ValueError, lambda: Capacity([1.0, 2.0]), "capacity", "groups=", "[1.0, 2.0]")
        refuses(ValueError, lambda: Capacity([1.0, -2.0], groups=[4, 2]), "capacity", "at least 0")
        refuses(ValueError, lambda: Capacity([1.0, 2.0], groups=[4, 0]), "groups", "above 0")
        falling = [1.0, Linear(5, 1, steps=10)]
        refuses(ValueError, lambda: Capacity(falling, groups=[4, 2]), "capacity", "never falls")
        out = tiny().double()(x)
        refuses(ValueError, lambda: FreeBits(1.0, [4])(out, x), "groups", "add up to 2", "[4]")


class TestImportanceWeighted:
    @pytest.mark.parametrize("gradient", ["standard", "stl", "dreg"])
    def test_it_is_the_function(self, gradient: str) -> None:
        out = tiny().double()(x, samples=4)
        log_weights = losses.importance_log_weights(
            out.likelihood, out.posterior, out.prior, x, out.z
        )
        value = ImportanceWeighted(groups=2, gradient=gradient)(out, x)
        torch.testing.assert_close(value, -losses.variational_bound(log_weights, groups=2))

    def test_one_draw_without_its_dimension_is_refused(self, refuses) -> None:
        out = tiny().double()(x)
        refuses(ValueError, lambda: ImportanceWeighted()(out, x), "z", "(K, 8, 2)", "samples=K")
        assert ImportanceWeighted.needs_draws
        assert not vk.KL.needs_draws

    def test_bad_input(self, refuses) -> None:
        refuses(ValueError, lambda: ImportanceWeighted(math.inf), "alpha", "finite", "inf")
        refuses(ValueError, lambda: ImportanceWeighted(groups=0), "groups", "above 0", "0")
        refuses(ValueError, lambda: ImportanceWeighted(gradient="x"), "gradient", "'stl'", "'x'")
        refuses(ValueError, lambda: ImportanceWeighted(1.0, gradient="dreg"), "alpha", "0", "1.0")


class TestMatching:
    def test_mmd_is_the_function_at_draws_of_the_prior(self) -> None:
        model = tiny().double()
        out = model(x)
        kernel = losses.RBF(1.0)
        torch.manual_seed(1)
        value = MMD(kernel)(out, x)
        torch.manual_seed(1)
        reference = out.prior.rsample((8,))
        torch.testing.assert_close(value, losses.mmd(out.z, reference, kernel))
        assert MMD()(model(x, samples=3), x).shape == ()

    def test_a_prior_that_cannot_be_reparameterised_is_refused(self, refuses) -> None:
        out = tiny().double()(x)
        mixture = td.MixtureSameFamily(
            td.Categorical(torch.ones(3, dtype=f64)),
            td.Independent(td.Normal(torch.zeros(3, 2, dtype=f64), 1.0), 1),
        )
        other = vk.vae.VAEOutput(out.posterior, out.z, out.likelihood, mixture)
        refuses(TypeError, lambda: MMD()(other, x), "prior", "has_rsample", "MixtureSameFamily")
        AdversarialPrior(discriminator()).double().inner_loss(other, x)  # which draws only

    def test_what_is_no_kernel_is_refused(self, refuses) -> None:
        refuses(TypeError, lambda: MMD("rbf"), "kernel", "vk.losses.RBF(1.0)", "'rbf'")

    @pytest.mark.parametrize("hard", [False, True])
    def test_dimensions_that_bind_each_other_are_not_permuted(self, hard: bool, refuses) -> None:
        term = AdversarialTotalCorrelation(vk.networks.mlp(6, [8], 1))
        categorical = vk.latents.CategoricalLatent(2, 3, hard=hard)
        beside = vk.latents.ProductLatent(
            vk.GaussianLatent(3), vk.latents.CategoricalLatent(1, 3, hard=hard)
        )
        for latent in (categorical, beside, vk.latents.PowerSphericalLatent(6)):
            q = latent(torch.randn(8, latent.num_params))
            out = vk.vae.VAEOutput(q, q.rsample(), q, latent.default_prior())
            words = "posterior", "each by itself", type(q).__name__
            refuses(TypeError, lambda out=out: term(out, x), *words)
            refuses(TypeError, lambda out=out: term.inner_loss(out, x), *words)
        for latent in (
            vk.GaussianLatent(6),
            vk.latents.BernoulliLatent(6, hard=hard),
            vk.latents.LaplaceLatent(6),
            vk.latents.FullGaussianLatent(6),
            vk.latents.ProductLatent(vk.GaussianLatent(4), vk.latents.BernoulliLatent(2)),
        ):
            q = latent(torch.randn(8, latent.num_params))
            out = vk.vae.VAEOutput(q, q.rsample(), q, q)
            assert term(out, x).shape == (8,)
            assert term.inner_loss(out, x).shape == ()

    @pytest.mark.parametrize("kind", [AdversarialTotalCorrelation, AdversarialPrior])
    def test_at_the_true_log_ratio_there_is_nothing_to_learn(self, kind) -> None:
        # One correlated posterior for all elements, so q(z), the truth and its value are known.
        covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=f64)
        q = td.MultivariateNormal(torch.zeros(1_000, 2, dtype=f64), covariance)
        p = vk.priors.StandardNormal(2).double()()  # and the product of the marginals

        class Quadratic(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                whole = torch.eye(2, dtype=f64) - torch.linalg.inv(covariance)
                self.form = nn.Parameter(whole / 2)
                self.shift = nn.Parameter(-0.5 * torch.logdet(covariance))

            def forward(self, z: Tensor) -> Tensor:
                return ((z @ self.form) * z).sum(-1) + self.shift

        term = kind(Quadratic())
        slopes, values = [], []
        for _ in range(200):
            out = vk.vae.VAEOutput(q, q.sample(), q, p)  # no term looks at the likelihood
            by_form, by_shift = grad(term.inner_loss(out, x), [*term.parameters()])
            slopes.append(torch.cat([by_form.flatten(), by_shift[None]]))
            values.append(term(out, x))
        assert z_score(torch.stack(slopes), 0.0).abs().max() < 5
        ratio = q.log_prob(out.z) - p.log_prob(out.z)
        if kind is AdversarialPrior:
            torch.testing.assert_close(values[-1], nn.functional.softplus(ratio))
        else:
            torch.testing.assert_close(values[-1], ratio)
            exact = -0.5 * torch.logdet(covariance)  # the total correlation, in closed form
            assert abs(z_score(torch.cat(values), exact)) < 5

    @pytest.mark.parametrize("kind", [AdversarialTotalCorrelation, AdversarialPrior])
    def test_the_adversary_learns(self, kind) -> None:
        out, term = tiny().double()(x, samples=3), kind(discriminator()).double()
        assert term(out, x).shape == (8,)  # the mean over draws
        optimizer = term.inner_optimizer()
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
            id(p) for p in term.parameters()
        ]
        before = [p.detach().clone() for p in term.parameters()]
        term.inner_loss(out, x).backward()
        optimizer.step()
        after = term.parameters()
        assert not any(torch.equal(one, two) for one, two in zip(before, after, strict=True))

    def test_the_papers_discriminator(self) -> None:
        term = AdversarialTotalCorrelation(3)
        shapes = [tuple(layer.weight.shape) for layer in term.modules() if hasattr(layer, "weight")]
        assert shapes == [(1000, 3), *[(1000, 1000)] * 5, (1, 1000)]
        (settings,) = term.inner_optimizer().param_groups
        assert (settings["lr"], settings["betas"]) == (1e-4, (0.5, 0.9))
        assert repr(term) == "AdversarialTotalCorrelation(discriminator=3)"

    def test_an_optimiser_of_ones_own(self) -> None:
        term = AdversarialPrior(discriminator(), lambda p: torch.optim.SGD(p, lr=0.5))
        assert isinstance(term.inner_optimizer(), torch.optim.SGD)

    def test_a_copy_has_a_discriminator_of_its_own(self) -> None:
        objective = vk.Reconstruction() + AdversarialPrior(discriminator())
        other = copy.deepcopy(objective)
        mine = {id(p) for p in objective.parameters()}
        assert mine.isdisjoint(id(p) for p in other.parameters())
        other.load_state_dict(objective.state_dict())
        assert len(mine) == 4

    def test_a_discriminator_with_several_outputs_is_refused(self, refuses) -> None:
        out = tiny().double()(x)
        term = AdversarialPrior(nn.Linear(2, 2)).double()
        refuses(ValueError, lambda: term(out, x), "discriminator", "one logit", "(8, 2)")

    def test_other_terms_have_nothing_to_train(self) -> None:
        out = tiny().double()(x)
        assert vk.KL().inner_loss(out, x) is None
        assert vk.KL().inner_optimizer() is None


class TestPenalties:
    def test_they_are_the_functions(self) -> None:
        out = tiny().double()(x)
        exact = losses.dip(out.posterior, off_diagonal=2, diagonal=3, within=True)
        assert torch.equal(DIP(2, 3, within=True)(out, x), exact)
        assert torch.equal(LatentL2()(out, x), losses.latent_l2(out.z))
        kl = losses.kl_by_dimension(out.posterior, out.prior)
        floors, balanced = losses.free_bits(kl, 0.1, [2]), losses.balanced_kl(kl, [1, 1])
        torch.testing.assert_close(FreeBits(0.1, [2])(out, x), floors)
        torch.testing.assert_close(BalancedKL([1, 1])(out, x), balanced)

    def test_several_draws_are_averaged(self) -> None:
        out = tiny().double()(x, samples=3)
        torch.testing.assert_close(LatentL2()(out, x), losses.latent_l2(out.z).mean(0))
        assert GradientPenalty()(out, x).shape == (8,)

    def test_the_gradient_penalty_trains_the_decoder(self, refuses) -> None:
        model = tiny().double()
        value = GradientPenalty()(model(x), x)
        assert value.shape == (8,)
        gradients: list[Tensor] = [*grad(value.mean(), model.decoder.net.layers[0].weight)]
        assert gradients[0].abs().sum() > 0
        assert GradientPenalty.needs_graph
        with torch.no_grad():
            out = model(x)
            refuses(ValueError, lambda: GradientPenalty()(out, x), "z", "torch.enable_grad()")

    def test_commitment_is_the_posteriors(self, refuses) -> None:
        out = tiny().double()(x)
        refuses(TypeError, lambda: Commitment()(out, x), "posterior", "vector-quantised")
        out.posterior.commitment = torch.arange(8.0)
        assert torch.equal(Commitment()(out, x), torch.arange(8.0))

    def test_bad_input(self, refuses) -> None:
        refuses(ValueError, lambda: DIP(-1), "off_diagonal", "at least 0", "-1")
        refuses(ValueError, lambda: DIP(diagonal=math.inf), "diagonal", "finite", "inf")
        refuses(ValueError, lambda: FreeBits(0), "floor", "above 0", "0")
        refuses(ValueError, lambda: BalancedKL([0, 2]), "groups", "above 0", "0")


def test_a_term_is_called_as_its_class_is() -> None:
    terms = (vk.Reconstruction(), LatentL2(), GradientPenalty(), Commitment())
    adversaries = (AdversarialPrior(discriminator()), AdversarialTotalCorrelation(discriminator()))
    assert [term.name for term in (*terms, *adversaries)] == [
        "reconstruction",
        "latent_l2",
        "gradient_penalty",
        "commitment",
        "adversarial_prior",
        "adversarial_total_correlation",
    ]
    assert LatentL2("mine").name == LatentL2(name="mine").name == "mine"


@pytest.mark.parametrize(
    "written",
    [
        "1000 * Capacity(capacity=Linear(start=0, end=25, steps=10))",
        "ImportanceWeighted(alpha=0.5, groups=2, gradient='stl')",
        "Reconstruction() + 10 * MMD(kernel=RBF(1, 2))",
        "Reconstruction() + KL() + DIP(off_diagonal=10, diagonal=100, within=True)",
        "Reconstruction() + FreeBits(floor=0.5, groups=[2, 3])",
        "Sigmoid(start=0, end=1, steps=9, steepness=10.0) * BalancedKL(groups=[2, 3])",
        "Reconstruction() + 0.01 * LatentL2() + 0.25 * Commitment() + 1e-06 * GradientPenalty()",
    ],
)
def test_repr_is_what_was_written(written: str) -> None:
    names = {**vars(vk), **vars(vk.objectives), **vars(vk.schedules), **vars(vk.losses)}
    assert repr(eval(written, names)) == written
